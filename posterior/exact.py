"""Posteriors known in closed form: the oracles that samplers are tested against."""

from __future__ import annotations

from dataclasses import dataclass
from functools import singledispatch

import torch
from torch import Tensor

from posterior.likelihoods import GaussianLikelihood
from posterior.priors.analytic import GaussianPrior
from posterior.priors.base import Affine, Prior

LARGEST_DENSE = 16384


@dataclass(frozen=True)
class GaussianPosterior:
    """N(mean, cov) of flattened fields, float64.

    Args:
        location: Posterior mean (n,).
        cov: Posterior covariance (n, n).
        event_shape: Shape of one field.
        log_evidence: log p(y).
    """

    location: Tensor
    cov: Tensor
    event_shape: tuple[int, ...]
    log_evidence: float

    @property
    def mean(self) -> Tensor:
        """Posterior mean (*event)."""
        return self.location.reshape(self.event_shape)

    @property
    def std(self) -> Tensor:
        """Marginal posterior standard deviations (*event)."""
        return self.cov.diagonal().clamp_min(0).sqrt().reshape(self.event_shape)

    def sample(self, n: int, seed: int = 0) -> Tensor:
        """``n`` independent draws (n, *event)."""
        g = torch.Generator().manual_seed(seed)
        values, vectors = torch.linalg.eigh(self.cov)
        z = torch.randn(n, len(values), generator=g, dtype=torch.float64)
        return (self.location + (z * values.clamp_min(0).sqrt()) @ vectors.T).reshape(n, *self.event_shape)

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x | y) of fields (B, *event), shape (B,).

        Raises:
            torch.linalg.LinAlgError: If the posterior is degenerate.
        """
        law = torch.distributions.MultivariateNormal(self.location, self.cov)
        return law.log_prob(x.flatten(1).to(torch.float64))


def dense_operator(likelihood: GaussianLikelihood, event_shape: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """The likelihood as matrices, measured entries only: A (m, n), y - A(0) (m,), noise variance (m,), float64.

    Raises:
        ValueError: If the operator is not linear or n is too large for a dense matrix.
    """
    n = int(torch.Size(event_shape).numel())
    if n > LARGEST_DENSE:
        raise ValueError(f"exact posterior: {n} unknowns are too many for a dense matrix (at most {LARGEST_DENSE})")
    like = likelihood.in_standard(Affine(), event_shape)
    if not like.model.linear:
        raise ValueError(f"exact posterior: operator {type(likelihood.operator).__name__} is not linear")
    dtype = like.y.dtype
    reach = like.reach.flatten()
    columns = []
    for block in torch.eye(n, dtype=dtype).split(256):
        columns.append(like.model.apply(block.reshape(-1, *event_shape)).flatten(1)[:, reach].double())
    matrix = torch.cat(columns).T
    return matrix, like.y.flatten()[reach].double(), like.variance.flatten()[reach].double()


@singledispatch
def exact_posterior(prior: Prior, likelihood: GaussianLikelihood) -> GaussianPosterior:
    """The posterior in closed form.

    Args:
        prior: A `GaussianPrior`.
        likelihood: A Gaussian likelihood with a linear operator.

    Returns:
        An object with ``sample(n, seed)``, ``mean``, ``std``, ``log_prob`` and ``log_evidence``.

    Raises:
        TypeError: If no closed form is known for this prior.
        ValueError: If the operator is not linear or the field too large for a dense matrix.
    """
    raise TypeError(f"exact_posterior: no closed form is known for a {type(prior).__name__}")


@exact_posterior.register
def _(prior: GaussianPrior, likelihood: GaussianLikelihood) -> GaussianPosterior:
    likelihood.check(prior.event_shape)
    matrix, y, variance = dense_operator(likelihood, prior.event_shape)
    n = matrix.shape[1]
    cov = prior.reference.cov
    identity = torch.eye(n, dtype=torch.float64).reshape(n, *prior.event_shape)
    dense = cov.apply(identity).reshape(n, n)
    mean = prior.reference.center.flatten()
    cross = dense @ matrix.T
    s = matrix @ cross + torch.diag(variance)
    chol = torch.linalg.cholesky(s)
    residual = y - matrix @ mean
    location = mean + cross @ torch.cholesky_solve(residual[:, None], chol)[:, 0]
    half = torch.linalg.solve_triangular(chol, cross.T, upper=False)
    posterior = dense - half.T @ half
    law = torch.distributions.MultivariateNormal(torch.zeros_like(y), scale_tril=chol)
    return GaussianPosterior(location, (posterior + posterior.T) / 2, prior.event_shape, float(law.log_prob(residual)))
