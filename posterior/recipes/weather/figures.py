"""The map of an analysis."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from posterior.figures.fields import Plane, colour_bar, image, plane
from posterior.figures.style import BLUE, ORANGE, Scale, diverging, new_figure, sequential
from posterior.recipes.weather.analysis import OI, POSTERIOR, Analysis
from posterior.recipes.weather.problem import standard_name, station_operator

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INTERVAL = {"hPa": 4.0, "Pa": 400.0, "K": 1.0}  # between isolines, by units
_PALE = "Purples"  # of the spread, so that isolines and dots are seen on it


def figure(analysis: Analysis) -> Figure:
    """Posterior beside optimal interpolation: isolines of the mean over the spread, stations by their departure.

    Dots are stations used, coloured by observation less mean; squares were withheld, crosses are gross errors that were left
    out. Where the truth is known its isolines are dashed, and the maps below show the error of each mean. Maps of a kind share
    one scale.

    Args:
        analysis: What to show.

    Returns:
        A matplotlib figure that pyplot knows nothing of; it has no window and is saved with ``savefig``.
    """
    problem, where = analysis.problem, plane(analysis.draws)
    units = problem.prior.units
    means = {name: analysis.ensembles[name].mean(0)[0].numpy() for name in (POSTERIOR, OI)}
    spreads = {name: analysis.ensembles[name].std(0)[0].numpy() for name in (POSTERIOR, OI)}
    truth = None if problem.truth is None else problem.truth[0].numpy()
    rows = 1 if truth is None else 2
    height = 5.4 * where.shape_on_paper((where.coords["latitude"].size, where.coords["longitude"].size))
    drawn = new_figure(14.0, rows * (height + 0.7) + 0.4)
    axes = drawn.subplots(rows, 2, squeeze=False)
    spread = sequential(np.stack(list(spreads.values())), units, _PALE)
    limit = 3 * float(np.median(problem.stations["sigma"].to_numpy(float)))
    departure = Scale("RdBu_r", -limit, limit, f"observation less mean ({units})", extend="both")
    levels = _isolines([*means.values(), *([] if truth is None else [truth])], units)
    dots: Any = None
    for ax, name in zip(axes[0], means, strict=True):
        last = name == OI
        image(ax, spreads[name], where, spread, _title(name, analysis), bar=False)
        _contours(ax, where, means[name], levels, truth)
        dots = _stations(ax, analysis, means[name], where, departure)
        if last:
            bar = colour_bar(ax, dots, departure)
            bar.set_label(departure.units, fontsize=9)
        else:
            shade = Scale(_PALE, spread.low, spread.high, f"standard deviation ({units})")
            colour_bar(ax, ax.collections[0], shade)
    if truth is not None:
        errors = {name: mean - truth for name, mean in means.items()}
        scale = diverging(np.stack(list(errors.values())), f"mean less truth ({units})")
        for ax, (name, error) in zip(axes[1], errors.items(), strict=True):
            image(ax, error, where, scale, f"error of the mean: {name}", bar=name == OI)
            ax.scatter(*_places(problem.stations, where), s=8, c="black")
    drawn.suptitle(_headline(analysis), fontsize=10)
    return drawn


def _contours(ax: Axes, where: Plane, mean: np.ndarray, levels: np.ndarray, truth: np.ndarray | None) -> None:
    y, x = (where.coords[dim].values for dim in where.dims)
    if truth is not None:
        ax.contour(x, y, truth, levels, colors=ORANGE, linewidths=0.8, linestyles="dashed")
    lines = ax.contour(x, y, mean, levels, colors="black", linewidths=0.9, linestyles="solid")
    ax.clabel(lines, fontsize=7, fmt="%g")


def _isolines(fields: list[np.ndarray], units: str) -> np.ndarray:
    low, high = min(f.min() for f in fields), max(f.max() for f in fields)
    step = _INTERVAL.get(units) or float(f"{max(high - low, 1e-6) / 12:.1g}")
    return np.arange(np.floor(low / step), np.ceil(high / step) + 1) * step


def _stations(ax: Axes, analysis: Analysis, mean: np.ndarray, where: Plane, scale: Scale) -> Any:
    """Dots and squares by departure, crosses where a gross error was left out."""
    problem = analysis.problem
    field = torch.from_numpy(np.ascontiguousarray(mean)).double()[None, None]
    found: list[Any] = []
    for table, marker in ((problem.stations, "o"), (problem.withheld, "s")):
        if table is not None and len(table):
            off = table["value"].to_numpy() - station_operator(problem.prior, table).A(field)[0, 0].numpy()
            style = {**scale.style, "marker": marker, "s": 34, "edgecolors": "black", "linewidths": 0.7, "zorder": 3}
            found.append(ax.scatter(*_places(table, where), c=off, **style))
    if problem.dropped is not None:
        gross = problem.dropped[problem.dropped["reason"].str.startswith("gross error")]
        ax.scatter(*_places(gross, where), marker="x", c=BLUE, s=50, linewidths=2, zorder=3)
    return found[0]


def _places(table: Any, where: Plane) -> tuple[np.ndarray, np.ndarray]:
    """Longitudes as the map has them, and latitudes."""
    west = float(where.coords[where.dims[1]].values.min())
    return west + (table["longitude"].to_numpy(float) - west) % 360, table["latitude"].to_numpy(float)


def _title(name: str, analysis: Analysis) -> str:
    units = analysis.problem.prior.units
    parts = [name]
    if name in analysis.fields:
        parts.append(f"CRPS {analysis.fields[name].crps:.2f} {units} against the truth (dashed)")
    if name in analysis.stations:
        parts.append(f"CRPS {analysis.stations[name].crps:.2f} {units} at withheld stations")
    return "\n".join(parts)


def _headline(analysis: Analysis) -> str:
    problem = analysis.problem
    what = standard_name(problem.prior).replace("_", " ")
    moment = str(problem.time)[:16].replace("T", " ")
    gone = 0 if problem.dropped is None else int(problem.dropped["reason"].str.startswith("gross error").sum())
    parts = [
        f"{what}, {moment} UTC",
        f"{len(problem.stations)} stations of {problem.source}",
        f"{analysis.draws.n} draws",
    ]
    return " · ".join([*parts, f"{gone} gross errors left out (crosses)"] if gone else parts)
