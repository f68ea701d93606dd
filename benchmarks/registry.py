"""All benchmarks by name, and where their results and pages lie."""

from __future__ import annotations

from pathlib import Path

from benchmarks.exact.benchmark import BENCHMARKS as EXACT
from benchmarks.fields.benchmark import BENCHMARKS as FIELDS
from benchmarks.harness.runner import Benchmark

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
FIELDS_RESULTS = RESULTS / "fields"
MAPS = FIELDS_RESULTS / "maps"
DOCS = ROOT / "docs"
BENCHMARKS: dict[str, Benchmark] = {**EXACT, **FIELDS}


def results_path(name: str, quick: bool = False) -> Path:
    """The results file of a benchmark; that of a quick run is not for keeping."""
    return RESULTS / ("quick" if quick else "" if name in EXACT else "fields") / f"{name}.csv"
