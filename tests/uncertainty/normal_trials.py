"""Trials whose truths and draws are normal numbers."""

import torch

from posterior.uncertainty import Trial, Trials


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def uniform(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def plain(n=30, draws=9, shape=(3, 4), scale=1.0, seed=0, offset=0.0):
    """Truths and draws of the same law, but for the draws' scale and offset."""
    x = normal(n, draws + 1, *shape, seed=seed)
    return Trials(Trial(a[0], scale * a[1:] + offset, torch.zeros(1, 2), reference=torch.zeros(shape)) for a in x)
