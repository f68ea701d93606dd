"""The check of priors on exact ones, and on priors each wrong in one known way."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import posterior
from posterior.priors.analytic import GaussianPrior
from posterior.priors.labels import Labels
from posterior.uncertainty import check_prior, compare_fields, denoising_error, jacobian_check, memorisation
from posterior.uncertainty.prior_check import Grade
from posterior.uncertainty.prior_check.figures import fields_figure
from posterior.uncertainty.prior_check.statistics import leading_eofs

SHAPE = (1, 10, 12)


def spectrum():
    f = torch.hypot(torch.fft.fftfreq(10)[:, None], torch.fft.fftfreq(12)[None]).double()
    s = 1 / (1 + (6 * f) ** 2) ** 2
    return s / s.mean()


def law(factor=1.0):
    return GaussianPrior(torch.zeros(SHAPE, dtype=torch.float64), factor * spectrum())


def fields(n, seed, factor=1.0):
    g = torch.Generator().manual_seed(seed)
    return law(factor).reference.cov.sqrt(torch.randn(n, *SHAPE, generator=g, dtype=torch.float64))


HELD, TRAINING = fields(150, 1), fields(400, 2)
LEVELS = torch.tensor([0.1, 0.5, 1.5], dtype=torch.float64)


class Bent(posterior.Prior):
    """A denoiser changed by a function of its result."""

    def __init__(self, inner, bend):
        self.inner, self.bend = inner, bend
        self.event_shape, self.reference, self.name = inner.event_shape, inner.reference, "bent"
        self.sigma_min, self.sigma_max = inner.sigma_min, inner.sigma_max

    def denoise(self, x, sigma):
        return self.bend(self.inner.denoise(x, sigma))


def grades(check):
    return {v.check: v.grade for v in check.verdicts}


@pytest.fixture(scope="module")
def exact():
    return check_prior(law(), HELD, TRAINING, draws=200)


class TestExactPrior:
    def test_pictures_have_north_on_top(self, exact):
        height, width = SHAPE[-2:]
        coords = {"lat": np.arange(height), "lon": np.arange(width)}
        labels = Labels("t", ("channel", "lat", "lon"), coords)
        plain, mapped = (fields_figure(replace(exact, labels=x)).axes[0].images[0].get_array() for x in (None, labels))
        np.testing.assert_array_equal(mapped, plain[::-1])

    def test_every_verdict_passes(self, exact):
        assert [str(v) for v in exact.verdicts if v.grade != Grade.good] == []
        assert exact.grade == Grade.good
        assert {"denoising", "EOF spectrum", "extremes", "memorisation", "symmetry", "trust"} <= grades(exact).keys()

    def test_it_is_its_own_linear_denoiser(self, exact):
        d = exact.denoising
        torch.testing.assert_close(d.prior, d.linear["reference Gaussian"], rtol=1e-5, atol=0)
        e = spectrum()
        expected = torch.stack([(e * s**2 / (e + s**2)).mean().sqrt() for s in d.sigmas])
        torch.testing.assert_close(d.prior, expected, rtol=0.06, atol=0)
        assert (d.linear["training covariance"] > d.prior).all()  # one that was fitted knows less than the truth

    def test_training_fields_are_the_yardstick(self, exact):
        assert exact.training_statistics is not None
        first = exact.training_statistics.verdicts[0]
        assert "Training fields are off" in first.sentence
        kept = exact.to_dict()["training_verdicts"]
        assert kept[0] == {"check": "mean", "grade": str(first.grade), "sentence": first.sentence}

    def test_fewer_fields_may_be_denoised(self, exact):
        check = check_prior(law(), HELD, TRAINING, draws=4, denoising_fields=8, jacobian_fields=1, jacobian_levels=1)
        assert (check.settings["denoising_fields"], check.settings["held_out"]) == (8, len(HELD))
        wanted = denoising_error(
            law(), HELD[torch.linspace(0, len(HELD) - 1, 8).round().long()].float(), {}, check.denoising.sigmas
        )
        torch.testing.assert_close(check.denoising.prior, wanted.prior)
        assert not check.denoising.prior.allclose(exact.denoising.prior)

    def test_draws_may_have_been_made_before(self, exact, tmp_path):
        made = posterior.sample_prior(law(), draws=6, batch_size=8, dtype=torch.float32, checkpoint=tmp_path / "kept.bin")
        again = posterior.sample_prior(law(), draws=6, batch_size=8, dtype=torch.float32, checkpoint=tmp_path / "kept.bin")
        assert torch.equal(made.samples, again.samples)
        few = {"denoising_fields": 8, "jacobian_fields": 1, "jacobian_levels": 1}
        checks = [check_prior(law(), HELD, TRAINING, draws=d, **few) for d in (6, made.samples)]
        torch.testing.assert_close(checks[1].statistics.eofs.draws, checks[0].statistics.eofs.draws)
        assert checks[1].settings["draws"] == 6
        with pytest.raises(ValueError, match="draws"):
            check_prior(law(), HELD, TRAINING, draws=made.samples[..., :5], **few)

    def test_everything_is_kept(self, exact, tmp_path):
        page = exact.save(tmp_path)
        kept = json.loads((tmp_path / "check.json").read_text())
        assert kept["grade"] == "pass"
        assert len(kept["denoising"]["ratio"]) == len(kept["denoising"]["sigmas"]) == 12
        assert len(kept["verdicts"]) == len(exact.verdicts)
        text = page.read_text()
        assert all(v.sentence in text for v in exact.verdicts)
        for name in ("check.png", "check-fields.png"):
            assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")

    def test_a_mixture_is_better_than_any_gaussian(self):
        means = torch.stack([torch.ones(1, 4, 4), -torch.ones(1, 4, 4)]).double()
        prior = posterior.GaussianMixturePrior(means, torch.tensor([0.5, 0.5]).double(), 0.3)
        d = denoising_error(prior, prior.sample(200, 1), {"g": prior.reference}, torch.tensor([1.0]).double())
        assert d.upper[0] < 0.95
        j = jacobian_check(prior, prior.sample(16, 2).float(), LEVELS)
        assert j.beyond_chance.max() < 1e-2  # of a law whose grad tr J is not zero
        assert {v.grade for v in j.verdicts} == {Grade.good}


class TestWrongPriors:
    def test_half_the_variance(self):
        check = check_prior(law(0.5), HELD, TRAINING)
        found = grades(check)
        for name in ("denoising", "standard deviation", "EOF spectrum", "error covariance", "trust"):
            assert found[name] == Grade.bad, name
        assert found["symmetry"] == found["positivity"] == found["memorisation"] == Grade.good
        assert check.statistics.pooled_std[0] == pytest.approx(0.5**0.5, rel=0.05)

    def test_one_that_knows_its_training_data_by_heart(self):
        check = check_prior(posterior.EmpiricalPrior(TRAINING), HELD, TRAINING)
        found = grades(check)
        assert found["memorisation"] == found["denoising"] == found["error covariance"] == Grade.bad
        assert check.memorisation.copies > 0.95
        assert found["symmetry"] == Grade.good  # its denoiser is the exact one of a finite set

    def test_a_denoiser_that_is_no_gradient(self):
        bent = Bent(law(), lambda d: d + 0.15 * (d.roll(1, -1) - d.roll(-1, -1)))
        check = jacobian_check(bent, HELD[:8].float(), LEVELS)
        found = {v.check: v.grade for v in check.verdicts}
        assert found["symmetry"] == found["trust"] == Grade.bad
        assert found["positivity"] == Grade.good

    def test_antisymmetry_is_that_of_the_matrix(self):
        g = torch.Generator().manual_seed(4)
        a = torch.randn(12, 12, generator=g, dtype=torch.float64)
        a = a @ a.T / 12 + 0.3 * torch.randn(12, 12, generator=g, dtype=torch.float64)
        bent = Bent(posterior.GaussianPrior(torch.zeros(12).double(), torch.eye(12).double()), lambda d: d @ a.T)
        found = jacobian_check(bent, torch.randn(60, 12, generator=g, dtype=torch.float64), LEVELS[:1], probes=6, krylov=12)
        norm = torch.linalg.matrix_norm
        assert float(found.antisymmetry) == pytest.approx(float(norm(a - a.T) / norm(a + a.T)), rel=0.1)
        values = torch.linalg.eigvalsh(a + a.T)
        assert float(found.lowest) == pytest.approx(float(values[0] / values[-1]), rel=1e-3)

    def test_negative_directions_are_found(self):
        def bend(d):
            low = torch.fft.rfft2(d)
            low[..., 1:, :] *= -0.5
            return torch.fft.irfft2(low, s=d.shape[-2:])

        found = jacobian_check(Bent(law(), bend), HELD[:4].float(), LEVELS)
        assert {v.check: v.grade for v in found.verdicts}["positivity"] == Grade.bad

    def test_levels_that_belong_to_different_laws(self):
        class Drifting(Bent):
            def denoise(self, x, sigma):
                return GaussianPrior(torch.zeros(SHAPE).double(), (1 + float(sigma)) * spectrum()).denoise(x, sigma)

        found = jacobian_check(Drifting(law(), None), HELD[:8].float(), LEVELS)
        graded = {v.check: v.grade for v in found.verdicts}
        assert graded["Fokker-Planck"] == Grade.bad
        assert graded["symmetry"] == Grade.good


class TestStatistics:
    def test_eofs_of_many_and_of_few_fields_are_the_singular_vectors(self):
        for n in (40, 9):
            x = torch.randn(n, 15, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
            values, vectors = leading_eofs(x)
            _, s, vh = torch.linalg.svd(x - x.mean(0), full_matrices=False)
            k = min(n - 1, 15)
            torch.testing.assert_close(values[:k], s[:k] ** 2 / (n - 1))
            torch.testing.assert_close((vectors[:, :k] * vh[:k].T).sum(0).abs(), torch.ones(k).double())

    def test_smoother_draws_are_seen_in_spectrum_and_correlation(self):
        smooth = fields(200, 5)
        smooth = (smooth + smooth.roll(1, -1) + smooth.roll(1, -2)) / 3
        found = compare_fields(smooth, HELD, TRAINING)
        graded = {v.check: v.grade for v in found.verdicts}
        assert graded["correlation"] == Grade.bad
        assert found.spectrum.ratio[-1] < 0.6 < found.spectrum.ratio[1]

    def test_heavier_tails_are_seen_in_the_extremes(self):
        g = torch.Generator().manual_seed(6)
        scale = torch.where(torch.rand(300, 1, 1, 1, generator=g) < 0.1, 2.6, 0.65)
        found = compare_fields(scale * fields(300, 7), HELD, TRAINING)
        assert {v.check: v.grade for v in found.verdicts}["extremes"] == Grade.bad

    def test_days_that_resemble_each_other_are_no_evidence(self):
        """Twelve copies of each field: resampled alone, a few fields would look like a great many."""
        few = fields(30, 12).repeat_interleave(12, 0)
        apart, together = (compare_fields(fields(400, 9), few, TRAINING, block=b) for b in (1, 12))
        assert together.std.deviation < 0.6 * apart.std.deviation
        assert min(apart.extremes_p) < 0.01 < min(together.extremes_p)
        assert (together.std.upper - together.std.lower).mean() > 2 * (apart.std.upper - apart.std.lower).mean()

    def test_points_that_never_vary_count_for_nothing(self):
        land = torch.ones(SHAPE)
        land[..., :4] = 0
        found = compare_fields(fields(100, 10) * land, HELD * land, TRAINING * land)
        assert found.std.held_out.shape == (80,)
        assert found.pooled_std[0] == pytest.approx(1, abs=0.06)
        assert found.bias < 0.1

    def test_points_that_hardly_ever_vary_make_no_extremes(self):
        """Air around a head: a rare speck in the held-out fields, nothing in training, a shade in the draws."""
        held, training, draws = HELD.clone(), TRAINING.clone(), fields(200, 11)
        for some, value in ((held, 0.0), (training, 0.0), (draws, 1e-3)):
            some[..., :2] = value
        held[7, ..., :2] = 0.05
        for what in (draws, training):
            found = compare_fields(what, held, training)
            assert max(float(found.maxima[0].max()), -float(found.minima[0].min())) < 10
            assert {v.check: str(v.grade) for v in found.verdicts}["standard deviation"] == "pass"
            assert not found.moving[..., :2].any()

    def test_copies_are_told_from_neighbours(self):
        near = TRAINING[:50] + 0.05 * torch.randn(50, *SHAPE, generator=torch.Generator().manual_seed(0))
        found = memorisation(torch.cat([near, fields(50, 11)]), HELD, TRAINING)
        assert found.copies == pytest.approx(0.5)
        assert found.verdict.grade == Grade.bad
        torch.testing.assert_close(found.draws[:50], torch.full((50,), 0.05).double(), rtol=0.3, atol=0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda: {"held_out": HELD[:2]}, "n at least 4"),
        (lambda: {"held_out": HELD[..., :5]}, r"wanted \(1, 10, 12\)"),
        (lambda: {"held_out": HELD * torch.nan}, "not finite"),
        (lambda: {"training": TRAINING[:1]}, "n at least 4"),
        (lambda: {"block": 100}, "no two blocks of 100"),
        (lambda: {"dates": (["2009-01-01"], None)}, "1 dates for 150 fields"),
    ],
)
def test_what_is_refused(change, words):
    arguments = {"held_out": HELD, "training": TRAINING} | change()
    with pytest.raises(ValueError, match=words):
        check_prior(law(), draws=4, **arguments)
