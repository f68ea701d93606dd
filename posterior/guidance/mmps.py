"""Moment-matching posterior sampling (MMPS)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from posterior.guidance.base import Guidance
from posterior.integrators import Estimate
from posterior.linalg import cg, gmres
from posterior.problem import Problem


@dataclass(frozen=True)
class MMPSGuidance(Guidance):
    """p(x0 | x) is taken to be N(D, sigma^2 J), J = dD/dx: its exact first two moments (Tweedie).

    E[x0 | x, y] = D + sigma^2 J^T A^T u with (R + sigma^2 A J^T A^T) u = y - A(D). Exact for Gaussian priors. The
    Jacobian of a trained network is neither symmetric nor positive, hence GMRES unless asked otherwise; an item whose
    solve breaks down keeps the best solution reached.

    Args:
        iterations: Largest Krylov dimension; each costs one vector-Jacobian product, and one more follows.
        solver: "gmres" or "cg".
        tolerance: Relative residual at which the solve stops.

    References:
        Rozet, Andry, Lanusse, Louppe. Learning diffusion priors from observations by expectation maximization.
        NeurIPS 2024. arXiv:2405.13712.
    """

    iterations: int = 8
    solver: Literal["gmres", "cg"] = "gmres"
    tolerance: float = 1e-4

    def __post_init__(self) -> None:
        if self.iterations < 1:
            raise ValueError(f"MMPS: iterations must be at least 1, got {self.iterations}")
        if self.solver not in ("gmres", "cg"):
            raise ValueError(f"MMPS: solver must be 'gmres' or 'cg', got {self.solver!r}")

    def __call__(self, problem: Problem, x: Tensor, sigma: float, step: tuple[float, float]) -> Estimate:
        """See `Guidance.__call__`."""
        like = problem.likelihood
        mean, vjp = problem.denoise_with_vjp(x, sigma)
        lin = like.model.linearise(mean)
        white = like.reach * like.variance.rsqrt()

        def system(u: Tensor) -> Tensor:
            return u + sigma**2 * white * lin.jvp(vjp(lin.vjp(white * u)))

        solve = gmres if self.solver == "gmres" else cg
        residual = white * (like.y - lin.prediction)
        u = white * solve(system, residual, iterations=self.iterations, tolerance=self.tolerance)
        return Estimate(mean + sigma**2 * vjp(lin.vjp(u)))
