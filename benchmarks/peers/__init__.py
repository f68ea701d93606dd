"""Samplers of other libraries, run on our problems."""
