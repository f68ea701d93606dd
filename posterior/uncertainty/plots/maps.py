"""Figures of draws: any map of theirs, some of them side by side, intervals along a line, principal components."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import numpy as np
from torch import Tensor

from posterior.draws import Draws
from posterior.figures.fields import Plane, array, colour_bar, image, line, plane, unit_of
from posterior.figures.panel import interval_band
from posterior.figures.style import (
    BLUE,
    FIELD,
    MAGNITUDE,
    SPREAD,
    Scale,
    diverging,
    new_figure,
    one_axes,
    plain,
    ratio,
    sequential,
    tint,
    unit,
    words,
)
from posterior.uncertainty.maps import PrincipalComponents

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Kind = Literal["field", "spread", "error", "ratio", "probability"]


def field(
    draws: Draws,
    values: Tensor,
    title: str = "",
    *,
    kind: Kind = "spread",
    units: str | None = None,
    points: Tensor | np.ndarray | None = None,
    limits: tuple[float, float] | None = None,
    ax: Axes | None = None,
) -> Figure:
    """One map on the axes of draws: of their mean, spread, exceedance, entropy, or anything else of an event's shape.

    Latitude and longitude are drawn true to scale in the middle of the map, with coastlines where cartopy and its
    data are at hand.

    Args:
        draws: Give the axes and the units.
        values: (rows, columns), or an event whose other axes have size one; grey where not finite.
        title: Above it.

    Other arguments:
        kind: "spread": from zero up; "field": from the smallest value to the largest; "error": white at zero, and as far
            to both sides; "ratio": 0 to 3 standard deviations; "probability": 0 to 1.
        units: Of the values; those of the draws where None.
        points: Places (n, 2) to mark, such as stations: the vertical axis's coordinate, then the horizontal one's.
        limits: Values of the first and the last colour, in place of those that ``kind`` chooses.
        ax: Where to draw; a new figure where None.

    Raises:
        ValueError: If the values are no such map.
    """
    if len(draws.dims) < 2:
        raise ValueError(f"field: events have axes {draws.dims}; wanted two or more")
    shape = tuple(draws.event_shape[-2:])
    if tuple(values.shape[-2:]) != shape or values.numel() != shape[0] * shape[1]:
        raise ValueError(f"field: values have shape {tuple(values.shape)}; wanted {shape}")
    shown, where = array(values.reshape(shape)), plane(draws)
    if draws.mask is not None:
        shown = np.where(array(draws.mask.reshape(-1, *shape).any(0)), shown, np.nan)
    label = unit(draws.units if units is None else units)
    scales = {
        "field": lambda: sequential(shown, label, MAGNITUDE if draws.kind == "complex" else FIELD, low=None),
        "spread": lambda: sequential(shown, label),
        "error": lambda: diverging(shown, label),
        "ratio": ratio,
        "probability": lambda: Scale(SPREAD, 0.0, 1.0, "probability" if units is None else label),
    }
    if kind not in scales:
        raise ValueError(f"field: kind is {kind!r}; wanted one of {', '.join(scales)}")
    scale = scales[kind]()
    if limits is not None:
        scale = Scale(scale.colours, *limits, scale.units, "both")
    tall = where.shape_on_paper((shape[0], shape[1]))
    figure, ax = one_axes(ax, 5.6, min(8.0, max(2.2, 4.4 * tall + 0.7)))
    image(ax, shown, where, scale, title)
    if points is not None:
        y, x = np.asarray(points, dtype=float).reshape(-1, 2).T
        ax.plot(x, y, linestyle="none", marker="o", markersize=3.5, color="white", markeredgecolor="black", markeredgewidth=0.7)
    return figure


def samples(draws: Draws, count: int = 4, *, channel: int = 0, deviations: bool = True) -> Figure:
    """Some draws side by side on one scale and, below, what each adds to the posterior mean.

    Complex draws are shown by their magnitude.

    Args:
        draws: The draws; the first ``count`` are shown. Weighted ones are shown as they are.
        count: How many.

    Other arguments:
        channel: Index into the flattened axes before the last two.
        deviations: Whether to draw the second row.

    Raises:
        ValueError: If events have fewer than two axes, or ``count`` is not positive.
    """
    colours = MAGNITUDE if draws.kind == "complex" else FIELD
    if draws.kind == "complex":
        draws = draws.magnitude()
    if len(draws.event_shape) < 2:
        raise ValueError(f"samples: events have axes {draws.dims}; wanted two or more")
    if count < 1:
        raise ValueError(f"samples: count is {count}; wanted 1 or more")
    count, where = min(count, draws.n), plane(draws)
    shape = (draws.event_shape[-2], draws.event_shape[-1])

    def one(x: Tensor) -> np.ndarray:
        return array(x, draws).reshape(-1, *shape)[channel]

    shown = np.stack([one(x) for x in draws.samples[:count]])
    off = shown - one(draws.mean)
    rows = 2 if deviations and draws.n > 1 else 1
    tall = where.shape_on_paper(shape)
    width = min(4.0, max(1.6, 2.3 / tall))
    figure = new_figure(count * (width + 0.15) + 0.9, rows * (width * tall + 0.45))
    axes = figure.subplots(rows, count, squeeze=False)
    units = unit(draws.units)
    scales = [sequential(shown, units, colours, low=None), diverging(off, units)]
    for row, (values, scale) in enumerate(zip((shown, off)[:rows], scales, strict=False)):
        for i, ax in enumerate(axes[row]):
            title = f"draw {i}" if row == 0 else f"draw {i} - mean"
            drawn = image(ax, values[i], where, scale, title, bar=False, ticks=False)
        colour_bar(axes[row, -1], drawn, scale)
    return figure


def profile(
    draws: Draws,
    dim: str | None = None,
    at: Mapping[str, int] | None = None,
    *,
    levels: tuple[float, ...] = (0.9, 0.5),
    ax: Axes | None = None,
) -> Figure:
    """Mean and central intervals along a line through the field, with the truth where it is known.

    Args:
        draws: The draws; of complex ones the magnitude is shown.
        dim: Axis to go along; the last where None.
        at: Index on each other axis; the middle where it is not given.

    Other arguments:
        levels: Of the intervals. One that the draws cannot support is left out, and the widest that they can takes its
            place.
        ax: Where to draw; a new figure where None.

    Raises:
        ValueError: If there is no such axis or index, a level is not between 0 and 1, or there is a single draw.
        PointEstimateError: If the draws are point estimates.
    """
    if draws.kind == "complex":
        draws = draws.magnitude()
    if not draws.dims:
        raise ValueError("profile: an event is a single number; wanted at least one axis")
    if draws.n_effective < 1 + 1e-6:
        raise ValueError("profile: an interval takes two draws; got one")
    if not all(0 < level < 1 for level in levels):
        raise ValueError(f"profile: levels are {levels}; wanted numbers between 0 and 1")
    dim = draws.dims[-1] if dim is None else dim
    wrong = {dim, *(at or {})} - set(draws.dims)
    if wrong:
        raise ValueError(f"profile: there is no axis {min(wrong)!r}; there are {', '.join(draws.dims)}")
    places, index = [], []
    for axis, size in zip(draws.dims, draws.event_shape, strict=True):
        if axis == dim:
            index.append(slice(None))
            continue
        i = (at or {}).get(axis, size // 2)
        if not -size <= i < size:
            raise ValueError(f"profile: index {i} on the axis {axis!r}; wanted 0 to {size - 1}")
        index.append(i)
        if size > 1:
            places.append(_place(axis, i, draws))
    along = draws.map(lambda x: x[(slice(None), *index)], dims=(dim,))
    figure, ax = one_axes(ax, 6.4, 3.4)
    top = (along.n_effective - 1) / (along.n_effective + 1) * 0.999
    supported = sorted({min(level, top) for level in levels}, reverse=True)
    for i, level in enumerate(supported):
        interval_band(ax, along, level, color=tint(BLUE, 0.6 * (i + 1) / (len(supported) + 0.5)), alpha=1)
    if along.truth is not None:
        line(ax, along, array(along.truth), color="black", linestyle="--", linewidth=1, label="truth")
    line(ax, along, array(along.mean), color=BLUE, linewidth=1.4, label="mean")
    ax.set_ylabel(f"{words(draws.name)} ({unit(draws.units)})", fontsize=9)
    ax.set_title(f"along {plain(dim)}" + (f" at {', '.join(places)}" if places else ""), fontsize=10)
    ax.legend(fontsize=8)
    ax.tick_params(labelsize=8)
    ax.margins(x=0)
    return figure


def _place(axis: str, i: int, draws: Draws) -> str:
    if axis not in draws.coords:
        return f"{plain(axis)} = {i}"
    value, units = draws.coords[axis].values[i], unit_of(draws.coords[axis])
    shown = f"{value:g}" if np.issubdtype(type(value), np.number) else plain(str(value))
    return f"{plain(axis)} = {shown} {units}".rstrip()


def components(found: PrincipalComponents, draws: Draws, *, channel: int = 0) -> Figure:
    """Principal components of posterior variation: what one posterior standard deviation along each does to the mean.

    Args:
        found: What `principal_components` returned.
        draws: The draws they are of, for axes and units.

    Other arguments:
        channel: Index into the flattened axes before the last two; of complex draws 0 is the real part.

    Raises:
        ValueError: If events have fewer than two axes.
    """
    if len(draws.event_shape) < 2:
        raise ValueError(f"components: events have axes {draws.dims}; wanted two or more")
    k, shape = len(found.components), (draws.event_shape[-2], draws.event_shape[-1])
    scaled = found.components * found.std.reshape(-1, *[1] * (found.components.ndim - 1))
    patterns = array(scaled.reshape(k, -1, *shape)[:, channel])
    where: Plane = plane(draws)
    tall = where.shape_on_paper(shape)
    width = min(4.0, max(1.6, 2.3 / tall))
    figure = new_figure(k * (width + 0.15) + 0.9, width * tall + 0.6)
    axes = figure.subplots(1, k, squeeze=False)
    scale = diverging(patterns, f"{unit(draws.units)} per standard deviation")
    for i, ax in enumerate(axes[0]):
        drawn = image(
            ax, patterns[i], where, scale, f"component {i + 1}: {100 * float(found.share[i]):.0f} %", bar=False, ticks=False
        )
    colour_bar(axes[0, -1], drawn, scale)
    return figure
