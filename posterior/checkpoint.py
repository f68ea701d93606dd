"""What a run keeps on disk, so that one that was stopped goes on from there."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from datetime import date, time, timedelta
from functools import cached_property, partial
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from posterior._tensors import write_tensors
from posterior.likelihoods import Likelihood
from posterior.priors.base import Prior
from posterior.problem import Counts
from posterior.samplers.base import Sampler

SPENT = "spent"  # in the file, beside the draws
# What every module holds and no operator says anything by.
TORCHS = frozenset(vars(torch.nn.Module()))
# Told apart by how they are written.
_PLAIN = (bool, int, float, complex, str, bytes, np.generic, date, time, timedelta, range, slice)
_CODE = (FunctionType, MethodType, BuiltinFunctionType)


class SamplingError(RuntimeError):
    """A run that could not end well; the message says which sampler, at which step, and what happened."""


class Checkpoint:
    """Finished draws in a safetensors file, with a fingerprint of the run that they belong to.

    ``spent`` tells what those that it held cost, (3,): network calls, vector-Jacobian products, and for how many draws.

    Args:
        path: The file; None keeps nothing.
        prior: What the run is made of; with the likelihood's data it makes the fingerprint.
        likelihood: Likewise.
        sampler: Likewise.
        key: What else tells runs apart: the seed, and for populations their size.

    Raises:
        SamplingError: If the file's folder does not exist, or it is a folder itself.
    """

    def __init__(
        self,
        path: str | os.PathLike | None,
        prior: Prior,
        likelihood: Likelihood,
        sampler: Sampler,
        key: str,
    ) -> None:
        self.path = None if path is None else Path(path)
        self.fingerprint = ""
        self.spent = torch.zeros(3, dtype=torch.int64)
        if self.path is None:
            return
        if not self.path.parent.is_dir():
            raise SamplingError(f"checkpoint {self.path} cannot be written: there is no folder {self.path.parent}")
        if self.path.is_dir():
            raise SamplingError(f"checkpoint {self.path} is a folder; wanted a name for a file")
        digest = hashlib.sha256()
        scale, shift = (torch.as_tensor(v) for v in (prior.affine.scale, prior.affine.shift))
        for part in (repr(prior), prior.units, repr(sampler), repr(likelihood), key):
            digest.update(part.encode())
        for part in _contents([likelihood.y, likelihood.sigma, scale, shift, prior], set(), settings=False):
            digest.update(part)
        # Of a prior `repr` tells the settings; one that wraps another may count its calls.
        for part in _contents(likelihood.operator, set(), settings=True):
            digest.update(part)
        self.fingerprint = digest.hexdigest()

    def load(self) -> dict[str, Tensor]:
        """What was kept so far, by name."""
        if self.path is None or not self.path.exists():
            return {}
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.path, framework="pt") as f:
                meta = f.metadata() or {}
                if json.loads(meta.get("run", "null")) != self.fingerprint:
                    raise SamplingError(f"checkpoint {self.path} belongs to another run; delete it or name another file")
                kept = {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise SamplingError(f"checkpoint {self.path} cannot be read: {error}") from error
        self.spent = kept.pop(SPENT, self.spent)
        return kept

    def cost(self, counts: Counts, draws: int) -> Tensor:
        """`spent`, and on top of it what the ``draws`` that were not in the file cost."""
        return self.spent + torch.tensor([counts.forward, counts.vjps, draws])

    def save(self, finished: dict[str, Tensor], cost: Tensor | None = None) -> None:
        """Replace the file, never leaving half of one; ``cost`` is that of all that is in it, where that is kept."""
        if self.path is None:
            return
        spent = {} if cost is None else {SPENT: cost}
        write_tensors(finished | spent, self.path, metadata={"run": json.dumps(self.fingerprint)})


def contents_of(value: Any) -> str:
    """A fingerprint of what an object holds; empty where that is nothing, as of a function."""
    digest, empty = hashlib.sha256(), True
    for part in _contents(value, set(), settings=True):
        digest.update(part)
        empty = False
    return "" if empty else digest.hexdigest()


def data_fingerprint(likelihoods: Iterable[Likelihood]) -> str:
    """What tells data apart: their values, noise and operators."""
    told = "".join(repr(like) + contents_of([like.y, like.sigma, like.operator]) for like in likelihoods)
    return hashlib.sha256(told.encode()).hexdigest()


def _contents(value: Any, seen: set[int], settings: bool) -> Iterator[bytes]:
    """What an object holds: weights of a network, mask of an operator, points of a prior; with ``settings`` its numbers too."""
    if isinstance(value, Tensor) and value.layout != torch.strided:
        entries = value.detach().to_sparse().coalesce()
        yield str(tuple(value.shape)).encode()
        yield from _each((entries.indices(), entries.values()), seen, settings)
    elif isinstance(value, Tensor):
        yield f"{value.dtype} {tuple(value.shape)}".encode()
        yield value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    elif isinstance(value, _PLAIN):
        if settings:
            yield repr(value).encode()
    elif isinstance(value, np.ndarray):
        if settings and value.dtype.hasobject:
            yield from _each(value.flat, seen, settings)
        elif settings:
            yield f"{value.dtype} {value.shape}".encode()
            yield value.tobytes()
    elif id(value) not in seen and not isinstance(value, type):
        seen.add(id(value))
        yield from _parts(value, seen, settings)


def _parts(value: Any, seen: set[int], settings: bool) -> Iterator[bytes]:
    if isinstance(value, torch.nn.Module):
        yield from (part for _, t in sorted(value.state_dict().items()) for part in _contents(t, seen, settings))
        for child in value.modules() if settings else ():
            yield from _named({k: v for k, v in vars(child).items() if k not in TORCHS and k[0] != "_"}, seen, settings)
    elif isinstance(value, Mapping):
        yield from _named(value, seen, settings)
    elif isinstance(value, list | tuple):
        yield from _each(value, seen, settings)
    elif isinstance(value, set | frozenset):
        yield from _each(sorted(value, key=repr), seen, settings)
    elif hasattr(value, "__array__"):  # such as xarray.DataArray
        yield from _contents(np.asarray(value), seen, settings)
        yield from _named({k: np.asarray(v) for k, v in getattr(value, "coords", {}).items()}, seen, settings)
    elif isinstance(value, partial):
        yield from _each((value.func, value.args, value.keywords), seen, settings)
    elif isinstance(value, _CODE):
        return
    elif hasattr(value, "__dict__"):
        # What is only computed when asked for would tell an object that was asked from one that was not.
        kind = type(value)
        # As names, not as a dict: it is gone after this, and another may get its id.
        yield from _named({k: v for k, v in vars(value).items() if not _is_cached(kind, k)}, seen, settings)
    elif slots := {name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())}:
        yield from _named({name: getattr(value, name, None) for name in slots - {"__weakref__"}}, seen, settings)


def _each(values: Iterable[Any], seen: set[int], settings: bool) -> Iterator[bytes]:
    for value in values:
        yield from _contents(value, seen, settings)


def _named(held: Mapping[Any, Any], seen: set[int], settings: bool) -> Iterator[bytes]:
    for name in sorted(held, key=str):
        if settings:
            yield str(name).encode()
        yield from _contents(held[name], seen, settings)


def _is_cached(kind: type, name: str) -> bool:
    return isinstance(getattr(kind, name, None), cached_property)
