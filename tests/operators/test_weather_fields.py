"""Winds, times of a trajectory, and parts of fields."""

import numpy as np
import pytest
import torch

from operators import (
    Accumulation,
    Channel,
    Compose,
    Grid,
    Region,
    Reshape,
    Snapshot,
    StationObservations,
    TimeSeries,
    WindDirection,
    WindSpeed,
)
from tests.operators.checks import check_adjoint, check_autograd, check_norm, check_precision, check_solvers, draw

REGION = Grid([60, 55, 50, 45, 40], np.arange(-10, 16, 5.0))
AROUND = Grid(np.linspace(-80, 80, 9), np.arange(0, 360, 30.0), [1000, 500])
CASES = {
    "channel": lambda: Channel((4, 3, 5), (2, 0)),
    "region": lambda: Region(AROUND, (-20, 45), (-65, 65), channels=2),
    "reshape": lambda: Reshape((6, 3, 5), (2, 3, 3, 5)),
    "snapshot": lambda: Snapshot((2, 5, 3, 4), 1.25),
    "accumulation": lambda: Accumulation((2, 5, 3, 4), [(0, 2), (1.5, 4), (4, 4.5)], step=3600.0 / 1e3),
    "averages": lambda: Accumulation((1, 6, 5), 3, mean=True),
    "series": lambda: TimeSeries(StationObservations(REGION, [48, 51], [3, 9]), (1, 4, 5, 6), [0, 2.5]),
}


# torch.func.jvp loads its decompositions with torch's own deprecated scripting
@pytest.mark.filterwarnings("ignore:`torch.jit.script:FutureWarning")
@pytest.mark.parametrize("name", CASES)
def test_is_a_linear_operator(name):
    A = CASES[name]()
    check_adjoint(A, A.img_size)
    check_autograd(A, A.img_size)
    check_norm(A, A.img_size)
    check_precision(A, A.img_size)
    check_solvers(A, A.img_size)


def test_prox_with_a_number_and_with_weights_per_member():
    for name in ("region", "averages", "snapshot"):
        A = CASES[name]()
        y = A.A(draw(2, A.img_size))
        zeros = torch.zeros(2, *A.img_size, dtype=torch.float64)
        torch.testing.assert_close(A.prox_l2(None, y, 2.0), A.prox_l2(zeros, y, 2.0))
        torch.testing.assert_close(A.prox_l2(1.0, y, 2.0), A.prox_l2(zeros + 1, y, 2.0))
        both = A.prox_l2(zeros, y, torch.tensor([0.5, 3.0]))
        torch.testing.assert_close(both[1:], A.prox_l2(zeros[1:], y[1:], 3.0))


def test_region_across_the_seam_knows_its_grid():
    A = Region(AROUND, (-20, 45), (-65, 65))
    region = A.region
    np.testing.assert_allclose(region.latitude, [-20, 0, 20, 40])
    np.testing.assert_allclose(region.longitude % 360, [300, 330, 0, 30, 60])
    np.testing.assert_allclose(region.level, AROUND.level)
    np.testing.assert_allclose(region.area, AROUND.area[3:7][:, [10, 11, 0, 1, 2]])
    x = draw(2, A.img_size)
    torch.testing.assert_close(A.A(x), x[:, :, :, 3:7][..., [10, 11, 0, 1, 2]])
    whole = Region(AROUND, (-90, 90), (-180, 180))
    assert whole.region.is_global and whole.region.shape == AROUND.shape
    np.testing.assert_allclose(whole.region.area.sum(), AROUND.area.sum())
    falling = Region(Grid(AROUND.latitude[::-1], AROUND.longitude), (-20, 45), (-65, 65)).region
    np.testing.assert_allclose(falling.area, region.area[::-1])
    assert Region(REGION, (40, 60), (0, 359)).A(torch.zeros(1, 1, 5, 6)).shape == (1, 1, 5, 6)
    flat = Grid(AROUND.latitude, AROUND.longitude)
    inner = Region(flat, (-20, 45), (-65, 65))
    where = [10.0, 35.0], [-44.0, 359.0]
    x = draw(1, (1, *flat.shape))
    chain = Compose(StationObservations(inner.region, *where), inner)
    torch.testing.assert_close(chain.A(x), StationObservations(flat, *where).A(x))


@pytest.mark.parametrize(
    ("u", "v", "degrees"), [(0.0, -2.0, 0.0), (-2.0, 0.0, 90.0), (0.0, 2.0, 180.0), (2.0, 0.0, 270.0), (-1.0, -1.0, 45.0)]
)
def test_direction_is_where_the_wind_comes_from(u, v, degrees):
    x = torch.tensor([u, v], dtype=torch.float64).reshape(1, 2, 1, 1)
    assert float(WindDirection(form="degrees").A(x)) == pytest.approx(degrees)
    assert float(WindDirection(form="radians").A(x)) == pytest.approx(np.radians(degrees))
    data = WindDirection.components(torch.tensor([[degrees]], dtype=torch.float64))
    torch.testing.assert_close(WindDirection(epsilon=1e-6).A(x).reshape(1, 2, 1), data)
    swapped = WindDirection(1, 2, form="degrees").A(torch.cat((x[:, :1] + 9, x), 1))
    assert float(swapped) == pytest.approx(degrees)


def test_speed():
    x = torch.tensor([[3.0, 4.0]], dtype=torch.float64)[..., None]
    assert float(WindSpeed(epsilon=1e-4).A(x)) == pytest.approx(5)
    assert float(WindSpeed().A(0 * x)) == pytest.approx(0.1)
    assert float(WindSpeed().A(x)) == pytest.approx(5 + 0.01 / 10, abs=1e-6)


OPERATORS = [WindSpeed(), WindDirection(), WindDirection(form="radians")]


@pytest.mark.filterwarnings("ignore:`torch.jit.script:FutureWarning")
@pytest.mark.parametrize("A", OPERATORS)
def test_winds_are_smooth_at_calm(A):
    calm = torch.zeros(1, 2, 3, dtype=torch.float64, requires_grad=True)
    (g,) = torch.autograd.grad(A.A(calm).sum(), calm)
    assert torch.isfinite(g).all() and torch.isfinite(A.A(calm)).all()
    x = draw(2, (2, 4, 3)).requires_grad_()
    assert torch.autograd.gradcheck(A.A, x)
    if getattr(A, "form", "components") == "components":
        assert torch.autograd.gradcheck(A.A, calm)
    x = x.detach()
    y, forward = torch.func.jvp(A.A, (x,), (x + 1,))
    v = torch.ones_like(y)
    torch.testing.assert_close((forward * v).sum(), (A.A_vjp(x, v) * (x + 1)).sum())
    assert A.A(x.float()).dtype == torch.float32
    assert A.A(draw(1, (3, 2, 5, 4))).shape[2:] == (2, 5, 4)


def test_speed_at_stations_is_that_of_the_interpolated_wind():
    stations = StationObservations(REGION, [47.5], [2.5], channel=(0, 1), channels=2)
    x = draw(1, stations.img_size)
    wind = stations.A(x)[0, :, 0]
    speed = Compose(WindSpeed(epsilon=1e-6), stations).A(x)
    assert float(speed) == pytest.approx(float(wind.norm()), rel=1e-6)


def test_accumulation():
    x = draw(2, (1, 6, 2, 3))
    A = Accumulation(x.shape[1:], [(0, 3), (2.5, 4), (0, 6)], step=3600.0)
    want = [x[:, :, :3].sum(2), 0.5 * x[:, :, 2] + x[:, :, 3], x.sum(2)]
    torch.testing.assert_close(A.A(x), 3600 * torch.stack(want, 2))
    torch.testing.assert_close(Accumulation(x.shape[1:], 2, mean=True).A(x), x.unflatten(2, (3, 2)).mean(3))
    flat = x.flatten(1, 2)
    chain = Compose(A, Reshape((6, 2, 3), (1, 6, 2, 3)))
    torch.testing.assert_close(chain.A(flat), A.A(x))


def test_time_series_is_one_flat_vector():
    stations = StationObservations(REGION, [48, 51], [3, 9], channel=(0, 1), channels=2)
    x = draw(3, (2, 4, 5, 6))
    whole = TimeSeries(stations, x.shape[1:])
    parts = whole.split(whole.A(x))
    assert whole.A(x).shape == (3, 16) and list(parts) == [0, 1, 2, 3]
    for t, data in parts.items():
        torch.testing.assert_close(data, stations.A(x[:, :, t]))
    mixed = TimeSeries({2.5: Compose(WindSpeed(), stations), 0: stations}, x.shape[1:])
    assert mixed.names == (0, 2.5)
    parts = mixed.split(mixed.A(x))
    torch.testing.assert_close(parts[0], stations.A(x[:, :, 0]))
    torch.testing.assert_close(parts[2.5], WindSpeed().A(stations.A((x[:, :, 2] + x[:, :, 3]) / 2)))
    assert hasattr(whole, "A_adjoint") and not hasattr(mixed, "A_adjoint")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Channel((3, 4), 3), "Channel: channel must be one or several different of 0 to 2, got 3"),
        (lambda: Reshape((3, 4), (2, 5)), r"Reshape: shapes must have the same number .* got \(3, 4\) and \(2, 5\)"),
        (lambda: Region(REGION, (50, 40), (0, 10)), "Region: .* hold 0 rows"),
        (lambda: Region(REGION, (40, 50), (10, 350)), "longitudes 10 to 350 are two parts of Grid"),
        (lambda: Region(REGION, (40, 50), (0, 4)), "hold 3 rows and 1 columns of Grid"),
        (lambda: Snapshot((2, 3, 4), 2.5), "Snapshot: time must be within 0 to 2 steps, got 2.5"),
        (lambda: Snapshot((2,), 0), r"Snapshot: shape must be \(C, T, ...\)"),
        (lambda: Snapshot((2, 3, 4), 0).A(torch.zeros(1, 2, 3)), r"Snapshot: x must be \(B, 2, 3, 4\)"),
        (lambda: Accumulation((1, 6), 4), "windows of 4 steps do not fill 6"),
        (lambda: Accumulation((1, 6), [(2, 7)]), "within 0 to 6 steps, got 2 to 7"),
        (lambda: Accumulation((1, 6), [(2, 2)]), "got 2 to 2"),
        (lambda: Accumulation((1, 6), []), "at least one"),
        (lambda: Accumulation((1, 6), 2, step=0), "step must be positive"),
        (lambda: TimeSeries({4: Channel((1, 5, 6), 0)}, (1, 4, 5, 6)), "time must be within 0 to 3"),
        (lambda: TimeSeries(Channel((2, 5, 6), 0), (1, 4, 5, 6)), r"part 0 does not take a field of shape \(1, 4, 5, 6\)"),
        (lambda: TimeSeries({0: Channel((1, 2), 0)}, (1, 4, 2), [0]), "times are for one instrument"),
        (lambda: WindSpeed(1, 1), "WindSpeed: u and v must be two different channels"),
        (lambda: WindSpeed(epsilon=0), "epsilon must be positive"),
        (lambda: WindDirection(form="gon"), "form must be 'components', 'radians' or 'degrees', got 'gon'"),
        (lambda: WindSpeed().A(torch.zeros(1, 1, 3)), "x has 1 channels; wanted channels 0 and 1"),
        (lambda: WindSpeed().A("wind"), "WindSpeed: x must be .* got str"),
    ],
)
def test_errors_name_the_object(make, message):
    with pytest.raises(ValueError, match=message):
        make()
