"""What the axes of a field are: names, coordinates and attributes, and which points exist."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from xarray import DataArray


@dataclass(frozen=True, eq=False)
class Labels:
    """Names and coordinates of a gridded field, after the CF conventions.

    Args:
        name: The variable, such as "slp".
        dims: A name for each axis of an event.
        coords: 1-D coordinates by axis: arrays, or xarray.DataArray whose attributes are kept. Held as a dict of
            xarray.DataArray.
        attrs: Attributes of the variable beside its units, such as ``standard_name``.
        mask: (*event) boolean, True at points that exist (the sea, for currents); None where all do. A prior is 0
            elsewhere in standardised coordinates, and labelled output holds NaN there.

    Raises:
        ValueError: If two axes have one name, or a coordinate is of no axis, not 1-D, or of another length than its axis in
            ``mask``.

    References:
        Eaton et al., NetCDF Climate and Forecast (CF) Metadata Conventions, version 1.11 (2023).
    """

    name: str
    dims: tuple[str, ...]
    coords: Mapping[str, Any] = field(default_factory=dict)
    attrs: Mapping[str, Any] = field(default_factory=dict)
    mask: Tensor | None = None

    def __post_init__(self) -> None:
        from xarray import DataArray

        object.__setattr__(self, "dims", tuple(self.dims))
        if len(set(self.dims)) < len(self.dims):
            raise ValueError(f"Labels: dims are {', '.join(self.dims)}; wanted a name of its own for each axis")
        object.__setattr__(self, "attrs", dict(self.attrs))
        coords = {}
        for dim, value in self.coords.items():
            array = np.asarray(value)
            if dim not in self.dims or array.ndim != 1:
                raise ValueError(
                    f"Labels: coordinate {dim!r} has shape {array.shape}; wanted 1-D coordinates of {', '.join(self.dims)}"
                )
            coords[dim] = DataArray(array.copy(), dims=(dim,), name=dim, attrs=dict(getattr(value, "attrs", {})))
        object.__setattr__(self, "coords", coords)
        if self.mask is not None:
            if self.mask.dtype != torch.bool or not self.mask.any():
                raise ValueError("Labels: the mask is not boolean, or no point exists")
            self.check(tuple(self.mask.shape))

    def check(self, event_shape: tuple[int | None, ...]) -> None:
        """Raise ValueError unless an event of this shape has these axes; sizes that are None may be any."""
        if len(event_shape) != len(self.dims):
            raise ValueError(f"Labels: axes {self.dims} for an event of shape {event_shape}")
        for dim, size in zip(self.dims, event_shape, strict=True):
            if dim in self.coords and size is not None and self.coords[dim].size != size:
                raise ValueError(f"Labels: coordinate {dim!r} has {self.coords[dim].size} values; the axis has {size}")
        if self.mask is not None and tuple(self.mask.shape) != tuple(event_shape):
            raise ValueError(f"Labels: a mask of shape {tuple(self.mask.shape)} for an event of shape {event_shape}")

    def label(self, values: Tensor, units: str, **extra: tuple[str, Any]) -> DataArray:
        """Fields as a labelled array, NaN at points that do not exist.

        Args:
            values: (*event), or (n, ..., *event) with leading axes named in ``extra``.
            units: Units of the values.
            **extra: Name of each leading axis, in order, with its coordinate.
        """
        from xarray import DataArray

        array = values.detach().cpu().numpy()
        if self.mask is not None:
            array = np.where(self.mask.numpy(), array, np.nan)
        coords = dict(self.coords) | extra
        return DataArray(array, dims=(*extra, *self.dims), coords=coords, name=self.name, attrs={**self.attrs, "units": units})
