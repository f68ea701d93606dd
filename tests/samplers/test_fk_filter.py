import pytest
import torch

import posterior
from benchmarks.metrics import sliced_w2
from benchmarks.problems.mixture import dense, mixture
from benchmarks.problems.random_field import random_field


@pytest.mark.parametrize(("d", "m"), [(8, 4), (80, 4)])
def test_the_mixture_is_sampled_within_three_times_the_floor(d, m):
    p = mixture(d, m)
    exact = posterior.exact_posterior(p.prior, p.likelihood)
    target = exact.sample(1000, seed=1)
    floor = sum(sliced_w2(target, exact.sample(1000, seed=s)) for s in (2, 3)) / 2
    draws = posterior.sample(p.prior, p.likelihood, posterior.FKFilter(100), draws=1000, seed=0)
    assert sliced_w2(draws.samples, target, draws.weights) < 3 * floor
    assert abs(draws.stats.log_evidence[0] - exact.log_evidence) < 4 * draws.stats.log_evidence_std[0]
    assert float((draws.std / exact.std).mean()) == pytest.approx(1, abs=0.1)


def test_single_precision_stays_single():
    p = mixture(8, 4)
    seen = set()

    class Watched(posterior.GaussianMixturePrior):
        def denoise(self, x, sigma):
            seen.add(x.dtype)
            return super().denoise(x, sigma)

    prior = Watched(p.prior.means, p.prior.weights, 1.0)
    for sampler in (posterior.FKFilter(10), posterior.TDS(10, twist="reference"), posterior.AFDPS(10)):
        posterior.sample(prior, p.likelihood, sampler, draws=8, dtype=torch.float32)
    assert seen == {torch.float32}


def gaussian(sigmas, gains):
    """Four unknowns of different variance, each but the last two seen with its own gain and noise."""
    prior = posterior.GaussianPrior(
        torch.tensor([0.5, -1.0, 0.0, 1.0], dtype=torch.float64),
        torch.diag(torch.tensor([1.0, 1.5, 0.8, 1.0], dtype=torch.float64)),
    )
    matrix = torch.zeros(3, 4, dtype=torch.float64)
    matrix[0, 0], matrix[1, 1] = gains
    y = torch.tensor([[1.0, -2.0, 0.3]], dtype=torch.float64)
    return prior, posterior.GaussianLikelihood(dense(matrix), y, torch.tensor([[*sigmas, 1.0]], dtype=torch.float64))


@pytest.mark.parametrize(
    ("sigmas", "gains"),
    [((0.2, 0.5), (1.0, 0.7)), ((0.2, 1e5), (1.0, 1.0)), ((0.2, 0.5), (1.0, 0.0)), ((1e-4, 1e4), (1.0, 1e-3))],
    ids=["plain", "noisier than the first level", "gain of zero", "sharp and drowned"],
)
def test_every_gain_and_noise_level_is_taken(sigmas, gains):
    prior, likelihood = gaussian(sigmas, gains)
    exact = posterior.exact_posterior(prior, likelihood)
    draws = posterior.sample(prior, likelihood, posterior.FKFilter(), draws=2000, seed=0)
    tolerance = 0.2 * exact.std + 0.02
    assert ((draws.mean - exact.mean).abs() < tolerance).all()
    assert ((draws.std - exact.std).abs() < 0.5 * tolerance).all()
    assert draws.stats.log_evidence[0] == pytest.approx(exact.log_evidence, abs=0.25)


@pytest.mark.parametrize("operator", ["pooling", "blur", "inpainting"])
def test_weights_of_a_gaussian_prior_are_constant_at_any_number_of_steps(operator):
    p = random_field(operator, side=8, dtype=torch.float64)
    exact = posterior.exact_posterior(p.prior, p.likelihood)
    draws = posterior.sample(p.prior, p.likelihood, posterior.FKFilter(6), draws=400, seed=0)
    assert float(draws.log_weights.std()) < 1e-6
    assert draws.stats.log_evidence[0] == pytest.approx(exact.log_evidence, abs=1e-5)
    z = (draws.mean - exact.mean) / exact.std * 400**0.5
    assert float(z.square().mean()) < 2
    assert float((draws.std / exact.std).mean()) == pytest.approx(1, abs=0.03)


def test_modes_that_come_apart_early_do_not_wait_for_the_data():
    """Modes of 80 unknowns part long before sigma falls to tau; what data say of them by then must be in the weights."""
    means = torch.stack([torch.full((80,), 3.0), torch.full((80,), -3.0)]).double()
    prior = posterior.GaussianMixturePrior(means, torch.tensor([0.1, 0.9]).double(), 1.0)
    row = torch.nn.functional.one_hot(torch.tensor([0]), 80).double()
    likelihood = posterior.GaussianLikelihood(dense(row), torch.full((1, 1), 3.0).double(), 0.5)
    exact = posterior.exact_posterior(prior, likelihood)
    stats = posterior.sample(prior, likelihood, posterior.FKFilter(100), draws=300, seed=0).stats
    # the paper's potential, which leaves the prior out, has 0.3
    assert stats.log_evidence_std[0] < 0.2
    assert abs(stats.log_evidence[0] - exact.log_evidence) < 4 * stats.log_evidence_std[0]


def test_network_calls_are_one_a_step():
    p = mixture(8, 2)
    stats = posterior.sample(p.prior, p.likelihood, posterior.FKFilter(10, rejuvenation=0), draws=8, batch_size=3).stats
    assert (stats.nfe, stats.vjps) == (10, 0)


def test_what_is_refused(monkeypatch):
    for bad in ({"steps": 0}, {"ess_threshold": -0.1}, {"resampling": "residual"}, {"rejuvenation": -1}):
        with pytest.raises(ValueError, match="FKFilter: "):
            posterior.FKFilter(**bad)
    monkeypatch.setattr("posterior.samplers.smc.fk_filter.LARGEST_DENSE", 1)
    p = mixture(8, 2)
    with pytest.raises(ValueError, match="FKFilter: .* has 2 singular values, .* at most 1 are taken"):
        posterior.sample(p.prior, p.likelihood, posterior.FKFilter(3), draws=4)
