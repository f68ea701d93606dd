"""Counted quanta: Poisson noise, and Poisson noise behind a noisy amplifier."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor

from posterior.likelihoods.base import ForwardModel, Likelihood, StandardLikelihood, describe, positive, shown

if TYPE_CHECKING:
    from deepinv.physics import Physics

WINDOW = 10  # standard deviations of the amplifier's noise that are summed over on either side
MOST_TERMS = 256
FRACTION = 0.01  # of a count, besides rounding: what a gain known to some digits leaves
LEAST_RATE = 0.01  # counts: Pearson's statistic divides by no less, or a draw near zero where one was counted decides all


class PoissonLikelihood(Likelihood):
    """Counts: y / gain ~ Poisson(A(x) / gain).

    Particle methods weigh with this law and are exact. Methods that need a Gaussian take the noise to have the variance
    gain (y + gain) that the count itself suggests (the variance of the rate given the count, all rates being equally
    likely before), which is good for counts above ten or so.

    Args:
        operator: See `Likelihood`; its output is the expected datum and should be positive.
        y: See `Likelihood`; whole multiples of ``gain``.
        gain: Units of ``y`` in one count.

    Raises:
        ValueError: If ``y`` is not finite, negative or not a whole number of counts; if ``gain`` is not positive.
        TypeError: If ``operator`` is not a deepinv Physics or ``y`` is not a real tensor of single or double precision.
    """

    def __init__(self, operator: Physics, y: Tensor, gain: float = 1.0) -> None:
        super().__init__(operator, y)
        self.gain = _gain("PoissonLikelihood", y, gain)
        counts = y.double() / gain
        if (counts < 0).any() or ((counts - counts.round()).abs() > FRACTION + 8 * torch.finfo(y.dtype).eps * counts).any():
            raise ValueError(f"PoissonLikelihood: y must be whole multiples of gain, {gain:g}, and not negative")
        self.sigma = _shot_variance(y, gain).sqrt()

    def _standard(self, model: ForwardModel, y: Tensor, reach: Tensor) -> StandardLikelihood:
        return StandardPoisson(model, y, _shot_variance(y, self.gain), reach, self.gain)

    def __repr__(self) -> str:
        return f"PoissonLikelihood({type(self.operator).__name__}, y{tuple(self.y.shape)}, gain={self.gain:.4g})"


class PoissonGaussianLikelihood(Likelihood):
    """Counts behind an amplifier with noise of its own: y = gain k + sigma n, k ~ Poisson(A(x) / gain), n ~ N(0, 1).

    p(y | x) is the sum over k of the two laws, taken over the k within ten sigma of y. Methods that need a Gaussian take
    the variance sigma^2 + gain (max(y, 0) + gain).

    Args:
        operator: See `Likelihood`; its output is the expected datum and should be positive.
        y: See `Likelihood`.
        gain: Units of ``y`` in one count.
        sigma: Standard deviation of the amplifier's noise, units of ``y``: a number or a tensor that broadcasts to ``y``.

    Raises:
        ValueError: If ``y`` is not finite, or ``gain`` or ``sigma`` is not positive, or ``sigma`` is more than twelve
            counts, where the law is that of a `GaussianLikelihood` of the variance above.
        TypeError: If ``operator`` is not a deepinv Physics or ``y`` is not a real tensor of single or double precision.

    References:
        Foi, Trimeche, Katkovnik, Egiazarian. Practical Poissonian-Gaussian noise modeling and fitting for single-image
        raw-data. 2008. IEEE Trans. Image Process. 17(10).
    """

    def __init__(self, operator: Physics, y: Tensor, gain: float, sigma: Tensor | float) -> None:
        super().__init__(operator, y)
        self.gain = _gain("PoissonGaussianLikelihood", y, gain)
        self.read_sigma = positive("PoissonGaussianLikelihood", "sigma", sigma, y)
        if _terms(float(self.read_sigma.max()) / gain) > MOST_TERMS:
            raise ValueError(
                f"PoissonGaussianLikelihood: sigma is {float(self.read_sigma.max()) / gain:.3g} counts, more than twelve; "
                "use a GaussianLikelihood with sigma^2 + gain y as variance"
            )
        self.sigma = (self.read_sigma**2 + _shot_variance(y.clamp_min(0), gain)).sqrt()

    def _standard(self, model: ForwardModel, y: Tensor, reach: Tensor) -> StandardLikelihood:
        read = self.read_sigma.to(y)
        variance = read**2 + _shot_variance(y.clamp_min(0), self.gain)
        return StandardPoissonGaussian(model, y, variance, reach, self.gain, read)

    def __repr__(self) -> str:
        name = f"PoissonGaussianLikelihood({type(self.operator).__name__}, y{tuple(self.y.shape)}"
        return f"{name}, gain={self.gain:.4g}, sigma={shown(self.read_sigma)})"


@dataclass(frozen=True)
class StandardPoisson(StandardLikelihood):
    """Counts y / gain of rates A(z) / gain; ``variance`` is that of the Gaussian that stands in.

    Args:
        gain: Units of ``y`` in one count.
    """

    stand_in: ClassVar[Literal["exact", "mixture", "local"]] = "local"
    gain: float = 1.0

    def chi_square(self, z: Tensor) -> Tensor:
        """Pearson's statistic over the number of data, (B,): 1 where the noise explains the residual."""
        expected = self.model.predict(z).clamp_min(LEAST_RATE * self.gain)
        return (self.residual(z) ** 2 / (self.gain * expected)).flatten(1).sum(1) / max(self.count, 1)

    def log_density(self, u: Tensor) -> Tensor:
        """See `StandardLikelihood.log_density`; minus infinity where ``u`` is negative, or zero and something was counted."""
        return _log_poisson(self.y / self.gain, u / self.gain)

    def noise_variance(self, u: Tensor, uniform: Tensor | None = None) -> Tensor:
        """See `StandardLikelihood.noise_variance`: the law's own variance at rates ``u``, at least that of one count."""
        return self.gain * u.clamp_min(self.gain)

    def proximal(self, v: Tensor, step: float) -> Tensor:
        """See `StandardLikelihood.proximal`: the positive root of u^2 + (step / gain - v) u - step y / gain."""
        b = v - step / self.gain
        return torch.where(self.reach, 0.5 * (b + (b**2 + 4 * step * self.y / self.gain).sqrt()), v)


@dataclass(frozen=True)
class StandardPoissonGaussian(StandardLikelihood):
    """Counts of rates A(z) / gain behind a noisy amplifier; ``variance`` is that of the Gaussian that stands in.

    Args:
        gain: Units of ``y`` in one count.
        read_sigma: Standard deviation of the amplifier's noise, broadcasts to ``y``.
    """

    stand_in: ClassVar[Literal["exact", "mixture", "local"]] = "local"
    gain: float
    read_sigma: Tensor

    def log_density(self, u: Tensor) -> Tensor:
        """See `StandardLikelihood.log_density`; minus infinity where ``u`` is negative."""
        widest = float(self.read_sigma.max()) / self.gain
        first = torch.floor(self.y / self.gain - WINDOW * widest).clamp_min(0)
        k = first[..., None] + torch.arange(_terms(widest), dtype=u.dtype, device=u.device)
        read = self.read_sigma.expand(self.y.shape)
        amplifier = -0.5 * ((self.y[..., None] - self.gain * k) / read[..., None]) ** 2
        counted = _log_poisson(k, (u / self.gain)[..., None])
        # Where nothing is possible a sum of minus infinities would have a gradient that is not a number.
        possible = u >= 0
        total = torch.logsumexp(torch.where(possible[..., None], counted, 0.0) + amplifier, -1)
        return torch.where(possible, total, -torch.inf) - torch.log(read) - 0.5 * math.log(2 * math.pi)

    def noise_variance(self, u: Tensor, uniform: Tensor | None = None) -> Tensor:
        """See `StandardLikelihood.noise_variance`: the law's own variance at rates ``u``."""
        return self.read_sigma**2 + self.gain * u.clamp_min(0)

    def proximal(self, v: Tensor, step: float) -> Tensor:
        """See `StandardLikelihood.proximal`."""
        raise NotImplementedError("PoissonGaussianLikelihood: the proximal map has no closed form")


def _log_poisson(counts: Tensor, rate: Tensor) -> Tensor:
    possible = (rate > 0) | ((rate == 0) & (counts == 0))
    # Without a positive argument the logarithm's gradient would be NaN even where it is not chosen.
    value = torch.xlogy(counts, torch.where(rate > 0, rate, 1.0)) - rate - torch.lgamma(counts + 1)
    return torch.where(possible, value, -torch.inf)


def _shot_variance(y: Tensor, gain: float) -> Tensor:
    """Variance of the rate given the count under a flat prior."""
    return gain * (y + gain)


def _terms(sigma_in_counts: float) -> int:
    return math.ceil(2 * WINDOW * sigma_in_counts) + 2


def _gain(owner: str, y: Tensor, gain: float) -> float:
    if y.is_complex():
        raise TypeError(f"{owner}: y is {describe(y)}; wanted real counts")
    if not (math.isfinite(gain) and gain > 0):
        raise ValueError(f"{owner}: gain must be positive and finite, got {gain}")
    return float(gain)
