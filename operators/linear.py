"""What the linear operators of this package share."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self

import deepinv
import numpy as np
import torch
from torch import Tensor


def checked(value: Tensor, owner: str, what: str, shape: tuple[int | None, ...]) -> Tensor:
    """``value`` if it is a real batch (B, *shape), None standing for any size; ``owner`` is who asks.

    Raises:
        ValueError: It is not, or it is neither float32 nor float64.
    """
    fits = isinstance(value, Tensor) and value.ndim == len(shape) + 1
    if not fits or any(n not in (None, m) for n, m in zip(shape, value.shape[1:], strict=True)):
        got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        want = ", ".join("*" if n is None else str(n) for n in shape)
        parts = isinstance(value, Tensor) and value.is_complex() and shape[:1] == (2,)
        remedy = " complex; pass real and imaginary part, torch.stack([z.real, z.imag], 1)" if parts else ""
        raise ValueError(f"{owner}: {what} must be (B, {want}), got {got}{remedy}")
    if value.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"{owner}: {what} must be float32 or float64, got {value.dtype}")
    return value


def as_array(value: Any, owner: str, what: str) -> Tensor:
    """A user's array or nested list of numbers as a tensor; ``owner`` is who asks.

    Raises:
        TypeError: It is something else.
    """
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{owner}: {what} must be an array of numbers, got {type(value).__name__}") from error


def image_shape(shape: tuple[int, ...], owner: str) -> tuple[int, int]:
    """(H, W) of the last two entries of a user's ``shape``; ``owner`` is who asks.

    Raises:
        ValueError: There are not two positive integers.
    """
    if np.ndim(shape) != 1 or len(shape) < 2 or any(n != int(n) or n < 1 for n in shape):
        raise ValueError(f"{owner}: shape must be (H, W), two positive integers, got {shape}")
    return int(shape[-2]), int(shape[-1])


class ComplexBuffers(torch.nn.Module):
    """A module whose complex buffers stay complex when it is moved."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # torch's Module.to(float64) would drop the imaginary part of a complex buffer
        def keep_complex(t: Tensor) -> Tensor:
            return torch.view_as_complex(fn(torch.view_as_real(t))) if t.is_complex() else fn(t)

        return super()._apply(keep_complex, recurse)


class Linear(ComplexBuffers, deepinv.physics.LinearPhysics):
    """A linear operator whose calls leave it as it was and whose complex buffers survive a change of precision.

    ``A_dagger`` and ``prox_l2`` are deepinv's conjugate gradients unless a class has a closed form. The buffers that a
    class names in ``_replaceable`` are keyword arguments of its calls, as in deepinv, for that call only; parameters of a
    noise model are no concern of A and pass by.
    """

    _replaceable: tuple[str, ...] = ()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)

    def _with(self, parameters: dict[str, Any]) -> Self:
        """This operator, or a copy with other buffers: no call changes the original."""
        given = {n: v for n, v in parameters.items() if n in self._replaceable and v is not None}
        if not given:
            return self
        other = copy.copy(self)
        other._buffers = dict(self._buffers)
        other.update_parameters(**given)
        return other

    @contextmanager
    def _settings_kept(self) -> Iterator[None]:
        # deepinv stores the solver settings of one call as those of the next
        kept = self.solver, self.max_iter, self.tol
        try:
            yield
        finally:
            self.solver, self.max_iter, self.tol = kept

    def A_dagger(self, y: Tensor, **kwargs: Any) -> Tensor:
        """Least-squares solution, deepinv's conjugate gradients.

        Args:
            y: Measurement.
            **kwargs: ``solver``, ``max_iter``, ``tol``, ``verbose`` of deepinv, and buffers, for this call.
        """
        operator, own = self._with(kwargs), {n: v for n, v in kwargs.items() if n not in self._replaceable}
        with operator._settings_kept():
            return super(Linear, operator).A_dagger(y, **own)

    def prox_l2(self, z: Tensor | float | None, y: Tensor, gamma: float | Tensor, **kwargs: Any) -> Tensor:
        """argmin_x gamma/2 |A x - y|^2 + 1/2 |x - z|^2, deepinv's conjugate gradients.

        Args:
            z: Of the shape of the field, or a number.
            y: Measurement.
            gamma: Weight of the data term.
            **kwargs: ``solver``, ``max_iter``, ``tol``, ``verbose`` of deepinv, and buffers, for this call.
        """
        operator, own = self._with(kwargs), {n: v for n, v in kwargs.items() if n not in self._replaceable}
        with operator._settings_kept():
            return super(Linear, operator).prox_l2(z, y, gamma, **own)


def per_member(gamma: float | Tensor, like: Tensor) -> Tensor:
    """A weight, a number or one per member of the batch, as a tensor that broadcasts to ``like`` (B, ...)."""
    gamma = torch.as_tensor(gamma, dtype=like.dtype, device=like.device)
    return gamma.reshape(-1, *(1,) * (like.ndim - 1)) if gamma.numel() > 1 else gamma.reshape(())


def closed_prox(
    operator: Linear, z: Tensor | float | None, y: Tensor, gamma: float | Tensor, square: float | Tensor = 1.0
) -> Tensor:
    """argmin_x gamma/2 |A x - y|^2 + 1/2 |x - z|^2 where A A^T is diagonal: z + A^T (w / (1 + w s) (y - A z)), w = gamma.

    Args:
        operator: A.
        z: Of the shape of the field, or a number; None is 0.
        y: Measurement.
        gamma: Weight of the data term, a number or one per member of the batch.
        square: The diagonal s, wherever A^T looks.
    """
    if not isinstance(z, Tensor):
        z = torch.full_like(operator.A_adjoint(y), 0.0 if z is None else float(z))
    weight = per_member(gamma, y)
    return z + operator.A_adjoint(weight / (1 + weight * square) * (y - operator.A(z)))
