"""Moment-matching posterior sampling (MMPS)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from posterior.guidance.base import Guidance
from posterior.guidance.solves import explain, explain_dearly
from posterior.integrators import Estimate
from posterior.likelihoods import Linearisation
from posterior.problem import Problem


@dataclass(frozen=True)
class MMPSGuidance(Guidance):
    """p(x0 | x) is taken to be N(D, sigma^2 J), J = dD/dx: its exact first two moments (Tweedie).

    E[x0 | x, y] = D + sigma^2 J^T A^T u with (R + sigma^2 A J^T A^T) u = y - A(D). Exact for Gaussian priors. The
    Jacobian of a trained network is neither symmetric nor positive, hence GMRES unless asked otherwise; an item whose
    solve breaks down keeps the best solution reached.

    Where the prior carries a reference Gaussian the solve starts from the solution with C_sigma in place of sigma^2 J,
    which costs no network call; for a Gaussian prior that is the solution already.

    Args:
        iterations: Largest Krylov dimension; each costs one vector-Jacobian product, and one or two more are needed.
        solver: "gmres" or "cg".

    References:
        Rozet, Andry, Lanusse, Louppe. Learning diffusion priors from observations by expectation maximization.
        NeurIPS 2024. arXiv:2405.13712.
    """

    iterations: int = 8
    solver: Literal["gmres", "cg"] = "gmres"

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
        residual = like.y - lin.prediction
        start = self._linear_solution(problem, sigma, lin, residual)
        solved = explain_dearly(problem, lin, lambda v: sigma**2 * vjp(v), residual, start, self.iterations, solver=self.solver)
        return Estimate(mean + solved)

    def _linear_solution(self, problem: Problem, sigma: float, lin: Linearisation, residual: Tensor) -> Tensor | None:
        """What data would add were the prior its reference Gaussian; None without one."""
        reference = problem.prior.reference
        if reference is None:
            return None
        cov = reference.covariance(problem.event_shape).given(sigma)
        # A solve that has not converged carries rounding, and with it the batch, into the draws.
        tolerance = 1e-6 if residual.dtype == torch.float64 else 1e-3
        return explain(problem, ("mmps", sigma), lin, cov, residual, 400, tolerance)
