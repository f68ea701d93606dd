import math

import pytest
import torch

import posterior
from posterior.problem import Problem
from tests.samplers.laws import F64, SIZE, Setting, dense, errors, law, normal

TIGHT = posterior.DataStep(tolerance=1e-12)


@pytest.fixture(scope="module")
def setting():
    return Setting()


class Given:
    """Hands out what it was given, in turn."""

    def __init__(self, *values):
        self.values = list(values)

    def __call__(self, shape=None):
        return self.values.pop(0)


def test_one_step_is_the_published_one(setting):
    """An operator of norm one, so the gradient of the plain norm, three times; then half the flow time to go."""
    matrix = torch.linalg.qr(setting.matrix.T)[0].T
    like = posterior.GaussianLikelihood(dense(matrix), setting.y, 0.2)
    problem = Problem(setting.prior, like.in_standard(setting.prior.affine, (SIZE,)), (SIZE,))
    sampler = posterior.FlowDPS(2, schedule=lambda *_: [3.0, 0.5, 0.0])
    s = setting.prior.rms
    x, z = normal(5, SIZE, seed=7), normal(5, SIZE, seed=8)
    state = posterior.samplers.base.State(x)
    found, _ = sampler.step(problem, state, Given(z))
    clean = setting.prior.denoise(x, 3 * s)
    moved = clean.clone()
    for _ in range(3):
        moved.requires_grad_(True)
        loss = torch.linalg.vector_norm(setting.y - moved @ matrix.T, dim=1).sum()
        (slope,) = torch.autograd.grad(loss, moved)
        moved = (moved - s * math.sqrt(3) * slope).detach()
    t, t_next = 3 / 4, 0.5 / 1.5
    x0, x1 = (1 - t) * clean + t * moved, (x - clean) / (3 * s)
    noise = math.sqrt(t_next) * x1 + math.sqrt(1 - t_next) * z
    # in the flow's own coordinate (1 - t) x, whose noise part has the weight t s
    wanted = ((1 - t_next) * x0 + t_next * s * noise) / (1 - t_next)
    torch.testing.assert_close(found.x, wanted)
    last, _ = sampler.step(problem, found, Given())
    assert last.x.shape == x.shape


def test_draws_do_not_know_how_noisy_the_data_are(setting):
    """Unless they are asked to."""
    for scaled in (False, True):
        one, other = (
            posterior.sample(
                setting.prior,
                posterior.GaussianLikelihood(dense(setting.matrix), setting.y, noise),
                posterior.FlowDPS(scaled=scaled),
                draws=2,
            ).samples
            for noise in (0.1, 0.5)
        )
        assert torch.allclose(one, other, atol=1e-9) is not scaled


def test_data_are_fitted_better_than_by_the_prior(setting):
    draws = posterior.sample(setting.prior, setting.likelihood, posterior.FlowDPS(), draws=200, batch_size=200)
    blind = setting.problem().likelihood.chi_square(setting.prior_draws(200)).mean()
    assert draws.stats.residual < 0.1 * float(blind)


@pytest.mark.parametrize("steps", [1, 3])
def test_scaled_is_exact_for_a_white_prior(setting, steps):
    prior = posterior.GaussianPrior(setting.mean, 1.7 * torch.eye(SIZE, dtype=F64))
    exact = posterior.exact_posterior(prior, setting.likelihood)
    problem = Problem(prior, setting.likelihood.in_standard(prior.affine, (SIZE,)), (SIZE,))
    # from a level at which the start, a draw of the noised prior, has forgotten the data
    mean, cov = law(posterior.FlowDPS(steps, scaled=True, data=TIGHT, sigma_max=1e4), problem)
    torch.testing.assert_close(mean, exact.location, rtol=0, atol=2e-3)
    torch.testing.assert_close(cov, exact.cov, rtol=0, atol=2e-3)


@pytest.mark.parametrize(("steps", "shift", "widest"), [(28, 0.280, 1.21), (100, 0.152, 1.09)])
def test_bias_of_scaled(setting, steps, shift, widest):
    found, ratio = errors(law(posterior.FlowDPS(steps, scaled=True), setting.problem()), setting.exact)
    assert found == pytest.approx(shift, abs=0.02)
    assert 1.0 < float(ratio.min()) < float(ratio.max()) == pytest.approx(widest, abs=0.03)


def test_levels_are_even_in_flow_time():
    levels = posterior.FlowTime(shift=4.0)(5, 36.0, 1.0)
    times = [s / (s + 4) for s in levels[:-1]]
    assert levels[0] == 36.0
    assert levels[-2:] == pytest.approx([1.0, 0.0])
    assert times == pytest.approx([0.9, 0.725, 0.55, 0.375, 0.2])
    assert posterior.FlowTime()(1, 36.0, 1.0) == [36.0, 0.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"step_size": 0.0}, "FlowDPS: step_size must be positive, got 0.0"),
        ({"inner": 0}, "FlowDPS: inner must be at least 1, got 0"),
    ],
)
def test_arguments_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        posterior.FlowDPS(4, **options)
