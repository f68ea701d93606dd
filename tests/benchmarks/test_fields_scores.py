"""Scores of fields where draws are too wide, or most of them weigh nothing."""

import math

import pytest
import torch
from deepinv.physics import LinearPhysics

import posterior
from benchmarks.fields.cases import Case
from benchmarks.fields.scores import Outcome, judged, scores


def normal(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(scope="module")
def case():
    """White noise, seen everywhere."""
    truth = normal(1, 16, 16, seed=0)
    prior = posterior.GaussianPrior(torch.zeros(1, 16, 16).double(), torch.ones(16, 16).double())
    likelihood = posterior.GaussianLikelihood(LinearPhysics(), truth[None] + 0.1 * normal(1, 1, 16, 16, seed=1), 0.1)
    return Case("test", "denoising", 0, prior, likelihood, (1, 16, 16), 40, truth, "1")


def test_draws_too_wide_have_no_ratio_to_the_error(case):
    """Their mean is the truth: less variance / n its squared error is negative. Divergence is told all the same."""
    noise = normal(40, 1, 16, 16, seed=2)
    off = 0.01 * normal(1, 16, 16, seed=3)
    found = scores(Outcome(case.truth + off + noise - noise.mean(0), False, 1, 0, 1.0, ""), case)
    assert math.isnan(found["spread_skill"]) and found["crps"] == found["crps"]
    row = {"status": "ok", "draws": "40", "point": "", "psnr_all": "", "spread_skill": ""}
    assert judged(row | {"nrmse": "20"})["status"] == "failed"
    assert judged(row | {"nrmse": "20", "point": "yes"})["status"] == judged(row | {"nrmse": "5"})["status"] == "ok"
