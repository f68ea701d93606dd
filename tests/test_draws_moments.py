"""Moments and intervals of draws, weighted and not."""

import dataclasses

import numpy as np
import pytest
import torch

from posterior.draws import Draws, PointEstimateError
from tests.made_draws import make_draws, make_stats, normal


@pytest.mark.parametrize("n", [19, 24, 32, 64])
def test_interval_covers_a_further_draw_at_its_level(n):
    """40 000 pixels of exact draws: the binomial standard error of a coverage of 0.9 is 0.0015."""
    draws = make_draws(n, 200, 200, seed=n)
    lower, upper = draws.interval(0.9)
    truth = normal(200, 200, seed=1000 + n)
    coverage = ((lower <= truth) & (truth <= upper)).float().mean()
    exact = (n + 1) % 20 == 0  # both ends are draws; between two draws of a normal the interval is a bit wide
    assert -0.005 < coverage - 0.9 < (0.005 if exact else 0.012)


@pytest.mark.parametrize("level", [0.5, 0.8, 0.9, 0.95])
def test_interval_agrees_with_numpy_weibull(level):
    draws = make_draws(41, 3, 5)
    want = np.quantile(draws.samples.numpy(), [(1 - level) / 2, (1 + level) / 2], axis=0, method="weibull")
    torch.testing.assert_close(torch.stack(draws.interval(level)), torch.from_numpy(want).float())


def test_interval_of_many_pixels_is_computed_in_blocks(monkeypatch):
    draws = make_draws(30, 7, 11)
    whole = draws.interval(0.8)
    monkeypatch.setattr("posterior.draws._BLOCK", 100)
    assert all(torch.equal(a, b) for a, b in zip(draws.interval(0.8), whole, strict=True))


@pytest.mark.parametrize(("level", "needed"), [(0.9, 19), (0.5, 3), (0.8, 9), (0.95, 39), (0.99, 199)])
def test_interval_names_the_number_of_draws_it_takes(level, needed):
    draws = make_draws(needed, 4)
    lower, upper = draws.interval(level)
    assert torch.equal(lower, draws.samples.amin(0))
    assert torch.equal(upper, draws.samples.amax(0))
    with pytest.raises(ValueError, match=rf"{needed - 1} draws cannot support .* at least {needed}$"):
        make_draws(needed - 1, 4).interval(level)


@pytest.mark.parametrize("level", [0, 1, -0.5, 90])
def test_interval_refuses_levels_that_are_no_probability(level):
    with pytest.raises(ValueError, match="between 0 and 1"):
        make_draws(64, 4).interval(level)


def test_interval_of_a_pixel_with_missing_values_is_missing():
    samples = normal(40, 3)
    samples[7, 1] = float("nan")
    for log_weights in (None, torch.zeros(40)):
        lower, upper = Draws(samples, make_stats(), log_weights=log_weights).interval(0.9)
        assert lower.isnan().tolist() == upper.isnan().tolist() == [False, True, False]


def test_equal_weights_change_nothing():
    plain = make_draws(40, 6, 5)
    weighted = dataclasses.replace(plain, log_weights=torch.full((40,), 3.7))
    assert weighted.n_effective == pytest.approx(40)
    torch.testing.assert_close(weighted.mean, plain.mean)
    torch.testing.assert_close(weighted.std, plain.std)
    for a, b in zip(weighted.interval(0.9), plain.interval(0.9), strict=True):
        torch.testing.assert_close(a, b)
    nineteen = make_draws(19, 6, log_weights=torch.full((19,), -2.0))
    torch.testing.assert_close(nineteen.interval(0.9)[0], nineteen.samples.amin(0))


def test_weighted_moments_and_intervals_agree_with_resampling():
    draws = make_draws(2000, 4, log_weights=normal(2000, seed=9) * 0.7)
    generator = torch.Generator().manual_seed(3)
    picked = draws.samples[torch.multinomial(draws.weights, 400_000, replacement=True, generator=generator)]
    torch.testing.assert_close(draws.mean, picked.mean(0), atol=0.01, rtol=0)
    correction = (1 - draws.weights.square().sum()).sqrt().float()
    torch.testing.assert_close(draws.std * correction, picked.std(0), atol=0.01, rtol=0)
    for end, q in zip(draws.interval(0.8), (0.1, 0.9), strict=True):
        # neighbours lie about 0.005 apart, and Weibull's positions a little further out
        torch.testing.assert_close(end, torch.from_numpy(np.quantile(picked, q, axis=0)), atol=0.03, rtol=0)


def test_a_large_offset_costs_the_weighted_mean_no_digits():
    x, logs = 1e5 + normal(3000, 50), 2 * normal(3000, seed=1)
    draws = Draws(x.float(), make_stats(), log_weights=logs)
    exact = torch.tensordot(draws.weights, draws.samples.double(), 1)
    torch.testing.assert_close(draws.mean.double(), exact, atol=0.5 * 2**-7, rtol=0)  # half a digit of float32


def test_weighted_variance_is_unbiased():
    """Weights that do not depend on the draws: the variance of N(0, 4) comes out on average."""
    draws = make_draws(6, 200, 200, log_weights=torch.tensor([0.0, 1.0, -1.0, 2.0, 0.5, -3.0]))
    assert (2 * draws.std).square().mean() == pytest.approx(4, rel=0.02)


def test_importance_weights_recover_the_target():
    """Draws of N(0, 1) weighted to N(1, 1/2)."""
    samples = normal(4000, 50, dtype=torch.float64)
    log_weights = -((samples[:, 0] - 1) ** 2) + samples[:, 0] ** 2 / 2
    draws = Draws(samples, make_stats(), log_weights=log_weights)
    assert draws.mean[0] == pytest.approx(1, abs=0.05)
    assert draws.std[0] == pytest.approx(0.5**0.5, abs=0.04)
    lower, upper = draws.interval(0.9)
    assert lower[0] == pytest.approx(1 - 1.6449 * 0.5**0.5, abs=0.1)
    assert upper[0] == pytest.approx(1 + 1.6449 * 0.5**0.5, abs=0.1)


def test_draws_without_weight_do_not_count():
    draws = make_draws(40, 6)
    log_weights = torch.zeros(60)
    log_weights[40:] = float("-inf")
    padded = Draws(torch.cat([draws.samples, 100 + normal(20, 6)]), make_stats(), log_weights=log_weights)
    torch.testing.assert_close(padded.mean, draws.mean)
    torch.testing.assert_close(padded.std, draws.std)
    for a, b in zip(padded.interval(0.9), draws.interval(0.9), strict=True):
        torch.testing.assert_close(a, b)


def test_weights_that_leave_few_draws_support_no_interval():
    log_weights = torch.zeros(64)
    log_weights[0] = 5
    with pytest.raises(ValueError, match=r"worth \d\.\d of equal weight\) cannot support a 90 % interval"):
        make_draws(64, 3, log_weights=log_weights).interval(0.9)


def test_one_draw_has_no_spread():
    assert torch.equal(make_draws(1, 3).mean, normal(1, 3)[0])
    with pytest.raises(ValueError, match="takes two draws; got 1 draw"):
        _ = make_draws(1, 3).std


def test_point_estimates_offer_no_uncertainty_unasked():
    draws = make_draws(32, 4, 5, is_posterior=False)
    for ask in (lambda: draws.std, draws.spread, lambda: draws.interval(0.9)):
        with pytest.raises(PointEstimateError, match="MMPS.* point estimates"):
            ask()
    assert torch.equal(draws.spread(allow_point_estimate=True), draws.samples.std(0))
    assert len(draws.interval(0.9, allow_point_estimate=True)) == 2
    assert torch.equal(draws.mean, draws.samples.mean(0))
