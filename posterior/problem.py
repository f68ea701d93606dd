"""A prior and a likelihood met in standardised coordinates, with every network call counted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from posterior.likelihoods import StandardLikelihood
from posterior.priors.base import Prior


@dataclass
class Counts:
    """Network evaluations so far, summed over the fields of all batches."""

    forward: int = 0
    vjps: int = 0


@dataclass(frozen=True)
class Problem:
    """What samplers see.

    Args:
        prior: The prior; call it through `denoise` so that the call is counted.
        likelihood: The likelihood of standardised fields.
        event_shape: Shape of one field.
        counts: Counter, shared by all that run on this problem.
    """

    prior: Prior
    likelihood: StandardLikelihood
    event_shape: tuple[int, ...]
    counts: Counts = field(default_factory=Counts)

    def denoise(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """E[x0 | x] of the prior, without a graph."""
        self.counts.forward += x.shape[0]
        with torch.no_grad():
            return self.prior.denoise(x, sigma)

    def denoise_with_vjp(self, x: Tensor, sigma: Tensor | float) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """E[x0 | x] and the map v -> J^T v with J = dD/dx, through one network call and its graph."""
        self.counts.forward += x.shape[0]
        with torch.enable_grad():
            leaf = x.detach().clone().requires_grad_(True)
            mean = self.prior.denoise(leaf, sigma)

        def vjp(v: Tensor) -> Tensor:
            self.counts.vjps += v.shape[0]
            (g,) = torch.autograd.grad(mean, leaf, v, retain_graph=True)
            return g

        return mean.detach(), vjp
