"""Settings of classical methods and samplers, chosen on development problems that the comparison never sees."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from benchmarks.exact.tuning import candidates
from benchmarks.fields.benchmark import BENCHMARKS
from benchmarks.fields.cases import DEVELOPMENT
from benchmarks.fields.methods import AS_MANY, EQUAL, EQUAL_TUNED, GRIDS, MOST_TRIED, TUNED_AS
from benchmarks.harness.device import CPU, lacks
from benchmarks.harness.files import change_json, read_json
from benchmarks.harness.runner import Method, work
from benchmarks.harness.table import first_line

DRAWS = 6
PROBLEMS = 2
Log = dict[str, dict[str, dict[str, dict[str, Any]]]]  # by suite, cell and method


@dataclass(frozen=True)
class Search:
    """Every setting of a method's grid on one kind of problem, the default among them.

    The score is the mean CRPS (of point estimates: the mean absolute error) over `PROBLEMS` development problems, one in
    cells of `TUNED_AS`; where there is no truth, the residual of withheld data. Samplers, ours and the peers', whose network
    calls are dear, are scored on one small problem with `DRAWS` draws; peers once more with as many calls as our default
    makes. Nobody has more settings tried than `MOST_TRIED`, and of ours the default sampler alone is tuned.
    """

    suite: str
    cell: str
    method: Method
    device: str = CPU

    @property
    def name(self) -> str:
        """Of the method, in the log."""
        return f"{self.method.name}, {EQUAL}" if self.method.setting == EQUAL_TUNED else self.method.name

    def settings(self) -> list[dict[str, Any]]:
        """What is tried.

        Raises:
            ValueError: If that is more than anybody may try.
        """
        classical = BENCHMARKS[self.suite].suite.classical.get(self.method.name)
        tried = _grid(classical.grid) if classical else candidates(json.loads(GRIDS.read_text())[self.method.name])
        if self.method.setting == EQUAL_TUNED:
            fixed = [t | AS_MANY[self.method.name] for t in tried]
            tried = [t for i, t in enumerate(fixed) if t not in fixed[:i]]
        if len(tried) > MOST_TRIED:
            raise ValueError(f"{self.method.name}: {len(tried)} settings; wanted at most {MOST_TRIED}, as for all")
        return tried

    def __call__(self, keep: Callable[[tuple[Search, dict[str, Any]]], None]) -> None:
        """Score them, and keep the log and the choice; words alone where this machine lacks something for it."""
        try:
            keep((self, self._done()))
        except Exception as error:
            if not lacks(error):
                raise
            keep((self, {"lacking": first_line(error)}))

    def _done(self) -> dict[str, Any]:
        small = self.method.name not in BENCHMARKS[self.suite].suite.classical
        count = 1 if small or (self.suite, self.cell) in TUNED_AS else PROBLEMS
        cases = _development(self.suite, self.cell, count, small)
        log = [{"settings": one, **self._score(cases, one)} for one in self.settings()]
        best = min(log, key=lambda entry: entry.get("crps", entry.get("held_chi2", math.inf)))
        return {"chosen": best["settings"], "log": log}

    def _score(self, cases: list[Any], settings: dict[str, Any]) -> dict[str, Any]:
        benchmark = BENCHMARKS[self.suite].on(self.device)
        rows = [benchmark.measure(self.method, case, settings) for case in cases]
        bad = [row["reason"] for row in rows if row["status"] != "ok"]
        if bad:
            return {"failed": bad[0]}
        column = "crps" if cases[0].truth is not None else "held_chi2"
        return {column: round(sum(float(row[column]) for row in rows) / len(rows), 6)}


def searches(
    suite: str, names: list[str] | None, cells: list[str] | None, settings: list[str] | None, device: str = CPU
) -> Iterator[Search]:
    """Those of a suite, of some methods, cells and settings where these are given; no sampler's on cells of `TUNED_AS`."""
    benchmark = BENCHMARKS[suite]
    for cell in (c for c in benchmark.cells(suite) if not cells or c in cells):
        for method in benchmark.methods(names):
            sampler = method.name not in benchmark.suite.classical
            asked = method.setting in ("tuned", EQUAL_TUNED) and (not settings or method.setting in settings)
            if asked and not (sampler and (suite, cell) in TUNED_AS):
                yield Search(suite, cell, method, device)


def tune(wanted: list[Search], path: Path, workers: int = 1, renew: bool = False) -> int:
    """Do those that ``path`` holds no choice of, or all, and keep each as soon as it is done.

    Returns:
        How many were done.
    """
    done = read(path)
    left = [s for s in wanted if renew or s.name not in done.get(s.suite, {}).get(s.cell, {})]

    def keep(found: tuple[Search, dict[str, Any]]) -> None:
        search, entry = found
        print(search.suite, search.cell, search.name, entry, flush=True)
        if "chosen" in entry:
            merge(path, {search.suite: {search.cell: {search.name: entry}}})

    work(left, len(left), keep, workers, left[0].device if left else CPU)
    return len(left)


def read(path: Path) -> Log:
    """The log; empty where there is none."""
    return read_json(path, {})


def merge(path: Path, log: Log) -> None:
    """Add a log to that in a file, in the place of entries of the same method on the same kind of problem."""

    def add(kept: Log) -> Log:
        for suite, cells in log.items():
            for cell, found in cells.items():
                kept.setdefault(suite, {}).setdefault(cell, {}).update(found)
        return kept

    change_json(path, add, {}, sort_keys=True)


@lru_cache(maxsize=2)
def _development(suite: str, cell: str, count: int, small: bool) -> list[Any]:
    return [BENCHMARKS[suite].build(suite, cell, DEVELOPMENT + i, small, DRAWS) for i in range(count)]


def _grid(values: Mapping[str, list[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(values, v, strict=True)) for v in itertools.product(*values.values())]
