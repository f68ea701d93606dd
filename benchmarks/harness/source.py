"""What a row was computed with, as hashes of content: they outlive rebases, and tell when a row may be out of date."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.harness.closure import Code

ROOT = Path(__file__).parent.parent.parent
SHOWN = 10
# Files, pictures and progress: what becomes of draws, and nothing of what they are.
ASIDE = ("posterior.checkpoint", "posterior.draws_io", "posterior.figures", "posterior._progress")
_CODE = Code(ROOT, ASIDE)


@cache
def revision(*names: str) -> str:
    """Hash of the code that dotted names need; comments, docstrings and annotations have no part in it.

    Args:
        names: What a figure was computed with, such as "posterior.TDS".

    Raises:
        ValueError: If there is no such name.
    """
    return _digest((name, code.encode()) for name, code in _CODE.needed(*names).items())


def name_of(function: Callable[..., Any]) -> str:
    """The dotted name of a function; of one that has none, that of its module."""
    named = "<" not in function.__qualname__
    return f"{function.__module__}.{function.__qualname__}" if named else function.__module__


@cache
def weights(prior: Path) -> str:
    """Hash of a prior's folder: weights and settings, without the card."""
    settings = json.loads((prior / "posterior.json").read_text())
    settings.pop("card", None)
    files = sorted(p for p in prior.rglob("*") if p.suffix == ".safetensors" or p.name == "config.json")
    content = [(p.relative_to(prior).as_posix(), p.read_bytes()) for p in files]
    return _digest([*content, ("posterior.json", json.dumps(settings, sort_keys=True).encode())])


@cache
def network(prior: Path) -> str:
    """Hash of the networks in a prior's folder, whatever is tabulated beside them."""
    files = sorted(p for p in prior.glob("*/*") if p.suffix == ".safetensors" or p.name == "config.json")
    return _digest((p.relative_to(prior).as_posix(), p.read_bytes()) for p in files)


def _digest(content: Iterable[tuple[str, bytes]]) -> str:
    found = hashlib.sha256()
    for name, data in content:
        found.update(f"{name} {len(data)}\n".encode() + data)
    return found.hexdigest()[:SHOWN]
