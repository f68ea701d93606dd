import pytest
import torch

import posterior
from posterior.problem import Problem
from tests.samplers.laws import COUNT, F64, SIZE, Setting, dense, errors, law

TIGHT = posterior.DataStep(tolerance=1e-12)


@pytest.fixture(scope="module")
def setting():
    return Setting()


@pytest.mark.parametrize("ode_steps", [1, 5])
def test_law_is_the_one_derived(setting, ode_steps):
    """Euler steps, the exact update with radius sigma, and noise: three affine maps of a Gaussian, level by level."""
    sampler = posterior.DAPS(6, ode_steps, data=TIGHT)
    levels = sampler.levels(setting.problem())
    mean, cov = setting.start(levels[0])
    for sigma, following in zip(levels, levels[1:], strict=False):
        euler = setting.eye
        grid = posterior.Karras()(ode_steps, sigma, setting.prior.sigma_min)
        for a, b in zip(grid, grid[1:], strict=False):
            shrink = setting.denoiser(a)
            euler = (shrink + b / a * (setting.eye - shrink)) @ euler
        mean, cov = setting.mean + euler @ (mean - setting.mean), euler @ cov @ euler.T
        gain = setting.gain(sigma**2)
        keep = setting.eye - gain @ setting.matrix
        mean = keep @ mean + gain @ setting.y[0]
        cov = keep @ (cov + sigma**2 * setting.eye) @ keep.T + gain @ setting.variance @ gain.T + following**2 * setting.eye
    found = law(sampler, setting.problem())
    torch.testing.assert_close(found[0], mean, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(found[1], cov, rtol=1e-8, atol=1e-8)


def test_bias_of_the_default(setting):
    """Mean off by 0.16 posterior standard deviations, standard deviations 8 to 12 % too wide."""
    shift, ratio = errors(law(posterior.DAPS(), setting.problem()), setting.exact)
    assert shift == pytest.approx(0.163, abs=0.01)
    assert 1.07 < float(ratio.min()) < float(ratio.max()) < 1.13


def test_a_direction_that_data_do_not_see_is_too_wide():
    """As the docstring has it, with 300 Euler steps in place of the exact ODE: here by a factor of 3 in variance."""
    prior = posterior.GaussianPrior(torch.zeros(SIZE, dtype=F64), torch.eye(SIZE, dtype=F64))
    sees_one = torch.zeros(COUNT, SIZE, dtype=F64)
    sees_one[0, 0] = 1.0
    like = posterior.GaussianLikelihood(dense(sees_one), torch.zeros(1, COUNT, dtype=F64), 0.1)
    problem = Problem(prior, like.in_standard(prior.affine, (SIZE,)), (SIZE,))
    sampler = posterior.DAPS(8, 300, data=TIGHT, sigma_max=20.0)
    v = 1.0
    for sigma in sampler.levels(problem)[:-1]:
        v = (v + sigma**2) / (1 + sigma**2) + sigma**2
    _, cov = law(sampler, problem)
    assert v > 2
    assert float(cov[1, 1]) == pytest.approx(v, rel=0.02)


def test_arguments_out_of_range_are_refused():
    with pytest.raises(ValueError, match="DAPS: ode_steps must be at least 1, got 0"):
        posterior.DAPS(4, 0)
