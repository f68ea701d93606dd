"""Cartesian magnetic resonance imaging, single- and multi-coil, on top of deepinv's operators.

Images are ``(B, 2, H, W)`` real tensors, channel 0 the real and channel 1 the imaginary part. The Fourier
transform is centred and orthonormal: the zero frequency and the image centre sit at index ``(H // 2,
W // 2)``, and noise of standard deviation sigma per real and imaginary part of the k-space is noise of the
same sigma in the coil images.
"""

import math
from typing import Any

import deepinv
import torch
from torch import Tensor

from operators.coils import as_coil_maps
from operators.linear import Linear, checked, closed_prox
from operators.masks import Array, as_mask

# Coils are transformed a few at a time on the CPU: temporaries that stay in cache (8 MB of complex64) are up
# to ten times faster than a buffer per (batch, coil), whose pages have to be mapped afresh at every call.
_CPU_CHUNK = 2**20


def _centre_phase(shape: tuple[int, ...], like: Tensor) -> Tensor:
    r"""Unit-modulus P, ``shape``, that makes a plain transform F the centred one, P F P.

    With c = n // 2 the centred transform is
    :math:`y_k = n^{-1/2} \sum_j x_j e^{-2\pi i (j-c)(k-c)/n}`, and
    :math:`(j-c)(k-c) = jk - cj - ck + c^2`: one phase on each side, exact at even and odd sizes, instead of
    two copies of the data for the shifts. Each side takes half of the constant.
    """
    phase = torch.ones((), dtype=like.dtype, device=like.device)
    for n in shape:
        c = n // 2
        # 2n is a period of the doubled phase, so that half of the constant stays exact as well
        turns = (2 * c * torch.arange(n, device=like.device) - c * c) % (2 * n)
        angle = turns.to(torch.float64) * (math.pi / n)
        phase = phase[..., None] * torch.polar(torch.ones_like(angle), angle).to(like.dtype)
    return phase


class _Cartesian(Linear):
    """What the single- and the multi-coil operator share. ``coil_maps`` is None for a single coil."""

    _replaceable = ("mask", "coil_maps")
    mask: Tensor
    coil_maps: Tensor | None

    @property
    def shape(self) -> tuple[int, int]:
        """Image height and width, pixels."""
        return self.mask.shape[-2], self.mask.shape[-1]

    def extra_repr(self) -> str:
        maps = self.coil_maps
        coils = "" if maps is None else f"coils={maps.shape[1]}, "
        return f"shape={self.shape}, {coils}sampled={100 * float(self.mask.mean()):.2f} %"

    def A(self, x: Tensor, **parameters: Any) -> Tensor:
        """The forward operator.

        Args:
            x: Image, (B, 2, H, W).
            **parameters: ``mask``, ``coil_maps``: used for this call instead of the operator's.

        Returns:
            (B, 2, H, W) for a single coil, (B, 2, N, H, W) for N; exactly 0 off the mask.
        """
        operator = self._with(parameters)
        y = torch.view_as_real(operator._encode(operator._image(x))).movedim(-1, 1)
        return y[:, :, 0] if operator.coil_maps is None else y

    def A_adjoint(self, y: Tensor, **parameters: Any) -> Tensor:
        """The adjoint: the zero-filled image, combined over the coils.

        Args:
            y: Measurement, of the shape A returns.
            **parameters: ``mask``, ``coil_maps``: used for this call instead of the operator's. deepinv's
                ``mag``, ``rss`` and ``crop`` are its magnitude, root sum of squares and crop of the
                zero-filled image.

        Returns:
            (B, 2, H, W).
        """
        operator = self._with(parameters)
        maps = operator.coil_maps
        operator._checked(y, "y", (2,) if maps is None else (2, maps.shape[1]))
        flags = {name: True for name in ("mag", "rss", "crop") if parameters.get(name)}
        if flags:
            return super(_Cartesian, operator).A_adjoint(y, **flags)
        return operator._decode(y[:, :, None] if maps is None else y)

    def A_adjoint_A(self, x: Tensor, **parameters: Any) -> Tensor:
        """A^H A x, (B, 2, H, W) -> (B, 2, H, W), without shifts or needless transforms."""
        operator = self._with(parameters)
        return operator._gram(operator._image(x))

    def noise(self, x: Tensor, **parameters: Any) -> Tensor:
        """The measurement x with noise from the noise model on the sampled locations."""
        mask = self._with(parameters).mask
        own = {name: value for name, value in parameters.items() if name not in ("mask", "coil_maps")}
        return self.noise_model(x, **own) * (mask if self.coil_maps is None else mask[:, :, None])

    def _checked(self, value: Tensor, what: str, middle: tuple[int, ...]) -> Tensor:
        name = type(self).__name__
        checked(value, name, what, (*middle, *self.shape))
        for own in ("mask", "coil_maps"):
            batch = 1 if getattr(self, own) is None else getattr(self, own).shape[0]
            if batch not in (1, value.shape[0]):
                raise ValueError(f"{name}: {own} is for a batch of {batch}, {what} has {value.shape[0]}")
        return value

    def _image(self, x: Tensor) -> Tensor:
        """(B, 2, H, W) real -> (B, 1, H, W) complex."""
        self._checked(x, "x", (2,))
        return torch.complex(x[:, 0], x[:, 1])[:, None]

    def _coils(self, image: Tensor) -> list[Tensor | None]:
        """Coil maps in the precision of ``image``, in groups that are transformed together."""
        if self.coil_maps is None:
            return [None]
        maps = self.coil_maps.to(image.dtype)
        if image.device.type != "cpu":
            return [maps]
        return list(maps.split(max(1, _CPU_CHUNK // max(1, image.numel())), dim=1))

    def _encode(self, image: Tensor) -> Tensor:
        """(B, 1, H, W) -> (B, N, H, W), complex."""
        phase = _centre_phase(self.shape, image)
        image, weight = image * phase, self.mask[:, :1] * phase
        coils = [torch.fft.fft2(image if s is None else s * image, norm="ortho").mul_(weight) for s in self._coils(image)]
        return coils[0] if len(coils) == 1 else torch.cat(coils, dim=1)

    def _decode(self, y: Tensor) -> Tensor:
        """(B, 2, N, H, W) -> (B, 2, H, W)."""
        phase = _centre_phase(self.shape, torch.complex(y[:1, 0, 0], y[:1, 1, 0])).conj()
        weight = self.mask[:, :1] * phase
        total, first = phase.new_zeros(()), 0
        for s in self._coils(phase.expand(y.shape[0], 1, *self.shape)):
            part = slice(first, first + (1 if s is None else s.shape[1]))
            coil = torch.fft.ifft2(torch.complex(y[:, 0, part], y[:, 1, part]) * weight, norm="ortho")
            total, first = total + _combined(coil, s), part.stop
        return _channels(total * phase)

    def _gram(self, image: Tensor) -> Tensor:
        # The phases of the centring cancel between A and its adjoint. So does the transform along an axis on
        # which the mask does not vary, which for a mask of whole lines is half of the work.
        mask, varying = self.mask[:, :1], []
        for d in (-2, -1):
            if (mask == mask.narrow(d, 0, 1)).all():
                mask = mask.narrow(d, 0, 1)
            else:
                varying.append(d)
        weight = torch.fft.ifftshift(mask, dim=(-2, -1))
        total = image.new_zeros(())
        for s in self._coils(image):
            coil = image if s is None else s * image
            if varying:
                coil = torch.fft.fftn(coil, dim=varying, norm="ortho").mul_(weight)
                coil = torch.fft.ifftn(coil, dim=varying, norm="ortho")
            total = total + _combined(coil, s)
        return _channels(total)


def _combined(coil: Tensor, s: Tensor | None) -> Tensor:
    return coil[:, 0] if s is None else (coil * s.conj()).sum(dim=1)


def _channels(image: Tensor) -> Tensor:
    return torch.stack((image.real, image.imag), dim=1)


class MRI(_Cartesian, deepinv.physics.MRI):
    r"""Single-coil Cartesian MRI, :math:`y = M F x`.

    F is the centred orthonormal Fourier transform and M the sampling mask, so :math:`A A^T = M`, the
    pseudo-inverse is the adjoint and the proximal operator is closed form. x and y are (B, 2, H, W), float32
    or float64, in the units of the image; y is 0 off the mask. Calls never change the operator:
    ``A(x, mask=m)`` uses ``m`` for that call only, and ``update(mask=m)`` replaces it. There is no noise
    unless a ``noise_model`` is given.

    Args:
        mask: Zeros and ones: (W,) for whole lines along H (needs ``img_size``), (H, W), (1 or 2, H, W) or
            (B, 1 or 2, H, W). The zero frequency is at (H // 2, W // 2).
        img_size: (..., H, W); needed only with a mask of shape (W,), otherwise checked against the mask.
        noise_model: deepinv noise model that calling the operator applies on the sampled locations; default
            none.
        device: Where the operator lives; default where the mask is.

    Raises:
        ValueError: The mask is not binary, is empty or does not fit; x or y has the wrong shape or dtype.

    References:
        Lustig, Donoho, Pauly, "Sparse MRI", Magnetic Resonance in Medicine, 2007.
    """

    coil_maps = None

    def __init__(
        self,
        mask: Array,
        img_size: tuple[int, ...] | None = None,
        *,
        noise_model: deepinv.physics.NoiseModel | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        mask = as_mask(mask, None if img_size is None else tuple(img_size[-2:]), type(self).__name__)
        super().__init__(mask=mask, noise_model=noise_model, device=mask.device if device is None else device)

    def A_A_adjoint(self, y: Tensor, **parameters: Any) -> Tensor:
        """M y, (B, 2, H, W) -> (B, 2, H, W)."""
        operator = self._with(parameters)
        return operator._checked(y, "y", (2,)) * operator.mask

    def A_dagger(self, y: Tensor, **parameters: Any) -> Tensor:
        """The pseudo-inverse, which for a mask and an orthonormal transform is the adjoint."""
        return self.A_adjoint(y, **parameters)

    def prox_l2(self, z: Tensor | float | None, y: Tensor, gamma: float | Tensor, **parameters: Any) -> Tensor:
        """argmin_x gamma/2 |A x - y|^2 + 1/2 |x - z|^2, in closed form.

        Args:
            z: Image, (B, 2, H, W), or a number; None is 0.
            y: Samples, (B, 2, H, W).
            gamma: Weight of the data term, a number or one per member of the batch.
            **parameters: ``mask``: used for this call; settings of iterative solvers are not.
        """
        return closed_prox(self._with(parameters), z, y, gamma)  # A A^T is the mask

    def update_parameters(self, mask: Array | None = None, **kwargs: Any) -> None:
        """Replace the mask for good. Same shapes and checks as at construction."""
        if mask is not None:
            kwargs["mask"] = as_mask(mask, self.shape, type(self).__name__)
        super().update_parameters(check_mask=False, **kwargs)


class MultiCoilMRI(_Cartesian, deepinv.physics.MultiCoilMRI):
    r"""Multi-coil Cartesian MRI, :math:`y_n = M F (s_n \odot x)` for coils n = 1..N.

    F is the centred orthonormal Fourier transform, M the sampling mask and s_n the complex coil
    sensitivities, so :math:`A^H y = \sum_n \bar s_n \odot F^H M y_n`. Maps with :math:`\sum_n |s_n|^2 = 1`
    give an operator of norm at most 1. x is (B, 2, H, W) and y is (B, 2, N, H, W), float32 or float64; y is 0
    off the mask. Calls never change the operator: ``A(x, mask=m)`` uses ``m`` for that call only, and
    ``update(mask=m)`` replaces it. There is no noise unless a ``noise_model`` is given.

    Args:
        mask: Zeros and ones: (W,) for whole lines along H, (H, W), (1 or 2, H, W) or (B, 1 or 2, H, W). The
            zero frequency is at (H // 2, W // 2).
        coil_maps: Complex, (N, H, W) or (B, N, H, W): simulated with :func:`operators.birdcage_maps` or
            estimated with :func:`operators.espirit_maps`.
        noise_model: deepinv noise model that calling the operator applies on the sampled locations; default
            none.
        max_iter: Iterations of the conjugate gradient in ``A_dagger`` and ``prox_l2``.
        tol: Its relative tolerance.
        device: Where the operator lives; default where the coil maps are.

    Raises:
        ValueError: The mask is not binary or does not fit the maps; the maps are not complex, not finite or
            of the wrong shape; x or y has the wrong shape or dtype.

    References:
        Pruessmann, Weiger, Scheidegger, Boesiger, "SENSE: sensitivity encoding for fast MRI", Magnetic
        Resonance in Medicine, 1999.
        Pruessmann, Weiger, Boernert, Boesiger, "Advances in sensitivity encoding with arbitrary k-space
        trajectories", Magnetic Resonance in Medicine, 2001.
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
        coil_maps = as_coil_maps(coil_maps, type(self).__name__)
        shape = tuple(coil_maps.shape[-2:])
        super().__init__(
            mask=as_mask(mask, shape, type(self).__name__),
            coil_maps=coil_maps,
            img_size=(2, *shape),
            noise_model=noise_model,
            max_iter=max_iter,
            tol=tol,
            solver="CG",
            device=coil_maps.device if device is None else device,
        )

    def update_parameters(self, mask: Array | None = None, coil_maps: Array | None = None, **kwargs: Any) -> None:
        """Replace the mask or the coil maps for good. Same shapes and checks as at construction.

        Args:
            mask: New mask.
            coil_maps: New maps; of another image size only together with a mask of that size.
            **kwargs: As in deepinv.
        """
        name = type(self).__name__
        if coil_maps is not None:
            kwargs["coil_maps"] = as_coil_maps(coil_maps, name)
        if mask is not None or coil_maps is not None:
            shape = tuple(kwargs.get("coil_maps", self.coil_maps).shape[-2:])
            kwargs["mask"] = as_mask(self.mask if mask is None else mask, shape, name)
        super().update_parameters(check_mask=False, check_coil_maps=False, **kwargs)
