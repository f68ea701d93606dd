"""Loss-guided diffusion with Monte-Carlo averages (LGD-MC)."""

from __future__ import annotations

from posterior.guidance.lgd import LGDGuidance
from posterior.integrators import Ancestral, Integrator, Noise
from posterior.problem import Problem
from posterior.samplers.base import State
from posterior.samplers.guided import Guided
from posterior.schedules import Karras, Schedule


class LGD(Guided):
    """Loss-guided diffusion; see `LGDGuidance`. One network call and one vector-Jacobian product a step.

    The fields over which the residual is averaged are drawn anew at every step, from each draw's own stream.

    Args:
        steps: Steps from sigma_max to 0.
        zeta: Step size, as that of `posterior.DPS`; the noise of the data has no part in it.
        samples: Fields over which the residual is averaged.

    Other arguments:
        integrator: What moves x; `Ancestral` where None.
        schedule, sigma_max, sigma_min: See `Guided`; spaced by `Karras` where None.

    Raises:
        ValueError: If an argument is out of range.

    References:
        Song, Zhang, Yin, Mardani, Liu, Kautz, Chen, Vahdat. Loss-guided diffusion models for plug-and-play controllable
        generation. ICML 2023.
    """

    guidance: LGDGuidance

    def __init__(
        self,
        steps: int = 1000,
        *,
        zeta: float = 1.0,
        samples: int = 10,
        integrator: Integrator | None = None,
        schedule: Schedule | None = None,
        sigma_max: float | None = None,
        sigma_min: float | None = None,
    ) -> None:
        guidance = LGDGuidance(zeta, samples)
        super().__init__(guidance, integrator or Ancestral(), steps, schedule or Karras(), sigma_max, sigma_min)

    def step(self, problem: Problem, state: State, noise: Noise) -> tuple[State, dict[str, float]]:
        """See `Sampler.step`."""
        bound = Guided(self.guidance.using(noise), self.integrator, self.steps, self.schedule, self.sigma_max, self.sigma_min)
        return bound.step(problem, state, noise)
