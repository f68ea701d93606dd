"""From a table of observations to those an analysis uses: what is left out, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from posterior.io.units import UnitError, conversion
from posterior.likelihoods import GaussianLikelihood
from posterior.priors.base import Prior
from posterior.priors.climatology import as_time
from posterior.recipes.weather.baselines import event_shape, innovations, reference_of
from posterior.recipes.weather.problem import (
    ALIASES,
    COLUMNS,
    Law,
    StationProblem,
    grid_of,
    on_date,
    standard_name,
    station_operator,
)

if TYPE_CHECKING:
    import pandas as pd

_PER_DEGREE = 100  # positions that agree when rounded to so many parts are one place, as registers give them


@dataclass(frozen=True)
class Errors:
    """Standard deviations of an observation's errors, in the units of the prior.

    Args:
        instrument: Of the instrument, for observations that state none of their own.
        representativeness: Of what the grid and its averaging time cannot represent.

    Raises:
        ValueError: If one is negative or not finite.
    """

    instrument: float
    representativeness: float

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 <= value < float("inf"):
                raise ValueError(f"error of {name} is {value:g}; wanted a standard deviation, 0 or more")


# Instrument: reading, siting, coding and, for pressure, reduction to sea level; a choice. Representativeness of pressure:
# bilinear interpolation of daily means from 10 to 2.5 degrees is 2.57 hPa off, from 5 to 2.5 degrees 0.91 (2009, root mean
# square), so about 0.3 inside a cell of 2.5 degrees; a moment has more detail than a day.
DEFAULT_ERRORS = {
    "air_pressure_at_mean_sea_level": Errors(0.5, 0.5),
    "air_temperature": Errors(0.5, 1.0),
}


def errors_of(prior: Prior, instrument: float | None = None, representativeness: float | None = None) -> Errors:
    """The default errors of the prior's variable, or those given in their place.

    Raises:
        ValueError: If one is missing and there is no default, or the prior does not say what its field is.
    """
    name = standard_name(prior)
    if not name:
        raise ValueError(f"prior '{prior.name}' does not say what its field is; wanted one of a weather variable")
    default = DEFAULT_ERRORS.get(name)
    given = {"instrument": instrument, "representativeness": representativeness}
    missing = [what for what, value in given.items() if value is None]
    if default is None and missing:
        raise ValueError(f"there is no default error of {' and '.join(missing)} for {name!r}; give one in {prior.units}")
    return Errors(**{what: getattr(default, what) if value is None else value for what, value in given.items()})


def screen(
    table: pd.DataFrame,
    prior: Prior,
    *,
    variable: str | None = None,
    time: np.datetime64 | str | None = None,
    window: float = 3.0,
    errors: Errors | None = None,
    highest: float = 800.0,
    gross: float = 5.0,
    law: Law = "outlier",
    source: str = "observations",
) -> StationProblem:
    """Check observations against the grid, the clock, each other and the prior.

    In this order, each left out for the first reason that applies: off the grid; not at the surface; too far from the time
    of the analysis; too high for a reduction to sea level; another report of the same place nearer to the time; a gross error
    against the background; a gross error against the other stations. With departures d = y - A x_b and their covariance
    S = A C A^T + R, both from the prior's reference Gaussian on the date, the last two ask for

        |d_i| <= gross (S_ii)^(1/2)   and   |(S^-1 d)_i| <= gross ((S^-1)_ii)^(1/2),

    the second being the departure of a station from what optimal interpolation makes of all others, over its standard
    deviation. There the worst is left out and the rest is looked at again until none is too far off; then those left out are
    looked at again, against the ones that stayed.

    Args:
        table: As `posterior.io.read_observations` gives it.
        prior: A prior with labels and reference; taken on the date of the analysis where it has a climatology.

    Other arguments:
        variable: Name in the table; found by the CF standard name of the prior's variable and its usual short names.
        time: Of the analysis, UTC; the full hour nearest to the middle of the reports where None.
        window: Hours that an observation may be away from it.
        errors: Of the observations; `DEFAULT_ERRORS` of the variable where None. An observation's own ``error`` counts as
            that of its instrument.
        highest: Metres above the sea that a station of sea-level pressure may lie.
        gross: Standard deviations from which a departure is a gross error.
        law: Of the errors that are left; see `StationProblem`.
        source: What results call the observations.

    Returns:
        The problem; `StationProblem.dropped` has what was left out.

    Raises:
        ValueError: If the variable is not in the table or has no unit that fits, a limit is no number, or no observation is
            left.

    References:
        Lorenc. A global three-dimensional multivariate statistical interpolation scheme. 1981. MWR 109(4).
        Jarvinen, Unden. Observation screening and background quality control in the ECMWF 3D-Var data assimilation system.
        1997. ECMWF Technical Memorandum 236.
    """
    import pandas as pd

    for what, limit in (("window", window), ("highest", highest), ("gross", gross)):
        if np.isnan(limit):
            raise ValueError(f"{what} is nan; wanted a number")
    standard = standard_name(prior)
    rows, name = _select(table, prior, variable)
    errors = errors or errors_of(prior)
    rows = _in_units(rows, table.attrs.get("units", {}), name, prior, errors)
    when = _time(rows, time)
    reason = pd.Series("", index=rows.index, dtype=object)

    def drop(where: Any, text: Any) -> None:
        where = np.asarray(where) & (reason == "").to_numpy()
        reason[where] = text[where] if isinstance(text, pd.Series) else text

    _, inside = grid_of(prior).interpolation(rows["latitude"].to_numpy(), rows["longitude"].to_numpy())
    drop(~inside, "off the grid")
    if "level" in rows:
        drop(rows["level"].notna(), "not at the surface")
    away = (rows["time"] - pd.Timestamp(when)).abs() / pd.Timedelta(hours=1)
    drop(away > window, f"more than {window:g} h from the analysis")
    if standard == "air_pressure_at_mean_sea_level" and "elevation" in rows:
        drop(rows["elevation"] > highest, f"station above {highest:g} m")
    drop(*_repeated(rows, reason, away))
    dated = on_date(prior, when)
    rows["departure"], rows["normalised"] = np.nan, np.nan
    if (reason == "").any():
        _gross_errors(rows, reason, dated, gross)
    kept = (reason == "").to_numpy()
    if not kept.any():
        counted = "; ".join(f"{count} {text}" for text, count in reason.value_counts().items()) or "there are none"
        raise ValueError(f"{source}: no observation of {name!r} is left ({counted})")
    columns = [*COLUMNS, *(["derived"] if "derived" in rows else [])]
    used = rows.loc[kept, columns].reset_index(drop=True)
    left_out = rows.loc[~kept, [*columns, "departure", "normalised"]].assign(reason=reason[~kept]).reset_index(drop=True)
    settings: dict[str, str | float] = {
        "variable": name,
        "instrument_error": errors.instrument,
        "representativeness_error": errors.representativeness,
        "window_hours": window,
        "highest_station_metres": highest,
        "gross_error_standard_deviations": gross,
    }
    return StationProblem(dated, used, when, dropped=left_out, law=law, source=source, settings=settings)


def _select(table: Any, prior: Prior, variable: str | None) -> tuple[pd.DataFrame, str]:
    """Rows of the variable, and its name in the table."""
    standard, labels = standard_name(prior), prior.labels
    there = [str(v) for v in table["variable"].unique()]
    wanted = [variable] if variable is not None else [standard, *([labels.name] if labels else []), *ALIASES.get(standard, ())]
    found = next((name for name in wanted if name in there), None)
    if found is None:
        raise ValueError(
            f"the table has no variable {wanted[0]!r} but {', '.join(there) or 'none'}; "
            "name the column's variable that is meant, or another prior"
        )
    return table[(table["variable"].astype(str) == found).to_numpy()].reset_index(drop=True), found


def _in_units(rows: Any, units: Any, name: str, prior: Prior, errors: Errors) -> pd.DataFrame:
    """Values and error standard deviations in the units of the prior."""
    stated = units.get(name)
    if stated is None:
        raise UnitError(f"variable {name!r} has no unit; wanted one that converts to {prior.units}")
    factor, offset = (1.0, 0.0) if stated == prior.units else conversion(stated, prior.units, f"variable {name!r}")
    own = (rows["error"] * factor if "error" in rows else np.nan * rows["value"]).fillna(errors.instrument)
    return rows.assign(
        value=rows["value"] * factor + offset,
        sigma=np.hypot(own, errors.representativeness),
        station=rows["station"].astype(str) if "station" in rows else "",
    )


def _time(rows: Any, time: np.datetime64 | str | None) -> np.datetime64:
    if time is not None:
        return as_time(time)
    return np.datetime64(rows["time"].median().round("h").to_datetime64(), "s")


def _repeated(rows: Any, reason: Any, away: Any) -> tuple[Any, Any]:
    """Reports of a place that reports nearer to the time too; of equally near ones the last in the table counts."""
    import pandas as pd

    left = rows[reason == ""]
    cells = {"north": left["latitude"], "east": left["longitude"]}
    place = {name: (degrees * _PER_DEGREE).round().astype(int) for name, degrees in cells.items()}
    place["east"] %= 360 * _PER_DEGREE
    order = pd.DataFrame({**place, "away": away[left.index], "late": -np.arange(len(left))})
    best = order.sort_values(["away", "late"]).groupby(["north", "east"], sort=False).head(1).index
    repeated = pd.Series(False, index=rows.index)
    repeated[left.index.difference(best)] = True
    return repeated, "another report of the place nearer to the time, or later"


def _gross_errors(rows: Any, reason: Any, prior: Prior, gross: float) -> None:
    """Background check, then leave-one-out check; see `screen`. Fills in departures and reasons."""
    left = rows.index[reason == ""]
    table = rows.loc[left]
    shape = event_shape(prior)
    reference = reference_of(prior)
    value, sigma = (torch.from_numpy(table[c].to_numpy(np.float64).copy())[None, None] for c in ("value", "sigma"))
    like = GaussianLikelihood(station_operator(prior, table), value, sigma).in_standard(prior.affine, shape)
    mean = torch.zeros(1, *shape, dtype=torch.float64) + reference.mean(shape)
    found = innovations(like, reference.covariance(shape), mean, mean)
    s, d = (found.factor @ found.factor.T).numpy(), found.departures.numpy()
    score = d / np.sqrt(np.diag(s))
    rows.loc[left, "departure"], rows.loc[left, "normalised"] = d, score
    for i in np.flatnonzero(np.abs(score) > gross):
        reason[left[i]] = f"gross error: {abs(score[i]):.1f} standard deviations from the background"
    removed = _leave_one_out(s, d, np.flatnonzero(np.abs(score) <= gross), gross)
    for i, z in removed.items():
        rows.loc[left[i], "normalised"] = z
        reason[left[i]] = f"gross error: {abs(z):.1f} standard deviations from what the other stations say"


def _leave_one_out(s: np.ndarray, d: np.ndarray, keep: np.ndarray, gross: float) -> dict[int, float]:
    """Which of the departures ``d`` (covariance ``s``) at ``keep`` disagree with the others, and by how many deviations.

    A gross error makes its neighbours look bad before it is found, so those that were left out are looked at again in the
    end, the best first.
    """
    removed: list[int] = []
    while len(keep) > 1:
        inverse = np.linalg.inv(s[np.ix_(keep, keep)])
        z = inverse @ d[keep] / np.sqrt(np.diag(inverse))
        worst = int(np.argmax(np.abs(z)))
        if abs(z[worst]) <= gross:
            break
        removed.append(int(keep[worst]))
        keep = np.delete(keep, worst)
    while removed:
        shared = s[keep][:, removed]
        gain = np.linalg.solve(s[np.ix_(keep, keep)], shared)
        variance = np.diag(s)[removed] - (shared * gain).sum(0)
        z = (d[removed] - d[keep] @ gain) / np.sqrt(variance)
        best = int(np.argmin(np.abs(z)))
        if abs(z[best]) > gross:
            return dict(zip(removed, z.tolist(), strict=True))
        keep = np.append(keep, removed.pop(best))
    return {}
