"""Decoupled annealing posterior sampling (DAPS)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from posterior.integrators import DDIM, Noise
from posterior.problem import Problem
from posterior.samplers.alternating import DataStep, prior_step
from posterior.samplers.base import Sampler, State
from posterior.schedules import Karras, Schedule


@dataclass(frozen=True)
class DAPS(Sampler):
    """At every noise level: an x0 of the prior, an x0 of the data near it, and noise of the next level on top.

        x0_hat = probability-flow ODE from x at sigma to 0, in ``ode_steps`` Euler steps,
        x0 ~ N(x0; x0_hat, sigma^2 I) p(y | x0),
        x' = x0 + sigma' z.

    Steps far apart do not depend on each other but through x0, which lets a chain leave what it settled on early. The
    draw of x0 is exact for linear operators, Langevin for others (see `DataStep`), and the noise of the data is the
    likelihood's own: the published code takes a fixed 0.01 in its place.

    Not exact: x0_hat is as spread as a draw of x0 already, and sigma^2 comes on top. With exact steps a direction of
    prior variance c that the data do not see has a variance v that goes, level by level, by

        v' = c (v + sigma^2) / (c + sigma^2) + sigma^2,

    towards 2 c: draws are too wide where data are few, the more so the more levels are spent where sigma^2 is below c.

    ``steps * ode_steps`` network calls, no vector-Jacobian products.

    Args:
        steps: Noise levels.
        ode_steps: Euler steps of the ODE from each; 5 in the paper.

    Other arguments:
        data: How x0 is drawn given the data: conjugate-gradient iterations, Langevin moves.
        schedule: How the noise levels are spaced.
        sigma_max: First noise level (standardised units); where None, 100 of the prior's rms or its own, whichever
            is less.
        sigma_min: Last noise level before 0; where None, a tenth of the prior's rms or its own, whichever is more.

    Raises:
        ValueError: If an argument is out of range.

    References:
        Zhang, Chu, Berner, Meng, Anandkumar, Song. Improving diffusion inverse problem solving with decoupled noise
        annealing. 2024. arXiv:2407.01521.
    """

    steps: int = 200
    ode_steps: int = 5
    data: DataStep = DataStep()
    schedule: Schedule = Karras()
    sigma_max: float | None = None
    sigma_min: float | None = None

    def __post_init__(self) -> None:
        for name in ("steps", "ode_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"DAPS: {name} must be at least 1, got {getattr(self, name)}")

    def levels(self, problem: Problem) -> list[float]:
        """The noise levels of this problem, ``steps + 1`` of them."""
        prior = problem.prior
        top = self.sigma_max if self.sigma_max is not None else min(100 * prior.rms, prior.sigma_max)
        low = self.sigma_min if self.sigma_min is not None else max(0.1 * prior.rms, prior.sigma_min)
        return self.schedule(self.steps, top, low)

    def init(self, problem: Problem, noise: Noise) -> State:
        """See `Sampler.init`."""
        return State(problem.noised_prior(noise(), self.levels(problem)[0]))

    def step(self, problem: Problem, state: State, noise: Noise) -> tuple[State, dict[str, float]]:
        """See `Sampler.step`."""
        sigma, sigma_next = self.levels(problem)[state.index : state.index + 2]
        guess = prior_step(problem, state.x, sigma, DDIM(), Karras(), self.ode_steps, noise)
        x = self.data.draw(problem, guess, sigma, noise)
        if sigma_next > 0:
            x = x + sigma_next * noise()
        return replace(state, x=x, index=state.index + 1), {"sigma": sigma_next}
