"""Point-spread functions: (h, w) float64 tensors of sum 1, centred at (h // 2, w // 2)."""

import math

import numpy as np
import torch
from torch import Tensor

from operators.masks import Array


def gaussian_kernel(sigma: float | tuple[float, float], angle: float = 0.0, truncate: float = 4.0) -> Tensor:
    r"""Gaussian, sampled at pixel centres: :math:`k(u) \propto \exp(-\tfrac12 u^T R^T \Sigma^{-1} R u)`.

    Args:
        sigma: Standard deviation in pixels, or those along H and along W.
        angle: Degrees by which the axes of the two are turned, from the axis H towards W.
        truncate: The kernel reaches this many of the larger standard deviation.

    Returns:
        (2r + 1, 2r + 1) with r = floor(truncate * sigma + 0.5), as in scipy.ndimage.gaussian_filter.

    Raises:
        ValueError: ``sigma`` or ``truncate`` is not positive and finite.
    """
    pair = (sigma, sigma) if isinstance(sigma, int | float) else tuple(sigma)
    if len(pair) != 2 or not all(math.isfinite(s) and s > 0 for s in (*pair, truncate)):
        raise ValueError(f"gaussian_kernel: sigma and truncate must be positive and finite, got {sigma} and {truncate}")
    radius = int(truncate * max(pair) + 0.5)
    y, x = _offsets(radius)
    c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    kernel = torch.exp(-0.5 * (((c * y + s * x) / pair[0]) ** 2 + ((c * x - s * y) / pair[1]) ** 2))
    return kernel / kernel.sum()


def motion_kernel(length: float, angle: float = 0.0) -> Tensor:
    r"""Straight uniform motion, :math:`k(p) = L^{-1} \int_{-L/2}^{L/2} \Lambda(p - t u)\,dt`.

    u is the direction and :math:`\Lambda` the bilinear hat that splits a point between its four pixels; the integral
    is exact.

    Args:
        length: L in pixels.
        angle: Degrees from the axis W towards falling row numbers, as one reads an image.

    Raises:
        ValueError: ``length`` is not positive and finite, or ``angle`` is not finite.
    """
    if not (math.isfinite(length) and length > 0 and math.isfinite(angle)):
        raise ValueError(f"motion_kernel: length must be positive, length and angle finite, got {length} and {angle}")
    direction = np.array([-math.sin(math.radians(angle)), math.cos(math.radians(angle))])
    radius = math.ceil(length / 2 * float(np.abs(direction).max()))
    crossings = [n / d for d in direction if abs(d) > 1e-12 for n in range(-radius - 1, radius + 2)]
    knots = np.unique(np.clip([-length / 2, length / 2, *crossings], -length / 2, length / 2))
    # between two knots the hats are quadratic along the line: three nodes are exact
    nodes, weights = np.polynomial.legendre.leggauss(3)
    half = np.diff(knots)[:, None] / 2
    t = (knots[:-1, None] + half * (nodes + 1)).ravel()
    w = (half * weights).ravel() / length
    grid = np.arange(-radius - 1, radius + 2)
    hats = [np.maximum(0, 1 - np.abs(grid[:, None] - t * d)) for d in direction]
    kernel = torch.from_numpy((hats[0] * w) @ hats[1].T)
    return kernel / kernel.sum()


def defocus_kernel(radius: float, nodes: int = 64) -> Tensor:
    """Out-of-focus lens with a round aperture: each pixel's share of a disc.

    Args:
        radius: Radius of the disc, pixels.
        nodes: Lines per pixel along which the area is integrated; the error of a share falls as nodes^-1.5.

    Raises:
        ValueError: ``radius`` is not positive and finite, or ``nodes`` is not positive.
    """
    if not (math.isfinite(radius) and radius > 0 and nodes >= 1):
        raise ValueError(f"defocus_kernel: radius must be positive and finite, nodes positive, got {radius} and {nodes}")
    reach = math.ceil(radius - 0.5)
    x = (torch.arange((2 * reach + 1) * nodes, dtype=torch.float64) + 0.5) / nodes - reach - 0.5
    chord = (radius**2 - x**2).clamp_min(0).sqrt()
    y = torch.arange(-reach, reach + 1, dtype=torch.float64)[:, None]
    inside = torch.minimum(y + 0.5, chord) - torch.maximum(y - 0.5, -chord)
    share = inside.clamp_min(0).reshape(2 * reach + 1, 2 * reach + 1, nodes).sum(-1)
    kernel = share + share.T
    return kernel / kernel.sum()


def centred_psf(psf: Array) -> Tensor:
    """A measured point-spread function with sum 1 and its centroid on the central pixel.

    The centre moves by whole pixels, through added zeros: no value is interpolated or lost, and a centroid between
    pixels stays up to half a pixel off.

    Args:
        psf: (h, w), any unit; background already subtracted.

    Returns:
        (h', w') float64, both odd.

    Raises:
        ValueError: ``psf`` is not (h, w), real and finite with a positive sum, or its centroid lies outside.
    """
    values = torch.as_tensor(psf)
    if values.ndim != 2 or values.numel() == 0 or values.is_complex():
        raise ValueError(f"centred_psf: psf must be real (h, w), got {values.dtype} of shape {tuple(values.shape)}")
    values = values.to(torch.float64)
    total = float(values.sum())
    if not (math.isfinite(total) and total > 0):
        raise ValueError(f"centred_psf: psf must be finite and have a positive sum, got a sum of {total:.4g}")
    values = values / total
    pads = []
    for axis, n in enumerate(values.shape):
        centroid = float((values.sum(1 - axis) * torch.arange(n)).sum())
        if not 0 <= centroid <= n - 1:
            raise ValueError(f"centred_psf: the centroid along axis {axis} is {centroid:.2f}, outside 0 to {n - 1}")
        before, after = round(centroid), n - 1 - round(centroid)
        pads.append((max(after - before, 0), max(before - after, 0)))
    return torch.nn.functional.pad(values, (*pads[1], *pads[0]))


def _offsets(radius: int) -> tuple[Tensor, Tensor]:
    grid = torch.arange(-radius, radius + 1, dtype=torch.float64)
    return grid[:, None], grid[None, :]
