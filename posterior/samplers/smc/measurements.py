"""The measurements of a likelihood as vectors and, where they are few, matrices; Gaussian densities of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from posterior.likelihoods import StandardLikelihood
from posterior.priors.covariance import Covariance
from posterior.problem import Problem, pilot_noise

# Points at which a nonlinear operator is looked at around a mean.
POINTS = 16
# Most data whose covariance is factorised.
LARGEST_DENSE = 1024


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
            parts = [like.model.transpose(u).flatten(1) for u in _units(like, reach).split(256)]
            rows = torch.cat(parts)
        return cls(like, reach, like.y.flatten()[reach], like.variance.flatten()[reach], rows)

    def residual(self, z: Tensor) -> Tensor:
        """y - A(z), (B, m)."""
        return self.y - self.likelihood.model.predict(z).flatten(1)[:, self.reach]

    def around(self, z: Tensor, spread: float) -> tuple[Tensor, Tensor, Tensor]:
        """The data as linear in x0 ~ N(z, spread^2 I): y - b (B, m), rows (m, n) or (B, m, n), noise (m, m) or (B, m, m).

        A linear operator is its own. For another, b and the rows are the means of A(x0) and of its derivative, the slope
        of the least-squares line through A(x0) (Stein), over points on either side of ``z``; the covariance of what the
        line leaves is added to that of the noise. So |x| near 0 counts as data of unknown sign and not as data of 0.

        References:
            Lefebvre, Bruyninckx, De Schutter. Comment on "A new method for the nonlinear transformation of means and
            covariances in filters and estimators". 2002. IEEE Trans. Automatic Control 47(8).
        """
        noise = torch.diag(self.variance)
        if self.rows is not None:
            return self.residual(z), self.rows, noise
        units = _units(self.likelihood, self.reach)
        half = spread * torch.cat([pilot_noise(tuple(z.shape[1:]), z, seed) for seed in range(POINTS // 2)])
        predictions, slopes = [], []
        for step in torch.cat([half, -half]):
            lin = self.likelihood.model.linearise(z + step)
            predictions.append(lin.prediction.flatten(1)[:, self.reach])
            slopes.append(torch.stack([lin.vjp(u[None].expand_as(lin.prediction)).flatten(1) for u in units], 1))
        values, rows = torch.stack(predictions, 1), torch.stack(slopes).mean(0)
        left = values - values.mean(1, keepdim=True) - torch.cat([half, -half]).flatten(1) @ rows.mT
        return self.y - values.mean(1), rows, noise + left.mT @ left / POINTS

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
        spread = cov.apply(self.rows.reshape(-1, *event_shape)).flatten(1)
        v = self.rows @ spread.T
        return torch.linalg.cholesky((v + v.T) / 2 + torch.diag(self.variance))


def _units(like: StandardLikelihood, reach: Tensor) -> Tensor:
    """A unit vector for each measurement, (m, *range)."""
    eye = torch.eye(reach.numel(), dtype=like.y.dtype, device=like.y.device)[reach]
    return eye.reshape(-1, *like.y.shape[1:])


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
