"""The container of trials, and the driver that fills it."""

import threading
from functools import partial

import pytest
import torch
from safetensors.torch import save_file

import posterior
from posterior.exact import exact_posterior
from posterior.uncertainty import Trial, Trials, calibrate, gaussian_experiment, log_likelihood, sbc
from tests.uncertainty.normal_trials import normal


def make_trial(seed=0, **changes):
    x = normal(7, 3, seed=seed)
    return Trial(x[0], x[1:], **changes)


def same(a, b):
    names = ("truth", "draws", "y", "log_weights", "reference", "log_prob", "chi_square")
    pairs = [(getattr(a, n), getattr(b, n)) for n in names]
    return all((p is None and q is None) or (p is not None and torch.equal(p, q)) for p, q in pairs)


class TestTrial:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"draws": torch.zeros(5, 4)}, r"draws have shape \(5, 4\).*the truth's shape \(3,\)"),
            ({"draws": torch.zeros(1, 3)}, "two draws or more"),
            ({"truth": torch.full((3,), float("nan"))}, "not finite"),
            ({"log_prob": torch.zeros(6)}, r"log_prob has shape \(6,\); wanted \(7,\)"),
            ({"reference": torch.zeros(4)}, r"reference has shape \(4,\)"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, changes, message):
        with pytest.raises(ValueError, match=message):
            Trial(**({"truth": torch.zeros(3), "draws": torch.zeros(6, 3)} | changes))

    def test_weighted_draws_are_resampled(self):
        times = torch.tensor([3, 0, 1, 2, 0, 2])
        trial = make_trial(log_weights=times.double().log(), log_prob=torch.arange(7.0), chi_square=torch.arange(7.0))
        even = trial.equally_weighted()
        worth = int(8**2 / (9 + 1 + 4 + 4))
        assert len(even.draws) == worth and even.log_weights is None
        assert torch.equal(even.draws, trial.draws[even.log_prob[1:].long() - 1])
        assert even.log_prob[0] == 0 and len(even.chi_square) == worth + 1
        assert not {1, 4} & set((even.log_prob[1:].long() - 1).tolist())
        assert make_trial().equally_weighted().log_weights is None
        equal = make_trial(log_weights=torch.full((6,), -3.0)).equally_weighted()
        assert torch.equal(equal.draws, make_trial().draws)

    def test_of_large_sample_resampling_keeps_the_law(self):
        x = normal(20_001, 1)
        trial = Trial(x[0], x[1:], log_weights=-0.5 * 3 * x[1:, 0] ** 2)
        assert float(trial.equally_weighted().draws.std()) == pytest.approx(0.5, abs=0.02)


class TestTrials:
    def test_a_folder_keeps_what_memory_keeps(self, tmp_path):
        y = torch.complex(normal(1, 4, dtype=torch.float32), normal(1, 4, seed=1, dtype=torch.float32))
        full = {"log_weights": normal(6), "reference": normal(3), "log_prob": normal(7), "chi_square": normal(7)}
        every = [make_trial(0), make_trial(1, y=y, **full), make_trial(2, y=torch.zeros(1, 2))]
        memory, folder = Trials(every), Trials(every, tmp_path)
        assert len(folder) == len(memory) == 3
        assert all(same(a, b) for a, b in zip(folder, every, strict=True))
        assert same(folder[-1], every[-1]) and same(memory[1], every[1])
        again = Trials(folder=tmp_path)
        again.append(make_trial(3))
        assert [p.name for p in again.paths] == [f"trial-{i:06d}.safetensors" for i in range(4)]
        assert len(folder) == 4
        assert "4 in " in repr(folder) and "in memory" in repr(memory)
        first, rest = folder.split(1)
        assert (len(first), len(rest)) == (1, 3) and same(rest[0], every[1])
        with pytest.raises(ValueError, match="wanted 1 to 3"):
            folder.split(4)

    def test_a_folder_keeps_conjugated_views(self, tmp_path):
        y = torch.complex(normal(1, 4), normal(1, 4, seed=1)).conj()
        kept = Trials([Trial(torch.zeros(2), torch.ones(3, 2), y)], tmp_path)
        assert torch.equal(kept[0].y, y)

    def test_a_view_shows_each_trial_through_a_function(self):
        every = [make_trial(i) for i in range(3)]
        seen = Trials(every).map(lambda t: Trial(t.truth[:2], t.draws[:, :2]))
        assert len(seen) == 3 and torch.equal(seen[1].draws, every[1].draws[:, :2])
        assert [tuple(t.truth.shape) for t in seen] == [(2,)] * 3
        first, rest = seen.split(1)
        assert (len(first), len(rest)) == (1, 2)
        with pytest.raises(TypeError, match="are a view"):
            seen.append(every[0])

    def test_what_cannot_be_read(self, tmp_path):
        with pytest.raises(ValueError, match="is not a folder"):
            Trials(folder=tmp_path / "none")
        (tmp_path / "trial-000000.safetensors").write_text("hello")
        with pytest.raises(ValueError, match="trial-000000.safetensors holds no trial"):
            Trials(folder=tmp_path)[0]
        save_file({"other": torch.zeros(2)}, tmp_path / "trial-000000.safetensors")
        with pytest.raises(ValueError, match="holds no trial"):
            list(Trials(folder=tmp_path))


def gaussian_problem(n=6):
    import deepinv

    cov = 0.7 ** (torch.arange(n)[:, None] - torch.arange(n)).abs().double()
    mask = (torch.arange(n) % 2 == 0).float()[None]
    prior = posterior.GaussianPrior(torch.zeros(1, n, dtype=torch.float64), cov, units="K")
    return prior, gaussian_experiment(deepinv.physics.Inpainting((1, n), mask=mask), 0.3)


class Stopped(Exception):
    """What a run ends with half-way."""


class TestCalibrate:
    def test_exact_draws_pass(self):
        prior, experiment = gaussian_problem()
        trials = calibrate(
            prior, experiment, lambda like, n, seed: exact_posterior(prior, like).sample(n, seed), trials=150, draws=19
        )
        assert len(trials) == 150
        for ranks in sbc(trials):
            assert ranks.passed(), str(ranks)
        names = ["SBC pixels", "SBC extremes", "SBC log-likelihood", "SBC residual chi-square"]
        assert [r.name for r in sbc(trials)] == names

    def test_truths_data_and_what_is_stored(self):
        prior, experiment = gaussian_problem()
        truths = normal(3, 1, 6)
        (trial,) = calibrate(
            prior, experiment, lambda like, n, seed: normal(n, 1, 6, seed=seed), trials=1, draws=4, truths=truths
        )
        assert torch.equal(trial.truth, truths[0])
        seen = torch.arange(6) % 2 == 0
        assert (trial.y[0, 0, ~seen] == 0).all() and (trial.y[0, 0, seen] != trial.truth[0, seen].float()).all()
        assert torch.equal(trial.reference, trial.y[0])
        chi = ((trial.y[0, 0, seen] - trial.members[:, 0, seen]) / 0.3).square()
        torch.testing.assert_close(trial.chi_square, chi.mean(1), rtol=1e-5, atol=0)
        torch.testing.assert_close(trial.log_prob.diff(), -0.5 * chi.sum(1).diff(), rtol=1e-5, atol=1e-5)
        assert trial.log_prob.shape == (5,)
        assert trial.cost[:2].isnan().all() and trial.cost[2] >= 0
        assert torch.isfinite(log_likelihood().fn(trial)).all()

    def test_a_run_that_was_stopped_goes_on(self, tmp_path):
        prior, experiment = gaussian_problem()
        sampler = posterior.MMPS(steps=4)
        settings = {"draws": 4, "seed": 5, "batch_size": 4}
        whole = calibrate(prior, experiment, sampler, trials=4, **settings)

        def stop(done, total):
            assert total == 4
            if done == 2:
                raise Stopped

        with pytest.raises(Stopped):
            calibrate(prior, experiment, sampler, trials=4, folder=tmp_path, progress=stop, **settings)
        kept = [p.stat().st_mtime_ns for p in Trials(folder=tmp_path).paths]
        assert len(kept) == 2
        for k in (1, 0):
            calibrate(prior, experiment, sampler, trials=4, folder=tmp_path, shard=(k, 2), **settings)
        found = Trials(folder=tmp_path)
        assert [p.stat().st_mtime_ns for p in found.paths][:2] == kept
        assert len(found) == 4 and all(same(a, b) for a, b in zip(whole, found, strict=True))
        with pytest.raises(posterior.SamplingError, match="another run"):
            calibrate(prior, experiment, posterior.MMPS(steps=5), trials=4, folder=tmp_path, **settings)

    @pytest.mark.parametrize("changed", ["truths", "partial", "object", "method", "reference"])
    def test_trials_of_another_run_are_refused(self, changed, tmp_path):
        prior, experiment = gaussian_problem()

        class Scaled:
            def __init__(self, scale):
                self.scale, self.calls = scale, 0

            def __call__(self, like, n, seed):
                self.calls += 1
                return self.scale * normal(n, 1, 6, seed=seed)

        def run(scale):
            truths = torch.ones(2, 1, 6)
            truths[:, :, 1::2] *= scale if changed == "truths" else 1  # off the mask
            sampler = Scaled(scale if changed in ("object", "method") else 1)
            sampler = sampler.__call__ if changed == "method" else sampler
            sampler = partial(lambda scale, like, n, seed: scale * normal(n, 1, 6), scale) if changed == "partial" else sampler
            reference = partial(lambda scale, like: scale * like.y[0], scale) if changed == "reference" else None
            return calibrate(prior, experiment, sampler, trials=2, draws=2, truths=truths, folder=tmp_path, reference=reference)

        assert all(same(a, b) for a, b in zip(run(1), run(1), strict=True))
        with pytest.raises(posterior.SamplingError, match="another (run|truth)"):
            run(2)

    def test_what_fails_in_a_worker_is_told(self):
        prior, experiment = gaussian_problem()

        class Two(Exception):
            def __init__(self, a, b):
                super().__init__(f"{a} and {b}")

        def sampler(like, n, seed):
            raise Two("this", "that")

        with pytest.raises(RuntimeError, match="Two: this and that"):
            calibrate(prior, experiment, sampler, trials=2, draws=2, workers=2)

    def test_workers_make_the_same_trials(self, tmp_path):
        prior, experiment = gaussian_problem()
        sampler, seen = posterior.MMPS(steps=2), []
        settings = {"trials": 3, "draws": 2, "seed": 5}
        alone = calibrate(prior, experiment, sampler, **settings)
        several = calibrate(
            prior, experiment, sampler, folder=tmp_path, workers=2, progress=lambda *at: seen.append(at), **settings
        )
        assert len(several) == 3 and all(same(a, b) for a, b in zip(alone, several, strict=True))
        assert seen == [(1, 3), (2, 3), (3, 3)]
        lock = threading.Lock()
        with pytest.raises(ValueError, match="cannot be sent to workers"):
            calibrate(prior, lambda truth, g: experiment(truth, lock), sampler, workers=2, **settings)

    def test_each_trial_may_have_a_prior_of_its_own(self):
        prior, experiment = gaussian_problem()
        eye = torch.eye(6, dtype=torch.float64)
        priors = [posterior.GaussianPrior(torch.full((1, 6), m, dtype=torch.float64), eye) for m in (0.0, 1000.0)]
        found = calibrate(lambda i: priors[i], experiment, posterior.MMPS(steps=2), trials=2, draws=2)
        means = [(float(t.truth.mean()), float(t.draws.mean())) for t in found]
        assert all(abs(v) < 10 for v in means[0]) and all(abs(v - 1000) < 10 for v in means[1])

    def test_a_bar_shows_time_left(self, capsys):
        prior, experiment = gaussian_problem()
        calibrate(prior, experiment, lambda like, n, seed: normal(n, 1, 6, seed=seed), trials=3, draws=2, progress=True)
        assert "trials" in capsys.readouterr().err

    def test_priors_that_are_drawn_from(self):
        _, experiment = gaussian_problem()
        points = normal(5, 1, 6)
        empirical = posterior.EmpiricalPrior(points)
        mixture = posterior.GaussianMixturePrior(10 * torch.ones(1, 1, 6), torch.ones(1), 0.1)

        def sampler(like, n, seed):
            return normal(n, 1, 6, seed=seed)

        (trial,) = calibrate(empirical, experiment, sampler, trials=1, draws=3)
        assert (trial.truth == points).flatten(1).all(1).any()
        (trial,) = calibrate(mixture, experiment, sampler, trials=1, draws=3)
        assert float(trial.truth.mean()) == pytest.approx(10, abs=1)

    def test_what_does_not_fit_is_refused(self):
        prior, experiment = gaussian_problem()
        sampler = posterior.MMPS(steps=4)
        for changes, message in (
            ({"trials": 0}, "trials=0"),
            ({"draws": 1}, "draws=1"),
            ({"shard": (2, 2)}, "shard is"),
            ({"workers": 0}, "workers is 0"),
            ({"truths": torch.zeros(2, 1, 6)}, "2 truths for 100 trials"),
        ):
            with pytest.raises(ValueError, match=message):
                calibrate(prior, experiment, sampler, **changes)
        with pytest.raises(ValueError, match="REDDiff returns point estimates"):
            calibrate(prior, experiment, posterior.REDDiff(steps=4), trials=1, draws=2)

    def test_complex_data_and_priors_without_a_sample(self):
        import deepinv

        physics = deepinv.physics.MultiCoilMRI(
            mask=torch.ones(1, 1, 4, 4), coil_maps=torch.ones(1, 1, 4, 4, dtype=torch.complex64), img_size=(4, 4)
        )
        like = gaussian_experiment(physics, 0.1)(normal(1, 2, 4, 4), torch.Generator().manual_seed(0))
        noise = like.y - physics.A(normal(1, 2, 4, 4).float())
        parts = torch.view_as_real(noise) if noise.is_complex() else noise
        assert float(parts.std()) == pytest.approx(0.1, rel=0.5)

        class Unknown(posterior.Prior):
            event_shape = (1, 6)

            def denoise(self, x, sigma):
                return x

        with pytest.raises(ValueError, match="pass held-out events as truths="):
            calibrate(Unknown(), gaussian_problem()[1], posterior.MMPS(steps=4), trials=1, draws=2)
