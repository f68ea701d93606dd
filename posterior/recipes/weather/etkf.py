"""Ensembles: the fields of the calendar window, and what the ensemble transform Kalman filter makes of them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from operators.grid import EARTH_RADIUS, Grid
from posterior.likelihoods import Likelihood
from posterior.priors.base import Affine
from posterior.priors.climatology import as_time


def calendar_window(times: np.ndarray, date: np.datetime64 | str, days: float = 15) -> np.ndarray:
    """Which times lie within ``days`` of the date's day of the year, in whatever year.

    Args:
        times: datetime64, (n,).
        date: The date.
        days: Half the width of the window.

    Returns:
        Booleans (n,).
    """
    times = np.asarray(times).astype("datetime64[D]")
    day = as_time(date).astype("datetime64[D]")
    year = 365.2425
    apart = np.abs(
        (times - times.astype("datetime64[Y]")).astype(float) - float((day - day.astype("datetime64[Y]")).astype(int))
    )
    return np.minimum(apart, year - apart) <= days


def gaspari_cohn(distance: Tensor, radius: float) -> Tensor:
    """Correlation that falls from 1 at distance 0 to exactly 0 at ``radius``, fifth-order piecewise rational.

    Args:
        distance: Any shape, not negative.
        radius: Where it vanishes: twice the half-width of the paper.

    References:
        Gaspari, Cohn. Construction of correlation functions in two and three dimensions. 1999. QJRMS 125(554), eq. 4.10.
    """
    r = (2 * distance / radius).clamp_max(2.0)
    near = 1 + r**2 * (-5 / 3 + r * (5 / 8 + r * (1 / 2 - r / 4)))
    safe = r.clamp_min(1e-12)
    far = 4 - 5 * r + r**2 * (5 / 3 + r * (5 / 8 + r * (-1 / 2 + r / 12))) - 2 / (3 * safe)
    return torch.where(r <= 1, near, far).clamp_min(0)


def great_circle(latitude: np.ndarray, longitude: np.ndarray, to_latitude: np.ndarray, to_longitude: np.ndarray) -> Tensor:
    """Distances in km between all points of one list (n,) and all of another (m,), (n, m)."""
    ends = []
    for north, east in ((latitude, longitude), (to_latitude, to_longitude)):
        phi, lam = np.radians(np.asarray(north, float)), np.radians(np.asarray(east, float))
        ends.append(np.stack([np.cos(phi) * np.cos(lam), np.cos(phi) * np.sin(lam), np.sin(phi)], -1))
    chord = np.linalg.norm(ends[0][:, None] - ends[1][None], axis=-1)
    return torch.from_numpy(2 * EARTH_RADIUS * np.arcsin(np.clip(chord / 2, 0, 1)))


def etkf(
    ensemble: Tensor,
    likelihood: Likelihood,
    *,
    grid: Grid | None = None,
    latitude: np.ndarray | None = None,
    longitude: np.ndarray | None = None,
    radius: float | None = None,
    inflation: float = 1.0,
) -> Tensor:
    """Ensemble transform Kalman filter, localised as the LETKF is.

    With perturbations X of N members, Y = A(members) less its mean, and p = (inflation) / (N - 1),

        P = (I / p + Y R^-1 Y^T)^-1,  w = P Y R^-1 (y - mean A),  W = (P / p)^(1/2) sqrt(inflation),

    the analysis is mean + X^T (w + W_i). With a ``radius`` every grid column has weights of its own: R^-1 is multiplied by
    the Gaspari-Cohn function of the distance from the column to each observation, zero at the radius.

    Args:
        ensemble: Members of the background (N, *event), physical units.
        likelihood: Operator, data and errors; robust ones are taken by the Gaussian that stands in for them.

    Other arguments:
        grid: The fields' grid; with a radius.
        latitude: Of each datum, (m,); with a radius.
        longitude: Likewise.
        radius: km, or None for one set of weights everywhere.
        inflation: Factor on the variance of the background.

    Returns:
        Members of the analysis (N, *event).

    Raises:
        ValueError: If there are fewer than two members, or a radius without positions that fit.

    References:
        Bishop, Etherton, Majumdar. Adaptive sampling with the ensemble transform Kalman filter. 2001. MWR 129(3).
        Hunt, Kostelich, Szunyogh. Efficient data assimilation for spatiotemporal chaos: a local ensemble transform Kalman
        filter. 2007. Physica D 230. arXiv:physics/0511236.
    """
    members = ensemble.double()
    n = len(members)
    if n < 2:
        raise ValueError(f"etkf: an ensemble takes two members or more; got {n}")
    event = tuple(members.shape[1:])
    like = likelihood.in_standard(Affine(), event)
    seen = like.reach.flatten()
    observed = torch.cat([like.model.predict(x[None]) for x in members]).flatten(1)[:, seen]
    mean, x = members.mean(0), (members - members.mean(0)).flatten(1)
    precision = 1 / like.variance.flatten()[seen]
    y = observed - observed.mean(0)
    off = like.y.flatten()[seen] - observed.mean(0)
    if radius is None:
        return (mean + _transform(y, precision, off, inflation, x).reshape(n, *event)).to(ensemble)
    if grid is None or latitude is None or longitude is None or len(latitude) != len(off) or len(longitude) != len(off):
        raise ValueError(f"etkf: a radius takes the grid and a latitude and longitude of each of the {len(off)} data")
    north, east = np.meshgrid(grid.latitude, grid.longitude, indexing="ij")
    taper = gaspari_cohn(great_circle(north.ravel(), east.ravel(), np.asarray(latitude), np.asarray(longitude)), radius)
    columns = x.reshape(n, -1, len(taper))
    out = torch.empty_like(columns)
    for at, weight in enumerate(taper):
        near = weight > 0
        local = columns[:, :, at]
        out[:, :, at] = _transform(y[:, near], precision[near] * weight[near], off[near], inflation, local)
    return (mean + out.reshape(n, *event)).to(ensemble)


def _transform(y: Tensor, precision: Tensor, off: Tensor, inflation: float, x: Tensor) -> Tensor:
    """Analysis departures from the background's mean, (N, ...), of background perturbations ``x`` (N, ...).

    P has the eigenvalue p = inflation / (N - 1) but in the few directions V that observations see: with the perturbations
    of the data Y R^(-1/2) = V s U^T it is p / (1 + p s^2) there, so nothing larger than (m, m) is decomposed.
    """
    n = len(y)
    p = inflation / (n - 1)
    scaled = y * precision.sqrt()
    values, u = torch.linalg.eigh(scaled.T @ scaled)
    kept = values > 1e-10 * values.max().clamp_min(1e-300) if len(values) else values.bool()
    s2, u = values[kept], u[:, kept]
    v = scaled @ u / s2.sqrt()  # (N, k), orthonormal
    gain = p * s2.sqrt() / (1 + p * s2)
    w = v @ (gain * (u.T @ (off * precision.sqrt())))
    flat = x.reshape(n, -1)
    shrink = 1 - (1 + p * s2).rsqrt()
    perturbations = flat - v @ (shrink[:, None] * (v.T @ flat))
    return (inflation**0.5 * perturbations + w @ flat).reshape(x.shape)
