"""A prior from measurements alone: the Gaussian against what theory promises, and laps that resume."""

import numpy as np
import pytest
import torch
from diffusers import UNet2DModel

import posterior
from operators import Inpainting, SuperResolution
from posterior.driver import SamplingError
from posterior.priors.base import Affine
from posterior.priors.network import NetworkPrior
from posterior.priors.parameterisations import GaussianResidual
from posterior.priors.training import TrainingSettings
from posterior.recipes.measurements import fit_gaussian, fit_kernel, learn_prior

N, SHAPE = 12, (1, 8, 8)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def covariance(n):
    at = torch.arange(n, dtype=torch.float64)
    return torch.exp(-0.5 * ((at[:, None] - at) / 3) ** 2) + 0.05 * torch.eye(n)


def measured(fields, fraction, noise, seed=0):
    found = []
    for i, x in enumerate(fields):
        physics = Inpainting.random(tuple(x.shape), fraction, seed=seed + i).double()
        y = physics.A(x[None]) + noise * normal(1, *x.shape, seed=1000 + i) * physics.mask
        found.append(posterior.GaussianLikelihood(physics, y, noise))
    return found


class TestGaussian:
    def test_fields_seen_whole_give_their_own_mean_and_covariance(self):
        x = 2 + normal(60, N, seed=1) @ torch.linalg.cholesky(covariance(N)).T
        fit = fit_gaussian(measured(x, 1.0, 1e-4), (N,), laps=3)
        torch.testing.assert_close(fit.mean, x.mean(0), atol=1e-3, rtol=0)
        torch.testing.assert_close(fit.covariance, torch.cov(x.T, correction=0), atol=1e-3, rtol=0)

    def test_half_of_each_field_is_enough(self):
        x = normal(300, N, seed=2) @ torch.linalg.cholesky(covariance(N)).T
        fit = fit_gaussian(measured(x, 0.5, 0.1), (N,), laps=25)
        assert (np.diff(fit.evidence) > -1e-9).all()  # EM never loses
        norm = torch.linalg.matrix_norm
        off, floor = (float(norm(c - covariance(N)) / norm(covariance(N))) for c in (fit.covariance, torch.cov(x.T)))
        assert floor < off < 0.3
        # and the evidence is at least that of the truth, as a maximum must be
        like = measured(x, 0.5, 0.1)
        truth = sum(
            torch.distributions.MultivariateNormal(torch.zeros(int(m.sum())).double(), c).log_prob(d.y[0][m])
            for d in like
            for m in [d.operator.mask.bool()]
            for c in [covariance(N)[m][:, m] + 0.01 * torch.eye(int(m.sum()))]
        )
        assert fit.evidence[-1] > float(truth) / len(like)

    def test_extrapolation_gets_there_sooner_and_never_loses(self):
        like = measured(normal(200, N, seed=6) @ torch.linalg.cholesky(covariance(N)).T, 0.3, 0.3)
        plain, fast = (fit_gaussian(like, (N,), laps=20, accelerate=a) for a in (False, True))
        further = fit_gaussian(like, (N,), laps=60, accelerate=False)
        assert (np.diff(fast.evidence) > -1e-9).all()
        assert fast.evidence[-1] > further.evidence[-1] > plain.evidence[-1]

    def test_few_fields_lean_on_the_start(self):
        """With a weight C lies between what the fields say and the start, and explains fields that were not fitted better."""
        x = normal(400, N, seed=7) @ torch.linalg.cholesky(covariance(N)).T
        start = torch.diag(torch.full((N,), 1.05, dtype=torch.float64))
        whole = fit_gaussian(measured(x[:30], 1.0, 1e-4), (N,), laps=3, start=start, weight=30)
        wanted = (torch.cov(x[:30].T, correction=0) + start) / 2
        torch.testing.assert_close(whole.covariance, wanted, atol=1e-3, rtol=0)
        few, others = measured(x[:30], 0.5, 0.1), measured(x[100:], 0.5, 0.1, seed=500)
        fits = [fit_gaussian(few, (N,), laps=30, start=covariance(N), weight=w) for w in (0.0, 30.0)]
        outside = [fit_gaussian(others, (N,), laps=0, start=f.covariance).evidence[0] for f in fits]
        assert fits[0].evidence[-1] > fits[1].evidence[-1]
        assert outside[1] > outside[0]

    def test_coordinates_of_each_datum(self):
        """Physical fields of 100 + 5 z on even days and 200 + 5 z on odd ones are one law of z."""
        z = normal(80, N, seed=3) @ torch.linalg.cholesky(covariance(N)).T
        shifts = [100.0 + 100 * (i % 2) for i in range(80)]
        physical = torch.stack([s + 5 * x for s, x in zip(shifts, z, strict=True)])
        fit = fit_gaussian(measured(physical, 1.0, 1e-3), (N,), [Affine(5.0, s) for s in shifts], laps=3)
        torch.testing.assert_close(fit.covariance, torch.cov(z.T, correction=0), atol=1e-2, rtol=0)

    def test_a_better_start_begins_higher_and_is_left_alone(self):
        x = normal(60, N, seed=8) @ torch.linalg.cholesky(covariance(N)).T
        like, truth = measured(x, 0.5, 0.1), covariance(N)
        kept = truth.clone()
        white, near = (fit_gaussian(like, (N,), laps=2, start=s) for s in (1.0, truth))
        assert near.evidence[0] > white.evidence[2]
        torch.testing.assert_close(truth, kept, rtol=0, atol=0)

    def test_any_linear_operator(self):
        x = 3 * normal(40, 1, 8, 8, seed=4)
        physics = SuperResolution((1, 8, 8), 2).double()
        like = [posterior.GaussianLikelihood(physics, physics.A(v[None]), 0.1) for v in x]
        fit = fit_gaussian(like, (1, 8, 8), laps=5)
        seen = physics.A(torch.eye(64).double().reshape(64, 1, 8, 8)).flatten(1)
        coarse = torch.cov(physics.A(x).flatten(1).T, correction=0)
        torch.testing.assert_close(seen.T @ fit.covariance @ seen, coarse, rtol=0.1, atol=0.1)

    def test_eofs_are_the_covariance(self):
        fit = fit_gaussian(measured(normal(30, *SHAPE, seed=5), 0.5, 0.1), SHAPE, laps=2)
        v = normal(3, *SHAPE, seed=6)
        wanted = (v.flatten(1) @ fit.covariance).reshape(v.shape)
        torch.testing.assert_close(fit.eofs.covariance(SHAPE).apply(v), wanted, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(fit.reference.covariance(SHAPE).apply(v), wanted, rtol=1e-6, atol=1e-6)

    def test_what_is_refused(self):
        with pytest.raises(ValueError, match="0 data of 12 unknowns"):
            fit_gaussian([], (N,))
        student = posterior.StudentTLikelihood(Inpainting(torch.ones(N)), torch.zeros(1, N), 1.0)
        with pytest.raises(ValueError, match="got a StudentTLikelihood of Inpainting; wanted a GaussianLikelihood"):
            fit_gaussian([student], (N,))
        data = measured(normal(4, N), 1.0, 0.1)
        for options, words in [
            ({"start": torch.eye(3)}, r"start has shape \(3, 3\)"),
            ({"start": -1.0}, "start is not positive definite"),
            ({"laps": -1}, "-1 laps over 4 data"),
            ({"affines": [Affine()] * 3}, "4 data, 3 affine maps"),
        ]:
            with pytest.raises(ValueError, match=words):
                fit_gaussian(data, (N,), **options)

    def test_a_start_may_be_a_number_in_a_tensor_and_a_field_one_point(self):
        data = measured(normal(40, 1, seed=5), 1.0, 0.1)
        wanted = fit_gaussian(data, (1,), start=2.0)
        found = fit_gaussian(data, (1,), start=torch.tensor(2.0, requires_grad=True))
        torch.testing.assert_close(found.covariance, wanted.covariance, rtol=0, atol=0)
        # no mean to be fitted: C = E x^2 of what is measured, less the noise
        kernel = fit_kernel(data, (1,), torch.zeros(1, 2))
        square = torch.stack([like.y for like in data]).square().mean()
        torch.testing.assert_close(kernel.covariance, (square - 0.01).reshape(1, 1), rtol=1e-3, atol=0)


class TestKernel:
    """Fields whose covariance is of the family, on points that lie unevenly in the plane."""

    at = 4 * torch.rand(30, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    lengths = torch.tensor([2.0, 0.7], dtype=torch.float64)

    def truth(self, amplitude=1.0):
        shape = torch.exp(-0.5 * ((self.at[:, None] - self.at) / self.lengths).square().sum(-1))
        return amplitude * shape * torch.as_tensor(amplitude).reshape(-1, 1) + 0.05 * torch.eye(30)

    def data(self, days, amplitude=1.0, seed=0):
        x = normal(days, 30, seed=seed) @ torch.linalg.cholesky(self.truth(amplitude)).T
        return measured(x, 0.3, 0.1, seed=seed)

    def test_a_known_covariance_function_is_found_again(self):
        fit = fit_kernel(self.data(400), (30,), self.at, parts=1, most=400)
        torch.testing.assert_close(fit.lengths[0], self.lengths, rtol=0.1, atol=0)
        torch.testing.assert_close(fit.weights, torch.ones(1).double(), rtol=0.15, atol=0)
        assert fit.nugget == pytest.approx(0.05, rel=0.15)
        norm = torch.linalg.matrix_norm
        assert norm(fit.covariance - self.truth()) < 0.1 * norm(self.truth())

    def test_points_that_vary_more_than_others(self):
        amplitude = 0.5 + self.at[:, 0]
        like = self.data(300, amplitude)
        told, not_told = (fit_kernel(like, (30,), self.at, amplitude=a, parts=1, most=300) for a in (amplitude, 1.0))
        assert told.evidence > not_told.evidence + 1
        torch.testing.assert_close(told.lengths[0], self.lengths, rtol=0.1, atol=0)

    def test_its_evidence_is_that_of_fit_gaussian(self):
        like = self.data(40)
        fit = fit_kernel(like, (30,), self.at, [Affine(2.0, 0.3)] * 40, parts=2, most=40, iterations=5)
        again = fit_gaussian(like, (30,), [Affine(2.0, 0.3)] * 40, laps=0, start=fit.covariance)
        assert again.evidence[0] == pytest.approx(fit.evidence, rel=1e-9)
        assert again.log_evidence(like, [Affine(2.0, 0.3)] * 40) == pytest.approx(fit.evidence, rel=1e-9)

    def test_few_data_of_many_points_are_better_fitted_from_it(self):
        """By data that neither saw, EM from white overfits; from the kernel, with a weight on it, it does not."""
        few, others = self.data(60), self.data(100, seed=500)
        start = fit_kernel(few, (30,), self.at, parts=2).covariance
        plain = fit_gaussian(few, (30,), laps=20)
        leaning = fit_gaussian(few, (30,), laps=20, start=start, weight=100)
        truth = fit_gaussian(others, (30,), laps=0, start=self.truth()).evidence[0]
        assert leaning.log_evidence(others) > plain.log_evidence(others) + 1
        assert abs(leaning.log_evidence(others) - truth) < 0.5

    def test_what_is_refused(self):
        with pytest.raises(ValueError, match=r"positions \(29, 2\), 3 parts; wanted data, and a position and an amplitude"):
            fit_kernel(self.data(3), (30,), self.at[1:])
        with pytest.raises(ValueError, match="got 0 data"):
            fit_kernel([], (30,), self.at)
        with pytest.raises(ValueError, match="positions have values that are NaN"):
            fit_kernel(self.data(3), (30,), self.at / 0 * 0)
        with pytest.raises(ValueError, match="an amplitude for each of 30 points"):
            fit_kernel(self.data(3), (30,), self.at, amplitude=torch.ones(7))
        with pytest.raises(ValueError, match="fit_kernel: 4900 points; wanted 4096 at most"):
            fit_kernel(self.data(3), (70, 70), torch.zeros(4900, 2))


@pytest.fixture(scope="module")
def likelihoods():
    smooth = torch.nn.functional.avg_pool2d(normal(24, *SHAPE, seed=7), 3, 1, 1) * 3
    return measured(smooth, 0.4, 0.1)


@pytest.fixture
def start(likelihoods):
    fit = fit_gaussian(likelihoods, SHAPE, laps=5)

    def make():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = UNet2DModel(
                in_channels=2,
                out_channels=1,
                layers_per_block=1,
                block_out_channels=(8, 8),
                down_block_types=("DownBlock2D",) * 2,
                up_block_types=("UpBlock2D",) * 2,
                norm_num_groups=4,
                add_attention=False,
            )
        torch.nn.init.zeros_(network.conv_out.weight)
        torch.nn.init.zeros_(network.conv_out.bias)
        return NetworkPrior(
            network, GaussianResidual(fit.eofs), SHAPE, reference=fit.eofs, multiple=2, sigma_range=(0.01, 20.0)
        )

    return make


LAPS = {"laps": 2, "per_lap": 12, "batch": 4, "sampler": posterior.GaussianBridge(steps=2)}
SETTINGS = TrainingSettings(steps=4, warmup=1, bfloat16=False, checkpoint_every=2)


class TestLaps:
    def learn(self, likelihoods, prior, folder, **options):
        told = []
        learn_prior(likelihoods, prior, SETTINGS, folder, **LAPS, progress=told.append, **options)
        return prior.network.state_dict(), told

    def test_a_run_that_was_stopped_ends_with_the_same_weights(self, likelihoods, start, tmp_path):
        whole, told = self.learn(likelihoods, start(), tmp_path / "a")
        assert {(t.lap, t.what) for t in told} == {(k, w) for k in (1, 2) for w in ("drawing", "training")}

        class Stop(Exception):
            pass

        def stop(lap):
            if (lap.lap, lap.what, lap.done) == (2, "training", 3):
                raise Stop

        with pytest.raises(Stop):
            learn_prior(likelihoods, start(), SETTINGS, tmp_path / "b", **LAPS, progress=stop)
        resumed, _ = self.learn(likelihoods, start(), tmp_path / "b")
        for name, tensor in whole.items():
            torch.testing.assert_close(resumed[name], tensor, rtol=0, atol=0)

    def test_draws_fit_the_data_and_what_is_held_back_is_not_trained_on(self, likelihoods, start, tmp_path):
        given = []
        self.learn(likelihoods, start(), tmp_path, measure=lambda p, x: given.append(x) or p.reference)
        assert [len(x) for x in given] == [2, 2]  # an eighth of 12, rounded
        from safetensors.torch import load_file

        for i, x in load_file(tmp_path / "lap-1" / "draws.safetensors").items():
            like = likelihoods[int(i)]
            chi = float(like.in_standard(Affine(), SHAPE).chi_square(x[None].double()))
            assert 0.3 < chi < 3

    def test_what_is_refused(self, likelihoods, start, tmp_path):
        with pytest.raises(ValueError, match="wanted twice a batch or more"):
            learn_prior(likelihoods, start(), SETTINGS, tmp_path, batch=16)
        with pytest.raises(ValueError, match="3 dates for 24 data"):
            learn_prior(likelihoods, start(), SETTINGS, tmp_path, batch=4, dates=["2001-01-01"] * 3)
        learn_prior(likelihoods, start(), SETTINGS, tmp_path, **LAPS | {"laps": 1})
        with pytest.raises(SamplingError, match="holds draws of another run"):
            self.learn(likelihoods, start(), tmp_path, seed=1)
        others = [posterior.GaussianLikelihood(like.operator, like.y + 1, 0.1) for like in likelihoods]
        with pytest.raises(SamplingError, match="holds draws of another run"):
            self.learn(others, start(), tmp_path)
