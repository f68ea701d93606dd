"""Run the comparison, tune the peers, or write the pages.

python -m benchmarks.exact                      what is missing from benchmarks/results/exact.csv, then the pages
python -m benchmarks.exact --quick              one small problem a cell, a few draws; into its own file
python -m benchmarks.exact --methods MMPS TDS   some methods only
python -m benchmarks.exact --report             the pages from the file, nothing run
python -m benchmarks.exact --tune               choose the peers' settings on development problems
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from benchmarks.exact.benchmark import BENCHMARKS, LAYOUT
from benchmarks.exact.methods import LIBRARIES, methods
from benchmarks.exact.report import write_pages
from benchmarks.exact.suites import SUITES
from benchmarks.exact.tuning import CELLS, tune
from benchmarks.harness.runner import Plan, run_plan

ROOT = Path(__file__).parent.parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "exact.csv"
QUICK = ROOT / "benchmarks" / "results" / "exact-quick.csv"
PAGE = ROOT / "docs" / "results-exact.md"
CHOOSING = ROOT / "docs" / "choosing-a-sampler.md"


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    a = _parser().parse_args(arguments)
    torch.set_num_threads(1)
    chosen = methods(a.methods)
    suites = tuple(a.suites or SUITES)
    if a.tune:
        peers = list(dict.fromkeys(m.name for m in chosen if m.name.split()[0] in LIBRARIES))
        for suite in (s for s in suites if s in CELLS):
            tune(suite, peers)
        return
    path = a.out or (QUICK if a.quick else RESULTS)
    if not a.report:
        plan = Plan(
            BENCHMARKS["exact"], tuple(chosen), suites, tuple(a.cells) if a.cells else None, a.problems, a.draws, a.quick
        )
        print(f"{run_plan(plan, path, a.workers, progress=not a.silent)} rows computed, {path}")
    rows = LAYOUT.read(path)
    if rows:
        official = path == RESULTS
        write_pages(rows, PAGE if official else path.with_suffix(".md"), CHOOSING if official else None)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.exact", description=__doc__.splitlines()[0])
    cells = [c for s in SUITES.values() for c in s.cells]
    parser.add_argument("--methods", nargs="+", metavar="NAME", help="all where not given")
    parser.add_argument("--suites", nargs="+", choices=list(SUITES))
    parser.add_argument("--cells", nargs="+", choices=cells, metavar="CELL", help="kinds of problem, all where not given")
    parser.add_argument("--problems", type=int, help="problems of each cell, for every method")
    parser.add_argument("--draws", type=int, help="draws of each method")
    parser.add_argument("--quick", action="store_true", help="one small problem a cell, a few draws")
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each")
    parser.add_argument("--out", type=Path, help="results file; its page is then written beside it")
    parser.add_argument("--report", action="store_true", help="write the pages and run nothing")
    parser.add_argument("--tune", action="store_true", help="choose the peers' settings")
    parser.add_argument("--silent", action="store_true", help="no progress bar")
    return parser


if __name__ == "__main__":
    main()
