"""Repair: intervals and spreads made right on trials with known truth, with a guarantee for finite samples.

The half-widths of intervals are multiplied by the smallest factor for which the share of an event outside them, its
loss, is small enough on the trials. Conformal risk control makes the expected loss of a new event small; risk-
controlling prediction sets make it small with a stated confidence in the trials at hand.

References:
    Angelopoulos, Bates, Fisch, Lei, Schuster. Conformal risk control. 2022. arXiv:2208.02814.
    Bates, Angelopoulos, Lei, Malik, Jordan. Distribution-free, risk-controlling prediction sets. 2021. J. ACM 68(6).
    arXiv:2101.02703.
    Angelopoulos, Kohli, Bates, Jordan, Malik, Alshaabi, Upadhyayula, Romano. Image-to-image regression with
    distribution-free uncertainty quantification. 2022. ICML. arXiv:2202.05265.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from posterior.draws import Draws, Stats
from posterior.uncertainty._statistics import bootstrap, check_level, check_trials
from posterior.uncertainty.spread import unbiased
from posterior.uncertainty.trials import Trial, Trials

ASSUMPTION = (
    "Assumes that the new event and its data are exchangeable with the trials: the same population, operator, noise, "
    "sampler and number of draws. The guarantee is for the average over such events, not for each pixel or each "
    "event, and a shift of any of these voids it."
)


@dataclass(frozen=True, eq=False)
class IntervalRepair:
    """A factor for the half-widths of intervals, and what it guarantees.

    Args:
        method: "CRC" or "RCPS".
        level: Share of an event that the repaired interval is to contain.
        delta: For RCPS, probability that the trials at hand mislead; None for CRC.
        factor: What half-widths are multiplied by.
        nominal: Level of the interval before repair.
        trials: How many trials it rests on.
        coverage: Share inside before repair, averaged over the trials.
        quantity: What the intervals are of, a function of events (M, *event); None for the event itself.
    """

    method: str
    level: float
    delta: float | None
    factor: float
    nominal: float
    trials: int
    coverage: float
    quantity: Callable[[Tensor], Tensor] | None = None

    @property
    def guarantee(self) -> str:
        """What holds, in words."""
        share = f"at least {100 * self.level:g} % of a new event"
        if self.delta is None:
            return f"The expected share of a new event inside its interval is at least {100 * self.level:g} %."
        return f"With confidence {100 * (1 - self.delta):g} % in these trials, on average {share} lies inside its interval."

    def interval(self, draws: Draws) -> tuple[Tensor, Tensor]:
        """The repaired interval of new draws: lower and upper end."""
        x = draws if self.quantity is None else draws.map(self.quantity)
        centre, lower, upper = _parts(x, self.nominal)
        return centre - self.factor * (centre - lower), centre + self.factor * (upper - centre)

    def check(self, trials: Trials) -> RepairCheck:
        """Coverage of trials that the repair has not seen, before it and after.

        Args:
            trials: New trials, two or more.

        Raises:
            ValueError: If there are fewer than two.
        """
        check_trials("IntervalRepair.check", len(trials), 2)
        needed = [_factors(trial, self.quantity, self.nominal) for trial in trials]
        rows = torch.stack([torch.stack([(v <= f).double().mean() for f in (1.0, self.factor)]) for v in needed])
        return _checked(rows, self.level, self.nominal)

    def record(self) -> dict[str, Any]:
        """As plain numbers and words, for a JSON file."""
        names = ("method", "level", "delta", "factor", "nominal", "trials", "coverage", "guarantee")
        return {name: getattr(self, name) for name in names} | {"assumes": ASSUMPTION}

    def __str__(self) -> str:
        return (
            f"{self.method} on {self.trials} trials: half-widths of the {100 * self.nominal:g} % interval times "
            f"{self.factor:.3f} (coverage before: {100 * self.coverage:.1f} %). {self.guarantee} {ASSUMPTION}"
        )


@dataclass(frozen=True)
class RepairCheck:
    """Shares of values inside intervals of trials that a repair has not seen.

    Args:
        level: The share that the repair aims at, or more.
        nominal: Level of the interval before repair.
        trials: How many.
        before: Share inside before repair, and the ends of its 95 % bootstrap band over trials.
        after: Likewise after it.
    """

    level: float
    nominal: float
    trials: int
    before: tuple[float, float, float]
    after: tuple[float, float, float]

    def record(self) -> dict[str, Any]:
        """As plain numbers, for a JSON file."""
        return {"trials": self.trials, "nominal": self.nominal, "before": list(self.before), "after": list(self.after)}

    def __str__(self) -> str:
        shown = [f"{100 * m:.1f} % ({100 * low:.1f} to {100 * high:.1f})" for m, low, high in (self.before, self.after)]
        return (
            f"on {self.trials} other trials {shown[0]} lie inside before repair (nominal {100 * self.nominal:.3g} %), "
            f"{shown[1]} after (wanted {100 * self.level:g} %)"
        )


def conformal_risk_control(
    trials: Trials, level: float = 0.9, *, quantity: Callable[[Tensor], Tensor] | None = None, nominal: float | None = None
) -> IntervalRepair:
    """The smallest factor whose loss L satisfies (sum L_j + 1) / (n + 1) <= 1 - level: then E L <= 1 - level.

    The loss of a trial is the share of its values outside the interval; of a single quantity, this is split
    conformal prediction.

    Args:
        trials: Trials that were used for nothing else.
        level: Share to be inside.

    Other arguments:
        quantity: Intervals of what: a function of events (M, *event) to (M, k), such as region means; the event itself
            where None.
        nominal: Level of the interval that is repaired; ``level`` where None, or what the draws support.

    Raises:
        ValueError: If there are too few trials for the level (90 % takes 9), or an interval has no width while the
            truth lies outside it.
    """
    risk = _allowed(len(trials), level, None)
    return _repair("CRC", trials, level, None, risk, quantity, nominal)


def risk_controlling_sets(
    trials: Trials,
    level: float = 0.9,
    delta: float = 0.1,
    *,
    quantity: Callable[[Tensor], Tensor] | None = None,
    nominal: float | None = None,
) -> IntervalRepair:
    """The smallest factor whose Hoeffding-Bentkus upper bound on the risk is 1 - level: P(E L <= 1 - level) >= 1 - delta.

    Arguments as for `conformal_risk_control`, and

    Args:
        trials: Trials that were used for nothing else.
        level: Share to be inside.
        delta: Probability that the trials at hand mislead.

    Other arguments:
        quantity: See `conformal_risk_control`.
        nominal: See `conformal_risk_control`.

    Raises:
        ValueError: If there are too few trials for level and delta (90 % at delta 0.1 takes 22), or an interval has no
            width while the truth lies outside it.
    """
    return _repair("RCPS", trials, level, delta, _allowed(len(trials), level, delta), quantity, nominal)


def leave_one_out(
    trials: Trials,
    level: float = 0.9,
    delta: float | None = None,
    *,
    quantity: Callable[[Tensor], Tensor] | None = None,
    nominal: float | None = None,
) -> RepairCheck:
    """Coverage of each trial by intervals repaired on all others: no trial is judged by a repair that has seen it.

    It tells what a repair on n - 1 trials is worth, with all n to judge by; where there are few trials, a split into two
    parts wastes them.

    Args:
        trials: Exchangeable ones, n of them.
        level: Share of true values that intervals are to hold.
        delta: Probability of misleading trials, as for `risk_controlling_sets`; `conformal_risk_control` where None.

    Other arguments:
        quantity: See `conformal_risk_control`.
        nominal: Likewise.

    Raises:
        ValueError: If n - 1 trials are too few for the guarantee, or an interval has no width while the truth lies outside.
    """
    risk = _allowed(len(trials) - 1, level, delta)
    nominal = _nominal(trials, level, nominal)
    needed = [_factors(trial, quantity, nominal) for trial in trials]
    rows = []
    for i, mine in enumerate(needed):
        factor = _smallest_factor(needed[:i] + needed[i + 1 :], risk)
        rows.append(torch.stack([(mine <= f).double().mean() for f in (1.0, factor)]))
    return _checked(torch.stack(rows), level, nominal)


def _allowed(n: int, level: float, delta: float | None) -> float:
    """The largest mean loss over n trials with which the guarantee holds."""
    owner = "conformal_risk_control" if delta is None else "risk_controlling_sets"
    check_level(owner, level)
    alpha = 1 - level
    if delta is None:
        risk = ((n + 1) * alpha - 1) / max(n, 1)
        if risk < -1e-12:
            wanted = math.ceil(1 / alpha - 1e-9) - 1
            raise ValueError(f"{owner}: {n} trials cannot guarantee {100 * level:g} %; wanted {wanted}")
        return max(risk, 0.0)
    check_level(owner, delta, "delta")
    found = largest_risk(n, alpha, delta)
    if found is None:
        wanted = next(m for m in range(max(n, 1), 10**9) if largest_risk(m, alpha, delta) is not None)
        raise ValueError(f"{owner}: {n} trials cannot guarantee {100 * level:g} % at delta {delta:g}; wanted {wanted}")
    return found


def hoeffding_bentkus(mean: float, alpha: float, n: int) -> float:
    """p-value that the expectation of a loss in [0, 1] is above ``alpha``, from its mean over ``n`` trials.

    min(exp(-n h(mean, alpha)), e P(Bin(n, alpha) <= ceil(n mean))), h(a, b) = a log(a / b) + (1 - a) log((1 - a) / (1 - b)).
    """
    from scipy.stats import binom

    a = min(mean, alpha)
    h = (a * math.log(a / alpha) if a > 0 else 0.0) + (1 - a) * math.log((1 - a) / (1 - alpha))
    return min(math.exp(-n * h), math.e * float(binom.cdf(math.ceil(n * mean - 1e-9), n, alpha)), 1.0)


def largest_risk(n: int, alpha: float, delta: float) -> float | None:
    """The largest mean loss over ``n`` trials that shows a risk of at most ``alpha``; None if not even none does."""
    if n < 1 or hoeffding_bentkus(0.0, alpha, n) > delta:
        return None
    low, high = 0.0, alpha  # the bound grows with the mean
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if hoeffding_bentkus(middle, alpha, n) <= delta else (low, middle)
    return low


@dataclass(frozen=True, eq=False)
class SpreadRepair:
    """One factor for the spread of draws about their mean. Simple, and no guarantee.

    Args:
        factor: What deviations from the mean are multiplied by.
        lower: Lower end of its bootstrap band, over trials.
        upper: Upper end.
        trials: How many trials it rests on.
    """

    factor: float
    lower: float
    upper: float
    trials: int

    def apply(self, draws: Draws) -> Draws:
        """The draws, spread anew about their mean; a warning among their statistics says so."""
        note = f"deviations from the mean were multiplied by {self.factor:.3f}, found on {self.trials} trials"
        stats = replace(draws.stats, warnings=(*draws.stats.warnings, note))
        return replace(draws, samples=draws.mean + self.factor * (draws.samples - draws.mean), stats=stats)

    def __str__(self) -> str:
        return (
            f"spread times {self.factor:.3f} (95 % {self.lower:.3f} to {self.upper:.3f}, {self.trials} trials). "
            f"No guarantee for finite samples. {ASSUMPTION.split(' The guarantee')[0]}"
        )


def recalibrate_spread(trials: Trials) -> SpreadRepair:
    """The factor that makes the variance of draws equal the squared error of their mean, both unbiased.

    Args:
        trials: The trials, 20 or more.

    Raises:
        ValueError: If there are too few trials, the draws have no spread, or the unbiased squared error is not positive:
            draws far too wide hide it, and no factor can be told.
    """
    rows = torch.stack([torch.stack([v.mean() for v in unbiased(t.equally_weighted())]) for t in trials])
    check_trials("recalibrate_spread", len(rows))
    if not rows[:, 0].sum() > 0:
        raise ValueError("recalibrate_spread: the draws have no spread")
    if not rows[:, 1].sum() > 0:
        raise ValueError(
            f"recalibrate_spread: the squared error of the mean less its Monte-Carlo part is {float(rows[:, 1].mean()):.3g}; "
            "wanted more than 0: take more trials or more draws"
        )

    def factor(m: Tensor) -> Tensor:
        return (m[..., 1] / m[..., 0]).clamp_min(0).sqrt()

    low, high = bootstrap(rows, factor, 0.95)
    return SpreadRepair(float(factor(rows.mean(0))), float(low), float(high), len(rows))


def _repair(
    method: str,
    trials: Trials,
    level: float,
    delta: float | None,
    risk: float,
    quantity: Callable[[Tensor], Tensor] | None,
    nominal: float | None,
) -> IntervalRepair:
    nominal = _nominal(trials, level, nominal)
    needed = [_factors(trial, quantity, nominal) for trial in trials]
    inside = float(torch.stack([(v <= 1).double().mean() for v in needed]).mean())
    return IntervalRepair(method, level, delta, _smallest_factor(needed, risk), nominal, len(needed), inside, quantity)


def _nominal(trials: Trials, level: float, nominal: float | None) -> float:
    return min(level, *(_supported(trial) for trial in trials)) if nominal is None else nominal


def _smallest_factor(needed: list[Tensor], risk: float) -> float:
    """The smallest factor at which the loss, averaged over trials, is at most ``risk``."""
    values = torch.cat(needed)
    shares = torch.cat([torch.full((len(v),), 1 / (len(v) * len(needed)), dtype=torch.float64) for v in needed])
    order = values.argsort(descending=True)
    lost = shares[order].cumsum(0)  # the loss at a factor just below each of the sorted
    # The factor may fall to the first value whose loss, were it to fall below, would be more than the risk.
    first = int((lost <= risk + 1e-12).sum())
    factor = float(values[order[first]]) if first < len(order) else 0.0
    if not math.isfinite(factor):
        raise ValueError(
            "conformal repair: intervals without width have the truth outside; take more draws, or mask these values"
        )
    return factor


def _checked(rows: Tensor, level: float, nominal: float) -> RepairCheck:
    """Of shares inside before and after, (n, 2)."""
    low, high = bootstrap(rows, lambda means: means, 0.95)
    ends = [(float(m), float(a), float(b)) for m, a, b in zip(rows.mean(0), low, high, strict=True)]
    return RepairCheck(level, nominal, len(rows), ends[0], ends[1])


def _factors(trial: Trial, quantity: Callable[[Tensor], Tensor] | None, nominal: float) -> Tensor:
    """For each value, the factor at which the interval just reaches the truth, (k,)."""
    draws = Draws(trial.draws, _NO_STATS, log_weights=trial.log_weights, truth=trial.truth.to(trial.draws))
    x = draws if quantity is None else draws.map(quantity)
    centre, lower, upper = _parts(x, nominal)
    truth = x.truth
    assert truth is not None
    half = torch.where(truth >= centre, upper - centre, centre - lower)
    away = (truth - centre).abs()
    return torch.where(away == 0, 0.0, away / half).double().flatten()


def _parts(draws: Draws, nominal: float) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and interval; the mean is moved inside the interval where it lies out of it."""
    lower, upper = draws.interval(nominal)
    return draws.mean.clamp(lower, upper), lower, upper


def _supported(trial: Trial) -> float:
    """The largest level of an interval that the draws support, but for rounding."""
    worth = len(trial.draws)
    if trial.log_weights is not None:
        worth = float(1 / torch.softmax(trial.log_weights.double(), 0).square().sum())
    if worth < 1 + 1e-6:
        raise ValueError("conformal repair: all weight of a trial is on one draw, which supports no interval")
    return 1 - 2 / (worth + 1) - 1e-9


_NO_STATS = Stats(0, 0, 0.0, None, 0, "ok", "trial", "", "", {})
