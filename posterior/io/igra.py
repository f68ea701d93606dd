"""Soundings of the Integrated Global Radiosonde Archive, version 2, as text in columns of fixed width."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from posterior.io._files import FileError
from posterior.io.observations import make_table

if TYPE_CHECKING:
    import pandas as pd

_HEADER = re.compile(r"#[A-Z]{2}[A-Z0-9-]{9} \d{4} ")
_NO_HOUR = 99
_MISSING, _REMOVED = -9999, -8888
# First and last column (from 1), factor and offset to the unit of the table.
_LEVEL_VALUES = {
    "geopotential_height": (17, 21, 1.0, 0.0),
    "air_temperature": (23, 27, 0.1, 273.15),
    "relative_humidity": (29, 33, 0.1, 0.0),
    "dew_point_depression": (35, 39, 0.1, 0.0),
    "wind_from_direction": (41, 45, 1.0, 0.0),
    "wind_speed": (47, 51, 0.1, 0.0),
}
_LEVEL_WIDTH = 51


class _Header(NamedTuple):
    station: str
    time: datetime | None
    levels: int
    latitude: float
    longitude: float


def looks_like_igra(text: str) -> bool:
    """Whether text starts with the header of an IGRA v2 sounding."""
    return _HEADER.match(text) is not None


def read_igra(text: str, path: Path) -> pd.DataFrame:
    """The table of IGRA v2 soundings; see `read_observations`.

    A value's time is the nominal hour of its sounding. Heights are geopotential metres, winds blow from the direction given.
    """
    import pandas as pd

    dropped: Counter[str] = Counter()
    rows, reports = [], 0
    lines = text.splitlines()
    position = 0
    while position < len(lines):
        if not lines[position].strip():  # where files were joined
            position += 1
            continue
        header = _header(lines[position], position + 1, path)
        levels = lines[position + 1 : position + 1 + header.levels]
        if len(levels) < header.levels or any(line.startswith("#") for line in levels):
            raise FileError(
                f"{path}: line {position + 1}: the sounding of {header.station} has {_count(levels)} levels; "
                f"wanted {header.levels} as its header says (NUMLEV): the file is truncated or damaged"
            )
        for offset, line in enumerate(levels):
            if header.time is None:
                continue
            for level, variable, value in _level(line, position + 2 + offset, path, dropped):
                rows.append((header.time, header.latitude, header.longitude, level, variable, value, header.station))
        dropped["report without an hour"] += header.time is None
        position += 1 + header.levels
        reports += 1
    columns = ["time", "latitude", "longitude", "level", "variable", "value", "station"]
    return make_table(pd.DataFrame(rows, columns=columns), path, reports, +dropped)


def _count(levels: list[str]) -> int:
    return next((i for i, line in enumerate(levels) if line.startswith("#")), len(levels))


def _header(line: str, number: int, path: Path) -> _Header:
    if _HEADER.match(line) is None:
        raise FileError(f"{path}: line {number} is {line[:24]!r}; wanted the header of a sounding, '#' and a station")
    year, month, day, hour, levels, latitude, longitude = (
        _whole(line, first, last, name, number, path)
        for first, last, name in (
            (14, 17, "YEAR"),
            (19, 20, "MONTH"),
            (22, 23, "DAY"),
            (25, 26, "HOUR"),
            (33, 36, "NUMLEV"),
            (56, 62, "LAT"),
            (64, 71, "LON"),
        )
    )
    try:
        time = None if hour == _NO_HOUR else datetime(year, month, day, hour)
    except ValueError as error:
        raise FileError(f"{path}: line {number}: {line[13:26]!r} is no date and hour ({error})") from error
    # degrees times ten thousand; cutting the text four digits from its end would make 0.0333 degrees of 333 into 33.3
    return _Header(line[1:12], time, levels, latitude / 1e4, longitude / 1e4)


def _level(line: str, number: int, path: Path, dropped: Counter[str]) -> Iterator[tuple[float, str, float]]:
    """Pressure in hPa, variable and value of what a level holds."""
    if len(line.rstrip()) < _LEVEL_WIDTH:
        raise FileError(f"{path}: line {number} has {len(line.rstrip())} characters; wanted a level of {_LEVEL_WIDTH}")
    pressure = _whole(line, 10, 15, "PRESS", number, path)
    for variable, (first, last, factor, offset) in _LEVEL_VALUES.items():
        raw = _whole(line, first, last, variable, number, path)
        if raw == _MISSING:
            continue
        if raw == _REMOVED:
            dropped["removed by the archive's quality control"] += 1
        elif pressure < 0:
            dropped["level without a pressure"] += 1
        else:
            yield pressure / 100.0, variable, raw * factor + offset


def _whole(line: str, first: int, last: int, name: str, number: int, path: Path) -> int:
    text = line[first - 1 : last]
    try:
        return int(text)
    except ValueError as error:
        raise FileError(f"{path}: line {number}: {name}, columns {first} to {last}, is {text!r}; wanted an integer") from error
