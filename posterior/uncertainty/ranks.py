"""Ranks of the truth among the draws: the one measurement behind SBC, TARP, coverage and rank histograms."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from posterior.uncertainty._statistics import (
    Curve,
    adjusted,
    binomial_band,
    bootstrap,
    check_level,
    check_trials,
    generator,
    largest_test,
    legendre,
    merged,
    quadratic_test,
    smooth_test,
)
from posterior.uncertainty.findings import Judged
from posterior.uncertainty.trials import Trial, Trials

# Takes a trial to one number, or k of them, for the truth and then for each draw: (S + 1,) or (S + 1, k).
Statistic = Callable[[Trial], Tensor]
LEVELS = (0.5, 0.8, 0.9, 0.95)
BINS = 40  # of candidates' ranks: the ends of the central intervals of 5 %, 10 %, ... are edges


@dataclass(frozen=True, eq=False)
class Ranks(Judged):
    """Where truths lie among draws: u = (rank + U) / (S + 1), uniform on [0, 1] if the sampler is exact.

    U is uniform, and a tie between the truth and some draws is broken at random, so that u is exactly uniform for
    any number of draws, for discrete quantities too.

    Args:
        name: What was ranked.
        values: u of each trial and quantity, (n, k), float64.
        names: Names of the k quantities.
        pooled: The quantities are of one kind (pixels of a field): they are judged together, their dependence inside
            a trial counted. If not, each is judged by itself and the smallest p-value adjusted for their number.
        candidates: Of pooled quantities, what `rank_truths` makes: for the truth and then each draw, in the truth's
            place, the share of the quantities whose u lies in each of 40 bins of [0, 1], averaged over U, (n, S + 1, 40);
            NaN fills up trials of fewer draws. Their p-values are exact with it, of any number of trials and any dependence,
            and 1e-5 at least. Without, they are twice the mean over quantities, which holds but sees much less.

    Raises:
        ValueError: If shapes do not fit or there are fewer than 20 trials.
    """

    name: str
    values: Tensor
    names: tuple[str, ...]
    pooled: bool = False
    candidates: Tensor | None = None

    def __post_init__(self) -> None:
        check_trials(f"Ranks({self.name})", len(self.values))
        if self.values.shape[1] != len(self.names) and not self.pooled:
            raise ValueError(f"Ranks({self.name}): {self.values.shape[1]} quantities have {len(self.names)} names")
        shape = None if self.candidates is None else tuple(self.candidates.shape)
        if shape is not None and (len(shape) != 3 or shape[0] != len(self.values) or shape[2] != BINS):
            raise ValueError(f"Ranks({self.name}): candidates have shape {shape}; wanted ({len(self.values)}, S + 1, {BINS})")

    @cached_property
    def p_values(self) -> Tensor:
        """p-value of each quantity, (k,): the probability of ranks this uneven if the sampler is exact."""
        return smooth_test(self.values)

    @property
    def p_value(self) -> float:
        """One p-value for all quantities."""
        return self._joint

    @cached_property
    def _joint(self) -> float:
        if not self._together:
            return adjusted(self.p_values)
        if self.candidates is None:
            return float(merged(self.p_values))
        middles = (torch.arange(BINS, dtype=torch.float64) + 0.5) / BINS
        return quadratic_test(self.candidates.double() @ legendre(middles))

    @property
    def _together(self) -> bool:
        return self.pooled and self.values.shape[1] > 1

    def only(self, name: str) -> Ranks:
        """The ranks of one quantity, such as a region, by its name.

        Raises:
            ValueError: If there is no such quantity.
        """
        if name not in self.names:
            raise ValueError(f"Ranks({self.name}): no quantity is called {name!r}; there are {', '.join(self.names[:20])}")
        column = self.names.index(name)
        return Ranks(f"{self.name}, {name}", self.values[:, column : column + 1], (name,))

    def ecdf(self, points: int = 50, band: float = 0.95) -> Curve:
        """Share of ranks below each of ``points`` levels, over all quantities; for TARP, expected coverage.

        Args:
            points: How many levels between 0 and 1.
            band: Probability of the pointwise band: of exact samples where there is one quantity, by bootstrap over
                the trials where there are more.
        """
        at = torch.linspace(0, 1, points + 2, dtype=torch.float64)[1:-1]
        return self._shares(at, at, (self.values <= a for a in at), band)

    def coverage(self, levels: tuple[float, ...] = LEVELS, band: float = 0.95) -> Curve:
        """Share of truths inside the central interval of each level, over all quantities.

        The interval of level c is |2 u - 1| <= c: that of `Draws.interval` where its ends are draws, and
        randomised between two draws, so that exact samples cover c exactly whatever the number of draws.

        Args:
            levels: Probabilities inside.
            band: See `ecdf`.

        Raises:
            ValueError: If a level is not between 0 and 1.
        """
        for level in levels:
            check_level("Ranks.coverage", level)
        at = torch.tensor(levels, dtype=torch.float64)
        return self._shares(at, at, ((2 * self.values - 1).abs() <= a for a in at), band)

    def coverage_p_value(self, levels: tuple[float, ...] = LEVELS) -> float:
        """p-value that all central intervals cover their level, adjusted for the number of tests.

        Exact binomial for each quantity and level. Where quantities are pooled, the share of truths inside at the level where
        it is farthest off, against those of ``candidates``; at levels between edges of their bins, shares are interpolated.

        Raises:
            ValueError: If a level is not between 0 and 1.
        """
        from scipy.stats import binomtest

        for level in levels:
            check_level("Ranks.coverage_p_value", level)
        if self._together and self.candidates is not None:
            return largest_test(self.candidates.double() @ _inside(levels))
        n, found = len(self.values), []
        for level in levels:
            counts = ((2 * self.values - 1).abs() <= level).sum(0)
            known = {count: binomtest(count, n, level).pvalue for count in set(counts.tolist())}
            p_values = torch.tensor([known[count] for count in counts.tolist()], dtype=torch.float64)
            found.append(merged(p_values) if self._together else p_values)
        return adjusted(torch.stack(found).flatten())

    def histogram(self, bins: int = 10, band: float = 0.95) -> Curve:
        """Rank histogram: share of the ranks in each of ``bins`` bins, over all quantities.

        Flat if the sampler is exact; a hump where draws spread too wide, a bowl where too narrow, a slope where
        they are biased. ``band`` as for `ecdf`.

        References:
            Hamill. Interpretation of rank histograms for verifying ensemble forecasts. 2001. Mon. Wea. Rev. 129(3).
        """
        edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64)
        which = torch.bucketize(self.values, edges[1:-1], right=True)
        flat = torch.full((bins,), 1 / bins, dtype=torch.float64)
        return self._shares((edges[1:] + edges[:-1]) / 2, flat, (which == b for b in range(bins)), band)

    def _shares(self, at: Tensor, expected: Tensor, hits: Iterable[Tensor], band: float) -> Curve:
        """Share of hits (n, k) at each place."""
        check_level("Ranks", band, "band")
        rows = torch.stack([h.double().mean(1) for h in hits], 1)
        if self.values.shape[1] == 1:
            lower, upper = binomial_band(expected, len(rows), band)
        else:
            lower, upper = bootstrap(rows, lambda means: means, band)
        return Curve(at, rows.mean(0), lower, upper, expected, band)

    def _numbers(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "trials": len(self.values),
            "histogram": self.histogram().record(),
            "ecdf": self.ecdf(19).record(),
        }
        if not self.pooled:
            found["quantities"] = dict(zip(self.names, self.p_values.tolist(), strict=True))
        return found

    def __str__(self) -> str:
        n, k = self.values.shape
        worst = ""
        if k > 1 and not self.pooled:
            worst = f", worst {self.names[int(self.p_values.argmin())]}"
        return f"{self.name}: p = {self.p_value:.3g} ({n} trials, {k} quantities{worst}): {self.verdict}"


@dataclass(frozen=True, eq=False)
class Coverage(Judged):
    """How often central intervals hold the truth.

    Args:
        name: Intervals of what.
        curve: Share of truths inside at each level, and its band: binomial for one quantity, else by bootstrap over trials.
        p_value: Of shares this far from their levels if the sampler is exact.
        trials: How many.
    """

    name: str
    curve: Curve
    p_value: float
    trials: int

    def _numbers(self) -> dict[str, Any]:
        return {"trials": self.trials, "curve": self.curve.record()}

    def __str__(self) -> str:
        pairs = zip(self.curve.at.tolist(), self.curve.values.tolist(), strict=True)
        shares = ", ".join(f"{100 * level:g} %: {100 * share:.1f}" for level, share in pairs)
        return f"{self.name}: {shares}; p = {self.p_value:.3g} ({self.trials} trials): {self.verdict}"


def coverage(ranks: Ranks, levels: tuple[float, ...] = LEVELS, *, band: float = 0.95) -> Coverage:
    """Coverage of the central intervals of what was ranked: pixels, region means, any test quantity.

    Args:
        ranks: What `sbc` or `rank_truths` gave.
        levels: Probabilities inside.

    Other arguments:
        band: Probability of the band around each share, pointwise.

    Raises:
        ValueError: If a level is not between 0 and 1.
    """
    name = f"coverage of {ranks.name.removeprefix('SBC ')}"
    return Coverage(name, ranks.coverage(levels, band), ranks.coverage_p_value(levels), len(ranks.values))


def rank_truths(
    trials: Trials,
    statistic: Statistic,
    *,
    name: str,
    names: tuple[str, ...] | None = None,
    pooled: bool = False,
    seed: int = 0,
) -> Ranks:
    """Rank the truth of every trial among its draws.

    Args:
        trials: The trials.
        statistic: Takes a trial to one number, or k of them, for each of its members, truth first: (S + 1,) or
            (S + 1, k). It may look at all members at once as long as it treats them alike.

    Other arguments:
        name: What errors and reports call it.
        names: Names of the k quantities; numbered where None.
        pooled: See `Ranks`.
        seed: Of the ties.

    Raises:
        ValueError: If there are too few trials, or the statistic has the wrong shape or values that are NaN.
    """
    g = generator(seed, "ties")
    rows, places = [], []
    for trial in trials:
        even = trial.equally_weighted()
        found = statistic(even).double()
        if found.ndim not in (1, 2) or len(found) != len(even.draws) + 1:
            raise ValueError(
                f"{name}: the statistic has shape {tuple(found.shape)}; wanted ({len(even.draws) + 1},) or "
                f"({len(even.draws) + 1}, k)"
            )
        if found.isnan().any():
            raise ValueError(f"{name}: the statistic of trial {len(rows)} is NaN")
        found = found.reshape(len(found), -1)
        rows.append(_uniforms(found, g))
        if pooled:
            places.append(_places(found))
    check_trials(name, len(rows))
    values = torch.stack(rows)
    candidates = torch.nn.utils.rnn.pad_sequence(places, batch_first=True, padding_value=torch.nan) if pooled else None
    return Ranks(name, values, names or tuple(str(i) for i in range(values.shape[1])), pooled, candidates)


def uniform_ranks(members: Tensor, seed: int = 0) -> Tensor:
    """u = (rank + U) / (S + 1) of the first of the members (S + 1, k) among the others, (k,)."""
    return _uniforms(members.double(), generator(seed, "ties"))


def _uniforms(found: Tensor, g: torch.Generator) -> Tensor:
    """u of the first of the members (M, k) among the others, (k,).

    With b members below and t tied with it, the rank is uniform on b, ..., b + t, so u is uniform on an interval.
    """
    below = (found[1:] < found[0]).sum(0)
    tied = (found[1:] == found[0]).sum(0)
    spread = torch.rand(found.shape[1], generator=g, dtype=torch.float64)
    return (below + (tied + 1) * spread) / len(found)


def _places(found: Tensor) -> Tensor:
    """Share of the k values of each of the members (M, k) whose u among the others lies in each bin, (M, BINS), float32.

    u is uniform between the number of members below and that of those not above, over M. The shares of its M steps are the
    running sum of what begins and what ends there.
    """
    m, k = found.shape
    ordered, each = found.T.contiguous().sort(1).values, found.T.contiguous()
    begins, ends = (torch.searchsorted(ordered, each, right=right) for right in (False, True))
    density = 1 / (ends - begins).double().flatten()
    rows = torch.arange(m) * (m + 1)
    steps = torch.zeros(m * (m + 1), dtype=torch.float64)
    steps.index_add_(0, (rows + begins).flatten(), density).index_add_(0, (rows + ends).flatten(), -density)
    shares = steps.reshape(m, m + 1).cumsum(1)[:, :m] / k
    edges = torch.arange(BINS + 1, dtype=torch.float64) / BINS
    below = (edges * m - torch.arange(m)[:, None]).clamp(0, 1)
    return (shares @ below.diff(dim=1)).float()


def _inside(levels: tuple[float, ...]) -> Tensor:
    """Share of each bin that lies inside the central interval of each level, (BINS, levels)."""
    edges = torch.arange(BINS + 1, dtype=torch.float64)[:, None] / BINS
    half = torch.tensor(levels, dtype=torch.float64) / 2
    return ((edges - 0.5).clamp(-half, half).diff(dim=0) * BINS).clamp(0, 1)
