"""Diagnostics against scoringrules and numpy, and on samplers whose fault is known."""

import math

import numpy as np
import pytest
import scipy.stats
import torch

import posterior
from benchmarks.diagnostics import BIMODAL_FAULTS, DIAGNOSTICS, FAULTS, GAUSSIAN_FAULTS, Toy, cannot_see, kept, main, measure
from posterior.draws import Draws, Stats
from posterior.uncertainty import (
    Ranks,
    Trial,
    Trials,
    band_energies,
    coverage,
    crps,
    energy,
    function,
    log_likelihood,
    pixels,
    rank_truths,
    region_means,
    reliability,
    residual_check,
    sbc,
    sparsification,
    spread_skill,
    tarp,
    variogram,
)
from posterior.uncertainty._statistics import bootstrap, legendre, mean_test, smooth_test
from posterior.uncertainty.scores import crps_members, default_pairs, energy_members, variogram_members
from posterior.uncertainty.spread import _each_as_truth

STATS = Stats(0, 0, 0.0, None, 0, "ok", "", "", "", {})


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def uniform(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def plain(n=30, draws=9, shape=(3, 4), scale=1.0, seed=0, offset=0.0):
    """Truths and draws of the same law, but for the draws' scale and offset."""
    x = normal(n, draws + 1, *shape, seed=seed)
    return Trials(Trial(a[0], scale * a[1:] + offset, torch.zeros(1, 2), reference=torch.zeros(shape)) for a in x)


@pytest.fixture(scope="module")
def toy():
    return Toy.make()


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

    def test_other_noise_is_refused(self):
        like, draws = self.problem(0.5)
        with pytest.raises(TypeError, match="StudentTLikelihood; wanted a GaussianLikelihood"):
            residual_check(draws, posterior.StudentTLikelihood(like.operator, like.y, 0.5))


@pytest.mark.parametrize("fault", [f for f in FAULTS if not f.startswith("exact")])
def test_faults_are_caught(toy, fault):
    """By every diagnostic that is not named as blind to them, at 500 trials; and the named ones are."""
    trials, blind = toy.trials(fault), cannot_see(fault)
    for name, diagnostic in DIAGNOSTICS.items():
        p = diagnostic(trials, 0)
        assert (p > 1e-3) if name in blind else (p < 0.01), (name, p)


@pytest.mark.parametrize("fault", [f for f in FAULTS if f.startswith("exact")])
def test_exact_samples_pass(toy, fault):
    trials = toy.trials(fault, 200)
    found = {name: d(trials, 0) for name, d in DIAGNOSTICS.items()}
    assert min(found.values()) * len(found) > 0.01, found


@pytest.mark.slow
@pytest.mark.parametrize("fault", [f for f in FAULTS if f.startswith("exact")])
def test_exact_samples_pass_in_95_of_100_repetitions(fault):
    for name, values in measure(fault, 100).items():
        assert sum(p > 0.01 for p in values) >= 95, name


def test_the_benchmark_writes_its_table(tmp_path, capsys):
    page = tmp_path / "table.md"
    main(["--repetitions", "1", "--trials", "60", "--out", str(page)])
    first = page.read_text().splitlines()
    assert len([line for line in first if line.startswith("| ")]) == 2 + len(DIAGNOSTICS)
    assert all(fault in "".join(first) for fault in (*GAUSSIAN_FAULTS, *BIMODAL_FAULTS))
    assert kept(page)["all together"][GAUSSIAN_FAULTS.index("prior only")] == "1.00"
    main(["--repetitions", "1", "--trials", "60", "--out", str(page), "--only", "reliability"])
    assert page.read_text().splitlines() == first
