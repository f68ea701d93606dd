"""deepinv's own operators, and ours, under our samplers: draws against the exact posterior of a Gaussian prior."""

import warnings

import deepinv
import pytest
import torch

import operators
import posterior
from tests.operators.checks import draw, generator

SIZE, SIGMA = 8, 0.1
EVENT = (1, SIZE, SIZE)
PAIR = (2, SIZE, SIZE)
KERNEL = operators.gaussian_kernel(0.6)


def compressed_sensing():
    return deepinv.physics.CompressedSensing(20, EVENT, rng=generator(1), dtype=torch.float64)


def quietly(make):
    """deepinv draws some operators from torch's global generator; a test must leave it as it is."""

    def made():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return make()

    return made


LINEAR = {
    "deepinv Denoising": (deepinv.physics.Denoising, EVENT),
    "deepinv Inpainting": (lambda: deepinv.physics.Inpainting(EVENT, mask=0.5, rng=generator(2)), EVENT),
    "deepinv BlurFFT": (
        lambda: deepinv.physics.BlurFFT(EVENT, filter=operators.gaussian_kernel(0.8)[None, None].float()),
        EVENT,
    ),
    "deepinv Downsampling": (lambda: deepinv.physics.Downsampling(EVENT, filter=KERNEL[None, None].float(), factor=2), EVENT),
    "deepinv CompressedSensing": (compressed_sensing, EVENT),
    "deepinv SinglePixelCamera": (lambda: deepinv.physics.SinglePixelCamera(20, EVENT, rng=generator(1)), EVENT),
    "deepinv Tomography": (lambda: deepinv.physics.Tomography(4, SIZE, normalize=False, dtype=torch.float64), EVENT),
    "deepinv MRI": (lambda: deepinv.physics.MRI(mask=operators.cartesian_mask((SIZE, SIZE), 2.0)), PAIR),
    "Blur": (lambda: operators.Blur(KERNEL, (SIZE, SIZE), "reflect"), EVENT),
    "SuperResolution": (lambda: operators.SuperResolution((SIZE, SIZE), 2, "bicubic"), EVENT),
    "Inpainting": (lambda: operators.Inpainting.random((SIZE, SIZE), 0.5), EVENT),
    "MRI": (lambda: operators.MRI(operators.cartesian_mask((SIZE, SIZE), 2.0)), PAIR),
    "SoftSENSE": (
        lambda: operators.SoftSENSE(
            operators.cartesian_mask((SIZE, SIZE), 2.0), operators.birdcage_maps(4, (SIZE, SIZE)).reshape(1, 4, SIZE, SIZE)
        ),
        (2, 1, SIZE, SIZE),
    ),
}
# the sampler, how many draws, and how far off their summed variance may be: the noise of the estimate, and what MMPS is
# too wide by at so few steps
SAMPLERS = {
    "MMPS": (lambda: posterior.MMPS(steps=12, iterations=5), 30, 0.5),
    "GaussianBridge": (lambda: posterior.GaussianBridge(steps=3), 120, 0.15),
}


def smooth_prior(event):
    """N(1/2, C), C = exp(-distance / 2) between pixels of a channel and nothing between channels."""
    at = torch.cartesian_prod(torch.arange(SIZE, dtype=torch.float64), torch.arange(SIZE, dtype=torch.float64))
    cov = torch.exp(-torch.cdist(at, at) / 2)
    count = int(torch.tensor(event).prod()) // SIZE**2
    return posterior.GaussianPrior(torch.full(event, 0.5, dtype=torch.float64), torch.block_diag(*[cov] * count))


def observed(operator, event):
    truth = draw(1, event) * 0.5 + 0.5
    try:
        y = operator.A(truth)
    except RuntimeError:  # an operator of single precision
        y = operator.A(truth.float())
    noise = torch.randn(y.shape, generator=generator(5), dtype=y.dtype) * SIGMA
    reach = operator.A(torch.ones_like(truth) if y.dtype == torch.float64 else torch.ones_like(truth).float()) != 0
    return y + noise * reach


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("name", LINEAR)
def test_draws_are_of_the_exact_posterior(name, sampler):
    make, event = LINEAR[name]
    operator = quietly(make)()
    prior = smooth_prior(event)
    likelihood = posterior.GaussianLikelihood(operator, observed(operator, event), SIGMA)
    exact = posterior.exact_posterior(prior, likelihood)
    before = {key: value.clone() for key, value in operator.state_dict().items()}
    build, count, tolerance = SAMPLERS[sampler]
    draws = posterior.sample(prior, likelihood, build(), draws=count)
    off = (draws.mean - exact.mean) / exact.std * count**0.5
    # a standard normal for each pixel, were all draws exact; correlated pixels make the square wander
    assert off.square().mean() < 3
    ratio = draws.samples.var(0).sum() / exact.std.square().sum()
    assert float(ratio) == pytest.approx(1, abs=tolerance)
    assert all(torch.equal(value, before[key]) for key, value in operator.state_dict().items())


def test_phase_retrieval_is_finite_and_fits_the_data():
    with warnings.catch_warnings():
        # torch says that complex modules are new
        warnings.simplefilter("ignore", UserWarning)
        inner = deepinv.physics.CompressedSensing(4 * SIZE**2, EVENT, dtype=torch.complex64, rng=generator(3))
    # deepinv's own takes complex images only; ours are real
    real_images = deepinv.physics.LinearPhysics(
        A=lambda x, **_: inner.A(x.to(torch.complex64)), A_adjoint=lambda y, **_: inner.A_adjoint(y).real
    )
    operator = deepinv.physics.PhaseRetrieval(real_images)
    prior = smooth_prior(EVENT)
    truth = 0.5 + 0.5 * draw(1, EVENT, torch.float32, 8)
    y = operator.A(truth)
    y = y + 0.05 * torch.randn(y.shape, generator=generator(6), dtype=y.dtype)
    likelihood = posterior.GaussianLikelihood(operator, y, 0.05)
    draws = posterior.sample(prior, likelihood, posterior.DPS(steps=100), draws=4)
    assert torch.isfinite(draws.samples).all()
    start = likelihood.log_prob(0.5 * torch.ones(1, *EVENT))
    assert (likelihood.log_prob(draws.samples.float()) > start).all()
