"""Reliability of probabilities: of the times that the draws give an event 30 %, does it happen in 30 %?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from posterior.uncertainty._statistics import Curve, check_level, check_trials, generator
from posterior.uncertainty.findings import Judged
from posterior.uncertainty.trials import Trial, Trials


@dataclass(frozen=True, eq=False)
class Reliability(Judged):
    """How often an event happened, by the probability that the draws gave it.

    Args:
        curve: ``at`` is the mean probability in each bin, values how often it happened, and the band what exact
            samples give with as many trials and draws. Bins in which nothing fell are NaN.
        counts: How many probabilities fell in each bin, (bins,).
        p_value: Of a curve this far from that of exact samples; by Monte Carlo, exact at any number of trials.
        brier: Fair Brier score: mean (p - o)^2 less p (1 - p) / (S - 1).
    """

    curve: Curve
    counts: Tensor
    p_value: float
    brier: float

    def _numbers(self) -> dict[str, Any]:
        return {"brier": self.brier, "counts": self.counts.tolist(), "curve": self.curve.record()}

    def __str__(self) -> str:
        return f"reliability: p = {self.p_value:.3g}, Brier score {self.brier:.4g}: {self.verdict}"


def reliability(
    trials: Trials,
    event: Callable[[Tensor], Tensor],
    *,
    bins: int = 10,
    band: float = 0.95,
    resamples: int = 999,
    seed: int = 0,
) -> Reliability:
    """Reliability diagram of an event such as "above a threshold".

    Even exact draws, if they are few, lie off the diagonal: a share of S draws is not the probability itself. The band
    and the p-value therefore come from putting a random draw of every trial in the truth's place, which the truth is
    exchangeable with. All pixels of a trial move together, so their dependence is counted.

    Args:
        trials: The trials, 20 or more; all with as many draws if weights are equal.
        event: Takes events (M, *event) to true and false, (M,) or (M, k).

    Other arguments:
        bins: Bins of equal width between 0 and 1.
        band: Probability of the band, pointwise.
        resamples: Of the truth's place; the smallest p-value is 1 / (resamples + 1).
        seed: Of the resamples.

    Raises:
        ValueError: If there are too few trials.

    References:
        Brocker, Smith. Increasing the reliability of reliability diagrams. 2007. Weather and Forecasting 22(3).
    """
    check_level("reliability", band, "band")
    tables = [_table(trial.equally_weighted(), event, bins) for trial in trials]
    check_trials("reliability", len(tables))
    g = generator(seed, "resamples")
    real = torch.stack([t[0] for t in tables]).sum(0)
    made = torch.zeros(resamples, *real.shape, dtype=torch.float64)
    for t in tables:
        made += t[torch.randint(len(t), (resamples,), generator=g)]
    frequencies = _frequency(made)
    centre = frequencies.nanmean(0)
    scale = (frequencies - centre).square().nanmean(0)
    distances = [_distance(x, centre, scale) for x in (real[None], made)]
    larger = int((distances[1] >= distances[0]).sum())
    tail = torch.tensor([(1 - band) / 2, (1 + band) / 2], dtype=torch.float64)
    low, high = torch.nanquantile(frequencies, tail, 0)
    at = real[1] / real[0]
    curve = Curve(at, _frequency(real), low, high, centre, band)
    return Reliability(curve, real[0].long(), (1 + larger) / (1 + resamples), float(real[3].sum() / real[0].sum()))


def _table(trial: Trial, event: Callable[[Tensor], Tensor], bins: int) -> Tensor:
    """By member in the truth's place and bin: count, sum of p, of o and of the fair Brier score, (S + 1, 4, bins)."""
    happened = event(trial.members).double().reshape(len(trial.draws) + 1, -1)
    s = len(trial.draws)
    p = (happened.sum(0) - happened) / s
    brier = (p - happened).square() - p * (1 - p) / (s - 1)
    which = (p * bins).long().clamp_max(bins - 1)
    table = torch.zeros(s + 1, 4, bins, dtype=torch.float64)
    for row, values in enumerate((torch.ones_like(p), p, happened, brier)):
        table[:, row].scatter_add_(1, which, values)
    return table


def _frequency(table: Tensor) -> Tensor:
    """How often it happened in each bin, (..., bins); NaN where nothing fell."""
    return table[..., 2, :] / table[..., 0, :]


def _distance(table: Tensor, centre: Tensor, scale: Tensor) -> Tensor:
    """Squared distance of the curves (..., 4, bins) from ``centre``, each bin in units of its variance ``scale``."""
    return ((_frequency(table) - centre).square() / scale.clamp_min(1e-12)).nansum(-1)
