import math

import deepinv
import pytest
import torch

import posterior
from benchmarks.problems.nonlinear import nonlinear
from posterior.problem import Problem
from posterior.samplers.smc.outlook import WIDER, Outlook, mean_variance
from posterior.samplers.smc.twists import GradientTwist


def standard(prior, likelihood, shape):
    return Problem(prior, likelihood.in_standard(prior.affine, shape), shape)


class Size(deepinv.physics.Physics):
    """|x| of each unknown: at 0 its derivative says nothing of it."""

    def A(self, x, **_):
        return (x.square() + 1e-12).sqrt()


@pytest.fixture(scope="module")
def size():
    prior = posterior.GaussianPrior(torch.zeros(1, dtype=torch.float64), torch.eye(1))
    return standard(prior, posterior.GaussianLikelihood(Size(), torch.full((1, 1), 1.2, dtype=torch.float64), 0.3), (1,))


@pytest.mark.parametrize("sigma", [4.0, 1.0, 0.3])
def test_it_is_the_average_of_the_likelihood(size, sigma):
    z = torch.tensor([[0.0], [0.4], [-1.0], [2.0]], dtype=torch.float64)
    c = WIDER * mean_variance(size, sigma)
    x = torch.linspace(-9, 9, 40_001, dtype=torch.float64)[:, None]
    density = torch.exp(-0.5 * (x - z.T).square() / c) / math.sqrt(2 * math.pi * c)
    exact = torch.trapezoid(size.likelihood.log_prob(x).exp()[:, None] * density, x, dim=0)
    look = Outlook(size).look(size, z, sigma)
    # one line, at 0 the tangent of |x|, is wrong by 5
    torch.testing.assert_close(look.log_value, exact.log(), rtol=0, atol=0.5)


def test_where_both_signs_are_as_likely_nothing_pulls(size):
    look = Outlook(size).look(size, torch.zeros(1, 1, dtype=torch.float64), 1.0)
    assert float(look.uphill.abs()) < 1e-9
    assert float(look.rows.abs()) < 1e-9


def test_it_pulls_to_the_nearer_sign(size):
    z = torch.tensor([[0.3], [-0.3], [2.5]], dtype=torch.float64)
    up = Outlook(size).look(size, z, 0.5).uphill.flatten()
    assert up[0] > 0
    assert up[1] < 0
    assert up[2] < 0


def test_close_to_x0_it_is_the_likelihood(size):
    z = torch.tensor([[0.9], [-1.4]], dtype=torch.float64)
    look = Outlook(size).look(size, z, 1e-4)
    torch.testing.assert_close(look.log_value, size.likelihood.log_prob(z), rtol=0, atol=1e-3)


@pytest.mark.parametrize("sigma", [2.5, 1.0, 0.4])
def test_it_tells_two_modes_apart_as_the_exact_posterior_does(sigma):
    # h(x) = p(y | x_sigma) is known for a set of points; weights of particles vary as psi / h does
    given = nonlinear("phase retrieval", 1000)
    prior, points = given.prior, given.prior.points
    problem = standard(prior, given.likelihood, tuple(points.shape[1:]))
    told = problem.likelihood.log_prob(points)
    x = posterior.exact_posterior(prior, given.likelihood).sample(400, seed=0)
    x = x + sigma * torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    near = prior.weights.log() - 0.5 * torch.cdist(x, points).square() / sigma**2
    h = torch.logsumexp(torch.log_softmax(near, 1) + told, 1)
    off = Outlook(problem).look(problem, prior.denoise(x, sigma), sigma).log_value - h
    lost = torch.logsumexp(off, 0) + torch.logsumexp(-off, 0) - 2 * math.log(len(off))
    assert float(lost) < 1  # of log N / ESS; a single line loses 5


@pytest.mark.parametrize("twist", ["mmps", "pigdm"])
def test_the_law_of_counts_comes_into_the_twist_and_not_all_at_once(twist):
    logs = torch.randn(300, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    prior = posterior.EmpiricalPrior((1 + 0.5 * logs).exp())
    counts = posterior.PoissonLikelihood(
        deepinv.physics.LinearPhysics(A=lambda x, **_: x, A_adjoint=lambda y, **_: y),
        torch.tensor([[1.0, 4.0]], dtype=torch.float64),
    )
    problem = standard(prior, counts, (2,))
    x = prior.points[:20]
    _, log_twist, *_ = GradientTwist(problem, twist, True).evaluate(problem, x, 1e-3)
    torch.testing.assert_close(log_twist, problem.likelihood.log_prob(x), rtol=0, atol=1e-2)


def test_draws_of_counts_fit_their_exact_posterior():
    given = nonlinear("counts", 3)
    exact = posterior.exact_posterior(given.prior, given.likelihood)
    draws = posterior.sample(given.prior, given.likelihood, posterior.TDS(50), draws=400, seed=0)
    assert float(draws.stats.ess[0]) > 200
    assert draws.mean.tolist() == pytest.approx(exact.mean.tolist(), abs=0.25 * float(exact.std.min()))


@pytest.mark.parametrize("law", [posterior.StudentTLikelihood, posterior.OutlierLikelihood])
@pytest.mark.parametrize(("kind", "sampler"), [("plain", posterior.TDS(30)), ("size", posterior.AFDPS(30))])
def test_heavy_tails_do_not_pull_particles_away_from_precise_data(law, kind, sampler):
    """Two data that are ten times as precise as the prior: far from them a twist must not rise again."""
    same = deepinv.physics.LinearPhysics(A=lambda x, **_: x, A_adjoint=lambda y, **_: y)
    prior = posterior.GaussianPrior(torch.zeros(2, dtype=torch.float64), torch.eye(2))
    like = law(same if kind == "plain" else Size(), torch.full((1, 2), 0.6, dtype=torch.float64), 0.1)
    draws = posterior.sample(prior, like, sampler, draws=400)
    x = torch.linspace(-9, 9, 20_001, dtype=torch.float64)[:, None].expand(-1, 2)
    density = torch.exp(0.5 * like.log_prob(x) - 0.5 * x[:, 0].square()) / math.sqrt(2 * math.pi)
    exact = 2 * torch.trapezoid(density, x[:, 0]).log()
    assert draws.stats.log_evidence == pytest.approx((float(exact),), abs=0.5)
