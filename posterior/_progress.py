"""A progress bar that leaves Python's random state alone."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def bar(title: str, **fields: str) -> Iterator[Callable[..., None]]:
    """A bar with time taken and time left, on the error stream.

    Args:
        title: What is going on.
        **fields: Texts to show, by name, with ``{}`` where their number goes.

    Yields:
        A function of ``completed``, ``total`` and the numbers of ``fields``, by name.
    """
    # rich draws from Python's global generator, as it is imported and as it styles text.
    state = random.getstate()
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn(title),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        *(TextColumn(text.replace("{}", f"{{task.fields[{name}]}}")) for name, text in fields.items()),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    blank: dict[str, Any] = dict.fromkeys(fields, 0)
    try:
        with Progress(*columns, console=Console(stderr=True)) as shown:
            task = shown.add_task(title, total=None, **blank)

            def update(**numbers: Any) -> None:
                shown.update(task, **numbers)

            yield update
    finally:
        random.setstate(state)
