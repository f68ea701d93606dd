"""Run the comparison, choose settings, or write the page.

python -m benchmarks.weather                 what is missing from benchmarks/results/weather.csv, then the page
python -m benchmarks.weather --tune          choose the settings of the baselines on other days of 2009
python -m benchmarks.weather --report        the page from the file, nothing run
python -m benchmarks.weather --quick         one day a month, few draws; into its own file
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from benchmarks.harness.runner import Plan, run_plan
from benchmarks.weather.benchmark import BENCHMARKS, LAYOUT
from benchmarks.weather.report import write_page
from benchmarks.weather.tuning import GRIDS, tune

ROOT = Path(__file__).parent.parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "weather.csv"
QUICK = ROOT / "benchmarks" / "results" / "weather-quick.csv"
PAGE = ROOT / "docs" / "results-weather.md"


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.weather", description=__doc__.splitlines()[0])
    benchmark = BENCHMARKS["weather"]
    parser.add_argument("--methods", nargs="+", metavar="NAME", help="all where not given")
    parser.add_argument("--suites", nargs="+", choices=benchmark.suites, default=list(benchmark.suites))
    parser.add_argument("--problems", type=int, help="days of each month, or folds")
    parser.add_argument("--draws", type=int, help="members of each ensemble")
    parser.add_argument("--quick", action="store_true", help="one day a month, 20 draws")
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each")
    parser.add_argument("--out", type=Path, help="results file; its page is then written beside it")
    parser.add_argument("--report", action="store_true", help="write the page and run nothing")
    parser.add_argument("--tune", nargs="*", choices=list(GRIDS), help="choose settings: of these, or of all")
    parser.add_argument("--silent", action="store_true", help="no progress bar")
    a = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if a.tune is not None:
        print(tune(a.tune or None))
        return
    path = a.out or (QUICK if a.quick else RESULTS)
    if not a.report:
        methods = tuple(benchmark.methods(a.methods))
        plan = Plan(benchmark, methods, tuple(a.suites), None, a.problems, a.draws, a.quick)
        print(f"{run_plan(plan, path, a.workers, progress=not a.silent)} rows computed, {path}")
    rows = LAYOUT.read(path)
    if rows:
        write_page(rows, PAGE if path == RESULTS else path.with_suffix(".md"))


if __name__ == "__main__":
    main()
