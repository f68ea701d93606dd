"""Trials in one file: a labelled tree in NetCDF or Zarr, with the groups of the ArviZ schema."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from posterior.axes import DEFAULT_DIMS, storable
from posterior.draws_io import replacing
from posterior.uncertainty.records import attach
from posterior.uncertainty.trials import Trial, Trials

if TYPE_CHECKING:
    from xarray import Dataset, DataTree

    from posterior.uncertainty.assessment import Assessment

_COST = {
    "nfe": ("network calls per draw", "1"),
    "vjps": ("vector-Jacobian products through the network per draw", "1"),
    "seconds": ("wall-clock time of the trial", "s"),
}
_MEMBERS = {"log_prob": "log p(y | x)", "chi_square": "normalised residual chi-square"}


def to_datatree(
    trials: Trials,
    *,
    name: str = "field",
    units: str = "1",
    dims: Sequence[str] | None = None,
    coords: Mapping[str, Any] | None = None,
    attrs: Mapping[str, str] | None = None,
) -> DataTree:
    """Trials as an xarray.DataTree.

    Groups: `posterior` (the draws, with axes trial, draw and those of an event), `reference` (the truths), `sample_stats`
    (log-likelihood, residual chi-square and weight of each draw; cost of each trial) and, where there is something to
    hold, `observed_data` and `constant_data` (reference points of TARP). `posterior.uncertainty.attach` adds what an
    assessment found.

    Args:
        trials: All with as many draws of events of one shape.
        name: What the field is called.
        units: Its units.
        dims: Names of the event axes; ("channel", "y", "x"), or as many of these, where None.
        coords: Coordinates along event axes.
        attrs: What else to note on the root.

    Raises:
        ValueError: If there are no trials, or they differ in shape.
    """
    import xarray as xr

    every = list(trials)
    shapes = {tuple(trial.draws.shape) for trial in every}
    if len(shapes) != 1:
        raise ValueError(f"to_datatree: trials have draws of shapes {sorted(shapes)}; wanted one shape, and a trial at least")
    ((_, *event),) = shapes
    axes = tuple(dims or DEFAULT_DIMS.get(len(event)) or (f"dim_{i}" for i in range(len(event))))
    if len(axes) != len(event):
        raise ValueError(f"to_datatree: dims are {axes}; wanted a name for each axis of events of shape {tuple(event)}")
    described = {"units": units, "long_name": f"draws of {name} from the posterior, given the data of each trial"}
    groups = {
        "/posterior": xr.Dataset({name: (("trial", "draw", *axes), _stack(every, "draws"), described)}),
        "/reference": xr.Dataset({name: (("trial", *axes), _stack(every, "truth"), {"units": units, "long_name": "truth"})}),
        "/sample_stats": xr.Dataset(_statistics(every)),
    }
    if all(t.y is not None for t in every) and len({tuple(t.y.shape) for t in every if t.y is not None}) == 1:
        y = torch.from_numpy(_stack(every, "y")[:, 0])
        names = [f"measurement_dim_{i}" for i in range(y.ndim - 1)] + (["complex"] if y.is_complex() else [])
        values = (torch.view_as_real(y) if y.is_complex() else y).numpy()
        groups["/observed_data"] = xr.Dataset({"measurement": (("trial", *names), values, {"long_name": "data"})})
    if all(t.reference is not None for t in every):
        about = {"units": units, "long_name": "event computed from the data alone, for TARP"}
        groups["/constant_data"] = xr.Dataset({"reference_point": (("trial", *axes), _stack(every, "reference"), about)})
    root: dict[str, Any] = {
        "Conventions": "CF-1.11",
        "title": f"trials of a sampler: truths, data and draws of {name}",
        "created_at": datetime.now(UTC).isoformat(),
        "creation_library": "posterior",
        "holds": "trials",
        "sample_dims": ["draw"],
        "notes": json.dumps(dict(attrs or {})),
    }
    index: dict[str, Any] = {"trial": ("trial", np.arange(len(every)), {"long_name": "number of the trial"})}
    index["draw"] = (
        "draw",
        np.arange(every[0].draws.shape[0]),
        {"long_name": "number of the draw", "standard_name": "realization", "units": "1"},
    )
    index |= {key: storable(value) if isinstance(value, xr.DataArray) else value for key, value in (coords or {}).items()}
    return xr.DataTree.from_dict({"/": xr.Dataset(coords=index, attrs=root), **groups})


def save_trials(trials: Trials, path: str | Path, assessment: Assessment | None = None, **labels: Any) -> None:
    """Write trials to one NetCDF or Zarr file.

    Args:
        trials: What to write.
        path: Where to; .nc or .zarr; replaced only once everything is written.
        assessment: What was found; `posterior.uncertainty.evidence` reads it back.
        **labels: Arguments of `to_datatree`.

    Raises:
        ValueError: If the suffix is neither, or the trials do not fit together.
    """
    path = Path(path)
    _check_suffix(path)
    tree = to_datatree(trials, **labels)
    if assessment is not None:
        attach(tree, assessment)
    name = str(next(iter(tree["posterior"].data_vars)))
    chunk = (1, 1, *tree["posterior"][name].shape[2:])
    with replacing(path) as partial:
        if path.suffix == ".nc":
            encoding = {"/posterior": {name: {"zlib": True, "complevel": 1, "shuffle": True, "chunksizes": chunk}}}
            tree.to_netcdf(partial, engine="h5netcdf", encoding=encoding, write_inherited_coords=True)
        else:
            encoding = {"/posterior": {name: {"chunks": chunk}}}
            tree.to_zarr(partial, mode="w", zarr_format=2, encoding=encoding, write_inherited_coords=True)


def load_trials(path: str | Path) -> tuple[Trials, dict[str, str]]:
    """Trials that `save_trials` wrote, and what was noted with them.

    Args:
        path: The file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it holds no trials, or cannot be read.
    """
    import xarray as xr

    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such file")
    _check_suffix(path)
    try:
        tree = xr.open_datatree(path, engine="h5netcdf" if path.suffix == ".nc" else "zarr", decode_times=False)
    except Exception as error:  # whatever a library makes of the bytes it is given
        raise ValueError(f"{path} cannot be read: {(str(error).splitlines() or [''])[0]}") from error
    try:
        if tree.attrs.get("holds") != "trials":
            raise ValueError(f"{path} holds no trials; `posterior calibrate` and `save_trials` write them")
        return Trials(_trials(tree)), json.loads(tree.attrs["notes"])
    finally:
        tree.close()


def _trials(tree: DataTree) -> list[Trial]:
    posterior, stats = tree["posterior"].to_dataset(), tree["sample_stats"].to_dataset()
    name = str(next(iter(posterior.data_vars)))
    draws, truths = _tensor(posterior, name), _tensor(tree["reference"].to_dataset(), name)
    weights = _tensor(stats, "log_weight") if "log_weight" in stats else None
    both = {k: torch.cat([_tensor(stats, f"true_{k}")[:, None], _tensor(stats, k)], 1) for k in _MEMBERS if k in stats}
    cost = torch.stack([_tensor(stats, k) for k in _COST], 1) if "seconds" in stats else None
    y = _data(tree["observed_data"].to_dataset()) if "observed_data" in tree.children else None
    points = tree["constant_data"].to_dataset() if "constant_data" in tree.children else None
    reference = None if points is None else _tensor(points, "reference_point")

    def at(values: Tensor | None, i: int) -> Tensor | None:
        return None if values is None else values[i]

    return [
        Trial(
            truths[i],
            draws[i],
            y=None if y is None else y[i][None],
            log_weights=at(weights, i),
            reference=at(reference, i),
            log_prob=at(both.get("log_prob"), i),
            chi_square=at(both.get("chi_square"), i),
            cost=at(cost, i),
        )
        for i in range(len(draws))
    ]


def _statistics(every: list[Trial]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, long_name in _MEMBERS.items():
        if all(getattr(t, key) is not None for t in every):
            values = _stack(every, key)
            found[f"true_{key}"] = ("trial", values[:, 0], {"long_name": f"{long_name} of the truth", "units": "1"})
            found[key] = (("trial", "draw"), values[:, 1:], {"long_name": f"{long_name} of a draw", "units": "1"})
    if all(t.log_weights is not None for t in every):
        about = {"long_name": "unnormalised log-weight of a draw", "units": "1"}
        found["log_weight"] = (("trial", "draw"), _stack(every, "log_weights"), about)
    if all(t.cost is not None for t in every):
        for values, (key, (long_name, units)) in zip(_stack(every, "cost").T, _COST.items(), strict=True):
            found[key] = ("trial", values, {"long_name": long_name, "units": units})
    return found


def _stack(every: list[Trial], name: str) -> np.ndarray:
    return torch.stack([getattr(trial, name).detach().cpu() for trial in every]).resolve_conj().numpy()


def _tensor(group: Dataset, name: str) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(group[name].values))


def _data(group: Dataset) -> Tensor:
    values = _tensor(group, "measurement")
    return torch.view_as_complex(values) if group["measurement"].dims[-1:] == ("complex",) else values


def _check_suffix(path: Path) -> None:
    if path.suffix not in (".nc", ".zarr"):
        raise ValueError(f"{path}: the suffix is {path.suffix!r}; trials are kept in .nc or .zarr")
    if path.suffix == ".zarr" and importlib.util.find_spec("zarr") is None:
        raise ImportError(f"{path}: this takes the package zarr: pip install 'posterior[weather]'")
