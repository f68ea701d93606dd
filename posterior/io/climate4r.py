"""Gridded fields in R data files as climate4R writes them, read with rdata; nothing in the file is run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from posterior.io._files import FileError, first_line, needs, read_bytes

if TYPE_CHECKING:
    from xarray import Dataset

_PARTS = ("Variable", "Data", "xyCoords", "Dates")


def read_climate4r(path: Path) -> Dataset:
    """The grids of an ``.rda`` file, by variable name.

    A climate4R grid is a list of ``Variable`` (name, level, unit), ``Data`` (an array whose dimensions have names),
    ``xyCoords`` (x and y) and ``Dates`` (start and end of every interval). The time of a value is the start of its
    interval; its end stands in the coordinate ``time_end``.

    Args:
        path: The file, compressed or not.

    Raises:
        FileError: If the file is truncated, or holds no such grid.
        ImportError: If rdata is not installed.

    References:
        Iturbide et al., The R-based climate4R open framework for reproducible climate data access and
        post-processing, Environ. Model. Softw. 111 (2019) 42-54.
    """
    import xarray as xr

    objects = _parse(path)
    grids = {name: value for name, value in objects.items() if set(_PARTS) <= set(_children(value))}
    if not grids:
        raise FileError(
            f"{path}: holds {', '.join(objects) or 'nothing'}; wanted a climate4R grid, a list of {', '.join(_PARTS)}"
        )
    fields = [_grid(_children(value), f"{path}: {name}") for name, value in grids.items()]
    return xr.merge(fields, join="exact", compat="equals")


def _grid(parts: dict[str, Any], source: str) -> Dataset:
    import rdata
    import xarray as xr

    name = str(_plain(_children(parts["Variable"])["varName"]))
    values = np.asarray(rdata.conversion.convert(parts["Data"]))
    dims = _plain(_attributes(parts["Data"]).get("dimensions"))
    dims = None if dims is None else np.atleast_1d(dims)
    if dims is None or len(dims) != values.ndim:
        raise FileError(
            f"{source}: the array of {name!r} has shape {values.shape} and dimensions {dims}; wanted a name for each"
        )
    projection = _plain(_attributes(parts["xyCoords"]).get("projection"))
    if projection not in (None, "LatLonProjection"):
        raise FileError(f"{source}: {name!r} is in projection {projection!r}; wanted latitudes and longitudes")
    x, y = (_plain(_children(parts["xyCoords"])[axis]) for axis in "xy")
    if not {"start", "end"} <= set(_children(parts["Dates"])):
        raise FileError(f"{source}: 'Dates' has no start and end, as in a multigrid; wanted a grid of one variable")
    dates = {end: _times(_children(parts["Dates"])[end], source) for end in ("start", "end")}
    return xr.Dataset(
        {name: ([str(dim) for dim in dims], values, _text(_attributes(parts["Variable"])))},
        coords={
            "time": ("time", dates["start"], {"standard_name": "time"}),
            "time_end": ("time", dates["end"], {"long_name": "end of the interval that starts at time"}),
            "lat": ("lat", np.atleast_1d(y), {"standard_name": "latitude", "units": "degrees_north"}),
            "lon": ("lon", np.atleast_1d(x), {"standard_name": "longitude", "units": "degrees_east"}),
        },
    )


def _times(node: Any, source: str) -> np.ndarray:
    import pandas as pd

    text = [str(t).removesuffix(" GMT").removesuffix(" UTC") for t in np.atleast_1d(_plain(node))]
    try:
        return pd.to_datetime(text, format="ISO8601").to_numpy("datetime64[ns]")
    except ValueError as error:
        raise FileError(f"{source}: 'Dates' has {text[0]!r}; wanted dates as 2001-01-01 GMT ({first_line(error)})") from error


def _parse(path: Path) -> dict[str, Any]:
    parser = needs("rdata.parser", "weather", "reading .rda")
    data = read_bytes(path, "an R data file")
    if not data.startswith((b"RDX", b"RDA")):
        raise FileError(f"{path}: starts with {data[:5]!r}; wanted an R data file (.rda) as save() writes it")
    try:
        return dict(_pairs(parser.parse_data(data).object))
    except Exception as error:  # a damaged file fails anywhere in the parser
        raise FileError(f"{path}: not a complete R data file ({first_line(error)})") from error


def _pairs(node: Any) -> Iterator[tuple[str, Any]]:
    """Tags and values of an R pairlist: the variables of a file, the attributes of an object."""
    while node is not None and node.info.type.name == "LIST":
        tag = node.tag.referenced_object or node.tag
        yield tag.value.value.decode(), node.value[0]
        node = node.value[1]


def _attributes(node: Any) -> dict[str, Any]:
    return dict(_pairs(node.attributes))


def _children(node: Any) -> dict[str, Any]:
    """Members of an R list by name; of anything else, none."""
    if node.info.type.name != "VEC":
        return {}
    names = _attributes(node).get("names")
    return {} if names is None else dict(zip(np.atleast_1d(_plain(names)), node.value, strict=True))


def _plain(node: Any) -> Any:
    """An R vector as an array, or as one number or string where it has length 1; NULL as None."""
    import rdata

    if node is None:
        return None
    value = rdata.conversion.convert(node)
    array = np.asarray(value) if value is not None else None
    return array.item() if array is not None and array.size == 1 else array


def _text(attributes: dict[str, Any]) -> dict[str, str | float]:
    plain = {name: _plain(value) for name, value in attributes.items() if name != "names"}
    return {name: value for name, value in plain.items() if isinstance(value, str | float | int)}
