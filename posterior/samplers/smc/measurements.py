"""The measurements of a likelihood as vectors and, where they are few, matrices; Gaussian densities of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from posterior.likelihoods import StandardLikelihood
from posterior.priors.covariance import Covariance
from posterior.problem import Problem

# Most data whose covariance is factorised.
LARGEST_DENSE = 1024
# Most data for which a matrix is formed for each particle.
LARGEST_JACOBIAN = 64


@dataclass(frozen=True)
class Measurements:
    """The measured entries of a likelihood, flattened.

    Args:
        likelihood: The likelihood.
        reach: Which entries of the flattened data are measurements.
        y: Their values, (m,).
        variance: Their noise variances, (m,).
        rows: A as a matrix (m, n), None where the operator is not linear or the matrix was not asked for.
    """

    likelihood: StandardLikelihood
    reach: Tensor
    y: Tensor
    variance: Tensor
    rows: Tensor | None

    @classmethod
    def of(cls, problem: Problem, matrix: bool) -> Measurements:
        """Those of a problem; ``matrix`` asks for A, by its transpose applied to unit vectors."""
        like = problem.likelihood
        reach = like.reach.flatten()
        rows = None
        if matrix and like.model.linear:
            rows = like.y.new_zeros(0, math.prod(problem.event_shape))  # operators need not take an empty batch
            if reach.any():
                rows = torch.cat([like.model.transpose(u).flatten(1) for u in _units(like, reach).split(256)])
        return cls(like, reach, like.y.flatten()[reach], like.variance.flatten()[reach], rows)

    def residual(self, z: Tensor) -> Tensor:
        """y - A(z), (B, m)."""
        return self.y - self.flat(self.likelihood.model.predict(z))

    def flat(self, prediction: Tensor) -> Tensor:
        """The measured entries (B, m) of predictions (B, *range)."""
        return prediction.flatten(1)[:, self.reach]

    def noise(self, prediction: Tensor) -> Tensor:
        """Variances (1 or B, m) of the noise; those near ``prediction`` (B, *range) where they depend on it.

        Then every particle has a matrix of its own to factorise, so for many data they are the likelihood's own.
        """
        if self.likelihood.stand_in != "local" or self.y.numel() > LARGEST_JACOBIAN:
            return self.variance[None]
        return self.flat(self.likelihood.noise_variance(prediction).expand_as(prediction))

    def line(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """A(z) (B, *range), and its derivative (B, m, n) at ``z``."""
        lin = self.likelihood.model.linearise(z)
        units = _units(self.likelihood, self.reach)
        return lin.prediction, torch.stack([lin.vjp(u[None].expand_as(lin.prediction)).flatten(1) for u in units], 1)

    def pull(self, z: Tensor, u: Tensor) -> Tensor:
        """A^T u near ``z`` for ``u`` (B, m), as fields."""
        lin = self.likelihood.model.linearise(z)
        full = u.new_zeros(len(u), self.likelihood.y.numel())
        full[:, self.reach] = u
        return lin.vjp(full.reshape(len(u), *self.likelihood.y.shape[1:]))

    def explain(self, root: Tensor, residual: Tensor) -> Tensor:
        """A^T (L L^T)^-1 residual, L = ``root``, as flat fields (B, n)."""
        assert self.rows is not None
        return solve_transposed(root, solve(root, residual)) @ self.rows

    def covariance_root(self, cov: Covariance, event_shape: tuple[int, ...]) -> Tensor:
        """L with L L^T = A ``cov`` A^T + R, (m, m)."""
        assert self.rows is not None
        if len(self.rows) == 0:  # which a Fourier transform does not take
            return torch.diag(self.variance)
        spread = cov.apply(self.rows.reshape(-1, *event_shape)).flatten(1)
        v = self.rows @ spread.T
        return torch.linalg.cholesky((v + v.T) / 2 + torch.diag(self.variance))


def _units(like: StandardLikelihood, reach: Tensor) -> Tensor:
    """A unit vector for each measurement, (m, *range)."""
    index = reach.nonzero()[:, 0]
    units = like.y.new_zeros(len(index), reach.numel())
    units[torch.arange(len(index), device=index.device), index] = 1
    return units.reshape(-1, *like.y.shape[1:])


def positive(v: Tensor) -> Tensor:
    """``v`` as a divisor: at least the smallest normal number of its precision."""
    return v.clamp_min(torch.finfo(v.dtype).tiny)


def solve(root: Tensor, v: Tensor) -> Tensor:
    """L^-1 v for ``v`` (B, m) and L (m, m) or (B, m, m)."""
    if root.ndim == 2:
        return torch.linalg.solve_triangular(root, v.T, upper=False).T
    return torch.linalg.solve_triangular(root, v[:, :, None], upper=False)[..., 0]


def solve_transposed(root: Tensor, v: Tensor) -> Tensor:
    """L^-T v."""
    if root.ndim == 2:
        return torch.linalg.solve_triangular(root.T, v.T, upper=True).T
    return torch.linalg.solve_triangular(root.mT, v[:, :, None], upper=True)[..., 0]


def half_log_det(root: Tensor) -> Tensor:
    """log det L."""
    return root.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def log_normal(white: Tensor, half_log_det: Tensor) -> Tensor:
    """log N(r; 0, L L^T) with ``white`` = L^-1 r (B, m) and ``half_log_det`` = log det L."""
    return -0.5 * (white.square().sum(1) + white.shape[1] * math.log(2 * math.pi)) - half_log_det
