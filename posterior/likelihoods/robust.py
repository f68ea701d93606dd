"""Noise with gross errors: laws whose tails are heavier than a Gaussian's."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor

from posterior.likelihoods.base import ForwardModel, Likelihood, StandardLikelihood, describe, positive, shown

if TYPE_CHECKING:
    from deepinv.physics import Physics


class StudentTLikelihood(Likelihood):
    """p(y | x) = prod_i t((y_i - A(x)_i) / scale_i) / scale_i, t Student's law of ``dof`` degrees of freedom.

    Methods that need a Gaussian take the variance scale^2 (dof + 3) / (dof + 1), which tells as much of A(x) as the law
    itself does (equal Fisher information).

    Args:
        operator: See `Likelihood`.
        y: See `Likelihood`; real.
        scale: Scale of the law in the units of ``y``: a number or a tensor that broadcasts to ``y``.
        dof: Degrees of freedom; 3 to 5 for data with some gross errors.

    Raises:
        ValueError: If ``y`` does not fit `Likelihood`, or ``scale`` or ``dof`` is not positive.
        TypeError: If ``operator`` is not a deepinv Physics or ``y`` is not a real tensor of single or double precision.

    References:
        Lange, Little, Taylor. Robust statistical modeling using the t distribution. 1989. JASA 84(408).
    """

    def __init__(self, operator: Physics, y: Tensor, scale: Tensor | float, dof: float = 4.0) -> None:
        super().__init__(operator, y)
        _real("StudentTLikelihood", y)
        if not (math.isfinite(dof) and dof > 0):
            raise ValueError(f"StudentTLikelihood: dof must be positive and finite, got {dof}")
        self.scale = positive("StudentTLikelihood", "scale", scale, y)
        self.dof = float(dof)
        self.sigma = self.scale * math.sqrt((dof + 3) / (dof + 1))

    def _standard(self, model: ForwardModel, y: Tensor, reach: Tensor) -> StandardLikelihood:
        scale = self.scale.to(y).expand(y.shape)
        variance = scale**2 * (self.dof + 3) / (self.dof + 1)
        return StandardStudentT(model, y, variance, reach, scale, self.dof)

    def __repr__(self) -> str:
        name = f"StudentTLikelihood({type(self.operator).__name__}, y{tuple(self.y.shape)}"
        return f"{name}, scale={shown(self.scale)}, dof={self.dof:g})"


class OutlierLikelihood(Likelihood):
    """p(y_i | x) = (1 - f) N(y_i; A(x)_i, sigma^2) + f N(y_i; A(x)_i, (widen sigma)^2): a share f of gross errors.

    Methods that need a Gaussian take the precision ((1 - f) + f / widen^2) / sigma^2, that of an average datum.

    Args:
        operator: See `Likelihood`.
        y: See `Likelihood`; real.
        sigma: Standard deviation of good data, units of ``y``: a number or a tensor that broadcasts to ``y``.
        fraction: f, between 0 and 1.
        widen: How much wider gross errors spread, above 1.

    Raises:
        ValueError: If ``y`` does not fit `Likelihood`, or another argument is out of range.
        TypeError: If ``operator`` is not a deepinv Physics or ``y`` is not a real tensor of single or double precision.

    References:
        Ingleby, Lorenc. Bayesian quality control using multivariate normal distributions. 1993. QJRMS 119(513).
    """

    def __init__(
        self, operator: Physics, y: Tensor, sigma: Tensor | float, fraction: float = 0.05, widen: float = 10.0
    ) -> None:
        super().__init__(operator, y)
        _real("OutlierLikelihood", y)
        if not 0 < fraction < 1:
            raise ValueError(f"OutlierLikelihood: fraction must be between 0 and 1, got {fraction}")
        if not (math.isfinite(widen) and widen > 1):
            raise ValueError(f"OutlierLikelihood: widen must be above 1 and finite, got {widen}")
        self.good_sigma = positive("OutlierLikelihood", "sigma", sigma, y)
        self.fraction, self.widen = float(fraction), float(widen)
        self.sigma = self.good_sigma / math.sqrt(1 - fraction + fraction / widen**2)

    def _standard(self, model: ForwardModel, y: Tensor, reach: Tensor) -> StandardLikelihood:
        sigma = self.good_sigma.to(y).expand(y.shape)
        variance = sigma**2 / (1 - self.fraction + self.fraction / self.widen**2)
        return StandardOutlier(model, y, variance, reach, sigma, self.fraction, self.widen)

    def __repr__(self) -> str:
        name = f"OutlierLikelihood({type(self.operator).__name__}, y{tuple(self.y.shape)}"
        return f"{name}, sigma={shown(self.good_sigma)}, fraction={self.fraction:g}, widen={self.widen:g})"


@dataclass(frozen=True)
class StandardStudentT(StandardLikelihood):
    """Student's law about A(z); ``variance`` is that of the Gaussian that stands in.

    Args:
        scale: Scale of the law, shape of ``y``.
        dof: Degrees of freedom.
    """

    stand_in: ClassVar[Literal["exact", "mixture", "local"]] = "mixture"
    scale: Tensor
    dof: float

    def log_density(self, u: Tensor) -> Tensor:
        """See `StandardLikelihood.log_density`."""
        t = (self.y - u) / self.scale
        constant = math.lgamma((self.dof + 1) / 2) - math.lgamma(self.dof / 2) - 0.5 * math.log(self.dof * math.pi)
        return constant - self.scale.log() - 0.5 * (self.dof + 1) * torch.log1p(t**2 / self.dof)

    def noise_variance(self, u: Tensor, uniform: Tensor | None = None) -> Tensor:
        """See `StandardLikelihood.noise_variance`.

        It is scale^2 / w, w ~ Gamma((dof + 1) / 2, (dof + t^2) / 2) with t = (y - u) / scale: the law is the mixture of
        N(u, scale^2 / w) over w ~ Gamma(dof / 2, dof / 2).
        """
        from scipy.special import gammaincinv

        shape, rate = (self.dof + 1) / 2, (self.dof + ((self.y - u) / self.scale) ** 2) / 2
        if uniform is None:
            return self.scale**2 * rate / shape
        drawn = torch.from_numpy(gammaincinv(shape, uniform.double().cpu().numpy())).to(u)
        return self.scale**2 * rate / drawn.clamp_min(1e-12)

    def proximal(self, v: Tensor, step: float) -> Tensor:
        """See `StandardLikelihood.proximal`."""
        raise NotImplementedError("StudentTLikelihood: the objective is not convex, and no closed form is offered")


@dataclass(frozen=True)
class StandardOutlier(StandardLikelihood):
    """A mixture of two Gaussians about A(z); ``variance`` is that of the Gaussian that stands in.

    Args:
        sigma: Standard deviation of good data, shape of ``y``.
        fraction: Share of gross errors.
        widen: How much wider these spread.
    """

    stand_in: ClassVar[Literal["exact", "mixture", "local"]] = "mixture"
    sigma: Tensor
    fraction: float
    widen: float

    def log_density(self, u: Tensor) -> Tensor:
        """See `StandardLikelihood.log_density`."""
        good, gross = self._parts(u)
        return torch.logaddexp(good, gross) - self.sigma.log() - 0.5 * math.log(2 * math.pi)

    def noise_variance(self, u: Tensor, uniform: Tensor | None = None) -> Tensor:
        """See `StandardLikelihood.noise_variance`: a gross error's with its probability given y - u, else good data's."""
        good, gross = self._parts(u)
        probability = torch.sigmoid(gross - good)
        if uniform is None:
            return self.sigma**2 / (1 - probability + probability / self.widen**2)
        return self.sigma**2 * torch.where(uniform < probability, self.widen**2, 1.0)

    def _parts(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Log-densities of good and of gross data, but for a constant."""
        t2 = ((self.y - u) / self.sigma) ** 2
        good = math.log1p(-self.fraction) - 0.5 * t2
        return good, math.log(self.fraction / self.widen) - 0.5 * t2 / self.widen**2

    def proximal(self, v: Tensor, step: float) -> Tensor:
        """See `StandardLikelihood.proximal`."""
        raise NotImplementedError("OutlierLikelihood: the objective is not convex, and no closed form is offered")


def _real(owner: str, y: Tensor) -> None:
    if y.is_complex():
        raise TypeError(f"{owner}: y is {describe(y)}; wanted real data")
