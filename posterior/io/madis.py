"""MADIS NetCDF: METAR surface reports and radiosondes, with the quality flags that come with them."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from posterior.io._files import FileError, first_line
from posterior.io.observations import UNITS, make_table
from posterior.io.units import conversion

if TYPE_CHECKING:
    import pandas as pd
    from xarray import Dataset

_SURFACE = {
    "seaLevelPress": "air_pressure_at_mean_sea_level",
    "altimeter": "altimeter_setting",
    "temperature": "air_temperature",
    "dewpoint": "dew_point_temperature",
    "windSpeed": "wind_speed",
    "windGust": "wind_speed_of_gust",
    "windDir": "wind_from_direction",
}
# Groups of levels in a sounding: suffix, name of the count. tdMan and its like are depressions, not dew points.
_LEVELS = {"Man": "numMand", "SigT": "numSigT", "SigW": "numSigW", "Trop": "numTrop", "MaxW": "numMwnd"}
_SINCE_1970 = re.compile(r"seconds since \(?1970-0?1-0?1(?!\d)")
_UPPER = {
    "ht": "geopotential_height",
    "tp": "air_temperature",
    "td": "dew_point_depression",
    "ws": "wind_speed",
    "wd": "wind_from_direction",
}


def read_madis(content: bytes, path: Path, accept: Collection[str]) -> pd.DataFrame:
    """The table of a MADIS file, METAR or radiosonde; see `read_observations`."""
    dataset = _open(content, path)
    if "rawMETAR" in dataset or "seaLevelPress" in dataset:
        return _surface(dataset, path, accept)
    if "prMan" in dataset:
        return _soundings(dataset, path, accept)
    raise FileError(
        f"{path}: has neither 'seaLevelPress' nor 'prMan' but {', '.join(map(str, list(dataset)[:8])) or 'nothing'}; "
        "wanted MADIS surface reports (METAR) or radiosondes"
    )


def _open(content: bytes, path: Path) -> Dataset:
    import xarray as xr

    engine: Any = "scipy" if content.startswith(b"CDF") else "h5netcdf"
    try:
        # Fill values become NaN; valid_range is left alone, as some of these files give one that real stations are outside of
        return xr.open_dataset(io.BytesIO(content), engine=engine, decode_times=False).load()
    except Exception as error:  # h5py and scipy raise errors of many kinds for files that are not whole
        raise FileError(f"{path}: not a complete NetCDF file ({first_line(error)}); wanted MADIS reports") from error


def _surface(dataset: Dataset, path: Path, accept: Collection[str]) -> pd.DataFrame:
    import pandas as pd

    station = {
        "time": _times(dataset, "timeObs", path),
        "latitude": _values(dataset, "latitude", path),
        "longitude": _values(dataset, "longitude", path),
        "elevation": _values(dataset, "elevation", path, "m"),
        "station": _text(dataset, "stationName", path),
    }
    dropped: Counter[str] = Counter()
    parts = []
    for name, variable in _SURFACE.items():
        if name in dataset:
            value, flag = _values(dataset, name, path, UNITS[variable]), _flags(dataset, name)
            keep = _passed(value, flag, accept, dropped)
            part = pd.DataFrame({**station, "variable": variable, "value": value, "quality": flag})
            parts.append(part[keep])
    if not parts:
        raise FileError(f"{path}: has none of the variables {', '.join(_SURFACE)}; wanted MADIS surface reports")
    return make_table(pd.concat(parts, ignore_index=True), path, len(station["station"]), dropped)


def _soundings(dataset: Dataset, path: Path, accept: Collection[str]) -> pd.DataFrame:
    import pandas as pd

    name = _text(dataset, "staName", path)
    number = dataset["wmoStaNum"].values if "wmoStaNum" in dataset else np.full(len(name), np.nan)
    numbers = np.array([f"{int(n):05d}" if np.isfinite(n) else "" for n in number])
    station = {
        "time": _times(dataset, "synTime", path),
        "latitude": _values(dataset, "staLat", path),
        "longitude": _values(dataset, "staLon", path),
        "elevation": _values(dataset, "staElev", path, "m"),
        "station": np.where(name == "", numbers, name),
    }
    dropped: Counter[str] = Counter()
    parts = [part for group in _LEVELS for part in _group(dataset, group, station, path, accept, dropped)]
    if not parts:
        raise FileError(f"{path}: has levels but none of the variables {', '.join(_UPPER)} on them; wanted MADIS radiosondes")
    return make_table(pd.concat(parts, ignore_index=True), path, len(name), dropped)


def _group(
    dataset: Dataset, group: str, station: dict[str, np.ndarray], path: Path, accept: Collection[str], dropped: Counter[str]
) -> Iterator[pd.DataFrame]:
    """Rows of one group of levels, a table per variable."""
    import pandas as pd

    on_pressure = f"pr{group}" in dataset
    wanted = _UPPER if on_pressure else {short: name for short, name in _UPPER.items() if short != "ht"}
    names = {f"{short}{group}": variable for short, variable in wanted.items() if f"{short}{group}" in dataset}
    if not names:
        return
    count = _values(dataset, _LEVELS[group], path)
    level = _values(dataset, f"pr{group}", path, "hPa") if on_pressure else None
    for name, variable in names.items():
        value, flag = _values(dataset, name, path, UNITS[variable]), _flags(dataset, name)
        keep = _passed(value, flag, accept, dropped)
        known = (np.isfinite(count) & (count <= value.shape[1]))[:, None]
        keep = _drop(keep, ~known, "number of levels missing", dropped)
        keep = _drop(keep, np.arange(value.shape[1]) >= count[:, None], "beyond the number of levels", dropped)
        without = np.isnan(level) if level is not None else np.ones_like(keep)
        keep = _drop(keep, without, "level without a pressure", dropped)
        if level is None:
            continue
        row, column = np.nonzero(keep)
        columns = {key: values[row] for key, values in station.items()}
        rest = {"level": level[row, column], "value": value[row, column], "quality": flag[row, column]}
        yield pd.DataFrame({**columns, **rest, "variable": variable})


def _drop(keep: np.ndarray, rows: np.ndarray, reason: str, dropped: Counter[str]) -> np.ndarray:
    dropped[reason] += int((keep & rows).sum())
    return keep & ~rows


def _passed(value: np.ndarray, flag: np.ndarray, accept: Collection[str], dropped: Counter[str]) -> np.ndarray:
    """Where there is a value whose flag is accepted."""
    keep = np.isfinite(value)
    for refused in set(np.unique(flag[keep]).tolist()) - set(accept):
        keep = _drop(keep, flag == refused, f"quality flag {refused}", dropped)
    return keep


def _flags(dataset: Dataset, name: str) -> np.ndarray:
    """One letter for every value; empty where the file has no flags."""
    if f"{name}DD" not in dataset:
        return np.full(dataset[name].shape, "", dtype="<U1")
    return dataset[f"{name}DD"].values.astype("<U1")


def _values(dataset: Dataset, name: str, path: Path, unit: str | None = None) -> np.ndarray:
    array = _variable(dataset, name, path)
    values = array.values.astype(np.float64)
    if unit is None:
        return values
    stated = array.attrs.get("units")
    if not stated:
        raise FileError(f"{path}: variable {name!r} has no attribute 'units'; wanted one that converts to {unit!r}")
    factor, offset = conversion(stated, unit, f"{path}: variable {name!r}")
    return values * factor + offset


def _times(dataset: Dataset, name: str, path: Path) -> np.ndarray:
    array = _variable(dataset, name, path)
    unit = str(array.attrs.get("units", ""))
    if _SINCE_1970.match(unit) is None:
        raise FileError(f"{path}: variable {name!r} has the unit {unit!r}; wanted seconds since 1970-1-1")
    seconds = array.values.astype(np.float64)
    missing = ~np.isfinite(seconds) | (np.abs(seconds) > 1e11)
    times = np.where(missing, 0, np.round(seconds * 1e3)).astype("datetime64[ms]").astype("datetime64[ns]")
    times[missing] = np.datetime64("NaT")
    return times


def _text(dataset: Dataset, name: str, path: Path) -> np.ndarray:
    values = _variable(dataset, name, path).values
    return np.array([v.decode("latin-1", "replace").strip() if isinstance(v, bytes) else str(v).strip() for v in values])


def _variable(dataset: Dataset, name: str, path: Path) -> Any:
    if name not in dataset:
        raise FileError(f"{path}: has no variable {name!r} but {', '.join(map(str, list(dataset)[:8]))}; wanted MADIS reports")
    return dataset[name]
