import tracemalloc

import h5py
import numpy as np
import pytest
import xarray as xr

from posterior.io._files import FileError
from posterior.io.axes import find_axes
from posterior.io.fields import convert_units, open_fields
from posterior.io.units import UnitError

pytest.importorskip("dask")
pytest.importorskip("pint")

TIMES = np.array(["2005-08-25", "2005-08-26", "2005-08-27"], "datetime64[ns]")


@pytest.fixture
def dataset():
    """Descending latitudes, longitudes from 0 to 360, one value missing, names as the climate data store has them."""
    values = 280 + np.random.default_rng(0).standard_normal((3, 4, 5)).astype(np.float32)
    values[1, 2, 3] = np.nan
    return xr.Dataset(
        {"t2m": (("valid_time", "lat", "lon"), values, {"units": "K", "standard_name": "air_temperature", "valid_min": 200.0})},
        {
            "valid_time": ("valid_time", TIMES),
            "lat": ("lat", np.array([60.0, 50, 40, 30]), {"units": "degrees_north"}),
            "lon": ("lon", np.array([0.0, 72, 144, 216, 288]), {"units": "degrees_east"}),
        },
    )


WRITERS = {
    "classic": lambda data, path: data.to_netcdf(path, engine="scipy"),
    "hdf5": lambda data, path: data.to_netcdf(path, engine="h5netcdf"),
    "zarr2": lambda data, path: data.to_zarr(path, zarr_format=2, consolidated=False),
    "zarr3": lambda data, path: data.to_zarr(path, zarr_format=3, consolidated=False),
}


@pytest.fixture(params=WRITERS)
def stored(request, dataset, tmp_path):
    if request.param.startswith("zarr"):
        pytest.importorskip("zarr")

    def write(data=dataset, name="a"):
        path = tmp_path / name
        WRITERS[request.param](data, path)
        return path

    return write


# what is kept


def test_names_units_order_and_missing_values_are_kept(stored, dataset):
    field = open_fields(stored(), "t2m")
    assert field.name == "t2m"
    assert field.dims == ("valid_time", "lat", "lon")
    assert field.attrs["units"] == "K"
    assert field.chunks is not None
    assert field["lat"].values.tolist() == [60, 50, 40, 30]
    assert field["lat"].attrs["units"] == "degrees_north"
    assert np.array_equal(field["valid_time"].values.astype("datetime64[ns]"), TIMES)
    np.testing.assert_array_equal(field.values, dataset["t2m"].values)
    assert find_axes(field) == {"time": "valid_time", "latitude": "lat", "longitude": "lon"}


def test_one_variable_needs_no_name(stored):
    assert open_fields(str(stored())).name == "t2m"


def test_units_on_request(stored, dataset):
    field = open_fields(stored(), units="degC")
    assert (field.attrs["units"], field.attrs["original_units"]) == ("degC", "K")
    assert field.attrs["standard_name"] == "air_temperature"
    assert field.attrs["valid_min"] == pytest.approx(200 - 273.15)
    assert field.dtype == np.float32
    np.testing.assert_allclose(field.values, dataset["t2m"].values - 273.15, rtol=1e-5)


def test_renaming_leaves_a_record(stored):
    field = open_fields(stored(), rename=True)
    assert field.dims == ("time", "latitude", "longitude")
    assert {role: field[role].attrs["original_name"] for role in field.dims} == {
        "time": "valid_time",
        "latitude": "lat",
        "longitude": "lon",
    }


def test_packed_integers_and_fill_values(dataset, tmp_path):
    packed = {"t2m": {"dtype": "int16", "scale_factor": 0.01, "add_offset": 280.0, "_FillValue": -32767}}
    dataset.to_netcdf(tmp_path / "a.nc", engine="h5netcdf", encoding=packed)
    field = open_fields(tmp_path / "a.nc", units="degC")
    assert np.isnan(field.values[1, 2, 3])
    np.testing.assert_allclose(field.values, dataset["t2m"].values - 273.15, atol=0.006)


PACKED = {"dtype": "int16", "scale_factor": 0.01, "add_offset": 280.0, "_FillValue": -32767}


@pytest.mark.parametrize(
    ("attributes", "packing", "low", "high"),
    [
        ({"valid_range": np.array([-50, 100], np.int16)}, PACKED, 279.5, 281.0),
        ({"valid_min": np.int16(-50)}, PACKED, 279.5, np.inf),
        ({"valid_range": np.array([-50, 100], np.int16)}, {**PACKED, "scale_factor": -0.01}, 279.0, 280.5),
        ({"valid_min": np.int16(-50)}, {**PACKED, "scale_factor": -0.01}, -np.inf, 280.5),
        ({"valid_range": np.array([279.5, 281.0])}, PACKED, 279.5, 281.0),  # of the unpacked type: of unpacked numbers
        ({"valid_max": np.float32(280.1)}, {}, -np.inf, 280.1),
    ],
)
def test_values_out_of_the_valid_range_are_missing(dataset, tmp_path, attributes, packing, low, high):
    values = np.round(dataset["t2m"].values.astype(np.float64), 2)
    values[0, 0, :4] = [279.49, 279.5, 281.0, 281.01]
    made = dataset.assign(t2m=(dataset["t2m"].dims, values, {"units": "K", **attributes}))
    made.to_netcdf(tmp_path / "a.nc", engine="h5netcdf", encoding={"t2m": packing})
    for chunks in ("auto", None):
        field = open_fields(tmp_path / "a.nc", units="degC", chunks=chunks)
        inside = (values > low - 0.004) & (values < high + 0.004)
        np.testing.assert_array_equal(np.isfinite(field.values), inside)
        np.testing.assert_allclose(field.values[inside], values[inside] - 273.15, atol=1e-4)
        stated = field.attrs.get("valid_range", [field.attrs.get("valid_min", -np.inf), field.attrs.get("valid_max", np.inf)])
        np.testing.assert_allclose(stated, [low - 273.15, high - 273.15], atol=1e-4)


def test_valid_ranges_of_bytes_without_a_sign(tmp_path):
    stored = xr.Variable(
        ("lat",), np.array([0, 100, -56, -1], np.int8), {"_Unsigned": "true", "scale_factor": 2.0, "units": "K"}
    )
    stored.attrs["valid_max"] = np.int8(-56)  # 200
    xr.Dataset({"t": stored}, {"lat": [0.0, 1, 2, 3]}).to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    np.testing.assert_array_equal(open_fields(tmp_path / "a.nc").values, [0, 200, 400, np.nan])


@pytest.mark.parametrize(("marker", "stored"), [("-9999", np.float32), ("-9999", np.int16), ("none", np.float32)])
def test_a_missing_value_that_is_text(tmp_path, marker, stored):
    t = xr.Variable(("lat",), np.array([1, -9999, 3], stored), {"units": "K", "missing_value": marker})
    t.attrs |= {"scale_factor": 0.5} if stored == np.int16 else {}
    xr.Dataset({"t": t}, {"lat": [0.0, 1, 2]}).to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    gap = -9999 if marker == "none" else np.nan
    np.testing.assert_array_equal(open_fields(tmp_path / "a.nc").values, np.array([1, gap, 3]) * t.attrs.get("scale_factor", 1))


def test_a_valid_range_that_is_none(dataset, tmp_path, refused):
    dataset["t2m"].attrs["valid_range"] = "200, 300"
    dataset.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    refused(FileError, ["'t2m' has valid_range '200, 300'", "wanted two numbers"], open_fields, tmp_path / "a.nc")


def test_one_of_several_variables_by_what_it_is_known_as(dataset, tmp_path):
    two = dataset.assign(d2m=dataset["t2m"].assign_attrs(standard_name="dew_point_temperature"))
    two.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    assert open_fields(tmp_path / "a.nc", known_as=["air_pressure", "air_temperature"]).name == "t2m"


def test_calendar_is_kept(dataset, tmp_path):
    pytest.importorskip("cftime")
    days = ("valid_time", np.array([58.0, 59, 60]), {"units": "days since 2001-01-01", "calendar": "360_day"})
    dataset.assign_coords(valid_time=days).to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    field = open_fields(tmp_path / "a.nc")
    assert field["valid_time"].dt.calendar == "360_day"
    assert str(field["valid_time"].values[1]) == "2001-02-30 00:00:00"


def test_unit_and_time_that_the_file_does_not_state(dataset, tmp_path, refused):
    del dataset["t2m"].attrs["units"]
    bare = dataset.assign_coords(valid_time=("valid_time", [0.0, 1, 2]))
    path = tmp_path / "a.nc"
    bare.to_netcdf(path, engine="h5netcdf")
    refused(FileError, ["a.nc", "'valid_time' has no unit", "coordinate_units="], open_fields, path)
    absolute = bare.assign_coords(valid_time=("valid_time", [20050825.0, 20050826, 20050827], {"units": "day as %Y%m%d.%f"}))
    absolute.to_netcdf(tmp_path / "b.nc", engine="h5netcdf")
    refused(FileError, ["b.nc", "'valid_time' is in 'day as %Y%m%d.%f'; wanted times"], open_fields, tmp_path / "b.nc")
    time = {"valid_time": "days since 2005-08-25"}
    refused(FileError, ["a.nc", "'t2m' has no attribute 'units'", "source_units="], open_fields, path, coordinate_units=time)
    field = open_fields(path, coordinate_units=time, source_units="K", units="degC")
    assert np.array_equal(field["valid_time"].values.astype("datetime64[ns]"), TIMES)
    assert field.attrs["original_units"] == "K"


def test_what_the_file_states_is_not_overruled(stored, refused):
    path = stored()
    refused(FileError, ["'t2m' is in 'K'", "source_units= says 'degC'"], open_fields, path, source_units="degC")
    words = ["coordinate 'lat' is in 'degrees_north'", "says 'radian'"]
    refused(FileError, words, open_fields, path, coordinate_units={"lat": "radian"})
    refused(FileError, ["no coordinate 'x' but"], open_fields, path, coordinate_units={"x": "m"})


def test_gzipped_netcdf(dataset, tmp_path):
    import gzip

    dataset.to_netcdf(tmp_path / "a.nc", engine="scipy")
    (tmp_path / "a.nc.gz").write_bytes(gzip.compress((tmp_path / "a.nc").read_bytes()))
    np.testing.assert_array_equal(open_fields(tmp_path / "a.nc.gz").values, dataset["t2m"].values)


@pytest.mark.parametrize(
    ("names", "attributes", "roles"),
    [
        (("time", "pressure_level", "latitude", "longitude"), {}, ("time", "level", "latitude", "longitude")),
        (("valid_time", "isobaricInhPa", "lat", "lon"), {}, ("time", "level", "latitude", "longitude")),
        (("t", "plev", "y", "x"), {"y": "latitude", "x": "longitude"}, ("time", "level", "latitude", "longitude")),
        (("number", "lev", "j", "i"), {}, (None, "level", None, None)),
    ],
)
def test_axes(names, attributes, roles):
    coords = {name: (name, [1.0, 2.0], {"standard_name": attributes[name]} if name in attributes else {}) for name in names}
    field = xr.DataArray(np.zeros((2, 2, 2, 2)), dims=names, coords=coords)
    assert find_axes(field) == {role: name for role, name in zip(roles, names, strict=True) if role}


# real files


def test_reanalysis_in_an_r_file(data_file):
    pytest.importorskip("rdata")
    field = open_fields(data_file("ncep-slp-2001-2010"), "slp", units="hPa")
    assert dict(field.sizes) == {"time": 3652, "lat": 17, "lon": 33}
    assert field.attrs["original_units"] == "Pascals"
    assert field.attrs["description"] == "4xDaily Sea Level Pressure"
    assert (field["time"].values[0], field["time"].values[-1]) == (np.datetime64("2001-01-01"), np.datetime64("2010-12-31"))
    assert (field["lat"].values[0], field["lat"].values[-1], field["lon"].values[0]) == (30, 70, -70)
    assert 920 < float(field.min()) < float(field.max()) < 1070
    # the Azores high is higher than the Icelandic low
    assert float(field.sel(lat=37.5, lon=-25).mean()) > float(field.sel(lat=65, lon=-25).mean()) + 10


def test_grib(data_file, tmp_path, refused):
    pytest.importorskip("cfgrib")
    path = data_file("era5-t2m-uk-2019-03")
    field = open_fields(path, "t2m", units="degC")
    assert dict(field.sizes) == {"time": 744, "latitude": 33, "longitude": 49}
    assert field["latitude"].values[0] == 58 and field["latitude"].values[-1] == 50
    assert -15 < float(field[::50].min()) < float(field[::50].max()) < 25
    assert not list(path.parent.glob("*.idx"))
    (tmp_path / "cut.grib").write_bytes(path.read_bytes()[:10000])
    refused(FileError, ["cut.grib", "not a complete GRIB file"], open_fields, tmp_path / "cut.grib")
    (tmp_path / "two.grib").write_bytes(path.read_bytes()[:20160])
    refused(FileError, ["two.grib", "no variable 'msl' but t2m"], open_fields, tmp_path / "two.grib", "msl")


def test_netcdf_of_a_bias_adjusted_reanalysis(data_file):
    field = open_fields(data_file("wfde5-uk-air-temperature"), "Tair", units="degC", rename=True)
    assert dict(field.sizes) == {"time": 744, "latitude": 20, "longitude": 28}
    assert bool((field["latitude"].diff("latitude") > 0).all())
    assert -15 < float(field.mean()) < 12


def test_ocean_currents(data_file, refused):
    path = data_file("globcurrent-agulhas-2002")
    refused(FileError, ["globcurrent", "'time' has no unit"], open_fields, path, "u")
    time = {"time": "days since 1900-01-01"}
    refused(FileError, ["globcurrent", "holds the variables u, v"], open_fields, path, coordinate_units=time)
    field = open_fields(path, "u", coordinate_units=time)
    assert field["time"].values[0] == np.datetime64("2002-01-01")
    assert 0 < int(field[0].isnull().sum()) < field[0].size


# laziness


def _peak(call):
    tracemalloc.start()
    try:
        result = call()
        return result, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def _open_and_read_one(path):
    field = open_fields(path, "z", units="km2 s-2")
    return field, field[1234, 100, 200].values


def test_a_huge_zarr_store_opens_without_loading(tmp_path):
    zarr = pytest.importorskip("zarr")
    group = zarr.open_group(tmp_path / "huge.zarr", mode="w", zarr_format=2)
    shape = (24000, 721, 1440)  # 100 GB
    names = ("time", "latitude", "longitude")
    array = group.create_array("z", shape=shape, chunks=(1, 721, 1440), dtype="f4", fill_value=np.nan)
    array.attrs.update({"_ARRAY_DIMENSIONS": list(names), "units": "m2 s-2"})
    array[1234] = 5e6
    values = (np.arange(shape[0]), np.linspace(90, -90, 721), np.arange(1440) / 4)
    for name, value in zip(names, values, strict=True):
        # a fill value of zero, zarr's default, would make xarray take the zero for a gap
        coordinate = group.create_array(name, shape=value.shape, dtype=value.dtype, fill_value=None)
        coordinate[:] = value
        coordinate.attrs["_ARRAY_DIMENSIONS"] = [name]
    group["time"].attrs["units"] = "hours since 2000-01-01"
    (field, one), peak = _peak(lambda: _open_and_read_one(tmp_path / "huge.zarr"))
    assert field.nbytes > 90e9
    assert one == pytest.approx(5.0)
    assert all(block % 721 == 0 for block in field.chunks[1])
    assert peak < 500e6


def test_a_huge_hdf5_file_opens_without_loading(tmp_path):
    path = tmp_path / "huge.nc"
    shape = (24000, 361, 720)  # 25 GB
    with h5py.File(path, "w") as file:
        data = file.create_dataset("z", shape, "f4", chunks=(1, 361, 720))
        data.attrs["units"] = "m2 s-2"
        data[1234] = 5e6
        for axis, (name, values) in enumerate(
            {"time": np.arange(shape[0]), "latitude": np.linspace(90, -90, 361), "longitude": np.arange(720) / 2}.items()
        ):
            file[name] = values
            file[name].make_scale(name)
            data.dims[axis].attach_scale(file[name])
        file["time"].attrs["units"] = "hours since 2000-01-01"
    assert path.stat().st_size < 10e6
    (field, one), peak = _peak(lambda: _open_and_read_one(path))
    assert field.nbytes > 20e9
    assert one == pytest.approx(5.0)
    assert peak < 500e6


@pytest.fixture
def mean_on_a_cluster(tmp_path, dataset):
    """The mean over space, computed by a worker in a process of its own; a fixture, since distributed draws from random."""
    distributed = pytest.importorskip("distributed")
    options = {"n_workers": 1, "threads_per_worker": 1, "dashboard_address": None, "memory_limit": None}
    dataset.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    field = open_fields(tmp_path / "a.nc", units="degC", chunks={"valid_time": 1})
    with distributed.LocalCluster(processes=True, **options) as cluster, distributed.Client(cluster) as client:
        return client.compute(field.mean(("lat", "lon"))).result(timeout=60)


def test_dask_cluster(dataset, mean_on_a_cluster):
    np.testing.assert_allclose(mean_on_a_cluster.values, np.nanmean(dataset["t2m"].values - 273.15, axis=(1, 2)), rtol=1e-4)


# refusing


def test_missing_file(tmp_path, refused):
    refused(FileError, ["a.nc", "no such file", "wanted NetCDF"], open_fields, tmp_path / "a.nc")


def test_another_kind_of_file(tmp_path, refused):
    (tmp_path / "a.nc").write_text("no grid")
    refused(FileError, ["a.nc", "starts with b'no grid'", "wanted NetCDF, Zarr, GRIB"], open_fields, tmp_path / "a.nc")
    refused(FileError, ["a folder without zarr.json"], open_fields, tmp_path)


def test_wrong_variable(stored, refused):
    path = stored()
    refused(FileError, [str(path), "no variable 'slp' but t2m"], open_fields, path, "slp")
    refused(FileError, ["no variable 'lat' but t2m"], open_fields, path, "lat")


def test_unit_of_something_else(stored, refused):
    refused(UnitError, ["variable 't2m'", "'K' does not convert to 'Pa'"], open_fields, stored(), units="Pa")


@pytest.mark.parametrize("name", ["classic", "hdf5"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.98])
def test_truncated_netcdf(tmp_path, dataset, refused, name, share):
    path = tmp_path / "a.nc"
    WRITERS[name](dataset, path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    refused(FileError, ["a.nc", "not a complete NetCDF file"], open_fields, path)


def test_damaged_zarr(tmp_path, dataset, refused):
    pytest.importorskip("zarr")
    WRITERS["zarr3"](dataset, tmp_path / "a.zarr")
    metadata = tmp_path / "a.zarr" / "t2m" / "zarr.json"
    metadata.write_text(metadata.read_text()[:50])
    refused(FileError, ["a.zarr", "not a complete Zarr"], open_fields, tmp_path / "a.zarr")


def test_truncated_r_file(tmp_path, refused):
    pytest.importorskip("rdata")
    (tmp_path / "a.rda").write_bytes(b"RDX2\nX\n\x00\x00")
    refused(FileError, ["a.rda", "not a complete R data file"], open_fields, tmp_path / "a.rda")


@pytest.mark.parametrize(
    ("latitude", "words"),
    [
        ([60, np.nan, 40, 30], ["'lat' has 1 of 4 values missing"]),
        ([160.0, 50, 40, 30], ["'lat' goes to 160", "within 90"]),
        ([60.0, 40, 50, 30], ["'lat' goes up and down"]),
    ],
)
def test_latitudes_that_are_none(tmp_path, dataset, refused, latitude, words):
    dataset.assign_coords(lat=("lat", latitude)).to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    refused(FileError, ["a.nc", *words], open_fields, tmp_path / "a.nc")


def test_field_without_a_unit(refused):
    refused(FileError, ["'z' has no attribute 'units'"], convert_units, xr.DataArray([1.0], name="z"), "m")
    refused(TypeError, ["field is a float; wanted an xarray DataArray"], convert_units, 1.0, "m")
