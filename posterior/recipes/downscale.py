"""Statistical downscaling: a fine field from averages over cells four times as wide, beside bicubic and optimal interpolation.

What is averaged is a field that the prior was not trained on: one of the registry's reanalyses where it is at hand, else a
draw of the prior itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from posterior.driver import sample
from posterior.likelihoods import GaussianLikelihood
from posterior.priors.base import Prior
from posterior.priors.climatology import as_time
from posterior.recipes.comparison import POSTERIOR, Baseline, Comparison
from posterior.recipes.weather.analysis import reference_draws
from posterior.recipes.weather.baselines import optimal_interpolation
from posterior.recipes.weather.problem import grid_of
from posterior.samplers.base import Sampler
from posterior.unconditional import sample_prior

if TYPE_CHECKING:
    from xarray import DataArray

    from operators import AreaAverage

# By variable: the registry's data, and a time of them that is held out of training.
HELD_OUT = {"slp": ("ncep-slp-2001-2010", "2009-01-15"), "t2m": ("era5-t2m-uk-2019-03", "2019-03-26T12")}
# Standard deviation of a coarse value, as a share of the scale of the prior's fields.
NOISE = 0.01
FITTED = 64


@dataclass(frozen=True, eq=False)
class DownscaleProblem:
    """Averages of one field.

    Args:
        prior: The prior, on the date of the field.
        average: The area means.
        y: The averages (1, 1, h, w).
        sigma: Standard deviation of their errors, units of the field.
        truth: The field (1, H, W).
        source: What was averaged.
        facts: How: words for people.
    """

    prior: Prior
    average: AreaAverage
    y: Tensor
    sigma: float
    truth: Tensor
    source: str
    facts: dict[str, str] = field(default_factory=dict)

    @property
    def likelihood(self) -> GaussianLikelihood:
        """p(y | x)."""
        return GaussianLikelihood(self.average, self.y, self.sigma)

    @property
    def factor(self) -> int:
        """Rows and columns of the fine grid in a whole coarse cell; the last ones may have fewer, the first never do."""
        return int((self.average.get_buffer("matrix2")[0] != 0).sum())


def default_prior() -> str:
    """The bundled prior that the demo runs: of temperature where there is one, else of pressure."""
    from posterior.priors.loading import bundled_priors

    return "t2m-uk" if "t2m-uk" in bundled_priors() else "slp-north-atlantic"


def held_out_field(prior: Prior, time: str | None = None) -> tuple[Tensor, str, str] | None:
    """A field of the registry's reanalysis on the prior's grid (1, H, W), its time and its origin; None if it is not at hand.

    Args:
        prior: A prior with labels.
        time: Of the field; one that is held out of training where None.

    Raises:
        ValueError: If the data lack the time or the grid.
    """
    from posterior.io.registry import available

    labels = prior.labels
    if labels is None or labels.name not in HELD_OUT or not available(HELD_OUT[labels.name][0]):
        return None
    name, default = HELD_OUT[labels.name]
    time = default if time is None else time
    grid = grid_of(prior)
    fields = _dataset(name, prior.units)
    try:
        picked = fields.sel(time=as_time(time), method="nearest", tolerance=np.timedelta64(12, "h"))
        picked = picked.sel(latitude=grid.latitude, longitude=grid.longitude, method="nearest", tolerance=1e-3)
    except KeyError as error:
        raise ValueError(f"downscale: {name} has no field of {time} on the grid of prior '{prior.name}'") from error
    values = torch.from_numpy(np.asarray(picked.transpose("latitude", "longitude"), dtype=np.float32))
    return values[None], time, name


@lru_cache(1)
def _dataset(name: str, units: str) -> DataArray:
    from posterior.io.fields import open_fields
    from posterior.io.registry import fetch

    return open_fields(fetch(name), units=units, chunks=None, rename=True)


def demo_problem(
    prior: Prior, seed: int = 0, *, factor: int = 4, noise: float = NOISE, time: str | None = None
) -> DownscaleProblem:
    """Averages of a held-out field, or of a draw of the prior where none is at hand.

    Args:
        prior: A prior of one variable on latitudes and longitudes.
        seed: Of the noise, and of the draw.

    Other arguments:
        factor: Rows and columns that make a coarse cell.
        noise: Standard deviation of a coarse value, as a share of the scale of the prior's fields.
        time: Of the field.

    Raises:
        ValueError: If the prior has no such grid, or the data lack the time.
    """
    grid_of(prior)
    found = held_out_field(prior, time)
    if found is None:
        dated = prior if prior.climatology is None else prior.on("2009-01-15")
        own = int(np.random.SeedSequence([4, seed]).generate_state(1)[0])  # no draw of the posterior has this seed
        truth, source = sample_prior(dated, draws=1, seed=own).samples[0].float(), "a draw of the prior"
    else:
        truth, when, name = found
        dated = prior if prior.climatology is None else prior.on(when)
        source = f"{name}, {when}"
    return averages(dated, truth, seed=seed, factor=factor, noise=noise, source=source)


def averages(
    prior: Prior, truth: Tensor, *, seed: int = 0, factor: int = 4, noise: float = NOISE, source: str = "simulation"
) -> DownscaleProblem:
    """The problem of one field (1, H, W); arguments as in `demo_problem`."""
    from operators import AreaAverage

    if not noise > 0:
        raise ValueError(f"downscale: noise must be positive, got {noise}")
    average = AreaAverage(grid_of(prior), factor)
    sigma = noise * float(torch.as_tensor(prior.affine.scale).mean())
    clean = average.A(truth[None].double())
    y = clean + sigma * torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed), dtype=clean.dtype)
    facts = {
        "coarse grid": f"{clean.shape[-2]} x {clean.shape[-1]} of {truth.shape[-2]} x {truth.shape[-1]}, area means",
        "noise": f"{sigma:.3g} {prior.units}",
    }
    return DownscaleProblem(prior, average, y, sigma, truth, source, facts)


def bicubic(y: Tensor, shape: tuple[int, ...], factor: int) -> Tensor:
    """Coarse fields (B, 1, h, w) on the fine grid by bicubic interpolation between the middles of cells, (B, 1, H, W)."""
    fine = torch.nn.functional.interpolate(y, scale_factor=factor, mode="bicubic", align_corners=False)
    return fine[..., : shape[-2], : shape[-1]]


def fitted_bicubic(problem: DownscaleProblem, fields: Tensor) -> Baseline:
    """Bicubic interpolation with a Gaussian error whose standard deviation at each point was fitted.

    Args:
        problem: The problem.
        fields: Fields (N, 1, H, W) to fit it on, physical units.
    """
    shape, factor = problem.truth.shape, problem.factor
    error = bicubic(problem.average.A(fields.double()), shape, factor) - fields
    std = (error.square().mean(0) + problem.sigma**2).sqrt()
    return Baseline(bicubic(problem.y, shape, factor)[0], std)


def small_scales(fields: Tensor, factor: int) -> Tensor:
    """Power (B,) of fields (B, 1, H, W) at wavelengths below two coarse cells, by their cosine transform."""
    from scipy.fft import dctn

    coefficients = torch.from_numpy(dctn(fields.double().numpy(), axes=(-2, -1), norm="ortho"))
    h, w = fields.shape[-2:]
    rows, columns = torch.arange(h)[:, None] / h, torch.arange(w)[None] / w
    beyond = torch.hypot(rows, columns) > 1 / factor
    return (coefficients.square() * beyond).flatten(1).sum(1)


def downscale(
    problem: DownscaleProblem,
    sampler: Sampler,
    *,
    draws: int = 20,
    seed: int = 0,
    batch_size: int = 20,
    fields: Tensor | None = None,
    progress: bool | Callable[[Any], None] = False,
    checkpoint: str | Path | None = None,
    device: str | None = None,
) -> Comparison:
    """Draw fine fields given the averages; beside them bicubic interpolation with a fitted error, and optimal interpolation.

    Args:
        problem: What `demo_problem` or `averages` made.
        sampler: The method.

    Other arguments:
        draws: How many draws; a 90 % interval takes 19.
        seed: Seed of the draws.
        batch_size: Draws computed at a time.
        fields: Fields (N, 1, H, W) that bicubic's error is fitted on; draws of the prior's reference Gaussian where None.
        progress: As in `posterior.sample`.
        checkpoint: As in `posterior.sample`.
        device: As in `posterior.sample`.
    """
    prior = problem.prior
    settings = {"draws": draws, "seed": seed, "batch_size": batch_size, "progress": progress}
    settings |= {"checkpoint": checkpoint, "device": device}
    found = sample(prior, problem.likelihood, sampler, **settings)
    if fields is None:
        if prior.reference is None:
            raise ValueError(f"downscale: prior '{prior.name}' carries no reference; pass fields= to fit bicubic's error on")
        fields = reference_draws(prior, FITTED)
    baselines = {"bicubic": fitted_bicubic(problem, fields)}
    extra = {}  # power at small scales, over that of the truth
    if prior.reference is not None:
        analysis = optimal_interpolation(prior, problem.likelihood)
        baselines["optimal interpolation"] = Baseline(analysis.mean, analysis.std)
    factor = problem.factor
    column, true = "small scales", small_scales(problem.truth[None], factor)
    for name, baseline in baselines.items():
        extra[name] = {column: float(small_scales(baseline.mean[None], factor) / true)}
    extra[POSTERIOR] = {column: float(small_scales(found.samples, factor).mean() / true)}
    facts = problem.facts
    return Comparison(found, problem.truth, problem.y[0, 0], baselines, source=problem.source, facts=facts, extra=extra)
