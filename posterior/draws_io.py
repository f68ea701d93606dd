"""Draws at the edges of the package: labelled trees, files and figures.

A tree follows the schema of ArviZ 1.x and the CF conventions, and is built with xarray alone.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import math
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from posterior.draws import STATISTICS, Draws, Stats

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from xarray import DataTree, Variable

_LIBRARY = "posterior"
_SUFFIXES = (".nc", ".zarr")
_ROWS = 6  # channels or levels that a figure shows


def to_datatree(draws: Draws) -> DataTree:
    """The draws as an xarray.DataTree in the schema of ArviZ 1.x.

    Groups: `posterior` (the samples, with axes chain, draw and those of an event), `sample_stats` and, where
    there is something to hold, `observed_data` (the variable `measurement`), `constant_data` (`noise_std`)
    and `reference` (the truth). Coordinates lie on the root and are inherited. The parts of complex values
    lie along an axis `complex` with coordinates "real" and "imag", since most readers know no complex
    numbers: in place of the field's axis `channel`, and last in data.

    Args:
        draws: What to convert.

    Returns:
        The tree. Samples on the CPU share their memory with it.
    """
    import xarray as xr

    stats, chains = draws.stats, draws.chains
    dims = tuple("complex" if draws.kind == "complex" and dim == "channel" else dim for dim in draws.dims)
    coords: dict[str, Any] = dict(draws.coords)
    coords["chain"] = ("chain", np.arange(chains), {"long_name": "independent run of the sampler"})
    number = {"long_name": "number of the draw", "standard_name": "realization", "units": "1"}
    coords["draw"] = ("draw", np.arange(draws.n // chains), number)
    if draws.kind == "complex" or (draws.observed is not None and draws.observed.is_complex()):
        coords["complex"] = ("complex", ["real", "imag"], {"long_name": "part of a complex number"})

    what = "posterior draws" if draws.is_posterior else "point estimates, not draws from the posterior,"
    attrs = {"units": draws.units, "long_name": f"{what} of {draws.name}"}
    samples = _array(draws.samples).reshape(chains, draws.n // chains, *draws.event_shape)
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
    if draws.truth is not None:
        attrs = {"units": draws.units, "long_name": f"true {draws.name}"}
        groups["/reference"] = xr.Dataset({draws.name: (dims, _array(draws.truth), attrs)})

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
    return tensor.detach().cpu().numpy()


def _labelled(tensor: Tensor, name: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Values and axis names; complex values become pairs of reals along a last axis `complex`."""
    dims = tuple(f"{name}_dim_{i}" for i in range(tensor.ndim))
    if tensor.is_complex():
        return _array(torch.view_as_real(tensor.resolve_conj())), (*dims, "complex")
    return _array(tensor), dims


def _version() -> str:
    try:
        return importlib.metadata.version(_LIBRARY)
    except importlib.metadata.PackageNotFoundError:  # a checkout that was not installed
        return "unknown"


def save(draws: Draws, path: str | os.PathLike[str]) -> None:
    """Write draws to NetCDF or Zarr; see `Draws.save`.

    Args:
        draws: What to write.
        path: Where to; .nc or .zarr.
    """
    path = Path(path)
    _check_suffix(path)
    tree = to_datatree(draws)
    chunk = (1, 1, *draws.event_shape)
    with replacing(path) as partial:
        if path.suffix == ".nc":
            encoding = {"zlib": True, "complevel": 1, "shuffle": True, "chunksizes": chunk}
            tree.to_netcdf(
                partial,
                engine="h5netcdf",
                encoding={"/posterior": {draws.name: encoding}},
                write_inherited_coords=True,  # so that each group can be read by itself
            )
        else:
            if importlib.util.find_spec("zarr") is None:
                raise ImportError(f"{path}: this takes the package zarr: pip install 'posterior[weather]'")
            tree.to_zarr(
                partial,
                mode="w",
                zarr_format=2,  # the third has no agreed form for strings yet
                encoding={"/posterior": {draws.name: {"chunks": chunk}}},
                write_inherited_coords=True,
            )


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
    """Read draws from NetCDF or Zarr; see `posterior.load_draws`.

    Args:
        path: What `save` wrote.
    """
    import xarray as xr

    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such file")
    _check_suffix(path)
    # Only what was a time difference becomes one again, not every number whose unit is a second.
    times = xr.coders.CFTimedeltaCoder(decode_via_units=False)
    engine, what = ("h5netcdf", "NetCDF-4 file") if path.suffix == ".nc" else ("zarr", "Zarr store")
    try:
        tree = xr.open_datatree(path, engine=engine, decode_timedelta=times)
    except Exception as error:  # whatever a library makes of the bytes it is given
        raise ValueError(f"{path} cannot be read: it is truncated or no {what} ({_brief(error)})") from error
    try:
        if tree.attrs.get("creation_library") != _LIBRARY or "posterior" not in tree.children:
            raise ValueError(f"{path} holds no draws written by posterior")
        try:
            return _from_datatree(tree)
        except Exception as error:
            raise ValueError(f"{path} is damaged: its draws cannot be read ({_brief(error)})") from error
    finally:
        tree.close()


def _brief(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0] or type(error).__name__


def _from_datatree(tree: DataTree) -> Draws:
    posterior, sample_stats = tree["posterior"].to_dataset(), tree["sample_stats"].to_dataset()
    name, kind = posterior.attrs["field"], posterior.attrs["kind"]
    variable = posterior[name].variable
    chains, per_chain, *event = variable.shape
    samples = torch.from_numpy(variable.values.reshape(chains * per_chain, *event))
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
        coords={key: tree.coords[key].astype(dtype) for key, dtype in dtypes.items()},
        is_posterior=bool(posterior.attrs["is_posterior"]),
        log_weights=None if log_weights is None else _tensor(log_weights.variable).flatten(),
        chains=chains,
        observed=None if observed is None else _tensor(observed)[None],
        noise_std=noise_std,
        truth=None if truth is None else torch.from_numpy(truth.values),
        kind=kind,
    )


def _variable(tree: DataTree, group: str, name: str) -> Variable | None:
    return tree[group][name].variable if group in tree.children else None


def _tensor(variable: Variable) -> Tensor:
    values = torch.from_numpy(np.asarray(variable.values))
    return torch.view_as_complex(values) if variable.dims[-1:] == ("complex",) else values


def plot(
    draws: Draws,
    truth: Tensor | None = None,
    path: str | os.PathLike[str] | None = None,
    *,
    allow_point_estimate: bool = False,
) -> Figure:
    """Panels of mean and standard deviation and, where the truth is known, of truth and error.

    Fields with two axes or more are shown as images of the last two, one row for each index of the others
    (the first six); fields with one as lines, with the 90 % interval or the widest that the draws support.

    Args:
        draws: What to show.
        truth: The true event; that of the draws by default.
        path: Where to write the figure too.
        allow_point_estimate: Show the scatter of point estimates too.

    Returns:
        A figure that pyplot knows nothing of.

    Raises:
        ValueError: If the truth does not have the shape of an event, or an event is a single number.
    """
    from matplotlib.figure import Figure

    if truth is not None:
        draws = replace(draws, truth=truth.to(draws.samples))
    colours = "gray" if draws.kind == "complex" else "cividis"
    if draws.kind == "complex":
        draws = draws.magnitude()
    if not draws.event_shape:
        raise ValueError("Draws.plot: an event is a single number; wanted at least one axis")
    uncertain = (draws.is_posterior or allow_point_estimate) and draws.n_effective > 1 + 1e-6

    mean = draws.mean
    panels: dict[str, Tensor] = {"mean" if draws.is_posterior else "estimate": mean}
    std = draws.spread(allow_point_estimate) if uncertain else None
    if std is not None:
        panels["standard deviation"] = std
    if draws.truth is not None:
        error = mean - draws.truth.to(mean)
        panels |= {"truth": draws.truth, "error": error}
        if std is not None:
            panels["|error| / standard deviation"] = (error.abs() / std.clamp_min(1e-30)).clamp_max(1e3)

    image = len(draws.event_shape) > 1
    if not image:
        panels.pop("truth", None)  # it shares the axes of the mean
    rows = min(_ROWS, math.prod(draws.event_shape[:-2])) if image else 1
    figure = Figure(figsize=(3.6 * len(panels), 3.2 * rows), layout="constrained")
    axes = figure.subplots(rows, len(panels), squeeze=False)
    for row in range(rows):
        fields = {title: _array(v).reshape(-1, *draws.event_shape[-2:])[row] for title, v in panels.items()}
        shown = [fields[title] for title in ("mean", "estimate", "truth") if title in fields]
        limits = (float(np.min(shown)), float(np.max(shown)))
        for ax, (title, values) in zip(axes[row], fields.items(), strict=True):
            ax.set_title(f"{title} [{row}]" if rows > 1 else title)
            if image:
                _image(draws, figure, ax, title, values, colours, limits)
            else:
                _line(draws, ax, title, values, std is not None)
    if path is not None:
        target = Path(path)
        with replacing(target) as partial:
            figure.savefig(partial, format=target.suffix[1:] or "png", dpi=150)
    return figure


def _unit(units: str) -> str:
    return "dimensionless" if units == "1" else units


def _label(draws: Draws, dim: str) -> str:
    units = draws.coords[dim].attrs.get("units", "") if dim in draws.coords else ""
    return f"{dim} ({units})" if units else dim


def _image(
    draws: Draws,
    figure: Figure,
    ax: Axes,
    title: str,
    values: np.ndarray,
    colours: str,
    limits: tuple[float, float],
) -> None:
    units, extend = _unit(draws.units), "neither"
    top = float(np.abs(values).max()) or 1.0
    if title == "error":
        colours, limits = "RdBu_r", (-top, top)  # white where there is none
    elif title == "standard deviation":
        colours, limits = "viridis", (0, top)
    elif title.startswith("|error|"):
        colours, limits, units, extend = "magma", (0, 3), "standard deviations", "max"
    style = {"cmap": colours, "vmin": limits[0], "vmax": limits[1]}
    y, x = draws.dims[-2:]
    if all(dim in draws.coords and _is_axis(draws.coords[dim].values) for dim in (y, x)):
        across, down = draws.coords[x].values, draws.coords[y].values
        mesh = ax.pcolormesh(across, down, values, shading="nearest", rasterized=True, **style)
        if draws.coords[x].attrs.get("units") == draws.coords[y].attrs.get("units"):
            ax.set_aspect("equal")
    else:
        mesh = ax.imshow(values, interpolation="nearest", **style)
    ax.set_xlabel(_label(draws, x))
    ax.set_ylabel(_label(draws, y))
    figure.colorbar(mesh, ax=ax, label=units, extend=extend)


def _is_axis(values: np.ndarray) -> bool:
    """Whether a coordinate is numeric and monotonic, so that it can be drawn to scale."""
    if len(values) < 2 or values.dtype.kind not in "iuf":
        return False
    steps = np.diff(values)
    return bool((steps > 0).all() or (steps < 0).all())


def _line(draws: Draws, ax: Axes, title: str, values: np.ndarray, uncertain: bool) -> None:
    (x,) = draws.dims
    across = draws.coords[x].values if x in draws.coords else np.arange(len(values))
    if title in ("mean", "estimate"):
        if uncertain:
            level = min(0.9, (draws.n_effective - 1) / (draws.n_effective + 1) * 0.999)
            lower, upper = map(_array, draws.interval(level, allow_point_estimate=True))
            label = f"{100 * level:.0f} % interval"
            ax.fill_between(across, lower, upper, color="#0072b2", alpha=0.3, linewidth=0, label=label)
        if draws.truth is not None:
            ax.plot(across, _array(draws.truth), color="black", linestyle="--", linewidth=1, label="truth")
    ax.plot(across, values, color="#0072b2", label=title)
    if title == "error":
        ax.axhline(0, color="black", linewidth=0.5)
    if len(ax.get_legend_handles_labels()[1]) > 1:
        ax.legend()
    ax.set_xlabel(_label(draws, x))
    ax.set_ylabel("standard deviations" if title.startswith("|error|") else _unit(draws.units))
