"""Fields to train on, from files, with what they say about themselves."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from posterior.io.fields import open_fields
from posterior.io.kspace import read_array
from posterior.io.registry import fetch
from posterior.priors.labels import Labels
from posterior.recipes.training.config import DataConfig

if TYPE_CHECKING:
    from xarray import DataArray

_ARRAY = "fields (N, H, W) or (N, C, H, W)"
_KEPT = ("standard_name", "long_name", "units", "axis", "positive")


@dataclass(frozen=True)
class Fields:
    """Fields in physical units.

    Args:
        train: (N, C, H, W), float64; 0 at points that do not exist.
        develop: Held-out fields, (M, C, H, W).
        times: Of the training fields, (N,) datetime64, or None where they have none.
        develop_times: Of the held-out fields.
        units: Physical units.
        labels: Name, axes, coordinates, and the mask of points that exist.
    """

    train: Tensor
    develop: Tensor
    times: np.ndarray | None
    develop_times: np.ndarray | None
    units: str
    labels: Labels | None


def load_fields(config: DataConfig, folder: Path = Path()) -> Fields:
    """The fields that a configuration names.

    Args:
        config: Where they are.
        folder: What a relative ``config.file`` is relative to.

    Raises:
        FileError: If a file cannot be read (see `posterior.io.open_fields`).
        ValueError: If the variables differ in their grids, a period has no field, periods for training and development
            overlap, or values are missing at some times only.
    """
    if config.registry is not None:
        path = fetch(config.registry)
    else:
        file = config.file or ""
        path = file if "://" in file else folder / file
    if isinstance(path, Path) and path.suffix == ".npy":
        return _from_array(config, read_array(path, _ARRAY, mapped=True), path)
    arrays = [
        open_fields(
            path,
            name,
            units=config.units,
            source_units=config.source_units,
            coordinate_units=config.coordinate_units or None,
            rename=True,
        )
        for name in config.variables or (None,)
    ]
    dims = ("time", "latitude", "longitude")
    arrays = [a.squeeze([d for d, size in a.sizes.items() if size == 1 and d not in dims], drop=True) for a in arrays]
    first = arrays[0]
    for array in arrays:
        if set(array.dims) != set(dims) or array.sizes != first.sizes:
            raise ValueError(f"{path}: {array.name!r} has axes {dict(array.sizes)}; wanted {', '.join(dims)}, the same for all")
        if array.attrs["units"] != first.attrs["units"]:
            raise ValueError(
                f"{path}: {array.name!r} is in {array.attrs['units']!r}, {first.name!r} in {first.attrs['units']!r}"
            )
        for d in dims:
            here, there = array[d].values, first[d].values
            if not (np.array_equal(here, there) if d == "time" else np.allclose(here, there, rtol=0, atol=1e-4)):
                raise ValueError(f"{path}: {array.name!r} has other {d}s than {first.name!r}; wanted the same grid for all")
    arrays = [array.transpose(*dims) for array in arrays]
    if first["time"].dtype.kind != "M":
        raise ValueError(f"{path}: the calendar of its times is {first['time'].dt.calendar!r}; wanted the standard one")
    times = first["time"].values.astype("datetime64[s]")
    rows = _periods(config, times)
    parts = [np.stack([np.asarray(a.values[r], dtype=np.float64) for a in arrays], axis=1) for r in rows]
    exists = np.isfinite(parts[0][0])
    for part in parts:
        if (np.isfinite(part) != exists).any():
            raise ValueError(f"{path}: values are missing at some times only; wanted points that exist always or never")
    if not exists.any():
        raise ValueError(f"{path}: all values of data.train are missing")
    train, develop = (torch.from_numpy(np.where(exists, part, 0.0)) for part in parts)
    mask = None if exists.all() else torch.from_numpy(exists)
    names = [str(a.name) for a in arrays]
    coords = {"channel": np.array(names)} | {d: _coordinate(first[d]) for d in dims[1:]}
    attrs = {k: v for k, v in first.attrs.items() if k in ("standard_name", "long_name") and v != "unknown" and len(names) == 1}
    labels = Labels(config.name or "_".join(names), ("channel", *dims[1:]), coords, attrs, mask)
    return Fields(train, develop, times[rows[0]], times[rows[1]], first.attrs["units"], labels)


def _coordinate(values: DataArray) -> DataArray:
    return values.drop_vars([n for n in values.coords if n != values.name]).assign_attrs(
        {k: v for k, v in values.attrs.items() if k in _KEPT}
    )


def _from_array(config: DataConfig, array: np.ndarray, path: Path) -> Fields:
    if array.ndim == 3:
        array = array[:, None]
    if array.ndim != 4 or 0 in array.shape or array.dtype.kind not in "fiu":
        raise ValueError(f"{path}: holds {array.dtype} of shape {array.shape}; wanted {_ARRAY}")
    rows = _periods(config, np.arange(len(array)))
    train, develop = (torch.from_numpy(np.asarray(array[r], dtype=np.float64)) for r in rows)
    if not (torch.isfinite(train).all() and torch.isfinite(develop).all()):
        raise ValueError(f"{path}: has values that are not finite")
    labels = None if config.name is None else Labels(config.name, ("channel", "y", "x"))
    return Fields(train, develop, None, None, config.units or "1", labels)


def _periods(config: DataConfig, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the training and of the held-out fields; ``places`` are times or numbers."""
    train, develop = (_rows(name, periods, places) for name, periods in (("train", config.train), ("develop", config.develop)))
    if np.intersect1d(train, develop).size:
        raise ValueError("data.develop: has fields that are in data.train as well")
    return train, develop


def _rows(name: str, periods: tuple[tuple[Any, Any], ...], places: np.ndarray) -> np.ndarray:
    inside = np.zeros(len(places), bool)
    for first, last in periods:
        where = f"data.{name}: [{first!r}, {last!r}]"
        if places.dtype.kind == "M":
            try:
                start, end = (np.datetime64(v) for v in (first, last))
            except (TypeError, ValueError) as error:
                raise ValueError(f"{where}: wanted two dates, as '2001-01-01'") from error
            # Up to the end of the last day, hour or whatever the text counts in.
            chosen = (places >= start) & (places < (end + 1).astype("datetime64[s]"))
        else:
            if not (isinstance(first, int) and isinstance(last, int)):
                raise ValueError(f"{where}: the fields have no times; wanted two whole numbers")
            chosen = (places >= first) & (places <= last)
        if not chosen.any():
            raise ValueError(f"{where}: no field lies in it; they go from {places[0]} to {places[-1]}")
        inside |= chosen
    return np.flatnonzero(inside)
