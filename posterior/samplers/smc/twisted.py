"""The twisted diffusion sampler (TDS)."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, replace
from typing import Literal

from posterior.problem import Problem
from posterior.samplers.smc.core import Particles, PopulationNoise, start
from posterior.samplers.smc.measurements import LARGEST_JACOBIAN
from posterior.samplers.smc.population import ParticleSampler
from posterior.samplers.smc.rejuvenation import metropolis, renoise
from posterior.samplers.smc.twists import GradientTwist, ReferenceTwist, Twist

TwistName = Literal["auto", "mmps", "pigdm", "sharp", "reference"]


@dataclass(frozen=True)
class TDS(ParticleSampler):
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
        corrected: Whether moves keep the variance of x0 given x (see `GradientTwist`), for one network call
            more.
        rejuvenation: Moves after each resampling that tell copies apart (see `rejuvenation`), for up to two
            network calls and the vector-Jacobian products of a step each.
        ess_threshold, resampling, genealogy, schedule, sigma_max, sigma_min, particles_per_draw: See
            `ParticleSampler`. From sigma_min x0 = D, and the last weight is p(y | x0): for data more precise than A x
            is at this level, particles last only if it is lowered below their noise.

    Raises:
        ValueError: If an argument is out of range or unknown, or the data are too many for the twist.

    References:
        Wu, Trippe, Naesseth, Blei, Cunningham. Practical and asymptotically exact conditional sampling in
        diffusion models. NeurIPS 2023. arXiv:2306.17775.
    """

    twist: TwistName = "auto"
    _: KW_ONLY
    corrected: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.twist not in TwistName.__args__:
            raise ValueError(f"TDS: twist must be one of {TwistName.__args__}, got {self.twist!r}")

    def _init(self, problem: Problem, noise: PopulationNoise) -> Particles:
        """See `ParticleSampler._init`."""
        twist = self._twist(problem)
        sigma = self.levels(problem)[0]
        x, log_ratio = twist.start(problem, sigma, noise)
        carried = twist.evaluate(problem, x, sigma)
        return start(x, log_ratio + carried[1], carried, twist, self.genealogy)

    def _move(self, problem: Problem, state: Particles, sigma: float, sigma_next: float, noise: PopulationNoise) -> Particles:
        twist: Twist = state.memory
        x, log_ratio = twist.move(problem, state.x, state.carried, sigma, sigma_next, noise)
        if sigma_next > 0:
            carried = twist.evaluate(problem, x, sigma_next)
            value = carried[1]
        else:
            carried = ()
            value = problem.likelihood.log_prob(x)
        log_weights = state.log_weights + log_ratio + value - state.carried[1]
        return replace(state, x=x, carried=carried, log_weights=log_weights)

    def _rejuvenate(self, problem: Problem, state: Particles, above: float, sigma: float, noise: PopulationNoise) -> Particles:
        twist: Twist = state.memory
        x = twist.wander(problem, renoise(state.x, sigma, above, noise), above, sigma, noise)
        carried = twist.evaluate(problem, x, sigma)
        kept = metropolis((state.x, *state.carried), (x, *carried), carried[1] - state.carried[1], noise)
        return replace(state, x=kept[0], carried=kept[1:])

    def _twist(self, problem: Problem) -> Twist:
        kind, few, linear = self.twist, problem.likelihood.count, problem.likelihood.model.linear
        if few == 0:  # nothing to be steered by
            kind = "reference" if linear and problem.prior.reference is not None else "sharp"
        if kind == "auto":
            if few > 16 and linear and problem.prior.reference is not None:
                kind = "reference"
            else:
                kind = "mmps" if few <= LARGEST_JACOBIAN or not linear else "pigdm"
        if kind == "reference":
            return ReferenceTwist(problem)
        return GradientTwist(problem, kind, self.corrected)
