"""Stations on a grid: what every analysis of one hour needs to know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from posterior.likelihoods import GaussianLikelihood, Likelihood, OutlierLikelihood, StudentTLikelihood
from posterior.priors.base import Prior
from posterior.recipes.weather.baselines import event_shape

if TYPE_CHECKING:
    import pandas as pd

    from operators import StationObservations
    from operators.grid import Grid

Law = Literal["gaussian", "outlier", "student"]
LAWS: tuple[Law, ...] = ("gaussian", "outlier", "student")
# Usual short names of variables, by CF standard name.
ALIASES = {
    "air_pressure_at_mean_sea_level": (
        "slp",
        "msl",
        "mslp",
        "psl",
        "prmsl",
        "sea_level_pressure",
        "mean_sea_level_pressure",
        "pressure_reduced_to_msl",
        "seaLevelPress",
    ),
    "air_temperature": ("t2m", "tas", "temperature", "2m_temperature"),
}
COLUMNS = ("station", "latitude", "longitude", "time", "value", "sigma")


@dataclass(frozen=True, eq=False)
class StationProblem:
    """The observations of one hour, checked, and the prior of its day.

    Args:
        prior: The prior on the date; fields of one channel on a grid, labelled.
        stations: The observations to use, a row each, columns `COLUMNS`: values and error standard deviations in the units
            of the prior; and ``derived`` where some were computed (see `with_altimeter`).
        time: Of the analysis, UTC.

    Other arguments:
        dropped: What was left out: the same columns, and ``reason``, ``departure`` (value less background) and
            ``normalised`` (departure over its expected standard deviation), NaN where there is none.
        withheld: Observations that the analysis does not see, to score it by; columns as ``stations``.
        law: Of the errors: "gaussian"; "outlier", where a share ``fraction`` spreads ten times as wide; "student".
        fraction: Share of gross errors that "outlier" expects after the checks.
        truth: The true field (*event), or None.
        source: Where the observations come from.
        settings: How they were made ready, for files: errors and limits of the checks by a name without blanks.
    """

    prior: Prior
    stations: pd.DataFrame
    time: np.datetime64
    dropped: pd.DataFrame | None = None
    withheld: pd.DataFrame | None = None
    law: Law = "gaussian"
    fraction: float = 0.02
    truth: Tensor | None = None
    source: str = "observations"
    settings: Mapping[str, str | float] = field(default_factory=dict)

    @property
    def grid(self) -> Grid:
        """The prior's grid."""
        return grid_of(self.prior)

    @property
    def operator(self) -> StationObservations:
        """The field at the stations."""
        return station_operator(self.prior, self.stations)

    @property
    def y(self) -> Tensor:
        """The observations, (1, 1, n), units of the prior."""
        return _column(self.stations, "value")

    @property
    def sigma(self) -> Tensor:
        """Standard deviation of their errors, (1, 1, n)."""
        return _column(self.stations, "sigma")

    @property
    def likelihood(self) -> Likelihood:
        """p(y | field) with the law asked for."""
        if self.law == "outlier":
            return OutlierLikelihood(self.operator, self.y, self.sigma, self.fraction)
        if self.law == "student":
            return StudentTLikelihood(self.operator, self.y, self.sigma)
        return self.gaussian_likelihood

    @property
    def gaussian_likelihood(self) -> GaussianLikelihood:
        """p(y | field) with Gaussian errors."""
        return GaussianLikelihood(self.operator, self.y, self.sigma)

    def without(self, rows: np.ndarray) -> StationProblem:
        """The problem without some of its stations, which are withheld instead.

        Args:
            rows: Booleans (n,), True where withheld.

        Raises:
            ValueError: If none would be left, or none is withheld.
        """
        rows = np.asarray(rows, dtype=bool)
        if rows.all() or not rows.any():
            raise ValueError(f"withholding {int(rows.sum())} of {len(rows)} stations leaves nothing to use or to score by")
        stations = self.stations
        return replace(self, stations=stations[~rows].reset_index(drop=True), withheld=stations[rows].reset_index(drop=True))


def grid_of(prior: Prior) -> Grid:
    """The grid of a prior's fields, from its labels.

    Raises:
        ValueError: If the prior has no labels, or its fields are not (1, latitude, longitude).
    """
    from operators.grid import Grid

    labels = prior.labels
    if labels is None:
        raise ValueError(f"prior '{prior.name}' has no coordinates; wanted one of fields on latitudes and longitudes")
    coords: Any = labels.coords
    if labels.dims[-2:] != ("latitude", "longitude") or not {"latitude", "longitude"} <= set(coords):
        raise ValueError(f"prior '{prior.name}' has the axes {labels.dims}; wanted them to end in latitude, longitude")
    shape = event_shape(prior)
    if len(shape) != 3 or shape[0] != 1:
        raise ValueError(f"prior '{prior.name}' has fields of shape {shape}; wanted one variable, (1, latitude, longitude)")
    return Grid(np.asarray(coords["latitude"]), np.asarray(coords["longitude"]))


def on_date(prior: Prior, time: np.datetime64 | str) -> Prior:
    """The prior on a date; itself where it has no climatology, its mean being the same all the year."""
    return prior if prior.climatology is None else prior.on(time)


def standard_name(prior: Prior) -> str:
    """CF standard name of the prior's variable: as stated, or the one that its short name is usual for."""
    if prior.labels is None:
        return ""
    name = prior.labels.name
    usual = next((standard for standard, others in ALIASES.items() if name in others), name)
    return str(prior.labels.attrs.get("standard_name", usual))


def station_operator(prior: Prior, stations: pd.DataFrame) -> StationObservations:
    """The prior's fields at the stations of a table."""
    from operators import StationObservations

    return StationObservations(grid_of(prior), stations["latitude"].to_numpy(), stations["longitude"].to_numpy())


def _column(table: Any, name: str) -> Tensor:
    return torch.from_numpy(table[name].to_numpy(np.float64).copy())[None, None]
