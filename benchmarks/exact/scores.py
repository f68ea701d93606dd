"""How far a weighted sample is from a known posterior, as one row of numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.metrics import coverage, mode_weight_error, sliced_w2

SCORES = ("sw2", "floor", "ratio", "mode_error", "bias2", "std_ratio", "std_error", "worst_std", "coverage90")


@dataclass(frozen=True)
class Yardstick:
    """A posterior and samples of it, all of the size that methods are asked for.

    Args:
        exact: Has ``mean``, ``std`` and ``sample``.
        target: Sample that distances are measured to.
        others: Two more, for the floor.
        spare: One more, scored as if it came from a method.
        modes: Centres of the prior's modes, or None.
        spread_error: Variance of the posterior mean as it is known, in posterior variances; 0 in closed form.
    """

    exact: Any
    target: Tensor
    others: tuple[Tensor, Tensor]
    spare: Tensor
    modes: Tensor | None = None
    spread_error: float = 0.0

    @classmethod
    def of(cls, exact: Any, n: int, modes: Tensor | None = None, spread_error: float = 0.0) -> Yardstick:
        """Samples of ``n`` draws each, no draw in two of them."""
        a, b, c, d = exact.sample(4 * n, seed=20_000).split(n)
        return cls(exact, a, (b, c), d, modes, spread_error)

    @property
    def floor(self) -> float:
        """Sliced W2 between exact samples."""
        return sum(sliced_w2(self.target, other) for other in self.others) / len(self.others)


def scores(sample: Tensor, weights: Tensor | None, yardstick: Yardstick, floor: float) -> dict[str, float]:
    """All `SCORES` of a sample (N, *event).

    sw2         sliced W2 to an exact sample of the same size, 500 directions; floor, that between exact samples; their ratio
    mode_error  total variation of the shares of the prior's modes; NaN where it has none
    bias2       mean over coordinates of ((mean - exact mean) / exact std)^2, Monte-Carlo error taken out; may be negative
    std_ratio   mean over coordinates of std / exact std
    std_error   mean over coordinates of |std / exact std - 1|, worst_std its 90 % quantile
    coverage90  exact probability, by a sample, of the sample's central 90 % interval, averaged over coordinates
    """
    x = sample.flatten(1).double()
    w = torch.full((len(x),), 1 / len(x), dtype=torch.float64) if weights is None else weights.double()
    mean = w @ x
    var = w @ (x - mean).square()
    size = float(1 / w.square().sum())
    var = var / max(1 - 1 / size, 1e-12)
    exact_mean, exact_std = yardstick.exact.mean.flatten().double(), yardstick.exact.std.flatten().double()
    ratio = var.sqrt() / exact_std
    bias2 = ((mean - exact_mean) / exact_std).square() - ratio.square() / size - yardstick.spread_error
    off = (ratio - 1).abs()
    distance = sliced_w2(x, yardstick.target, w)
    modes = math.nan
    if yardstick.modes is not None:
        modes = mode_weight_error(x, yardstick.target, yardstick.modes, w)
    return {
        "sw2": distance,
        "floor": floor,
        "ratio": distance / floor,
        "mode_error": modes,
        "bias2": float(bias2.mean()),
        "std_ratio": float(ratio.mean()),
        "std_error": float(off.mean()),
        "worst_std": float(off.quantile(0.9)),
        "coverage90": coverage(x, w, torch.cat([yardstick.target, *yardstick.others]).flatten(1).double()),
    }
