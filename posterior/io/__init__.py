"""Reading and writing: the registry of datasets, and the files that operators, data and images come from.

``import posterior.io`` is cheap: what a reader needs is imported when a name below is first used.
"""

from importlib import import_module
from typing import Any

_EXPORTS = {
    "FileError": "_files",
    "Image": "images",
    "KSpace": "kspace",
    "ObservationSummary": "observations",
    "UnitError": "units",
    "convert_units": "fields",
    "fetch": "registry",
    "find_axes": "axes",
    "open_fields": "fields",
    "read_image": "images",
    "read_ismrmrd": "ismrmrd",
    "read_kspace": "kspace",
    "read_noise": "ismrmrd",
    "read_observations": "observations",
    "read_psfs": "psf",
    "summarise": "observations",
    "wind_components": "observations",
    "write_image": "images",
    "write_observations": "tables",
}

__all__ = list(_EXPORTS)


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_EXPORTS[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS})
