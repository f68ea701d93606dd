"""Deconvolution of galaxies seen through a telescope."""

from posterior.recipes.deblur.galaxies import galaxy_field, sersic
from posterior.recipes.deblur.problem import DeblurProblem, deblur, demo_problem, moffat, point_spread, richardson_lucy, wiener

__all__ = [
    "DeblurProblem",
    "deblur",
    "demo_problem",
    "galaxy_field",
    "moffat",
    "point_spread",
    "richardson_lucy",
    "sersic",
    "wiener",
]
