"""Where in a field a denoiser errs: the local scale of the covariance of x0 given x_sigma."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from posterior.priors.covariance import Covariance, ScaledCovariance, turned
from posterior.priors.reference import MeasuredReference, RadialReference

WINDOWS = (0.5, 2.0)  # standard deviations of the windows of the features, grid points
PHASE_WINDOW = 2.0  # of that of the phase
DARK = 1e-12  # what a feature is at least: below it every field counts as empty
# Of bands: where they meet, cycles per grid point, and how sharply.
CROSSOVER, STEEPNESS = 0.2, 8


@dataclass(frozen=True)
class LocalSpread:
    """C_sigma(x) = L L^T, L = U sum_b S_b H_b C^(1/2) with S_b = diag(s_b), s_b and U functions of the denoised field around
    each grid point.

    H_b cuts frequencies into bands: a coarse one, h(f) = 1 / (1 + (f / 0.2)^8) with f in cycles per grid point, and a fine
    one, 1 - h. A denoiser errs in coarse structure elsewhere than in fine structure. Where C is not diagonal in Fourier space
    (EOFs) there is one band.

    The features that s_b depends on are taken of D = D(x, sigma): the logarithms of |grad D|^2, |lap D|^2 (five-point
    Laplacian) and D^2, averaged over channels, each over a Gaussian window of 0.5 grid points and over one of 2. log s_b^2 is a
    sum of piecewise linear functions of them, one for each, constant beyond their ends, and is interpolated between noise
    levels in log sigma. C is such that fields of L times white noise have the power of U^T (x0 - D).

    With one component U = I and s_b is that of all channels. With two, fields are complex images, real part first, and the
    error is told apart into that along the phase of D and that across it, each with its own s_b and its own spectrum: (x0 - D)
    exp(-i phi), phi the phase of D averaged over a window of 2 grid points. Where images have a smooth phase a denoiser knows
    it far better than it knows their magnitude. The gradient is then two features, along the phase and across it, and so is the
    Laplacian: those across say how fast the phase turns.

    Args:
        references: For each component, C as `MeasuredReference.error_covariance`.
        edges: (M, components, F, 2): first and last knot of each of the F features, 6 or with two components 10, for the
            noise levels of ``references``.
        values: (M, components, bands, F, K): log s_b^2 at K knots, equally spaced; those of the features are added.
        gain: What the Gaussian log-density of the errors of fields that were not fitted gains over one scale for the whole
            field, for each grid point and with independent errors. The same fields decide at which noise levels, for which
            component and in which band s is not 1, so it is a little too good, and 0 where s never helps.
        tails: How firmly s_b^2 is held against what data say of an error, kappa of `posterior.guidance.tails.judged`: the
            smaller, the heavier the tails that errors are taken to have. None where they are taken to be Gaussian given s_b.
    """

    references: tuple[MeasuredReference, ...]
    edges: Tensor
    values: Tensor
    gain: float
    tails: float | None = None

    def __post_init__(self) -> None:
        if self.tails is not None and not self.tails > 0:
            raise ValueError(f"LocalSpread: tails must be positive, got {self.tails}")
        counts = {0 if r.sigmas is None else len(r.sigmas) for r in self.references}
        levels, parts = max(counts, default=0), len(self.references)
        count = len(WINDOWS) * (2 * parts + 1)
        bands = number_of_bands(self.references[0]) if parts else 0
        shapes = self.edges.shape == (levels, parts, count, 2) and self.values.shape[:-1] == (levels, parts, bands, count)
        right = len(counts) == 1 and 0 not in counts and parts in (1, 2)
        if not (right and shapes and self.values.shape[-1] > 1 and bool((self.edges.diff() > 0).all())):
            raise ValueError(
                f"LocalSpread: edges {tuple(self.edges.shape)} and values {tuple(self.values.shape)} for {levels} noise "
                f"levels and {parts} components; wanted rising (levels, components, {count}, 2) and (levels, components, "
                f"{bands}, {count}, knots), components 1 or 2"
            )

    def check_event(self, event_shape: tuple[int | None, ...], owner: str) -> None:
        """Raise ValueError if events have no place for what it says: two components are those of complex images (2, H, W)."""
        complex_images = len(event_shape) == 3 and event_shape[0] == 2 and isinstance(self.references[0], RadialReference)
        if len(event_shape) < 2 or (len(self.references) == 2 and not complex_images):
            raise ValueError(
                f"{owner}: a local spread of {len(self.references)} components takes "
                + ("complex images (2, H, W) and a RadialReference" if len(self.references) == 2 else "events (..., H, W)")
                + f"; got events {tuple(event_shape)} and {type(self.references[0]).__name__}"
            )

    def scales(self, denoised: Tensor, sigma: float) -> tuple[Tensor, ...]:
        """s_b of each band, the coarse one first, for D(x, sigma).

        Each is (B, components, 1 for each further axis, H, W) for fields (B, *event); (B, H, W) for (B, H, W).
        """
        sigmas = self.references[0].sigmas
        assert sigmas is not None
        known = sigmas.log().cpu().numpy()
        at = float(np.interp(math.log(sigma), known, np.arange(len(known))))
        below, share = int(at), at - int(at)
        seen = features(denoised, self.frame(denoised))

        def log(level: int, band: int) -> Tensor:
            tables = zip(self.edges[level], self.values[level, :, band], strict=True)
            return torch.stack([response(seen, e, v) for e, v in tables], 1)

        def scale(band: int) -> Tensor:
            found = log(below, band)
            if share > 0:
                found = torch.lerp(found, log(below + 1, band), share)
            leading = found.shape[: min(2, denoised.ndim - 2)]
            return (found / 2).exp().reshape(*leading, *[1] * (denoised.ndim - 4), *denoised.shape[-2:])

        return tuple(scale(band) for band in range(self.values.shape[2]))

    def covariance(self, denoised: Tensor, sigma: float, typical: Tensor) -> ScaledCovariance:
        """The covariance of x0 given x, for each field of a batch.

        Args:
            denoised: D(x, sigma), (B, *event).
            sigma: The noise level.
            typical: A field (1, *event) that depends on no draw and looks like one; see `ScaledCovariance`.
        """
        event_shape = tuple(denoised.shape[1:])
        self.check_event(event_shape, "LocalSpread")
        parts = [r.error_covariance(event_shape, sigma) for r in self.references]
        base = parts[0] if len(parts) == 1 else Covariance(parts[0].basis, torch.stack([p.eigenvalues for p in parts]))
        amplitudes = band_amplitudes(self.references[0], event_shape)
        bands = tuple(base if h is None else base.scaled(h.to(base.eigenvalues).square()) for h in amplitudes)

        def around(d: Tensor, stands: ScaledCovariance | Covariance) -> ScaledCovariance:
            return ScaledCovariance(bands, self.scales(d, sigma), stands, self.frame(d))

        return around(denoised, around(typical.to(denoised), base))

    def frame(self, denoised: Tensor) -> Tensor | None:
        """cos and sin of the phase (B, 2, H, W) that tells two components apart; None with one."""
        return frame(denoised) if len(self.references) == 2 else None


def number_of_bands(reference: MeasuredReference) -> int:
    """Of which each has its own scale."""
    return 2 if isinstance(reference, RadialReference) else 1


def band_amplitudes(reference: MeasuredReference, event_shape: tuple[int, ...]) -> list[Tensor | None]:
    """H_b on the frequency grid (H, W), the coarse band first; [None] for one band of everything."""
    if number_of_bands(reference) == 1:
        return [None]
    f = torch.hypot(*torch.meshgrid(*(torch.fft.fftfreq(n, dtype=torch.float64) for n in event_shape[-2:]), indexing="ij"))
    coarse = 1 / (1 + (f / CROSSOVER) ** STEEPNESS)
    return [coarse, 1 - coarse]


def frame(denoised: Tensor) -> Tensor:
    """cos and sin of the phase of complex images (B, 2, H, W), averaged over a window; of phase 0 where there is nothing."""
    around = _smooth(denoised, PHASE_WINDOW)
    length = torch.linalg.vector_norm(around, dim=1, keepdim=True)
    return torch.where(length > DARK, around / length.clamp_min(DARK), around.new_tensor([1.0, 0.0])[:, None, None])


def features(fields: Tensor, phase: Tensor | None = None) -> Tensor:
    """log of |grad D|^2, |lap D|^2 and D^2 around each grid point of fields (B, *event), (B, F, H, W); see `LocalSpread`.

    F is 6, window after window; with a phase as `frame` gives it 10, gradient and Laplacian along the phase and across it.
    """
    d = fields.reshape(len(fields), -1, *fields.shape[-2:])
    padded = torch.nn.functional.pad(d, (1, 1, 1, 1), mode="replicate")
    left, right, up, down = padded[..., 1:-1, :-2], padded[..., 1:-1, 2:], padded[..., :-2, 1:-1], padded[..., 2:, 1:-1]
    across, along, curved = (
        (turned(phase, v, -1)).square() for v in ((right - left) / 2, (down - up) / 2, left + right + up + down - 4 * d)
    )
    energy = [across + along, curved, d.square().mean(1, keepdim=True)]
    if phase is None:
        energy[:2] = [v.mean(1, keepdim=True) for v in energy[:2]]
    seen = torch.cat(energy, 1)
    return torch.cat([_smooth(seen, width) for width in WINDOWS], 1).clamp_min(DARK).log()


def _smooth(fields: Tensor, width: float) -> Tensor:
    """Averages over a Gaussian window of this standard deviation, (B, C, H, W)."""
    reach = math.ceil(3 * width)
    window = (-0.5 * (torch.arange(-reach, reach + 1, dtype=fields.dtype, device=fields.device) / width).square()).exp()
    window = window / window.sum()
    around = torch.nn.functional.pad(fields.flatten(0, 1)[:, None], (reach,) * 4, mode="replicate")
    smooth = torch.nn.functional.conv2d(around, window[None, None, :, None])
    return torch.nn.functional.conv2d(smooth, window[None, None, None, :]).reshape(fields.shape)


def hats(seen: Tensor, edges: Tensor, knots: int) -> tuple[Tensor, Tensor]:
    """For features (B, F, H, W): the knot below each and the weight of the one above."""
    low, high = (edges[:, i].to(seen)[:, None, None] for i in (0, 1))
    at = ((seen - low) / (high - low)).clamp(0, 1) * (knots - 1)
    below = at.floor().clamp_max(knots - 2)
    return below.long(), at - below


def response(seen: Tensor, edges: Tensor, values: Tensor) -> Tensor:
    """log s^2 (B, H, W)."""
    below, share = hats(seen, edges, values.shape[1])
    table = values.to(seen)
    parts = [torch.lerp(t[below[:, k]], t[below[:, k] + 1], share[:, k]) for k, t in enumerate(table)]
    return torch.stack(parts).sum(0)
