"""The Gaussian-mixture problem of MCG-diff: 25 modes, a random linear operator, an exact posterior."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

import posterior

CELLS = tuple((d, m) for d in (8, 80) for m in (1, 2, 4))


@dataclass(frozen=True)
class MixtureProblem:
    """Prior, likelihood and the truth (1, d) that the data came from."""

    prior: posterior.GaussianMixturePrior
    likelihood: posterior.GaussianLikelihood
    truth: Tensor


def mixture(d: int, m: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> MixtureProblem:
    """One problem.

    25 components of unit covariance on (8i, 8j, 8i, 8j, ...), i, j in -2..2, with chi-squared weights; A = U
    diag(s) V^T with U, V uniform orthogonal and s ~ U[0, 1] sorted; noise of standard deviation U[0.1, 1].

    Args:
        d: Number of unknowns, even.
        m: Number of data.
        seed: Of weights, operator, truth and noise.
        dtype: Precision of the data.

    References:
        Cardoso, Janati El Idrissi, Le Corff, Moulines. Monte Carlo guided denoising diffusion models for
        Bayesian linear inverse problems. ICLR 2024. arXiv:2308.07983.
    """
    g = torch.Generator().manual_seed(10_000 * d + 1000 * m + seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    grid = torch.arange(-2, 3, dtype=torch.float64)
    pairs = torch.cartesian_prod(grid, grid)
    prior = posterior.GaussianMixturePrior(8 * pairs.repeat(1, d // 2), normal(25).square(), 1.0)
    s = torch.rand(m, generator=g, dtype=torch.float64).sort(descending=True).values
    sigma = 0.1 + 0.9 * float(torch.rand((), generator=g, dtype=torch.float64))
    left = torch.linalg.qr(normal(m, m)).Q
    right = torch.linalg.qr(normal(d, m)).Q
    matrix = (left * s) @ right.T
    truth = prior.sample(1, seed=10_000 * d + 1000 * m + seed)
    y = truth @ matrix.T + sigma * normal(1, m)
    likelihood = posterior.GaussianLikelihood(dense(matrix.to(dtype)), y.to(dtype), sigma)
    return MixtureProblem(prior, likelihood, truth.to(dtype))


def dense(matrix: Tensor):  # noqa: ANN201
    """The matrix (m, d) as a deepinv LinearPhysics of fields (B, d)."""
    import deepinv

    return deepinv.physics.LinearPhysics(
        A=lambda x, **_: x @ matrix.to(x).T,
        A_adjoint=lambda y, **_: y @ matrix.to(y),
        img_size=(matrix.shape[1],),
    )
