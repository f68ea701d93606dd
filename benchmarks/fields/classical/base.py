"""What a classical method is to the benchmark."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from benchmarks.fields.cases import Case


@dataclass(frozen=True)
class Estimate:
    """What a classical method returns.

    Args:
        samples: Draws (N, *event), or the one estimate (1, *event).
        mean: (*event), where it is known apart from the draws.
        point: Whether it is an estimate without uncertainty.
    """

    samples: Tensor
    mean: Tensor | None = None
    point: bool = True

    @classmethod
    def of(cls, image: Tensor) -> Estimate:
        """A point estimate (*event)."""
        return cls(image[None])


@dataclass(frozen=True)
class Classical:
    """A method and what is tuned of it.

    Args:
        run: Takes a `Case` and settings by name.
        grid: Values to be tried of each setting, on the development problems of each cell; at most as many combinations as
            any peer is given.
        start: Settings where none were tuned.
    """

    run: Callable[..., Estimate]
    grid: Mapping[str, list[Any]] = field(default_factory=dict)
    start: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, case: Case, settings: Mapping[str, Any]) -> Estimate:
        """Run with ``settings`` over `start`."""
        return self.run(case, **{**self.start, **settings})
