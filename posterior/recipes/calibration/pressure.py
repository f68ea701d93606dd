"""Sea-level pressure over the North Atlantic from stations: days of a year that no prior was trained on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from posterior.io.climate4r import read_climate4r
from posterior.io.registry import fetch
from posterior.likelihoods import GaussianLikelihood
from posterior.priors.base import Prior
from posterior.recipes.calibration.problem import CalibrationProblem, Yardstick
from posterior.recipes.weather.analysis import bridge
from posterior.recipes.weather.problem import grid_of, station_operator
from posterior.recipes.weather.simulation import random_stations

if TYPE_CHECKING:
    from xarray import DataArray

YEAR = 2009
STORM = 1000.0  # hPa


def held_out_days(count: int, seed: int = 0, year: int = YEAR) -> tuple[np.ndarray, Tensor]:
    """Days of the reanalysis in random order: dates (count,) and daily mean pressure (count, 1, 17, 33) in hPa.

    Neighbouring days are alike; in random order they are exchangeable.

    Args:
        count: How many.
        seed: Of the order.
        year: Which.

    Raises:
        ValueError: If the year has fewer days.
    """
    days = _days(year)
    if count > len(days):
        raise ValueError(f"held_out_days: {year} has {len(days)} days; got {count}")
    chosen = np.random.default_rng(seed).permutation(len(days))[:count]
    values = torch.from_numpy(days.values[chosen].astype(np.float64)) / 100
    return days["time"].values[chosen].astype("datetime64[s]"), values[:, None]


@cache
def _days(year: int) -> DataArray:
    data = read_climate4r(fetch("ncep-slp-2001-2010"))
    (name,) = data.data_vars
    return data[name].sel(time=str(year)).copy()


@dataclass(frozen=True, eq=False)
class OnDates:
    """The prior of each trial's date.

    Args:
        prior: A prior with a climatology.
        dates: (n,) datetime64.
    """

    prior: Prior
    dates: np.ndarray

    def __call__(self, i: int) -> Prior:
        """The prior on date ``i``."""
        return self.prior.on(self.dates[i])


@dataclass(frozen=True, eq=False)
class Reports:
    """An `Experiment`: stations at new random places, evenly by area, that report with Gaussian errors.

    Args:
        prior: Whose grid.
        stations: How many.
        sigma: Standard deviation of their errors, in units of the field.
    """

    prior: Prior
    stations: int = 30
    sigma: float = 1.0

    def __call__(self, truth: Tensor, generator: torch.Generator) -> GaussianLikelihood:
        """Data of a field (1, 1, latitude, longitude)."""
        seed = int(torch.randint(2**31, (1,), generator=generator))
        operator = station_operator(self.prior, random_stations(grid_of(self.prior), self.stations, seed))
        clean = operator.A(truth.double())
        noise = torch.randn(clean.shape, generator=generator, dtype=torch.float64)
        return GaussianLikelihood(operator, clean + self.sigma * noise, self.sigma)


def channel(x: Tensor) -> Tensor:
    """The only channel of events (M, 1, H, W)."""
    return x[:, 0]


def below(x: Tensor) -> Tensor:
    """Where pressure is below 1000 hPa."""
    return x < STORM


YARDSTICK = Yardstick(channel, event=below, event_name=f"pressure below {STORM:g} hPa", image_name="pressure")


def pressure_problem(prior: Prior, trials: int, seed: int = 0, *, stations: int = 30, sigma: float = 1.0) -> CalibrationProblem:
    """Days of 2009 in random order, stations at new places each time.

    Args:
        prior: A prior of this grid with a climatology, such as "slp-north-atlantic".
        trials: Days, 365 at most.
        seed: Of their order.

    Other arguments:
        stations: How many stations.
        sigma: Standard deviation of their errors, hPa.
    """
    dates, fields = held_out_days(trials, seed)
    return CalibrationProblem(
        name="pressure-stations",
        title=f"Pressure of days of {YEAR} from {stations} stations with errors of {sigma:g} hPa",
        prior=OnDates(prior, dates),
        experiment=Reports(prior, stations, sigma),
        yardstick=YARDSTICK,
        sampler=bridge(prior),
        truths=fields,
        dims=prior.labels.dims if prior.labels is not None else None,
        coords=None if prior.labels is None else {k: v for k, v in prior.labels.coords.items() if k in prior.labels.dims},
        field_name=prior.labels.name if prior.labels is not None else "pressure",
        units=prior.units,
    )
