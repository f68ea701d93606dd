"""Checkpoints of OpenAI's U-Net: guided-diffusion (ADM), improved-diffusion, and the flows of torchcfm.

The blocks are deepinv's. The tensors tell the size of every block and where attention sits; they do not tell how
attention is split into heads, so that is asked for.

References:
    Dhariwal, Nichol. Diffusion models beat GANs on image synthesis. 2021. arXiv:2105.05233.
    Nichol, Dhariwal. Improved denoising diffusion probabilistic models. 2021. arXiv:2102.09672.
    Tong et al. Improving and generalizing flow-based generative models with minibatch optimal transport. 2023.
        arXiv:2302.00482.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from posterior.priors.layouts.base import ForeignNetwork, Layout, sizes
from posterior.priors.parameterisations import ContinuousVP, Parameterisation, VariancePreserving, Velocity
from posterior.priors.weights import build


@dataclass(frozen=True)
class AttentionHeads:
    """How attention is split into heads.

    Args:
        head_channels: Channels of each head; None where the number of heads was fixed instead.
        heads: Number of heads where ``head_channels`` is None.
        new_order: Whether queries, keys and values were split before the heads (``use_new_attention_order``).

    Raises:
        ValueError: If a checkpoint is loaded whose channels do not split into such heads.
    """

    head_channels: int | None = 64
    heads: int = 1
    new_order: bool = False

    def block(self, channels: int) -> torch.nn.Module:
        """The attention block of a layer with so many channels."""
        from deepinv.models.diffunet import AttentionBlock

        if channels % (self.head_channels or self.heads):
            raise ValueError(f"{channels} channels do not split into heads of {self}")
        return AttentionBlock(
            channels,
            num_heads=self.heads,
            num_head_channels=self.head_channels or -1,
            use_new_attention_order=self.new_order,
        )


@dataclass(frozen=True)
class GuidedDiffusion(Layout):
    """A bare state dictionary of guided-diffusion or improved-diffusion, one that learned variances too.

    Args:
        attention: Its heads. Those of the 64 x 64 ImageNet network are in the new order.
        schedule: "linear" or "cosine"; "continuous" for the same networks under EDM's "VP" preconditioning.
        steps: Number of diffusion steps of the schedule.
        prediction: "epsilon", or "sample" for networks trained with ``predict_xstart``.

    Raises:
        ValueError: If a checkpoint is loaded and ``schedule`` is none of these, or its tensors are not those
            of such a network.

    References:
        Dhariwal, Nichol. Diffusion models beat GANs on image synthesis. NeurIPS 2021. arXiv:2105.05233.
    """

    attention: AttentionHeads = AttentionHeads()
    schedule: str = "linear"
    steps: int = 1000
    prediction: str = "epsilon"
    entries: ClassVar[tuple[str, ...]] = ("ema", "net")
    prefixes: ClassVar[tuple[str, ...]] = ("module.", "model.")

    def network(self, state: dict[str, Tensor], where: str) -> ForeignNetwork:
        """See `Layout.network`."""
        return _build(state, self.attention, where)

    def parameterisation(self) -> Parameterisation:
        """The table of the schedule, asked of diffusers."""
        from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

        if self.schedule == "continuous":
            return ContinuousVP(prediction=self.prediction)
        if self.schedule == "cosine":
            scheduler = DDPMScheduler(num_train_timesteps=self.steps, beta_schedule="squaredcos_cap_v2")
        elif self.schedule == "linear":
            ends = 0.1 / self.steps, 20 / self.steps
            scheduler = DDPMScheduler(num_train_timesteps=self.steps, beta_start=ends[0], beta_end=ends[1])
        else:
            raise ValueError(f"GuidedDiffusion: schedule {self.schedule!r}; wanted linear, cosine or continuous")
        return VariancePreserving(scheduler.alphas_cumprod, self.prediction)


@dataclass(frozen=True)
class TorchCFM(Layout):
    """A network of torchcfm's ``UNetModel``: velocity x0 - eps, data at t = 1, time as it is.

    Args:
        attention: Its heads; 4 of 64 channels in the examples of torchcfm.
        coupling: "minibatch-ot" where pairs were matched by optimal transport (``otcfm``), and then a UserWarning says
            that the denoiser is approximate; see `Velocity`.
    """

    attention: AttentionHeads = AttentionHeads()
    coupling: str = "independent"
    entries: ClassVar[tuple[str, ...]] = ("ema_model", "net_model")

    def network(self, state: dict[str, Tensor], where: str) -> ForeignNetwork:
        """See `Layout.network`."""
        return _build(state, self.attention, where)

    def parameterisation(self) -> Parameterisation:
        """Data at t = 1."""
        return Velocity(1.0, data_at_one=True, coupling=self.coupling)


def _build(state: dict[str, Tensor], attention: AttentionHeads, where: str) -> ADMNetwork:
    try:
        _trial(state, attention, where)
    except (RuntimeError, AssertionError, KeyError, IndexError, TypeError) as error:
        raise ValueError(f"{where}: the blocks do not fit together: {str(error).partition(chr(10))[0]}") from error
    return build(lambda: ADMNetwork(state, attention, where), state, where)


def _trial(state: dict[str, Tensor], attention: AttentionHeads, where: str) -> None:
    """A call without numbers: raises where one block does not take what the one before gives."""
    with torch.device("meta"):
        network = ADMNetwork(state, attention, where)
        side = 2 * network.multiple
        labels = torch.zeros(1, dtype=torch.long) if network.classes else None
        network(torch.empty(1, network.in_channels, side, side), torch.empty(1), labels)


class ADMNetwork(ForeignNetwork):
    """OpenAI's U-Net, its blocks sized by the tensors of a state dictionary.

    Args:
        state: The tensors; only names and shapes are looked at.
        attention: How attention is split into heads.
        where: What errors call the file.
    """

    def __init__(self, state: dict[str, Tensor], attention: AttentionHeads, where: str) -> None:
        super().__init__()
        self.embedding, self.channels = sizes(state, "time_embed.0.weight", 2, where)
        self.time_embed = torch.nn.Sequential(
            torch.nn.Linear(self.channels, self.embedding),
            torch.nn.SiLU(),
            torch.nn.Linear(self.embedding, self.embedding),
        )
        self.classes = state["label_emb.weight"].shape[0] if "label_emb.weight" in state else 0
        if self.classes:
            self.label_emb = torch.nn.Embedding(self.classes, self.embedding)
        first, self.in_channels = sizes(state, "input_blocks.0.0.weight", 4, where)[:2]
        down, up = _count(state, "input_blocks"), _count(state, "output_blocks")
        levels = 1 + sum(_rises(state, f"output_blocks.{i}") for i in range(up))
        if not up or up % levels or down != up:
            raise ValueError(f"{where} is not of this layout: {down} input and {up} output blocks on {levels} levels")
        self.multiple, every = 2 ** (levels - 1), up // levels
        parts = _Parts(state, self.embedding, attention, where)
        self.input_blocks = torch.nn.ModuleList([_sequence([_conv(self.in_channels, first)])])
        for i in range(1, down):
            self.input_blocks.append(_sequence(parts.of(f"input_blocks.{i}", down=i % every == 0)))
        self.middle_block = _sequence(parts.of("middle_block"))
        self.output_blocks = torch.nn.ModuleList(_sequence(parts.of(f"output_blocks.{i}")) for i in range(up))
        self.out_channels, last = sizes(state, "out.2.weight", 4, where)[:2]
        self.out = torch.nn.Sequential(_norm(last), torch.nn.SiLU(), _conv(last, self.out_channels))

    def forward(self, inputs: Tensor, timestep: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """See `ForeignNetwork.forward`."""
        from deepinv.models.diffunet import timestep_embedding

        embedding = self.time_embed(timestep_embedding(timestep, self.channels).to(inputs.dtype))
        if class_labels is not None:
            embedding = embedding + self.label_emb(class_labels)
        h, skips = inputs, []
        for block in self.input_blocks:
            h = block(h, embedding)
            skips.append(h)
        h = self.middle_block(h, embedding)
        for block in self.output_blocks:
            h = block(torch.cat([h, skips.pop()], dim=1), embedding)
        return self.out(h)


@dataclass(frozen=True)
class _Parts:
    """Makes the layers of a block from the shapes of their tensors."""

    state: dict[str, Tensor]
    embedding: int
    attention: AttentionHeads
    where: str

    def of(self, block: str, down: bool = False) -> Iterator[torch.nn.Module]:
        """The layers of ``block``; ``down`` where it halves the image."""
        for j in range(_count(self.state, block)):
            name = f"{block}.{j}"
            if f"{name}.in_layers.0.weight" in self.state:
                # only layers that double the image have a second residual layer in an output block
                yield self._residual(name, down=down, up=block.startswith("output") and j > 0)
            elif f"{name}.qkv.weight" in self.state:
                yield self.attention.block(sizes(self.state, f"{name}.norm.weight", 1, self.where)[0])
            else:
                yield self._resampling(name, down)

    def _residual(self, name: str, down: bool, up: bool) -> torch.nn.Module:
        from deepinv.models.diffunet import ResBlock

        after = sizes(self.state, f"{name}.out_layers.3.weight", 4, self.where)[0]
        skip = self.state.get(f"{name}.skip_connection.weight")
        return ResBlock(
            sizes(self.state, f"{name}.in_layers.0.weight", 1, self.where)[0],
            self.embedding,
            0.0,
            out_channels=after,
            use_conv=skip is not None and skip.shape[-1] == 3,
            use_scale_shift_norm=sizes(self.state, f"{name}.emb_layers.1.weight", 2, self.where)[0] == 2 * after,
            down=down,
            up=up,
        )

    def _resampling(self, name: str, down: bool) -> torch.nn.Module:
        from deepinv.models.diffunet import Downsample, Upsample

        after, before = sizes(self.state, f"{name}.{'op' if down else 'conv'}.weight", 4, self.where)[:2]
        return (Downsample if down else Upsample)(before, True, out_channels=after)


def _count(state: dict[str, Tensor], prefix: str) -> int:
    """How many numbered things there are below ``prefix``."""
    return len({name[len(prefix) + 1 :].partition(".")[0] for name in state if name.startswith(f"{prefix}.")})


def _rises(state: dict[str, Tensor], block: str) -> bool:
    """Whether an output block doubles the image: with a convolution, or a residual layer that is not its first."""
    found = range(1, _count(state, block))
    return any(f"{block}.{j}.{part}.weight" in state for j in found for part in ("conv", "in_layers.0"))


def _sequence(layers: Any) -> torch.nn.Module:
    from deepinv.models.diffunet import TimestepEmbedSequential

    return TimestepEmbedSequential(*layers)


def _conv(before: int, after: int) -> torch.nn.Module:
    return torch.nn.Conv2d(before, after, 3, padding=1)


def _norm(channels: int) -> torch.nn.Module:
    from deepinv.models.diffunet import normalization

    return normalization(channels)
