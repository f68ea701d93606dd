"""The peers' settings, chosen on problems that the comparison never sees."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

from benchmarks.exact.benchmark import BENCHMARKS
from benchmarks.exact.methods import GRIDS, TUNED
from benchmarks.exact.suites import DEVELOPMENT, SUITES, Case, build_case
from benchmarks.harness.files import change_json, read_json
from benchmarks.harness.runner import Method

CELLS = {
    "mixture": ("d 8, m 2", "d 80, m 4"),
    "random field": ("inpainting", "blur"),
    "levy": ("laplace, imputation", "bernoulli-laplace, deconvolution"),
}
DRAWS = {"mixture": 300, "random field": 30, "levy": 16}


def tune(suite: str, names: list[str], path: Path = TUNED, renew: bool = False) -> None:
    """Score every setting of the grid of each method, the default among them, and keep the log and the choice in ``path``.

    Methods that ``path`` holds a choice of are left, unless ``renew``.

    The score is the geometric mean over two cells, two problems each, of the sliced W2 over its floor.
    """
    there = {} if renew else read_json(path, {}).get(suite, {})
    names = [name for name in names if name not in there]
    if not names:
        return
    grids = json.loads(GRIDS.read_text())
    cases = [build_case(SUITES[suite], cell, DEVELOPMENT + i, draws=DRAWS[suite]) for cell in CELLS[suite] for i in range(2)]
    for name in names:
        log = []
        for settings in candidates(grids[name]):
            log.append({"settings": settings, "score": score(Method(name, "tuned"), cases, settings)})
            print(suite, name, log[-1], flush=True)
        best = min(log, key=lambda entry: entry["score"] if entry["score"] is not None else math.inf)
        merge(path, {suite: {name: {"chosen": best["settings"], "log": log}}})


def merge(path: Path, log: dict[str, dict[str, Any]]) -> None:
    """Add choices, by suite and method, to those in a file, in the place of those of the same."""
    change_json(path, lambda kept: kept | {suite: kept.get(suite, {}) | found for suite, found in log.items()}, {})


def candidates(grid: dict[str, list]) -> list[dict]:
    """Every combination of the grid, after the default."""
    return [{}, *(dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values()))]


def score(method: Method, cases: list[Case], settings: dict) -> float | None:
    """Geometric mean of the ratios to the floor; None where a problem cannot be run."""
    rows = [BENCHMARKS["exact"].measure(method, case, settings) for case in cases]
    if any(row["status"] != "ok" for row in rows):
        return None
    return round(math.exp(sum(math.log(float(row["ratio"])) for row in rows) / len(rows)), 4)
