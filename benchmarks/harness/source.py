"""What a row was computed with, as hashes of content: they outlive rebases, and tell when a row may be out of date."""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
# What has a part in figures: of every method, and of our samplers alone.
ALWAYS = (
    *("operators", "posterior/priors", "posterior/likelihoods", "posterior/problem.py", "posterior/linalg.py"),
    *("posterior/svd.py", "posterior/recipes/mri", "posterior/recipes/weather"),
)
SAMPLING = (
    *("posterior/samplers", "posterior/guidance", "posterior/integrators.py", "posterior/schedules.py"),
    *("posterior/driver.py", "posterior/draws.py"),
)
NEVER = ("posterior/priors/training/",)
SHOWN = 10


@cache
def revision(sampled: bool = True) -> str:
    """Hash of the code behind a figure; comments, docstrings and annotations have no part in it.

    Args:
        sampled: Whether our samplers had a part; without them a change to a sampler changes nothing.
    """
    places = [ROOT / name for name in (*ALWAYS, *(SAMPLING if sampled else ()))]
    files = [p for place in places for p in ([place] if place.suffix == ".py" else sorted(place.rglob("*.py")))]
    names = [(p.relative_to(ROOT).as_posix(), p) for p in files if p.exists()]
    return _digest((name, _code(p.read_text()).encode()) for name, p in names if not name.startswith(NEVER))


@cache
def weights(prior: Path) -> str:
    """Hash of a prior's folder: weights and settings, without the card."""
    settings = json.loads((prior / "posterior.json").read_text())
    settings.pop("card", None)
    files = sorted(p for p in prior.rglob("*") if p.suffix == ".safetensors" or p.name == "config.json")
    content = [(p.relative_to(prior).as_posix(), p.read_bytes()) for p in files]
    return _digest([*content, ("posterior.json", json.dumps(settings, sort_keys=True).encode())])


def _code(text: str) -> str:
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if ast.get_docstring(node, clean=False) is not None:
                node.body = node.body[1:] or [ast.Pass()]
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                node.returns = None
        elif isinstance(node, ast.arg):
            node.annotation = None
    return ast.unparse(tree)


def _digest(content: Iterable[tuple[str, bytes]]) -> str:
    found = hashlib.sha256()
    for name, data in content:
        found.update(f"{name} {len(data)}\n".encode() + data)
    return found.hexdigest()[:SHOWN]
