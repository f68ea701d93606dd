"""A covariance function for fields that were measured in part, by maximum likelihood: where expectation-maximisation begins."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from posterior.likelihoods import Likelihood
from posterior.priors.base import Affine
from posterior.recipes.measurements.gaussian import MOST_UNKNOWNS, Measured


@dataclass(frozen=True, eq=False)
class KernelFit:
    """C_ij = a_i a_j sum_k w_k exp(-1/2 sum_d (p_id - p_jd)^2 / l_kd^2) + v [i = j].

    Args:
        covariance: C, (n, n), standardised.
        weights: w, (parts,).
        lengths: l, (parts, d), in the unit of the positions.
        nugget: v.
        evidence: Mean log-density of a datum's measurements.
    """

    covariance: Tensor
    weights: Tensor
    lengths: Tensor
    nugget: float
    evidence: float


def fit_kernel(
    likelihoods: Sequence[Likelihood],
    event_shape: tuple[int, ...],
    positions: Tensor,
    affines: Sequence[Affine] | None = None,
    *,
    amplitude: float | Tensor = 1.0,
    parts: int = 3,
    most: int = 256,
    iterations: int = 60,
) -> KernelFit:
    """Maximise sum_i log N(y_i; A_i 0, A_i C A_i^T + R_i) over the few numbers of a covariance function.

    A mixture of squared exponentials, each with a length along each axis (automatic relevance determination): few enough
    numbers for data that see each pair of points on a few days only, of which a free covariance would make noise.

    Args:
        likelihoods: As in `fit_gaussian`.
        event_shape: Shape of a field, n points, at most 4096.
        positions: Of the points, (n, d), in a space where nearness is Euclidean: for the globe three coordinates, since a
            kernel of latitude and longitude is no covariance.
        affines: As in `fit_gaussian`.

    Other arguments:
        amplitude: Standard deviation at each point, (n,), standardised, up to a factor, which the weights find.
        parts: Squared exponentials; the first begins with a length of half the extent of the positions, the last of a twelfth.
        most: Data that are used, evenly taken.
        iterations: Of L-BFGS.

    Raises:
        ValueError: If there are no data or too many points, positions or amplitude do not fit the shape, or a likelihood is not
            linear and Gaussian.

    References:
        Rasmussen, Williams. Gaussian processes for machine learning. 2006. MIT Press (chapters 4.2 and 5.4.1).
    """
    from scipy.optimize import minimize

    n = math.prod(event_shape)
    if n > MOST_UNKNOWNS:
        raise ValueError(f"fit_kernel: {n} points; wanted {MOST_UNKNOWNS} at most")
    a = torch.as_tensor(amplitude, dtype=torch.float64).flatten()
    if not likelihoods or parts < 1 or most < 1 or positions.ndim != 2 or len(positions) != n or a.numel() not in (1, n):
        got = f"{len(likelihoods)} data, {most} of them at most, positions {tuple(positions.shape)}, {parts} parts"
        raise ValueError(f"fit_kernel: got {got}; wanted data, and a position and an amplitude for each of {n} points")
    used = np.linspace(0, len(likelihoods) - 1, min(most, len(likelihoods))).round().astype(int)
    data = [_Seen.of(likelihoods[i], event_shape, Affine() if affines is None else affines[i]) for i in used]
    apart = (positions.double()[:, None] - positions.double()).square()
    if not apart.isfinite().all():
        raise ValueError("fit_kernel: positions have values that are NaN or infinite; wanted finite numbers")
    extent = float(apart.sum(-1).max().sqrt()) or 1.0  # where all points are in one place any length will do
    family = _Family(apart, a.expand(n), parts)

    def loss(x: np.ndarray) -> tuple[float, np.ndarray]:
        p = torch.tensor(x, requires_grad=True)
        cov = family.covariance(p)
        value = -torch.stack([d.evidence(cov) for d in data]).mean()
        value.backward()
        assert p.grad is not None
        return value.item(), p.grad.numpy().copy()

    start = family.start(extent)
    # a length a thousand times the extent is a constant, a hundredth of it white: nothing lies beyond either
    low, high = math.log(1e-2 * extent), math.log(1e3 * extent)
    bounds = [(-20.0, 20.0)] * parts + [(low, high)] * (parts * apart.shape[-1]) + [(-20.0, 5.0)]
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": iterations})
    p = torch.from_numpy(found.x)
    weights, lengths, nugget = family.read(p)
    return KernelFit(family.covariance(p), weights, lengths, float(nugget), -float(found.fun))


@dataclass(frozen=True, eq=False)
class _Family:
    """Covariances by the logarithms of weights, lengths and nugget, one vector."""

    apart: Tensor  # squared differences of positions by axis, (n, n, d)
    amplitude: Tensor
    parts: int

    def start(self, extent: float) -> np.ndarray:
        lengths = np.geomspace(extent / 2, extent / 12, self.parts) if self.parts > 1 else np.array([extent / 5])
        each = np.repeat(np.log(lengths), self.apart.shape[-1])
        return np.concatenate([np.full(self.parts, -math.log(self.parts)), each, [math.log(1e-3)]])

    def read(self, p: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        lengths = p[self.parts : -1].reshape(self.parts, -1)
        return p[: self.parts].exp(), lengths.exp(), p[-1].exp()

    def covariance(self, p: Tensor) -> Tensor:
        weights, lengths, nugget = self.read(p)
        shape = sum(w * (-0.5 * self.apart @ length**-2).exp() for w, length in zip(weights, lengths, strict=True))
        scaled = self.amplitude[:, None] * self.amplitude * shape
        return scaled + nugget * torch.eye(len(scaled), dtype=scaled.dtype)


@dataclass(frozen=True, eq=False)
class _Seen:
    """What one instrument saw, with gradients: A (m, n) sparse, y and R."""

    matrix: Tensor
    values: Tensor
    variance: Tensor

    @staticmethod
    def of(likelihood: Likelihood, event_shape: tuple[int, ...], affine: Affine) -> _Seen:
        seen = Measured.of(likelihood, event_shape, affine)
        a = seen.matrix.tocoo()
        where = torch.from_numpy(np.stack([a.row, a.col]))
        matrix = torch.sparse_coo_tensor(where, a.data, a.shape, dtype=torch.float64, check_invariants=True).coalesce()
        return _Seen(matrix, torch.from_numpy(seen.values).double(), torch.from_numpy(seen.variance).double())

    def evidence(self, cov: Tensor) -> Tensor:
        crossed = torch.sparse.mm(self.matrix, cov)
        inner = torch.sparse.mm(self.matrix, crossed.T) + torch.diag(self.variance)
        root = torch.linalg.cholesky(inner)
        white = torch.linalg.solve_triangular(root, self.values[:, None], upper=False)
        constant = 0.5 * len(self.values) * math.log(2 * math.pi)
        return -0.5 * white.square().sum() - root.diagonal().log().sum() - constant
