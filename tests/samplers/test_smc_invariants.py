"""What holds for every sampler of weighted particles: a run is the unit, and nothing else matters to it."""

import math

import deepinv
import pytest
import torch

import posterior
from benchmarks.problems.mixture import mixture
from posterior.priors.base import Affine

SAMPLERS = {
    "TDS mmps": posterior.TDS(8, twist="mmps", sigma_min=0.1, rejuvenation=1),
    "TDS reference": posterior.TDS(8, twist="reference", sigma_min=0.1, rejuvenation=1),
    "AFDPS sde": posterior.AFDPS(8, sigma_min=0.1),
    "AFDPS ode": posterior.AFDPS(8, variant="ode", sigma_min=0.1),
    "FKFilter": posterior.FKFilter(8, sigma_min=0.1),
}

every = pytest.mark.parametrize("name", SAMPLERS)


def run(name, p=None, **kwargs):
    p = p or mixture(8, 2)
    return posterior.sample(p.prior, p.likelihood, SAMPLERS[name], **{"draws": 20, "seed": 5, **kwargs})


@every
def test_chunks_runs_and_checkpoints_change_nothing(name, tmp_path):
    p = mixture(8, 2)
    whole = run(name, p, runs=3)
    assert whole.chains == 3 and whole.samples.shape == (60, 8)
    assert len(whole.stats.ess) == len(whole.stats.log_evidence) == len(whole.stats.log_evidence_std) == 3
    for chunk in (1, 7):
        pieces = run(name, p, runs=3, batch_size=chunk)
        torch.testing.assert_close(pieces.samples, whole.samples, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(pieces.log_weights, whole.log_weights, rtol=1e-6, atol=1e-6)
    path = tmp_path / "runs.safetensors"
    del p.prior.reference  # found when first asked for, which must not make it another run
    run(name, p, runs=1, checkpoint=path)
    resumed = run(name, p, runs=3, checkpoint=path)
    assert torch.equal(resumed.samples, whole.samples)
    assert resumed.stats.log_evidence == whole.stats.log_evidence
    again = run(name, p, runs=3, checkpoint=path).stats
    assert (again.nfe, again.vjps) == (resumed.stats.nfe, resumed.stats.vjps) == (whole.stats.nfe, whole.stats.vjps)
    alone = run(name, p)
    assert torch.equal(alone.samples, whole.samples[:20]) and not torch.equal(whole.samples[:20], whole.samples[20:40])
    with pytest.raises(posterior.SamplingError, match="another run"):
        run(name, p, draws=21, checkpoint=path)


@every
def test_seeds_are_seeds_and_global_random_state_does_not_matter(name):
    first = run(name, seed=0).samples
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(12345)
        assert torch.equal(run(name, seed=0).samples, first)
    assert not torch.equal(run(name, seed=1).samples, first)


@every
def test_inputs_are_left_as_they_were(name):
    p = mixture(8, 2)
    tensors = [p.prior.means, p.prior.weights, p.likelihood.y, p.likelihood.sigma]
    before, versions = [t.clone() for t in tensors], [t._version for t in tensors]
    draws = run(name, p)
    assert all(torch.equal(now, then) for now, then in zip(tensors, before, strict=True))
    assert [t._version for t in tensors] == versions
    assert draws.samples.is_leaf and not draws.samples.requires_grad


@every
def test_network_calls_are_all_counted(name):
    p, seen = mixture(8, 2), []
    inner = p.prior.denoise
    p.prior.denoise = lambda x, sigma: seen.append(len(x)) or inner(x, sigma)
    assert run(name, p, batch_size=3).stats.nfe == sum(seen) / 20


@every
@pytest.mark.parametrize("calls", [0, 4])
def test_values_that_are_not_finite_stop_the_run(name, calls):
    p, seen = mixture(8, 2), []
    inner = p.prior.denoise
    p.prior.denoise = lambda x, sigma: (math.nan if len(seen) > calls else 1) * inner(x, seen.append(1) or sigma)
    with pytest.raises(posterior.SamplingError, match=r"not finite after step \d of 8 .*of run 0"):
        run(name, p)


@every
@pytest.mark.parametrize("factor", [1e-3, 250.0])
def test_rescaling_the_physical_units_rescales_the_draws(name, factor):
    p = mixture(8, 2)
    wanted = run(name, p)
    like = p.likelihood
    y = like.operator.A(torch.full((1, 8), 3.0, dtype=torch.float64)) + factor * like.y
    rescaled = posterior.GaussianLikelihood(like.operator, y, factor * like.sigma)
    p.prior.affine = Affine(factor, 3.0)
    found = posterior.sample(p.prior, rescaled, SAMPLERS[name], draws=20, seed=5)
    torch.testing.assert_close((found.samples - 3) / factor, wanted.samples, rtol=1e-6, atol=1e-5)


@every
def test_an_operator_that_is_not_linear_is_taken_or_refused_by_name(name):
    p = mixture(8, 2)
    speed = deepinv.physics.Physics(A=lambda x, **_: (x.square().sum(1, keepdim=True) + 1e-12).sqrt())
    likelihood = posterior.GaussianLikelihood(speed, torch.tensor([[20.0]], dtype=torch.float64), 0.5)
    if name in ("FKFilter", "TDS reference"):
        with pytest.raises(ValueError, match=f"{name.split()[0]}: .*linear operators only"):
            posterior.sample(p.prior, likelihood, SAMPLERS[name], draws=10)
    else:
        draws = posterior.sample(p.prior, likelihood, SAMPLERS[name], draws=10)
        assert torch.isfinite(draws.samples).all() and math.isfinite(draws.stats.log_evidence[0])
