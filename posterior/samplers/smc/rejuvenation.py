"""Moves that leave the law of weighted particles at one noise level as it is, and tell copies of a particle apart.

`renoise`: a particle x at sigma is noised to x+ at sigma+ > sigma and comes back by the reverse kernel p(x | x+).
That is a Gibbs step on the pair (x, x+) and leaves the noised prior p_sigma invariant, as far as the kernel is the
reverse of the noising. For the target p_sigma psi the way back is drawn from a proposal q(x | x+), and the new x* is
accepted with probability

    min(1, w(x*) / w(x)),    w(x) = p(x | x+) psi(x) / q(x | x+):

always where q is the kernel conditioned on psi, with min(1, psi(x*) / psi(x)) where q is the kernel itself.

`langevin`: an unadjusted step along the known score.

References:
    Gilks, Berzuini. Following a moving target: Monte Carlo inference for dynamic Bayesian models. 2001. J. R. Stat.
    Soc. B 63(1). Roberts, Tweedie. Exponential convergence of Langevin distributions. 1996. Bernoulli 2(4).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from posterior.samplers.smc.core import PopulationNoise


def renoise(x: Tensor, sigma: float, above: float, noise: PopulationNoise) -> Tensor:
    """x+ at the level ``above`` sigma."""
    return x + math.sqrt(above**2 - sigma**2) * noise()


def metropolis(
    now: tuple[Tensor, ...], proposed: tuple[Tensor, ...], log_ratio: Tensor, noise: PopulationNoise
) -> tuple[Tensor, ...]:
    """For each particle what was ``proposed``, with probability min(1, exp(log_ratio)), or what it has ``now``.

    Args:
        now: Tensors (N, ...).
        proposed: The same of the proposals.
        log_ratio: (N,); where it is NaN because neither has any density, the particle stays.
        noise: The run's noise.
    """
    accept = noise.uniform(len(log_ratio)).log().to(log_ratio) < log_ratio
    return tuple(torch.where(accept.reshape(-1, *[1] * (b.ndim - 1)), b, a) for a, b in zip(now, proposed, strict=True))


def langevin(x: Tensor, slope: Tensor, step: float, noise: PopulationNoise) -> Tensor:
    """x + step slope + sqrt(2 step) z, ``slope`` the gradient of the target's log-density, ``step`` in its units squared."""
    return x + step * slope + math.sqrt(2 * step) * noise()
