"""How good a reconstruction is, and how true its uncertainty, as one row of numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from benchmarks.fields.cases import Case
from benchmarks.fields.perceptual import perceptual_distance
from benchmarks.harness.table import Row
from benchmarks.metrics import DIVERGED, coverage, diverged
from posterior.priors.reference import radial_spectrum
from posterior.quantiles import draws_needed
from posterior.uncertainty.scores import crps_members, energy_members
from posterior.uncertainty.spread import ause, unbiased
from posterior.uncertainty.trials import Trial

LEVELS = (50, 80, 90, 95)
POINT_DRAWS = 8  # whose mean is the point estimate of every method that draws, so that none gains by making more
SCORES = (
    *("psnr", "psnr_all", "ssim", "stlpips", "nrmse", "chi2", "crps", "energy"),
    *(f"cov{level}" for level in LEVELS),
    *("spread_skill", "ause", "spectrum", "held_chi2", "held_cov90"),
)


@dataclass(frozen=True)
class Outcome:
    """What a method made of a problem, and what that cost; calls and products are for each draw.

    Args:
        samples: Draws (N, *event), physical units; one field where the method gives a point estimate.
        point: Whether it is a point estimate, of which no uncertainty is judged.
        nfe: Network calls.
        vjps: Vector-Jacobian products through the network.
        seconds: In all.
        settings: Words or JSON.
        mean: Posterior mean (*event) where it is known better than by the mean of draws.
        weights: (N,), equal where None.
        memory: Peak memory in MB beyond what was there before.
    """

    samples: Tensor
    point: bool
    nfe: float
    vjps: float
    seconds: float
    settings: str
    mean: Tensor | None = None
    weights: Tensor | None = None
    memory: float = math.nan


def scores(out: Outcome, case: Case) -> dict[str, float]:
    """All `SCORES`; NaN where one has no meaning.

    psnr          peak signal-to-noise ratio of the point estimate in dB; the peak is the range of the truth where it is judged
    psnr_all      the same of the mean of all draws, however many the method made
    ssim          structural similarity of the point estimate (Wang et al. 2004: Gaussian windows of 1.5 pixels)
    stlpips       perceptual distance of the same, of images only: see `perceptual_distance`
    nrmse         its root-mean-square error over the standard deviation of the truth
    chi2          weighted mean over draws of ||y - A x||^2 / (m sigma^2)
    crps          fair continuous ranked probability score, units of the field; the mean absolute error of a point estimate
    energy        fair energy score over the root of the number of pixels; the root-mean-square error of a point estimate
    cov50 ...     share of pixels inside their central interval; NaN with too few draws for it
    spread_skill  root of mean variance over mean squared error of the mean, both unbiased; NaN where the latter is not positive
    ause          area between the sparsification curve and the oracle's, over 20 shares
    spectrum      mean over rings of |log10 (power of draws / power of truth)|
    held_chi2     residual of withheld data, of the point estimate; held_cov90: share of these in 90 % predictive intervals
    """
    found = dict.fromkeys(SCORES, math.nan)
    best = point_estimate(out)
    found["chi2"] = case.chi_square(out.samples, out.weights)
    if case.withheld is not None:
        found |= _withheld(out, best, case)
    if case.truth is None:
        return found
    truth, image = case.truth.double(), case.view(best[None])[0].double()
    inside = torch.ones_like(truth, dtype=torch.bool) if case.inside is None else case.inside
    t, x = truth[inside], image[inside]
    rmse, peak = float((x - t).square().mean().sqrt()), float(t.max() - t.min())
    whole = case.view(point_estimate(out, len(out.samples))[None])[0].double()[inside]
    found |= {"psnr": 20 * math.log10(peak / rmse), "nrmse": rmse / float(t.std(correction=0))}
    found["psnr_all"] = 20 * math.log10(peak / float((whole - t).square().mean().sqrt()))
    found["ssim"] = _ssim(image * inside, truth * inside, inside, peak)
    if case.picture:
        found["stlpips"] = perceptual_distance((image * inside)[0], (truth * inside)[0])
    fields = case.view(out.samples).double()
    found["spectrum"] = spectrum_error(fields * inside, truth * inside, out.weights)
    if out.point or len(fields) < 3:
        return found | {"crps": float((x - t).abs().mean()), "energy": rmse}
    return found | _uncertainty(fields[:, inside], t, out.weights)


def require_convergence(out: Outcome, case: Case) -> None:
    """A row with draws that diverged has no figures; where no truth is known they are held to the withheld data.

    Raises:
        FloatingPointError: If any draw that has weight diverged, see `diverged`.
    """
    drawn = out.samples if out.weights is None else out.samples[out.weights > 0]
    if case.truth is not None:
        inside = torch.ones_like(case.truth, dtype=torch.bool) if case.inside is None else case.inside
        bad = sum(diverged(case.view(x[None])[:, inside], case.truth[inside]) for x in drawn)
    else:
        held = case.withheld
        assert held is not None
        with torch.no_grad():
            bad = sum(diverged(held.predict(x[None]), held.y) for x in drawn)
    if bad:
        raise FloatingPointError("the point estimate diverged" if out.point else f"{bad} of {len(drawn)} draws diverged")


def judged(row: Row) -> Row:
    """A row as the tables take it: failed where its figures alone tell that draws diverged.

    Rows that were made before draws were counted hold none. The mean over n draws of their squared errors is that of their
    mean plus (n - 1) / n of their variance; where its root is above `DIVERGED` standard deviations of the truth, at least one
    draw is.
    """
    if row["status"] != "ok" or not row["nrmse"]:
        return row
    n, error = int(row["draws"]), float(row["nrmse"])
    if row["psnr_all"]:
        error *= 10 ** ((float(row["psnr"]) - float(row["psnr_all"])) / 20)
    if row["spread_skill"]:
        ratio = float(row["spread_skill"]) ** 2  # of the variance to the error of the mean less variance / n
        variance = ratio / (1 + ratio / n)  # over the squared error of the mean
    else:
        variance = 0 if row["point"] or n < 3 else n  # draws without the ratio: the error was less than variance / n
    of_draws = math.sqrt(error**2 * (1 + (n - 1) / n * variance))
    # The mean of the first draws alone may be off, too.
    worst = max(of_draws, float(row["nrmse"]))
    if worst <= DIVERGED:
        return row
    said = f"draws diverged: root-mean-square error above {DIVERGED:.0f} standard deviations of the truth"
    return row | {"status": "failed", "reason": said}


def point_estimate(out: Outcome, draws: int = POINT_DRAWS) -> Tensor:
    """One field (*event): the mean as far as the method knows it, of its first ``draws`` where these are all it has."""
    if out.mean is not None:
        return out.mean
    if out.weights is not None:
        return torch.tensordot(out.weights.to(out.samples), out.samples, 1)
    return out.samples[:draws].mean(0)


def _weights(n: int, weights: Tensor | None) -> Tensor:
    return torch.full((n,), 1 / n, dtype=torch.float64) if weights is None else weights.double()


def _uncertainty(draws: Tensor, truth: Tensor, weights: Tensor | None) -> dict[str, float]:
    equal = _weights(len(draws), weights)
    trial = Trial(truth, draws, log_weights=None if weights is None else equal.log()).equally_weighted()
    worth = len(trial.draws)
    variance, error = unbiased(trial)
    found = {"crps": math.nan, "energy": math.nan}
    if worth > 2:
        found["crps"] = float(crps_members(trial.members)[0])
        found["energy"] = float(energy_members(trial.members)[0]) / math.sqrt(truth.numel())
    if error.mean() > 0:
        found["spread_skill"] = math.sqrt(float(variance.mean()) / float(error.mean()))
    found["ause"] = ause(trial)
    for level in LEVELS:
        if worth >= draws_needed(level / 100):
            found[f"cov{level}"] = coverage(draws, equal, truth[None], level / 100)
    return found


def _withheld(out: Outcome, best: Tensor, case: Case) -> dict[str, float]:
    held = case.withheld
    assert held is not None
    with torch.no_grad():
        off = (held.predict(best[None])[0] - held.y) / held.sigma
        found = {"held_chi2": float(off.square().mean())}
        weights = _weights(len(out.samples), out.weights)
        if not out.point and 1 / float(weights.square().sum()) >= draws_needed(0.9):
            g = torch.Generator().manual_seed(case.problem)
            predicted = torch.cat([held.predict(x[None]) for x in out.samples]).double()
            predicted = predicted + held.sigma * torch.randn(predicted.shape, generator=g, dtype=torch.float64)
            found["held_cov90"] = coverage(predicted, weights, held.y[None].double())
    return found


def _ssim(image: Tensor, truth: Tensor, inside: Tensor, peak: float) -> float:
    from skimage.metrics import structural_similarity

    maps = [
        structural_similarity(
            a.numpy(), b.numpy(), data_range=peak, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True
        )[1]
        for a, b in zip(image, truth, strict=True)
    ]
    return float(torch.from_numpy(np.stack(maps))[inside].mean())


def spectrum_error(fields: Tensor, truth: Tensor, weights: Tensor | None = None) -> float:
    """Mean over rings of |log10 (mean power of fields / power of the truth)|, without the mean of the fields."""
    if weights is not None:
        fields = fields * (len(fields) * weights).sqrt()[:, None, None, None]  # their mean power is the weighted one
    bins = max(4, min(truth.shape[-2:]) // 3)
    powers = [radial_spectrum(x - x.mean((-2, -1), keepdim=True), bins)[1][1:] for x in (fields, truth[None])]
    return float((powers[0].clamp_min(1e-30) / powers[1].clamp_min(1e-30)).log10().abs().mean())
