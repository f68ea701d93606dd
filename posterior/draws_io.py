"""Draws at the edges of the package: labelled trees and files.

A tree follows the schema of ArviZ 1.x and the CF conventions, and is built with xarray alone.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from posterior.axes import restored, storable, times_in
from posterior.draws import Draws
from posterior.likelihoods.base import real_view
from posterior.stats import STATISTICS, Stats

if TYPE_CHECKING:
    from xarray import Dataset, DataTree, Variable

    from posterior.likelihoods import Likelihood

_LIBRARY = "posterior"
_SUFFIXES = (".nc", ".zarr")


def to_datatree(draws: Draws, likelihood: Likelihood | None = None) -> DataTree:
    """The draws as an xarray.DataTree in the schema of ArviZ 1.x.

    Groups: `posterior` (the samples, with axes chain, draw and those of an event), `sample_stats` and, where
    there is something to hold, `observed_data` (the variable `measurement`), `constant_data` (`noise_std`, `mask`),
    `posterior_predictive` and `reference` (the truth). What a test of calibration found is added by
    `posterior.uncertainty.attach`, in the groups `prior_sbc` and `calibration`. Coordinates lie on the root and are
    inherited. The parts of complex values lie along an axis `complex` with coordinates "real" and "imag", since most
    readers know no complex numbers: in place of the field's axis `channel`, and last in data.

    Args:
        draws: What to convert.
        likelihood: What they were drawn with, for the group `posterior_predictive`: `prediction`, the operator applied
            to each draw, and for Gaussian noise `measurement`, data replicated from it with noise of its own.

    Returns:
        The tree. Samples on the CPU share their memory with it.
    """
    import xarray as xr

    stats, chains = draws.stats, draws.chains
    dims = tuple("complex" if draws.kind == "complex" and dim == "channel" else dim for dim in draws.dims)
    coords: dict[str, Any] = {key: storable(value) for key, value in draws.coords.items()}
    coords["chain"] = ("chain", np.arange(chains), {"long_name": "independent run of the sampler"})
    number = {"long_name": "number of the draw", "standard_name": "realization", "units": "1"}
    coords["draw"] = ("draw", np.arange(draws.n // chains), number)
    if draws.kind == "complex" or (draws.observed is not None and draws.observed.is_complex()):
        coords["complex"] = ("complex", ["real", "imag"], {"long_name": "part of a complex number"})

    what = "posterior draws" if draws.is_posterior else "point estimates, not draws from the posterior,"
    attrs = {"units": draws.units, "long_name": f"{what} of {draws.name}"}
    samples = masked(draws, draws.samples).reshape(chains, draws.n // chains, *draws.event_shape)
    groups = {
        "/posterior": xr.Dataset(
            {draws.name: (("chain", "draw", *dims), samples, attrs)},
            attrs={
                "field": draws.name,
                "is_posterior": int(draws.is_posterior),
                "all_finite": int(bool(draws.samples.isfinite().all())),
                "kind": draws.kind,
                "sample_dims": ["chain", "draw"],
            },
        ),
        "/sample_stats": xr.Dataset(
            _statistics(draws), attrs={"stats": json.dumps(asdict(stats)), "sample_dims": ["chain", "draw"]}
        ),
    }
    if draws.observed is not None:
        values, data_dims = _labelled(draws.observed[0], "measurement")
        attrs = {"long_name": "observed data"}
        groups["/observed_data"] = xr.Dataset({"measurement": (data_dims, values, attrs)})
    if (noise := draws.noise_std) is not None:
        like_data = draws.observed is not None and noise.shape == draws.observed.shape
        values, data_dims = _labelled(noise[0], "measurement") if like_data else _labelled(noise, "noise_std")
        attrs = {"long_name": "standard deviation of the measurement noise", "like_data": int(like_data)}
        groups["/constant_data"] = xr.Dataset({"noise_std": (data_dims, values, attrs)})
    if draws.mask is not None:
        attrs = {"long_name": "whether a point exists", "flag_values": np.array([0, 1], np.int8), "flag_meanings": "no yes"}
        constant = groups.setdefault("/constant_data", xr.Dataset())
        groups["/constant_data"] = constant.assign(mask=(dims, _array(draws.mask).astype(np.int8), attrs))
    if likelihood is not None:
        groups["/posterior_predictive"] = _predictive(draws, likelihood)
    if draws.truth is not None:
        attrs = {"units": draws.units, "long_name": f"true {draws.name}"}
        groups["/reference"] = xr.Dataset({draws.name: (dims, masked(draws, draws.truth), attrs)})

    settings = {key: getattr(stats, key) for key in ("sampler", "prior", "likelihood", "seed", "versions")}
    root = {
        "Conventions": "CF-1.11",
        "title": f"{what} of {draws.name}",
        "created_at": datetime.now(UTC).isoformat(),
        "creation_library": _LIBRARY,
        "creation_library_version": _version(),
        "creation_library_language": "Python",
        "sample_dims": ["chain", "draw"],
        "status": stats.status,
        "warnings": json.dumps(stats.warnings),
        "settings": json.dumps(settings),
        "coordinate_dtypes": json.dumps({key: str(value.dtype) for key, value in draws.coords.items()}),
    }
    return xr.DataTree.from_dict({"/": xr.Dataset(coords=coords, attrs=root), **groups})


def _predictive(draws: Draws, likelihood: Likelihood) -> Dataset:
    """What the operator makes of each draw and, where the noise is Gaussian, data replicated from it.

    The noise of replicate i depends on the seed of the draws and on i alone.
    """
    import xarray as xr

    from posterior.likelihoods import GaussianLikelihood
    from posterior.priors.base import Affine

    y, made = likelihood.y, {"prediction": [], "measurement": []}
    standard = likelihood.in_standard(Affine(), draws.event_shape) if type(likelihood) is GaussianLikelihood else None
    sequence = np.random.SeedSequence([draws.stats.seed, *b"posterior predictive"])
    with torch.no_grad():
        for x, child in zip(draws.samples, sequence.spawn(draws.n), strict=True):
            predicted = likelihood.operator.A(x[None].to(real_view(y)))[0]
            made["prediction"].append(predicted)
            if standard is not None:
                noise = torch.from_numpy(np.random.default_rng(child).standard_normal(standard.y.shape)).to(y.device)
                noise = (standard.variance.sqrt() * standard.reach * noise)[0].to(real_view(y).dtype)
                made["measurement"].append(predicted + (torch.view_as_complex(noise) if y.is_complex() else noise))
    words = {"prediction": "operator applied to each draw", "measurement": "data replicated from each draw"}
    variables = {}
    for name, values in made.items():
        if values:
            array, dims = _labelled(torch.stack(values), "measurement", skip=1)
            shaped = array.reshape(draws.chains, -1, *array.shape[1:])
            variables[name] = (("chain", "draw", *dims), shaped, {"long_name": words[name]})
    return xr.Dataset(variables, attrs={"sample_dims": ["chain", "draw"]})


def _statistics(draws: Draws) -> dict[str, Any]:
    """Variables of the group `sample_stats`: numbers of the whole, of each run, and of each draw."""
    variables = {}
    for name, (long_name, units) in STATISTICS.items():
        if (value := getattr(draws.stats, name, None)) is None:
            continue
        if not isinstance(value, tuple):
            dims = ()
        else:
            dims = ("chain",) if len(value) == draws.chains else (f"{name}_dim_0",)
        variables[name] = (dims, np.asarray(value), {"long_name": long_name, "units": units})
    if draws.log_weights is not None:
        long_name, units = STATISTICS["log_weight"]
        values = _array(draws.log_weights).reshape(draws.chains, -1)
        variables["log_weight"] = (("chain", "draw"), values, {"long_name": long_name, "units": units})
    return variables


def _array(tensor: Tensor) -> np.ndarray:
    tensor = tensor.detach().cpu().resolve_neg()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


def masked(draws: Draws, values: Tensor) -> np.ndarray:
    """Values (..., *event), NaN at points that do not exist."""
    array = _array(values)
    return array if draws.mask is None else np.where(_array(draws.mask), array, array.dtype.type(np.nan))


def _labelled(tensor: Tensor, name: str, skip: int = 0) -> tuple[np.ndarray, tuple[str, ...]]:
    """Values, and names of the axes after the first ``skip``; complex values become pairs along a last axis `complex`."""
    dims = tuple(f"{name}_dim_{i}" for i in range(tensor.ndim - skip))
    if tensor.is_complex():
        return _array(torch.view_as_real(tensor.resolve_conj())), (*dims, "complex")
    return _array(tensor), dims


def _version() -> str:
    try:
        return importlib.metadata.version(_LIBRARY)
    except importlib.metadata.PackageNotFoundError:  # a checkout that was not installed
        return "unknown"


def save(draws: Draws, path: str | os.PathLike[str], likelihood: Likelihood | None = None) -> None:
    """Write draws to NetCDF or Zarr; see `Draws.save`.

    Args:
        draws: What to write.
        path: Where to; .nc or .zarr.
        likelihood: What they were drawn with, to write the data that they predict too.
    """
    _check_suffix(Path(path))
    save_tree(to_datatree(draws, likelihood), path)


def save_tree(tree: DataTree, path: str | os.PathLike[str]) -> None:
    """Write a tree that `to_datatree` made, and groups that were added to it, to NetCDF or Zarr.

    Samples and what they predict are compressed and cut into pieces of one draw. What was at ``path`` is replaced in
    the end, when all is written.

    Args:
        tree: What to write.
        path: Where to; .nc or .zarr.

    Raises:
        ValueError: If the suffix is neither.
        ImportError: If zarr is asked for and not installed.
    """
    path = Path(path)
    _check_suffix(path)
    netcdf = path.suffix == ".nc"
    encoding: dict[str, Any] = {}
    for group in ("posterior", "posterior_predictive"):
        variables = tree.children[group].to_dataset(inherit=False).variables if group in tree.children else {}
        for name, variable in variables.items():
            if variable.dims[:2] == ("chain", "draw"):
                chunks = (1, 1, *variable.shape[2:])
                packed = {"zlib": True, "complevel": 1, "shuffle": True, "chunksizes": chunks}
                encoding.setdefault(f"/{group}", {})[name] = packed if netcdf else {"chunks": chunks}
    options: dict[str, Any] = {"encoding": encoding, "write_inherited_coords": True}  # each group can be read by itself
    with replacing(path) as partial:
        if netcdf:
            tree.to_netcdf(partial, engine="h5netcdf", **options)
        elif importlib.util.find_spec("zarr") is None:
            raise ImportError(f"{path}: this takes the package zarr: pip install 'posterior[weather]'")
        else:
            tree.to_zarr(partial, mode="w", zarr_format=2, **options)  # the third has no agreed form for strings yet


def _check_suffix(path: Path) -> None:
    if path.suffix not in _SUFFIXES:
        raise ValueError(f"{path}: the suffix is {path.suffix!r}; draws are kept in {' or '.join(_SUFFIXES)}")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside `path` to write a file or folder to, which takes its place when all went well.

    Args:
        path: Where the result shall be. What is there stays until the end, and stays if anything fails.

    Raises:
        FileNotFoundError: If its folder does not exist.
        FileExistsError: If it is a folder that is no Zarr store.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: there is no folder {path.parent}")
    if path.is_dir() and not (path.suffix == ".zarr" and _is_zarr(path)):
        raise FileExistsError(f"{path} is a folder of something else, and is not overwritten")
    mark = uuid.uuid4().hex[:12]
    partial, former = (path.with_name(f".{path.name}.{mark}.{end}") for end in ("partial", "former"))
    try:
        yield partial
        if partial.is_dir() and path.exists():  # a folder replaces nothing: the old one makes room first
            path.replace(former)
            try:
                partial.replace(path)
            except BaseException:
                former.replace(path)
                raise
            _remove(former)
        else:
            partial.replace(path)
    finally:
        _remove(partial)


def _is_zarr(path: Path) -> bool:
    return any((path / name).is_file() for name in (".zgroup", ".zarray", "zarr.json"))


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def load(path: str | os.PathLike[str]) -> Draws:
    """Read draws from what `save` wrote; see `posterior.load_draws`."""
    with open_tree(Path(path)) as tree:
        try:
            return from_datatree(tree)
        except Exception as error:
            raise ValueError(f"{path} is damaged: its draws cannot be read ({_brief(error)})") from error


@contextmanager
def open_tree(path: Path, trials: bool = False) -> Iterator[DataTree]:
    """The tree of a file that `save_tree` wrote; it is read as it is asked for, and closed in the end.

    Args:
        path: Of the file.
        trials: Whether it may hold those of a calibration.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read, or holds something else.
    """
    import xarray as xr

    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such file")
    _check_suffix(path)
    # Only what was a time difference becomes one again, not every number whose unit is a second.
    times = xr.coders.CFTimedeltaCoder(decode_via_units=False)
    engine, what = ("h5netcdf", "NetCDF-4 file") if path.suffix == ".nc" else ("zarr", "Zarr store")
    try:
        with xr.open_datatree(path, engine=engine, decode_times=False) as raw:
            dates = times_in(raw)
        tree = xr.open_datatree(path, engine=engine, decode_times=dates, decode_timedelta=times)
    except Exception as error:  # whatever a library makes of the bytes it is given
        raise ValueError(f"{path} cannot be read: it is truncated or no {what} ({_brief(error)})") from error
    try:
        if tree.attrs.get("creation_library") != _LIBRARY or "posterior" not in tree.children:
            raise ValueError(f"{path} holds no draws written by posterior")
        if tree.attrs.get("holds") == "trials" and not trials:
            raise ValueError(f"{path} holds trials of a calibration, which posterior calibrate scores; wanted draws")
        yield tree
    finally:
        tree.close()


def _brief(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0] or type(error).__name__


def from_datatree(tree: DataTree) -> Draws:
    """The draws that `to_datatree` made a tree of.

    Args:
        tree: It, or one read from a file.
    """
    posterior, sample_stats = tree["posterior"].to_dataset(), tree["sample_stats"].to_dataset()
    name, kind = posterior.attrs["field"], posterior.attrs["kind"]
    variable = posterior[name].variable
    chains, per_chain, *event = variable.shape
    samples = torch.from_numpy(variable.values.reshape(chains * per_chain, *event))
    mask = _variable(tree, "constant_data", "mask")
    exists = None if mask is None else torch.from_numpy(mask.values.astype(bool))
    samples = _filled(samples, exists)
    if posterior.attrs["all_finite"] and not samples.isfinite().all():
        raise ValueError("values are missing")  # Zarr reads a chunk that is gone as not-a-number
    dims = tuple("channel" if kind == "complex" and dim == "complex" else dim for dim in variable.dims[2:])
    dtypes = json.loads(tree.attrs["coordinate_dtypes"])

    observed = _variable(tree, "observed_data", "measurement")
    noise = _variable(tree, "constant_data", "noise_std")
    truth = _variable(tree, "reference", name)
    noise_std = None
    if noise is not None:
        noise_std = _tensor(noise)[None] if noise.attrs["like_data"] else _tensor(noise)
    log_weights = sample_stats.get("log_weight")
    stats = json.loads(sample_stats.attrs["stats"])
    return Draws(
        samples=samples,
        stats=Stats(**stats),
        units=variable.attrs["units"],
        name=name,
        dims=dims,
        coords={key: restored(tree.coords[key], dtype) for key, dtype in dtypes.items()},
        is_posterior=bool(posterior.attrs["is_posterior"]),
        log_weights=None if log_weights is None else _tensor(log_weights.variable).flatten(),
        chains=chains,
        observed=None if observed is None else _tensor(observed)[None],
        noise_std=noise_std,
        truth=None if truth is None else _filled(torch.from_numpy(truth.values), exists),
        kind=kind,
        mask=exists,
    )


def _filled(values: Tensor, exists: Tensor | None) -> Tensor:
    return values if exists is None else values.masked_fill(~exists, 0)


def _variable(tree: DataTree, group: str, name: str) -> Variable | None:
    return tree[group][name].variable if group in tree.children and name in tree[group] else None


def _tensor(variable: Variable) -> Tensor:
    values = torch.from_numpy(np.asarray(variable.values))
    return torch.view_as_complex(values) if variable.dims[-1:] == ("complex",) else values
