"""What a row was computed with, as hashes of content: they outlive rebases, and tell when a row is out of date."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PACKAGES = ("operators", "posterior")
IDLE = ("posterior/cli/", "posterior/figures/")  # have no part in any figure
SAMPLING = (
    *("posterior/samplers/", "posterior/guidance/", "posterior/integrators.py", "posterior/schedules.py"),
    *("posterior/driver.py", "posterior/draws", "posterior/unconditional.py"),
)
SHOWN = 10


@cache
def revision(sampled: bool = True) -> str:
    """Hash of the source of both packages, commands and figures left out.

    Args:
        sampled: Whether our samplers had a part; without them a change to a sampler changes nothing.
    """
    left_out = IDLE if sampled else (*IDLE, *SAMPLING)
    files = sorted(p.relative_to(ROOT).as_posix() for name in PACKAGES for p in (ROOT / name).rglob("*.py"))
    return _digest((name, (ROOT / name).read_bytes()) for name in files if not name.startswith(left_out))


@cache
def weights(prior: Path) -> str:
    """Hash of a prior's folder: weights and settings, without the card."""
    settings = json.loads((prior / "posterior.json").read_text())
    settings.pop("card", None)
    files = sorted(p for p in prior.rglob("*") if p.suffix == ".safetensors" or p.name == "config.json")
    content = [(p.relative_to(prior).as_posix(), p.read_bytes()) for p in files]
    return _digest([*content, ("posterior.json", json.dumps(settings, sort_keys=True).encode())])


def _digest(content: Iterable[tuple[str, bytes]]) -> str:
    found = hashlib.sha256()
    for name, data in content:
        found.update(f"{name} {len(data)}\n".encode() + data)
    return found.hexdigest()[:SHOWN]
