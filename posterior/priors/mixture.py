"""Gaussian mixtures: priors with many modes whose denoiser, and whose posterior, are known in closed form."""

from __future__ import annotations

import math
from functools import cached_property

import torch
from torch import Tensor

from posterior.priors.base import Prior, column, must_be_real
from posterior.priors.covariance import Covariance, EigenBasis
from posterior.priors.reference import GaussianReference

LARGEST_REFERENCE = 4096


class GaussianMixturePrior(Prior):
    """sum_k w_k N(m_k, C_k), with the exact denoiser

        D(x, sigma) = sum_k p_k(x) (m_k + C_k (C_k + sigma^2 I)^-1 (x - m_k)),
        p_k(x) proportional to w_k N(x; m_k, C_k + sigma^2 I).

    All of it is computed in float64 and by log-sum-exp, whatever the precision of the fields, so that it
    holds for any ratio of sigma to the distance of the modes. The reference Gaussian is the mixture's own
    mean and covariance.

    Args:
        means: Shape (K, *event), physical units (standardised and physical coordinates are the same here).
        weights: Shape (K,), positive; they are normalised.
        std: Of the components: a number or shape (K,) where they are isotropic; or covariances, (K, n, n) or
            one (n, n) for all, n = prod(event). Isotropic components cost no matrix, one shared covariance a
            single one.

    Other arguments:
        units: Physical units.

    Raises:
        ValueError: If shapes do not fit, values are not finite, weights or standard deviations are not
            positive, or a covariance is not symmetric positive definite.
    """

    event_shape: tuple[int, ...]

    def __init__(self, means: Tensor, weights: Tensor, std: Tensor | float, *, units: str = "1") -> None:
        means = torch.as_tensor(means).detach()
        must_be_real("GaussianMixturePrior", "means", means)
        weights = torch.as_tensor(weights, dtype=torch.float64).detach()
        if means.ndim < 2 or means.shape[0] < 1:
            raise ValueError(f"GaussianMixturePrior: means have shape {tuple(means.shape)}; wanted (K, *event)")
        if not torch.isfinite(means).all():
            raise ValueError("GaussianMixturePrior: means have values that are not finite")
        count = means.shape[0]
        check_weights("GaussianMixturePrior", weights, count)
        self.event_shape = tuple(means.shape[1:])
        self.name = "gaussian mixture"
        self.units = units
        self.means = means.to(torch.float64)
        self.weights = weights / weights.sum()
        self._flat = self.means.flatten(1)
        self._basis, self._values = _components(torch.as_tensor(std, dtype=torch.float64).detach(), count, self.n)
        centred = self._flat - self.weights @ self._flat
        self._middle = self.weights @ self._flat
        self.center = self._middle.reshape(self.event_shape)
        trace = (self._values.expand(count, self.n).sum(1) + centred.square().sum(1)) @ self.weights
        self.rms = math.sqrt(float(trace) / self.n)
        # Largest variance of any direction, at most: that of the means plus the widest component's. At 30
        # times its root even a shift of the whole distribution by data is drowned, as for `GaussianPrior`.
        scaled = self.weights.sqrt()[:, None] * centred
        between = float(torch.linalg.matrix_norm(scaled, ord=2)) ** 2
        self.sigma_max = 30 * math.sqrt(between + float(self._values.max()))
        # Ending at sigma_min costs a share (sigma_min / std)^2 = 4e-4 of the narrowest component's variance.
        self.sigma_min = 2e-2 * math.sqrt(float(self._values.min()))

    @property
    def n(self) -> int:
        """Number of unknowns."""
        return self._flat.shape[1]

    @property
    def isotropic(self) -> bool:
        """Whether every component is a multiple of the identity."""
        return self._basis is None

    @property
    def mean(self) -> Tensor:
        """Mean of the mixture, (*event)."""
        return self._middle.reshape(self.event_shape)

    @property
    def cov(self) -> Tensor:
        """Covariance of the mixture, (n, n)."""
        scaled = self.weights.sqrt()[:, None] * (self._flat - self._middle)
        inside = sum(w * self.component_covariance(k) for k, w in enumerate(self.weights))
        return inside + scaled.T @ scaled

    def component_covariance(self, k: int) -> Tensor:
        """C_k as a matrix (n, n)."""
        return self.component_times(k, torch.eye(self.n, dtype=torch.float64))

    def component_times(self, k: int, v: Tensor) -> Tensor:
        """C_k v for columns ``v`` (n, m), float64; no matrix is formed for isotropic components."""
        values = self._values[min(k, len(self._values) - 1)]
        if self._basis is None:
            return values * v
        vectors = self._basis[min(k, len(self._basis) - 1)]
        return vectors @ (values[:, None] * (vectors.T @ v))

    def component_variances(self, k: int) -> Tensor:
        """Diagonal of C_k, (n,)."""
        values = self._values[min(k, len(self._values) - 1)]
        if self._basis is None:
            return values.expand(self.n)
        return self._basis[min(k, len(self._basis) - 1)].square() @ values

    def component_sqrt(self, k: int, z: Tensor) -> Tensor:
        """C_k^(1/2) z for rows ``z`` (B, n)."""
        values = self._values[min(k, len(self._values) - 1)].sqrt()
        if self._basis is None:
            return values * z
        vectors = self._basis[min(k, len(self._basis) - 1)]
        return (values * (z @ vectors)) @ vectors.T

    @cached_property
    def reference(self) -> GaussianReference | None:
        """The Gaussian with the mixture's mean and covariance; None above 4096 unknowns."""
        if self.n > LARGEST_REFERENCE:
            return None
        values, vectors = torch.linalg.eigh(self.cov)
        return GaussianReference(self.mean, Covariance(EigenBasis(vectors), values.clamp_min(0)))

    def denoise(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """See `Prior.denoise`."""
        z = x.flatten(1).to(torch.float64)
        s2 = column(sigma, z) ** 2
        joint, shrunk = self._parts(z, s2)
        posterior = torch.softmax(joint, 1)
        if self._basis is None:
            v = self._values[:, 0] + s2
            gain = self._values[:, 0] / v
            out = (posterior * gain).sum(1, keepdim=True) * z + (posterior * (s2 / v)) @ self._flat.to(z.device)
        else:
            basis = self._basis.to(z.device)
            if len(basis) == 1:
                out = posterior @ self._flat.to(z) + torch.einsum("bk,bki->bi", posterior, shrunk) @ basis[0].T
            else:
                out = posterior @ self._flat.to(z) + torch.einsum("bk,bki,kji->bj", posterior, shrunk, basis)
        return out.to(x.dtype).reshape(x.shape)

    def log_prob(self, x: Tensor, sigma: Tensor | float = 0.0) -> Tensor:
        """Log-density of x0 + sigma eps at fields ``x`` (B, *event), shape (B,), float64."""
        z = x.flatten(1).to(torch.float64)
        joint, _ = self._parts(z, column(sigma, z) ** 2)
        return torch.logsumexp(joint, 1)

    def sample(self, n: int, seed: int = 0) -> Tensor:
        """``n`` independent draws (n, *event), float64."""
        g = torch.Generator().manual_seed(seed)
        label = torch.multinomial(self.weights, n, replacement=True, generator=g)
        out = torch.randn(n, self.n, generator=g, dtype=torch.float64)
        for k in label.unique().tolist():
            out[label == k] = self._flat[k] + self.component_sqrt(k, out[label == k])
        return out.reshape(n, *self.event_shape)

    def _parts(self, z: Tensor, s2: Tensor) -> tuple[Tensor, Tensor | None]:
        """log w_k N(z; m_k, C_k + s2), (B, K); C_k (C_k + s2)^-1 (z - m_k) in the eigenbases, (B, K, n)."""
        means, values = self._flat.to(z.device), self._values.to(z.device)
        constant = self.weights.log().to(z.device) - 0.5 * self.n * math.log(2 * math.pi)
        if self._basis is None:
            v = values[:, 0] + s2
            # From the mixture's mean, so that a large offset of all modes cancels before it is squared.
            middle = self._middle.to(z.device)
            a, b = z - middle, means - middle
            distance = a.square().sum(1, keepdim=True) - 2 * a @ b.T + b.square().sum(1)
            return constant - 0.5 * (distance.clamp_min(0) / v + self.n * v.log()), None
        basis = self._basis.to(z.device)
        if len(basis) == 1:
            c = (z @ basis[0])[:, None] - means @ basis[0]
        else:
            c = torch.einsum("bki,kij->bkj", z[:, None] - means, basis)
        v = values + s2[..., None]
        return constant - 0.5 * (c.square() / v + v.log()).sum(2), c * (values / v)


def check_weights(owner: str, weights: Tensor, count: int) -> None:
    """Raise ValueError unless ``weights`` are ``count`` positive finite numbers."""
    if tuple(weights.shape) != (count,):
        raise ValueError(f"{owner}: weights have shape {tuple(weights.shape)}; wanted ({count},)")
    if not (torch.isfinite(weights).all() and (weights > 0).all()):
        raise ValueError(f"{owner}: weights must be positive and finite")


def _components(std: Tensor, count: int, n: int) -> tuple[Tensor | None, Tensor]:
    """Eigenvectors (1 or K, n, n), None where isotropic, and variances (K, 1), (1, n) or (K, n)."""
    if not torch.isfinite(std).all():
        raise ValueError("GaussianMixturePrior: std has values that are not finite")
    if std.ndim == 0 or tuple(std.shape) == (count,):
        if not (std > 0).all():
            raise ValueError("GaussianMixturePrior: std must be positive")
        return None, std.square().expand(count).reshape(count, 1)
    if tuple(std.shape) not in ((n, n), (count, n, n)):
        raise ValueError(
            f"GaussianMixturePrior: std has shape {tuple(std.shape)}; wanted a number or ({count},) for "
            f"isotropic components, or ({count}, {n}, {n}) or ({n}, {n}) for covariances"
        )
    covs = std.reshape(-1, n, n)
    if not torch.allclose(covs, covs.mT, rtol=1e-5, atol=1e-8 * float(covs.abs().max())):
        raise ValueError("GaussianMixturePrior: a covariance is not symmetric")
    values, vectors = torch.linalg.eigh((covs + covs.mT) / 2)
    if not (values > 0).all():
        raise ValueError(f"GaussianMixturePrior: a covariance has an eigenvalue {float(values.min()):.3g}; wanted positive")
    return vectors, values
