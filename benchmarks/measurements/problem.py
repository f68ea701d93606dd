"""Days of pressure, each seen through another fifth of its points, and what is known of them without a clean field."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

import operators
import posterior
from posterior.io.fields import open_fields
from posterior.io.registry import fetch
from posterior.priors.climatology import Climatology

SEEN, NOISE = 0.2, 0.5


def pressure() -> tuple[Tensor, np.ndarray, Tensor]:
    """Daily sea-level pressure (N, 1, 17, 33) in hPa, its days and the positions of its points."""
    array = open_fields(fetch("ncep-slp-2001-2010"), "slp", units="hPa", rename=True).transpose("time", "latitude", "longitude")
    values = torch.from_numpy(np.asarray(array.values, dtype=np.float64))[:, None]
    return values, array["time"].values.astype("datetime64[D]"), positions(array["latitude"].values, array["longitude"].values)


def training_days(times: np.ndarray, every: int) -> np.ndarray:
    """Rows of the days that are measured."""
    inside = (times < np.datetime64("2009-01-01")) & (times.astype("datetime64[M]") != np.datetime64("2005-08"))
    return np.flatnonzero(inside)[::every]


def seen(field: Tensor, day: int) -> posterior.GaussianLikelihood:
    """What is known of a day: a random fifth of its points, with noise."""
    physics = operators.Inpainting.random(tuple(field.shape[-2:]), SEEN, seed=day)
    g = torch.Generator().manual_seed(10_000 + day)
    y = physics.A(field[None].float()) + NOISE * torch.randn(1, *field.shape, generator=g) * physics.mask
    return posterior.GaussianLikelihood(physics, y, NOISE)


def climatology_of(data: list[posterior.GaussianLikelihood], days: np.ndarray, yearly: int = 1) -> tuple[Climatology, float]:
    """Harmonics of the year at each point from the days on which it was seen, smoothed over neighbours, and the rms left.

    A point is seen on one day in five, and days in a row resemble each other; neighbours share what is known of theirs.
    """
    from scipy.ndimage import gaussian_filter

    values = torch.stack([d.y[0] for d in data]).double().flatten(1)
    there = torch.stack([d.operator.mask.flatten() for d in data]).double()
    basis = Climatology(torch.zeros(1 + 2 * yearly, 1), yearly)
    rows = torch.stack([_row(basis, day) for day in days])
    gram = torch.einsum("tp,ti,tj->pij", there, rows, rows)
    right = torch.einsum("tp,ti->pi", there * values, rows)
    solved = torch.linalg.solve(gram, right).T.reshape(-1, *data[0].y.shape[-2:]).numpy()
    smooth = [gaussian_filter(field, 1.5, mode="nearest") for field in solved]
    coefficients = torch.from_numpy(np.stack(smooth)).flatten(1).T
    left = (values - rows @ coefficients.T) * there
    rms = math.sqrt(float(left.square().sum() / there.sum()) - NOISE**2)
    return Climatology(coefficients.T.reshape(1 + 2 * yearly, *data[0].y.shape[1:]), yearly), rms


def positions(latitude: np.ndarray, longitude: np.ndarray) -> Tensor:
    """Of the grid's points on the unit sphere, (n, 3): east, north and up as seen from the middle of the region."""
    north, east = (g.ravel() for g in np.meshgrid(np.deg2rad(latitude), np.deg2rad(longitude), indexing="ij"))
    middle, east = (north.max() + north.min()) / 2, east - (east.max() + east.min()) / 2
    out, pole = np.cos(north) * np.cos(east), np.sin(north)
    turned = (out * np.cos(middle) + pole * np.sin(middle), pole * np.cos(middle) - out * np.sin(middle))
    return torch.from_numpy(np.stack([np.cos(north) * np.sin(east), turned[1], turned[0]], 1))


def amplitude(data: list[posterior.GaussianLikelihood], climatology: Climatology, days: np.ndarray, scale: float) -> Tensor:
    """Standard deviation at each point, (n,), standardised, from the days on which it was seen, smoothed over neighbours."""
    from scipy.ndimage import gaussian_filter

    there = torch.stack([d.operator.mask.reshape(d.y.shape[-2:]) for d in data]).double()
    left = (torch.stack([d.y[0, 0] for d in data]).double() - climatology.on(days)[:, 0]) * there / scale
    sums = [gaussian_filter(v.sum(0).numpy(), 1.5, mode="nearest") for v in (left.square(), there)]
    return torch.from_numpy(sums[0] / sums[1] - (NOISE / scale) ** 2).clamp_min(1e-4).sqrt().flatten()


def _row(empty: Climatology, day: np.datetime64) -> Tensor:
    """The harmonics on a day: a climatology of unit coefficients, asked one at a time."""
    unit = torch.eye(len(empty.coefficients), dtype=torch.float64)
    return Climatology(unit, empty.yearly).on(day)
