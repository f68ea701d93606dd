"""Names of axes, and the coordinates along them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from posterior.stats import STATISTICS

if TYPE_CHECKING:
    from xarray import DataArray

# What a saved tree calls its other variables and axes: neither the field nor its axes may take these names.
RESERVED = frozenset(STATISTICS) | {"chain", "draw", "complex", "measurement", "noise_std"}

# CF attributes of axes with these names, where their coordinates bring neither standard name nor units.
_LATITUDE = {"standard_name": "latitude", "units": "degrees_north", "axis": "Y"}
_LONGITUDE = {"standard_name": "longitude", "units": "degrees_east", "axis": "X"}
CF_AXES: dict[str, dict[str, str]] = {
    "latitude": _LATITUDE,
    "lat": _LATITUDE,
    "longitude": _LONGITUDE,
    "lon": _LONGITUDE,
    "time": {"standard_name": "time", "axis": "T"},
}
DEFAULT_DIMS = {0: (), 1: ("x",), 2: ("y", "x"), 3: ("channel", "y", "x")}


def coordinate(dim: str, value: Any, sizes: dict[str, int], kind: str) -> DataArray:
    """A coordinate of draws as an xarray.DataArray of its own, with CF attributes where the axis tells them.

    Args:
        dim: The axis.
        value: An array, tensor or DataArray, 1-D.
        sizes: Size of each axis.
        kind: Of the draws; the parts of complex ones take no coordinate.

    Raises:
        ValueError: If there is no such axis, or it has another size.
    """
    from xarray import DataArray

    if dim not in sizes or (dim == "channel" and kind == "complex"):
        takes = [d for d in sizes if not (d == "channel" and kind == "complex")]
        raise ValueError(f"Draws: a coordinate is called {dim!r}; the axes that take one are {takes}")
    array = np.asarray(value.detach().cpu() if isinstance(value, Tensor) else value)
    if array.shape != (sizes[dim],):
        raise ValueError(f"Draws: coordinate {dim!r} has shape {array.shape}; wanted ({sizes[dim]},)")
    attrs = dict(getattr(value, "attrs", {}))
    if array.dtype.kind in "iufM" and not {"standard_name", "units"} & set(attrs):  # what is said is not second-guessed
        attrs = CF_AXES.get(dim, {}) | attrs
    return DataArray(array.copy(), dims=(dim,), name=dim, attrs=attrs)


def restored(coordinate: DataArray, dtype: str) -> DataArray:
    """A coordinate from a file in the type that it had, which a file may not know.

    Args:
        coordinate: As xarray read it.
        dtype: The type that it had.
    """
    if dtype != "object" or coordinate.dtype.kind != "M":
        return coordinate.astype(dtype)
    # Times of cftime in a calendar that numpy knows too come back as numpy's.
    name, calendar = coordinate.name, coordinate.encoding.get("calendar", "standard")
    return coordinate.convert_calendar(calendar, dim=str(name), use_cftime=True)[name]


def check_names(name: str, dims: tuple[str, ...], event: tuple[int, ...]) -> None:
    """Raise ValueError unless a field and its axes can be called so, in files too."""
    if len(dims) != len(event) or len(set(dims)) != len(dims):
        raise ValueError(f"Draws: dims are {dims}; wanted a name for each axis of an event of shape {event}")
    taken = RESERVED & {name, *dims}
    if taken:
        raise ValueError(f"Draws: {min(taken)!r} is taken and can be neither the name nor an axis")
    if name in dims:
        raise ValueError(f"Draws: the field and one of its axes are both called {name!r}; pass another name")
    for text in (name, *dims):
        if not text or "/" in text:
            raise ValueError(f"Draws: {text!r} cannot be a name in a file; wanted one that has no '/'")
