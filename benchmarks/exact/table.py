"""The results file: one row for each suite, cell, problem, method and setting."""

from __future__ import annotations

import csv
from importlib import metadata
from pathlib import Path

from benchmarks.exact.scores import SCORES

KEY = ("suite", "cell", "problem", "method", "setting")
COST = ("nfe", "vjps", "seconds")
COLUMNS = (*KEY, "status", "reason", "draws", "point", *SCORES, *COST, "settings", "versions")
Row = dict[str, str]


def key(row: Row) -> tuple[str, ...]:
    """What a row is known by."""
    return tuple(str(row[k]) for k in KEY)


def read(path: Path) -> list[Row]:
    """All complete rows; a line that a killed run left half written is not one.

    Raises:
        ValueError: If the file has other columns.
    """
    if not path.exists():
        return []
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise ValueError(f"{path} has columns {reader.fieldnames}; wanted {list(COLUMNS)}")
        return [row for row in reader if row["versions"] and None not in row]


def write(path: Path, rows: list[Row]) -> None:
    """All rows, sorted, so that the file does not depend on the order of work."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ordered = sorted(rows, key=lambda r: (*key(r)[:2], int(r["problem"]), *key(r)[3:]))
    fresh = path.with_suffix(".partial")
    with fresh.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(ordered)
    fresh.replace(path)


def number(value: float) -> str:
    """Six digits; empty for NaN."""
    return "" if value != value else f"{value:.6g}"


def versions() -> str:
    """Of the packages that have a part in the figures."""
    return ", ".join(f"{name} {_version(name)}" for name in ("posterior", "torch", "deepinv", "azula"))


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"
