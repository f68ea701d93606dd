"""The Gaussian N(M, S^2) in one dimension: its denoiser, its flow, and the law that a linear method ends with."""

import math
from itertools import pairwise

import torch

from posterior.integrators import Estimate

M, S = 0.7, 1.3


def exact_denoiser(x, level, step, mean=M, std=S):
    assert step[1] <= level <= step[0]
    return Estimate(mean + std**2 / (std**2 + level**2) * (x - mean))


def drawing_denoiser(x, level, step, std=S):
    """As above about mean 0, with the exact draw of x0 given x."""
    cov = std**2 * level**2 / (std**2 + level**2)
    mean = std**2 / (std**2 + level**2) * x
    return Estimate(mean, lambda noise: mean + cov**0.5 * noise())


def flow(x, sigma, to):
    """The probability-flow ODE from ``sigma`` to ``to``, in closed form."""
    return M + (x - M) * math.sqrt((S**2 + to**2) / (S**2 + sigma**2))


def no_noise(shape=None):
    raise AssertionError("a deterministic step asked for noise")


def follow(integrator, levels, x, noise=no_noise, denoiser=exact_denoiser):
    memory = None
    for sigma, sigma_next in pairwise(levels):
        x, memory = integrator.step(denoiser, x, sigma, sigma_next, noise, memory)
    return x


class Symbols:
    """Noise as unit vectors: a linear method makes them its coefficients, and its variance a sum of squares."""

    def __init__(self, size=600):
        self.size, self.used = size, 0

    def __call__(self, shape=None):
        unit = torch.zeros(1, self.size, dtype=torch.float64)
        unit[0, self.used] = 1
        self.used += 1
        return unit


def variance_after(integrator, levels, denoiser):
    """Variance at the last level when started from the exact N(0, S^2 + sigma^2)."""
    noise = Symbols()
    x = math.sqrt(S**2 + levels[0] ** 2) * noise()
    return float(follow(integrator, levels, x, noise, denoiser).square().sum())


def centred(x, level, step):
    return exact_denoiser(x, level, step, mean=0.0)
