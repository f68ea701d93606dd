"""Proper scores, and what they say of calibration: the truth's score is one among those of the draws.

Scores compare samplers; lower is better. They also test one: with truth and draws exchangeable given the data, the
score of the truth against the draws and that of each draw, put in the truth's place, against all others are
exchangeable too, and the rank of the first is uniform, whatever the number of draws.

References:
    Gneiting, Raftery. Strictly proper scoring rules, prediction, and estimation. 2007. JASA 102(477).
    Ferro. Fair scores for ensemble forecasts. 2014. Q. J. R. Meteorol. Soc. 140(683).
    Knuppel, Kruger, Pohle. Score-based calibration testing for multivariate forecast distributions. 2022.
    arXiv:2211.16362.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from posterior.uncertainty._statistics import bootstrap
from posterior.uncertainty.findings import Judged
from posterior.uncertainty.ranks import Ranks, rank_truths
from posterior.uncertainty.trials import Trial, Trials

_BLOCK = 2**24  # values held at once
_FEW = 64  # values of an event up to which the variogram score takes all pairs
_LAGS = (1, 2, 4)

# Takes members (M, *event) to the score of each of them, in the truth's place, against all others, (M,).
Score = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Scores(Judged):
    """A score of every trial, with what it says of calibration.

    Args:
        name: Which.
        values: Score of the truth of each trial, (n,).
        ranks: Ranks of the truth's score among those of the draws.
    """

    name: str
    values: Tensor
    ranks: Ranks

    @property
    def mean(self) -> float:
        """Mean score."""
        return float(self.values.mean())

    @property
    def p_value(self) -> float:
        """That of the ranks."""
        return self.ranks.p_value

    def interval(self, band: float = 0.95) -> tuple[float, float]:
        """Bootstrap interval of the mean score, over trials."""
        low, high = bootstrap(self.values[:, None], lambda means: means, band)
        return float(low), float(high)

    def difference(self, other: Scores, band: float = 0.95) -> tuple[float, float, float]:
        """Mean of this score less another's on the same trials, and its bootstrap interval: whose is better.

        Raises:
            ValueError: If the two are different scores or of different numbers of trials.
        """
        if self.name != other.name or self.values.shape != other.values.shape:
            raise ValueError(
                f"Scores.difference: {self.name} of {len(self.values)} trials and {other.name} of {len(other.values)}; "
                "wanted the same score of the same trials"
            )
        off = self.values - other.values
        low, high = bootstrap(off[:, None], lambda means: means, band)
        return float(off.mean()), float(low), float(high)

    def _numbers(self) -> dict[str, Any]:
        low, high = self.interval()
        return {"mean": self.mean, "lower": low, "upper": high, "trials": len(self.values)}

    def __str__(self) -> str:
        low, high = self.interval()
        return f"{self.name}: {self.mean:.5g} (95 % {low:.5g} to {high:.5g}); {self.ranks}"


def crps(trials: Trials, *, seed: int = 0) -> Scores:
    """Fair continuous ranked probability score, averaged over the event; units of the event.

    mean |x_i - t| - sum_{i<j} |x_i - x_j| / (S (S - 1)): unbiased for the score of the distribution that the draws
    come from. Usual defaults divide by S^2 and favour few draws.

    One draw that lies far off by W, among S that do not, adds W / S to both terms and does not show: neither here nor in the
    fair energy score, nor in an error of the mean that is corrected for the number of draws. It shows in the spread (the
    standard deviation of the draws grows by W / sqrt(S)), so in spread over error, and in the plain error of their mean.

    Args:
        trials: With S draws each.
        seed: Breaks ties between ranks.

    References:
        Ferro. Fair scores for ensemble forecasts. 2014. Q. J. R. Meteorol. Soc. 140(683).
    """
    return score(trials, crps_members, "CRPS", seed=seed)


def energy(trials: Trials, *, seed: int = 0) -> Scores:
    """Fair energy score of the whole event, with its Euclidean norm; units of the event.

    Sees all of the joint distribution, but of a large field little more than its overall spread and bias; and not one draw
    that lies far off among others that do not, see `crps`.

    Args:
        trials: Two draws or more each.
        seed: Breaks ties between ranks.

    References:
        Gneiting, Raftery. Strictly proper scoring rules, prediction, and estimation. 2007. JASA 102(477).
    """
    return score(trials, energy_members, "energy score", seed=seed)


def variogram(trials: Trials, pairs: Tensor | None = None, *, power: float = 0.5, seed: int = 0) -> Scores:
    """Variogram score: mean over pairs of (|t_a - t_b|^p - mean_i |x_ia - x_ib|^p)^2; sees correlations.

    Not fair: it grows by the variance of the mean over draws. Compare samplers at the same number of draws.

    Args:
        trials: The trials.
        pairs: Indices (2, P) into the flattened event; by default all pairs of an event of up to 64 values, and
            else pairs 1, 2 and 4 apart along the last two axes; where both have one value, along the last two that have more.

    Other arguments:
        power: p.
        seed: Of the ties.

    References:
        Scheuerer, Hamill. Variogram-based proper scoring rules for probabilistic forecasts of multivariate
        quantities. 2015. Mon. Wea. Rev. 143(4).
    """
    chosen: dict[tuple[int, ...], Tensor] = {}

    def members(x: Tensor) -> Tensor:
        shape = tuple(x.shape[1:])
        if shape not in chosen:
            chosen[shape] = default_pairs(shape) if pairs is None else pairs
        return variogram_members(x, chosen[shape], power)

    return score(trials, members, "variogram score", seed=seed)


def score(trials: Trials, members: Score, name: str, *, seed: int = 0) -> Scores:
    """Any score that treats the draws alike.

    Args:
        trials: The trials, 20 or more.
        members: Takes members (M, *event) to the score of each, in the truth's place, against all others, (M,).
        name: What reports call it.

    Other arguments:
        seed: Of the ties.
    """
    values = []

    def statistic(trial: Trial) -> Tensor:
        found = members(trial.members)
        values.append(found[0])
        return found

    ranks = rank_truths(trials, statistic, name=f"{name} ranks", seed=seed)
    return Scores(name, torch.stack(values).double(), ranks)


def crps_members(x: Tensor) -> Tensor:
    """Fair CRPS of each member against the others, averaged over the event, (M,).

    The sum over i of |x_i - x_m| follows, for all m, from sorting and cumulative sums.
    """
    flat = x.flatten(1)
    total = torch.zeros(len(x), dtype=torch.float64)
    count = torch.arange(len(x), dtype=torch.float64)
    for block in flat.split(max(1, _BLOCK // len(x)), 1):
        values, order = block.double().T.sort(dim=1)
        running = values.cumsum(1)
        away = (2 * count + 2 - len(x)) * values + running[:, -1:] - 2 * running
        rows = torch.zeros_like(values).scatter_(1, order, away)
        total += _fair(rows).sum(0)
    return total / flat.shape[1]


def energy_members(x: Tensor) -> Tensor:
    """Fair energy score of each member against the others, (M,)."""
    flat = x.flatten(1).double()
    # Differences of squares lose half the digits and are not needed at this size.
    return _fair(torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist").sum(1))


def variogram_members(x: Tensor, pairs: Tensor, power: float = 0.5) -> Tensor:
    """Variogram score of each member against the others, averaged over ``pairs`` (2, P), (M,)."""
    flat, others = x.flatten(1).double(), len(x) - 1
    total = torch.zeros(len(x), dtype=torch.float64)
    for a, b in zip(*(p.split(max(1, _BLOCK // len(x))) for p in pairs), strict=True):
        v = (flat[:, a] - flat[:, b]).abs() ** power
        total += ((v.sum(0) - v) / others - v).square().sum(1)
    return total / pairs.shape[1]


def default_pairs(shape: tuple[int, ...]) -> Tensor:
    """The pairs of `variogram` for events of a shape, (2, P)."""
    index = torch.arange(int(torch.Size(shape).numel())).reshape(shape or (1,))
    if index.numel() < 2:
        raise ValueError(f"variogram: an event of shape {shape} has no pairs of values")
    if index.numel() <= _FEW:
        return torch.triu_indices(index.numel(), index.numel(), 1)
    index = index if max(shape[-2:]) > 1 else index.squeeze()  # a column of levels over one point
    found = []
    for axis in range(-1, -1 - min(2, index.ndim), -1):
        for lag in (lag for lag in _LAGS if lag < index.shape[axis]):
            length = index.shape[axis] - lag
            pair = (index.narrow(axis, start, length).flatten() for start in (0, lag))
            found.append(torch.stack(tuple(pair)))
    return torch.cat(found, 1)


def _fair(away: Tensor) -> Tensor:
    """Fair scores from the summed distances of each member to all others, along the last axis."""
    m = away.shape[-1]
    among_others = away.sum(-1, keepdim=True) - 2 * away
    return away / (m - 1) - among_others / (2 * (m - 1) * (m - 2))
