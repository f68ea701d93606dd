"""The supervised baseline of the MRI suite: what it is trained on, that training resumes, and what its Gaussian says."""

import math

import pytest
import torch

from benchmarks.fields.benchmark import BENCHMARKS
from benchmarks.fields.brains import brain_crop
from benchmarks.fields.mri import complex_truth, crop
from benchmarks.fields.supervised import train, unet
from benchmarks.harness.runner import Method

SEED = 1003  # a development problem: a crop of the slice that matplotlib ships


@pytest.fixture(scope="module")
def problem():
    return crop(brain_crop(SEED, 48), 4.0, SEED)


def test_the_target_is_the_image_behind_the_data(problem):
    """Its magnitude is the truth, and through the operator the noise explains the data."""
    truth = complex_truth(problem, SEED)
    torch.testing.assert_close(torch.linalg.vector_norm(truth, dim=0), problem.truth)
    assert float(problem.chi_square(truth[None])) == pytest.approx(1, abs=0.05)
    assert float(problem.chi_square(complex_truth(problem, SEED + 1)[None])) > 10


def test_augmented_pairs_stand_for_the_same_problem():
    g = torch.Generator().manual_seed(0)
    truth = torch.randn(8, 2, 6, 6, generator=g)
    seen, wanted = train.augmented(torch.cat([2 * truth, -truth], 1), truth, g)
    torch.testing.assert_close(seen, torch.cat([2 * wanted, -wanted], 1))
    torch.testing.assert_close(wanted.square().sum((1, 2, 3)), truth.square().sum((1, 2, 3)))
    assert not torch.allclose(wanted, truth)


def test_the_likelihood_is_that_of_a_complex_gaussian():
    """Up to its constant, log 2 pi."""
    mean, truth, log_variance = torch.zeros(1, 2, 1, 1), torch.tensor([1.0, 2.0]).reshape(1, 2, 1, 1), torch.tensor(0.7)
    parts = torch.distributions.Normal(mean, torch.exp(log_variance / 2)).log_prob(truth)
    found = unet.negative_log_likelihood(mean, log_variance.reshape(1, 1, 1, 1), truth)
    assert float(found) == pytest.approx(-float(parts.sum()) - math.log(2 * math.pi), rel=1e-6)


def test_a_killed_training_goes_on_as_if_it_had_not_been(tmp_path, monkeypatch):
    g = torch.Generator().manual_seed(1)
    truth = torch.randn(6, 2, 8, 8, generator=g)
    seen = torch.cat([truth, truth + 0.1], 1)

    def run(folder, steps_of_each):
        (tmp_path / folder).mkdir()
        for stop in steps_of_each:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(3)
                net = unet.network()
            monkeypatch.setattr(train, "CHECKPOINT_EVERY", stop)
            try:
                found = train.train(net, seen, truth, tmp_path / folder, 4, 2, 0)
            except KeyboardInterrupt:
                pass
        return found

    whole = run("whole", (4,))
    monkeypatch.setattr(train, "augmented", _interrupted(train.augmented, at=3))
    resumed = run("resumed", (2, 4))
    assert all(torch.equal(whole[k], resumed[k]) for k in whole)


def _interrupted(function, at):
    calls = []

    def wrapped(*arguments):
        calls.append(1)
        if len(calls) == at + 1:
            raise KeyboardInterrupt
        return function(*arguments)

    return wrapped


def test_the_trained_network_is_better_than_what_it_sees_and_knows_its_error(problem):
    mean, draws = unet.reconstruct(problem, 60, seed=0)
    again = unet.reconstruct(problem, 60, seed=0)[1]
    assert torch.equal(draws, again) and draws.shape == (60, *problem.event_shape)
    truth = complex_truth(problem, SEED)
    sense = unet.inputs(problem)[2:]
    assert float((mean - truth).square().mean()) < 0.7 * float((sense - truth).square().mean())
    torch.testing.assert_close(draws.mean(0), mean, atol=0.1, rtol=0)
    share = float(draws.std(0).square().mean().sqrt() / (mean - truth).square().mean().sqrt())
    assert 0.5 < share < 2


@pytest.mark.filterwarnings("ignore:noise_covariance")
def test_whole_slices_are_refused():
    benchmark = BENCHMARKS["mri"]
    row = benchmark.measure(Method("U-Net"), benchmark.build("mri", "whole, 4x", 1000, quick=True, draws=3))
    assert row["status"] == "n/a" and "trained on crops" in row["reason"]
