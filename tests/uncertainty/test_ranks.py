"""Ranks, their tests and TARP against numpy, scipy and the definitions of sbi."""

import math

import numpy as np
import pytest
import scipy.stats
import torch

from posterior.draws import Draws, Stats
from posterior.uncertainty import (
    Ranks,
    Trial,
    Trials,
    band_energies,
    coverage,
    function,
    log_likelihood,
    pixels,
    rank_truths,
    region_means,
    sbc,
    tarp,
)
from posterior.uncertainty._statistics import bootstrap, legendre, mean_test, share_test, smooth_test
from tests.uncertainty.normal_trials import normal, plain, uniform

STATS = Stats(0, 0, 0.0, None, 0, "ok", "", "", "", {})


class TestStatistics:
    def test_polynomials_are_orthonormal(self):
        u = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
        p = legendre(u)
        torch.testing.assert_close(p.T @ p / len(u), torch.eye(4, dtype=torch.float64), atol=1e-6, rtol=0)
        assert p.mean(0).abs().max() < 1e-6

    def test_smooth_test_has_its_size_and_sees_shift_and_scale(self):
        p = smooth_test(uniform(200, 4000))
        assert float((p < 0.01).double().mean()) == pytest.approx(0.01, abs=0.006)
        assert scipy.stats.kstest(p.numpy(), "uniform").pvalue > 0.001
        z = normal(500, 200)
        for changed in (z + 0.3, z * 1.2):
            assert (smooth_test(torch.special.ndtr(changed)) < 0.01).double().mean() > 0.8

    def test_mean_test_is_students_and_hotellings(self):
        x = normal(40, 1) + 0.2
        assert mean_test(x) == pytest.approx(scipy.stats.ttest_1samp(x[:, 0].numpy(), 0).pvalue)
        x = normal(30, 3) @ normal(3, 3, seed=1) + 0.1
        mean, cov = x.numpy().mean(0), np.cov(x.numpy().T)
        t2 = 30 * mean @ np.linalg.solve(cov, mean)
        assert mean_test(x) == pytest.approx(scipy.stats.f.sf(t2 * 27 / (3 * 29), 3, 27))
        flat = torch.cat([x, torch.ones(30, 1)], 1)
        wanted = torch.tensor([0.0, 0, 0, 1])
        assert mean_test(flat, wanted) == pytest.approx(mean_test(x))
        assert mean_test(flat) == 0
        with pytest.raises(ValueError, match="wanted at least 5"):
            mean_test(normal(4, 3))

    def test_bootstrap_of_a_mean_is_its_standard_error(self):
        low, high = bootstrap(normal(400, 1), lambda m: m, 0.95, resamples=4000)
        assert float(high - low) == pytest.approx(2 * 1.96 / 20, rel=0.1)


class TestRanks:
    def test_values_are_ranks_with_ties_at_random(self):
        x = torch.tensor([2.0, 0, 1, 3, 4]).reshape(5, 1)  # above two of four
        tied = torch.tensor([1.0, 1, 1, 0, 2]).reshape(5, 1)  # tied with two, above one
        trials = Trials([Trial(v[0], v[1:]) for v in (x, tied) for _ in range(400)])
        u = rank_truths(trials, lambda t: t.members, name="x").values[:, 0]
        for part, low, high in ((u[:400], 0.4, 0.6), (u[400:], 0.2, 0.8)):
            assert low <= part.min() and part.max() <= high
            assert scipy.stats.kstest(part.numpy(), "uniform", args=(low, high - low)).pvalue > 0.01

    def test_random_ties_know_nothing_of_truths_of_the_same_seed(self):
        """The truth lies below both draws, so that u is the random part alone."""
        g = torch.Generator().manual_seed(3)
        truth = torch.rand(400, 1, generator=g, dtype=torch.float64)
        trials = Trials(Trial(t, torch.full((2, 1), 2.0, dtype=torch.float64)) for t in truth)
        u = 3 * rank_truths(trials, lambda t: t.members, name="x", seed=3).values[:, 0]
        assert abs(np.corrcoef(u, truth[:, 0])[0, 1]) < 0.2

    def test_discrete_quantities_are_uniform_too(self):
        trials = plain(2000, 5, (1,))
        ranks = sbc(trials, [function("sign", lambda x: (x[:, 0] > 0).double())])[0]
        assert scipy.stats.kstest(ranks.values[:, 0].numpy(), "uniform").pvalue > 0.01

    def test_coverage_is_exact_at_any_number_of_draws(self):
        trials = plain(1000, 4, (12,))
        ranks = sbc(trials, [pixels()])[0]
        curve = ranks.coverage((0.5, 0.9))
        torch.testing.assert_close(curve.values, curve.expected, atol=0.015, rtol=0)
        assert (curve.lower <= curve.expected).all() and (curve.expected <= curve.upper).all()
        narrow = sbc(plain(1000, 99, (12,), scale=0.7), [pixels()])[0]
        expected = 2 * scipy.stats.norm.cdf(scipy.stats.norm.ppf(0.95) * 0.7) - 1
        assert float(narrow.coverage((0.9,)).values) == pytest.approx(expected, abs=0.015)
        assert narrow.coverage_p_value() < 1e-6 < 0.01 < ranks.coverage_p_value()

    @pytest.mark.parametrize("n", [20, 100])
    def test_coverage_of_exact_samples_is_seldom_refused(self, n):
        p = torch.tensor([Ranks("x", u, ("a", "b")).coverage_p_value() for u in uniform(400, n, 2, seed=1)])
        assert (p <= 0.01).double().mean() <= 0.01 and p.min() > 1e-4

    def test_shares_that_do_not_vary_have_a_p_value(self):
        inside, outside = (Ranks("x", torch.full((20, 3), u).double(), ("a",), pooled=True) for u in (0.5, 1.0))
        assert inside.coverage_p_value((0.9,)) == pytest.approx(2 * 0.9**20)
        assert outside.coverage_p_value((0.9,)) == pytest.approx(2e-20)
        assert share_test(torch.full((20,), 0.5), 0.5) == 1

    def test_histogram_and_ecdf(self):
        ranks = Ranks("x", uniform(500, 1), ("a",))
        histogram, ecdf = ranks.histogram(5), ranks.ecdf(9)
        np.testing.assert_allclose(histogram.values, np.histogram(ranks.values, 5, (0, 1))[0] / 500)
        assert float(histogram.values.sum()) == pytest.approx(1)
        low, high = scipy.stats.binom.ppf([0.025, 0.975], 500, 0.2) / 500
        np.testing.assert_allclose((histogram.lower[0], histogram.upper[0]), (low, high))
        np.testing.assert_allclose(ecdf.values, [(ranks.values <= a).double().mean() for a in ecdf.at])
        several = Ranks("x", uniform(500, 3), ("a", "b", "c"))
        assert (several.histogram().upper > several.histogram().lower).all()
        assert several.p_value == pytest.approx(min(1, 3 * float(several.p_values.min())))
        assert "worst" in str(several)
        assert torch.equal(several.only("b").values[:, 0], several.values[:, 1])
        with pytest.raises(ValueError, match="no quantity is called 'd'; there are a, b, c"):
            several.only("d")

    def test_coverage_is_that_of_the_intervals_of_draws(self):
        """With 19 draws the 90 % interval is from the smallest to the largest, and no tie has to be broken."""
        trials = plain(50, 19, (6,), scale=0.7)
        inside = []
        for t in trials:
            lower, upper = Draws(t.draws, STATS).interval(0.9)
            inside.append(((t.truth >= lower) & (t.truth <= upper)).double().mean())
        found = coverage(sbc(trials, [pixels()])[0], (0.9,))
        assert float(found.curve.values[0]) == pytest.approx(float(torch.stack(inside).mean()), abs=1e-6)
        assert not found.passed() and found.curve.lower[0] < found.curve.values[0] < found.curve.upper[0]
        assert coverage(sbc(plain(50, 19, (6,)), [pixels()])[0]).passed()

    def test_what_does_not_fit_is_refused(self):
        with pytest.raises(ValueError, match="there are 19 trials; wanted 20"):
            sbc(plain(19))
        with pytest.raises(ValueError, match=r"statistic has shape \(3,\)"):
            rank_truths(plain(), lambda t: torch.zeros(3), name="x")
        with pytest.raises(ValueError, match="trial 0 is NaN"):
            rank_truths(plain(), lambda t: torch.full((10,), float("nan")), name="x")
        with pytest.raises(ValueError, match="log_prob was not stored"):
            sbc(plain(), [log_likelihood()])
        with pytest.raises(ValueError, match="level is 1.5"):
            sbc(plain(), [pixels()])[0].coverage((1.5,))


class TestQuantities:
    def test_pixels_of_large_events_are_thinned(self):
        trial = plain(1, 5, (6, 8))[0]
        assert torch.equal(pixels().fn(trial), trial.members.flatten(1))
        assert torch.equal(pixels(at_most=3).fn(trial), trial.members.flatten(1)[:, [0, 23, 47]])

    def test_region_means_and_band_energies(self):
        trial = plain(1, 5, (6, 8))[0]
        half = torch.arange(8) < 4
        found = region_means({"left": half, "all": torch.ones(6, 8)}).fn(trial)
        np.testing.assert_allclose(found[:, 0], trial.members[:, :, :4].numpy().mean((1, 2)))
        np.testing.assert_allclose(found[:, 1], trial.members.numpy().mean((1, 2)))
        bands = band_energies(4).fn(trial)
        np.testing.assert_allclose(bands.sum(1), trial.members.square().sum((1, 2)))
        wave = torch.cos(2 * math.pi * 3 * torch.arange(8) / 8).expand(6, 8).double()  # 3/8 cycles a pixel
        energies = band_energies(4).fn(Trial(wave, torch.stack([wave, wave])))
        assert energies[0].argmax() == 3 and energies[0, :3].sum() < 1e-9
        with pytest.raises(ValueError, match="region 'a' is empty"):
            region_means({"a": torch.zeros(8)})


class TestTarp:
    def test_is_that_of_the_paper(self):
        trials = plain(40, 200, (5,))
        point = normal(5, seed=7)
        curve = tarp(trials, lambda y: point).ecdf(9)
        nearer = [np.linalg.norm(t.draws - point, axis=1) < np.linalg.norm(t.truth - point) for t in trials]
        share = np.stack(nearer).mean(1)
        wanted = [(share < a).mean() for a in curve.at.numpy()]
        np.testing.assert_allclose(curve.values, wanted, atol=1 / 40 + 1e-9)  # one share may lie at a level

    def test_ranks_are_counts_of_nearer_draws(self):
        """The statistics of sbi's TARP and SBC (0.27): shares of draws nearer to the point, counts of draws below."""
        trials, point = plain(40, 63, (5,)), normal(5, seed=7)
        found = tarp(trials, lambda y: point).values[:, 0].numpy()
        draws, truths = (np.stack([getattr(t, k).numpy() for t in trials]) for k in ("draws", "truth"))
        distances = (np.sqrt(((x - point.numpy()) ** 2).sum(-1)) for x in (draws, truths[:, None]))
        share = (next(distances) < next(distances)).sum(1) / 63
        np.testing.assert_allclose(np.floor(64 * found) / 63, share, atol=1e-6)
        ranks = (draws < truths[:, None]).sum(1)
        (pixel_ranks,) = sbc(trials, [pixels()])
        np.testing.assert_allclose(np.floor(64 * pixel_ranks.values.numpy()), ranks, atol=1e-6)

    def test_references(self):
        trials = plain(40)
        with pytest.warns(UserWarning, match="blind to a sampler that returns the prior"):
            tarp(trials, "random")
        with pytest.raises(ValueError, match="the trials have no reference"):
            tarp(Trials(Trial(t.truth, t.draws) for t in trials))
        with pytest.raises(ValueError, match=r"reference has shape \(2,\)"):
            tarp(trials, lambda y: y[0])
        with pytest.raises(ValueError, match="reference is 'nearest'"):
            tarp(trials, "nearest")
