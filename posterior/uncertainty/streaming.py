"""Means and standard deviations of draws that do not fit in memory."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class StreamingMoments:
    """Mean and variance of draws that arrive in batches, weighted or not; two of them merge.

    The pairwise update of Chan, Golub and LeVeque: deviations are summed about the mean of each batch and moved to
    the common mean, so that a large offset costs no digits. Memory: two float64 events, whatever the number of draws.

    Args:
        event_shape: Shape of one draw.

    References:
        Chan, Golub, LeVeque. Algorithms for computing the sample variance. 1983. The American Statistician 37(3).
    """

    def __init__(self, event_shape: tuple[int, ...]) -> None:
        self.event_shape = tuple(event_shape)
        self.count = 0
        self._mean = torch.zeros(self.event_shape, dtype=torch.float64)
        self._squares = torch.zeros(self.event_shape, dtype=torch.float64)
        self._weight, self._weight2 = 0.0, 0.0
        self._top = -math.inf  # log-weights are kept relative to the largest so far

    def update(self, batch: Tensor, log_weights: Tensor | None = None) -> None:
        """Take in more draws.

        Args:
            batch: (B, *event).
            log_weights: (B,) unnormalised, on one scale for all batches; equal weights where None.

        Raises:
            ValueError: If shapes do not fit or a weight is NaN or +inf.
        """
        if tuple(batch.shape[1:]) != self.event_shape or not batch.ndim:
            raise ValueError(f"StreamingMoments: got a batch of shape {tuple(batch.shape)}; wanted (B, {self.event_shape})")
        if not len(batch):
            return
        logs = torch.zeros(len(batch)) if log_weights is None else log_weights
        if tuple(logs.shape) != (len(batch),) or logs.isnan().any() or (logs == torch.inf).any():
            raise ValueError(f"StreamingMoments: log_weights {tuple(logs.shape)} do not fit or have NaN or +inf")
        logs, x = logs.detach().double().cpu(), batch.detach().cpu()
        new = StreamingMoments(self.event_shape)
        new.count = len(batch)
        new._top = float(logs.max())
        if new._top > -math.inf:
            w = (logs - new._top).exp()
            new._weight, new._weight2 = float(w.sum()), float(w.square().sum())
            for wi, xi in zip((w / new._weight).tolist(), x, strict=True):
                new._mean.add_(xi, alpha=wi)
            for wi, xi in zip(w.tolist(), x, strict=True):
                deviation = xi - new._mean
                new._squares.addcmul_(deviation, deviation, value=wi)
        self.merge(new)

    def merge(self, other: StreamingMoments) -> None:
        """Take in all that another has seen; the other is left as it is.

        Raises:
            ValueError: If it is of another event shape.
        """
        if other.event_shape != self.event_shape:
            raise ValueError(f"StreamingMoments: cannot merge events of shape {other.event_shape} into {self.event_shape}")
        self.count += other.count
        top = max(self._top, other._top)
        if top == -math.inf:
            return
        a, b = math.exp(self._top - top), math.exp(other._top - top)
        mine, theirs = a * self._weight, b * other._weight
        total = mine + theirs
        delta = other._mean - self._mean
        self._squares.mul_(a).add_(other._squares, alpha=b).addcmul_(delta, delta, value=mine * theirs / total)
        self._mean.add_(delta, alpha=theirs / total)
        self._weight, self._weight2, self._top = total, a**2 * self._weight2 + b**2 * other._weight2, top

    @property
    def n_effective(self) -> float:
        """How many equally weighted draws they are worth, (sum w)^2 / sum w^2."""
        return self._weight**2 / self._weight2 if self._weight2 > 0 else 0.0

    @property
    def mean(self) -> Tensor:
        """Mean of the draws so far, (*event), float64.

        Raises:
            ValueError: If there were none with weight.
        """
        if not self._weight > 0:
            raise ValueError("StreamingMoments: a mean takes one draw; got none")
        return self._mean.clone()

    @property
    def std(self) -> Tensor:
        """Standard deviation, unbiased in the variance as that of `Draws`, (*event), float64.

        Raises:
            ValueError: If there was one draw, or one with weight.
        """
        if self.n_effective < 1 + 1e-6:
            raise ValueError(f"StreamingMoments: a standard deviation takes two draws; got {self.n_effective:.1f}")
        return (self._squares / (self._weight - self._weight2 / self._weight)).sqrt()
