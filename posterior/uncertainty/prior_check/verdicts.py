"""What a check of a prior says in words, and the noise levels that it judges."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from torch import Tensor

# Noise levels, in units of the prior's rms, at which posteriors of usual data are decided; others are shown, not judged.
JUDGED = (0.05, 2.0)


class Grade(StrEnum):
    """How a check ended, from the best to the worst."""

    good = "pass"
    doubtful = "warn"
    bad = "fail"

    @staticmethod
    def of(value: float, good: float, doubtful: float) -> Grade:
        """By two limits; what is not a number fails."""
        if value <= good:
            return Grade.good
        return Grade.doubtful if value <= doubtful else Grade.bad

    @staticmethod
    def worst(grades: Iterable[Grade]) -> Grade:
        """The worst of several."""
        return max(grades, key=list(Grade).index)


@dataclass(frozen=True)
class Verdict:
    """One finding.

    Args:
        check: What was looked at.
        grade: How it ended.
        sentence: What was found, with its figures.
    """

    check: str
    grade: Grade
    sentence: str

    def __str__(self) -> str:
        return f"{self.check}: {self.grade.upper()}. {self.sentence}"


def judged(sigmas: Tensor, rms: float) -> Tensor:
    """Which of the noise levels are judged, (S,)."""
    low, high = (rms * end for end in JUDGED)
    return (sigmas >= 0.999 * low) & (sigmas <= 1.001 * high)


def listed(values: Sequence[float] | Tensor, most: int = 4) -> str:
    """A few numbers in words."""
    numbers = [f"{float(v):.3g}" for v in values]
    return ", ".join(numbers[:most]) + (f" and {len(numbers) - most} more" if len(numbers) > most else "")


def in_blocks(rows: Tensor, block: int) -> Tensor:
    """Rows (n, ...) averaged over ``block`` neighbours, so that a resample of them knows of their correlation in time."""
    n = len(rows) // block * block
    if n < 2 * block:
        raise ValueError(f"check_prior: {len(rows)} held-out fields make no two blocks of {block}")
    return rows[:n].double().reshape(n // block, block, *rows.shape[1:]).mean(1)
