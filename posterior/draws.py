"""What sampling returns, whatever the sampler: draws with their units, axes, statistics and settings."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from posterior._sums import weighted_sum
from posterior.axes import DEFAULT_DIMS, check_names, coordinate
from posterior.quantiles import draws_needed, weibull_quantiles
from posterior.stats import Stats

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from xarray import DataTree

    from posterior.likelihoods import Likelihood

_BLOCK = 2**22  # values that are sorted at once


class PointEstimateError(RuntimeError):
    """Uncertainty was asked of a method that returns a mode or a mean."""


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
        dims = tuple(self.dims or DEFAULT_DIMS.get(len(event)) or (f"dim_{i}" for i in range(len(event))))
        object.__setattr__(self, "dims", dims)
        check_names(self.name, dims, event)
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
        sizes = dict(zip(dims, event, strict=True))
        coords = {key: coordinate(key, value, sizes, self.kind) for key, value in (self.coords or {}).items()}
        object.__setattr__(self, "coords", coords)

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
        return weighted_sum(self.samples, self.weights).to(self.samples.dtype)

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
        scaled = weights / (1 - weights.square().sum())
        return weighted_sum(self.samples, scaled, lambda x: (x - mean).square()).sqrt().to(mean.dtype)

    def interval(self, level: float, allow_point_estimate: bool = False) -> tuple[Tensor, Tensor]:
        """Central interval of each pixel, from quantiles at Weibull positions.

        The i-th smallest of n draws is the quantile i / (n + 1): one more draw of the same distribution then
        lies inside with probability `level`, whatever the distribution. That is exact where both ends are
        draws; between two draws the interval of a normal covers up to 0.01 more. Quantiles that stretch from
        the smallest to the largest draw, numpy's default, cover 85 % instead of 90 % with 32 draws. With
        weights the position is (n_e (w_1 + ... + w_i - w_i / 2) + 1/2) / (n_e + 1) with n_e = `n_effective`,
        the same where they are equal.

        Args:
            level: Probability inside, a number between 0 and 1.
            allow_point_estimate: Give the scatter of point estimates too, which is no posterior uncertainty.

        Returns:
            Lower and upper end, each (*event).

        Raises:
            PointEstimateError: If the draws are point estimates and that was not allowed.
            TypeError: If the level is not one number.
            ValueError: If the level is not between 0 and 1, or too few draws support it (90 % takes 19).

        References:
            Hyndman, Fan. Sample quantiles in statistical packages. 1996. The American Statistician 50(4).
        """
        self._needs_posterior("an interval", allow_point_estimate)
        try:
            level = float(level)
        except (TypeError, ValueError, RuntimeError):
            raise TypeError(f"Draws.interval: level is {level!r}; wanted one number between 0 and 1") from None
        if not 0 < level < 1:
            raise ValueError(f"Draws.interval: level is {level}; wanted a number between 0 and 1")
        needed = draws_needed(level)
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
            block = flat[:, start : start + step].detach().cpu().resolve_neg().numpy().T
            ends[:, start : start + step] = torch.from_numpy(weibull_quantiles(block, levels, weights))
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
            dims = self.dims if len(event) == len(self.dims) else DEFAULT_DIMS.get(len(event), ())
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
        found = self.map(lambda x: torch.hypot(*x.unbind(axis + 1)), name=f"{self.name}_magnitude", dims=dims)
        return replace(found, mask=None if self.mask is None else self.mask.all(axis))

    def to_datatree(self, likelihood: Likelihood | None = None) -> DataTree:
        """The draws as an xarray.DataTree in ArviZ's schema; see `posterior.draws_io.to_datatree`.

        Args:
            likelihood: What they were drawn with, for the group ``posterior_predictive``; left out where None.
        """
        from posterior.draws_io import to_datatree

        return to_datatree(self, likelihood)

    def save(self, path: str | os.PathLike[str], likelihood: Likelihood | None = None) -> None:
        """Write the draws, without loss, to NetCDF (.nc) or Zarr (.zarr).

        Attributes of coordinates that no file knows are told in words, True and False as 1 and 0; None is left out.
        What was at `path` is replaced in the end, when all is written: no file is ever left half-written.

        Args:
            path: Where to.
            likelihood: What they were drawn with, to write the data that they predict too.

        Raises:
            ValueError: If the suffix is neither.
            FileNotFoundError: If the folder does not exist.
            FileExistsError: If `path` is a folder of something else.
        """
        from posterior.draws_io import save

        save(self, path, likelihood)

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

        Raises:
            TypeError: If ``truth`` is no array.
            ValueError: If it has not the shape of an event, or matplotlib does not know the format of ``path``.
            FileNotFoundError: If the folder of ``path`` does not exist.
        """
        from posterior.figures.panel import reconstruction

        return reconstruction(self, truth, path=path, allow_point_estimate=allow_point_estimate)

    def facts(self) -> dict[str, str]:
        """What there is to say of the draws, in words: number, shape, units, how they were made, status."""
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
        from posterior.figures.html import summary

        return summary(self, self.facts())


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


def _check_weights(log_weights: Tensor, n: int) -> None:
    if tuple(log_weights.shape) != (n,):
        raise ValueError(f"Draws: log_weights have shape {tuple(log_weights.shape)}; wanted ({n},)")
    if log_weights.isnan().any() or not log_weights.max().isfinite():
        raise ValueError("Draws: log_weights have a value that is NaN or +inf, or are all -inf")
