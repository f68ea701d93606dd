"""Days of 2009 seen by simulated stations, and one real hour of reports seen without a fifth of its stations."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

import posterior
from posterior.io import open_fields, read_observations
from posterior.io.registry import fetch
from posterior.recipes.weather import StationProblem, calendar_window, screen, simulate
from posterior.recipes.weather.analysis import parts

PRIOR = "slp-north-atlantic"
MONTHS = tuple(f"{m:02d}" for m in range(1, 13))
DAYS = (3, 9, 15, 21, 27)  # of every month of 2009: the benchmark
MORE_DAYS = (1, 5, 8, 11, 13, 17, 19, 23, 25, 28)  # of every month of 2009: the same question asked of twice as many
TUNING_DAYS = (6,)  # of every month of 2009: the choice of settings
STATIONS, ERROR = 30, 1.0
HOUR = "2005-08-26 00 UTC"
FOLDS = 5


@dataclass(frozen=True, eq=False)
class Case:
    """One problem.

    Args:
        suite: "days", "more days" or "hour".
        cell: Month, or the hour.
        problem: Number of the day in its month, or of the fold.
        draws: Members of every ensemble but the climatological ones.
        given: Observations and prior; the truth, or withheld stations.
        seed: Of draws.
    """

    suite: str
    cell: str
    problem: int
    draws: int
    given: StationProblem
    seed: int


@cache
def history() -> tuple[np.ndarray, Tensor]:
    """Days and fields (N, 1, 17, 33) in hPa, 2001 to 2009 without August 2005; 2010 is never touched."""
    field = open_fields(fetch("ncep-slp-2001-2010"), units="hPa", chunks=None, rename=True)
    days = field["time"].values.astype("datetime64[D]")
    kept = (days < np.datetime64("2010-01-01")) & (days.astype("datetime64[M]") != np.datetime64("2005-08"))
    return days[kept], torch.from_numpy(field.values[kept]).double()[:, None]


def window(date: np.datetime64 | str, half_width: float, every: int = 1) -> Tensor:
    """Training fields (2001 to 2008) of the calendar window around a date, every so many days."""
    days, fields = history()
    inside = np.flatnonzero(calendar_window(days, date, half_width) & (days < np.datetime64("2009-01-01")))
    return fields[torch.from_numpy(inside[::every])]


@cache
def prior() -> posterior.priors.base.Prior:
    """The prior that is judged."""
    return posterior.load_prior(PRIOR)


def day(month: str, number: int, draws: int, days: tuple[int, ...] = DAYS, suite: str = "days") -> Case:
    """A day of 2009, with stations and errors of its own."""
    date = np.datetime64(f"2009-{month}-{days[number]:02d}")
    times, fields = history()
    seed = int(str(date).replace("-", ""))
    truth = fields[int(np.flatnonzero(times == date)[0])]
    given = simulate(prior(), truth, date, stations=STATIONS, sigma=ERROR, seed=seed, source="2009")
    return Case(suite, month, number, draws, given, seed)


@cache
def hour() -> StationProblem:
    """All reports of the real hour that pass the checks."""
    return screen(read_observations(fetch("metar-2005082600")), prior(), law="gaussian", source="METAR")


def fold(number: int, draws: int) -> Case:
    """The real hour without a fifth of its stations."""
    whole = hour()
    held = parts(len(whole.stations), FOLDS, seed=0)[number]
    return Case("hour", HOUR, number, draws, whole.without(held), number)
