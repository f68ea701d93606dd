import math

import deepinv
import pytest
import torch

import posterior
from benchmarks.metrics import mode_weight_error, sliced_w2
from benchmarks.problems.mixture import dense

G = torch.Generator


def problem(std, d=3, m=2):
    g = G().manual_seed(7)
    means = 2 * torch.randn(4, d, generator=g, dtype=torch.float64)
    weights = torch.rand(4, generator=g, dtype=torch.float64) + 0.1
    if std == "covariances":
        root = torch.randn(4, d, d, generator=g, dtype=torch.float64)
        std = root @ root.mT + 0.2 * torch.eye(d, dtype=torch.float64)
    prior = posterior.GaussianMixturePrior(means, weights, std)
    matrix = torch.randn(m, d, generator=g, dtype=torch.float64)
    y = prior.sample(1, seed=3) @ matrix.T + 0.3
    return prior, posterior.GaussianLikelihood(dense(matrix), y, 0.4)


@pytest.mark.parametrize("std", [0.6, "covariances"])
def test_mixture_posterior_against_weighted_prior_draws(std):
    prior, likelihood = problem(std)
    exact = posterior.exact_posterior(prior, likelihood)
    draws = prior.sample(400_000, seed=1)
    fit = likelihood.log_prob(draws)
    w = torch.softmax(fit, 0)
    n = float(1 / w.square().sum())
    evidence = float(torch.logsumexp(fit, 0)) - math.log(len(draws))
    assert evidence == pytest.approx(exact.log_evidence, abs=4 / n**0.5)
    mean = w @ draws
    std_found = (w @ (draws - mean).square()).sqrt()
    torch.testing.assert_close(mean, exact.mean, rtol=0, atol=5 * float(exact.std.max()) / n**0.5)
    torch.testing.assert_close(std_found, exact.std, rtol=6 / n**0.5, atol=0)
    at = torch.linspace(-4, 4, 9, dtype=torch.float64)
    for i in range(3):
        found = torch.stack([w[draws[:, i] <= a].sum() for a in at])
        torch.testing.assert_close(exact.cdf(at, i), found, rtol=0, atol=2.5 / n**0.5)


@pytest.mark.parametrize("std", [0.6, "covariances"])
def test_mixture_posterior_agrees_with_itself(std):
    prior, likelihood = problem(std)
    exact = posterior.exact_posterior(prior, likelihood)
    assert float(exact.weights.sum()) == pytest.approx(1)
    draws = exact.sample(200_000, seed=2)
    mean = exact.weights @ exact.means
    covariance = sum(
        w * (exact.covariance(k) + torch.outer(m - mean, m - mean))
        for k, (w, m) in enumerate(zip(exact.weights, exact.means, strict=True))
    )
    torch.testing.assert_close(draws.mean(0), exact.mean, rtol=0, atol=0.02)
    torch.testing.assert_close(draws.T.cov(), covariance, rtol=0, atol=0.05)
    torch.testing.assert_close(covariance.diagonal().sqrt(), exact.std)
    x = draws[:5]
    parts = [
        w.log() + torch.distributions.MultivariateNormal(m, (c + c.T) / 2).log_prob(x)
        for w, m, c in zip(exact.weights, exact.means, map(exact.covariance, range(4)), strict=True)
    ]
    torch.testing.assert_close(exact.log_prob(x), torch.logsumexp(torch.stack(parts), 0))
    assert torch.equal(exact.sample(3, seed=0), exact.sample(3, seed=0))


def test_a_mixture_of_one_is_a_gaussian():
    g = G().manual_seed(0)
    root = torch.randn(3, 3, generator=g, dtype=torch.float64)
    cov, mean = (
        root @ root.T + torch.eye(3, dtype=torch.float64),
        torch.randn(3, generator=g, dtype=torch.float64),
    )
    matrix = torch.randn(2, 3, generator=g, dtype=torch.float64)
    likelihood = posterior.GaussianLikelihood(dense(matrix), torch.ones(1, 2, dtype=torch.float64), 0.5)
    a = posterior.exact_posterior(posterior.GaussianPrior(mean, cov), likelihood)
    b = posterior.exact_posterior(posterior.GaussianMixturePrior(mean[None], torch.ones(1), cov), likelihood)
    torch.testing.assert_close(a.mean, b.mean)
    torch.testing.assert_close(a.std, b.std)
    assert a.log_evidence == pytest.approx(b.log_evidence)


def test_what_data_leave_of_a_component_is_not_less_than_nothing():
    prior, _ = problem(0.6)
    for seed in range(8):
        matrix = torch.randn(3, 3, generator=G().manual_seed(seed), dtype=torch.float64)
        like = posterior.GaussianLikelihood(dense(matrix), prior.sample(1) @ matrix.T, 1e-9)
        exact = posterior.exact_posterior(prior, like)
        assert exact.std.isfinite().all() and exact.cdf(torch.tensor(0.0), 0).isfinite()


def test_empirical_posterior_of_a_nonlinear_operator():
    g = G().manual_seed(0)
    points = torch.randn(500, 2, generator=g, dtype=torch.float64)
    speed = deepinv.physics.Physics(A=lambda x, **_: torch.linalg.vector_norm(x, dim=1, keepdim=True))
    likelihood = posterior.GaussianLikelihood(speed, torch.tensor([[1.5]], dtype=torch.float64), 0.1)
    exact = posterior.exact_posterior(posterior.EmpiricalPrior(points), likelihood)
    w = torch.exp(-0.5 * ((points.norm(dim=1) - 1.5) / 0.1) ** 2)
    torch.testing.assert_close(exact.weights, w / w.sum())
    torch.testing.assert_close(exact.mean, (w / w.sum()) @ points)
    evidence = (w / math.sqrt(2 * math.pi * 0.01)).mean().log()
    assert exact.log_evidence == pytest.approx(float(evidence))
    draws = exact.sample(50_000, seed=1)
    torch.testing.assert_close(draws.mean(0), exact.mean, rtol=0, atol=0.03)
    torch.testing.assert_close(draws.std(0), exact.std, rtol=0.02, atol=0)
    found = (draws[:, 0] <= 0.3).double().mean()
    torch.testing.assert_close(exact.cdf(torch.tensor(0.3), 0), found, rtol=0, atol=0.01)


def test_sliced_distance_takes_weights():
    g = G().manual_seed(0)
    x = torch.randn(300, 3, generator=g, dtype=torch.float64)
    shift = torch.tensor([3.0, 0.0, 0.0], dtype=torch.float64)
    assert sliced_w2(x, x) == pytest.approx(0, abs=1e-6)
    assert sliced_w2(x, x + shift, projections=4000) == pytest.approx(3**0.5, rel=0.03)
    copies = torch.cat([x, x, x[:100]])
    weights = torch.cat([torch.ones(100), 2 * torch.ones(200)])
    w = torch.cat([torch.ones(300), torch.ones(300), torch.zeros(100)])
    assert sliced_w2(copies, x, w) == pytest.approx(0, abs=1e-6)
    assert sliced_w2(x, torch.cat([x, x[100:]]), weights) == pytest.approx(0, abs=1e-6)


def test_mode_weight_error_is_a_total_variation():
    means = torch.tensor([[0.0], [10.0]])
    a = torch.tensor([[0.0], [0.1], [10.0], [9.9]])
    assert mode_weight_error(a, a[:2], means) == pytest.approx(0.5)
    assert mode_weight_error(a, a[:2], means, torch.tensor([0.5, 0.5, 0, 0])) == pytest.approx(0)
