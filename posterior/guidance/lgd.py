"""Loss-guided diffusion (LGD)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from posterior.guidance.base import Guidance
from posterior.guidance.dps import paper_step
from posterior.integrators import Estimate, Noise
from posterior.linalg import norm
from posterior.problem import Problem


@dataclass(frozen=True)
class LGDGuidance(Guidance):
    """DPS with the residual averaged over fields that x0 may be, x0_i = D + r eps_i, rather than taken at D alone.

    D is moved, as by `DPSGuidance`, along the gradient of -(1/n sum_i || y - A(x0_i) ||^2)^(1/2), where r^2 =
    sigma^2 s^2 / (sigma^2 + s^2), s the prior's rms. For a linear operator the average goes to
    || y - A(D) ||^2 + r^2 trace(A A^T) as n grows: as long as x0 is uncertain the steps are short. The paper averages
    the likelihood, not its logarithm; with more than a few data one sample is then all of the average.

    Not calibrated: as with DPS, the step does not depend on the noise level of the data.

    Args:
        zeta: Step size, as that of `DPSGuidance`.
        samples: n.
        source: Source of the eps_i, one stream for each draw; `posterior.LGD` sets it at every step.

    References:
        Song, Zhang, Yin, Mardani, Liu, Kautz, Chen, Vahdat. Loss-guided diffusion models for plug-and-play controllable
        generation. ICML 2023.
    """

    zeta: float = 1.0
    samples: int = 10
    source: Noise | None = None

    def __post_init__(self) -> None:
        if not self.zeta > 0:
            raise ValueError(f"LGD: zeta must be positive, got {self.zeta}")
        if self.samples < 1:
            raise ValueError(f"LGD: samples must be at least 1, got {self.samples}")

    def using(self, noise: Noise) -> LGDGuidance:
        """The same guidance with a source of noise."""
        return replace(self, source=noise)

    def __call__(self, problem: Problem, x: Tensor, sigma: float, step: tuple[float, float]) -> Estimate:
        """See `Guidance.__call__`.

        Raises:
            ValueError: If the guidance has no source of noise.
        """
        if self.source is None:
            raise ValueError("LGD: the guidance has no source of noise; use posterior.LGD, or LGDGuidance.using(noise)")
        mean, vjp = problem.denoise_with_vjp(x, sigma)
        uphill = vjp(self._uphill(problem, mean, sigma, self.source((self.samples, *problem.event_shape))))
        return Estimate(mean + self.zeta * paper_step(problem, step) * uphill)

    def _uphill(self, problem: Problem, mean: Tensor, sigma: float, eps: Tensor) -> Tensor:
        like, spread = problem.likelihood, problem.prior.rms
        shape = eps.shape[:2]
        guesses = mean[:, None] + sigma * spread / math.hypot(sigma, spread) * eps
        lin = like.model.linearise(guesses.flatten(0, 1))
        residual = (like.y - lin.prediction) * like.reach
        pull = lin.vjp(residual).unflatten(0, shape).mean(1)
        distance = norm(residual.unflatten(0, shape)) / self.samples**0.5
        return pull / distance.reshape(-1, *[1] * (pull.ndim - 1)).to(pull.dtype).clamp_min(torch.finfo(pull.dtype).tiny)
