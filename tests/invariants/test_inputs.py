"""Random state, inputs, counts and units."""

import copy
import math
import random

import deepinv
import numpy as np
import pytest
import torch

import posterior
from posterior.priors.base import Affine
from tests.invariants.setting import (
    SAMPLERS,
    SHAPE,
    SOLVED,
    STEPS,
    Counting,
    InUnits,
    assert_same,
    draw,
    every,
    gaussian_prior,
    inpainting,
    likelihood,
    network_prior,
    normal,
    sampler_of,
    single,
)

# 2. Randomness.


@every
def test_global_random_state_is_neither_moved_nor_read(name):
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    first = draw(name, progress=True).samples
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])
    assert random.getstate() == states[2]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(12345)
        assert torch.equal(draw(name).samples, first)


@every
def test_zero_is_a_seed_like_any_other(name):
    zero, default, one, large = (draw(name, **o).samples for o in ({"seed": 0}, {}, {"seed": 1}, {"seed": 2**63}))
    assert torch.equal(zero, default)
    for other in (one, large):
        assert ((zero - other).flatten(1).abs().amax(1) > 0.1).all()


# 3. Nothing passed in is changed.


@every
def test_inputs_are_left_as_they_were(name):
    prior, physics = network_prior(), inpainting()
    y, sigma = likelihood(physics).y, torch.full((1, *SHAPE), 0.1)
    like, sampler = posterior.GaussianLikelihood(physics, y, sigma), sampler_of(name)
    tensors = [y, sigma, prior.reference.power, prior.reference.frequencies]
    tensors += [*prior.network.state_dict().values(), *physics.state_dict().values()]
    before, versions = [t.clone() for t in tensors], [t._version for t in tensors]
    physics_before, sampler_before, attributes = (
        copy.deepcopy(physics.__dict__),
        repr(sampler),
        set(vars(prior)),
    )
    grads = [(p.requires_grad, p.grad) for p in prior.network.parameters()]
    draw(name, prior, like, sampler=sampler)
    assert all(torch.equal(now, then) for now, then in zip(tensors, before, strict=True))
    assert [t._version for t in tensors] == versions
    assert [(p.requires_grad, p.grad) for p in prior.network.parameters()] == grads
    assert not prior.network.training
    assert set(vars(prior)) == attributes
    assert physics.__dict__.keys() == physics_before.keys()
    assert repr(sampler) == sampler_before
    assert like.y is y
    assert not y.requires_grad


@every
def test_gaussian_prior_is_left_as_it_was(name):
    prior = gaussian_prior()
    tensors = [prior.reference.center, prior.reference.cov.eigenvalues]
    before = [t.clone() for t in tensors]
    draw(name, prior)
    assert all(torch.equal(now, then) for now, then in zip(tensors, before, strict=True))


@every
def test_draws_carry_no_graph(name):
    draws = draw(name)
    assert not draws.samples.requires_grad
    assert draws.samples.is_leaf


# 4. Counting.


@pytest.mark.parametrize("steps", [1, 3])
@every
def test_network_calls_and_gradients_are_counted_and_no_more_than_needed(name, steps):
    prior = Counting(network_prior())
    stats = draw(name, prior, steps=steps, draws=3, batch_size=2).stats
    nfe, vjps = SAMPLERS[name][1](steps)
    assert (stats.nfe, stats.vjps) == (nfe, vjps)
    assert prior.tally == {"nfe": 3 * nfe, "vjps": 3 * vjps}


@single
def test_progress_reports_steps_and_calls(name):
    seen = []
    draws = draw(name, draws=3, batch_size=2, progress=seen.append)
    assert [p.done for p in seen] == list(range(1, 2 * STEPS + 1))
    assert {p.total for p in seen} == {2 * STEPS}
    assert seen[-1].nfe == 3 * draws.stats.nfe
    assert [p.nfe for p in seen] == sorted(p.nfe for p in seen)
    assert all(math.isfinite(p.info["sigma"]) for p in seen)


@single
def test_progress_reports_the_draws_that_are_finished(name):
    seen = []
    draw(name, draws=3, batch_size=2, progress=seen.append)
    # those of the first batch are finished while the second is under way
    assert [p.draws for p in seen[: STEPS - 1]] == [0] * (STEPS - 1)
    assert [p.draws for p in seen[STEPS : 2 * STEPS - 1]] == [2] * (STEPS - 1)


# 5. Units.


@pytest.mark.parametrize("factor", [1e-3, 250.0])
@every
def test_rescaling_the_physical_units_rescales_the_draws(name, factor):
    """Field and data in millikelvin instead of kelvin, from another origin: the same draws, in millikelvin."""
    prior, like = network_prior(), likelihood(dtype=torch.float64)
    shift = torch.tensor(3.0, dtype=torch.float64)
    y = like.operator.A(shift + factor * torch.zeros(1, *SHAPE, dtype=torch.float64)) + factor * like.y
    rescaled = posterior.GaussianLikelihood(like.operator, y, 0.1 * factor)
    wanted = draw(name, prior, like).samples
    found = draw(name, InUnits(prior, Affine(factor, shift)), rescaled).samples
    assert_same((found - shift) / factor, wanted, SOLVED)


@every
def test_affine_map_is_applied_once_on_each_side(name):
    """A map for every grid point equals an operator that contains the map."""
    scale, shift = (
        normal(*SHAPE, seed=4, dtype=torch.float64).exp(),
        normal(*SHAPE, seed=5, dtype=torch.float64),
    )
    # DPS steps in units of the field's scale, so the map must not change that.
    scale = scale / scale.square().mean().sqrt()
    inner, like = network_prior(), likelihood(dtype=torch.float64)
    mask = like.operator.mask
    seen = deepinv.physics.LinearPhysics(
        A=lambda z, **_: mask.to(z) * scale.to(z) * z,
        A_adjoint=lambda u, **_: scale.to(u) * mask.to(u) * u,
        img_size=SHAPE,
    )
    standard = posterior.GaussianLikelihood(seen, like.y - mask * shift, 0.1)
    wanted = shift + scale * draw(name, inner, standard).samples
    assert_same(draw(name, InUnits(inner, Affine(scale, shift)), like).samples, wanted, SOLVED)


@every
def test_draws_are_in_the_priors_units(name):
    prior = network_prior()
    prior.units = "K"
    assert draw(name, prior).units == "K"
