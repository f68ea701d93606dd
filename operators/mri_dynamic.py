"""Cartesian magnetic resonance imaging of volumes, of images that change in time, and with several sets of coil maps.

Conventions are those of :mod:`operators.mri`: real and imaginary part are two channels, and the Fourier transform is
centred and orthonormal over all axes of space.
"""

from typing import Any

import deepinv
import torch
from torch import Tensor

from operators.coils import as_coil_maps
from operators.linear import Linear, checked, closed_prox
from operators.masks import Array
from operators.mri import _centre_phase, _channels


class _Fourier(Linear):
    """Images (B, 2, *frame, *space) that are seen, frame by frame, in k-space over the axes of space."""

    _replaceable = ("mask", "coil_maps")
    mask: Tensor
    coil_maps: Tensor | None

    def __init__(
        self,
        mask: Array,
        shape: tuple[int, ...] | None,
        coil_maps: Tensor | None,
        space: int,
        noise_model: deepinv.physics.NoiseModel | None,
        max_iter: int,
        tol: float,
        device: torch.device | str | None,
    ) -> None:
        mask = self._as_mask(mask, shape)
        if device is None:
            device = mask.device if coil_maps is None else coil_maps.device
        super().__init__(noise_model=noise_model, max_iter=max_iter, tol=tol, solver="CG", device=device)
        self._space = space
        self.register_buffer("mask", mask)
        self.register_buffer("coil_maps", coil_maps)
        if coil_maps is not None and tuple(coil_maps.shape[-space:]) != tuple(mask.shape[-space:]):
            got = f"{tuple(coil_maps.shape[-space:])}, the image is {tuple(mask.shape[-space:])}"
            raise ValueError(f"{type(self).__name__}: coil_maps are of {got}")
        self.to(device)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the image without its two channels."""
        return tuple(self.mask.shape)

    def extra_repr(self) -> str:
        coils = "" if self.coil_maps is None else f"coils={self._coils}, "
        return f"shape={self.shape}, {coils}sampled={100 * float(self.mask.mean()):.2f} %"

    def A(self, x: Tensor, **parameters: Any) -> Tensor:
        """The samples, exactly 0 off the mask.

        Args:
            x: Image, (B, 2, *shape).
            **parameters: ``mask``, ``coil_maps``: used for this call instead of the operator's.

        Returns:
            (B, 2, N, *k-space) for N coils, (B, 2, *k-space) without coil maps.
        """
        operator = self._with(parameters)
        coil = operator._coil_images(operator._image(x))
        phase = operator._phase(coil)
        y = torch.fft.fftn(coil * phase, dim=operator._axes, norm="ortho") * (operator.mask * phase)
        return torch.view_as_real(y).movedim(-1, 1)

    def A_adjoint(self, y: Tensor, **parameters: Any) -> Tensor:
        """The adjoint: zero-filled images, combined over the coils, (B, 2, *shape).

        Args:
            y: Samples, of the shape A returns.
            **parameters: ``mask``, ``coil_maps``: used for this call instead of the operator's.
        """
        operator = self._with(parameters)
        operator._data(y)
        k = torch.complex(y[:, 0], y[:, 1])
        phase = operator._phase(k).conj()
        coil = torch.fft.ifftn(k * (operator.mask * phase), dim=operator._axes, norm="ortho") * phase
        return _channels(operator._combined(coil))

    def A_adjoint_A(self, x: Tensor, **parameters: Any) -> Tensor:
        """A^H A x, without shifts, (B, 2, *shape) -> (B, 2, *shape)."""
        operator = self._with(parameters)
        axes = operator._axes
        k = torch.fft.fftn(operator._coil_images(operator._image(x)), dim=axes, norm="ortho")
        coil = torch.fft.ifftn(k * torch.fft.ifftshift(operator.mask, dim=axes), dim=axes, norm="ortho")
        return _channels(operator._combined(coil))

    def A_dagger(self, y: Tensor, **kwargs: Any) -> Tensor:
        """The pseudo-inverse: without coil maps the adjoint, with them conjugate gradients (SENSE).

        Args:
            y: Samples, of the shape A returns.
            **kwargs: ``solver``, ``max_iter``, ``tol``, ``verbose`` of deepinv, ``mask``, ``coil_maps``, for this call.
        """
        return self.A_adjoint(y, **kwargs) if self._with(kwargs).coil_maps is None else super().A_dagger(y, **kwargs)

    def prox_l2(self, z: Tensor | float | None, y: Tensor, gamma: float | Tensor, **kwargs: Any) -> Tensor:
        """argmin_x gamma/2 |A x - y|^2 + 1/2 |x - z|^2, in closed form without coil maps, by conjugate gradients with.

        Args:
            z: Image, (B, 2, *shape), or a number.
            y: Samples, of the shape A returns.
            gamma: Weight of the data term.
            **kwargs: As for ``A_dagger``.
        """
        operator = self._with(kwargs)
        if operator.coil_maps is not None:
            return super().prox_l2(z, y, gamma, **kwargs)
        return closed_prox(operator, z, y, gamma)  # A A^T is the mask

    def noise(self, x: Tensor, **parameters: Any) -> Tensor:
        """The samples x with noise from the noise model where the mask is 1."""
        own = {name: value for name, value in parameters.items() if name not in self._replaceable}
        return self.noise_model(x, **own) * self._with(parameters).mask

    def update_parameters(self, mask: Array | None = None, coil_maps: Array | None = None, **kwargs: Any) -> None:
        """Replace the mask or the coil maps for good, by others for images of the same shape.

        Args:
            mask: New mask.
            coil_maps: New maps.
            **kwargs: As in deepinv.
        """
        if mask is not None:
            self.mask = self._as_mask(mask, self.shape).to(self.mask)
        if coil_maps is not None:
            maps = self._as_maps(coil_maps, self._space)
            if tuple(maps.shape[-self._space :]) != self.shape[-self._space :]:
                raise ValueError(f"{type(self).__name__}: coil_maps are of {tuple(maps.shape)}, the image is {self.shape}")
            self.coil_maps = maps.to(self.mask.device)
        super().update_parameters(**kwargs)

    @classmethod
    def _as_maps(cls, coil_maps: Array, space: int) -> Tensor:
        return as_coil_maps(coil_maps, cls.__name__, axes=space)

    @classmethod
    def _as_mask(cls, mask: Array, shape: tuple[int, ...] | None) -> Tensor:
        mask = torch.as_tensor(mask)
        if mask.is_complex() or mask.numel() == 0 or not ((mask == 0) | (mask == 1)).all() or not mask.any():
            raise ValueError(f"{cls.__name__}: mask must hold 0 and 1, and some 1, got {mask.dtype} of {tuple(mask.shape)}")
        try:
            full = mask if shape is None else mask.broadcast_to(shape)
        except RuntimeError as error:
            raise ValueError(
                f"{cls.__name__}: a mask of {tuple(mask.shape)} does not broadcast to {tuple(shape or ())}"
            ) from error
        return full.to(torch.float32).clone()

    @property
    def _axes(self) -> tuple[int, ...]:
        return tuple(range(-self._space, 0))

    @property
    def _coils(self) -> int | None:
        return None if self.coil_maps is None else self.coil_maps.shape[1]

    def _phase(self, like: Tensor) -> Tensor:
        return _centre_phase(self.shape[-self._space :], like)

    def _maps(self, like: Tensor) -> Tensor | None:
        """Coil maps (B, N, 1 for each axis of the frame, *space) in the precision of ``like``."""
        if self.coil_maps is None:
            return None
        maps, frames = self.coil_maps.to(like.dtype), len(self.shape) - self._space
        return maps.reshape(*maps.shape[:2], *(1,) * frames, *maps.shape[2:])

    def _image(self, x: Tensor) -> Tensor:
        checked(x, type(self).__name__, "x", (2, *self.shape))
        if self.coil_maps is not None and self.coil_maps.shape[0] not in (1, x.shape[0]):
            got = f"a batch of {self.coil_maps.shape[0]}, x has {x.shape[0]}"
            raise ValueError(f"{type(self).__name__}: coil_maps are for {got}")
        return torch.complex(x[:, 0], x[:, 1])

    def _data(self, y: Tensor) -> Tensor:
        middle = () if self._coils is None else (self._coils,)
        return checked(y, type(self).__name__, "y", (2, *middle, *self.shape))

    def _coil_images(self, image: Tensor) -> Tensor:
        maps = self._maps(image)
        return image if maps is None else maps * image[:, None]

    def _combined(self, coil: Tensor) -> Tensor:
        maps = self._maps(coil)
        return coil if maps is None else (maps.conj() * coil).sum(1)


class VolumeMRI(_Fourier):
    r"""Cartesian MRI of a volume, :math:`y_n = M F (s_n \odot x)` with F over all three axes.

    x is (B, 2, D, H, W); y is (B, 2, N, D, H, W), or (B, 2, D, H, W) without coil maps, and 0 off the mask. Without coil
    maps :math:`A A^T = M`, and the pseudo-inverse and the proximal operator are closed forms.

    Args:
        mask: Zeros and ones that broadcast to (D, H, W): with ``shape``, (H, W) samples every location of D alike.
        coil_maps: Complex, (N, D, H, W) or (B, N, D, H, W); None for one coil of sensitivity 1.
        shape: (D, H, W); default that of the mask.
        noise_model: deepinv noise model that calling the operator applies on the sampled locations; default none.
        max_iter: Iterations of the conjugate gradients, with coil maps.
        tol: Their relative tolerance.
        device: Where the operator lives; default where the coil maps, or the mask, are.

    Raises:
        ValueError: The mask is not binary, samples nothing or does not fit; the maps are not complex, not finite or of
            another shape; x or y has the wrong shape or dtype.
    """

    def __init__(
        self,
        mask: Array,
        coil_maps: Array | None = None,
        shape: tuple[int, int, int] | None = None,
        *,
        noise_model: deepinv.physics.NoiseModel | None = None,
        max_iter: int = 50,
        tol: float = 1e-4,
        device: torch.device | str | None = None,
    ) -> None:
        if len(shape or torch.as_tensor(mask).shape) != 3:
            raise ValueError(f"{type(self).__name__}: mask, or shape, must be (D, H, W), got {shape or tuple(mask.shape)}")
        maps = None if coil_maps is None else self._as_maps(coil_maps, 3)
        super().__init__(mask, shape, maps, 3, noise_model, max_iter, tol, device)


class DynamicMRI(_Fourier):
    r"""Cartesian MRI of an object in motion, :math:`y_{n,t} = M_t F (s_n \odot x_t)` with a mask for each time.

    x is (B, 2, T, H, W); y is (B, 2, N, T, H, W), or (B, 2, T, H, W) without coil maps, and 0 off the mask. Volumes in
    time, (B, 2, T, D, H, W), work as well. The coils stay where they are. Without coil maps :math:`A A^T = M`, and the
    pseudo-inverse and the proximal operator are closed forms.

    Args:
        mask: Zeros and ones that broadcast to (T, H, W) or (T, D, H, W): with ``shape``, (T, 1, W) are whole lines. See
            :func:`operators.kt_mask`.
        coil_maps: Complex, (N, H, W) or (B, N, H, W), or with D; None for one coil of sensitivity 1.
        shape: (T, H, W) or (T, D, H, W); default that of the mask.
        noise_model: deepinv noise model that calling the operator applies on the sampled locations; default none.
        max_iter: Iterations of the conjugate gradients, with coil maps.
        tol: Their relative tolerance.
        device: Where the operator lives; default where the coil maps, or the mask, are.

    Raises:
        ValueError: As for :class:`VolumeMRI`.

    References:
        Tsao, Boesiger, Pruessmann, "k-t BLAST and k-t SENSE: dynamic MRI with high frame rate exploiting spatiotemporal
        correlations", Magnetic Resonance in Medicine, 2003.
    """

    def __init__(
        self,
        mask: Array,
        coil_maps: Array | None = None,
        shape: tuple[int, ...] | None = None,
        *,
        noise_model: deepinv.physics.NoiseModel | None = None,
        max_iter: int = 50,
        tol: float = 1e-4,
        device: torch.device | str | None = None,
    ) -> None:
        axes = len(shape or torch.as_tensor(mask).shape)
        if axes not in (3, 4):
            raise ValueError(
                f"{type(self).__name__}: mask, or shape, must be (T, H, W) or (T, D, H, W), got {shape or tuple(mask.shape)}"
            )
        maps = None if coil_maps is None else self._as_maps(coil_maps, axes - 1)
        super().__init__(mask, shape, maps, axes - 1, noise_model, max_iter, tol, device)


class SoftSENSE(_Fourier):
    r"""Multi-coil MRI with several sets of coil maps, :math:`y_n = M F \sum_m s_{m,n} \odot x_m`.

    Where an object folds over its own field of view, or maps err, one set cannot explain the data of all coils; a second
    image takes what the first leaves. x is (B, 2, M, H, W) for M sets and y (B, 2, N, H, W), 0 off the mask.

    Args:
        mask: Zeros and ones that broadcast to (H, W).
        coil_maps: Complex, (M, N, H, W) or (B, M, N, H, W); see :func:`operators.espirit_sets`.
        noise_model: deepinv noise model that calling the operator applies on the sampled locations; default none.
        max_iter: Iterations of the conjugate gradients.
        tol: Their relative tolerance.
        device: Where the operator lives; default where the coil maps are.

    Raises:
        ValueError: As for :class:`VolumeMRI`.

    References:
        Uecker et al., "ESPIRiT - an eigenvalue approach to autocalibrating parallel MRI: where SENSE meets GRAPPA",
        Magnetic Resonance in Medicine, 2014.
    """

    coil_maps: Tensor

    def __init__(
        self,
        mask: Array,
        coil_maps: Array,
        *,
        noise_model: deepinv.physics.NoiseModel | None = None,
        max_iter: int = 50,
        tol: float = 1e-4,
        device: torch.device | str | None = None,
    ) -> None:
        maps = self._as_maps(coil_maps, 2)
        super().__init__(mask, tuple(maps.shape[-2:]), maps, 2, noise_model, max_iter, tol, device)

    @property
    def shape(self) -> tuple[int, ...]:
        """(M, H, W)."""
        return self.coil_maps.shape[1], *self.mask.shape

    @classmethod
    def _as_maps(cls, coil_maps: Array, space: int) -> Tensor:
        return as_coil_maps(coil_maps, cls.__name__, axes=space + 1)

    @classmethod
    def _as_mask(cls, mask: Array, shape: tuple[int, ...] | None) -> Tensor:
        return super()._as_mask(mask, None if shape is None else shape[-2:])

    @property
    def _coils(self) -> int:
        return self.coil_maps.shape[2]

    def _data(self, y: Tensor) -> Tensor:
        return checked(y, type(self).__name__, "y", (2, self._coils, *self.mask.shape))

    def _coil_images(self, image: Tensor) -> Tensor:
        return (self.coil_maps.to(image.dtype) * image[:, :, None]).sum(1)

    def _combined(self, coil: Tensor) -> Tensor:
        return (self.coil_maps.to(coil.dtype).conj() * coil[:, None]).sum(2)
