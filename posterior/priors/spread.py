"""A correction of the spread that a reference gives a denoiser's error, fitted on held-out fields."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from posterior.priors.covariance import Covariance
from posterior.priors.reference import Reference

if TYPE_CHECKING:
    from posterior.priors.base import Prior


@dataclass(frozen=True)
class SpreadCorrection:
    """Factors on the standard deviation of x0 given x_sigma, one for each noise level and band.

    A band holds the directions in which the variance of the reference Gaussian lies between two edges: rings of frequency
    for a falling spectrum, runs of EOFs for a grid. Between noise levels the logarithm of a factor is interpolated in log
    sigma; beyond them it is that of the end.

    Args:
        sigmas: (M,) ascending noise levels.
        edges: (K - 1,) ascending variances between the K bands, standardised units squared.
        factors: (M, K) positive.
        gain: What the correction gains in the Gaussian log-density of the errors of fields that were not fitted, for each
            coordinate; positive where it helps.
    """

    sigmas: Tensor
    edges: Tensor
    factors: Tensor
    gain: float

    def __post_init__(self) -> None:
        shape = (len(self.sigmas), len(self.edges) + 1)
        if tuple(self.factors.shape) != shape or not bool((self.factors > 0).all()):
            raise ValueError(f"SpreadCorrection: factors of shape {tuple(self.factors.shape)}; wanted {shape}, positive")

    @property
    def validated(self) -> bool:
        """Whether it helped where it was not fitted."""
        return self.gain > 0

    def error_covariance(self, reference: Reference, event_shape: tuple[int, ...], sigma: float) -> Covariance:
        """`Reference.error_covariance` with the spread corrected."""
        cov = reference.error_covariance(event_shape, sigma)
        log_sigma = np.log(self.sigmas.cpu().numpy())
        row = [np.interp(np.log(sigma), log_sigma, column.log().numpy()) for column in self.factors.cpu().T]
        band = torch.bucketize(reference.covariance(event_shape).eigenvalues, self.edges)
        return Covariance(cov.basis, cov.eigenvalues * torch.from_numpy(np.exp(row)).to(band.device)[band] ** 2)


def fit_spread_correction(
    prior: Prior, fields: Tensor, *, sigmas: Sequence[float] | None = None, bands: int = 6, seed: int = 0
) -> SpreadCorrection:
    """Fit a correction to the errors of a prior's denoiser on fields that it was not trained on.

    At each noise level and in each band the factor is the root of the mean power of x0 - D(x0 + sigma eps, sigma) over what
    the reference says. Half of the fields fit the factors; the other half tell whether they help (`SpreadCorrection.gain`).
    Directions in which the reference has no variance, those of points behind a mask, belong to no band, and fields may be NaN
    where the labels' mask says that there are no points. Keep the correction with ``prior.spread = ...``; `save_prior` writes
    it, and ``GaussianBridge(corrected=True)`` uses it.

    Args:
        prior: A prior with a reference.
        fields: Held-out fields (N, *event), N even and at least 2, physical units.

    Other arguments:
        sigmas: Noise levels; 8 from 0.02 to 5 times the prior's rms, as far as it goes, if None.
        bands: Bands of the reference's variances, each of as many directions.
        seed: Seed of the noise.

    Raises:
        ValueError: If the prior carries no reference, or fields, levels or bands are too few, or fields are not finite.
    """
    if prior.reference is None:
        raise ValueError(f"fit_spread_correction: prior '{prior.name}' carries no reference Gaussian; see estimate_reference")
    if len(fields) < 2 or bands < 1:
        raise ValueError(f"fit_spread_correction: wanted two fields and one band at least, got {len(fields)} and {bands}")
    low, high = max(prior.sigma_min, 0.02 * prior.rms), min(prior.sigma_max, 5 * prior.rms)
    levels = torch.as_tensor(np.geomspace(low, high, 8) if sigmas is None else np.sort(sigmas)).double()
    event = tuple(fields.shape[1:])
    prior.check_event(event, "fit_spread_correction")
    clean = known_fields(prior, fields, "fit_spread_correction")
    cov = prior.reference.covariance(event)
    varies = cov.eigenvalues > 0
    ranked = cov.eigenvalues[varies].sort().values
    inner = torch.linspace(0, len(ranked), bands + 1)[1:-1].long()
    # Half way between neighbours, so that rounding moves no direction to another band.
    edges = ((ranked[inner] * ranked[inner - 1]).sqrt()).unique() if ranked.numel() > 1 else ranked[:0]
    band = torch.where(varies, torch.bucketize(cov.eigenvalues, edges), -1)
    share = torch.bincount(band[varies], minlength=len(edges) + 1) / varies.sum()
    g = torch.Generator().manual_seed(seed)
    half, rows, gains = len(clean) // 2, [], []
    for sigma in levels.tolist():
        noisy = clean + sigma * torch.randn(clean.shape, generator=g, dtype=clean.dtype)
        with torch.no_grad():
            error = torch.cat([c - prior.denoise(x, sigma) for c, x in zip(clean.split(8), noisy.split(8), strict=True)])
        said = prior.reference.error_covariance(event, sigma)
        fitted, held = (_ratios(part, said, band, len(edges) + 1) for part in (error[:half], error[half:]))
        rows.append(fitted.sqrt())
        # -2 log-density a coordinate: r as it is, r / f^2 + log f^2 corrected
        gains.append(float(0.5 * (share * (held - held / fitted - fitted.log())).sum()))
    return SpreadCorrection(levels, edges, torch.stack(rows), float(np.mean(gains)))


def known_fields(prior: Prior, fields: Tensor, owner: str) -> Tensor:
    """Fields in standardised coordinates, float64; 0 where the labels' mask says that there are no points.

    Raises:
        ValueError: If they are not finite elsewhere; ``owner`` is who asks.
    """
    clean = prior.affine.to_standard(fields.double())
    if prior.labels is not None and prior.labels.mask is not None:
        clean = torch.where(prior.labels.mask, clean, 0.0)
    if not torch.isfinite(clean).all():
        raise ValueError(f"{owner}: fields have values that are not finite at points that exist")
    return clean


def _ratios(errors: Tensor, said: Covariance, band: Tensor, bands: int) -> Tensor:
    """Mean power of errors over the variance that is said, in each band; what has none is in band -1."""
    copies = errors[0].numel() / said.eigenvalues.numel()
    weights = said.eigenvalues.clamp_min(1e-30)
    out = []
    for k in range(bands):
        inside = Covariance(said.basis, torch.where(band == k, 1 / weights, 0.0))
        out.append(inside.sqrt(errors).square().sum() / (len(errors) * copies * (band == k).sum().clamp_min(1)))
    return torch.stack(out).clamp_min(1e-12)
