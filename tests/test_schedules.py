import numpy as np
import pytest

from posterior.schedules import Karras, LogUniform

SCHEDULES = pytest.mark.parametrize("schedule", [Karras(), Karras(rho=3.0), LogUniform()], ids=repr)


@SCHEDULES
@pytest.mark.parametrize("steps", [1, 2, 3, 64])
@pytest.mark.parametrize(("top", "low"), [(80.0, 2e-3), (1.0, 0.99), (1e4, 1e-6)])
def test_levels_fall_strictly_from_the_top_to_zero(schedule, steps, top, low):
    levels = schedule(steps, top, low)
    assert len(levels) == steps + 1
    assert all(type(s) is float for s in levels)
    assert (np.diff(levels) < 0).all()
    assert levels[0] == top
    assert levels[-1] == 0.0


@SCHEDULES
@pytest.mark.parametrize("steps", [2, 5, 64])
def test_last_level_before_zero_is_the_smallest(schedule, steps):
    assert schedule(steps, 80.0, 2e-3)[-2] == pytest.approx(2e-3, rel=1e-9)


@SCHEDULES
def test_one_step_goes_straight_to_zero(schedule):
    assert schedule(1, 7.0, 0.1) == [7.0, 0.0]


def test_karras_is_equation_5_of_the_paper():
    levels = Karras(rho=7.0)(18, 80.0, 0.002)
    i = np.arange(18)
    wanted = (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    np.testing.assert_allclose(levels[:-1], wanted, rtol=1e-10)
    np.testing.assert_allclose(np.diff(np.power(levels[:-1], 1 / 7)), (0.002 ** (1 / 7) - 80 ** (1 / 7)) / 17, rtol=1e-9)


def test_log_uniform_levels_are_a_constant_factor_apart():
    levels = np.array(LogUniform()(11, 50.0, 0.05)[:-1])
    np.testing.assert_allclose(levels[1:] / levels[:-1], 1e-3 ** (1 / 10), rtol=1e-10)


def test_karras_with_large_rho_is_log_uniform():
    np.testing.assert_allclose(Karras(rho=1e5)(20, 80.0, 0.002)[:-1], LogUniform()(20, 80.0, 0.002)[:-1], rtol=1e-3)


@SCHEDULES
@pytest.mark.parametrize("steps", [0, -3])
def test_no_steps_are_refused(schedule, steps):
    with pytest.raises(ValueError, match=f"steps must be at least 1, got {steps}"):
        schedule(steps, 1.0, 0.1)


@SCHEDULES
@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize(
    ("top", "low"),
    [(1.0, 1.0), (0.1, 1.0), (1.0, 0.0), (1.0, -0.1), (float("nan"), 0.1), (1.0, float("nan"))],
)
def test_levels_that_do_not_fall_are_refused(schedule, steps, top, low):
    with pytest.raises(ValueError, match="0 < sigma_min < sigma_max"):
        schedule(steps, top, low)
