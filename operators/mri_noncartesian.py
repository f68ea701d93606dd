r"""Magnetic resonance imaging along any trajectory, by the non-uniform fast Fourier transform of mri-nufft.

Samples lie at frequencies k in cycles per pixel, from -1/2 to 1/2 along each axis of the image, in its order:

.. math:: y_s = (HW)^{-1/2} \sum_j x_j\, e^{-2 \pi i\, k_s \cdot (j - c)},

c = (H // 2, W // 2). On the points of a Cartesian grid this is the centred orthonormal transform of
:mod:`operators.mri`, and noise means the same.
"""

import math
import warnings
from typing import Any, Literal

import deepinv
import numpy as np
import torch
from torch import Tensor

from operators.coils import as_coil_maps
from operators.linear import Linear, checked
from operators.masks import Array
from operators.mri_trajectories import mrinufft, voronoi_density

# Relative error asked of one transform, in single and in double precision.
ACCURACY = {torch.float32: 1e-6, torch.float64: 1e-10}


class NonCartesianMRI(Linear):
    r"""MRI along a trajectory, :math:`y_n = P\, F_k (s_n \odot x)` for coils n = 1..N.

    F_k is the transform of :mod:`operators.mri_noncartesian`, s_n are the coil sensitivities and P, of modulus 1, is the
    linear phase of a field of view whose centre lies ``offset`` away from that of the gradients. x is (B, 2, H, W) and y
    (B, 2, N, S), or (B, 2, S) without coil maps; three axes (D, H, W) work as well. Transforms run on the CPU, with as
    many threads as torch uses, and are asked for an accuracy of 1e-6 for float32 and 1e-10 for float64; data of other
    devices travel there and back.

    :math:`A^H A` is a convolution that ignores where k came from: ``A_adjoint_A`` multiplies the Fourier transform of
    the image, in a frame twice its size, by the transform of the trajectory's point-spread function (Toeplitz), and
    ``A_dagger`` and ``prox_l2`` are conjugate gradients on that.

    Args:
        trajectory: (S, 2) or (S, 3), cycles per pixel from -1/2 to 1/2 along the axes of the image; see
            :func:`operators.radial_trajectory` and :func:`operators.spiral_trajectory`.
        shape: (H, W) or (D, H, W) of the image, pixels.
        coil_maps: Complex, (N, *shape) or (B, N, *shape); None for one coil of sensitivity 1.
        offset: Pixels by which the object appears shifted when it is left out, one number per axis.
        density: Density compensation of :meth:`gridding`, (S,) and not negative; found from the trajectory when it is
            first used.
        normal: ``"toeplitz"``, or ``"nufft"`` for :math:`A^H A` as two transforms.
        noise_model: deepinv noise model that calling the operator applies; default none.
        max_iter: Iterations of the conjugate gradients.
        tol: Their relative tolerance.
        device: Where the operator lives; default where the coil maps are.

    Raises:
        ValueError: A trajectory out of range or of another dimension than the image; maps, offset or density that do not
            fit; x or y of the wrong shape or dtype.
        ImportError: mri-nufft or finufft is not installed.

    References:
        Barnett, Magland, af Klinteberg, "A parallel nonuniform fast Fourier transform library based on an 'exponential of
        semicircle' kernel", SIAM Journal on Scientific Computing, 2019, arXiv:1808.06736.
        Fessler, Lee, Olafsson, Shi, Noll, "Toeplitz-based iterative image reconstruction for MRI with correction for
        magnetic field inhomogeneity", IEEE Transactions on Signal Processing, 2005.
        Pruessmann, Weiger, Boernert, Boesiger, "Advances in sensitivity encoding with arbitrary k-space trajectories",
        Magnetic Resonance in Medicine, 2001.
    """

    _replaceable = ("coil_maps",)
    coil_maps: Tensor | None
    phase: Tensor
    _toeplitz: Tensor

    def __init__(
        self,
        trajectory: Array,
        shape: tuple[int, ...],
        coil_maps: Array | None = None,
        *,
        offset: tuple[float, ...] | None = None,
        density: Array | None = None,
        normal: Literal["toeplitz", "nufft"] = "toeplitz",
        noise_model: deepinv.physics.NoiseModel | None = None,
        max_iter: int = 50,
        tol: float = 1e-4,
        device: torch.device | str | None = None,
    ) -> None:
        name = type(self).__name__
        k = torch.as_tensor(trajectory).to(torch.float64).cpu()
        if np.ndim(shape) != 1 or len(shape) not in (2, 3) or min(shape) < 1:
            raise ValueError(f"{name}: shape must be (H, W) or (D, H, W), positive, got {shape}")
        if k.ndim != 2 or k.shape[1] != len(shape) or len(k) == 0 or not (k.abs() <= 0.5 + 1e-9).all():
            got = f"{tuple(k.shape)} up to {float(k.abs().max()) if k.numel() else 0:.4g}"
            raise ValueError(f"{name}: trajectory must be (S, {len(shape)}), from -0.5 to 0.5 cycles per pixel, got {got}")
        if normal not in ("toeplitz", "nufft"):
            raise ValueError(f"{name}: normal must be 'toeplitz' or 'nufft', got {normal!r}")
        shift = torch.zeros(len(shape)) if offset is None else torch.as_tensor(offset, dtype=torch.float64)
        if shift.shape != (len(shape),) or not torch.isfinite(shift).all():
            raise ValueError(f"{name}: offset must be {len(shape)} finite numbers, one per axis of the image, got {offset}")
        maps = None if coil_maps is None else self._as_maps(coil_maps, tuple(shape))
        device = ("cpu" if maps is None else maps.device) if device is None else device
        super().__init__(noise_model=noise_model, max_iter=max_iter, tol=tol, solver="CG", device=device)
        self.shape, self.normal = tuple(shape), normal
        self._transform = _Transform(k, self.shape)
        turns = -2 * math.pi * (k @ shift.to(torch.float64))
        self.register_buffer("coil_maps", maps)
        self.register_buffer("phase", torch.polar(torch.ones_like(turns), turns))
        self.register_buffer("_toeplitz", _toeplitz_spectrum(k, self.shape))
        self.register_buffer("_density", None if density is None else self._as_density(density))
        self.to(device)

    @property
    def trajectory(self) -> Tensor:
        """(S, 2) or (S, 3) float64, cycles per pixel."""
        return self._transform.trajectory

    @property
    def density(self) -> Tensor:
        """Density compensation, (S,): the one given, or the area of k-space nearest to each sample (Voronoi cell).

        In units of a cell of the Cartesian grid, so that gridded images have the right amplitude. Samples at one place
        share its area.

        References:
            Rasche, Proksa, Sinkus, Boernert, Eggers, "Resampling of data between arbitrary grids using convolution
            interpolation", IEEE Transactions on Medical Imaging, 1999.
        """
        if self._density is None:
            self._density = voronoi_density(self.trajectory, self.shape).to(self.phase.device)
        return self._density

    def extra_repr(self) -> str:
        coils = "" if self.coil_maps is None else f", coils={self.coil_maps.shape[1]}"
        return f"shape={self.shape}, samples={len(self.trajectory)}{coils}, normal={self.normal!r}"

    def A(self, x: Tensor, **parameters: Any) -> Tensor:
        """Samples along the trajectory.

        Args:
            x: Image, (B, 2, *shape).
            **parameters: ``coil_maps``: used for this call instead of the operator's.

        Returns:
            (B, 2, N, S), or (B, 2, S) without coil maps.
        """
        operator = self._with(parameters)
        image = operator._image(x)
        maps = operator._maps(image)
        y = _nufft(image if maps is None else maps * image[:, None], self._transform, False) * operator.phase.to(image.dtype)
        return torch.view_as_real(y).movedim(-1, 1)

    def A_adjoint(self, y: Tensor, **parameters: Any) -> Tensor:
        """The adjoint, without density compensation, (B, 2, *shape).

        Args:
            y: Samples, of the shape A returns.
            **parameters: ``coil_maps``: used for this call instead of the operator's.
        """
        operator = self._with(parameters)
        middle = () if operator.coil_maps is None else (operator.coil_maps.shape[1],)
        checked(y, type(self).__name__, "y", (2, *middle, len(self.trajectory)))
        k = torch.complex(y[:, 0], y[:, 1])
        image = _nufft(k * operator.phase.to(k.dtype).conj(), self._transform, True)
        return operator._combined(image)

    def A_adjoint_A(self, x: Tensor, **parameters: Any) -> Tensor:
        """A^H A x, (B, 2, *shape) -> (B, 2, *shape)."""
        operator = self._with(parameters)
        if self.normal == "nufft":
            return operator.A_adjoint(operator.A(x))
        image = operator._image(x)
        maps = operator._maps(image)
        coil = image if maps is None else maps * image[:, None]
        axes = tuple(range(-len(self.shape), 0))
        spectrum = torch.fft.fftn(coil, s=tuple(2 * n for n in self.shape), dim=axes) * self._toeplitz.to(x.dtype)
        out = torch.fft.ifftn(spectrum, dim=axes)
        return operator._combined(out[(..., *(slice(n) for n in self.shape))])

    def gridding(self, y: Tensor) -> Tensor:
        """The density-compensated adjoint A^H D y, close to the image where k-space is fully sampled.

        Args:
            y: Samples, of the shape A returns.

        Returns:
            (B, 2, *shape).
        """
        return self.A_adjoint(y * self.density.to(y.dtype))

    def update_parameters(self, coil_maps: Array | None = None, **kwargs: Any) -> None:
        """Replace the coil maps for good.

        Args:
            coil_maps: New maps.
            **kwargs: As in deepinv.
        """
        if coil_maps is not None:
            self.coil_maps = self._as_maps(coil_maps, self.shape).to(self.phase.device)
        super().update_parameters(**kwargs)

    def _as_maps(self, coil_maps: Array, shape: tuple[int, ...]) -> Tensor:
        maps = as_coil_maps(coil_maps, type(self).__name__, axes=len(shape))
        if tuple(maps.shape[2:]) != tuple(shape):
            raise ValueError(f"{type(self).__name__}: coil_maps are of {tuple(maps.shape[2:])}, the image is {tuple(shape)}")
        return maps

    def _as_density(self, density: Array) -> Tensor:
        values = torch.as_tensor(density).to(torch.float64)
        if values.shape != (len(self.trajectory),) or not (torch.isfinite(values) & (values >= 0)).all():
            want = f"({len(self.trajectory)},), finite and not negative"
            raise ValueError(f"{type(self).__name__}: density must be {want}, got shape {tuple(values.shape)}")
        return values.clone()

    def _image(self, x: Tensor) -> Tensor:
        """(B, 2, *shape) real -> (B, *shape) complex."""
        checked(x, type(self).__name__, "x", (2, *self.shape))
        if self.coil_maps is not None and self.coil_maps.shape[0] not in (1, x.shape[0]):
            batch = f"{self.coil_maps.shape[0]}, x has {x.shape[0]}"
            raise ValueError(f"{type(self).__name__}: coil_maps is for a batch of {batch}")
        return torch.complex(x[:, 0], x[:, 1])

    def _maps(self, like: Tensor) -> Tensor | None:
        return None if self.coil_maps is None else self.coil_maps.to(like.dtype)

    def _combined(self, coil: Tensor) -> Tensor:
        """Coil images, or the image, as one image of two channels."""
        maps = self._maps(coil)
        image = coil if maps is None else (maps.conj() * coil).sum(1)
        return torch.stack((image.real, image.imag), 1)


class _Transform:
    """F_k and its adjoint on batches of complex tensors, planned when first used in a precision.

    Args:
        trajectory: (S, dim) float64.
        shape: Of the image.
    """

    def __init__(self, trajectory: Tensor, shape: tuple[int, ...]) -> None:
        mrinufft()
        self.trajectory, self.shape = trajectory.clone(), shape
        self._plans: dict[tuple[torch.dtype, int], Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        # a plan holds pointers into finufft: copies make their own
        return {**self.__dict__, "_plans": {}}

    def forward(self, image: Tensor) -> Tensor:
        """(..., *shape) -> (..., S), complex."""
        lead, plan = image.shape[: -len(self.shape)], self._plan(image)
        plan.n_batchs = math.prod(lead)
        return self._scaled(plan.op(_array(image).reshape(-1, 1, *self.shape)), image, (*lead, -1))

    def adjoint(self, y: Tensor) -> Tensor:
        """(..., S) -> (..., *shape), complex."""
        lead, plan = y.shape[:-1], self._plan(y)
        plan.n_batchs = math.prod(lead)
        return self._scaled(plan.adj_op(_array(y).reshape(-1, 1, y.shape[-1])), y, (*lead, *self.shape))

    def _scaled(self, value: np.ndarray, like: Tensor, shape: tuple[int, ...]) -> Tensor:
        # mri-nufft divides by sqrt(2) more per axis
        return torch.from_numpy(value).to(like.device).reshape(shape) * 2 ** (len(self.shape) / 2)

    def _plan(self, like: Tensor) -> Any:
        key = like.real.dtype, torch.get_num_threads()
        if key not in self._plans:
            samples = self.trajectory.cpu().numpy().astype(np.float32 if key[0] == torch.float32 else np.float64)
            with warnings.catch_warnings():
                # that cycles per pixel become radians is what is wanted
                warnings.filterwarnings("ignore", message="Samples will be rescaled")
                self._plans[key] = mrinufft().get_operator("finufft")(
                    samples, self.shape, n_coils=1, squeeze_dims=False, eps=ACCURACY[key[0]], nthreads=key[1]
                )
        return self._plans[key]


class _NUFFT(torch.autograd.Function):
    """A `_Transform` or its adjoint; either one's derivatives are the two of them."""

    @staticmethod
    def forward(value: Tensor, transform: _Transform, adjoint: bool) -> Tensor:
        return transform.adjoint(value) if adjoint else transform.forward(value)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, _Transform, bool], output: Tensor) -> None:
        _, ctx.transform, ctx.adjoint = inputs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return _nufft(gradients[0], ctx.transform, not ctx.adjoint), None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        return _nufft(tangents[0], ctx.transform, ctx.adjoint)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], value: Tensor, transform: _Transform, adjoint: bool) -> Any:
        assert in_dims[0] is not None
        return _nufft(value.movedim(in_dims[0], 0), transform, adjoint), 0


def _nufft(value: Tensor, transform: _Transform, adjoint: bool) -> Tensor:
    result = _NUFFT.apply(value, transform, adjoint)
    assert isinstance(result, Tensor)
    return result


def _toeplitz_spectrum(trajectory: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Fourier transform of the point-spread function of A^H A at offsets -n to n - 1 along each axis of n pixels."""
    wide = tuple(2 * n for n in shape)
    psf = _Transform(trajectory, wide).adjoint(torch.ones(len(trajectory), dtype=torch.complex128))
    # The point-spread function is Hermitian, so its transform is real; only the offset -n, which has no partner and
    # never occurs, says otherwise.
    scale = math.sqrt(math.prod(wide)) / math.prod(shape)
    return torch.fft.fftn(torch.fft.ifftshift(psf)).real * scale


def _array(value: Tensor) -> np.ndarray:
    return np.ascontiguousarray(value.detach().cpu().resolve_conj().numpy())
