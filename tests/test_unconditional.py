"""Draws of a prior without data: the very law of the prior, under the driver's rules."""

import deepinv
import pytest
import torch

import posterior
from posterior.priors.analytic import GaussianPrior


def gaussian(seed=0):
    g = torch.Generator().manual_seed(seed)
    root = torch.randn(6, 6, generator=g, dtype=torch.float64)
    return GaussianPrior(torch.arange(6, dtype=torch.float64), root @ root.T + 0.1 * torch.eye(6), units="K")


def test_draws_have_the_law_of_the_prior():
    prior = gaussian()
    draws = posterior.sample_prior(prior, draws=4000, batch_size=500, steps=48)
    cov = prior.reference.cov
    x = (draws.samples - prior.reference.center) @ cov.basis.vectors
    variance = x.var(0) / cov.eigenvalues
    assert variance.sub(1).abs().max() < 0.09  # four standard errors, and one per cent of the steps
    assert (x.mean(0) / cov.eigenvalues.sqrt()).abs().max() < 0.07
    assert draws.units == "K"
    assert draws.stats.nfe == 48
    assert draws.stats.residual is None
    assert draws.observed is None


def test_any_sampler_draws_the_prior_where_there_are_no_data():
    prior = gaussian()
    draws = posterior.sample_prior(prior, posterior.GaussianBridge(steps=3), draws=4000, batch_size=500)
    x = (draws.samples - prior.reference.center) @ prior.reference.cov.basis.vectors
    assert (x.var(0) / prior.reference.cov.eigenvalues).sub(1).abs().max() < 0.09


def test_a_draw_does_not_depend_on_the_batch():
    prior = gaussian()
    one, all_ = (posterior.sample_prior(prior, draws=5, batch_size=b, seed=3).samples for b in (1, 5))
    torch.testing.assert_close(one, all_)


def test_any_size_has_to_be_said():
    class Anywhere(posterior.Prior):
        event_shape = (1, None, None)
        name = "anywhere"

        def denoise(self, x, sigma):
            return x / (1 + sigma**2)

    with pytest.raises(ValueError, match="event_shape="):
        posterior.sample_prior(Anywhere())
    assert posterior.sample_prior(Anywhere(), draws=1, event_shape=(1, 3, 5)).samples.shape == (1, 1, 3, 5)


def test_a_device_that_is_not_there_is_named():
    for device in ("cuda:7", "gpu"):
        with pytest.raises(ValueError, match=f"sample_prior: device '{device}' is not there"):
            posterior.sample_prior(gaussian(), draws=1, device=device)


def smooth():
    f = torch.hypot(torch.fft.fftfreq(4)[:, None], torch.fft.fftfreq(4)[None]).double()
    return GaussianPrior(torch.full((1, 4, 4), 2.0, dtype=torch.float64), 4 / (1 + (6 * f) ** 2) ** 2)


@pytest.mark.parametrize("sampler", [posterior.TDS(24), posterior.TDS(24, "mmps"), posterior.AFDPS(24)])
@pytest.mark.parametrize("prior", [gaussian(), smooth()], ids=["matrix", "spectrum"])
def test_particles_draw_the_prior_where_there_are_no_data(sampler, prior):
    draws = posterior.sample_prior(prior, sampler, draws=2000)
    assert draws.stats.log_evidence == (0.0,)
    x = prior.reference.cov.function(draws.samples - prior.reference.center, torch.rsqrt)
    assert x.var(0).sub(1).abs().max() < 0.13  # four standard errors
    assert x.mean(0).abs().max() < 0.09


@pytest.mark.parametrize("law", [posterior.GaussianLikelihood, posterior.StudentTLikelihood])
@pytest.mark.parametrize("linear", [True, False])
def test_data_that_no_field_reaches_mean_the_prior_and_say_so(law, linear):
    class Stuck(deepinv.physics.LinearPhysics if linear else deepinv.physics.Physics):
        def A(self, x, **_):  # noqa: N802
            return x.new_zeros(len(x), 3)

        def A_adjoint(self, y, **_):  # noqa: N802
            return y.new_zeros(len(y), 6)

    prior, like = gaussian(), law(Stuck(), torch.ones(1, 3, dtype=torch.float64), 0.1)
    for sampler in (posterior.TDS(8), posterior.AFDPS(8)):
        draws = posterior.sample(prior, like, sampler, draws=50)
        assert draws.stats.log_evidence == (0.0,)
        assert draws.stats.residual is None
        assert "the data say nothing" in draws.stats.warnings[0]
    if linear and law is posterior.GaussianLikelihood:
        exact = posterior.exact_posterior(prior, like)
        assert exact.log_evidence == 0
        torch.testing.assert_close(exact.mean, prior.reference.center)
