"""The denoising diffusion null-space model (DDNM and DDNM+)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from posterior.guidance.base import Guidance
from posterior.integrators import Estimate, Linear, Noise
from posterior.problem import Problem
from posterior.svd import singular_system


@dataclass(frozen=True)
class DDNMGuidance(Guidance):
    """What the operator sees of D is replaced by the data, what it does not see is left to the prior.

    Without noise E[x0 | x, y] = D + A^+ (y - A D). With it (DDNM+), in the operator's singular system, where the data's
    estimate d / g of a coefficient has noise 1 / g,

        c + lambda (d / g - c),    lambda = min(1, s g / a),

    a being the weight of the mean in x' and s the standard deviation of the white noise that the integrator adds, of which
    only sqrt(s^2 - (a lambda / g)^2) is still added. An integrator that adds no noise has none to take away; it gets the
    mean for a = 1 and s = sigma', as if all of the noise of x' were new.

    The data replace the prior wherever that noise allows, rather than being weighed against it, so the spread is that of
    the data alone where the prior would know better.

    Args:
        plus: Whether to reckon with the noise of the data. If not, they are fitted exactly, noise and all.

    Raises:
        ValueError: If the operator is not linear or has no singular system that can be found; see `singular_system`.

    References:
        Wang, Yu, Zhang. Zero-shot image restoration using denoising diffusion null-space model. ICLR 2023.
        arXiv:2212.00490.
    """

    plus: bool = True

    def start(self, problem: Problem, sigma: float, noise: Noise) -> Tensor:
        """See `Guidance.start`; an operator without a singular system is refused here."""
        singular_system(problem, "DDNM")
        return super().start(problem, sigma, noise)

    def __call__(self, problem: Problem, x: Tensor, sigma: float, step: tuple[float, float]) -> Estimate:
        """See `Guidance.__call__`."""
        system = singular_system(problem, "DDNM")
        seen = system.gains > 0
        d = problem.denoise(x, sigma)
        wanted = system.solution - system.analyse(d)

        def corrected(share: Tensor) -> Tensor:
            return d + system.synthesise(torch.where(seen, share * wanted, 0.0))

        if not self.plus:
            return Estimate(corrected(torch.ones_like(system.gains)))

        def adding(weight: float, std: float) -> tuple[Tensor, Linear]:
            ratio = system.gains * std / weight
            spent = torch.where(seen, 1 / ratio.clamp_min(1), 0.0)
            shrink = (1 - spent**2).sqrt()
            return corrected(ratio.clamp_max(1)), lambda white: system.synthesise(shrink * system.analyse(white))

        return Estimate(lambda: corrected((system.gains * step[1]).clamp_max(1)), adding=adding)
