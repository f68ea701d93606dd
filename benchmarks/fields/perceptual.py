"""A learnt perceptual distance whose weights come with its package, so that it needs no server."""

from __future__ import annotations

import math
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

PACKAGE = "stlpips_pytorch"


def perceptual_distance(image: Tensor, truth: Tensor) -> float:
    """ST-LPIPS between two images: 0 where they look the same; AlexNet's features, weighted to agree with people's judgement.

    The grey image is put on [-1, 1] by the range of the truth and given to the three colours alike. LPIPS itself (Zhang et
    al. 2018) is not used: its package brings the last layer alone and fetches the network from a server; this one, which
    is also blind to shifts by a pixel, brings both.

    Args:
        image: (H, W).
        truth: (H, W).

    Returns:
        The distance; NaN where the package stlpips_pytorch (extra ``benchmarks``) is not installed.

    References:
        Ghildyal, Liu. Shift-tolerant perceptual similarity metric. 2022. ECCV, arXiv:2207.13686.
    """
    if find_spec(PACKAGE) is None:
        return math.nan
    low, high = truth.min(), truth.max()
    pair = torch.stack([image, truth]).float().sub(low).div((high - low).clamp_min(1e-12)).clamp(0, 1) * 2 - 1
    a, b = pair[:, None, None].expand(-1, 1, 3, -1, -1)
    with torch.no_grad():
        return float(_network()(a, b))


@cache
def _network() -> Any:
    with torch.random.fork_rng(devices=[]):  # the package draws weights before it loads its own
        from stlpips_pytorch import stlpips

        return stlpips.LPIPS(net="alex", variant="shift_tolerant", verbose=False)
