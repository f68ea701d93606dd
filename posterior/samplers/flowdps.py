"""Flow-driven posterior sampling (FlowDPS)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from posterior.integrators import Noise
from posterior.problem import Problem
from posterior.samplers.alternating import DataStep, information_norm, likelihood_gradient
from posterior.samplers.base import Sampler, State
from posterior.schedules import Schedule, check


@dataclass(frozen=True)
class FlowTime:
    """Noise levels equally spaced in the time of a flow, sigma = shift t / (1 - t).

    Args:
        shift: Above 1 lays more of them at large noise; 4 in the paper, whose images are large.

    Raises:
        ValueError: If ``shift`` is not positive.
    """

    shift: float = 4.0

    def __post_init__(self) -> None:
        if not self.shift > 0:
            raise ValueError(f"FlowTime: shift must be positive, got {self.shift}")

    def __call__(self, steps: int, sigma_max: float, sigma_min: float) -> list[float]:
        """See `Schedule`."""
        check(steps, sigma_max, sigma_min)
        first, last = (s / (s + self.shift) for s in (sigma_max, sigma_min))
        times = [first + (last - first) * k / max(steps - 1, 1) for k in range(steps)]
        return [sigma_max, *(self.shift * t / (1 - t) for t in times[1:]), 0.0]


@dataclass(frozen=True)
class FlowDPS(Sampler):
    """The flow split into a clean part, which the data move, and a noise part, which is mixed with fresh noise.

    In the time t = sigma / (sigma + s) of a straight flow from fields of rms s to noise, with D the denoised field,

        x0 = (1 - t) D + t D_y,
        x' = x0 + sigma' (sqrt(t') (x - D) / sigma + sqrt(1 - t') z),

    so a score prior runs it as well as a flow prior. D_y comes from D by a few steps of fixed length along the
    gradient of ||y - A(D)||. The paper's operators have norm one; here the gradient is taken of
    ||R^(-1/2) (y - A(D))|| and divided by the norm of R^(-1/2) A, which is the same for those, and keeps draws from
    depending on units. The data step then does not know how noisy the data are, and draws are not calibrated.

    With ``scaled`` it does, and has no step size: x0 is a draw of N(D, r^2 I) given the data, r = sigma s /
    sqrt(sigma^2 + s^2), and the noise part is what x is besides it, (x - x0) / sigma. Were x0 an exact draw given x
    and y, x0 and the noise part would be independent and x' exact however the noise is mixed; so for a white Gaussian
    prior, where it is, the draws are exact at any number of steps.

    One network call a step, no vector-Jacobian products.

    Args:
        steps: Steps from the first noise level to 0.
        scaled: Whether the data step is a draw, scaled by the likelihood's own noise.

    Other arguments:
        step_size: Length of one gradient step, where not ``scaled``, in units of s sqrt(m), m data: about what the
            residual of a field that knows nothing of the data measures. The lengths in the published code belong to
            the latent space of one model and carry over to no other.
        inner: Gradient steps, 3 in the published code.
        data: How x0 is drawn given the data, where ``scaled``: conjugate-gradient iterations, Langevin moves.
        schedule: How the noise levels are spaced, in units of s.
        sigma_max: First noise level, the prior's own where None (standardised units).
        sigma_min: Last noise level before 0, likewise.

    Raises:
        ValueError: If an argument is out of range.

    References:
        Kim, Kim, Ye. FlowDPS: Flow-driven posterior sampling for inverse problems. 2025. arXiv:2503.08136.
    """

    steps: int = 28
    scaled: bool = False
    step_size: float = 1.0
    inner: int = 3
    data: DataStep = DataStep()
    schedule: Schedule = FlowTime()
    sigma_max: float | None = None
    sigma_min: float | None = None

    def __post_init__(self) -> None:
        for name in ("steps", "inner"):
            if getattr(self, name) < 1:
                raise ValueError(f"FlowDPS: {name} must be at least 1, got {getattr(self, name)}")
        if not self.step_size > 0:
            raise ValueError(f"FlowDPS: step_size must be positive, got {self.step_size}")

    def levels(self, problem: Problem) -> list[float]:
        """The noise levels of this problem, ``steps + 1`` of them."""
        prior = problem.prior
        top = self.sigma_max if self.sigma_max is not None else prior.sigma_max
        low = self.sigma_min if self.sigma_min is not None else prior.sigma_min
        return [prior.rms * s for s in self.schedule(self.steps, top / prior.rms, low / prior.rms)]

    def init(self, problem: Problem, noise: Noise) -> State:
        """See `Sampler.init`."""
        return State(problem.noised_prior(noise(), self.levels(problem)[0]))

    def step(self, problem: Problem, state: State, noise: Noise) -> tuple[State, dict[str, float]]:
        """See `Sampler.step`."""
        sigma, sigma_next = self.levels(problem)[state.index : state.index + 2]
        rms = problem.prior.rms
        clean = problem.denoise(state.x, sigma)
        if self.scaled:
            x = self.data.draw(problem, clean, sigma * rms / math.hypot(sigma, rms), noise)
            predicted = (state.x - x) / sigma
        else:
            t = sigma / (sigma + rms)
            x = (1 - t) * clean + t * self._descend(problem, clean)
            predicted = (state.x - clean) / sigma
        if sigma_next > 0:
            t = sigma_next / (sigma_next + rms)
            x = x + sigma_next * (math.sqrt(t) * predicted + math.sqrt(1 - t) * noise())
        return replace(state, x=x, index=state.index + 1), {"sigma": sigma_next}

    def _descend(self, problem: Problem, x: Tensor) -> Tensor:
        like = problem.likelihood
        length = self.step_size * problem.prior.rms * like.count**0.5
        size = information_norm(problem, x) ** 0.5
        for _ in range(self.inner):
            lin = like.model.linearise(x)
            misfit = (like.reach * like.variance.rsqrt() * (like.y - lin.prediction)).flatten(1)
            distance = torch.linalg.vector_norm(misfit, dim=1).clamp_min(1e-12)
            x = x + length / size * likelihood_gradient(problem, lin) / distance.reshape(-1, *[1] * (x.ndim - 1))
        return x
