"""Operators whose data are weighted sums of a few grid values: the sparse matrix, and what instruments on a grid share."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from operators.grid import Coordinate, Grid
from operators.linear import Linear, checked

Outside = Literal["raise", "drop"]


class SparseSampling(Linear):
    """y = W x for each of the observed channels, W a sparse matrix over the grid; the base of instruments on a grid.

    Args:
        grid: The grid of the field.
        weights: (n, cells), a row for each datum.
        channel: Channels that are observed: one, or several.
        channels: Number of channels of the field.
        shape: Shape of the n data; default (n,).

    Raises:
        ValueError: A channel is not among those of the field; x or y has the wrong shape or dtype.
    """

    img_size: tuple[int, ...]
    rows: Tensor
    cells: Tensor
    weights: Tensor
    channel: Tensor

    def __init__(
        self,
        grid: Grid,
        weights: csr_array,
        channel: int | Sequence[int] = 0,
        channels: int = 1,
        shape: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__(img_size=(channels, *grid.shape), solver="CG")
        self.grid = grid
        self.points = (len(weights.indptr) - 1,) if shape is None else shape
        entries = weights.tocoo()
        self.register_buffer("rows", torch.from_numpy(entries.coords[0].astype(np.int64)))
        self.register_buffer("cells", torch.from_numpy(entries.coords[1].astype(np.int64)))
        # double precision, cast at each call: weights of single precision would cost a float64 field its digits
        self.register_buffer("weights", torch.from_numpy(entries.data.astype(np.float64)))
        self.register_buffer("channel", channel_index(channel, channels, type(self).__name__))

    def extra_repr(self) -> str:
        return f"{self.grid!r}, data={(len(self.channel), *self.points)}"

    def A(self, x: Tensor, **parameters: Any) -> Tensor:
        """The data.

        Args:
            x: Field, (B, C, H, W), or (B, C, L, H, W) on a grid with levels.
            **parameters: Of other operators and of noise models; not used.

        Returns:
            (B, K, n) for K observed channels.
        """
        name = type(self).__name__
        cells = checked(x, name, "x", self.img_size).index_select(1, self.channel).flatten(2)
        values = cells.gather(-1, self._at(self.cells, cells)) * self.weights.to(x)
        data = x.new_zeros(*values.shape[:2], int(np.prod(self.points)))
        return data.scatter_add(-1, self._at(self.rows, values), values).unflatten(-1, self.points)

    def A_adjoint(self, y: Tensor, **parameters: Any) -> Tensor:
        """The transpose: every datum back on the cells it came from.

        Args:
            y: (B, K, n).
            **parameters: Not used.

        Returns:
            (B, C, H, W) or (B, C, L, H, W).
        """
        data = checked(y, type(self).__name__, "y", (len(self.channel), *self.points)).flatten(2)
        values = data.gather(-1, self._at(self.rows, data)) * self.weights.to(y)
        cells = y.new_zeros(*values.shape[:2], int(np.prod(self.grid.shape)))
        cells = cells.scatter_add(-1, self._at(self.cells, values), values).unflatten(-1, self.grid.shape)
        return y.new_zeros(y.shape[0], *self.img_size).index_add(1, self.channel, cells)

    @staticmethod
    def _at(index: Tensor, like: Tensor) -> Tensor:
        return index.expand(*like.shape[:2], -1)


def channel_index(channel: int | Sequence[int], channels: int, owner: str) -> Tensor:
    """Channels that are selected, as an index.

    Raises:
        ValueError: One is not among those of the field, is named twice, or there is none.
    """
    index = [channel] if isinstance(channel, int) else [int(c) for c in channel]
    if not index or not all(0 <= c < channels for c in index) or len(set(index)) != len(index):
        raise ValueError(f"{owner}: channel must be one or several different of 0 to {channels - 1}, got {channel}")
    return torch.tensor(index)


def positions(owner: str, **coordinates: Coordinate) -> list[np.ndarray]:
    """Coordinates of observations as arrays of one shape, the largest.

    Raises:
        ValueError: They do not broadcast, hold no point, are not finite, or a latitude is beyond a pole.
    """
    arrays: Any
    try:
        arrays = np.broadcast_arrays(*(np.atleast_1d(np.asarray(value, dtype=float)) for value in coordinates.values()))
    except ValueError as error:
        shapes = {name: np.shape(value) for name, value in coordinates.items()}
        raise ValueError(f"{owner}: coordinates must have shapes that fit, got {shapes}") from error
    for name, array in zip(coordinates, arrays, strict=True):
        if array.size == 0:
            raise ValueError(f"{owner}: {name} holds no point; wanted one or more")
        if not np.isfinite(array).all():
            raise ValueError(f"{owner}: {name} must be finite, got {int((~np.isfinite(array)).sum())} of {array.size} not")
        if name == "latitude" and np.abs(array).max() > 90:
            raise ValueError(f"{owner}: latitude must be within -90 to 90 degrees, got {array.min():g} to {array.max():g}")
    return list(arrays)


def kept_points(inside: Any, outside: Outside, owner: str, grid: Grid, where: Sequence[np.ndarray]) -> Tensor:
    """Which of the points are observed, as booleans of their shape.

    Raises:
        ValueError: Points are outside the grid and ``outside`` is "raise", or all are.
    """
    if outside not in ("raise", "drop"):
        raise ValueError(f"{owner}: outside must be 'raise' or 'drop', got {outside!r}")
    missing = np.flatnonzero(~inside)
    if len(missing) and (outside == "raise" or not inside.any()):
        first = ", ".join(f"{array.flatten()[missing[0]]:g}" for array in where)
        remedy = "outside='drop' leaves them out" if inside.any() else "none is left"
        raise ValueError(
            f"{owner}: {len(missing)} of {inside.size} points are outside {grid!r}, the first, number {missing[0]}, at "
            f"({first}); {remedy}"
        )
    return torch.from_numpy(inside.copy())
