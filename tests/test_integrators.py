"""Integrators with the exact denoiser of a 1-D Gaussian N(M, S^2): flow and law of every step are known."""

import math
from itertools import pairwise

import pytest
import torch

from posterior.integrators import DDIM, Ancestral, DPMSolver2M, Estimate, Heun, Renoise, SASolver
from posterior.schedules import Karras, LogUniform
from tests.one_dimension import M, S, Symbols, centred, drawing_denoiser, exact_denoiser, flow, follow, no_noise, variance_after

ALL = [
    DDIM(),
    DDIM(0.5),
    DDIM(1.0),
    Ancestral(),
    Heun(),
    DPMSolver2M(),
    Renoise(0.3),
    Renoise(),
    SASolver(),
    SASolver(0.0),
    SASolver(2.0, 4),
]


@pytest.mark.parametrize("schedule", [LogUniform(), Karras()], ids=repr)
@pytest.mark.parametrize("integrator", [DDIM(), Heun(), DPMSolver2M(), SASolver(0.0, 1), SASolver(0.0, 2)], ids=repr)
def test_global_error_falls_at_the_stated_order(integrator, schedule):
    x = torch.tensor([[5.0], [-11.0]], dtype=torch.float64)
    wanted = flow(x, 10.0, 0.1)
    errors = []
    for steps in (40, 80, 160, 320):
        levels = schedule(steps + 1, 10.0, 0.1)[:-1]
        assert len(levels) == steps + 1
        errors.append(float((follow(integrator, levels, x) - wanted).abs().max()))
    orders = [math.log2(a / b) for a, b in pairwise(errors)]
    assert orders[-1] == pytest.approx(integrator.order, abs=0.1)
    assert orders[0] == pytest.approx(integrator.order, abs=0.35)
    assert errors[-1] < (2e-2 if integrator.order == 1 else 2e-4)


def test_second_order_methods_beat_first_order_ones():
    x = torch.tensor([[5.0]], dtype=torch.float64)
    levels = LogUniform()(21, 10.0, 0.1)[:-1]
    first, heun, multistep = (abs(float(follow(i, levels, x) - flow(x, 10.0, 0.1))) for i in (DDIM(), Heun(), DPMSolver2M()))
    assert heun < first / 5
    assert multistep < first / 5


@pytest.mark.parametrize("integrator", [DDIM(), Heun()], ids=repr)
def test_first_step_is_that_of_the_formula(integrator):
    """An Euler step and a trapezoidal step of dx/dsigma = (x - D) / sigma."""
    x = torch.tensor([[2.0]], dtype=torch.float64)

    def slope(x, s):
        return (x - M) * s / (S**2 + s**2)

    euler = x + (1.5 - 3.0) * slope(x, 3.0)
    wanted = euler if isinstance(integrator, DDIM) else x + (1.5 - 3.0) * (slope(x, 3.0) + slope(euler, 1.5)) / 2
    torch.testing.assert_close(integrator.step(exact_denoiser, x, 3.0, 1.5, no_noise, None)[0], wanted)


def test_multistep_method_starts_and_restarts_with_first_order():
    x = torch.tensor([[2.0]], dtype=torch.float64)
    first, _ = DPMSolver2M().step(exact_denoiser, x, 3.0, 1.5, no_noise, None)
    torch.testing.assert_close(first, DDIM().step(exact_denoiser, x, 3.0, 1.5, no_noise, None)[0])


def test_multistep_method_has_a_local_error_of_third_order_on_uneven_steps():
    """The second-order rule integrates D = a + b log(sigma) up to h^3, whatever the ratio of steps."""

    def linear(x, level, step):
        return Estimate(torch.full_like(x, 1.0 + 0.3 * math.log(level)))

    def exact(x, s, t):
        # x / sigma is the integral of -D / sigma^2
        def primitive(u):
            return (1.0 + 0.3 * math.log(u) + 0.3) / u

        return t * (x / s + primitive(t) - primitive(s))

    x = torch.tensor([[4.0]], dtype=torch.float64)
    errors = []
    for h in (0.2, 0.1, 0.05):
        a, b, c = 2.0, 2.0 * math.exp(-h), 2.0 * math.exp(-h - 0.4 * h)
        _, memory = DPMSolver2M().step(linear, x, a, b, no_noise, None)
        y = torch.tensor([[3.0]], dtype=torch.float64)
        errors.append(abs(float(DPMSolver2M().step(linear, y, b, c, no_noise, memory)[0] - exact(y, b, c))))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(3, abs=0.2)
    assert math.log2(errors[1] / errors[2]) == pytest.approx(3, abs=0.2)


def test_ddim_with_eta_1_is_the_ancestral_step():
    """With the same noise, number for number."""
    levels = Karras()(12, 20.0, 0.01)
    generators = [torch.Generator().manual_seed(3) for _ in range(2)]
    x = torch.tensor([[4.0], [-2.0]], dtype=torch.float64)
    ends = [
        follow(i, levels, x, lambda shape=None, g=g: torch.randn(2, 1, generator=g, dtype=torch.float64))
        for i, g in zip((DDIM(1.0), Ancestral()), generators, strict=True)
    ]
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-12, atol=1e-12)
    assert torch.equal(generators[0].get_state(), generators[1].get_state())


@pytest.mark.parametrize("integrator", [DDIM(0.3), DDIM(1.0), Ancestral()], ids=repr)
def test_a_step_draws_from_the_stated_gaussian(integrator):
    x = 3.0 * Symbols()()
    noise = Symbols()
    noise()
    out, _ = integrator.step(centred, x, 2.0, 1.2, noise, None)
    eta = getattr(integrator, "eta", 1.0)
    s = eta * 1.2 * math.sqrt(1 - (1.2 / 2.0) ** 2)
    gain = S**2 / (S**2 + 4.0)
    wanted = torch.zeros_like(out)
    wanted[0, 0] = 3.0 * (gain + math.sqrt(1.2**2 - s**2) / 2.0 * (1 - gain))
    wanted[0, 1] = s
    torch.testing.assert_close(out, wanted)


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 50])
@pytest.mark.parametrize("schedule", [LogUniform(), Karras()], ids=repr)
def test_ancestral_steps_with_exact_draws_keep_the_law_at_any_number_of_steps(steps, schedule):
    levels = schedule(steps, 5.0, 0.05)
    assert variance_after(Ancestral(), levels, drawing_denoiser) == pytest.approx(S**2, rel=1e-10)
    for n in range(1, len(levels)):
        found = variance_after(Ancestral(), levels[: n + 1], drawing_denoiser)
        assert found == pytest.approx(S**2 + levels[n] ** 2, rel=1e-10)


@pytest.mark.parametrize("integrator", [Ancestral(), DDIM(1.0)], ids=repr)
def test_ancestral_steps_with_the_mean_lose_variance_at_first_order(integrator):
    loss = [1 - variance_after(integrator, LogUniform()(n, 20.0, 0.01), centred) / S**2 for n in (50, 100, 200)]
    assert all(value > 0 for value in loss)
    assert loss[0] > 0.02
    assert loss[0] / loss[1] == pytest.approx(2, abs=0.25)
    assert loss[1] / loss[2] == pytest.approx(2, abs=0.25)


@pytest.mark.parametrize("integrator", [Heun(), DPMSolver2M(), DDIM(0.0), DDIM(0.4)], ids=repr)
def test_variance_converges_to_that_of_the_prior(integrator):
    coarse, fine = (abs(variance_after(integrator, Karras()(n, 20.0, 0.001), centred) / S**2 - 1) for n in (50, 400))
    assert fine < coarse / 4
    assert fine < 0.02


@pytest.mark.parametrize("integrator", ALL, ids=repr)
def test_last_step_to_zero_is_the_denoised_field(integrator):
    x = torch.tensor([[4.0], [-2.0]], dtype=torch.float64)
    memory = integrator.step(exact_denoiser, x, 0.8, 0.5, Symbols(1), None)[1]
    out, after = integrator.step(exact_denoiser, x, 0.5, 0.0, no_noise, memory)
    torch.testing.assert_close(out, exact_denoiser(x, 0.5, (0.5, 0.0)).mean)
    assert after is None


def test_last_step_to_zero_is_a_draw_where_one_is_known():
    noise = Symbols(4)
    x = 2.0 * noise()
    out, _ = Ancestral().step(drawing_denoiser, x, 0.5, 0.0, noise, None)
    mean, cov = S**2 / (S**2 + 0.25), S**2 * 0.25 / (S**2 + 0.25)
    torch.testing.assert_close(out[0, :3], torch.tensor([2 * mean, cov**0.5, 0.0], dtype=torch.float64))
    assert noise.used == 2


def test_mean_that_is_not_needed_is_not_computed():
    def expensive():
        raise AssertionError("the mean was computed although a draw was taken")

    def denoiser(x, level, step):
        return Estimate(expensive, lambda noise: x)

    x = torch.ones(1, 1)
    assert torch.equal(Ancestral().step(denoiser, x, 1.0, 0.0, no_noise, None)[0], x)


def test_mean_is_computed_once():
    calls = []
    estimate = Estimate(lambda: calls.append(1) or torch.ones(1))
    assert torch.equal(estimate.mean, estimate.mean)
    assert len(calls) == 1


@pytest.mark.parametrize("integrator", ALL, ids=repr)
def test_a_step_calls_the_denoiser_as_often_as_it_says(integrator):
    calls = []

    def counting(x, level, step):
        calls.append((level, step))
        return exact_denoiser(x, level, step)

    x = torch.ones(1, 3, dtype=torch.float64)
    integrator.step(counting, x, 2.0, 1.0, Symbols(3), None)
    assert [level for level, _ in calls] == [2.0, 1.0][: integrator.calls]
    assert {step for _, step in calls} == {(2.0, 1.0)}
    calls.clear()
    integrator.step(counting, x, 1.0, 0.0, no_noise, None)
    assert calls == [(1.0, (1.0, 0.0))]


@pytest.mark.parametrize("integrator", ALL, ids=repr)
def test_fields_are_not_written_to(integrator):
    x = torch.ones(1, 3, dtype=torch.float64)
    integrator.step(exact_denoiser, x, 2.0, 1.0, Symbols(3), None)
    assert torch.equal(x, torch.ones_like(x))


@pytest.mark.parametrize("eta", [-0.1, 1.1, float("nan")])
def test_eta_outside_its_range_is_refused(eta):
    with pytest.raises(ValueError, match="eta must be between 0 and 1"):
        DDIM(eta)


def assert_coefficients(out, wanted):
    """Coefficients of x and of the noises drawn, in turn."""
    found = out[0, : len(wanted)]
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64), rtol=1e-12, atol=1e-12)
    assert not out[0, len(wanted) :].any()


@pytest.mark.parametrize("zeta", [0.3, 1.0])
def test_renoising_replaces_a_share_of_the_noise_whatever_the_step(zeta):
    gain = S**2 / (S**2 + 4.0)
    for sigma_next in (1.9, 0.1):
        noise = Symbols(4)
        out, _ = Renoise(zeta).step(centred, 3.0 * noise(), 2.0, sigma_next, noise, None)
        kept = sigma_next * math.sqrt(1 - zeta) * (1 - gain) / 2.0
        assert_coefficients(out, [3.0 * (gain + kept), sigma_next * math.sqrt(zeta)])


def test_renoising_nothing_is_an_euler_step():
    x = torch.tensor([[4.0], [-2.0]], dtype=torch.float64)
    found, wanted = (i.step(exact_denoiser, x, 2.0, 1.2, no_noise, None)[0] for i in (Renoise(0.0), DDIM(0.0)))
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("zeta", [-0.1, 1.1, float("nan")])
def test_zeta_outside_its_range_is_refused(zeta):
    with pytest.raises(ValueError, match="Renoise: zeta must be between 0 and 1"):
        Renoise(zeta)


# Noise kept and noise added on the step from 2 to 1.2.
SPLITS = [
    (DDIM(0.5), math.sqrt(1.44 - 0.25 * 1.44 * 0.64), 0.5 * 1.2 * 0.8),
    (Ancestral(), 1.44 / 2, 1.2 * 0.8),
    (Renoise(0.3), 1.2 * math.sqrt(0.7), 1.2 * math.sqrt(0.3)),
]


@pytest.mark.parametrize(("integrator", "kept", "fresh"), SPLITS, ids=lambda v: repr(v) if not isinstance(v, float) else "")
def test_noise_goes_on_in_the_direction_that_the_estimate_names(integrator, kept, fresh):
    noise = Symbols(4)
    x = 3.0 * noise()

    def denoiser(x, level, step):
        return Estimate(0.5 * x, direction=lambda noise: 0.25 * x + noise())

    out, _ = integrator.step(denoiser, x, 2.0, 1.2, noise, None)
    assert_coefficients(out, [1.5 + 0.75 * kept, kept, fresh])


@pytest.mark.parametrize(("integrator", "kept", "fresh"), SPLITS, ids=lambda v: repr(v) if not isinstance(v, float) else "")
def test_estimate_is_told_of_the_noise_that_a_step_adds_and_shapes_it(integrator, kept, fresh):
    noise, told = Symbols(4), []
    x = 3.0 * noise()

    def denoiser(x, level, step):
        def adding(weight, std):
            told.append((weight, std))
            return 0.7 * x, lambda white: 0.6 * white

        return Estimate(0.5 * x, adding=adding)

    out, _ = integrator.step(denoiser, x, 2.0, 1.2, noise, None)
    assert_coefficients(out, [3.0 * (0.7 + kept * 0.3 / 2), 0.6 * fresh])
    assert told == [pytest.approx((1 - kept / 2, fresh))]


@pytest.mark.parametrize("integrator", [DDIM(0.0), Renoise(0.0), Heun(), DPMSolver2M()], ids=repr)
def test_steps_that_add_no_noise_take_the_mean_as_it_is(integrator):
    def denoiser(x, level, step):
        return Estimate(exact_denoiser(x, level, step).mean, adding=refuse)

    def refuse(weight, std):
        raise AssertionError("asked about noise that is not added")

    x = torch.tensor([[4.0]], dtype=torch.float64)
    found, _ = integrator.step(denoiser, x, 2.0, 1.2, no_noise, None)
    torch.testing.assert_close(found, integrator.step(exact_denoiser, x, 2.0, 1.2, no_noise, None)[0])
