"""Gridded fields from NetCDF, Zarr, GRIB and climate4R's R files, as xarray: lazy, with names, units and order kept."""

from __future__ import annotations

import gc
import io
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from posterior.io._files import FileError, first_line, magic, needs, read_bytes
from posterior.io.axes import check_axes, find_axes, rename_axes
from posterior.io.units import conversion

if TYPE_CHECKING:
    from xarray import DataArray, Dataset

_FORMATS = "NetCDF, Zarr, GRIB or climate4R's .rda"
_ZARR_FILES = ("zarr.json", ".zgroup", ".zmetadata")
_PACKED = (b"\x1f\x8b", b"BZ", b"\xfd7", b"PK")
_VALID = {"valid_min": (0,), "valid_max": (1,), "valid_range": (0, 1)}  # and which ends of a range they give
_PACKING = {"scale_factor": 1.0, "add_offset": 0.0}
_IN_UNITS = (*_VALID, "actual_range")


def open_fields(
    path: str | Path,
    variable: str | None = None,
    *,
    known_as: Collection[str] = (),
    units: str | None = None,
    source_units: str | None = None,
    coordinate_units: Mapping[str, str] | None = None,
    rename: bool = False,
    chunks: str | int | Mapping[str, int] | None = "auto",
    grib_keys: Mapping[str, Any] | None = None,
) -> DataArray:
    """One variable of a gridded file, opened without loading it.

    Names, attributes, calendar and the direction of every axis stay as the file has them, but a region across Greenwich that
    is cut in two (0, 5, 350, 355) comes in one piece; fill values become NaN and
    packed integers the numbers they stand for. NaN is also what lies outside ``valid_range``, ``valid_min`` or ``valid_max``,
    which packed files give packed: these attributes come back in the unit of the field. The format is told from the content,
    not from the name. Packed files (``.nc.gz``, ``.rda``) are small enough to be read whole; of all others only the coordinates
    are read. A block that a Zarr store lacks reads as its fill value: that is how Zarr stores gaps, and a damaged store cannot
    be told from it.

    Args:
        path: File, Zarr folder, or address of a Zarr store (``gs://...``, ``https://...``).
        variable: Name of the variable; may be left out where the file has one.
        units: Unit to convert to, such as ``"hPa"``; None keeps the file's. The old one is kept as the attribute
            ``original_units``.

    Other arguments:
        known_as: Names and CF standard names, the first that is there being taken where the file has several variables and
            ``variable`` is None.
        source_units: Unit of the values, for a file that does not say.
        coordinate_units: Units of coordinates, for a file that does not say: ``{"time": "days since 1900-01-01"}``.
        rename: Call the axes time, level, latitude and longitude, whatever the file calls them; each keeps its
            old name as the attribute ``original_name``.
        chunks: Blocks that Dask computes with, as in ``xarray.open_dataset``; "auto" makes blocks of about 128 MB out
            of whole blocks of the file. None leaves Dask out; a conversion of units then loads the field.
        grib_keys: Keys that select GRIB messages, such as ``{"typeOfLevel": "isobaricInhPa"}``, where a file mixes
            several grids.

    Returns:
        The variable with its coordinates; ``attrs["units"]`` is always there.

    Raises:
        FileError: If the file is missing, truncated or of another kind, lacks the variable or its unit, states a valid range
            that is none, or has coordinates that are missing, out of range, out of order or, for times, without a unit.
        UnitError: If ``units`` does not fit the variable's.
        ImportError: If a package that the format takes is not installed; says which extra has it.

    References:
        Eaton et al., NetCDF Climate and Forecast (CF) Metadata Conventions, version 1.11 (2023); NetCDF
        Users Guide, appendix A (attribute conventions), for valid ranges of packed data.
    """
    import xarray as xr

    source = str(path)
    dataset = _open(path, dict(grib_keys or {}))
    name = _pick(dataset, variable, known_as, source)
    dataset = _give_units(dataset[[name]], coordinate_units or {}, source)
    try:
        dataset = xr.decode_cf(dataset, mask_and_scale=False, decode_timedelta=False)
    except ValueError as error:
        raise FileError(f"{source}: times of {name!r} cannot be decoded ({first_line(error)})") from error
    field = dataset[name]
    _check_time(field, source)
    field = check_axes(field, source)
    field = _state_units(field, source_units, source)
    field, ends = _valid_range(field, source)
    if chunks is not None:
        field = _chunk(field, chunks)
    field = _only_valid(_without_text_marker(field), *ends)
    if units is not None:
        field = convert_units(field, units, source)
    return rename_axes(field) if rename else field


def convert_units(field: DataArray, units: str, source: str = "field") -> DataArray:
    """The field in another unit; lazy where the field is in Dask blocks. The old unit is kept as ``original_units``.

    Args:
        field: A field with ``attrs["units"]``.
        units: Unit to convert to.
        source: What errors call the field.

    Raises:
        TypeError: If it is no field.
        FileError: If the field has no unit.
        UnitError: If the units do not convert.
    """
    if not (hasattr(field, "attrs") and hasattr(field, "assign_attrs")):
        raise TypeError(f"convert_units: {source} is a {type(field).__name__}; wanted an xarray DataArray")
    old = _unit_of(field)
    if old is None:
        raise FileError(f"{source}: variable {field.name!r} has no attribute 'units'; wanted one to convert to {units!r}")
    factor, offset = conversion(old, units, f"{source}: variable {field.name!r}")
    attributes = dict(field.attrs, units=units)
    if (factor, offset) != (1.0, 0.0):
        field = field * factor + offset
        attributes["original_units"] = old
        for name in _IN_UNITS:
            if name in attributes:
                attributes[name] = np.asarray(attributes[name], dtype=float) * factor + offset
    return field.assign_attrs(attributes)


def _open(path: str | Path, grib_keys: dict[str, Any]) -> Dataset:
    if isinstance(path, str) and "://" in path:
        return _open_zarr(path)
    path = Path(path)
    if path.is_dir():
        if not any((path / name).is_file() for name in _ZARR_FILES):
            raise FileError(f"{path}: a folder without {' or '.join(_ZARR_FILES)}; wanted {_FORMATS}")
        return _open_zarr(str(path))
    if not path.is_file():
        raise FileError(f"{path}: there is no such file; wanted {_FORMATS}")
    start = magic(path)
    if start.startswith(b"RDX") or (start.startswith(_PACKED) and path.suffix.lower() in (".rda", ".rdata")):
        from posterior.io.climate4r import read_climate4r

        return read_climate4r(path)
    if start.startswith(_PACKED):
        return _open_netcdf(io.BytesIO(read_bytes(path, _FORMATS)), path)
    if start.startswith(b"GRIB"):
        return _open_grib(path, grib_keys)
    return _open_netcdf(path, path)


def _open_netcdf(content: Path | io.BytesIO, path: Path) -> Dataset:
    start = magic(content) if isinstance(content, Path) else content.getvalue()[:8]
    if start.startswith((b"CDF\x01", b"CDF\x02")):
        # netCDF4 reads the missing part of a truncated classic file as zeros; scipy says that it is not there
        engine = "scipy"
    elif start.startswith(b"CDF\x05"):
        needs("netCDF4", "weather", "reading 64-bit classic NetCDF")
        engine = "netcdf4"
    elif start.startswith(b"\x89HDF"):
        engine = "h5netcdf"
    else:
        raise FileError(f"{path}: starts with {start!r}; wanted {_FORMATS}")
    return _open_with(engine, content, str(path), "NetCDF")


def _open_zarr(address: str) -> Dataset:
    needs("zarr", "weather", "reading Zarr")
    return _open_with("zarr", address, address, "Zarr")


def _open_grib(path: Path, keys: dict[str, Any]) -> Dataset:
    needs("cfgrib", "weather", "reading GRIB")
    # no index file beside the data; a truncated message is an error, not a log line
    options = {"indexpath": "", "errors": "raise", "filter_by_keys": keys}
    return _open_with("cfgrib", path, str(path), "GRIB", backend_kwargs=options)


def _open_with(engine: Any, content: Any, source: str, kind: str, **options: Any) -> Dataset:
    import xarray as xr

    try:
        with warnings.catch_warnings():
            # xarray advises whoever wrote the store to consolidate its metadata
            warnings.filterwarnings("ignore", "Failed to open Zarr store with consolidated metadata", RuntimeWarning)
            return xr.open_dataset(content, engine=engine, decode_times=False, chunks=None, **options)
    except ImportError:
        raise
    except Exception as error:  # five libraries, each with errors of its own for files that are not whole
        _let_go(error)
        raise FileError(f"{source}: not a complete {kind} file ({first_line(error)})") from error


def _let_go(error: BaseException | None) -> None:
    """Drop the file that scipy holds half open, which complains as it goes, with the frames that refer to it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        while error is not None:
            error.__traceback__ = None
            error = error.__context__
        gc.collect()


def _pick(dataset: Dataset, variable: str | None, known_as: Collection[str], source: str) -> str:
    attributes = [v.attrs | v.encoding for v in dataset.variables.values()]
    helpers = {a.get(key) for a in attributes for key in ("bounds", "grid_mapping", "climatology")}
    names = [str(name) for name, v in dataset.data_vars.items() if name not in helpers and v.ndim and v.dtype.kind in "fiucb"]
    if variable is None and len(names) == 1:
        return names[0]
    for known in known_as if variable is None else ():
        found = [name for name in names if known in (name, dataset[name].attrs.get("standard_name"))]
        if len(found) == 1:
            return found[0]
    if variable is None:
        held = ", ".join(names) or "none"
        raise FileError(f"{source}: holds the variables {held}; say which one with variable=, in a training run data.variables")
    if variable not in names:
        raise FileError(f"{source}: has no variable {variable!r} but {', '.join(names) or 'none'}")
    return variable


def _give_units(dataset: Dataset, units: Mapping[str, str], source: str) -> Dataset:
    for name, unit in units.items():
        if name not in dataset.coords:
            raise FileError(f"{source}: has no coordinate {name!r} but {', '.join(map(str, dataset.coords))}")
        old = dataset[name].attrs.get("units")
        if old not in (None, "", unit):
            raise FileError(f"{source}: coordinate {name!r} is in {old!r}; coordinate_units= says {unit!r}")
        dataset = dataset.assign_coords({name: dataset[name].assign_attrs(units=unit)})
    return dataset


def _check_time(field: DataArray, source: str) -> None:
    name = find_axes(field).get("time")
    if name is None:
        return
    if field[name].dtype.kind in "fiu":
        if unit := field[name].attrs.get("units"):
            raise FileError(f"{source}: coordinate {name!r} is in {unit!r}; wanted times such as 'days since 1900-01-01'")
        raise FileError(
            f"{source}: coordinate {name!r} has no unit; give it, for example "
            f"coordinate_units={{{name!r}: 'days since 1900-01-01'}}"
        )
    missing = int(field[name].isnull().sum())
    if missing:
        raise FileError(f"{source}: coordinate {name!r} has {missing} of {field[name].size} times missing; wanted all of them")


def _unit_of(field: DataArray) -> str | None:
    unit = field.attrs.get("units")
    return unit.strip() or None if isinstance(unit, str) else None


def _state_units(field: DataArray, given: str | None, source: str) -> DataArray:
    stated = _unit_of(field)
    if stated is None and given is None:
        raise FileError(f"{source}: variable {field.name!r} has no attribute 'units'; give the unit with source_units=")
    if stated is not None and given is not None and stated != given:
        raise FileError(f"{source}: variable {field.name!r} is in {stated!r}; source_units= says {given!r}")
    return field.assign_attrs(units=stated or given)


def _packing(encoding: Mapping[Any, Any]) -> tuple[float, float]:
    """Factor and offset that packed numbers were unpacked with."""
    scale, offset = (float(np.asarray(encoding.get(key, usual)).item()) for key, usual in _PACKING.items())
    return scale, offset


def _without_text_marker(field: DataArray) -> DataArray:
    """Missing where the value is what ``missing_value`` says as text: xarray compares numbers with it, in vain."""
    marker = field.encoding.get("missing_value")
    try:
        packed = float(marker) if isinstance(marker, str) else None
    except ValueError:
        return field
    if packed is None:
        return field
    scale, offset = _packing(field.encoding)
    return field.where(abs(field - (packed * scale + offset)) > 1e-6 * abs(packed * scale))


def _valid_range(field: DataArray, source: str) -> tuple[DataArray, list[float]]:
    """The field with its valid range unpacked, and both ends of it, wider by what rounding may move a value.

    Integers that state the range of packed data are packed as well; numbers of the unpacked type are not.
    """
    attributes, encoding, ends = dict(field.attrs), field.encoding, [-np.inf, np.inf]
    scale, offset = _packing(encoding)
    for name, which in _VALID.items():
        if name not in attributes or field.dtype.kind not in "fiu":
            continue
        values = np.asarray(attributes.pop(name))
        if values.dtype.kind not in "fiu" or values.size != len(which):
            wanted = "two numbers" if len(which) == 2 else "a number"
            raise FileError(f"{source}: variable {field.name!r} has {name} {values.tolist()!r}; wanted {wanted}")
        if str(encoding.get("_Unsigned", "")).lower() == "true" and values.dtype.kind == "i":
            values = values.astype(np.int64) % 2 ** (8 * np.dtype(encoding["dtype"]).itemsize)
        packed = values.dtype.kind in "iu" and (scale, offset) != (1.0, 0.0)
        limits = values.ravel().astype(np.float64) * (scale if packed else 1.0) + (offset if packed else 0.0)
        if packed and scale < 0:  # the smallest packed number is the largest value
            limits, which = limits[::-1], tuple(1 - end for end in which[::-1])
        for end, limit in zip(which, limits.tolist(), strict=True):
            slack = abs(scale) / 2 if packed else 4 * float(np.finfo(np.float32).eps) * abs(limit)
            ends[end] = limit + (slack if end else -slack)
        attributes[next(key for key, same in _VALID.items() if same == which)] = limits if len(which) == 2 else limits.item()
    field = field.copy(deep=False)
    field.attrs = attributes
    return field, ends


def _only_valid(field: DataArray, low: float, high: float) -> DataArray:
    """Missing where the value is out of range; as it is, not loaded, where there is no range."""
    return field if np.isinf([low, high]).all() else field.where((field >= low) & (field <= high))


def _chunk(field: DataArray, chunks: str | int | Mapping[str, int]) -> DataArray:
    """Dask blocks that do not cut through the blocks of the file."""
    normalize = needs("dask.array.core", "weather", "opening a field in blocks").normalize_chunks
    if isinstance(chunks, Mapping):
        return field.chunk(dict(chunks))
    stored = field.encoding.get("preferred_chunks", {})
    whole = normalize(tuple(stored.get(dim, -1) for dim in field.dims), shape=field.shape)
    blocks = normalize(chunks, shape=field.shape, dtype=field.dtype, previous_chunks=whole)
    return field.chunk(dict(zip(field.dims, blocks, strict=True)))
