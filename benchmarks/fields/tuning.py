"""Settings of classical methods and peers, chosen on development problems that the comparison never sees."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

from benchmarks.exact.tuning import candidates
from benchmarks.fields.benchmark import BENCHMARKS
from benchmarks.fields.cases import DEVELOPMENT
from benchmarks.fields.methods import GRIDS, MOST_TRIED, TUNED, TUNED_AS
from benchmarks.harness.runner import Method

DRAWS = 6


def tune(suite: str, cell: str, names: list[str] | None = None, problems: int = 2) -> None:
    """Score every setting of the grid of each method, the default among them, and keep the log and the choice.

    The score is the mean CRPS (of point estimates: the mean absolute error) over ``problems`` development problems. Samplers,
    ours and the peers', whose network calls are dear, are scored on one small problem with `DRAWS` draws. Nobody has more
    settings tried than `MOST_TRIED`, and of ours the default sampler alone is tuned.
    """
    if (suite, cell) in TUNED_AS:
        return
    benchmark = BENCHMARKS[suite]
    grids = json.loads(GRIDS.read_text())
    cases: dict[bool, Any] = {}
    for method in benchmark.methods(names):
        classical = benchmark.suite.classical.get(method.name)
        if method.setting != "tuned":
            continue
        small = classical is None
        if small not in cases:
            count = 1 if small else problems
            cases[small] = [benchmark.build(suite, cell, DEVELOPMENT + i, small, DRAWS) for i in range(count)]
        grid = classical.grid if classical else grids[method.name]
        tried = [dict(zip(grid, v, strict=True)) for v in itertools.product(*grid.values())] if classical else candidates(grid)
        if len(tried) > MOST_TRIED:
            raise ValueError(f"{method.name}: {len(tried)} settings; wanted at most {MOST_TRIED}, as for all")
        log = []
        for settings in tried:
            log.append({"settings": settings, **_score(suite, method, cases[small], settings)})
            print(suite, cell, method.name, log[-1], flush=True)
        best = min(log, key=lambda entry: entry.get("crps", math.inf))
        kept = json.loads(TUNED.read_text()) if TUNED.exists() else {}
        found = kept.setdefault(suite, {}).setdefault(cell, {})
        found[method.name] = {"chosen": best["settings"], "log": log}
        TUNED.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")


def _score(suite: str, method: Method, cases: list[Any], settings: dict[str, Any]) -> dict[str, Any]:
    rows = [BENCHMARKS[suite].measure(method, case, settings) for case in cases]
    bad = [row["reason"] for row in rows if row["status"] != "ok"]
    if bad:
        return {"failed": bad[0]}
    return {"crps": round(sum(float(row["crps"]) for row in rows) / len(rows), 6)}
