import numpy as np
import pytest
import xarray as xr

from posterior.io._files import FileError
from posterior.io.axes import on_grid
from posterior.io.fields import open_fields

pytest.importorskip("dask")


def _field(longitudes):
    values = np.arange(4.0 * len(longitudes)).reshape(4, -1)
    coords = {"lat": [60.0, 50, 40, 30], "lon": np.array(longitudes, np.float32)}
    return xr.DataArray(values, coords, ("lat", "lon"), "t2m", {"units": "K"})


@pytest.mark.parametrize(
    ("longitudes", "words"),
    [
        ([0, 72, 144, 288, 288], ["'lon' has 288 degrees 2 times", "wanted each longitude once"]),
        ([0, 90, 180, 270, 360], ["'lon' has 0 degrees 2 times .360 degrees are 0."]),
        ([0, 2, 4, 8, 10], ["'lon' has a gap from 4 to 8"]),
        ([0, 2, 4, 90, 92, 94], ["'lon' has a gap from 4 to 90", "as 350, 355, 0, 5"]),
        ([700, 710, 720, 730, 740], ["'lon' goes to 740; wanted longitude from -360 to 720 degrees"]),
        ([0, 20, 10, 30, 40], ["'lon' goes up and down"]),
    ],
)
def test_longitudes_that_repeat_or_have_a_gap(tmp_path, refused, longitudes, words):
    _field(longitudes).to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    refused(FileError, ["a.nc", *words], open_fields, tmp_path / "a.nc")


@pytest.mark.parametrize(
    "longitudes",
    [[350, 355, 0, 5, 10], [170, 175, 180, -175, -170], [40, 30, 20, 10, 0], [356, 358, 360, 362, 364], [0, 1, 2.2, 3.6, 5.3]],
)
def test_longitudes_of_any_convention(tmp_path, longitudes):
    _field(longitudes).to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    np.testing.assert_allclose(open_fields(tmp_path / "a.nc")["lon"].values, longitudes, rtol=1e-6)


@pytest.mark.parametrize("chunks", ["auto", None])
@pytest.mark.parametrize(
    ("longitudes", "wanted"),
    [([0, 2, 4, 356, 358], [356, 358, 0, 2, 4]), ([-180, -178, 176, 178], [176, 178, -180, -178])],
)
def test_a_region_that_the_file_cuts_in_two_comes_in_one_piece(tmp_path, longitudes, wanted, chunks):
    """As `field.assign_coords(lon=field.lon % 360).sortby("lon")` leaves one across Greenwich."""
    field = _field(longitudes)
    field.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    found = open_fields(tmp_path / "a.nc", chunks=chunks)
    assert found["lon"].values.tolist() == wanted
    np.testing.assert_array_equal(found.values, field.sel(lon=wanted).values)


def test_on_grid_takes_the_points_that_are_wanted_in_their_order(tmp_path, refused):
    field = _field([0, 90, 180, 270]).rename(lat="latitude", lon="longitude")
    found = on_grid(field, np.array([40.0, 50.0]), np.array([-90.0, 0.0, 90.00001]), "a.nc", "prior 'p'")
    assert found.values.tolist() == [[11, 8, 9], [7, 4, 5]]
    words = ["a.nc: its latitudes are not those of prior 'p': it lacks 1, as 45 degrees"]
    refused(FileError, words, on_grid, field, np.array([45.0, 50.0]), np.array([0.0]), "a.nc", "prior 'p'")


def test_forecasts_are_of_the_time_that_they_are_for(tmp_path):
    """Written as cfgrib names things: one lead time along analyses, and a table of analyses and lead times."""
    start, valid = ({"standard_name": name} for name in ("forecast_reference_time", "time"))
    days = np.array(["2020-01-01", "2020-01-02", "2020-01-03"], "datetime64[ns]")
    field = _field([0, 5, 10]).expand_dims(time=3).assign_coords(time=("time", days, start))
    late = field.assign_coords(valid_time=("time", days + np.timedelta64(6, "h"), valid))
    late.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    found = open_fields(tmp_path / "a.nc", rename=True)
    assert found.dims == ("time", "latitude", "longitude") and found["time"].attrs["original_name"] == "valid_time"
    assert (found["time"].values == days + np.timedelta64(6, "h")).all() and (found["original_time"].values == days).all()
    assert open_fields(tmp_path / "a.nc").dims == ("time", "lat", "lon")
    lead = np.array([6, 12], "timedelta64[h]").astype("timedelta64[ns]")
    table = field.expand_dims(step=lead).assign_coords(valid_time=(("time", "step"), days[:, None] + lead, valid))
    table.to_netcdf(tmp_path / "b.nc", engine="h5netcdf")
    assert open_fields(tmp_path / "b.nc", rename=True).dims == ("step", "time", "latitude", "longitude")
