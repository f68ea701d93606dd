"""Resampling: which particle each new one copies. All three are unbiased, E[copies of i] = N w_i.

References:
    Douc, Cappe, Moulines. Comparison of resampling schemes for particle filtering. 2005. arXiv:cs/0507025.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

Scheme = Literal["systematic", "stratified", "multinomial"]


def ess(log_weights: Tensor) -> float:
    """Effective sample size 1 / sum w^2 of normalised weights (Kong, Liu, Wong 1994), 1 to N."""
    return float(1 / torch.softmax(log_weights.double(), 0).square().sum())


def systematic(weights: Tensor, uniform: Callable[[int], Tensor]) -> Tensor:
    """One uniform for all N: positions (i + u) / N. The least noise of the three in practice."""
    n = len(weights)
    return _pick(weights, (torch.arange(n, dtype=torch.float64) + uniform(1)) / n)


def stratified(weights: Tensor, uniform: Callable[[int], Tensor]) -> Tensor:
    """One uniform in each of N strata: positions (i + u_i) / N."""
    n = len(weights)
    return _pick(weights, (torch.arange(n, dtype=torch.float64) + uniform(n)) / n)


def multinomial(weights: Tensor, uniform: Callable[[int], Tensor]) -> Tensor:
    """N independent draws."""
    return _pick(weights, uniform(len(weights)).sort().values)


SCHEMES: dict[str, Callable[[Tensor, Callable[[int], Tensor]], Tensor]] = {
    "systematic": systematic,
    "stratified": stratified,
    "multinomial": multinomial,
}


def resample(log_weights: Tensor, uniform: Callable[[int], Tensor], scheme: Scheme = "systematic") -> Tensor:
    """Indices (N,), ascending, of the particles that are copied.

    Args:
        log_weights: (N,), unnormalised.
        uniform: ``uniform(k)`` gives k independent uniforms on [0, 1), float64 on the CPU.
        scheme: One of `SCHEMES`.
    """
    weights = torch.softmax(log_weights.double().cpu(), 0)
    return SCHEMES[scheme](weights, uniform).to(log_weights.device)


def _pick(weights: Tensor, positions: Tensor) -> Tensor:
    """The particle at each of the ascending positions of the cumulative weights."""
    cumulative = weights.double().cumsum(0)
    index = torch.searchsorted(cumulative / cumulative[-1], positions, right=True)
    # Rounding may put a position above the last step; the last particle that has weight is meant.
    last = int(torch.nonzero(weights > 0)[-1])
    return index.clamp_max(last)
