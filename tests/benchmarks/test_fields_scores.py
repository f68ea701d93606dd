"""Scores of fields where draws are too wide, or most of them weigh nothing."""

import math
from dataclasses import replace

import pytest
import torch
from deepinv.physics import LinearPhysics

import posterior
from benchmarks.fields.cases import Case, Withheld
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


def test_draws_without_weight_count_for_nothing(case):
    held = Withheld(lambda x: x.flatten(1)[:, :20], case.truth.flatten()[:20], 0.1)
    some = replace(case, withheld=held)
    good = case.truth + 0.1 * normal(10, 1, 16, 16, seed=4)
    draws = torch.cat([good, case.truth + 30 * normal(30, 1, 16, 16, seed=5)])
    weights = (torch.arange(40) < 10).double() / 10
    found = scores(Outcome(draws, False, 1, 0, 1.0, "", weights=weights), some)
    alone = scores(Outcome(good, False, 1, 0, 1.0, "", mean=good.mean(0)), some)
    for name in ("chi2", "spectrum", "held_chi2", "held_cov90", "cov80", "cov90"):
        assert found[name] == pytest.approx(alone[name], abs=1e-9, nan_ok=True), name
    assert math.isnan(found["held_cov90"])  # ten draws are too few
