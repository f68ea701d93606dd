"""Observation tables: one row per value, whatever the file it came from, and an account of what was left out."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from posterior.io._files import UNPACKED_LIMIT, FileError, read_bytes
from posterior.io.units import UnitError, conversion

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("time", "latitude", "longitude", "level", "variable", "value", "error", "station", "elevation", "quality")
DERIVED = "derived"  # a column that tables have where some values were computed

# Units of what our readers of archives give, by CF standard name (the altimeter setting has none).
UNITS = {
    "air_pressure_at_mean_sea_level": "Pa",
    "altimeter_setting": "Pa",
    "air_temperature": "K",
    "dew_point_temperature": "K",
    "dew_point_depression": "K",
    "relative_humidity": "%",
    "geopotential_height": "m",
    "wind_speed": "m s-1",
    "wind_speed_of_gust": "m s-1",
    "wind_from_direction": "degree",
    "eastward_wind": "m s-1",
    "northward_wind": "m s-1",
}
_COORDINATE_UNITS = {"latitude": "degrees_north", "longitude": "degrees_east", "level": "hPa", "elevation": "m", "time": "UTC"}

# Wider than any weather on record: what lies outside is a slip of the instrument or of the transmission.
_GROSS = {
    "air_pressure_at_mean_sea_level": (85000.0, 110000.0),
    "altimeter_setting": (85000.0, 110000.0),
    "air_temperature": (150.0, 335.0),
    "dew_point_temperature": (120.0, 310.0),
    "dew_point_depression": (0.0, 80.0),
    "relative_humidity": (0.0, 110.0),
    "geopotential_height": (-500.0, 60000.0),
    "wind_speed": (0.0, 150.0),
    "wind_speed_of_gust": (0.0, 150.0),
    "wind_from_direction": (0.0, 360.0),
    "eastward_wind": (-150.0, 150.0),
    "northward_wind": (-150.0, 150.0),
}
_HIGHEST_PRESSURE = 1100.0

PASSED = ("V", "S", "C", "G", "Z", "")


@dataclass(frozen=True)
class ObservationSummary:
    """What a file held and what became of it.

    Attributes:
        source: The file.
        reports: Reports or soundings in the file.
        kept: Values in the table.
        dropped: How many were left out, by reason. Reasons that start with "report" count reports, the others values.
    """

    source: str
    reports: int
    kept: int
    dropped: Mapping[str, int]

    def __str__(self) -> str:
        lines = [f"{self.source}: {self.reports} reports, {self.kept} values kept"]
        return "\n".join(lines + [f"  {count} dropped: {reason}" for reason, count in self.dropped.items()])


def summarise(table: pd.DataFrame) -> ObservationSummary:
    """The account that a reader left with its table.

    Raises:
        ValueError: If the table does not come from `read_observations`.
    """
    account = table.attrs.get("summary")
    if not isinstance(account, Mapping):
        raise ValueError("table has no attrs['summary']; wanted a table from read_observations")
    return ObservationSummary(**{**account, "kept": len(table)})


def read_observations(
    path: str | Path,
    *,
    variables: Collection[str] | None = None,
    units: Mapping[str, str] | None = None,
    accept: Collection[str] = PASSED,
    date: datetime | str | None = None,
    stations: Mapping[str, tuple[float, ...]] | None = None,
    limit: int = UNPACKED_LIMIT,
) -> pd.DataFrame:
    """Observations from a file, one row per value. The format is told from the content; gzip and zip are unpacked.

    - CSV, with commas, semicolons or tabs, or Parquet with the columns time, latitude, longitude, variable, value and, where
      there are such, level, error, station, elevation, quality, derived and units;
    - MADIS NetCDF: surface reports (METAR) and radiosondes;
    - IGRA version 2 soundings;
    - METAR and SPECI reports as text, one per line or as NOAA's cycle files have them.

    Rows are left out, and counted by reason in `summarise`, where time or position is missing or off the globe, where the
    provider's quality control refused the value, where a sounding gives no pressure for its level, where a value lies
    outside anything on record, and where the same value was reported twice. Where a station reports a value anew for the
    same time and level, the later report counts.

    Args:
        path: The file.
        variables: Only these variables, by their name in the table; None for all.
        units: For CSV and Parquet files without a column units: the unit of every variable, and of ``"level"``.

    Other arguments:
        accept: MADIS flags to keep. V, S and C passed three, two and one level of checks, G was found good by hand, Z was
            not checked; not kept are Q (questioned), X (rejected), B (bad by hand), I, W and T (interpolated or altered).
        date: METAR text: a day near the reports (UTC), since they carry no month and no year.
        stations: METAR text: (latitude, longitude) or (latitude, longitude, elevation in m) by identifier; None for the
            list that python-metar comes with.
        limit: Most bytes that an archive may unpack to.

    Returns:
        A table with the columns time (UTC, datetime64[ns]), latitude (degrees north), longitude (degrees east, as
        reported), level (hPa, NaN at the surface), variable (CF standard name from archives, as given from tables),
        value, error (standard deviation, NaN where the file has none), station, elevation (m) and quality (the
        provider's flag); and, where a table has it, derived (what a value was computed from, empty where it was reported).
        ``attrs["units"]`` holds the unit of every variable and coordinate.

    Raises:
        FileError: If the file is missing, truncated, of another kind, lacks a column or variable, or states no unit.
        UnitError: If the level's unit does not convert to hPa.
        ImportError: If a package that the format takes is not installed; says which extra has it.

    References:
        MADIS quality control: https://madis.ncep.noaa.gov (QC information). Durre, Vose and Wuertz, Overview of the
        Integrated Global Radiosonde Archive, J. Climate 19 (2006) 53-68. WMO-No. 306, Manual on Codes, FM 15 METAR.
    """
    path = Path(path)
    content = read_bytes(path, "observations", limit)
    table = _read(content, path, units, accept, date, stations)
    return table if variables is None else _select(table, variables, path)


def _read(
    content: bytes,
    path: Path,
    units: Mapping[str, str] | None,
    accept: Collection[str],
    date: datetime | str | None,
    stations: Mapping[str, tuple[float, ...]] | None,
) -> pd.DataFrame:
    from posterior.io import igra, madis, metar, tables

    if content.startswith((b"CDF", b"\x89HDF")):
        return madis.read_madis(content, path, accept)
    if content.startswith(b"PAR1"):
        return tables.read_parquet(content, path, units)
    text = _decode(content, path)
    if igra.looks_like_igra(text):
        return igra.read_igra(text, path)
    if tables.looks_like_csv(text):
        return tables.read_csv(text, path, units)
    if metar.looks_like_metar(text):
        return metar.read_metar(text, path, date, stations)
    raise FileError(
        f"{path}: starts with {text[:40].splitlines()[:1]}; wanted observations: a CSV table with the columns time, latitude, "
        "longitude, variable and value, Parquet, MADIS NetCDF, IGRA v2 soundings or METAR reports"
    )


def _decode(content: bytes, path: Path) -> str:
    try:
        return content.decode("utf-8-sig").lstrip("\r\n")
    except UnicodeDecodeError as error:
        raise FileError(f"{path}: starts with {content[:8]!r}; wanted observations as text, Parquet or NetCDF") from error


def _select(table: Any, variables: Collection[str], path: Path) -> pd.DataFrame:
    there = list(table["variable"].unique())
    for name in variables:
        if name not in there:
            raise FileError(f"{path}: has no variable {name!r} but {', '.join(map(str, there)) or 'none'}")
    kept = table[table["variable"].isin(list(variables))].reset_index(drop=True)
    kept["variable"] = kept["variable"].cat.remove_unused_categories()
    return kept


def make_table(
    rows: pd.DataFrame, source: Path, reports: int, dropped: Counter[str], units: Mapping[str, str] = UNITS
) -> pd.DataFrame:
    """A finished table out of the rows of a reader: checked, typed, its account attached.

    Args:
        rows: Columns of `COLUMNS`; level, error, station, elevation and quality may be left out; and `DERIVED` where there is
            one. In order of arrival.
        source: The file.
        reports: Reports in the file.
        dropped: What the reader left out itself.
        units: Unit of every variable.
    """
    import pandas as pd

    texts = ["station", "quality", *([DERIVED] if DERIVED in rows else [])]
    table: Any = rows.reindex(columns=list(dict.fromkeys([*COLUMNS, *texts])))
    for name in ("latitude", "longitude", "level", "value", "error", "elevation"):
        table[name] = table[name].astype(np.float64)
    for name in texts:
        table[name] = table[name].astype(object).where(table[name].notna(), "").astype(str)
    table["time"] = pd.to_datetime(table["time"], utc=True).dt.tz_localize(None).astype("datetime64[ns]")
    reasons = _reasons(table, units)
    dropped = dropped + Counter(reasons[reasons != ""].tolist())
    table = table[(reasons == "").to_numpy()].reset_index(drop=True)
    table["variable"] = pd.Categorical(table["variable"].astype(str))
    found = table["variable"].cat.categories
    table.attrs["units"] = _COORDINATE_UNITS | {name: units[name] for name in found}
    account = ObservationSummary(str(source), reports, len(table), dict(sorted(dropped.items())))
    table.attrs["summary"] = asdict(account)
    return table


def _reasons(table: Any, units: Mapping[str, str]) -> Any:
    """Why each row is left out; empty where it is kept. The first reason counts."""
    import pandas as pd

    reasons: Any = pd.Series("", index=table.index, dtype=object)

    def drop(rows: Any, reason: str) -> None:
        reasons[rows & (reasons == "")] = reason

    drop(~np.isfinite(table["value"]), "value missing")
    drop(table["time"].isna(), "time missing")
    on_globe = table["latitude"].between(-90, 90) & table["longitude"].between(-180, 360)
    drop(~on_globe, "position missing or off the globe")
    level = table["level"]
    drop(level.notna() & ~((level > 0) & (level <= _HIGHEST_PRESSURE)), "gross error: level")
    for name, (low, high) in _GROSS.items():
        with contextlib.suppress(KeyError, UnitError, ImportError):
            factor, offset = conversion(units[name], UNITS[name])
            inside = (table["value"] * factor + offset).between(low, high)
            drop((table["variable"] == name) & ~inside, f"gross error: {name}")
    left = table[reasons == ""]
    key = ["station", "latitude", "longitude", "time", "level", "variable"]
    drop(left.duplicated([*key, "value"]).reindex(table.index, fill_value=False), "duplicate")
    # of A, B and A again the last is the duplicate, and the first is what it says
    latest = left.groupby(key, dropna=False, observed=True, sort=False)["value"].transform("last")
    drop((left["value"] != latest).reindex(table.index, fill_value=False), "replaced by a later report")
    return reasons


def wind_components(table: Any) -> pd.DataFrame:
    """The table with every pair of wind speed and direction turned into eastward and northward wind.

    u = -s sin(d), v = -s cos(d), where d is the direction the wind blows from, clockwise from north. In calm air both are
    zero, whatever the direction; a speed without a direction and a direction without a speed are left out and counted. The
    components are in m s-1, or in the unit that the table has such a component in.

    Args:
        table: A pandas.DataFrame from `read_observations`.

    Raises:
        ValueError: If ``table`` does not come from `read_observations`.
        UnitError: If the unit of the speed or of the direction does not convert.
    """
    import pandas as pd

    account = summarise(table)
    names = table["variable"].astype(str)
    key = ["station", "latitude", "longitude", "time", "level"]
    speed = table[names == "wind_speed"]
    direction = table[names == "wind_from_direction"]
    pairs: Any = speed.merge(direction[[*key, "value"]], on=key, how="left", suffixes=("", "_from"))
    met = int(pairs["value_from"].notna().sum())
    pairs.loc[(pairs["value"] == 0) & pairs["value_from"].isna(), "value_from"] = 0.0
    paired = pairs[pairs["value_from"].notna()]
    units = {**UNITS, **table.attrs["units"]}
    turn, _ = conversion(units["wind_from_direction"], "degree", "variable 'wind_from_direction'")
    angle = np.deg2rad(paired["value_from"] * turn)
    winds = []
    for name, share in (("eastward_wind", -np.sin(angle)), ("northward_wind", -np.cos(angle))):
        factor, _ = conversion(units["wind_speed"], units[name], "variable 'wind_speed'")
        winds.append(paired.assign(variable=name, value=paired["value"] * factor * share, error=np.nan))
    others = table[~names.isin(["wind_speed", "wind_from_direction"])]
    rows: Any = pd.concat([others.assign(variable=others["variable"].astype(str)), *winds], ignore_index=True)
    dropped = Counter(dict(account.dropped))
    dropped["wind speed without direction"] += len(pairs) - len(paired)
    dropped["wind direction without speed"] += len(direction) - met
    return make_table(rows, Path(account.source), account.reports, +dropped, units)
