"""Likelihoods p(y | x): operator, data and noise model, all in physical units."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from posterior.priors.base import Affine

if TYPE_CHECKING:
    from deepinv.physics import Physics


PRECISIONS = (torch.float32, torch.float64, torch.complex64, torch.complex128)


def real_view(v: Tensor) -> Tensor:
    """Complex tensors as real ones with a trailing axis (re, im); real tensors as they are."""
    return torch.view_as_real(v) if v.is_complex() else v


@dataclass(frozen=True)
class Linearisation:
    """The operator near one batch of fields: A(z + dz) = prediction + jvp(dz), with vjp its transpose."""

    prediction: Tensor
    jvp: Callable[[Tensor], Tensor]
    vjp: Callable[[Tensor], Tensor]


class ForwardModel:
    """An operator as samplers see it: real tensors, standardised coordinates, its transpose at hand.

    Args:
        physics: Any `deepinv.physics.Physics`; its noise model is never used.
        affine: Standardised to physical coordinates of the field.
        complex_data: Whether the operator's output is complex; it is then seen as (..., re, im).
        dtype: Real precision that the operator works in; fields of another are cast on the way in and back.
    """

    def __init__(self, physics: Physics, affine: Affine, complex_data: bool, dtype: torch.dtype) -> None:
        from deepinv.physics import LinearPhysics

        self.physics: Any = physics
        self.affine = affine
        self.complex_data = complex_data
        self.dtype = dtype
        self.linear = isinstance(physics, LinearPhysics)

    def predict(self, z: Tensor) -> Tensor:
        """A of the physical field, (B, *range)."""
        return real_view(self.physics.A(self.affine.to_physical(z).to(self.dtype))).to(z.dtype)

    def apply(self, z: Tensor) -> Tensor:
        """The linear part, A(scale z); for linear operators only."""
        return real_view(self.physics.A((self.affine.scale_like(z) * z).to(self.dtype))).to(z.dtype)

    def transpose(self, u: Tensor) -> Tensor:
        """scale A^T u; for linear operators only."""
        w = u.to(self.dtype)
        v = self.physics.A_adjoint(torch.view_as_complex(w.contiguous()) if self.complex_data else w)
        return self.affine.scale_like(u) * v.to(u.dtype)

    def normal(self, z: Tensor) -> Tensor:
        """scale A^T A (scale z), through the operator's own short cut where it has one."""
        v = self.physics.A_adjoint_A((self.affine.scale_like(z) * z).to(self.dtype))
        return self.affine.scale_like(z) * v.to(z.dtype)

    def linearise(self, z: Tensor) -> Linearisation:
        """The operator near ``z``: itself where it is linear, its derivative by autograd where it is not."""
        if self.linear:
            return Linearisation(self.predict(z), self.apply, self.transpose)
        prediction, vjp, *_ = torch.func.vjp(self.predict, z)
        return Linearisation(
            prediction,
            lambda dz: torch.func.jvp(self.predict, (z,), (dz,))[1],
            lambda u: vjp(u)[0],
        )


class Likelihood(ABC):
    """p(y | x): an operator, one observation and a law of its noise, in physical units.

    Args:
        operator: A `deepinv.physics.Physics` or one of `operators`; called as ``operator.A(x)``, noiseless.
        y: Data, shape (1, *range), units of the instrument. Entries that the operator cannot reach (off a
            sampling mask) count for nothing.

    Attributes:
        sigma: Standard deviation of the noise, as far as it is known before x is; broadcasts to ``y``.

    Raises:
        ValueError: If ``y`` is empty, not finite, or has a batch larger than one.
        TypeError: If ``operator`` is not a deepinv Physics or ``y`` is not a tensor of single or double precision.
    """

    sigma: Tensor

    def __init__(self, operator: Physics, y: Tensor) -> None:
        name = type(self).__name__
        if not hasattr(operator, "A"):
            raise TypeError(f"{name}: operator is a {type(operator).__name__}; wanted a deepinv Physics")
        if not isinstance(y, Tensor) or y.dtype not in PRECISIONS:
            raise TypeError(f"{name}: y is {_describe(y)}; wanted a floating or complex tensor of single or double precision")
        if y.ndim < 2 or y.shape[0] != 1 or y.numel() == 0:
            raise ValueError(f"{name}: y has shape {tuple(y.shape)}; wanted (1, *range), one observation")
        if not torch.isfinite(y).all():
            bad = int((~torch.isfinite(y)).sum())
            raise ValueError(f"{name}: y has {bad} values that are NaN or infinite")
        self.operator = operator
        self.y = y

    def check(self, event_shape: tuple[int, ...]) -> None:
        """Raise ValueError unless the operator takes such fields and gives data of the shape of ``y``."""
        name = type(self.operator).__name__
        zeros = torch.zeros(1, *event_shape, dtype=real_view(self.y).dtype, device=self.y.device)
        try:
            out = self.operator.A(zeros)
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            raise ValueError(f"operator {name} does not take a field of shape {tuple(event_shape)}: {error}") from error
        if not isinstance(out, Tensor) or out.shape != self.y.shape or out.is_complex() != self.y.is_complex():
            raise ValueError(f"operator {name} gives {_describe(out)}, but y is {_describe(self.y)}")

    def in_standard(
        self, affine: Affine, event_shape: tuple[int, ...], dtype: torch.dtype = torch.float64
    ) -> StandardLikelihood:
        """The same likelihood as a function of standardised coordinates, computed in ``dtype``.

        The operator is copied and cast, never changed. One that cannot work in ``dtype`` works in the precision of ``y``.
        """
        operator = self._cast(event_shape, dtype)
        inner = dtype if operator is not self.operator else real_view(self.y).dtype
        model = ForwardModel(operator, affine, self.y.is_complex(), inner)
        y = real_view(self.y).to(dtype)
        reach = torch.ones_like(y, dtype=torch.bool)
        if model.linear:
            # A generic field shows which data the operator can reach; what it cannot is no measurement.
            g = torch.Generator().manual_seed(0)
            probe = torch.randn(1, *event_shape, generator=g, dtype=dtype).to(y.device)
            reach = model.apply(probe) != 0
        return self._standard(model, y, reach)

    @abstractmethod
    def _standard(self, model: ForwardModel, y: Tensor, reach: Tensor) -> StandardLikelihood:
        """The likelihood of standardised fields, given its operator and its data as real tensors."""

    def _cast(self, event_shape: tuple[int, ...], dtype: torch.dtype) -> Physics:
        if real_view(self.y).dtype == dtype:
            return self.operator
        copied = copy.deepcopy(self.operator)
        # Module.to(real dtype) would cut the imaginary part off complex buffers; double() and float() leave them alone.
        cast = copied.double() if dtype == torch.float64 else copied.float()
        try:
            out = cast.A(torch.zeros(1, *event_shape, dtype=dtype, device=self.y.device))
        except RuntimeError:
            return self.operator
        return cast if real_view(out).dtype == dtype else self.operator

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(y | x) for physical fields ``x`` (B, *event), shape (B,)."""
        return self.in_standard(Affine(), tuple(x.shape[1:])).log_prob(x)


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
        scale = torch.as_tensor(sigma, dtype=real_view(y).dtype, device=y.device)
        if not (torch.isfinite(scale).all() and (scale > 0).all()):
            raise ValueError(f"GaussianLikelihood: sigma must be positive and finite, got {_describe(sigma)}")
        try:
            full = torch.broadcast_shapes(scale.shape, y.shape)
        except RuntimeError:
            full = None
        if full != y.shape:
            raise ValueError(
                f"GaussianLikelihood: sigma of shape {tuple(scale.shape)} does not broadcast to y, {tuple(y.shape)}"
            )
        self.sigma = scale

    def _standard(self, model: ForwardModel, y: Tensor, reach: Tensor) -> StandardLikelihood:
        std = self.sigma[..., None] if self.y.is_complex() and self.sigma.ndim else self.sigma
        return StandardLikelihood(model, y, (std**2).to(y).expand(y.shape), reach)

    def __repr__(self) -> str:
        sigma = f"{float(self.sigma):.4g}" if self.sigma.ndim == 0 else f"tensor{tuple(self.sigma.shape)}"
        return f"GaussianLikelihood({type(self.operator).__name__}, y{tuple(self.y.shape)}, sigma={sigma})"


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
        if y.is_complex():
            raise TypeError(f"PoissonLikelihood: y is {_describe(y)}; wanted real counts")
        if not (math.isfinite(gain) and gain > 0):
            raise ValueError(f"PoissonLikelihood: gain must be positive and finite, got {gain}")
        counts = y.double() / gain
        if (counts < 0).any() or ((counts - counts.round()).abs() > 1e-3 * counts.clamp_min(1)).any():
            raise ValueError(f"PoissonLikelihood: y must be whole multiples of gain, {gain:g}, and not negative")
        self.gain = gain
        self.sigma = (gain * (y + gain)).sqrt()

    def _standard(self, model: ForwardModel, y: Tensor, reach: Tensor) -> StandardLikelihood:
        return StandardPoisson(model, y, self.gain * (y + self.gain), reach, self.gain)

    def __repr__(self) -> str:
        return f"PoissonLikelihood({type(self.operator).__name__}, y{tuple(self.y.shape)}, gain={self.gain:.4g})"


@dataclass(frozen=True)
class StandardLikelihood:
    """A likelihood of standardised fields, all in real tensors: Gaussian, or with a Gaussian that stands in for it.

    Args:
        model: The operator.
        y: Data (1, *range).
        variance: Noise variance of the Gaussian, shape of ``y``.
        reach: Which data are measurements, shape of ``y``.
    """

    model: ForwardModel
    y: Tensor
    variance: Tensor
    reach: Tensor

    @property
    def count(self) -> int:
        """Number of (real) measurements."""
        return int(self.reach.sum())

    def residual(self, z: Tensor) -> Tensor:
        """y - A(z) on the measurements, zero elsewhere."""
        return (self.y - self.model.predict(z)) * self.reach

    def chi_square(self, z: Tensor) -> Tensor:
        """Normalised residual ||y - A(z)||^2 / (m sigma^2), (B,): 1 where the noise explains it."""
        return (self.residual(z) ** 2 / self.variance).flatten(1).sum(1) / max(self.count, 1)

    def log_prob(self, z: Tensor) -> Tensor:
        """log p(y | z), (B,)."""
        return self.gaussian_log_prob(z)

    def gaussian_log_prob(self, z: Tensor) -> Tensor:
        """log N(y; A(z), variance), (B,)."""
        constant = torch.where(self.reach, torch.log(2 * math.pi * self.variance), 0.0).sum()
        return -0.5 * ((self.residual(z) ** 2 / self.variance).flatten(1).sum(1) + constant)


@dataclass(frozen=True)
class StandardPoisson(StandardLikelihood):
    """Counts y / gain of rates A(z) / gain; ``variance`` is that of the Gaussian that stands in.

    Args:
        gain: Units of ``y`` in one count.
    """

    gain: float = 1.0

    def chi_square(self, z: Tensor) -> Tensor:
        """Pearson's statistic over the number of data, (B,): 1 where the noise explains the residual."""
        expected = self.model.predict(z).clamp_min(torch.finfo(z.dtype).tiny)
        return (self.residual(z) ** 2 / (self.gain * expected)).flatten(1).sum(1) / max(self.count, 1)

    def log_prob(self, z: Tensor) -> Tensor:
        """log p(y | z), (B,); minus infinity where a rate is negative, or zero and something was counted."""
        counts, rate = self.y / self.gain, self.model.predict(z) / self.gain
        possible = (rate > 0) | ((rate == 0) & (counts == 0))
        # Without a positive argument the logarithm's gradient would be NaN even where it is not chosen.
        value = torch.xlogy(counts, torch.where(rate > 0, rate, 1.0)) - rate - torch.lgamma(counts + 1)
        value = torch.where(possible, value, -torch.inf)
        return torch.where(self.reach, value, 0.0).flatten(1).sum(1)


def _describe(value: Any) -> str:
    if isinstance(value, Tensor):
        if value.numel() == 1:
            return f"{float(value.real):.4g}"
        return f"a {str(value.dtype).removeprefix('torch.')} tensor of shape {tuple(value.shape)}"
    return repr(value) if isinstance(value, int | float) else f"a {type(value).__name__}"
