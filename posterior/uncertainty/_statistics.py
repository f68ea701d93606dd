"""The little statistics that the diagnostics share: smooth tests of uniformity, means of clusters, bands."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

ORDER = 4  # components of the smooth test
FEWEST = 20  # trials that a test takes
_POLYNOMIALS: tuple[Callable[[Tensor], Tensor], ...] = (
    lambda z: z,
    lambda z: (3 * z**2 - 1) / 2,
    lambda z: (5 * z**3 - 3 * z) / 2,
    lambda z: (35 * z**4 - 30 * z**2 + 3) / 8,
)


@dataclass(frozen=True, eq=False)
class Curve:
    """Something measured at several places, with a band around it.

    Args:
        at: Places (m,): levels, bins, shares.
        values: What was measured, (m,).
        lower: Lower end of the band, (m,).
        upper: Upper end, (m,).
        expected: What a calibrated sampler gives, (m,).
        band: Probability of each interval of the band, pointwise.
    """

    at: Tensor
    values: Tensor
    lower: Tensor
    upper: Tensor
    expected: Tensor
    band: float = 0.95

    def record(self) -> dict[str, Any]:
        """As plain numbers, NaN as None: what goes into a JSON file."""
        tensors = {k: getattr(self, k) for k in ("at", "values", "lower", "upper", "expected")}
        return {k: [None if x != x else x for x in v.tolist()] for k, v in tensors.items()} | {"band": self.band}


def legendre(u: Tensor) -> Tensor:
    """Orthonormal Legendre polynomials 1 to `ORDER` on [0, 1], (..., ORDER): shift, spread, skewness, tails."""
    z = 2 * u - 1
    return torch.stack([math.sqrt(2 * m + 3) * p(z) for m, p in enumerate(_POLYNOMIALS)], -1)


def smooth_test(u: Tensor) -> Tensor:
    """p-values that each column of ``u`` (n, k) is uniform on [0, 1]: Neyman's smooth test.

    n times the squared mean of each of four Legendre polynomials adds up to chi-square of four degrees of freedom.
    It sees a shift or a wrong spread sooner than a Kolmogorov-Smirnov test does.

    References:
        Neyman. "Smooth" test for goodness of fit. 1937. Scandinavian Actuarial Journal 20.
        Bera, Ghosh. Neyman's smooth test and its applications in econometrics. 2002.
    """
    from scipy.stats import chi2

    statistic = len(u) * legendre(u.double()).mean(0).square().sum(-1)
    return torch.from_numpy(np.atleast_1d(chi2.sf(statistic.numpy(), ORDER)))


def mean_test(values: Tensor, expected: Tensor | float = 0.0) -> float:
    """p-value that independent rows ``values`` (n, m) have the mean ``expected``: Hotelling's T^2, for m = 1 Student's t.

    Directions in which the rows do not vary are left out where the mean is right, and refuse it where it is not.
    """
    from scipy.stats import f

    n = len(values)
    off = values.double().mean(0) - expected
    cov = torch.cov(values.double().T).reshape(values.shape[1], -1)
    eigenvalues, vectors = torch.linalg.eigh(cov)
    along = vectors.T @ off
    varies = eigenvalues > 1e-10 * eigenvalues.max().clamp_min(1e-300)
    if (along[~varies].abs() > 1e-6).any():
        return 0.0
    m = int(varies.sum())
    if m == 0:
        return 1.0
    if n <= m + 1:
        raise ValueError(f"mean_test: {n} trials cannot test a mean in {m} dimensions; wanted at least {m + 2}")
    statistic = n * float((along[varies].square() / eigenvalues[varies]).sum())
    return float(f.sf(statistic * (n - m) / (m * (n - 1)), m, n - m))


def share_test(shares: Tensor, expected: float) -> float:
    """p-value that independent shares (n,), between 0 and 1, have the mean ``expected``: Student's t.

    Where all are equal, which exact samples do by chance, there is no t: twice Hoeffding's bound then, which is conservative.

    References:
        Hoeffding. Probability inequalities for sums of bounded random variables. 1963. JASA 58(301), theorem 1.
    """
    from scipy.special import rel_entr

    if (shares != shares[0]).any():
        return mean_test(shares[:, None], expected)
    share = float(shares[0])
    divergence = float(rel_entr(share, expected) + rel_entr(1 - share, 1 - expected))
    return min(1.0, 2 * math.exp(-len(shares) * divergence))


def adjusted(p_values: Tensor) -> float:
    """One p-value for several tests, however dependent: the smallest times their number (Bonferroni)."""
    return float((p_values.min() * len(p_values)).clamp_max(1))


def bootstrap(
    rows: Tensor, statistic: Callable[[Tensor], Tensor], band: float, resamples: int = 500, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Percentile band of a statistic of independent rows.

    Args:
        rows: (n, ...), one for each trial.
        statistic: Takes rows averaged over a resample, (resamples, ...), to what the band is for.
        band: Probability inside.
        resamples: How many.
        seed: Of the resamples.

    References:
        Efron, Tibshirani. An Introduction to the Bootstrap. 1993. Chapman and Hall.
    """
    return percentiles(statistic(resampled_means(rows, resamples, seed)), band)


def resampled_means(rows: Tensor, resamples: int = 500, seed: int = 0) -> Tensor:
    """Means of ``resamples`` resamples of independent rows (n, ...), float64 (resamples, ...)."""
    g = generator(seed, "bootstrap")
    n = len(rows)
    counts = torch.zeros(resamples, n, dtype=torch.float64)
    picked = torch.randint(n, (resamples, n), generator=g)
    counts.scatter_add_(1, picked, torch.ones(resamples, n, dtype=torch.float64))
    return torch.tensordot(counts / n, rows.double(), 1)


def percentiles(values: Tensor, band: float) -> tuple[Tensor, Tensor]:
    """The ends of the middle ``band`` of resampled ``values`` (resamples, ...)."""
    low, high = torch.quantile(values, torch.tensor([(1 - band) / 2, (1 + band) / 2], dtype=torch.float64), 0)
    return low, high


def binomial_band(p: Tensor, n: int, band: float) -> tuple[Tensor, Tensor]:
    """Pointwise band of the share of ``n`` trials that succeed with probabilities ``p``."""
    from scipy.stats import binom

    tail = (1 - band) / 2
    low, high = (binom.ppf(q, n, p.numpy()) / n for q in (tail, 1 - tail))
    return torch.from_numpy(np.asarray(low)), torch.from_numpy(np.asarray(high))


def generator(seed: int, purpose: str) -> torch.Generator:
    """A generator of its own for each purpose.

    Truths that were themselves drawn with ``seed`` would else share their random numbers with ties and resamples, which
    is enough to fail exact samples.
    """
    mixed = np.random.SeedSequence([seed, *purpose.encode()]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(mixed >> np.uint64(1)))


def check_trials(owner: str, n: int, fewest: int = FEWEST) -> None:
    """Raise ValueError where there are too few trials for a test."""
    if n < fewest:
        raise ValueError(f"{owner}: there are {n} trials; wanted {fewest} or more")


def check_level(owner: str, level: float, name: str = "level") -> None:
    """Raise ValueError unless a probability lies inside (0, 1)."""
    if not 0 < level < 1:
        raise ValueError(f"{owner}: {name} is {level}; wanted a number between 0 and 1")
