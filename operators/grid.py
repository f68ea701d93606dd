"""Latitude-longitude grids, and where a point on the sphere lies on them.

Fields are (B, C, lat, lon), or (B, C, level, lat, lon) on a grid with levels, in the order in which the coordinates are
given: latitudes may run either way, longitudes eastwards in any convention. Angles are degrees, pressures hPa. Geometry is
computed once, in double precision, when an operator is built.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse import csr_array
from torch import Tensor

EARTH_RADIUS = 6371.0  # km, the sphere of equal volume

Coordinate = npt.ArrayLike | Tensor

_SAME = 1e-9  # degrees, or of log-pressure: closer points are one, computed in two ways

_TO_HPA = {"hpa": 1.0, "millibar": 1.0, "millibars": 1.0, "mbar": 1.0, "mb": 1.0, "pa": 0.01, "kpa": 10.0}
_LEVEL_NAMES = ("level", "pressure", "pressure_level", "plev", "isobaricinhpa")


class Grid:
    """A global or regional grid of latitudes and longitudes, with or without pressure levels.

    It is global where its longitudes close the circle, and covers a pole where it is global and the outermost row is no
    farther from the pole than from its neighbour. Cells reach half-way to the neighbours, and to the pole that is covered.

    Args:
        latitude: (H,) degrees north, increasing or decreasing.
        longitude: (W,) degrees east, increasing, -180..180 or 0..360 or any other; one jump back by 360 (350, 355, 0, 5) is
            understood.
        level: (L,) hPa, increasing or decreasing; None for fields without levels.

    Other arguments:
        latitude_bounds: (H + 1,) edges of the cells, in the order of ``latitude``.
        longitude_bounds: (W + 1,) edges of the cells.

    Attributes:
        latitude: As given, float64.
        longitude: As given, float64.
        level: As given, float64, or None.

    Raises:
        ValueError: A coordinate is not one-dimensional, finite, strictly monotone and in range; longitudes cover more than
            the circle; bounds do not enclose their cells.
    """

    def __init__(
        self,
        latitude: Coordinate,
        longitude: Coordinate,
        level: Coordinate | None = None,
        *,
        latitude_bounds: Coordinate | None = None,
        longitude_bounds: Coordinate | None = None,
    ) -> None:
        self.latitude = _coordinate(latitude, "latitude", (-90, 90))
        self.longitude = _coordinate(longitude, "longitude", (-360, 720))
        self.level = None if level is None else _coordinate(level, "level", (0, 1100), least=1)
        _monotone(self.latitude, "latitude")
        if self.level is not None:
            _monotone(self.level, "level")
            if not (self.level > 0).all():
                raise ValueError("Grid: level must be above 0 hPa, got 0")
        self._east = _unwrapped(self.longitude)
        self._latitude_bounds = None if latitude_bounds is None else self._given_bounds(latitude_bounds, "latitude")
        self._longitude_bounds = None if longitude_bounds is None else self._given_bounds(longitude_bounds, "longitude")

    @classmethod
    def from_xarray(cls, data: Any) -> Self:
        """The grid of an xarray Dataset or DataArray, found by the CF attributes or the names of its coordinates.

        Latitude and longitude: standard_name, or the names latitude, longitude, lat, lon. Level: standard_name air_pressure,
        or the names level, pressure, pressure_level, plev, isobaricInhPa, with units of pressure; a scalar, as of a
        single level that was selected, is not one.

        Args:
            data: Has ``coords``, as an xarray Dataset or DataArray.

        Raises:
            ValueError: A coordinate is missing, two-dimensional or in units that are not known.
        """
        found = {what: _find(data, standard, names) for what, (standard, names) in _CF.items()}
        for what in ("latitude", "longitude"):
            if found[what] is None:
                raise ValueError(f"Grid: no {what} among the coordinates {sorted(map(str, data.coords))}")
            units = str(found[what].attrs.get("units", "degrees"))
            if not units.startswith("degree"):
                raise ValueError(f"Grid: {what} must be in degrees, got units {units!r}")
        level = found["level"]
        return cls(
            found["latitude"].values,
            found["longitude"].values,
            None if level is None or level.ndim == 0 else level.values * _hectopascals(level),
        )

    @staticmethod
    def must_be(grid: Any, owner: str) -> None:
        """Raise TypeError unless ``grid`` is a grid; ``owner`` is who asks."""
        if not isinstance(grid, Grid):
            raise TypeError(f"{owner}: grid is a {type(grid).__name__}; wanted an operators.Grid, as of Grid.from_xarray")

    def __repr__(self) -> str:
        levels = "" if self.level is None else f", {len(self.level)} levels {self.level[0]:g} to {self.level[-1]:g} hPa"
        return f"Grid({self._spans()}, {len(self.latitude)} x {len(self.longitude)}{levels})"

    @property
    def shape(self) -> tuple[int, ...]:
        """(H, W), or (L, H, W) with levels."""
        horizontal = len(self.latitude), len(self.longitude)
        return horizontal if self.level is None else (len(self.level), *horizontal)

    @property
    def is_global(self) -> bool:
        """Whether the longitudes close the circle."""
        return bool(360 - (self._east[-1] - self._east[0]) <= 1.001 * np.diff(self._east).max())

    @property
    def poles(self) -> tuple[bool, bool]:
        """Whether the south and the north pole are covered."""
        nodes = np.sort(self.latitude)
        south = nodes[0] + 90 <= 1.001 * (nodes[1] - nodes[0])
        north = 90 - nodes[-1] <= 1.001 * (nodes[-1] - nodes[-2])
        return bool(south and self.is_global), bool(north and self.is_global)

    @cached_property
    def latitude_bounds(self) -> np.ndarray:
        """(H + 1,) edges of the cells, in the order of ``latitude``."""
        if self._latitude_bounds is not None:
            return self._latitude_bounds
        south, north = self.poles
        edges = np.clip(_midpoints(np.sort(self.latitude)), -90, 90)
        edges[0], edges[-1] = -90 if south else edges[0], 90 if north else edges[-1]
        return edges if self.latitude[0] < self.latitude[-1] else edges[::-1]

    @cached_property
    def longitude_bounds(self) -> np.ndarray:
        """(W + 1,) edges of the cells, increasing; the last is the first plus 360 on a global grid."""
        if self._longitude_bounds is not None:
            return self._longitude_bounds
        edges = _midpoints(self._east)
        if self.is_global:
            edges[0] = (self._east[0] + self._east[-1] - 360) / 2
            edges[-1] = edges[0] + 360
        return edges

    @cached_property
    def area(self) -> np.ndarray:
        """(H, W) solid angle of the cells in steradian: the difference of sin(latitude) times that of longitude."""
        height = np.abs(np.diff(np.sin(np.radians(self.latitude_bounds))))
        return height[:, None] * np.radians(np.diff(self.longitude_bounds))

    def mean(self, x: Tensor) -> Tensor:
        """Area-weighted mean of fields (..., H, W) over all cells, (...).

        Raises:
            ValueError: The fields are not on this grid.
        """
        if tuple(x.shape[-2:]) != self.shape[-2:]:
            raise ValueError(f"Grid: a field must be (..., {self.shape[-2]}, {self.shape[-1]}), got {tuple(x.shape)}")
        weight = torch.from_numpy(self.area / self.area.sum()).to(x)
        return (x * weight).sum((-2, -1))

    def columns(self, west: float, east: float) -> np.ndarray:
        """Indices of the longitudes from ``west`` eastwards to ``east``, in this order; both may be of any convention.

        Raises:
            ValueError: They are two parts of a regional grid.
        """
        width = 360.0 if east - west >= 360 else (east - west) % 360
        offset = (self._east - west) % 360
        offset[offset > 360 - _SAME] = 0
        inside = np.flatnonzero(offset <= width + _SAME)
        if self.is_global:
            return inside[np.argsort(offset[inside], kind="stable")]
        if len(inside) and inside[-1] - inside[0] >= len(inside):
            raise ValueError(f"Grid: longitudes {west:g} to {east:g} are two parts of {self!r}")
        return inside

    def part(self, rows: np.ndarray, columns: np.ndarray) -> "Grid":
        """The grid of these rows and columns, both without gaps; columns go eastwards, across the seam or not."""
        edges = self.longitude_bounds
        east = self._east[columns]
        wraps = np.concatenate([[0], np.cumsum(360.0 * (np.diff(east) < 0))])
        return Grid(
            self.latitude[rows],
            east + wraps,
            self.level,
            latitude_bounds=self.latitude_bounds[np.append(rows, rows[-1] + 1)],
            longitude_bounds=np.concatenate([[edges[columns[0]]], edges[columns + 1] + wraps]),
        )

    def interpolation(
        self, latitude: Coordinate, longitude: Coordinate, *, vector: bool = False
    ) -> tuple[csr_array, np.ndarray]:
        """Bilinear weights of points on the horizontal grid: (n, H * W), at most four a row, and which points have any.

        Beyond the last row of a global grid the meridian goes on over the pole to the opposite longitude, so that fields
        are interpolated along a great circle there as well. ``vector`` says that they are eastward or northward components,
        whose sign turns on the way.

        Args:
            latitude: (n,) degrees north.
            longitude: (n,) degrees east.
            vector: Whether fields are components in the local east-north frame.

        Returns:
            The weights, zero where a point is off a regional grid, and (n,) booleans, whether it is on the grid.
        """
        latitude, longitude = np.asarray(latitude, float), np.asarray(longitude, float)
        legs, inside = self._rows(latitude, -1.0 if vector else 1.0)
        count, (height, width) = len(latitude), self.shape[-2:]
        total = csr_array((count, height * width))
        for leg in legs:
            columns, on = self._columns(longitude + leg.turn)
            inside = inside & on
            for column, weight in columns:
                entries = (leg.weight * weight, (np.arange(count), leg.row * width + column))
                total = total + csr_array(entries, shape=(count, height * width))
        keep = csr_array((inside.astype(float), (np.arange(count), np.arange(count))), shape=(count, count))
        total = csr_array(keep @ total)
        total.eliminate_zeros()
        return total, inside

    def vertical(self, pressure: Coordinate) -> tuple[csr_array, np.ndarray]:
        """Weights linear in log-pressure between the levels, (n, L), two a row, and which pressures are within the levels."""
        if self.level is None:
            raise ValueError(f"Grid: {self!r} has no levels")
        pressure = np.asarray(pressure, float)
        order = np.argsort(self.level)
        lower, upper, fraction, inside = _bracket(np.log(pressure), np.log(self.level[order]))
        points = np.arange(len(pressure))
        rows, columns = np.concatenate([points, points]), np.concatenate([order[lower], order[upper]])
        weights = np.concatenate([(1 - fraction) * inside, fraction * inside])
        matrix = csr_array((weights, (rows, columns)), shape=(len(pressure), len(order)))
        matrix.eliminate_zeros()
        return matrix, inside

    def _rows(self, latitude: np.ndarray, sign: float) -> tuple[list["_Leg"], np.ndarray]:
        order = np.argsort(self.latitude)
        nodes = self.latitude[order]
        south, north = self.poles
        # one row more on each side, the outermost one seen over the pole, where there is a gap to bridge
        below = [-180 - nodes[0]] if south and nodes[0] > -90 else []
        above = [180 - nodes[-1]] if north and nodes[-1] < 90 else []
        extended = np.concatenate([below, nodes, above])
        rows = np.concatenate([order[: len(below)], order, order[len(order) - len(above) :]])
        over = np.concatenate([[True] * len(below), [False] * len(nodes), [True] * len(above)])
        lower, upper, fraction, inside = _bracket(latitude, extended)
        return [
            _Leg(rows[at], weight * np.where(over[at], sign, 1.0), 180.0 * over[at])
            for at, weight in ((lower, 1 - fraction), (upper, fraction))
        ], inside

    def _columns(self, longitude: np.ndarray) -> tuple[list[tuple[np.ndarray, np.ndarray]], np.ndarray]:
        nodes = np.append(self._east, self._east[0] + 360) if self.is_global else self._east
        offset = (longitude - nodes[0]) % 360
        offset[offset > 360 - _SAME] = 0
        lower, upper, fraction, inside = _bracket(nodes[0] + offset, nodes)
        return [(lower, 1 - fraction), (upper % len(self._east), fraction)], inside

    def _given_bounds(self, value: Coordinate, what: str) -> np.ndarray:
        edges = np.array(value, dtype=float)
        centres = self.latitude if what == "latitude" else self._east
        low, high = np.minimum(edges[:-1], edges[1:]), np.maximum(edges[:-1], edges[1:])
        fits = edges.shape == (len(centres) + 1,) and bool(((low <= centres + _SAME) & (centres <= high + _SAME)).all())
        if not fits or (what == "latitude" and np.abs(edges).max() > 90) or edges.max() - edges.min() > 360 + _SAME:
            raise ValueError(f"Grid: {what}_bounds must be {len(centres) + 1} edges that enclose the {what}s, got {edges}")
        return edges

    def _spans(self) -> str:
        return f"latitude {self.latitude.min():g} to {self.latitude.max():g}, longitude {self._east[0]:g} to {self._east[-1]:g}"


@dataclass(frozen=True)
class _Leg:
    """One of the two rows that a point lies between: its index, the weight, and how far the longitude turns."""

    row: np.ndarray
    weight: np.ndarray
    turn: np.ndarray


_CF = {
    "latitude": ("latitude", ("latitude", "lat")),
    "longitude": ("longitude", ("longitude", "lon")),
    "level": ("air_pressure", _LEVEL_NAMES),
}


def _find(data: Any, standard: str, names: Iterable[str]) -> Any:
    coords = {str(name): value for name, value in data.coords.items()}
    named = [value for value in coords.values() if value.attrs.get("standard_name") == standard]
    return next(iter([*named, *(value for name, value in coords.items() if name.lower() in names)]), None)


def _hectopascals(level: Any) -> float:
    units = str(level.attrs.get("units", "")).strip()
    if units.lower() not in _TO_HPA:
        raise ValueError(f"Grid: level must have units of pressure (hPa, Pa, ...), got {units!r}")
    return _TO_HPA[units.lower()]


def _coordinate(value: Coordinate, what: str, limits: tuple[float, float], least: int = 2) -> np.ndarray:
    array = np.array(value, dtype=float)
    if array.ndim != 1 or len(array) < least:
        raise ValueError(f"Grid: {what} must be one-dimensional with at least {least} entries, got shape {array.shape}")
    if not np.isfinite(array).all() or array.min() < limits[0] or array.max() > limits[1]:
        units = "hPa" if what == "level" else "degrees"
        raise ValueError(
            f"Grid: {what} must be within {limits[0]} to {limits[1]} {units}, got {np.min(array):g} to {np.max(array):g}"
        )
    return array


def _monotone(array: np.ndarray, what: str) -> None:
    step = np.diff(array)
    if not ((step > 0).all() or (step < 0).all()):
        raise ValueError(f"Grid: {what} must be strictly increasing or decreasing, got {array}")


def _unwrapped(longitude: np.ndarray) -> np.ndarray:
    jump = np.diff(longitude) < -180
    east = longitude + 360.0 * np.concatenate([[0], np.cumsum(jump)])
    if jump.sum() > 1 or not (np.diff(east) > 0).all():
        raise ValueError(f"Grid: longitude must increase, with one jump back by 360 at most, got {longitude}")
    if east[-1] - east[0] >= 360 - 1e-6:
        raise ValueError(
            f"Grid: longitude runs from {longitude[0]:g} to {longitude[-1]:g}: the circle once more; "
            "drop the columns that repeat a meridian"
        )
    return east


def _midpoints(nodes: np.ndarray) -> np.ndarray:
    """Edges half-way between increasing nodes, and as far beyond the outermost ones."""
    inner = (nodes[1:] + nodes[:-1]) / 2
    return np.concatenate([[2 * nodes[0] - inner[0]], inner, [2 * nodes[-1] - inner[-1]]])


def _bracket(points: np.ndarray, nodes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Neighbours of points among increasing nodes: lower and upper index, how far between them, whether there are any."""
    inside = (points >= nodes[0] - _SAME) & (points <= nodes[-1] + _SAME)
    if len(nodes) == 1:
        zero = np.zeros(len(points), dtype=int)
        return zero, zero, np.zeros(len(points)), inside
    lower = np.clip(np.searchsorted(nodes, points, side="right") - 1, 0, len(nodes) - 2)
    fraction = np.clip((points - nodes[lower]) / (nodes[lower + 1] - nodes[lower]), 0, 1)
    return lower, lower + 1, fraction, inside
