"""A draw is its own: batches, order, what came before, stops and checkpoints change nothing."""

from dataclasses import dataclass
from datetime import timedelta
from functools import partial

import numpy as np
import pytest
import torch
from xarray import DataArray

import posterior
from posterior.driver import DrawNoise
from posterior.priors.base import Affine
from posterior.problem import Problem
from tests.invariants.setting import (
    SHAPE,
    STEPS,
    Counting,
    assert_same,
    draw,
    every,
    inpainting,
    likelihood,
    network_prior,
    sampler_of,
    single,
)


@every
def test_draws_are_the_same_at_any_batch_size(name):
    one, three, all_at_once = (draw(name, draws=16, batch_size=size).samples for size in (1, 3, 16))
    assert_same(three, one)
    assert_same(all_at_once, one)
    others = one[1:] if sampler_of(name).population else one[1]  # neighbours of a population may be copies
    assert (one[0] - others).abs().max() > 0.1


@single
def test_fewer_draws_are_the_first_of_more(name):
    assert_same(draw(name, draws=2).samples, draw(name, draws=5).samples[:2])


@single
def test_draws_are_the_same_in_any_order(name):
    wanted = draw(name, draws=6).samples
    prior, like, sampler = network_prior(), likelihood(), sampler_of(name)
    problem = Problem(prior, like.in_standard(prior.affine, SHAPE), SHAPE)
    indices = [4, 0, 5]
    noise = DrawNoise(0, indices, SHAPE, problem.likelihood.y)
    with torch.no_grad():
        state = sampler.init(problem, noise)
        for _ in range(sampler.steps):
            state, _ = sampler.step(problem, state, noise)
    assert_same(prior.affine.to_physical(state.x).float(), wanted[indices])


@every
def test_draws_do_not_depend_on_what_was_sampled_before(name):
    prior, like, sampler = network_prior(), likelihood(), sampler_of(name)
    first = draw(name, prior, like, sampler=sampler).samples
    draw(name, prior, likelihood(inpainting(seed=9), sigma=0.5), sampler=sampler, seed=3)
    assert torch.equal(draw(name, prior, like, sampler=sampler).samples, first)


class Stop(Exception):
    pass


def stop_after(steps):
    def progress(p):
        if p.done == steps:
            raise Stop

    return progress


@single
def test_stopped_run_goes_on_to_the_same_draws(name, tmp_path):
    path = tmp_path / "run.safetensors"
    whole = draw(name, draws=5, batch_size=2)
    with pytest.raises(Stop):
        draw(
            name,
            Counting(network_prior()),
            draws=5,
            batch_size=2,
            checkpoint=path,
            progress=stop_after(2 * STEPS - 1),
        )
    assert [p.name for p in tmp_path.iterdir()] == ["run.safetensors"]
    counting = Counting(network_prior())
    resumed = draw(name, counting, draws=5, batch_size=2, checkpoint=path)
    assert_same(resumed.samples, whole.samples)
    # the first batch was finished and is not computed again
    assert counting.tally["nfe"] == 3 * whole.stats.nfe
    assert resumed.stats.nfe == whole.stats.nfe


@single
def test_finished_run_is_read_back_and_can_be_extended(name, tmp_path):
    path = tmp_path / "run.safetensors"
    first = draw(name, Counting(network_prior()), draws=3, checkpoint=path)
    counting = Counting(network_prior())
    again = draw(name, counting, draws=3, checkpoint=path)
    assert torch.equal(again.samples, first.samples)
    assert torch.equal(draw(name, counting, draws=2, checkpoint=path).samples, first.samples[:2])
    assert counting.tally["nfe"] == 0
    extended = draw(name, counting, draws=6, checkpoint=path)
    assert_same(extended.samples, draw(name, draws=6).samples)
    # what a draw cost, whoever paid for it
    costs = {(run.stats.nfe, run.stats.vjps) for run in (first, again, extended)}
    assert len(costs) == 1
    assert first.stats.nfe > 0


@every
def test_checkpoint_leaves_the_draws_alone(name, tmp_path):
    assert torch.equal(draw(name, checkpoint=tmp_path / "run").samples, draw(name).samples)


@pytest.mark.parametrize("changed", ["seed", "steps", "data", "sigma", "mask", "setting", "spectrum", "weights", "units"])
@every
def test_checkpoint_of_another_run_is_refused(name, changed, tmp_path):
    path = tmp_path / "run.safetensors"
    draw(name, Counting(network_prior()), draws=2, checkpoint=path)
    kept = path.read_bytes()
    prior, like, options = network_prior(), likelihood(), {}
    if changed == "seed":
        options["seed"] = 1
    elif changed == "steps":
        options["steps"] = STEPS + 1
    elif changed == "data":
        like = posterior.GaussianLikelihood(like.operator, like.y + 1e-3, 0.1)
    elif changed == "sigma":
        like = posterior.GaussianLikelihood(like.operator, like.y, 0.11)
    elif changed == "mask":
        like = posterior.GaussianLikelihood(inpainting(seed=5), like.y, 0.1)
    elif changed == "setting":
        like.operator.threshold = 0.5  # of an operator: a number, in no state_dict
    elif changed == "spectrum":
        prior = network_prior(power=2.0)
    elif changed == "weights":
        prior.network.last.weight.data.mul_(1.5)
    else:
        prior.affine = Affine(2.0, 0.0)
    counting = Counting(prior)
    with pytest.raises(posterior.SamplingError, match=r"run\.safetensors belongs to another run"):
        draw(name, counting, like, draws=2, checkpoint=path, **options)
    assert counting.tally["nfe"] == 0
    assert path.read_bytes() == kept


def _called(k):
    raise NotImplementedError


@dataclass(slots=True)
class Slotted:
    k: int


class Callable:
    def __init__(self, k):
        self.k = k

    def __call__(self, x):
        return x


@pytest.mark.parametrize(
    "held",
    [
        np.float32,
        lambda k: np.array([k], object),
        lambda k: DataArray([0.0], {"x": [k]}, ["x"]),
        timedelta,
        lambda k: {k, "a"},
        lambda k: partial(_called, k),
        Slotted,
        Callable,
        lambda k: k * torch.eye(2).to_sparse(),
    ],
)
def test_checkpoint_knows_whatever_an_operator_holds(held, tmp_path):
    def run(k):
        like = likelihood()
        like.operator.setting = held(k)
        return draw("GaussianBridge", Counting(network_prior()), like, draws=1, checkpoint=tmp_path / "run.safetensors")

    assert torch.equal(run(1).samples, run(1).samples)
    with pytest.raises(posterior.SamplingError, match="belongs to another run"):
        run(2)


def test_checkpoint_that_is_a_folder_is_refused(tmp_path):
    counting = Counting(network_prior())
    with pytest.raises(posterior.SamplingError, match="is a folder; wanted a name for a file"):
        draw("GaussianBridge", counting, draws=2, checkpoint=tmp_path)
    assert counting.tally["nfe"] == 0


@every
def test_checkpoint_that_is_cut_off_is_refused(name, tmp_path):
    path = tmp_path / "run.safetensors"
    draw(name, draws=2, checkpoint=path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(posterior.SamplingError, match=r"run\.safetensors cannot be read"):
        draw(name, draws=2, checkpoint=path)


@every
def test_checkpoint_that_cannot_be_written_is_refused_before_the_work(name, tmp_path):
    counting = Counting(network_prior())
    with pytest.raises((OSError, ValueError, posterior.SamplingError), match="missing"):
        draw(name, counting, draws=2, checkpoint=tmp_path / "missing" / "run.safetensors")
    assert counting.tally["nfe"] == 0
