"""What a prior is: a denoiser in one coordinate, with its own coordinates and units."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import Tensor

from posterior._devices import device_of, moved

if TYPE_CHECKING:
    from posterior.priors.climatology import Climatology
    from posterior.priors.coarse import CoarseDenoiser
    from posterior.priors.labels import Labels
    from posterior.priors.local import LocalSpread
    from posterior.priors.reference import Reference
    from posterior.priors.spread import SpreadCorrection


@dataclass(frozen=True)
class Affine:
    """The one map between standardised coordinates z and physical units x: ``x = shift + scale * z``.

    Args:
        scale: Positive number or tensor that broadcasts to an event.
        shift: Number or tensor that broadcasts to an event, physical units.
    """

    scale: Tensor | float = 1.0
    shift: Tensor | float = 0.0

    def to_physical(self, z: Tensor) -> Tensor:
        """Standardised to physical."""
        return _like(self.shift, z) + _like(self.scale, z) * z

    def to_standard(self, x: Tensor) -> Tensor:
        """Physical to standardised."""
        return (x - _like(self.shift, x)) / _like(self.scale, x)

    def scale_like(self, z: Tensor) -> Tensor | float:
        """The scale as something that multiplies ``z``."""
        return _like(self.scale, z)


def _like(value: Tensor | float, x: Tensor) -> Tensor | float:
    return value.to(x) if isinstance(value, Tensor) else value


def must_be_real(owner: str, what: str, values: Tensor) -> None:
    """Raise TypeError if values are complex; complex images are two channels, real part first."""
    if values.is_complex():
        raise TypeError(f"{owner}: {what} has dtype {values.dtype}; wanted real values, complex ones as two channels")


def finite(what: str, value: Any, *, positive: bool = False) -> float:
    """``value`` as a float.

    Raises:
        ValueError: If it is no finite number, or ``positive`` and not above 0; ``what`` is its name.
    """
    try:
        number = math.nan if isinstance(value, str | bool) else float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        number = math.nan
    if not math.isfinite(number) or (positive and number <= 0):
        raise ValueError(f"{what} is {value!r}; wanted a {'positive' if positive else 'finite'} number")
    return number


def rising(what: str, ends: Any) -> tuple[float, float]:
    """Two rising positive numbers of a list, as floats; `finite` says the rest."""
    if not isinstance(ends, list) or len(ends) != 2:
        raise ValueError(f"{what} is {ends!r}; wanted two numbers")
    low, high = (finite(what, end, positive=True) for end in ends)
    if not low < high:
        raise ValueError(f"{what} is {ends}; wanted two rising numbers")
    return low, high


def column(sigma: Tensor | float, x: Tensor) -> Tensor:
    """``sigma``, a number, () or (B,), as (B or 1, 1, ..., 1) that broadcasts over the batch ``x``."""
    s = torch.as_tensor(sigma, dtype=x.dtype, device=x.device)
    if s.ndim > 1 or (s.ndim == 1 and s.shape[0] not in (1, x.shape[0])):
        raise ValueError(f"sigma has shape {tuple(s.shape)}; wanted () or ({x.shape[0]},)")
    return s.reshape(-1, *[1] * (x.ndim - 1))


class Prior(ABC):
    """A prior p(x0), known through its denoiser D(x, sigma) = E[x0 | x0 + sigma eps = x], eps ~ N(0, I).

    The score of the noised prior is (D - x) / sigma^2 and Cov[x0 | x] = sigma^2 dD/dx (Tweedie; Efron 2011).
    Samplers work in standardised coordinates; `affine` maps these to physical units.

    Attributes:
        event_shape: Shape of one field; None where any size goes (fully convolutional networks).
        affine: Standardised to physical coordinates.
        units: Units of the physical field, "1" where it has none.
        rms: Root-mean-square deviation of one standardised coordinate, about 1 for trained priors.
        center: Mean of a standardised field where no reference says it; a number or a tensor that broadcasts to an event.
        sigma_min: Noise level below which x and D(x, sigma) are taken to agree.
        sigma_max: Noise level that posteriors start from: the noised prior is Gaussian but for the few directions that vary
            more than it, which data know.
        reference: The reference Gaussian, or None.
        labels: Name, axes and coordinates of the field, which draws come back with, or None.
        climatology: The mean of the field on a given date, physical units, or None where it does not depend on it.
        date: The date that `on` put the prior at, or None.
        spread: A correction of the reference's error spectrum, fitted on held-out fields, or None; used where it is asked for.
        local_spread: Where, and in which direction, the denoiser errs, fitted on held-out fields, or None.
        coarse: What denoises above a noise level in the prior's place, or None.
        symmetries: Under which the law of a field is what it was, of "flip-x", "flip-y" (mirrored) and "transpose".
        name: What errors and saved files call this prior.
        calls: Network evaluations in one `denoise` of a field.
    """

    event_shape: tuple[int | None, ...]
    affine: Affine = Affine()
    units: str = "1"
    rms: float = 1.0
    center: Tensor | float = 0.0
    sigma_min: float = 2e-3
    sigma_max: float = 100.0
    reference: Reference | None = None
    labels: Labels | None = None
    climatology: Climatology | None = None
    date: np.datetime64 | None = None
    spread: SpreadCorrection | None = None
    local_spread: LocalSpread | None = None
    coarse: CoarseDenoiser | None = None
    symmetries: tuple[str, ...] = ()
    name: str = "prior"
    calls: int = 1

    @property
    def sigma_top(self) -> float:
        """Noise level that draws without data start from: the noised prior is Gaussian in all directions."""
        return self.sigma_max

    @abstractmethod
    def denoise(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """E[x0 | x0 + sigma eps = x].

        Args:
            x: Noised fields, standardised coordinates, shape (B, *event).
            sigma: Noise standard deviation, positive, () or (B,).

        Returns:
            Tensor of the shape of ``x``.
        """

    def score(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """Gradient of the log-density of the noised prior, (D(x, sigma) - x) / sigma^2; shapes as `denoise`."""
        return (self.denoise(x, sigma) - x) / column(sigma, x) ** 2

    def oriented(self, number: int) -> Self:
        """This prior asked of fields in another orientation: g^-1 D(g x), with g a product of its `symmetries`.

        The same denoiser where that has them too; a network has them nearly, and errs in another way in each orientation.

        Args:
            number: Of the orientation, 0 for none; bit i says whether symmetry i has a part. Higher bits are ignored.

        Returns:
            A copy that shares the network, or this prior itself where there is nothing to turn.

        References:
            Terris, Moreau, Pustelnik, Tachella. Equivariant plug-and-play image reconstruction. CVPR 2024. arXiv:2312.01831.
        """
        return self

    def on(self, date: Any) -> Self:
        """This prior on a date: its fields deviate from the mean of that day instead of that of the whole year.

        Args:
            date: numpy.datetime64, datetime, or text as 2005-08-26 or 2019-03-28T15:00 (UTC).

        Returns:
            A copy that shares the network; the shift of its affine map is the climatological mean on that date.

        Raises:
            ValueError: If the prior has no climatology, or ``date`` is no date.
        """
        from posterior.priors.climatology import as_time

        if self.climatology is None:
            raise ValueError(f"prior '{self.name}' has no climatology: its mean does not depend on the date")
        dated = copy.copy(self)
        dated.date = as_time(date)
        dated.affine = Affine(self.affine.scale, self.climatology.on(dated.date))
        return dated

    def to(self, device: torch.device | str) -> Self:
        """This prior on another device, to draw there: a copy whose networks and tables lie on it, or itself if they do.

        Args:
            device: Such as "cuda" or "cpu".

        Raises:
            ValueError: If this machine has no such device.
        """
        return moved(self, device_of(device, f"prior '{self.name}'"))

    def check_event(self, event_shape: tuple[int, ...], owner: str = "prior") -> None:
        """Raise ValueError unless a field of this shape is one of the prior's."""
        fits = len(event_shape) == len(self.event_shape) and all(
            want is None or want == got for want, got in zip(self.event_shape, event_shape, strict=True)
        )
        if not fits:
            want = tuple("any" if n is None else n for n in self.event_shape)
            raise ValueError(f"{owner} '{self.name}': got a field of shape {tuple(event_shape)}, wanted {want}")

    def __repr__(self) -> str:
        when = "" if self.date is None else f", date='{self.date}'"
        return f"{type(self).__name__}(name={self.name!r}, event_shape={self.event_shape}, units={self.units!r}{when})"
