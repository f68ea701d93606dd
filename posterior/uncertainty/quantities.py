"""Test quantities: numbers computed from an event, by whose ranks a sampler is judged.

Each function here returns a `Quantity`; a function of a whole trial, data included, makes one too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from posterior.uncertainty.trials import Trial


@dataclass(frozen=True, eq=False)
class Quantity:
    """A number, or k of them, for each member of a trial.

    Args:
        name: What reports call it.
        fn: Takes a trial to (S + 1,) or (S + 1, k), truth first, each member by itself; it may use the data.
        names: Names of the k numbers.
        pooled: They are of one kind and are judged together; see `Ranks`.
    """

    name: str
    fn: Callable[[Trial], Tensor]
    names: tuple[str, ...] | None = None
    pooled: bool = False


def function(name: str, fn: Callable[[Tensor], Tensor], names: tuple[str, ...] | None = None) -> Quantity:
    """Any function of the event alone.

    Args:
        name: What reports call it.
        fn: Takes events (M, *event) to (M,) or (M, k).
        names: Names of the k numbers.
    """
    return Quantity(name, lambda trial: fn(trial.members), names)


def pixels(at_most: int = 4096) -> Quantity:
    """The values of the event, judged together. Blind to correlations, and to a sampler of the prior.

    Args:
        at_most: How many values are ranked; of larger events so many, evenly spaced in the order of their storage.
    """

    def some(trial: Trial) -> Tensor:
        flat = trial.members.flatten(1)
        if flat.shape[1] <= at_most:
            return flat
        return flat[:, torch.linspace(0, flat.shape[1] - 1, at_most, dtype=torch.float64).long()]

    return Quantity("pixels", some, pooled=True)


def region_means(regions: Mapping[str, Tensor]) -> Quantity:
    """Weighted mean over each region: sees correlations at the region's scale.

    Args:
        regions: By name, weights that broadcast to an event: masks, or areas of cells.

    Raises:
        ValueError: If there is no region, or one is empty or has negative weights.
    """
    if not regions:
        raise ValueError("region_means: there are no regions")
    for name, weights in regions.items():
        if (weights < 0).any() or not weights.sum() > 0:
            raise ValueError(f"region_means: region {name!r} is empty or has negative weights")

    def means(trial: Trial) -> Tensor:
        x = trial.members.double()
        return torch.stack([weighted_mean(x, w) for w in regions.values()], 1)

    return Quantity("region means", means, tuple(regions))


def weighted_mean(x: Tensor, weights: Tensor) -> Tensor:
    """Mean of events (M, *event) with weights that broadcast to one, (M,)."""
    full = weights.to(x).expand(x.shape[1:])
    return (x * full).flatten(1).sum(1) / full.sum()


def band_energies(bands: int = 4, axes: int = 2) -> Quantity:
    """Energy in bands of spatial frequency, coarse to fine: sees wrong correlations and textures.

    Args:
        bands: Number of bands of equal width in |k|, up to the Nyquist frequency of an axis.
        axes: How many of the last axes are space.

    Raises:
        ValueError: When asked of events with fewer axes.
    """

    def energies(trial: Trial) -> Tensor:
        x = trial.members.double()
        if x.ndim <= axes:
            raise ValueError(f"band_energies: events have {x.ndim - 1} axes; wanted {axes} or more")
        shape = x.shape[-axes:]
        grids = torch.meshgrid(*[torch.fft.fftfreq(n, dtype=torch.float64) for n in shape], indexing="ij")
        radius = torch.stack(grids).square().sum(0).sqrt()
        band = (radius * 2 * bands).long().clamp_max(bands - 1)
        power = torch.fft.fftn(x, dim=tuple(range(-axes, 0)), norm="ortho").abs().square()
        power = power.reshape(len(x), -1, radius.numel()).sum(1)
        return torch.stack([power[:, (band == b).flatten()].sum(1) for b in range(bands)], 1)

    return Quantity("band energies", energies, tuple(f"band {b}" for b in range(bands)))


def extremes() -> Quantity:
    """Largest and smallest value of the event."""

    def ends(x: Tensor) -> Tensor:
        flat = x.flatten(1)
        return torch.stack([flat.amax(1), flat.amin(1)], 1)

    return function("extremes", ends, ("maximum", "minimum"))


def log_likelihood() -> Quantity:
    """log p(y | x), as `calibrate` stored it: sees a sampler that ignores the data.

    References:
        Modrak, Moon, Kim, Burkner, Huurre, Faltejskova, Gelman, Vehtari. Simulation-based calibration checking for
        Bayesian computation: the choice of test quantities shapes sensitivity. 2023. arXiv:2211.02383.
    """
    return Quantity("log-likelihood", lambda trial: _stored(trial, "log_prob"))


def residual_chi_square() -> Quantity:
    """Normalised residual chi-square of the data, as `calibrate` stored it: a posterior predictive check by rank."""
    return Quantity("residual chi-square", lambda trial: _stored(trial, "chi_square"))


def _stored(trial: Trial, name: str) -> Tensor:
    value = getattr(trial, name)
    if value is None:
        raise ValueError(f"Trial: {name} was not stored; `calibrate` stores it, or pass {name}= to Trial")
    return value
