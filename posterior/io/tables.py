"""Observation tables in CSV and Parquet, in and out."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from posterior.io._files import FileError, first_line, needs
from posterior.io.observations import COLUMNS, make_table
from posterior.io.units import conversion

if TYPE_CHECKING:
    import pandas as pd

_ALIASES = {
    "lat": "latitude",
    "lon": "longitude",
    "valid_time": "time",
    "pressure_level": "level",
    "observation": "value",
    "sigma": "error",
}
_REQUIRED = ("time", "latitude", "longitude", "variable", "value")
_TEXTS = ("variable", "units", "level_units")
_NUMBERS = ("latitude", "longitude", "level", "value", "error", "elevation")


def looks_like_csv(text: str) -> bool:
    """Whether the first line names columns of an observation table."""
    header = {name.strip() for name in next(csv.reader([text.partition("\n")[0].rstrip("\r")], skipinitialspace=True), [])}
    return len(header & {*_REQUIRED, *_ALIASES}) >= 2


def read_csv(text: str, path: Path, units: Mapping[str, str] | None) -> pd.DataFrame:
    """The table of a CSV file; see `read_observations`."""
    import pandas as pd

    _check_last_line(text, path)
    try:
        raw = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False, skipinitialspace=True)
    except ValueError as error:  # pandas' ParserError is one
        raise FileError(f"{path}: not a complete CSV table ({first_line(error)})") from error
    return _finish(raw, path, units)


def read_parquet(content: bytes, path: Path, units: Mapping[str, str] | None) -> pd.DataFrame:
    """The table of a Parquet file; see `read_observations`."""
    import pandas as pd

    needs("pyarrow", "weather", "reading Parquet")
    try:
        raw = pd.read_parquet(io.BytesIO(content), engine="pyarrow")
    except (OSError, ValueError) as error:  # those of pyarrow are these
        raise FileError(f"{path}: not a complete Parquet file ({first_line(error)})") from error
    return _finish(raw, path, units)


def write_observations(table: Any, path: str | Path) -> None:
    """A table of observations to a file that `read_observations` reads back, with its units.

    Args:
        table: A pandas.DataFrame from `read_observations`, or with the same columns and ``attrs["units"]``.
        path: File to write, ``.csv`` or ``.parquet``.

    Raises:
        ValueError: If a column or a unit is missing, or ``path`` ends otherwise.
    """
    path = Path(path)
    missing = [name for name in _REQUIRED if name not in table]
    if missing:
        raise ValueError(f"table has no column {missing[0]!r} but {', '.join(map(str, table.columns))}")
    units = table.attrs.get("units", {})
    without = set(map(str, table["variable"].unique())) - set(units)
    if without:
        raise ValueError(f"table.attrs['units'] has no unit for {', '.join(sorted(without))}")
    names = table["variable"].astype(str)
    out = table.assign(variable=names, units=names.map(dict(units)), level_units=units.get("level", "hPa"))
    out.attrs = {}
    if path.suffix.lower() == ".csv":
        out.to_csv(path, index=False)
    elif path.suffix.lower() == ".parquet":
        needs("pyarrow", "weather", "writing Parquet")
        out.to_parquet(path, index=False, engine="pyarrow")
    else:
        raise ValueError(f"{path}: tables are written to .csv or .parquet; got {path.suffix or 'no ending'!r}")


def _check_last_line(text: str, path: Path) -> None:
    """A table that was cut off ends in a line of fewer fields, which pandas would fill up."""
    lines = text.rstrip("\n").splitlines()
    if len(lines) < 2:
        raise FileError(f"{path}: an observation table without rows; wanted a header and at least one row")
    wanted, got = (len(next(csv.reader([line]), [])) for line in (lines[0], lines[-1]))
    if wanted != got:
        raise FileError(f"{path}: the last line has {got} of {wanted} fields: the file is truncated")


def _finish(raw: Any, path: Path, units: Mapping[str, str] | None) -> pd.DataFrame:
    raw.columns = [str(name).strip() for name in raw.columns]
    renamed = {old: new for old, new in _ALIASES.items() if old in raw and new not in raw}
    table = raw.rename(columns=renamed)
    for name in _REQUIRED:
        if name not in table:
            raise FileError(f"{path}: has no column {name!r} but {', '.join(raw.columns)}; wanted {', '.join(_REQUIRED)}")
    for name in _NUMBERS:
        if name in table:
            table[name] = _numbers(table[name], name, path)
    if "error" in table and (table["error"] <= 0).any():
        raise FileError(f"{path}: column 'error' goes down to {table['error'].min():g}; wanted standard deviations above zero")
    table["time"] = _times(table["time"], path)
    for name in _TEXTS:
        if name in table:
            table[name] = table[name].astype(object).fillna("").astype(str).str.strip()
    if (table["variable"] == "").any():
        row = int(np.flatnonzero(table["variable"] == "")[0])
        raise FileError(f"{path}: row {row + 1}, column 'variable' is empty; wanted a name")
    known = _units(table, dict(units or {}), path)
    if "level" in table:
        table["level"] = _levels(table, dict(units or {}), path)
    columns = [name for name in COLUMNS if name in table]
    done = make_table(table[columns], path, len(table), Counter(), known)
    done.attrs["renamed"] = renamed
    return done


def _numbers(column: Any, name: str, path: Path) -> Any:
    import pandas as pd

    values: Any = pd.to_numeric(column.replace("", np.nan) if column.dtype.kind not in "fiu" else column, errors="coerce")
    text = column.astype(str).str.strip()
    bad = values.isna() & column.notna() & ~text.str.lower().isin(["", "nan", "na", "none", "<na>"])
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise FileError(f"{path}: row {row + 1}, column {name!r} is {text.iloc[row]!r}; wanted a number")
    return values.astype(np.float64)


def _times(column: Any, path: Path) -> Any:
    import pandas as pd

    try:
        if column.dtype.kind == "M" or isinstance(column.dtype, pd.DatetimeTZDtype):
            return pd.to_datetime(column, utc=True)
        return pd.to_datetime(column.replace("", None), utc=True, format="ISO8601")
    except ValueError as error:
        raise FileError(f"{path}: column 'time' holds what is no ISO 8601 time ({first_line(error)})") from error


def _units(table: Any, given: dict[str, str], path: Path) -> dict[str, str]:
    """Unit of every variable, from the column ``units`` or as the caller says; never guessed."""
    found: dict[str, str] = {}
    for name, rows in table.groupby("variable", observed=True):
        stated = set(rows["units"]) - {""} if "units" in table else set()
        stated |= {given[str(name)]} if str(name) in given else set()
        if len(stated) != 1:
            got = f"the units {', '.join(sorted(stated))}" if stated else "no unit"
            raise FileError(
                f"{path}: variable {name!r} has {got}; wanted one: column 'units', units={{{name!r}: ...}} or --unit {name}=..."
            )
        found[str(name)] = stated.pop()
    return found


def _levels(table: Any, given: dict[str, str], path: Path) -> Any:
    level = table["level"]
    if level.isna().all():
        return level
    stated = set(table["level_units"]) - {""} if "level_units" in table else set()  # none at the surface
    stated |= {given["level"]} if "level" in given else set()
    if len(stated) != 1:
        got = f"the units {', '.join(sorted(stated))}" if stated else "no unit"
        raise FileError(f"{path}: column 'level' has {got}; wanted one: column 'level_units' or units={{'level': 'hPa'}}")
    factor, offset = conversion(stated.pop(), "hPa", f"{path}: column 'level'")
    return level * factor + offset
