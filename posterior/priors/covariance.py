"""Covariances that are diagonal in a stated basis.

Everything a sampler asks of a Gaussian reference is a function of eigenvalues: with ``C = B diag(l) B^T`` and
``B`` orthonormal, ``C v``, ``C^(1/2) v`` and the covariance of x0 given x_sigma,

    C_sigma = (C^-1 + sigma^-2 I)^-1 = B diag(l sigma^2 / (l + sigma^2)) B^T,

all cost one change of basis and back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from posterior.priors.base import must_be_real


@dataclass(frozen=True)
class FourierBasis:
    """Orthonormal discrete Fourier basis over the last ``ndim`` axes: the eigenbasis of stationary fields.

    The fields are real, so eigenvalues must be symmetric under f -> -f; `Covariance` symmetrises nothing.
    """

    ndim: int = 2

    def analyse(self, v: Tensor) -> Tensor:
        """Coefficients of ``v``: the half spectrum of a real field."""
        return torch.fft.rfftn(v, dim=tuple(range(-self.ndim, 0)), norm="ortho")

    def synthesise(self, c: Tensor, shape: torch.Size) -> Tensor:
        """The field of given coefficients; ``shape`` is that of the field."""
        dims = tuple(range(-self.ndim, 0))
        return torch.fft.irfftn(c, s=shape[-self.ndim :], dim=dims, norm="ortho")

    def fold(self, eigenvalues: Tensor) -> Tensor:
        """Eigenvalues on the full frequency grid, cut to the half that `analyse` returns."""
        return eigenvalues[..., : eigenvalues.shape[-1] // 2 + 1]


@dataclass(frozen=True)
class EigenBasis:
    """Explicit orthonormal basis: ``vectors`` is (n, n), eigenvectors in columns, over the flattened event."""

    vectors: Tensor

    def analyse(self, v: Tensor) -> Tensor:
        """Coefficients of ``v``, shape (B, n)."""
        return v.flatten(1) @ self.vectors.to(v)

    def synthesise(self, c: Tensor, shape: torch.Size) -> Tensor:
        """The field of given coefficients; ``shape`` is that of the field."""
        return (c @ self.vectors.to(c).T).reshape(shape)

    def fold(self, eigenvalues: Tensor) -> Tensor:
        """Eigenvalues as they are: one for each basis vector."""
        return eigenvalues


@dataclass(frozen=True)
class LeadingBasis:
    """The leading eigenvectors of fields that have one variance in all other directions: low rank plus white.

    Eigenvalues are (n,): the k of the vectors, then as many times the common one as there are directions left, then,
    behind a mask, those of the points that do not exist.

    Args:
        vectors: (n, k), orthonormal columns over the flattened event; zero at points that do not exist.
        mask: (n,) boolean, which points exist; None for all of them.
    """

    vectors: Tensor
    mask: Tensor | None = None

    def analyse(self, v: Tensor) -> Tensor:
        """The k coefficients of ``v`` and what they leave of the field, side by side: (B, k + n)."""
        flat = v.flatten(1)
        vectors = self.vectors.to(v)
        c = flat @ vectors
        return torch.cat([c, flat - c @ vectors.T], dim=1)

    def synthesise(self, c: Tensor, shape: torch.Size) -> Tensor:
        """The field of given coefficients and remainder; ``shape`` is that of the field."""
        k = self.vectors.shape[1]
        return (c[:, :k] @ self.vectors.to(c).T + c[:, k:]).reshape(shape)

    def fold(self, eigenvalues: Tensor) -> Tensor:
        """One weight for each coefficient and one for each point of the remainder."""
        n, k = self.vectors.shape
        rest = eigenvalues[min(k, n - 1)].expand(n)
        if self.mask is not None:
            rest = torch.where(self.mask.to(rest.device), rest, eigenvalues[-1])
        return torch.cat([eigenvalues[:k], rest])


@dataclass(frozen=True)
class IdentityBasis:
    """The grid points themselves; one number for all of them is a multiple of the identity."""

    def analyse(self, v: Tensor) -> Tensor:
        """The field as it is."""
        return v

    def synthesise(self, c: Tensor, shape: torch.Size) -> Tensor:
        """The field as it is."""
        return c

    def fold(self, eigenvalues: Tensor) -> Tensor:
        """Variances as they are: a number, or one for each grid point."""
        return eigenvalues


Basis = FourierBasis | EigenBasis | LeadingBasis | IdentityBasis
Apply = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Covariance:
    """C = B diag(eigenvalues) B^T acting on batches of fields (B, *event).

    Args:
        basis: The orthonormal basis B.
        eigenvalues: Non-negative; on the full frequency grid (broadcastable to the event) for `FourierBasis`,
            shape (n,) for `EigenBasis` and `LeadingBasis`, () or broadcastable to the event for `IdentityBasis`. Units:
            those of the field, squared.
    """

    basis: Basis
    eigenvalues: Tensor

    def function(self, v: Tensor, f: Callable[[Tensor], Tensor]) -> Tensor:
        """``B diag(f(eigenvalues)) B^T v`` for fields ``v`` of shape (B, *event)."""
        weights = f(self.basis.fold(self.eigenvalues)).to(v)
        return self.basis.synthesise(weights * self.basis.analyse(v), v.shape)

    def apply(self, v: Tensor) -> Tensor:
        """``C v``."""
        return self.function(v, lambda e: e)

    def sqrt(self, v: Tensor) -> Tensor:
        """``C^(1/2) v``: turns white noise into a draw of N(0, C)."""
        return self.function(v, torch.sqrt)

    def roots(self, like: Tensor) -> tuple[Apply, Apply]:
        """L and L^T with C = L L^T, for many fields of the precision and device of ``like``: weights are worked out once."""
        weights = self.basis.fold(self.eigenvalues).sqrt().to(like)

        def root(v: Tensor) -> Tensor:
            return self.basis.synthesise(weights * self.basis.analyse(v), v.shape)

        return root, root

    @property
    def typical(self) -> Covariance:
        """What of it depends on no draw: all of it."""
        return self

    def resized(self, factor: Tensor) -> ScaledCovariance:
        """With other sizes at each grid point; ``factor`` is on standard deviations and broadcasts to (1, *event)."""
        return ScaledCovariance((self,), (factor,), self)

    def components(self, v: Tensor) -> Tensor:
        """See `ScaledCovariance.components`: fields as they are."""
        return v

    def variances(self) -> Tensor:
        """Of the components, averaged over the grid; broadcasts to fields (B, *event)."""
        return _grid_mean(self.basis, self.eigenvalues)

    def given(self, sigma: Tensor | float) -> Covariance:
        """Covariance of x0 given x0 + sigma eps; ``sigma`` a scalar."""
        s2 = torch.as_tensor(sigma, dtype=self.eigenvalues.dtype) ** 2
        total = self.eigenvalues + s2
        return Covariance(self.basis, self.eigenvalues * s2 / torch.where(total > 0, total, 1.0))

    def plus_white(self, variance: Tensor | float) -> Covariance:
        """``C + variance I``."""
        return Covariance(self.basis, self.eigenvalues + variance)

    def scaled(self, factor: Tensor | float) -> Covariance:
        """``factor C``."""
        return Covariance(self.basis, self.eigenvalues * factor)

    @property
    def mean_variance(self) -> float:
        """trace(C) / n: the variance of one coordinate, averaged over coordinates."""
        return float(self.eigenvalues.mean())

    @property
    def max_variance(self) -> float:
        """Largest eigenvalue."""
        return float(self.eigenvalues.max())


@dataclass(frozen=True)
class ScaledCovariance:
    """L L^T with L = U sum_b S_b C_b^(1/2): white noise, coloured by bands, each of which has its own size at each grid point.

    S_b = diag(s_b). U turns two components at each grid point into the two channels of a field: with u the unit vector of
    ``frame`` there, components (a, b) become the channels a (u1, u2) + b (-u2, u1): as complex numbers (a + i b) u. Without a
    frame U = I.

    Args:
        bands: C_b, of the components, all in one basis.
        scales: s_b of each, positive, broadcasts to (B, *event).
        typical: The same for a field that depends on no draw, batch 1: what a solver may look at when it decides for all draws.
        frame: (B, 2, H, W), or None.

    References:
        Priestley. Evolutionary spectra and non-stationary processes. 1965. J. R. Stat. Soc. B 27(2).
    """

    bands: tuple[Covariance, ...]
    scales: tuple[Tensor, ...]
    typical: Covariance | ScaledCovariance
    frame: Tensor | None = None

    def of(self, draw: int) -> ScaledCovariance:
        """The same for one draw of the batch, for any number of fields."""

        def one(v: Tensor) -> Tensor:
            return v if len(v) == 1 else v[draw : draw + 1]

        frame = None if self.frame is None else one(self.frame)
        return ScaledCovariance(self.bands, tuple(one(s) for s in self.scales), self.typical, frame)

    def apply(self, v: Tensor) -> Tensor:
        """``L L^T v``."""
        root, back = self.roots(v)
        return root(back(v))

    def sqrt(self, v: Tensor) -> Tensor:
        """``L v``: turns white noise into a draw of N(0, L L^T)."""
        return self.roots(v)[0](v)

    def roots(self, like: Tensor) -> tuple[Apply, Apply]:
        """See `Covariance.roots`."""
        basis = self.bands[0].basis
        weights = [basis.fold(c.eigenvalues).sqrt().to(like) for c in self.bands]
        scales = [s.to(like) for s in self.scales]

        def root(v: Tensor) -> Tensor:
            seen = basis.analyse(v)
            parts = [s * basis.synthesise(w * seen, v.shape) for s, w in zip(scales, weights, strict=True)]
            return turned(self.frame, sum(parts[1:], parts[0]), 1)

        def back(v: Tensor) -> Tensor:
            v = turned(self.frame, v, -1)
            parts = [w * basis.analyse(s * v) for s, w in zip(scales, weights, strict=True)]
            return basis.synthesise(sum(parts[1:], parts[0]), v.shape)

        return root, back

    def resized(self, factor: Tensor, typical: ScaledCovariance | None = None) -> ScaledCovariance:
        """With all s_b multiplied by ``factor``, which broadcasts to (B, *event)."""
        return ScaledCovariance(self.bands, tuple(s * factor for s in self.scales), typical or self.typical, self.frame)

    def components(self, v: Tensor) -> Tensor:
        """U^T v: the components that have a scale each, as channels of (B, *event)."""
        return turned(self.frame, v, -1)

    def variances(self) -> Tensor:
        """Of the components at each grid point, as if the scales were the same around it; broadcasts to (B, *event)."""
        basis = self.bands[0].basis
        pairs = [
            s * t * _grid_mean(basis, (c.eigenvalues * e.eigenvalues).sqrt())
            for c, s in zip(self.bands, self.scales, strict=True)
            for e, t in zip(self.bands, self.scales, strict=True)
        ]
        return sum(pairs[1:], pairs[0])

    def mean_eigenvalues(self) -> Tensor:
        """Of the basis, on average over the field, (B, ...): the bands together, as if they were large in the same places."""
        parts = [
            s.square().mean((-2, -1), keepdim=True).sqrt() * c.eigenvalues.to(s).sqrt()
            for c, s in zip(self.bands, self.scales, strict=True)
        ]
        return sum(parts[1:], parts[0]).square()


def _grid_mean(basis: Basis, eigenvalues: Tensor) -> Tensor:
    """Of the variances of grid points: those of each channel where they are told apart."""
    return eigenvalues.mean((-2, -1), keepdim=True) if isinstance(basis, FourierBasis) else eigenvalues.mean()


def turned(frame: Tensor | None, v: Tensor, sign: int) -> Tensor:
    """(v1 + i v2) (u1 + i u2) with u the unit vectors of a frame, or times their conjugate where ``sign`` is -1."""
    if frame is None:
        return v
    a, b = v.unbind(1)
    u, w = frame[:, 0], sign * frame[:, 1]
    return torch.stack([a * u - b * w, a * w + b * u], 1)


def isotropic(variance: float) -> Covariance:
    """``variance I``, for events of any shape."""
    return Covariance(IdentityBasis(), torch.tensor(variance, dtype=torch.float64))


def covariance_of(
    event_shape: tuple[int, ...], cov: Tensor | np.ndarray, owner: str = "GaussianPrior", name: str = "cov"
) -> Covariance:
    """A `Covariance` from what users hold: a dense matrix or a stationary spectrum.

    Args:
        event_shape: Shape of one field.
        cov: Either (n, n) with n = prod(event_shape), symmetric positive semi-definite, or the spectrum of a
            stationary field, over the last axes of the event: the variance of each coefficient of the orthonormal FFT
            over two axes at most (the last two), for each slice along the others, which are independent of each other.
        owner: Who asks, for errors.
        name: What they call ``cov``.

    Returns:
        The covariance, in float64.

    Raises:
        ValueError: If the shape fits neither form, the matrix is not symmetric positive semi-definite, or the
            spectrum is negative or not symmetric under f -> -f.
        TypeError: If ``cov`` is no array of real numbers.
    """
    try:
        cov = torch.as_tensor(cov).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{owner}: {name} is a {type(cov).__name__}; wanted a tensor or an array of numbers") from error
    must_be_real(owner, name, cov)
    cov = cov.to(torch.float64)
    n = int(torch.Size(event_shape).numel())
    if not torch.isfinite(cov).all():
        raise ValueError(f"{owner}: {name} has values that are not finite")
    if tuple(cov.shape) == (n, n):
        if not torch.allclose(cov, cov.T, rtol=1e-5, atol=1e-8 * float(cov.abs().max())):
            raise ValueError(f"{owner}: {name} is a matrix that is not symmetric")
        values, vectors = torch.linalg.eigh((cov + cov.T) / 2)
        if values.min() < -1e-6 * values.abs().max():
            raise ValueError(f"{owner}: {name} has a negative eigenvalue, {float(values.min()):.3g}")
        return Covariance(EigenBasis(vectors), values.clamp_min(0))
    if 1 <= cov.ndim <= len(event_shape) and tuple(cov.shape) == tuple(event_shape[-cov.ndim :]):
        ndim = min(cov.ndim, 2) if len(event_shape) > 1 else 1
        dims = tuple(range(-ndim, 0))
        mirrored = torch.roll(cov.flip(dims), shifts=(1,) * ndim, dims=dims)
        if cov.min() < 0:
            raise ValueError(f"{owner}: the spectrum has a negative value, {float(cov.min()):.3g}")
        if not torch.allclose(cov, mirrored, rtol=1e-4, atol=1e-8 * float(cov.abs().max())):
            raise ValueError(f"{owner}: the spectrum is not symmetric under f -> -f, so no real field has it")
        return Covariance(FourierBasis(ndim), cov)
    raise ValueError(
        f"{owner}: {name} has shape {tuple(cov.shape)}; wanted ({n}, {n}) for a matrix, or the event shape "
        f"{tuple(event_shape)} (or its last axes) for a stationary spectrum"
    )
