"""One problem in the coordinates and shapes that another library expects, its denoiser calls counted."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

import posterior
from posterior.priors.base import Affine
from posterior.problem import Counts

FLOOR = 1e-4  # noise level below which a denoiser is asked at this level; libraries ask at 0


@dataclass(frozen=True)
class PeerProblem:
    """y = A u + sigma noise for fields u = (x - shift) / scale, data flat and in the units of u.

    Args:
        prior: Ours, in coordinates x.
        shift: Number.
        scale: Number.
        shape: Of one field, as the library sees it.
        forward: A, (B, *shape) -> (B, m).
        adjoint: Its transpose.
        y: (1, m).
        sigma: Number.
        counts: Of calls of `denoise`.
    """

    prior: posterior.Prior
    shift: float
    scale: float
    shape: tuple[int, ...]
    forward: Callable[[Tensor], Tensor]
    adjoint: Callable[[Tensor], Tensor]
    y: Tensor
    sigma: float
    counts: Counts = field(default_factory=Counts)

    def denoise(self, u: Tensor, sigma: Tensor | float) -> Tensor:
        """E[u0 | u], differentiable; computed in float64, returned in the precision of ``u``."""
        level = torch.as_tensor(sigma, dtype=torch.float64).flatten().clamp_min(FLOOR)
        level = level[0] if level.numel() == 1 or bool((level == level[0]).all()) else level
        x = self.shift + self.scale * u.double().reshape(len(u), *self.prior.event_shape)
        self.counts.forward += len(u)
        mean = self.prior.denoise(x, level * self.scale)
        if mean.requires_grad:
            mean.register_hook(self._count_vjp)
        return ((mean - self.shift) / self.scale).reshape(u.shape).to(u.dtype)

    def to_physical(self, u: Tensor) -> Tensor:
        """Fields in coordinates x."""
        return self.shift + self.scale * u.detach().double().reshape(len(u), *self.prior.event_shape)

    def matrix(self) -> Tensor:
        """A as a matrix (m, n), float64."""
        n = math.prod(self.shape)
        return self.forward(torch.eye(n, dtype=torch.float64).reshape(n, *self.shape)).T

    def _count_vjp(self, gradient: Tensor) -> None:
        self.counts.vjps += len(gradient)


def peer_problem(given: Any, shift: float, scale: float, image: bool = False) -> PeerProblem:
    """A problem of ours for a library.

    Data are divided by ``scale``, and the operator's value at u = 0 taken from them, so that u and y are of one size.

    Args:
        given: Has ``prior`` and ``likelihood``.
        shift: Field that becomes u = 0.
        scale: Size of the field that becomes u = 1.

    Other arguments:
        image: Whether a vector (d,) is shown as an image (1, 1, d).

    Raises:
        ValueError: If the noise is not Gaussian with one standard deviation or the operator is not linear.
    """
    prior, likelihood = given.prior, given.likelihood
    if not isinstance(likelihood, posterior.GaussianLikelihood) or likelihood.sigma.ndim > 0:
        raise ValueError("wanted Gaussian noise of one standard deviation")
    event = tuple(prior.event_shape)
    like = likelihood.in_standard(Affine(scale, shift), event)
    if not like.model.linear:
        raise ValueError("wanted a linear operator")
    shape = (1, 1, *event) if image and len(event) == 1 else event
    seen = like.reach.flatten()
    full = tuple(like.y.shape[1:])

    def forward(u: Tensor) -> Tensor:
        out = like.model.apply(u.double().reshape(-1, *event)).flatten(1)[:, seen]
        return (out / scale).to(u.dtype)

    def adjoint(v: Tensor) -> Tensor:
        padded = torch.zeros(len(v), len(seen), dtype=torch.float64)
        padded[:, seen] = v.detach().double()
        return (like.model.transpose(padded.reshape(-1, *full)) / scale).reshape(-1, *shape).to(v.dtype)

    offset = like.model.predict(torch.zeros(1, *event, dtype=torch.float64)).flatten(1)
    y = ((like.y.flatten(1) - offset)[:, seen]) / scale
    return PeerProblem(prior, shift, scale, shape, forward, adjoint, y, float(likelihood.sigma) / scale)


def spread(prior: posterior.Prior) -> float:
    """Size of the field: root-mean-square deviation from 0."""
    mean = prior.reference.mean(tuple(prior.event_shape)) if prior.reference is not None else 0.0
    return math.sqrt(prior.rms**2 + float(torch.as_tensor(mean, dtype=torch.float64).square().mean()))
