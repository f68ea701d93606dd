"""Averages over coarser cells, weighted by area on the sphere."""

import numpy as np
import torch

from operators.grid import Grid
from operators.separable import Separable


class AreaAverage(Separable):
    r"""Conservative average of a field over coarser cells, by the area that the cells share.

    .. math:: y_I = \frac{\sum_i |I \cap i|\, x_i}{\sum_i |I \cap i|}, \quad
        |I \cap i| = \Delta\lambda_{Ii}\, (\sin\varphi^+_{Ii} - \sin\varphi^-_{Ii})

    with the overlaps in longitude :math:`\lambda` and latitude :math:`\varphi`. Where the coarse cells tile the grid the
    area-weighted mean of the field is kept. Overlaps are products of one of latitude and one of longitude, so A is a matrix
    along either axis and its pseudo-inverse and proximal operator are closed forms. x is (B, C, H, W) or (B, C, L, H, W), y
    the same on the coarse grid, float32 or float64, in the units of the field.

    Args:
        grid: Grid of the field.
        coarse: Grid of the averages, aligned with the fine one or not; or how many rows and columns of the fine grid make a
            coarse cell, one number or two. Remaining rows and columns make smaller cells at the end.
        channels: Number of channels of the field.

    Other arguments:
        cover: Share of each coarse cell that the fine grid has to cover; the average is over the part that it does.

    Attributes:
        coarse: The coarse grid, with the edges of its cells.

    Raises:
        ValueError: A factor is not a positive integer or leaves no two cells; the coarse grid has other levels or cells that
            the fine one does not cover; x or y has the wrong shape or dtype.

    References:
        Jones, "First- and second-order conservative remapping schemes for grids in spherical coordinates", Monthly Weather
        Review, 1999.
    """

    def __init__(self, grid: Grid, coarse: Grid | int | tuple[int, int], *, channels: int = 1, cover: float = 1.0) -> None:
        Grid.must_be(grid, "AreaAverage")
        if not 0 < cover <= 1:
            raise ValueError(f"AreaAverage: cover must be above 0 and at most 1, got {cover}")
        coarse = coarse if isinstance(coarse, Grid) else _coarsened(grid, coarse)
        if coarse.shape[:-2] != grid.shape[:-2]:
            raise ValueError(f"AreaAverage: the coarse grid must have the levels of the fine one, got {coarse!r} and {grid!r}")
        rows = _overlap(_sines(coarse), _sines(grid))
        columns = sum(
            _overlap(coarse.longitude_bounds, grid.longitude_bounds + turn) for turn in (-720.0, -360.0, 0.0, 360.0, 720.0)
        )
        covered = _shares(rows, _sines(coarse))[:, None] * _shares(np.asarray(columns), coarse.longitude_bounds)
        short = np.argwhere(covered < cover - 1e-6)
        if len(short):
            i, j = short[0]
            raise ValueError(
                f"AreaAverage: {len(short)} coarse cells are covered by less than {cover:g} of {grid!r}, the first, at "
                f"({coarse.latitude[i]:g}, {coarse.longitude[j]:g}), by {covered[i, j]:.3g}"
            )
        axis = 1 + len(grid.shape)
        super().__init__((channels, *grid.shape), {axis - 1: _averages(rows), axis: _averages(np.asarray(columns))})
        self.grid, self.coarse = grid, coarse

    def extra_repr(self) -> str:
        return f"{self.grid!r}, coarse={self.coarse!r}"


def _coarsened(grid: Grid, factor: int | tuple[int, int]) -> Grid:
    factors = factor if isinstance(factor, tuple | list) else (factor, factor)
    if len(factors) != 2 or any(n != int(n) or n < 1 for n in factors):
        raise ValueError(f"AreaAverage: coarse must be a Grid, a positive integer or two of them, got {factor}")
    edges = []
    for bounds, n in zip((grid.latitude_bounds, grid.longitude_bounds), map(int, factors), strict=True):
        edges.append(np.append(bounds[:-1:n], bounds[-1]))
        if len(edges[-1]) < 3:
            raise ValueError(f"AreaAverage: factor {n} leaves fewer than two cells of {len(bounds) - 1}")
    centres = [(edge[1:] + edge[:-1]) / 2 for edge in edges]
    return Grid(centres[0], centres[1], grid.level, latitude_bounds=edges[0], longitude_bounds=edges[1])


def _sines(grid: Grid) -> np.ndarray:
    return np.sin(np.radians(grid.latitude_bounds))


def _overlap(coarse: np.ndarray, fine: np.ndarray) -> np.ndarray:
    """(I, i) lengths that intervals share, given by their edges, which run either way."""
    (low, high), (left, right) = (
        (np.minimum(edges[:-1], edges[1:]), np.maximum(edges[:-1], edges[1:])) for edges in (coarse, fine)
    )
    shared = np.minimum(high[:, None], right) - np.maximum(low[:, None], left)
    # edges that should meet do so up to rounding
    return np.where(shared > 1e-9 * (right - left), shared, 0.0)


def _shares(overlap: np.ndarray, edges: np.ndarray) -> np.ndarray:
    return overlap.sum(1) / np.abs(np.diff(edges))


def _averages(overlap: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(overlap / overlap.sum(1, keepdims=True))
