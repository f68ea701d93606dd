import numpy as np
import pytest
import torch
import xarray as xr

from operators import Grid


def global_grid(step=10.0, descending=False, start=0.0, poles=True):
    latitude = np.arange(-90, 91, step) if poles else np.arange(-90 + step / 2, 90, step)
    return Grid(latitude[::-1] if descending else latitude, np.arange(start, start + 360, step))


def test_global_and_poles():
    assert global_grid().is_global and global_grid().poles == (True, True)
    assert global_grid(start=-180, poles=False).poles == (True, True)
    gaussian = np.degrees(np.arcsin(np.polynomial.legendre.leggauss(32)[0]))
    assert Grid(gaussian, np.arange(0, 360, 5.625)).poles == (True, True)
    assert Grid(np.arange(-90, 61, 10), np.arange(0, 360, 10)).poles == (True, False)
    regional = Grid([30, 40, 50], [-10, 0, 10])
    assert not regional.is_global and regional.poles == (False, False)
    assert not Grid([-90, 0, 90], [0, 10, 20]).poles[0]


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("poles", [False, True])
def test_area_is_the_sphere(descending, poles):
    grid = global_grid(7.5, descending, poles=poles)
    assert grid.area.sum() == pytest.approx(4 * np.pi, rel=1e-12)
    phi = np.radians(grid.latitude)[:, None]
    x = torch.from_numpy(np.tile(np.sin(phi) ** 2, (1, grid.shape[1])))
    assert float(grid.mean(x)) == pytest.approx(1 / 3, abs=3e-3)
    assert abs(float(x.mean()) - 1 / 3) > 0.15  # what a plain mean gives
    assert float(grid.mean(torch.ones_like(x))) == pytest.approx(1)


def test_bounds_of_a_region_reach_half_way():
    grid = Grid([60, 55, 50], [350, 355, 0, 5])
    np.testing.assert_allclose(grid.latitude_bounds, [62.5, 57.5, 52.5, 47.5])
    np.testing.assert_allclose(grid.longitude_bounds, [347.5, 352.5, 357.5, 362.5, 367.5])
    given = Grid([60, 55, 50], [350, 355, 0, 5], latitude_bounds=[61, 58, 52, 49])
    np.testing.assert_allclose(given.latitude_bounds, [61, 58, 52, 49])


def field(lat=("lat", "degrees_north"), lon=("lon", "degrees_east"), level=None):
    coords = {
        lat[0]: ("y", [60.0, 50.0, 40.0], {"standard_name": "latitude", "units": lat[1]}),
        lon[0]: ("x", [0.0, 10.0, 20.0], {"units": lon[1]}),
    }
    if level is not None:
        coords["plev"] = ("plev", level[0], {"units": level[1]})
    shape = (3, 3) if level is None else (len(level[0]), 3, 3)
    dims = ("y", "x") if level is None else ("plev", "y", "x")
    return xr.DataArray(np.zeros(shape), coords=coords, dims=dims)


def test_from_xarray():
    grid = Grid.from_xarray(field(("whatever", "degrees"), ("longitude", "degrees_east")))
    assert grid.level is None and grid.shape == (3, 3)
    np.testing.assert_array_equal(grid.latitude, [60, 50, 40])
    assert "latitude 40 to 60, longitude 0 to 20" in repr(grid)
    for values, units in (([100000.0, 50000.0], "Pa"), ([1000.0, 500.0], "millibars")):
        levels = Grid.from_xarray(field(level=(values, units)))
        np.testing.assert_allclose(levels.level, [1000, 500])
        assert levels.shape == (2, 3, 3)
        assert Grid.from_xarray(field(level=(values, units)).isel(plev=0)).level is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Grid.from_xarray(field(("lat", "radians"))), "latitude must be in degrees, got units 'radians'"),
        (lambda: Grid.from_xarray(field(lon=("x_of_it", "m"))), r"no longitude among the coordinates \['lat', 'x_of_it'\]"),
        (lambda: Grid.from_xarray(field(level=([1.0, 2.0], "m"))), "units of pressure .* got 'm'"),
        (lambda: Grid([0, 10, 5], [0, 1]), "latitude must be strictly increasing or decreasing"),
        (lambda: Grid([0, 10, 95], [0, 1]), "latitude must be within -90 to 90 degrees, got 0 to 95"),
        (lambda: Grid([0, float("nan")], [0, 1]), "latitude must be within"),
        (lambda: Grid([[0, 10]], [0, 1]), r"latitude must be one-dimensional .* got shape \(1, 2\)"),
        (lambda: Grid([0, 10], [0]), "longitude must be one-dimensional with at least 2"),
        (lambda: Grid([0, 10], [20, 10, 0]), "longitude must increase"),
        (lambda: Grid([0, 10], np.linspace(0, 360, 10)), "drop the columns that repeat a meridian"),
        (lambda: Grid([0, 10], [350, 10, 350, 10]), "one jump back by 360 at most"),
        (lambda: Grid([0, 10], [0, 1], [100000, 50000]), "level must be within 0 to 1100 hPa"),
        (lambda: Grid([0, 10], [0, 1], [0, 500]), "level must be above 0 hPa"),
        (lambda: Grid([0, 10], [0, 1], latitude_bounds=[0, 5]), "latitude_bounds must be 3 edges"),
        (lambda: Grid([0, 10], [0, 1], longitude_bounds=[0.2, 0.5, 1]), "longitude_bounds must be 3 edges"),
        (lambda: Grid([0, 10], [0, 1]).mean(torch.zeros(2, 3)), r"a field must be \(..., 2, 2\), got \(2, 3\)"),
        (lambda: Grid([0, 10], [0, 1]).vertical([500.0]), "has no levels"),
    ],
)
def test_errors_name_the_object(make, message):
    with pytest.raises(ValueError, match=f"Grid: .*{message}|Grid: {message}"):
        make()
