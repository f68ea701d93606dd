"""All findings of an assessment on one page."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from posterior.figures.style import BLUE, ORANGE, new_figure, plain
from posterior.uncertainty.assessment import Assessment
from posterior.uncertainty.plots._given import check_given
from posterior.uncertainty.plots.calibration import coverage, ecdf, rank_histogram
from posterior.uncertainty.plots.skill import reliability, sparsification, spread_skill
from posterior.uncertainty.probabilities import Reliability
from posterior.uncertainty.ranks import Ranks
from posterior.uncertainty.spread import Sparsification, SpreadSkill

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLUMNS = 3


def assessment(found: Assessment, units: str = "1") -> Figure:
    """p-values, rank histograms, coverage, TARP, spread-skill, sparsification and reliability, as far as they are there.

    Args:
        found: What `posterior.uncertainty.assess` returned.
        units: Of the draws.

    Raises:
        TypeError: If it is something else.
    """
    check_given("assessment", found, Assessment, "assess")
    panels: list[Callable[..., object]] = [partial(p_values, found)]
    for name, finding in found.findings.items():
        if isinstance(finding, Ranks) and name.startswith("TARP"):
            panels.append(partial(ecdf, finding))
        elif isinstance(finding, Ranks):
            panels.append(partial(rank_histogram, finding))
            if finding.pooled:
                panels.append(partial(coverage, finding))
        elif isinstance(finding, SpreadSkill):
            panels.append(partial(spread_skill, finding, units))
        elif isinstance(finding, Sparsification):
            panels.append(partial(sparsification, finding))
        elif isinstance(finding, Reliability):
            panels.append(partial(reliability, finding))
    rows = math.ceil(len(panels) / _COLUMNS)
    figure = new_figure(4.4 * _COLUMNS, 3.5 * rows)
    axes = figure.subplots(rows, _COLUMNS, squeeze=False).flat
    for ax in axes[len(panels) :]:
        ax.set_axis_off()
    for ax, panel in zip(axes, panels, strict=False):
        panel(ax=ax)
    return figure


def p_values(found: Assessment, *, ax: Axes, level: float = 0.01) -> None:
    """The p-value of every finding on a logarithmic axis, with the level that it should be above."""
    names = list(found.findings)
    values = [max(found.findings[name].p_value, 1e-12) for name in names]
    places = range(len(names), 0, -1)
    colours = [BLUE if v > level else ORANGE for v in values]
    ax.hlines(places, min(1e-3, *values), values, color=colours, linewidth=1)
    for marker, good in (("o", True), ("X", False)):  # told apart without colour too
        at = [(v, y) for v, y in zip(values, places, strict=True) if (v > level) is good]
        if at:
            ax.plot(*zip(*at, strict=True), linestyle="none", marker=marker, color=BLUE if good else ORANGE)
    ax.axvline(level, color="black", linestyle="--", linewidth=0.8)
    ax.set_xscale("log")
    ax.set_xlim(min(1e-3, *values) / 1.5, 1.5)
    ax.set_yticks(list(places), [plain(name) for name in names], fontsize=8)
    ax.tick_params(axis="x", labelsize=8)
    ax.set_xlabel(f"p-value (line: {level:g})", fontsize=9)
    ax.set_title(
        f"{found.trials} trials: {'consistent' if found.passed() else 'NOT consistent'} with exact samples", fontsize=10
    )
