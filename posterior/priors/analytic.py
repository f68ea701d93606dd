"""Priors whose denoiser is known in closed form."""

from __future__ import annotations

import torch
from torch import Tensor

from posterior.priors.base import Prior, must_be_real
from posterior.priors.covariance import covariance_of
from posterior.priors.reference import GaussianReference


class GaussianPrior(Prior):
    """N(mean, C): D(x, sigma) = mean + C (C + sigma^2 I)^-1 (x - mean).

    Args:
        mean: Shape (*event), physical units (standardised and physical coordinates are the same here).
        cov: Covariance as a matrix (n, n), n = prod(event), or the spectrum of a stationary field: the variance of
            each coefficient of the orthonormal FFT, shape (*event) or that of its last axes.
        units: Physical units.

    Raises:
        ValueError: If ``cov`` fits neither form or is not a covariance, or ``mean`` is not finite.
    """

    event_shape: tuple[int, ...]
    reference: GaussianReference

    def __init__(self, mean: Tensor, cov: Tensor, *, units: str = "1") -> None:
        mean = torch.as_tensor(mean)
        must_be_real("GaussianPrior", "mean", mean)
        if not torch.isfinite(mean).all():
            raise ValueError("GaussianPrior: mean has values that are not finite")
        self.event_shape = tuple(mean.shape)
        self.reference = GaussianReference(mean.detach().to(torch.float64), covariance_of(self.event_shape, cov))
        self.units = units
        self.name = "gaussian"
        eigenvalues = self.reference.cov.eigenvalues
        self.rms = float(eigenvalues.mean()) ** 0.5
        # The noised prior is drawn exactly at any level, so the top need only drown the posterior's shift of the mean.
        self.sigma_max = 30 * float(eigenvalues.max()) ** 0.5
        self.sigma_min = 1e-3 * self.rms

    def denoise(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """See `Prior.denoise`."""
        return self.reference.denoise(x, sigma)
