"""Settings of classical methods and peers, chosen on development problems that the comparison never sees."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping
from typing import Any

from benchmarks.exact.tuning import candidates
from benchmarks.fields.benchmark import BENCHMARKS
from benchmarks.fields.cases import DEVELOPMENT
from benchmarks.fields.methods import AS_MANY, EQUAL, EQUAL_TUNED, GRIDS, MOST_TRIED, TUNED, TUNED_AS
from benchmarks.harness.runner import Method

DRAWS = 6


def tune(suite: str, cell: str, names: list[str] | None = None, settings: list[str] | None = None, problems: int = 2) -> None:
    """Score every setting of the grid of each method, the default among them, and keep the log and the choice.

    The score is the mean CRPS (of point estimates: the mean absolute error) over ``problems`` development problems, one in
    cells of `TUNED_AS`; where there is no truth, the residual of withheld data. Samplers, ours and the peers', whose network
    calls are dear, are scored on one small problem with `DRAWS` draws, and not on cells of `TUNED_AS`; peers once more with
    as many calls as our default makes. Nobody has more settings tried than `MOST_TRIED`, and of ours the default sampler
    alone is tuned.
    """
    benchmark = BENCHMARKS[suite]
    grids = json.loads(GRIDS.read_text())
    cases: dict[bool, Any] = {}
    for method in benchmark.methods(names):
        classical = benchmark.suite.classical.get(method.name)
        small = classical is None
        asked = method.setting in ("tuned", EQUAL_TUNED) and (not settings or method.setting in settings)
        if not asked or (small and (suite, cell) in TUNED_AS):
            continue
        if small not in cases:
            count = 1 if small or (suite, cell) in TUNED_AS else problems
            cases[small] = [benchmark.build(suite, cell, DEVELOPMENT + i, small, DRAWS) for i in range(count)]
        tried = _grid(classical.grid) if classical else candidates(grids[method.name])
        equal = method.setting == EQUAL_TUNED
        if equal:
            fixed = [t | AS_MANY[method.name] for t in tried]
            tried = [t for i, t in enumerate(fixed) if t not in fixed[:i]]
        if len(tried) > MOST_TRIED:
            raise ValueError(f"{method.name}: {len(tried)} settings; wanted at most {MOST_TRIED}, as for all")
        log = []
        for one in tried:
            log.append({"settings": one, **_score(suite, method, cases[small], one)})
            print(suite, cell, method.name, log[-1], flush=True)
        best = min(log, key=lambda entry: entry.get("crps", entry.get("held_chi2", math.inf)))
        kept = json.loads(TUNED.read_text()) if TUNED.exists() else {}
        found = kept.setdefault(suite, {}).setdefault(cell, {})
        found[f"{method.name}, {EQUAL}" if equal else method.name] = {"chosen": best["settings"], "log": log}
        TUNED.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")


def _grid(values: Mapping[str, list[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(values, v, strict=True)) for v in itertools.product(*values.values())]


def _score(suite: str, method: Method, cases: list[Any], settings: dict[str, Any]) -> dict[str, Any]:
    rows = [BENCHMARKS[suite].measure(method, case, settings) for case in cases]
    bad = [row["reason"] for row in rows if row["status"] != "ok"]
    if bad:
        return {"failed": bad[0]}
    column = "crps" if cases[0].truth is not None else "held_chi2"
    return {column: round(sum(float(row[column]) for row in rows) / len(rows), 6)}
