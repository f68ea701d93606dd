"""Results that the tests of `Draws` make: plain, complex with all they can carry, and labelled."""

import dataclasses

import numpy as np
import torch
import xarray as xr

from posterior.draws import Draws, Stats


def make_stats(**changes):
    base = Stats(
        nfe=64,
        vjps=128,
        seconds=12.5,
        peak_memory=3 * 2**30,
        seed=0,
        status="ok",
        sampler="MMPS(steps=64)",
        prior="NetworkPrior(name='brain-mri')",
        likelihood="GaussianLikelihood(sigma=0.01)",
        versions={"posterior": "0.1.0", "torch": "2.15.0"},
        residual=1.0375,
    )
    return dataclasses.replace(base, **changes)


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def make_draws(*shape, seed=0, **changes):
    return Draws(normal(*shape, seed=seed), changes.pop("stats", make_stats()), **changes)


def complex_draws(**changes):
    """Two SMC runs of six draws of a complex image, with all that a result can carry."""
    settings = {
        "stats": make_stats(
            status="stopped: out of time",
            warnings=("The residual is low.", 'A "quoted" one, with é and <b>.'),
            ess=(5.25, 1 / 3),
            log_evidence=(-1234.5678901234567, float("-inf")),
            log_evidence_std=(0.1, float("inf")),
            seed=2**40,
        ),
        "units": "A m-1",
        "name": "magnetisation",
        "kind": "complex",
        "coords": {
            "y": xr.DataArray(np.linspace(-2, 2, 4), dims="row", attrs={"units": "mm", "axis": "Y"}),
            "x": np.arange(5, dtype="float32"),
        },
        "log_weights": normal(12, seed=1, dtype=torch.float64),
        "chains": 2,
        "observed": torch.complex(normal(1, 3, 7, seed=2), normal(1, 3, 7, seed=3)),
        "noise_std": normal(1, 3, 7, seed=4).abs(),
        "truth": normal(2, 4, 5, seed=5),
    }
    return make_draws(12, 2, 4, 5, **settings | changes)


def weather_draws():
    """Point estimates of three levels at two times, with coordinates of every sort."""
    coords = {
        "time": np.array(["2009-01-01T06", "2009-01-02T18"], dtype="datetime64[s]"),
        "lead": np.array([0, 6, 12], dtype="timedelta64[h]").astype("timedelta64[ns]"),
        "level": xr.DataArray(["low", "middle", "high"], attrs={"long_name": "level of clouds"}),
        "latitude": xr.DataArray([60.0, 30.0, 0.0, -30.0], attrs={"units": "degrees_north", "axis": "Y"}),
        "longitude": torch.arange(0, 360, 90),
    }
    return Draws(
        normal(5, 2, 3, 3, 4, 4, dtype=torch.float64),
        make_stats(peak_memory=None, residual=None),
        units="seconds",  # which xarray would read as a time difference
        name="delay",
        dims=tuple(coords),
        coords=coords,
        is_posterior=False,
        observed=torch.tensor([[3, 0, 7]]),
        noise_std=torch.tensor(0.5),
    )


def assert_same(a, b):
    for item in dataclasses.fields(Draws):
        got, want = getattr(a, item.name), getattr(b, item.name)
        if isinstance(want, torch.Tensor):
            assert got.dtype == want.dtype, item.name
            assert torch.equal(got, want), item.name
        elif item.name == "coords":
            assert list(got) == list(want)
            for key in want:
                assert got[key].dtype == want[key].dtype, key
                xr.testing.assert_identical(got[key], want[key])
        else:
            assert got == want, item.name
            assert type(got) is type(want), item.name
