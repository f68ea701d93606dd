"""What sampling returns, whatever the sampler: draws with their units, axes, statistics and settings."""

from __future__ import annotations

import html
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from xarray import DataArray, DataTree

# What a saved tree calls its other variables and axes: neither the field nor its axes may take these names.
STATISTICS = {
    "nfe": ("network calls per draw", "1"),
    "vjps": ("vector-Jacobian products through the network per draw", "1"),
    "seconds": ("wall-clock time of the run", "s"),
    "peak_memory": ("peak memory of the run", "byte"),
    "residual": ("normalised residual chi-square, averaged over draws", "1"),
    "ess": ("effective sample size of a run", "1"),
    "log_evidence": ("estimate of the log-evidence of a run", "1"),
    "log_evidence_std": ("standard error of the log-evidence of a run", "1"),
    "log_weight": ("unnormalised log-weight of a draw", "1"),
}
RESERVED = frozenset(STATISTICS) | {"chain", "draw", "complex", "measurement", "noise_std"}

_BLOCK = 2**22  # values that are sorted at once
_DEFAULT_DIMS = {0: (), 1: ("x",), 2: ("y", "x"), 3: ("channel", "y", "x")}


class PointEstimateError(RuntimeError):
    """Uncertainty was asked of a method that returns a mode or a mean."""


@dataclass(frozen=True)
class Stats:
    """How the draws were made.

    Args:
        nfe: Network calls per draw.
        vjps: Vector-Jacobian products through the network per draw.
        seconds: Wall-clock time of the run.
        peak_memory: Peak memory in bytes, None where it is not known.
        seed: The seed given.
        status: "ok", or what went wrong.
        sampler: repr of the sampler.
        prior: repr of the prior.
        likelihood: repr of the likelihood.
        versions: Versions of the packages that had a part in it.
        warnings: What the user should know, one sentence each.
        ess: Effective sample size of each independent run of an SMC sampler.
        log_evidence: Estimate of log p(y), one for each SMC run.
        log_evidence_std: Its standard error, one for each SMC run.
        residual: ||y - A x||^2 / (m sigma^2) averaged over draws; 1 is what true noise gives.
    """

    nfe: int
    vjps: int
    seconds: float
    peak_memory: int | None
    seed: int
    status: str
    sampler: str
    prior: str
    likelihood: str
    versions: dict[str, str]
    warnings: tuple[str, ...] = ()
    ess: tuple[float, ...] | None = None
    log_evidence: tuple[float, ...] | None = None
    log_evidence_std: tuple[float, ...] | None = None
    residual: float | None = None

    def __post_init__(self) -> None:
        # Plain numbers, whatever array library they came from: they have to survive a file.
        for name in ("nfe", "vjps", "peak_memory", "seed", "seconds", "residual"):
            if (value := getattr(self, name)) is not None:
                number = float(value) if name in ("seconds", "residual") else int(value)
                object.__setattr__(self, name, number)
        for name in ("ess", "log_evidence", "log_evidence_std"):
            if (values := getattr(self, name)) is not None:
                object.__setattr__(self, name, tuple(float(v) for v in values))
        object.__setattr__(self, "warnings", tuple(self.warnings))
        object.__setattr__(self, "versions", dict(self.versions))


@dataclass(frozen=True, eq=False, repr=False)
class Draws:
    """Draws from p(x | y), in physical units.

    Args:
        samples: Real tensor (draws, *event), float32 or float64.
        stats: How they were made.
        units: Units of the samples, "1" where they have none.
        name: What the field is called, also in files.
        dims: Names of the event axes; by default ("x",), ("y", "x") or ("channel", "y", "x") by their number.
        coords: Coordinates along event axes, each 1-D: arrays, or xarray.DataArray whose attributes are kept.
            Held as a dict of xarray.DataArray.

    Other arguments:
        is_posterior: False for methods that return a mode or a mean; no uncertainty is then offered.
        log_weights: (draws,) unnormalised log-weights, None where all draws weigh the same.
        chains: Number of independent SMC runs; the draws are ordered run by run.
        observed: The data y, (1, *range).
        noise_std: Standard deviation of its noise; broadcasts to `observed`.
        truth: The true event where it is known, (*event).
        mask: (*event) boolean, which points exist (the sea, for currents); None where all do. Labelled output holds NaN
            at the others; `samples` there mean nothing, and are 0 after a file.
        kind: "complex" where the axis `channel`, of size 2, holds real and imaginary part; else "real".

    Raises:
        ValueError: If shapes, names or weights do not fit together.
    """

    samples: Tensor
    stats: Stats
    units: str = "1"
    name: str = "field"
    dims: tuple[str, ...] = ()
    coords: Mapping[str, Any] = field(default_factory=dict)
    is_posterior: bool = True
    log_weights: Tensor | None = None
    chains: int = 1
    observed: Tensor | None = None
    noise_std: Tensor | None = None
    truth: Tensor | None = None
    kind: Literal["real", "complex"] = "real"
    mask: Tensor | None = None

    def __post_init__(self) -> None:
        shape = tuple(self.samples.shape)
        if self.samples.dtype not in (torch.float32, torch.float64) or not shape or shape[0] < 1:
            raise ValueError(
                f"Draws: samples are {self.samples.dtype} of shape {shape}; wanted float32 or float64 of "
                "shape (draws, *event), one draw or more (complex fields: two real channels, kind='complex')"
            )
        event = shape[1:]
        dims = tuple(self.dims or _DEFAULT_DIMS.get(len(event)) or (f"dim_{i}" for i in range(len(event))))
        object.__setattr__(self, "dims", dims)
        _check_names(self.name, dims, event)
        if self.kind not in ("real", "complex"):
            raise ValueError(f"Draws: kind is {self.kind!r}; wanted 'real' or 'complex'")
        if self.kind == "complex" and dict(zip(dims, event, strict=True)).get("channel") != 2:
            raise ValueError(
                "Draws: complex draws hold real and imaginary part along an axis 'channel' of size 2; "
                f"got axes {dims} of sizes {event}"
            )
        if self.chains < 1 or shape[0] % self.chains:
            raise ValueError(f"Draws: {shape[0]} draws do not divide into {self.chains} runs of equal length")
        if self.log_weights is not None:
            _check_weights(self.log_weights, shape[0])
        if self.truth is not None and tuple(self.truth.shape) != event:
            raise ValueError(f"Draws: truth has shape {tuple(self.truth.shape)}; wanted an event's, {event}")
        if self.mask is not None and (tuple(self.mask.shape) != event or self.mask.dtype != torch.bool):
            raise ValueError(
                f"Draws: the mask is {self.mask.dtype} of shape {tuple(self.mask.shape)}; wanted torch.bool of {event}"
            )
        if self.observed is not None and (self.observed.ndim < 1 or self.observed.shape[0] != 1):
            raise ValueError(f"Draws: observed has shape {tuple(self.observed.shape)}; wanted (1, *range)")
        coords = {key: self._coordinate(key, value, event) for key, value in (self.coords or {}).items()}
        object.__setattr__(self, "coords", coords)

    def _coordinate(self, dim: str, value: Any, event: tuple[int, ...]) -> DataArray:
        from xarray import DataArray

        if dim not in self.dims or (dim == "channel" and self.kind == "complex"):
            takes = [d for d in self.dims if not (d == "channel" and self.kind == "complex")]
            raise ValueError(f"Draws: a coordinate is called {dim!r}; the axes that take one are {takes}")
        array = np.asarray(value.detach().cpu() if isinstance(value, Tensor) else value)
        size = event[self.dims.index(dim)]
        if array.shape != (size,):
            raise ValueError(f"Draws: coordinate {dim!r} has shape {array.shape}; wanted ({size},)")
        return DataArray(array.copy(), dims=(dim,), name=dim, attrs=dict(getattr(value, "attrs", {})))

    def __len__(self) -> int:
        return self.samples.shape[0]

    @property
    def n(self) -> int:
        """Number of draws."""
        return len(self)

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one draw."""
        return tuple(self.samples.shape[1:])

    @property
    def weights(self) -> Tensor:
        """Weights of the draws, (draws,), float64, summing to one."""
        if self.log_weights is None:
            return torch.full((self.n,), 1 / self.n, dtype=torch.float64, device=self.samples.device)
        return torch.softmax(self.log_weights.to(self.samples.device, torch.float64), 0)

    @property
    def n_effective(self) -> float:
        """How many equally weighted draws these are worth, 1 / sum w^2 (Kish 1965)."""
        return float(self.n) if self.log_weights is None else float(1 / self.weights.square().sum())

    @property
    def mean(self) -> Tensor:
        """Posterior mean, (*event)."""
        if self.log_weights is None:
            return self.samples.mean(0)
        return torch.tensordot(self.weights.to(self.samples), self.samples, 1)

    @property
    def std(self) -> Tensor:
        """Posterior standard deviation, (*event); see `spread`."""
        return self.spread()

    def spread(self, allow_point_estimate: bool = False) -> Tensor:
        """Standard deviation of the draws, (*event).

        The variance is unbiased: sum_i w_i (x_i - mean)^2 / (1 - sum_i w_i^2), which is the usual division by
        n - 1 where all draws weigh the same.

        Args:
            allow_point_estimate: Give the scatter of point estimates too, which is no posterior uncertainty.

        Raises:
            PointEstimateError: If the draws are point estimates and that was not allowed.
            ValueError: If there is a single draw, or a single one with weight.
        """
        self._needs_posterior("a standard deviation", allow_point_estimate)
        if self.n_effective < 1 + 1e-6:
            raise ValueError(f"Draws: a standard deviation takes two draws; got {self._count()}")
        if self.log_weights is None:
            return self.samples.std(0)
        mean, weights = self.mean, self.weights
        scaled = (weights / (1 - weights.square().sum())).to(mean)
        variance, step = torch.zeros_like(mean), max(1, _BLOCK // max(1, mean.numel()))
        for w, x in zip(scaled.split(step), self.samples.split(step), strict=True):
            variance += torch.tensordot(w, (x - mean).square(), 1)
        return variance.sqrt()

    def interval(self, level: float, allow_point_estimate: bool = False) -> tuple[Tensor, Tensor]:
        """Central interval of each pixel, from quantiles at Weibull positions.

        The i-th smallest of n draws is the quantile i / (n + 1): one more draw of the same distribution then
        lies inside with probability `level`, whatever the distribution. That is exact where both ends are
        draws; between two draws the interval of a normal covers up to 0.01 more. Quantiles that stretch from
        the smallest to the largest draw, numpy's default, cover 85 % instead of 90 % with 32 draws. With
        weights the position is (n_e (w_1 + ... + w_i - w_i / 2) + 1/2) / (n_e + 1) with n_e = `n_effective`,
        the same where they are equal.

        Args:
            level: Probability inside, between 0 and 1.
            allow_point_estimate: Give the scatter of point estimates too, which is no posterior uncertainty.

        Returns:
            Lower and upper end, each (*event).

        Raises:
            PointEstimateError: If the draws are point estimates and that was not allowed.
            ValueError: If the level is not between 0 and 1, or too few draws support it (90 % takes 19).

        References:
            Hyndman, Fan. Sample quantiles in statistical packages. 1996. The American Statistician 50(4).
        """
        self._needs_posterior("an interval", allow_point_estimate)
        if not 0 < level < 1:
            raise ValueError(f"Draws.interval: level is {level}; wanted a number between 0 and 1")
        needed = 2 / (1 - level) - 1 - 1e-6  # the outermost draws lie at 1 / (n + 1) from both ends; rounding
        if self.n_effective < needed:
            raise ValueError(
                f"Draws.interval: {self._count()} cannot support a {100 * level:g} % interval; it takes at "
                f"least {math.ceil(needed)}"
            )
        weights = None if self.log_weights is None else self.weights.cpu().numpy()
        flat, levels = self.samples.reshape(self.n, -1), ((1 - level) / 2, (1 + level) / 2)
        ends = torch.empty(2, flat.shape[1], dtype=flat.dtype)
        step = max(1, _BLOCK // self.n)
        for start in range(0, flat.shape[1], step):
            block = flat[:, start : start + step].detach().cpu().numpy().T
            ends[:, start : start + step] = torch.from_numpy(_quantiles(block, levels, weights))
        lower, upper = ends.reshape(2, *self.event_shape).to(flat.device)
        return lower, upper

    def _needs_posterior(self, what: str, allowed: bool) -> None:
        if not (self.is_posterior or allowed):
            raise PointEstimateError(
                f"Draws: {self.stats.sampler} returns point estimates, and {what} of them is no posterior "
                "uncertainty; to see their scatter all the same, pass allow_point_estimate=True to spread(), "
                "interval() or plot()"
            )

    def _count(self) -> str:
        draws = f"{self.n} draw{'s' if self.n > 1 else ''}"
        worth = "" if self.log_weights is None else f" (worth {self.n_effective:.1f} of equal weight)"
        return draws + worth

    def map(
        self,
        fn: Callable[[Tensor], Tensor],
        *,
        name: str | None = None,
        units: str | None = None,
        dims: tuple[str, ...] | None = None,
        kind: Literal["real", "complex"] | None = None,
    ) -> Draws:
        """Draws of a function of x: the posterior of any quantity follows from the draws of x.

        Args:
            fn: Takes (draws, *event) to (draws, *event'), each draw by itself. Called once with the samples
                and once with the truth, where that is known.
            name: Name of the result; the same by default.
            units: Units of the result; the same by default.
            dims: Names of its axes; the same by default where their number is.
            kind: Of the result; by default "complex" where the samples were and `channel` of size 2 is left.

        Returns:
            Draws with the same statistics and weights, and the coordinates of axes that keep name and size. A mask is
            kept where the shape is, or where only the first axis, over which it is the same, is gone.

        Raises:
            ValueError: If the number of draws changes.
        """
        with torch.no_grad():
            samples = fn(self.samples)
            truth = None if self.truth is None else fn(self.truth[None])[0]
        if not samples.ndim or samples.shape[0] != self.n:
            raise ValueError(f"Draws.map: fn returned shape {tuple(samples.shape)} for {self.n} draws")
        event = tuple(samples.shape[1:])
        if dims is None:
            dims = self.dims if len(event) == len(self.dims) else _DEFAULT_DIMS.get(len(event), ())
        sizes = dict(zip(dims, event, strict=False))
        if kind is None:
            kind = "complex" if self.kind == "complex" and sizes.get("channel") == 2 else "real"
        coords = {dim: value for dim, value in self.coords.items() if sizes.get(dim) == value.size}
        changes = {"name": name or self.name, "units": units or self.units, "dims": dims, "coords": coords}
        mask = self.mask
        if mask is not None and event == tuple(mask.shape[1:]) and (mask == mask[:1]).all():
            mask = mask[0]
        elif mask is not None and event != tuple(mask.shape):
            mask = None
        return replace(self, samples=samples, truth=truth, kind=kind, mask=mask, **changes)

    def magnitude(self) -> Draws:
        """Draws of sqrt(re^2 + im^2), without the axis `channel`.

        Raises:
            ValueError: If the draws are not complex.
        """
        if self.kind != "complex":
            raise ValueError("Draws.magnitude: these draws are real, and have no magnitude")
        axis = self.dims.index("channel")
        dims = self.dims[:axis] + self.dims[axis + 1 :]
        return self.map(lambda x: torch.linalg.vector_norm(x, dim=axis + 1), name=f"{self.name}_magnitude", dims=dims)

    def to_datatree(self) -> DataTree:
        """The draws as an xarray.DataTree in ArviZ's schema; see `posterior.draws_io.to_datatree`."""
        from posterior.draws_io import to_datatree

        return to_datatree(self)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the draws, without loss, to NetCDF (.nc) or Zarr (.zarr).

        What was at `path` is replaced in the end, when all is written: no file is ever left half-written.

        Args:
            path: Where to.

        Raises:
            ValueError: If the suffix is neither.
            FileNotFoundError: If the folder does not exist.
            FileExistsError: If `path` is a folder of something else.
        """
        from posterior.draws_io import save

        save(self, path)

    def plot(
        self,
        truth: Tensor | None = None,
        path: str | os.PathLike[str] | None = None,
        *,
        allow_point_estimate: bool = False,
    ) -> Figure:
        """A figure of mean and standard deviation and, where the truth is known, of the error.

        Complex draws are shown by their magnitude, point estimates without standard deviation unless that is
        allowed. See `posterior.figures.panel.reconstruction`.

        Args:
            truth: The true event, (*event); that of the draws by default.
            path: Where to write the figure too, in the format of the suffix (.png, .pdf, ...).
            allow_point_estimate: Show the scatter of point estimates too, which is no posterior uncertainty.

        Returns:
            A matplotlib figure, which pyplot knows nothing of.
        """
        from posterior.figures.panel import reconstruction

        return reconstruction(self, truth, path=path, allow_point_estimate=allow_point_estimate)

    def _facts(self) -> dict[str, str]:
        stats = self.stats
        runs = f" in {self.chains} runs" if self.chains > 1 else ""
        what = "posterior draws" if self.is_posterior else "point estimates (no uncertainty)"
        facts = {
            what: f"{self._count()}{runs}",
            self.name: f"{self.kind}, {' x '.join(map(str, self.event_shape))}, units {self.units}",
            "sampler": stats.sampler,
            "prior": stats.prior,
            "likelihood": stats.likelihood,
            "cost": f"{stats.nfe} network calls per draw, {stats.seconds:.1f} s",
            "seed": str(stats.seed),
            "status": stats.status,
        }
        if stats.residual is not None:
            facts["residual chi-square"] = f"{stats.residual:.3g}"
        return facts

    def __repr__(self) -> str:
        stats = self.stats
        shape = ", ".join(f"{d}: {s}" for d, s in zip(self.dims, self.event_shape, strict=True))
        return (
            f"Draws({self.name!r}, {self.n} x ({shape}), units={self.units!r}, kind={self.kind!r}, "
            f"is_posterior={self.is_posterior}, nfe={stats.nfe}, seconds={stats.seconds:.1f}, "
            f"status={stats.status!r})"
        )

    def _repr_html_(self) -> str:
        facts = [*self._facts().items(), *(("warning", text) for text in self.stats.warnings)]
        rows = (f"<tr><th>{html.escape(key)}</th><td>{html.escape(text)}</td></tr>" for key, text in facts)
        return f"<table>{''.join(rows)}</table>"


def load_draws(path: str | os.PathLike[str]) -> Draws:
    """The draws that `Draws.save` wrote.

    Args:
        path: A .nc or .zarr written by `Draws.save`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read, is truncated, or holds something else.
    """
    from posterior.draws_io import load

    return load(path)


def _quantiles(values: np.ndarray, levels: tuple[float, ...], weights: np.ndarray | None) -> np.ndarray:
    """Quantiles at Weibull positions; see `Draws.interval`.

    Args:
        values: (m, n), quantiles are taken along the rows.
        levels: Between 1 / (n + 1) and n / (n + 1).
        weights: (n,), summing to one, or None.

    Returns:
        Array (levels, m).
    """
    result = np.empty((len(levels), len(values)), values.dtype)
    if weights is None:
        values, n = np.array(values, order="C"), values.shape[1]
        values.sort(axis=1)
        for row, level in zip(result, levels, strict=True):
            place = min(max(level * (n + 1) - 1, 0), n - 1)  # counted from 0, and inside despite rounding
            left = min(int(place), n - 2)
            row[:] = values[:, left] + (values[:, left + 1] - values[:, left]) * (place - left)
    else:
        values, weights = np.ascontiguousarray(values[:, weights > 0]), weights[weights > 0]
        order = values.argsort(axis=1)
        values, weights = np.take_along_axis(values, order, 1), weights[order]
        effective = 1 / np.square(weights).sum(1, keepdims=True)
        position = (effective * (weights.cumsum(1) - weights / 2) + 0.5) / (effective + 1)
        index = np.arange(len(values))
        for row, level in zip(result, levels, strict=True):
            left = np.clip((position <= level).sum(1) - 1, 0, values.shape[1] - 2)
            low, high, p, q = (a[index, left + i] for a in (values, position) for i in (0, 1))
            row[:] = low + (high - low) * np.clip((level - p) / np.maximum(q - p, 1e-300), 0, 1)
    result[:, np.isnan(values[:, -1])] = np.nan  # sorting hides missing values at the end
    return result


def _check_names(name: str, dims: tuple[str, ...], event: tuple[int, ...]) -> None:
    if len(dims) != len(event) or len(set(dims)) != len(dims):
        raise ValueError(f"Draws: dims are {dims}; wanted a name for each axis of an event of shape {event}")
    taken = RESERVED & {name, *dims}
    if taken:
        raise ValueError(f"Draws: {min(taken)!r} is taken and can be neither the name nor an axis")
    if name in dims:
        raise ValueError(f"Draws: the field and one of its axes are both called {name!r}; pass another name")
    for text in (name, *dims):
        if not text or "/" in text:
            raise ValueError(f"Draws: {text!r} cannot be a name in a file; wanted one that has no '/'")


def _check_weights(log_weights: Tensor, n: int) -> None:
    if tuple(log_weights.shape) != (n,):
        raise ValueError(f"Draws: log_weights have shape {tuple(log_weights.shape)}; wanted ({n},)")
    if log_weights.isnan().any() or not log_weights.max().isfinite():
        raise ValueError("Draws: log_weights have a value that is NaN or +inf, or are all -inf")
