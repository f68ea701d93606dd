"""Sea-level pressure out of altimeter settings, for stations that report no other."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from posterior.io.observations import DERIVED
from posterior.io.units import UnitError, conversion
from posterior.recipes.weather.problem import ALIASES

if TYPE_CHECKING:
    import pandas as pd

GRAVITY = 9.80665  # m s-2
GAS_CONSTANT = 287.053  # of dry air, J kg-1 K-1
LAPSE = 0.0065  # of the standard atmosphere, K m-1
STANDARD_PRESSURE, STANDARD_TEMPERATURE = 101325.0, 288.15  # Pa, K
SLP, ALTIMETER = "air_pressure_at_mean_sea_level", "altimeter_setting"
_DERIVED = "from the altimeter setting"
TEMPERATURE, DEW_POINT = "air_temperature", "dew_point_temperature"


def station_pressure(altimeter: np.ndarray, elevation: np.ndarray) -> np.ndarray:
    """Pressure at the station, Pa, that makes an altimeter set to ``altimeter`` (Pa) read ``elevation`` (m).

    p = p0 ((a / p0)^k - L h / T0)^(1/k), k = R L / g: the standard atmosphere, which is how the setting is defined.
    """
    k = GAS_CONSTANT * LAPSE / GRAVITY
    return STANDARD_PRESSURE * ((altimeter / STANDARD_PRESSURE) ** k - LAPSE * elevation / STANDARD_TEMPERATURE) ** (1 / k)


def reduce_to_sea_level(
    pressure: np.ndarray, elevation: np.ndarray, temperature: np.ndarray, dew_point: np.ndarray | None = None
) -> np.ndarray:
    """Sea-level pressure, Pa, through a column of moist air that warms downwards by 6.5 K per km.

    p exp(g h / (R (T_v + L h / 2))), T_v = T / (1 - 0.378 e / p) the virtual temperature, e the vapour pressure.

    Args:
        pressure: At the station, Pa.
        elevation: m.
        temperature: Of the air at the station, K.
        dew_point: K; dry air where None or NaN.

    References:
        WMO-No. 8, Guide to instruments and methods of observation, reduction of pressure to standard levels.
        Magnus' formula for e: Alduchov, Eskridge. Improved Magnus form approximation of saturation vapor pressure. 1996.
        J. Appl. Meteor. 35(4).
    """
    virtual = temperature
    if dew_point is not None:
        celsius = dew_point - 273.15
        vapour = np.nan_to_num(610.94 * np.exp(17.625 * celsius / (celsius + 243.04)))
        virtual = temperature / (1 - 0.378 * vapour / pressure)
    return pressure * np.exp(GRAVITY * elevation / (GAS_CONSTANT * (virtual + LAPSE * elevation / 2)))


def with_altimeter(table: Any, *, highest: float = 100.0, variable: str | None = None) -> pd.DataFrame:
    """The table with sea-level pressure added where a report has an altimeter setting, elevation and temperature, but none.

    The setting is taken back to the station by the standard atmosphere and down to sea level through air of the temperature
    that was reported. Reported pressure is never replaced, and stations above ``highest`` metres are left alone: services
    reduce with mean temperatures of the day or of the season, and in the METAR reports of 26 August 2005 00 UTC that have
    both the result is 0.1 hPa from the reported pressure below 100 m (median), 0.6 hPa from 100 to 300 m, and worse above.

    Args:
        table: From `posterior.io.read_observations`; pressure and temperature by their CF names or the usual short ones.

    Other arguments:
        highest: m.
        variable: What the table calls sea-level pressure; found by its CF standard name and its usual short names where None.

    Returns:
        A table like it, with more rows, of pressure under the name and in the units of the pressure that is reported, in Pa
        under the CF name where none is; ``quality`` and ``error`` are those of the altimeter setting, and the column
        ``derived``, empty in rows that were reported, says what they were computed from. A warning says why where there are
        none.

    Raises:
        UnitError: If a unit is missing or does not convert.
    """
    import pandas as pd

    names = table["variable"].astype(str)
    pressures = [SLP, *ALIASES[SLP]] if variable is None else [variable]
    pressure = next((name for name in pressures if name in set(names)), pressures[0])
    units = {pressure: "Pa", **table.attrs["units"]}
    settings = _converted(table, [ALTIMETER], "Pa")
    temperature = _converted(table, [TEMPERATURE, *ALIASES[TEMPERATURE]], "K")
    dew_point = _converted(table, [DEW_POINT], "K")
    key = ["station", "latitude", "longitude", "time", "level"]
    rows = settings.merge(temperature[[*key, "value"]], on=key, how="left", suffixes=("", "_t"))
    rows = rows.merge(dew_point[[*key, "value"]], on=key, how="left", suffixes=("", "_d"))
    reported = _station(rows).isin(_station(table[names.isin(pressures)]))
    reasons = {
        "of stations that report pressure": reported,
        "without a temperature": rows["value_t"].isna(),
        "of stations without elevation": rows["elevation"].isna(),
        f"of stations not between -450 and {highest:g} m": (rows["elevation"] > highest) | (rows["elevation"] <= -450),
    }
    left_out = np.any(list(reasons.values()), axis=0)
    if left_out.all():
        counted = ", ".join(f"{where.sum()} {text}" for text, where in reasons.items() if where.any())
        warnings.warn(f"no altimeter setting stands in for pressure: {counted or 'the table has none'}", stacklevel=2)
        return table
    rows = rows[~left_out]
    elevation, t, d = (rows[name].to_numpy() for name in ("elevation", "value_t", "value_d"))
    reduced = reduce_to_sea_level(station_pressure(rows["value"].to_numpy(), elevation), elevation, t, d)
    factor, offset = conversion("Pa", units[pressure], f"variable {pressure!r}")
    added = rows[list(table.columns)].assign(value=reduced * factor + offset, variable=pressure, derived=_DERIVED)
    if "error" in added:
        added["error"] *= factor
    joined = pd.concat([table.assign(variable=names), added], ignore_index=True)
    joined[DERIVED] = joined[DERIVED].fillna("")
    joined["variable"] = pd.Categorical(joined["variable"])
    joined.attrs.update(table.attrs)
    joined.attrs["units"] = units
    return joined


def _converted(table: Any, names: Sequence[str], units: str) -> Any:
    """Rows of the first of the variables that is there, values and errors in ``units``; none where none is."""
    there = table["variable"].astype(str)
    name = next((name for name in names if name in set(there)), names[0])
    rows = table[(there == name).to_numpy()].assign(variable=name)
    if not len(rows):
        return rows
    stated = table.attrs["units"].get(name)
    if stated is None:
        raise UnitError(f"variable {name!r} has no unit; wanted one that converts to {units}")
    factor, offset = conversion(stated, units, f"variable {name!r}")
    rows = rows.assign(value=rows["value"] * factor + offset)
    return rows.assign(error=rows["error"] * factor) if "error" in rows else rows


def _station(rows: Any) -> Any:
    """What a station is told by: its identifier, or its place where it has none."""
    place = rows["latitude"].astype(str) + " " + rows["longitude"].astype(str)
    return rows["station"].where(rows["station"] != "", place)
