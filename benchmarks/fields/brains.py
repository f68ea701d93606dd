"""Slices of real heads as images to reconstruct."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

import posterior
from benchmarks.fields.cases import DEVELOPMENT, Case
from posterior.recipes.calibration.mri import head_volume
from posterior.recipes.mri.results import head_mask
from posterior.recipes.mri.simulation import demo_image, smooth_phase

SPAN = 4.5  # of the brain prior's coordinates: tissue has magnitudes up to about 4


def colin27(index: int, side: int = 224) -> Tensor:
    """Slice ``index`` of the held-out brain, orientations in turn, magnitude (side, side)."""
    volume = head_volume()
    axis = index % 3
    where = int(volume.shape[axis] * (0.35 + 0.03 * (index % 10)))
    cut = np.rot90(np.take(volume, where, axis=axis))
    full = np.zeros((side, side), np.float32)
    top, left = (side - cut.shape[0]) // 2, (side - cut.shape[1]) // 2
    full[top : top + cut.shape[0], left : left + cut.shape[1]] = cut
    return torch.from_numpy(full)


def brain_crop(problem: int, side: int) -> Tensor:
    """A square of a head, magnitude (side, side): of colin27, or for development of the slice that matplotlib ships.

    Both are unknown to the brain prior. The square lies anywhere that shows tissue in nine tenths of its pixels.
    """
    image = demo_image() if problem >= DEVELOPMENT else colin27(problem)
    head = head_mask(image).double()
    share = torch.nn.functional.avg_pool2d(head[None, None], side, stride=1)[0, 0]
    places = torch.nonzero(share >= min(0.9, float(share.max())))
    g = torch.Generator().manual_seed(problem)
    top, left = places[int(torch.randint(len(places), (1,), generator=g))].tolist()
    return image[top : top + side, left : left + side].contiguous()


def brain_image(problem: int, side: int) -> Tensor:
    """A crop with a smooth random phase, (2, side, side), its brightest tissue of magnitude about 1."""
    magnitude = brain_crop(problem, side)
    angle = torch.from_numpy(smooth_phase((side, side), np.random.default_rng(problem))).float()
    return torch.stack([magnitude * angle.cos(), magnitude * angle.sin()]) / float(np.percentile(magnitude.numpy(), 99))


def magnitude(x: Tensor) -> Tensor:
    """Complex images (B, 2, H, W) to their magnitude (B, 1, H, W)."""
    return torch.linalg.vector_norm(x, dim=1, keepdim=True)


def brain_case(
    suite: str, cell: str, problem: int, draws: int, operator: Any, image: Tensor, sigma: float, **facts: Any
) -> Case:
    """A complex image seen through an operator with Gaussian noise in real and imaginary parts."""
    g = torch.Generator().manual_seed(problem)
    y = operator.A(image[None])
    y = y + sigma * torch.randn(y.shape, generator=g)
    truth = magnitude(image[None])[0]
    return Case(
        suite=suite,
        cell=cell,
        problem=problem,
        prior=posterior.load_prior("brain-mri"),
        likelihood=posterior.GaussianLikelihood(operator, y, sigma),
        event_shape=tuple(image.shape),
        draws=draws,
        truth=truth,
        units="tissue",
        view=magnitude,
        inside=head_mask(truth[0])[None],
        span=SPAN,
        picture=True,
        single=True,
        facts=facts,
    )
