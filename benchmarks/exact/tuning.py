"""The peers' settings, chosen on problems that the comparison never sees."""

from __future__ import annotations

import itertools
import json
import math

from benchmarks.exact.benchmark import BENCHMARKS
from benchmarks.exact.methods import GRIDS, TUNED
from benchmarks.exact.suites import SUITES, Case, build_case
from benchmarks.harness.runner import Method

FIRST = 1000  # problems from here on are for development
CELLS = {
    "mixture": ("d 8, m 2", "d 80, m 4"),
    "random field": ("inpainting", "blur"),
    "levy": ("laplace, imputation", "bernoulli-laplace, deconvolution"),
}
DRAWS = {"mixture": 300, "random field": 30, "levy": 16}


def tune(suite: str, names: list[str]) -> None:
    """Score every setting of the grid of each method, the default among them, and keep the log and the choice.

    The score is the geometric mean over two cells, two problems each, of the sliced W2 over its floor.
    """
    kept = json.loads(TUNED.read_text()) if TUNED.exists() else {}
    grids = json.loads(GRIDS.read_text())
    cases = [build_case(SUITES[suite], cell, FIRST + i, draws=DRAWS[suite]) for cell in CELLS[suite] for i in range(2)]
    for name in names:
        log = []
        for settings in candidates(grids[name]):
            log.append({"settings": settings, "score": score(Method(name, "tuned"), cases, settings)})
            print(suite, name, log[-1], flush=True)
        best = min(log, key=lambda entry: entry["score"] if entry["score"] is not None else math.inf)
        kept.setdefault(suite, {})[name] = {"chosen": best["settings"], "log": log}
        TUNED.write_text(json.dumps(kept, indent=1) + "\n")


def candidates(grid: dict[str, list]) -> list[dict]:
    """Every combination of the grid, after the default."""
    return [{}, *(dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values()))]


def score(method: Method, cases: list[Case], settings: dict) -> float | None:
    """Geometric mean of the ratios to the floor; None where a problem cannot be run."""
    rows = [BENCHMARKS["exact"].measure(method, case, settings) for case in cases]
    if any(row["status"] != "ok" for row in rows):
        return None
    return round(math.exp(sum(math.log(float(row["ratio"])) for row in rows) / len(rows)), 4)
