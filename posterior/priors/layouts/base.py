"""What every foreign checkpoint has in common: a file of named tensors that says nothing of what they predict."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from posterior.priors.base import Affine
from posterior.priors.conditioning import Condition, Conditioned
from posterior.priors.network import NetworkPrior
from posterior.priors.parameterisations import Parameterisation
from posterior.priors.weights import read_checkpoint, state_of


class ForeignNetwork(torch.nn.Module, ABC):
    """A network of a foreign layout, its size read off its tensors.

    Attributes:
        in_channels: Input channels.
        out_channels: Output channels.
        classes: How many classes it knows; 0 where it is not conditional.
        multiple: What image sides must be a multiple of.
    """

    in_channels: int
    out_channels: int
    classes: int
    multiple: int

    @abstractmethod
    def forward(self, inputs: Tensor, timestep: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """Output (B, C', H, W) of ``inputs`` (B, C, H, W), ``timestep`` (B,) and ``class_labels`` (B,)."""


class Layout(ABC):
    """How a project stores its networks, and what they predict.

    Attributes:
        entries: Under which names a training run keeps its weights; the first that is there is taken.
        prefixes: What wrappers put before the names of all tensors.
        data_range: Range of the data that such networks are trained on.
    """

    entries: ClassVar[tuple[str, ...]] = ()
    prefixes: ClassVar[tuple[str, ...]] = ("module.",)
    data_range: ClassVar[tuple[float, float]] = (-1.0, 1.0)

    @abstractmethod
    def network(self, state: dict[str, Tensor], where: str) -> ForeignNetwork:
        """The network that ``state`` describes, with these weights in it; ``where`` is what errors call the file."""

    @abstractmethod
    def parameterisation(self) -> Parameterisation:
        """What it predicts."""

    def load(self, path: Path, condition: Condition | None = None, affine: Affine | None = None) -> NetworkPrior:
        """The prior in a file; see `posterior.load_prior`.

        Raises:
            ValueError: If the file is not safe or not whole, is of another layout, or does not fit the condition.
        """
        network = self.network(self._state(path), str(path))
        extra = condition.extra_channels if condition else 0
        channels = network.in_channels - extra
        if network.out_channels not in (channels, 2 * channels):
            raise ValueError(
                f"{path}: {network.in_channels} channels in, {extra} of them of the condition, and {network.out_channels} out; "
                "wanted as many out as the field has, or twice as many where a variance was learned"
            )
        self._check_label(network, condition, path)
        return NetworkPrior(
            Conditioned(network, condition) if condition else network,
            self.parameterisation(),
            (channels, None, None),
            affine=affine,
            multiple=network.multiple,
            name=path.stem,
        )

    def _state(self, path: Path) -> dict[str, Tensor]:
        checkpoint = read_checkpoint(path)
        entry = next((e for e in self.entries if e in checkpoint), None)
        state = state_of(checkpoint if entry is None else checkpoint[entry], f"{path}{f', entry {entry!r}' if entry else ''}")
        for prefix in self.prefixes:
            if all(name.startswith(prefix) for name in state):
                state = {name.removeprefix(prefix): v for name, v in state.items()}
        return state

    @staticmethod
    def _check_label(network: ForeignNetwork, condition: Condition | None, path: Path) -> None:
        given = condition.given - {"channels"} if condition else set()
        if given != ({"label"} if network.classes else set()):
            wants = f"a label below {network.classes}" if network.classes else "no label"
            raise ValueError(f"{path}: the network wants {wants}, got {', '.join(sorted(given)) or 'none'} (condition=)")
        for told in (condition, condition.free if condition else None):
            if told is not None and told.label is not None and told.label >= network.classes:
                raise ValueError(f"{path}: label {told.label} of a network of {network.classes} classes")


def sizes(state: dict[str, Tensor], name: str, ndim: int, where: str) -> tuple[int, ...]:
    """Shape of the tensor ``name``.

    Raises:
        ValueError: If there is no such tensor or it has another number of axes: the file is of another layout.
    """
    if name not in state or state[name].ndim != ndim:
        got = f"of shape {tuple(state[name].shape)}" if name in state else "missing"
        raise ValueError(f"{where} is not of this layout: {name} is {got}, wanted {ndim} axes")
    return tuple(state[name].shape)
