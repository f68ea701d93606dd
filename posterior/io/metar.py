"""METAR and SPECI reports as text, decoded by python-metar."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posterior.io._files import FileError, needs
from posterior.io.observations import make_table

if TYPE_CHECKING:
    import pandas as pd

_REPORT = re.compile(r"^(?:(?:METAR|SPECI)\s+)?(?:COR\s+)?[A-Z][A-Z0-9]{3}\s+(\d{2})\d{4}Z\b")
_DATE_LINE = re.compile(r"^(\d{4}/\d{2}/\d{2}) (\d{2}:\d{2})$")
_POSITION = re.compile(r"^(\d+)-(\d+)(?:-(\d+))?([NSEW])$")
# Attribute of a decoded report, the unit to ask python-metar for, factor to the unit of the table.
_VALUES = {
    "air_pressure_at_mean_sea_level": ("press_sea_level", "HPA", 100.0),
    "altimeter_setting": ("press", "HPA", 100.0),
    "air_temperature": ("temp", "K", 1.0),
    "dew_point_temperature": ("dewpt", "K", 1.0),
    "wind_speed": ("wind_speed", "MPS", 1.0),
    "wind_speed_of_gust": ("wind_gust", "MPS", 1.0),
}


def looks_like_metar(text: str) -> bool:
    """Whether the first lines of a text hold a METAR report."""
    return any(_REPORT.match(line) for line in text.splitlines()[:20])


def read_metar(
    text: str, path: Path, date: datetime | str | None, stations: Mapping[str, tuple[float, ...]] | None
) -> pd.DataFrame:
    """The table of METAR reports; see `read_observations`. Winds of variable direction have a speed and no direction."""
    import pandas as pd

    places = _known_stations() if stations is None else stations
    try:
        day = datetime.fromisoformat(date) if isinstance(date, str) else date
    except ValueError as error:
        raise FileError(f"{path}: date is {date!r}; wanted one as 2005-08-26 or 2005-08-26T00") from error
    if day is not None and day.tzinfo is not None:
        day = day.astimezone(UTC).replace(tzinfo=None)
    dropped: Counter[str] = Counter()
    rows, count = [], 0
    for report, near in _reports(text, day):
        count += 1
        decoded = _decode(report, near, path)
        if decoded is None:
            dropped["report not understood"] += 1
        elif decoded.station_id not in places:
            dropped["report of a station without a position"] += 1
        else:
            place = tuple(places[decoded.station_id])
            latitude, longitude, elevation = (*place, float("nan"))[:3]
            for variable, value in _values(decoded):
                rows.append((decoded.time, latitude, longitude, variable, value, decoded.station_id, elevation))
    if not count:
        raise FileError(f"{path}: holds no METAR report")
    columns = ["time", "latitude", "longitude", "variable", "value", "station", "elevation"]
    return make_table(pd.DataFrame(rows, columns=columns), path, count, +dropped)


def _reports(text: str, day: datetime | None) -> Iterator[tuple[str, datetime | None]]:
    """Each report on one line, with the last date above it; a line that starts with a blank goes on with the one before."""
    report = ""
    for line in [*text.splitlines(), ""]:
        if line[:1].isspace() and line.strip() and report:
            report += " " + line.strip()
            continue
        if report:
            yield report, day
        report = ""
        dated = _DATE_LINE.match(line.strip())
        if dated:
            day = datetime.strptime(" ".join(dated.groups()), "%Y/%m/%d %H:%M")
        else:
            report = line.strip().rstrip("=").strip()


def _decode(report: str, day: datetime | None, path: Path) -> Any:
    """The decoded report, or None where python-metar cannot make sense of all of it."""
    library = needs("metar.Metar", "weather", "reading METAR reports")
    found = _REPORT.match(report)
    if found is None:
        return None
    if day is None:
        raise FileError(
            f"{path}: METAR reports carry no month and no year; give a day near with date='2005-08-26' or --time 2005-08-26"
        )
    month = _month(int(found.group(1)), day)
    if month is None:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return library.Metar(report, month=month.month, year=month.year, strict=True)
    except (library.ParserError, ValueError, KeyError, TypeError):
        return None


def _month(day_of_month: int, near: datetime) -> datetime | None:
    """The date with that day of the month that is nearest to ``near``."""
    dates = [near + timedelta(days=shift) for shift in range(-15, 17)]
    matching = [date for date in dates if date.day == day_of_month]
    return min(matching, key=lambda date: abs(date - near), default=None)


def _values(decoded: Any) -> Iterator[tuple[str, float]]:
    for variable, (attribute, unit, factor) in _VALUES.items():
        quantity = getattr(decoded, attribute)
        if quantity is not None:
            yield variable, factor * float(quantity.value(unit))
    if decoded.wind_dir is not None:
        yield "wind_from_direction", float(decoded.wind_dir.value())


def _known_stations() -> dict[str, tuple[float, ...]]:
    """Positions in python-metar's list of stations, degrees and minutes there."""
    listed = needs("metar.Station", "weather", "reading METAR reports").stations
    places = {}
    for name, station in listed.items():
        latitude, longitude = (_degrees(getattr(station.position, axis)) for axis in ("latitude", "longitude"))
        if latitude is not None and longitude is not None:
            places[name] = (latitude, longitude)
    return places


def _degrees(text: Any) -> float | None:
    found = _POSITION.match(str(text).strip())
    if found is None:
        return None
    degrees, minutes, seconds, side = found.groups()
    size = int(degrees) + int(minutes) / 60 + int(seconds or 0) / 3600
    return -size if side in "SW" else size
