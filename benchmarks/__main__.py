"""Run the benchmarks, tune what is compared, write the pages.

python -m benchmarks run                        what is missing from benchmarks/results of every suite, then the pages
python -m benchmarks run mri --methods MMPS     one suite, some methods
python -m benchmarks run mixture                one family of problems of the suite exact
python -m benchmarks run --quick                one small problem a cell, a few draws, into benchmarks/results/quick
python -m benchmarks run blur --renew           also rows of that suite that were computed with other code or weights
python -m benchmarks report                     the pages from the results, nothing run
python -m benchmarks tune mri                   settings of baselines and peers, chosen on development problems
python -m benchmarks run mri --device cuda --workers 12 --out FOLDER    networks on a GPU, into a folder of its own
python -m benchmarks merge FOLDER               its rows, maps and settings into benchmarks/results, then the pages
"""

from __future__ import annotations

import argparse
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.exact import tuning as exact_tuning
from benchmarks.exact.benchmark import LAYOUT as EXACT_LAYOUT
from benchmarks.exact.methods import LIBRARIES, TUNED as EXACT_TUNED_HERE
from benchmarks.exact.report import write_pages
from benchmarks.fields import tuning as fields_tuning
from benchmarks.fields.maps import FOLDER
from benchmarks.fields.methods import TUNED
from benchmarks.fields.report import write_report
from benchmarks.harness.device import CPU
from benchmarks.harness.files import read_json
from benchmarks.harness.runner import Benchmark, Method, Plan, run_plan
from benchmarks.registry import BENCHMARKS, DOCS, FIELDS_RESULTS, MAPS, RESULTS, results_path
from posterior._memory import keep_large_blocks

EXACT_TUNED = "exact-tuned.json"  # in a folder of a run's own, where the log of the other suites lies too


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = _parser()
    a = parser.parse_args(arguments)
    if unknown := set(getattr(a, "suites", ())) - {*BENCHMARKS, *(s for b in BENCHMARKS.values() for s in b.suites)}:
        parser.error(f"no suite is called {', '.join(sorted(unknown))}; there are {', '.join(BENCHMARKS)}")
    if words := _mistake(a):
        parser.error(words)
    torch.set_num_threads(1)
    keep_large_blocks()
    {"run": _run, "report": lambda _: _report(), "tune": _tune, "merge": _merge}[a.command](a)


def _mistake(a: argparse.Namespace) -> str:
    """What is asked for and is not there, or is no number of anything; empty where all is well."""
    if missing := [str(f) for f in getattr(a, "folders", ()) if not f.is_dir()]:
        return f"no folder is called {', '.join(missing)}"
    for name, least in {"problems": 1, "draws": 1, "first": 0, "workers": 1}.items():
        value = getattr(a, name, None)
        if value is not None and value < least:
            return f"--{name} is {value}; wanted at least {least}"
    there = list(_chosen(a)) if hasattr(a, "suites") else []
    cells = dict.fromkeys(c for b, suites in there for s in suites for c in b.cells(s))
    settings = dict.fromkeys(m.setting for b, _ in there for m in b.methods())
    for kind, asked, known in (("cell", "cells", cells), ("setting", "settings", settings)):
        if unknown := [name for name in getattr(a, asked, None) or () if name not in known]:
            return f"no {kind} is called {', '.join(unknown)}; there are {'; '.join(known)}"
    return ""


def _run(a: argparse.Namespace) -> None:
    began = time.monotonic()
    apart = a.out or (RESULTS / "quick" if a.quick else None)
    if not a.quick:
        os.environ[FOLDER] = str((apart or MAPS.parent) / MAPS.name)
    for benchmark, suites in _chosen(a):
        path = apart / f"{benchmark.name}.csv" if apart else results_path(benchmark.name)
        wanted = tuple(s for s in suites if not a.cells or set(a.cells) & set(benchmark.cells(s)))
        cells = tuple(a.cells) if a.cells else None
        plan = Plan(benchmark, _methods(benchmark, a), wanted, cells, a.problems, a.draws, a.quick, a.renew, a.first)
        count = run_plan(plan, path, a.workers, progress=not a.silent)
        print(f"{benchmark.name}: {count} rows computed, {os.path.relpath(path)}")
    print(f"{time.monotonic() - began:.0f} s")
    if a.no_pages:
        return
    if apart is None:
        _report()
        return
    write_report(apart, apart / "results.md", apart / "results.html", None if a.quick else apart / MAPS.name)
    rows = EXACT_LAYOUT.read(apart / "exact.csv")
    if rows:
        write_pages(rows, apart / "results-exact.md", None)


def _report() -> None:
    rows = EXACT_LAYOUT.read(results_path("exact"))
    if rows:
        write_pages(rows, DOCS / "results-exact.md", DOCS / "choosing-a-sampler.md")
    write_report(FIELDS_RESULTS, DOCS / "results-benchmarks.md", DOCS / "results-benchmarks.html", MAPS)
    for name, benchmark in BENCHMARKS.items():
        found = benchmark.layout.read(results_path(name))
        print(f"{name}: {sum(map(benchmark.stale, found))} of {len(found)} rows are out of date")


def _merge(a: argparse.Namespace) -> None:
    """Rows of other folders, their maps and the settings chosen there, each in the place of what it is another of."""
    for folder in a.folders:
        for name, benchmark in BENCHMARKS.items():
            rows = benchmark.layout.read(folder / f"{name}.csv")
            if rows:
                fresh, replaced = benchmark.layout.merge(results_path(name), rows)
                print(f"{folder / name}.csv: {len(rows)} rows, {fresh} new, {replaced} in the place of others")
        if (folder / MAPS.name).is_dir():
            shutil.copytree(folder / MAPS.name, MAPS, dirs_exist_ok=True)
        if log := fields_tuning.read(folder / TUNED.name):
            fields_tuning.merge(TUNED, log)
        if choices := read_json(folder / EXACT_TUNED, {}):
            exact_tuning.merge(EXACT_TUNED_HERE, choices)
    if not a.no_pages:
        _report()


def _tune(a: argparse.Namespace) -> None:
    wanted = []
    for benchmark, suites in _chosen(a):
        if benchmark.name == "exact":
            peers = list(dict.fromkeys(m.name for m in _methods(benchmark, a) if m.name.split()[0] in LIBRARIES))
            for suite in (s for s in suites if s in exact_tuning.CELLS):
                exact_tuning.tune(suite, peers, a.out / EXACT_TUNED if a.out else EXACT_TUNED_HERE, a.renew)
            continue
        wanted += fields_tuning.searches(benchmark.name, _names(benchmark, a), a.cells, a.settings, a.device)
    count = fields_tuning.tune(wanted, a.out / TUNED.name if a.out else TUNED, a.workers, a.renew)
    print(f"{count} searches done, {len(wanted) - count} were there")


def _chosen(a: argparse.Namespace) -> Iterator[tuple[Benchmark, tuple[str, ...]]]:
    """The benchmarks asked for, on their device, each with its families of problems."""
    for name, benchmark in BENCHMARKS.items():
        whole = not a.suites or name in a.suites
        suites = benchmark.suites if whole else tuple(s for s in benchmark.suites if s in a.suites)
        if suites:
            yield benchmark.on(a.device), suites


def _names(benchmark: Benchmark, a: argparse.Namespace) -> list[str] | None:
    """Methods of the benchmark that were asked for, all where None; a name that another one knows is no mistake."""
    if not a.methods:
        return None
    own = {m.name for m in benchmark.methods()}
    elsewhere = {m.name for b, _ in _chosen(a) for m in b.methods()}
    return [n for n in a.methods if n in own or n not in elsewhere]


def _methods(benchmark: Benchmark, a: argparse.Namespace) -> tuple[Method, ...]:
    """Those of the benchmark that were asked for, with their settings."""
    names, settings = _names(benchmark, a), a.settings
    if names is None and getattr(a, "quick", False) and not settings:
        return tuple(benchmark.quick_methods())
    return tuple(m for m in benchmark.methods(names) if not settings or m.setting in settings)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="compute rows that are missing, then write the pages")
    tuning = commands.add_parser("tune", help="choose settings on development problems")
    commands.add_parser("report", help="write the pages and run nothing")
    merging = commands.add_parser("merge", help="take over what runs left in other folders, then write the pages")
    merging.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="what a run was given as --out")
    for sub in (run, merging):
        sub.add_argument("--no-pages", action="store_true", help="write no pages")
    for sub in (run, tuning):
        sub.add_argument("suites", nargs="*", metavar="SUITE", help=f"some of {', '.join(BENCHMARKS)}; all where not given")
        sub.add_argument("--methods", nargs="+", metavar="NAME", help="all where not given")
        sub.add_argument("--cells", nargs="+", metavar="CELL", help="kinds of problem, all where not given")
        words = 'such as "default", "tuned" and "equal calls"; all where not given'
        sub.add_argument("--settings", nargs="+", metavar="SETTING", help=words)
        sub.add_argument("--device", default=CPU, help="where networks run, such as cuda; baselines stay on the CPU")
        sub.add_argument("--workers", type=int, default=2, help="processes of one thread each, which share the device")
        sub.add_argument("--renew", action="store_true", help="also what is there: rows out of date, settings chosen before")
        sub.add_argument("--out", type=Path, help="folder for what is found, in place of the repository's own")
    run.add_argument("--problems", type=int, help="problems of each cell, for every method")
    first = "number of the first problem; from 1000 on those that settings are chosen on, which no page shows"
    run.add_argument("--first", type=int, default=0, help=f"{first}; exact: from 2000 on, a table of their own")
    run.add_argument("--draws", type=int, help="draws of each method")
    size = run.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="one small problem a cell, a few draws; for continuous integration")
    size.add_argument("--full", action="store_true", help="what the pages are made of (the default)")
    run.add_argument("--silent", action="store_true", help="no progress bar")
    return parser


if __name__ == "__main__":
    main()
