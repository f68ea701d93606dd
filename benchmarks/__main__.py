"""Run the benchmarks, tune what is compared, write the pages.

python -m benchmarks run                        what is missing from benchmarks/results of every suite, then the pages
python -m benchmarks run mri --methods MMPS     one suite, some methods
python -m benchmarks run --quick                one small problem a cell, a few draws, into benchmarks/results/quick
python -m benchmarks report                     the pages from the results, nothing run
python -m benchmarks tune mri                   settings of baselines and peers, chosen on development problems
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import torch

from benchmarks.fields.maps import FOLDER
from benchmarks.fields.report import write_report
from benchmarks.harness.runner import Benchmark, Plan, run_plan
from benchmarks.registry import BENCHMARKS, DOCS, FIELDS_RESULTS, MAPS, RESULTS, results_path
from posterior._memory import keep_large_blocks


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    a = _parser().parse_args(arguments)
    torch.set_num_threads(1)
    keep_large_blocks()
    {"run": _run, "report": lambda _: _report(), "tune": _tune}[a.command](a)


def _run(a: argparse.Namespace) -> None:
    began = time.monotonic()
    for benchmark in _chosen(a):
        path = a.out / f"{benchmark.name}.csv" if a.out else results_path(benchmark.name, a.quick)
        if not (a.quick or a.out):
            os.environ[FOLDER] = str(MAPS)
        suites = tuple(s for s in benchmark.suites if _wanted(a.cells, benchmark.cells(s)))
        methods = _methods(benchmark, a)
        plan = Plan(benchmark, methods, suites, tuple(a.cells) if a.cells else None, a.problems, a.draws, a.quick)
        count = run_plan(plan, path, a.workers, progress=not a.silent)
        print(f"{benchmark.name}: {count} rows computed, {os.path.relpath(path)}")
    print(f"{time.monotonic() - began:.0f} s")
    if a.quick or a.out:
        folder = a.out or RESULTS / "quick"
        write_report(folder, folder / "results.md", folder / "results.html", maps=None)
    else:
        _report()


def _report() -> None:
    from benchmarks.exact.benchmark import LAYOUT
    from benchmarks.exact.report import write_pages

    rows = LAYOUT.read(results_path("exact"))
    if rows:
        write_pages(rows, DOCS / "results-exact.md", DOCS / "choosing-a-sampler.md")
    write_report(FIELDS_RESULTS, DOCS / "results-benchmarks.md", DOCS / "results-benchmarks.html", MAPS)


def _tune(a: argparse.Namespace) -> None:
    from benchmarks.exact import tuning as exact
    from benchmarks.exact.methods import LIBRARIES
    from benchmarks.fields.tuning import tune

    for benchmark in _chosen(a):
        if benchmark.name == "exact":
            peers = list(dict.fromkeys(m.name for m in benchmark.methods(a.methods) if m.name.split()[0] in LIBRARIES))
            for suite in exact.CELLS:
                exact.tune(suite, peers)
            continue
        for cell in benchmark.cells(benchmark.name):
            if not a.cells or cell in a.cells:
                tune(benchmark.name, cell, a.methods)


def _chosen(a: argparse.Namespace) -> list[Benchmark]:
    return [BENCHMARKS[name] for name in a.suites or BENCHMARKS]


def _methods(benchmark: Benchmark, a: argparse.Namespace) -> tuple:
    """Those of the benchmark that were asked for; a name that another one knows is no mistake."""
    names = a.methods
    if names and len(a.suites or BENCHMARKS) > 1:
        known = {m.name for m in benchmark.methods(None)}
        names = [n for n in names if n in known]
    found = benchmark.methods(names)
    if a.quick and not (a.settings or names):
        found = benchmark.quick_methods()
    return tuple(m for m in found if not a.settings or m.setting in a.settings)


def _wanted(cells: list[str] | None, there: tuple[str, ...]) -> bool:
    return not cells or any(c in there for c in cells)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="compute rows that are missing, then write the pages")
    tune = commands.add_parser("tune", help="choose settings on development problems")
    commands.add_parser("report", help="write the pages and run nothing")
    for sub in (run, tune):
        sub.add_argument("suites", nargs="*", metavar="SUITE", help=f"some of {', '.join(BENCHMARKS)}; all where not given")
        sub.add_argument("--methods", nargs="+", metavar="NAME", help="all where not given")
        sub.add_argument("--cells", nargs="+", metavar="CELL", help="kinds of problem, all where not given")
    run.add_argument("--settings", nargs="+", metavar="SETTING", help='such as "default" and "tuned"; all where not given')
    run.add_argument("--problems", type=int, help="problems of each cell, for every method")
    run.add_argument("--draws", type=int, help="draws of each method")
    size = run.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="one small problem a cell, a few draws; for continuous integration")
    size.add_argument("--full", action="store_true", help="what the pages are made of (the default)")
    run.add_argument("--workers", type=int, default=2, help="processes of one thread each")
    run.add_argument("--out", type=Path, help="folder for results and page, in place of the repository's own")
    run.add_argument("--silent", action="store_true", help="no progress bar")
    return parser


if __name__ == "__main__":
    main()
