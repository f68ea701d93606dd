"""The log-evidence of TDS: no bias beyond that of the steps, variance as 1/N, a standard error that is right.

With 50 steps of the mixture (8, 2) the estimate is about 0.065 too low at any number of particles: the evidence of the
model in so many steps. At 100 steps it is within 0.01. The twist "mmps" is now and then too sure of itself, and its estimate
has a long upper tail, so that the variance over a few runs says little of how it falls; that of "reference" has none.
"""

import math
from functools import cache

import deepinv
import pytest
import torch

import posterior
from benchmarks.problems.mixture import mixture


@cache
def misses(twist, particles, runs, steps=100):
    """Error of the log-evidence of independent runs, and the standard errors that they report."""
    p = mixture(8, 2)
    exact = posterior.exact_posterior(p.prior, p.likelihood)
    tds = posterior.TDS(steps, twist=twist)
    stats = posterior.sample(p.prior, p.likelihood, tds, draws=particles, runs=runs, seed=7).stats
    return torch.tensor(stats.log_evidence) - exact.log_evidence, torch.tensor(stats.log_evidence_std)


@pytest.mark.parametrize(("twist", "particles"), [("mmps", 200), ("reference", 400)])
def test_the_mean_over_runs_is_the_closed_form(twist, particles):
    error, _ = misses(twist, particles, 16)
    pooled = float(torch.logsumexp(error, 0)) - math.log(len(error))
    assert abs(pooled) < 3 * float(error.std()) / len(error) ** 0.5 + 0.01


@pytest.mark.parametrize(("twist", "particles"), [("mmps", 200), ("reference", 400)])
def test_runs_are_within_their_standard_errors(twist, particles):
    error, std = misses(twist, particles, 16)
    assert (error.abs() < 2 * std).double().mean() > 0.8
    assert float(std.square().mean().sqrt()) == pytest.approx(float(error.square().mean().sqrt()), rel=0.5)


def test_the_variance_falls_as_one_over_the_particles():
    ratio = float(misses("reference", 50, 32)[0].var() / misses("reference", 400, 16)[0].var())
    # 8, and about the 1 % points of F(31, 15) around it
    assert 8 / 3.5 < ratio < 8 * 3.5


@pytest.mark.parametrize(
    "sampler", [posterior.TDS(5, "reference"), posterior.AFDPS(5), posterior.FKFilter(5)], ids=["TDS", "AFDPS", "FKFilter"]
)
def test_it_is_that_of_the_data_and_not_of_whitened_ones(sampler):
    g = torch.Generator().manual_seed(0)
    root, y = (torch.randn(size, generator=g, dtype=torch.float64) for size in ((3, 3), (1, 3)))
    noise = root @ root.T + 0.1 * torch.eye(3)
    prior = posterior.GaussianPrior(torch.zeros(3, dtype=torch.float64), 2 * torch.eye(3))
    same = deepinv.physics.LinearPhysics(A=lambda x, **_: x, A_adjoint=lambda y, **_: y)
    like = posterior.CorrelatedGaussianLikelihood(same, y, noise)
    exact = torch.distributions.MultivariateNormal(torch.zeros(3).double(), 2 * torch.eye(3) + noise).log_prob(y)
    assert posterior.sample(prior, like, sampler, draws=4).stats.log_evidence[0] == pytest.approx(float(exact), abs=1e-6)
