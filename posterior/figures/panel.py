"""The reconstruction panel: truth, data, mean, standard deviation, error, and error over standard deviation."""

from __future__ import annotations

import itertools
import math
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from posterior.draws import Draws
from posterior.figures.fields import array, image, line, plane, positions
from posterior.figures.style import (
    BLUE,
    FIELD,
    MAGNITUDE,
    Scale,
    diverging,
    new_figure,
    ratio,
    save,
    sequential,
    unit,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROWS = 6  # channels or levels that a figure shows


@dataclass(frozen=True)
class _Panel:
    """One column of a panel: an event's values and the kind of scale they take."""

    title: str
    values: np.ndarray
    kind: str


def reconstruction(
    draws: Draws,
    truth: Tensor | None = None,
    data: Tensor | None = None,
    path: str | os.PathLike[str] | None = None,
    *,
    columns: int | None = None,
    allow_point_estimate: bool = False,
) -> Figure:
    """Panels of truth, data, mean, standard deviation, error, and absolute error over standard deviation.

    What is not known is left out: truth and errors without a truth, the data where they are no image, the spread of
    point estimates. Truth and mean share one scale. Fields with two axes or more are shown as images of the last two,
    one row for each index of the others (the first six); latitude and longitude as a map; fields with one axis as
    lines, with the 90 % interval or the widest that the draws support. Complex draws are shown by their magnitude:
    the mean is then the mean of magnitudes, and the spread theirs.

    Args:
        draws: What to show.
        truth: The true event; that of the draws by default.
        data: What was observed, as an image (rows, columns), shown in pixels of its own; by default
            ``draws.observed``, if that is one image: complex data, such as k-space, by the root of the sum of
            squares over coils, on a logarithmic scale.
        path: Where to write the figure too.

    Other arguments:
        columns: Panels in a row, where an event is one image; if None all, or three where there are more than four.
        allow_point_estimate: Show the scatter of point estimates too.

    Returns:
        A figure that pyplot knows nothing of.

    Raises:
        TypeError: If the truth is no array.
        ValueError: If the truth does not have the shape of an event, the data are no image, or an event is a single
            number or holds none.
    """
    if truth is not None:
        if not hasattr(truth, "__array__"):
            raise TypeError(f"plot: truth is a {type(truth).__name__}; wanted an event's values (a file's name goes to path=)")
        draws = replace(draws, truth=torch.as_tensor(truth).to(draws.samples))
    shown = _data(draws, data)
    colours = MAGNITUDE if draws.kind == "complex" else FIELD
    if draws.kind == "complex":
        draws = draws.magnitude()
    if not draws.event_shape:
        raise ValueError("plot: an event is a single number; wanted at least one axis")
    if 0 in draws.event_shape:
        raise ValueError(f"plot: an event has shape {draws.event_shape}; wanted at least one value")
    panels = _panels(draws, allow_point_estimate)
    if len(draws.event_shape) == 1:
        figure = _lines(draws, panels, allow_point_estimate)
    else:
        figure = _images(draws, panels, shown, colours, columns)
    if path is not None:
        save(figure, path)
    return figure


def _panels(draws: Draws, allow_point_estimate: bool) -> list[_Panel]:
    uncertain = (draws.is_posterior or allow_point_estimate) and draws.n_effective > 1 + 1e-6
    mean = draws.mean
    std = draws.spread(allow_point_estimate) if uncertain else None
    panels = [_Panel("mean" if draws.is_posterior else "estimate", array(mean, draws), "field")]
    if draws.truth is not None:
        panels.insert(0, _Panel("truth", array(draws.truth, draws), "field"))
    if std is not None:
        panels.append(_Panel("standard deviation", array(std, draws), "spread"))
    if draws.truth is not None:
        error = mean - draws.truth.to(mean)
        panels.append(_Panel("error", array(error, draws), "error"))
        if std is not None:
            z = np.divide(abs(array(error)), array(std), out=np.full(std.shape, np.nan), where=array(std) > 0)
            panels.append(_Panel("|error| / standard deviation", np.where(np.isfinite(panels[-1].values), z, np.nan), "ratio"))
    return panels


def _data(draws: Draws, data: Tensor | None) -> _Panel | None:
    """The data as a panel, where they are an image."""
    given = data is not None
    values = data if data is not None else draws.observed
    if values is None:
        return None
    as_magnitude = values.is_complex() or (draws.kind == "complex" and values.ndim >= 4)  # such as k-space
    if as_magnitude:
        values = values.abs().square().reshape(-1, *values.shape[-2:]).sum(0).sqrt()
    flat = array(values.double())
    while flat.ndim > 2 and flat.shape[0] == 1:
        flat = flat[0]
    if flat.ndim != 2 or min(flat.shape) < 2:
        if given:
            raise ValueError(f"plot: the data have shape {tuple(values.shape)}; wanted an image (rows, columns)")
        return None
    if as_magnitude:
        return _Panel("data, magnitude", np.where(flat > 0, flat, np.nan), "log")
    return _Panel("data", flat, "data")


def _images(draws: Draws, panels: list[_Panel], data: _Panel | None, colours: str, columns: int | None) -> Figure:
    rows = min(ROWS, math.prod(draws.event_shape[:-2]))
    shown: list[list[_Panel | None]] = []
    for row in range(rows):
        fields: list[_Panel | None] = [replace(p, values=p.values.reshape(-1, *draws.event_shape[-2:])[row]) for p in panels]
        if data is not None:  # after the truth, and in the first row only
            fields.insert(int(panels[0].title == "truth"), data if row == 0 else None)
        shown.append(fields)
    if rows == 1:
        columns = columns or (len(shown[0]) if len(shown[0]) <= 4 else 3)
        shown = [shown[0][i : i + columns] for i in range(0, len(shown[0]), columns)]
    where, wide = plane(draws), len(shown[0])
    tall = where.shape_on_paper((draws.event_shape[-2], draws.event_shape[-1]))
    width = min(4.2, max(1.7, 2.5 / tall))
    figure = new_figure(wide * (width + 1.0), len(shown) * (max(1.6, width * tall) + 0.75))
    axes = figure.subplots(len(shown), wide, squeeze=False)
    for row, fields in enumerate(shown):
        channel = list(itertools.chain(*shown)) if rows == 1 else fields
        common = np.concatenate([p.values.ravel() for p in channel if p is not None and p.kind == "field"])
        for ax, panel in itertools.zip_longest(axes[row], fields):
            if panel is None:
                ax.remove()
            elif data is not None and panel is data:
                image(ax, data.values, None, _scale(data, data.values, "units of the data", MAGNITUDE), data.title)
            else:
                name = f"{panel.title} [{row}]" if rows > 1 else panel.title
                image(ax, panel.values, where, _scale(panel, common, draws.units, colours), name)
    return figure


def _scale(panel: _Panel, common: np.ndarray, units: str, colours: str) -> Scale:
    units = unit(units)
    if panel.kind == "error":
        return diverging(panel.values, units)
    if panel.kind == "ratio":
        return ratio()
    if panel.kind == "spread":
        return sequential(panel.values, units)
    if panel.kind == "log":
        finite = panel.values[np.isfinite(panel.values)]
        top = float(finite.max()) if finite.size else 1.0
        return Scale(MAGNITUDE, top * 1e-4, top, units, extend="min", log=True)
    return sequential(common, units, colours, low=None)


def _lines(draws: Draws, panels: list[_Panel], allow_point_estimate: bool) -> Figure:
    shown = [p for p in panels if p.title != "truth"]  # it shares the axes of the mean
    figure = new_figure(3.6 * len(shown), 3.2)
    for ax, panel in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        if panel.kind == "field":
            if any(p.kind == "spread" for p in panels):
                interval_band(ax, draws, allow_point_estimate=allow_point_estimate)
            if draws.truth is not None:
                line(ax, draws, array(draws.truth), color="black", linestyle="--", linewidth=1, label="truth")
        line(ax, draws, panel.values, color=BLUE, label=panel.title)
        if panel.kind == "error":
            ax.axhline(0, color="black", linewidth=0.5)
        if len(ax.get_legend_handles_labels()[1]) > 1:
            ax.legend(fontsize=8)
        ax.set_title(panel.title, fontsize=10)
        ax.set_ylabel("standard deviations" if panel.kind == "ratio" else unit(draws.units), fontsize=9)
    return figure


def interval_band(
    ax: Axes,
    draws: Draws,
    level: float | None = None,
    *,
    color: str | tuple[float, float, float] = BLUE,
    alpha: float = 0.3,
    allow_point_estimate: bool = False,
) -> float:
    """Fill the central interval of draws of one axis; returns its level.

    Args:
        ax: Where to.
        draws: Draws of lines.
        level: Probability inside; 0.9 where None, or the widest that the draws support.

    Other arguments:
        color: Of the band.
        alpha: Its opacity.
        allow_point_estimate: See `Draws.interval`.
    """
    if level is None:
        level = min(0.9, (draws.n_effective - 1) / (draws.n_effective + 1) * 0.999)
    lower, upper = map(array, draws.interval(level, allow_point_estimate))
    ax.fill_between(
        positions(ax, draws), lower, upper, color=color, alpha=alpha, linewidth=0, label=f"{100 * level:.0f} % interval"
    )
    return level
