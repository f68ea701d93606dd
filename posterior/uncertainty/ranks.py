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
    legendre,
    mean_test,
    share_test,
    smooth_test,
)
from posterior.uncertainty.findings import Judged
from posterior.uncertainty.trials import Trial, Trials

# Takes a trial to one number, or k of them, for the truth and then for each draw: (S + 1,) or (S + 1, k).
Statistic = Callable[[Trial], Tensor]
LEVELS = (0.5, 0.8, 0.9, 0.95)


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

    Raises:
        ValueError: If shapes do not fit or there are fewer than 20 trials.
    """

    name: str
    values: Tensor
    names: tuple[str, ...]
    pooled: bool = False

    def __post_init__(self) -> None:
        check_trials(f"Ranks({self.name})", len(self.values))
        if self.values.shape[1] != len(self.names) and not self.pooled:
            raise ValueError(f"Ranks({self.name}): {self.values.shape[1]} quantities have {len(self.names)} names")

    @cached_property
    def p_values(self) -> Tensor:
        """p-value of each quantity, (k,): the probability of ranks this uneven if the sampler is exact."""
        return smooth_test(self.values)

    @property
    def p_value(self) -> float:
        """One p-value for all quantities."""
        if self.pooled and self.values.shape[1] > 1:
            return mean_test(torch.stack([legendre(row).mean(0) for row in self.values]))
        return adjusted(self.p_values)

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

        Exact binomial for each quantity and level; where quantities are pooled, a test of the share of each trial.
        """
        from scipy.stats import binomtest

        n, k = self.values.shape
        found = []
        for level in levels:
            inside = (2 * self.values - 1).abs() <= level
            if self.pooled and k > 1:
                found.append(share_test(inside.double().mean(1), level))
            else:
                found.extend(binomtest(count, n, level).pvalue for count in inside.sum(0).tolist())
        return adjusted(torch.tensor(found, dtype=torch.float64))

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
    rows = []
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
        rows.append(_uniforms(found.reshape(len(found), -1), g))
    check_trials(name, len(rows))
    values = torch.stack(rows)
    return Ranks(name, values, names or tuple(str(i) for i in range(values.shape[1])), pooled)


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
