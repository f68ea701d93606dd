"""What every likelihood is: an operator, data and a law of the noise, in physical and in standardised coordinates."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor

from posterior.priors.base import Affine

if TYPE_CHECKING:
    from deepinv.physics import Physics


FAR = 1e3  # standardised units in which a field is out of reach of any threshold
PRECISIONS = (torch.float32, torch.float64, torch.complex64, torch.complex128)


def real_view(v: Tensor) -> Tensor:
    """Complex tensors as real ones with a trailing axis (re, im); real tensors as they are."""
    return torch.view_as_real(v) if v.is_complex() else v


@dataclass(frozen=True)
class Linearisation:
    """The operator near one batch of fields: A(z + dz) = prediction + jvp(dz), with vjp its transpose.

    Where A(z) = f(B(z)) with B linear, `seen` is B(z) and `vjp_of_seen` the transpose of the derivative of f there.
    """

    prediction: Tensor
    jvp: Callable[[Tensor], Tensor]
    vjp: Callable[[Tensor], Tensor]
    seen: Tensor | None = None
    vjp_of_seen: Callable[[Tensor], Tensor] | None = None


class ForwardModel:
    """An operator as samplers see it: real tensors, standardised coordinates, its transpose at hand.

    Args:
        physics: Any `deepinv.physics.Physics`; its noise model is never used.
        affine: Standardised to physical coordinates of the field.
        complex_data: Whether the operator's output is complex; it is then seen as (..., re, im).
        dtype: Real precision that the operator works in; fields of another are cast on the way in and back.

    Attributes:
        linear: Whether the operator is.
        inner: B of an operator A(x) = f(B(x)) linear but for f, where the operator has `linear_inside`; else None.
    """

    def __init__(self, physics: Physics, affine: Affine, complex_data: bool, dtype: torch.dtype) -> None:
        from deepinv.physics import LinearPhysics

        self.physics: Any = physics
        self.affine = affine
        self.complex_data = complex_data
        self.dtype = dtype
        self.linear = isinstance(physics, LinearPhysics)
        self.inner: ForwardModel | None = None
        if (parts := getattr(physics, "linear_inside", lambda: None)()) is not None:
            self._outer: Any = parts[0]
            self.inner = ForwardModel(parts[1], affine, False, dtype)

    def data(self, z: Tensor) -> Tensor:
        """A of the physical field, as the operator gives it."""
        return self.physics.A(self.affine.to_physical(z).to(self.dtype))

    def predict(self, z: Tensor) -> Tensor:
        """A of the physical field, (B, *range)."""
        return real_view(self.data(z)).to(z.dtype)

    def _bend(self, seen: Tensor) -> Tensor:
        """f of what B sees."""
        return real_view(self._outer.A(seen.to(self.dtype))).to(seen.dtype)

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
        if (inner := self.inner) is not None and not (seen := inner.data(z)).is_complex():
            seen = seen.to(z.dtype)
            prediction, back, *_ = torch.func.vjp(self._bend, seen)
            return Linearisation(
                prediction,
                lambda dz: torch.func.jvp(self._bend, (seen,), (inner.apply(dz),))[1],
                lambda u: inner.transpose(back(u)[0]),
                seen,
                lambda u: back(u)[0],
            )
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
            sampling mask), whatever the field, count for nothing.

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
            raise TypeError(f"{name}: y is {describe(y)}; wanted a floating or complex tensor of single or double precision")
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
            raise ValueError(f"operator {name} gives {describe(out)}, but y is {describe(self.y)}")

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
        return self._standard(model, y, _reached(model, y, event_shape))

    @abstractmethod
    def _standard(self, model: ForwardModel, y: Tensor, reach: Tensor) -> StandardLikelihood:
        """The likelihood of standardised fields, given its operator and its data as real tensors."""

    def _cast(self, event_shape: tuple[int, ...], dtype: torch.dtype) -> Physics:
        from deepinv.physics import LinearPhysics

        if real_view(self.y).dtype == dtype:
            return self.operator
        copied = copy.deepcopy(self.operator)
        # Module.to(real dtype) would cut the imaginary part off complex buffers; double() and float() leave them alone.
        cast = copied.double() if dtype == torch.float64 else copied.float()
        try:
            out = cast.A(torch.zeros(1, *event_shape, dtype=dtype, device=self.y.device))
            if isinstance(cast, LinearPhysics):
                cast.A_adjoint(out)  # some operators cast one way only
        except RuntimeError:
            return self.operator
        return cast if real_view(out).dtype == dtype else self.operator

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(y | x) for physical fields ``x`` (B, *event), shape (B,)."""
        return self.in_standard(Affine(), tuple(x.shape[1:])).log_prob(x)


@dataclass(frozen=True)
class StandardLikelihood:
    """A likelihood of standardised fields, all in real tensors: Gaussian, or with a Gaussian that stands in for it.

    Args:
        model: The operator.
        y: Data (1, *range).
        variance: Noise variance of the Gaussian, shape of ``y``.
        reach: Which data are measurements, shape of ``y``.

    Other arguments:
        log_scale: Added to log-probabilities: the log-determinant of a change of data.

    Attributes:
        stand_in: What the Gaussian is to the law of the noise: "exact", the law itself; "mixture", exact once `noise_variance`
            is drawn; "local", an approximation near a prediction that `noise_variance` is told.
    """

    stand_in: ClassVar[Literal["exact", "mixture", "local"]] = "exact"

    model: ForwardModel
    y: Tensor
    variance: Tensor
    reach: Tensor
    log_scale: float = field(default=0.0, kw_only=True)

    @property
    def count(self) -> int:
        """Number of (real) measurements."""
        return int(self.reach.sum())

    def residual(self, z: Tensor) -> Tensor:
        """y - A(z) on the measurements, zero elsewhere."""
        return (self.y - self.model.predict(z)) * self.reach

    def chi_square(self, z: Tensor) -> Tensor:
        """Squared residual over `noise_variance` at A(z), averaged over the measurements, (B,): 1 where the noise explains it.

        Of Gaussian noise ||y - A(z)||^2 / (m sigma^2). The mean is 1 for scale mixtures too, whose expected precision w at a
        residual r is -d log p / dr / r: E[w r^2] = 1 by parts.
        """
        prediction = self.model.predict(z)
        squares = ((self.y - prediction) ** 2 / self.noise_variance(prediction)).where(self.reach, torch.zeros(()).to(z))
        return squares.flatten(1).sum(1) / max(self.count, 1)

    def log_prob(self, z: Tensor) -> Tensor:
        """log p(y | z), (B,)."""
        return self._total(self.log_density(self.model.predict(z)))

    def gaussian_log_prob(self, z: Tensor) -> Tensor:
        """log N(y; A(z), variance), (B,)."""
        return self._total(self._gaussian_log_density(self.model.predict(z)))

    def gradient(self, z: Tensor) -> Tensor:
        """Gradient of `log_prob` with respect to ``z``, (B, *event), through the operator's own transpose."""
        lin = self.model.linearise(z)
        with torch.enable_grad():
            u = lin.prediction.detach().requires_grad_()
            (score,) = torch.autograd.grad(self._total(self.log_density(u)).sum(), u)
        return lin.vjp(score)

    def log_density(self, u: Tensor) -> Tensor:
        """log p(y_i | u_i) of each datum given its prediction ``u`` (B, *range)."""
        return self._gaussian_log_density(u)

    def noise_variance(self, u: Tensor, uniform: Tensor | None = None) -> Tensor:
        """Variance of the Gaussian that stands in for the law of the noise once A(z) is about ``u``.

        A law that is a scale mixture of Gaussians, y = u + n / sqrt(w) with w of a known law, is Gaussian given w. A variance
        1 / w drawn from the law of w given y - u is what Gibbs sampling alternates with a Gaussian update of z: the two
        together leave p(z, w | y) as it is, and so are exact.

        Args:
            u: Predictions (B, *range).

        Other arguments:
            uniform: Uniforms on (0, 1) of the shape of ``u``, to draw with; None for one over the expected precision.

        Returns:
            Variances that broadcast to ``u``; `variance` where the law is Gaussian.
        """
        return self.variance

    def proximal(self, v: Tensor, step: float) -> Tensor:
        """argmin_u -log p(y | u) + ||u - v||^2 / (2 step) for predictions ``v`` (B, *range).

        Raises:
            NotImplementedError: If there is no closed form for this law.
        """
        return torch.where(self.reach, (self.variance * v + step * self.y) / (self.variance + step), v)

    def _gaussian_log_density(self, u: Tensor) -> Tensor:
        return -0.5 * ((self.y - u) ** 2 / self.variance + torch.log(2 * math.pi * self.variance))

    def _total(self, density: Tensor) -> Tensor:
        return torch.where(self.reach, density, 0.0).flatten(1).sum(1) + self.log_scale


@torch.no_grad()
def _reached(model: ForwardModel, y: Tensor, event_shape: tuple[int, ...]) -> Tensor:
    """Which data depend on the field, shape of ``y``; those that do not are no measurements.

    A generic field shows it of a linear operator. Any other may be flat about one field, at a threshold or where it is
    saturated, or even in it: fields of both signs, and far off, must all give the same datum, to the last bit.
    """
    g = torch.Generator().manual_seed(0)
    probe = torch.randn(1, *event_shape, generator=g, dtype=y.dtype).to(y.device)
    if model.linear:
        return model.apply(probe) != 0
    first = model.predict(probe)
    reach = torch.zeros_like(y, dtype=torch.bool)
    for size in (-1, FAR, -FAR):
        if not reach.all():
            reach = reach | (model.predict(size * probe) != first)
    return reach


def positive(owner: str, name: str, value: Tensor | float, y: Tensor) -> Tensor:
    """``value`` as a tensor of the precision of ``y`` that broadcasts to it.

    Raises:
        TypeError: If it is no real number, array or tensor.
        ValueError: If it is not positive and finite or does not broadcast.
    """
    if isinstance(value, Tensor) and value.is_complex():
        raise TypeError(f"{owner}: {name} is {describe(value)}, complex; wanted real numbers")
    try:
        scale = torch.as_tensor(value, dtype=real_view(y).dtype, device=y.device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{owner}: {name} is {describe(value)}; wanted a positive number or tensor") from error
    if not (torch.isfinite(scale).all() and (scale > 0).all()):
        raise ValueError(f"{owner}: {name} must be positive and finite, got {describe(value)}")
    try:
        full = torch.broadcast_shapes(scale.shape, y.shape)
    except RuntimeError:
        full = None
    if full != y.shape:
        raise ValueError(f"{owner}: {name} of shape {tuple(scale.shape)} does not broadcast to y, {tuple(y.shape)}")
    return scale


def shown(value: Tensor) -> str:
    """A scale as the representation of a likelihood shows it."""
    return f"{float(value):.4g}" if value.ndim == 0 else f"tensor{tuple(value.shape)}"


def describe(value: Any) -> str:
    """A value as an error message names it."""
    if isinstance(value, Tensor):
        if value.numel() == 1:
            return f"{float(value.real):.4g}"
        return f"a {str(value.dtype).removeprefix('torch.')} tensor of shape {tuple(value.shape)}"
    return repr(value) if isinstance(value, int | float) else f"a {type(value).__name__}"
