"""Ranks, their tests and TARP against numpy, scipy and the definitions of sbi."""

import itertools
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
    _statistics,
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
from posterior.uncertainty._statistics import bootstrap, largest_test, legendre, quadratic_test, smooth_test
from posterior.uncertainty.ranks import _places
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

    @pytest.mark.parametrize(
        ("test", "statistic"),
        [
            (quadratic_test, lambda x: x.mean(0) @ np.linalg.solve(x.T @ x + 20 * np.eye(2), x.mean(0))),
            (largest_test, lambda x: max(x.mean(0) ** 2 / ((x**2).sum(0) + 20))),
        ],
    )
    def test_candidates_are_tried_in_the_truths_place(self, test, statistic):
        """Against all ways to pick one, of rows whose components are uncorrelated and of variance 1 as they are."""
        rows = torch.zeros(5, 3, 2, dtype=torch.float64)
        for i, shift in enumerate((0.0, 0.4, 0.8, 1.2, 1.9)):
            turns = 2 * math.pi * (torch.arange(3, dtype=torch.float64) / 3 + shift)
            rows[i] = math.sqrt(2) * torch.stack([turns.cos(), turns.sin()], 1)
        every = np.array([statistic(np.array(pick)) for pick in itertools.product(*rows.numpy())])
        wanted = np.mean(every >= statistic(rows[:, 0].numpy()) - 1e-9)
        assert 0.05 < wanted < 0.95 and test(rows) == pytest.approx(wanted, abs=0.006)
        other_units = rows @ torch.tensor([[3.0, 0], [0, 0.1]], dtype=torch.float64) + torch.arange(5)[:, None, None]
        assert test(other_units) == pytest.approx(wanted, abs=0.006)

    def test_truths_that_vary_otherwise_than_draws_about_the_same_mean_are_not_refused(self, monkeypatch):
        """As with wrong correlations, which are not for tests of pixels one by one to see."""
        monkeypatch.setattr(_statistics, "RESAMPLES", 499)
        for test in (quadratic_test, largest_test):
            found = []
            for seed in range(150):
                rows = normal(300, 6, 3, seed=seed)
                rows -= rows.mean(1, keepdim=True)
                rows[:, 0] *= 2
                rows[:, 1:] -= rows.sum(1, keepdim=True) / 5
                found.append(test(rows))
            assert (np.array(found) <= 0.01).sum() <= 6

    def test_the_order_of_trials_and_draws_is_nothing_and_neither_is_what_fills_up(self):
        rows = normal(20, 6, 3)
        rows[3, 4:] = math.nan
        p = quadratic_test(rows)
        assert quadratic_test(rows) == p and quadratic_test(rows.flip(0)) == pytest.approx(p, abs=1e-4)
        assert quadratic_test(rows[:, [0, 5, 1, 3, 4, 2]]) == pytest.approx(p, abs=1e-4)
        assert quadratic_test(torch.ones(20, 4, 2)) == largest_test(torch.ones(20, 4, 2)) == 1

    def test_bootstrap_of_a_mean_is_its_standard_error(self):
        low, high = bootstrap(normal(400, 1), lambda m: m, 0.95, resamples=4000)
        assert float(high - low) == pytest.approx(2 * 1.96 / 20, rel=0.1)

    @pytest.mark.parametrize("n", [10, 20])
    def test_bootstrap_of_few_trials_covers(self, n):
        """Plain percentiles cover 90 % at 10 trials and 93 % at 20, of 95."""
        ends = [bootstrap(x[:, None], lambda m: m, 0.95) for x in normal(1500, n)]
        covers = np.mean([float(low) <= 0 <= float(high) for low, high in ends])
        assert covers == pytest.approx(0.95, abs=0.015)


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
        assert narrow.coverage_p_value() == 1e-5 < 0.01 < ranks.coverage_p_value()  # no candidates reach as far

    @pytest.mark.parametrize("n", [20, 100])
    def test_coverage_of_exact_samples_is_seldom_refused(self, n):
        p = torch.tensor([Ranks("x", u, ("a", "b")).coverage_p_value() for u in uniform(400, n, 2, seed=1)])
        assert (p <= 0.01).double().mean() <= 0.01 and p.min() > 1e-4

    @pytest.mark.parametrize(
        ("kind", "n"),
        [
            ("one pixel in disguise", 20),
            ("one pixel in disguise", 50),
            ("skewed", 20),
            ("of few values", 20),
            ("two of their own", 20),
        ],
    )
    def test_pooled_ranks_of_exact_samples_are_seldom_refused(self, kind, n, monkeypatch):
        """Hotelling's test of means over pixels refused 18 % of exact samplers of 20 trials, Student's of shares 17 %."""
        monkeypatch.setattr(_statistics, "RESAMPLES", 499)
        found = []
        for seed in range(150):
            x = normal(n, 8, 2, seed=seed)
            if kind != "two of their own":
                x = (0.95**0.5 * x[..., :1] + 0.05**0.5 * normal(n, 8, 12, seed=1000 + seed)) * 1.5
            x = x.exp() if kind == "skewed" else x.round() if kind == "of few values" else x
            ranks = sbc(Trials(Trial(t[0], t[1:]) for t in x), [pixels()])[0]
            found.append((ranks.p_value, ranks.coverage_p_value()))
        for p in np.array(found).T:
            # Of 150 uniform ones more than 6 lie below 0.01 with probability 8e-4, and more than 20 below 0.05 with 2e-5.
            assert (p <= 0.01).sum() <= 6 and (p <= 0.05).sum() <= 20
            assert scipy.stats.kstest(p, "uniform").pvalue > 1e-3

    def test_pooled_ranks_of_others_are_refused(self):
        for scale, offset in ((0.8, 0.0), (1.3, 0.0), (1.0, 0.4)):
            ranks = sbc(plain(100, 9, (12,), scale, offset=offset), [pixels()])[0]
            assert ranks.p_value < 1e-3
            if scale != 1:
                assert ranks.coverage_p_value() < 1e-3
        assert sbc(plain(100, 99, (12,), 0.3), [pixels()])[0].p_value == 1e-5

    def test_candidates_are_the_ranks_of_each_among_the_others(self):
        x = (2 * normal(7, 50)).round()  # ties, and seven steps do not fit forty bins
        wanted = torch.zeros(7, 40, dtype=torch.float64)
        edges = torch.arange(41, dtype=torch.float64) / 40
        for i, member in enumerate(x):
            for value, column in zip(member, x.T, strict=True):
                low, high = int((column < value).sum()) / 7, int((column <= value).sum()) / 7
                wanted[i] += ((edges - low) / (high - low)).clamp(0, 1).diff() / 50
        torch.testing.assert_close(_places(x), wanted.float())
        torch.testing.assert_close(wanted.mean(0), torch.full((40,), 1 / 40, dtype=torch.float64))

    def test_pooled_ranks_of_weighted_draws_may_be_of_different_numbers(self):
        x = normal(40, 10, 5)
        weights = [torch.linspace(0, 3 * (i % 3), 9) for i in range(40)]
        ranks = sbc(Trials(Trial(t[0], t[1:], log_weights=w) for t, w in zip(x, weights, strict=True)), [pixels()])[0]
        assert ranks.candidates is not None and ranks.candidates.shape == (40, 10, 40) and ranks.candidates[1].isnan().any()
        assert ranks.passed() and ranks.coverage_p_value() > 0.01

    def test_pooled_ranks_without_candidates_take_twice_the_mean(self):
        values = uniform(50, 30)
        ranks = Ranks("x", values, ("a",), pooled=True)
        assert ranks.p_value == pytest.approx(min(1, 2 * float(smooth_test(values).mean())))
        same = Ranks("x", (values[:, :1] * 0.9).expand(-1, 30), ("a",), pooled=True)
        assert same.p_value == pytest.approx(2 * float(same.p_values[0]))
        inside = int(((2 * same.values[:, 0] - 1).abs() <= 0.9).sum())
        wanted = 2 * scipy.stats.binomtest(inside, 50, 0.9).pvalue
        assert same.coverage_p_value((0.9,)) == pytest.approx(min(1, wanted))
        with pytest.raises(ValueError, match=r"candidates have shape \(50, 3, 9\); wanted \(50, S \+ 1, 40\)"):
            Ranks("x", values, ("a",), pooled=True, candidates=torch.zeros(50, 3, 9))

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
        with pytest.raises(ValueError, match="level is 0"):
            sbc(plain(), [pixels()])[0].coverage_p_value((0,))


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
