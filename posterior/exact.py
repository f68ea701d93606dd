"""Posteriors known in closed form: the oracles that samplers are tested against."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import singledispatch

import torch
from torch import Tensor

from posterior._devices import moved
from posterior.gibbs import ChainPosterior, levy_posterior
from posterior.likelihoods import GaussianLikelihood, Likelihood
from posterior.priors.analytic import GaussianPrior
from posterior.priors.base import Affine, Prior
from posterior.priors.empirical import EmpiricalPrior
from posterior.priors.levy import LevyPrior
from posterior.priors.mixture import GaussianMixturePrior

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
            ValueError: If the posterior is degenerate.
        """
        law = torch.distributions.MultivariateNormal(self.location, self.cov)
        return law.log_prob(x.flatten(1).to(torch.float64))


@dataclass(frozen=True)
class MixturePosterior:
    """The posterior of a Gaussian mixture given linear Gaussian data: a mixture of as many components.

    With S_k = A C_k A^T + R and K_k = C_k A^T S_k^-1, component k has the weight w_k N(y; A m_k, S_k) up to a
    constant, the mean m_k + K_k (y - A m_k) and the covariance C_k - K_k A C_k. Only m x m systems are solved
    and no n x n matrix is kept.

    Args:
        prior: The prior.
        matrix: A, (m, n).
        y: Data less the operator's offset, (m,).
        variance: Noise variances, (m,).
        weights: Posterior weights of the components, (K,).
        means: Posterior means of the components, (K, n).
        variances: Marginal posterior variances of the components, (K, n).
        gains: K_k, (K, n, m).
        log_evidence: log p(y).
    """

    prior: GaussianMixturePrior
    matrix: Tensor
    y: Tensor
    variance: Tensor
    weights: Tensor
    means: Tensor
    variances: Tensor
    gains: Tensor
    log_evidence: float

    @property
    def mean(self) -> Tensor:
        """Posterior mean (*event)."""
        return (self.weights @ self.means).reshape(self.prior.event_shape)

    @property
    def std(self) -> Tensor:
        """Marginal posterior standard deviations (*event)."""
        spread = (self.means - self.weights @ self.means).square()
        return (self.weights @ (self.variances + spread)).sqrt().reshape(self.prior.event_shape)

    def covariance(self, k: int) -> Tensor:
        """Posterior covariance of component ``k``, (n, n)."""
        prior = self.prior.component_covariance(k)
        return prior - self.gains[k] @ (self.matrix @ prior)

    def sample(self, n: int, seed: int = 0) -> Tensor:
        """``n`` independent draws (n, *event): Matheron's rule in a component drawn by its weight."""
        g = torch.Generator().manual_seed(seed)
        label = torch.multinomial(self.weights, n, replacement=True, generator=g)
        out = torch.randn(n, self.prior.n, generator=g, dtype=torch.float64)
        eta = torch.randn(n, len(self.y), generator=g, dtype=torch.float64) * self.variance.sqrt()
        for k in label.unique().tolist():
            at = label == k
            xi = self.prior.component_sqrt(k, out[at])
            out[at] = self.means[k] + xi - (xi @ self.matrix.T + eta[at]) @ self.gains[k].T
        return out.reshape(n, *self.prior.event_shape)

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x | y) = log p(x) + log p(y | x) - log p(y) of fields (B, *event), shape (B,)."""
        residual = self.y - x.flatten(1).double() @ self.matrix.T
        fit = -0.5 * (residual.square() / self.variance + torch.log(2 * math.pi * self.variance)).sum(1)
        return self.prior.log_prob(x) + fit - self.log_evidence

    def cdf(self, x: Tensor, coordinate: int) -> Tensor:
        """Marginal distribution function P(x0[coordinate] <= x | y).

        Args:
            x: Values, any shape.
            coordinate: Index into the flattened event.
        """
        std = self.variances[:, coordinate].sqrt()
        z = (torch.as_tensor(x, dtype=torch.float64)[..., None] - self.means[:, coordinate]) / std
        return torch.special.ndtr(z) @ self.weights


@dataclass(frozen=True)
class EmpiricalPosterior:
    """The posterior of a finite set of points: the points reweighted by p(y | x), for any operator and noise.

    Args:
        points: (N, *event).
        weights: Posterior weights (N,), summing to one.
        log_evidence: log p(y).
    """

    points: Tensor
    weights: Tensor
    log_evidence: float

    @property
    def mean(self) -> Tensor:
        """Posterior mean (*event)."""
        return torch.tensordot(self.weights, self.points, 1)

    @property
    def std(self) -> Tensor:
        """Marginal posterior standard deviations (*event)."""
        return torch.tensordot(self.weights, (self.points - self.mean).square(), 1).sqrt()

    def sample(self, n: int, seed: int = 0) -> Tensor:
        """``n`` independent draws (n, *event)."""
        g = torch.Generator().manual_seed(seed)
        return self.points[torch.multinomial(self.weights, n, replacement=True, generator=g)]

    def cdf(self, x: Tensor, coordinate: int) -> Tensor:
        """Marginal distribution function P(x0[coordinate] <= x | y).

        Args:
            x: Values, any shape.
            coordinate: Index into the flattened event.
        """
        below = self.points.flatten(1)[:, coordinate] <= torch.as_tensor(x, dtype=torch.float64)[..., None]
        return below.double() @ self.weights


def dense_operator(likelihood: Likelihood, event_shape: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """The likelihood as matrices, measured entries only: A (m, n), data (m,), noise variance (m,), float64.

    Raises:
        TypeError: If the likelihood is not Gaussian.
        ValueError: If the operator is not linear or n is too large for a dense matrix.
    """
    if not isinstance(likelihood, GaussianLikelihood):
        raise TypeError(f"exact posterior: a {type(likelihood).__name__} has no closed form with this prior")
    n = int(torch.Size(event_shape).numel())
    if n > LARGEST_DENSE:
        raise ValueError(f"exact posterior: {n} unknowns are too many for a dense matrix (at most {LARGEST_DENSE})")
    like = moved(likelihood, "cpu").in_standard(Affine(), event_shape)
    if not like.model.linear:
        raise ValueError(f"exact posterior: operator {type(likelihood.operator).__name__} is not linear")
    dtype = like.y.dtype
    reach = like.reach.flatten()
    columns = []
    for block in torch.eye(n, dtype=dtype).split(256):
        columns.append(like.model.apply(block.reshape(-1, *event_shape)).flatten(1)[:, reach].double())
    matrix = torch.cat(columns).T
    return matrix, like.y.flatten()[reach].double(), like.variance.flatten()[reach].double()


def _log_normal(root: Tensor, residual: Tensor) -> Tensor:
    """log N(residual; 0, L L^T), L = ``root`` (m, m); 0 where there are no data."""
    white = torch.linalg.solve_triangular(root, residual[:, None], upper=False)
    return -0.5 * (white.square().sum() + len(root) * math.log(2 * math.pi)) - root.diagonal().log().sum()


Posterior = GaussianPosterior | MixturePosterior | EmpiricalPosterior | ChainPosterior


@singledispatch
def exact_posterior(prior: Prior, likelihood: Likelihood) -> Posterior:
    """The posterior in closed form; for a `LevyPrior` long Markov chains stand in for it.

    Args:
        prior: A `GaussianPrior`, a `GaussianMixturePrior`, an `EmpiricalPrior` or a `LevyPrior`.
        likelihood: A Gaussian likelihood with a linear operator; for an `EmpiricalPrior` any likelihood with
            a ``log_prob``.

    Returns:
        An object with ``sample(n, seed)``, ``mean``, ``std`` and, but for a Levy chain, ``log_evidence``; a Gaussian
        and a mixture also have ``log_prob``, a mixture and a set of points ``weights`` and ``cdf``.

    Raises:
        TypeError: If no closed form is known for this prior, or not with this likelihood.
        ValueError: If the operator is not linear or the field too large for a dense matrix.
    """
    raise TypeError(f"exact_posterior: no closed form is known for a {type(prior).__name__}")


@exact_posterior.register
def _(prior: GaussianPrior, likelihood: Likelihood) -> GaussianPosterior:
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
    return GaussianPosterior(location, (posterior + posterior.T) / 2, prior.event_shape, float(_log_normal(chol, residual)))


@exact_posterior.register
def _(prior: GaussianMixturePrior, likelihood: Likelihood) -> MixturePosterior:
    likelihood.check(prior.event_shape)
    matrix, y, variance = dense_operator(likelihood, prior.event_shape)
    evidence, means, variances, gains = [], [], [], []
    for k, m in enumerate(prior.means.flatten(1)):
        cross = prior.component_times(k, matrix.T)
        chol = torch.linalg.cholesky(matrix @ cross + torch.diag(variance))
        residual = y - matrix @ m
        gain = torch.cholesky_solve(cross.T, chol).T
        evidence.append(prior.weights[k].log() + _log_normal(chol, residual))
        means.append(m + gain @ residual)
        variances.append((prior.component_variances(k) - (gain * cross).sum(1)).clamp_min(0))
        gains.append(gain)
    log_weights = torch.stack(evidence)
    return MixturePosterior(
        prior,
        matrix,
        y,
        variance,
        torch.softmax(log_weights, 0),
        torch.stack(means),
        torch.stack(variances),
        torch.stack(gains),
        float(torch.logsumexp(log_weights, 0)),
    )


@exact_posterior.register
def _(prior: EmpiricalPrior, likelihood: Likelihood) -> EmpiricalPosterior:
    likelihood.check(prior.event_shape)
    near = moved(likelihood, "cpu")
    fit = torch.cat([near.log_prob(x) for x in prior.points.split(256)])
    log_weights = prior.weights.log() + fit.double()
    return EmpiricalPosterior(prior.points, torch.softmax(log_weights, 0), float(torch.logsumexp(log_weights, 0)))


@exact_posterior.register
def _(prior: LevyPrior, likelihood: GaussianLikelihood) -> ChainPosterior:
    likelihood.check(prior.event_shape)
    return levy_posterior(prior, *dense_operator(likelihood, prior.event_shape))
