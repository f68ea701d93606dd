"""Arguments of the wrong kind: one sentence that names who asks, what it got and what it wanted, and no network call."""

import numpy as np
import pytest
import torch

import posterior
from operators import Inpainting

SHAPE = (1, 4, 4)
PRIOR = posterior.GaussianPrior(torch.zeros(SHAPE), torch.ones(4, 4))
OPERATOR, Y = Inpainting(torch.ones(SHAPE)), torch.ones(1, *SHAPE)
LIKE = posterior.GaussianLikelihood(OPERATOR, Y, 0.1)


def sample(prior=PRIOR, likelihood=LIKE, sampler=None, **settings):
    return posterior.sample(prior, likelihood, sampler or posterior.GaussianBridge(1), **{"draws": 1} | settings)


WRONG = {
    "a prior's name": (lambda: sample("brain-mri"), "sample: prior is a str; wanted a prior, such as load_prior"),
    "an operator for a likelihood": (lambda: sample(likelihood=OPERATOR), "likelihood is a Inpainting; wanted a likelihood"),
    "arguments swapped": (lambda: sample(LIKE, PRIOR), "prior is a GaussianLikelihood; wanted a prior"),
    "a class": (lambda: sample(sampler=posterior.MMPS), r"sampler is the class MMPS; wanted one of it, MMPS\(\.\.\.\)"),
    "a sampler's name": (lambda: sample(sampler="dps"), "sampler is a str; wanted a sampler, such as GaussianBridge"),
    "half a step": (lambda: sample(sampler=posterior.DPS(2.5)), "steps of DPS is 2.5; wanted a whole number"),
    "half a draw": (lambda: sample(draws=2.5), "draws is 2.5; wanted a whole number"),
    "draws as text": (lambda: sample(draws="2"), "draws is '2'; wanted a whole number"),
    "no seed": (lambda: sample(seed=None), "seed is None; wanted a whole number"),
    "half a batch": (lambda: sample(batch_size=1.5), "batch_size is 1.5; wanted a whole number"),
    "one size": (lambda: sample(event_shape=8), r"event_shape is 8; wanted a tuple"),
    "sigma as text": (lambda: posterior.GaussianLikelihood(OPERATOR, Y, "0.1"), "sigma is a str; wanted a positive number"),
    "no sigma": (lambda: posterior.GaussianLikelihood(OPERATOR, Y, None), "sigma is a NoneType; wanted a positive number"),
    "a complex sigma": (
        lambda: posterior.GaussianLikelihood(OPERATOR, Y, torch.tensor(0.1 + 0j)),
        "sigma is 0.1, complex; wanted real numbers",
    ),
    "an integrator's name": (lambda: posterior.MMPS(integrator="heun"), "MMPS: integrator is 'heun'; wanted an object"),
    "a schedule's class": (lambda: posterior.DPS(schedule=posterior.Karras), "DPS: schedule is Karras; wanted an object"),
    "a complex mean": (
        lambda: posterior.GaussianPrior(torch.zeros(2) * 1j, torch.eye(2)),
        "GaussianPrior: mean has dtype torch.complex",
    ),
    "a complex covariance": (
        lambda: posterior.GaussianPrior(torch.zeros(2), torch.eye(2) * (1 + 0j)),
        "GaussianPrior: cov has dtype torch.complex64; wanted real values",
    ),
    "complex means": (
        lambda: posterior.GaussianMixturePrior(torch.zeros(2, 2) * 1j, torch.ones(2), 1.0),
        "GaussianMixturePrior: means has dtype torch.complex64; wanted real values, complex ones as two channels",
    ),
    "complex points": (lambda: posterior.EmpiricalPrior(torch.eye(2) * 1j), "EmpiricalPrior: points has dtype torch.complex64"),
}


@pytest.mark.parametrize("name", WRONG)
def test_an_argument_of_the_wrong_kind_is_named(name):
    build, words = WRONG[name]
    with pytest.raises(TypeError, match=words):
        build()


def test_whole_numbers_of_numpy_are_whole_numbers():
    ours, theirs = sample(draws=2, seed=3), sample(draws=np.int64(2), seed=np.uint8(3), batch_size=np.int32(9))
    torch.testing.assert_close(ours.samples, theirs.samples)


def test_numbers_out_of_range_are_told_by_their_own_names():
    with pytest.raises(ValueError, match="Karras: rho must be positive, got 0"):
        posterior.Karras(rho=0)
    with pytest.raises(ValueError, match="FlowTime: shift must be positive, got -1"):
        posterior.FlowTime(-1)
    with pytest.raises(ValueError, match=r"CorrelatedGaussianLikelihood: covariance has shape \(3, 3\)"):
        posterior.CorrelatedGaussianLikelihood(OPERATOR, Y, torch.eye(3))
