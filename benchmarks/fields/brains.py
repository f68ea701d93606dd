"""Slices of real heads as images to reconstruct."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor

from benchmarks.fields.cases import DEVELOPMENT
from posterior.io.registry import fetch
from posterior.recipes.mri.results import head_mask
from posterior.recipes.mri.simulation import demo_image

SPAN = 4.5  # of the brain prior's coordinates: tissue has magnitudes up to about 4


def colin27(index: int, side: int = 224) -> Tensor:
    """Slice ``index`` of the held-out brain, orientations in turn, magnitude (side, side)."""
    volume = _volume()
    axis = index % 3
    where = int(volume.shape[axis] * (0.35 + 0.03 * (index % 10)))
    cut = np.rot90(np.take(volume, where, axis=axis))
    full = np.zeros((side, side), np.float32)
    top, left = (side - cut.shape[0]) // 2, (side - cut.shape[1]) // 2
    full[top : top + cut.shape[0], left : left + cut.shape[1]] = cut
    return torch.from_numpy(full)


@cache
def _volume() -> np.ndarray:
    import nibabel

    image = nibabel.as_closest_canonical(nibabel.load(fetch("colin27")))
    return np.asarray(image.dataobj, dtype=np.float32)


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
