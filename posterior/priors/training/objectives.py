"""What training minimises, and how far a denoiser is from held-out fields."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from posterior.priors.base import Prior, column
from posterior.priors.training.settings import TrainingSettings

if TYPE_CHECKING:
    from posterior.priors.network import NetworkPrior


def noised(clean: Tensor, step: int, settings: TrainingSettings) -> tuple[Tensor, Tensor]:
    """``clean`` (B, *event) with the noise of a step, and its noise levels (B,)."""
    g = torch.Generator().manual_seed((settings.seed * 1_000_003 + step) % 2**63)
    # Stratified levels: one in each of B equal bins, which halves the noise of the loss.
    where = (torch.arange(len(clean)) + torch.rand(len(clean), generator=g)) / len(clean)
    if settings.objective == "denoising":
        low, high = math.log(settings.sigma_min), math.log(settings.sigma_max)
        sigma = torch.exp(low + (high - low) * where)
    else:
        low, high = (s / (1 + s) for s in (settings.sigma_min, settings.sigma_max))
        t = low + (high - low) * where
        sigma = t / (1 - t)
    return clean + column(sigma, clean) * torch.randn(clean.shape, generator=g), sigma


def loss(prior: NetworkPrior, clean: Tensor, noisy: Tensor, sigma: Tensor, settings: TrainingSettings) -> Tensor:
    """The objective on a batch, a number.

    "denoising": |x0 - D|^2 / c(sigma)^2, with c the size the error would have if the prior's reference Gaussian were the
    truth (rms sigma / sqrt(rms^2 + sigma^2) without a reference), so that every noise level counts alike. "flow": the
    velocity of the path, eps - x0 = (x_t - x0) / t, against the one that D implies, (x_t - D) / t: |x0 - D|^2 / t^2.
    """
    error = (prior.denoise(noisy, sigma).float() - clean).square().flatten(1).mean(1)
    if settings.objective == "flow":
        return (error * ((1 + sigma) / sigma) ** 2).mean()
    return (error / expected(prior, tuple(clean.shape[1:]), sigma)).mean()


def expected(prior: Prior, event_shape: tuple[int, ...], sigma: Tensor) -> Tensor:
    """Mean squared error of the optimal linear denoiser, were the reference Gaussian the truth, at ``sigma`` (B,)."""
    if prior.reference is None:
        return sigma**2 / (sigma**2 + prior.rms**2) * prior.rms**2
    eigen = prior.reference.covariance(event_shape).eigenvalues.to(sigma.device)
    return torch.stack([(eigen * s / (eigen + s)).mean() for s in sigma.double() ** 2]).to(sigma)


def denoising_errors(prior: Prior, clean: Tensor, sigma: float, seed: int = 0, batch: int = 64) -> Tensor:
    """x0 - D(x0 + sigma eps, sigma) for fields (N, *event), standardised; field i has the same noise at any batch size."""
    g = torch.Generator().manual_seed(seed)
    noisy = clean + sigma * torch.randn(clean.shape, generator=g).to(clean)
    with torch.no_grad():
        parts = [c - prior.denoise(x, sigma) for c, x in zip(clean.split(batch), noisy.split(batch), strict=True)]
    return torch.cat(parts)


def held_out_score(prior: NetworkPrior, fields: Tensor, sigmas: tuple[float, ...]) -> float:
    """Root-mean-square error over that of the reference's linear denoiser, geometric mean over ``sigmas``.

    A prior without a reference is held against the error that `expected` states.
    """
    logs = []
    for i, sigma in enumerate(sigmas):
        network = denoising_errors(prior, fields, sigma, i).square().mean()
        if prior.reference is None:
            linear = expected(prior, tuple(fields.shape[1:]), torch.tensor([sigma])).mean()
        else:
            g = torch.Generator().manual_seed(i)
            noisy = fields + sigma * torch.randn(fields.shape, generator=g).to(fields)
            linear = (fields - prior.reference.denoise(noisy, sigma)).square().mean()
        logs.append(0.5 * math.log(float(network / linear)))
    return math.exp(sum(logs) / len(logs))
