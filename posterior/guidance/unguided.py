"""No guidance: the prior's own denoiser, for draws of the prior itself."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from posterior.guidance.base import Guidance
from posterior.integrators import Estimate
from posterior.problem import Problem


@dataclass(frozen=True)
class Unguided(Guidance):
    """E[x0 | x_sigma] as it is. One network call; the data are not looked at."""

    def __call__(self, problem: Problem, x: Tensor, sigma: float, step: tuple[float, float]) -> Estimate:
        """See `Guidance.__call__`."""
        return Estimate(problem.denoise(x, sigma))
