"""Sparse observations of the atmosphere and the ocean: pressure from stations, currents from the speed of drifters."""

from __future__ import annotations

import numpy as np
import torch

import posterior
from benchmarks.fields.cases import DEVELOPMENT, Case, Suite
from benchmarks.fields.classical.weather import WEATHER
from benchmarks.fields.gridded import at_time, gridded, held_out
from benchmarks.weather import cases as stations
from operators import Compose, Grid, StationObservations, WindSpeed
from posterior.recipes.weather import calendar_window, simulate

DRIFTERS, QUICK_DRIFTERS, SPEED_ERROR = 60, 15, 0.05
EDDY = 1 / 8  # the size of an eddy over that of a low
CELLS = {
    "pressure": f"Sea-level pressure over the North Atlantic in 2009 from {stations.STATIONS} stations, errors of 1 hPa",
    "currents": f"Surface currents off South Africa from the speed at {DRIFTERS} places, errors of 0.05 m/s: not linear",
}


def build(cell: str, problem: int, quick: bool, draws: int) -> Case:
    """See `Suite`."""
    if cell == "pressure":
        return _pressure(problem, draws)
    return _currents(problem, draws, QUICK_DRIFTERS if quick else DRIFTERS)


def _pressure(problem: int, draws: int) -> Case:
    number = problem % DEVELOPMENT
    days = stations.TUNING_DAYS if problem >= DEVELOPMENT else stations.DAYS
    month = (7 * number) % 12  # January, August, March, ...
    date = np.datetime64(f"2009-{stations.MONTHS[month]}-{days[number % len(days)]:02d}")
    times, fields = stations.history()
    truth = fields[int(np.flatnonzero(times == date)[0])]
    given = simulate(stations.prior(), truth, date, stations=stations.STATIONS, sigma=stations.ERROR, seed=problem)
    where = {name: given.stations[name].to_numpy() for name in ("latitude", "longitude")}
    return Case(
        suite="weather",
        cell="pressure",
        problem=problem,
        prior=given.prior,
        likelihood=given.gaussian_likelihood,
        event_shape=tuple(truth.shape),
        draws=draws,
        truth=truth,
        units="hPa",
        facts={"background": stations.window(date, 15, 3), "grid": given.grid, **where},
    )


def _currents(problem: int, draws: int, drifters: int) -> Case:
    prior, fields = gridded("currents-agulhas")
    day, truth = held_out(fields, problem)
    labels = fields.labels
    assert labels is not None and labels.mask is not None and fields.times is not None
    sea = labels.mask
    grid = Grid(*(np.asarray(labels.coords[name]) for name in ("latitude", "longitude")))
    # Drifters lie on grid points of the sea, so that no land is interpolated.
    places = torch.nonzero(sea[0])
    g = torch.Generator().manual_seed(problem)
    row, column = places[torch.randperm(len(places), generator=g)[:drifters]].T.numpy()
    latitude, longitude = np.asarray(grid.latitude)[row], np.asarray(grid.longitude)[column]
    operator = Compose(WindSpeed(epsilon=0.02), StationObservations(grid, latitude, longitude, channel=(0, 1), channels=2))
    y = operator.A(truth[None])
    y = y + SPEED_ERROR * torch.randn(y.shape, generator=g, dtype=torch.float64)
    near = torch.from_numpy(calendar_window(fields.times.astype("datetime64[D]"), day.astype("datetime64[D]"), 45))
    return Case(
        suite="weather",
        cell="currents",
        problem=problem,
        prior=at_time(prior, day),
        likelihood=posterior.GaussianLikelihood(operator, y, SPEED_ERROR),
        event_shape=tuple(truth.shape),
        draws=draws,
        truth=truth,
        units="m/s",
        view=lambda x: x * sea,
        inside=sea,
        facts={"background": fields.train[near], "grid": grid, "latitude": latitude, "longitude": longitude, "size": EDDY},
    )


SUITE = Suite(
    name="weather",
    cells=CELLS,
    priors={"pressure": "slp-north-atlantic", "currents": "currents-agulhas"},
    units={"pressure": "hPa", "currents": "m/s"},
    build=build,
    draws=40,
    few_draws=20,
    quick_draws=4,
    problems={"pressure": 12, "currents": 6},
    few={"pressure": 3, "currents": 3},
    classical=WEATHER,
    about="Daily fields that the priors were not trained on: 2009, and of 2002 the days that the card of "
    "currents-agulhas holds out, the first third of which is for tuning. More days, and a real hour of reports, for the "
    "recipe's own baselines: `python -m benchmarks.weather`.",
)
