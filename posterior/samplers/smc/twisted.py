"""The twisted diffusion sampler (TDS)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from posterior.problem import Problem
from posterior.samplers.base import Sampler
from posterior.samplers.smc.core import Particles, PopulationNoise, resample_below, start
from posterior.samplers.smc.resampling import SCHEMES, Scheme
from posterior.samplers.smc.twists import LARGEST_JACOBIAN, GradientTwist, ReferenceTwist, Twist
from posterior.schedules import LogUniform, Schedule

TwistName = Literal["auto", "mmps", "pigdm", "sharp", "reference"]


@dataclass(frozen=True)
class TDS(Sampler):
    """Sequential Monte Carlo whose particles are steered by a guess of p(y | x_sigma), and weighted for it.

    Exact for any prior and likelihood as particles and steps go to infinity. The draws of one run are its
    particles, with log-weights; ``draws.stats`` holds their effective sample size and the log-evidence with
    its standard error.

        log w <- log w + log p(x' | x) - log q(x' | x) + log psi_sigma'(x') - log psi_sigma(x),

    and at the end psi is p(y | x0) itself. Two network calls a step ("reference": one), and for each particle
    and step m ("mmps", m data), 1 ("pigdm", "sharp") or no vector-Jacobian products.

    Args:
        steps: Steps from the first noise level to 0.
        twist: "mmps", the covariance of A x0 given x from the network's Jacobian: few measurements, at most
            64, any operator; "pigdm", an isotropic covariance instead, at most 1024 (64 where the operator is
            not linear); "sharp", none, as DPS: any number, needs far more particles; "reference", the
            covariance of the prior's reference Gaussian, linear operators, at most 1024. "auto" is "mmps" up
            to 16 measurements, "reference" beyond where the prior carries one and the operator is linear,
            else "mmps" up to 64, else "pigdm".

    Other arguments:
        ess_threshold: Particles are resampled once their effective sample size falls below this share.
        resampling: "systematic", "stratified" or "multinomial".
        corrected: Whether moves keep the variance of x0 given x (see `GradientTwist`), for one network call
            more.
        genealogy: Whether every resampling's parents are kept in the state.
        schedule: How the noise levels are spaced.
        sigma_max: First noise level (standardised units). Where None, 4 standard deviations of the widest
            direction of the prior's reference Gaussian, from whose noised law the particles start; the
            prior's own without one.
        sigma_min: Last noise level before 0, the prior's own where None.
            From there x0 = D, and the last weight is p(y | x0): for data more precise than A x is at
            this level, particles last only if it is lowered below their noise.

    Raises:
        ValueError: If an argument is out of range or unknown, or the data are too many for the twist.

    References:
        Wu, Trippe, Naesseth, Blei, Cunningham. Practical and asymptotically exact conditional sampling in
        diffusion models. NeurIPS 2023. arXiv:2306.17775.
    """

    steps: int = 100
    twist: TwistName = "auto"
    ess_threshold: float = 0.5
    resampling: Scheme = "systematic"
    corrected: bool = True
    genealogy: bool = False
    schedule: Schedule = LogUniform()
    sigma_max: float | None = None
    sigma_min: float | None = None

    population = True

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"TDS: steps must be at least 1, got {self.steps}")
        if not 0 <= self.ess_threshold <= 1:
            raise ValueError(f"TDS: ess_threshold must be between 0 and 1, got {self.ess_threshold}")
        if self.resampling not in SCHEMES:
            raise ValueError(f"TDS: resampling must be one of {tuple(SCHEMES)}, got {self.resampling!r}")
        if self.twist not in TwistName.__args__:
            raise ValueError(f"TDS: twist must be one of {TwistName.__args__}, got {self.twist!r}")

    def levels(self, problem: Problem) -> list[float]:
        """The noise levels of this problem, ``steps + 1`` of them."""
        prior = problem.prior
        top = prior.sigma_max
        if prior.reference is not None:
            top = 4 * math.sqrt(prior.reference.covariance(problem.event_shape).max_variance)
        return self.schedule(
            self.steps,
            top if self.sigma_max is None else self.sigma_max,
            prior.sigma_min if self.sigma_min is None else self.sigma_min,
        )

    def init(self, problem: Problem, noise: PopulationNoise) -> Particles:
        """See `Sampler.init`."""
        twist = self._twist(problem)
        sigma = self.levels(problem)[0]
        x, log_ratio = twist.start(problem, sigma, noise)
        carried = twist.evaluate(problem, x, sigma)
        return start(x, log_ratio + carried[1], carried, twist, self.genealogy)

    def step(self, problem: Problem, state: Particles, noise: PopulationNoise) -> tuple[Particles, dict[str, float]]:
        """See `Sampler.step`."""
        levels = self.levels(problem)
        sigma, sigma_next = levels[state.index], levels[state.index + 1]
        twist: Twist = state.memory
        state = resample_below(state, self.ess_threshold, noise.uniform, self.resampling)
        x, log_ratio = twist.move(problem, state.x, state.carried, sigma, sigma_next, noise)
        if sigma_next > 0:
            carried = twist.evaluate(problem, x, sigma_next)
            value = carried[1]
        else:
            carried = ()
            value = problem.likelihood.log_prob(x)
        log_weights = state.log_weights + log_ratio + value - state.carried[1]
        state = replace(state, x=x, carried=carried, log_weights=log_weights, index=state.index + 1)
        return state, {"sigma": sigma_next, "ess": state.ess}

    def _twist(self, problem: Problem) -> Twist:
        kind = self.twist
        if kind == "auto":
            few = problem.likelihood.count
            linear = problem.likelihood.model.linear
            if few > 16 and linear and problem.prior.reference is not None:
                kind = "reference"
            else:
                kind = "mmps" if few <= LARGEST_JACOBIAN or not linear else "pigdm"
        if kind == "reference":
            return ReferenceTwist(problem)
        return GradientTwist(problem, kind, self.corrected)
