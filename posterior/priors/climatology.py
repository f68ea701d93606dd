"""The mean of a field on a given date: harmonics of the year, and of the day where data are hourly."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date as _date
from typing import Any

import numpy as np
import torch
from torch import Tensor

_ZONED = re.compile(r"(.*[T ].*?)\s*(Z|z|[+-]\d\d(?::?\d\d)?)")


@dataclass(frozen=True)
class Climatology:
    """Mean of every grid point as a trigonometric polynomial of the date.

    m(t) = a_0 + sum_k (a_k cos 2 pi k u + b_k sin 2 pi k u) + the same in v, where u is the part of the year that has
    passed at t, the year 0 to 1 whatever its length, and v the part of the day (UTC).

    Args:
        coefficients: (1 + 2 yearly + 2 daily, *event): a_0, then a_k and b_k by turns, the year's before the day's.
        yearly: Harmonics of the year.
        daily: Harmonics of the day.

    Raises:
        ValueError: If the number of coefficients does not fit.
    """

    coefficients: Tensor
    yearly: int
    daily: int = 0

    def __post_init__(self) -> None:
        rows = 1 + 2 * (self.yearly + self.daily)
        if min(self.yearly, self.daily) < 0 or len(self.coefficients) != rows:
            raise ValueError(
                f"Climatology: {len(self.coefficients)} coefficients for {self.yearly} harmonics of the year and "
                f"{self.daily} of the day; wanted {rows}"
            )

    @classmethod
    def fit(cls, fields: Tensor, times: np.ndarray, yearly: int, daily: int = 0) -> Climatology:
        """Least squares over ``fields`` (N, *event) at ``times`` (N,), datetime64."""
        basis = torch.from_numpy(_harmonics(times, yearly, daily))
        solved = torch.linalg.lstsq(basis, fields.double().flatten(1)).solution
        return cls(solved.reshape(-1, *fields.shape[1:]), yearly, daily)

    @property
    def mean(self) -> Tensor:
        """The mean over year and day, (*event)."""
        return self.coefficients[0]

    def on(self, date: Any) -> Tensor:
        """The mean on a date, or on each of several: (*event) or (N, *event).

        Args:
            date: numpy.datetime64, datetime, or text as 2005-08-26 or 2019-03-28T15:00 (UTC); or an array of these.

        Raises:
            ValueError: If it is no date.
        """
        times = as_times(date)
        basis = torch.from_numpy(_harmonics(np.atleast_1d(times), self.yearly, self.daily)).to(self.coefficients)
        means = torch.tensordot(basis, self.coefficients, 1)
        return means if times.ndim else means[0]


def as_times(date: Any) -> np.ndarray:
    """Dates as datetime64 of whole seconds, UTC; a text may end in Z or in another offset from UTC, as +02:00.

    Raises:
        ValueError: If it is no date.
    """
    if isinstance(date, _date) and getattr(date, "tzinfo", None) is not None:
        raise ValueError(f"{date} has a time zone; wanted a date in UTC without one")
    zoned = _ZONED.fullmatch(date) if isinstance(date, str) else None
    text, offset = (date, None) if zoned is None else zoned.groups()
    try:
        times = np.asarray(text, dtype="datetime64[s]")
    except (TypeError, ValueError) as error:
        raise ValueError(f"{date!r} is no date; wanted one as 2005-08-26 or 2019-03-28T15:00") from error
    # numpy takes bare numbers for seconds since 1970: hardly what is meant.
    # And eight digits for a year.
    far = times.astype("datetime64[Y]").astype(int) + 1970 > 9999
    if np.isnat(times).any() or np.asarray(date).dtype.kind in "iufb" or far.any():
        raise ValueError(f"{date!r} is no date; wanted one as 2005-08-26 or 2019-03-28T15:00")
    if offset and offset.upper() != "Z":
        hours, minutes = int(offset[1:3]), int(offset[-2:]) if len(offset) > 3 else 0
        times = times - np.timedelta64((60 * hours + minutes) * (-1 if offset[0] == "-" else 1), "m")
    return times


def as_time(date: Any) -> np.datetime64:
    """One date as datetime64 of whole seconds.

    Raises:
        ValueError: If it is no date, or several.
    """
    times = as_times(date)
    if times.ndim:
        raise ValueError(f"{date!r} is no single date; wanted one as 2005-08-26 or 2019-03-28T15:00")
    return np.datetime64(times.item(), "s")


def _harmonics(times: np.ndarray, yearly: int, daily: int) -> np.ndarray:
    times = times.astype("datetime64[s]")
    years = times.astype("datetime64[Y]")
    start, end = years.astype("datetime64[s]"), (years + np.timedelta64(1, "Y")).astype("datetime64[s]")
    days = times.astype("datetime64[D]").astype("datetime64[s]")
    columns = [np.ones(len(times))]
    for part, harmonics in (
        ((times - start) / (end - start), yearly),
        ((times - days) / np.timedelta64(1, "D"), daily),
    ):
        for k in range(1, harmonics + 1):
            columns += [np.cos(2 * np.pi * k * part), np.sin(2 * np.pi * k * part)]
    return np.stack(columns, axis=1)
