"""Figures worth printing, one call each. All return matplotlib figures that pyplot knows nothing of.

Of draws: `reconstruction`, `samples`, `field`, `profile`, `components`. Of a test of calibration: `coverage`, `rank_histogram`,
`ecdf`, `spread_skill`, `sparsification`, `reliability`, `residuals`, and all of them, `assessment`. Those with one set of axes
take ``ax=``, to be put together.
"""

from __future__ import annotations

import importlib
from typing import Any

_PUBLIC = {
    "assessment": "uncertainty.plots.overview",
    "components": "uncertainty.plots.maps",
    "coverage": "uncertainty.plots.calibration",
    "ecdf": "uncertainty.plots.calibration",
    "field": "uncertainty.plots.maps",
    "profile": "uncertainty.plots.maps",
    "rank_histogram": "uncertainty.plots.calibration",
    "reconstruction": "figures.panel",
    "reliability": "uncertainty.plots.skill",
    "residuals": "uncertainty.plots.skill",
    "samples": "uncertainty.plots.maps",
    "sparsification": "uncertainty.plots.skill",
    "spread_skill": "uncertainty.plots.skill",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:  # noqa: ANN401
    if name not in _PUBLIC:
        raise AttributeError(f"module 'posterior.uncertainty.plots' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"posterior.{_PUBLIC[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
