"""The particle system of every sequential Monte Carlo sampler: weights, resampling, evidence, genealogy.

A population of N particles carries unnormalised log-weights. When the effective sample size falls below a
share of N the particles are resampled, the mean weight is multiplied into the evidence, and the weights start
again from one. The estimate of p(y) is unbiased; its relative variance is estimated from the one population
by how much weight the offspring of each first ancestor ("Eve") carries.

References:
    Del Moral, Doucet, Jasra. Sequential Monte Carlo samplers. 2006. J. R. Stat. Soc. B 68(3).
    Chan, Lai. A general theory of particle filters in hidden Markov models and some applications. 2013.
    arXiv:1312.5114.
    Lee, Whiteley. Variance estimation in the particle filter. 2018. arXiv:1509.00394.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from posterior.samplers.base import State
from posterior.samplers.smc.resampling import Scheme, ess, resample


class PopulationNoise(Protocol):
    """White noise for all particles of one run, from the run's one generator."""

    def __call__(self, shape: tuple[int, ...] | None = None) -> Tensor:
        """Standard normal (N, *shape); the shape of one field where None."""
        ...

    def uniform(self, count: int) -> Tensor:
        """``count`` uniforms on [0, 1), float64 on the CPU."""
        ...


@dataclass(frozen=True, kw_only=True)
class Particles(State):
    """Where one run stands.

    Args:
        x: Particles (N, *event).
        log_weights: (N,), since the last resampling.
        carried: What else belongs to a particle and is copied with it: a tuple of tensors (N, ...).
        evidence: Log of the evidence gathered up to the last resampling.
        eve: First ancestor of each particle, (N,).
        ancestors: Index of each particle's parent at every resampling so far; None where not kept.
        resamplings: How often the population was resampled.
    """

    log_weights: Tensor
    carried: tuple[Tensor, ...] = ()
    evidence: float = 0.0
    eve: Tensor
    ancestors: tuple[Tensor, ...] | None = None
    resamplings: int = 0

    @property
    def ess(self) -> float:
        """Effective sample size of the present weights."""
        return ess(self.log_weights)

    @property
    def log_evidence(self) -> float:
        """Estimate of log p(y); at intermediate steps, that of the twisted target."""
        n = len(self.log_weights)
        return self.evidence + float(torch.logsumexp(self.log_weights.double(), 0)) - math.log(n)

    @property
    def log_evidence_std(self) -> float:
        """Standard error of `log_evidence`: sqrt(sum_e (W_e - 1/N)^2), W_e the weight of Eve e's offspring.

        An underestimate once few Eves are left; systematic resampling makes it err on the large side
        otherwise.
        """
        weights = torch.softmax(self.log_weights.double(), 0)
        n = len(weights)
        families = torch.zeros(n, dtype=torch.float64, device=weights.device).index_add_(0, self.eve, weights)
        return float((families - 1 / n).square().sum().sqrt())

    @property
    def final_log_weights(self) -> Tensor:
        """Log-weights (N,) whose exponentials average to the estimate of p(y), so that runs can be pooled."""
        return self.log_weights + self.evidence


def start(x: Tensor, log_weights: Tensor, carried: tuple[Tensor, ...], memory: Any, genealogy: bool) -> Particles:
    """A population before its first step."""
    return Particles(
        x=x,
        memory=memory,
        log_weights=log_weights,
        carried=carried,
        eve=torch.arange(len(x), device=x.device),
        ancestors=() if genealogy else None,
    )


def resample_below(state: Particles, share: float, uniform: Callable[[int], Tensor], scheme: Scheme) -> Particles:
    """The population, resampled if its effective sample size is below ``share`` N."""
    if state.ess >= share * len(state.x):
        return state
    index = resample(state.log_weights, uniform, scheme)
    return replace(
        state,
        x=state.x[index],
        carried=tuple(t[index] for t in state.carried),
        log_weights=torch.zeros_like(state.log_weights),
        evidence=state.log_evidence,
        eve=state.eve[index],
        ancestors=None if state.ancestors is None else (*state.ancestors, index),
        resamplings=state.resamplings + 1,
    )


def thin(state: Particles, times: int, uniform: Callable[[int], Tensor]) -> Particles:
    """One particle of each ``times``, drawn by weight and given the weight of all of them; ``times`` divides their number.

    Those of a group are neighbours in order of the direction in which the population varies most, so that the shares of
    modes stay nearly as they were. Expectations and the evidence keep their means.
    """
    w = torch.softmax(state.log_weights.double(), 0)
    flat = state.x.flatten(1).double()
    spread = w.sqrt()[:, None] * (flat - w @ flat)
    small = spread.shape[1] <= spread.shape[0]
    gram = spread.T @ spread if small else spread @ spread.T
    # On the CPU whatever the device, for the sign of the direction and so the order of the particles.
    vectors = torch.linalg.eigh(gram.cpu()).eigenvectors[:, -1].to(gram)
    along = flat @ (vectors if small else spread.T @ vectors)
    groups = along.argsort().reshape(-1, times)
    logs = state.log_weights[groups]
    total = torch.logsumexp(logs, 1)
    steps = torch.softmax(logs.double(), 1).cumsum(1)
    picked = (steps < uniform(len(groups)).to(steps)[:, None]).sum(1).clamp_max(times - 1)
    index = groups[torch.arange(len(groups), device=groups.device), picked]
    return replace(
        state,
        x=state.x[index],
        carried=tuple(t[index] for t in state.carried),
        log_weights=total - math.log(times),
        # So many first ancestors as particles are left: some together count as one.
        eve=state.eve[index] // times,
        ancestors=None if state.ancestors is None else (*state.ancestors, index),
    )


def gain(log_weights: Tensor, change: Tensor) -> Tensor:
    """``log_weights`` plus ``change``; a particle without weight stays without, whatever the change."""
    return torch.where(log_weights == -torch.inf, log_weights, log_weights + change)
