"""Forward operators, y = A(x): one instrument family per file, each a ``deepinv.physics.Physics``.

``import operators`` is cheap: torch and deepinv are imported when a name below is first used.
"""

from importlib import import_module
from typing import Any

_EXPORTS = {
    "MRI": "mri",
    "MultiCoilMRI": "mri",
    "birdcage_maps": "coils",
    "calibration_region": "coils",
    "cartesian_mask": "masks",
    "compress_coils": "coils",
    "espirit": "coils",
    "espirit_maps": "coils",
    "noise_covariance": "coils",
    "poisson_disc_mask": "masks",
    "prewhiten": "coils",
}

__all__ = list(_EXPORTS)


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_EXPORTS[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS})
