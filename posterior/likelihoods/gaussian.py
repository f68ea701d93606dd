"""Gaussian noise: independent, or correlated."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from posterior.likelihoods.base import ForwardModel, Likelihood, StandardLikelihood, describe, positive, shown
from posterior.priors.covariance import Covariance, covariance_of

if TYPE_CHECKING:
    from deepinv.physics import Physics


class GaussianLikelihood(Likelihood):
    """p(y | x) = N(y; A(x), diag(sigma^2)).

    Args:
        operator: See `Likelihood`.
        y: See `Likelihood`.
        sigma: Noise standard deviation in the units of ``y``: a number or a tensor that broadcasts to ``y``. For
            complex data, that of the real and of the imaginary part.

    Raises:
        ValueError: If ``y`` is empty, not finite, or has a batch larger than one; if ``sigma`` is not positive and
            finite or does not broadcast.
        TypeError: If ``operator`` is not a deepinv Physics or ``y`` is not a tensor of single or double precision.
    """

    def __init__(self, operator: Physics, y: Tensor, sigma: Tensor | float) -> None:
        super().__init__(operator, y)
        self.sigma = positive("GaussianLikelihood", "sigma", sigma, y)

    def _standard(self, model: ForwardModel, y: Tensor, reach: Tensor) -> StandardLikelihood:
        std = self.sigma[..., None] if self.y.is_complex() and self.sigma.ndim else self.sigma
        return StandardLikelihood(model, y, (std.to(y) ** 2).expand(y.shape), reach)

    def __repr__(self) -> str:
        return f"GaussianLikelihood({type(self.operator).__name__}, y{tuple(self.y.shape)}, sigma={shown(self.sigma)})"


class CorrelatedGaussianLikelihood(Likelihood):
    """p(y | x) = N(y; A(x), R) with any covariance R of the noise.

    Samplers see data and operator whitened, R^(-1/2) y and R^(-1/2) A, and so noise that is independent.

    Args:
        operator: See `Likelihood`; it must reach every datum.
        y: See `Likelihood`; real.
        covariance: R as a matrix (m, m), m = prod(range), or the spectrum of stationary noise: the variance of each
            coefficient of the orthonormal FFT over the last axes of ``y``. A tensor or an array, units of ``y``, squared.

    Raises:
        ValueError: If ``y`` does not fit `Likelihood`, if ``covariance`` fits neither form or is not positive definite,
            or some data are out of the operator's reach.
        TypeError: If ``operator`` is not a deepinv Physics, ``y`` is not a real tensor of single or double precision, or
            ``covariance`` is no array of real numbers.
    """

    def __init__(self, operator: Physics, y: Tensor, covariance: Tensor | np.ndarray) -> None:
        super().__init__(operator, y)
        if y.is_complex():
            raise TypeError(f"CorrelatedGaussianLikelihood: y is {describe(y)}; wanted real data")
        self.covariance = covariance_of(tuple(y.shape[1:]), covariance, "CorrelatedGaussianLikelihood", "covariance")
        covariance, values = torch.as_tensor(covariance).detach(), self.covariance.eigenvalues
        if not (values > 1e-12 * values.max()).all():
            raise ValueError("CorrelatedGaussianLikelihood: covariance is singular; every direction needs some noise")
        if covariance.shape == (y[0].numel(),) * 2:
            self.sigma = covariance.diagonal().sqrt().reshape(y.shape).to(y)
        else:
            self.sigma = values.mean().sqrt().to(y)

    def _standard(self, model: ForwardModel, y: Tensor, reach: Tensor) -> StandardLikelihood:
        if not reach.all():
            missed = int((~reach).sum())
            raise ValueError(
                f"CorrelatedGaussianLikelihood: operator {type(self.operator).__name__} does not reach {missed} of the data, "
                "which a correlated noise mixes with the others; leave them out of y"
            )
        white = _WhitenedModel(model, self.covariance)
        values = self.covariance.eigenvalues
        copies = y[0].numel() / values.numel()
        log_scale = -0.5 * copies * float(values.log().sum())
        return StandardLikelihood(white, white.whiten(y), torch.ones_like(y), reach, log_scale=log_scale)

    def __repr__(self) -> str:
        return f"CorrelatedGaussianLikelihood({type(self.operator).__name__}, y{tuple(self.y.shape)})"


class _WhitenedModel(ForwardModel):
    """R^(-1/2) A."""

    def __init__(self, model: ForwardModel, covariance: Covariance) -> None:
        super().__init__(model.physics, model.affine, model.complex_data, model.dtype)
        self.covariance = covariance

    def whiten(self, v: Tensor) -> Tensor:
        """R^(-1/2) v, which is its own transpose."""
        return self.covariance.function(v, torch.rsqrt)

    def predict(self, z: Tensor) -> Tensor:
        """See `ForwardModel.predict`."""
        return self.whiten(super().predict(z))

    def _bend(self, seen: Tensor) -> Tensor:
        return self.whiten(super()._bend(seen))

    def apply(self, z: Tensor) -> Tensor:
        """See `ForwardModel.apply`."""
        return self.whiten(super().apply(z))

    def transpose(self, u: Tensor) -> Tensor:
        """See `ForwardModel.transpose`."""
        return super().transpose(self.whiten(u))

    def normal(self, z: Tensor) -> Tensor:
        """See `ForwardModel.normal`."""
        return self.transpose(self.apply(z))
