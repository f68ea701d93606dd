"""Train `brain-mri-flow`: ``python data/training/train_brain_mri_flow.py --out runs/brain-mri-flow``; run again to resume.

The same U-Net as `brain-mri`, but of two channels in and out, whose output is the velocity eps - x0 on the straight path
x_t = (1 - t) x0 + t eps, trained by flow matching on the same simulated images (colin27 is held out of both). It starts
from the weights of `brain-mri`: the blocks as they are; the first convolution, the embedding of time and the last
convolution, whose inputs or outputs mean something else here, fitted by least squares on noised training images.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from brain_images import BrainImages
from torch import Tensor
from train_brain_mri import SIZES

import posterior
from posterior.priors.network import NetworkPrior, unet_multiple
from posterior.priors.parameterisations import GaussianResidual, Velocity
from posterior.priors.training import TrainingSettings, train

TIME_SCALE = 1000.0


def flow_prior(teacher: NetworkPrior, seed: int) -> NetworkPrior:
    """An untrained prior: the blocks of ``teacher``, the rest as diffusers initialises it."""
    from diffusers import UNet2DModel

    network: Any = teacher.network
    config = dict(network.config) | {"in_channels": 2, "out_channels": 2}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made: Any = UNet2DModel.from_config(config).to(memory_format=torch.channels_last)
    kept = {k: v for k, v in network.state_dict().items() if k.split(".")[0] not in ("conv_in", "time_embedding", "conv_out")}
    made.load_state_dict(kept, strict=False)
    return NetworkPrior(
        made,
        Velocity(TIME_SCALE),
        (2, None, None),
        affine=teacher.affine,
        reference=teacher.reference,
        sigma_range=(teacher.sigma_min, teacher.sigma_max),
        symmetries=teacher.symmetries,
        multiple=unet_multiple(made.config["block_out_channels"]),
        name="brain-mri-flow",
    )


def fit_ends(prior: NetworkPrior, teacher: NetworkPrior, images: Tensor, seed: int) -> None:
    """Fit first convolution, time embedding and last convolution on noised standardised images (N, 2, H, W)."""
    mine: Any = prior.network
    theirs: Any = teacher.network
    residual = teacher.parameterisation
    assert isinstance(residual, GaussianResidual)
    g = torch.Generator().manual_seed(seed)
    low, high = (s / (1 + s) for s in (prior.sigma_min, prior.sigma_max))
    with torch.no_grad():
        t = low + (high - low) * torch.rand(len(images), generator=g)
        sigma = t / (1 - t)
        noise = torch.randn(images.shape, generator=g)
        x = images + sigma.reshape(-1, 1, 1, 1) * noise
        x_t = x / (1 + sigma.reshape(-1, 1, 1, 1))
        _, inputs, _ = residual.parts(x, sigma)
        _least_squares(mine.conv_in, x_t, theirs.conv_in(inputs))
    _fit_embedding(mine, theirs, low, high, g)
    features: list[Tensor] = []
    hook = mine.conv_out.register_forward_pre_hook(lambda _module, args: features.append(args[0]))
    with torch.no_grad():
        for a, b in zip(x_t.split(4), t.split(4), strict=True):
            mine(a, TIME_SCALE * b)
        hook.remove()
        _least_squares(mine.conv_out, torch.cat(features), noise - images)


def _least_squares(convolution: torch.nn.Conv2d, inputs: Tensor, targets: Tensor, ridge: float = 1e-3) -> None:
    """Weights and bias of a 3 x 3 convolution from inputs (N, C, H, W) and targets (N, C', H, W)."""
    patches = torch.nn.functional.unfold(inputs.contiguous(), 3, padding=1)
    a = torch.cat([patches, torch.ones_like(patches[:, :1])], 1).movedim(1, -1).flatten(0, 1).double()
    b = targets.flatten(2).movedim(1, -1).flatten(0, 1).double()
    gram = a.T @ a / len(a)
    gram.diagonal().add_(ridge * gram.diagonal().mean())
    solved = torch.linalg.solve(gram, a.T @ b / len(a)).T
    with torch.no_grad():
        convolution.weight.copy_(solved[:, :-1].reshape(convolution.weight.shape))
        assert convolution.bias is not None
        convolution.bias.copy_(solved[:, -1])


def _fit_embedding(mine: Any, theirs: Any, low: float, high: float, g: torch.Generator, steps: int = 1500) -> None:
    """Make 1000 t mean to the blocks what ln(sigma) / 4 meant to those of the teacher."""
    mine.time_embedding.load_state_dict(theirs.time_embedding.state_dict())
    optimiser = torch.optim.Adam(mine.time_embedding.parameters(), lr=2e-3)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = 2e-3 * (1 - step / steps)
        t = low + (high - low) * torch.rand(256, generator=g)
        with torch.no_grad():
            wanted = theirs.time_embedding(theirs.time_proj((t / (1 - t)).log() / 4))
        error = (mine.time_embedding(mine.time_proj(TIME_SCALE * t)) - wanted).square().mean()
        optimiser.zero_grad()
        error.backward()
        optimiser.step()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    teacher = posterior.load_prior("brain-mri")
    scale = float(torch.as_tensor(teacher.affine.scale))
    prior = flow_prior(teacher, args.seed)
    if not (args.out / "checkpoint.pt").exists():
        fit_ends(prior, teacher, BrainImages(args.seed + 1, ((96, 32, 1.0),))(0) / scale, args.seed)
    settings = TrainingSettings(
        steps=args.steps,
        learning_rate=args.learning_rate,
        seed=args.seed,
        objective="flow",
        warmup=50,
        ema=0.998,
        checkpoint_every=100,
    )
    data = BrainImages(args.seed, SIZES)
    recent: list[float] = []
    began = time.monotonic()
    first: list[int] = []

    def progress(step: int, loss: float) -> None:
        recent.append(loss)
        first[:] = first or [step]
        if (step + 1) % 25 == 0:
            left = (time.monotonic() - began) / (step + 1 - first[0]) * (settings.steps - step - 1) / 60
            print(f"step {step + 1}/{settings.steps} loss {np.mean(recent[-100:]):.4f} {left:.0f} min left", flush=True)

    train(prior, lambda step: data(step) / scale, settings, args.out, progress)


if __name__ == "__main__":
    main()
