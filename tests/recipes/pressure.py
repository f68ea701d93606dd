"""A Gaussian prior of pressure that is known in closed form, and tables of stations."""

from collections import Counter
from pathlib import Path

import numpy as np
import torch

import posterior
from posterior.io.observations import make_table
from posterior.priors.climatology import Climatology
from posterior.priors.labels import Labels
from posterior.recipes.weather.analysis import reference_draws
from posterior.recipes.weather.etkf import great_circle

SLP = "air_pressure_at_mean_sea_level"
LATITUDE, LONGITUDE = np.arange(40.0, 61.0, 2.5), np.arange(-30.0, 1.0, 2.5)
SHAPE = (1, len(LATITUDE), len(LONGITUDE))
STD = 8.0


def covariance():
    north, east = np.meshgrid(LATITUDE, LONGITUDE, indexing="ij")
    distance = great_circle(north.ravel(), east.ravel(), north.ravel(), east.ravel())
    return STD**2 * ((-((distance / 1200) ** 2)).exp() + 1e-4 * torch.eye(len(distance), dtype=torch.float64))


def pressure_prior():
    """Pressure in hPa over the eastern Atlantic: Gaussian about a mean with a yearly cycle."""
    made = posterior.GaussianPrior(torch.zeros(SHAPE, dtype=torch.float64), covariance(), units="hPa")
    coefficients = torch.zeros(3, *SHAPE, dtype=torch.float64)
    coefficients[0], coefficients[1] = 1012.0, -5.0
    made.climatology = Climatology(coefficients, 1)
    coords = {"latitude": LATITUDE, "longitude": LONGITUDE}
    made.labels = Labels("slp", ("channel", "latitude", "longitude"), coords)  # the name slp says it all
    return made


def field(prior, seed):
    """A draw of the prior for a day in January."""
    return reference_draws(prior.on("2009-01-15"), 1, seed)[0]


def stations(prior, truth, count=60, seed=0, error=0.5, units="Pa", time="2009-01-15T12:00"):
    """A table, as `read_observations` gives it, of stations inside the grid that see ``truth`` with an error in hPa."""
    from posterior.recipes.weather.problem import grid_of, station_operator
    from posterior.recipes.weather.simulation import random_stations

    places = random_stations(grid_of(prior), count, seed)
    exact = station_operator(prior, places).A(truth[None])[0, 0].numpy()
    value = exact + error * np.random.default_rng(seed).standard_normal(count)
    rows = places.assign(time=np.datetime64(time, "ns"), variable=SLP, elevation=10.0)
    rows["value"] = value * (100 if units == "Pa" else 1)
    return make_table(rows, Path("stations.csv"), count, Counter(), {SLP: units})
