"""What the figures are given, looked at before anything is drawn."""

from __future__ import annotations

from typing import Any


def check_given(owner: str, found: Any, wanted: type, source: str) -> None:
    """Raise TypeError unless ``found`` is what the function of `posterior.uncertainty` that ``source`` names returns."""
    if not isinstance(found, wanted):
        raise TypeError(f"plots.{owner}: got a {type(found).__name__}; wanted {wanted.__name__}, which {source} returns")
