"""What all samplers of weighted particles share: their options, their noise levels, the order of a step."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import KW_ONLY, dataclass, replace

from posterior.problem import Problem
from posterior.samplers.base import Sampler
from posterior.samplers.smc.core import Particles, PopulationNoise, resample_below
from posterior.samplers.smc.resampling import SCHEMES, Scheme
from posterior.schedules import LogUniform, Schedule


@dataclass(frozen=True)
class ParticleSampler(Sampler):
    """Look ahead, resample if weights have become unequal, move, weigh; rejuvenate what was resampled.

    Args:
        steps: Steps from the first noise level to 0.

    Other arguments:
        ess_threshold: Particles are resampled once their effective sample size falls below this share.
        resampling: "systematic", "stratified" or "multinomial".
        rejuvenation: Moves after each resampling that leave the present target as it is and tell copies apart.
        genealogy: Whether every resampling's parents are kept in the state.
        schedule: How the noise levels are spaced; where None, equally in log sigma.
        sigma_max: First noise level (standardised units). Where None, 4 standard deviations of the widest
            direction of the prior's reference Gaussian, from whose noised law the particles start; the
            prior's own without one.
        sigma_min: Last noise level before 0, the prior's own where None.

    Raises:
        ValueError: If an argument is out of range or unknown.
    """

    steps: int = 100
    _: KW_ONLY
    ess_threshold: float = 0.5
    resampling: Scheme = "systematic"
    rejuvenation: int = 0
    genealogy: bool = False
    schedule: Schedule | None = None
    sigma_max: float | None = None
    sigma_min: float | None = None

    population = True

    def __post_init__(self) -> None:
        name = type(self).__name__
        if self.steps < 1:
            raise ValueError(f"{name}: steps must be at least 1, got {self.steps}")
        if not 0 <= self.ess_threshold <= 1:
            raise ValueError(f"{name}: ess_threshold must be between 0 and 1, got {self.ess_threshold}")
        if self.resampling not in SCHEMES:
            raise ValueError(f"{name}: resampling must be one of {tuple(SCHEMES)}, got {self.resampling!r}")
        if self.rejuvenation < 0:
            raise ValueError(f"{name}: rejuvenation must not be negative, got {self.rejuvenation}")

    def levels(self, problem: Problem) -> list[float]:
        """The noise levels of this problem, ``steps + 1`` of them."""
        prior = problem.prior
        top = prior.sigma_max
        if prior.reference is not None:
            top = 4 * math.sqrt(prior.reference.covariance(problem.event_shape).max_variance)
        return self._spacing(problem)(
            self.steps,
            top if self.sigma_max is None else self.sigma_max,
            prior.sigma_min if self.sigma_min is None else self.sigma_min,
        )

    def _spacing(self, problem: Problem) -> Schedule:
        return self.schedule or LogUniform()

    def step(self, problem: Problem, state: Particles, noise: PopulationNoise) -> tuple[Particles, dict[str, float]]:
        """See `Sampler.step`."""
        levels = self.levels(problem)
        sigma, sigma_next = levels[state.index], levels[state.index + 1]
        ready = self._look_ahead(problem, state, sigma, sigma_next)
        ready = resample_below(ready, self.ess_threshold, noise.uniform, self.resampling)
        moved = self._move(problem, ready, sigma, sigma_next, noise)
        if sigma_next > 0 and ready.resamplings > state.resamplings:
            for _ in range(self.rejuvenation):
                moved = self._rejuvenate(problem, moved, sigma, sigma_next, noise)
        moved = replace(moved, index=state.index + 1)
        return moved, {"sigma": sigma_next, "ess": moved.ess}

    def _look_ahead(self, problem: Problem, state: Particles, sigma: float, sigma_next: float) -> Particles:
        """The population with what is known of the next weights before it moves."""
        return state

    @abstractmethod
    def _move(self, problem: Problem, state: Particles, sigma: float, sigma_next: float, noise: PopulationNoise) -> Particles:
        """The population at ``sigma_next``, weighted."""

    @abstractmethod
    def _rejuvenate(self, problem: Problem, state: Particles, above: float, sigma: float, noise: PopulationNoise) -> Particles:
        """The population, at ``sigma``, after a move by way of the level ``above`` it; weights stay."""
