"""A supervised U-Net that returns a mean and a variance, for crops of multi-coil MRI."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from posterior.recipes.mri.baselines import sense_cg, zero_filled
from posterior.recipes.mri.problem import MRIProblem

WEIGHTS = Path(__file__).parent / "weights"
BLOCKS = (32, 64, 96)
LARGEST_SIDE = 64
RIDGE, ITERATIONS = 3e-3, 30  # of the SENSE image that goes in
LOG_VARIANCE = (-14.0, 2.0)
FIRST_LOG_VARIANCE = -5.0


def inputs(problem: MRIProblem) -> Tensor:
    """What the network sees: the zero-filled image and a SENSE image, (4, H, W), units of the problem's scale."""
    return torch.cat([zero_filled(problem), sense_cg(problem, RIDGE, iterations=ITERATIONS)])


def network() -> Any:
    """An untrained network; it begins with the SENSE image and an error of about 0.08."""
    from diffusers import UNet2DModel

    made = UNet2DModel(
        sample_size=None,
        in_channels=4,
        out_channels=3,
        layers_per_block=1,
        block_out_channels=BLOCKS,
        down_block_types=("DownBlock2D",) * len(BLOCKS),
        up_block_types=("UpBlock2D",) * len(BLOCKS),
        norm_num_groups=8,
        add_attention=False,
    )
    torch.nn.init.zeros_(made.conv_out.weight)
    with torch.no_grad():
        made.conv_out.bias.copy_(torch.tensor([0.0, 0.0, FIRST_LOG_VARIANCE]))
    return made


def gaussian(net: Any, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (B, 2, H, W) of the complex image, and the log-variance (B, 1, H, W) that its two parts share.

    Args:
        net: The network; diffusers' takes a time, which is always 0 here.
        seen: Of `inputs`, (B, 4, H, W).
    """
    out = net(seen, 0).sample.float()
    return seen[:, 2:] + out[:, :2], out[:, 2:].clamp(*LOG_VARIANCE)


def negative_log_likelihood(mean: Tensor, log_variance: Tensor, truth: Tensor) -> Tensor:
    """-log N(truth; mean, variance) for each complex pixel, averaged, without its constant.

    References:
        Kendall, Gal. What uncertainties do we need in Bayesian deep learning for computer vision? 2017. arXiv:1703.04977.
    """
    off = (truth - mean).square().sum(1, keepdim=True)
    return (off / 2 * torch.exp(-log_variance) + log_variance).mean()


def reconstruct(problem: MRIProblem, draws: int, seed: int) -> tuple[Tensor, Tensor]:
    """Mean (2, H, W) and draws (N, 2, H, W) of the network's Gaussian, whose pixels are independent.

    Raises:
        ValueError: If the image is larger than those of the training, or the trained weights are not there.
    """
    if max(problem.event_shape) > LARGEST_SIDE:
        raise ValueError(f"U-Net: the image has {problem.event_shape[1:]} pixels; it was trained on crops of 48 x 48")
    sides = problem.event_shape[1:]
    step = 2 ** (len(BLOCKS) - 1)
    if any(n % step for n in sides):
        raise ValueError(f"U-Net: the image has {sides} pixels; wanted sides that {step} divides")
    with torch.no_grad():
        mean, log_variance = gaussian(trained(), inputs(problem)[None].float())
    g = torch.Generator().manual_seed(seed)
    noise = torch.randn(draws, *mean.shape[1:], generator=g)
    return mean[0], mean + torch.exp(log_variance / 2) * noise


@cache
def trained() -> Any:
    """The network of `WEIGHTS`."""
    from diffusers import UNet2DModel
    from safetensors.torch import load_file

    path = WEIGHTS / "diffusion_pytorch_model.safetensors"
    if not path.exists():
        raise ValueError("U-Net: there are no weights; python -m benchmarks.fields.supervised.train makes them")
    with torch.random.fork_rng(devices=[]):
        net = UNet2DModel.from_config(UNet2DModel.load_config(WEIGHTS))
    net.load_state_dict({k: v.float() for k, v in load_file(path).items()})
    return net.eval().requires_grad_(False)
