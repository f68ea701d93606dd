"""Split Gibbs sampling with a diffusion prior (PnP-DM)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from posterior.integrators import Ancestral, Integrator, Noise
from posterior.problem import Problem
from posterior.samplers.alternating import DataStep, information_norm, prior_step
from posterior.samplers.base import Sampler, State
from posterior.schedules import Karras, LogUniform, Schedule


@dataclass(frozen=True)
class PnPDM(Sampler):
    """A Gibbs sampler of a field x that knows the prior and a field z that knows the data, tied by a spring rho,

        p(x, z) ~ p(x) exp(-||x - z||^2 / (2 rho^2)) p(y | z).

    z given x is N(x, rho^2 I) times the likelihood, drawn exactly where the operator is linear and by Langevin moves
    elsewhere (see `DataStep`). x given z is denoising at noise level rho, by reverse diffusion from there. rho falls
    from iteration to iteration and then stays.

    What is drawn is x, once, at the end of its own chain, so draws are independent. Exact as rho goes to 0 and the
    chain grows long, and only then: for linear operators x follows the posterior of data that are noisier than they
    are, R + rho^2 A A^T in place of R, so directions that the data know to better than rho come out too wide. The
    chain forgets a direction of prior variance c and data precision p at the rate
    c / (c + rho^2) / (1 + p rho^2) an iteration: a rho as small as the data's precision costs many iterations.

    ``steps * prior_steps`` network calls, no vector-Jacobian products.

    Args:
        steps: Iterations.
        prior_steps: Steps of the reverse diffusion in each.

    Other arguments:
        anneal: Share of the iterations over which rho falls, evenly in log rho; it stays at its least after.
        integrator: Of the reverse diffusion. `Ancestral` draws x0 given x where the prior carries a reference
            Gaussian, which makes it exact for Gaussian priors even in one step.
        data: How x0 is drawn given the data: conjugate-gradient iterations, Langevin moves.
        schedule: How the noise levels of the reverse diffusion are spaced.
        sigma_max: First rho (standardised units); where None, 10 of the prior's rms or its own largest noise level,
            whichever is less.
        sigma_min: Last rho; where None, half of what the data alone know the best-known direction to, or a twentieth
            of the prior's rms if that is less, but not below the prior's own smallest noise level.

    Raises:
        ValueError: If an argument is out of range.

    References:
        Wu, Sun, Chen, Zhang, Yue, Bouman. Principled probabilistic imaging using diffusion models as plug-and-play
        priors. 2024. arXiv:2405.18782.
        Xu, Chi. Provably robust score-based diffusion posterior sampling for plug-and-play image reconstruction. 2024.
        arXiv:2403.17042.
    """

    steps: int = 100
    prior_steps: int = 10
    anneal: float = 0.8
    integrator: Integrator = Ancestral()
    data: DataStep = DataStep()
    schedule: Schedule = Karras()
    sigma_max: float | None = None
    sigma_min: float | None = None

    def __post_init__(self) -> None:
        for name in ("steps", "prior_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"PnPDM: {name} must be at least 1, got {getattr(self, name)}")
        if not 0 < self.anneal <= 1:
            raise ValueError(f"PnPDM: anneal must be above 0 and at most 1, got {self.anneal}")

    def levels(self, problem: Problem) -> list[float]:
        """rho of each iteration of this problem, ``steps`` of them."""
        prior = problem.prior
        top = self.sigma_max if self.sigma_max is not None else min(10 * prior.rms, prior.sigma_max)
        low = self.sigma_min if self.sigma_min is not None else self._floor(problem)
        falling = LogUniform()(max(2, round(self.anneal * self.steps)), top, low)[:-1]
        return (falling + [low] * self.steps)[: self.steps]

    def init(self, problem: Problem, noise: Noise) -> State:
        """See `Sampler.init`."""
        return State(problem.noised_prior(noise(), self.levels(problem)[0]))

    def step(self, problem: Problem, state: State, noise: Noise) -> tuple[State, dict[str, float]]:
        """See `Sampler.step`."""
        rho = self.levels(problem)[state.index]
        z = self.data.draw(problem, state.x, rho, noise)
        x = prior_step(problem, z, rho, self.integrator, self.schedule, self.prior_steps, noise)
        return replace(state, x=x, index=state.index + 1), {"sigma": rho}

    def _floor(self, problem: Problem) -> float:
        """Half of what the data know the best-known direction to: their draws come out 12 % too wide there."""
        known = information_norm(problem, problem.likelihood.y) ** -0.5
        return max(min(0.5 * known, 0.05 * problem.prior.rms), problem.prior.sigma_min)
