"""Which coordinate of a field is its time, its level, its latitude and its longitude."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from posterior.io._files import FileError

if TYPE_CHECKING:
    from xarray import DataArray

ROLES = ("time", "level", "latitude", "longitude")

_NAMES = {
    "time": ("time", "valid_time", "date", "t"),
    "level": ("level", "pressure_level", "isobaricInhPa", "plev", "lev", "height", "depth", "z"),
    "latitude": ("latitude", "lat", "nav_lat", "yt_ocean"),
    "longitude": ("longitude", "lon", "nav_lon", "xt_ocean"),
}
_STANDARD_NAMES = {
    "time": ("time",),
    "level": (
        "air_pressure",
        "height",
        "altitude",
        "depth",
        "model_level_number",
        "atmosphere_hybrid_sigma_pressure_coordinate",
    ),
    "latitude": ("latitude",),
    "longitude": ("longitude",),
}
_STARTS = "forecast_reference_time"  # when forecasts began, not the time that values are of
_BOUNDS = {"latitude": (-90.0, 90.0, "within 90"), "longitude": (-360.0, 720.0, "from -360 to 720")}
_CLOSE = 1e-4  # degrees: about what coordinates in single precision are off by
_UNITS = {
    "latitude": ("degrees_north", "degree_north", "degrees_N", "degree_N"),
    "longitude": ("degrees_east", "degree_east", "degrees_E", "degree_E"),
}


def find_axes(field: DataArray) -> dict[str, str]:
    """The coordinates of a field by role, told by CF attributes first and by name second.

    CF asks for ``standard_name`` or, for latitude and longitude, for the unit. Where a file has neither, the names
    in common use decide: lat and latitude, lon and longitude, time and valid_time, level, pressure_level, plev and
    isobaricInhPa. Dimensions come before other coordinates, but the times that forecasts are for before those at
    which they began, unless these go with lead times to make a table. A role that no coordinate plays is left out.

    Args:
        field: A field with coordinates.

    Returns:
        The name of the coordinate for each of ``"time"``, ``"level"``, ``"latitude"``, ``"longitude"`` that is there.
    """
    dimensions = [str(name) for name in field.dims if name in field.coords]
    others = [str(name) for name in field.coords if name not in field.dims]
    starts = [name for name in (*dimensions, *others) if field[name].attrs.get("standard_name") == _STARTS]
    lines = [name for name in others if name not in starts and field[name].ndim < 2]
    times = [[name for name in dimensions if name not in starts], lines, starts, others]
    found: dict[str, str] = {}
    for role in ROLES:
        for names in times if role == "time" else (dimensions, others):
            match = _match(field, role, names)
            if match is not None and match not in found.values():
                found[role] = match
                break
    return found


def _match(field: DataArray, role: str, names: list[str]) -> str | None:
    for name in names:
        attributes = field[name].attrs
        if attributes.get("standard_name") in _STANDARD_NAMES[role] or attributes.get("units") in _UNITS.get(role, ()):
            return name
    return next((name for name in _NAMES[role] if name in names), None)


def check_axes(field: DataArray, source: str) -> DataArray:
    """The field, longitudes in one piece: a region across Greenwich that a file in 0..360 cuts in two begins at its west.

    Raises:
        FileError: Unless latitude and longitude are numbers on the globe and neither repeats or jumps.
    """
    for role, name in find_axes(field).items():
        coordinate = field[name]
        if role not in ("latitude", "longitude") or coordinate.dtype.kind not in "fiu":
            continue
        values = np.asarray(coordinate.values, dtype=np.float64)
        missing = int(np.isnan(values).sum())
        if missing:
            raise FileError(f"{source}: coordinate {name!r} has {missing} of {values.size} values missing; wanted all of them")
        low, high, wanted = _BOUNDS[role]
        outside = values[(values < low - 1e-6) | (values > high + 1e-6)]
        if outside.size:
            worst = outside[np.abs(outside).argmax()]
            raise FileError(f"{source}: coordinate {name!r} goes to {worst:g}; wanted {role} {wanted} degrees")
        steps = np.diff(values)
        if role == "latitude" and values.ndim == 1 and steps.size and not ((steps > 0).all() or (steps < 0).all()):
            raise FileError(f"{source}: coordinate {name!r} goes up and down; wanted latitudes in order, either way up")
        if role == "longitude" and coordinate.dims == (name,):
            first = _first_longitude(values, f"{source}: coordinate {name!r}")
            field = field.isel({name: np.roll(np.arange(values.size), -first)}) if first else field
    return field


def _first_longitude(values: np.ndarray, what: str) -> int:
    """Where longitudes begin that go round the globe one way, in any convention, by steps that change only gradually."""
    steps = np.diff(values)
    if not steps.size:
        return 0
    steps = np.sign(np.median(steps)) * steps % 360
    places, counts = np.unique(np.round(values % 360, 6) % 360, return_counts=True)
    if (counts > 1).any():
        twice, most = places[counts.argmax()], counts.max()
        raise FileError(f"{what} has {twice:g} degrees {most} times (360 degrees are 0); wanted each longitude once")
    if steps.sum() > 360:
        raise FileError(f"{what} goes up and down; wanted longitudes in order, with one step across 0 or 180 degrees at most")
    if steps.size < 3:
        return 0
    circle = np.append(steps, 360 - steps.sum())
    gaps = np.flatnonzero(circle > 1.5 * np.maximum(np.roll(circle, 1), np.roll(circle, -1)) + _CLOSE)
    inside = gaps[gaps < steps.size]
    if len(gaps) > 1:
        first, last = values[inside[0]], values[inside[0] + 1]
        raise FileError(f"{what} has a gap from {first:g} to {last:g}; wanted longitudes without gaps, as 350, 355, 0, 5")
    return int(inside[0]) + 1 if inside.size else 0


def on_grid(field: DataArray, latitude: np.ndarray, longitude: np.ndarray, source: str, whose: str) -> DataArray:
    """The field at the points of a grid, all of which it has: its rows and columns in the order of the grid.

    Nothing is interpolated. Latitudes may run either way, longitudes start anywhere in either convention, and the field may
    reach beyond the grid.

    Args:
        field: Has the axes latitude and longitude.
        latitude: (H,) degrees north.
        longitude: (W,) degrees east.
        source: What errors call the field.
        whose: What they call the owner of the grid.

    Raises:
        FileError: If it lacks a row or a column of the grid.
    """
    chosen = {}
    for name, wanted in (("latitude", latitude), ("longitude", longitude)):
        away = np.abs(np.asarray(field[name].values, dtype=np.float64)[None] - np.asarray(wanted, dtype=np.float64)[:, None])
        away = np.abs((away + 180) % 360 - 180) if name == "longitude" else away
        if (lacks := away.min(1) > _CLOSE).any():
            missing = np.asarray(wanted)[lacks]
            raise FileError(
                f"{source}: its {name}s are not those of {whose}: it lacks {len(missing)}, as {missing[0]:g} degrees"
            )
        chosen[name] = away.argmin(1)
    return field.isel(chosen)


def rename_axes(field: DataArray) -> DataArray:
    """The field with its axes called time, level, latitude and longitude; each keeps its old name as ``original_name``.

    Forecasts that lie along the times at which they began lie along the times that they are for.

    A coordinate that has such a name but plays no such role, as the time of the analysis that a forecast started from
    beside ``valid_time``, is called ``original_time`` and so on.
    """
    names = {name: role for role, name in find_axes(field).items() if name != role}
    field = field.rename({role: f"original_{role}" for role in names.values() if role in field.coords})
    field = field.rename(names)
    along = field["time"].dims if "time" in field.coords else ()
    if len(along) == 1 and along != ("time",) and field[along[0]].attrs.get("standard_name") == _STARTS:
        field = field.swap_dims({along[0]: "time"})
    recorded = {role: field[role].assign_attrs(original_name=name) for name, role in names.items()}
    return field.assign_coords(recorded)
