"""Figures of the report: accuracy against time, and reconstructions with their uncertainty side by side."""

from __future__ import annotations

import re
import textwrap
from collections import Counter
from collections.abc import Container
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.fields.maps import Maps, read_maps
from benchmarks.fields.methods import DEFAULT, OURS, PEERS
from benchmarks.harness.device import CPU
from benchmarks.harness.markdown import groups, mean
from benchmarks.harness.table import Row
from posterior.figures.fields import Plane, plane
from posterior.figures.style import BLUE, CYCLE, FIELD, GREEN, MAGNITUDE, ORANGE, SPREAD, Scale, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from posterior.priors.labels import Labels

COLUMNS = 6
TITLE = 30  # characters of a line above a panel
COMMON = 0.5  # share of the settings of peers that make a problem one of the curves'
MARKERS = "osD^v<>PX*"
JACOBIAN = f"{DEFAULT}, Jacobian"  # a curve of its own: settings of the default sampler that make backward passes


def accuracy(rows: list[Row], units: str) -> Figure | None:
    """CRPS of each method against seconds and against network work a draw.

    On the problems that half of the settings of peers have, without those that ran on fewer; against seconds only what ran on
    one device, one where the default sampler ran. A method that failed on a problem has no point: on those that are left it
    would look better than it is. Of settings with as much network work, the best.
    """
    failed = {(r["method"], r["setting"]) for r in rows if r["status"] == "failed"}
    fine = [r for r in rows if r["status"] == "ok" and r["crps"] and not r["point"] and float(r["nfe"])]
    fine = [r for r in fine if (r["method"], r["setting"]) not in failed]
    of_work = _points(fine, shared := _shared(fine))
    if len(of_work) < 2:
        return None
    device = _clock(fine)
    there = [r for r in fine if r["device"] == device]
    of_seconds = _points(there, together := _shared(there))
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    figure = new_figure(11, 4.4)
    axes = figure.subplots(1, 2)
    handles = {}
    for i, method in enumerate(sorted(of_work.keys() | of_seconds.keys(), key=lambda m: (m not in (*OURS, JACOBIAN), m))):
        style = {"color": _colour(method, i), "marker": MARKERS[i % len(MARKERS)], "label": method}
        style |= {"lw": 1.8 if method in (*OURS, JACOBIAN) else 0.9, "ms": 6, "alpha": 0.9}
        for ax, points, which in zip(axes, (of_seconds, of_work), (0, 1), strict=True):
            if line := sorted((p[which], p[2]) for p in points.get(method, {}).values()):
                (handles[method],) = ax.plot([x for x, _ in line], [y for _, y in line], **style)
    clock = f"seconds a draw, {'one thread' if device == CPU else device}"
    for ax, name, of in zip(axes, (clock, "network calls and VJPs a draw"), (together, shared), strict=True):
        ax.set(xscale="log", yscale="log", xlabel=name, ylabel=f"CRPS ({units}), {len(of)} problem{'s' * (len(of) != 1)}")
        ax.grid(alpha=0.3, which="both")
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
            axis.set_minor_formatter(NullFormatter())
    figure.legend(list(handles.values()), list(handles), loc="outside right center", fontsize=7)
    return figure


def _points(rows: list[Row], shared: set[str]) -> dict[str, dict[float, tuple[float, float, float]]]:
    """Of each method and amount of network work: seconds, work and CRPS, means over problems that a setting must have all."""
    points: dict[str, dict[float, tuple[float, float, float]]] = {}
    lines = groups([r for r in rows if r["problem"] in shared], "method", "setting")
    for (method, _), these in lines.items():
        if {r["problem"] for r in these} >= shared:
            if method == DEFAULT and re.search(r"jacobian=[1-9]", these[0].get("settings", "")):
                method = JACOBIAN
            seconds = sum(float(r["seconds"]) / float(r["draws"]) for r in these) / len(these)
            work, crps, of_method = mean(these, "nfe") + mean(these, "vjps"), mean(these, "crps"), points.setdefault(method, {})
            if work not in of_method or crps < of_method[work][2]:
                of_method[work] = seconds, work, crps
    return points


def _shared(rows: list[Row]) -> set[str]:
    """Problems that half of the settings of peers have, or as many as any problem has; all where there are no peers.

    Of these, those that all settings of the default sampler have, where there are some.
    """
    by_method = groups([r for r in rows if _peer(r)], "method", "setting")
    count = Counter(p for these in by_method.values() for p in {r["problem"] for r in these})
    wanted = min(COMMON * len(by_method), max(count.values(), default=0))
    found = {p for p, n in count.items() if n >= wanted} if count else {r["problem"] for r in rows}
    mine = groups([r for r in rows if r["method"] == DEFAULT], "setting").values()
    return found.intersection(*({r["problem"] for r in these} for these in mine)) or found


def _clock(rows: list[Row]) -> str:
    """Where the default sampler and the most settings of peers ran; where most did, if it ran nowhere."""
    ran = groups(rows, "device")
    mine = {r["device"] for r in rows if r["method"] == DEFAULT}
    count = {d: len({(r["method"], r["setting"]) for r in these if _peer(r)}) for (d,), these in ran.items()}
    return max(mine or count, key=lambda d: (count[d], d), default=CPU)


def _peer(row: Row) -> bool:
    return row["method"].split()[0] in PEERS


def _colour(method: str, i: int) -> str:
    if method in (DEFAULT, JACOBIAN):
        return BLUE
    if method in OURS:
        return GREEN
    return ORANGE if method.startswith("deepinv") else CYCLE[3 + i % 3]


def panels(folder: Path, units: str, labels: Labels | None = None, without: Container[str] = ()) -> Figure | None:
    """The truth and the point estimates of one problem, then the mean of every method that draws, its standard deviation below.

    All images share one scale, and all standard deviations another.

    Args:
        folder: Of the maps.
        units: Of the images.
        labels: Coordinates, which say what belongs on top; rows as they are where None.
        without: Maps that are left out, "method (setting)".
    """
    where = Plane(("", "")) if labels is None else plane(labels)
    found = {path.stem: read_maps(path) for path in sorted(folder.glob("*.npz")) if path.stem not in without}
    truth = found.pop("truth", None)
    if not found:
        return None
    names = sorted(found, key=_place)
    points = [n for n in names if found[n].std is None]
    drawn = [n for n in names if found[n].std is not None]
    first = ([("truth", truth)] if truth is not None else []) + [(n, found[n]) for n in points]
    blocks = [(rest, False) for rest in _rows(first)] + [(rest, True) for rest in _rows([(n, found[n]) for n in drawn])]
    reference = truth if truth is not None else found[names[0]]
    low, high = np.nanquantile(reference.image, [0.002, 0.998])
    spread = [np.nanquantile(found[n].std, 0.99) for n in drawn]
    colours = MAGNITUDE if units == "tissue" else FIELD
    scales = Scale(colours, float(low), float(high), units), Scale(SPREAD, 0.0, float(np.median(spread or [1.0])), units)
    count, columns = sum(1 + double for _, double in blocks), max(len(block) for block, _ in blocks)
    height, width = reference.image.shape
    cell = 1.7
    figure = new_figure(cell * columns + 1.4, count * (cell * min(height / width, 1.3) + 0.2) + 0.3)
    axes = figure.subplots(count, columns, squeeze=False)
    pictures: list = [None, None]
    for ax in axes.flat:
        ax.set_axis_off()
    row = 0
    for block, double in blocks:
        for column, (name, maps) in enumerate(block):
            pictures[0] = _image(axes[row, column], where.upright(maps.image), scales[0], name.replace(" (default)", ""))
            if double and maps.std is not None:
                pictures[1] = _image(axes[row + 1, column], where.upright(maps.std), scales[1], "")
        row += 1 + double
    for picture, scale, what in zip(pictures, scales, ("reconstruction", "standard deviation"), strict=True):
        if picture is not None:
            bar = figure.colorbar(picture, ax=axes, fraction=0.02, pad=0.01, extend="both", aspect=30, shrink=0.9)
            bar.set_label(f"{what} ({scale.units})")
    return figure


def _rows(shown: list[tuple[str, Maps]]) -> list[list[tuple[str, Maps]]]:
    return [shown[i : i + COLUMNS] for i in range(0, len(shown), COLUMNS)]


def _place(name: str) -> tuple[int, str]:
    first = name.split()[0]
    return (2 if first in PEERS else 1 if first in OURS else 0), name


def _image(ax: Axes, values: np.ndarray, scale: Scale, title: str) -> object:
    picture = ax.imshow(values, interpolation="nearest", **scale.style)
    ax.set_title(textwrap.fill(title, TITLE), fontsize=6.5)
    return picture


__all__ = ["Maps", "accuracy", "panels"]
