"""GaussianBridge: calibrated transitions from a reference Gaussian."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from posterior.guidance.bridge import BridgeGuidance
from posterior.integrators import Ancestral, Noise
from posterior.problem import Problem
from posterior.samplers.base import State
from posterior.samplers.guided import Guided
from posterior.schedules import LogUniform, Schedule


class GaussianBridge(Guided):
    """Calibrated transitions from the prior's reference Gaussian; see `BridgeGuidance`.

    One network call and one linear solve a step, no backward pass. The first fields are draws of the Gaussian's own
    posterior, so noise levels far above the prior's rms add nothing: the default grid runs from 2 to 0.03 rms.
    """

    guidance: BridgeGuidance

    def __init__(
        self,
        steps: int = 10,
        *,
        relinearise: int = 3,
        sweeps: int = 10,
        iterations: int = 200,
        tolerance: float = 1e-3,
        schedule: Schedule | None = None,
        sigma_max: float | None = None,
        sigma_min: float | None = None,
    ) -> None:
        guidance = BridgeGuidance(iterations, tolerance, relinearise, sweeps)
        super().__init__(guidance, Ancestral(), steps, schedule or LogUniform(), sigma_max, sigma_min)

    def levels(self, problem: Problem) -> list[float]:
        """See `Guided.levels`."""
        rms = problem.prior.rms
        top = self.sigma_max if self.sigma_max is not None else min(2 * rms, problem.prior.sigma_max)
        low = self.sigma_min if self.sigma_min is not None else max(0.03 * rms, problem.prior.sigma_min)
        return self.schedule(self.steps, top, low)

    def init(self, problem: Problem, noise: Noise) -> State:
        """See `Sampler.init`."""
        x0 = self.guidance.first(problem, noise)
        return State(x0 + self.levels(problem)[0] * noise(), memory=x0)

    def step(self, problem: Problem, state: State, noise: Noise) -> tuple[State, dict[str, float]]:
        """See `Sampler.step`; the memory is the x0 that x was drawn from."""
        levels = self.levels(problem)
        sigma, sigma_next = levels[state.index], levels[state.index + 1]
        denoiser = partial(self.guidance, problem, last=state.memory)
        x, x0 = self.integrator.step(denoiser, state.x, sigma, sigma_next, noise, None)
        return replace(state, x=x, index=state.index + 1, memory=x0), {"sigma": sigma_next}
