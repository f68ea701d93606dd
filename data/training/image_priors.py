"""What the image priors share: the untrained network, and the verdicts of a check on the card."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from posterior.priors.base import Affine
from posterior.priors.network import NetworkPrior, unet_multiple
from posterior.priors.parameterisations import GaussianResidual
from posterior.priors.reference import RadialReference
from posterior.uncertainty import PriorCheck

FOLDER = Path(__file__).parent.parent / "priors"


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
