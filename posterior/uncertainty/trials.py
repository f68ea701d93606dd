"""Trials of a sampler on problems whose truth is known: drawn once, scored as often as one likes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from torch import Tensor

from posterior._tensors import write_tensors

_PARTS = ".parts"  # ends the name of a complex tensor that is kept as real and imaginary part


@dataclass(frozen=True, eq=False)
class Trial:
    """One truth, the data it gave and the draws made from these data, in physical units.

    If the sampler is exact, truth and draws are exchangeable given the data: all diagnostics rest on that.

    Args:
        truth: The event that the data came from, (*event).
        draws: (S, *event), two or more.

    Other arguments:
        y: The data, (1, *range).
        log_weights: (S,) unnormalised log-weights of the draws, None where all weigh the same.
        reference: An event computed from the data alone, (*event), such as the operator's adjoint; for TARP.
        log_prob: log p(y | x) of the truth and then of each draw, (S + 1,).
        chi_square: Normalised residual chi-square of the truth and then of each draw, (S + 1,).
        cost: Network calls and vector-Jacobian products for each draw, and seconds for all, (3,).

    Raises:
        ValueError: If shapes do not fit, there are fewer than two draws, or truth or draws are not finite.
    """

    truth: Tensor
    draws: Tensor
    y: Tensor | None = None
    log_weights: Tensor | None = None
    reference: Tensor | None = None
    log_prob: Tensor | None = None
    chi_square: Tensor | None = None
    cost: Tensor | None = None

    def __post_init__(self) -> None:
        event, n = tuple(self.truth.shape), len(self.draws)
        if tuple(self.draws.shape[1:]) != event or n < 2:
            raise ValueError(
                f"Trial: draws have shape {tuple(self.draws.shape)}; wanted (S, *event) with two draws or more of "
                f"the truth's shape {event}"
            )
        if not (torch.isfinite(self.truth).all() and torch.isfinite(self.draws).all()):
            raise ValueError("Trial: truth or draws have values that are not finite")
        wanted = {"log_weights": (n,), "reference": event, "log_prob": (n + 1,), "chi_square": (n + 1,), "cost": (3,)}
        for name, shape in wanted.items():
            value = getattr(self, name)
            if value is not None and tuple(value.shape) != shape:
                raise ValueError(f"Trial: {name} has shape {tuple(value.shape)}; wanted {shape}")

    @property
    def members(self) -> Tensor:
        """The truth and then the draws, (S + 1, *event), in the precision of the draws."""
        return torch.cat([self.truth[None].to(self.draws), self.draws])

    def equally_weighted(self) -> Trial:
        """This trial with draws of equal weight; itself where they are.

        As many draws are kept as the weighted ones are worth (1 / sum w^2, two at least), at the midpoints of equal
        shares of the total weight (systematic resampling without its random start).
        """
        if self.log_weights is None:
            return self
        weights = torch.softmax(self.log_weights.double(), 0)
        worth = max(2, int(1 / weights.square().sum() + 1e-9))
        places = (torch.arange(worth, dtype=torch.float64) + 0.5) / worth
        kept = torch.searchsorted(weights.cumsum(0), places).clamp_max(len(weights) - 1)
        both = torch.cat([kept.new_zeros(1), kept + 1])
        log_prob, chi_square = (None if v is None else v[both] for v in (self.log_prob, self.chi_square))
        return Trial(self.truth, self.draws[kept], self.y, None, self.reference, log_prob, chi_square, self.cost)


class Trials:
    """A growing set of trials, in memory or in a folder.

    In a folder each trial is a safetensors file of its own, written whole or not at all: several processes may fill
    one folder, and a run that was stopped goes on. Trials are then read one at a time, as they are asked for.

    Args:
        trials: Trials to begin with.
        folder: Where to keep them; what lies there belongs to the set. In memory where None.

    Raises:
        ValueError: If the folder does not exist.
    """

    def __init__(self, trials: Iterable[Trial] = (), folder: str | os.PathLike[str] | None = None) -> None:
        self.folder = None if folder is None else Path(folder)
        if self.folder is not None and not self.folder.is_dir():
            raise ValueError(f"Trials: {self.folder} is not a folder")
        self._kept: list[Trial] = []
        for trial in trials:
            self.append(trial)

    def __len__(self) -> int:
        return len(self._kept) if self.folder is None else len(self.paths)

    def __iter__(self) -> Iterator[Trial]:
        if self.folder is None:
            yield from self._kept
        else:
            yield from map(load_trial, self.paths)

    def __getitem__(self, index: int) -> Trial:
        return self._kept[index] if self.folder is None else load_trial(self.paths[index])

    @property
    def paths(self) -> list[Path]:
        """The files of the folder, in order."""
        return [] if self.folder is None else sorted(self.folder.glob("trial-*.safetensors"))

    def append(self, trial: Trial) -> None:
        """Add a trial; in a folder, under the next free number."""
        if self.folder is None:
            self._kept.append(trial)
            return
        paths = self.paths
        number = int(paths[-1].stem.removeprefix("trial-")) + 1 if paths else 0
        save_trial(trial, trial_path(self.folder, number))

    def map(self, view: Callable[[Trial], Trial]) -> Trials:
        """Each trial through ``view``, as it is asked for: a magnitude, a region, a derived field.

        Args:
            view: Takes a trial to another, treating its truth and its draws alike.
        """
        return _Mapped(self, view)

    def split(self, first: int) -> tuple[Trials, Trials]:
        """The first so many trials and the others, in memory: to repair with the ones and to judge by the others.

        Raises:
            ValueError: If one of the two would be empty.
        """
        if not 0 < first < len(self):
            raise ValueError(f"Trials.split: first is {first}; wanted 1 to {len(self) - 1}")
        every = list(self)
        return Trials(every[:first]), Trials(every[first:])

    def __repr__(self) -> str:
        where = "in memory" if self.folder is None else f"in {self.folder}"
        return f"Trials({len(self)} {where})"


class _Mapped(Trials):
    """Trials as a function shows them."""

    def __init__(self, trials: Trials, view: Callable[[Trial], Trial]) -> None:
        super().__init__()
        self._trials, self._view = trials, view

    def __len__(self) -> int:
        return len(self._trials)

    def __iter__(self) -> Iterator[Trial]:
        return map(self._view, self._trials)

    def __getitem__(self, index: int) -> Trial:
        return self._view(self._trials[index])

    def append(self, trial: Trial) -> None:
        """Refused: there is nothing to keep it in."""
        raise TypeError("Trials: mapped trials are a view; append to those they come from")


def trial_path(folder: Path, number: int) -> Path:
    """The file of trial ``number``."""
    return folder / f"trial-{number:06d}.safetensors"


def pack(trial: Trial) -> dict[str, Tensor]:
    """A trial as named real tensors on the CPU."""
    packed = {}
    for field in fields(trial):
        value = getattr(trial, field.name)
        if value is not None:
            name = field.name + _PARTS if value.is_complex() else field.name
            packed[name] = (
                (torch.view_as_real(value.resolve_conj()) if value.is_complex() else value).detach().cpu().contiguous()
            )
    return packed


def unpack(packed: dict[str, Tensor]) -> Trial:
    """The trial that `pack` took apart."""
    whole = {k.removesuffix(_PARTS): torch.view_as_complex(v) if k.endswith(_PARTS) else v for k, v in packed.items()}
    return Trial(**whole)


def save_trial(trial: Trial, path: Path) -> None:
    """Write one file, never leaving half of it."""
    write_tensors({name: value.clone() for name, value in pack(trial).items()}, path)


def load_trial(path: Path) -> Trial:
    """The trial of a file.

    Raises:
        ValueError: If it cannot be read, or holds something else.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return unpack(load_file(path))
    except (SafetensorError, TypeError) as error:
        raise ValueError(f"{path} holds no trial that can be read: {error}") from error
