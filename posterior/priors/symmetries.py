"""Symmetries of a prior's law, and fields seen as they have it."""

from __future__ import annotations

from torch import Tensor

SYMMETRIES = ("flip-x", "flip-y", "transpose")


def checked(symmetries: tuple[str, ...], owner: str) -> tuple[str, ...]:
    """``symmetries`` in the order of `SYMMETRIES`.

    Raises:
        ValueError: If one is not known; ``owner`` is who asks.
    """
    if unknown := sorted(set(symmetries) - set(SYMMETRIES)):
        raise ValueError(f"{owner}: symmetry {unknown[0]!r}; known: {', '.join(SYMMETRIES)}")
    return tuple(s for s in SYMMETRIES if s in symmetries)


def composed(symmetries: tuple[str, ...], number: int) -> tuple[str, ...]:
    """The symmetries that make up orientation ``number``: those whose bit is set, of as many bits as there are symmetries."""
    return tuple(s for bit, s in enumerate(symmetries) if number >> bit & 1)


def turn(x: Tensor, parts: tuple[str, ...], back: bool = False) -> Tensor:
    """Images (..., H, W) mirrored, part by part, or turned back again; only square ones are transposed."""
    for part in reversed(parts) if back else parts:
        if part != "transpose":
            x = x.flip(-1 if part == "flip-x" else -2)
        elif x.shape[-1] == x.shape[-2]:
            x = x.transpose(-1, -2)
    return x
