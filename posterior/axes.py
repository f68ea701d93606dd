"""Names of axes, and the coordinates along them."""

from __future__ import annotations

import json
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from posterior.stats import STATISTICS

if TYPE_CHECKING:
    from xarray import DataArray, DataTree

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
_KEPT = (str | None, int | np.integer | None, float | int | np.number | None)  # objects that files take
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
    if isinstance(value, Tensor):
        value = value.detach().cpu().to(torch.float32 if value.dtype == torch.bfloat16 else value.dtype)
    array = np.asarray(value)
    if array.size and all(isinstance(v, date) and not isinstance(v, datetime) for v in array.flat):
        array = array.astype("datetime64[D]")
    if array.shape != (sizes[dim],):
        raise ValueError(f"Draws: coordinate {dim!r} has shape {array.shape}; wanted ({sizes[dim]},)")
    attrs = dict(getattr(value, "attrs", {}))
    if array.dtype.kind in "iufM" and not {"standard_name", "units"} & set(attrs):  # what is said is not second-guessed
        attrs = CF_AXES.get(dim, {}) | attrs
    return DataArray(array.copy(), dims=(dim,), name=dim, attrs=attrs)


def storable(coordinate: DataArray) -> DataArray:
    """A coordinate as every file takes it.

    Attributes that say whether something holds become 0 or 1, None is left out, and what else is neither number nor text is
    told in words; so are values that are objects other than text and times.
    """
    objects = coordinate.values if coordinate.dtype.kind == "O" else ()
    times = all(hasattr(v, "calendar") for v in objects) if len(objects) else coordinate.dtype.kind in "mM"
    plain = coordinate.copy(deep=False)
    # Times bring units of their own.
    attrs = {k: _plain(v) for k, v in coordinate.attrs.items() if not (times and k in ("units", "calendar"))}
    plain.attrs = {key: value for key, value in attrs.items() if value is not None}
    if len(objects) and not times and not any(all(isinstance(v, kind) for v in objects) for kind in _KEPT):
        return plain.copy(data=np.array([str(v) for v in objects], object))
    return plain


def _plain(value: Any) -> Any:
    several = isinstance(value, list | tuple | np.ndarray)
    items = list(np.ravel(value)) if isinstance(value, np.ndarray) else list(value) if several else [value]
    if items and all(isinstance(v, bool | np.bool_) for v in items):
        return [int(v) for v in items] if several else int(value)
    if value is None or all(isinstance(v, str | int | float | np.integer | np.floating) for v in items):
        return value
    return str(value)


def times_in(tree: DataTree) -> dict[str, bool]:
    """Which variables of a file hold times: coordinates that did. Numbers in days since a date stay numbers.

    Args:
        tree: As xarray reads it without decoding times.
    """
    dtypes = json.loads(tree.attrs.get("coordinate_dtypes", "{}"))
    found = {str(name) for node in tree.subtree for name in node.variables}
    return {name: dtypes.get(name, "").startswith(("datetime64", "object")) for name in found}


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
