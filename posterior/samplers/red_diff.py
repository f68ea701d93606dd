"""Regularisation by denoising diffusion (RED-diff)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from posterior.guidance.linear import prior_mean
from posterior.integrators import Noise
from posterior.problem import Problem
from posterior.samplers.alternating import information_norm, likelihood_gradient
from posterior.samplers.base import Sampler, State
from posterior.schedules import Karras, Schedule

BETAS = (0.9, 0.99)


@dataclass(frozen=True)
class REDDiff(Sampler):
    """One field mu for each seed, fitted to the data by Adam and held to the prior by its denoiser at falling noise.

    With x = mu + sigma eps and H the largest eigenvalue of A^T R^-1 A, the gradient of a step is

        g = -A^T R^-1 (y - A(mu)) / H + lam sigma ((x - D(x, sigma)) / sigma - eps).

    The paper's operators have norm one, for which the first term is its A^T (A(mu) - y) whatever the noise of the
    data; so ``lam`` and not the likelihood's sigma decides how much the prior counts.

    An estimate, not a draw: ``draws.is_posterior`` is False, and what differs between seeds is the noise of the
    optimiser. At one noise level and a Gaussian prior N(m, C) the mean of g vanishes where

        (A^T R^-1 A / H + lam sigma^2 (C + sigma^2 I)^-1) (mu - m) = A^T R^-1 (y - A(m)) / H:

    the posterior mean of a prior whose precision is lam H sigma^2 (C + sigma^2 I)^-1. As sigma falls to 0 that
    precision vanishes, so mu follows the data ever more closely, as far as Adam's steps take it.

    One network call a step, no vector-Jacobian products.

    Args:
        steps: Adam steps, one noise level each.
        lam: Weight of the prior.
        lr: Adam's step, in units of the prior's rms.

    Other arguments:
        schedule: How the noise levels are spaced.
        sigma_max: First noise level, the prior's own where None (standardised units).
        sigma_min: Last noise level, likewise.

    Raises:
        ValueError: If an argument is out of range.

    References:
        Mardani, Song, Kautz, Vahdat. A variational perspective on solving inverse problems with diffusion models.
        ICLR 2024. arXiv:2305.04391.
        Kingma, Ba. Adam: a method for stochastic optimization. ICLR 2015. arXiv:1412.6980.
    """

    steps: int = 100
    lam: float = 0.25
    lr: float = 0.1
    schedule: Schedule = Karras()
    sigma_max: float | None = None
    sigma_min: float | None = None

    is_posterior = False

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"REDDiff: steps must be at least 1, got {self.steps}")
        for name in ("lam", "lr"):
            if not getattr(self, name) > 0:
                raise ValueError(f"REDDiff: {name} must be positive, got {getattr(self, name)}")

    def levels(self, problem: Problem) -> list[float]:
        """The noise levels of this problem, ``steps`` of them."""
        top = self.sigma_max if self.sigma_max is not None else problem.prior.sigma_max
        low = self.sigma_min if self.sigma_min is not None else problem.prior.sigma_min
        return self.schedule(self.steps, top, low)[:-1]

    def init(self, problem: Problem, noise: Noise) -> State:
        """The prior's mean after one gradient step on the data: A^+ y for masks and other projections."""
        self.levels(problem)
        mean = prior_mean(problem, noise())
        lin = problem.likelihood.model.linearise(mean)
        x = mean + likelihood_gradient(problem, lin) / information_norm(problem, mean)
        return State(x, memory=(torch.zeros_like(x), torch.zeros_like(x)))

    def step(self, problem: Problem, state: State, noise: Noise) -> tuple[State, dict[str, float]]:
        """See `Sampler.step`."""
        sigma = self.levels(problem)[state.index]
        gradient = self._gradient(problem, state.x, sigma, noise())
        number = state.index + 1
        first = BETAS[0] * state.memory[0] + (1 - BETAS[0]) * gradient
        second = BETAS[1] * state.memory[1] + (1 - BETAS[1]) * gradient**2
        rms = problem.prior.rms
        scale = (second / (1 - BETAS[1] ** number)).sqrt() + 1e-8 * rms
        x = state.x - self.lr * rms * first / (1 - BETAS[0] ** number) / scale
        return replace(state, x=x, index=number, memory=(first, second)), {"sigma": sigma}

    def _gradient(self, problem: Problem, mu: Tensor, sigma: float, eps: Tensor) -> Tensor:
        lin = problem.likelihood.model.linearise(mu)
        data = likelihood_gradient(problem, lin) / information_norm(problem, mu)
        x = mu + sigma * eps
        predicted = (x - problem.denoise(x, sigma)) / sigma
        return self.lam * sigma * (predicted - eps) - data
