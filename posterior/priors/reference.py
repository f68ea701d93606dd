"""The reference Gaussian N(mu, C) that a prior may carry, and the error spectrum of its denoiser.

It is the optimal linear denoiser, it gives Cov[x0 | x_sigma] in closed form, and it is fitted in seconds.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from posterior.priors.base import column
from posterior.priors.covariance import Covariance, FourierBasis


class Reference(ABC):
    """A Gaussian N(mean, C) with C diagonal in a stated basis, for events of one shape or of any."""

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


@dataclass(frozen=True)
class RadialReference(Reference):
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

    def covariance(self, event_shape: tuple[int, ...]) -> Covariance:
        """C on this image's frequency grid."""
        return Covariance(FourierBasis(2), self._on_grid(self.power, event_shape))

    def mean(self, event_shape: tuple[int, ...]) -> float:
        """Zero."""
        return 0.0

    def error_covariance(self, event_shape: tuple[int, ...], sigma: float) -> Covariance:
        """The measured error spectrum at ``sigma``, log-interpolated; the Gaussian's own outside the table."""
        given = self.covariance(event_shape).given(sigma)
        if self.sigmas is None or self.errors is None:
            return given
        lo, hi = float(self.sigmas[0]), float(self.sigmas[-1])
        inside = min(max(sigma, lo), hi)
        at = np.interp(np.log(inside), np.log(self.sigmas.numpy()), np.arange(len(self.sigmas)))
        i, w = int(at), float(at - int(at))
        log = self.errors.log()
        row = log[i] if w == 0 else (1 - w) * log[i] + w * log[i + 1]
        measured = self._on_grid(row.exp(), event_shape)
        if inside != sigma:
            # Outside the table the network's gain over the Gaussian is taken to stay what it is at the edge.
            measured = measured / self.covariance(event_shape).given(inside).eigenvalues * given.eigenvalues
        return Covariance(FourierBasis(2), measured)

    def _on_grid(self, table: Tensor, event_shape: tuple[int, ...]) -> Tensor:
        h, w = event_shape[-2:]
        f = torch.hypot(torch.fft.fftfreq(h, dtype=torch.float64)[:, None], torch.fft.fftfreq(w, dtype=torch.float64)[None])
        values = np.exp(np.interp(f.numpy(), self.frequencies.numpy(), table.log().numpy()))
        return torch.from_numpy(values)


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
