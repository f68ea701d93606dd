"""Settings of the baselines and the noise levels of the bridge, chosen on days of 2009 that the benchmark does not score."""

from __future__ import annotations

import json
import math
from itertools import product
from typing import Any

from benchmarks.harness.runner import Method
from benchmarks.weather.benchmark import BRIDGE, ETKF, JACOBIAN, SEASONAL, SETTINGS, measure
from benchmarks.weather.cases import MONTHS, TUNING_DAYS, Case, day

GRIDS: dict[str, dict[str, tuple[Any, ...]]] = {
    ETKF: {"days": (30, 45), "every": (3,), "radius": (2000.0, 3000.0, 4500.0), "inflation": (1.0, 1.2)},
    SEASONAL: {"days": (30, 45, 60), "shrinkage": (0.03, 0.1, 0.3)},
    BRIDGE: {"sigma_max": (4.0, 8.0), "sigma_min": (0.1, 0.3)},
    JACOBIAN: {"jacobian": (2,), "sigma_max": (2.0, 4.0, 8.0), "sigma_min": (0.1, 0.3)},
}


def tune(names: list[str] | None = None, draws: int = 32) -> dict[str, Any]:
    """The best of each grid by mean fair CRPS, written to the settings file."""
    cases: list[Case] = [day(month, k, draws, TUNING_DAYS) for month in MONTHS for k in range(len(TUNING_DAYS))]
    kept = json.loads(SETTINGS.read_text()) if SETTINGS.exists() else {}
    for name in names or list(GRIDS):
        grid = GRIDS[name]
        tried = []
        for values in product(*grid.values()):
            settings = dict(zip(grid, values, strict=True))
            rows = [measure(Method(name, "10 calls"), case, settings) for case in cases]
            failed = any(r["status"] != "ok" for r in rows)
            crps = math.inf if failed else sum(float(r["crps"]) for r in rows) / len(rows)
            tried.append((crps, settings))
            print(f"{name} {settings}: {crps:.4f}", flush=True)
        kept[name] = min(tried, key=lambda pair: pair[0])[1]
        SETTINGS.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")
    return kept
