"""What the image priors share: the untrained network, batches made ahead, and the verdicts of a check on the card."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from posterior.priors.base import Affine
from posterior.priors.network import NetworkPrior, unet_multiple
from posterior.priors.parameterisations import GaussianResidual
from posterior.priors.reference import RadialReference
from posterior.priors.training import Batches
from posterior.uncertainty import PriorCheck

FOLDER = Path(__file__).parent.parent / "priors"


class _Steps(Dataset[Tensor]):
    def __init__(self, batches: Batches, steps: range) -> None:
        self.batches, self.steps = batches, steps

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, index: int) -> Tensor:
        return self.batches(self.steps[index])


class Ahead:
    """Batches that other processes make before a step asks for them: the same ones, whatever their number.

    Args:
        batches: ``batches(step)``.
        steps: Steps in all.
        workers: Processes; 0 to make each batch when it is asked for.
    """

    def __init__(self, batches: Batches, steps: int, workers: int) -> None:
        self.batches, self.steps, self.workers = batches, steps, workers
        self._made: Iterator[Tensor] | None = None

    def __call__(self, step: int) -> Tensor:
        """The batch of a step; steps are asked for in their order, from the first of a run or of its continuation."""
        if not self.workers:
            return self.batches(step)
        if self._made is None:
            rest = _Steps(self.batches, range(step, self.steps))
            made = DataLoader(
                rest, batch_size=None, num_workers=self.workers, prefetch_factor=4, generator=torch.Generator().manual_seed(0)
            )
            self._made = iter(made)
        return next(self._made)


def residual_prior(
    name: str,
    reference: RadialReference,
    scale: float,
    sigma_range: tuple[float, float],
    *,
    channels: int,
    blocks: tuple[int, ...],
    layers: int,
    seed: int,
    symmetries: tuple[str, ...] = (),
) -> NetworkPrior:
    """An untrained prior of images of any size, which says what its reference says."""
    from diffusers import UNet2DModel

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = UNet2DModel(
            sample_size=None,
            in_channels=2 * channels,
            out_channels=channels,
            layers_per_block=layers,
            block_out_channels=blocks,
            down_block_types=("DownBlock2D",) * len(blocks),
            up_block_types=("UpBlock2D",) * len(blocks),
            norm_num_groups=8,
            add_attention=False,
        ).to(memory_format=torch.channels_last)
        torch.nn.init.zeros_(network.conv_out.weight)
        torch.nn.init.zeros_(network.conv_out.bias)
    return NetworkPrior(
        network,
        GaussianResidual(reference),
        (channels, None, None),
        affine=Affine(scale=scale),
        reference=reference,
        sigma_range=sigma_range,
        symmetries=symmetries,
        multiple=unet_multiple(blocks),
        name=name,
    )


def put_on_card(name: str, check: PriorCheck, command: str, *notes: str) -> None:
    """The check's report beside the card; its verdicts, and ``notes`` on them, in posterior.json and on the page."""
    check.save(FOLDER / name)
    path = FOLDER / name / "posterior.json"
    config = json.loads(path.read_text())
    config["card"]["verdicts"] = [*notes, *map(str, check.verdicts)]
    known = check.training_statistics
    if known is not None:
        config["card"]["verdicts"] += [f"training fields, asked the same: {v}" for v in known.verdicts]
    path.write_text(json.dumps(config, indent=2) + "\n")
    page = FOLDER / name / "README.md"
    before = page.read_text().partition("\n## Verdicts")[0].rstrip()
    lines = [before, "", "## Verdicts", "", f"`{command}`; the whole report is in check.md.", ""]
    page.write_text("\n".join([*lines, *(f"- {v}" for v in config["card"]["verdicts"])]) + "\n")
