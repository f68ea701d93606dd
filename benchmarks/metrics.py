"""Distances between a sample and a posterior known in closed form, both of which may be weighted; draws that diverged."""

from __future__ import annotations

import torch
from torch import Tensor

from posterior.quantiles import weibull_quantiles

DIVERGED = 100.0  # standard deviations of the truth; no sampler that works is ever so far from it


def sliced_w2(
    a: Tensor,
    b: Tensor,
    a_weights: Tensor | None = None,
    b_weights: Tensor | None = None,
    projections: int = 500,
    seed: int = 0,
) -> float:
    """Sliced 2-Wasserstein distance, sqrt of the mean over fixed directions of the squared 1-D distance.

    The 1-D distance is exact, int (F_a^-1 - F_b^-1)^2 dq over the merged steps of both quantile functions, so
    samples may differ in size and weights.

    Args:
        a: Sample (N, *event).
        b: Sample (M, *event).
        a_weights: Weights (N,), equal where None.
        b_weights: Weights (M,), equal where None.
        projections: Number of directions.
        seed: Of the directions, uniform on the sphere.

    Returns:
        The distance in the units of the sample.
    """
    a, b = a.flatten(1).double(), b.flatten(1).double()
    g = torch.Generator().manual_seed(seed)
    directions = torch.randn(a.shape[1], projections, generator=g, dtype=torch.float64)
    directions = directions / directions.norm(dim=0)
    pa, wa = _sorted(a @ directions, a_weights)
    pb, wb = _sorted(b @ directions, b_weights)
    levels = torch.cat([wa, wb], 1).sort(dim=1).values.clamp(0, 1)
    widths = torch.diff(levels, dim=1, prepend=torch.zeros(projections, 1, dtype=torch.float64))
    middle = (levels - widths / 2).contiguous()
    qa = pa.gather(1, torch.searchsorted(wa, middle).clamp_max(pa.shape[1] - 1))
    qb = pb.gather(1, torch.searchsorted(wb, middle).clamp_max(pb.shape[1] - 1))
    return float((widths * (qa - qb).square()).sum(1).mean().sqrt())


def mode_weights(x: Tensor, means: Tensor, weights: Tensor | None = None) -> Tensor:
    """Share of a sample (N, *event) nearest to each mode (K, *event), (K,)."""
    nearest = torch.cdist(x.flatten(1).double(), means.flatten(1).double()).argmin(1)
    w = torch.full((len(x),), 1 / len(x), dtype=torch.float64) if weights is None else weights.double()
    return torch.zeros(len(means), dtype=torch.float64).index_add_(0, nearest, w)


def mode_weight_error(
    x: Tensor,
    exact: Tensor,
    means: Tensor,
    weights: Tensor | None = None,
    exact_weights: Tensor | None = None,
) -> float:
    """Total variation between the mode shares of two samples, 0 to 1."""
    return float((mode_weights(x, means, weights) - mode_weights(exact, means, exact_weights)).abs().sum() / 2)


def _sorted(p: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """Projections (N, P) sorted along rows (P, N), and the cumulative weights of that order."""
    values, order = p.T.contiguous().sort(dim=1)
    w = torch.full((p.shape[0],), 1 / p.shape[0], dtype=torch.float64) if weights is None else weights.double()
    return values, (w / w.sum())[order].cumsum(1)


def coverage(x: Tensor, weights: Tensor, target: Tensor, level: float = 0.9) -> float:
    """Share of the target within the central interval of each coordinate of the weighted sample, averaged."""
    ends = weibull_quantiles(x.T.numpy(), ((1 - level) / 2, (1 + level) / 2), weights.double().numpy())
    low, high = torch.from_numpy(ends)
    return float(((target >= low) & (target <= high)).double().mean())


def diverged(x: Tensor, truth: Tensor) -> int:
    """How many draws (N, *event) are farther from the truth (*event) than any that means something.

    A draw has diverged if its root-mean-square error is above `DIVERGED` times the standard deviation of the truth over the
    event, or is not finite. Fair scores do not see one of many: both of their terms grow by the same amount.
    """
    t = truth.double().flatten()
    error = (x.double().flatten(1) - t).square().mean(1).sqrt()
    return int((~(error <= DIVERGED * t.std(correction=0))).sum())
