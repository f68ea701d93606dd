"""Unconditional draws beside held-out fields: mean, spread, EOF spectrum, power spectrum, extremes, correlation.

Both sets are finite, and neighbours in time resemble each other, so every figure comes with what chance would do: bands by
resampling fields (held-out ones in blocks), and deviations from which the variance of resampling is taken off.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from posterior.priors.reference import radial_spectrum
from posterior.uncertainty._statistics import percentiles, resampled_means
from posterior.uncertainty.prior_check.verdicts import Grade, Verdict, in_blocks, listed

RESAMPLES = 200
MOST_EOFS = 50
CHUNK = 4096
# Points that vary by less than this share of the most that any does, such as air around a head, count for nothing.
STILL = 0.02


@dataclass(frozen=True, eq=False)
class Ratio:
    """A positive quantity of draws over that of held-out fields, at several places.

    Args:
        at: The places (m,).
        draws: Of the draws (m,).
        held_out: Of held-out fields (m,).
        error: Standard error of ln(ratio), by resampling (m,).
        deviation: Root-mean-square of ln(ratio) over the places, without what resampling explains.
    """

    at: Tensor
    draws: Tensor
    held_out: Tensor
    error: Tensor
    deviation: float

    @property
    def ratio(self) -> Tensor:
        """Draws over held-out fields (m,)."""
        return self.draws / self.held_out

    @property
    def lower(self) -> Tensor:
        """Lower end of the 95 % band of the ratio (m,)."""
        return self.ratio * torch.exp(-_quantile(0.025) * self.error)

    @property
    def upper(self) -> Tensor:
        """Upper end (m,)."""
        return self.ratio * torch.exp(_quantile(0.025) * self.error)

    def outside(self, limit: float) -> Tensor:
        """Places that are off by more than ``limit`` however many places were looked at, (m,)."""
        slack = _quantile(0.025 / len(self.at)) * self.error
        return self.ratio.log().abs() > math.log1p(limit) + slack


def _quantile(tail: float) -> Tensor:
    """What a standard normal exceeds with probability ``tail``."""
    return -torch.special.ndtri(torch.tensor(tail, dtype=torch.float64))


@dataclass(frozen=True, eq=False)
class FieldStatistics:
    """Statistics of draws and of held-out fields, standardised units.

    Args:
        what: What the draws are called in sentences.
        mean_draws: Pointwise mean (*event).
        mean_held_out: The same of held-out fields.
        moving: Points at which held-out fields vary (*event); the others count for nothing.
        bias: Root-mean-square of the difference of means, in standard deviations, without what resampling explains.
        std: Pointwise standard deviations as a `Ratio` over points.
        pooled_std: Ratio of the standard deviations pooled over points, and its 95 % band.
        eofs: Variance along the leading EOFs that hold 95 % of it, 50 at most.
        spectrum: Power against radial frequency in cycles per point, Hann-windowed; None without two axes of space.
        correlation: Lag, and correlation of draws and held-out fields at it, along the last axis (3, L).
        correlation_error: Largest difference of the correlations beyond its 95 % band.
        maxima: Largest standardised anomaly of each draw and of each held-out field.
        minima: Smallest.
        extremes_p: p-values that both sets' maxima and minima are of one law (Kolmogorov-Smirnov, blocks as counts).
    """

    what: str
    mean_draws: Tensor
    mean_held_out: Tensor
    moving: Tensor
    bias: float
    std: Ratio
    pooled_std: tuple[float, float, float]
    eofs: Ratio
    spectrum: Ratio | None
    correlation: Tensor
    correlation_error: float
    maxima: tuple[Tensor, Tensor]
    minima: tuple[Tensor, Tensor]
    extremes_p: tuple[float, float]

    @property
    def verdicts(self) -> list[Verdict]:
        """One for each statistic."""
        ratio, low, high = self.pooled_std
        off, worst = self.std.deviation, abs(ratio - 1)
        share = float(((self.std.ratio - 1).abs() <= 0.1).double().mean())
        out = self.eofs.outside(0.15)
        numbers = (out.nonzero()[:, 0] + 1).tolist()
        rest = f"more than 15 % beyond chance: EOFs {listed(numbers)}" if numbers else "none more than 15 % beyond chance"
        eof_grade = Grade.of(self.eofs.deviation, 0.15, 0.3)
        if numbers and eof_grade == Grade.good:
            eof_grade = Grade.doubtful
        found = [
            Verdict("mean", Grade.of(self.bias, 0.1, 0.25), f"{self.what} are off by {self.bias:.3g} standard deviations."),
            Verdict(
                "standard deviation",
                Grade.of(max(off, worst), 0.1, 0.2),
                f"Pooled, {ratio:.3f} times that of held-out fields (95 % band {low:.3f} to {high:.3f}); pointwise "
                f"off by {100 * off:.1f} % beyond chance, {100 * share:.0f} % of points within 10 %.",
            ),
            Verdict(
                "EOF spectrum",
                eof_grade,
                f"Variance along {len(out)} leading EOFs is off by {100 * self.eofs.deviation:.1f} % beyond chance; {rest}.",
            ),
        ]
        if self.spectrum is not None:
            deviation = self.spectrum.deviation
            text = f"Off by {100 * deviation:.1f} % beyond chance, over {len(self.spectrum.at)} rings of frequency."
            found.append(Verdict("power spectrum", Grade.of(deviation, 0.2, 0.4), text))
        text = f"Beyond chance, correlations with neighbours differ by at most {self.correlation_error:.3g}."
        found.append(Verdict("correlation", Grade.of(self.correlation_error, 0.05, 0.1), text))
        return [*found, self._extremes()]

    def _extremes(self) -> Verdict:
        p = min(1.0, 2 * min(self.extremes_p))
        middles = [float(side.median()) for pair in (self.maxima, self.minima) for side in pair]
        text = (
            f"Largest anomaly of a field, median: {middles[0]:.2f} standard deviations (held-out fields {middles[1]:.2f}); "
            f"smallest {middles[2]:.2f} ({middles[3]:.2f}); p = {p:.2g} that they are of one law."
        )
        off = max(abs(middles[0] - middles[1]), abs(middles[2] - middles[3]))
        return Verdict("extremes", Grade.good if p > 0.01 else Grade.of(off, 0.1, 0.4), text)


def compare_fields(
    draws: Tensor,
    held_out: Tensor,
    training: Tensor | None = None,
    *,
    block: int = 1,
    draws_block: int = 1,
    seed: int = 0,
    what: str = "Draws",
) -> FieldStatistics:
    """Compare two sets of fields.

    Args:
        draws: (N, *event), standardised coordinates, N at least 4.
        held_out: (n, *event).
        training: Gives the EOFs; where None the first half of the held-out fields does, and the second is compared.

    Other arguments:
        block: Neighbouring held-out fields that are resampled together.
        draws_block: Likewise of ``draws``, 1 for independent ones.
        seed: Of the resamples.
        what: What sentences call ``draws``.

    Returns:
        The statistics.

    Raises:
        ValueError: If there are fewer than 4 draws, or either set makes no two blocks.
    """
    x, h = draws.double(), held_out.double()
    if len(x) < 4:
        raise ValueError(f"compare_fields: there are {len(x)} draws; wanted 4 or more")
    h_std = h.std(0)
    moving = h_std > STILL * h_std.max()
    flat_x, flat_h = x[:, moving], h[:, moving]
    x_blocks, h_blocks = in_blocks(flat_x, draws_block), in_blocks(flat_h, block)
    scale = flat_h.std(0)

    both = [_resampled_std(flat_x, draws_block, seed), _resampled_std(flat_h, block, seed + 1)]
    least = 1e-3 * float(scale.max())  # what never varies in the draws has a logarithm all the same
    resampled = (b[0].clamp_min(least) for b in both)
    std = _ratio(torch.arange(int(moving.sum())), flat_x.std(0).clamp_min(least), scale, *resampled)
    pooled = (both[0][1] / both[1][1]).sqrt()
    low, high = percentiles(pooled, 0.95)
    value = float((flat_x.var(0).mean() / flat_h.var(0).mean()).sqrt())

    off = (flat_x.mean(0) - flat_h.mean(0)) / scale
    chance = (x_blocks.var(0) / len(x_blocks) + h_blocks.var(0) / len(h_blocks)) / scale**2
    bias = float((off.square() - chance).mean().clamp_min(0).sqrt())

    known = None if training is None else training.double()[:, moving]
    upper, lower = _ends(flat_x, flat_h, known)
    counts = len(x_blocks), len(h_blocks)
    lags, error = _correlation(x, h, moving, block, draws_block, seed)
    return FieldStatistics(
        what=what,
        mean_draws=x.mean(0),
        mean_held_out=h.mean(0),
        moving=moving,
        bias=bias,
        std=std,
        pooled_std=(value, float(low), float(high)),
        eofs=_eofs(flat_x, flat_h, known, block, draws_block, seed),
        spectrum=_spectrum(x, h, block, draws_block, seed),
        correlation=lags,
        correlation_error=error,
        maxima=upper,
        minima=lower,
        extremes_p=(_one_law(*upper, *counts), _one_law(*lower, *counts)),
    )


def _resampled_std(flat: Tensor, block: int, seed: int) -> tuple[Tensor, Tensor]:
    """Resamples of the pointwise standard deviation (R, P) and of the variance averaged over points (R,)."""
    parts, total = [], torch.zeros(RESAMPLES, dtype=torch.float64)
    for part in (flat - flat.mean(0)).split(CHUNK, dim=1):
        means = resampled_means(in_blocks(torch.stack([part, part**2], -1), block), RESAMPLES, seed)
        variance = (means[..., 1] - means[..., 0] ** 2).clamp_min(1e-30)
        parts.append(variance.sqrt())
        total += variance.sum(1)
    return torch.cat(parts, 1), total / flat.shape[1]


def _ratio(at: Tensor, draws: Tensor, held: Tensor, draws_resampled: Tensor, held_resampled: Tensor) -> Ratio:
    # Independent sets: pairs of their resamples are resamples of the ratio.
    variance = torch.var(draws_resampled.log() - held_resampled.log(), dim=0)
    deviation = float(((draws / held).log().square() - variance).mean().clamp_min(0).sqrt())
    return Ratio(at, draws, held, variance.sqrt(), deviation)


def _ends(x: Tensor, h: Tensor, training: Tensor | None) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Largest and smallest anomaly of each field of both sets.

    Standardised by a third set, or by both alike: fields look tame in units of their own few.
    """
    middle = (x.mean(0) + h.mean(0)) / 2 if training is None else training.mean(0)
    scale = ((x.var(0) + h.var(0)) / 2).sqrt() if training is None else training.std(0)
    anomalies = [(s - middle) / scale.clamp_min(STILL * float(scale.max())) for s in (x, h)]
    largest, smallest = ([f(a, 1) for a in anomalies] for f in (torch.amax, torch.amin))
    return (largest[0], largest[1]), (smallest[0], smallest[1])


def _eofs(x: Tensor, h: Tensor, training: Tensor | None, block: int, draws_block: int, seed: int) -> Ratio:
    if training is None:
        half = len(h) // (2 * block) * block
        if half < 2:
            raise ValueError(f"compare_fields: {len(h)} held-out fields are too few for EOFs; wanted {4 * block} or more")
        training, h = h[:half], h[half:]
    variances, vectors = leading_eofs(training)
    share = variances.cumsum(0) / variances.sum()
    count = min(MOST_EOFS, int((share < 0.95).sum()) + 1, len(share))
    middle = training.mean(0)
    projected = [(s - middle) @ vectors[:, :count] for s in (x, h)]
    pairs = zip(projected, (draws_block, block), strict=True)
    resampled = [_resampled_std(p, b, seed + k)[0] ** 2 for k, (p, b) in enumerate(pairs)]
    return _ratio(torch.arange(1, count + 1), projected[0].var(0), projected[1].var(0), *resampled)


def leading_eofs(fields: Tensor, most: int = 512) -> tuple[Tensor, Tensor]:
    """Variances (k,), descending, and EOFs (P, k) of flat fields (n, P)."""
    centred = fields - fields.mean(0)
    n, points = centred.shape
    if points <= n:
        values, vectors = torch.linalg.eigh(centred.T @ centred / (n - 1))
        return values.flip(0)[:most].clamp_min(0), vectors.flip(1)[:, :most]
    # Fewer fields than points: the same from the products of fields.
    centred = centred[:: max(1, n // 1024)]
    values, vectors = torch.linalg.eigh(centred @ centred.T)
    keep = values.flip(0) > 1e-10 * values.max()
    values, vectors = values.flip(0)[keep][:most], vectors.flip(1)[:, keep][:, :most]
    return values / (len(centred) - 1), centred.T @ vectors / values.sqrt()


def _spectrum(x: Tensor, h: Tensor, block: int, draws_block: int, seed: int) -> Ratio | None:
    if x.ndim < 3 or min(x.shape[-2:]) < 8:
        return None
    size = x.shape[-2:]
    bins = min(32, min(size) // 2)
    window = torch.hann_window(size[0], periodic=False).double()[:, None] * torch.hann_window(size[1], periodic=False).double()
    middle = h.mean(0)

    def rows(fields: Tensor) -> Tensor:
        anomalies = (window * (fields - middle)).reshape(len(fields), -1, *size)
        return torch.stack([radial_spectrum(a[None], bins)[1] for a in anomalies])

    found = [rows(s) for s in (x, h)]
    at = radial_spectrum(torch.zeros(1, 1, *size), bins)[0]
    inside = at <= 0.5  # the corners hold few coefficients
    found = [f[:, inside] for f in found]
    blocks = (draws_block, block)
    pairs = enumerate(zip(found, blocks, strict=True))
    resampled = [resampled_means(in_blocks(f, b), RESAMPLES, seed + k) for k, (f, b) in pairs]
    return _ratio(at[inside], found[0].mean(0), found[1].mean(0), *resampled)


def _correlation(x: Tensor, h: Tensor, moving: Tensor, block: int, draws_block: int, seed: int) -> tuple[Tensor, float]:
    """Correlation against lag along the last axis, and the largest difference beyond chance along any axis of space."""
    axes = range(-1, -1 - min(2, x.ndim - 1), -1)
    table, worst = torch.zeros(3, 1, dtype=torch.float64), 0.0
    for axis in axes:
        pairs = ((x, draws_block), (h, block))
        values, resampled = zip(*(_lagged(s, moving, axis, b, seed + k) for k, (s, b) in enumerate(pairs)), strict=True)
        low, high = percentiles(resampled[0] - resampled[1], 0.95)
        worst = max(worst, float(torch.maximum(low, -high).max()), 0.0)
        if axis == -1:
            table = torch.stack([torch.arange(len(values[0])).double(), *values])
    return table, worst


def _lagged(fields: Tensor, moving: Tensor, axis: int, block: int, seed: int) -> tuple[Tensor, Tensor]:
    """Correlation at lags 0 to half the axis, (L,), and its resamples (R, L)."""
    anomalies = torch.movedim((fields - fields.mean(0)) * moving, axis, -1)
    there = torch.movedim(moving, axis, -1).double()
    lags = range(anomalies.shape[-1] // 2 + 1)
    rows = torch.stack([_products(anomalies, lag) / max(1.0, float(_products(there[None], lag))) for lag in lags], 1)
    means = resampled_means(in_blocks(rows, block), RESAMPLES, seed)
    mean = rows.mean(0)
    return mean / mean[0], means / means[:, :1]


def _products(v: Tensor, lag: int) -> Tensor:
    n = v.shape[-1] - lag
    return (v[..., :n] * v[..., lag:]).flatten(1).sum(1)


def _one_law(a: Tensor, b: Tensor, count_a: int, count_b: int) -> float:
    """Kolmogorov-Smirnov p-value of two samples worth so many independent values."""
    from scipy.stats import ks_2samp, kstwobign

    # The decorators of scipy.stats hide the class of the result.
    distance = float(ks_2samp(a.numpy(), b.numpy()).statistic)  # pyright: ignore[reportAttributeAccessIssue]
    return float(kstwobign.sf(distance * (count_a * count_b / (count_a + count_b)) ** 0.5))
