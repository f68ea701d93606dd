from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import rich.progress  # noqa: F401  importing it draws from `random`, which a test's body may not
import torch
import xarray as xr
from typer.testing import CliRunner

import posterior
from posterior.cli import app
from posterior.cli._common import named_after
from posterior.io import write_observations
from posterior.priors.base import Affine
from tests.recipes.pressure import SLP, field, pressure_prior, stations

QUICK = ["--steps", "2", "--draws", "20"]


@pytest.fixture(scope="module")
def prior():
    return pressure_prior()


@pytest.fixture
def run(prior, monkeypatch, tmp_path):
    monkeypatch.setattr(posterior, "load_prior", lambda name: prior)
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        return CliRunner().invoke(app, [str(a) for a in arguments])

    return call


@pytest.fixture
def table(prior, tmp_path):
    made = stations(prior, field(prior, 5), count=40)
    made.loc[7, "value"] += 6000
    made.loc[8, "latitude"] = 10.0
    write_observations(made, tmp_path / "hour.csv")
    return tmp_path / "hour.csv"


def test_assimilate_lists_what_it_drops_and_writes_map_and_ensemble(run, table, tmp_path):
    result = run("assimilate", table, *QUICK, "--folds", 2)
    assert result.exit_code == 0, result.output
    assert "40 values kept" in result.stdout
    assert "1: off the grid" in result.stdout
    assert "S007" in result.stdout and "gross error" in result.stdout
    assert "at 38 withheld stations" in result.stdout and "optimal interpolation" in result.stdout
    assert (tmp_path / "hour-analysis.png").stat().st_size > 10000
    loaded = posterior.load_draws(tmp_path / "hour-analysis.nc")
    assert loaded.n == 20 and loaded.units == "hPa"
    with xr.open_datatree(tmp_path / "hour-analysis.nc", engine="h5netcdf") as tree:
        assert sorted(tree["dropped"]["station"].values) == ["S007", "S008"]
        assert tree["stations"].sizes["report"] == 38


def test_the_file_has_the_settings_of_the_run(run, table, tmp_path):
    options = ["--gross", 4, "--instrument", 0.7, "--law", "gaussian", "--all-flags", "--seed", 3, "--window", 2, "--folds", 2]
    assert run("assimilate", table, *QUICK, *options).exit_code == 0
    with xr.open_datatree(tmp_path / "hour-analysis.nc", engine="h5netcdf") as tree:
        found = tree.attrs
        assert (
            found["prior"].startswith("GaussianPrior")
            and found["sampler"].startswith("GaussianBridge(")
            and "steps=2" in found["sampler"]
        )
        wanted = {"seed": 3, "number_of_draws": 20, "folds": 2, "law_of_errors": "gaussian", "instrument_error": 0.7}
        wanted |= {
            "representativeness_error": 0.5,
            "gross_error_standard_deviations": 4,
            "window_hours": 2,
            "accepted_flags": "all",
        }
        wanted |= {"highest_station_metres": 800, "altimeter_settings": "not used", "etkf_radius_km": 3000, "variable": SLP}
        assert {name: found[name] for name in wanted} == wanted
        assert all(name.isidentifier() for name in found)


def test_values_that_were_derived_are_marked(run, prior, tmp_path):
    made = stations(prior, field(prior, 5), count=20).assign(elevation=20.0)
    pressure, setting = made[:10], made[10:].assign(variable="altimeter_setting")
    both = pd.concat([pressure, setting, setting.assign(variable="air_temperature", value=285.0)], ignore_index=True)
    both.attrs["units"] = {SLP: "Pa", "altimeter_setting": "Pa", "air_temperature": "K"}
    write_observations(both, tmp_path / "hour.csv")
    result = run("assimilate", "hour.csv", *QUICK, "--altimeter")
    assert result.exit_code == 0, result.output
    with xr.open_datatree(tmp_path / "hour-analysis.nc", engine="h5netcdf") as tree:
        used = tree["stations"]
        derived = dict(zip(used["station"].values, used["derived"].values, strict=True))
        assert tree.attrs["altimeter_settings"] == "used"
    assert set(derived.values()) == {"", "from the altimeter setting"}
    assert {name for name, text in derived.items() if text} <= set(setting["station"])


def test_withheld_share(run, table, tmp_path):
    result = run("assimilate", table, *QUICK, "--withhold", 0.25, "--output", "a.nc", "--gross", 3, "--law", "gaussian")
    assert result.exit_code == 0, result.output
    lines = table.read_text().splitlines()
    (tmp_path / "one.csv").write_text("\n".join(lines[:2]) + "\n")
    result = run("assimilate", "one.csv", *QUICK, "--withhold", 0.25)
    assert result.exit_code == 2 and "--withhold: one station is left" in result.stderr
    result = run("assimilate", table, *QUICK, "--withhold", "nan")  # which not every version of typer refuses
    assert result.exit_code == 2 and "--withhold" in result.stderr
    with xr.open_datatree(tmp_path / "a.nc", engine="h5netcdf") as tree:
        held, used = tree["withheld"], tree["stations"]
        assert held.sizes["report"] + used.sizes["report"] == 40 - tree["dropped"].sizes["report"]
        assert not set(held["station"].values) & set(used["station"].values)
        assert held.sizes["report"] == round(0.25 * (held.sizes["report"] + used.sizes["report"]))


def test_a_background_file_gives_the_ensemble_of_the_baselines(run, prior, table, tmp_path):
    labels = prior.labels
    days = np.arange(np.datetime64("2001-01-01"), np.datetime64("2003-01-01"), 5).astype("datetime64[ns]")
    values = 1012 + np.random.default_rng(0).standard_normal((len(days), *prior.event_shape[1:]))
    coords = {"time": days, **{d: labels.coords[d].values for d in labels.dims[1:]}}
    past = xr.DataArray(values, coords, ("time", *labels.dims[1:]), "slp", {"units": "hPa"})
    past.to_netcdf(tmp_path / "past.nc", engine="h5netcdf")
    result = run("assimilate", table, *QUICK, "--background", "past.nc", "--output", "a.nc")
    assert result.exit_code == 0, result.output
    with xr.open_datatree(tmp_path / "a.nc", engine="h5netcdf") as tree:
        spread = tree["analyses"]["climatology_standard_deviation"]
        assert float(spread.mean()) == pytest.approx(1, abs=0.2)
    past.assign_coords(latitude=past.latitude + 1).to_netcdf(tmp_path / "other.nc", engine="h5netcdf")
    result = run("assimilate", table, *QUICK, "--background", "other.nc", "--output", "b.nc")
    assert result.exit_code == 2 and "latitudes are not those of prior" in result.stderr
    past.where(past.latitude > past.latitude.min()).to_netcdf(tmp_path / "gaps.nc", engine="h5netcdf")
    result = run("assimilate", table, *QUICK, "--background", "gaps.nc", "--output", "b.nc")
    assert result.exit_code == 2 and "gaps.nc" in result.stderr and "are missing" in result.stderr


def test_a_background_of_another_order_is_put_on_the_grid_of_the_prior(run, prior, table, tmp_path):
    """Rows from north to south, longitudes from 0 to 360 and beyond the grid, other variables in the file: the same fields."""
    labels = prior.labels
    days = np.arange(np.datetime64("2001-01-01"), np.datetime64("2003-01-01"), 5).astype("datetime64[ns]")
    latitude, longitude = labels.coords["latitude"].values, np.arange(-180.0, 180.0, 2.5)
    values = 1012 + np.random.default_rng(0).standard_normal((len(days), len(latitude), len(longitude)))
    coords = {"time": days, "latitude": latitude, "longitude": longitude}
    past = xr.DataArray(values, coords, ("time", "latitude", "longitude"), "mslp", {"units": "hPa", "standard_name": SLP})
    past.sel(longitude=slice(-30, 0)).to_netcdf(tmp_path / "same.nc", engine="h5netcdf")
    other = (
        past.assign_coords(longitude=(longitude % 360).astype(np.float32))
        .sortby("longitude")
        .isel(latitude=slice(None, None, -1))
    )
    other = xr.Dataset(
        {"mslp": other.expand_dims(number=[0]), "t2m": other.assign_attrs(units="K", standard_name="air_temperature")}
    )
    other.to_netcdf(tmp_path / "other.nc", engine="h5netcdf")
    spread = []
    for name in ("same", "other"):
        result = run("assimilate", table, *QUICK, "--background", f"{name}.nc", "--output", "a.nc")
        assert result.exit_code == 0, result.output
        with xr.open_datatree(tmp_path / "a.nc", engine="h5netcdf") as tree:
            spread.append(tree["analyses"]["climatology_standard_deviation"].values)
    np.testing.assert_array_equal(*spread)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("obs.2009-02-03.csv", "obs.2009-02-03-analysis.nc"),
        ("20050826_1200.gz", "20050826_1200-analysis.nc"),
        ("hour.csv.gz", "hour-analysis.nc"),
        (".csv", ".csv-analysis.nc"),
    ],
)
def test_the_output_is_named_after_the_file(name, wanted):
    """Files of two days never share one."""
    assert named_after(Path("elsewhere") / name, "-analysis.nc") == Path(wanted)


def test_units_are_given_by_variable(run, prior, tmp_path):
    made = stations(prior, field(prior, 5), count=20, units="hPa").assign(variable="mslp")
    made[["time", "latitude", "longitude", "variable", "value"]].to_csv(tmp_path / "plain.csv", index=False)
    assert run("assimilate", "plain.csv", *QUICK).exit_code == 2
    result = run("assimilate", "plain.csv", *QUICK, "--unit", "mslp=hPa")
    assert result.exit_code == 0, result.output
    result = run("assimilate", "plain.csv", *QUICK, "--unit", "hPa")
    assert result.exit_code == 2 and "wanted VARIABLE=UNIT" in result.stderr


def test_a_prior_without_climatology_has_the_same_mean_every_day(run, prior, table, monkeypatch):
    plain = pressure_prior()
    plain.climatology = None
    plain.affine = Affine(1.0, torch.full(plain.event_shape, 1012.0, dtype=torch.float64))
    monkeypatch.setattr(posterior, "load_prior", lambda name: plain)
    result = run("assimilate", table, *QUICK)
    assert result.exit_code == 0, result.output
    assert "S007" in result.stdout and "gross error" in result.stdout


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("text", "utc"),
    [
        ("2009-01-15T06:00Z", "2009-01-15T06"),
        ("2009-01-15T08:00+02:00", "2009-01-15T06"),
        ("2009-01-15T06", "2009-01-15T06"),
        ("2009-01-15T06:30", "2009-01-15T0630"),
    ],
)
def test_the_time_of_the_analysis_in_any_zone_and_in_the_name_of_its_file(run, table, tmp_path, text, utc):
    result = run("assimilate", table, *QUICK, "--time", text, "--window", 1000)
    assert result.exit_code == 0, result.output
    with xr.open_datatree(tmp_path / f"hour-{utc}-analysis.nc", engine="h5netcdf") as tree:
        assert str(tree["time"].values).startswith(utc[:13])


def test_metar_reports_without_a_date(run, tmp_path):
    (tmp_path / "reports.txt").write_text("KJFK 312351Z 18010KT 10SM CLR 24/17 A3012\n")
    result = run("assimilate", "reports.txt", *QUICK)
    assert result.exit_code == 2 and "--time 2005-08-26" in result.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--highest", "nan"], "highest is nan; wanted a number"),
        (["--time", "noon"], "--time: 'noon' is no date"),
        (["--withhold", "0.2", "--folds", "3"], "give one of them"),
        (["--instrument", "-1"], "error of instrument is -1; wanted a standard deviation"),
        (["--draws", "1"], "draws is 1; an ensemble takes 2 or more"),
        (["--folds", "99"], "folds is 99; wanted 2 or more"),  # and no bar: told before anything is drawn
        (["--variable", "wind_speed"], "no variable 'wind_speed'"),
        (["--time", "2011-01-01"], "no observation"),
        (["--output", "a.txt"], "ends in .nc"),
    ],
)
def test_refusals_are_one_sentence(run, table, options, words):
    result = run("assimilate", table, *QUICK, *options)
    assert result.exit_code == 2
    assert words in result.stderr and len(result.stderr.strip().splitlines()) == 1


def test_demo(run, tmp_path):
    result = run("demo", "weather", *QUICK, "--stations", 12, "--error", 0.5)
    assert result.exit_code == 0, result.output
    assert "against the true field" in result.stdout and "climatology" in result.stdout
    with xr.open_datatree(tmp_path / "posterior-demo-weather.nc", engine="h5netcdf") as tree:
        assert tree["stations"].sizes["report"] == 12
        assert "reference" in tree.children
        assert tree["posterior"]["slp"].attrs["standard_name"] == SLP
    assert (tmp_path / "posterior-demo-weather.png").exists()
