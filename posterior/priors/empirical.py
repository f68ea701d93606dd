"""A finite set of points as a prior: the one whose posterior is exact for any operator and any likelihood."""

from __future__ import annotations

import math
from functools import cached_property

import torch
from torch import Tensor

from posterior.priors.base import Prior, column, must_be_real
from posterior.priors.covariance import Covariance, EigenBasis
from posterior.priors.mixture import LARGEST_REFERENCE, check_weights
from posterior.priors.reference import GaussianReference


class EmpiricalPrior(Prior):
    """sum_i w_i delta(x - x_i), with the exact denoiser

        D(x, sigma) = sum_i p_i x_i,  p_i proportional to w_i exp(-||x - x_i||^2 / (2 sigma^2)).

    Computed in float64, whatever the precision of the fields. The reference Gaussian has the points' mean and
    covariance.

    Args:
        points: Shape (N, *event), physical units (standardised and physical coordinates are the same here).
        weights: Shape (N,), positive; normalised. Equal where None.

    Other arguments:
        units: Physical units.

    Raises:
        ValueError: If there are fewer than two distinct points, shapes do not fit, values are not finite, or
            weights are not positive.
    """

    event_shape: tuple[int, ...]

    def __init__(self, points: Tensor, weights: Tensor | None = None, *, units: str = "1") -> None:
        points = torch.as_tensor(points).detach()
        must_be_real("EmpiricalPrior", "points", points)
        if points.ndim < 2 or points.shape[0] < 2:
            raise ValueError(f"EmpiricalPrior: points have shape {tuple(points.shape)}; wanted (N, *event), N at least 2")
        if not torch.isfinite(points).all():
            raise ValueError("EmpiricalPrior: points have values that are not finite")
        count = points.shape[0]
        weights = torch.ones(count) if weights is None else torch.as_tensor(weights).detach()
        weights = weights.to(torch.float64)
        check_weights("EmpiricalPrior", weights, count)
        self.event_shape = tuple(points.shape[1:])
        self.name = "empirical"
        self.units = units
        self.points = points.to(torch.float64)
        self.weights = weights / weights.sum()
        self._flat = self.points.flatten(1)
        self._middle = self.weights @ self._flat
        self.center = self._middle.reshape(self.event_shape)
        self._centred = self._flat - self._middle
        scaled = self.weights.sqrt()[:, None] * self._centred
        self.rms = math.sqrt(float(scaled.square().sum()) / self._flat.shape[1])
        if self.rms == 0:
            raise ValueError("EmpiricalPrior: all points are the same")
        self.sigma_max = 30 * float(torch.linalg.matrix_norm(scaled, ord=2))
        self.sigma_min = 0.1 * _resolution(self._centred)

    @property
    def mean(self) -> Tensor:
        """Weighted mean of the points, (*event)."""
        return self._middle.reshape(self.event_shape)

    @property
    def cov(self) -> Tensor:
        """Weighted covariance of the points, (n, n)."""
        return (self.weights[:, None] * self._centred).T @ self._centred

    @cached_property
    def reference(self) -> GaussianReference | None:
        """The Gaussian with the points' mean and covariance; None above 4096 unknowns."""
        if self._flat.shape[1] > LARGEST_REFERENCE:
            return None
        values, vectors = torch.linalg.eigh(self.cov)
        return GaussianReference(self.mean, Covariance(EigenBasis(vectors), values.clamp_min(0)))

    def denoise(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """See `Prior.denoise`."""
        z = x.flatten(1).to(torch.float64)
        centred = self._centred.to(z.device)
        # ||x||^2 is common to all points and cancels in the softmax.
        distance = centred.square().sum(1) - 2 * (z - self._middle.to(z.device)) @ centred.T
        p = torch.softmax(self.weights.log().to(z.device) - 0.5 * distance / column(sigma, z) ** 2, 1)
        return (self._middle.to(z.device) + p @ centred).to(x.dtype).reshape(x.shape)


def _resolution(points: Tensor) -> float:
    """Distance below which points count as one: the 1 % quantile of that to the nearest other point."""
    nearest = []
    for start in range(0, len(points), 256):
        # By matrices the distance of a point to itself would be rounding, and not 0.
        distance = torch.cdist(points[start : start + 256], points, compute_mode="donot_use_mm_for_euclid_dist")
        distance[distance == 0] = math.inf
        nearest.append(distance.amin(1))
    found = torch.cat(nearest)
    return float(torch.quantile(found, 0.01))
