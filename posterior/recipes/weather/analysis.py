"""An ensemble of analyses given the observations of an hour, beside what the baselines make of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from posterior.draws import Draws
from posterior.driver import Progress, sample
from posterior.priors.base import Prior
from posterior.recipes.weather.baselines import event_shape, optimal_interpolation, reference_of
from posterior.recipes.weather.etkf import etkf
from posterior.recipes.weather.problem import StationProblem, station_operator
from posterior.recipes.weather.scores import Score, area_weights, score
from posterior.samplers.base import Sampler
from posterior.samplers.bridge import GaussianBridge

if TYPE_CHECKING:
    import pandas as pd
    from xarray import DataTree

BRIDGE_LEVELS = (8.0, 0.1)  # in units of the rms of a grid point
POSTERIOR, OI, ETKF, CLIMATOLOGY = "posterior", "optimal interpolation", "ETKF", "climatology"


@dataclass(frozen=True)
class Localisation:
    """Settings of the ETKF.

    Args:
        radius: km at which an observation stops to count.
        inflation: Factor on the variance of the background.
    """

    radius: float = 3000.0
    inflation: float = 1.0


@dataclass(frozen=True, eq=False)
class Analysis:
    """Ensembles of one hour, all in the units of the prior.

    Args:
        problem: The observations and the prior of the day.
        draws: Posterior draws (draws, latitude, longitude), labelled.
        ensembles: Members (S, *event) of the posterior and of each baseline by name.
        fields: Scores against the true field by name, weighted by area; empty where that is not known.
        stations: Scores at withheld stations by name, of predictions with the error of the observation; empty without.
        predictions: A row for each withheld station: what it reported, and mean and standard deviation of each prediction.
        settings: Of the run, for files, by a name without blanks.
    """

    problem: StationProblem
    draws: Draws
    ensembles: Mapping[str, Tensor]
    fields: Mapping[str, Score] = field(default_factory=dict)
    stations: Mapping[str, Score] = field(default_factory=dict)
    predictions: pd.DataFrame | None = None
    settings: Mapping[str, str | float] = field(default_factory=dict)

    @property
    def departures(self) -> np.ndarray:
        """Observation less posterior mean at the stations used, (n,)."""
        predicted = self.problem.operator.A(self.ensembles[POSTERIOR].mean(0, keepdim=True).double())
        return (self.problem.y - predicted).flatten().numpy()

    def to_datatree(self) -> DataTree:
        """The draws as `Draws.to_datatree` gives them, and groups for baselines, stations and what was left out."""
        from posterior.recipes.weather.files import to_datatree

        return to_datatree(self)

    def save(self, path: str | Path) -> None:
        """Write a NetCDF file that `posterior.load_draws`, xarray and ArviZ read.

        Args:
            path: Where to; replaced only once everything is written.
        """
        from posterior.draws_io import save_tree

        save_tree(self.to_datatree(), path)


def bridge(prior: Prior, steps: int = 10) -> GaussianBridge:
    """`GaussianBridge` on the noise levels that suit fields whose variance is in a few large patterns.

    These reach from 8 to 0.1 rms, chosen for "slp-north-atlantic" on days of 2009 that no result is computed on
    (``python -m benchmarks.weather --tune``): the largest patterns are far above the rms of a grid point, and from 2 rms down
    the network could not correct what the reference Gaussian says of them.

    Args:
        prior: The prior that will be sampled.
        steps: Network calls for each draw.
    """
    high, low = (rms * prior.rms for rms in BRIDGE_LEVELS)
    return GaussianBridge(steps, sigma_max=min(high, prior.sigma_max), sigma_min=max(low, prior.sigma_min))


def assimilate(
    problem: StationProblem,
    sampler: Sampler,
    *,
    draws: int = 64,
    seed: int = 0,
    folds: int = 0,
    background: Tensor | None = None,
    localisation: Localisation | None = None,
    batch_size: int = 32,
    progress: bool | Callable[[Progress], None] = False,
    checkpoint: str | Path | None = None,
    device: str | None = None,
) -> Analysis:
    """Draw fields given the observations, and compare them with the baselines of the same run.

    Scores at stations are those of predictions of what the station reports, its error included. Where the problem withholds
    stations these are scored; with ``folds`` every station is withheld once, in one more run for each fold.

    Args:
        problem: From `screen` or `simulate`.
        sampler: The method.

    Other arguments:
        draws: Members of every ensemble, 2 or more; a 90 % interval takes 19.
        seed: Seed of all that is random.
        folds: Parts that the stations are divided into, to withhold one at a time; 0 for none.
        background: Fields of the calendar window (N, *event), the ensemble of climatology and ETKF; draws of the prior's
            reference Gaussian where None.
        localisation: Settings of the ETKF.
        batch_size: Draws computed at a time.
        progress: As in `posterior.sample`.
        checkpoint: As in `posterior.sample`, for the run with all the stations.
        device: As in `posterior.sample`.

    Raises:
        ValueError: If prior and problem do not fit, there are fewer stations than folds, or there is one draw.
        SamplingError: If the sampler fails.
    """
    localisation = localisation or Localisation()
    if draws < 2:
        raise ValueError(f"assimilate: draws is {draws}; an ensemble takes 2 or more")
    withheld_parts = parts(len(problem.stations), folds, seed) if folds else []
    settings: dict[str, Any] = {"draws": draws, "seed": seed, "batch_size": batch_size, "progress": progress, "device": device}
    about: dict[str, str | float] = {"number_of_draws": draws, "seed": seed, "folds": folds}
    about |= {"etkf_radius_km": localisation.radius, "etkf_inflation": localisation.inflation}
    about["background"] = "draws of the prior's reference Gaussian" if background is None else f"{len(background)} fields given"
    if background is None:
        background = reference_draws(problem.prior, draws, seed)
    drawn = sample(problem.prior, problem.likelihood, sampler, checkpoint=checkpoint, **settings)
    ensembles = {POSTERIOR: drawn.samples, **baselines(problem, background, localisation, draws, seed)}
    fields = {}
    if problem.truth is not None:
        weights = area_weights(problem.grid)
        fields = {name: score(members, problem.truth, weights) for name, members in ensembles.items()}
    predicted: list[tuple[pd.DataFrame, dict[str, Tensor]]] = []
    if problem.withheld is not None and len(problem.withheld):
        predicted.append((problem.withheld, predict(problem.prior, problem.withheld, ensembles, seed)))
    for part in withheld_parts:
        held = problem.without(part)
        assert held.withheld is not None
        again = sample(held.prior, held.likelihood, sampler, **settings).samples
        members = {POSTERIOR: again, **baselines(held, background, localisation, draws, seed)}
        predicted.append((held.withheld, predict(held.prior, held.withheld, members, seed)))
    stations, predictions = _station_scores(predicted)
    return Analysis(problem, _labelled(drawn, problem), ensembles, fields, stations, predictions, about)


def baselines(
    problem: StationProblem, background: Tensor, localisation: Localisation, draws: int, seed: int
) -> dict[str, Tensor]:
    """Members of each baseline, (S, *event)."""
    like = problem.gaussian_likelihood
    where = {"latitude": problem.stations["latitude"].to_numpy(), "longitude": problem.stations["longitude"].to_numpy()}
    updated = etkf(background, like, grid=problem.grid, radius=localisation.radius, inflation=localisation.inflation, **where)
    return {
        OI: optimal_interpolation(problem.prior, like).sample(draws, seed),
        ETKF: updated,
        CLIMATOLOGY: background,
    }


def reference_draws(prior: Prior, n: int, seed: int = 0) -> Tensor:
    """Draws (n, *event) of the prior's reference Gaussian, physical units."""
    shape = event_shape(prior)
    reference = reference_of(prior)
    g = torch.Generator().manual_seed(seed)
    white = torch.randn(n, *shape, generator=g, dtype=torch.float64)
    return prior.affine.to_physical(reference.mean(shape) + reference.covariance(shape).sqrt(white))


def parts(count: int, folds: int, seed: int = 0) -> list[np.ndarray]:
    """``count`` stations divided at random into ``folds`` parts of equal size, each as booleans (count,).

    Raises:
        ValueError: If there are fewer than two folds, or more than stations.
    """
    if not 2 <= folds <= count:
        raise ValueError(f"folds is {folds}; wanted 2 or more, and no more than the {count} stations")
    label = np.random.default_rng(seed).permutation(count) % folds
    return [label == k for k in range(folds)]


def predict(prior: Prior, stations: pd.DataFrame, ensembles: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """What each ensemble says the stations report, errors included, (S, n) by name."""
    operator = station_operator(prior, stations)
    sigma = torch.from_numpy(stations["sigma"].to_numpy(np.float64).copy())
    found = {}
    for name, members in ensembles.items():
        at = operator.A(members.double())[:, 0]
        g = torch.Generator().manual_seed(seed)
        found[name] = at + sigma * torch.randn(at.shape, generator=g, dtype=torch.float64)
    return found


def _station_scores(predicted: list[tuple[Any, dict[str, Tensor]]]) -> tuple[dict[str, Score], Any]:
    import pandas as pd

    if not predicted:
        return {}, None
    table = pd.concat([rows.assign(fold=k) for k, (rows, _) in enumerate(predicted)], ignore_index=True)
    value = torch.from_numpy(table["value"].to_numpy(np.float64).copy())
    scores = {}
    for name in predicted[0][1]:
        members = torch.cat([found[name] for _, found in predicted], 1)
        scores[name] = score(members, value)
        table[f"{name} mean"], table[f"{name} std"] = members.mean(0).numpy(), members.std(0).numpy()
    return scores, table


def _labelled(draws: Draws, problem: StationProblem) -> Draws:
    """The draws without the axis of the one variable, and the truth where it is known."""
    whole = replace(draws, truth=problem.truth)
    return whole.map(lambda x: x[:, 0], dims=whole.dims[-2:])
