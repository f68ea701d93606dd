"""Speed and direction of the wind: what anemometers report, as smooth functions of its components."""

from typing import Any, Literal

import deepinv
import torch
from torch import Tensor

from operators.linear import checked


class _WindComponents(deepinv.physics.Physics):
    """An operator on the eastward and the northward component, two channels of (B, C, ...)."""

    def __init__(self, u: int = 0, v: int = 1, epsilon: float = 0.1) -> None:
        name = type(self).__name__
        if u < 0 or v < 0 or u == v:
            raise ValueError(f"{name}: u and v must be two different channels, got {u} and {v}")
        if not 0 < epsilon < float("inf"):
            raise ValueError(f"{name}: epsilon must be positive and finite, got {epsilon}")
        super().__init__()
        self.u, self.v, self.epsilon = u, v, epsilon

    def extra_repr(self) -> str:
        return f"u={self.u}, v={self.v}, epsilon={self.epsilon:g}"

    def _components(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """u and v, (B, 1, ...), whatever comes after the channels."""
        name, ndim = type(self).__name__, x.ndim if isinstance(x, Tensor) else 2
        checked(x, name, "x", (None,) * max(ndim - 1, 1))
        if x.shape[1] <= max(self.u, self.v):
            raise ValueError(f"{name}: x has {x.shape[1]} channels; wanted channels {self.u} and {self.v}")
        return x[:, self.u : self.u + 1], x[:, self.v : self.v + 1]

    def _speed(self, u: Tensor, v: Tensor) -> Tensor:
        return (u.square() + v.square() + self.epsilon**2).sqrt()


class WindSpeed(_WindComponents):
    r"""Wind speed, :math:`y = \sqrt{u^2 + v^2 + \epsilon^2}`, smooth at calm.

    It is too high by at most :math:`\epsilon` (at calm), by :math:`\epsilon^2 / 2s` at speed s. Not linear. x is
    (B, C, ...), a field or, after :class:`operators.StationObservations` of both channels, its values at stations; y is
    (B, 1, ...), m/s as x.

    Args:
        u: Channel of the eastward component.
        v: Channel of the northward component.
        epsilon: Speed below which the wind is as good as calm, m/s.

    Raises:
        ValueError: The channels are the same, x does not have them, ``epsilon`` is not positive, or the dtype is wrong.
    """

    def A(self, x: Tensor, **parameters: Any) -> Tensor:
        """(B, C, ...) -> (B, 1, ...)."""
        return self._speed(*self._components(x))


class WindDirection(_WindComponents):
    r"""Direction from which the wind blows, clockwise from north: 0 for a wind from the north, 90 degrees from the east.

    As ``"components"``, the default, :math:`y = -(u, v) / \sqrt{u^2 + v^2 + \epsilon^2}`: sine and cosine of the direction,
    both 0 at calm, smooth everywhere. :meth:`components` turns a reported direction into such data; an error of the direction
    of d radians is an error of about d in each. As ``"radians"`` or ``"degrees"``, :math:`y = \mathrm{atan2}(-u, -v)` from 0
    to a full turn, 0 and without a gradient at exact calm: it jumps at north, where a Gaussian error makes no sense, and its
    gradient grows as one over the speed. Not linear. x is (B, C, ...) and y is (B, 2, ...) or (B, 1, ...).

    Args:
        u: Channel of the eastward component.
        v: Channel of the northward component.
        epsilon: Speed below which the components fade to 0, m/s.
        form: What y is.

    Raises:
        ValueError: As for :class:`WindSpeed`, or ``form`` is not known.
    """

    def __init__(
        self, u: int = 0, v: int = 1, epsilon: float = 0.1, form: Literal["components", "radians", "degrees"] = "components"
    ) -> None:
        super().__init__(u, v, epsilon)
        if form not in ("components", "radians", "degrees"):
            raise ValueError(f"WindDirection: form must be 'components', 'radians' or 'degrees', got {form!r}")
        self.form = form

    def A(self, x: Tensor, **parameters: Any) -> Tensor:
        """(B, C, ...) -> (B, 2, ...) of sine and cosine, or (B, 1, ...)."""
        u, v = self._components(x)
        if self.form == "components":
            return -torch.cat((u, v), dim=1) / self._speed(u, v)
        calm = (u == 0) & (v == 0)
        # the branch that is not chosen must have a finite gradient as well
        angle = torch.where(calm, 0.0, torch.atan2(-u, torch.where(calm, 1.0, -v)))
        angle = torch.where(angle < 0, angle + 2 * torch.pi, angle)
        return angle if self.form == "radians" else torch.rad2deg(angle)

    @staticmethod
    def components(direction: Tensor) -> Tensor:
        """Sine and cosine, (B, 2, n), of reported directions (B, n), degrees from which the wind blows."""
        angle = torch.deg2rad(direction)
        return torch.stack((angle.sin(), angle.cos()), dim=1)
