"""Runs what is missing from a results file, problems side by side in processes of one thread each."""

from __future__ import annotations

import multiprocessing
import queue
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.exact import table
from benchmarks.exact.methods import Method, problems_of, run, takes_part
from benchmarks.exact.scores import scores
from benchmarks.exact.suites import SUITES, Case, build_case

_channel: Any = None


@dataclass(frozen=True)
class Plan:
    """What to run.

    Args:
        methods: Which methods.
        suites: Names of suites.
        cells: Cells, all where None.
        problems: Problems of each cell for every method, its own number where None.
        draws: Draws, each suite's own where None.
        quick: Whether one small problem a cell will do.
    """

    methods: tuple[Method, ...]
    suites: tuple[str, ...]
    cells: tuple[str, ...] | None = None
    problems: int | None = None
    draws: int | None = None
    quick: bool = False

    def jobs(self, done: set[tuple[str, ...]]) -> list[Job]:
        """One for each problem with rows still to be computed, problem by problem so that all cells fill together."""
        found = []
        for name in self.suites:
            for problem in range(max(self._count(m, name) for m in self.methods)):
                for cell in SUITES[name].cells:
                    wanted = tuple(m for m in self.methods if takes_part(m, name) and problem < self._count(m, name))
                    left = tuple(m for m in wanted if (name, cell, str(problem), m.name, m.setting) not in done)
                    if left and (self.cells is None or cell in self.cells):
                        found.append(Job(name, cell, problem, left, self.quick, self.draws))
        return found

    def _count(self, method: Method, suite: str) -> int:
        if self.problems is not None:
            return self.problems
        return 1 if self.quick else problems_of(method, suite)


@dataclass(frozen=True)
class Job:
    """Some methods on one problem."""

    suite: str
    cell: str
    problem: int
    methods: tuple[Method, ...]
    quick: bool
    draws: int | None


def run_plan(plan: Plan, path: Path, workers: int = 2, progress: bool = True) -> int:
    """Compute the rows of ``plan`` that ``path`` does not hold; each is written as soon as it is there.

    Returns:
        How many rows were computed.
    """
    rows = {table.key(r): r for r in table.read(path)}
    jobs = plan.jobs(set(rows))
    total = sum(len(job.methods) for job in jobs)
    with _bar(total, progress) as report:

        def keep(row: table.Row) -> None:
            rows[table.key(row)] = row
            table.write(path, list(rows.values()))
            report(row)

        if workers > 1 and len(jobs) > 1:
            _in_processes(jobs, workers, keep)
        else:
            for job in jobs:
                _work(job, keep)
    return total


def measure(method: Method, case: Case, settings: dict[str, Any] | None = None) -> table.Row:
    """One row; a method that cannot run the problem, or comes to nothing, has its own words for the reason."""
    row = dict.fromkeys(table.COLUMNS, "")
    known = (case.suite, case.cell, str(case.problem), method.name, method.setting)
    row |= dict(zip(table.KEY, known, strict=True))
    row |= {"draws": str(case.draws), "versions": table.versions()}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            out = run(method, case, settings)
    except (ValueError, TypeError, NotImplementedError) as error:
        return row | {"status": "n/a", "reason": _first_line(error)}
    except (ArithmeticError, RuntimeError) as error:
        return row | {"status": "failed", "reason": _first_line(error)}
    found = scores(out.samples, out.weights, case.yardstick, case.floor)
    cost = {"nfe": out.nfe, "vjps": out.vjps, "seconds": out.seconds}
    row |= {k: table.number(v) for k, v in {**found, **cost}.items()}
    return row | {"status": "ok", "point": "yes" if out.point else "", "settings": out.settings}


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else ''}"[:300]


def _work(job: Job, keep: Callable[[table.Row], None]) -> None:
    case = build_case(SUITES[job.suite], job.cell, job.problem, job.quick, job.draws)
    for method in job.methods:
        keep(measure(method, case))


def _start(channel: Any) -> None:
    global _channel
    torch.set_num_threads(1)
    _channel = channel


def _work_apart(job: Job) -> None:
    _work(job, _channel.put)


def _in_processes(jobs: list[Job], workers: int, keep: Callable[[table.Row], None]) -> None:
    context = multiprocessing.get_context("spawn")
    channel = context.Queue()
    with ProcessPoolExecutor(workers, context, _start, (channel,)) as pool:
        pending: list[Future] = [pool.submit(_work_apart, job) for job in jobs]
        left = sum(len(job.methods) for job in jobs)
        try:
            while left:
                try:
                    keep(channel.get(timeout=1))
                    left -= 1
                except queue.Empty:
                    for future in pending:
                        if future.done():
                            future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


@contextmanager
def _bar(total: int, wanted: bool) -> Iterator[Callable[[table.Row], None]]:
    if not wanted:
        yield lambda _: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns) as bar:
        task = bar.add_task("", total=total)
        yield lambda row: bar.update(task, advance=1, description=", ".join(table.key(row)[:4]))
