"""What users get wrong: one sentence that names who asks, what it got and what it wanted."""

import numpy as np
import pytest
import torch

import posterior
from operators import Inpainting
from posterior import uncertainty as u
from posterior.uncertainty import plots
from tests.made_draws import make_draws

PRIOR = posterior.GaussianPrior(torch.zeros(1, 4, 4), torch.ones(4, 4))
OPERATOR = Inpainting(torch.ones(1, 4, 4))
SAMPLER = posterior.GaussianBridge(1)
DRAWS, ONE = make_draws(20, 1, 4, 4), make_draws(1, 1, 4, 4)

MISTAKES = {
    "an operator for an experiment": (
        lambda: u.calibrate(PRIOR, OPERATOR, SAMPLER, trials=1, draws=2),
        TypeError,
        r"experiment is the operator Inpainting; wanted .*gaussian_experiment\(operator, sigma\)",
    ),
    "a class for a sampler": (
        lambda: u.calibrate(PRIOR, u.gaussian_experiment(OPERATOR, 0.1), posterior.GaussianBridge, trials=1, draws=2),
        TypeError,
        r"sampler is the class GaussianBridge; wanted one of it, GaussianBridge\(\)",
    ),
    "a file for a folder": (
        lambda: u.calibrate(PRIOR, u.gaussian_experiment(OPERATOR, 0.1), SAMPLER, trials=1, draws=2, folder=__file__),
        ValueError,
        "test_mistakes.py is a file; wanted a folder",
    ),
    "arguments swapped": (lambda: u.gaussian_experiment(0.1, OPERATOR), TypeError, "operator is a float; wanted a deepinv"),
    "no noise": (lambda: u.gaussian_experiment(OPERATOR, 0), ValueError, "sigma must be positive and finite, got 0"),
    "draws for trials": (lambda: u.assess(DRAWS), TypeError, "assess: trials are a Draws; wanted the Trials"),
    "draws for a tree": (lambda: u.attach(DRAWS, None), TypeError, r"attach: result is a Draws; wanted a tree, .*to_datatree"),
    "draws for ranks": (lambda: plots.coverage(DRAWS), TypeError, "plots.coverage: got a Draws; wanted Ranks, which sbc, tarp"),
    "draws among ranks": (lambda: plots.ecdf([DRAWS]), TypeError, "plots.ecdf: got a Draws; wanted Ranks"),
    "no ranks": (lambda: plots.ecdf([]), ValueError, "plots.ecdf: there are no ranks"),
    "draws for a histogram": (lambda: plots.rank_histogram(DRAWS), TypeError, "rank_histogram: got a Draws; wanted Ranks"),
    "draws for their spread": (lambda: plots.spread_skill(DRAWS), TypeError, "wanted SpreadSkill, which spread_skill returns"),
    "draws for a check": (lambda: plots.residuals(DRAWS), TypeError, "wanted ResidualCheck, which residual_check returns"),
    "draws to assess": (lambda: plots.assessment(DRAWS), TypeError, "wanted Assessment, which assess returns"),
    "patterns of one draw": (lambda: u.principal_components(ONE, 1), ValueError, "take two draws with weight; got 1"),
    "no draw to show": (lambda: plots.samples(DRAWS, 0), ValueError, "samples: count is 0; wanted 1 or more"),
    "a band of one draw": (lambda: plots.profile(ONE), ValueError, "profile: an interval takes two draws; got one"),
    "a level in per cent": (lambda: plots.profile(DRAWS, levels=(90,)), ValueError, r"profile: levels are \(90,\); wanted"),
    "one field again and again": (
        lambda: u.check_prior(PRIOR, torch.zeros(8, 1, 4, 4)),
        ValueError,
        "all fields of held_out are the same",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_named(name):
    build, kind, words = MISTAKES[name]
    with pytest.raises(kind, match=words):
        build()


def test_held_out_fields_may_be_an_array():
    fields = np.random.default_rng(0).normal(size=(3, 1, 4, 4))
    with pytest.raises(ValueError, match=r"held_out has shape \(3, 1, 4, 4\)"):
        u.check_prior(PRIOR, fields)
