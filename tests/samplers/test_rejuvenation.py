"""Rejuvenation leaves the present target as it is: particles drawn from it in closed form stay there."""

import pytest
import torch

import posterior
from benchmarks.problems.mixture import dense, mixture
from posterior.driver import RunNoise
from posterior.problem import Problem
from posterior.samplers.smc.core import start
from posterior.samplers.smc.fk_filter import PseudoObservations
from posterior.samplers.smc.rejuvenation import metropolis

F64 = torch.float64
N, SIGMA = 4000, 0.8


def gaussian():
    g = torch.Generator().manual_seed(0)
    root = torch.randn(3, 3, generator=g, dtype=F64)
    prior = posterior.GaussianPrior(torch.ones(3, dtype=F64), root @ root.T / 3 + 0.2 * torch.eye(3, dtype=F64))
    matrix = torch.tensor([[1.0, 0.3, 0.0], [0.0, 0.2, -0.6]], dtype=F64)
    likelihood = posterior.GaussianLikelihood(dense(matrix), torch.tensor([[2.0, 1.0]], dtype=F64), 0.5)
    problem = Problem(prior, likelihood.in_standard(prior.affine, (3,)), (3,))
    return problem, posterior.exact_posterior(prior, likelihood)


def noised_posterior(problem, exact):
    """Mean and covariance of x_sigma given y."""
    return exact.location, exact.cov + SIGMA**2 * torch.eye(3, dtype=F64)


def pseudo_posterior(problem, exact):
    """x_sigma given the value of every singular coordinate at its own noise level tau, as FKFilter has it.

    Noise is added little by little on the way up: two levels share that of the lower one.
    """
    guide = PseudoObservations(problem)
    reference = problem.prior.reference
    cov = reference.covariance((3,)).apply(torch.eye(3, dtype=F64))
    v, shared = guide.rows, guide.tau.clamp_max(SIGMA) ** 2
    lift = torch.linalg.solve(v @ cov @ v.T + torch.diag(guide.tau**2), v @ cov + shared[:, None] * v).T
    mean = reference.center + lift @ (guide.y - v @ reference.center)
    return mean, cov + SIGMA**2 * torch.eye(3, dtype=F64) - lift @ (v @ cov + shared[:, None] * v)


CASES = {
    "TDS mmps": (posterior.TDS(twist="mmps"), noised_posterior),
    "TDS reference": (posterior.TDS(twist="reference"), noised_posterior),
    "AFDPS": (posterior.AFDPS(), noised_posterior),
    "AFDPS noised": (posterior.AFDPS(denoised=False), noised_posterior),
    "FKFilter": (posterior.FKFilter(), pseudo_posterior),
}


@pytest.mark.parametrize("name", CASES)
def test_the_target_is_left_as_it_is(name):
    sampler, law = CASES[name]
    problem, exact = gaussian()
    mean, cov = law(problem, exact)
    noise = RunNoise(0, 0, N, (3,), mean)
    x = mean + noise() @ torch.linalg.cholesky(cov).T
    first = sampler.init(problem, noise)
    memory = first.memory
    if name.startswith("TDS"):
        carried = memory.evaluate(problem, x, SIGMA)
    else:
        d = problem.denoise(x, SIGMA)
        carried = d, memory.log_value(problem, x, d, SIGMA)
    state = start(x, torch.zeros(N, dtype=F64), carried, memory, False)
    for _ in range(4):
        state = sampler._rejuvenate(problem, state, 1.15 * SIGMA, SIGMA, noise)
    assert ((state.x - x).square().sum(1) > 0).double().mean() > 0.5
    tolerance = 4 * N**-0.5
    assert ((state.x.mean(0) - mean).abs() < tolerance * cov.diagonal().sqrt()).all()
    found = torch.cov(state.x.T)
    assert ((found - cov).abs().diagonal() < (tolerance * 2**0.5 + 0.02) * cov.diagonal()).all()
    assert torch.equal(state.log_weights, torch.zeros(N, dtype=F64))
    torch.testing.assert_close(state.carried[0], problem.denoise(state.x, SIGMA))


class Uniforms:
    def __init__(self, values):
        self.values = torch.tensor(values, dtype=F64)

    def uniform(self, count):
        return self.values


def test_metropolis_accepts_by_the_ratio():
    now, proposed = torch.zeros(4, 2, dtype=F64), torch.ones(4, 2, dtype=F64)
    ratio = torch.tensor([-1.0, -1.0, 0.0, float("nan")], dtype=F64)
    (kept,) = metropolis((now,), (proposed,), ratio, Uniforms([0.36, 0.38, 0.999, 0.0]))
    assert kept[:, 0].tolist() == [1.0, 0.0, 1.0, 0.0]


def test_copies_are_told_apart():
    """FKFilter on a problem that leaves few ancestors: rejuvenation brings the mode weights closer to the truth."""
    misses = {}
    for moves in (0, 2):
        stds = []
        for seed in range(3):
            p = mixture(8, 4, seed)
            exact = posterior.exact_posterior(p.prior, p.likelihood)
            sampler = posterior.FKFilter(60, rejuvenation=moves)
            draws = posterior.sample(p.prior, p.likelihood, sampler, draws=300, seed=seed)
            stds.append(float(((draws.mean - exact.mean) / exact.std).square().mean()))
        misses[moves] = sum(stds)
    assert misses[2] < misses[0]


def test_rejuvenation_is_counted_and_only_after_resampling():
    p = mixture(8, 2)
    for sampler, calls in (
        (posterior.TDS(10, twist="reference", ess_threshold=1.0, rejuvenation=1), 10 + 2 * 9),
        (posterior.TDS(10, twist="reference", ess_threshold=0.0, rejuvenation=1), 10),
        (posterior.AFDPS(10, ess_threshold=1.0, rejuvenation=2), 10 + 2 * 2 * 9),
    ):
        assert posterior.sample(p.prior, p.likelihood, sampler, draws=8).stats.nfe == calls
