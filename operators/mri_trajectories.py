"""Trajectories through k-space, and the share of it that each of their samples stands for."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor


def radial_trajectory(spokes: int, samples: int, tilt: str | float = "golden") -> Tensor:
    """Spokes through the centre of k-space.

    Args:
        spokes: Number of spokes.
        samples: Samples of one spoke, from edge to edge.
        tilt: Angle from one spoke to the next: ``"golden"``, ``"uniform"``, or radians.

    Returns:
        (spokes * samples, 2) float64, cycles per pixel.

    Raises:
        ValueError: ``spokes`` or ``samples`` is not positive.

    References:
        Winkelmann, Schaeffter, Koehler, Eggers, Doessel, "An optimal radial profile order based on the golden ratio for
        time-resolved MRI", IEEE Transactions on Medical Imaging, 2007.
    """
    _positive("radial_trajectory", spokes, samples)
    # in-out spokes cover half a turn; the golden angle is that of half a turn as well
    angle = math.pi * (math.sqrt(5) - 1) / 2 if tilt == "golden" else math.pi / spokes if tilt == "uniform" else float(tilt)
    turn = angle * torch.arange(spokes, dtype=torch.float64)[:, None]
    radius = (torch.arange(samples, dtype=torch.float64) - samples // 2) / samples
    return torch.stack((radius * turn.sin(), radius * turn.cos()), -1).reshape(-1, 2)


def spiral_trajectory(shots: int, samples: int, revolutions: float = 8.0) -> Tensor:
    """Archimedean spirals from the centre of k-space, each turned against the last by 2 pi / shots.

    Args:
        shots: Number of spirals.
        samples: Samples of one spiral.
        revolutions: Turns of one spiral. Neighbouring windings lie 1 / (2 * revolutions * shots) cycles per pixel apart;
            an image of n pixels is fully sampled where that is at most 1 / n.

    Returns:
        (shots * samples, 2) float64, cycles per pixel.

    Raises:
        ValueError: ``shots`` or ``samples`` is not positive.
        ImportError: mri-nufft is not installed.

    References:
        Ahn, Kim, Cho, "High-speed spiral-scan echo planar NMR imaging", IEEE Transactions on Medical Imaging, 1986.
    """
    _positive("spiral_trajectory", shots, samples)
    spiral = mrinufft().initialize_2D_spiral(shots, samples, tilt="uniform", in_out=False, nb_revolutions=revolutions)
    return torch.from_numpy(np.ascontiguousarray(spiral, dtype=np.float64)).reshape(-1, 2)


def voronoi_density(trajectory: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Areas of the samples' Voronoi cells, in units of a cell of the Cartesian grid of an image.

    A cell that is open, or reaches beyond the samples, is one at the edge: it takes the area of the nearest that is not.
    Samples at one place share its area.

    Args:
        trajectory: (S, 2) or (S, 3), cycles per pixel.
        shape: Of the image, pixels.

    Returns:
        (S,) float64.

    Raises:
        ValueError: The trajectory has no cell that is whole.
    """
    from scipy.spatial import ConvexHull, KDTree, Voronoi

    places, which, count = np.unique(trajectory.cpu().numpy().round(9), axis=0, return_inverse=True, return_counts=True)
    cells = Voronoi(places)
    reach = np.linalg.norm(places, axis=1).max() * (1 + 1e-6)
    inside = np.append(np.linalg.norm(cells.vertices, axis=1) <= reach, False)  # the last is -1, the vertex at infinity
    regions = [np.array(cells.regions[r]) for r in cells.point_region]
    whole = np.array([len(r) > 0 and bool(inside[r].all()) for r in regions])
    if not whole.any():
        raise ValueError("voronoi_density: the trajectory has too few samples for a density; pass density=")
    area = np.empty(len(places))
    area[whole] = [ConvexHull(cells.vertices[regions[i]]).volume for i in np.flatnonzero(whole)]
    area[~whole] = area[whole][KDTree(places[whole]).query(places[~whole])[1]]
    return torch.from_numpy((area / count)[which.ravel()]) * math.prod(shape)


def _positive(owner: str, *values: int) -> None:
    if any(v != int(v) or v < 1 for v in values):
        raise ValueError(f"{owner}: wanted positive integers, got {values}")


def mrinufft() -> Any:
    """The package, once it is sure that finufft is there too."""
    try:
        import finufft  # noqa: F401
        import mrinufft
    except ImportError as error:
        raise ImportError("NonCartesianMRI needs mri-nufft and finufft: pip install 'posterior[mri]'") from error
    return mrinufft
