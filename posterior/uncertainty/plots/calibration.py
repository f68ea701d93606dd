"""Figures of ranks: coverage, rank histograms, and the PIT or TARP curve, each with its band."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from posterior.figures.style import BLUE, CYCLE, one_axes, plain
from posterior.uncertainty._statistics import Curve
from posterior.uncertainty.plots._given import check_given
from posterior.uncertainty.ranks import Ranks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LEVELS = tuple(np.linspace(0.05, 0.95, 19).round(2).tolist())


def coverage(
    ranks: Ranks | Iterable[Ranks], levels: tuple[float, ...] = _LEVELS, *, band: float = 0.95, ax: Axes | None = None
) -> Figure:
    """Share of truths inside the central interval of each level: on the diagonal if the sampler is calibrated.

    Below it intervals are too narrow. The band is that of exact samples where there is one quantity (grey), and a
    bootstrap over trials around the curve where there are more.

    Args:
        ranks: One, or several to compare.
        levels: Of the intervals.

    Other arguments:
        band: Probability of the pointwise band.
        ax: Where to draw; a new figure where None.

    Raises:
        TypeError: If they are something else.
        ValueError: If there are none.
    """
    figure, ax = one_axes(ax)
    several = _several("coverage", ranks)
    p_values = [one.coverage_p_value() for one in several]
    for colour, one, p in zip(_colours(several), several, p_values, strict=True):
        _curve(ax, one.coverage(levels, band), colour, one, p, alone=len(several) == 1)
    ax.plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle="--", label="calibrated")
    _finish(ax, "nominal coverage", "share of truths inside", "coverage of central intervals", p_values, several)
    return figure


def ecdf(
    ranks: Ranks | Iterable[Ranks], *, points: int = 50, difference: bool = False, band: float = 0.95, ax: Axes | None = None
) -> Figure:
    """Distribution of ranks (PIT values) of the truth; of `tarp`, expected coverage at each credibility level.

    Args:
        ranks: One, or several to compare.

    Other arguments:
        points: How many levels.
        difference: Show the difference from the diagonal, which magnifies it.
        band: Probability of the pointwise band.
        ax: Where to draw; a new figure where None.

    Raises:
        TypeError: If they are something else.
        ValueError: If there are none.

    References:
        Sailynoja, Burkner, Vehtari. Graphical test for discrete uniformity and its applications in goodness-of-fit
        evaluation and multiple sample comparison. 2022. Stat. Comput. 32. arXiv:2103.10522.
    """
    figure, ax = one_axes(ax)
    several = _several("ecdf", ranks)
    for colour, one in zip(_colours(several), several, strict=True):
        _curve(ax, one.ecdf(points, band), colour, one, one.p_value, alone=len(several) == 1, difference=difference)
    ax.plot([0, 1], [0, 0] if difference else [0, 1], color="black", linewidth=0.8, linestyle="--", label="calibrated")
    tarp = all(one.name.startswith("TARP") for one in several)
    x, y = ("credibility level", "expected coverage") if tarp else ("fractional rank of the truth", "share of trials")
    title, p_values = "TARP" if tarp else "distribution of ranks", [one.p_value for one in several]
    _finish(ax, x, f"{y} - level" if difference else y, title, p_values, several, square=not difference)
    return figure


def rank_histogram(ranks: Ranks, bins: int = 10, *, band: float = 0.95, ax: Axes | None = None) -> Figure:
    """Ranks of the truth among the draws: flat if the sampler is calibrated.

    A hump where draws spread too wide, a bowl where too narrow, a slope where they are biased. The band is that of
    exact samples where there is one quantity, and a bootstrap over trials (error bars) where there are more.

    Args:
        ranks: One.
        bins: How many.

    Other arguments:
        band: Probability of the pointwise band.
        ax: Where to draw; a new figure where None.

    Raises:
        TypeError: If they are something else.
    """
    check_given("rank_histogram", ranks, Ranks, "sbc, tarp or rank_truths")
    figure, ax = one_axes(ax)
    curve = ranks.histogram(bins, band)
    at, values, lower, upper, _ = _arrays(curve)
    ax.bar(at, values, width=0.96 / bins, color=BLUE, alpha=0.75)
    if _about_expected(ranks):
        edges = np.linspace(0, 1, bins + 1)
        low, high = (np.append(v, v[-1]) for v in (lower, upper))
        label = f"{100 * band:.0f} % band"
        ax.fill_between(edges, low, high, step="post", color="black", alpha=0.15, linewidth=0, label=label)
    else:
        off = np.abs(np.stack([values - lower, upper - values]))
        ax.errorbar(at, values, yerr=off, fmt="none", ecolor="black", elinewidth=1, capsize=2, label=f"{100 * band:.0f} % band")
    ax.axhline(1 / bins, color="black", linewidth=0.8, linestyle="--", label="calibrated")
    ax.set_ylim(0, max(1.35 * float(max(values.max(), upper.max())), 2 / bins))
    _finish(ax, "fractional rank of the truth", "share of trials", plain(ranks.name), [ranks.p_value], [ranks], square=False)
    return figure


def _several(owner: str, ranks: Ranks | Iterable[Ranks]) -> list[Ranks]:
    several = list(ranks) if isinstance(ranks, Iterable) else [ranks]
    if not several:
        raise ValueError(f"plots.{owner}: there are no ranks to draw")
    for one in several:
        check_given(owner, one, Ranks, "sbc, tarp or rank_truths")
    return several


def _colours(several: list[Ranks]) -> list[str]:
    return [CYCLE[i % len(CYCLE)] for i in range(len(several))]


def _about_expected(ranks: Ranks) -> bool:
    """Whether the band of its curves lies about what is expected, and not about what was measured."""
    return ranks.values.shape[1] == 1


def _arrays(curve: Curve) -> tuple[np.ndarray, ...]:
    return tuple(v.detach().cpu().numpy() for v in (curve.at, curve.values, curve.lower, curve.upper, curve.expected))


def _curve(ax: Axes, curve: Curve, colour: str, ranks: Ranks, p: float, *, alone: bool, difference: bool = False) -> None:
    at, values, lower, upper, expected = _arrays(curve)
    if difference:
        values, lower, upper = values - expected, lower - expected, upper - expected
    about_expected = _about_expected(ranks)
    shade, alpha = ("black", 0.15 if alone else 0.08) if about_expected else (colour, 0.25)
    label = f"{100 * curve.band:.0f} % band" if alone else None
    ax.fill_between(at, lower, upper, color=shade, alpha=alpha, linewidth=0, label=label)
    name = "measured" if alone else f"{plain(ranks.name)}, p = {p:.2g}"
    ax.plot(at, values, color=colour, linewidth=1.4, marker="o" if len(at) < 25 else "", markersize=3, label=name)


def _finish(ax: Axes, x: str, y: str, title: str, p_values: list[float], several: list[Ranks], *, square: bool = True) -> None:
    ax.set_xlabel(x, fontsize=9)
    ax.set_ylabel(y, fontsize=9)
    ax.set_xlim(0, 1)
    if square:
        ax.set_ylim(0, 1)
    if len(several) == 1:
        title = f"{title} ({len(several[0].values)} trials, p = {p_values[0]:.2g})"
    ax.set_title(title, fontsize=10)
    ax.tick_params(labelsize=8)
    ax.legend(fontsize=8, frameon=False)
