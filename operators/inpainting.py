"""Inpainting: some values of a field are seen and others are not."""

import math
from typing import Any, Self

import deepinv
import numpy as np
import torch
from torch import Tensor

from operators.linear import Linear, as_array, per_member
from operators.masks import Array


class Inpainting(Linear):
    r"""The seen values of a field, :math:`y = m \odot x`, zero where nothing is seen.

    With m of zeros and ones, :math:`A A^T = A`: the pseudo-inverse is the adjoint and the proximal operator is closed
    form. x and y are (B, *event), float32 or float64, in the units of the field.

    Args:
        mask: (*event) or its last axes, such as (H, W) for fields (C, H, W); ones, or True, where values are seen.
        noise_model: deepinv noise model that calling the operator applies to the seen values; default none.
        device: Where the operator lives; default where the mask is.

    Raises:
        ValueError: The mask holds other values than 0 and 1 or sees nothing; x or y does not end in its shape or has
            another dtype.
    """

    mask: Tensor

    def __init__(
        self,
        mask: Array,
        *,
        noise_model: deepinv.physics.NoiseModel | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        name = type(self).__name__
        mask = as_array(mask, name, "mask")
        if mask.ndim == 0 or mask.is_complex() or not ((mask == 0) | (mask == 1)).all():
            raise ValueError(f"{name}: mask must be an array of 0 and 1, got {_values(mask)}")
        if not mask.any():
            raise ValueError(f"{name}: mask of shape {tuple(mask.shape)} sees nothing: every entry is 0")
        super().__init__(noise_model=noise_model, device=mask.device if device is None else device)
        self.register_buffer("mask", mask.to(torch.float32, copy=True))
        if device is not None:
            self.to(device)

    @classmethod
    def random(cls, shape: tuple[int, ...], fraction: float, seed: int = 0, **kwargs: Any) -> Self:
        """Seen values drawn uniformly without replacement, exactly ``round(fraction * size)`` of them.

        Args:
            shape: Of the mask: (H, W) for the same values in every channel.
            fraction: Share that is seen, above 0 and at most 1.
            seed: Seed of the draw; 0 is a seed.
            **kwargs: As for the class.

        Raises:
            ValueError: ``shape`` is not positive, or ``fraction`` is out of range or sees nothing.
        """
        size = _size(shape, f"{cls.__name__}.random")
        seen = round(fraction * size) if 0 < fraction <= 1 else 0
        if seen == 0:
            raise ValueError(f"{cls.__name__}.random: fraction must be in (0, 1] and see a value of {shape}, got {fraction}")
        mask = torch.zeros(size)
        mask[torch.from_numpy(np.random.default_rng(seed).permutation(size)[:seen])] = 1
        return cls(mask.reshape(shape), **kwargs)

    @classmethod
    def box(cls, shape: tuple[int, ...], start: tuple[int, ...], stop: tuple[int, ...], **kwargs: Any) -> Self:
        """Everything seen but a box.

        Args:
            shape: Of the mask.
            start: First index along each axis that is not seen.
            stop: First index along each axis after the box.
            **kwargs: As for the class.

        Raises:
            ValueError: The box is empty or does not lie in ``shape``, or it is all of it.
        """
        _size(shape, f"{cls.__name__}.box")
        inside = len(start) == len(stop) == len(shape)
        if not inside or not all(0 <= a < b <= n for a, b, n in zip(start, stop, shape, strict=True)):
            raise ValueError(f"{cls.__name__}.box: wanted a box inside {shape}, got {start} to {stop}")
        mask = torch.ones(shape)
        mask[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = 0
        return cls(mask, **kwargs)

    @classmethod
    def of_missing(cls, data: Array, **kwargs: Any) -> tuple[Self, Tensor]:
        """The operator that saw an incomplete field, and what it saw.

        Args:
            data: (*event) with NaN where a value is missing.
            **kwargs: As for the class.

        Returns:
            The operator, and y (1, *event) with zeros for the missing values.

        Raises:
            ValueError: A value is infinite, or all are missing.
        """
        data = torch.as_tensor(data)
        if torch.isinf(data).any():
            raise ValueError(f"{cls.__name__}.of_missing: {int(torch.isinf(data).sum())} values of the data are infinite")
        return cls(~torch.isnan(data), **kwargs), torch.nan_to_num(data)[None]

    def extra_repr(self) -> str:
        return f"shape={tuple(self.mask.shape)}, seen={100 * float(self.mask.mean()):.2f} %"

    def A(self, x: Tensor, **parameters: Any) -> Tensor:
        """The seen values, (B, *event) -> (B, *event).

        Args:
            x: Field.
            **parameters: Of a noise model; they pass by.
        """
        return self._masked(x, "x")

    def A_adjoint(self, y: Tensor, **parameters: Any) -> Tensor:
        """The adjoint, which is the operator itself.

        Args:
            y: Seen values; others count for nothing.
            **parameters: Of a noise model; they pass by.
        """
        return self._masked(y, "y")

    def A_adjoint_A(self, x: Tensor, **parameters: Any) -> Tensor:
        """A^T A x = A x."""
        return self._masked(x, "x")

    def A_A_adjoint(self, y: Tensor, **parameters: Any) -> Tensor:
        """A A^T y = A y."""
        return self._masked(y, "y")

    def A_dagger(self, y: Tensor, **kwargs: Any) -> Tensor:
        """The pseudo-inverse, which is the adjoint.

        Args:
            y: Seen values.
            **kwargs: deepinv's solver settings; not needed.
        """
        return self._masked(y, "y")

    def prox_l2(self, z: Tensor | float | None, y: Tensor, gamma: float | Tensor, **kwargs: Any) -> Tensor:
        """argmin_x gamma/2 |A x - y|^2 + 1/2 |x - z|^2, in closed form.

        Args:
            z: (B, *event), or a number.
            y: Seen values.
            gamma: Weight of the data term, a number or one per member of the batch.
            **kwargs: deepinv's solver settings; not needed.
        """
        weight = per_member(gamma, y)
        return (weight * self._masked(y, "y") + (0.0 if z is None else z)) / (1 + weight * self.mask.to(y.dtype))

    def noise(self, x: Tensor, **parameters: Any) -> Tensor:
        """x with noise from the noise model on the seen values."""
        return self._masked(self.noise_model(x, **parameters), "x")

    def _masked(self, value: Tensor, what: str) -> Tensor:
        name, want = type(self).__name__, tuple(self.mask.shape)
        if not isinstance(value, Tensor) or value.ndim <= len(want) or tuple(value.shape[-len(want) :]) != want:
            got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"{name}: {what} must be (B, ..., {', '.join(map(str, want))}), got {got}")
        if value.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"{name}: {what} must be float32 or float64, got {value.dtype}")
        return value * self.mask.to(value.dtype)


def _values(mask: Tensor) -> str:
    return f"dtype {mask.dtype}" if mask.is_complex() else f"{float(mask.min())} to {float(mask.max())}"


def _size(shape: tuple[int, ...], owner: str) -> int:
    if not shape or any(n != int(n) or n < 1 for n in shape):
        raise ValueError(f"{owner}: shape must be positive integers, got {shape}")
    return math.prod(shape)
