"""Priors that are neural networks, behind the one coordinate."""

from __future__ import annotations

import copy
import math
from typing import Any, Self

import torch
from torch import Tensor

from posterior.priors.base import Affine, Prior, column
from posterior.priors.climatology import Climatology
from posterior.priors.coarse import CoarseDenoiser
from posterior.priors.conditioning import Conditioned
from posterior.priors.labels import Labels
from posterior.priors.parameterisations import Parameterisation
from posterior.priors.reference import Reference
from posterior.priors.symmetries import checked, composed, turn


class NetworkPrior(Prior):
    """A trained network as a prior.

    Args:
        network: Module with diffusers' call ``network(inputs, time).sample`` or a plain ``network(inputs, time)``.
            It is used as it is, in evaluation mode. Of an output of twice the field's channels the second half, a
            learned variance, is dropped.
        parameterisation: What the network predicts.
        event_shape: (C, H, W); H and W None for fully convolutional networks.

    Other arguments:
        affine: Standardised to physical coordinates.
        units: Physical units.
        reference: Reference Gaussian in standardised coordinates.
        rms: Root-mean-square of a standardised coordinate.
        sigma_range: Noise levels the network was trained for; the parameterisation's own where None.
        labels: Name, axes and coordinates of the field; behind its mask the prior is 0 in standardised coordinates.
        climatology: The mean of the field on a given date, for `Prior.on`.
        coarse: What denoises above a noise level in the network's place; needs a reference.
        symmetries: Of the law of a standardised field, some of "flip-x", "flip-y" and "transpose" (of square fields).
        multiple: Image sides are zero-padded to a multiple of this before the network sees them and cut back after,
            since a U-Net halves its input several times. 1 where padding is never needed.
        name: What errors call this prior.
        card: Free-form facts kept with the prior (data, licence, pixel size).

    Raises:
        ValueError: If labels do not fit the event shape, a symmetry is not known, there are symmetries and a network that is
            told channels, which would not be turned with the field, or a ``coarse`` denoiser and no reference.
    """

    def __init__(
        self,
        network: torch.nn.Module,
        parameterisation: Parameterisation,
        event_shape: tuple[int | None, ...],
        *,
        affine: Affine | None = None,
        units: str = "1",
        reference: Reference | None = None,
        rms: float = 1.0,
        sigma_range: tuple[float, float] | None = None,
        labels: Labels | None = None,
        climatology: Climatology | None = None,
        coarse: CoarseDenoiser | None = None,
        symmetries: tuple[str, ...] = (),
        multiple: int = 1,
        name: str = "network",
        card: dict[str, Any] | None = None,
    ) -> None:
        self.network = network.eval()
        self.parameterisation = parameterisation
        self.event_shape = event_shape
        self.affine = affine or Affine()
        self.units = units
        self.reference = reference
        self.rms = rms
        self.sigma_min, self.sigma_max = sigma_range or parameterisation.range()
        self.labels = labels
        self.climatology = climatology
        if coarse is not None and reference is None:
            raise ValueError(f"prior '{name}': a coarse denoiser needs a reference Gaussian for the frequencies it leaves out")
        if labels is not None:
            labels.check(event_shape)
        self._mask = None if labels is None else labels.mask
        self.multiple = multiple
        self.name = name
        self.calls = int(getattr(network, "calls", 1))
        self.coarse = coarse
        self.symmetries = checked(symmetries, f"prior '{name}'")
        told = [side for part in network.modules() if isinstance(part, Conditioned) for side in (part.told, part.free)]
        self._told = [tuple(side.channels.shape) for side in told if side is not None and side.channels is not None]
        if self.symmetries and self._told:
            raise ValueError(
                f"prior '{name}': symmetries of a network that is told channels, which are not turned with the field"
            )
        self._orientation: tuple[str, ...] = ()
        self.card = dict(card or {})

    @property
    def sigma_top(self) -> float:
        """See `Prior.sigma_top`."""
        return self.sigma_max if self.coarse is None else max(self.sigma_max, self.coarse.sigma_max)

    def oriented(self, number: int) -> Self:
        """See `Prior.oriented`; the reference Gaussian and a coarse denoiser are asked as ever."""
        parts = composed(self.symmetries, number)
        if parts == self._orientation:
            return self
        turned = copy.copy(self)
        turned._orientation = parts
        return turned

    def denoise(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """See `Prior.denoise`."""
        s = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).reshape(-1).expand(x.shape[0])
        if self._mask is None:
            return self._denoise(x, s)
        mask = self._mask.to(x)
        return mask * self._denoise(mask * x, s)

    def _denoise(self, x: Tensor, s: Tensor) -> Tensor:
        if self.coarse is None or self.reference is None or not bool((s > self.coarse.above).any()):
            return self.parameterisation.denoise(self._call, x, s)
        coarse, high = self.coarse.denoise(x, s, self.reference), s > self.coarse.above
        if bool(high.all()):
            return coarse
        return torch.where(column(high, x).bool(), coarse, self.parameterisation.denoise(self._call, x, s))

    def _call(self, inputs: Tensor, time: Tensor) -> Tensor:
        inputs = turn(inputs, self._orientation)
        h, w = inputs.shape[-2:]
        for told in self._told:  # padding would hide that they are too small
            if told[-2:] != (h, w):
                raise ValueError(f"prior '{self.name}': the condition's channels are {told}; the field is {h} x {w}")
        pad_h, pad_w = (-h) % self.multiple, (-w) % self.multiple
        if pad_h or pad_w:
            inputs = torch.nn.functional.pad(inputs, (0, pad_w, 0, pad_h))
        dtype = next(self.network.parameters(), inputs).dtype
        if inputs.device.type == "cpu" and inputs.ndim == 4:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        out = self.network(inputs.to(dtype), time.to(dtype))
        out = self._mean(out if isinstance(out, Tensor) else out.sample)
        return turn(out[..., :h, :w], self._orientation, back=True).to(inputs.dtype).contiguous()

    def _mean(self, out: Tensor) -> Tensor:
        """The output without the variance that some networks learn beside it."""
        channels = self.event_shape[0]
        if channels is not None and out.shape[1] == 2 * channels:
            return out[:, :channels]
        return out


def unet_multiple(block_out_channels: tuple[int, ...]) -> int:
    """What image sides must be a multiple of for a `UNet2DModel` with these blocks."""
    return int(math.pow(2, len(block_out_channels) - 1))
