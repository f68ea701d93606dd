"""Runs what is missing from a results file, problems side by side in processes of one thread each."""

from __future__ import annotations

import multiprocessing
import queue
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import table
from benchmarks.harness.source import revision

_channel: Any = None


@dataclass(frozen=True)
class Method:
    """One line of the tables.

    Args:
        name: A sampler of ours, "deepinv ...", "azula ...", or a method that the benchmark itself brings.
        setting: "default", "tuned", or another name that the benchmark gives to keyword arguments.
    """

    name: str
    setting: str = "default"


class Benchmark(ABC):
    """Problems, methods, and how a method is measured on a problem.

    Attributes:
        name: What the command line calls it.
        module: Where the instance ``BENCHMARKS[name]`` is found by the processes that work on it.
        layout: Columns of its results.
        suites: Names of the families of problems.
    """

    name: str
    module: str
    layout: table.Layout
    suites: tuple[str, ...]

    @abstractmethod
    def cells(self, suite: str) -> tuple[str, ...]:
        """Kinds of problem of a suite."""

    def quick_cells(self, suite: str) -> tuple[str, ...]:
        """Those of a quick run."""
        return self.cells(suite)

    @abstractmethod
    def methods(self, names: list[str] | None = None) -> list[Method]:
        """Those asked for, or all."""

    def quick_methods(self) -> list[Method]:
        """Those of a quick run."""
        return self.methods()

    @abstractmethod
    def problems(self, method: Method, suite: str, cell: str) -> int:
        """How many problems a full run gives the method; none where it takes no part."""

    @abstractmethod
    def build(self, suite: str, cell: str, problem: int, quick: bool = False, draws: int | None = None) -> Any:
        """One problem."""

    def draws(self, method: Method, suite: str) -> int | None:
        """How many draws a full run asks of the method; as many as the problem where None."""
        return None

    @abstractmethod
    def parts(self, method: Method, suite: str, cell: str) -> tuple[str, ...]:
        """Dotted names of what a row is computed with: what makes the problem, and what solves it."""

    def revision(self, method: Method, suite: str, cell: str) -> str:
        """The code that a row of today is computed with."""
        return revision(*self.parts(method, suite, cell))

    def stale(self, row: table.Row) -> bool:
        """Whether a row was computed with something else than one of today would be."""
        return row["revision"] != self.revision(Method(row["method"], row["setting"]), row["suite"], row["cell"])

    @abstractmethod
    def measure(self, method: Method, case: Any, settings: dict[str, Any] | None = None) -> table.Row:
        """One row; a method that cannot run the problem, or comes to nothing, has its own words for the reason."""


@dataclass(frozen=True)
class Plan:
    """What to run.

    Args:
        benchmark: Of what.
        methods: Which methods.
        suites: Names of suites.
        cells: Cells, all, or all of a quick run, where None.
        problems: Problems of each cell for every method, its own number where None.
        draws: Draws, each method's own where None.
        quick: Whether one small problem a cell will do.
        renew: Whether rows that are out of date are computed again.
        first: Number of the first problem.
    """

    benchmark: Benchmark
    methods: tuple[Method, ...]
    suites: tuple[str, ...]
    cells: tuple[str, ...] | None = None
    problems: int | None = None
    draws: int | None = None
    quick: bool = False
    renew: bool = False
    first: int = 0

    def jobs(self, done: set[tuple[str, ...]]) -> list[Job]:
        """One for each problem with rows still to be computed, problem by problem so that all cells fill together."""
        found = []
        for name in self.suites:
            own = self.benchmark.quick_cells(name) if self.quick and self.cells is None else self.benchmark.cells(name)
            cells = [c for c in own if self.cells is None or c in self.cells]
            counts = {(m, c): self._count(m, name, c) for m in self.methods for c in cells}
            for problem in range(self.first, self.first + max(counts.values(), default=0)):
                for cell in cells:
                    wanted = [m for m in self.methods if problem < self.first + counts[m, cell]]
                    left = [m for m in wanted if (name, cell, str(problem), m.name, m.setting) not in done]
                    alike: dict[int | None, list[Method]] = {}
                    for method in left:
                        alike.setdefault(self._draws(method, name), []).append(method)
                    for draws, these in alike.items():
                        found.append(Job(self.benchmark, name, cell, problem, tuple(these), self.quick, draws))
        return found

    def _draws(self, method: Method, suite: str) -> int | None:
        return self.draws or (None if self.quick else self.benchmark.draws(method, suite))

    def _count(self, method: Method, suite: str, cell: str) -> int:
        own = self.benchmark.problems(method, suite, cell)
        wanted = self.problems if self.problems is not None else 1 if self.quick else own
        return wanted if own else 0


@dataclass(frozen=True)
class Job:
    """Some methods on one problem."""

    benchmark: Benchmark
    suite: str
    cell: str
    problem: int
    methods: tuple[Method, ...]
    quick: bool
    draws: int | None

    def __call__(self, keep: Callable[[table.Row], None]) -> None:
        """Compute the rows, one at a time."""
        case = self.benchmark.build(self.suite, self.cell, self.problem, self.quick, self.draws)
        for method in self.methods:
            keep(self.benchmark.measure(method, case))

    def __reduce__(self) -> tuple[Any, ...]:
        rest = (self.suite, self.cell, self.problem, self.methods, self.quick, self.draws)
        return _job, (self.benchmark.module, self.benchmark.name, rest)


def _job(module: str, name: str, rest: tuple[Any, ...]) -> Job:
    return Job(import_module(module).BENCHMARKS[name], *rest)


def run_plan(plan: Plan, path: Path, workers: int = 2, progress: bool = True) -> int:
    """Compute the rows of ``plan`` that ``path`` does not hold; each is written as soon as it is there.

    Several runs may share a file.

    Returns:
        How many rows were computed.
    """
    layout = plan.benchmark.layout
    rows = {table.key(r): r for r in layout.read(path)}
    jobs = plan.jobs({k for k, row in rows.items() if not (plan.renew and plan.benchmark.stale(row))})
    total = sum(len(job.methods) for job in jobs)
    with _bar(total, progress) as report:

        def keep(row: table.Row) -> None:
            layout.add(path, row)
            report(row)

        if workers > 1 and len(jobs) > 1:
            _in_processes(jobs, workers, keep)
        else:
            for job in jobs:
                job(keep)
    return total


def _start(channel: Any) -> None:
    global _channel
    from posterior._memory import keep_large_blocks

    torch.set_num_threads(1)
    keep_large_blocks()
    _channel = channel


def _work_apart(job: Job) -> None:
    job(_channel.put)


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
