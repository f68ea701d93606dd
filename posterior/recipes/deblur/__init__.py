"""Deconvolution of galaxies seen through a telescope."""
