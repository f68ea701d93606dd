"""Checkpoints of the networks of EDM: DDPM++ and NCSN++ ("SongUNet") and ADM ("DhariwalUNet"), as InverseBench keeps them.

The networks are deepinv's, which have the original names of tensors. EDM's own files are pickles; the tensors have to be
converted to safetensors first, as the error on loading one says.

References:
    Karras, Aittala, Aila, Laine. Elucidating the design space of diffusion-based generative models. 2022.
        arXiv:2206.00364.
    Zheng et al. InverseBench: benchmarking plug-and-play diffusion priors for inverse problems in physical sciences. 2025.
        arXiv:2503.11043.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from posterior.priors.layouts.base import ForeignNetwork, Layout, sizes
from posterior.priors.parameterisations import EDM, ContinuousVP, Parameterisation, VarianceExploding
from posterior.priors.weights import build


@dataclass(frozen=True)
class EDMNetwork(Layout):
    """A state dictionary of EDM's networks, bare or within their preconditioning, or an InverseBench checkpoint.

    Args:
        sigma_data: Standard deviation of the training data, for the preconditioning "edm".
        preconditioning: "edm", "vp" or "ve", Table 1 of the paper.

    Raises:
        ValueError: If a checkpoint is loaded and ``preconditioning`` is none of these, or its tensors are not those
            of such a network.

    References:
        Karras, Aittala, Aila, Laine. Elucidating the design space of diffusion-based generative models. NeurIPS 2022.
        arXiv:2206.00364.
    """

    sigma_data: float = 0.5
    preconditioning: str = "edm"
    entries: ClassVar[tuple[str, ...]] = ("ema", "net")
    prefixes: ClassVar[tuple[str, ...]] = ("module.", "model.")

    def network(self, state: dict[str, Tensor], where: str) -> ForeignNetwork:
        """See `Layout.network`."""
        return edm_unet(state, where)

    def parameterisation(self) -> Parameterisation:
        """The preconditioning."""
        if self.preconditioning == "edm":
            return EDM(self.sigma_data)
        if self.preconditioning == "vp":
            return ContinuousVP()
        if self.preconditioning == "ve":
            return VarianceExploding("scaled-score", "log-half", 0.02, 100.0)
        raise ValueError(f"EDMNetwork: preconditioning {self.preconditioning!r}; wanted edm, vp or ve")


def edm_unet(state: dict[str, Tensor], where: str, *, log_time: bool = False) -> ForeignNetwork:
    """The network with EDM's names of tensors; ``where`` is what errors call the file.

    With ``log_time`` it takes the logarithm of its time input first, as score_sde does before Fourier features.
    """
    resolution = _resolution(state, where)
    renamed = {f"network.{name}": tensor for name, tensor in state.items()}

    def make() -> _EDMUNet:
        try:
            return _EDMUNet(state, resolution, where, log_time)
        except (RuntimeError, KeyError, ZeroDivisionError) as error:
            reason = str(error).partition("\n")[0]
            raise ValueError(f"{where}: the blocks do not fit together: {reason}") from error

    return build(make, renamed, where)


class _EDMUNet(ForeignNetwork):
    """One of deepinv's two networks, its size read off the tensors, without the preconditioning around it."""

    def __init__(self, state: dict[str, Tensor], resolution: int, where: str, log_time: bool) -> None:
        from deepinv.models import ADMUNet, NCSNpp

        super().__init__()
        self.log_time = log_time
        adm = "out_conv.weight" in state
        embedding, noise = sizes(state, "map_layer0.weight", 2, where)
        first, self.in_channels = sizes(state, f"enc.{resolution}x{resolution}_conv.weight", 4, where)[:2]
        last = "out_conv" if adm else f"dec.{resolution}x{resolution}_aux_conv"
        self.out_channels = sizes(state, f"{last}.weight", 4, where)[0]
        width = noise if adm else first
        sides = [resolution]
        while f"enc.{sides[-1] // 2}x{sides[-1] // 2}_block0.conv0.weight" in state:
            sides.append(sides[-1] // 2)
        blocks = [f"enc.{s}x{s}_block" for s in sides]
        label = state.get("map_label.weight")
        augment = state.get("map_augment.weight")
        self.classes = 0 if label is None else label.shape[1]
        self.multiple = 2 ** (len(sides) - 1)
        kind: Any = ADMUNet if adm else NCSNpp
        self.network = kind(
            img_resolution=resolution,
            in_channels=self.in_channels,
            out_channels=self.out_channels,
            label_dim=self.classes,
            augment_dim=0 if augment is None else augment.shape[1],
            model_channels=width,
            channel_mult=[sizes(state, f"{b}0.conv0.weight", 4, where)[0] // width for b in blocks],
            channel_mult_emb=embedding // width,
            num_blocks=sum(name.startswith(blocks[0]) and name.endswith("conv0.weight") for name in state),
            attn_resolutions=[s for s, b in zip(sides, blocks, strict=True) if _attends(state, b)],
            pretrained=None,
            **({} if adm else {"model_type": "ncsn" if "map_noise.freqs" in state else "ddpm"}),
        )
        for module in self.network.modules():
            if isinstance(module, torch.nn.GroupNorm):
                # EDM's groups have 4 channels at least; deepinv has 32 groups whatever the width.
                module.num_groups = min(32, module.num_channels // 4)

    def forward(self, inputs: Tensor, timestep: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """See `ForeignNetwork.forward`."""
        if class_labels is not None:
            class_labels = torch.nn.functional.one_hot(class_labels, self.classes).to(inputs.dtype)
        time = timestep.log() if self.log_time else timestep
        return self.network.forward_unet(inputs, time, class_labels=class_labels)


def _attends(state: dict[str, Tensor], block: str) -> bool:
    return any(name.startswith(block) and name.endswith("qkv.weight") for name in state)


def _resolution(state: dict[str, Tensor], where: str) -> int:
    """The side of the images it was made for, which the names of its blocks tell."""
    for name in state:
        if found := re.fullmatch(r"enc\.(\d{1,5})x\1_conv\.weight", name):
            return int(found[1])
    raise ValueError(f"{where} is not of this layout: no tensor is called enc.<side>x<side>_conv.weight")
