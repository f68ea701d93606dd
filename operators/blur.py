r"""Blur: convolution with a point-spread function, stated or measured.

Fields are (B, C, H, W), float32 or float64. A kernel (h, w) has its centre at (h // 2, w // 2):
:math:`y_i = \sum_j k_j\, x_{i + c - j}`, a true convolution, as scipy.ndimage.convolve computes it. What lies beyond
the edge of x is said by ``boundary``:

============ =========================================== ======================= =====================
boundary     x beyond its edge                           y                       scipy.ndimage's mode
============ =========================================== ======================= =====================
``periodic`` its other side                              (H, W)                  ``wrap``
``reflect``  its mirror image, edge pixel repeated       (H, W)                  ``reflect``
``zero``     0                                           (H, W)                  ``constant``
``valid``    unknown: only pixels that see none of it    (H - h + 1, W - w + 1)  none
============ =========================================== ======================= =====================

Every product is a fast Fourier transform, so that the cost does not depend on the kernel's size.
"""

from collections.abc import Callable, Iterable
from typing import Any, Literal

import deepinv
import numpy as np
import torch
from torch import Tensor

from operators.kernels import centred_psf
from operators.linear import Linear, checked, image_shape, per_member
from operators.masks import Array

Boundary = Literal["periodic", "reflect", "zero", "valid"]
BOUNDARIES = ("periodic", "reflect", "zero", "valid")


class Blur(Linear):
    r"""Convolution with a kernel, :math:`y = k * x`, in every channel.

    A kernel with ``boundary="periodic"`` is diagonal in the Fourier basis, and a kernel that is symmetric up and down,
    left and right (and of odd size) with ``boundary="reflect"`` in the cosine basis: there ``A_dagger`` and ``prox_l2``
    are closed forms. Elsewhere they are conjugate gradients.

    Args:
        kernel: (h, w), or (C, h, w) with one for each channel; real and finite, used as it is. See
            :func:`operators.gaussian_kernel`, :func:`operators.motion_kernel`, :func:`operators.defocus_kernel`.
        shape: (..., H, W) of the image, pixels.
        boundary: What lies beyond the edge; see :mod:`operators.blur`.
        rcond: Gains below this share of the largest are zero to the closed form of ``A_dagger``.
        noise_model: deepinv noise model that calling the operator applies; default none.
        max_iter: Iterations of the conjugate gradients, where there is no closed form.
        tol: Their relative tolerance.
        device: Where the operator lives; default where the kernel is.

    Raises:
        ValueError: A kernel of another shape, not real, not finite or zero; an unknown boundary; a kernel larger than
            the image with ``boundary="valid"``; x or y of the wrong shape or dtype.

    References:
        Hansen, Nagy, O'Leary, "Deblurring Images: Matrices, Spectra, and Filtering", SIAM, 2006.
        Ng, Chan, Tang, "A fast algorithm for deblurring models with Neumann boundary conditions", SIAM Journal on
        Scientific Computing, 1999 (reflecting boundary, cosine basis).
    """

    _replaceable = ("kernel",)
    kernel: Tensor
    transfer: Tensor
    _mirrored: Tensor | None

    def __init__(
        self,
        kernel: Array,
        shape: tuple[int, ...],
        boundary: Boundary = "periodic",
        *,
        rcond: float = 1e-4,
        noise_model: deepinv.physics.NoiseModel | None = None,
        max_iter: int = 100,
        tol: float = 1e-6,
        device: torch.device | str | None = None,
    ) -> None:
        name = type(self).__name__
        kernel = _as_kernel(kernel, name)
        device = kernel.device if device is None else device
        super().__init__(noise_model=noise_model, max_iter=max_iter, tol=tol, solver="CG", device=device)
        if boundary not in BOUNDARIES:
            raise ValueError(f"{name}: boundary must be one of {', '.join(BOUNDARIES)}, got {boundary!r}")
        self.shape = image_shape(shape, name)
        self.boundary, self.rcond = boundary, rcond
        size = kernel.shape[-2:]
        if boundary == "valid" and any(k > n for k, n in zip(size, self.shape, strict=True)):
            raise ValueError(f"{name}: boundary 'valid' needs a kernel no larger than {self.shape}, got {tuple(size)}")
        # The frame: x with what lies beyond its edge, from `_start` on, in a grid in which a circular convolution is right
        # for the entries that are kept.
        before = [k - 1 - k // 2 for k in size]
        if boundary == "periodic":
            self._frame, self._start, self.output_shape = self.shape, (0, 0), self.shape
        elif boundary == "reflect":
            self._frame = _fast(n + k - 1 for n, k in zip(self.shape, size, strict=True))
            self._start, self.output_shape = (before[0], before[1]), self.shape
        elif boundary == "zero":
            self._frame = _fast(n + k // 2 for n, k in zip(self.shape, size, strict=True))
            self._start, self.output_shape = (0, 0), self.shape
        else:
            self._frame, self._start = _fast(self.shape), (before[0], before[1])
            self.output_shape = self.shape[0] - size[0] + 1, self.shape[1] - size[1] + 1
        self.register_buffer("kernel", kernel)
        self.register_buffer("transfer", _transfer(kernel, self._frame))
        self.register_buffer("_mirrored", self._cosine_gains(kernel), persistent=False)
        self.to(device)

    @property
    def diagonal(self) -> bool:
        """Whether ``A_dagger`` and ``prox_l2`` are closed forms."""
        return self.boundary == "periodic" or self._mirrored is not None

    def update_parameters(self, kernel: Array | None = None, **kwargs: Any) -> None:
        """Replace the kernel for good by one of the same size.

        Args:
            kernel: New kernel.
            **kwargs: As in deepinv.

        Raises:
            ValueError: As at construction, or the size is another one.
        """
        if kernel is not None:
            kernel = _as_kernel(kernel, type(self).__name__).to(self.kernel)
            if kernel.shape != self.kernel.shape:
                got = f"{tuple(kernel.shape)} for {tuple(self.kernel.shape)}"
                raise ValueError(f"{type(self).__name__}: a new kernel must have the size of the old one, got {got}")
            self.kernel, self.transfer = kernel, _transfer(kernel, self._frame)
            self._mirrored = self._cosine_gains(kernel)
        super().update_parameters(**kwargs)

    def extra_repr(self) -> str:
        return f"shape={self.shape}, kernel={tuple(self.kernel.shape)}, boundary={self.boundary!r}"

    def A(self, x: Tensor, **parameters: Any) -> Tensor:
        """The blurred image, (B, C, H, W) -> (B, C, *output_shape).

        Args:
            x: Image.
            **parameters: ``kernel``: used for this call instead of the operator's.
        """
        return self._out(self._spectrum(self._image(x)) * self._gains(self._with(parameters).transfer, x))

    def A_adjoint(self, y: Tensor, **parameters: Any) -> Tensor:
        """The adjoint, (B, C, *output_shape) -> (B, C, H, W).

        Args:
            y: Blurred image.
            **parameters: ``kernel``: used for this call instead of the operator's.
        """
        return self._back(self._in(self._data(y)) * self._gains(self._with(parameters).transfer, y).conj())

    def A_adjoint_A(self, x: Tensor, **parameters: Any) -> Tensor:
        """A^T A x; two transforms instead of four where the boundary is periodic."""
        if self.boundary != "periodic":
            return self.A_adjoint(self.A(x, **parameters), **parameters)
        return self._with(parameters)._filtered(self._image(x), lambda h: h.abs().square())

    def A_A_adjoint(self, y: Tensor, **parameters: Any) -> Tensor:
        """A A^T y; two transforms instead of four where the boundary is periodic."""
        if self.boundary != "periodic":
            return self.A(self.A_adjoint(y, **parameters), **parameters)
        return self._with(parameters)._filtered(self._data(y), lambda h: h.abs().square())

    def A_dagger(self, y: Tensor, **kwargs: Any) -> Tensor:
        """The pseudo-inverse without gains below ``rcond``, or least squares where there is no closed form.

        Args:
            y: Blurred image.
            **kwargs: ``kernel`` for this call; ``solver``, ``max_iter``, ``tol``, ``verbose`` of deepinv for conjugate
                gradients.
        """
        operator = self._with(kwargs)
        if not operator.diagonal:
            return super().A_dagger(y, **kwargs)

        def inverse(h: Tensor) -> Tensor:
            size = h.abs()
            return torch.where(size > self.rcond * size.amax((-2, -1), keepdim=True), h.conj() / size.square(), 0.0)

        return operator._filtered(self._data(y), inverse)

    def prox_l2(self, z: Tensor | float | None, y: Tensor, gamma: float | Tensor, **kwargs: Any) -> Tensor:
        """argmin_x gamma/2 |A x - y|^2 + 1/2 |x - z|^2.

        Args:
            z: (B, C, H, W), or a number.
            y: Blurred image.
            gamma: Weight of the data term, a number or one per member of the batch.
            **kwargs: As for ``A_dagger``.
        """
        operator = self._with(kwargs)
        if not operator.diagonal:
            return super().prox_l2(z, y, gamma, **kwargs)
        weight = per_member(gamma, y)
        right = weight * operator.A_adjoint(y) + (0.0 if z is None else z)
        return operator._filtered(right, lambda h: 1 / (weight * h.abs().square() + 1))

    def _filtered(self, x: Tensor, gain: Callable[[Tensor], Tensor]) -> Tensor:
        """x with gain(h) in place of each gain h of the diagonal form."""
        if self.boundary == "periodic":
            return torch.fft.irfft2(torch.fft.rfft2(x) * gain(self._gains(self.transfer, x)), s=self.shape)
        assert self._mirrored is not None
        # a mirrored image is periodic, and its Fourier transform the cosine transform of the image
        mirrored = torch.cat((x, x.flip(-1)), -1)
        spectrum = torch.fft.rfft2(torch.cat((mirrored, mirrored.flip(-2)), -2))
        out = torch.fft.irfft2(spectrum * gain(self._gains(self._mirrored, x)), s=tuple(2 * n for n in self.shape))
        return out[..., : self.shape[0], : self.shape[1]]

    def _cosine_gains(self, kernel: Tensor) -> Tensor | None:
        odd = kernel.shape[-2] % 2 and kernel.shape[-1] % 2
        if self.boundary != "reflect" or not odd or any(not torch.equal(kernel, kernel.flip(d)) for d in (-2, -1)):
            return None
        return _transfer(kernel, (2 * self.shape[0], 2 * self.shape[1]))

    def _gains(self, transfer: Tensor, like: Tensor) -> Tensor:
        return transfer.to(torch.complex64 if like.dtype == torch.float32 else torch.complex128)

    def _image(self, x: Tensor) -> Tensor:
        return checked(x, type(self).__name__, "x", (self._channels, *self.shape))

    def _data(self, y: Tensor) -> Tensor:
        return checked(y, type(self).__name__, "y", (self._channels, *self.output_shape))

    @property
    def _channels(self) -> int | None:
        return None if self.kernel.ndim == 2 else self.kernel.shape[0]

    def _spectrum(self, x: Tensor) -> Tensor:
        """Fourier transform of x in the frame."""
        if self.boundary == "reflect":
            rows, columns = self._mirror_index(x.device)
            x = x.index_select(-2, rows).index_select(-1, columns)
        return torch.fft.rfft2(x, s=self._frame)

    def _out(self, spectrum: Tensor) -> Tensor:
        return self._window(torch.fft.irfft2(spectrum, s=self._frame), self._start, self.output_shape)

    def _in(self, y: Tensor) -> Tensor:
        """Transpose of `_out`, up to the scale that `_back` makes good."""
        (top, left), (h, w) = self._start, self.output_shape
        pad = (left, self._frame[1] - w - left, top, self._frame[0] - h - top)
        return torch.fft.rfft2(torch.nn.functional.pad(y, pad) if any(pad) else y)

    def _back(self, spectrum: Tensor) -> Tensor:
        """Transpose of `_spectrum`, up to the scale that `_in` lacks."""
        x = torch.fft.irfft2(spectrum, s=self._frame)
        if self.boundary != "reflect":
            return self._window(x, (0, 0), self.shape)
        rows, columns = self._mirror_index(x.device)
        x = self._window(x, (0, 0), (len(rows), len(columns)))
        x = x.new_zeros(*x.shape[:-2], self.shape[0], x.shape[-1]).index_add(-2, rows, x)
        return x.new_zeros(*x.shape[:-1], self.shape[1]).index_add(-1, columns, x)

    @staticmethod
    def _window(x: Tensor, start: tuple[int, int], shape: tuple[int, int]) -> Tensor:
        return x[..., start[0] : start[0] + shape[0], start[1] : start[1] + shape[1]]

    def _mirror_index(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Which row and which column of x each one of the mirrored frame is."""
        found = []
        for n, k in zip(self.shape, self.kernel.shape[-2:], strict=True):
            before = k - 1 - k // 2
            index = torch.arange(-before, n + k // 2, device=device) % (2 * n)
            found.append(torch.where(index < n, index, 2 * n - 1 - index))
        return found[0], found[1]


class PSFBlur(Blur):
    """Convolution with a measured point-spread function, normalised and centred by :func:`operators.centred_psf`.

    Args:
        psf: (h, w), any unit, background subtracted.
        shape: As for :class:`Blur`.
        boundary: As for :class:`Blur`; by default the sky beyond the edge is dark.
        **kwargs: As for :class:`Blur`.

    Raises:
        ValueError: As for :class:`Blur` and :func:`operators.centred_psf`.
    """

    def __init__(self, psf: Array, shape: tuple[int, ...], boundary: Boundary = "zero", **kwargs: Any) -> None:
        super().__init__(centred_psf(psf), shape, boundary, **kwargs)


def _as_kernel(kernel: Array, owner: str) -> Tensor:
    if not isinstance(kernel, Tensor | np.ndarray):
        raise ValueError(f"{owner}: kernel must be a real (h, w) array, got {type(kernel).__name__}")
    kernel = torch.as_tensor(kernel)
    if kernel.ndim not in (2, 3) or kernel.numel() == 0 or kernel.is_complex():
        raise ValueError(f"{owner}: kernel must be real, (h, w) or (C, h, w), got {kernel.dtype} of {tuple(kernel.shape)}")
    kernel = kernel.to(torch.promote_types(kernel.dtype, torch.float32), copy=True)
    if not torch.isfinite(kernel).all() or not kernel.any():
        raise ValueError(f"{owner}: kernel must be finite and not zero")
    return kernel


def _transfer(kernel: Tensor, frame: tuple[int, int]) -> Tensor:
    """Half spectrum of the kernel with its centre at the origin of the frame, wrapped where it is larger."""
    for axis, n in zip((-2, -1), frame, strict=True):
        k = kernel.shape[axis]
        where = (torch.arange(k, device=kernel.device) - k // 2) % n
        size = [*kernel.shape]
        size[axis] = n
        kernel = kernel.new_zeros(size).index_add(axis, where, kernel)
    return torch.fft.rfft2(kernel)


def _fast(sizes: Iterable[int]) -> tuple[int, int]:
    from scipy.fft import next_fast_len

    # scipy defines next_fast_len in Python for its docstring alone: its body, and so its type, is None.
    h, w = (int(next_fast_len(n, real=True)) for n in sizes)  # pyright: ignore[reportArgumentType]
    return h, w
