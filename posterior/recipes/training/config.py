"""The file that describes a training run: TOML, every key known, every error naming the key."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import tomllib
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from posterior.priors.training import TrainingSettings

_T = TypeVar("_T")

_HEAD = 8  # channels of an attention head of diffusers' UNet2DModel
REFERENCES = ("eof", "radial", "none")
PARAMETERISATIONS = ("gaussian-residual", "gaussian-residual-flow", "edm", "velocity")


@dataclass(frozen=True)
class DataConfig:
    """Where fields come from and which of them train.

    Args:
        train: Periods, each [first, last] with both ends in it: dates as text, or numbers of fields from 0.
        develop: Periods of held-out fields; they choose the step and are what the card is measured on.

    Other arguments:
        registry: Name of a dataset of `posterior.io.registry`.
        file: NetCDF, Zarr, GRIB, climate4R, or NumPy (``.npy``: fields (N, H, W) or (N, C, H, W)); one of the two.
        variables: Names of the variables, one a channel; may be left out where the file has one.
        units: Unit to train in; the file's own where None.
        source_units: Unit of the values, for a file that does not say.
        coordinate_units: Units of coordinates, for a file that does not say.
        name: What the field is called; the variable's name where None and there is one.
    """

    train: tuple[tuple[str | int, str | int], ...]
    develop: tuple[tuple[str | int, str | int], ...] = ()
    registry: str | None = None
    file: str | None = None
    variables: tuple[str, ...] = ()
    units: str | None = None
    source_units: str | None = None
    coordinate_units: dict[str, str] = field(default_factory=dict)
    name: str | None = None


@dataclass(frozen=True)
class MeanConfig:
    """The mean of every grid point, which is the shift of the affine map.

    Args:
        yearly: Harmonics of the year.
        daily: Harmonics of the day.
        folds: Training fields are deviations from the mean of the other folds, runs of neighbouring fields, as held-out fields
            will be from the mean of all; 0 for deviations from a mean that knows them. For few fields, to which their own
            mean lies closer than the mean of others: they are less spread about it than fields to come.
    """

    yearly: int = 0
    daily: int = 0
    folds: int = 0

    def __post_init__(self) -> None:
        if self.folds < 0 or self.folds == 1:
            raise ValueError(f"mean.folds: {self.folds}; wanted 0, or 2 or more")
        for name in ("yearly", "daily"):
            _at_least(f"mean.{name}", getattr(self, name), 0)


@dataclass(frozen=True)
class ReferenceConfig:
    """The reference Gaussian, fitted on the training fields.

    Args:
        kind: "eof", "radial" or "none".
        rank: EOFs kept; all where None.
        shrinkage: Of the EOF covariance towards white.
        localisation: Grid points at which points no longer covary; None for as far as they do (see `EOFReference.fit`).
        hybrid: Share of the covariance that is not localised.
        leading: EOFs that are not localised at all.
        folds: While a residual network trains, a field meets the Gaussian of the other folds, runs of neighbouring fields, as
            a held-out field will meet the whole; 0 for the Gaussian that knows it. For few fields, whose Gaussian errs less
            on them than on others.
        spread: Factor on the standard deviation of the error spectrum: a network errs more on its own draws than on noised
            fields, and reconstructions of held-out fields say by how much.
    """

    kind: str = "eof"
    rank: int | None = None
    shrinkage: float = 0.0
    localisation: float | None = None
    hybrid: float = 0.0
    leading: int = 0
    folds: int = 0
    spread: float = 1.0

    def __post_init__(self) -> None:
        if self.rank is not None:
            _at_least("reference.rank", self.rank, 1)
        if self.localisation is not None and not 0 < self.localisation < math.inf:
            raise ValueError(f"reference.localisation: {self.localisation}; wanted a positive number of grid points")
        if not 0 <= self.shrinkage < 1:
            raise ValueError(f"reference.shrinkage: {self.shrinkage}; wanted a number in [0, 1)")
        if not 0 < self.spread < math.inf:
            raise ValueError(f"reference.spread: {self.spread}; wanted a positive factor")
        if self.folds < 0 or self.folds == 1 or (self.folds and self.kind == "none"):
            raise ValueError(f"reference.folds: {self.folds}; wanted 0, or 2 or more of a reference")
        if not 0 <= self.hybrid < 1 or (self.hybrid and self.localisation is None):
            raise ValueError(f"reference.hybrid: {self.hybrid}; wanted a share in [0, 1) of a reference with a localisation")
        if self.leading < 0 or (self.leading and self.localisation is None):
            raise ValueError(f"reference.leading: {self.leading}; wanted a number of EOFs of a reference with a localisation")


@dataclass(frozen=True)
class NetworkConfig:
    """The diffusers `UNet2DModel`.

    Args:
        channels: Of each level; a level halves the resolution of the one before.
        layers: Residual blocks of a level.
        dropout: Probability of dropping a channel's value in residual blocks.
        attention: Self-attention at the last level.
        groups: Groups of the group normalisation, which divide every number of channels.
        parameterisation: What the network predicts: "gaussian-residual" and its flow form "gaussian-residual-flow" need
            a reference; "edm"; "velocity".
    """

    channels: tuple[int, ...] = (32, 64, 96)
    layers: int = 1
    dropout: float = 0.1
    attention: bool = False
    groups: int = 8
    parameterisation: str = "gaussian-residual"

    def __post_init__(self) -> None:
        if not self.channels:
            raise ValueError("network.channels: []; wanted one number of channels or more")
        for name in ("groups", "layers"):
            _at_least(f"network.{name}", getattr(self, name), 1)
        if bad := [c for c in self.channels if c < 1 or c % self.groups]:
            raise ValueError(f"network.channels: {bad[0]} does not divide into {self.groups} groups (network.groups)")
        if self.attention and self.channels[-1] < _HEAD:
            raise ValueError(f"network.attention: takes {_HEAD} channels or more at the last level, got {self.channels[-1]}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"network.dropout: {self.dropout}; wanted a number in [0, 1)")


@dataclass(frozen=True)
class RunConfig(TrainingSettings):
    """`TrainingSettings`, and what a batch is.

    Args:
        batch: Fields in a batch.
        augment: See `posterior.priors.training.batches_of`.
        start: A prior, by name or path, whose weights training begins with; its network must be that of the configuration.
    """

    batch: int = 32
    augment: tuple[str, ...] = ()
    start: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least("training.batch", self.batch, 1)

    def settings(self) -> TrainingSettings:
        """The settings of the loop."""
        return TrainingSettings(**{f.name: getattr(self, f.name) for f in dataclasses.fields(TrainingSettings)})


@dataclass(frozen=True)
class TrainingConfig:
    """A training run.

    Args:
        name: Of the prior, and of folders: no path.
        summary: One line on what it is a prior of.
        data: Where fields come from.
        training: How it is trained.

    Other arguments:
        licence: Of the weights.
        sources: Sentences on where the data come from and under which licence.
        limits: What the prior does not know.
        mean: The mean of every grid point.
        reference: The reference Gaussian.
        network: The network.
        notes: Further sentences for the card.

    Raises:
        ValueError: If a setting is out of its range, or settings do not go together.
    """

    name: str
    summary: str
    data: DataConfig
    training: RunConfig
    licence: str = "unknown"
    sources: tuple[str, ...] = ()
    limits: str = ""
    mean: MeanConfig = field(default_factory=MeanConfig)
    reference: ReferenceConfig = field(default_factory=ReferenceConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.name in ("", "..") or Path(self.name).name != self.name:
            raise ValueError(f"name: {self.name!r}; wanted the name of a folder, without a path")
        _one_of("reference.kind", self.reference.kind, REFERENCES)
        _one_of("network.parameterisation", self.network.parameterisation, PARAMETERISATIONS)
        if (self.data.registry is None) == (self.data.file is None):
            raise ValueError("data: wanted one of registry and file")
        if len(set(self.data.variables)) < len(self.data.variables):
            raise ValueError(f"data.variables: {', '.join(self.data.variables)}; wanted each of them once")
        if not self.data.train:
            raise ValueError("data.train: wanted at least one period")
        if self.network.parameterisation.startswith("gaussian") and self.reference.kind == "none":
            raise ValueError(
                f"network.parameterisation: {self.network.parameterisation!r} needs a reference; reference.kind is 'none'"
            )
        if self.training.validate_every and not self.data.develop:
            raise ValueError("training.validate_every: there are no fields to validate on; give data.develop")


def read_config(path: str | os.PathLike[str]) -> TrainingConfig:
    """The training run that a TOML file describes.

    Args:
        path: Of the file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not TOML, or a key is unknown, missing, of the wrong type or out of its range.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file; wanted a TOML file that describes a training run")
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        return _build(TrainingConfig, table, "")
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def dataset_of(card: dict[str, Any]) -> DataConfig | None:
    """The data that a prior's card says it was trained on; None where it names no dataset of the registry.

    Raises:
        ValueError: If the entry is not what `train_prior` writes.
    """
    table = card.get("dataset")
    return None if table is None else _build(DataConfig, table, "card.dataset")


def dataset_entry(data: DataConfig) -> dict[str, Any] | None:
    """What a card keeps of ``data``, for `dataset_of`: nothing of a user's own file, which others do not have."""
    if data.registry is None:
        return None
    return json.loads(json.dumps({k: v for k, v in dataclasses.asdict(data).items() if v not in (None, (), {})}))


def _build(kind: type[_T], table: Any, where: str) -> _T:
    if not isinstance(table, dict):
        raise ValueError(f"{where}: {table!r}; wanted a table")
    fields = {f.name: f for f in dataclasses.fields(typing.cast("Any", kind))}
    hints = typing.get_type_hints(kind)
    if unknown := sorted(table.keys() - fields.keys()):
        raise ValueError(f"unknown key {_join(where, unknown[0])}; known: {', '.join(fields)}")
    needed = [
        n
        for n, f in fields.items()
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING and n not in table
    ]
    if needed:
        raise ValueError(f"missing {', '.join(_join(where, n) for n in needed)}")
    return kind(**{name: _value(hints[name], value, _join(where, name)) for name, value in table.items()})


def _value(hint: Any, value: Any, where: str) -> Any:
    """``value`` as the type that the field has, lists as tuples."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return _build(typing.cast("Any", hint), value, where)
    if origin in (types.UnionType, typing.Union):
        kinds = [p for p in parts if p is not type(None)]
        if any(type(value) is p for p in kinds):
            return value
        if len(kinds) == 1:
            return _value(kinds[0], value, where)
    elif origin is tuple and isinstance(value, list):
        if parts[-1] is Ellipsis:
            return tuple(_value(parts[0], v, f"{where}[{i}]") for i, v in enumerate(value))
        if len(value) == len(parts):
            return tuple(_value(p, v, f"{where}[{i}]") for i, (p, v) in enumerate(zip(parts, value, strict=True)))
    elif origin is dict and isinstance(value, dict):
        return {k: _value(parts[1], v, _join(where, k)) for k, v in value.items()}
    elif hint is float and type(value) in (int, float):
        return float(value)
    elif type(value) is hint:
        return value
    raise ValueError(f"{where}: {value!r}; wanted {_words(hint)}")


def _words(hint: Any) -> str:
    names = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
    if typing.get_origin(hint) is tuple:
        parts = [p for p in typing.get_args(hint) if p is not Ellipsis]
        return f"a list of {len(parts)}" if len(parts) > 1 else f"a list, each {_words(parts[0])}"
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return " or ".join(_words(p) for p in typing.get_args(hint) if p is not type(None))
    return names.get(hint, "a table")


def _join(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _at_least(where: str, value: int, low: int) -> None:
    if value < low:
        raise ValueError(f"{where}: {value}; wanted {low} or more")


def _one_of(where: str, value: str, words: tuple[str, ...]) -> None:
    if value not in words:
        raise ValueError(f"{where}: {value!r}; wanted {', '.join(words[:-1])} or {words[-1]}")
