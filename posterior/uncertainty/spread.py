"""Does the spread tell the error? Spread-skill, sparsification, and reliability of probabilities."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from posterior.uncertainty._statistics import Curve, bootstrap, check_trials
from posterior.uncertainty.findings import Judged
from posterior.uncertainty.ranks import Ranks, rank_truths
from posterior.uncertainty.trials import Trial, Trials


@dataclass(frozen=True, eq=False)
class SpreadSkill(Judged):
    """Spread of the draws against the error of their mean.

    Args:
        ratio: sqrt(mean variance / mean squared error), both unbiased: 1 if calibrated, below 1 if overconfident,
            infinite where the unbiased squared error is not positive (draws far too wide, or trials too few).
        lower: Lower end of the bootstrap band of the ratio, over trials.
        upper: Upper end.
        curve: Values are the root-mean-square error, and expected the root-mean-square spread, of each tenth of all
            pixels (each pixel, where there are fewer than ten) in order of their spread; ``at`` the share of pixels with
            less spread. Biased down a little at few draws, where the spread's own noise sorts the pixels.
        ranks: Ranks of (error^2 - variance) of the truth among those of the draws; they carry the p-value.
        band: Probability of the bands.
    """

    ratio: float
    lower: float
    upper: float
    curve: Curve
    ranks: Ranks
    band: float

    @property
    def p_value(self) -> float:
        """Of ranks this uneven if the sampler is exact."""
        return self.ranks.p_value

    def _numbers(self) -> dict[str, Any]:
        numbers = {"ratio": self.ratio, "lower": self.lower, "upper": self.upper}
        finite = {name: value if math.isfinite(value) else None for name, value in numbers.items()}
        return finite | {"curve": self.curve.record()}

    def __str__(self) -> str:
        return f"spread/skill: {self.ratio:.3f} (95 % {self.lower:.3f} to {self.upper:.3f}); {self.ranks}"


def spread_skill(trials: Trials, *, bins: int = 10, band: float = 0.95, seed: int = 0) -> SpreadSkill:
    """Unbiased ratio of spread to error.

    The mean of S draws is off by its own Monte-Carlo error too: E (mean - t)^2 = var (1 + 1/S). The mean squared error
    is therefore taken less var / S, and both are averaged over trials and pixels before the ratio and the root.

    Args:
        trials: The trials, 20 or more.

    Other arguments:
        bins: Points of the curve; as many as an event has values where it has fewer.
        band: Probability of the bands.
        seed: Of the ties.

    References:
        Fortin, Abaza, Anctil, Turcotte. Why should ensemble spread match the RMSE of the ensemble mean? 2014.
        J. Hydrometeorol. 15(4).
    """
    rows, binned = [], []
    for trial in trials:
        variance, error = unbiased(trial.equally_weighted())
        rows.append(torch.stack([variance.mean(), error.mean()]))
        parts = variance.argsort().tensor_split(min(bins, len(variance)))
        binned.append(torch.stack([torch.stack([v[i].mean() for i in parts]) for v in (variance, error)]))
    check_trials("spread_skill", len(rows))
    table, means = torch.stack(rows), torch.stack(rows).mean(0)
    ratio = float(spread_over_error(*means))
    low, high = bootstrap(table, lambda m: spread_over_error(*m.unbind(-1)), band)
    low, high = (end.nan_to_num(torch.inf, torch.inf) for end in (low, high))  # between two that are infinite
    ranks = rank_truths(trials, _excess, name="spread-skill ranks", seed=seed)
    return SpreadSkill(ratio, float(low), float(high), _by_spread(torch.stack(binned), band), ranks, band)


def unbiased(trial: Trial) -> tuple[Tensor, Tensor]:
    """Variance of the draws and squared error of their mean, both unbiased, flattened (d,), float64."""
    draws = trial.draws.double().flatten(1)
    variance = draws.var(0)
    return variance, (draws.mean(0) - trial.truth.double().flatten()).square() - variance / len(draws)


def spread_over_error(variance: Tensor, error: Tensor) -> Tensor:
    """Root of variance over squared error; infinite where the error, unbiased, is not positive."""
    return torch.where(error > 0, variance / error, torch.inf).sqrt()


def _excess(trial: Trial) -> Tensor:
    """Mean squared error less mean variance, each member in the truth's place, (S + 1,)."""
    variance, error = _each_as_truth(trial.members)
    return (error - variance).mean(1)


def _each_as_truth(members: Tensor) -> tuple[Tensor, Tensor]:
    """Variance of the others and squared error of their mean, with each member in the truth's place, both (M, d).

    Without member i the mean, here 0, moves by -x_i / (M - 1), and the sum of squares loses x_i^2 M / (M - 1).
    """
    x, m = members.double().flatten(1), len(members)
    squares = (x - x.mean(0)).square()
    variance = (squares.sum(0) - squares * (m / (m - 1))) / (m - 2)
    return variance, squares * (m / (m - 1)) ** 2


def _by_spread(binned: Tensor, band: float) -> Curve:
    """Curve of trials (n, 2, bins) of variances and squared errors."""
    bins = binned.shape[2]
    expected, values = binned.mean(0).clamp_min(0).sqrt()
    low, high = bootstrap(binned[:, 1], lambda m: m.clamp_min(0).sqrt(), band)
    at = (torch.arange(bins, dtype=torch.float64) + 0.5) / bins
    return Curve(at, values, low, high, expected, band)


@dataclass(frozen=True, eq=False)
class Sparsification(Judged):
    """Error of what is left as the most uncertain pixels are taken out.

    Args:
        curve: Root-mean-square error of the rest over that of all, at each share taken out, by predicted spread; the
            band is a bootstrap's, over trials; expected is the oracle, by the error itself.
        ause: Area between the two, 0 if the spread orders the errors perfectly.
        random: The area if pixels are taken out at random.
        ranks: Ranks of the truth's area among those of the draws: they tell whether it is as exact samples have it.
    """

    curve: Curve
    ause: float
    random: float
    ranks: Ranks

    @property
    def p_value(self) -> float:
        """Of ranks this uneven if the sampler is exact."""
        return self.ranks.p_value

    def _numbers(self) -> dict[str, Any]:
        return {"ause": self.ause, "random": self.random, "curve": self.curve.record()}

    def __str__(self) -> str:
        return f"sparsification: AUSE {self.ause:.4f} (random order {self.random:.4f}); {self.ranks}"


def sparsification(trials: Trials, *, points: int = 20, band: float = 0.95, seed: int = 0) -> Sparsification:
    """Does the spread order the errors within an event? That is all it asks: half the spread has the same curve.

    Args:
        trials: The trials, 20 or more, of events of ``points`` values or more.

    Other arguments:
        points: Shares taken out, from 0 upwards in steps of 1 / points.
        band: Probability of the band.
        seed: Of the ties.

    Raises:
        ValueError: If there are too few trials, or an event has fewer values than ``points``.

    References:
        Ilg, Cicek, Galesso, Klein, Makansi, Hutter, Brox. Uncertainty estimates and multi-hypotheses networks for
        optical flow. 2018. ECCV. arXiv:1802.07095.
    """
    by_spread, by_error = [], []
    for trial in trials:
        even = trial.equally_weighted()
        if even.truth.numel() < points:
            raise ValueError(f"sparsification: events have {even.truth.numel()} values; wanted {points} or more")
        draws = even.draws.double().flatten(1)
        error = (draws.mean(0) - even.truth.double().flatten()).square()
        by_spread.append(_left(error, draws.var(0), points))
        by_error.append(_left(error, error, points))
    check_trials("sparsification", len(by_spread))
    table, oracle = torch.stack(by_spread), torch.stack(by_error)
    values, expected = _relative(table.mean(0)), _relative(oracle.mean(0))
    low, high = bootstrap(table, _relative, band)
    at = torch.arange(points, dtype=torch.float64) / points

    def area(trial: Trial) -> Tensor:
        spread, wrong = _each_as_truth(trial.members)
        return (_relative(_left(wrong, spread, points)) - _relative(_left(wrong, wrong, points))).mean(1)

    ranks = rank_truths(trials, area, name="sparsification ranks", seed=seed)
    curve = Curve(at, values, low, high, expected, band)
    return Sparsification(curve, float((values - expected).mean()), float((1 - expected).mean()), ranks)


def ause(trial: Trial, points: int = 20) -> float:
    """Area between the sparsification curve of one trial and its oracle's; see `sparsification`, which pools trials.

    Args:
        trial: An event of ``points`` values or more.
        points: Shares taken out.
    """
    draws = trial.equally_weighted().draws.double().flatten(1)
    error = (draws.mean(0) - trial.truth.double().flatten()).square()
    by_spread, by_error = (_relative(_left(error, by, points)) for by in (draws.var(0), error))
    return float((by_spread - by_error).mean())


def _left(error: Tensor, by: Tensor, points: int) -> Tensor:
    """Mean squared error of what is left as the shares 0, 1/points, ... with the largest ``by`` are taken out."""
    d = error.shape[-1]
    kept = torch.tensor([round(d * (1 - i / points)) for i in range(points)]).clamp_min(1)
    return error.gather(-1, by.argsort(-1)).cumsum(-1)[..., kept - 1] / kept


def _relative(left: Tensor) -> Tensor:
    """Root-mean-square errors over that of all pixels."""
    return (left / left[..., :1].clamp_min(1e-300)).sqrt()
