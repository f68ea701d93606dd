"""Runs what is missing from a results file, side by side in processes of one thread each."""

from __future__ import annotations

import multiprocessing
import queue
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any, Self

from benchmarks.harness import table
from benchmarks.harness.device import CPU, lacks, prepare
from benchmarks.harness.source import revision

Task = Callable[[Callable[[Any], None]], None]
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
        device: Where networks run.
    """

    name: str
    module: str
    layout: table.Layout
    suites: tuple[str, ...]
    device: str = CPU

    def on(self, device: str) -> Self:
        """This benchmark with its networks on a device.

        Raises:
            ValueError: If they do not run there.
        """
        if device != self.device:
            raise ValueError(f"benchmark {self.name} runs on the {self.device.upper()} alone, not on '{device}'")
        return self

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
        """One for each problem with rows still to be computed, problem by problem so that all cells fill together.

        On another device than the CPU one for each row: there are more processes there than problems, and making a problem
        costs a process of the CPU, of which there are enough.
        """
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
                        for part in [these] if self.benchmark.device == CPU else [[m] for m in these]:
                            found.append(Job(self.benchmark, name, cell, problem, tuple(part), self.quick, draws))
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
        """Compute the rows, one at a time; one for which this machine lacks something says so."""
        for method in self.methods:
            try:
                case = _problem(self.benchmark, self.suite, self.cell, self.problem, self.quick, self.draws)
                row = self.benchmark.measure(method, case)
            except Exception as error:
                if not lacks(error):
                    raise
                known = (self.suite, self.cell, str(self.problem), method.name, method.setting)
                row = self.benchmark.layout.blank(known, self.draws or 0)
                row |= {"status": table.LACKING, "reason": table.first_line(error)}
            keep(row)

    def __reduce__(self) -> tuple[Any, ...]:
        rest = (self.suite, self.cell, self.problem, self.methods, self.quick, self.draws)
        return _job, (self.benchmark.module, self.benchmark.name, self.benchmark.device, rest)


@lru_cache(maxsize=2)
def _problem(benchmark: Benchmark, *which: Any) -> Any:
    return benchmark.build(*which)


@lru_cache(maxsize=8)
def _benchmark(module: str, name: str, device: str) -> Benchmark:
    return import_module(module).BENCHMARKS[name].on(device)


def _job(module: str, name: str, device: str, rest: tuple[Any, ...]) -> Job:
    return Job(_benchmark(module, name, device), *rest)


def run_plan(plan: Plan, path: Path, workers: int = 2, progress: bool = True) -> int:
    """Compute the rows of ``plan`` that ``path`` does not hold; each is written as soon as it is there.

    Several runs may share a file. Rows that an earlier one could not compute for want of a package or of memory are tried
    again.

    Returns:
        How many rows were computed.
    """
    layout = plan.benchmark.layout
    rows = {table.key(r): r for r in layout.read(path) if r["status"] != table.LACKING}
    jobs = plan.jobs({k for k, row in rows.items() if not (plan.renew and plan.benchmark.stale(row))})
    total = sum(len(job.methods) for job in jobs)
    with _bar(total, progress) as report:

        def keep(row: table.Row) -> None:
            layout.add(path, row)
            report(row)

        work(jobs, total, keep, workers, plan.benchmark.device)
    return total


def work(tasks: Sequence[Task], total: int, keep: Callable[[Any], None], workers: int = 1, device: str = CPU) -> None:
    """Do tasks side by side in processes, or here where one is enough.

    Args:
        tasks: Each is called with a function and calls that with what it finds.
        total: How many things they find.
        keep: Is called here with each of them as soon as it is there.
        workers: Processes.
        device: Where their networks run.
    """
    workers = min(workers, len(tasks))
    if workers > 1:
        _in_processes(tasks, total, keep, workers, device)
        return
    prepare(device)
    for task in tasks:
        task(keep)


def _start(channel: Any, device: str, workers: int) -> None:
    global _channel
    prepare(device, workers)
    _channel = channel


def _work_apart(task: Task) -> None:
    task(_channel.put)


def _in_processes(tasks: Sequence[Task], total: int, keep: Callable[[Any], None], workers: int, device: str) -> None:
    context = multiprocessing.get_context("spawn")
    channel = context.Queue()
    with ProcessPoolExecutor(workers, context, _start, (channel, device, workers)) as pool:
        pending: list[Future] = [pool.submit(_work_apart, task) for task in tasks]
        left = total
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
