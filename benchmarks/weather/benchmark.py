"""The comparison as a `Benchmark`."""

from __future__ import annotations

import json
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import posterior
from benchmarks.harness.device import lacks
from benchmarks.harness.runner import Benchmark, Method
from benchmarks.harness.source import name_of
from benchmarks.harness.table import Layout, Row, first_line, number
from benchmarks.metrics import diverged
from benchmarks.weather.cases import DAYS, FOLDS, HOUR, MONTHS, MORE_DAYS, Case, day, fold, prior, window
from posterior.likelihoods import GaussianLikelihood
from posterior.priors.analytic import GaussianPrior
from posterior.recipes.weather import LinearPrior, area_weights, etkf, optimal_interpolation, score
from posterior.recipes.weather.analysis import predict

SETTINGS = Path(__file__).parent / "settings.json"
LAYOUT = Layout(("count", "crps", "coverage90", "bias", "squared_error", "variance"))
CLIMATOLOGY, OI, SEASONAL, ETKF, BRIDGE, JACOBIAN, LINEAR = (
    "climatology",
    "OI",
    "OI, covariance of the season",
    "ETKF",
    "GaussianBridge",
    "GaussianBridge, Jacobian",
    "GaussianBridge, Gaussian denoiser",
)
METHODS = (
    Method(CLIMATOLOGY),
    Method(OI),
    Method(SEASONAL),
    Method(ETKF),
    Method(LINEAR, "10 calls"),
    Method(BRIDGE, "10 calls"),
    Method(BRIDGE, "40 calls"),
    Method(JACOBIAN, "10 calls"),
    Method(JACOBIAN, "40 calls"),
)
CLIMATOLOGY_DAYS = 15


class Weather(Benchmark):
    """Simulated stations of 2009, and the real hour."""

    name = "weather"
    module = "benchmarks.weather.benchmark"
    layout = LAYOUT
    suites = ("days", "more days", "hour")

    def cells(self, suite: str) -> tuple[str, ...]:
        return (HOUR,) if suite == "hour" else MONTHS

    def methods(self, names: list[str] | None = None) -> list[Method]:
        known = [m.name for m in METHODS]
        if unknown := set(names or ()) - set(known):
            raise ValueError(f"methods {sorted(unknown)} are not known; wanted some of {sorted(set(known))}")
        return [m for m in METHODS if names is None or m.name in names]

    def problems(self, method: Method, suite: str, cell: str) -> int:
        return {"days": len(DAYS), "more days": len(MORE_DAYS), "hour": FOLDS}[suite]

    def parts(self, method: Method, suite: str, cell: str) -> tuple[str, ...]:
        return name_of(day), name_of(fold), name_of(run)

    def build(self, suite: str, cell: str, problem: int, quick: bool = False, draws: int | None = None) -> Case:
        count = draws or (20 if quick else 32)
        if suite == "hour":
            return fold(problem, 2 * count)
        return day(cell, problem, count, DAYS if suite == "days" else MORE_DAYS, suite)

    def measure(self, method: Method, case: Case, settings: dict[str, Any] | None = None) -> Row:
        return measure(method, case, settings) | {"revision": self.revision(method, case.suite, case.cell)}


BENCHMARKS = {"weather": Weather()}


@cache
def chosen() -> dict[str, Any]:
    """Settings that were chosen on other days of 2009; see `benchmarks.weather.tuning`."""
    return json.loads(SETTINGS.read_text())


def measure(method: Method, case: Case, settings: dict[str, Any] | None = None) -> Row:
    """See `Benchmark.measure`."""
    row = LAYOUT.blank((case.suite, case.cell, str(case.problem), method.name, method.setting), case.draws)
    began = time.monotonic()
    used = chosen().get(method.name, {}) if settings is None else settings
    try:
        members, calls, products = run(method, case, used)
    except (ArithmeticError, RuntimeError) as error:
        if lacks(error):
            raise
        return row | {"status": "failed", "reason": first_line(error)}
    seconds = time.monotonic() - began
    given = case.given
    if given.truth is not None:
        shown, truth, weights = members, given.truth, area_weights(given.grid)
    else:
        held = given.withheld
        assert held is not None
        shown, weights = predict(given.prior, held, {"": members}, case.seed)[""], None
        truth = torch.from_numpy(held["value"].to_numpy().copy())
    if bad := diverged(shown, truth):
        return row | {"status": "failed", "reason": f"FloatingPointError: {bad} of {len(members)} draws diverged"}
    found = score(shown, truth, weights)
    figures = {
        "count": truth.numel(),
        "crps": found.crps,
        "coverage90": found.coverage,
        "bias": found.bias,
        "squared_error": found.squared_error,
        "variance": found.variance,
        "nfe": calls,
        "vjps": products,
        "seconds": seconds,
    }
    row |= {k: number(v) for k, v in figures.items()}
    return row | {"status": "ok", "draws": str(len(members)), "settings": json.dumps(used)}


def run(method: Method, case: Case, settings: dict[str, Any]) -> tuple[Tensor, int, int]:
    """Members of one method's ensemble, (S, *event), and network calls and vector-Jacobian products for each."""
    given = case.given
    if method.name == CLIMATOLOGY:
        return window(given.time, CLIMATOLOGY_DAYS), 0, 0
    if method.name == OI:
        return optimal_interpolation(given.prior, given.likelihood).sample(case.draws, case.seed), 0, 0
    if method.name == SEASONAL:
        return seasonal(case, **settings), 0, 0
    if method.name == ETKF:
        return localised(case, **settings), 0, 0
    judged = LinearPrior(given.prior) if method.name == LINEAR else given.prior
    sampler = posterior.GaussianBridge(steps=int(method.setting.split()[0]), **settings)
    draws = posterior.sample(judged, given.likelihood, sampler, draws=case.draws, seed=case.seed, batch_size=case.draws)
    return draws.samples, draws.stats.nfe, draws.stats.vjps


def localised(case: Case, *, days: float, every: int, radius: float, inflation: float) -> Tensor:
    """The ETKF from training fields of the calendar window."""
    given = case.given
    where = {name: given.stations[name].to_numpy() for name in ("latitude", "longitude")}
    background = window(given.time, days, every)
    return etkf(background, given.likelihood, grid=given.grid, radius=radius, inflation=inflation, **where)


def seasonal(case: Case, *, days: float, shrinkage: float) -> Tensor:
    """Optimal interpolation with the covariance of the calendar window, shrunk towards that of the year.

    A stronger baseline than the one with a covariance for the whole year: it knows that winters are stormier.
    """
    given = case.given
    mean, covariance = _season(str(given.time), days, shrinkage)
    plain = GaussianPrior(mean, covariance)
    like = GaussianLikelihood(given.operator, given.y, given.sigma)
    return optimal_interpolation(plain, like).sample(case.draws, case.seed)


def _season(time: str, days: float, shrinkage: float) -> tuple[Tensor, Tensor]:
    on_date = prior().on(np.datetime64(time))
    shift = on_date.affine.shift
    assert isinstance(shift, Tensor)
    fields = window(time, days)
    off = (fields - fields.mean(0)).flatten(1)
    scale = on_date.affine.scale
    assert on_date.reference is not None
    cov = on_date.reference.covariance(tuple(shift.shape))
    unit = torch.eye(off.shape[1], dtype=torch.float64).reshape(-1, *shift.shape)
    year = cov.apply(unit).flatten(1)
    factor = torch.as_tensor(scale, dtype=torch.float64).expand(shift.shape).flatten()
    year = factor[:, None] * year * factor
    sample = off.T @ off / (len(off) - 1)
    # The year's correlations with the season's size, so that shrinking does not bring the year's storminess back.
    size = (sample.diagonal().sum() / year.diagonal().sum()).item()
    return shift.double(), (1 - shrinkage) * sample + shrinkage * size * (year + year.T) / 2
