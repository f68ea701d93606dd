"""Fit where a prior's denoiser errs, to fields that it was not trained on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from posterior.priors.covariance import Covariance, ScaledCovariance, turned
from posterior.priors.local import LocalSpread, band_amplitudes, features, frame, hats, response
from posterior.priors.reference import MeasuredReference, RadialReference
from posterior.priors.spread import known_fields

if TYPE_CHECKING:
    from posterior.priors.base import Prior

KNOTS = 8
RIDGE = 1e-3
ROUNDS = 4  # of draws, to find the spectrum that gives draws the power that errors have


def fit_local_spread(
    prior: Prior,
    fields: Tensor,
    *,
    phase: bool = False,
    sigmas: Sequence[float] | None = None,
    seed: int = 0,
    points: int = 100_000,
    tails: float | None = None,
) -> LocalSpread:
    """Fit where a prior's denoiser errs to its errors on fields that it was not trained on.

    At each noise level and for each component the squared error |x0 - D|^2, averaged over channels, is taken to be s^2 times
    one of a law of mean 1, and log s^2 is regressed on the features of `LocalSpread` by the quasi-likelihood of variances, sum
    log s^2 + e^2 / s^2, which is least on average at the true s^2 whatever that law is. What is left, H_b^2 S^-1 (x0 - D), is
    fitted in the same way for each band. s_b is normalised to a mean square of 1 over the fields, and C is found by turns of
    drawing and correcting: C times the power of errors over that of draws. The first half of the fields is fitted; the other
    tells where it helps (`LocalSpread.gain`): where it does not, s = 1. Keep the result with ``prior.local_spread = ...``;
    `save_prior` writes it and `GaussianBridge` uses it. What fields are where the labels' mask says that there are no points,
    NaN or a number, has no part in it.

    Args:
        prior: A prior whose reference is a `RadialReference` or an `EOFReference`.
        fields: Held-out fields (N, *event), at least 2, physical units.

    Other arguments:
        phase: Whether errors along the phase of complex images, (N, 2, H, W) with the real part first, and across it are told
            apart; for a `RadialReference`.
        sigmas: Noise levels, ascending; those of the reference's error spectrum if None.
        seed: Seed of the noise.
        points: Grid points that a regression looks at, of all fitted fields together; more where what matters is rare.
        tails: See `LocalSpread`. It is not fitted: try some from 0.1 to 1 on problems like yours.

    Raises:
        ValueError: If the prior carries no such reference, there are too few fields or no levels, fields are not finite, or
            ``phase`` is asked for of fields that are no complex images.

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
    clean = known_fields(prior, fields, "fit_local_spread")
    exists = _existing(prior, fields)
    fits = []
    for i, sigma in enumerate(levels.tolist()):
        g = torch.Generator().manual_seed(seed + i)
        noisy = (clean + sigma * torch.randn(clean.shape, generator=g, dtype=clean.dtype)).float()
        with torch.no_grad():
            denoised = torch.cat([prior.denoise(x, sigma) for x in noisy.split(4)]).double()
        error, around = clean - denoised, frame(denoised) if phase else None
        seen, parts = features(denoised, around), turned(around, error, -1).split(1, 1) if phase else (error,)
        fits.append([_fit(reference, seen, part, sigma, exists, g, points) for part in parts])
    errors = [torch.stack([level[k].errors for level in fits]).clamp_min(1e-30) for k in range(len(fits[0]))]
    return LocalSpread(
        tuple(reference.with_errors(levels, e) for e in errors),
        torch.stack([torch.stack([part.edges for part in level]) for level in fits]),
        torch.stack([torch.stack([part.values for part in level]) for level in fits]),
        float(np.mean([sum(part.gain for part in level) for level in fits])),
        tails,
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


def _fit(
    reference: MeasuredReference,
    seen: Tensor,
    error: Tensor,
    sigma: float,
    exists: Tensor,
    g: torch.Generator,
    points: int,
) -> _Fit:
    half = len(error) // 2
    spread = (len(error), *[1] * (error.ndim - 3), *error.shape[-2:])
    # Where nothing exists nothing errs, whatever the field is: (N, F, 1, points) and (N, 1, points) of the others.
    known = seen[..., None, exists]
    pick = torch.randperm(half * int(exists.sum()), generator=g)[:points]
    edges = _edges(known[:half], pick)
    amplitudes = band_amplitudes(reference, tuple(error.shape[1:]))

    def fitted(part: Tensor) -> Tensor:
        """log s^2 at the knots for errors (N, ...), normalised; 0 where it does not help the fields that are not fitted."""
        target = _squared(part)[..., None, exists]
        found = _regress(known[:half], target[:half], edges, pick)
        level, told = target[:half].mean().log(), response(known[half:], edges, found)
        if float((level + target[half:] / level.exp() - told - target[half:] * (-told).exp()).mean()) <= 0:
            return torch.zeros_like(found)
        return found - response(known, edges, found).exp().mean().log() / len(edges)

    def scale(table: Tensor) -> Tensor:
        return (response(seen, edges, table) / 2).exp().reshape(spread)

    everything = fitted(error)
    # Bands are those of errors of one size: large errors near small ones would leak into the bands of these.
    white = error / scale(everything)
    values = [
        everything if h is None else everything + fitted(torch.fft.ifft2(h.square() * torch.fft.fft2(white)).real)
        for h in amplitudes
    ]
    values = [v - response(known, edges, v).exp().mean().log() / len(edges) for v in values]
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
    below, share = (v[0, :, 0] for v in hats(features_[None, :, None], edges, KNOTS))
    weights = torch.zeros(len(target), len(edges), KNOTS, dtype=seen.dtype)
    weights.scatter_(2, below.T[..., None], 1 - share.T[..., None]).scatter_add_(2, below.T[..., None] + 1, share.T[..., None])
    basis, level = weights.flatten(1), target.mean().log()
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
