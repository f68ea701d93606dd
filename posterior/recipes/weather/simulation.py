"""A day whose truth is known, and stations that see it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from posterior.priors.base import Prior
from posterior.priors.climatology import as_time
from posterior.recipes.weather.problem import Law, StationProblem, grid_of, on_date, station_operator
from posterior.unconditional import sample_prior

if TYPE_CHECKING:
    import pandas as pd

    from operators.grid import Grid

DEMO_DATE = "2009-01-15"
_DEMO_SEED = 2009


def random_stations(grid: Grid, count: int, seed: int = 0) -> pd.DataFrame:
    """Stations spread at random, evenly by area, over a regional grid: columns station, latitude, longitude."""
    import pandas as pd

    rng = np.random.default_rng(seed)
    south, north = np.sin(np.radians([grid.latitude.min(), grid.latitude.max()]))
    west = float(grid.longitude[0])
    width = float((grid.longitude[-1] - west) % 360)
    latitude = np.degrees(np.arcsin(rng.uniform(south, north, count)))
    longitude = west + width * rng.uniform(size=count)
    return pd.DataFrame({"station": [f"S{i:03d}" for i in range(count)], "latitude": latitude, "longitude": longitude})


def simulate(
    prior: Prior,
    truth: Tensor,
    date: np.datetime64 | str,
    *,
    stations: int = 30,
    sigma: float = 1.0,
    seed: int = 0,
    law: Law = "gaussian",
    source: str = "simulated stations",
) -> StationProblem:
    """Random stations that report a known field with Gaussian errors.

    Args:
        prior: The prior; `StationProblem.prior` is the one of the date.
        truth: The field (*event), physical units.
        date: The date of the field.

    Other arguments:
        stations: How many.
        sigma: Standard deviation of their errors, units of the field.
        seed: Seed of places and errors.
        law: See `StationProblem`.
        source: What results call the observations.
    """
    places = random_stations(grid_of(prior), stations, seed)
    rng = np.random.default_rng([seed, 1])
    exact = station_operator(prior, places).A(truth[None].double())[0, 0].numpy()
    time = as_time(date)
    table = places.assign(time=time, value=exact + sigma * rng.standard_normal(stations), sigma=float(sigma))
    return StationProblem(
        on_date(prior, time), table, time, law=law, truth=truth.double(), source=source, settings={"stations_seed": seed}
    )


def demo_problem(prior: Prior, seed: int = 0, *, stations: int = 30, sigma: float = 1.0) -> StationProblem:
    """Stations that see a draw of the prior itself, for a winter's day: no data but the prior are needed.

    Args:
        prior: A prior with labels and reference.
        seed: Seed of field, places and errors.
        stations: How many.
        sigma: Standard deviation of their errors.
    """
    own = int(np.random.SeedSequence([_DEMO_SEED, seed]).generate_state(1)[0])  # no draw of the posterior has this seed
    truth = sample_prior(on_date(prior, DEMO_DATE), draws=1, seed=own, steps=64).samples[0]
    source = "a draw of the prior"
    return simulate(prior, truth, DEMO_DATE, stations=stations, sigma=sigma, seed=seed, source=source)
