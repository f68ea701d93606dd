"""The picture of a result."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from posterior.figures.fields import Plane, array, image
from posterior.figures.style import MAGNITUDE, SPREAD, Scale, new_figure
from posterior.recipes.mri.results import LEVEL, UNITS, Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def figure(result: Result) -> Figure:
    """Reference where known, zero-filled, SENSE-CG, posterior mean, standard deviation, absolute error.

    Without a reference the sampled k-space and one draw take the places of reference and error. Images share
    one grey scale from 0 to the brightest tissue; standard deviation and error share another, so that they
    can be compared.

    Args:
        result: What to show.

    Returns:
        A matplotlib figure that pyplot knows nothing of; it has no window and is saved with ``savefig``.
    """
    shown = dict(result.images)
    mean_name = list(shown)[-1]
    mean = shown[mean_name]
    white = float(torch.quantile(mean.flatten(), 0.995)) or 1.0
    panels: list[tuple[str, Tensor, str, float]] = [(n, x, MAGNITUDE, white) for n, x in _labelled(result).items()]
    error = None if result.truth is None else (mean - result.truth).abs()
    spread = [v for v in (result.std, error) if v is not None]
    top = max((float(torch.quantile(v.flatten(), 0.998)) for v in spread), default=0.0) or 1.0
    if result.truth is not None:
        panels.insert(0, ("reference", result.truth, MAGNITUDE, white))
    else:
        panels.insert(0, (f"sampled k-space: {result.problem.facts.get('sampled', '')}", result.problem.mask, MAGNITUDE, 1))
        one = torch.linalg.vector_norm(result.draws.samples[0], dim=0)
        panels.append(("one draw", one, MAGNITUDE, white))
    if result.std is not None:
        panels.append(("standard deviation", result.std, SPREAD, top))
    if error is not None:
        panels.append(("absolute error", error, SPREAD, top))

    where = Plane(("y", "x"), result.draws.coords)
    rows, columns = 2, (len(panels) + 1) // 2
    tall = where.shape_on_paper((mean.shape[0], mean.shape[1]))
    drawn = new_figure(columns * (2.9 / tall + 1.1), rows * 3.3)
    axes = drawn.subplots(rows, columns, squeeze=False)
    for ax in axes.flat[len(panels) :]:
        ax.set_axis_off()
    for ax, (title, values, colours, limit) in zip(axes.flat, panels, strict=False):
        scale = Scale(colours, 0.0, limit, UNITS, "max")
        measured = title.startswith("sampled")  # a mask of k-space: neither millimetres nor units
        image(ax, array(values), None if measured else where, scale, title, bar=not measured, ticks=False)
    drawn.suptitle(_headline(result), fontsize=10)
    return drawn


def _labelled(result: Result) -> dict[str, Tensor]:
    labels = {}
    for row in result.table:
        name = str(row["reconstruction"])
        quality = f": {row['PSNR']:.1f} dB" if "PSNR" in row else ""
        labels[name + quality] = result.images[name]
    return labels


def _headline(result: Result) -> str:
    problem = result.problem
    parts = [
        problem.source,
        f"{problem.facts.get('sampled', '?')} of k-space, {problem.facts.get('coils', '?')} coils",
        f"{result.draws.n} draws",
    ]
    held = (("truth", result.interval_coverage), ("withheld data", result.predictive_coverage))
    shares = [f"{100 * value:.1f} % of the {what}" for what, value in held if value is not None]
    if shares:
        parts.append(f"{100 * LEVEL:.0f} % intervals hold {' and '.join(shares)}")
    return " · ".join(parts)
