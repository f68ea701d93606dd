"""Training a network prior by denoising score matching, resumable to the same weights.

Every random number of step n is drawn from a generator seeded with (seed, n): a run that was killed and resumed sees
the very batches and noise of one that was not.

References:
    Vincent. A connection between score matching and denoising autoencoders. 2011.
    Karras et al. Elucidating the design space of diffusion-based generative models. 2022. arXiv:2206.00364.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from posterior.priors.network import NetworkPrior


@dataclass(frozen=True)
class TrainingSettings:
    """How long and how fast.

    Args:
        steps: Optimiser steps.
        learning_rate: Peak rate of AdamW; warmed up over ``warmup`` steps, then a cosine to zero.
        ema: Decay of the exponential moving average of the weights, which is what gets used.
        sigma_min: Smallest training noise level, standardised units.
        sigma_max: Largest; levels are log-uniform between the two.
        clip: Gradients are scaled down to this norm.
        bfloat16: Run the network in bfloat16 (weights, loss and optimiser stay float32).
        checkpoint_every: Steps between checkpoints.
        seed: Seed of noise levels and noise.
    """

    steps: int
    learning_rate: float = 5e-4
    warmup: int = 200
    ema: float = 0.999
    sigma_min: float = 0.01
    sigma_max: float = 20.0
    clip: float = 1.0
    bfloat16: bool = True
    checkpoint_every: int = 200
    seed: int = 0


def train(
    prior: NetworkPrior,
    batches: Callable[[int], Tensor],
    settings: TrainingSettings,
    folder: Path,
    progress: Callable[[int, float], None] | None = None,
) -> NetworkPrior:
    """Train ``prior.network`` in place and leave the averaged weights in it.

    The loss is the squared error of D weighted by 1 / c(sigma)^2, with c the size the error would have if the
    prior's reference Gaussian were the truth (sigma / sqrt(1 + sigma^2) without a reference), so that every noise
    level counts alike.

    Args:
        prior: The prior to train; its network, parameterisation and reference are used.
        batches: ``batches(step)`` returns standardised fields (B, *event); must depend on ``step`` alone.
        settings: Settings.
        folder: Where the checkpoint and the loss curve live; an unfinished run found here goes on.

    Other arguments:
        progress: Called with the step and its loss.

    Returns:
        ``prior``.

    Raises:
        ValueError: If the folder holds a run made with other settings.
        FloatingPointError: If the loss stops being finite.
    """
    folder.mkdir(parents=True, exist_ok=True)
    network = prior.network.train()
    network.requires_grad_(True)
    optimiser = torch.optim.AdamW(network.parameters(), lr=settings.learning_rate, betas=(0.9, 0.99), weight_decay=1e-3)
    average = {k: v.detach().clone() for k, v in network.state_dict().items()}
    start = _resume(folder, settings, network, optimiser, average)
    losses: list[tuple[int, float]] = []
    for step in range(start, settings.steps):
        for group in optimiser.param_groups:
            group["lr"] = settings.learning_rate * _rate(step, settings)
        loss = _loss(prior, batches(step), step, settings)
        if not math.isfinite(loss.item()):
            raise FloatingPointError(f"training '{prior.name}': the loss is {loss.item()} at step {step}")
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), settings.clip)
        optimiser.step()
        decay = min(settings.ema, (step + 1) / (step + 10))
        for k, v in network.state_dict().items():
            average[k].lerp_(v, 1 - decay)
        losses.append((step, loss.item()))
        if progress is not None:
            progress(step, loss.item())
        if (step + 1) % settings.checkpoint_every == 0 or step + 1 == settings.steps:
            _save(folder, step + 1, settings, network, optimiser, average, losses)
            losses = []
    network.load_state_dict(average)
    network.requires_grad_(False)
    network.eval()
    return prior


def _loss(prior: NetworkPrior, clean: Tensor, step: int, settings: TrainingSettings) -> Tensor:
    g = torch.Generator().manual_seed(settings.seed * 1_000_003 + step)
    low, high = math.log(settings.sigma_min), math.log(settings.sigma_max)
    # Stratified noise levels: one in each of B equal bins, which halves the noise of the loss.
    where = (torch.arange(len(clean)) + torch.rand(len(clean), generator=g)) / len(clean)
    sigma = torch.exp(low + (high - low) * where)
    noise = torch.randn(clean.shape, generator=g)
    noisy = clean + sigma.reshape(-1, *[1] * (clean.ndim - 1)) * noise
    with torch.autocast("cpu", torch.bfloat16, enabled=settings.bfloat16):
        estimate = prior.denoise(noisy, sigma)
    if prior.reference is None:
        scale = sigma**2 / (sigma**2 + prior.rms**2) * prior.rms**2
    else:
        cov = prior.reference.covariance(tuple(clean.shape[1:]))
        scale = torch.stack([cov.given(s).eigenvalues.mean() for s in sigma])
    error = (estimate.float() - clean).square().flatten(1).mean(1)
    return (error / scale.to(error)).mean()


def _rate(step: int, settings: TrainingSettings) -> float:
    if step < settings.warmup:
        return (step + 1) / settings.warmup
    return 0.5 * (1 + math.cos(math.pi * (step - settings.warmup) / max(1, settings.steps - settings.warmup)))


def _save(folder: Path, step: int, settings, network, optimiser, average, losses) -> None:  # noqa: ANN001
    state = {"step": step, "network": network.state_dict(), "optimiser": optimiser.state_dict(), "average": average}
    torch.save(state, folder / "checkpoint.tmp")
    (folder / "checkpoint.tmp").replace(folder / "checkpoint.pt")
    (folder / "settings.json").write_text(json.dumps(asdict(settings), indent=2))
    with (folder / "loss.csv").open("a") as f:
        f.writelines(f"{s},{v:.6g}\n" for s, v in losses)


def _resume(folder: Path, settings: TrainingSettings, network, optimiser, average) -> int:  # noqa: ANN001
    if not (folder / "checkpoint.pt").exists():
        return 0
    made_with = json.loads((folder / "settings.json").read_text())
    if made_with != asdict(settings):
        raise ValueError(f"training: {folder} holds a run made with other settings, {made_with}; choose another folder")
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    network.load_state_dict(state["network"])
    optimiser.load_state_dict(state["optimiser"])
    for k, v in state["average"].items():
        average[k].copy_(v)
    return int(state["step"])
