"""Trials side by side, in processes of their own."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any

import cloudpickle
import torch

_run: Callable[[int], Any] | None = None


def in_processes(run: Callable[[int], Any], numbers: Iterable[int], workers: int) -> Iterator[None]:
    """Call ``run`` with each number, in ``workers`` processes; yields as each is done, in any order.

    What it returns is dropped: it keeps its results in files. The processes share the threads of this one.

    Raises:
        ValueError: If ``run`` cannot be sent to another process.
    """
    try:
        packed = cloudpickle.dumps(run)  # the noise models of deepinv hold lambdas, which pickle refuses
    except Exception as error:  # whatever an object says of being taken apart
        raise ValueError(f"calibrate: an argument cannot be sent to workers ({error}); use workers=1, or shard=") from error
    threads = max(1, torch.get_num_threads() // workers)
    # Not by fork: a copy of a process whose OpenMP threads are waiting hangs.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _start, (packed, threads)) as pool:
        pending = [pool.submit(_work, i) for i in numbers]
        try:
            for future in as_completed(pending):
                future.result()
                yield None
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _start(packed: bytes, threads: int) -> None:
    global _run
    from posterior._memory import keep_large_blocks

    torch.set_num_threads(threads)
    keep_large_blocks()
    _run = cloudpickle.loads(packed)  # what the parent packed a moment ago


def _work(i: int) -> None:
    assert _run is not None
    try:
        _run(i)
    except Exception as error:
        # Those of other libraries may not survive the way to another process.
        if type(error).__module__.split(".")[0] in ("builtins", "posterior", "torch"):
            raise
        raise RuntimeError(f"{type(error).__name__}: {error}") from None
