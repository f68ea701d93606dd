import gzip

import numpy as np
import pytest
import xarray as xr

from posterior.io._files import FileError
from posterior.io.observations import PASSED, read_observations, summarise, wind_components

pytest.importorskip("pint")

FILL = np.float32(3.4028235e38)


def _metar(path, **changes):
    """Three surface reports: the second lacks a pressure, the temperature of the third was refused."""

    def values(numbers, unit):
        return ("recNum", np.array(numbers, np.float32), {"units": unit, "_FillValue": FILL})

    data = {
        "stationName": ("recNum", np.array([b"EGLL", b"LFPG", b"EDDF"])),
        "latitude": values([51.5, 49.0, 50.0], "degree_north"),
        "longitude": values([-0.5, 2.5, 8.6], "degree_east"),
        "elevation": values([25, 119, 111], "meter"),
        "timeObs": ("recNum", np.full(3, 1125014400.0), {"units": "seconds since 1970-1-1 00:00:00.0"}),
        "seaLevelPress": values([101300, FILL, 101000], "pascal"),
        "seaLevelPressDD": ("recNum", np.array([b"V", b"Z", b"S"])),
        "temperature": values([290, 291, 292], "kelvin"),
        "temperatureDD": ("recNum", np.array([b"V", b"C", b"Q"])),
    }
    data |= changes
    dataset = xr.Dataset({name: value for name, value in data.items() if value is not None})
    dataset.to_netcdf(path, engine="scipy")
    return path


def test_surface_reports(tmp_path):
    table = read_observations(_metar(tmp_path / "a.nc"))
    assert list(zip(table["station"], table["variable"], table["value"], table["quality"], strict=True)) == [
        ("EGLL", "air_pressure_at_mean_sea_level", 101300.0, "V"),
        ("EDDF", "air_pressure_at_mean_sea_level", 101000.0, "S"),
        ("EGLL", "air_temperature", 290.0, "V"),
        ("LFPG", "air_temperature", 291.0, "C"),
    ]
    assert (table["time"] == np.datetime64("2005-08-26T00:00")).all()
    assert table["level"].isna().all()
    assert table["elevation"].tolist()[0] == 25
    assert summarise(table).reports == 3
    assert summarise(table).dropped == {"quality flag Q": 1}


def test_flags_to_accept(tmp_path):
    path = _metar(tmp_path / "a.nc")
    assert len(read_observations(path, accept=[*PASSED, "Q"])) == 5
    assert len(read_observations(path, accept=["V"])) == 2


def test_units_are_read_not_assumed(tmp_path, refused):
    celsius = ("recNum", np.array([17, 18, 19], np.float32), {"units": "degC"})
    table = read_observations(_metar(tmp_path / "a.nc", temperature=celsius))
    assert table[table["variable"] == "air_temperature"]["value"].tolist() == pytest.approx([290.15, 291.15])
    bare = ("recNum", np.array([17, 18, 19], np.float32))
    refused(
        FileError,
        ["b.nc", "'temperature' has no attribute 'units'"],
        read_observations,
        _metar(tmp_path / "b.nc", temperature=bare),
    )


def test_positions_and_times_that_are_missing(tmp_path):
    latitude = ("recNum", np.array([51.5, np.nan, 150], np.float32), {"units": "degree_north"})
    time = ("recNum", np.array([np.nan, 1125014400.0, 1125014400.0]), {"units": "seconds since 1970-1-1 00:00:00.0"})
    table = read_observations(_metar(tmp_path / "a.nc", latitude=latitude, timeObs=time), accept=[*PASSED, "Q"])
    assert len(table) == 0
    assert summarise(table).dropped == {"position missing or off the globe": 3, "time missing": 2}


@pytest.mark.parametrize("left_out", ["wmoStaNum", "tpMan"])
def test_other_writers_of_soundings(tmp_path, refused, left_out):
    """A dimension of another name, times since 1970-01-01, and a variable that is not there."""
    each = {"staLat": (52.0, "degree_N"), "staLon": (8.0, "degree_E"), "staElev": (50.0, "meter")}
    each |= {"synTime": (1125014400.0, "seconds since 1970-01-01 00:00:00")}
    data = {name: ("sounding", [value] * 2, {"units": unit}) for name, (value, unit) in each.items()}
    levels = {"prMan": (850, "hectopascals"), "tpMan": (280, "kelvin")}
    data |= {name: (("sounding", "man"), np.full((2, 3), value, "f4"), {"units": u}) for name, (value, u) in levels.items()}
    data |= {
        "staName": ("sounding", np.array([b"A", b"B"])),
        "wmoStaNum": ("sounding", [1, 2]),
        "numMand": ("sounding", [2, 3]),
    }
    xr.Dataset(data).drop_vars(left_out).to_netcdf(tmp_path / "a.nc", engine="scipy")
    if left_out == "tpMan":
        refused(FileError, ["a.nc", "none of the variables ht, tp, td, ws, wd"], read_observations, tmp_path / "a.nc")
    else:
        table = read_observations(tmp_path / "a.nc")
        assert table["value"].tolist() == [280.0] * 2 and table["time"].iloc[0] == np.datetime64("2005-08-26T00:00")


def test_wrong_variables(tmp_path, refused):
    path = _metar(tmp_path / "a.nc", timeObs=None)
    refused(FileError, ["a.nc", "no variable 'timeObs' but stationName"], read_observations, path)
    path = _metar(tmp_path / "b.nc", seaLevelPress=None, seaLevelPressDD=None)
    refused(FileError, ["b.nc", "neither 'seaLevelPress' nor 'prMan' but"], read_observations, path)
    days = ("recNum", np.ones(3), {"units": "days since 2000-01-01"})
    refused(FileError, ["c.nc", "'timeObs' has the unit 'days"], read_observations, _metar(tmp_path / "c.nc", timeObs=days))


@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
@pytest.mark.parametrize("packed", [False, True])
def test_truncated(tmp_path, refused, share, packed):
    path = _metar(tmp_path / "a.nc")
    content = gzip.compress(path.read_bytes()) if packed else path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    refused(FileError, ["a.nc", "truncated|not a complete"], read_observations, path)


def test_real_surface_reports(data_file):
    table = read_observations(data_file("metar-2005082600"))
    account = summarise(table)
    assert account.reports == 3328
    assert account.kept == len(table)
    assert account.dropped == {"duplicate": 39, "quality flag Q": 364, "replaced by a later report": 1}
    by_name = {name: rows["value"] for name, rows in table.groupby("variable", observed=True)}
    assert by_name["air_pressure_at_mean_sea_level"].between(90000, 110000).all()
    assert len(by_name["air_pressure_at_mean_sea_level"]) == 1337
    assert by_name["air_temperature"].between(255, 325).all()
    assert by_name["wind_from_direction"].between(0, 360).all()
    assert table["time"].between("2005-08-25T23:00", "2005-08-26T01:00").all()
    # every value that was reported is either in the table or accounted for
    assert account.kept + sum(account.dropped.values()) == 1376 + 3101 + 3274 + 3202 + 3200 + 3282 + 207


def test_real_soundings(data_file):
    table = read_observations(data_file("rawin-2005082600"))
    account = summarise(table)
    assert account.reports == 557
    assert account.kept == len(table)
    # the file's valid_range for longitude, -180 to -50, would lose three soundings of four
    assert (table["longitude"] > 0).sum() > len(table) / 2
    # winds at significant levels are given by height alone
    assert account.dropped["level without a pressure"] == 4659 + 4658 + 1
    # two winds of 500 m/s and their like
    assert account.dropped["gross error: wind_speed"] == 12
    assert table["level"].between(1, 1100).all()
    temperature = table[table["variable"] == "air_temperature"]
    cold = temperature[temperature["level"] == 100]["value"].median()
    warm = temperature[temperature["level"] == 850]["value"].median()
    assert 195 < cold < 225 and 280 < warm < 295
    height = table[(table["variable"] == "geopotential_height") & (table["level"] == 500)]["value"]
    assert len(height) > 400 and 5300 < height.median() < 5900


def test_real_winds_in_components(data_file):
    winds = wind_components(read_observations(data_file("rawin-2005082600")))
    jet = winds[(winds["variable"] == "eastward_wind") & (winds["level"] == 200) & winds["latitude"].between(35, 60)]
    assert jet["value"].mean() > 5
