"""A prior from measurements alone: no clean field is ever seen."""

from posterior.recipes.measurements.gaussian import GaussianFit, fit_gaussian
from posterior.recipes.measurements.kernel import KernelFit, fit_kernel
from posterior.recipes.measurements.laps import Lap, learn_prior

__all__ = ["GaussianFit", "KernelFit", "Lap", "fit_gaussian", "fit_kernel", "learn_prior"]
