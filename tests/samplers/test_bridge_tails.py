"""GaussianBridge where data have a say in how far the denoiser is off."""

import dataclasses

import pytest
import torch

import operators
import posterior
from posterior.guidance.bridge import BridgeGuidance
from posterior.guidance.tails import judged
from posterior.likelihoods import Linearisation
from posterior.priors.covariance import Covariance, FourierBasis, ScaledCovariance
from posterior.problem import Problem
from tests.priors.test_local import SHAPE, Known, N, Uneven

SEEN = 0.1
KAPPA = 0.5


@pytest.fixture(scope="module")
def prior():
    """Its covariance given x is known: S C S."""
    made = Uneven()
    made.local_spread = posterior.fit_local_spread(made, made.fields, sigmas=[0.5, 2.0], tails=KAPPA)
    once = ScaledCovariance((made.base,), (made.s[None],), made.base)
    known = Known(made.local_spread, dataclasses.replace(once, typical=once))
    object.__setattr__(known, "tails", KAPPA)
    made.local_spread = known
    return made


def measured(prior, truth, sigma=SEEN):
    """Every second column of a field, with the noise of a fixed seed."""
    mask = (torch.arange(N) % 2 == 0).expand(N, N).float()
    physics = operators.Inpainting(mask)
    noise = sigma * torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    y = physics.A(truth.float()).double() + mask.double() * noise
    return Problem(prior, posterior.GaussianLikelihood(physics, y, sigma).in_standard(prior.affine, SHAPE), SHAPE), mask


def at(prior, problem) -> tuple[Linearisation, torch.Tensor]:
    lin = problem.likelihood.model.linearise(prior.d[None])
    return lin, problem.likelihood.y - lin.prediction


def factors(prior, problem):
    """lambda at each grid point."""
    lin, residual = at(prior, problem)
    cov = prior.local_spread.known
    found = judged(problem, (0.5, "test"), lin, cov, residual, 500, 1e-9, None, KAPPA)
    return (found.scales[0] / cov.scales[0]).square(), residual, cov


def test_lambda_is_what_it_says(prior):
    """z by dense algebra; g is one number, the same for all grid points and for any data."""
    for seed in (0, 1):
        problem, mask = measured(prior, prior.fields[seed : seed + 1])
        found, residual, cov = factors(prior, problem)
        dense = cov.apply(torch.eye(N * N, dtype=torch.float64).reshape(-1, *SHAPE)).flatten(1)
        rows = torch.eye(N * N, dtype=torch.float64)[mask.flatten() > 0]
        gain = dense @ rows.T @ torch.linalg.inv(rows @ dense @ rows.T + SEEN**2 * torch.eye(len(rows)))
        z2 = (gain @ rows @ residual.flatten()).reshape(SHAPE).square() / (prior.s.square() * prior.base.mean_variance)
        g = (KAPPA + z2) / found[0] - KAPPA
        torch.testing.assert_close(g, g.mean().expand(g.shape), rtol=1e-4, atol=1e-4)
        assert 0.5 < float(g.mean()) < 1.1


def test_data_that_say_nothing_change_nothing(prior):
    problem, _ = measured(prior, prior.fields[:1], sigma=1e3)
    found, _, _ = factors(prior, problem)
    torch.testing.assert_close(found, torch.ones_like(found), rtol=0, atol=1e-3)


def test_wide_where_the_denoiser_is_further_off_than_usual(prior):
    """A bright spot on the dark side, that D knows nothing of and the usual spread does not allow."""
    truth = prior.fields[:1].clone()
    truth[..., 8, 4] += 5.0
    problem, _ = measured(prior, truth)
    found, _, _ = factors(prior, problem)
    assert float(found[0, 0, 8, 4]) > 20
    assert float(found[..., N // 2 :].median()) < 1


def test_errors_eight_times_the_usual_are_found_sooner(prior):
    """In a patch of the dark side, by one step: the mean errs less, and draws say better how much."""
    patch = (..., slice(4, 12), slice(1, 7))
    errors, spread = torch.zeros(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    for i in range(6):
        usual = prior.fields[i : i + 1] - prior.d
        truth = prior.d + usual
        truth[patch] += 7 * usual[patch]
        problem, _ = measured(prior, truth, 0.5)
        x = prior.d[None].expand(64, *SHAPE)
        for k, adaptive in enumerate((False, True)):
            found = BridgeGuidance(adaptive=adaptive)(problem, x, 0.5, (0.5, 0.1))
            g = torch.Generator().manual_seed(4)

            def noise(shape=SHAPE, g=g):
                return torch.randn(64, *shape, generator=g, dtype=torch.float64)

            errors[k] += (found.mean[:1] - truth)[patch].square().mean() / 6
            spread[k] += found.draw(noise)[patch].var(0).mean() / 6
    assert errors[1] < 0.6 * errors[0]
    assert spread[1] / errors[1] > 2 * spread[0] / errors[0]


def test_no_tails_are_none_and_not_zero():
    spread = posterior.load_prior("galaxies").local_spread
    with pytest.raises(ValueError, match="tails must be positive"):
        dataclasses.replace(spread, tails=0.0)


def test_two_components_are_judged_apart():
    """An error across the phase widens the spread across it, and leaves the one along it."""
    flat = Covariance(FourierBasis(2), torch.ones(2, N, N, dtype=torch.float64))
    frame = torch.tensor([0.6, 0.8], dtype=torch.float64)[None, :, None, None].expand(1, 2, N, N)
    ones = torch.ones(1, 2, N, N, dtype=torch.float64)
    typical = ScaledCovariance((flat,), (ones,), flat, frame)
    cov = dataclasses.replace(typical, typical=typical)
    physics = operators.Inpainting(torch.ones(N, N))
    across = torch.tensor([-0.8, 0.6], dtype=torch.float64)[:, None, None]
    y = torch.zeros(1, 2, N, N, dtype=torch.float64)
    y[0, :, 5:6, 5:6] = 6.0 * across
    shape = (2, N, N)
    white = posterior.GaussianPrior(torch.zeros(shape, dtype=torch.float64), torch.ones(shape, dtype=torch.float64))
    problem = Problem(white, posterior.GaussianLikelihood(physics, y, 0.1).in_standard(white.affine, shape), shape)
    lin = problem.likelihood.model.linearise(torch.zeros_like(y))
    scale = judged(problem, (0.5, "test"), lin, cov, y, 500, 1e-9, None, KAPPA).scales[0]
    assert float(scale[0, 1, 5, 5]) > 4 and float(scale[0, 0, 5, 5]) < 1


@pytest.mark.parametrize("steps, batch", [(10, 1), (10, 3), (2, 1)])
def test_draws_do_not_depend_on_the_batch(steps, batch):
    """But for rounding: by far less than a draw's own spread."""
    prior = posterior.load_prior("galaxies")
    assert prior.local_spread.tails is not None
    physics = operators.Blur(torch.ones(3, 3) / 9, (24, 24))
    truth = torch.zeros(1, 1, 24, 24)
    truth[..., 10:14, 10:14] = 1.0
    like = posterior.GaussianLikelihood(physics, physics.A(truth), 0.05)
    settings = {"draws": 6, "event_shape": (1, 24, 24), "seed": 3}
    whole = posterior.sample(prior, like, posterior.GaussianBridge(steps), batch_size=6, **settings)
    parts = posterior.sample(prior, like, posterior.GaussianBridge(steps), batch_size=batch, **settings)
    size = float(whole.samples.std(0).square().mean().sqrt())
    assert float((parts.samples - whole.samples).square().mean().sqrt()) < 1e-4 * size
    plain = posterior.sample(prior, like, posterior.GaussianBridge(steps, adaptive=False), batch_size=6, **settings)
    assert float((plain.samples - whole.samples).square().mean().sqrt()) > 0.1 * size


def dark_galaxies():
    """Nothing seen through a blur, of a prior whose errors have heavy tails."""
    prior = posterior.load_prior("galaxies")
    physics = operators.Blur(torch.ones(3, 3) / 9, (24, 24))
    like = posterior.GaussianLikelihood(physics, torch.zeros(1, 1, 24, 24), 0.05).in_standard(prior.affine, (1, 24, 24))
    return Problem(prior, like, (1, 24, 24))


def test_the_grid_is_wider_where_errors_have_heavy_tails():
    problem = dark_galaxies()
    levels = posterior.GaussianBridge(4).levels(problem)
    assert levels[0] >= 4 * problem.prior.rms and levels[-2] == pytest.approx(0.1 * problem.prior.rms)
    assert posterior.GaussianBridge(4, adaptive=False).levels(problem)[-2] > 0.1 * problem.prior.rms


def test_more_levels_are_high_where_errors_have_heavy_tails():
    """Unless a schedule is given."""
    problem = dark_galaxies()
    usual, equal = (posterior.GaussianBridge(3, schedule=s).levels(problem) for s in (None, posterior.LogUniform()))
    assert (usual[0], usual[2]) == (equal[0], pytest.approx(equal[2]))
    assert equal[1] == pytest.approx((equal[0] * equal[2]) ** 0.5) and usual[1] > 1.5 * equal[1]
    plain = posterior.GaussianBridge(3, adaptive=False).levels(problem)
    assert plain[1] == pytest.approx((plain[0] * plain[2]) ** 0.5)
