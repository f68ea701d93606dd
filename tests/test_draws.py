"""The container: what it takes, refuses and makes of draws."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
import torch

from posterior.draws import Draws
from tests.made_draws import complex_draws, make_draws, make_stats, normal, weather_draws


def test_draws_are_frozen_and_keep_what_they_were_given():
    samples = normal(3, 4)
    draws = Draws(samples, make_stats())
    assert draws.samples is samples
    assert len(draws) == draws.n == 3
    for thing, name in ((draws, "samples"), (draws, "units"), (draws.stats, "nfe")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(thing, name, None)


@pytest.mark.parametrize(
    ("shape", "dims"),
    [((), ()), ((4,), ("x",)), ((3, 4), ("y", "x")), ((2, 3, 4), ("channel", "y", "x"))]
    + [((2, 3, 4, 5), ("dim_0", "dim_1", "dim_2", "dim_3"))],
)
def test_default_axes(shape, dims):
    assert make_draws(2, *shape).dims == dims
    assert make_draws(2, *shape, dims=None).dims == dims


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"samples": torch.zeros(3, 4, dtype=torch.complex64)}, "wanted float32 or float64"),
        ({"samples": torch.zeros(0, 4)}, "one draw or more"),
        ({"dims": ("y",)}, "a name for each axis"),
        ({"dims": ("y", "y")}, "a name for each axis"),
        ({"dims": ("draw", "x")}, "'draw' is taken"),
        ({"dims": ("a/b", "x")}, "cannot be a name in a file"),
        ({"name": "x"}, "both called 'x'"),
        ({"kind": "quaternion"}, "wanted 'real' or 'complex'"),
        ({"kind": "complex"}, "axis 'channel' of size 2"),
        ({"chains": 4}, "6 draws do not divide into 4 runs"),
        ({"log_weights": torch.zeros(5)}, r"log_weights have shape \(5,\); wanted \(6,\)"),
        ({"log_weights": torch.full((6,), float("-inf"))}, "all -inf"),
        ({"log_weights": torch.full((6,), float("nan"))}, "NaN"),
        ({"truth": torch.zeros(1, 4, 5)}, "truth has shape"),
        ({"observed": torch.zeros(7)}, r"observed has shape \(7,\); wanted \(1, \*range\)"),
        ({"coords": {"z": np.arange(4)}}, "a coordinate is called 'z'"),
        ({"coords": {"y": np.arange(3)}}, r"coordinate 'y' has shape \(3,\); wanted \(4,\)"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    arguments = {"samples": normal(6, 4, 5), "stats": make_stats()} | changes
    with pytest.raises(ValueError, match=message):
        Draws(**arguments)


def test_stats_hold_plain_numbers():
    ess = torch.tensor([1.5, 2.5])
    stats = make_stats(nfe=torch.tensor(3), residual=np.float32(0.5), ess=ess, warnings=["a"])
    assert (stats.nfe, stats.residual, stats.ess, stats.warnings) == (3, 0.5, (1.5, 2.5), ("a",))
    assert [type(v) for v in (stats.nfe, stats.residual, stats.ess[0])] == [int, float, float]


def test_map_gives_the_posterior_of_a_function():
    draws = complex_draws()
    calls = []

    def row_energy(x):
        calls.append(x.shape[0])
        return x.square().sum((1, 3))

    energy = draws.map(row_energy, name="energy", units="A2 m-2", dims=("y",))
    assert calls == [12, 1]
    assert torch.equal(energy.samples, draws.samples.square().sum((1, 3)))
    assert torch.equal(energy.truth, draws.truth.square().sum((0, 2)))
    assert (energy.name, energy.units, energy.dims, energy.kind) == ("energy", "A2 m-2", ("y",), "real")
    assert list(energy.coords) == ["y"]
    assert energy.coords["y"].attrs == {"units": "mm", "axis": "Y"}
    assert (energy.stats, energy.chains) == (draws.stats, 2)
    assert torch.equal(energy.log_weights, draws.log_weights)

    cropped = draws.map(lambda x: x[..., 1:])
    assert (cropped.dims, cropped.kind, list(cropped.coords)) == (draws.dims, "complex", ["y"])
    number = draws.map(lambda x: x.flatten(1).mean(1))
    assert (number.event_shape, number.dims, number.kind) == ((), (), "real")
    assert [end.shape for end in make_draws(19, 3).map(lambda x: x.sum(1)).interval(0.9)] == [()] * 2
    with pytest.raises(ValueError, match="12 draws"):
        draws.map(lambda x: x.mean(0))


def test_an_interval_takes_one_number():
    draws = make_draws(19, 3)
    for level in (0.9, np.float32(0.9), torch.tensor(0.9)):
        torch.testing.assert_close(draws.interval(level)[0], draws.interval(0.9)[0], rtol=0, atol=1e-6)
    for level in ("nine", None, [0.5, 0.9], torch.tensor([0.5, 0.9])):
        with pytest.raises(TypeError, match=r"Draws\.interval: level is .*wanted one number"):
            draws.interval(level)
    for level in (1.5, 90, 0):
        with pytest.raises(ValueError, match="wanted a number between 0 and 1"):
            draws.interval(level)


def test_magnitude():
    draws = complex_draws()
    magnitude = draws.magnitude()
    torch.testing.assert_close(magnitude.samples, torch.complex(*draws.samples.unbind(1)).abs())
    torch.testing.assert_close(magnitude.truth, torch.complex(*draws.truth).abs())
    assert (magnitude.kind, magnitude.dims, magnitude.units) == ("real", ("y", "x"), "A m-1")
    assert list(magnitude.coords) == ["y", "x"]
    moved = make_draws(3, 4, 2, dims=("time", "channel"), kind="complex").magnitude()
    assert (moved.event_shape, moved.dims) == ((4,), ("time",))
    sea = torch.tensor([[True, False, True]])[:, None].expand(2, 2, 3)
    masked = make_draws(5, 2, 2, 3, dims=("time", "channel", "x"), kind="complex", mask=sea).magnitude()
    assert torch.equal(masked.mask, sea[:, 0])
    with pytest.raises(ValueError, match="these draws are real"):
        magnitude.magnitude()


def test_repr_is_short_and_html_is_escaped():
    draws = complex_draws()
    assert "12 x (channel: 2, y: 4, x: 5)" in repr(draws)
    assert len(repr(draws)) < 200
    page = draws._repr_html_()
    assert "é and &lt;b&gt;" in page
    assert "<b>" not in page
    assert "stopped: out of time" in page
    assert "point estimates (no uncertainty)" in weather_draws()._repr_html_()


def test_draws_need_no_heavy_library():
    code = (
        "import sys, torch, posterior.draws as d\n"
        "s = d.Stats(1, 0, 0.0, None, 0, 'ok', '', '', '', {})\n"
        "d.Draws(torch.zeros(20, 3), s).interval(0.9)\n"
        "assert not {'xarray', 'matplotlib', 'h5netcdf', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
