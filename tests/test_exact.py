import math

import deepinv
import pytest
import torch

import posterior
from posterior import exact
from posterior.exact import dense_operator, exact_posterior
from posterior.priors.base import Prior

F64 = torch.float64


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def matrix_physics(matrix, event_shape):
    n = matrix.shape[1]
    return deepinv.physics.LinearPhysics(
        A=lambda x, **_: x.reshape(-1, n) @ matrix.to(x.dtype).T,
        A_adjoint=lambda y, **_: (y @ matrix.to(y.dtype)).reshape(-1, *event_shape),
        img_size=event_shape,
    )


class Setting:
    """N(mean, C) on (2, 3), four data with a noise level each; brute-force formulas that invert everything."""

    event_shape = (2, 3)

    def __init__(self):
        root = normal(6, 6)
        self.mean, self.cov = normal(2, 3, seed=1), root @ root.T / 6 + 0.1 * torch.eye(6, dtype=F64)
        self.matrix, self.y = normal(4, 6, seed=2), normal(1, 4, seed=3)
        self.sigma = torch.tensor([0.1, 0.5, 1.0, 2.0], dtype=F64)
        self.prior = posterior.GaussianPrior(self.mean, self.cov)
        self.like = posterior.GaussianLikelihood(matrix_physics(self.matrix, self.event_shape), self.y, self.sigma)
        information = self.matrix.T @ torch.diag(self.sigma**-2)
        precision = torch.linalg.inv(self.cov) + information @ self.matrix
        self.post_cov = torch.linalg.inv(precision)
        shift = torch.linalg.inv(self.cov) @ self.mean.flatten() + information @ self.y[0]
        self.post_mean = (self.post_cov @ shift).reshape(2, 3)
        self.evidence = torch.distributions.MultivariateNormal(
            self.matrix @ self.mean.flatten(),
            self.matrix @ self.cov @ self.matrix.T + torch.diag(self.sigma**2),
        ).log_prob(self.y[0])


@pytest.fixture(scope="module")
def setting():
    return Setting()


@pytest.fixture(scope="module")
def known(setting):
    return exact_posterior(setting.prior, setting.like)


class TestAgainstBruteForce:
    def test_mean_and_covariance(self, setting, known):
        torch.testing.assert_close(known.mean, setting.post_mean)
        torch.testing.assert_close(known.cov, setting.post_cov)
        torch.testing.assert_close(known.std, setting.post_cov.diagonal().sqrt().reshape(2, 3))

    def test_log_evidence(self, setting, known):
        assert known.log_evidence == pytest.approx(float(setting.evidence), abs=1e-9)

    def test_bayes_theorem_holds_pointwise(self, setting, known):
        """log p(x | y) + log p(y) = log p(x) + log p(y | x), every term by its own code."""
        x = normal(5, 2, 3, seed=5)
        prior = torch.distributions.MultivariateNormal(setting.mean.flatten(), setting.cov).log_prob(x.flatten(1))
        torch.testing.assert_close(known.log_prob(x) + known.log_evidence, prior + setting.like.log_prob(x))

    def test_draws_have_the_posteriors_moments(self, known):
        draws = known.sample(40_000, seed=4)
        assert draws.shape == (40_000, 2, 3)
        white = (draws.flatten(1) - known.location) @ torch.linalg.inv(torch.linalg.cholesky(known.cov)).T
        assert white.mean(0).abs().max() < 5 / 200
        assert (torch.cov(white.T) - torch.eye(6, dtype=F64)).abs().max() < 5 * 2**0.5 / 200

    def test_draws_are_those_of_their_seed(self, known):
        assert torch.equal(known.sample(3, seed=0), known.sample(3))
        assert not torch.equal(known.sample(3, seed=0), known.sample(3, seed=1))


@pytest.mark.parametrize("shape", [(5, 4), (1, 4, 5)])
def test_stationary_spectrum_equals_its_matrix(shape):
    prior = posterior.GaussianPrior(normal(*shape), torch.full(shape, 2.0).index_fill_(-1, torch.tensor([0]), 5.0))
    n = math.prod(shape)
    dense = prior.reference.cov.apply(torch.eye(n, dtype=F64).reshape(n, *shape)).reshape(n, n)
    like = posterior.GaussianLikelihood(matrix_physics(normal(7, n, seed=1), shape), normal(1, 7, seed=2), 0.3)
    found, wanted = (
        exact_posterior(posterior.GaussianPrior(prior.reference.center, c), like)
        for c in (prior.reference.cov.eigenvalues, dense)
    )
    torch.testing.assert_close(found.location, wanted.location)
    torch.testing.assert_close(found.cov, wanted.cov)
    assert found.log_evidence == pytest.approx(wanted.log_evidence, abs=1e-9)


def test_complex_data_are_twice_as_many_real_ones():
    shape, n = (1, 3, 4), 12
    matrix = torch.complex(normal(5, n), normal(5, n, seed=1))
    y = torch.complex(normal(1, 5, seed=2), normal(1, 5, seed=3))
    sigma = torch.linspace(0.1, 0.9, 5, dtype=F64)

    def adjoint(v, **_):
        return (v @ matrix.conj()).real.reshape(-1, *shape)

    physics = deepinv.physics.LinearPhysics(
        A=lambda x, **_: x.flatten(1).to(matrix.dtype) @ matrix.T, A_adjoint=adjoint, img_size=shape
    )
    prior = posterior.GaussianPrior(normal(*shape, seed=4), torch.eye(n, dtype=F64))
    found = exact_posterior(prior, posterior.GaussianLikelihood(physics, y, sigma))
    stacked = torch.cat([matrix.real, matrix.imag])
    both = posterior.GaussianLikelihood(
        matrix_physics(stacked, shape), torch.cat([y.real, y.imag], dim=1), torch.cat([sigma, sigma])
    )
    wanted = exact_posterior(prior, both)
    torch.testing.assert_close(found.location, wanted.location)
    torch.testing.assert_close(found.cov, wanted.cov)
    assert found.log_evidence == pytest.approx(wanted.log_evidence, abs=1e-9)


def test_what_a_mask_hides_keeps_its_prior_and_counts_for_nothing():
    shape = (1, 2, 2)
    mask = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]], dtype=F64)
    prior = posterior.GaussianPrior(normal(*shape), torch.diag(torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=F64)))
    y = 5 + normal(1, *shape, seed=1)
    known = exact_posterior(prior, posterior.GaussianLikelihood(deepinv.physics.Inpainting(shape, mask=mask), y, 0.5))
    torch.testing.assert_close(known.mean[..., 1], prior.reference.center[..., 1])
    torch.testing.assert_close(known.std[..., 1], torch.tensor([[2.0, 4.0]], dtype=F64).sqrt())
    torch.testing.assert_close(known.std[0, 0, 0] ** 2, torch.tensor(1 / (1 + 4), dtype=F64))
    law = torch.distributions.Normal(prior.reference.center[..., 0], torch.tensor([[1.25, 3.25]], dtype=F64).sqrt())
    assert known.log_evidence == pytest.approx(float(law.log_prob(y[0, ..., 0]).sum()), abs=1e-9)


def test_limits_of_the_noise():
    setting = Setting()
    weak = posterior.GaussianLikelihood(setting.like.operator, setting.y, 1e6)
    torch.testing.assert_close(exact_posterior(setting.prior, weak).cov, setting.cov, rtol=1e-8, atol=1e-8)
    physics = deepinv.physics.Denoising()
    y = normal(1, 2, 3, seed=8)
    strong = exact_posterior(setting.prior, posterior.GaussianLikelihood(physics, y, 1e-4))
    torch.testing.assert_close(strong.mean, y[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(strong.std, torch.full((2, 3), 1e-4, dtype=F64), rtol=1e-3, atol=0)


def test_dense_operator_is_the_matrix(setting):
    matrix, y, variance = dense_operator(setting.like, (2, 3))
    torch.testing.assert_close(matrix, setting.matrix)
    torch.testing.assert_close(y, setting.y[0])
    torch.testing.assert_close(variance, setting.sigma**2)


class TestRefusals:
    def test_operator_that_is_not_linear(self, setting):
        physics = deepinv.physics.Physics(A=lambda x, **_: x.square())
        like = posterior.GaussianLikelihood(physics, normal(1, 2, 3), 0.1)
        with pytest.raises(ValueError, match="operator Physics is not linear"):
            exact_posterior(setting.prior, like)

    def test_field_too_large_for_a_matrix(self, setting, monkeypatch):
        monkeypatch.setattr(exact, "LARGEST_DENSE", 5)
        with pytest.raises(ValueError, match="6 unknowns are too many for a dense matrix"):
            exact_posterior(setting.prior, setting.like)

    def test_prior_without_a_closed_form(self, setting):
        class Other(Prior):
            event_shape = (2, 3)

            def denoise(self, x, sigma):
                return x

        with pytest.raises(TypeError, match="no closed form is known for a Other"):
            exact_posterior(Other(), setting.like)

    def test_operator_of_another_shape(self, setting):
        mask = torch.ones(4, 3, dtype=F64)
        like = posterior.GaussianLikelihood(deepinv.physics.Inpainting((4, 3), mask=mask), normal(1, 4, 3), 0.1)
        with pytest.raises(ValueError, match=r"operator Inpainting does not take a field of shape \(2, 3\)"):
            exact_posterior(setting.prior, like)
