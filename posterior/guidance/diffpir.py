"""Diffusion plug-and-play image restoration (DiffPIR)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from posterior.guidance.base import Guidance
from posterior.guidance.solves import explain
from posterior.integrators import Estimate
from posterior.priors.covariance import isotropic
from posterior.problem import Problem
from posterior.svd import matrix_free_system


@dataclass(frozen=True)
class DiffPIRGuidance(Guidance):
    """The proximal step of half-quadratic splitting: p(x0 | x) is taken to be N(D, sigma^2 / weight I).

    E[x0 | x, y] = argmin_z (y - A z)^T R^-1 (y - A z) + weight / sigma^2 ||z - D||^2, R the noise covariance of the data;
    for white noise of variance v that is the paper's rho = lambda v / sigma^2. In closed form where the operator is
    diagonal in pixels or in Fourier space, by conjugate gradients elsewhere; nonlinear operators are linearised at D.

    With the integrator `Renoise` this is the paper's algorithm. N(D, sigma^2 I) is far too wide once sigma exceeds the
    prior's spread, so the data are fitted harder than the posterior does.

    Args:
        weight: The paper's lambda; 1 weighs the prior as stated above, larger values trust it more.

    Other arguments:
        iterations: Conjugate-gradient iterations at most.
        tolerance: They stop once z is right to this many standard deviations of N(D, sigma^2 / weight I),
            root-mean-square; in float32, whose rounding goes no further, at 1e-3 or this, whichever is larger.

    References:
        Zhu, Zhang, Liang, Cao, Wen, Timofte, Van Gool. Denoising diffusion models for plug-and-play image restoration.
        CVPR workshops 2023. arXiv:2305.08995.
    """

    weight: float = 1.0
    iterations: int = 200
    tolerance: float = 1e-6

    def __post_init__(self) -> None:
        if not self.weight > 0:
            raise ValueError(f"DiffPIR: weight must be positive, got {self.weight}")
        if self.iterations < 1:
            raise ValueError(f"DiffPIR: iterations must be at least 1, got {self.iterations}")

    def __call__(self, problem: Problem, x: Tensor, sigma: float, step: tuple[float, float]) -> Estimate:
        """See `Guidance.__call__`."""
        d = problem.denoise(x, sigma)
        variance = sigma**2 / self.weight
        system = matrix_free_system(problem)
        if system is not None:
            residual = system.data - system.gains * system.analyse(d)
            gain = variance * system.gains / (1 + variance * system.gains**2)
            return Estimate(d + system.synthesise(gain * residual))
        like = problem.likelihood
        lin = like.model.linearise(d)
        tolerance = self.tolerance if d.dtype == torch.float64 else max(self.tolerance, 1e-3)
        cov = isotropic(variance)
        key = ("diffpir", sigma, self)
        return Estimate(d + explain(problem, key, lin, cov, like.y - lin.prediction, self.iterations, tolerance))
