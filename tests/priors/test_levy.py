"""Levy chains: the lattice denoiser against closed forms and quadrature, the Gibbs sampler against the denoiser."""

import math

import pytest
import torch

import posterior
from benchmarks.problems.levy import LAWS, OPERATORS, levy
from posterior.gibbs import levy_posterior


def noised(prior, sigma, n=3, seed=0):
    g = torch.Generator().manual_seed(seed)
    return prior.sample(n, seed=seed) + sigma * torch.randn(n, prior.d, generator=g, dtype=torch.float64)


def moments(prior, x, sigma):
    """Posterior mean and standard deviations of x0 given one field, by the denoiser and its derivative."""
    leaf = x.clone().requires_grad_(True)
    mean = prior.denoise(leaf, sigma)
    slopes = [torch.autograd.grad(mean[0, k], leaf, retain_graph=True)[0][0, k] for k in range(prior.d)]
    return mean.detach()[0], sigma * torch.stack(slopes).sqrt()


@pytest.mark.parametrize("sigma", [0.02, 0.3, 1.0, 4.0, 30.0, 500.0])
def test_gauss_law_is_the_gaussian_prior(sigma):
    prior = posterior.LevyPrior("gauss", 24, 0.5)
    cov = prior.reference.cov.apply(torch.eye(24, dtype=torch.float64))
    gaussian = posterior.GaussianPrior(torch.zeros(24, dtype=torch.float64), cov)
    x, v = noised(prior, sigma), torch.ones(3, 24, dtype=torch.float64)
    found, wanted = x.clone().requires_grad_(True), x.clone().requires_grad_(True)
    a, b = prior.denoise(found, sigma), gaussian.denoise(wanted, sigma)
    torch.testing.assert_close(a, b, rtol=0, atol=1e-5)
    torch.testing.assert_close(*(torch.autograd.grad(m, z, v)[0] for m, z in ((a, found), (b, wanted))), rtol=0, atol=1e-5)


def increment_law(law, u):
    """Density of the continuous part."""
    if law == "student":
        return 2 / (math.pi * math.sqrt(3)) / (1 + u**2 / 3) ** 2
    return (0.1 if law == "bernoulli-laplace" else 1.0) * torch.exp(-u.abs()) / 2


@pytest.mark.parametrize("law", LAWS[1:])
@pytest.mark.parametrize("sigma", [0.1, 0.7, 3.0])
def test_two_steps_by_quadrature(law, sigma):
    """E[x | x_sigma] of two increments, summed over a fine grid of both with the atom put in by hand."""
    prior = posterior.LevyPrior(law, 2)
    x = torch.tensor([0.8, -0.4], dtype=torch.float64) * max(sigma, 1)
    step = 0.012 if sigma < 1 else 0.06
    u = (torch.arange(-1000, 1001, dtype=torch.float64) + 0.5) * step
    mass = increment_law(law, u) * step
    if law == "bernoulli-laplace":
        u, mass = torch.cat([u, torch.zeros(1).double()]), torch.cat([mass, torch.tensor([0.9]).double()])
    x1, x2 = u[:, None], u[:, None] + u
    p = mass[:, None] * mass * torch.exp(-0.5 * ((x[0] - x1) ** 2 + (x[1] - x2) ** 2) / sigma**2)
    wanted = torch.stack([(p * x1).sum(), (p * x2).sum()]) / p.sum()
    torch.testing.assert_close(prior.denoise(x[None], sigma)[0], wanted, rtol=0, atol=5e-3 * sigma)


@pytest.mark.parametrize("law", LAWS)
def test_draws_have_the_variance_of_the_reference(law):
    prior = posterior.LevyPrior(law, 8)
    u = torch.diff(prior.sample(20_000, seed=1), dim=1, prepend=torch.zeros(20_000, 1, dtype=torch.float64))
    loose = 0.5 if law == "student" else 0.05  # no fourth moment
    assert float(u.square().mean()) == pytest.approx(prior.increment_variance, rel=loose)
    assert float(prior.reference.cov.apply(torch.eye(8).double())[2, 5]) == pytest.approx(3 * prior.increment_variance)
    if law == "bernoulli-laplace":
        assert float((u != 0).double().mean()) == pytest.approx(0.1, abs=0.005)


def test_items_know_nothing_of_each_other():
    prior = posterior.LevyPrior("bernoulli-laplace", 16)
    sigmas = torch.tensor([0.05, 2.0, 0.05, 40.0], dtype=torch.float64)
    x = prior.sample(4, seed=2) + sigmas[:, None]
    x[0] += 500.0  # far from any draw: its windows move, the others' stay
    together = prior.denoise(x, sigmas)
    alone = torch.cat([prior.denoise(x[i : i + 1], float(s)) for i, s in enumerate(sigmas)])
    torch.testing.assert_close(together, alone, rtol=1e-10, atol=1e-10)
    assert prior.denoise(x.float(), sigmas).dtype == torch.float32


def test_a_jump_is_followed_and_a_still_chain_averaged():
    """Where the linear estimate smears a jump, the exact one does not; where nothing jumps it is a running mean."""
    prior = posterior.LevyPrior("bernoulli-laplace", 20, rate=0.05)
    x = torch.zeros(1, 20, dtype=torch.float64)
    x[:, 10:] = 8.0
    x += 0.3 * torch.randn(1, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    d = prior.denoise(x, 0.3)[0]
    assert float((d[:10]).abs().max()) < 0.3 and float((d[10:] - 8).abs().max()) < 0.35
    assert float(d[10:].std()) < 0.5 * float(x[0, 10:].std())


@pytest.mark.parametrize("law", LAWS)
def test_gibbs_agrees_with_the_denoiser(law):
    """With A the identity the denoiser at the noise level is the posterior mean, and its slope the variance."""
    prior, sigma = posterior.LevyPrior(law, 8), 0.5
    y = noised(prior, sigma, 1, seed=3)
    eye = torch.eye(8, dtype=torch.float64)
    exact = levy_posterior(prior, eye, y[0], torch.full((8,), sigma**2, dtype=torch.float64), kept=150)
    mean, std = moments(prior, y, sigma)
    z = (exact.mean - mean) / std
    assert float(z.abs().max()) < 5 / math.sqrt(len(exact.draws))
    assert float((exact.std / std).log().abs().mean()) < (0.1 if law == "bernoulli-laplace" else 0.03)
    assert float(exact.rhat.max()) < 1.03


def test_gibbs_is_the_gaussian_posterior_of_a_gauss_chain():
    p = levy("gauss", "deconvolution", d=12)
    cov = p.prior.reference.cov.apply(torch.eye(12, dtype=torch.float64))
    gaussian = posterior.GaussianPrior(torch.zeros(12, dtype=torch.float64), cov)
    wanted = posterior.exact_posterior(gaussian, p.likelihood)
    found = posterior.exact_posterior(p.prior, p.likelihood)
    assert float(((found.mean - wanted.mean) / wanted.std).abs().max()) < 5 / math.sqrt(len(found.draws))
    torch.testing.assert_close(found.std, wanted.std, rtol=0.06, atol=0)


@pytest.mark.parametrize("unit", [1e-12, 1e8])
@pytest.mark.parametrize("law", LAWS)
def test_gibbs_keeps_units(law, unit):
    def found(unit):
        y = unit * torch.tensor([0.3, 1.5, -0.5], dtype=torch.float64)
        prior, noise = posterior.LevyPrior(law, 3, unit), torch.full((3,), (0.5 * unit) ** 2, dtype=torch.float64)
        return levy_posterior(prior, torch.eye(3, dtype=torch.float64), y, noise, chains=8, burn_in=10, kept=8).mean / unit

    torch.testing.assert_close(found(unit), found(1.0))


def test_kept_states_are_handed_out_once():
    p = levy("laplace", "imputation", d=6)
    exact = posterior.exact_posterior(p.prior, p.likelihood)
    n = len(exact.draws)
    sample = exact.sample(n, seed=1)
    assert len(sample.unique(dim=0)) == n and torch.equal(exact.sample(5, seed=1), sample[:5])
    with pytest.raises(ValueError, match=f"{n + 1} draws were asked for"):
        exact.sample(n + 1)


@pytest.mark.parametrize("operator", OPERATORS)
def test_bridge_is_near_on_a_gauss_chain(operator):
    p = levy("gauss", operator, d=10)
    exact = posterior.exact_posterior(p.prior, p.likelihood)
    draws = posterior.sample(p.prior, p.likelihood, posterior.GaussianBridge(2), draws=200, batch_size=200)
    assert float(((draws.mean - exact.mean) / exact.std).square().mean().sqrt()) < 3 / math.sqrt(200)
    assert float((draws.std / exact.std).mean()) == pytest.approx(1, abs=0.1)


def test_what_is_refused():
    for bad, words in [
        ({"law": "cauchy"}, "law must be one of"),
        ({"law": "gauss", "d": 1}, "d must be at least 2"),
        ({"law": "gauss", "scale": 0.0}, "scale must be positive"),
        ({"law": "bernoulli-laplace", "rate": 1.5}, "rate must be"),
        ({"law": "student", "dof": 2.0}, "dof must be above 2"),
    ]:
        with pytest.raises(ValueError, match=f"LevyPrior: {words}"):
            posterior.LevyPrior(**bad)
    with pytest.raises(ValueError, match=r"sigma has shape \(2,\); wanted"):
        posterior.LevyPrior("gauss", 4).denoise(torch.zeros(3, 4), torch.ones(2))
