"""One event on its axes: an image, a map on latitude and longitude with coastlines, or a line."""

from __future__ import annotations

import importlib.util
import itertools
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from posterior.figures.style import Scale, plain, words

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colorbar import Colorbar

    from posterior.draws import Draws
    from posterior.priors.labels import Labels

_NAMES = {"latitude": ("lat", "latitude", "degrees_north"), "longitude": ("lon", "longitude", "degrees_east")}


@dataclass(frozen=True)
class Plane:
    """The last two axes of an event.

    Args:
        dims: Names of the vertical and the horizontal axis.
        coords: Their coordinates, as xarray.DataArray, where there are any.
    """

    dims: tuple[str, str]
    coords: Mapping[str, Any] = field(default_factory=dict)

    @property
    def geographic(self) -> bool:
        """Whether they are latitude and longitude."""
        y, x = self.dims
        return _is("latitude", y, self.coords.get(y)) and _is("longitude", x, self.coords.get(x)) and self.to_scale

    @property
    def to_scale(self) -> bool:
        """Whether both have coordinates that are numbers in order."""
        return all(dim in self.coords and _is_axis(self.coords[dim].values) for dim in self.dims)

    @property
    def aspect(self) -> float:
        """Height on paper of one unit of y over the width of one of x; of one pixel where there are no coordinates."""
        y, x = (self.coords.get(dim) for dim in self.dims)
        if y is None or x is None or not self.to_scale:
            return 1.0
        if self.geographic:
            return 1 / max(0.1, math.cos(math.radians(float(y.values.mean()))))
        if y.attrs.get("units") == x.attrs.get("units"):
            return 1.0
        return _span(x.values) / _span(y.values)

    @property
    def turned(self) -> tuple[bool, bool]:
        """Whether the last row of an image belongs on top, and whether its last column belongs on the left."""
        if not self.to_scale:
            return False, False
        y, x = (self.coords[dim].values for dim in self.dims)
        return self.points_up == bool(y[0] < y[-1]), bool(x[0] > x[-1])

    @property
    def points_up(self) -> bool:
        """Whether larger values of the vertical coordinate are drawn higher."""
        dim = self.dims[0]
        coordinate = self.coords[dim]
        if coordinate.attrs.get("positive") == "up" or _is("latitude", dim, coordinate):
            return True
        # A coordinate that falls from the first row on has that row on top by itself.
        return bool(coordinate.values[0] > coordinate.values[-1]) and coordinate.attrs.get("positive") != "down"

    def upright(self, values: np.ndarray) -> np.ndarray:
        """Values (rows, columns) with the row on top, and the column on the left, that belong there."""
        rows, columns = self.turned
        return values[:: -1 if rows else 1, :: -1 if columns else 1]

    def shape_on_paper(self, shape: tuple[int, int]) -> float:
        """Height over width of an image of a shape (rows, columns)."""
        if not self.to_scale:
            return shape[0] / shape[1]
        spans = [_span(v) * len(v) / (len(v) - 1) for v in (self.coords[d].values for d in self.dims)]
        return self.aspect * spans[0] / spans[1]


def plane(labelled: Draws | Labels) -> Plane:
    """The last two axes of draws, or of what a prior's labels name, for events of two axes or more."""
    y, x = labelled.dims[-2:]
    return Plane((y, x), {dim: labelled.coords[dim] for dim in (y, x) if dim in labelled.coords})


def image(
    ax: Axes, values: np.ndarray, where: Plane | None, scale: Scale, title: str = "", *, bar: bool = True, ticks: bool = True
) -> Any:
    """Draw values (rows, columns), with a bar that has their units.

    Row 0 is on top, as in an image, unless the vertical axis is a latitude or its coordinate says it is positive up.

    Args:
        ax: Where to.
        values: What; grey where it is not finite.
        where: Its axes; pixels where None.
        scale: Its colours.
        title: Above it.

    Other arguments:
        bar: Whether to add a colour bar.
        ticks: Whether the axes are labelled.

    Returns:
        The artist, a matplotlib ``AxesImage`` or ``QuadMesh``.
    """
    where = where or Plane(("", ""))
    values = np.where(np.isfinite(values), values, np.nan)
    if where.to_scale:
        y, x = (where.coords[dim].values.astype(float) for dim in where.dims)
        drawn = ax.pcolormesh(x, y, values, shading="nearest", rasterized=True, **scale.style)
        ax.set_aspect(where.aspect)
        if not where.points_up and not ax.yaxis_inverted():
            ax.invert_yaxis()
        if where.geographic:
            _coastlines(ax, x, y)
    else:
        drawn = ax.imshow(values, interpolation="nearest", **scale.style)
    if title:
        ax.set_title(title, fontsize=10)
    if ticks:
        _label(ax, where)
    else:
        ax.set_xticks([])
        ax.set_yticks([])
    if bar:
        colour_bar(ax, drawn, scale)
    return drawn


def colour_bar(ax: Axes, drawn: Any, scale: Scale) -> Colorbar:
    """A bar with units, as high as the axes that it stands beside."""
    from matplotlib.ticker import ScalarFormatter

    bar = ax.figure.colorbar(drawn, cax=ax.inset_axes((1.03, 0.0, 0.045, 1.0)), extend=scale.extend)
    bar.set_label(scale.units, fontsize=9)
    bar.ax.tick_params(labelsize=8)
    if isinstance(bar.formatter, ScalarFormatter):  # a logarithmic scale has one of its own
        bar.formatter.set_powerlimits((-3, 4))
    return bar


def axis_label(dim: str, coordinate: Any) -> str:
    """Name and units of an axis; without a coordinate it counts values, and without a name it says nothing."""
    if not dim:
        return ""
    units = "index" if coordinate is None else unit_of(coordinate)
    return f"{words(dim)} ({units})" if units else words(dim)


def unit_of(coordinate: Any) -> str:
    """Units of a coordinate as people write them; empty where it has none."""
    units = "" if coordinate is None else str(coordinate.attrs.get("units", ""))
    return {"degrees_north": "°N", "degrees_east": "°E", "1": ""}.get(units, plain(units))


def _label(ax: Axes, where: Plane) -> None:
    y, x = where.dims
    ax.tick_params(labelsize=8)
    if where.geographic:
        ax.xaxis.set_major_formatter(lambda v, _: _degrees((v + 180) % 360 - 180, "EW"))
        ax.yaxis.set_major_formatter(lambda v, _: _degrees(v, "NS"))
        ax.locator_params(nbins=5)
        return
    ax.set_xlabel(axis_label(x, where.coords.get(x)), fontsize=9)
    ax.set_ylabel(axis_label(y, where.coords.get(y)), fontsize=9)


def _degrees(value: float, sides: str) -> str:
    side = "" if value == 0 else sides[0] if value > 0 else sides[1]
    return f"{abs(value):g}°{side}"


def _is(what: str, dim: str, coordinate: Any) -> bool:
    attrs = {} if coordinate is None else coordinate.attrs
    return any(str(n).lower() in _NAMES[what] for n in (dim, attrs.get("standard_name"), attrs.get("units")))


def _is_axis(values: np.ndarray) -> bool:
    """Whether a coordinate is numeric and monotonic, so that it can be drawn to scale."""
    if len(values) < 2 or values.dtype.kind not in "iuf":
        return False
    steps = np.diff(values.astype(float))
    return bool((steps > 0).all() or (steps < 0).all())


def _span(values: np.ndarray) -> float:
    """How far a coordinate reaches; small integers would overflow in the difference."""
    return abs(float(values[-1]) - float(values[0]))


def _coastlines(ax: Axes, x: np.ndarray, y: np.ndarray) -> None:
    """Coastlines, where cartopy and its data are at hand; nothing is fetched."""
    from matplotlib.collections import LineCollection

    limits = ax.get_xlim(), ax.get_ylim()
    west, east = min(x) - 1, max(x) + 1
    lines = []
    for line in coastlines():
        for turn in (-360.0, 0.0, 360.0):  # longitudes may run from -180 or from 0
            moved = line + (turn, 0.0)
            if moved[:, 0].max() > west and moved[:, 0].min() < east:
                lines.append(moved)
    if lines:
        ax.add_collection(LineCollection(lines, colors="black", linewidths=0.6, alpha=0.8), autolim=False)
        ax.set_xlim(*limits[0])
        ax.set_ylim(*limits[1])


@lru_cache(maxsize=1)
def coastlines() -> tuple[np.ndarray, ...]:
    """Natural Earth coastlines, each (points, 2) in degrees east and north; none where they are not at hand.

    They lie where cartopy keeps them, once a map has made it fetch them or a package has brought them. Nothing is
    downloaded here: a figure must not wait for a network. Cartopy itself is not imported, only the reader of shapefiles
    that it brings.
    """
    if importlib.util.find_spec("shapefile") is None:
        return ()
    cartopy = importlib.util.find_spec("cartopy")
    share = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    folders = [Path(share) / "cartopy"]
    if cartopy is not None:
        folders += [Path(p) / "data" for p in cartopy.submodule_search_locations or ()]
    if own := os.environ.get("CARTOPY_DATA_DIR"):
        folders.insert(0, Path(own))
    for resolution, folder in itertools.product(("50m", "110m", "10m"), folders):
        path = folder / "shapefiles" / "natural_earth" / "physical" / f"ne_{resolution}_coastline.shp"
        if path.is_file():
            import shapefile

            reader: Any = shapefile.Reader(str(path))
            with reader:
                return tuple(part for shape in reader.iterShapes() for part in _parts(shape))
    return ()


def _parts(shape: Any) -> list[np.ndarray]:
    points = np.asarray(shape.points, dtype=float)[:, :2]
    return np.split(points, list(shape.parts)[1:])


def line(ax: Axes, draws: Draws, values: np.ndarray, **style: Any) -> np.ndarray:
    """Draw values along the only axis of draws, which it labels; returns the positions."""
    (dim,) = draws.dims
    across = positions(ax, draws)
    ax.plot(across, values, **style)
    ax.set_xlabel(axis_label(dim, draws.coords.get(dim)), fontsize=9)
    return across


def positions(ax: Axes, draws: Draws) -> np.ndarray:
    """Where the values of draws of one axis are drawn; times of cftime, which matplotlib cannot place, are counted."""
    (dim,), (size,) = draws.dims, draws.event_shape
    if dim not in draws.coords:
        return np.arange(size)
    values = draws.coords[dim].values
    if values.dtype.kind != "O":
        return values
    shown = np.unique(np.linspace(0, size - 1, 4).round().astype(int))
    ax.set_xticks(shown, [plain(str(values[i])) for i in shown])
    return np.arange(size)


def array(values: Tensor, draws: Draws | None = None) -> np.ndarray:
    """Values as numpy; of draws (..., *event), NaN at points that do not exist."""
    if draws is None:
        return values.detach().cpu().resolve_neg().numpy()
    from posterior.draws_io import masked

    return masked(draws, values)
