"""The two pictures of a check."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from posterior.figures.fields import Plane, plane
from posterior.uncertainty.prior_check.verdicts import JUDGED

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from posterior.uncertainty.prior_check.check import PriorCheck
    from posterior.uncertainty.prior_check.statistics import Ratio

DRAWS, HELD, TRAINING, LINEAR = "#0072b2", "#222222", "#d55e00", "#999999"


def curves_figure(check: PriorCheck) -> Figure:
    """Denoising, spectra, correlation, extremes, neighbours and Jacobian: one panel each."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 7), layout="constrained")
    axes = figure.subplots(2, 4)
    figure.suptitle(f"Check of the prior {check.prior}")
    _denoising(axes[0, 0], axes[0, 1], check)
    _ratio(axes[0, 2], check.statistics.eofs, "EOF", "variance, draws / held-out", 0.15)
    if check.statistics.spectrum is None:
        axes[0, 3].set_axis_off()
    else:
        _power(axes[0, 3], check)
    lags, draws, held = check.statistics.correlation
    axes[1, 0].plot(lags, held, "o-", color=HELD, ms=3, label="held-out")
    axes[1, 0].plot(lags, draws, "o-", color=DRAWS, ms=3, label="draws")
    axes[1, 0].axhline(0, color=LINEAR, lw=0.7)
    _named(axes[1, 0], "spatial correlation", "lag along the last axis (points)", "correlation")
    _extremes(axes[1, 1], check)
    _neighbours(axes[1, 2], check)
    _jacobian(axes[1, 3], check)
    return figure


def fields_figure(check: PriorCheck) -> Figure:
    """Some draws over some held-out fields, and the maps of both standard deviations; the first channel of each."""
    from matplotlib.figure import Figure

    draws, held = (torch.stack([_plane(x) for x in s]) for s in check.examples)
    if draws.ndim == 2:
        return _lines_figure(draws, held)
    std = [torch.full(check.statistics.mean_draws.shape, torch.nan, dtype=torch.float64) for _ in range(2)]
    there = check.statistics.moving
    std[0][there], std[1][there] = check.statistics.std.draws, check.statistics.std.held_out
    where = Plane(("", "")) if check.labels is None else plane(check.labels)
    count = len(draws)
    aspect = draws.shape[-2] / draws.shape[-1]
    figure = Figure(figsize=(2.4 * (count + 1) + 1.2, 2 * (2.4 * aspect + 0.5)), layout="constrained")
    axes = figure.subplots(2, count + 1, squeeze=False)
    limit = float(torch.quantile(held.abs().flatten(), 0.995))
    top = float(torch.nan_to_num(torch.stack([_plane(s) for s in std])).max())
    for row, (what, fields) in enumerate((("draw", draws), ("held-out", held))):
        for k in range(count):
            shown = axes[row, k].imshow(where.upright(fields[k].numpy()), cmap="RdBu_r", vmin=-limit, vmax=limit)
            axes[row, k].set_title(f"{what} {k + 1}", fontsize=9)
        spread = axes[row, count].imshow(where.upright(_plane(std[row]).numpy()), cmap="viridis", vmin=0, vmax=top)
        axes[row, count].set_title(
            f"standard deviation, {what}s" if what == "draw" else "standard deviation, held-out", fontsize=9
        )
        figure.colorbar(shown, ax=axes[row, :count].tolist(), shrink=0.8, label="standardised units")
        figure.colorbar(spread, ax=axes[row, count], shrink=0.8)
    for ax in axes.flat:
        ax.set_xticks([])
        ax.set_yticks([])
    return figure


def _lines_figure(draws: Tensor, held: Tensor) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots(2, 1, sharex=True, sharey=True)
    for ax, what, lines in ((axes[0], "draws", draws), (axes[1], "held-out", held)):
        ax.plot(lines.T, lw=0.9)
        ax.set_title(what, fontsize=9)
    return figure


def _plane(x: Tensor) -> Tensor:
    """The first channel, (H, W) or (n,)."""
    while x.ndim > 2:
        x = x[0]
    return x


def _named(ax: Any, title: str, x: str, y: str, legend: bool = True) -> None:
    ax.set_title(title, fontsize=10)
    ax.set_xlabel(x, fontsize=9)
    ax.set_ylabel(y, fontsize=9)
    ax.tick_params(labelsize=8)
    if legend:
        ax.legend(fontsize=8, frameon=False)


def _denoising(left: Any, right: Any, check: PriorCheck) -> None:
    d = check.denoising
    left.loglog(d.sigmas, d.prior, "o-", color=DRAWS, ms=3, label="prior")
    for style, (name, values) in zip(("--", ":", "-."), d.linear.items(), strict=False):
        left.loglog(d.sigmas, values, style, color=LINEAR if style == "--" else HELD, label=name)
    _named(left, "held-out denoising error", "sigma", "rms of x0 - D")
    right.fill_between(d.sigmas, d.lower, d.upper, color=DRAWS, alpha=0.25, lw=0)
    right.semilogx(d.sigmas, d.ratio, "o-", color=DRAWS, ms=3)
    right.axhline(1, color=HELD, lw=0.8)
    for end in JUDGED:
        right.axvline(end * d.rms, color=LINEAR, lw=0.7, ls=":")
    _named(right, "against the best linear denoiser", "sigma", "error ratio, 95 % band", legend=False)


def _ratio(ax: Any, r: Ratio, x: str, y: str, limit: float) -> None:
    ax.axhspan(1 - limit, 1 + limit, color=LINEAR, alpha=0.2, lw=0)
    ax.errorbar(r.at, r.ratio, [r.ratio - r.lower, r.upper - r.ratio], fmt="o", ms=3, lw=0.8, color=DRAWS)
    ax.axhline(1, color=HELD, lw=0.8)
    _named(ax, "EOF spectrum", x, y, legend=False)


def _power(ax: Any, check: PriorCheck) -> None:
    r = check.statistics.spectrum
    assert r is not None
    ax.semilogy(r.at, r.held_out, "o-", color=HELD, ms=3, label="held-out")
    ax.semilogy(r.at, r.draws, "o-", color=DRAWS, ms=3, label="draws")
    ax.fill_between(r.at, r.lower * r.held_out, r.upper * r.held_out, color=DRAWS, alpha=0.25, lw=0)
    _named(ax, "power spectrum", "frequency (cycles per point)", "power")


def _extremes(ax: Any, check: PriorCheck) -> None:
    levels = np.linspace(0.02, 0.98, 25)
    ends = []
    for (draws, held), colour, name in (
        (check.statistics.maxima, TRAINING, "largest"),
        (check.statistics.minima, DRAWS, "smallest"),
    ):
        a, b = (np.quantile(v.numpy(), levels) for v in (held, draws))
        ax.plot(a, b, "o", ms=3, color=colour, label=f"{name} of a field")
        ends += [*a, *b]
    ax.plot([min(ends), max(ends)], [min(ends), max(ends)], color=HELD, lw=0.8)
    _named(ax, "extremes", "held-out (standard deviations)", "draws")


def _neighbours(ax: Any, check: PriorCheck) -> None:
    m = check.memorisation
    if m is None:
        ax.set_axis_off()
        ax.text(0.5, 0.5, "no training fields given", ha="center", fontsize=9)
        return
    edges = np.linspace(0, 1.05 * float(torch.cat([m.draws, m.held_out]).max()), 30)
    for values, colour, name in ((m.held_out, HELD, "held-out"), (m.draws, DRAWS, "draws")):
        ax.hist(values.numpy(), edges, density=True, histtype="step", color=colour, label=name)
    _named(ax, "nearest training field", "distance (rms, standardised units)", "density")


def _jacobian(ax: Any, check: PriorCheck) -> None:
    j = check.jacobian
    ax.semilogx(j.sigmas, j.antisymmetry, "o-", ms=3, label="antisymmetry")
    ax.semilogx(j.sigmas, -j.lowest.clamp_max(0), "s-", ms=3, label="negative part")
    ax.semilogx(j.sigmas, (j.covariance - 1).abs(), "^-", ms=3, label="|covariance / error - 1|")
    ax.semilogx(j.sigmas, j.fokker_planck, "v-", ms=3, label="Fokker-Planck")
    ax.axhline(0, color=HELD, lw=0.8)
    _named(ax, "Jacobian of D (0 is exact)", "sigma", "relative size")
