"""Decreasing grids of noise levels, sigma_max = sigma_0 > ... > sigma_(n-1) = sigma_min, sigma_n = 0."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np


class Schedule(Protocol):
    """Anything that lays out noise levels."""

    def __call__(self, steps: int, sigma_max: float, sigma_min: float) -> list[float]:
        """``steps + 1`` levels from ``sigma_max`` down to ``sigma_min``, then 0."""
        ...


@dataclass(frozen=True)
class Karras:
    """Levels equally spaced in sigma^(1/rho) (Karras et al. 2022, arXiv:2206.00364, eq. 5); rho large is log-uniform.

    Raises:
        ValueError: If ``rho`` is not positive.
    """

    rho: float = 7.0

    def __post_init__(self) -> None:
        if not self.rho > 0:
            raise ValueError(f"Karras: rho must be positive, got {self.rho}")

    def __call__(self, steps: int, sigma_max: float, sigma_min: float) -> list[float]:
        """See `Schedule`."""
        check(steps, sigma_max, sigma_min)
        if steps == 1:
            return [sigma_max, 0.0]
        ramp = np.linspace(sigma_max ** (1 / self.rho), sigma_min ** (1 / self.rho), steps) ** self.rho
        return [sigma_max, *map(float, ramp[1:]), 0.0]


@dataclass(frozen=True)
class LogUniform:
    """Levels equally spaced in log sigma: the natural time of the one coordinate."""

    def __call__(self, steps: int, sigma_max: float, sigma_min: float) -> list[float]:
        """See `Schedule`."""
        check(steps, sigma_max, sigma_min)
        if steps == 1:
            return [sigma_max, 0.0]
        return [sigma_max, *map(float, np.geomspace(sigma_max, sigma_min, steps)[1:]), 0.0]


def check(steps: int, sigma_max: float, sigma_min: float) -> None:
    """Raise ValueError unless a grid can be laid out."""
    if steps < 1:
        raise ValueError(f"schedule: steps must be at least 1, got {steps}")
    if not 0 < sigma_min < sigma_max:
        raise ValueError(f"schedule: wanted 0 < sigma_min < sigma_max, got {sigma_min} and {sigma_max}")
