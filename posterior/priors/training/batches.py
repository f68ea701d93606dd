"""Where the batches of a training run come from: an array in memory, or anything that can be iterated over."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

Batches = Callable[[int], Tensor]
AUGMENTATIONS = ("flip-x", "flip-y", "roll-x", "roll-y")


def batches_of(
    data: Tensor | np.ndarray | Iterable[Any], size: int | None = None, *, seed: int = 0, augment: tuple[str, ...] = ()
) -> Batches:
    """``batches(step)``, the batch of a step, the same whenever it is asked for.

    Args:
        data: Standardised fields (N, *event), from which ``size`` rows are drawn at random for each step; or an iterable
            whose items are batches (B, *event), arrays or tensors. An iterable is gone through again when it ends, and has
            to give the same items each time for a resumed run to end with the same weights.
        size: Fields in a batch, for an array.

    Other arguments:
        seed: Seed of rows and augmentation.
        augment: What may be done to a field without leaving its distribution: "flip-x", "flip-y" (mirrored half the time),
            "roll-x", "roll-y" (shifted round by any number of points; for periodic axes).

    Raises:
        ValueError: If there are no data, ``size`` is missing or an augmentation is not known.
    """
    if unknown := sorted(set(augment) - set(AUGMENTATIONS)):
        raise ValueError(f"training: augmentation {unknown[0]!r}; known: {', '.join(AUGMENTATIONS)}")
    if isinstance(data, Tensor | np.ndarray):
        fields = torch.as_tensor(data).float()
        if size is None or size < 1 or len(fields) < 1:
            raise ValueError(f"training: batches of {size} from {len(fields)} fields; wanted at least one of each")
        return lambda step: _augmented(fields[_rows(len(fields), size, seed, step)], augment, seed, step)
    items = _Replay(data)
    return lambda step: _augmented(_shuffled(torch.as_tensor(items(step)).float(), seed, step), augment, seed, step)


def _rows(count: int, size: int, seed: int, step: int) -> Tensor:
    """Rows of step ``step``: every field once before any comes again, in an order new each time."""
    rows = []
    for place in range(step * size, (step + 1) * size):
        epoch, index = divmod(place, count)
        if not rows or index == 0:
            order = np.random.default_rng([seed, epoch]).permutation(count)
        rows.append(int(order[index]))
    return torch.tensor(rows)


def _shuffled(fields: Tensor, seed: int, step: int) -> Tensor:
    """In an order new each time: the noise level of a field goes by its place, and an iterable may have it in one for ever."""
    return fields[torch.from_numpy(np.random.default_rng([seed, step, 2]).permutation(len(fields)))]


def _augmented(fields: Tensor, augment: tuple[str, ...], seed: int, step: int) -> Tensor:
    if not augment:
        return fields
    rng = np.random.default_rng([seed, step, 1])
    fields = fields.clone()
    for kind in augment:
        axis = -1 if kind.endswith("x") else -2
        for i in range(len(fields)):
            if kind.startswith("roll"):
                fields[i] = fields[i].roll(int(rng.integers(fields.shape[axis])), axis)
            elif rng.random() < 0.5:
                fields[i] = fields[i].flip(axis)
    return fields


class _Replay:
    """Item ``step`` of an iterable that is gone through over and over."""

    def __init__(self, data: Iterable[Any]) -> None:
        self.data = data
        self.iterator: Iterator[Any] = iter(data)
        self.at = 0

    def __call__(self, step: int) -> Any:
        if step < self.at:
            self.iterator, self.at = iter(self.data), 0
        item = None
        while self.at <= step:
            item = next(self.iterator, None)
            if item is None:
                self.iterator = iter(self.data)
                item = next(self.iterator, None)
                if item is None:
                    raise ValueError("training: the iterable holds no batch, or can be gone through only once")
            self.at += 1
        return item
