"""What all samplers of weighted particles share: their options, their noise levels, the order of a step."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import KW_ONLY, dataclass, replace

from torch import Tensor

from posterior.problem import Problem
from posterior.samplers.base import Sampler
from posterior.samplers.smc.core import Particles, PopulationNoise, resample_below, thin
from posterior.samplers.smc.resampling import SCHEMES, Scheme
from posterior.schedules import Karras, LogUniform, Schedule


@dataclass(frozen=True)
class Crowd:
    """`PopulationNoise` for ``times`` as many particles."""

    noise: PopulationNoise
    times: int
    event_shape: tuple[int, ...]

    def __call__(self, shape: tuple[int, ...] | None = None) -> Tensor:
        """See `PopulationNoise`."""
        return self.noise((self.times, *(self.event_shape if shape is None else shape))).flatten(0, 1)

    def uniform(self, count: int) -> Tensor:
        """See `PopulationNoise`."""
        return self.noise.uniform(count)


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
        particles_per_draw: How many particles a run has for each draw that it returns; where None, 1, and 2 for operators
            that are not linear, of which samplers have a rougher guess. All of them pass through every step, and in the end
            one of each few neighbours is kept, with the weight of all (`thin`).
        schedule: How the noise levels are spaced; where None, equally in log sigma, and for operators that are not
            linear by `Karras` with rho = 3, whose steps are short where the data choose among modes.
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
    particles_per_draw: int | None = None

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
        if self.particles_per_draw is not None and self.particles_per_draw < 1:
            raise ValueError(f"{name}: particles_per_draw must be at least 1, got {self.particles_per_draw}")

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
        return self.schedule or (LogUniform() if problem.likelihood.model.linear else Karras(3.0))

    def init(self, problem: Problem, noise: PopulationNoise) -> Particles:
        """See `Sampler.init`."""
        return self._init(problem, self._crowd(problem, noise))

    def step(self, problem: Problem, state: Particles, noise: PopulationNoise) -> tuple[Particles, dict[str, float]]:
        """See `Sampler.step`."""
        levels, noise = self.levels(problem), self._crowd(problem, noise)
        sigma, sigma_next = levels[state.index], levels[state.index + 1]
        ready = self._look_ahead(problem, state, sigma, sigma_next)
        ready = resample_below(ready, self.ess_threshold, noise.uniform, self.resampling)
        moved = self._move(problem, ready, sigma, sigma_next, noise)
        if sigma_next > 0 and ready.resamplings > state.resamplings:
            for _ in range(self.rejuvenation):
                moved = self._rejuvenate(problem, moved, sigma, sigma_next, noise)
        if sigma_next == 0 and isinstance(noise, Crowd):
            moved = thin(moved, noise.times, noise.uniform)
        moved = replace(moved, index=state.index + 1)
        return moved, {"sigma": sigma_next, "ess": moved.ess}

    def _per_draw(self, problem: Problem) -> int:
        """`particles_per_draw` of this problem."""
        return self.particles_per_draw or (1 if problem.likelihood.model.linear else 2)

    def _crowd(self, problem: Problem, noise: PopulationNoise) -> PopulationNoise:
        times = self._per_draw(problem)
        return noise if times == 1 else Crowd(noise, times, problem.event_shape)

    @abstractmethod
    def _init(self, problem: Problem, noise: PopulationNoise) -> Particles:
        """The population before its first step."""

    def _look_ahead(self, problem: Problem, state: Particles, sigma: float, sigma_next: float) -> Particles:
        """The population with what is known of the next weights before it moves."""
        return state

    @abstractmethod
    def _move(self, problem: Problem, state: Particles, sigma: float, sigma_next: float, noise: PopulationNoise) -> Particles:
        """The population at ``sigma_next``, weighted."""

    @abstractmethod
    def _rejuvenate(self, problem: Problem, state: Particles, above: float, sigma: float, noise: PopulationNoise) -> Particles:
        """The population, at ``sigma``, after a move by way of the level ``above`` it; weights stay."""
