"""One look for all figures: colour maps by meaning, colours that everyone can tell apart, figures without pyplot.

Sequential maps are perceptually uniform; the diverging one is white at zero. Line colours are those of Okabe and Ito,
Color universal design, 2008.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, PINK, SKY, YELLOW = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00"
CYCLE = (BLUE, ORANGE, GREEN, PINK, SKY, YELLOW)
MAGNITUDE, FIELD, SPREAD, DIFFERENCE, RATIO = "gray", "cividis", "viridis", "RdBu_r", "magma"
_LONGEST = 32  # characters of a label
MISSING = "#c8c8c8"  # where there is no value: land, air, a divisor of zero


@dataclass(frozen=True)
class Scale:
    """How values become colours.

    Args:
        colours: Name of a colour map.
        low: Value of its first colour.
        high: Value of its last.
        units: On the bar.
        extend: Which end of the bar is open: "neither", "min", "max" or "both".
        log: Whether colours follow the logarithm.
    """

    colours: str
    low: float
    high: float
    units: str
    extend: str = "neither"
    log: bool = False

    @property
    def style(self) -> dict[str, Any]:
        """Keyword arguments of matplotlib's ``imshow`` and ``pcolormesh``."""
        import matplotlib
        from matplotlib.colors import LogNorm, Normalize

        norm = LogNorm if self.log else Normalize
        return {"cmap": matplotlib.colormaps[self.colours].with_extremes(bad=MISSING), "norm": norm(self.low, self.high)}


def sequential(values: np.ndarray, units: str, colours: str = SPREAD, low: float | None = 0.0) -> Scale:
    """From ``low``, or the smallest value where None, to the largest."""
    finite = values[np.isfinite(values)]
    top = float(finite.max()) if finite.size else 1.0
    bottom = low if low is not None else float(finite.min()) if finite.size else 0.0
    return Scale(colours, bottom, top if top > bottom else bottom + 1.0, units)


def diverging(values: np.ndarray, units: str) -> Scale:
    """Centred: white at zero, and as far to either side as the largest value."""
    finite = np.abs(values[np.isfinite(values)])
    top = (float(finite.max()) if finite.size else 1.0) or 1.0
    return Scale(DIFFERENCE, -top, top, units)


def ratio() -> Scale:
    """Errors in standard deviations, from 0 to 3: a calibrated Gaussian posterior is above 3 in 0.3 % of all places."""
    return Scale(RATIO, 0.0, 3.0, "standard deviations", extend="max")


def new_figure(width: float, height: float) -> Figure:
    """A figure that pyplot knows nothing of, in inches; notebooks show it all the same."""
    return _figure_class()(figsize=(width, height), layout="constrained")


@lru_cache(maxsize=1)
def _figure_class() -> type[Figure]:
    import io

    from matplotlib.figure import Figure

    class ShownFigure(Figure):
        """A figure that a notebook shows by itself: without pyplot nobody has told it how."""

        def draw(self, renderer: Any) -> None:
            """Draw, with one more round of the layout.

            Axes of a fixed aspect are resized by the layout, which changes their ticks and with these the margins that it
            had reckoned with: after one round labels may be cut off at the edge. Where labels leave no room for another
            round the first one stands.
            """
            engine = self.get_layout_engine()
            if engine is not None:
                engine.execute(self)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "constrained_layout not applied", UserWarning)
                super().draw(renderer)

        def _repr_png_(self) -> bytes:
            file = io.BytesIO()
            self.savefig(file, format="png", dpi=100)
            return file.getvalue()

    return ShownFigure


def one_axes(ax: Axes | None, width: float = 4.6, height: float = 3.8) -> tuple[Figure, Axes]:
    """``ax`` and its figure, or new ones."""
    if ax is None:
        ax = new_figure(width, height).add_subplot()
    figure = ax.get_figure(root=True)
    assert figure is not None  # new_figure made it, or the caller draws on it
    return figure, ax


def plain(text: str) -> str:
    """Text that matplotlib draws as it stands: names and units come from files, and a "$" would begin mathematics."""
    shown = text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
    return shown.replace("$", r"\$")


def words(name: str) -> str:
    """A name as people write it, of a variable or an axis."""
    return plain(name.replace("_", " "))


def tint(colour: str, strength: float) -> tuple[float, float, float]:
    """An opaque colour, ``strength`` of the way from white: laid over each other tints look as they do in a legend."""
    from matplotlib.colors import to_rgb

    red, green, blue = (1 + strength * (part - 1) for part in to_rgb(colour))
    return red, green, blue


def unit(units: str) -> str:
    """Units as an axis shows them."""
    return "dimensionless" if units in ("1", "") else plain(units)


def save(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a figure in the format of the suffix, never leaving half of it.

    Raises:
        ValueError: If matplotlib does not know the format.
        FileNotFoundError: If the folder does not exist.
    """
    from posterior.draws_io import replacing

    target = Path(path)
    with replacing(target) as partial:
        figure.savefig(partial, format=target.suffix[1:] or "png", dpi=150)
