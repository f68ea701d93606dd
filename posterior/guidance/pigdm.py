"""Pseudo-inverse-guided diffusion (PiGDM), with noise."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from posterior.guidance.base import Guidance
from posterior.integrators import Estimate
from posterior.linalg import cg
from posterior.problem import Problem


@dataclass(frozen=True)
class PiGDMGuidance(Guidance):
    """p(x0 | x) is taken to be N(D, r^2 I) with r^2 = sigma^2 t^2 / (sigma^2 + t^2), t the prior's rms.

    E[x0 | x, y] = D + sigma^2 J^T A^T (R + r^2 A A^T)^-1 (y - A(D)), J = dD/dx, R the noise covariance of the data.

    Args:
        iterations: Conjugate-gradient iterations at most.
        tolerance: Relative residual at which they stop.

    References:
        Song, Vahdat, Mardani, Kautz. Pseudoinverse-guided diffusion models for inverse problems. ICLR 2023.
    """

    iterations: int = 50
    tolerance: float = 1e-4

    def __call__(self, problem: Problem, x: Tensor, sigma: float, step: tuple[float, float]) -> Estimate:
        """See `Guidance.__call__`."""
        like, spread = problem.likelihood, problem.prior.rms
        mean, vjp = problem.denoise_with_vjp(x, sigma)
        lin = like.model.linearise(mean)
        r2 = sigma**2 * spread**2 / (sigma**2 + spread**2)
        white = like.reach * like.variance.rsqrt()

        def system(u: Tensor) -> Tensor:
            return u + r2 * white * lin.jvp(lin.vjp(white * u))

        residual = white * (like.y - lin.prediction)
        u = white * cg(system, residual, iterations=self.iterations, tolerance=self.tolerance)
        return Estimate(mean + sigma**2 * vjp(lin.vjp(u)))
