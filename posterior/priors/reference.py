"""The reference Gaussian N(mu, C) that a prior may carry, and the error spectrum of its denoiser.

It is the optimal linear denoiser, it gives Cov[x0 | x_sigma] in closed form, and it is fitted in seconds.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from torch import Tensor

from posterior.priors.base import column
from posterior.priors.covariance import Covariance, FourierBasis, LeadingBasis


class Reference(ABC):
    """A Gaussian N(mean, C) with C diagonal in a stated basis, for events of one shape or of any."""

    @property
    def measured(self) -> bool:
        """Whether `error_covariance` was measured."""
        return False

    @abstractmethod
    def covariance(self, event_shape: tuple[int, ...]) -> Covariance:
        """C for events of this shape (standardised units squared)."""

    @abstractmethod
    def mean(self, event_shape: tuple[int, ...]) -> Tensor | float:
        """The mean, a number or a tensor that broadcasts to an event."""

    def error_covariance(self, event_shape: tuple[int, ...], sigma: float) -> Covariance:
        """Average covariance of x0 given x_sigma: the Gaussian's own, C_sigma, unless a spectrum was measured."""
        return self.covariance(event_shape).given(sigma)

    def denoise(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """Optimal linear denoiser mu + C (C + sigma^2 I)^-1 (x - mu); ``x`` (B, *event), ``sigma`` () or (B,)."""
        cov = self.covariance(tuple(x.shape[1:]))
        mu = self.mean(tuple(x.shape[1:]))
        mu = mu.to(x) if isinstance(mu, Tensor) else mu
        s2 = column(sigma, x) ** 2
        c = cov.basis.analyse(x - mu)
        e = cov.basis.fold(cov.eigenvalues).to(x)
        s2 = s2.reshape(-1, *[1] * (c.ndim - 1))
        return mu + cov.basis.synthesise(c * (e / (e + s2)), x.shape)


@dataclass(frozen=True)
class GaussianReference(Reference):
    """N(mean, C) for events of one shape.

    Args:
        center: Mean, shape (*event).
        cov: Covariance over that event.
    """

    center: Tensor
    cov: Covariance

    def covariance(self, event_shape: tuple[int, ...]) -> Covariance:
        """C itself; events of other shapes are refused."""
        if tuple(event_shape) != tuple(self.center.shape):
            raise ValueError(f"reference Gaussian: got shape {tuple(event_shape)}, wanted {tuple(self.center.shape)}")
        return self.cov

    def mean(self, event_shape: tuple[int, ...]) -> Tensor:
        """The mean, shape (*event)."""
        return self.center


class MeasuredReference(Reference):
    """A reference whose spectrum is a table, and so is the error of the denoiser that it goes with.

    Attributes:
        sigmas: (M,) ascending noise levels, or None where no error spectrum was measured.
        errors: (M, rows) positive, or None: the mean power of x0 - D(x0 + sigma eps, sigma) on data held out from
            training.
    """

    sigmas: Tensor | None
    errors: Tensor | None

    @property
    @abstractmethod
    def rows(self) -> int:
        """Length of a row of the table."""

    @abstractmethod
    def with_errors(self, sigmas: Tensor | None, errors: Tensor | None) -> Self:
        """The same with another error spectrum."""

    @property
    def measured(self) -> bool:
        """See `Reference.measured`."""
        return self.sigmas is not None and self.errors is not None

    @abstractmethod
    def expand(self, table: Tensor, event_shape: tuple[int, ...]) -> Tensor:
        """A row of the table (rows,) as eigenvalues of the covariance of an event."""

    @abstractmethod
    def error_power(self, errors: Tensor, sigma: float) -> Tensor:
        """Mean power of errors x0 - D(x0 + sigma eps, sigma), (N, *event), as a row of the table of errors (rows,)."""

    def error_covariance(self, event_shape: tuple[int, ...], sigma: float) -> Covariance:
        """The measured error spectrum at ``sigma``, log-interpolated.

        Outside the table the network's gain over the Gaussian is taken to stay what it is at the edge.
        """
        cov = self.covariance(event_shape)
        given = cov.given(sigma)
        if self.sigmas is None or self.errors is None:
            return given
        lo, hi = float(self.sigmas[0]), float(self.sigmas[-1])
        inside = min(max(sigma, lo), hi)
        at = np.interp(np.log(inside), np.log(self.sigmas.cpu().numpy()), np.arange(len(self.sigmas)))
        i, w = int(at), float(at - int(at))
        log = self.errors.log()
        row = log[i] if w == 0 else (1 - w) * log[i] + w * log[i + 1]
        measured = self.expand(row.exp(), event_shape)
        if inside != sigma:
            measured = measured / cov.given(inside).eigenvalues.clamp_min(1e-30) * given.eigenvalues
        return Covariance(cov.basis, measured)


@dataclass(frozen=True)
class RadialReference(MeasuredReference):
    """Zero-mean stationary isotropic Gaussian of any image size, given by a radial power spectrum.

    The spectrum S(f) is the variance of an orthonormal-FFT coefficient at radial frequency f in cycles per
    pixel, the same in every channel. `errors`, where measured, holds the mean power of x0 - D(x0 + sigma eps)
    at the same frequencies for a list of sigmas, on data held out from training.

    Args:
        frequencies: (F,) ascending, cycles per pixel, from 0.
        power: (F,) positive.
        sigmas: (M,) ascending, or None where no error spectrum was measured.
        errors: (M, F) positive, or None.
    """

    frequencies: Tensor
    power: Tensor
    sigmas: Tensor | None = None
    errors: Tensor | None = None

    @property
    def rows(self) -> int:
        """See `MeasuredReference.rows`."""
        return len(self.frequencies)

    def with_errors(self, sigmas: Tensor | None, errors: Tensor | None) -> Self:
        """See `MeasuredReference.with_errors`."""
        return replace(self, sigmas=sigmas, errors=errors)

    def covariance(self, event_shape: tuple[int, ...]) -> Covariance:
        """C on this image's frequency grid."""
        return Covariance(FourierBasis(2), self.expand(self.power, event_shape))

    def mean(self, event_shape: tuple[int, ...]) -> float:
        """Zero."""
        return 0.0

    def expand(self, table: Tensor, event_shape: tuple[int, ...]) -> Tensor:
        """See `MeasuredReference.expand`."""
        h, w = event_shape[-2:]
        fy, fx = (torch.fft.fftfreq(n, dtype=torch.float64, device=table.device) for n in (h, w))
        f = torch.hypot(fy[:, None], fx[None])
        # As np.interp, but inside torch.func's transforms no tensor can be turned into an array.
        known, log = self.frequencies.to(f), table.log().to(f)
        right = torch.searchsorted(known, f).clamp(1, len(known) - 1)
        share = ((f - known[right - 1]) / (known[right] - known[right - 1])).clamp(0, 1)
        return torch.lerp(log[right - 1], log[right], share).exp()

    def error_power(self, errors: Tensor, sigma: float) -> Tensor:
        """See `MeasuredReference.error_power`."""
        at, power = radial_spectrum(errors.reshape(len(errors), -1, *errors.shape[-2:]))
        return torch.from_numpy(np.exp(np.interp(self.frequencies.numpy(), at.numpy(), power.clamp_min(1e-30).log().numpy())))


@dataclass(frozen=True)
class EOFReference(MeasuredReference):
    """N(0, C) for grids of one shape, C = V diag(variances) V^T + rest (I - V V^T): low rank plus white, or full.

    The columns of V are empirical orthogonal functions, the eigenvectors of the covariance of training fields.

    Args:
        vectors: V, (n, k) with orthonormal columns over the flattened event, zero at points that do not exist.
        variances: (k,) positive, descending, standardised units squared.
        rest: The variance in every other direction; unused where k is the number of points.
        shape: Shape of an event, n values.

    Other arguments:
        mask: (*shape) boolean, which points exist; None for all of them. C is 0 elsewhere.
        sigmas: See `MeasuredReference`.
        errors: (M, k + 1): along each vector, and the mean over the other directions.

    References:
        Lorenz. Empirical orthogonal functions and statistical weather prediction. 1956. MIT.
        Tipping, Bishop. Probabilistic principal component analysis. 1999. J. R. Stat. Soc. B 61(3) (low rank plus white).
    """

    vectors: Tensor
    variances: Tensor
    rest: float
    shape: tuple[int, ...]
    mask: Tensor | None = None
    sigmas: Tensor | None = None
    errors: Tensor | None = None

    @classmethod
    def fit(
        cls,
        fields: Tensor,
        rank: int | None = None,
        *,
        mask: Tensor | None = None,
        shrinkage: float = 0.0,
        localisation: float | None = None,
        hybrid: float = 0.0,
        leading: int = 0,
    ) -> EOFReference:
        """The Gaussian of training fields.

        Args:
            fields: (N, *event), standardised, mean zero.
            rank: How many EOFs; None for as many as there are points or, where fewer, fields.

        Other arguments:
            mask: (*event) boolean, which points exist.
            shrinkage: The sample covariance S becomes (1 - a) S + a trace(S) / n I.
            localisation: Covariances between points are multiplied by a taper that falls from 1 to 0 at this distance, in
                grid points over the last two axes (Gaspari, Cohn 1999). Few fields make far points covary by chance.
            hybrid: Share h of S that is left as it is beside the localised T * S: (1 - h) T * S + h S. Waves as long as the
                field keep their variance by it, and directions that few fields lack are filled by the other part.
            leading: EOFs of S that are not localised, only what they leave of it: with their vectors V and variances L,
                S = V L V^T + R becomes V L V^T + (1 - h) T * R + h R. For waves as long as the field, whose variance
                localisation would hand to short ones. The variance of every point stays, and that along V is L or more.

        Raises:
            ValueError: If ``hybrid`` is not in [0, 1), ``leading`` is not in [0, min(N, points)), or either is given without
                ``localisation``.

        References:
            Gaspari, Cohn. Construction of correlation functions in two and three dimensions. 1999. Q. J. R. Meteorol. Soc.
                125, 723 (equation 4.10).
            Buehner. Evaluation of a spatial/spectral covariance localization approach for atmospheric data assimilation. 2012.
                Mon. Weather Rev. 140, 617 (long waves are localised less than short ones).
            Hamill, Snyder. A hybrid ensemble Kalman filter-3D variational analysis scheme. 2000. Mon. Weather Rev. 128, 2905
                (two covariances mixed).
            Halko, Martinsson, Tropp. Finding structure with randomness. 2011. arXiv:0909.4061 (leading eigenvectors).
        """
        if not 0 <= hybrid < 1 or (hybrid and localisation is None):
            raise ValueError(
                f"EOF reference: hybrid is {hybrid}; wanted a share in [0, 1), and above 0 a localisation beside it"
            )
        shape, data = tuple(fields.shape[1:]), fields.double().flatten(1)
        exists = torch.ones(data.shape[1], dtype=torch.bool) if mask is None else mask.flatten()
        points = int(exists.sum())
        if not 0 <= leading < min(len(data), points) or (leading and localisation is None):
            raise ValueError(
                f"EOF reference: leading is {leading} for {len(data)} fields of {points} points; wanted fewer EOFs than there "
                "are, and above 0 a localisation of the others"
            )
        seen = data[:, exists]
        total = float(seen.square().sum()) / len(data)
        found, values = seen.new_zeros(points, 0), seen.new_zeros(0)
        if localisation is None or leading:
            # The singular vectors of the data are the eigenvectors of their covariance, also with fewer fields than points.
            _, values, vh = torch.linalg.svd(seen / len(data) ** 0.5, full_matrices=False)
            values, found = values.square(), vh.T
        if localisation is not None:
            v = found[:, :leading]
            left = seen - seen @ v @ v.T
            cov = _taper(shape, localisation)[exists][:, exists].mul_(1 - hybrid).add_(hybrid).mul_(left.T @ left)
            cov.div_(len(data)).add_((v * values[:leading]) @ v.T)
            values, found = _leading(cov, rank or points)
        variances = (1 - shrinkage) * values + shrinkage * total / points
        k = min(rank or points, len(values), points)
        rest = (total - float(variances[:k].sum())) / (points - k) if k < points else 0.0
        vectors = torch.zeros(data.shape[1], k, dtype=torch.float64)
        vectors[exists] = found[:, :k]
        # Directions that fields do not have at all would make C singular.
        floor = 1e-9 * total / points
        return cls(vectors, variances[:k].clamp_min(floor), max(rest, floor), shape, mask)

    @property
    def rows(self) -> int:
        """See `MeasuredReference.rows`."""
        return len(self.variances) + 1

    def with_errors(self, sigmas: Tensor | None, errors: Tensor | None) -> Self:
        """See `MeasuredReference.with_errors`."""
        return replace(self, sigmas=sigmas, errors=errors)

    def exists(self) -> Tensor:
        """The mask, (*shape) boolean; True everywhere where there is none."""
        return torch.ones(self.shape, dtype=torch.bool) if self.mask is None else self.mask

    def covariance(self, event_shape: tuple[int, ...]) -> Covariance:
        """C; events of other shapes are refused."""
        if tuple(event_shape) != self.shape:
            raise ValueError(f"reference Gaussian: got shape {tuple(event_shape)}, wanted {self.shape}")
        mask = None if self.mask is None else self.mask.flatten()
        row = torch.cat([self.variances, self.variances.new_tensor([self.rest])])
        return Covariance(LeadingBasis(self.vectors, mask), self.expand(row, event_shape))

    def mean(self, event_shape: tuple[int, ...]) -> float:
        """Zero."""
        return 0.0

    def expand(self, table: Tensor, event_shape: tuple[int, ...]) -> Tensor:
        """See `MeasuredReference.expand`: (n,), zero for points that do not exist."""
        n, k = self.vectors.shape
        points = n if self.mask is None else int(self.mask.sum())
        return torch.cat([table[:k], table[k].expand(points - k), table.new_zeros(n - points)])

    def power(self, fields: Tensor) -> Tensor:
        """Mean power of ``fields`` (B, *event) along each EOF and, last, in the mean other direction: (k + 1,)."""
        n, k = self.vectors.shape
        points = n if self.mask is None else int(self.mask.sum())
        flat = fields.double().flatten(1)
        c = flat @ self.vectors.double()
        left = (flat.square().sum(1).mean() - c.square().sum(1).mean()).clamp_min(0)
        return torch.cat([c.square().mean(0), (left / max(points - k, 1)).reshape(1)])

    def error_power(self, errors: Tensor, sigma: float) -> Tensor:
        """See `MeasuredReference.error_power`.

        Its ratio to the Gaussian's is averaged over neighbours, a tenth of the index wide, since a few hundred correlated
        fields give each EOF alone to some ten per cent only.
        """
        own = torch.cat([self.variances, self.variances.new_tensor([self.rest])])
        own = own * sigma**2 / (own + sigma**2)
        # Directions that the data hardly have: the power there is rounding, of the network's float32.
        log = (self.power(errors).clamp_min(1e-12 * float(own.max())) / own).log()
        k = len(log) - 1
        index = torch.arange(k, dtype=torch.float64)
        width = 0.5 + 0.1 * index
        kernel = torch.exp(-0.5 * ((index[None] - index[:, None]) / width[:, None]) ** 2)
        log[:k] = kernel @ log[:k] / kernel.sum(1)
        return own * log.exp()


def _taper(shape: tuple[int, ...], support: float) -> Tensor:
    """Gaspari and Cohn's correlation function, 0 from ``support`` grid points on, between all points of an event."""
    h, w = shape[-2:]
    rows, columns = torch.meshgrid(torch.arange(h).double(), torch.arange(w).double(), indexing="ij")
    places = torch.stack([rows.flatten(), columns.flatten()], 1)
    r = 2 * torch.cdist(places, places) / support
    near = 1 + r**2 * (-5 / 3 + r * (5 / 8 + r * (0.5 - r / 4)))
    far = 4 - 5 * r + r**2 * (5 / 3 + r * (5 / 8 + r * (-0.5 + r / 12))) - 2 / (3 * r.clamp_min(1e-9))
    taper = torch.where(r <= 1, near, torch.where(r < 2, far, 0.0)).clamp_min(0)
    channels = int(torch.Size(shape).numel()) // (h * w)
    return taper.repeat(channels, channels)


def _leading(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The ``rank`` largest eigenvalues of a symmetric matrix, descending, and their vectors in columns."""
    n = len(matrix)
    if rank > n // 4:
        values, vectors = torch.linalg.eigh(matrix)
        return values.flip(0)[:rank].clamp_min(0), vectors.flip(1)[:, :rank]
    g = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(n, rank + rank // 4 + 10, generator=g, dtype=matrix.dtype)).Q
    for _ in range(6):
        basis = torch.linalg.qr(matrix @ basis).Q
    values, small = torch.linalg.eigh(basis.T @ matrix @ basis)
    return values.flip(0)[:rank].clamp_min(0), basis @ small.flip(1)[:, :rank]


def radial_spectrum(fields: Tensor, bins: int = 64) -> tuple[Tensor, Tensor]:
    """Mean power of the orthonormal-FFT coefficients of ``fields`` (B, C, H, W) in rings of radial frequency.

    Returns:
        ``frequencies`` (bins + 1,) in cycles per pixel, from 0 to the corner at sqrt(1/2), the rings narrower
        towards 0, and the mean power (bins + 1,) there; rings without a coefficient are interpolated.
    """
    h, w = fields.shape[-2:]
    f = torch.hypot(torch.fft.fftfreq(h)[:, None], torch.fft.fftfreq(w)[None]).double()
    power = torch.fft.fft2(fields.double(), norm="ortho").abs().square().mean(dim=(0, 1))
    # Rings equally spaced in sqrt(f): image spectra fall steeply near 0 and slowly beyond.
    centres = torch.linspace(0, 0.5**0.25, bins + 1, dtype=torch.float64) ** 2
    index = torch.bucketize(f, (centres[1:] + centres[:-1]) / 2)
    total = torch.zeros(bins + 1, dtype=torch.float64).index_add_(0, index.flatten(), power.flatten())
    count = torch.bincount(index.flatten(), minlength=bins + 1)
    seen = count > 0
    log = (total[seen] / count[seen]).clamp_min(1e-30).log()
    filled = np.interp(centres.numpy(), centres[seen].numpy(), log.numpy())
    return centres, torch.from_numpy(np.exp(filled))
