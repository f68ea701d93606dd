"""Figures of whether the spread tells the error: spread-skill, sparsification, reliability, residuals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from posterior.figures.style import BLUE, ORANGE, one_axes, unit
from posterior.uncertainty.plots._given import check_given
from posterior.uncertainty.predictive import ResidualCheck
from posterior.uncertainty.probabilities import Reliability
from posterior.uncertainty.spread import Sparsification, SpreadSkill

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def spread_skill(found: SpreadSkill, units: str = "1", *, ax: Axes | None = None) -> Figure:
    """Root-mean-square error against spread, in tenths of all pixels by spread: on the diagonal if calibrated.

    Args:
        found: What `posterior.uncertainty.spread_skill` returned.
        units: Of the draws.

    Other arguments:
        ax: Where to draw; a new figure where None.

    Raises:
        TypeError: If it is something else.
    """
    check_given("spread_skill", found, SpreadSkill, "spread_skill")
    figure, ax = one_axes(ax)
    spread, error, lower, upper = (
        v.numpy() for v in (found.curve.expected, found.curve.values, found.curve.lower, found.curve.upper)
    )
    top = 1.08 * float(max(spread.max(), upper.max()))
    ax.plot([0, top], [0, top], color="black", linewidth=0.8, linestyle="--", label="calibrated")
    off = np.abs(np.stack([error - lower, upper - error]))
    ax.errorbar(
        spread,
        error,
        yerr=off,
        color=BLUE,
        marker="o",
        markersize=4,
        capsize=2,
        linewidth=1.2,
        label=f"{100 * found.band:.0f} % band",
    )
    ax.set_xlim(0, top)
    ax.set_ylim(0, top)
    ax.set_aspect("equal")
    ax.set_xlabel(f"spread ({unit(units)})", fontsize=9)
    ax.set_ylabel(f"error of the mean ({unit(units)})", fontsize=9)
    _finish(ax, f"spread / error {found.ratio:.2f} ({found.lower:.2f} to {found.upper:.2f})")
    return figure


def sparsification(found: Sparsification, *, ax: Axes | None = None) -> Figure:
    """Error of what is left as the most uncertain pixels are taken out, beside that of the oracle.

    Args:
        found: What `posterior.uncertainty.sparsification` returned.

    Other arguments:
        ax: Where to draw; a new figure where None.

    Raises:
        TypeError: If it is something else.
    """
    check_given("sparsification", found, Sparsification, "sparsification")
    figure, ax = one_axes(ax)
    at, values, lower, upper, oracle = (
        v.numpy() for v in (found.curve.at, found.curve.values, found.curve.lower, found.curve.upper, found.curve.expected)
    )
    ax.fill_between(at, lower, upper, color=BLUE, alpha=0.25, linewidth=0, label=f"{100 * found.curve.band:.0f} % band")
    ax.plot(at, values, color=BLUE, linewidth=1.4, label="by spread")
    ax.plot(at, oracle, color=ORANGE, linewidth=1.4, linestyle="-.", label="by the error itself")
    ax.axhline(1, color="black", linewidth=0.8, linestyle="--", label="in random order")
    ax.set_xlim(0, 1)
    ax.set_ylim(0, 1.1)
    ax.set_xlabel("share of pixels taken out", fontsize=9)
    ax.set_ylabel("error of the rest / error of all", fontsize=9)
    _finish(ax, f"sparsification: AUSE {found.ause:.3f} (random {found.random:.3f})", "lower left")
    return figure


def reliability(found: Reliability, event: str = "the event", *, ax: Axes | None = None) -> Figure:
    """How often an event happened against the probability that the draws gave it, with how often each was given.

    Args:
        found: What `posterior.uncertainty.reliability` returned.
        event: In words, such as "pressure below 1000 hPa".

    Other arguments:
        ax: Where to draw; a new figure where None.

    Raises:
        TypeError: If it is something else.
    """
    check_given("reliability", found, Reliability, "reliability")
    figure, ax = one_axes(ax)
    at, values, lower, upper = (v.numpy() for v in (found.curve.at, found.curve.values, found.curve.lower, found.curve.upper))
    some = np.isfinite(at) & np.isfinite(values)
    counts = found.counts.numpy() / max(1, int(found.counts.sum()))
    width = 1 / len(counts)
    middles = (np.arange(len(counts)) + 0.5) * width
    ax.bar(middles, 0.25 * counts / counts.max(), width=0.96 * width, color="0.8", label="how often it was given")
    ax.plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle="--", label="calibrated")
    banded = some & np.isfinite(lower) & np.isfinite(upper)
    label = f"{100 * found.curve.band:.0f} % band of exact samples"
    ax.vlines(at[banded], lower[banded], upper[banded], color="black", alpha=0.35, linewidth=5, label=label)
    ax.plot(at[some], values[some], color=BLUE, marker="o", markersize=4, linewidth=1.2, label="measured")
    ax.set_xlim(0, 1)
    ax.set_ylim(0, 1)
    ax.set_xlabel(f"probability given to {event}", fontsize=9)
    ax.set_ylabel("how often it happened", fontsize=9)
    _finish(ax, f"reliability (p = {found.p_value:.2g}, Brier score {found.brier:.3g})")
    return figure


def residuals(found: ResidualCheck, *, ax: Axes | None = None) -> Figure:
    """Residual chi-square of the draws beside its law where the noise alone explains it.

    Args:
        found: What `posterior.uncertainty.residual_check` returned.

    Other arguments:
        ax: Where to draw; a new figure where None.

    Raises:
        TypeError: If it is something else.
    """
    check_given("residuals", found, ResidualCheck, "residual_check")
    from scipy.stats import chi2

    figure, ax = one_axes(ax)
    values, m, weights = found.chi_square.numpy(), found.count, None
    if found.weights is not None:
        weights = found.weights.numpy()
        values, weights = values[weights > 0], weights[weights > 0]
    low, high = chi2.ppf([0.0005, 0.9995], m) / m
    low, high = min(low, values.min()), max(high, values.max())
    at = np.linspace(low, high, 400)
    ax.fill_between(at, chi2.pdf(at * m, m) * m, color="black", alpha=0.15, linewidth=0, label="of noise alone")
    bins = min(30, max(5, len(values) // 4))
    ax.hist(values, bins=bins, weights=weights, density=True, color=BLUE, alpha=0.75, label="of the draws")
    ax.set_xlabel("||y - A x||² / (m sigma²)", fontsize=9)
    ax.set_ylabel("density", fontsize=9)
    _finish(ax, f"residuals of {m} data (predictive p = {found.p_value:.2g})")
    return figure


def _finish(ax: Axes, title: str, where: Literal["best", "lower left"] = "best") -> None:
    ax.set_title(title, fontsize=10)
    ax.tick_params(labelsize=8)
    ax.legend(fontsize=8, frameon=False, loc=where)
