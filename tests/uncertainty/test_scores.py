"""Scores, spread, reliability and residual checks against scoringrules, numpy and their definitions."""

import json
import math

import numpy as np
import pytest
import scipy.stats
import torch

import posterior
from posterior.draws import Draws, Stats
from posterior.uncertainty import (
    Trial,
    Trials,
    crps,
    energy,
    reliability,
    residual_check,
    sparsification,
    spread_skill,
    variogram,
)
from posterior.uncertainty.plots import residuals
from posterior.uncertainty.scores import crps_members, default_pairs, energy_members, variogram_members
from posterior.uncertainty.spread import _each_as_truth
from tests.uncertainty.normal_trials import normal, plain

STATS = Stats(0, 0, 0.0, None, 0, "ok", "", "", "", {})


class TestScores:
    def test_are_those_of_scoringrules(self):
        sr = pytest.importorskip("scoringrules")
        trials = plain(20, 9, (3, 4), scale=0.7, offset=1e3)
        truth = np.stack([t.truth.numpy().ravel() for t in trials])
        draws = np.stack([t.draws.numpy().reshape(9, -1) for t in trials])
        for estimator in ("fair", "pwm"):
            wanted = sr.crps_ensemble(truth, draws, m_axis=1, estimator=estimator, backend="numpy").mean(1)
            np.testing.assert_allclose(crps(trials).values, wanted, rtol=1e-6)
        wanted = sr.es_ensemble(truth, draws, estimator="fair", backend="numpy")
        np.testing.assert_allclose(energy(trials).values, wanted, rtol=1e-6)
        for power in (0.5, 1.0):
            wanted = sr.vs_ensemble(truth, draws, p=power, estimator="nrg", backend="numpy")
            found = variogram(trials, power=power).values * (12 * 11)  # ours is the mean over pairs
            np.testing.assert_allclose(found, wanted, rtol=1e-6)

    def test_each_member_takes_the_truths_place(self):
        x = normal(8, 3, 4)
        pairs = default_pairs((3, 4))
        for members in (crps_members, energy_members, lambda v: variogram_members(v, pairs)):
            every = members(x)
            for i in range(8):
                swapped = torch.cat([x[i : i + 1], x[:i], x[i + 1 :]])
                torch.testing.assert_close(members(swapped)[0], every[i])

    def test_fair_scores_do_not_favour_few_draws(self):
        few, many = (crps(plain(800, s, (8,), seed=s)) for s in (3, 30))
        assert few.mean == pytest.approx(1 / math.sqrt(math.pi), abs=0.03)
        assert many.mean == pytest.approx(1 / math.sqrt(math.pi), abs=0.02)
        low, high = many.interval()
        assert low < many.mean < high

    def test_difference_tells_the_better_one(self):
        good, bad = (crps(plain(300, 9, (4,), scale=s)) for s in (1.0, 2.0))
        off, low, high = bad.difference(good)
        assert low < off < high and low > 0
        with pytest.raises(ValueError, match="same score of the same trials"):
            good.difference(energy(plain(300, 9, (4,))))

    def test_pairs_of_large_events(self):
        pairs = default_pairs((2, 10, 12))
        offsets = set((pairs[1] - pairs[0]).tolist())
        assert offsets == {1, 2, 4, 12, 24, 48}
        column = default_pairs((70, 1, 1))
        assert set((column[1] - column[0]).tolist()) == {1, 2, 4} and variogram(plain(20, 5, (70, 1, 1))).mean > 0
        with pytest.raises(ValueError, match="no pairs"):
            default_pairs(())


class TestSpread:
    def test_ratio_is_unbiased_at_few_draws(self):
        found = spread_skill(plain(800, 5, (12,)))
        assert found.ratio == pytest.approx(1, abs=0.02)
        assert found.lower < 1 < found.upper and found.passed()
        assert spread_skill(plain(800, 5, (12,), scale=0.8)).ratio == pytest.approx(0.8, abs=0.02)

    def test_ratio_is_that_of_its_definition(self):
        """Fortin et al. 2014: the mean squared error of the mean of S draws holds (S + 1) / S variances."""
        trials = plain(60, 7, (12,), scale=0.8)
        draws, truths = (np.stack([getattr(t, k).numpy() for t in trials]) for k in ("draws", "truth"))
        variance = draws.var(1, ddof=1).mean()
        error = ((draws.mean(1) - truths) ** 2).mean() - variance / 7
        assert spread_skill(trials).ratio == pytest.approx(math.sqrt(variance / error), rel=1e-6)

    def test_draws_too_wide_have_no_error_left(self):
        """At six times the spread and 4 draws the squared error less variance / 4 is negative in these trials."""
        found = spread_skill(plain(20, 4, (1,), scale=6.0, seed=5))
        assert found.ratio == found.upper == math.inf and found.lower > 1
        record = json.loads(json.dumps(found.record(), allow_nan=False))
        assert record["ratio"] is None and record["upper"] is None and "spread/skill: inf" in str(found)

    def test_each_member_takes_the_truths_place(self):
        x = normal(8, 3, 4)
        variance, error = _each_as_truth(x)
        for i in range(8):
            others = np.delete(x.numpy().reshape(8, -1), i, 0)
            np.testing.assert_allclose(variance[i], others.var(0, ddof=1))
            np.testing.assert_allclose(error[i], (others.mean(0) - x[i].flatten().numpy()) ** 2)

    def test_curve_follows_the_spread(self):
        size = torch.linspace(0.5, 2, 40, dtype=torch.float64)
        trials = Trials(Trial(a[0] * size, a[1:] * size) for a in normal(200, 30, 40))
        curve = spread_skill(trials, bins=4).curve
        torch.testing.assert_close(curve.values, curve.expected, rtol=0.1, atol=0)
        assert curve.values[-1] > 2 * curve.values[0]

    def test_sparsification(self):
        size = torch.linspace(0.2, 2, 60, dtype=torch.float64)
        z = normal(100, 31, 60)
        good = sparsification(Trials(Trial(a[0] * size, a[1:] * size) for a in z))
        blind = sparsification(Trials(Trial(a[0] * size, a[1:]) for a in z))
        half = sparsification(Trials(Trial(a[0] * size, 0.5 * a[1:] * size) for a in z))
        assert good.curve.values[0] == 1 and good.curve.expected[-1] < good.curve.values[-1] < 1
        assert 0 < good.ause < 0.7 * blind.ause
        assert blind.ause == pytest.approx(blind.random, rel=0.1)
        assert good.passed() and not blind.passed()
        assert half.ause == pytest.approx(good.ause, rel=0.05)
        with pytest.raises(ValueError, match="events have 12 values"):
            sparsification(plain())

    def test_curve_is_the_error_of_what_is_left(self):
        trials = plain(20, 9, (40,))
        curve = sparsification(trials, points=10).curve
        left = np.zeros((2, 10))
        for t in trials:
            error = (t.draws.numpy().mean(0) - t.truth.numpy()) ** 2
            for row, by in enumerate((t.draws.numpy().var(0), error)):
                ordered = error[np.argsort(by)]
                left[row] += [ordered[: 40 - 4 * i].mean() for i in range(10)]
        relative = np.sqrt(left / left[:, :1])
        np.testing.assert_allclose(curve.values, relative[0], rtol=1e-6)
        np.testing.assert_allclose(curve.expected, relative[1], rtol=1e-6)


class TestReliability:
    def test_exact_draws_pass_and_the_counts_are_right(self):
        trials = plain(300, 9, (8,))
        found = reliability(trials, lambda x: x > 0.3, bins=5)
        p = np.stack([(t.draws.numpy() > 0.3).mean(0) for t in trials]).ravel()
        o = np.stack([t.truth.numpy() > 0.3 for t in trials]).ravel()
        which = np.minimum((p * 5).astype(int), 4)
        assert found.counts.tolist() == np.bincount(which, minlength=5).tolist()
        np.testing.assert_allclose(
            found.curve.values, [o[which == b].mean() if (which == b).any() else np.nan for b in range(5)]
        )
        np.testing.assert_allclose(found.brier, ((p - o) ** 2 - p * (1 - p) / 8).mean())
        assert found.passed() and "consistent" in str(found)
        assert not reliability(plain(300, 9, (8,), scale=0.5, offset=0.5), lambda x: x > 0.3).passed()

    def test_size(self):
        p = [reliability(plain(40, 5, (3,), seed=s), lambda x: x > 0, resamples=99).p_value for s in range(100)]
        assert scipy.stats.kstest(p, "uniform").pvalue > 0.005


class TestPredictive:
    def problem(self, sigma):
        import deepinv

        prior = posterior.GaussianPrior(torch.zeros(1, 40), torch.eye(40))
        y = (normal(1, 1, 40) + 0.5 * normal(1, 1, 40, seed=1)).float()
        like = posterior.GaussianLikelihood(deepinv.physics.Denoising(), y, sigma)
        return like, Draws(posterior.exact_posterior(prior, like).sample(200), STATS)

    def test_verdicts(self):
        for sigma, verdict in ((0.5, "the noise explains"), (0.05, "LARGER"), (5.0, "SMALLER")):
            like, draws = self.problem(0.5)
            check = residual_check(draws, type(like)(like.operator, like.y, sigma))
            assert verdict in str(check)
            assert check.passed() == (sigma == 0.5)
        like, draws = self.problem(0.5)
        check = residual_check(draws, like)
        chi = ((like.y - draws.samples) / 0.5).square().flatten(1).mean(1)
        torch.testing.assert_close(check.chi_square, chi, rtol=1e-5, atol=0)
        assert check.p_value == pytest.approx(scipy.stats.chi2.sf(chi.numpy() * 40, 40).mean())

    def test_weights_count(self):
        like, draws = self.problem(0.5)
        far = draws.samples.clone()
        far[100:] += 1e30
        log_weights = torch.where(torch.arange(200) < 100, 0.0, -torch.inf)
        kept = residual_check(Draws(far[:100], STATS), like)
        check = residual_check(Draws(far, STATS, log_weights=log_weights), like)
        assert check.mean == pytest.approx(kept.mean) and str(check) == str(kept)
        residuals(check)

    def test_other_noise_is_refused(self):
        like, draws = self.problem(0.5)
        with pytest.raises(TypeError, match="StudentTLikelihood; wanted a GaussianLikelihood"):
            residual_check(draws, posterior.StudentTLikelihood(like.operator, like.y, 0.5))
