"""Medians with their uncertainty, and whether one method beats another on the same problems."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000


def median_interval(values: list[float], band: float = 0.95, seed: int = 0) -> tuple[float, float, float]:
    """Median and percentile bootstrap interval; NaN for the interval of fewer than three values.

    References:
        Efron, Tibshirani. An Introduction to the Bootstrap. 1993. Chapman and Hall.
    """
    x = np.asarray([v for v in values if v == v], dtype=float)
    if not len(x):
        return math.nan, math.nan, math.nan
    if len(x) < 3:
        return float(np.median(x)), math.nan, math.nan
    rng = np.random.default_rng(seed)
    medians = np.median(x[rng.integers(len(x), size=(RESAMPLES, len(x)))], axis=1)
    low, high = np.quantile(medians, [(1 - band) / 2, (1 + band) / 2])
    return float(np.median(x)), float(low), float(high)


@dataclass(frozen=True)
class Paired:
    """One method's figures less another's on the same problems.

    Args:
        n: Problems in common.
        difference: Mean difference.
        low: Lower end of its 95 % bootstrap interval, NaN for fewer than three problems.
        high: Upper end.
        p_value: Wilcoxon's signed-rank test, two-sided; NaN for fewer than three problems.
    """

    n: int
    difference: float
    low: float
    high: float
    p_value: float


def paired(ours: dict[str, float], theirs: dict[str, float], seed: int = 0) -> Paired:
    """Compare figures by problem.

    References:
        Wilcoxon. Individual comparisons by ranking methods. 1945. Biometrics Bulletin 1(6).
    """
    from scipy.stats import wilcoxon

    common = [k for k in sorted(ours) if k in theirs and ours[k] == ours[k] and theirs[k] == theirs[k]]
    off = np.asarray([ours[k] - theirs[k] for k in common])
    if len(off) < 3:
        return Paired(len(off), float(off.mean()) if len(off) else math.nan, math.nan, math.nan, math.nan)
    rng = np.random.default_rng(seed)
    means = off[rng.integers(len(off), size=(RESAMPLES, len(off)))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    p = float(wilcoxon(off).pvalue) if np.any(off != 0) else 1.0
    return Paired(len(off), float(off.mean()), float(low), float(high), p)
