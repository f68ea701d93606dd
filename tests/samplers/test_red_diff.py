import pytest
import torch

import posterior
from posterior.draws import PointEstimateError
from tests.samplers.laws import SIZE, Setting, dense


@pytest.fixture(scope="module")
def setting():
    return Setting()


def information(setting):
    inverse = torch.linalg.inv(setting.variance)
    matrix = setting.matrix.T @ inverse @ setting.matrix
    return matrix, setting.matrix.T @ inverse @ (setting.y[0] - setting.matrix @ setting.mean)


def at_rest(setting, sigma, lam):
    """Where the mean gradient vanishes at one noise level."""
    matrix, pull = information(setting)
    largest = torch.linalg.eigvalsh(matrix).max()
    hold = lam * sigma**2 * torch.linalg.inv(setting.cov + sigma**2 * setting.eye)
    return setting.mean + torch.linalg.solve(matrix / largest + hold, pull / largest)


@pytest.mark.parametrize(("sigma", "lam"), [(1.0, 0.25), (0.5, 1.0)])
def test_it_converges_to_what_was_derived(setting, sigma, lam):
    sampler = posterior.REDDiff(800, lam=lam, lr=0.01, sigma_max=1.0001 * sigma, sigma_min=sigma)
    draws = posterior.sample(setting.prior, setting.likelihood, sampler, draws=100, batch_size=100)
    wanted = at_rest(setting, sigma, lam)
    spread = draws.samples.std(0)
    assert float((draws.samples.mean(0) - wanted).abs().max()) < 0.04
    # what differs between seeds is a few of Adam's steps
    assert float(spread.max()) < 0.2
    assert float((wanted - setting.exact.location).abs().max()) > 0.2


def test_first_step_is_adams(setting):
    """From the pulled prior mean, every coordinate moves by lr against the sign of its gradient."""
    problem = setting.problem()
    sampler = posterior.REDDiff(10, lr=0.07)

    class Fixed:
        def __call__(self, shape=None):
            return torch.ones(2, SIZE, dtype=torch.float64)

    state = sampler.init(problem, Fixed())
    matrix, pull = information(setting)
    largest = torch.linalg.eigvalsh(matrix).max()
    torch.testing.assert_close(state.x[0], setting.mean + pull / largest, rtol=1e-3, atol=1e-3)
    sigma = sampler.levels(problem)[0]
    x = state.x[0] + sigma
    predicted = (x - setting.prior.denoise(x[None], sigma)[0]) / sigma
    gradient = 0.25 * sigma * (predicted - 1) - (pull - matrix @ (state.x[0] - setting.mean)) / largest
    after, _ = sampler.step(problem, state, Fixed())
    torch.testing.assert_close(after.x[0], state.x[0] - 0.07 * setting.prior.rms * gradient.sign(), rtol=1e-5, atol=1e-5)


def test_estimates_are_not_offered_as_draws(setting):
    draws = posterior.sample(setting.prior, setting.likelihood, posterior.REDDiff(5), draws=20)
    assert draws.is_posterior is False
    assert draws.mean.shape == (SIZE,)
    with pytest.raises(PointEstimateError, match="REDDiff"):
        draws.interval(0.9)
    with pytest.raises(PointEstimateError, match="REDDiff"):
        _ = draws.std
    lower, upper = draws.interval(0.9, allow_point_estimate=True)
    assert (lower <= upper).all()


def test_scatter_is_no_uncertainty(setting):
    """At its default the seeds differ by far less than the posterior is wide."""
    draws = posterior.sample(setting.prior, setting.likelihood, posterior.REDDiff(), draws=100, batch_size=100)
    ratio = draws.samples.std(0) / setting.exact.std
    assert float(ratio.mean()) < 0.7


def test_an_operator_that_sees_nothing_is_refused(setting):
    like = posterior.GaussianLikelihood(dense(torch.zeros(3, SIZE, dtype=torch.float64)), setting.y, 0.1)
    with pytest.raises(ValueError, match="likelihood: the operator maps a typical field to nothing"):
        posterior.sample(setting.prior, like, posterior.REDDiff(2), draws=1)


@pytest.mark.parametrize("name", ["lam", "lr"])
def test_arguments_out_of_range_are_refused(name):
    with pytest.raises(ValueError, match=f"REDDiff: {name} must be positive, got 0.0"):
        posterior.REDDiff(4, **{name: 0.0})
