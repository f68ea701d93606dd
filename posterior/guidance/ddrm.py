"""Denoising diffusion restoration models (DDRM)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from posterior.guidance.base import Guidance
from posterior.integrators import Estimate, Linear, Noise
from posterior.problem import Problem
from posterior.svd import singular_system


@dataclass(frozen=True)
class DDRMGuidance(Guidance):
    """Each coefficient of the operator's singular system is denoised by the data once its noise is below theirs.

    With c = V^T D, and the data's own estimate d / g of each coefficient, whose noise is 1 / g, a step to sigma' has

        1 / g <= sigma':  mean (1 - eta_b) c + eta_b d / g, and fresh noise of variance sigma'^2 - (eta_b / g)^2,
        1 / g >  sigma':  mean c, and noise along d - g c,
        nothing seen:     mean c, and noise along V^T (x - D) / sigma.

    With the integrator `Renoise` at zeta = eta^2 this is the paper's algorithm. The data are used in full while their
    noise is below that of x, and by the direction of the noise afterwards, so the spread is that of the data where the
    data decide, whatever the prior says.

    Args:
        eta_b: How far well measured coefficients are set to the data, 0 to 1.

    Raises:
        ValueError: If the operator is not linear or has no singular system that can be found; see `singular_system`.

    References:
        Kawar, Elad, Ermon, Song. Denoising diffusion restoration models. NeurIPS 2022. arXiv:2201.11793.
    """

    eta_b: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.eta_b <= 1:
            raise ValueError(f"DDRM: eta_b must be between 0 and 1, got {self.eta_b}")

    def start(self, problem: Problem, sigma: float, noise: Noise) -> Tensor:
        """Draws of the noised prior, their well measured coefficients replaced by the noised data."""
        system = singular_system(problem, "DDRM")
        white = noise()
        prior = system.analyse(problem.noised_prior(white, sigma))
        known, shrink = self._known(system.gains, sigma)
        return system.synthesise(torch.where(known, system.solution + shrink * sigma * system.analyse(white), prior))

    def __call__(self, problem: Problem, x: Tensor, sigma: float, step: tuple[float, float]) -> Estimate:
        """See `Guidance.__call__`."""
        system = singular_system(problem, "DDRM")
        d = problem.denoise(x, sigma)
        c = system.analyse(d)
        known, shrink = self._known(system.gains, step[1])
        mean = d + system.synthesise(torch.where(known, self.eta_b * (system.solution - c), 0.0))

        def direction(noise: Noise) -> Tensor:
            kept = torch.where(system.gains > 0, system.data - system.gains * c, system.analyse((x - d) / sigma))
            return system.synthesise(torch.where(known, shrink * system.analyse(noise()), kept))

        def adding(weight: float, std: float) -> tuple[Tensor, Linear]:
            return mean, lambda white: system.synthesise(shrink * system.analyse(white))

        return Estimate(mean, direction=direction, adding=adding)

    def _known(self, gains: Tensor, level: float) -> tuple[Tensor, Tensor]:
        """Where the data's noise is below ``level``, and by how much noise of ``level`` is then to shrink."""
        known = gains * level >= 1
        share = torch.where(known, self.eta_b / (gains * level).clamp_min(1), 0.0)
        return known, (1 - share**2).sqrt()
