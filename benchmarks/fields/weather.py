"""Sparse observations of the atmosphere and the ocean: pressure from stations, currents from the speed of drifters."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor

import posterior
from benchmarks.fields.cases import DEVELOPMENT, Case, Suite
from benchmarks.fields.classical.weather import WEATHER
from benchmarks.weather import cases as stations
from operators import Compose, Grid, StationObservations, WindSpeed
from posterior.io import open_fields
from posterior.io.registry import fetch
from posterior.recipes.weather import calendar_window, simulate

DRIFTERS, SPEED_ERROR = 60, 0.05
CELLS = {
    "pressure": f"Sea-level pressure over the North Atlantic in 2009 from {stations.STATIONS} stations, errors of 1 hPa",
    "currents": f"Surface currents off South Africa from the speed at {DRIFTERS} places, errors of 0.05 m/s: not linear",
}


def build(cell: str, problem: int, quick: bool, draws: int) -> Case:
    """See `Suite`."""
    return _pressure(problem, draws) if cell == "pressure" else _currents(problem, draws)


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


@cache
def currents() -> tuple[np.ndarray, Tensor, Tensor, Grid]:
    """Days, fields (N, 2, 41, 81) in m/s with 0 on land, where there is sea, and the grid."""
    path = fetch("globcurrent-agulhas-2002")
    labels = posterior.load_prior("currents-agulhas").labels
    names = [str(n) for n in np.asarray(labels.coords["channel"])]
    parts = [open_fields(path, name, units="m s-1", rename=True) for name in names]
    parts = [p.transpose("time", "latitude", "longitude") for p in parts]
    fields = torch.from_numpy(np.stack([np.asarray(p.values, dtype=np.float64) for p in parts], 1))
    sea = torch.isfinite(fields[0]) if labels.mask is None else labels.mask
    grid = Grid(np.asarray(labels.coords["latitude"]), np.asarray(labels.coords["longitude"]))
    return parts[0]["time"].values.astype("datetime64[D]"), torch.nan_to_num(fields), sea, grid


def _currents(problem: int, draws: int) -> Case:
    days, fields, sea, grid = currents()
    held = _held_days(days)
    chosen = held[1::2] if problem >= DEVELOPMENT else held[::2]
    at = int(chosen[(5 * (problem % DEVELOPMENT)) % len(chosen)])
    truth = fields[at]
    # Drifters lie on grid points of the sea, so that no land is interpolated.
    places = torch.nonzero(sea[0])
    g = torch.Generator().manual_seed(problem)
    row, column = places[torch.randperm(len(places), generator=g)[:DRIFTERS]].T.numpy()
    latitude, longitude = np.asarray(grid.latitude)[row], np.asarray(grid.longitude)[column]
    operator = Compose(WindSpeed(epsilon=0.02), StationObservations(grid, latitude, longitude, (0, 1), 2))
    y = operator.A(truth[None])
    y = y + SPEED_ERROR * torch.randn(y.shape, generator=g, dtype=torch.float64)
    train = np.setdiff1d(np.arange(len(days)), held)
    near = train[calendar_window(days[train], days[at], 45)]
    return Case(
        suite="weather",
        cell="currents",
        problem=problem,
        prior=posterior.load_prior("currents-agulhas").on(days[at]),
        likelihood=posterior.GaussianLikelihood(operator, y, SPEED_ERROR),
        event_shape=tuple(truth.shape),
        draws=draws,
        truth=truth,
        units="m/s",
        view=lambda x: x * sea,
        inside=sea,
        facts={"background": fields[near], "grid": grid, "latitude": latitude, "longitude": longitude},
    )


def _held_days(days: np.ndarray) -> np.ndarray:
    """Indices of the days that the prior was developed on, not trained."""
    periods = posterior.load_prior("currents-agulhas").card["develop"]
    inside = np.zeros(len(days), bool)
    for first, last in periods:
        inside |= (days >= np.datetime64(first, "D")) & (days <= np.datetime64(last, "D"))
    return np.flatnonzero(inside)


SUITE = Suite(
    name="weather",
    cells=CELLS,
    priors={"pressure": "slp-north-atlantic", "currents": "currents-agulhas"},
    units={"pressure": "hPa", "currents": "m/s"},
    build=build,
    draws=40,
    few_draws=20,
    quick_draws=4,
    problems={"pressure": 12, "currents": 4},
    few={"pressure": 3, "currents": 1},
    classical=WEATHER,
    about="Daily fields that the priors were not trained on: 2009, and of 2002 the days that were kept. More days, and a real "
    "hour of reports, for the recipe's own baselines: `python -m benchmarks.weather`.",
)
