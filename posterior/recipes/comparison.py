"""A posterior beside baselines and the truth: what the demos of single fields save, show and print."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from posterior.draws import Draws
from posterior.quantiles import draws_needed, weibull_quantiles
from posterior.uncertainty.scores import crps_members

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from xarray import DataTree

LEVEL = 0.9
POSTERIOR = "posterior"


@dataclass(frozen=True, eq=False)
class Baseline:
    """Another method's answer.

    Args:
        mean: Its estimate (*event).
        std: The standard deviation that it gives, broadcasts to an event, of a Gaussian; None where it gives none.
    """

    mean: Tensor
    std: Tensor | None = None

    def ensemble(self, draws: int, seed: int) -> Tensor:
        """Draws (N, *event) of the Gaussian, point by point; the estimate alone where there is none."""
        if self.std is None:
            return self.mean[None]
        g = torch.Generator().manual_seed(seed)
        noise = torch.randn(draws, *self.mean.shape, generator=g, dtype=torch.float64)
        return self.mean + self.std * noise.to(self.mean)


@dataclass(frozen=True, eq=False)
class Comparison:
    """Draws, baselines and the truth, in physical units.

    Args:
        draws: Of the posterior.
        truth: The true field (*event).
        observed: The data as an image (h, w); shown beside the fields, pixels of its own size.
        baselines: Others' answers by name.

    Other arguments:
        region: (*event) boolean, where scores are taken; everywhere if None.
        source: What was observed.
        facts: How: words for people.
        extra: Further columns of the table, by row and column.
    """

    draws: Draws
    truth: Tensor
    observed: Tensor
    baselines: Mapping[str, Baseline]
    region: Tensor | None = None
    source: str = "simulation"
    facts: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @property
    def table(self) -> list[dict[str, float | str]]:
        """For each reconstruction RMSE, fair CRPS (that of an estimate alone is its mean absolute error) and the share of the
        truth in 90 % intervals, all in the region."""
        seen = torch.ones_like(self.truth, dtype=torch.bool) if self.region is None else self.region
        truth = self.truth[seen].double()
        ensembles = {name: b.ensemble(self.draws.n, seed=1)[:, seen].double() for name, b in self.baselines.items()}
        ensembles[POSTERIOR] = self.draws.samples[:, seen].double()
        means = {name: b.mean[seen].double() for name, b in self.baselines.items()} | {POSTERIOR: ensembles[POSTERIOR].mean(0)}
        rows: list[dict[str, float | str]] = []
        for name, ensemble in ensembles.items():
            row: dict[str, float | str] = {"reconstruction": name}
            row["RMSE"] = float((means[name] - truth).square().mean().sqrt())
            if len(ensemble) < 3:
                row["CRPS"] = float((means[name] - truth).abs().mean())
            else:
                row["CRPS"] = float(crps_members(torch.cat([truth[None], ensemble]))[0])
            if len(ensemble) >= draws_needed(LEVEL):
                row["coverage"] = _coverage(ensemble, truth)
            rows.append(row | dict(self.extra.get(name, {})))
        return rows

    def to_datatree(self) -> DataTree:
        """The draws as `Draws.to_datatree` gives them, and a group ``comparison`` of truth and baselines."""
        import xarray as xr

        tree = replace(self.draws, truth=self.truth).to_datatree()
        variables = {}
        for name, baseline in self.baselines.items():
            short = name.lower().replace(" ", "_").replace("-", "_")
            parts = {short: baseline.mean} | ({} if baseline.std is None else {f"{short}_std": baseline.std})
            for key, value in parts.items():
                values = value.expand(self.draws.event_shape).numpy()
                variables[key] = (self.draws.dims, values, {"units": self.draws.units, "long_name": name})
        variables["observed_image"] = (("observed_y", "observed_x"), self.observed.numpy(), {"units": self.draws.units})
        attrs = {"source": self.source, **self.facts}
        attrs |= {f"{row['reconstruction']}, {k}": v for row in self.table for k, v in row.items() if k != "reconstruction"}
        tree["comparison"] = xr.DataTree(xr.Dataset(variables, attrs=attrs))
        return tree

    def save(self, path: str | Path) -> None:
        """Write `to_datatree` to a NetCDF or Zarr file that `posterior.load_draws` and ArviZ read.

        Args:
            path: Where to; replaced only once everything is written.
        """
        from posterior.draws_io import save_tree

        save_tree(self.to_datatree(), path)


def figure(found: Comparison, *, gamma: float = 1.0) -> Figure:
    """Truth, data, baselines and posterior mean on one scale; two draws; standard deviation and absolute error on another.

    Args:
        found: What to show.
        gamma: Exponent of the colours of fields; below 1 shows faint parts.

    Returns:
        A matplotlib figure that pyplot knows nothing of; it has no window and is saved with ``savefig``.
    """
    from matplotlib.colors import PowerNorm

    from posterior.figures.fields import plane
    from posterior.figures.style import FIELD, SPREAD, new_figure, unit

    mean, truth = _image(found.draws.samples.mean(0)), _image(found.truth)
    fields = {"truth": truth, "observed": found.observed}
    fields |= {name: _image(b.mean) for name, b in found.baselines.items()}
    fields |= {"posterior mean": mean, "one draw": _image(found.draws.samples[0]), "another": _image(found.draws.samples[-1])}
    spreads = {"standard deviation": _image(found.draws.samples.std(0)), "error of the mean": (mean - truth).abs()}
    low, high = float(truth.min()), float(torch.quantile(truth.flatten(), 0.999))
    top = max(float(torch.quantile(v.flatten(), 0.998)) for v in spreads.values()) or 1.0
    columns = math.ceil((len(fields) + len(spreads)) / 2)
    height, width = truth.shape
    drawn = new_figure(columns * 2.9 + 0.4, 2 * (2.5 * height / width + 0.6) + 0.5)
    axes = drawn.subplots(2, columns, squeeze=False).flatten()
    for ax in axes[len(fields) + len(spreads) :]:
        ax.set_axis_off()
    panels = [*((*p, FIELD, PowerNorm(gamma, low, high)) for p in fields.items())]
    panels += [*((*p, SPREAD, PowerNorm(1.0, 0.0, top)) for p in spreads.items())]
    where = plane(found.draws)
    for ax, (title, values, colours, norm) in zip(axes, panels, strict=False):
        shown = ax.imshow(
            where.upright(values.numpy()), cmap=colours, norm=norm, extent=(0, width, 0, height), interpolation="nearest"
        )
        ax.set_title(title, fontsize=10)
        ax.set_xticks([])
        ax.set_yticks([])
        bar = drawn.colorbar(shown, ax=ax, fraction=0.046, extend="max")
        bar.set_label(unit(found.draws.units), fontsize=8)
        bar.ax.tick_params(labelsize=8)
    coverage = found.table[-1].get("coverage")
    parts = [found.source, f"{found.draws.n} draws"]
    if coverage is not None:
        parts.append(f"90 % intervals hold {100 * float(coverage):.1f} % of the truth")
    drawn.suptitle(" · ".join(parts), fontsize=10)
    return drawn


def _image(value: Tensor) -> Tensor:
    return value.reshape(value.shape[-2:])


def _coverage(ensemble: Tensor, truth: Tensor) -> float:
    """Share of the truth (m,) in the central intervals of an ensemble (S, m)."""
    low, high = torch.from_numpy(weibull_quantiles(ensemble.T.numpy(), ((1 - LEVEL) / 2, (1 + LEVEL) / 2)))
    return float(((truth >= low) & (truth <= high)).double().mean())
