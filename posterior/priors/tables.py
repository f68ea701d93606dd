"""What a prior of ours keeps beside its network: affine map, reference, labels and climatology, as tensors and JSON.

Numbers go to tables.safetensors, names and short coordinates to posterior.json. Reading is strict: a tensor that is
missing, superfluous, misshapen or not finite is an error.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from posterior.priors.base import Affine, finite
from posterior.priors.climatology import Climatology
from posterior.priors.labels import Labels
from posterior.priors.local import LocalSpread
from posterior.priors.reference import EOFReference, MeasuredReference, RadialReference, Reference
from posterior.priors.spread import SpreadCorrection

if TYPE_CHECKING:
    from posterior.priors.network import NetworkPrior

RADIAL = ("frequencies", "power", "sigmas", "errors")
MOST_VALUES = 100_000
TIME = re.compile(r"(datetime|timedelta)64\[(D|h|m|s|ms|us|ns)\]")
LARGEST_LOG = 100.0  # of a variance that a table may hold


@dataclass
class Tables:
    """The tensors of a prior by name; what `take` has not asked for in the end is superfluous.

    Args:
        tensors: By name, as in tables.safetensors.
        where: What errors call the file.
    """

    tensors: dict[str, Tensor]
    where: str = "tables.safetensors"
    taken: set[str] = field(default_factory=set)

    def has(self, name: str) -> bool:
        """Whether there is such a tensor."""
        return name in self.tensors

    def take(self, name: str, shape: tuple[int | None, ...] | None = None) -> Tensor:
        """A tensor of this shape (None: any size, or any shape), floating-point ones in float64.

        Raises:
            ValueError: If it is missing, of another shape or not finite.
        """
        if name not in self.tensors:
            raise ValueError(f"{self.where}: missing {name}")
        tensor = self.tensors[name]
        self.taken.add(name)
        got = tuple(tensor.shape)
        if shape is not None and (
            len(shape) != len(got) or any(w is not None and w != g for w, g in zip(shape, got, strict=True))
        ):
            want = tuple("any" if n is None else n for n in shape)
            raise ValueError(f"{self.where}: {name} is {got}, wanted {want}")
        if not tensor.is_floating_point():
            return tensor
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{self.where}: {name} has values that are not finite")
        return tensor.double()

    def finish(self) -> None:
        """Raise ValueError if tensors are left that nothing asked for."""
        if extra := sorted(self.tensors.keys() - self.taken):
            raise ValueError(f"{self.where}: superfluous {', '.join(extra[:3])}")


def write_tables(
    prior: NetworkPrior, reference: Reference | None, half: bool = False
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a prior and its settings for posterior.json; with ``half`` the EOFs are rounded to float16.

    Raises:
        TypeError: If the reference is of a kind that cannot be stored.
    """
    tensors: dict[str, Tensor] = {}
    settings: dict[str, Any] = {}
    for name, value in (("scale", prior.affine.scale), ("shift", prior.affine.shift)):
        if torch.as_tensor(value).numel() == 1:
            settings[name] = float(torch.as_tensor(value))
        else:
            settings[name] = "table"
            axes = [1] * (len(prior.event_shape) - torch.as_tensor(value).ndim)  # those that broadcasting adds
            tensors[f"affine.{name}"] = torch.as_tensor(value).float().reshape(*axes, *torch.as_tensor(value).shape)
    if prior.climatology is not None:
        settings["climatology"] = {"yearly": prior.climatology.yearly, "daily": prior.climatology.daily}
        tensors["climatology.coefficients"] = prior.climatology.coefficients.float()
    if prior.labels is not None:
        settings["labels"] = _describe(prior.labels)
        if prior.labels.mask is not None:
            tensors["labels.mask"] = prior.labels.mask
    if isinstance(reference, RadialReference):
        named = {k: getattr(reference, k) for k in RADIAL}
        tensors |= {f"reference.{k}": v.double() for k, v in named.items() if v is not None}
    elif isinstance(reference, EOFReference):
        settings["reference"] = {"kind": "eof"}
        tensors |= write_eofs(reference, half, None if prior.labels is None else prior.labels.mask)
    elif reference is not None:
        raise TypeError(
            f"save_prior: the reference is a {type(reference).__name__}; wanted a RadialReference or an EOFReference"
        )
    if prior.spread is not None:
        spread = prior.spread
        tensors |= {f"spread.{k}": getattr(spread, k).double() for k in ("sigmas", "edges", "factors")}
        tensors["spread.gain"] = torch.tensor(spread.gain, dtype=torch.float64)
    if prior.local_spread is not None:
        local = prior.local_spread
        errors = torch.stack([r.errors for r in local.references if r.errors is not None], 1)
        named = {"edges": local.edges, "values": local.values, "sigmas": local.references[0].sigmas, "errors": errors}
        tensors |= {f"local.{k}": v.double().clone() for k, v in named.items() if v is not None}
        tensors["local.gain"] = torch.tensor(local.gain, dtype=torch.float64)
        if local.tails is not None:
            tensors["local.tails"] = torch.tensor(local.tails, dtype=torch.float64)
    return {k: v.detach().cpu().contiguous() for k, v in tensors.items()}, settings


def write_eofs(reference: EOFReference, half: bool, known: Tensor | None = None) -> dict[str, Tensor]:
    """The tensors of an EOF reference; with ``half`` its vectors in float16, and its mask where it is not the ``known`` one."""
    vectors, mask = reference.vectors, reference.mask
    there = reference.exists().cpu()
    said = torch.ones_like(there) if known is None else known.cpu()
    if mask is not None:  # only points that exist
        vectors = vectors[mask.flatten()]
    found = {
        "vectors": vectors.half() if half else vectors.float(),
        "variances": torch.cat([reference.variances, reference.variances.new_tensor([reference.rest])]).double(),
    }
    if reference.sigmas is not None and reference.errors is not None:
        found |= {"sigmas": reference.sigmas.double(), "errors": reference.errors.double()}
    if not torch.equal(there, said):
        found["mask"] = there
    return {f"reference.{k}": v for k, v in found.items()}


def read_affine(config: dict[str, Any], tables: Tables, event_shape: tuple[int | None, ...]) -> Affine:
    """The affine map; a tensor must broadcast to an event and a scale be positive."""
    values: dict[str, Tensor | float] = {}
    for name in ("scale", "shift"):
        if config[name] != "table":
            values[name] = finite(name, config[name], positive=name == "scale")
            continue
        value = tables.take(f"affine.{name}")
        fits = value.ndim == len(event_shape) and all(g in (1, w) for g, w in zip(value.shape, event_shape, strict=True))
        if not fits:
            raise ValueError(f"{tables.where}: affine.{name} is {tuple(value.shape)}; the events are {event_shape}")
        if name == "scale" and not (value > 0).all():
            raise ValueError(f"{tables.where}: affine.scale is not positive")
        values[name] = value
    return Affine(**values)


def read_climatology(config: dict[str, Any], tables: Tables, event_shape: tuple[int | None, ...]) -> Climatology | None:
    """The climatology, where there is one."""
    about = config.get("climatology")
    if about is None:
        return None
    return Climatology(tables.take("climatology.coefficients", (None, *event_shape)), int(about["yearly"]), int(about["daily"]))


def read_reference(config: dict[str, Any], tables: Tables, event_shape: tuple[int | None, ...]) -> Reference | None:
    """The reference Gaussian, where there is one; a radial one where posterior.json does not say."""
    kind = config.get("reference", {"kind": "radial"})["kind"]
    if kind == "eof":
        return read_eofs(tables, event_shape)
    if kind != "radial":
        raise ValueError(f"reference {kind!r} is not known; wanted 'eof' or 'radial'")
    if not any(tables.has(f"reference.{k}") for k in RADIAL):
        return None
    frequencies = tables.take("reference.frequencies", (None,))
    rows = len(frequencies)
    power = tables.take("reference.power", (rows,))
    if rows < 2 or not (frequencies[0] >= 0 and (frequencies.diff() > 0).all() and (power > 0).all()):
        raise ValueError(f"{tables.where}: reference.power is not positive at two or more rising reference.frequencies")
    return RadialReference(frequencies, power, *_read_errors(tables, rows))


def read_spread(tables: Tables) -> SpreadCorrection | None:
    """The correction of the spread, where there is one."""
    if not tables.has("spread.factors"):
        return None
    sigmas, edges = (tables.take(f"spread.{k}", (None,)) for k in ("sigmas", "edges"))
    factors = tables.take("spread.factors", (len(sigmas), len(edges) + 1))
    if not ((sigmas > 0).all() and (sigmas.diff() > 0).all() and (edges.diff() > 0).all() and (factors > 0).all()):
        raise ValueError(f"{tables.where}: the correction of the spread is not positive at rising noise levels and bands")
    return SpreadCorrection(sigmas, edges, factors, float(tables.take("spread.gain", ())))


def read_local(tables: Tables, reference: Reference | None, event_shape: tuple[int | None, ...]) -> LocalSpread | None:
    """Where in the field the denoiser errs, where that was measured."""
    if not tables.has("local.values"):
        return None
    if not isinstance(reference, MeasuredReference):
        raise ValueError(f"{tables.where}: local.values without a reference")
    edges, values = tables.take("local.edges", (None, None, None, 2)), tables.take("local.values", (None,) * 5)
    if not float(values.abs().max()) < LARGEST_LOG:
        raise ValueError(f"{tables.where}: local.values are no logarithms of variances")
    sigmas, errors = _read_errors(tables, edges.shape[1], reference.rows, owner="local")
    if errors is None:
        raise ValueError(f"{tables.where}: local.values without local.errors")
    references = tuple(reference.with_errors(sigmas, e) for e in errors.unbind(1))
    tails = float(tables.take("local.tails", ())) if tables.has("local.tails") else None
    found = LocalSpread(references, edges, values, float(tables.take("local.gain", ())), tails)
    found.check_event(event_shape, str(tables.where))
    return found


def _read_errors(tables: Tables, *rows: int, owner: str = "reference") -> tuple[Tensor | None, Tensor | None]:
    if not (tables.has(f"{owner}.sigmas") or tables.has(f"{owner}.errors")):
        return None, None
    sigmas = tables.take(f"{owner}.sigmas", (None,))
    errors = tables.take(f"{owner}.errors", (len(sigmas), *rows))
    if not ((sigmas > 0).all() and (sigmas.diff() > 0).all() and (errors > 0).all()):
        raise ValueError(f"{tables.where}: the error spectrum is not positive at rising noise levels")
    return sigmas, errors


def read_eofs(tables: Tables, event_shape: tuple[int | None, ...]) -> EOFReference:
    """What `write_eofs` wrote, for events of this shape."""
    shape = tuple(n for n in event_shape if n is not None)
    mask = _read_mask(tables, shape, "reference.mask" if tables.has("reference.mask") else "labels.mask")
    if mask is not None and mask.all():
        mask = None
    points = math.prod(shape) if mask is None else int(mask.sum())
    vectors = tables.take("reference.vectors", (points, None))
    k = vectors.shape[1]
    variances = tables.take("reference.variances", (k + 1,))
    off = (vectors.T @ vectors - torch.eye(k, dtype=vectors.dtype)).abs().max()
    used = variances[:k] if k == points else variances
    if off > 1e-3 or (used <= 0).any():
        raise ValueError(f"{tables.where}: reference.vectors are not orthonormal, or reference.variances not positive")
    if mask is not None:
        full = vectors.new_zeros(math.prod(shape), k)
        full[mask.flatten()] = vectors
        vectors = full
    return EOFReference(vectors, variances[:k], float(variances[k]), shape, mask, *_read_errors(tables, k + 1))


def _read_mask(tables: Tables, shape: tuple[int, ...], name: str) -> Tensor | None:
    if not tables.has(name):
        return None
    mask = tables.take(name, shape)
    if mask.dtype != torch.bool:
        raise ValueError(f"{tables.where}: {name} is not boolean")
    return mask


def _describe(labels: Labels) -> dict[str, Any]:
    coords = {}
    for dim, coord in labels.coords.items():
        entry, values = {"attrs": {k: _plain(v) for k, v in coord.attrs.items()}}, coord.values
        if values.dtype.kind == "M":
            entry["kind"], values = values.dtype.name, np.datetime_as_string(values)
        elif values.dtype.kind == "m":
            entry["kind"], values = values.dtype.name, values.astype(np.int64)
        coords[dim] = {"values": values.tolist(), **entry}
    attrs = {k: _plain(v) for k, v in labels.attrs.items()}
    return {"name": labels.name, "dims": list(labels.dims), "attrs": attrs, "coords": coords}


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def read_labels(config: dict[str, Any], tables: Tables, event_shape: tuple[int | None, ...]) -> Labels | None:
    """The labels, where there are any."""
    about = config.get("labels")
    if about is None:
        return None
    from xarray import DataArray

    coords = {}
    for dim, entry in about["coords"].items():
        coords[str(dim)] = DataArray(_read_values(dim, entry), dims=(dim,), attrs=_attributes(entry["attrs"]))
    mask = _read_mask(tables, tuple(n for n in event_shape if n is not None), "labels.mask")
    labels = Labels(str(about["name"]), tuple(map(str, about["dims"])), coords, _attributes(about["attrs"]), mask)
    labels.check(event_shape)
    return labels


def _read_values(dim: str, entry: dict[str, Any]) -> np.ndarray:
    """Of a coordinate: numbers, names, or with a ``kind`` times (ISO texts) or spans of time (whole numbers)."""
    values, kind = entry["values"], entry.get("kind")
    kinds = {str if isinstance(v, str) else float if isinstance(v, int | float) else None for v in values}
    if not isinstance(values, list) or len(values) > MOST_VALUES or len(kinds) != 1 or None in kinds:
        raise ValueError(f"coordinate {dim!r}: wanted a list of numbers or of names")
    array = np.asarray(values)
    if kind is None:
        return array
    if not (isinstance(kind, str) and TIME.fullmatch(kind) and array.dtype.kind == ("U" if kind[0] == "d" else "i")):
        raise ValueError(f"coordinate {dim!r}: values of kind {kind!r}; wanted texts for datetime64, numbers for timedelta64")
    return array.astype(kind)


def _attributes(attrs: dict[str, Any]) -> dict[str, Any]:
    for name, value in attrs.items():
        parts = value if isinstance(value, list) else [value]
        if not all(isinstance(v, str | int | float) for v in parts):
            raise ValueError(f"attribute {name!r}: wanted text or numbers")
    return dict(attrs)
