"""A prior and a likelihood met in standardised coordinates, with every network call counted."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from posterior.likelihoods import StandardLikelihood
from posterior.linalg import Apply, cg
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
        memo: Facts found once that depend on no draw (see `iterations_for`).
        notes: What a user should know of the run; ends among the warnings of ``draws.stats``.
        chunk: Most fields that go through the network at once; None for no limit.
    """

    prior: Prior
    likelihood: StandardLikelihood
    event_shape: tuple[int, ...]
    counts: Counts = field(default_factory=Counts)
    memo: dict[Hashable, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    chunk: int | None = None

    def denoise(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """E[x0 | x] of the prior, without a graph."""
        self.counts.forward += self.prior.calls * x.shape[0]
        with torch.no_grad():
            return self.prior.denoise(x, sigma)

    def in_chunks(self, f: Callable[..., tuple[Tensor, ...]], *batches: Tensor) -> tuple[Tensor, ...]:
        """``f`` of batches (N, ...), `chunk` items at a time, joined; ``f`` returns a tuple of batches."""
        size = self.chunk or batches[0].shape[0]
        parts = [f(*piece) for piece in zip(*(b.split(size) for b in batches), strict=True)]
        return parts[0] if len(parts) == 1 else tuple(torch.cat(t) for t in zip(*parts, strict=True))

    def denoise_with_vjp(self, x: Tensor, sigma: Tensor | float) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """E[x0 | x] and the map v -> J^T v with J = dD/dx, through one network call and its graph."""
        self.counts.forward += self.prior.calls * x.shape[0]
        with torch.enable_grad():
            leaf = x.detach().clone().requires_grad_(True)
            mean = self.prior.denoise(leaf, sigma)

        def vjp(v: Tensor) -> Tensor:
            self.counts.vjps += self.prior.calls * v.shape[0]
            (g,) = torch.autograd.grad(mean, leaf, v, retain_graph=True)
            return g

        return mean.detach(), vjp

    def noised_prior(self, white: Tensor, sigma: float) -> Tensor:
        """White noise (B, *event) turned into draws of the noised prior, taken to be Gaussian at ``sigma``.

        With a reference Gaussian they are of N(mu, C + sigma^2 I), else of N(center, (rms^2 + sigma^2) I). What a
        `CoarseDenoiser` knows better of the lowest frequencies is taken from it at the noise levels that it is for.
        """
        reference = self.prior.reference
        mean = self.prior.center if reference is None else reference.mean(self.event_shape)
        mean = mean.to(white) if isinstance(mean, Tensor) else mean
        if reference is None:
            return mean + (self.prior.rms**2 + sigma**2) ** 0.5 * white
        drawn = mean + reference.covariance(self.event_shape).plus_white(sigma**2).sqrt(white)
        coarse = self.prior.coarse
        return drawn if coarse is None or sigma <= coarse.above else coarse.begin(drawn, white, sigma)

    def iterations_for(
        self,
        key: Hashable,
        pilot: Callable[[], tuple[Apply, Tensor]],
        stop: float,
        limit: int,
        precondition: Apply | None = None,
    ) -> int:
        """Conjugate-gradient iterations of a typical right-hand side, found once and then used for all draws.

        A stop test on each draw would let rounding, and so the batch, decide how many iterations a draw gets.

        Args:
            key: What the answer depends on.
            pilot: Returns the matrix and a right-hand side (1, *shape) that looks like those of the draws; called once.
            stop: Residual norm to reach.
            limit: Iterations at most.
            precondition: See `cg`.
        """
        if key not in self.memo:
            system, typical = pilot()
            self.memo[key] = max(1, cg(system, typical, iterations=limit, stop=stop, precondition=precondition)[1])
        return self.memo[key]


def pilot_noise(shape: tuple[int, ...], like: Tensor, seed: int = 0) -> Tensor:
    """White noise (1, *shape) that is the same in every run."""
    g = torch.Generator().manual_seed(seed)
    return torch.randn(1, *shape, generator=g, dtype=like.dtype).to(like.device)
