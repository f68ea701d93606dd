"""Analyses as labelled trees and CF NetCDF files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from posterior.recipes.weather.problem import ALIASES, COLUMNS, standard_name

if TYPE_CHECKING:
    from xarray import DataTree

    from posterior.recipes.weather.analysis import Analysis

_STATION_ATTRS = {
    "station": {"long_name": "identifier of the station", "cf_role": "timeseries_id"},
    "latitude": {"standard_name": "latitude", "units": "degrees_north"},
    "longitude": {"standard_name": "longitude", "units": "degrees_east"},
    "time": {"standard_name": "time", "long_name": "time of the report, UTC"},
    "value": {"long_name": "reported value"},
    "sigma": {"long_name": "standard deviation of the observation's error"},
    "departure": {"long_name": "reported value less the prior's mean"},
    "normalised": {"long_name": "departure over its expected standard deviation", "units": "1"},
    "derived": {"long_name": "what the value was computed from; empty where it was reported"},
    "reason": {"long_name": "why the report was left out"},
}


def to_datatree(analysis: Analysis) -> DataTree:
    """The draws in ArviZ's schema, the time of the analysis, and four groups more.

    ``analyses`` has mean and standard deviation of the posterior and of every baseline; ``stations``, ``withheld`` and
    ``dropped`` are tables, with an axis of reports each. Scores are attributes of ``analyses`` and ``withheld``; settings of
    the run and of the checks are attributes of the root.

    Args:
        analysis: What to convert.
    """
    import xarray as xr

    problem, draws = analysis.problem, analysis.draws
    labels = problem.prior.labels
    assert labels is not None
    name = standard_name(problem.prior)
    known = ({"standard_name": name} if name in ALIASES else {}) | dict(labels.attrs)
    tree = draws.to_datatree()
    time = {"standard_name": "time", "long_name": "time of the analysis, UTC"}
    tree.dataset = tree.to_dataset().assign_coords(time=((), problem.time.astype("datetime64[ns]"), time))
    tree.attrs["title"] = f"{labels.name} given {len(problem.stations)} stations of {problem.source}"
    tree.attrs["source"] = f"analysis by posterior of {problem.source}"
    tree.attrs |= {"prior": draws.stats.prior, "sampler": draws.stats.sampler, "likelihood": draws.stats.likelihood}
    tree.attrs |= {"law_of_errors": problem.law, **problem.settings, **analysis.settings}
    if problem.law == "outlier":
        tree.attrs["share_of_gross_errors"] = problem.fraction
    for group in ("posterior", "reference"):
        if group in tree.children:
            tree[group][draws.name].attrs.update(known)
    fields: dict[str, Any] = {}
    for name, members in analysis.ensembles.items():
        moments = {"mean": members.mean(0)[0], "standard_deviation": members.std(0)[0]}
        for what, values in moments.items():
            attrs = {**known, "units": draws.units, "long_name": f"{what.replace('_', ' ')} of the {name} ensemble"}
            attrs["cell_methods"] = f"realization: {what}"
            fields[f"{_plain(name)}_{what}"] = (draws.dims, values.numpy(), attrs)
    tree["analyses"] = xr.DataTree(xr.Dataset(fields, attrs=_score_attrs(analysis.fields)))
    used = problem.stations.assign(posterior_departure=analysis.departures)
    tree["stations"] = _table(used, draws.units, {"law of the errors": problem.law})
    if analysis.predictions is not None:
        tree["withheld"] = _table(analysis.predictions, draws.units, _score_attrs(analysis.stations))
    if problem.dropped is not None and len(problem.dropped):
        tree["dropped"] = _table(problem.dropped, draws.units, {})
    return tree


def _plain(name: str) -> str:
    return name.replace(" ", "_").lower()


def _score_attrs(scores: Any) -> dict[str, float]:
    found = {}
    for name, s in scores.items():
        values = {"fair CRPS": s.crps, "90 % coverage": s.coverage, "bias": s.bias, "RMSE": s.rmse}
        found |= {f"{name}: {what}": value for what, value in values.items()}
        found[f"{name}: spread over skill"] = s.spread_skill
    return found


def _table(rows: Any, units: str, attrs: dict[str, Any]) -> DataTree:
    """A table of stations as a group, one axis ``report``."""
    import xarray as xr

    variables: dict[str, Any] = {}
    for column in rows.columns:
        name = _plain(f"report_{column}" if column in ("time", "latitude", "longitude") else column)
        values = rows[column].to_numpy()
        if column in ("station", "reason", "derived"):
            values = values.astype(str).astype(object)
        given = dict(_STATION_ATTRS.get(column, {"long_name": column}))
        if column in COLUMNS[4:] or column == "departure" or column.endswith((" mean", " std", "_departure")):
            given["units"] = units
        variables[name] = ("report", np.asarray(values), given)
    return xr.DataTree(xr.Dataset(variables, attrs=attrs))
