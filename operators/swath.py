"""Satellite soundings: means over footprints along a circular orbit."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from scipy.sparse import csr_array
from torch import Tensor

from operators.grid import EARTH_RADIUS, Coordinate, Grid
from operators.sampling import Outside, SparseSampling, kept_points, positions

EARTH_MU = 398600.4418  # km^3 / s^2, gravitational parameter
EARTH_ROTATION = 7.2921159e-5  # rad / s, sidereal


@dataclass(frozen=True)
class CircularOrbit:
    r"""A circular orbit over a spherical, turning Earth.

    The argument of latitude grows by :math:`2\pi` in each period :math:`2\pi \sqrt{a^3 / \mu}`, a the radius of the orbit. The
    node stays fixed among the stars: there is no precession, which moves the tracks of polar orbiters by about a degree a day.

    Args:
        altitude: km above the surface.
        inclination: Degrees; 0 to 180, above 90 against the turning of the Earth.
        node: Longitude of the ascending node at time 0, degrees east.
        phase: Argument of latitude at time 0, degrees after the ascending node.

    Raises:
        ValueError: The altitude is not positive, the inclination is not within 0 to 180, or a number is not finite.

    References:
        Vallado, "Fundamentals of astrodynamics and applications", Microcosm Press, 2013.
    """

    altitude: float = 800.0
    inclination: float = 98.6
    node: float = 0.0
    phase: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.altitude < math.inf or not 0 <= self.inclination <= 180:
            raise ValueError(
                "CircularOrbit: altitude must be above 0 km and inclination within 0 to 180 degrees, "
                f"got {self.altitude} and {self.inclination}"
            )
        if not (math.isfinite(self.node) and math.isfinite(self.phase)):
            raise ValueError(f"CircularOrbit: node and phase must be finite, got {self.node} and {self.phase}")

    @property
    def period(self) -> float:
        """Seconds."""
        return 2 * math.pi * math.sqrt((EARTH_RADIUS + self.altitude) ** 3 / EARTH_MU)

    def footprints(self, seconds: Coordinate, across: Coordinate = 0.0) -> tuple[np.ndarray, np.ndarray]:
        """Where the instrument looks: latitude and longitude (-180 to 180) in degrees, of the common shape.

        Args:
            seconds: Time.
            across: Distance on the ground from the track, km, to the left of the flight positive; broadcasts with
                ``seconds``.
        """
        seconds, across = np.broadcast_arrays(np.asarray(seconds, float), np.asarray(across, float))
        along = math.radians(self.phase) + 2 * np.pi * seconds / self.period
        tilt, aside = math.radians(self.inclination), across / EARTH_RADIUS
        # in the frame of the orbit: towards the ascending node, 90 degrees on, and along the normal
        x, y, z = np.cos(aside) * np.cos(along), np.cos(aside) * np.sin(along), np.sin(aside)
        y, z = y * math.cos(tilt) - z * math.sin(tilt), y * math.sin(tilt) + z * math.cos(tilt)
        longitude = np.degrees(np.arctan2(y, x) - EARTH_ROTATION * seconds) + self.node
        return np.degrees(np.arcsin(np.clip(z, -1, 1))), (longitude + 180) % 360 - 180


class SatelliteSwath(SparseSampling):
    r"""Means of a field over the footprints of a satellite instrument, discs on the sphere.

    .. math:: y_i = \frac{1}{|D_i|} \int_{D_i} x \, dA

    of the field interpolated bilinearly, by points of equal area on a spiral in the disc: a small footprint is a station, a
    large one an area-weighted mean of cells. x is (B, C, H, W) and y is (B, K, n) for K channels, float32 or float64, in the
    units of the field. :meth:`along_orbit` simulates where the footprints are.

    Args:
        grid: Grid of the field, without levels.
        latitude: (n,) centres of the footprints, degrees north.
        longitude: (n,) degrees east.
        radius: Of the footprints, km, one number or (n,).
        channel: The channel that is observed, or several.
        channels: Number of channels of the field.

    Other arguments:
        points: Points in each disc; default 4 in the area of the largest cell, 16 at least.
        vector: As for :class:`operators.StationObservations`.
        outside: What to do with footprints that are not wholly on a regional grid: "raise", or "drop" to leave them out.

    Attributes:
        kept: (n,) booleans, which of the given footprints are observed.
        latitude: Of the centres that are observed, degrees north.
        longitude: Likewise, degrees east.

    Raises:
        ValueError: A radius or a number of points is not positive; otherwise as for :class:`operators.StationObservations`.

    References:
        Gonzalez, "Measurement of areas on a sphere using Fibonacci and latitude-longitude lattices", Mathematical
        Geosciences, 2010 (the spiral).
    """

    kept: Tensor

    def __init__(
        self,
        grid: Grid,
        latitude: Coordinate,
        longitude: Coordinate,
        *,
        radius: Coordinate,
        channel: int | Sequence[int] = 0,
        channels: int = 1,
        points: int | None = None,
        vector: bool = False,
        outside: Outside = "raise",
    ) -> None:
        name = type(self).__name__
        Grid.must_be(grid, name)
        if grid.level is not None:
            raise ValueError(f"{name}: {grid!r} has levels; wanted a grid without")
        where = positions(name, latitude=latitude, longitude=longitude, radius=radius)
        latitude, longitude, radius = (array.flatten() for array in where)
        if not ((radius > 0) & (radius < math.pi * EARTH_RADIUS)).all():
            raise ValueError(f"{name}: radius must be above 0 km and at most half-way round the Earth, got {radius.min():g}")
        points = _enough_points(grid, radius.max()) if points is None else points
        if points < 1:
            raise ValueError(f"{name}: points must be at least 1, got {points}")
        weights, on_grid = grid.interpolation(*_disc(latitude, longitude, radius / EARTH_RADIUS, points), vector=vector)
        inside = on_grid.reshape(-1, points).all(1)
        kept = kept_points(inside, outside, name, grid, (latitude, longitude))
        rows = np.arange(len(latitude)).repeat(points)
        mean = csr_array((np.full(len(rows), 1 / points), (rows, np.arange(len(rows)))))
        super().__init__(grid, csr_array(mean @ weights)[inside], channel, channels)
        self.register_buffer("kept", kept)
        self.latitude, self.longitude = latitude[inside], longitude[inside]

    @classmethod
    def along_orbit(
        cls,
        grid: Grid,
        orbit: CircularOrbit,
        *,
        duration: float,
        interval: float,
        radius: float,
        across: Coordinate = (0.0,),
        start: float = 0.0,
        channel: int | Sequence[int] = 0,
        channels: int = 1,
        points: int | None = None,
        vector: bool = False,
        outside: Outside = "drop",
    ) -> Self:
        """Footprints along an orbit: at each scan one at every distance from the track, scan after scan.

        Args:
            grid: As for the class.
            orbit: The orbit.
            duration: Seconds that are simulated.
            interval: Seconds between scans.
            radius: Of the footprints, km.
            across: Distances from the track at which footprints lie, km, to the left of the flight positive; 0 is the nadir.
            start: Time of the first scan, seconds after the orbit's time 0.
            channel: As for the class.
            channels: As for the class.
            points: As for the class.
            vector: As for the class.
            outside: As for the class; what is not on the grid is left out unless asked otherwise.

        Raises:
            ValueError: As for the class; or duration or interval is not positive.
        """
        if not 0 < interval <= duration < math.inf:
            raise ValueError(
                f"{cls.__name__}: interval must be above 0 and at most duration, got {interval} and {duration} seconds"
            )
        seconds = start + interval * np.arange(math.ceil(duration / interval - 1e-9))
        latitude, longitude = orbit.footprints(seconds[:, None], np.atleast_1d(np.asarray(across, float)))
        return cls(
            grid,
            latitude.flatten(),
            longitude.flatten(),
            radius=radius,
            channel=channel,
            channels=channels,
            points=points,
            vector=vector,
            outside=outside,
        )


def _enough_points(grid: Grid, radius: float) -> int:
    disc = 2 * math.pi * (1 - math.cos(radius / EARTH_RADIUS))
    return max(16, math.ceil(4 * disc / grid.area.max()))


def _disc(latitude: np.ndarray, longitude: np.ndarray, radius: np.ndarray, points: int) -> tuple[np.ndarray, np.ndarray]:
    """Points of equal area in discs on the sphere, radius in radians: latitudes and longitudes (n * points,) in degrees."""
    k = np.arange(points) + 0.5
    cosine = 1 - (1 - np.cos(radius))[:, None] * k / points
    sine, turn = np.sqrt(1 - cosine**2), k * math.pi * (3 - math.sqrt(5))
    north, east = sine * np.cos(turn), sine * np.sin(turn)
    phi = np.radians(latitude)[:, None]
    up = cosine * np.sin(phi) + north * np.cos(phi)
    out = cosine * np.cos(phi) - north * np.sin(phi)
    there = np.radians(longitude)[:, None] + np.arctan2(east, out)
    return np.degrees(np.arcsin(np.clip(up, -1, 1))).flatten(), np.degrees(there).flatten()
