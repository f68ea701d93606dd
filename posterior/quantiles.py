"""Quantiles at Weibull positions."""

from __future__ import annotations

import numpy as np


def draws_needed(level: float) -> float:
    """How many draws of equal weight the central interval of a level takes: 19 for 0.9, less what rounding may eat.

    The outermost of n draws lie at 1 / (n + 1) from both ends.
    """
    return 2 / (1 - level) - 1 - 1e-6


def weibull_quantiles(values: np.ndarray, levels: tuple[float, ...], weights: np.ndarray | None = None) -> np.ndarray:
    """Quantiles at Weibull positions; see `posterior.Draws.interval`.

    Args:
        values: (m, n), quantiles are taken along the rows.
        levels: Between 1 / (n + 1) and n / (n + 1).
        weights: (n,), summing to one; equal where None.

    Returns:
        Array (levels, m).
    """
    result = np.empty((len(levels), len(values)), values.dtype)
    if weights is None:
        values, n = np.array(values, order="C"), values.shape[1]
        values.sort(axis=1)
        for row, level in zip(result, levels, strict=True):
            place = min(max(level * (n + 1) - 1, 0), n - 1)  # counted from 0, and inside despite rounding
            left = min(int(place), n - 2)
            row[:] = values[:, left] + (values[:, left + 1] - values[:, left]) * (place - left)
    else:
        values, weights = np.ascontiguousarray(values[:, weights > 0]), weights[weights > 0]
        order = values.argsort(axis=1)
        values, weights = np.take_along_axis(values, order, 1), weights[order]
        effective = 1 / np.square(weights).sum(1, keepdims=True)
        position = (effective * (weights.cumsum(1) - weights / 2) + 0.5) / (effective + 1)
        result[:] = interpolated(values, position, levels)
    result[:, np.isnan(values[:, -1])] = np.nan  # sorting hides missing values at the end
    return result


def interpolated(values: np.ndarray, positions: np.ndarray, levels: tuple[float, ...]) -> np.ndarray:
    """Rows of sorted values (m, n) at levels between their positions (m, n); the outermost beyond. (levels, m)."""
    result, index = np.empty((len(levels), len(values)), values.dtype), np.arange(len(values))
    for row, level in zip(result, levels, strict=True):
        left = np.clip((positions <= level + 1e-12).sum(1) - 1, 0, max(0, values.shape[1] - 2))
        right = np.minimum(left + 1, values.shape[1] - 1)
        (low, p), (high, q) = ((values[index, i], positions[index, i]) for i in (left, right))
        row[:] = low + (high - low) * np.clip((level - p) / np.maximum(q - p, 1e-300), 0, 1)
    return result
