"""A field of view whose centre is not that of the gradients."""

import math
from typing import Any

import torch
from torch import Tensor

from operators.linear import Linear
from operators.mri import MRI, MultiCoilMRI, _channels
from operators.mri_dynamic import DynamicMRI, SoftSENSE, VolumeMRI

CARTESIAN = (MRI, MultiCoilMRI, VolumeMRI, DynamicMRI, SoftSENSE)


class OffCentre(Linear):
    r"""Cartesian MRI whose k-space carries the linear phase of a shift, :math:`y_k = e^{-2 \pi i\, k \cdot d} (A x)_k`.

    k is in cycles per pixel and d, which need not be whole, is where the scanner sees the centre of the image. The phase
    has modulus 1: :math:`A^H A`, the pseudo-inverse and the proximal operator are those of ``operator``.
    :class:`operators.NonCartesianMRI` has an ``offset`` of its own.

    Args:
        operator: :class:`operators.MRI`, :class:`operators.MultiCoilMRI`, :class:`operators.VolumeMRI`,
            :class:`operators.DynamicMRI` or :class:`operators.SoftSENSE`.
        offset: d in pixels, along the last axes of the image.

    Raises:
        TypeError: ``operator`` is another one.
        ValueError: ``offset`` is not finite or has more numbers than the image axes; x or y as for ``operator``.
    """

    phase: Tensor

    def __init__(self, operator: MRI | MultiCoilMRI | VolumeMRI | DynamicMRI | SoftSENSE, offset: tuple[float, ...]) -> None:
        if not isinstance(operator, CARTESIAN):
            wanted = ", ".join(c.__name__ for c in CARTESIAN)
            raise TypeError(f"OffCentre: operator is a {type(operator).__name__}; wanted one of {wanted}")
        space = operator._space if isinstance(operator, VolumeMRI | DynamicMRI | SoftSENSE) else 2
        if not 1 <= len(offset) <= space or not all(math.isfinite(d) for d in offset):
            raise ValueError(f"OffCentre: offset must be up to {space} finite numbers, one per axis of space, got {offset}")
        super().__init__(noise_model=operator.noise_model, device=operator.mask.device)
        self.operator, self.offset = operator, tuple(offset)
        phase = torch.ones((), dtype=torch.complex128)
        for n, d in zip(operator.shape[-len(offset) :], offset, strict=True):
            turns = -2 * math.pi * d * (torch.arange(n, dtype=torch.float64) - n // 2) / n
            phase = phase[..., None] * torch.polar(torch.ones_like(turns), turns)
        self.register_buffer("phase", phase.to(operator.mask.device))

    def extra_repr(self) -> str:
        return f"offset={self.offset}"

    def A(self, x: Tensor, **parameters: Any) -> Tensor:
        """The samples, turned by the phase.

        Args:
            x: As for ``operator``.
            **parameters: As for ``operator``.
        """
        return self._turned(self.operator.A(x, **parameters), self.phase)

    def A_adjoint(self, y: Tensor, **parameters: Any) -> Tensor:
        """The adjoint.

        Args:
            y: As for ``operator``.
            **parameters: As for ``operator``.
        """
        return self.operator.A_adjoint(self._turned(y, self.phase.conj()), **parameters)

    def A_adjoint_A(self, x: Tensor, **parameters: Any) -> Tensor:
        """A^H A x, that of ``operator``."""
        return self.operator.A_adjoint_A(x, **parameters)

    def A_dagger(self, y: Tensor, **kwargs: Any) -> Tensor:
        """The pseudo-inverse of ``operator``, of samples turned back.

        Args:
            y: As for ``operator``.
            **kwargs: As for ``operator``.
        """
        return self.operator.A_dagger(self._turned(y, self.phase.conj()), **kwargs)

    def prox_l2(self, z: Tensor | float | None, y: Tensor, gamma: float | Tensor, **kwargs: Any) -> Tensor:
        """The proximal operator of ``operator``, of samples turned back.

        Args:
            z: As for ``operator``.
            y: As for ``operator``.
            gamma: Weight of the data term.
            **kwargs: As for ``operator``.
        """
        return self.operator.prox_l2(z, self._turned(y, self.phase.conj()), gamma, **kwargs)

    def noise(self, x: Tensor, **parameters: Any) -> Tensor:
        """The samples x with noise, that of ``operator``."""
        return self.operator.noise(x, **parameters)

    def _turned(self, y: Tensor, phase: Tensor) -> Tensor:
        if not isinstance(y, Tensor) or y.ndim < 3 or y.shape[1] != 2:
            self.operator.A_adjoint(y)  # says what is wrong
        k = torch.complex(y[:, 0], y[:, 1])
        return _channels(k * phase.to(k.dtype))
