"""The little statistics that the diagnostics share: smooth tests of uniformity, candidates in the truth's place, bands."""

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
RESAMPLES = 99_999  # of `exchange_test`
_AT_ONCE = 8192
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


def exchange_test(rows: Tensor, statistic: Callable[[Tensor], Tensor]) -> float:
    """p-value that the first row of every trial is one like all its rows: candidates in the truth's place.

    If the sampler is exact, truth and draws of a trial are exchangeable, and so are the rows that are worked out for each of
    them in the truth's place. With a candidate taken at random in each trial, many times, the statistic has the law that it
    has of the truths, whatever the law of the rows and however few the trials: p = (1 + #{made >= seen}) / (1 + RESAMPLES).

    Args:
        rows: (n, M, m): trials, candidates with the truth first, components. NaN fills up trials of fewer candidates.
        statistic: Takes rows averaged over trials (..., m) to a number (...), larger where they are less like exact samples.

    References:
        Ernst. Permutation methods: a basis for exact inference. 2004. Statistical Science 19(4).
        Phipson, Smyth. Permutation p-values should never be zero. 2010. Stat. Appl. Genet. Mol. Biol. 9(1).
    """
    g = generator(0, "candidates")
    # In an order of their own, so that p is the same for the same trials in another order.
    ordered = sorted(sorted(row for row in trial if row[0] == row[0]) for trial in rows.tolist())
    trials = [torch.tensor(trial, dtype=rows.dtype) for trial in ordered]
    seen = float(statistic(rows[:, 0].mean(0)))
    larger = 0
    for start in range(0, RESAMPLES, _AT_ONCE):
        made = rows.new_zeros(min(_AT_ONCE, RESAMPLES - start), rows.shape[-1])
        for trial in trials:
            made += trial.index_select(0, torch.randint(len(trial), (len(made),), generator=g))
        larger += int((statistic(made / len(rows)) >= seen * (1 - 1e-9)).sum())
    return (1 + larger) / (1 + RESAMPLES)


def quadratic_test(rows: Tensor) -> float:
    """`exchange_test` of m^T C^-1 m, m the mean of the truths' rows (n, M, m) less what is expected, and C their covariance.

    Of few trials the covariance is drawn towards that of all candidates, as much as 20 trials more would draw it. Where truths
    vary otherwise than draws, as with wrong correlations, the mean alone is judged. Directions without variance are left out.

    References:
        Chung, Romano. Exact and asymptotically robust permutation tests. 2013. Annals of Statistics 41(2).
    """
    off, cov = _centred(rows)
    eigenvalues, vectors = torch.linalg.eigh(cov)
    varies = eigenvalues > 1e-10 * eigenvalues.max().clamp_min(1e-10)
    if not varies.any():
        return 1.0
    n, m = len(rows), int(varies.sum())
    white = off @ (vectors[:, varies] / eigenvalues[varies].sqrt())
    upper = torch.triu_indices(m, m)

    def statistic(mean: Tensor) -> Tensor:
        c = mean.new_zeros(*mean.shape[:-1], m, m)
        c[..., upper[0], upper[1]] = c[..., upper[1], upper[0]] = n * mean[..., m:]
        root = torch.linalg.cholesky(c + FEWEST * torch.eye(m, dtype=mean.dtype))
        return torch.linalg.solve_triangular(root, mean[..., :m, None], upper=False).square().sum((-2, -1))

    return exchange_test(torch.cat([white, white[..., upper[0]] * white[..., upper[1]]], -1), statistic)


def largest_test(rows: Tensor) -> float:
    """`exchange_test` of the largest component of |m|, each in units of its standard deviation; both as in `quadratic_test`."""
    off, cov = _centred(rows)
    variance = cov.diagonal()
    varies = variance > 1e-10 * variance.max().clamp_min(1e-10)
    if not varies.any():
        return 1.0
    n, m = len(rows), int(varies.sum())
    scaled = off[..., varies] / variance[varies].sqrt()
    return exchange_test(
        torch.cat([scaled, scaled.square()], -1),
        lambda mean: (mean[..., :m].square() / (n * mean[..., m:] + FEWEST)).amax(-1),
    )


def _centred(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (n, M, m) less the mean of each trial's, which is what is expected of its truth, and their covariance (m, m)."""
    rows = rows.double()
    off = rows - rows.nanmean(1, keepdim=True)
    each = (~off[..., 0].isnan()).sum(1)
    kept = off.nan_to_num(0.0)
    return off, torch.einsum("nma,nmb->nab", kept, kept).div(each[:, None, None]).mean(0)


def merged(p_values: Tensor) -> Tensor:
    """One p-value for those along the last axis, however dependent: twice their mean.

    References:
        Vovk, Wang. Combining p-values via averaging. 2020. Biometrika 107(4).
    """
    return (2 * p_values.mean(-1)).clamp_max(1)


def adjusted(p_values: Tensor) -> float:
    """One p-value for several tests, however dependent: the smallest times their number (Bonferroni)."""
    return float((p_values.min() * len(p_values)).clamp_max(1))


def bootstrap(
    rows: Tensor, statistic: Callable[[Tensor], Tensor], band: float, resamples: int = 500, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Percentile band of a statistic of independent rows.

    Resampled means of n rows vary by the standard deviation over n, not n - 1, and percentiles are the normal law's, not
    Student's: the percentiles are taken farther out by both. Where the rows are skewed, bands of few trials are still narrow.

    Args:
        rows: (n, ...), one for each trial.
        statistic: Takes rows averaged over a resample, (resamples, ...), to what the band is for.
        band: Probability inside.
        resamples: How many.
        seed: Of the resamples.

    References:
        Efron, Tibshirani. An Introduction to the Bootstrap. 1993. Chapman and Hall.
        Hesterberg. What teachers should know about the bootstrap. 2015. The American Statistician 69(4), section 5.3.
    """
    from scipy.stats import norm, t

    n = len(rows)
    if n > 1:
        band = float(2 * norm.cdf(math.sqrt(n / (n - 1)) * t.ppf((1 + band) / 2, n - 1)) - 1)
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
