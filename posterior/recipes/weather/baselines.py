"""Optimal interpolation and 3D-Var: what the prior's reference Gaussian alone makes of the observations."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from posterior.likelihoods import Likelihood, StandardLikelihood
from posterior.priors.base import Affine, Prior
from posterior.priors.covariance import Covariance
from posterior.priors.reference import GaussianReference, Reference

_TOLERANCE = 1e-6  # of the cost, relative: where Gauss-Newton stops
_SMALLEST_STEP = 1e-3


class LinearPrior(Prior):
    """A prior's reference Gaussian as a prior of its own: the optimal linear denoiser in the same coordinates.

    Args:
        prior: One that carries a reference.

    Raises:
        ValueError: If it carries none.
    """

    def __init__(self, prior: Prior) -> None:
        shape = event_shape(prior)
        reference = reference_of(prior)
        mean = torch.zeros(shape, dtype=torch.float64) + reference.mean(shape)
        self.reference: Reference = GaussianReference(mean, reference.covariance(shape))
        self.event_shape = shape
        self.affine, self.units, self.labels = prior.affine, prior.units, prior.labels
        self.climatology, self.date = prior.climatology, prior.date
        self.rms, self.sigma_min, self.sigma_max = prior.rms, prior.sigma_min, prior.sigma_max
        self.name = f"{prior.name}-reference"

    def denoise(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """See `Prior.denoise`."""
        return self.reference.denoise(x, sigma)


@dataclass(frozen=True, eq=False)
class GaussianAnalysis:
    """N(mean, C - K A C) of fields, in physical units, K the Kalman gain at the mean.

    Args:
        mean: (*event), physical units.
        affine: Standardised to physical coordinates.
        covariance: C, standardised units.
        rows: A at the mean, (m, *event), standardised units.
        cross: A C, (m, *event).
        factor: Cholesky factor of A C A^T + R, (m, m).
        noise: Standard deviation of the observations, (m,).
    """

    mean: Tensor
    affine: Affine
    covariance: Covariance
    rows: Tensor
    cross: Tensor
    factor: Tensor
    noise: Tensor

    @property
    def std(self) -> Tensor:
        """Standard deviation of every grid value, (*event), physical units."""
        n = self.mean.numel()
        parts = []
        for block in torch.arange(n).split(1024):
            unit = torch.zeros(len(block), n, dtype=torch.float64)
            unit[torch.arange(len(block)), block] = 1
            columns = self.covariance.apply(unit.reshape(-1, *self.mean.shape)).flatten(1)
            parts.append(columns[torch.arange(len(block)), block])
        half = torch.linalg.solve_triangular(self.factor, self.cross.flatten(1), upper=False)
        variance = (torch.cat(parts) - half.square().sum(0)).clamp_min(0).reshape(self.mean.shape)
        return variance.sqrt() * self.affine.scale_like(variance)

    def sample(self, n: int, seed: int = 0) -> Tensor:
        """``n`` independent draws (n, *event), physical units: Matheron's rule."""
        g = torch.Generator().manual_seed(seed)
        xi = self.covariance.sqrt(torch.randn(n, *self.mean.shape, generator=g, dtype=torch.float64))
        eta = torch.randn(n, len(self.noise), generator=g, dtype=torch.float64) * self.noise
        off = xi.flatten(1) @ self.rows.flatten(1).T + eta
        step = torch.cholesky_solve(off.T, self.factor).T @ self.cross.flatten(1)
        return self.mean + self.affine.scale_like(xi) * (xi - step.reshape(xi.shape))


def event_shape(prior: Prior) -> tuple[int, ...]:
    """The shape of the prior's fields.

    Raises:
        ValueError: If it takes fields of any size.
    """
    shape = tuple(n for n in prior.event_shape if n is not None)
    if len(shape) != len(prior.event_shape):
        raise ValueError(f"prior '{prior.name}' takes fields of any size; wanted one on a grid of its own")
    return shape


def reference_of(prior: Prior) -> Reference:
    """The reference Gaussian.

    Raises:
        ValueError: If the prior carries none.
    """
    if prior.reference is None:
        raise ValueError(f"prior '{prior.name}' carries no reference Gaussian, whose covariance optimal interpolation takes")
    return prior.reference


def optimal_interpolation(prior: Prior, likelihood: Likelihood, *, iterations: int = 20) -> GaussianAnalysis:
    """Best linear unbiased estimate x_b + C A^T (A C A^T + R)^-1 (y - A x_b), which 3D-Var minimises for too.

    Background and covariance are mean and covariance of the prior's reference Gaussian, which training fitted to anomalies.
    With an operator that is not linear this is incremental 3D-Var, minimising

        J(x) = (x - x_b)^T C^-1 (x - x_b) / 2 + (y - A(x))^T R^-1 (y - A(x)) / 2

    by Gauss-Newton steps in the space of observations, halved until J falls. Robust likelihoods are taken by the Gaussian
    that stands in for them.

    Args:
        prior: A prior with a reference.
        likelihood: Operator, data and errors, physical units.

    Other arguments:
        iterations: Gauss-Newton steps at most, for operators that are not linear.

    Raises:
        ValueError: If the prior carries no reference.

    References:
        Gandin. Objective analysis of meteorological fields. 1963.
        Lorenc. Analysis methods for numerical weather prediction. 1986. QJRMS 112(474).
        Courtier, Thepaut, Hollingsworth. A strategy for operational implementation of 4D-Var, using an incremental
        approach. 1994. QJRMS 120(519).
    """
    shape = event_shape(prior)
    like = likelihood.in_standard(prior.affine, shape)
    reference = reference_of(prior)
    covariance = reference.covariance(shape)
    background = torch.zeros(1, *shape, dtype=torch.float64) + reference.mean(shape)
    z, best, dual = background, torch.inf, torch.zeros_like(background)
    for _ in range(1 if like.model.linear else iterations):
        system = innovations(like, covariance, z, background)
        target = (system.weights @ system.rows.flatten(1)).reshape(z.shape)
        step = 1.0
        while True:
            trial = dual + step * (target - dual)  # z = background + C dual
            moved = covariance.apply(trial)
            fit = like.residual(background + moved).square() / like.variance
            value = 0.5 * float((trial * moved).sum() + fit.sum())
            if value < best or step < _SMALLEST_STEP:
                break
            step /= 2
        if value >= best:
            break
        settled = best - value < _TOLERANCE * value
        z, best, dual = background + moved, value, trial
        if settled:
            break
    at = system if like.model.linear else innovations(like, covariance, z, background)
    mean = prior.affine.to_physical(z)[0]
    return GaussianAnalysis(mean, prior.affine, covariance, at.rows, at.cross, at.factor, at.noise)


@dataclass(frozen=True, eq=False)
class Innovations:
    """Observations against the background, linearised at some field.

    Args:
        rows: A, (m, *event), standardised units.
        cross: A C, (m, *event).
        factor: Cholesky factor of S = A C A^T + R, (m, m).
        noise: Standard deviation of the observations, (m,).
        departures: y - A x_b, (m,).
    """

    rows: Tensor
    cross: Tensor
    factor: Tensor
    noise: Tensor
    departures: Tensor

    @property
    def weights(self) -> Tensor:
        """S^-1 (y - A x_b), (m,)."""
        return torch.cholesky_solve(self.departures[:, None], self.factor)[:, 0]


def innovations(like: StandardLikelihood, covariance: Covariance, z: Tensor, background: Tensor) -> Innovations:
    """Observations against a background, the operator linearised at ``z``.

    Args:
        like: The likelihood, standardised coordinates.
        covariance: C of the background.
        z: Where to linearise, (1, *event).
        background: x_b, (1, *event).
    """
    seen = like.reach.flatten()
    lin = like.model.linearise(z)
    unit = torch.eye(len(seen), dtype=z.dtype)[seen].reshape(-1, *like.y.shape[1:])
    rows = lin.vjp(unit) if like.model.linear else torch.cat([lin.vjp(e[None]) for e in unit])
    cross = covariance.apply(rows)
    noise = like.variance.flatten()[seen].sqrt()
    s = cross.flatten(1) @ rows.flatten(1).T
    factor = torch.linalg.cholesky((s + s.T) / 2 + torch.diag(noise**2))
    off = (like.y - lin.prediction).flatten()[seen] + rows.flatten(1) @ (z - background).flatten()
    return Innovations(rows, cross, factor, noise, off)
