"""Simulated galaxies: Sersic ellipticals, lenticulars and spirals, what the prior `galaxies` was trained on."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

OVERSAMPLING = 3


def sersic(
    shape: tuple[int, int],
    centre: tuple[float, float],
    radius: float,
    index: float,
    axis_ratio: float = 1.0,
    angle: float = 0.0,
) -> np.ndarray:
    """Sersic's profile I(r) = exp(-b ((r / r_e)^(1/n) - 1)), averaged over pixels; 1 at r = r_e.

    Args:
        shape: (H, W), pixels.
        centre: (y, x) of the middle, pixels; 0 is the middle of the first pixel.
        radius: Effective radius r_e along the major axis, pixels: half of the light is inside.
        index: n, 0.3 to 6: 1 is an exponential disc, 4 de Vaucouleurs' law of elliptical galaxies.
        axis_ratio: Minor over major axis.
        angle: Of the major axis, radians from the x axis.

    Returns:
        (H, W) float64.

    Raises:
        ValueError: If radius, index or axis ratio is out of range.

    References:
        Sersic. Atlas de galaxias australes. 1968.
        Ciotti, Bertin. Analytical properties of the R^(1/m) law. 1999. A&A 352 (the series of b).
    """
    if not (radius > 0 and 0.3 <= index <= 6 and 0 < axis_ratio <= 1):
        got = f"radius {radius}, index {index}, axis ratio {axis_ratio}"
        raise ValueError(f"sersic: got {got}; wanted a positive radius, an index of 0.3 to 6, an axis ratio up to 1")
    u, v = _own_axes(shape, centre, axis_ratio, angle)
    return _pixels(_profile(np.hypot(u, v), radius, index))


def galaxy_field(shape: tuple[int, int], seed: int) -> Tensor:
    """A random field of one to five galaxies; field i of a seed is always the same.

    The first lies within the middle half of the field and has its brightest pixel at 0.25 to 1, log-uniform; the others lie
    anywhere and are fainter. Each is an elliptical (n from 1.5 to 4), a lenticular (a smooth disc, n = 1, mostly with a
    bulge, n from 1 to 4, of up to 60 % of the light) or a spiral (a disc with arms and clumps, most with a bulge of up to
    40 % of the light).

    Args:
        shape: (H, W), pixels.
        seed: Seed of all that is random.

    Returns:
        (H, W) float32, surface brightness, not negative.
    """
    rng = np.random.default_rng(seed)
    field = np.zeros(shape)
    for i in range(1 + min(rng.poisson(1.5), 4)):
        margin = 0.25 if i == 0 else 0.02
        centre = tuple(n * rng.uniform(margin, 1 - margin) for n in shape)
        size = float(np.exp(rng.uniform(math.log(2.5), math.log(9.0 if i == 0 else 5.0))))
        image = _galaxy(shape, (centre[0], centre[1]), size, rng)
        peak = np.exp(rng.uniform(math.log(0.25), 0)) * (1.0 if i == 0 else rng.uniform(0.05, 0.8))
        field += peak * image / image.max()
    return torch.from_numpy(field).float()


def _galaxy(shape: tuple[int, int], centre: tuple[float, float], size: float, rng: np.random.Generator) -> np.ndarray:
    q, angle = rng.uniform(0.25, 1.0), rng.uniform(0, math.pi)
    kind = rng.random()
    if kind < 0.2:
        return sersic(shape, centre, size, rng.uniform(1.5, 4.0), max(q, 0.4), angle)
    u, v = _own_axes(shape, centre, q, angle)
    r = np.hypot(u, v)
    disc = _profile(r, size, 1.0)
    lenticular = kind < 0.55
    if not lenticular:
        disc = _with_arms_and_clumps(disc, r, np.arctan2(v, u), size, rng)
    if rng.random() < (0.9 if lenticular else 0.7):
        rounder = np.hypot(u, v * q / max(q, 0.6))
        bulge = _profile(rounder, size * rng.uniform(0.15, 0.45), rng.uniform(1.0, 4.0))
        share = rng.uniform(0.1, 0.6) if lenticular else rng.uniform(0.02, 0.4)
        disc = disc + share / (1 - share) * disc.sum() / bulge.sum() * bulge
    return _pixels(disc)


def _with_arms_and_clumps(
    disc: np.ndarray, r: np.ndarray, phi: np.ndarray, size: float, rng: np.random.Generator
) -> np.ndarray:
    if rng.random() < 0.7:
        winding = 1 / math.tan(math.radians(rng.uniform(12, 35))) * rng.choice([-1, 1])
        phase = phi - winding * np.log(r / size + 0.2) + rng.uniform(0, 2 * math.pi)
        disc *= 1 + rng.uniform(0.2, 0.9) * np.cos(rng.choice([2, 2, 3, 4]) * phase) * (1 - np.exp(-((r / size) ** 2) * 4))
    light = disc * (r < 2.5 * size)
    for _ in range(rng.poisson(0.8 * size)):
        at = rng.choice(light.size, p=light.ravel() / light.sum())
        y, x = np.unravel_index(at, light.shape)
        ys, xs = np.ogrid[: light.shape[0], : light.shape[1]]
        width = rng.uniform(0.6, 1.2) * OVERSAMPLING
        blob = np.exp(-0.5 * ((ys - y) ** 2 + (xs - x) ** 2) / width**2)
        disc = disc + rng.uniform(0.2, 1.5) * disc[y, x] * blob
    return disc


def _profile(r: np.ndarray, radius: float, index: float) -> np.ndarray:
    b = 2 * index - 1 / 3 + 4 / (405 * index) + 46 / (25515 * index**2)
    return np.exp(-b * ((r / radius) ** (1 / index) - 1))


def _own_axes(shape: tuple[int, int], centre: tuple[float, float], q: float, angle: float) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates along the major axis and, stretched to a circle, the minor axis, pixels, on the oversampled grid."""
    y, x = ((np.arange(n * OVERSAMPLING) + 0.5) / OVERSAMPLING - 0.5 - c for n, c in zip(shape, centre, strict=True))
    u = math.cos(angle) * x[None, :] + math.sin(angle) * y[:, None]
    v = (-math.sin(angle) * x[None, :] + math.cos(angle) * y[:, None]) / q
    return u, v


def _pixels(fine: np.ndarray) -> np.ndarray:
    h, w = (n // OVERSAMPLING for n in fine.shape)
    return fine.reshape(h, OVERSAMPLING, w, OVERSAMPLING).mean((1, 3))
