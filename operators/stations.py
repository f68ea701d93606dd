"""Point observations of weather and ocean fields: surface stations, buoys, radiosondes; and their errors."""

from collections.abc import Sequence

import numpy as np
import torch
from scipy.sparse import csr_array, hstack
from torch import Tensor

from operators.grid import Coordinate, Grid
from operators.sampling import Outside, SparseSampling, kept_points, positions


class StationObservations(SparseSampling):
    r"""Fields at stations, bilinear between the four grid values around each.

    .. math:: y_{ki} = \sum_{j=1}^{4} w_{ij}\, x_{k, c_{ij}}, \quad \sum_j w_{ij} = 1

    Longitudes wrap. Between the last row of a global grid and the pole the interpolation goes on over the pole, to the
    opposite meridian. x is (B, C, H, W) and y is (B, K, n) for K channels, float32 or float64, in the units of the field.

    Args:
        grid: Grid of the field, without levels.
        latitude: (n,) degrees north.
        longitude: (n,) degrees east, of any convention.
        channel: The channel that the stations observe, or several, in the order of the data.
        channels: Number of channels of the field.

    Other arguments:
        vector: Whether these channels are eastward and northward components, whose sign turns over the pole.
        outside: What to do with stations off a regional grid: "raise", or "drop" to leave them out.

    Attributes:
        kept: (n,) booleans, which of the given stations are observed; data are values[kept].

    Raises:
        ValueError: A position is not finite or off the grid; the grid has levels; a channel is not of the field; x or y
            has the wrong shape or dtype.

    References:
        Kalnay, "Atmospheric modeling, data assimilation and predictability", Cambridge University Press, 2003, section 5.4.
    """

    kept: Tensor

    def __init__(
        self,
        grid: Grid,
        latitude: Coordinate,
        longitude: Coordinate,
        *,
        channel: int | Sequence[int] = 0,
        channels: int = 1,
        vector: bool = False,
        outside: Outside = "raise",
    ) -> None:
        name = type(self).__name__
        Grid.must_be(grid, name)
        if grid.level is not None:
            raise ValueError(f"{name}: {grid!r} has levels; use RadiosondeProfiles, or a grid without")
        where = positions(name, latitude=latitude, longitude=longitude)
        weights, inside = grid.interpolation(*where, vector=vector)
        kept = kept_points(inside, outside, name, grid, where)
        super().__init__(grid, weights[inside], channel, channels)
        self.register_buffer("kept", kept)


class RadiosondeProfiles(SparseSampling):
    r"""Fields along soundings: bilinear in the horizontal, linear in the logarithm of pressure in the vertical.

    With p between the levels :math:`p_a` and :math:`p_b`, the weight of b is
    :math:`\ln(p / p_a) / \ln(p_b / p_a)`. Coordinates broadcast: (n,) each for single observations, of balloons that drift
    or of soundings with levels of their own; latitude and longitude (S, 1) with pressure (P,) for S soundings on the same P
    levels. x is (B, C, L, H, W); y is (B, K, *shape), of the common shape, or (B, K, n) where points are left out.

    Args:
        grid: Grid of the field, with levels.
        latitude: Degrees north.
        longitude: Degrees east.
        pressure: hPa.
        channel: The channel that is observed, or several.
        channels: Number of channels of the field.

    Other arguments:
        vector: As for :class:`StationObservations`.
        outside: What to do with points off the grid or above or below its levels: "raise", or "drop" to leave them out.

    Attributes:
        kept: Booleans of the common shape, which points are observed.

    Raises:
        ValueError: As for :class:`StationObservations`; the grid has no levels, or a pressure is not above 0 or outside them.
    """

    kept: Tensor

    def __init__(
        self,
        grid: Grid,
        latitude: Coordinate,
        longitude: Coordinate,
        pressure: Coordinate,
        *,
        channel: int | Sequence[int] = 0,
        channels: int = 1,
        vector: bool = False,
        outside: Outside = "raise",
    ) -> None:
        name = type(self).__name__
        Grid.must_be(grid, name)
        if grid.level is None:
            raise ValueError(f"{name}: {grid!r} has no levels; use StationObservations")
        where = positions(name, latitude=latitude, longitude=longitude, pressure=pressure)
        shape = where[0].shape
        flat = [array.flatten() for array in where]
        if flat[2].min() <= 0:
            raise ValueError(f"{name}: pressure must be above 0 hPa, got {flat[2].min():g}")
        horizontal, on_grid = grid.interpolation(*flat[:2], vector=vector)
        vertical, within = grid.vertical(flat[2])
        inside = on_grid & within
        kept = kept_points(inside.reshape(shape), outside, name, grid, where)
        weights = _row_products(vertical, horizontal)[inside]
        super().__init__(grid, weights, channel, channels, shape if inside.all() else None)
        self.register_buffer("kept", kept)


def _row_products(outer: csr_array, inner: csr_array) -> csr_array:
    """Row by row the Kronecker product: (n, a) and (n, b) to (n, a * b)."""
    products = csr_array(hstack([inner.multiply(column[:, None]) for column in outer.toarray().T], format="csr"))
    products.eliminate_zeros()
    return products


def observation_sigma(*errors: Tensor | np.ndarray | float) -> Tensor:
    """Standard deviation of independent errors together: their root sum of squares, entry by entry.

    An observation differs from the field at its place by the error of its instrument and by what the grid cannot represent
    (representativeness): a thermometer good to 0.2 K in hills on a 50 km grid misses the cell's temperature by 1 K or more.
    Both count, ``observation_sigma(instrument, representativeness)``, each a number or one per station.

    Args:
        *errors: Standard deviations in the units of the data, not negative; shapes that broadcast.

    Returns:
        Float64 tensor of the common shape.

    Raises:
        ValueError: One is negative or not finite, shapes do not fit, or an entry has no error at all.

    References:
        Janjic et al., "On the representation error in data assimilation", Quarterly Journal of the Royal Meteorological
        Society, 2018.
    """
    parts = [torch.as_tensor(error, dtype=torch.float64) for error in errors]
    if not parts or not all(torch.isfinite(part).all() and (part >= 0).all() for part in parts):
        raise ValueError("observation_sigma: errors must be finite and not negative")
    try:
        total = sum((part.square() for part in torch.broadcast_tensors(*parts)), torch.zeros((), dtype=torch.float64)).sqrt()
    except RuntimeError as error:
        shapes = [tuple(part.shape) for part in parts]
        raise ValueError(f"observation_sigma: errors must have shapes that fit, got {shapes}") from error
    if not (total > 0).all():
        raise ValueError("observation_sigma: every entry needs an error above 0")
    return total
