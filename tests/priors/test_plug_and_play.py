"""Denoisers of deepinv as priors."""

import pytest
import torch
from deepinv.models import Denoiser, DRUNet

import posterior
from posterior.priors.plug_and_play import DeepinvPrior


class WhiteGaussian(Denoiser):
    """Exact for images N(0.5, 0.2^2) on the scale of [0, 1]."""

    def forward(self, x, sigma, **kwargs):
        s = self._handle_sigma(sigma, batch_size=x.shape[0], ndim=x.ndim, dtype=x.dtype)
        return 0.5 + 0.04 / (0.04 + s**2) * (x - 0.5)


def test_known_denoiser_over_six_decades():
    prior = DeepinvPrior(WhiteGaussian(), (1, 4, 4), (1e-3, 10.0))
    sigma = torch.logspace(-3, 3, 13, dtype=torch.float64)
    x = sigma.reshape(-1, 1, 1, 1) * torch.randn(13, 1, 4, 4, generator=torch.Generator().manual_seed(0)).double()
    # standardised: z = 2 x - 1 is N(0, 0.4^2)
    wanted = 0.16 / (0.16 + sigma**2).reshape(-1, 1, 1, 1) * x
    torch.testing.assert_close(prior.denoise(x, sigma), wanted, rtol=1e-5, atol=1e-5)
    assert (prior.sigma_min, prior.sigma_max) == (2e-3, 20.0)
    assert prior.name == "WhiteGaussian"


def test_posterior_is_the_known_one():
    from deepinv.physics import Denoising

    prior = DeepinvPrior(WhiteGaussian(), (1, 4, 4), (1e-3, 10.0))
    like = posterior.GaussianLikelihood(Denoising(), torch.full((1, 1, 4, 4), 0.9), 0.2)
    draws = posterior.sample(prior, like, posterior.MMPS(steps=64), draws=64, batch_size=64)
    # equal weights of prior and data: mean 0.7, standard deviation 0.2 / sqrt 2; 1024 pixels in all
    assert float(draws.samples.mean()) == pytest.approx(0.7, abs=0.02)
    assert float(draws.samples.std()) == pytest.approx(0.2 / 2**0.5, rel=0.1)


def test_a_network_of_deepinv_denoises_each_at_its_own_level():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        drunet = DRUNet(in_channels=1, out_channels=1, nc=(4, 8, 8, 8), nb=1, pretrained=None)
    prior = DeepinvPrior(drunet, (1, None, None), (0.002, 0.2))
    x = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(1)).double()
    with torch.no_grad():
        out = prior.denoise(x, torch.tensor([0.1, 0.3]))
        alone = prior.denoise(x[1:], 0.3)
        wanted = 2 * drunet(0.5 + 0.5 * x[:1].float(), 0.05) - 1
    assert out.dtype == torch.float64
    torch.testing.assert_close(out[1:], alone, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(out[:1].float(), wanted, rtol=1e-5, atol=1e-5)


def test_what_is_no_denoiser_is_refused():
    with pytest.raises(TypeError, match="denoiser is a Identity; wanted a deepinv Denoiser"):
        DeepinvPrior(torch.nn.Identity(), (1, 4, 4), (0.01, 1.0))
    with pytest.raises(ValueError, match="sigma_range is"):
        DeepinvPrior(WhiteGaussian(), (1, 4, 4), (1.0, 0.1))
