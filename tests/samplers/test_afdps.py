import math

import pytest
import torch

import posterior
from benchmarks.metrics import sliced_w2
from benchmarks.problems.mixture import dense, mixture
from benchmarks.problems.nonlinear import nonlinear
from benchmarks.problems.random_field import OPERATORS, random_field


def floors(draws, exact, seeds=(2, 3)):
    """Sliced W2 to an exact sample, in units of that between exact samples of 1000."""
    target = exact.sample(1000, seed=1)
    floor = sum(sliced_w2(target, exact.sample(1000, seed=s)) for s in seeds) / len(seeds)
    return sliced_w2(draws.samples, target, draws.weights) / floor


@pytest.mark.parametrize(("d", "m", "bound"), [(8, 4, 1.5), (80, 2, 2.5)])
def test_the_mixture_is_sampled_at_the_floor(d, m, bound):
    p = mixture(d, m)
    exact = posterior.exact_posterior(p.prior, p.likelihood)
    draws = posterior.sample(p.prior, p.likelihood, posterior.AFDPS(100), draws=1000, seed=0)
    assert floors(draws, exact) < bound
    assert abs(draws.stats.log_evidence[0] - exact.log_evidence) < 3 * draws.stats.log_evidence_std[0]
    assert float((draws.std / exact.std).mean()) == pytest.approx(1, abs=0.12)


def test_the_deterministic_variant_too():
    p = mixture(8, 4)
    exact = posterior.exact_posterior(p.prior, p.likelihood)
    draws = posterior.sample(p.prior, p.likelihood, posterior.AFDPS(150, variant="ode"), draws=500, seed=0)
    assert floors(draws, exact) < 2
    assert float((draws.std / exact.std).mean()) == pytest.approx(1, abs=0.07)


@pytest.mark.parametrize(("operator", "denoised"), [*((name, True) for name in OPERATORS), ("pooling", False)])
def test_weights_of_a_gaussian_field_are_constant(operator, denoised):
    """At any number of steps, with the evidence in closed form; so the draws are exact and independent."""
    p = random_field(operator)
    exact = posterior.exact_posterior(p.prior, p.likelihood)
    draws = posterior.sample(p.prior, p.likelihood, posterior.AFDPS(4, denoised=denoised), draws=256, seed=0)
    assert draws.stats.ess[0] == pytest.approx(256, rel=1e-6)
    assert draws.stats.log_evidence[0] == pytest.approx(exact.log_evidence, rel=1e-5)
    assert draws.stats.nfe == 4
    bias = ((draws.mean.double() - exact.mean) / exact.std).square().mean()
    # the mean of 256 draws has a variance of 1/256; neighbouring pixels are correlated
    assert float(bias) == pytest.approx(1 / 256, abs=0.05**2)
    assert float((draws.std.double() / exact.std).mean()) == pytest.approx(1, abs=0.03)


def gaussian(d=6, m=2):
    g = torch.Generator().manual_seed(3)
    root = torch.randn(d, d, generator=g, dtype=torch.float64)
    prior = posterior.GaussianPrior(torch.randn(d, generator=g, dtype=torch.float64), root @ root.T / d)
    matrix = torch.randn(m, d, generator=g, dtype=torch.float64)
    return prior, posterior.GaussianLikelihood(dense(matrix), torch.ones(1, m, dtype=torch.float64), 0.3)


class Bare(posterior.Prior):
    """A prior whose reference Gaussian is not known."""

    def __init__(self, inner):
        self.inner, self.event_shape, self.rms = inner, inner.event_shape, inner.rms
        self.sigma_min, self.sigma_max = inner.sigma_min, inner.sigma_max

    def denoise(self, x, sigma):
        return self.inner.denoise(x, sigma)


def test_a_prior_without_a_reference_is_taken():
    prior, likelihood = gaussian()
    exact = posterior.exact_posterior(prior, likelihood)
    draws = posterior.sample(Bare(prior), likelihood, posterior.AFDPS(60), draws=2000, seed=0)
    assert ((draws.mean - exact.mean).abs() < 0.15 * exact.std).all()
    assert float((draws.std / exact.std).mean()) == pytest.approx(1, abs=0.03)
    assert abs(draws.stats.log_evidence[0] - exact.log_evidence) < 4 * draws.stats.log_evidence_std[0]


def test_gamma_and_the_gradient_of_psi_leave_the_answer_alone():
    prior, likelihood = gaussian()
    exact = posterior.exact_posterior(prior, likelihood)
    for options in ({"gamma": 2.0}, {"corrections": 1}, {"variant": "ode", "corrections": 2}):
        draws = posterior.sample(prior, likelihood, posterior.AFDPS(100, **options), draws=1000, seed=0)
        assert ((draws.mean - exact.mean).abs() < 0.2 * exact.std).all()
        torch.testing.assert_close(draws.std, exact.std, rtol=0.1, atol=0)
        assert abs(draws.stats.log_evidence[0] - exact.log_evidence) < 0.2


@pytest.mark.parametrize("cell", ["wind speed", "counts", "detection limit"])
def test_nonlinear_operators_and_counts_are_exact_on_a_set_of_points(cell):
    p = nonlinear(cell)
    exact = posterior.exact_posterior(p.prior, p.likelihood)
    draws = posterior.sample(p.prior, p.likelihood, posterior.AFDPS(100), draws=1000, seed=0)
    assert floors(draws, exact) < 2
    assert abs(draws.stats.log_evidence[0] - exact.log_evidence) < 4 * draws.stats.log_evidence_std[0]


def test_network_calls():
    prior, likelihood = gaussian()
    for options, calls in (({}, 10), ({"variant": "ode"}, 19), ({"corrections": 2}, 28)):
        sampler = posterior.AFDPS(10, rejuvenation=0, **options)
        stats = posterior.sample(prior, likelihood, sampler, draws=8).stats
        assert (stats.nfe, stats.vjps) == (calls, 0)
    bent = nonlinear("wind speed")  # two particles for each draw
    assert posterior.sample(bent.prior, bent.likelihood, posterior.AFDPS(10, rejuvenation=0), draws=8).stats.nfe == 20


def test_what_is_refused():
    for bad in (
        {"steps": 0},
        {"variant": "pde"},
        {"gamma": 0.0},
        {"step_size": -1.0},
        {"probes": 0},
        {"corrections": -1},
        {"rejuvenation": -1},
        {"gamma": math.nan},
        {"denoised": True, "corrections": 1},
    ):
        with pytest.raises(ValueError, match="AFDPS: "):
            posterior.AFDPS(**bad)
