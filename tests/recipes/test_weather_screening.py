from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from posterior import GaussianPrior, load_prior
from posterior.io import UnitError, read_observations, write_observations
from posterior.io.observations import make_table
from posterior.recipes.weather import Errors, errors_of, optimal_interpolation, screen, with_altimeter
from posterior.recipes.weather.altimeter import ALTIMETER, reduce_to_sea_level, station_pressure
from tests.recipes.pressure import LATITUDE, LONGITUDE, SLP, field, pressure_prior, stations


@pytest.fixture(scope="module")
def prior():
    return pressure_prior()


@pytest.fixture(scope="module")
def truth(prior):
    return field(prior, 4)


def _with_rows(table, *rows):
    """The table with rows more, each the first with some values changed."""
    added = pd.DataFrame([{**table.iloc[0].to_dict(), **changes} for changes in rows]).astype({"time": "datetime64[ns]"})
    joined = pd.concat([table, added.assign(variable=SLP)], ignore_index=True)
    joined.attrs.update(table.attrs)
    return joined


def test_good_observations_are_all_kept_in_the_units_of_the_prior(prior, truth):
    table = stations(prior, truth)
    problem = screen(table, prior)
    assert len(problem.stations) == 60 and not len(problem.dropped)
    assert np.allclose(problem.stations["value"], table["value"] / 100)
    assert np.allclose(problem.stations["sigma"], 0.5**0.5)  # 0.5 of the instrument and 0.5 of what the grid cannot show
    assert problem.time == np.datetime64("2009-01-15T12:00")
    assert problem.prior.date == problem.time
    assert tuple(problem.y.shape) == (1, 1, 60)


def test_what_is_left_out_is_listed_with_the_reason(prior, truth):
    table = stations(prior, truth)
    middle = {"latitude": 50.0, "longitude": -15.0, "station": "EXTRA"}
    problem = screen(
        _with_rows(
            table,
            {"station": "SOUTH", "latitude": 20.0},
            {**middle, "station": "ALOFT", "level": 850.0, "value": 100000.0},
            {**middle, "station": "LATE", "time": np.datetime64("2009-01-15T15:01", "ns")},
            {**middle, "station": "HIGH", "elevation": 1500.0},
            {"time": np.datetime64("2009-01-15T12:40", "ns"), "value": 1.0},
            {"latitude": 45.0, "longitude": -1.0 + 360, "station": "LOW", "value": 90000.0},
        ),
        prior,
    )
    why = dict(zip(problem.dropped["station"], problem.dropped["reason"], strict=True))
    assert why.pop("LOW").startswith("gross error: ") and "from the background" in problem.dropped["reason"].iloc[-1]
    assert why == {
        "SOUTH": "off the grid",
        "ALOFT": "not at the surface",
        "LATE": "more than 3 h from the analysis",
        "HIGH": "station above 800 m",
        "S000": "another report of the place nearer to the time, or later",
    }
    assert len(problem.stations) == 60
    # the report of S000 that counts is the one at the hour
    assert problem.stations["value"].iloc[0] == pytest.approx(table["value"].iloc[0] / 100)
    low = problem.dropped.set_index("station").loc["LOW"]
    assert low["departure"] < -100 and low["normalised"] < -5


@pytest.mark.parametrize("seed", range(4))
def test_gross_errors_are_found_and_good_reports_stay(prior, seed):
    """Slips of 8 to 20 hPa are well inside the climate; only the other stations tell."""
    truth = field(prior, 10 + seed)
    table = stations(prior, truth, count=80, seed=seed)
    rng = np.random.default_rng(seed)
    wrong = rng.choice(80, 6, replace=False)
    slips = rng.choice([-1, 1], 6) * rng.uniform(12, 20, 6)
    table.loc[wrong, "value"] += 100 * slips
    problem = screen(table, prior)
    found = set(problem.dropped["station"])
    assert found == {f"S{i:03d}" for i in wrong}
    assert problem.dropped["reason"].str.startswith("gross error").all()


def test_a_place_at_greenwich_is_one_from_either_side(prior, truth):
    table = stations(prior, truth, count=20)
    rows = [{"latitude": 51.5, "longitude": east, "station": name} for east, name in ((-0.002, "WEST"), (0.0, "EAST"))]
    problem = screen(_with_rows(table, *rows), prior, gross=np.inf)
    assert problem.dropped["station"].tolist() == ["WEST"]


def test_checks_can_be_turned_off(prior, truth):
    table = stations(prior, truth)
    table.loc[3, "value"] += 3000
    assert len(screen(table, prior).dropped) == 1
    assert len(screen(table, prior, gross=np.inf).stations) == 60


def test_false_alarms_are_as_rare_as_the_law_says(prior):
    """Of 20 x 60 good reports at four standard deviations, less than one in a thousand is refused."""
    refused = 0
    for seed in range(20):
        truth = field(prior, 100 + seed)
        refused += len(screen(stations(prior, truth, seed=seed, error=0.5**0.5), prior, gross=4.0).dropped)
    assert refused <= 2


def test_own_errors_and_other_names_and_units(prior, truth, tmp_path):
    table = stations(prior, truth, units="hPa").assign(error=2.0, variable="mslp")
    table.attrs["units"]["mslp"] = "hPa"
    write_observations(table, tmp_path / "obs.csv")
    problem = screen(read_observations(tmp_path / "obs.csv"), prior, errors=Errors(0.5, 1.5), law="student", source="buoys")
    assert np.allclose(problem.stations["sigma"], 2.5)
    assert type(problem.likelihood).__name__ == "StudentTLikelihood"
    assert problem.source == "buoys"
    assert type(replace(problem, law="outlier").likelihood).__name__ == "OutlierLikelihood"
    assert type(replace(problem, law="gaussian").likelihood).__name__ == "GaussianLikelihood"


def test_refusals(prior, truth):
    table = stations(prior, truth)
    with pytest.raises(ValueError, match="no variable 'wind_speed' but air_pressure_at_mean_sea_level"):
        screen(table, prior, variable="wind_speed")
    with pytest.raises(ValueError, match="no observation .* is left .60 more than 3 h"):
        screen(table, prior, time="2009-01-16")
    table.attrs["units"] = {}
    with pytest.raises(UnitError, match="no unit"):
        screen(table, prior)
    with pytest.raises(ValueError, match="prior 'gaussian' does not say what its field is"):
        errors_of(GaussianPrior(torch.zeros(3), torch.eye(3)))


# altimeter settings


def test_altimeter_settings_are_taken_to_the_sea_through_air_of_the_temperature():
    """In the standard atmosphere the setting is the sea-level pressure; warmer air weighs less, colder air more."""
    setting, height = np.array([101325.0, 99000.0]), np.array([80.0, 80.0])
    at_station = station_pressure(setting, height)
    standard = 288.15 - 0.0065 * height
    assert np.allclose(reduce_to_sea_level(at_station, height, standard), setting, atol=5)
    assert (reduce_to_sea_level(at_station, height, standard + 20) < setting - 50).all()
    assert (reduce_to_sea_level(at_station, height, standard - 20) > setting + 50).all()
    moist = reduce_to_sea_level(at_station, height, standard, standard)
    assert (moist < reduce_to_sea_level(at_station, height, standard)).all()
    assert np.allclose(reduce_to_sea_level(at_station, height, standard, np.full(2, np.nan)), setting, atol=5)


def test_altimeter_settings_stand_in_only_where_no_pressure_is_reported(data_file):
    table = read_observations(data_file("metar-2005082600"))
    joined = with_altimeter(table)
    added = joined.iloc[len(table) :]
    assert (added["variable"] == SLP).all() and len(added) > 100
    reported = set(table.loc[table["variable"] == SLP, "station"])
    assert not reported & set(added["station"])
    assert added["elevation"].max() <= 100
    # Where both are reported they agree, by the medians that docs/weather.md gives
    both = table[table["variable"] == SLP].merge(
        table[table["variable"] == ALTIMETER], on=["station", "time"], suffixes=("", "_a")
    )
    hidden = table[~((table["variable"] == SLP) & table["station"].isin(both["station"]))]
    hidden.attrs.update(table.attrs)
    derived = with_altimeter(hidden, highest=300.0)
    pairs = both.merge(derived[derived["variable"] == SLP], on=["station", "time"], suffixes=("", "_d"))
    off, low = (pairs["value_d"] - pairs["value"]).abs() / 100, pairs["elevation"] <= 100
    assert min(low.sum(), (~low).sum()) > 200
    assert (round(off[low].median(), 1), round(off[~low].median(), 1)) == (0.1, 0.6)


def _reports(rows):
    """A table of one hour: (station, variable, value, unit, elevation)."""
    columns = ["station", "variable", "value", "unit", "elevation"]
    table = pd.DataFrame(rows, columns=columns).assign(time=np.datetime64("2009-01-15T12:00", "ns"), longitude=-15.0)
    table["latitude"] = 45 + table.groupby("station", sort=False).ngroup() / 4
    units = dict(zip(table["variable"], table["unit"], strict=True))
    return make_table(table, Path("a.csv"), len(table), Counter(), units)


@pytest.mark.parametrize("name", [SLP, "slp", "mslp"])
@pytest.mark.parametrize("temperature", ["air_temperature", "t2m"])
def test_altimeter_settings_join_pressure_under_its_name_and_in_its_units(prior, name, temperature):
    table = _reports(
        [
            *((f"S{i}", name, 1010.0 + i, "hPa", 10.0) for i in range(5)),
            ("S0", ALTIMETER, 29.0, "inHg", 10.0),
            ("S0", temperature, 10.0, "degC", 10.0),
            ("A", ALTIMETER, 29.92, "inHg", 10.0),
            ("A", temperature, 14.9, "degC", 10.0),
            ("A", "dew_point_temperature", 5.0, "degC", 10.0),
        ]
    )
    joined = with_altimeter(table)
    assert joined.attrs["units"][name] == "hPa"
    assert joined.iloc[: len(table)]["value"].tolist() == table["value"].tolist()
    added = joined.iloc[len(table) :]
    assert added[["station", "variable"]].to_numpy().tolist() == [["A", name]]
    assert added["value"].item() == pytest.approx(1013.25, abs=0.1)  # the setting of the standard atmosphere
    stated = with_altimeter(table.assign(error=0.01)).iloc[len(table) :]
    assert stated["error"].item() == pytest.approx(0.338639, rel=1e-5)  # 0.01 inHg in hPa
    assert len(screen(joined, prior).stations) == 6
    assert set(with_altimeter(table, variable="p").query("variable == 'p'")["station"]) == {"S0", "A"}


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([("A", ALTIMETER, 101000.0, "Pa", np.nan), ("A", "t2m", 280.0, "K", np.nan)], "1 of stations without elevation"),
        ([("A", ALTIMETER, 101000.0, "Pa", 500.0), ("A", "t2m", 280.0, "K", 500.0)], "not between -450 and 100 m"),
        ([("A", ALTIMETER, 101000.0, "Pa", 5.0), ("B", "t2m", 280.0, "K", 5.0)], "1 without a temperature"),
        ([("A", ALTIMETER, 101000.0, "Pa", 5.0), ("A", "slp", 1010.0, "hPa", 5.0)], "1 of stations that report pressure"),
        ([("A", "slp", 1010.0, "hPa", 5.0)], "the table has none"),
    ],
)
def test_why_no_altimeter_setting_is_used_is_said(rows, words):
    table = _reports(rows)
    with pytest.warns(UserWarning, match=words):
        assert with_altimeter(table) is table


def test_grid_corners_are_inside(prior, truth):
    table = stations(prior, truth, count=2)
    table.loc[0, ["latitude", "longitude"]] = LATITUDE[0], LONGITUDE[0]
    table.loc[1, ["latitude", "longitude"]] = LATITUDE[-1], LONGITUDE[-1]
    table["value"] = 101200.0
    assert len(screen(table, prior).stations) == 2


def test_the_real_hour_keeps_its_good_reports_and_loses_its_slips(data_file):
    """78 places in the region report pressure; six reports are made wrong by 12 to 40 hPa."""
    prior = load_prior("slp-north-atlantic")
    table = read_observations(data_file("metar-2005082600"), variables=[SLP])
    whole = screen(table, prior)
    assert len(whole.stations) == 78
    assert not whole.dropped["reason"].str.startswith("gross error").any()
    wrong = dict(zip(whole.stations["station"][5:70:12], [1200, -1200, 1500, -2000, 4000, -1200], strict=True))
    spoiled = table.copy()
    for station, slip in wrong.items():
        spoiled.loc[spoiled["station"] == station, "value"] += slip
    spoiled.attrs.update(table.attrs)
    problem = screen(spoiled, prior)
    gross = problem.dropped[problem.dropped["reason"].str.startswith("gross error")]
    assert set(gross["station"]) == set(wrong)
    # what is left gives nearly the analysis of the reports as they were
    clean, again = (optimal_interpolation(p.prior, p.likelihood) for p in (whole, problem))
    assert float(((again.mean - clean.mean) / clean.std).abs().max()) < 1
