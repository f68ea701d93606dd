"""Parts of a field: channels, regions, times, and other shapes of the same numbers. Their rows are orthogonal."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from operators.grid import Grid
from operators.linear import Linear, checked, closed_prox
from operators.sampling import channel_index


class _Orthogonal(Linear):
    """A linear operator with A A^T = s I, which makes its pseudo-inverse and proximal operator closed forms."""

    img_size: tuple[int, ...]
    square = 1.0

    def __init__(self, shape: tuple[int, ...], data_size: tuple[int, ...]) -> None:
        super().__init__(img_size=tuple(shape), solver="CG")
        self.data_size = tuple(data_size)

    def extra_repr(self) -> str:
        return f"{self.img_size} to {self.data_size}"

    def _field(self, x: Tensor) -> Tensor:
        return checked(x, type(self).__name__, "x", self.img_size)

    def _data(self, y: Tensor) -> Tensor:
        return checked(y, type(self).__name__, "y", self.data_size)

    def A_A_adjoint(self, y: Tensor, **parameters: Any) -> Tensor:
        """A A^T y, which is y times a number."""
        return self.square * self._data(y)

    def A_dagger(self, y: Tensor, **kwargs: Any) -> Tensor:
        """The pseudo-inverse, the adjoint over a number; the settings of iterative solvers are not used."""
        return self.A_adjoint(y) / self.square

    def prox_l2(self, z: Tensor | float | None, y: Tensor, gamma: float | Tensor, **kwargs: Any) -> Tensor:
        """argmin_x gamma/2 |A x - y|^2 + 1/2 |x - z|^2, in closed form.

        Args:
            z: Of the shape of the field, or a number; None is 0.
            y: Data.
            gamma: Weight of the data term, a number or one per member of the batch.
            **kwargs: Settings of iterative solvers; not used.
        """
        return closed_prox(self, z, y, gamma, self.square)


class Reshape(_Orthogonal):
    """The same numbers in another shape, in the order of memory: (C * T, H, W) to (C, T, H, W), a field to a vector.

    Args:
        shape: Event shape of x.
        data_shape: Event shape of y, with as many entries.

    Raises:
        ValueError: The shapes differ in size; x or y has the wrong shape or dtype.
    """

    def __init__(self, shape: tuple[int, ...], data_shape: tuple[int, ...]) -> None:
        if math.prod(shape) != math.prod(data_shape) or math.prod(shape) < 1:
            raise ValueError(f"Reshape: shapes must have the same number of entries, got {shape} and {data_shape}")
        super().__init__(shape, data_shape)

    def A(self, x: Tensor, **parameters: Any) -> Tensor:
        """(B, *shape) -> (B, *data_shape)."""
        return self._field(x).reshape(-1, *self.data_size)

    def A_adjoint(self, y: Tensor, **parameters: Any) -> Tensor:
        """(B, *data_shape) -> (B, *shape)."""
        return self._data(y).reshape(-1, *self.img_size)


class Channel(_Orthogonal):
    """Some channels of a field, (B, C, ...) to (B, K, ...).

    Args:
        shape: (C, ...), event shape of the field.
        channel: One channel or several, in the order of the data.

    Raises:
        ValueError: A channel is not among those of the field or named twice; x or y has the wrong shape or dtype.
    """

    channel: Tensor

    def __init__(self, shape: tuple[int, ...], channel: int | Sequence[int]) -> None:
        index = channel_index(channel, shape[0], "Channel")
        super().__init__(shape, (len(index), *shape[1:]))
        self.register_buffer("channel", index)

    def A(self, x: Tensor, **parameters: Any) -> Tensor:
        """(B, C, ...) -> (B, K, ...)."""
        return self._field(x).index_select(1, self.channel)

    def A_adjoint(self, y: Tensor, **parameters: Any) -> Tensor:
        """(B, K, ...) -> (B, C, ...), 0 in the other channels."""
        return _placed(self._data(y), 1, self.channel, self.img_size[0])


class Region(_Orthogonal):
    """A field restricted to a box of latitudes and longitudes, (B, C, H, W) to (B, C, h, w).

    Rows and columns whose coordinates are within the box are kept, bounds included, columns from west to east: a box across
    the seam of a global grid is one region.

    Args:
        grid: Grid of the field, with or without levels.
        latitude: South and north, degrees.
        longitude: West and east, degrees, of any convention; from 350 to 10 is 20 degrees.
        channels: Number of channels of the field.

    Attributes:
        region: The grid of the restricted field, for operators that come after.

    Raises:
        ValueError: South is not below north, or there are not two rows and two columns in the box; x or y has the wrong shape
            or dtype.
    """

    rows: Tensor
    columns: Tensor

    def __init__(self, grid: Grid, latitude: tuple[float, float], longitude: tuple[float, float], *, channels: int = 1) -> None:
        Grid.must_be(grid, "Region")
        south, north = latitude
        rows = np.flatnonzero((grid.latitude >= south) & (grid.latitude <= north))
        columns = grid.columns(*longitude)
        if not south < north or len(rows) < 2 or len(columns) < 2:
            raise ValueError(
                f"Region: latitude {latitude} and longitude {longitude} hold {len(rows)} rows and {len(columns)} columns of "
                f"{grid!r}; wanted two of each at least"
            )
        region = grid.part(rows, columns)
        super().__init__((channels, *grid.shape), (channels, *region.shape))
        self.grid, self.region = grid, region
        self.register_buffer("rows", torch.from_numpy(rows))
        self.register_buffer("columns", torch.from_numpy(columns))

    def A(self, x: Tensor, **parameters: Any) -> Tensor:
        """(B, C, H, W) -> (B, C, h, w)."""
        return self._field(x).index_select(-2, self.rows).index_select(-1, self.columns)

    def A_adjoint(self, y: Tensor, **parameters: Any) -> Tensor:
        """(B, C, h, w) -> (B, C, H, W), 0 outside the region."""
        return _placed(_placed(self._data(y), -1, self.columns, self.img_size[-1]), -2, self.rows, self.img_size[-2])


class Snapshot(_Orthogonal):
    """A trajectory at one time, (B, C, T, ...) to (B, C, ...), linear between the two steps nearest to it.

    Args:
        shape: (C, T, ...), event shape of the trajectory.
        time: In steps, from 0 to T - 1; need not be whole.

    Raises:
        ValueError: ``time`` is not within the trajectory; x or y has the wrong shape or dtype.
    """

    weights: Tensor

    def __init__(self, shape: tuple[int, ...], time: float) -> None:
        steps = trajectory_steps(shape, "Snapshot")
        if not 0 <= time <= steps - 1:
            raise ValueError(f"Snapshot: time must be within 0 to {steps - 1} steps, got {time}")
        super().__init__(shape, (shape[0], *shape[2:]))
        self.time = time
        weights = torch.clamp(1 - (torch.arange(steps, dtype=torch.float64) - time).abs(), min=0)
        self.square = float(weights.square().sum())
        self.register_buffer("weights", weights)

    def A(self, x: Tensor, **parameters: Any) -> Tensor:
        """(B, C, T, ...) -> (B, C, ...)."""
        return (self._field(x).movedim(2, -1) * self.weights.to(x)).sum(-1)

    def A_adjoint(self, y: Tensor, **parameters: Any) -> Tensor:
        """(B, C, ...) -> (B, C, T, ...)."""
        return (self._data(y)[..., None] * self.weights.to(y)).movedim(-1, 2)


def trajectory_steps(shape: tuple[int, ...], owner: str) -> int:
    """T of an event shape (C, T, ...); ``owner`` is who asks.

    Raises:
        ValueError: It is none.
    """
    if len(shape) < 2 or any(n != int(n) or n < 1 for n in shape):
        raise ValueError(f"{owner}: shape must be (C, T, ...), positive integers, got {shape}")
    return int(shape[1])


def _placed(v: Tensor, axis: int, index: Tensor, size: int) -> Tensor:
    """``v`` at the places ``index`` of an axis of ``size``, 0 elsewhere."""
    shape = list(v.shape)
    shape[axis] = size
    return v.new_zeros(shape).index_copy(axis, index, v)
