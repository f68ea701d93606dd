"""Predicting measurements that were withheld: a check of calibration that needs no truth."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from posterior.draws import Draws
from posterior.recipes.mri.problem import MRIProblem


@dataclass(frozen=True, eq=False)
class HeldOut:
    """k-space samples that the reduced problem does not know.

    Args:
        problem: The problem with these samples in place of the others.
    """

    problem: MRIProblem

    @property
    def mask(self) -> Tensor:
        """(H, W) bool, the withheld locations."""
        return self.problem.mask


def withhold(problem: MRIProblem, fraction: float = 0.2, seed: int = 0) -> tuple[MRIProblem, HeldOut]:
    """Take some samples outside the calibration region away.

    Whole lines where the mask is made of lines along the readout, else single locations. Noise level and coil
    maps stay those of the problem.

    Args:
        problem: All the data.
        fraction: Share of the samples (or lines) outside the calibration region, between 0 and 1.
        seed: Seed of the choice.

    Returns:
        The problem without the withheld samples, and these.

    Raises:
        ValueError: If fraction is out of range, or too few samples lie outside the calibration region.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"withhold: fraction is {fraction}; wanted a number between 0 and 1")
    mask = problem.mask
    height, width = mask.shape
    centre = torch.zeros_like(mask)
    h, w = problem.calibration
    top, left = height // 2 - h // 2, width // 2 - w // 2
    centre[top : top + h, left : left + w] = True
    outside = mask & ~centre
    lines = bool((mask == mask[:1]).all())
    units = torch.nonzero(outside.any(0) if lines else outside)
    count = round(fraction * len(units))
    if count < 1:
        raise ValueError(
            f"withhold: {len(units)} {'lines' if lines else 'samples'} of {problem.source} lie outside the "
            f"calibration region of {h} x {w}; {fraction:g} of them is none"
        )
    chosen = units[torch.randperm(len(units), generator=torch.Generator().manual_seed(seed))[:count]]
    held = torch.zeros_like(mask)
    if lines:
        held[:, chosen[:, 0]] = True
    else:
        held[chosen[:, 0], chosen[:, 1]] = True
    return _masked(problem, mask & ~held), HeldOut(_masked(problem, held))


def _masked(problem: MRIProblem, mask: Tensor) -> MRIProblem:
    from operators import MultiCoilMRI

    operator = MultiCoilMRI(mask.float(), problem.maps)
    return replace(problem, operator=operator, mask=mask, y=problem.y * mask)


def predictive_coverage(draws: Draws, held_out: HeldOut, level: float = 0.9, seed: int = 0) -> float:
    """Share of withheld values, real and imaginary parts, inside their central predictive interval.

    The predictive draws are A x + noise for each posterior draw x. Calibrated draws give ``level``.

    Args:
        draws: Draws given the reduced problem, in the units of the problem's scale.
        held_out: The withheld samples.
        level: Probability inside the interval.
        seed: Seed of the noise.

    Raises:
        ValueError: If there are too few draws for the interval (90 % takes 19).
    """
    problem = held_out.problem
    where = held_out.mask
    generator = torch.Generator().manual_seed(seed)
    predicted = []
    with torch.no_grad():
        for x in draws.samples:
            values = problem.operator.A(x[None])[0][..., where]
            predicted.append(values + problem.sigma * torch.randn(values.shape, generator=generator))
    shape = tuple(predicted[0].shape)
    predictive = Draws(torch.stack(predicted), draws.stats, dims=("channel", "coil", "sample"), name="predicted")
    low, high = predictive.interval(level)
    actual = problem.y[0][..., where].reshape(shape)
    return float(((actual >= low) & (actual <= high)).float().mean())
