"""Small results that the tests of figures, reports and viewers show."""

import dataclasses

import numpy as np
import torch
import xarray as xr

from posterior.draws import Draws, Stats


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def stats(**changes):
    base = Stats(
        64, 128, 12.5, 3 * 2**30, 0, "ok", "MMPS(steps=64)", "prior", "likelihood", {"posterior": "0.1.0"}, residual=1.04
    )
    return dataclasses.replace(base, **changes)


def pressure(n=24, seed=0, **changes):
    """A field on latitude and longitude whose truth is one more draw."""
    coords = {
        "latitude": xr.DataArray(np.linspace(60.0, 40.0, 5), attrs={"units": "degrees_north", "standard_name": "latitude"}),
        "longitude": xr.DataArray(np.linspace(-30.0, 5.0, 8), attrs={"units": "degrees_east", "standard_name": "longitude"}),
    }
    settings = {"units": "hPa", "name": "pressure", "dims": ("channel", "latitude", "longitude"), "coords": coords}
    x = 1013 + 4 * normal(n + 1, 1, 5, 8, seed=seed)
    return Draws(x[1:], **{"stats": stats(), "truth": x[0]} | settings | changes)


def head(n=24, seed=0, **changes):
    """A complex image in millimetres with k-space of three coils."""
    mm = {"units": "mm"}
    coords = {"y": xr.DataArray(np.arange(6.0) - 3, attrs=mm), "x": xr.DataArray(np.arange(4.0) - 2, attrs=mm)}
    x = normal(n + 1, 2, 6, 4, seed=seed)
    settings = {
        "units": "A m-1",
        "name": "image",
        "kind": "complex",
        "coords": coords,
        "observed": normal(1, 2, 3, 6, 4, seed=9),
    }
    return Draws(x[1:], **{"stats": stats(), "truth": x[0]} | settings | changes)


def titles(figure):
    return [ax.get_title() for ax in figure.axes if ax.get_title()]


def bars(figure):
    """Units on the colour bars."""
    return [bar.get_ylabel() for ax in figure.axes for bar in ax.child_axes]
