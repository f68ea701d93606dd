"""What every diagnostic returns: a p-value, a verdict and a sentence."""

from __future__ import annotations

from typing import Any, Protocol


class HasPValue(Protocol):
    """Anything with a p-value."""

    @property
    def p_value(self) -> float:
        """Probability of something at least this far from exact samples, if the sampler is exact."""
        ...


class Finding(HasPValue, Protocol):
    """A p-value and a verdict."""

    def passed(self, level: float = 0.01) -> bool:
        """Whether the p-value is above ``level``."""
        ...

    def record(self) -> dict[str, Any]:
        """As plain numbers."""
        ...


class _Recorded(Finding, Protocol):
    def _numbers(self) -> dict[str, Any]: ...


class Judged:
    """Gives what has a p-value its verdict."""

    def passed(self: HasPValue, level: float = 0.01) -> bool:
        """Whether the p-value is above ``level``: of an exact sampler, one in a hundred is not above 0.01."""
        return self.p_value > level

    @property
    def verdict(self: Finding) -> str:
        """In words, at the level 0.01."""
        return "consistent with exact samples" if self.passed() else "NOT consistent with exact samples"

    def record(self: _Recorded) -> dict[str, Any]:
        """As plain numbers, for a JSON file: p-value, verdict, the sentence, and what the finding rests on."""
        return {"p_value": self.p_value, "passed": self.passed(), "text": str(self)} | self._numbers()

    def _numbers(self) -> dict[str, Any]:
        return {}
