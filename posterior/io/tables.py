"""Observation tables in CSV and Parquet, in and out."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from posterior.io._files import FileError, first_line, needs
from posterior.io.observations import COLUMNS, DERIVED, make_table
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
_DELIMITERS = (",", ";", "\t")
_DECIMAL_COMMA = re.compile(r"^\s*([+-]?\d*),(\d+(?:[eE][+-]?\d+)?)\s*$")
_NUMBERS = ("latitude", "longitude", "level", "value", "error", "elevation")


def looks_like_csv(text: str) -> bool:
    """Whether the first line names columns of an observation table."""
    return _delimiter(text) is not None


def _delimiter(text: str) -> str | None:
    """What divides the columns: the sign at which the first line falls into names that are known."""
    line = (text.splitlines() or [""])[0]
    known = {sign: len(set(map(_plain, _fields(line, sign))) & {*_REQUIRED, *_ALIASES}) for sign in _DELIMITERS}
    best = max(known, key=lambda sign: known[sign])
    return best if known[best] >= 2 else None


def _fields(line: str, delimiter: str) -> list[str]:
    return next(csv.reader([line], delimiter=delimiter, skipinitialspace=True), [])


def _plain(name: Any) -> str:
    return str(name).strip().lower()


def read_csv(text: str, path: Path, units: Mapping[str, str] | None) -> pd.DataFrame:
    """The table of a CSV file; see `read_observations`. Between semicolons a comma in a number is a decimal one."""
    import pandas as pd

    delimiter = _delimiter(text) or ","
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    header = _check_lines(text, delimiter, path)
    try:
        # The names from below: pandas calls the second of two columns "value" by another name, and reads on.
        raw: Any = pd.read_csv(
            io.StringIO(text), sep=delimiter, dtype=str, keep_default_na=False, skipinitialspace=True, index_col=False
        )
    except ValueError as error:  # pandas' ParserError is one
        raise FileError(f"{path}: not a complete CSV table ({first_line(error)})") from error
    raw.columns = header
    return _finish(raw, path, units, comma=delimiter == ";")


def read_parquet(content: bytes, path: Path, units: Mapping[str, str] | None) -> pd.DataFrame:
    """The table of a Parquet file; see `read_observations`."""
    import pandas as pd

    needs("pyarrow", "weather", "reading Parquet")
    try:
        raw = pd.read_parquet(io.BytesIO(content), engine="pyarrow")
    except (OSError, ValueError) as error:  # those of pyarrow are these
        raise FileError(f"{path}: not a complete Parquet file ({first_line(error)})") from error
    if any(name is not None for name in raw.index.names):
        raw = raw.reset_index()
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


def _check_lines(text: str, delimiter: str, path: Path) -> list[str]:
    """The header of a table whose lines all have as many fields: pandas fills up short ones, as that at a cut."""
    reader = csv.reader(io.StringIO(text), delimiter=delimiter, skipinitialspace=True)
    header: list[str] = []
    odd: tuple[int, int] | None = None
    last = 0
    try:
        for row in reader:
            if row and header and len(row) != len(header) and odd is None:
                odd = reader.line_num, len(row)
            header, last = header or row, reader.line_num if row else last
    except csv.Error as error:
        raise FileError(f"{path}: not a complete CSV table (line {reader.line_num}: {first_line(error)})") from error
    if odd is not None and odd[0] == last and odd[1] < len(header):
        raise FileError(f"{path}: the last line has {odd[1]} of {len(header)} fields: the file is truncated")
    if odd is not None:
        raise FileError(f"{path}: line {odd[0]} has {odd[1]} fields; wanted {len(header)}, as the first line names")
    if last < 2:
        raise FileError(f"{path}: an observation table without rows; wanted a header and at least one row")
    return header


def _finish(raw: Any, path: Path, units: Mapping[str, str] | None, comma: bool = False) -> pd.DataFrame:
    """The table with our names, types and units; ``comma`` for texts that write 1003,2."""
    names = [_plain(name) for name in raw.columns]
    if twice := [name for name in (*COLUMNS, DERIVED, *_ALIASES, *_TEXTS) if names.count(name) > 1]:
        raise FileError(f"{path}: has two columns {twice[0]!r}; wanted one")
    raw.columns = names
    renamed = {old: new for old, new in _ALIASES.items() if old in raw and new not in raw}
    table = raw.rename(columns=renamed)
    for name in _REQUIRED:
        if name not in table:
            raise FileError(f"{path}: has no column {name!r} but {', '.join(raw.columns)}; wanted {', '.join(_REQUIRED)}")
    for name in _NUMBERS:
        if name in table:
            texts = table[name].str.replace(_DECIMAL_COMMA, r"\1.\2", regex=True) if comma else table[name]
            table[name] = _numbers(texts, name, path)
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
    columns = [name for name in (*COLUMNS, DERIVED) if name in table]
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
