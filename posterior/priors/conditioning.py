"""Conditional networks: what they are told besides the noisy field, decided when the prior is loaded."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Condition:
    """What a conditional network is told, the same for every draw.

    Args:
        label: Class, for networks trained on labelled images.
        channels: (K, H, W) further input channels, behind those of the field, in the units that the network was trained
            with: a mask, the state of the day before.
        tokens: (L, D) what cross-attention looks at: the embedding of a text, say.
        pooled: (D,) summary of the tokens, where the network wants one (SD3).

    Other arguments:
        guidance: Weight w of classifier-free guidance, out = free + w (told - free), at the price of a second network
            call. 1 is off: the network is then a prior p(x | condition). Any other weight samples from no distribution
            that has a name, and its intervals are not to be trusted (Ho, Salimans 2022, arXiv:2207.12598).
        free: What the network is told where it should know nothing (the null class, an empty text); needed for guidance.

    Raises:
        ValueError: If nothing is given, a shape does not fit, values are not finite, or guidance lacks ``free``.
    """

    label: int | None = None
    channels: Tensor | None = None
    tokens: Tensor | None = None
    pooled: Tensor | None = None
    guidance: float = 1.0
    free: Condition | None = None

    def __post_init__(self) -> None:
        if self.label is not None and self.label < 0:
            raise ValueError(f"Condition: label is {self.label}; wanted a class, 0 or more")
        for name, ndim in (("channels", 3), ("tokens", 2), ("pooled", 1)):
            value = getattr(self, name)
            if value is not None and (value.ndim != ndim or not torch.isfinite(value).all()):
                raise ValueError(f"Condition: {name} has shape {tuple(value.shape)}; wanted {ndim} axes and finite values")
        if not self.given:
            raise ValueError("Condition: wanted a label, channels, tokens or pooled")
        if self.guidance != 1 and (self.free is None or self.free.given != self.given):
            raise ValueError(f"Condition: guidance of {self.guidance} needs free=Condition({'=, '.join(sorted(self.given))}=)")

    @property
    def given(self) -> set[str]:
        """Which of the four are given."""
        return {name for name in ("label", "channels", "tokens", "pooled") if getattr(self, name) is not None}

    @property
    def extra_channels(self) -> int:
        """Input channels besides those of the field."""
        return 0 if self.channels is None else self.channels.shape[0]


class _Told(torch.nn.Module):
    """A condition as buffers, so that it moves and is fingerprinted with the network."""

    label: Tensor | None
    channels: Tensor | None
    tokens: Tensor | None
    pooled: Tensor | None

    def __init__(self, condition: Condition) -> None:
        super().__init__()
        label = None if condition.label is None else torch.tensor(condition.label)
        self.register_buffer("label", label)
        for name in ("channels", "tokens", "pooled"):
            self.register_buffer(name, getattr(condition, name))

    def forward(self, network: torch.nn.Module, inputs: Tensor, time: Tensor) -> Tensor:
        named = {"class_labels": self.label, "encoder_hidden_states": self.tokens, "pooled_projections": self.pooled}
        told = {name: self._batch(value, inputs) for name, value in named.items() if value is not None}
        if self.channels is not None:
            extra = self._batch(self.channels, inputs)
            h, w = (have - told for have, told in zip(inputs.shape[-2:], extra.shape[-2:], strict=True))
            if h < 0 or w < 0:
                raise ValueError(f"Condition: channels are {tuple(self.channels.shape)}, the field {tuple(inputs.shape[1:])}")
            inputs = torch.cat([inputs, torch.nn.functional.pad(extra, (0, w, 0, h))], dim=1)
        out = network(inputs, timestep=time, **told)
        return out if isinstance(out, Tensor) else out.sample

    @staticmethod
    def _batch(value: Tensor, inputs: Tensor) -> Tensor:
        value = value.to(inputs.dtype) if value.is_floating_point() else value
        return value.expand(inputs.shape[0], *value.shape)


class Conditioned(torch.nn.Module):
    """A conditional network that is told one thing for ever: ``(inputs, time) -> output``.

    Args:
        network: Called as ``network(inputs, timestep=time, ...)`` with those of ``class_labels`` (B,),
            ``encoder_hidden_states`` (B, L, D) and ``pooled_projections`` (B, D) that the condition has.
        condition: What it is told.
    """

    def __init__(self, network: torch.nn.Module, condition: Condition) -> None:
        super().__init__()
        self.network = network
        self.told = _Told(condition)
        self.free = _Told(condition.free) if condition.free is not None and condition.guidance != 1 else None
        self.calls = 1 if self.free is None else 2
        self.register_buffer("guidance", torch.tensor(float(condition.guidance)))

    def forward(self, inputs: Tensor, time: Tensor) -> Tensor:
        """The output given the condition, pushed away from that without where guidance is on."""
        told = self.told(self.network, inputs, time)
        if self.free is None:
            return told
        free = self.free(self.network, inputs, time)
        return free + self.guidance.to(free) * (told - free)
