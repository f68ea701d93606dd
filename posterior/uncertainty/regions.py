"""Summaries of regions, each with its own uncertainty: means, extremes, and volumes above a threshold."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from posterior.draws import Draws
from posterior.quantiles import draws_needed
from posterior.uncertainty._statistics import check_level
from posterior.uncertainty.quantities import weighted_mean

_DRAWS = 64  # that are worked on at once


@dataclass(frozen=True, eq=False)
class RegionSummary:
    """One quantity of one region under the posterior.

    Args:
        region: Which.
        quantity: "mean", "maximum", "minimum" or "volume".
        mean: Posterior mean.
        std: Posterior standard deviation.
        lower: Lower end of the central interval; NaN where the draws do not support its level.
        upper: Upper end.
        mc_error: Monte-Carlo standard error of the posterior mean, std / sqrt(effective draws).
        units: Of all of these.
        draws: The draws of the quantity itself, (draws,).
    """

    region: str
    quantity: str
    mean: float
    std: float
    lower: float
    upper: float
    mc_error: float
    units: str
    draws: Draws

    def __str__(self) -> str:
        return (
            f"{self.region}, {self.quantity}: {self.mean:.5g} +- {self.std:.3g} {self.units} "
            f"({self.lower:.5g} to {self.upper:.5g})"
        )


def summarise_regions(
    draws: Draws,
    regions: Mapping[str, Tensor],
    *,
    threshold: float | None = None,
    cell: float | Tensor = 1.0,
    cell_units: str = "1",
    level: float = 0.9,
) -> list[RegionSummary]:
    """Mean, maximum, minimum and, given a threshold, the volume above it, of each region.

    Each draw has its own, and their scatter is the posterior of the quantity, correlations within the region included:
    the standard deviations of the pixels do not tell it. The mean of the draws' maxima is not the maximum of the mean.

    Points that the mask of the draws says do not exist are in no region.

    Args:
        draws: The draws; of complex ones pass the magnitude.
        regions: By name, masks that broadcast to an event: true inside, or weights (areas) for the mean.

    Other arguments:
        threshold: In units of the draws.
        cell: Size of one pixel, or of each (broadcasts to an event).
        cell_units: Its units.
        level: Of the intervals.

    Raises:
        ValueError: If there is no region, one does not fit or is empty, the draws are complex, or the level is not between
            0 and 1.
        PointEstimateError: If the draws are point estimates.
    """
    if draws.kind == "complex":
        raise ValueError("summarise_regions: the draws are complex and have no extremes; pass draws.magnitude()")
    if not regions:
        raise ValueError("summarise_regions: there are no regions")
    check_level("summarise_regions", level)
    supported = draws.n_effective >= draws_needed(level)
    found = []
    for name, weights in regions.items():
        weights = _fit(name, weights, draws)
        inside = weights > 0
        quantities = {
            "mean": (lambda x, i=inside, w=weights[inside]: weighted_mean(x[:, i], w), draws.units),
            "maximum": (lambda x, i=inside: x[:, i].amax(1), draws.units),
            "minimum": (lambda x, i=inside: x[:, i].amin(1), draws.units),
        }
        if threshold is not None:
            size = torch.as_tensor(cell).to(draws.samples).expand(draws.event_shape)[inside]
            quantities["volume"] = (lambda x, i=inside, s=size: ((x[:, i] > threshold) * s).sum(1), cell_units)
        for quantity, (fn, units) in quantities.items():
            of = draws.map(_in_pieces(fn), name=quantity, units=units, dims=())
            lower, upper = (float(end) for end in of.interval(level)) if supported else (math.nan, math.nan)
            std = float(of.std)
            error = std / math.sqrt(of.n_effective)
            found.append(RegionSummary(name, quantity, float(of.mean), std, lower, upper, error, units, of))
    return found


def _in_pieces(fn: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """``fn`` of some draws at a time: a mask copies what it selects."""
    return lambda x: torch.cat([fn(piece) for piece in x.split(_DRAWS)])


def _fit(name: str, weights: Tensor, draws: Draws) -> Tensor:
    try:
        full = torch.as_tensor(weights).to(draws.samples).expand(draws.event_shape)
    except RuntimeError as error:
        raise ValueError(
            f"summarise_regions: region {name!r} has shape {tuple(weights.shape)}; wanted one that broadcasts to "
            f"{draws.event_shape}"
        ) from error
    exists = torch.ones_like(full) if draws.mask is None else draws.mask.to(full)
    if (full < 0).any() or not (full * exists).sum() > 0:
        raise ValueError(f"summarise_regions: region {name!r} is empty where there are points, or has negative weights")
    return full * exists
