"""A viewer of draws in a notebook: slice, draw, quantile, and what the posterior says at a pixel."""

from __future__ import annotations

import html
import importlib.util
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from posterior.draws import Draws
from posterior.figures.fields import array, plane, unit_of
from posterior.figures.html import embedded, png
from posterior.figures.style import BLUE, FIELD, MAGNITUDE, ORANGE, Scale, diverging, new_figure, sequential, unit
from posterior.quantiles import weibull_quantiles

_HERE = Path(__file__).parent
_WIDE = 420  # pixels of the picture


def view(draws: Draws) -> Any:
    """Widgets that show a field of draws, to be displayed in a notebook.

    A menu chooses mean, standard deviation, one draw, a quantile and, where the truth is known, truth and error; a slider each
    goes through draws, quantiles, and the axes before the last two. A click on the picture, or the arrow keys, probe a
    pixel: its value, mean, standard deviation and interval, and the histogram of its draws. Complex draws are shown by
    their magnitude. Colours keep one scale over all draws and quantiles of a slice.

    Args:
        draws: Draws of fields with two axes or more.

    Returns:
        A `Viewer`, which Jupyter shows.

    Raises:
        ValueError: If events have fewer than two axes.
        ImportError: If ipywidgets or anywidget is not installed.
    """
    return Viewer(draws)


class Viewer:
    """The widgets of `view`, and what they show.

    Args:
        draws: Draws of fields with two axes or more.

    Attributes:
        show: Menu of what is shown.
        draw: Slider of the draw.
        quantile: Slider of the quantile, as far as the draws reach.
        slices: Sliders of the axes before the last two, by name.
        picture: The image; ``probe`` is row and column as they lie on the screen.
        caption: What is shown, with its scale.
        probed: What the posterior says at the pixel.
    """

    def __init__(self, draws: Draws) -> None:
        if importlib.util.find_spec("anywidget") is None or importlib.util.find_spec("ipywidgets") is None:
            raise ImportError("the viewer takes ipywidgets and anywidget: pip install 'posterior[notebook]'")
        import ipywidgets as widgets

        self._colours = MAGNITUDE if draws.kind == "complex" else FIELD
        self.draws = draws = draws.magnitude() if draws.kind == "complex" else draws
        if len(draws.event_shape) < 2:
            raise ValueError(f"view: events have axes {draws.dims}; wanted two or more")
        self._where = plane(draws)
        self._uncertain = draws.is_posterior and draws.n_effective > 1 + 1e-6
        rows, columns = self._shape = (draws.event_shape[-2], draws.event_shape[-1])
        kinds = ["mean" if draws.is_posterior else "estimate", *(["standard deviation", "quantile"] if self._uncertain else [])]
        kinds += ["draw", *(["truth", "error"] if draws.truth is not None else [])]
        end = 1 / (draws.n_effective + 1)
        self.show = widgets.Dropdown(options=kinds, description="show")
        self.draw = widgets.IntSlider(0, 0, draws.n - 1, description="draw")
        self.quantile = widgets.FloatSlider(0.5, min=end, max=1 - end, step=min(0.01, end), description="quantile")
        leading = list(zip(draws.dims[:-2], draws.event_shape[:-2], strict=True))
        self.slices = {dim: widgets.IntSlider(0, 0, size - 1, description=dim) for dim, size in leading if size > 1}
        tall = self._where.shape_on_paper(self._shape)
        size = [_WIDE, round(_WIDE * tall)] if tall <= 1.2 else [round(1.2 * _WIDE / tall), round(1.2 * _WIDE)]
        self.picture = _picture_class()(shape=[rows, columns], size=size, probe=[rows // 2, columns // 2])
        self.caption, self.probed = widgets.HTML(), widgets.HTML()
        controls = [self.show, self.draw, self.quantile, *self.slices.values()]
        for control in controls:
            control.observe(self._changed, "value")
        self.picture.observe(lambda _: self._probe(), "probe")
        self.box = widgets.HBox(
            [widgets.VBox([*controls, self.picture, self.caption]), self.probed], layout=widgets.Layout(flex_flow="row wrap")
        )
        self._changed(None)

    def _repr_mimebundle_(self, **options: Any) -> Any:
        return self.box._repr_mimebundle_(**options)

    @property
    def pixel(self) -> tuple[int, int]:
        """Row and column of the probed pixel in the arrays of the draws."""
        (row, column), (rows, columns) = self.picture.probe, self._shape
        last_row, last_column = self._where.turned
        return (rows - 1 - row if last_row else row), (columns - 1 - column if last_column else column)

    def _index(self) -> tuple[int, ...]:
        draws = self.draws
        return tuple(self.slices[dim].value if dim in self.slices else 0 for dim in draws.dims[:-2])

    def _one(self, event: Tensor) -> np.ndarray:
        return array(event, self.draws)[self._index()]

    def _samples(self) -> np.ndarray:
        """The draws of the slice, (draws, rows, columns)."""
        return array(self.draws.samples, self.draws)[(slice(None), *self._index())]

    def values(self) -> tuple[np.ndarray, Scale]:
        """What is shown, and its colours."""
        draws, units, kind = self.draws, unit(self.draws.units), self.show.value
        if kind == "standard deviation":
            shown = self._one(draws.std)
            return shown, sequential(shown, units)
        if kind == "error":
            assert draws.truth is not None
            shown = self._one(draws.mean - draws.truth.to(draws.mean))
            return shown, diverging(shown, units)
        samples = self._samples()
        scale = sequential(samples, units, self._colours, low=None)
        if kind == "draw":
            return samples[self.draw.value], scale
        if kind == "quantile":
            return self._quantiles(samples, (self.quantile.value,))[0], scale
        truth = draws.truth if kind == "truth" else draws.mean
        assert truth is not None
        return self._one(truth), scale

    def _quantiles(self, samples: np.ndarray, levels: tuple[float, ...]) -> np.ndarray:
        flat = samples.reshape(len(samples), -1).T
        weights = None if self.draws.log_weights is None else array(self.draws.weights)
        return weibull_quantiles(flat, levels, weights).reshape(len(levels), *samples.shape[1:])

    def _changed(self, _: object) -> None:
        self.draw.layout.display = None if self.show.value == "draw" else "none"
        self.quantile.layout.display = None if self.show.value == "quantile" else "none"
        values, scale = self.values()
        source = png(values, scale, self._where)
        words = {"draw": f"draw {self.draw.value}", "quantile": f"quantile {self.quantile.value:.3g}"}
        what = words.get(str(self.show.value), str(self.show.value))
        self.picture.caption = f"{what} of {self.draws.name}"
        self.picture.source = source
        bar = png(np.linspace(scale.low, scale.high, 128)[None], Scale(scale.colours, scale.low, scale.high, scale.units))
        self.caption.value = (
            f'<div class="posterior-caption">{html.escape(what)}: {scale.low:.5g} '
            f'<img src="{bar}" alt="" width="128" height="12"> {scale.high:.5g} {html.escape(scale.units)}</div>'
        )
        self._probe(values)

    def _probe(self, values: np.ndarray | None = None) -> None:
        row, column = self.pixel
        shown = (self.values()[0] if values is None else values)[row, column]
        here = self._samples()[:, row, column]
        units = "" if self.draws.units == "1" else f" {self.draws.units}"
        where = zip(self._where.dims, (row, column), strict=True)
        rows = {"pixel": ", ".join(self._place(dim, i) for dim, i in where), self.show.value: f"{shown:.5g}{units}"}
        if not np.isfinite(here).all():
            rows["draws"] = "no value here"
        elif self._uncertain:
            mean, std = (float(self._one(event)[row, column]) for event in (self.draws.mean, self.draws.std))
            level = min(0.9, (self.draws.n_effective - 1) / (self.draws.n_effective + 1) * 0.999)
            lower, upper = self._quantiles(here[:, None], ((1 - level) / 2, (1 + level) / 2))[:, 0]
            rows |= {"mean": f"{mean:.5g}{units}", "standard deviation": f"{std:.3g}{units}"}
            rows[f"{100 * level:.0f} % interval"] = f"{lower:.5g} to {upper:.5g}{units}"
        truth = None if self.draws.truth is None else float(self._one(self.draws.truth)[row, column])
        if truth is not None:
            rows["truth"] = f"{truth:.5g}{units}"
        body = "".join(f"<tr><th>{html.escape(k)}</th><td>{html.escape(v)}</td></tr>" for k, v in rows.items())
        picture = ""
        if self._uncertain and np.isfinite(here).all():
            picture = (
                f'<img src="{_histogram(here, array(self.draws.weights), truth, unit(self.draws.units))}" alt="histogram">'
            )
        self.probed.value = f'<table class="posterior-probe">{body}</table>{picture}'

    def _place(self, dim: str, i: int) -> str:
        if dim not in self._where.coords:
            return f"{dim} {i}"
        value = self._where.coords[dim].values[i]
        return f"{dim} {value} {unit_of(self._where.coords[dim])}".rstrip()


def _histogram(values: np.ndarray, weights: np.ndarray, truth: float | None, units: str) -> str:
    figure = new_figure(2.9, 1.8)
    ax = figure.add_subplot()
    ax.hist(values, bins=min(20, max(5, len(values) // 4)), weights=weights, color=BLUE, alpha=0.8)
    if truth is not None:
        ax.axvline(truth, color=ORANGE, linestyle="--", label="truth")
        ax.legend(fontsize=7)
    ax.set_xlabel(units, fontsize=8)
    ax.set_ylabel("share of draws", fontsize=8)
    ax.tick_params(labelsize=7)
    return embedded(figure, 90)


@lru_cache(maxsize=1)
def _picture_class() -> Any:
    """The picture as a widget; made when it is first asked for, since its libraries are an extra."""
    import anywidget
    import traitlets

    class Picture(anywidget.AnyWidget):
        """An image of rows and columns that tells which of them was clicked."""

        _esm = (_HERE / "viewer.js").read_text(encoding="utf-8")
        _css = (_HERE / "viewer.css").read_text(encoding="utf-8")
        source = traitlets.Unicode("").tag(sync=True)
        caption = traitlets.Unicode("").tag(sync=True)
        shape = traitlets.List(traitlets.Int(), [1, 1]).tag(sync=True)
        size = traitlets.List(traitlets.Int(), [_WIDE, _WIDE]).tag(sync=True)
        probe = traitlets.List(traitlets.Int(), [0, 0]).tag(sync=True)

    return Picture
