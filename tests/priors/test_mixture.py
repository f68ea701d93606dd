import math

import pytest
import torch

import posterior

KINDS = ["one std", "a std each", "one covariance", "a covariance each"]


def mixture(kind, d=3, k=4, scale=3.0):
    g = torch.Generator().manual_seed(1)
    means = scale * torch.randn(k, d, generator=g, dtype=torch.float64)
    weights = torch.rand(k, generator=g, dtype=torch.float64) + 0.1
    roots = torch.randn(k, d, d, generator=g, dtype=torch.float64)
    covs = roots @ roots.mT + 0.3 * torch.eye(d, dtype=torch.float64)
    std = {
        "one std": 0.7,
        "a std each": torch.tensor([0.5, 0.7, 1.0, 1.5]),
        "one covariance": covs[0],
        "a covariance each": covs,
    }[kind]
    return posterior.GaussianMixturePrior(means, weights, std)


def bayes(prior, x, sigma):
    """The same denoiser and log-density, one component and one field at a time."""
    out, density = [], []
    for z in x:
        logs, means = [], []
        for k in range(len(prior.weights)):
            c = prior.component_covariance(k)
            s = c + sigma**2 * torch.eye(prior.n, dtype=torch.float64)
            law = torch.distributions.MultivariateNormal(prior.means[k].flatten(), s)
            logs.append(prior.weights[k].log() + law.log_prob(z.flatten()))
            means.append(prior.means[k].flatten() + c @ torch.linalg.solve(s, z.flatten() - prior.means[k].flatten()))
        logs = torch.stack(logs)
        density.append(torch.logsumexp(logs, 0))
        out.append((torch.softmax(logs, 0) @ torch.stack(means)).reshape(z.shape))
    return torch.stack(out), torch.stack(density)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sigma", [1e-4, 0.3, 5.0, 1e4])
def test_denoiser_and_density_are_bayes_rule(kind, sigma):
    prior = mixture(kind)
    x = prior.sample(6, seed=2) + sigma * torch.randn(6, 3, generator=torch.Generator().manual_seed(3)).double()
    mean, density = bayes(prior, x, sigma)
    torch.testing.assert_close(prior.denoise(x, sigma), mean, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(prior.log_prob(x, sigma), density, rtol=1e-9, atol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_denoiser_gives_the_gradient_of_the_log_density(kind):
    prior = mixture(kind)
    x = prior.sample(5, seed=4).requires_grad_(True)
    sigma = torch.tensor([0.01, 0.1, 1.0, 4.0, 50.0], dtype=torch.float64)
    (score,) = torch.autograd.grad(prior.log_prob(x, sigma).sum(), x)
    torch.testing.assert_close(prior.score(x, sigma), score, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_denoiser_is_differentiable(kind):
    prior = mixture(kind)
    x = prior.sample(2, seed=4).requires_grad_(True)
    assert torch.autograd.gradcheck(lambda z: prior.denoise(z, 0.8), (x,))


@pytest.mark.parametrize("kind", KINDS)
def test_own_moments_are_those_of_its_draws(kind):
    prior = mixture(kind)
    draws = prior.sample(200_000, seed=5)
    scale = float(prior.cov.diagonal().max())
    torch.testing.assert_close(draws.mean(0), prior.mean, rtol=0, atol=5 * math.sqrt(scale / 200_000))
    torch.testing.assert_close(draws.T.cov(), prior.cov, rtol=0, atol=0.02 * scale)
    torch.testing.assert_close(prior.reference.cov.apply(torch.eye(3).double()), prior.cov)
    assert prior.rms == pytest.approx(float(prior.cov.trace() / 3) ** 0.5)
    assert prior.sigma_max >= 30 * float(torch.linalg.eigvalsh(prior.cov).max()) ** 0.5
    values = torch.stack([prior.component_variances(k) for k in range(4)])
    torch.testing.assert_close(values, torch.stack([prior.component_covariance(k).diagonal() for k in range(4)]))


def test_single_precision_fields_keep_their_precision_and_their_answer():
    prior = posterior.GaussianMixturePrior(1e4 + 16 * torch.arange(5.0)[:, None].expand(5, 80), torch.ones(5), 0.01)
    x = (prior.means[2] + 0.005)[None].float()
    out = prior.denoise(x, 0.01)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out.double(), (x.double() + prior.means[2]) / 2, rtol=0, atol=2e-3)


def test_image_shaped_events():
    prior = posterior.GaussianMixturePrior(
        torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(0)), torch.ones(3), 0.5
    )
    x = prior.sample(2, seed=1)
    assert x.shape == prior.denoise(x, torch.tensor([0.1, 2.0])).shape == (2, 1, 4, 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(3), torch.ones(3), 1.0), "means have shape"),
        ((torch.full((2, 3), torch.nan), torch.ones(2), 1.0), "not finite"),
        ((torch.zeros(2, 3), torch.ones(3), 1.0), "weights have shape"),
        ((torch.zeros(2, 3), torch.tensor([1.0, 0.0]), 1.0), "weights must be positive"),
        ((torch.zeros(2, 3), torch.ones(2), 0.0), "std must be positive"),
        ((torch.zeros(2, 3), torch.ones(2), torch.ones(3)), "std has shape"),
        ((torch.zeros(2, 3), torch.ones(2), torch.tensor(torch.inf)), "not finite"),
        ((torch.zeros(2, 3), torch.ones(2), torch.ones(3, 3)), "eigenvalue"),
        ((torch.zeros(2, 3), torch.ones(2), torch.ones(3, 3).triu()), "not symmetric"),
    ],
)
def test_what_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        posterior.GaussianMixturePrior(*arguments)


def test_empirical_denoiser_is_the_weighted_mean_of_the_points():
    g = torch.Generator().manual_seed(0)
    points = torch.randn(20, 2, 3, generator=g, dtype=torch.float64)
    weights = torch.rand(20, generator=g, dtype=torch.float64) + 0.1
    prior = posterior.EmpiricalPrior(points, weights)
    x = torch.randn(4, 2, 3, generator=g, dtype=torch.float64)
    for sigma in (0.05, 1.0, 1e3):
        distance = (x[:, None] - points).flatten(2).square().sum(2)
        p = torch.softmax(weights.log() - 0.5 * distance / sigma**2, 1)
        expected = torch.einsum("bn,nij->bij", p, points)
        torch.testing.assert_close(prior.denoise(x, sigma), expected, rtol=1e-6, atol=1e-9)
    at = prior.denoise(points, prior.sigma_min)
    assert (torch.linalg.vector_norm((at - points).flatten(1), dim=1) < 1e-6).float().mean() > 0.9


@pytest.mark.parametrize(
    ("points", "weights", "message"),
    [
        (torch.zeros(5), None, "points have shape"),
        (torch.zeros(1, 2), None, "points have shape"),
        (torch.zeros(3, 2), None, "all points are the same"),
        (torch.full((3, 2), torch.inf), None, "not finite"),
        (torch.randn(3, 2, generator=torch.Generator().manual_seed(0)), torch.ones(2), "weights have shape"),
    ],
)
def test_what_an_empirical_prior_refuses(points, weights, message):
    with pytest.raises(ValueError, match=message):
        posterior.EmpiricalPrior(points, weights)


def test_the_resolution_of_many_points_is_the_distance_to_others():
    """Above a few points distances are found by matrices, in which a point is not quite at itself."""
    points = torch.randn(500, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    among = (points[:, None] - points[None]).square().sum(-1).sqrt() + torch.diag(torch.full((500,), torch.inf).double())
    nearest = float(torch.quantile(among.amin(1), 0.01))
    prior = posterior.EmpiricalPrior(points)
    assert 0.01 * nearest < prior.sigma_min < nearest


@pytest.mark.parametrize("make", [lambda m: posterior.GaussianMixturePrior(m, torch.ones(2), 1.0), posterior.EmpiricalPrior])
def test_fields_too_large_for_a_reference_start_around_their_mean(make):
    prior = make(280.0 + torch.tensor([[-1.0], [1.0]], dtype=torch.float64).expand(2, 4100))
    assert prior.reference is None
    drawn = posterior.sample_prior(prior, draws=16, batch_size=16).mean.mean()
    assert float(drawn) == pytest.approx(280, abs=0.9)  # around 0 all of them ended at 279
