"""Weighted sums over draws."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_BLOCK = 2**22  # values that are worked on at once


def weighted_sum(draws: Tensor, weights: Tensor, fn: Callable[[Tensor], Tensor] = lambda x: x) -> Tensor:
    """Sum over draws (n, *event) of ``fn`` of each times its weight, float64, some draws at a time.

    In float32 a large offset would cost the digits that tell draws apart.
    """
    total = torch.zeros(draws.shape[1:], dtype=torch.float64, device=draws.device)
    step = max(1, _BLOCK // max(1, total.numel()))
    for w, x in zip(weights.double().split(step), draws.split(step), strict=True):
        total += torch.tensordot(w, fn(x).double(), 1)
    return total
