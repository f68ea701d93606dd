"""Stochastic Adams steps with exact denoisers: orders, known special cases, exactness on polynomials."""

import math
from itertools import pairwise

import pytest
import torch

from posterior.integrators import DDIM, Ancestral, Estimate, SASolver
from posterior.schedules import Karras, LogUniform
from tests.one_dimension import S, centred, flow, follow, variance_after


@pytest.mark.parametrize("order", [3, 4])
def test_paths_converge_at_the_stated_order(order):
    """From a noise level so far above the prior's spread that the first steps, of lower order, cost nothing."""
    x, wanted = torch.tensor([[1e4]], dtype=torch.float64), flow(torch.tensor([[1e4]]).double(), 1e4, 0.1)
    ends = (follow(SASolver(0.0, order), LogUniform()(n + 1, 1e4, 0.1)[:-1], x) for n in (320, 640, 1280))
    errors = [abs(float(end - wanted)) for end in ends]
    assert [math.log2(a / b) for a, b in pairwise(errors)] == pytest.approx([order, order], abs=0.3)


@pytest.mark.parametrize("tau", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_variance_converges_at_second_order_with_noise_and_at_first_from_one_field(tau, order):
    def error(steps):
        levels = LogUniform()(steps + 1, 30.0, 0.1)[:-1]
        return abs(variance_after(SASolver(tau, order), levels, centred) / (S**2 + 0.1**2) - 1)

    errors = [error(n) for n in (100, 200, 400)]
    assert math.log2(errors[1] / errors[2]) == pytest.approx(min(order, 2), abs=0.25)


def test_a_third_field_makes_the_error_of_the_variance_smaller():
    levels = LogUniform()(64, 300.0, 0.001)
    second, third = (abs(variance_after(SASolver(1.0, n), levels, centred) / S**2 - 1) for n in (2, 3))
    assert third < 0.006 < second < 0.04


@pytest.mark.parametrize(("solver", "known"), [(SASolver(0.0, 1), DDIM()), (SASolver(1.0, 1, math.inf), Ancestral())], ids=repr)
def test_one_field_gives_the_euler_and_the_ancestral_step(solver, known):
    x = torch.tensor([[4.0], [-2.0]], dtype=torch.float64)
    noise = lambda shape=None: torch.tensor([[0.3], [-1.1]], dtype=torch.float64)  # noqa: E731
    found, wanted = (follow(i, Karras()(12, 20.0, 0.01), x, noise) for i in (solver, known))
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("tau", [0.0, 1.5])
def test_denoised_fields_polynomial_in_log_sigma_are_followed_exactly(tau):
    """Uneven steps of three fields and a parabola: x' is the integral in closed form, here by fine quadrature."""

    def field(level):
        return 0.4 - 1.2 * math.log(level) + 0.3 * math.log(level) ** 2

    levels, x, memory = [2.0, 1.5, 0.9], torch.zeros(1, 1, dtype=torch.float64), None
    silent = lambda shape=None: torch.zeros(1, 1, dtype=torch.float64)  # noqa: E731
    for sigma, sigma_next in pairwise([*levels, 0.5]):
        before = x
        constant = lambda x, level, step: Estimate(torch.full_like(x, field(level)))  # noqa: E731
        x, memory = SASolver(tau, 3, math.inf).step(constant, x, sigma, sigma_next, silent, memory)
    h, k = math.log(0.9 / 0.5), 1 + tau**2
    u = (torch.arange(20_000, dtype=torch.float64) + 0.5) * h / 20_000
    at = math.log(0.9) - u
    integral = (k * torch.exp(-k * (h - u)) * (0.4 - 1.2 * at + 0.3 * at**2)).mean() * h
    assert float(x) == pytest.approx(float(math.exp(-k * h) * before + integral), abs=1e-8)


@pytest.mark.parametrize("tau", [-0.1, math.inf, math.nan])
def test_tau_outside_its_range_is_refused(tau):
    with pytest.raises(ValueError, match="SASolver: tau must be finite and not negative"):
        SASolver(tau)


@pytest.mark.parametrize("order", [0, 5])
def test_order_outside_its_range_is_refused(order):
    with pytest.raises(ValueError, match=f"SASolver: order must be 1, 2, 3 or 4, got {order}"):
        SASolver(1.0, order)


def test_tau_is_lowered_on_steps_too_long_for_it():
    """(1 + tau^2) h stays within the reach, down to no noise at all."""
    x = torch.zeros(1, 1, dtype=torch.float64)
    unit = lambda shape=None: torch.ones(1, 1, dtype=torch.float64)  # noqa: E731
    nothing = lambda x, level, step: Estimate(torch.zeros_like(x))  # noqa: E731
    for h, variance in ((0.1, 4.0), (0.25, 3.0), (0.5, 1.0), (1.0, 0.0), (2.0, 0.0)):
        end = math.exp(-h)
        added, _ = SASolver(2.0).step(nothing, x, 1.0, end, unit, None)
        assert float(added) == pytest.approx(end * math.sqrt(1 - math.exp(-2 * variance * h)), abs=1e-12)


@pytest.mark.parametrize("steps", [16, 32, 64])
def test_spread_is_right_at_any_number_of_steps_however_large_tau(steps):
    levels = LogUniform()(steps, 300.0, 0.001)
    assert variance_after(SASolver(3.0), levels, centred) == pytest.approx(S**2, rel=0.08)


@pytest.mark.parametrize("reach", [0.0, -1.0, math.nan])
def test_reach_outside_its_range_is_refused(reach):
    with pytest.raises(ValueError, match="SASolver: reach must be positive"):
        SASolver(reach=reach)
