"""Files that several processes write: one process at a time, and each file replaced only once it is whole."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """One process at a time; the lock is the folder's own, so that no file is left, and ends with the process."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def read_json(path: Path, nothing: Any) -> Any:
    """What a file holds; ``nothing`` where there is none."""
    return json.loads(path.read_text()) if path.exists() else nothing


def change_json(path: Path, change: Callable[[Any], Any], nothing: Any, sort_keys: bool = False) -> Any:
    """What a file holds, or ``nothing``, changed and written back; what other processes write meanwhile is kept.

    Returns:
        What it holds then.
    """
    with alone(path.parent):
        value = change(read_json(path, nothing))
        fresh = path.with_suffix(".partial")
        fresh.write_text(json.dumps(value, indent=1, sort_keys=sort_keys) + "\n")
        fresh.replace(path)
    return value
