"""Repair: the guarantees hold on problems whose spread is wrong, and the factors are those of their definitions."""

import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import torch

from posterior.draws import Draws, Stats
from posterior.uncertainty import (
    Trial,
    Trials,
    conformal_risk_control,
    leave_one_out,
    recalibrate_spread,
    risk_controlling_sets,
)
from posterior.uncertainty.conformal import ASSUMPTION, hoeffding_bentkus, largest_risk
from tests.uncertainty.normal_trials import normal, plain

STATS = Stats(0, 0, 0.0, None, 0, "ok", "", "", "", {})


def make_trials(n, scale=0.6, draws=39, pixels=20, seed=0):
    """Draws with ``scale`` times the right spread; each trial has a common factor, so that losses differ."""
    z = normal(n, draws + 1, pixels, seed=seed)
    size = normal(n, 1, 1, seed=seed + 1).mul(0.3).exp()
    return Trials(Trial(a[0] * s, scale * a[1:] * s.sqrt()) for a, s in zip(z, size[:, 0], strict=True))


def loss(repair, trial):
    lower, upper = repair.interval(Draws(trial.draws, STATS))
    return float(((trial.truth < lower) | (trial.truth > upper)).double().mean())


class TestFactor:
    def test_is_the_smallest_whose_risk_is_low_enough(self):
        trials = make_trials(60)
        for repair, risk in (
            (conformal_risk_control(trials, 0.9), (61 * 0.1 - 1) / 60),
            (risk_controlling_sets(trials, 0.9, 0.1), largest_risk(60, 0.1, 0.1)),
        ):
            at = np.mean([loss(repair, t) for t in trials])
            object.__setattr__(repair, "factor", repair.factor * (1 - 1e-9))
            below = np.mean([loss(repair, t) for t in trials])
            assert at <= risk < below

    def test_before_repair_the_coverage_is_that_of_the_interval(self):
        trials = make_trials(60)
        repair = conformal_risk_control(trials, 0.9)
        assert repair.nominal == pytest.approx(0.9)
        object.__setattr__(repair, "factor", 1.0)
        assert 1 - np.mean([loss(repair, t) for t in trials]) == pytest.approx(repair.coverage, abs=1e-9)
        draws = Draws(trials[0].draws, STATS)
        for mine, theirs in zip(repair.interval(draws), draws.interval(0.9), strict=True):
            torch.testing.assert_close(mine, theirs)

    def test_of_one_quantity_it_is_split_conformal(self):
        trials = make_trials(49)
        repair = conformal_risk_control(trials, 0.9, quantity=lambda x: x.mean(1, keepdim=True))
        assert sum(loss_of_mean(repair, t) for t in trials) == 4  # the 45th smallest of 49 reaches its truth

    def test_few_draws_take_what_interval_they_support(self):
        repair = conformal_risk_control(make_trials(40, draws=5), 0.9)
        assert repair.nominal == pytest.approx(2 / 3, abs=1e-6) and repair.factor > 1


def means(x):
    return torch.stack([x[:, :4].mean(1), x[:, 4:].mean(1)], 1)


def loss_of_mean(repair, trial):
    lower, upper = repair.interval(Draws(trial.draws, STATS))
    return not float(lower) <= float(trial.truth.mean()) <= float(upper)


class TestBound:
    def test_is_hoeffdings_and_bentkus(self):
        for mean, alpha, n in ((0.0, 0.1, 50), (0.05, 0.1, 200), (0.12, 0.1, 30)):
            a = min(mean, alpha)
            kl = sum(p * math.log(p / q) for p, q in ((a, alpha), (1 - a, 1 - alpha)) if p)
            bentkus = math.e * scipy.stats.binom.cdf(math.ceil(n * mean), n, alpha)
            assert hoeffding_bentkus(mean, alpha, n) == pytest.approx(min(math.exp(-n * kl), bentkus, 1))

    def test_largest_risk(self):
        risk = largest_risk(200, 0.1, 0.1)
        assert hoeffding_bentkus(risk, 0.1, 200) <= 0.1 < hoeffding_bentkus(risk + 1e-6, 0.1, 200)
        assert largest_risk(21, 0.1, 0.1) is None and largest_risk(22, 0.1, 0.1) is not None
        assert largest_risk(10**5, 0.1, 0.1) == pytest.approx(0.1, abs=0.002)

    @pytest.mark.parametrize("level", [0.8, 0.95])
    def test_it_is_a_bound(self, level):
        """For Bernoulli losses of a risk just above alpha, at most delta of the samples show less."""
        alpha, n, delta = 1 - level, 80, 0.1
        risk = largest_risk(n, alpha, delta)
        assert scipy.stats.binom.cdf(math.floor(n * risk + 1e-9), n, alpha) <= delta


class TestGuarantee:
    def test_on_average_over_trials_the_loss_is_controlled(self):
        every = list(make_trials(3000, pixels=8, draws=19))
        found = []
        for k in range(100):
            here, other = every[30 * k : 30 * k + 25], every[30 * k + 25 : 30 * k + 30]
            repair = conformal_risk_control(Trials(here), 0.8)
            found += [loss(repair, t) for t in other]
        found = np.array(found)
        error = found.std() / math.sqrt(len(found))
        assert 0.2 - 1 / 26 - 4 * error < found.mean() < 0.2 + 2 * error

    def test_with_confidence_the_risk_is_controlled(self):
        new = list(make_trials(200, pixels=8, draws=19, seed=1000))
        misled = 0
        for k in range(40):
            repair = risk_controlling_sets(make_trials(30, pixels=8, draws=19, seed=2 * k), 0.8, 0.2)
            misled += np.mean([loss(repair, t) for t in new]) > 0.2
        assert misled <= scipy.stats.binom.ppf(0.999, 40, 0.2)

    def test_is_printed_with_what_it_assumes(self):
        trials = make_trials(40)
        crc, rcps = conformal_risk_control(trials), risk_controlling_sets(trials)
        for repair in (crc, rcps):
            assert ASSUMPTION in str(repair) and "exchangeable" in str(repair) and "at least 90 %" in str(repair)
        assert "confidence 90 % in these trials" in str(rcps)
        assert crc.factor < rcps.factor

    def test_of_regions_too(self):
        """Two correlated means of blocks of pixels, repaired and judged like pixels."""
        every = list(make_trials(2000, pixels=8, draws=19, seed=40))
        found = []
        for k in range(80):
            here, other = every[25 * k : 25 * k + 20], every[25 * k + 20 : 25 * k + 25]
            repair = conformal_risk_control(Trials(here), 0.8, quantity=means)
            found.append(repair.check(Trials(other)).after[0])
        error = np.std(found) / math.sqrt(len(found))
        assert 0.8 - 2 * error < np.mean(found) < 0.8 + 1 / 21 + 4 * error

    def test_leave_one_out_is_a_repair_for_each_trial(self):
        trials = make_trials(30)
        found = leave_one_out(trials, 0.9)
        inside = []
        for i in range(30):
            others = Trials(t for j, t in enumerate(trials) if j != i)
            inside.append(1 - loss(conformal_risk_control(others, 0.9), trials[i]))
        assert found.after[0] == pytest.approx(np.mean(inside)) and found.trials == 30
        assert found.before[0] < found.after[0] and found.after[1] <= found.after[0] <= found.after[2]
        assert leave_one_out(make_trials(60), 0.9, 0.1).after[0] > 0.9
        with pytest.raises(ValueError, match="8 trials cannot guarantee 90 %; wanted 9"):
            leave_one_out(make_trials(9), 0.9)


class TestRefusals:
    def test_too_few_trials(self):
        assert conformal_risk_control(make_trials(9), 0.9).trials == 9
        with pytest.raises(ValueError, match="8 trials cannot guarantee 90 %; wanted 9"):
            conformal_risk_control(make_trials(8), 0.9)
        with pytest.raises(ValueError, match="20 trials cannot guarantee 90 % at delta 0.1; wanted 22"):
            risk_controlling_sets(make_trials(20), 0.9, 0.1)
        with pytest.raises(ValueError, match="delta is 0"):
            risk_controlling_sets(make_trials(20), 0.9, 0)

    def test_weight_on_one_draw(self):
        alone = torch.tensor([0.0] + 8 * [-torch.inf])
        trials = Trials([replace(t, log_weights=alone) for t in plain(10)])
        with pytest.raises(ValueError, match="all weight of a trial is on one draw"):
            conformal_risk_control(trials)

    def test_intervals_without_width(self):
        trials = Trials(Trial(torch.ones(3), torch.zeros(19, 3)) for _ in range(30))
        with pytest.raises(ValueError, match="without width"):
            conformal_risk_control(trials)
        right = Trials(Trial(torch.zeros(3), torch.zeros(19, 3)) for _ in range(30))
        assert conformal_risk_control(right).factor == 0


class TestSpread:
    def test_factor_puts_the_spread_right(self):
        trials = Trials(Trial(a[0], 0.6 * a[1:]) for a in normal(500, 12, 10))
        repair = recalibrate_spread(trials)
        assert repair.factor == pytest.approx(1 / 0.6, rel=0.03)
        assert repair.lower < 1 / 0.6 < repair.upper
        draws = Draws(trials[0].draws, STATS)
        repaired = repair.apply(draws)
        torch.testing.assert_close(repaired.mean, draws.mean)
        torch.testing.assert_close(repaired.std, repair.factor * draws.std)
        assert "multiplied by 1.6" in repaired.stats.warnings[0] and not draws.stats.warnings
        assert "No guarantee" in str(repair)

    def test_what_does_not_fit_is_refused(self):
        with pytest.raises(ValueError, match="wanted 20"):
            recalibrate_spread(make_trials(5))
        with pytest.raises(ValueError, match="less its Monte-Carlo part is -.*wanted more than 0"):
            recalibrate_spread(plain(20, 4, (1,), scale=6.0, seed=5))
        with pytest.raises(ValueError, match="no spread"):
            recalibrate_spread(Trials(Trial(torch.ones(3), torch.zeros(19, 3)) for _ in range(30)))
