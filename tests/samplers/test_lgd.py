import pytest
import torch

import posterior
from posterior.guidance.lgd import LGDGuidance
from tests.samplers.laws import SIZE, Setting, dense, normal

STEP = (0.9, 0.6)


@pytest.fixture(scope="module")
def setting():
    return Setting()


class Seeded:
    """One stream for each item of a batch."""

    def __init__(self, seeds):
        self.generators = [torch.Generator().manual_seed(s) for s in seeds]

    def __call__(self, shape=None):
        return torch.stack([torch.randn(shape, generator=g, dtype=torch.float64) for g in self.generators])


def moved(setting, samples, x, sigma, seeds):
    guidance = LGDGuidance(0.3, samples).using(Seeded(seeds))
    return guidance(setting.problem(), x, sigma, STEP).mean - setting.prior.denoise(x, sigma)


def closed_form(setting, x, sigma):
    """A prior's Jacobian, the residual at D, and what averaging adds to its square: r^2 trace(A A^T)."""
    s = setting.prior.rms
    clean = setting.prior.denoise(x, sigma)
    residual = setting.y - clean @ setting.matrix.T
    r2 = sigma**2 * s**2 / (sigma**2 + s**2)
    size = (residual.square().sum(1, keepdim=True) + r2 * setting.matrix.square().sum()).sqrt()
    a, b = STEP
    vp = s * ((1 + (a / s) ** 2) * (1 + (b / s) ** 2)) ** 0.5 / (1 - (b / a) ** 2)
    return 0.3 * vp * residual @ setting.matrix @ setting.denoiser(sigma) / size


@pytest.mark.parametrize("sigma", [0.2, 1.5])
def test_many_samples_give_the_gradient_of_the_smoothed_residual(setting, sigma):
    x = normal(3, SIZE, seed=9)
    found, wanted = moved(setting, 40_000, x, sigma, range(3)), closed_form(setting, x, sigma)
    torch.testing.assert_close(found, wanted, rtol=0, atol=0.02 * float(wanted.abs().max()))
    few = moved(setting, 4, x, sigma, range(3))
    assert (few - wanted).abs().max() > (found - wanted).abs().max()


@pytest.mark.parametrize("unit", [1e5, 1e-9])
@pytest.mark.parametrize("sampler", [posterior.DPS(20), posterior.LGD(20)], ids=["DPS", "LGD"])
def test_draws_follow_the_unit_of_fields_and_data(setting, sampler, unit):
    def draws(unit):
        prior = posterior.GaussianPrior(unit * setting.mean, unit**2 * setting.cov)
        likelihood = posterior.GaussianLikelihood(dense(setting.matrix), unit * setting.y, unit * setting.noise)
        return posterior.sample(prior, likelihood, sampler, draws=4).samples

    torch.testing.assert_close(draws(unit) / unit, draws(1.0), rtol=1e-6, atol=1e-6)


def test_samples_are_a_draws_own(setting):
    x = normal(3, SIZE, seed=9)
    together = moved(setting, 5, x, 0.9, [4, 5, 6])
    torch.testing.assert_close(moved(setting, 5, x[1:2], 0.9, [5]), together[1:2])


def test_at_small_noise_it_is_dps(setting):
    x = normal(2, SIZE, seed=3)
    dps = posterior.guidance.dps.DPSGuidance(0.3)(setting.problem(), x, 1e-4, STEP).mean
    lgd = LGDGuidance(0.3).using(Seeded([0, 1]))(setting.problem(), x, 1e-4, STEP).mean
    torch.testing.assert_close(lgd, dps, rtol=1e-3, atol=1e-3)


def test_draws_move_towards_the_data(setting):
    draws = posterior.sample(setting.prior, setting.likelihood, posterior.LGD(100), draws=200, batch_size=200)
    misfit = (draws.samples @ setting.matrix.T - setting.y).square().mean()
    assert float(misfit) < 0.3 * float((setting.prior_draws(200) @ setting.matrix.T - setting.y).square().mean())


def test_a_guidance_without_noise_says_so(setting):
    with pytest.raises(ValueError, match="LGD: the guidance has no source of noise"):
        LGDGuidance()(setting.problem(), normal(1, SIZE), 1.0, STEP)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"zeta": 0.0}, "LGD: zeta must be positive, got 0.0"), ({"samples": 0}, "LGD: samples must be at least 1, got 0")],
)
def test_arguments_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        posterior.LGD(4, **options)
