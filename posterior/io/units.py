"""Units as data files write them, through pint: converted on request, never guessed."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Any

from posterior.io._files import first_line, needs

if TYPE_CHECKING:
    import pint

# Spellings of CF and of the archives that pint lacks, or takes for something else: to pint, mb is a millibarn.
_SPELLINGS = {
    "%": "percent",
    "Celsius": "degC",
    "Kelvin": "kelvin",
    "Pascals": "pascal",
    "degK": "kelvin",
    "degree_C": "degC",
    "degree_E": "degree",
    "degree_N": "degree",
    "degree_east": "degree",
    "degree_north": "degree",
    "degree_true": "degree",
    "degrees_C": "degC",
    "degrees_east": "degree",
    "degrees_north": "degree",
    "gpm": "meter",
    "mb": "millibar",
    "mbar": "millibar",
    "millibars": "millibar",
}
# CF writes powers without a sign of their own: m s-1, kg m-2 s-1, m2 s-2.
_POWER = re.compile(r"\b([A-Za-z_]+)(-?\d+)\b")
_WORD = re.compile(r"%|\b[A-Za-z_]+\b")


class UnitError(ValueError):
    """A unit is missing, unknown, or cannot be converted to the one asked for."""


@cache
def _registry() -> pint.UnitRegistry[Any]:
    # a registry of our own: pint's shared one belongs to the caller
    return needs("pint", "weather", "converting units").UnitRegistry()


@cache
def _unit(text: str) -> Any:
    powers = _POWER.sub(r"\1**\2", text.strip())
    spelled = _WORD.sub(lambda word: _SPELLINGS.get(word.group(), word.group()), powers)
    try:
        return _registry().Unit(spelled)
    except Exception as error:  # pint raises errors of a dozen unrelated classes for text that is no unit
        raise UnitError(f"{text!r} is not a unit ({first_line(error)}); wanted one such as 'hPa', 'm s-1' or 'degC'") from error


def conversion(source: str, target: str, what: str = "value") -> tuple[float, float]:
    """The affine map between two units: target value = factor * source value + offset.

    Args:
        source: Unit of the values, CF spelling (``"Pa"``, ``"m s-1"``, ``"degC"``, ``"kg m-2 s-1"``).
        target: Unit wanted.
        what: What errors call the values.

    Returns:
        ``(factor, offset)``; ``(1.0, 0.0)`` where the two are one unit.

    Raises:
        UnitError: If either is not a unit, or they measure different things.
        ImportError: If pint is not installed.
    """
    if source.strip() == target.strip():
        return 1.0, 0.0
    ours, wanted = _unit(source), _unit(target)
    quantity = _registry().Quantity
    try:
        zero, one = (float(quantity(value, ours).to(wanted).magnitude) for value in (0.0, 1.0))
    except Exception as error:  # as above
        raise UnitError(f"{what}: unit {source!r} does not convert to {target!r} ({first_line(error)})") from error
    return one - zero, zero
