"""Draws from p(x | y): a pretrained prior, a forward operator, and an uncertainty map that can be trusted."""

from __future__ import annotations

from typing import Any

import lazy_loader

_public, _, __all__ = lazy_loader.attach_stub(__name__, __file__)
__all__ += ["__version__"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("posterior")
    return _public(name)


def __dir__() -> list[str]:
    return __all__
