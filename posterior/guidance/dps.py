"""Diffusion posterior sampling (DPS)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from posterior.guidance.base import Guidance
from posterior.integrators import Estimate
from posterior.problem import Problem


@dataclass(frozen=True)
class DPSGuidance(Guidance):
    """A gradient step on the norm of the residual after every ancestral step.

    The paper writes, in variance-preserving coordinates u = x / sqrt(1 + sigma^2),
    ``u' <- u' - zeta grad_u || y - A(D) ||_2``, the norm taken over one draw alone. Fields have scale one there, so that here
    the prior's rms is the unit of fields and of data. An ancestral step moves x' by (1 - r) for a unit change of D,
    r = (sigma'/sigma)^2, so here D is moved by the paper's step divided by 1 - r.

    Not calibrated: the step does not depend on the noise level of the data.

    Args:
        zeta: The paper's step size; .3 to 1 there, with 1000 steps.

    References:
        Chung, Kim, Mccann, Klasky, Ye. Diffusion posterior sampling for general noisy inverse problems. ICLR 2023.
        arXiv:2209.14687.
    """

    zeta: float = 1.0

    def __post_init__(self) -> None:
        if not self.zeta > 0:
            raise ValueError(f"DPS: zeta must be positive, got {self.zeta}")

    def __call__(self, problem: Problem, x: Tensor, sigma: float, step: tuple[float, float]) -> Estimate:
        """See `Guidance.__call__`."""
        mean, vjp = problem.denoise_with_vjp(x, sigma)
        lin = problem.likelihood.model.linearise(mean)
        residual = (problem.likelihood.y - lin.prediction) * problem.likelihood.reach
        norm = torch.linalg.vector_norm(residual.flatten(1), dim=1).clamp_min(torch.finfo(x.dtype).tiny)
        uphill = vjp(lin.vjp(residual / norm.reshape(-1, *[1] * (residual.ndim - 1))))
        return Estimate(mean + self.zeta * paper_step(problem, step) * uphill)


def paper_step(problem: Problem, step: tuple[float, float]) -> float:
    """How far D has to move for x' to move by one, in the paper's coordinates; see `DPSGuidance`."""
    spread = problem.prior.rms
    start, end = step
    vp = spread**2 * math.sqrt((1 + (start / spread) ** 2) * (1 + (end / spread) ** 2))
    # Data are physical.
    unit = spread * torch.as_tensor(problem.prior.affine.scale).double().square().mean().sqrt().item()
    return vp / (1 - (end / start) ** 2) / unit
