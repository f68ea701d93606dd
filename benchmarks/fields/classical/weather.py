"""Analyses of sparse observations: climatology, optimal interpolation, 3D-Var and the ETKF."""

from __future__ import annotations

from benchmarks.fields.cases import Case
from benchmarks.fields.classical.base import Classical, Estimate
from posterior.recipes.weather import etkf, optimal_interpolation


def climatology(case: Case) -> Estimate:
    """Training fields of the season as they are."""
    return Estimate(case.facts["background"].double(), point=False)


def interpolation(case: Case) -> Estimate:
    """Optimal interpolation with the training covariance; where A is not linear, 3D-Var with the covariance at its minimum.

    With a linear operator this is the exact Gaussian posterior and 3D-Var too.
    """
    found = optimal_interpolation(case.prior, case.likelihood)
    return Estimate(found.sample(case.draws, case.problem), found.mean, point=False)


def filtered(case: Case, radius: float, inflation: float) -> Estimate:
    """The localised ensemble transform Kalman filter, from training fields of the season; radius in km for weather systems."""
    radius = radius * case.facts.get("size", 1.0)
    where = {"grid": case.facts["grid"], "latitude": case.facts["latitude"], "longitude": case.facts["longitude"]}
    members = etkf(case.facts["background"], case.likelihood, radius=radius, inflation=inflation, **where)
    return Estimate(members, members.mean(0), point=False)


WEATHER = {
    "climatology": Classical(climatology),
    "optimal interpolation, 3D-Var": Classical(interpolation),
    "ETKF": Classical(filtered, {"radius": [2000.0, 4000.0], "inflation": [1.0, 1.2]}, {"radius": 4000.0, "inflation": 1.0}),
}
