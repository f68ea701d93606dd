"""Sea-level pressure out of altimeter settings, for stations that report no other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

GRAVITY = 9.80665  # m s-2
GAS_CONSTANT = 287.053  # of dry air, J kg-1 K-1
LAPSE = 0.0065  # of the standard atmosphere, K m-1
STANDARD_PRESSURE, STANDARD_TEMPERATURE = 101325.0, 288.15  # Pa, K
SLP, ALTIMETER = "air_pressure_at_mean_sea_level", "altimeter_setting"


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


def with_altimeter(table: Any, *, highest: float = 100.0) -> pd.DataFrame:
    """The table with sea-level pressure added where a report has an altimeter setting, elevation and temperature, but none.

    The setting is taken back to the station by the standard atmosphere and down to sea level through air of the temperature
    that was reported. Reported pressure is never replaced, and stations above ``highest`` metres are left alone: services
    reduce with mean temperatures of the day or of the season, and in the METAR reports of 26 August 2005 00 UTC that have
    both the result is 0.1 hPa from the reported pressure below 100 m (median), 0.6 hPa from 100 to 300 m, and worse above.

    Args:
        table: From `posterior.io.read_observations`, altimeter settings and pressures in Pa, temperatures in K.

    Other arguments:
        highest: m.

    Returns:
        A table like it, with more rows; ``quality`` is that of the altimeter setting.
    """
    import pandas as pd

    key = ["station", "latitude", "longitude", "time"]
    by_name = {name: rows for name, rows in table.groupby(table["variable"].astype(str))}
    if not {ALTIMETER, "air_temperature"} <= set(by_name):
        return table
    rows: Any = by_name[ALTIMETER]
    rows = rows.merge(by_name["air_temperature"][[*key, "value"]], on=key, suffixes=("", "_t"))
    dew = by_name.get("dew_point_temperature")
    if dew is None:
        rows["value_d"] = np.nan
    else:
        rows = rows.merge(dew[[*key, "value"]], on=key, how="left", suffixes=("", "_d"))
    reported = by_name.get(SLP)
    if reported is not None:
        rows = rows[~rows["station"].isin(reported["station"])]
    rows = rows[(rows["elevation"] <= highest) & (rows["elevation"] > -450)]
    pressure = station_pressure(rows["value"].to_numpy(), rows["elevation"].to_numpy())
    reduced = reduce_to_sea_level(pressure, rows["elevation"].to_numpy(), *(rows[c].to_numpy() for c in ("value_t", "value_d")))
    added = rows[list(table.columns)].assign(value=reduced, variable=SLP)
    joined = pd.concat(
        [table.assign(variable=table["variable"].astype(str)), added.astype({"variable": str})], ignore_index=True
    )
    joined["variable"] = pd.Categorical(joined["variable"])
    joined.attrs.update(table.attrs)
    joined.attrs["units"] = {**table.attrs["units"], SLP: "Pa"}
    return joined
