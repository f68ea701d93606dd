"""Held-out denoising error against the noise level, beside that of linear denoisers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from posterior.priors.base import Prior
from posterior.priors.reference import Reference
from posterior.uncertainty._statistics import percentiles, resampled_means
from posterior.uncertainty.prior_check.verdicts import Grade, Verdict, in_blocks, judged, listed

SLACK = 0.01  # worse than the linear denoiser by less than this counts as level with it


@dataclass(frozen=True, eq=False)
class DenoisingError:
    """Root-mean-square of x0 - D(x0 + sigma eps, sigma) over held-out fields, standardised units.

    Args:
        sigmas: Noise levels (S,).
        prior: Error of the prior (S,).
        linear: Errors (S,) of the optimal linear denoisers of Gaussians, by name; empty where none is known.
        ratio: Error of the prior over that of the best of them (S,); NaN where none is known.
        lower: Lower end of its 95 % bootstrap band over fields (S,).
        upper: Upper end (S,).
        rms: The prior's root-mean-square, the unit in which the judged levels are stated.
    """

    sigmas: Tensor
    prior: Tensor
    linear: dict[str, Tensor]
    ratio: Tensor
    lower: Tensor
    upper: Tensor
    rms: float

    @property
    def verdict(self) -> Verdict:
        """Whether the prior knows more than a Gaussian."""
        name = "denoising"
        if not self.linear:
            text = "No linear denoiser to compare with: pass training fields, or give the prior a reference Gaussian."
            return Verdict(name, Grade.doubtful, text)
        inside = judged(self.sigmas, self.rms)
        worse = inside & (self.lower > 1 + SLACK)
        better = inside & (self.upper < 1)
        gain = 100 * (1 - self.ratio[inside])
        figures = f"{float(gain.min()):.1f} to {float(gain.max()):.1f} % less error than the optimal linear denoiser"
        where = f"from sigma {float(self.sigmas[inside].min()):.3g} to {float(self.sigmas[inside].max()):.3g}"
        if worse.any():
            most = 100 * (self.ratio[worse].max() - 1)
            return Verdict(
                name,
                Grade.bad,
                f"Worse than the optimal linear denoiser at sigma {listed(self.sigmas[worse])}, by up to {float(most):.1f} %.",
            )
        if bool((better == inside).all()):
            return Verdict(name, Grade.good, f"Beats the optimal linear denoiser at every level {where}: {figures}.")
        count = f"{int(better.sum())} of {int(inside.sum())} levels"
        return Verdict(name, Grade.good, f"No worse than the optimal linear denoiser {where}, better at {count}: {figures}.")


def denoising_error(
    prior: Prior,
    held_out: Tensor,
    linear: Mapping[str, Reference],
    sigmas: Tensor,
    *,
    block: int = 1,
    batch_size: int = 8,
    seed: int = 0,
    tick: Callable[[int], None] | None = None,
) -> DenoisingError:
    """Measure it. All denoisers see the same noise.

    Args:
        prior: The prior.
        held_out: Fields (n, *event), standardised coordinates.
        linear: Gaussians whose optimal linear denoisers to set beside it, by name.
        sigmas: Noise levels (S,), ascending.

    Other arguments:
        block: Neighbouring fields that are resampled together: days that resemble each other.
        batch_size: Fields denoised at a time.
        seed: Of the noise.
        tick: Called with the number of the level that is done.

    Returns:
        The errors. The best linear denoiser at a level is the one with the smallest error there.
    """
    n = len(held_out)
    rows = torch.zeros(n, len(sigmas), 1 + len(linear), dtype=torch.float64)
    for j, sigma in enumerate(sigmas.tolist()):
        g = torch.Generator().manual_seed((seed * 1_000_003 + j) % 2**63)
        for start in range(0, n, batch_size):
            clean = held_out[start : start + batch_size]
            noisy = clean + sigma * torch.randn(clean.shape, generator=g, dtype=clean.dtype)
            with torch.no_grad():
                estimates = [prior.denoise(noisy, sigma), *(r.denoise(noisy, sigma) for r in linear.values())]
            for k, estimate in enumerate(estimates):
                rows[start : start + batch_size, j, k] = (estimate - clean).double().square().flatten(1).mean(1)
        if tick is not None:
            tick(j)
    mean = rows.mean(0)
    levels = torch.arange(len(sigmas))
    if linear:
        best = mean[:, 1:].argmin(1) + 1
        means = resampled_means(in_blocks(rows, block), seed=seed)
        lower, upper = percentiles((means[:, :, 0] / means[:, levels, best]).sqrt(), 0.95)
        ratio = (mean[:, 0] / mean[levels, best]).sqrt()
    else:
        ratio = lower = upper = torch.full((len(sigmas),), torch.nan, dtype=torch.float64)
    errors = mean.sqrt()
    by_name = {name: errors[:, 1 + k] for k, name in enumerate(linear)}
    return DenoisingError(sigmas, errors[:, 0], by_name, ratio, lower, upper, prior.rms)
