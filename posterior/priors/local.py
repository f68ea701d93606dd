"""Where in a field a denoiser errs: the local scale of the covariance of x0 given x_sigma, fitted on held-out fields."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from posterior.priors.covariance import Covariance, ScaledCovariance, turned
from posterior.priors.reference import MeasuredReference, RadialReference

if TYPE_CHECKING:
    from posterior.priors.base import Prior

WINDOWS = (0.5, 2.0)  # standard deviations of the windows of the features, grid points
PHASE_WINDOW = 2.0  # of that of the phase
KNOTS = 8
RIDGE = 1e-3
DARK = 1e-12  # what a feature is at least: below it every field counts as empty
MOST = 400_000  # grid points that a regression looks at
# Of bands: where they meet, cycles per grid point, and how sharply.
CROSSOVER, STEEPNESS = 0.2, 8
ROUNDS = 4  # of draws, to find the spectrum that gives draws the power that errors have


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
    """

    references: tuple[MeasuredReference, ...]
    edges: Tensor
    values: Tensor
    gain: float

    def __post_init__(self) -> None:
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
            return torch.stack([_response(seen, e, v) for e, v in tables], 1)

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


def _hats(seen: Tensor, edges: Tensor, knots: int) -> tuple[Tensor, Tensor]:
    """For features (B, F, H, W): the knot below each and the weight of the one above."""
    low, high = (edges[:, i].to(seen)[:, None, None] for i in (0, 1))
    at = ((seen - low) / (high - low)).clamp(0, 1) * (knots - 1)
    below = at.floor().clamp_max(knots - 2)
    return below.long(), at - below


def _response(seen: Tensor, edges: Tensor, values: Tensor) -> Tensor:
    """log s^2 (B, H, W)."""
    below, share = _hats(seen, edges, values.shape[1])
    table = values.to(seen)
    parts = [torch.lerp(t[below[:, k]], t[below[:, k] + 1], share[:, k]) for k, t in enumerate(table)]
    return torch.stack(parts).sum(0)


def fit_local_spread(
    prior: Prior, fields: Tensor, *, phase: bool = False, sigmas: Sequence[float] | None = None, seed: int = 0
) -> LocalSpread:
    """Fit where a prior's denoiser errs to its errors on fields that it was not trained on.

    At each noise level and for each component the squared error |x0 - D|^2, averaged over channels, is taken to be s^2 times
    one of a law of mean 1, and log s^2 is regressed on the features of `LocalSpread` by the quasi-likelihood of variances, sum
    log s^2 + e^2 / s^2, which is least on average at the true s^2 whatever that law is. What is left, H_b^2 S^-1 (x0 - D), is
    fitted in the same way for each band. s_b is normalised to a mean square of 1 over the fields, and C is found by turns of
    drawing and correcting: C times the power of errors over that of draws. The first half of the fields is fitted; the other
    tells where it helps (`LocalSpread.gain`): where it does not, s = 1. Keep the result with ``prior.local_spread = ...``;
    `save_prior` writes it and `GaussianBridge` uses it.

    Args:
        prior: A prior whose reference is a `RadialReference` or an `EOFReference`.
        fields: Held-out fields (N, *event), at least 2, physical units.

    Other arguments:
        phase: Whether errors along the phase of complex images, (N, 2, H, W) with the real part first, and across it are told
            apart; for a `RadialReference`.
        sigmas: Noise levels, ascending; those of the reference's error spectrum if None.
        seed: Seed of the noise.

    Raises:
        ValueError: If the prior carries no such reference, there are too few fields or no levels, or ``phase`` is asked for of
            fields that are no complex images.

    References:
        Wedderburn. Quasi-likelihood functions, generalized linear models, and the Gauss-Newton method. 1974. Biometrika 61(3).
    """
    reference = prior.reference
    if not isinstance(reference, MeasuredReference):
        raise ValueError(f"fit_local_spread: prior '{prior.name}' carries no RadialReference or EOFReference")
    levels = reference.sigmas if sigmas is None else torch.as_tensor(sigmas, dtype=torch.float64)
    if levels is None or len(fields) < 2:
        raise ValueError(
            f"fit_local_spread: got {len(fields)} fields; wanted two at least, and sigmas= without an error spectrum"
        )
    prior.check_event(tuple(fields.shape[1:]), "fit_local_spread")
    if phase and not (fields.ndim == 4 and fields.shape[1] == 2 and isinstance(reference, RadialReference)):
        raise ValueError(
            f"fit_local_spread: phase=True takes complex images (N, 2, H, W) and a RadialReference; got {tuple(fields.shape)} "
            f"and {type(reference).__name__}"
        )
    clean = prior.affine.to_standard(fields.double())
    exists = _existing(prior, fields)
    fits = []
    for i, sigma in enumerate(levels.tolist()):
        g = torch.Generator().manual_seed(seed + i)
        noisy = (clean + sigma * torch.randn(clean.shape, generator=g, dtype=clean.dtype)).float()
        with torch.no_grad():
            denoised = torch.cat([prior.denoise(x, sigma) for x in noisy.split(4)]).double()
        error, around = clean - denoised, frame(denoised) if phase else None
        seen, parts = features(denoised, around), turned(around, error, -1).split(1, 1) if phase else (error,)
        fits.append([_fit(reference, seen, part, sigma, exists, g) for part in parts])
    errors = [torch.stack([level[k].errors for level in fits]).clamp_min(1e-30) for k in range(len(fits[0]))]
    return LocalSpread(
        tuple(reference.with_errors(levels, e) for e in errors),
        torch.stack([torch.stack([part.edges for part in level]) for level in fits]),
        torch.stack([torch.stack([part.values for part in level]) for level in fits]),
        float(np.mean([sum(part.gain for part in level) for level in fits])),
    )


@dataclass(frozen=True)
class _Fit:
    """What is fitted to one component at one noise level."""

    edges: Tensor
    values: Tensor
    errors: Tensor
    gain: float


def _existing(prior: Prior, fields: Tensor) -> Tensor:
    """(H, W) boolean: grid points that exist in a channel, where the prior knows which do; all of them elsewhere."""
    if prior.labels is None or prior.labels.mask is None:
        return torch.ones(fields.shape[-2:], dtype=torch.bool)
    return prior.labels.mask.reshape(-1, *fields.shape[-2:]).any(0)


def _fit(reference: MeasuredReference, seen: Tensor, error: Tensor, sigma: float, exists: Tensor, g: torch.Generator) -> _Fit:
    half = len(error) // 2
    spread = (len(error), *[1] * (error.ndim - 3), *error.shape[-2:])
    # Where nothing exists nothing errs, whatever the field is: (N, F, 1, points) and (N, 1, points) of the others.
    known = seen[..., None, exists]
    pick = torch.randperm(half * int(exists.sum()), generator=g)[:MOST]
    edges = _edges(known[:half], pick)
    amplitudes = band_amplitudes(reference, tuple(error.shape[1:]))

    def fitted(part: Tensor) -> Tensor:
        """log s^2 at the knots for errors (N, ...), normalised; 0 where it does not help the fields that are not fitted."""
        target = _squared(part)[..., None, exists]
        found = _regress(known[:half], target[:half], edges, pick)
        level, told = target[:half].mean().log(), _response(known[half:], edges, found)
        if float((level + target[half:] / level.exp() - told - target[half:] * (-told).exp()).mean()) <= 0:
            return torch.zeros_like(found)
        return found - _response(known, edges, found).exp().mean().log() / len(edges)

    def scale(table: Tensor) -> Tensor:
        return (_response(seen, edges, table) / 2).exp().reshape(spread)

    everything = fitted(error)
    # Bands are those of errors of one size: large errors near small ones would leak into the bands of these.
    white = error / scale(everything)
    values = [
        everything if h is None else everything + fitted(torch.fft.ifft2(h.square() * torch.fft.fft2(white)).real)
        for h in amplitudes
    ]
    values = [v - _response(known, edges, v).exp().mean().log() / len(edges) for v in values]
    scales = [scale(v) for v in values]

    errors, base = _spectrum(reference, error, sigma, amplitudes, tuple(scales), g)
    return _Fit(edges, torch.stack(values), errors, _gain(base, amplitudes, scales, _squared(error), exists))


def _spectrum(
    reference: MeasuredReference,
    error: Tensor,
    sigma: float,
    amplitudes: list[Tensor | None],
    scales: tuple[Tensor, ...],
    g: torch.Generator,
) -> tuple[Tensor, Covariance]:
    """The row of the table of errors with which draws have the power of errors, and C as the last draws had it."""
    wanted = reference.error_power(error, sigma).clamp_min(1e-30)
    errors, level = wanted, torch.tensor([sigma], dtype=torch.float64)
    for _ in range(ROUNDS):
        base = reference.with_errors(level, errors[None]).error_covariance(tuple(error.shape[1:]), sigma)
        bands = tuple(base if h is None else base.scaled(h.square()) for h in amplitudes)
        white = torch.randn(error.shape, generator=g, dtype=error.dtype)
        drawn = reference.error_power(ScaledCovariance(bands, scales, base).sqrt(white), sigma)
        errors = errors * wanted / drawn.clamp_min(1e-30)
    return errors, base


def _squared(error: Tensor) -> Tensor:
    """Averaged over channels, (N, H, W)."""
    return error.reshape(len(error), -1, *error.shape[-2:]).square().mean(1).clamp_min(1e-30)


def _gain(base: Covariance, amplitudes: list[Tensor | None], scales: list[Tensor], squared: Tensor, exists: Tensor) -> float:
    """See `LocalSpread.gain`; of the half of the fields that was not fitted."""

    def share(*bands: Tensor | None) -> float:
        return base.scaled(math.prod((h for h in bands if h is not None), start=torch.ones(()))).mean_variance

    sizes = [s.reshape(squared.shape)[..., exists] for s in scales]
    shares = {(i, j): share(amplitudes[i], amplitudes[j]) for i in range(len(sizes)) for j in range(len(sizes))}
    # The local variance is that of the bands together, each of which has a share in the field's.
    parts = [w * sizes[i] * sizes[j] for (i, j), w in shares.items()]
    half = len(squared) // 2
    local, target = (sum(parts[1:], parts[0]) / sum(shares.values()))[half:], squared[..., exists]
    level, target = target[:half].mean(), target[half:]
    gain = 0.5 * (target / level - local.log() - target / (level * local)).mean()
    return max(0.0, float(gain))


def _edges(seen: Tensor, pick: Tensor) -> Tensor:
    """First and last knot of each feature, (F, 2), of features (N, F, 1, points) at some of the points."""
    picked = seen.transpose(0, 1).flatten(1)[:, pick]
    edges = torch.quantile(picked, torch.tensor([0.01, 0.99], dtype=seen.dtype), dim=1).T.contiguous()
    edges[:, 1] = torch.maximum(edges[:, 1], edges[:, 0] + 1e-6)
    return edges


def _regress(seen: Tensor, squared: Tensor, edges: Tensor, pick: Tensor) -> Tensor:
    """log s^2 at the knots, (F, K), by damped Newton steps on a convex sum over some of the points."""
    features_, target = seen.transpose(0, 1).flatten(1)[:, pick], squared.flatten()[pick]
    below, share = (v[0, :, 0] for v in _hats(features_[None, :, None], edges, KNOTS))
    hats = torch.zeros(len(target), len(edges), KNOTS, dtype=seen.dtype)
    hats.scatter_(2, below.T[..., None], 1 - share.T[..., None]).scatter_add_(2, below.T[..., None] + 1, share.T[..., None])
    basis, level = hats.flatten(1), target.mean().log()
    ridge = 2 * RIDGE * torch.eye(basis.shape[1], dtype=seen.dtype)

    def loss(b: Tensor) -> Tensor:
        log = level + basis @ b
        return (log + target * (-log).exp()).mean() + RIDGE * b.square().sum()

    b = torch.zeros(basis.shape[1], dtype=seen.dtype)
    for _ in range(25):
        ratio = target * (-(level + basis @ b)).exp()
        slope = basis.T @ (1 - ratio) / len(target) + ridge @ b
        # Halfway to the expected curvature, for squared errors have heavy tails.
        step = torch.linalg.solve((basis * (1 + ratio[:, None]) / 2).T @ basis / len(target) + ridge, slope)
        length = 1.0
        while length > 1e-3 and loss(b - length * step) > loss(b):
            length /= 2
        b = b - length * step
        if float((length * step).abs().max()) < 1e-5:
            break
    return b.reshape(len(edges), KNOTS) + level / len(edges)
