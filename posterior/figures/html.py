"""What a notebook shows of draws: thumbnails, key figures, warnings."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from posterior.draws import Draws
from posterior.figures.fields import Plane, array, plane
from posterior.figures.style import FIELD, MAGNITUDE, Scale, sequential, unit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LONGEST = 256  # pixels of a thumbnail
_STYLE = """<style>
.posterior-draws{font-size:13px;line-height:1.4}
.posterior-draws figure{display:inline-block;margin:0 12px 8px 0}
.posterior-draws figcaption{font-size:12px}
.posterior-draws img{display:block;image-rendering:pixelated}
.posterior-draws th{text-align:left;vertical-align:top;padding-right:1em;font-weight:600}
.posterior-draws td{text-align:left}
.posterior-draws .warning{border-left:4px solid #d55e00;padding-left:8px;margin:4px 0}
</style>"""


def summary(draws: Draws, facts: Mapping[str, str]) -> str:
    """HTML of draws; every text in it is escaped.

    Args:
        draws: What to show.
        facts: Rows of the table.
    """
    warned = "".join(f'<div class="warning">{html.escape(text)}</div>' for text in warnings_of(draws))
    rows = {**facts, **key_figures(draws)}
    table = "".join(f"<tr><th>{html.escape(key)}</th><td>{html.escape(text)}</td></tr>" for key, text in rows.items())
    pictures = "".join(_figure(caption, source, width) for caption, source, width in thumbnails(draws))
    return f'<div class="posterior-draws">{_STYLE}{warned}<div>{pictures}</div><table>{table}</table></div>'


def warnings_of(draws: Draws) -> Iterable[str]:
    """What a reader has to be told first."""
    if draws.stats.status != "ok":
        yield f"status: {draws.stats.status}"
    if not draws.is_posterior:
        yield "point estimates (no uncertainty)"
    yield from draws.stats.warnings


def key_figures(draws: Draws) -> dict[str, str]:
    """Range of the mean and size of the spread, in words."""
    if draws.kind == "complex":
        draws = draws.magnitude()
    units = "" if draws.units == "1" else f" {draws.units}"
    mean = array(draws.mean, draws)
    if not np.isfinite(mean).any():
        return {"values": "none is finite"}
    figures = {
        "mean": f"{np.nanmin(mean):.4g} to {np.nanmax(mean):.4g}{units}" if mean.size > 1 else f"{mean.item():.5g}{units}"
    }
    if draws.is_posterior and draws.n_effective > 1 + 1e-6:
        std = array(draws.std, draws)
        words = f"{np.nanmedian(std):.3g} (median), {np.nanmax(std):.3g} (largest){units}"
        figures["standard deviation"] = words if std.size > 1 else f"{std.item():.3g}{units}"
    return figures


def thumbnails(draws: Draws) -> list[tuple[str, str, int]]:
    """Mean, standard deviation and two draws: caption, data URI and width in pixels; none of a single number."""
    colours = MAGNITUDE if draws.kind == "complex" else FIELD
    if draws.kind == "complex":
        draws = draws.magnitude()
    if not draws.event_shape or not draws.samples[0].numel():
        return []
    if len(draws.event_shape) == 1:
        return [("mean and interval" if draws.is_posterior else "estimate", _png_of_line(draws), 420)]
    where, units = plane(draws), unit(draws.units)
    fields = {"mean" if draws.is_posterior else "estimate": _first(draws, draws.mean)}
    fields |= {f"draw {i}": _first(draws, draws.samples[i]) for i in range(min(2, draws.n))}
    common = sequential(np.stack(list(fields.values())), units, colours, low=None)
    shown = [(name, values, common) for name, values in fields.items()]
    if draws.is_posterior and draws.n_effective > 1 + 1e-6:
        std = _first(draws, draws.std)
        shown.insert(1, ("standard deviation", std, sequential(std, units)))
    width = _width(where, (draws.event_shape[-2], draws.event_shape[-1]))
    return [
        (f"{name}: {scale.low:.4g} to {scale.high:.4g} {units}", png(values, scale, where), width)
        for name, values, scale in shown
    ]


def _first(draws: Draws, x: Tensor) -> np.ndarray:
    """The first image of an event."""
    return array(x, draws).reshape(-1, *x.shape[-2:])[0]


def _width(where: Plane, shape: tuple[int, int]) -> int:
    return round(min(180, 180 / where.shape_on_paper(shape)))


def png(values: np.ndarray, scale: Scale, where: Plane | None = None) -> str:
    """An image without axes, one pixel a value, as a data URI; rows run as `fields.image` draws them."""
    import matplotlib.image

    step = max(1, -(-max(values.shape) // _LONGEST))
    values = values[::step, ::step]
    values = values if where is None else where.upright(values)
    style = scale.style
    rgba = style["cmap"](style["norm"](np.ma.masked_invalid(values)))
    file = io.BytesIO()
    matplotlib.image.imsave(file, rgba, format="png")
    return uri(file.getvalue())


def _png_of_line(draws: Draws) -> str:
    from posterior.figures.fields import line
    from posterior.figures.panel import interval_band
    from posterior.figures.style import BLUE, new_figure

    figure = new_figure(4.2, 2.0)
    ax = figure.add_subplot()
    if draws.is_posterior and draws.n_effective > 1 + 1e-6:
        interval_band(ax, draws)
    line(ax, draws, array(draws.mean), color=BLUE)
    ax.set_ylabel(unit(draws.units), fontsize=9)
    ax.tick_params(labelsize=8)
    return embedded(figure, 100)


def embedded(figure: Figure, dpi: int) -> str:
    """A figure as the address of an image."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=dpi)
    return uri(file.getvalue())


def uri(data: bytes) -> str:
    """A PNG as the address of an image."""
    return f"data:image/png;base64,{base64.b64encode(data).decode('ascii')}"


def _figure(caption: str, source: str, width: int) -> str:
    text = html.escape(caption)
    return f'<figure><img src="{source}" width="{width}" alt="{text}"><figcaption>{text}</figcaption></figure>'
