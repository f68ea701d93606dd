"""Quantiles of draws that do not fit in memory."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from posterior.quantiles import interpolated
from posterior.uncertainty._statistics import generator

_SHRINK = 2 / 3  # capacity of a level over that of the next higher
_BLOCK = 2**22


class QuantileSketch:
    """Quantiles of each value of draws that arrive in batches, with bounded memory and error; two of them merge.

    The sketch of Karnin, Lang and Liberty, one for each value of an event, all in step: when a level is full its items
    are sorted, and every second of them moves one level up, where it counts twice. Which half moves is random, so ranks
    are unbiased. Memory: about 3 ``size`` events, a little more for each doubling of the number of draws. While
    no more than ``size`` draws have come, quantiles are exact, and equal to those of `Draws.interval`.

    Args:
        event_shape: Shape of one draw.
        size: Capacity of the highest level. The error of a rank, as a share of all draws, has a standard deviation of
            about 1 / size (`standard_error` bounds it, `worst_error` is never exceeded).
        seed: Of the random halves; one of its own for each sketch that will be merged.
        dtype: Of the values kept, float32 or float64.

    Raises:
        ValueError: If ``size`` is below 8 or ``dtype`` is neither.

    References:
        Karnin, Lang, Liberty. Optimal quantile approximation in streams. 2016. FOCS. arXiv:1603.05346.
        Agarwal, Cormode, Huang, Phillips, Wei, Yi. Mergeable summaries. 2013. ACM TODS 38(4).
    """

    def __init__(
        self, event_shape: tuple[int, ...], size: int = 128, seed: int = 0, dtype: torch.dtype = torch.float32
    ) -> None:
        if size < 8 or dtype not in (torch.float32, torch.float64):
            raise ValueError(f"QuantileSketch: size is {size} and dtype {dtype}; wanted 8 or more, and float32 or float64")
        self.event_shape = tuple(event_shape)
        self.size = size
        self.dtype = dtype
        self.count = 0
        self._generator = generator(seed, "sketch")
        self._levels: list[list[Tensor]] = [[]]  # pieces (items, values) of weight 2^level
        self._worst, self._variance = 0, 0

    @property
    def worst_error(self) -> float:
        """The error of a rank is never more than this share of all draws."""
        return self._worst / max(1, self.count)

    @property
    def standard_error(self) -> float:
        """Bound on the standard deviation of a rank's error, as a share of all draws."""
        return math.sqrt(self._variance) / max(1, self.count)

    @property
    def memory(self) -> int:
        """Bytes of the values kept."""
        return sum(p.nbytes for level in self._levels for p in level)

    def update(self, batch: Tensor) -> None:
        """Take in more draws of equal weight; resample weighted ones first.

        Args:
            batch: (B, *event).

        Raises:
            ValueError: If the shape does not fit or values are NaN.
        """
        if not batch.ndim or tuple(batch.shape[1:]) != self.event_shape:
            raise ValueError(f"QuantileSketch: got a batch of shape {tuple(batch.shape)}; wanted (B, {self.event_shape})")
        if batch.isnan().any():
            raise ValueError("QuantileSketch: the batch has values that are NaN, which have no rank")
        if not len(batch):
            return
        flat = batch.detach().cpu().to(self.dtype).reshape(len(batch), -1)
        for piece in flat.split(self.size):
            self._levels[0].append(piece.clone())
            self.count += len(piece)
            self._compress()

    def merge(self, other: QuantileSketch) -> None:
        """Take in all that another has seen; the other is left as it is.

        Raises:
            ValueError: If shapes or sizes differ.
        """
        if (other.event_shape, other.size) != (self.event_shape, self.size):
            raise ValueError(
                f"QuantileSketch: cannot merge events of shape {other.event_shape} at size {other.size} into "
                f"{self.event_shape} at size {self.size}"
            )
        for height, pieces in enumerate([*map(list, other._levels)]):  # lists of their own: the other may be this one
            self._level(height).extend(p.to(self.dtype) for p in pieces)
        self.count += other.count
        self._worst += other._worst
        self._variance += other._variance
        self._compress()

    def quantile(self, level: float) -> Tensor:
        """Quantile of each value, (*event), at Weibull positions as in `Draws.interval`.

        Args:
            level: Between 0 and 1.

        Raises:
            ValueError: If so few draws do not reach so far out: it takes 1 / (n + 1) <= level <= n / (n + 1).
        """
        return self._quantiles((level,))[0]

    def interval(self, level: float) -> tuple[Tensor, Tensor]:
        """Central interval of each value: lower and upper end, each (*event).

        Args:
            level: Probability inside, between 0 and 1.

        Raises:
            ValueError: If the level is not between 0 and 1, or too few draws support it (90 % takes 19).
        """
        lower, upper = self._quantiles(((1 - level) / 2, (1 + level) / 2))
        return lower, upper

    def _quantiles(self, levels: tuple[float, ...]) -> Tensor:
        end = 1 / (self.count + 1) - 1e-9
        for level in levels:
            if not max(end, 1e-12) <= level <= 1 - end:
                needed = math.ceil(1 / min(level, 1 - level) - 1 - 1e-6) if 0 < level < 1 else None
                wanted = "a level between 0 and 1" if needed is None else f"at least {needed}"
                raise ValueError(f"QuantileSketch: {self.count} draws cannot support a quantile at {level:g}; wanted {wanted}")
        pieces = [(p, 2.0**h) for h, level in enumerate(self._levels) for p in level]
        weights = np.concatenate([np.full(len(p), w) for p, w in pieces])
        values = math.prod(self.event_shape)
        found = np.empty((len(levels), values), np.float64 if self.dtype == torch.float64 else np.float32)
        step = max(1, _BLOCK // len(weights))
        for start in range(0, values, step):
            block = np.concatenate([p[:, start : start + step].numpy() for p, _ in pieces]).T
            found[:, start : start + step] = _weighted_quantiles(block, weights, levels)
        return torch.from_numpy(found).reshape(len(levels), *self.event_shape)

    def _level(self, height: int) -> list[Tensor]:
        while len(self._levels) <= height:
            self._levels.append([])
        return self._levels[height]

    def _capacity(self, height: int) -> int:
        depth = len(self._levels) - 1 - height
        return max(2, math.ceil(self.size * _SHRINK**depth))

    def _compress(self) -> None:
        """Halve the lowest level that is over its capacity, until none is."""
        while (height := next((h for h in range(len(self._levels)) if self._held(h) > self._capacity(h)), None)) is not None:
            items = torch.cat(self._levels[height])
            even = len(items) // 2 * 2
            kept, moved = items[even:], items[:even]
            # Contiguous along the items: sorting is then several times as fast.
            pairs = np.sort(moved.T.contiguous().numpy(), axis=1).reshape(moved.shape[1], -1, 2)
            # A half of its own for each value, so that errors do not shift a whole map.
            upper = torch.randint(2, (moved.shape[1], 1), generator=self._generator).bool().numpy()
            half = np.where(upper, pairs[..., 1], pairs[..., 0])
            self._levels[height] = [kept.clone()] if len(kept) else []
            self._level(height + 1).append(torch.from_numpy(np.ascontiguousarray(half.T)))
            self._worst += 2**height
            self._variance += 4**height

    def _held(self, height: int) -> int:
        return sum(len(p) for p in self._levels[height])

    def __repr__(self) -> str:
        return (
            f"QuantileSketch({self.event_shape}, {self.count} draws, size={self.size}, "
            f"worst_error={self.worst_error:.3g}, {self.memory / 2**20:.0f} MiB)"
        )


def _weighted_quantiles(values: np.ndarray, weights: np.ndarray, levels: tuple[float, ...]) -> np.ndarray:
    """Quantiles of rows (m, items) whose items stand for whole numbers of draws, (levels, m).

    An item of weight w stands for w draws in a row; its position is the middle of theirs.
    """
    order = values.argsort(axis=1)
    values, w = np.take_along_axis(values, order, 1), weights[order]
    position = (w.cumsum(1) - (w - 1) / 2) / (weights.sum() + 1)
    return interpolated(values, position, levels)
