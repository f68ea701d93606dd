"""A results file: one row for each suite, cell, problem, method and setting, with all it takes to make the row again."""

from __future__ import annotations

import csv
import os
import platform
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

from benchmarks.harness.files import alone
from benchmarks.harness.source import ROOT

KEY = ("suite", "cell", "problem", "method", "setting")
COST = ("nfe", "vjps", "seconds")
SINCE = ("machine", "revision", "device")  # columns that files of before may lack
BEFORE = {"device": "cpu"}  # what these have there, where it is not nothing
OK, LACKING = "ok", "lacking"  # status: has figures; could not be computed for want of a package or of memory
PACKAGES = ("posterior", "torch", "deepinv", "azula")
Row = dict[str, str]


@dataclass(frozen=True)
class Layout:
    """The columns of a results file.

    Args:
        scores: Names of the figures of a row.
        cost: Names of what the row cost.
        later: Names of figures that files of before may lack.
    """

    scores: tuple[str, ...]
    cost: tuple[str, ...] = COST
    later: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns in order."""
        return (*KEY, "status", "reason", "draws", "point", *self.scores, *self.cost, "settings", "versions", *SINCE)

    def blank(self, known: tuple[str, ...], draws: int, revision: str = "", device: str = "cpu") -> Row:
        """A row of the key ``known`` that says where and with what it is made, and nothing else."""
        row = dict.fromkeys(self.columns, "") | dict(zip(KEY, known, strict=True))
        made = {"versions": versions(), "machine": machine(), "revision": revision, "device": device}
        return row | {"draws": str(draws)} | made

    def read(self, path: Path) -> list[Row]:
        """All complete rows; a line that a killed run left half written is not one.

        Raises:
            ValueError: If the file has other columns.
        """
        if not path.exists():
            return []
        with path.open(newline="") as file:
            reader = csv.DictReader(file)
            names = tuple(reader.fieldnames or ())
            lacking = set(self.columns) - set(names)
            if not lacking <= {*SINCE, *self.later} or names != tuple(c for c in self.columns if c not in lacking):
                raise ValueError(f"{path} has columns {list(names)}; wanted {list(self.columns)}")
            blank = dict.fromkeys(lacking, "") | {k: v for k, v in BEFORE.items() if k in lacking}
            return [blank | row for row in reader if None not in row and None not in row.values() and row["versions"]]

    def write(self, path: Path, rows: list[Row]) -> None:
        """All rows, sorted, so that the file does not depend on the order of work; replaced only once it is whole."""
        path.parent.mkdir(parents=True, exist_ok=True)
        ordered = sorted(rows, key=lambda r: (*key(r)[:2], int(r["problem"]), *key(r)[3:]))
        fresh = path.with_suffix(".partial")
        with fresh.open("w", newline="") as file:
            writer = csv.DictWriter(file, self.columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(ordered)
        fresh.replace(path)

    def add(self, path: Path, row: Row) -> None:
        """One row more, or another of the same key; rows that other processes add meanwhile are kept."""
        self._change(path, lambda rows: rows | {key(row): row})

    def merge(self, path: Path, rows: list[Row]) -> tuple[int, int]:
        """Rows of another file, in the place of those of the same key.

        A row that has no figures takes the place of none that has, and one that could not be computed for want of a package
        or of memory says nothing.

        Returns:
            How many are new, and how many took another's place.
        """
        fresh = replaced = 0

        def take(there: dict[tuple[str, ...], Row]) -> dict[tuple[str, ...], Row]:
            nonlocal fresh, replaced
            wanted = {key(r): r for r in rows if r["status"] != LACKING}
            wanted = {k: r for k, r in wanted.items() if r["status"] == OK or k not in there or there[k]["status"] != OK}
            replaced = sum(k in there and there[k] != r for k, r in wanted.items())
            fresh = sum(k not in there for k in wanted)
            return there | wanted

        self._change(path, take)
        return fresh, replaced

    def _change(self, path: Path, change: Callable[[dict[tuple[str, ...], Row]], dict[tuple[str, ...], Row]]) -> None:
        with alone(path.parent):
            self.write(path, list(change({key(r): r for r in self.read(path)}).values()))


def key(row: Row) -> tuple[str, ...]:
    """What a row is known by."""
    return tuple(str(row[k]) for k in KEY)


def number(value: float, digits: int = 6) -> str:
    """So many significant digits; empty for NaN."""
    return "" if value != value else f"{value:.{digits}g}"


def first_line(error: Exception) -> str:
    """What an error says, in one line."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else ''}"[:300]


@cache
def versions() -> str:
    """Of the packages that have a part in the figures."""
    return ", ".join(f"{name} {_version(name)}" for name in PACKAGES)


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        if name == "posterior":  # a checkout that is not installed
            return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
        return "not installed"


@cache
def machine() -> str:
    """Processor, cores that this process may use, and system; `gpu` says of what else has a part."""
    processor = platform.processor() or platform.machine()
    cpu = Path("/proc/cpuinfo")
    if cpu.exists():
        models = [line.split(":", 1)[1].strip() for line in cpu.read_text().splitlines() if line.startswith("model name")]
        processor = models[0] if models else processor
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{processor}, {cores} cores, {platform.system()}"


@cache
def gpu(device: str | None) -> str:
    """Name of the GPU that ``device`` is; empty where it is none."""
    import torch

    if device is None or torch.device(device).type != "cuda":
        return ""
    return torch.cuda.get_device_name(torch.device(device))
