import dataclasses
import errno
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
import xarray as xr

from posterior.draws import Draws, PointEstimateError, Stats, load_draws

SUFFIXES = (".nc", ".zarr")


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


# --- moments and intervals ------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [19, 24, 32, 64])
def test_interval_covers_a_further_draw_at_its_level(n):
    """40 000 pixels of exact draws: the binomial standard error of a coverage of 0.9 is 0.0015."""
    draws = make_draws(n, 200, 200, seed=n)
    lower, upper = draws.interval(0.9)
    truth = normal(200, 200, seed=1000 + n)
    coverage = ((lower <= truth) & (truth <= upper)).float().mean()
    exact = (n + 1) % 20 == 0  # both ends are draws; between two draws of a normal the interval is a bit wide
    assert -0.005 < coverage - 0.9 < (0.005 if exact else 0.012)


@pytest.mark.parametrize("level", [0.5, 0.8, 0.9, 0.95])
def test_interval_agrees_with_numpy_weibull(level):
    draws = make_draws(41, 3, 5)
    want = np.quantile(draws.samples.numpy(), [(1 - level) / 2, (1 + level) / 2], axis=0, method="weibull")
    torch.testing.assert_close(torch.stack(draws.interval(level)), torch.from_numpy(want).float())


def test_interval_of_many_pixels_is_computed_in_blocks(monkeypatch):
    draws = make_draws(30, 7, 11)
    whole = draws.interval(0.8)
    monkeypatch.setattr("posterior.draws._BLOCK", 100)
    assert all(torch.equal(a, b) for a, b in zip(draws.interval(0.8), whole, strict=True))


@pytest.mark.parametrize(("level", "needed"), [(0.9, 19), (0.5, 3), (0.8, 9), (0.95, 39), (0.99, 199)])
def test_interval_names_the_number_of_draws_it_takes(level, needed):
    draws = make_draws(needed, 4)
    lower, upper = draws.interval(level)
    assert torch.equal(lower, draws.samples.amin(0))
    assert torch.equal(upper, draws.samples.amax(0))
    with pytest.raises(ValueError, match=rf"{needed - 1} draws cannot support .* at least {needed}$"):
        make_draws(needed - 1, 4).interval(level)


@pytest.mark.parametrize("level", [0, 1, -0.5, 90])
def test_interval_refuses_levels_that_are_no_probability(level):
    with pytest.raises(ValueError, match="between 0 and 1"):
        make_draws(64, 4).interval(level)


def test_interval_of_a_pixel_with_missing_values_is_missing():
    samples = normal(40, 3)
    samples[7, 1] = float("nan")
    for log_weights in (None, torch.zeros(40)):
        lower, upper = Draws(samples, make_stats(), log_weights=log_weights).interval(0.9)
        assert lower.isnan().tolist() == upper.isnan().tolist() == [False, True, False]


def test_equal_weights_change_nothing():
    plain = make_draws(40, 6, 5)
    weighted = dataclasses.replace(plain, log_weights=torch.full((40,), 3.7))
    assert weighted.n_effective == pytest.approx(40)
    torch.testing.assert_close(weighted.mean, plain.mean)
    torch.testing.assert_close(weighted.std, plain.std)
    for a, b in zip(weighted.interval(0.9), plain.interval(0.9), strict=True):
        torch.testing.assert_close(a, b)
    nineteen = make_draws(19, 6, log_weights=torch.full((19,), -2.0))
    torch.testing.assert_close(nineteen.interval(0.9)[0], nineteen.samples.amin(0))


def test_weighted_moments_and_intervals_agree_with_resampling():
    draws = make_draws(2000, 4, log_weights=normal(2000, seed=9) * 0.7)
    generator = torch.Generator().manual_seed(3)
    picked = draws.samples[torch.multinomial(draws.weights, 400_000, replacement=True, generator=generator)]
    torch.testing.assert_close(draws.mean, picked.mean(0), atol=0.01, rtol=0)
    correction = (1 - draws.weights.square().sum()).sqrt().float()
    torch.testing.assert_close(draws.std * correction, picked.std(0), atol=0.01, rtol=0)
    for end, q in zip(draws.interval(0.8), (0.1, 0.9), strict=True):
        # neighbours lie about 0.005 apart, and Weibull's positions a little further out
        torch.testing.assert_close(end, torch.from_numpy(np.quantile(picked, q, axis=0)), atol=0.03, rtol=0)


def test_weighted_variance_is_unbiased():
    """Weights that do not depend on the draws: the variance of N(0, 4) comes out on average."""
    draws = make_draws(6, 200, 200, log_weights=torch.tensor([0.0, 1.0, -1.0, 2.0, 0.5, -3.0]))
    assert (2 * draws.std).square().mean() == pytest.approx(4, rel=0.02)


def test_importance_weights_recover_the_target():
    """Draws of N(0, 1) weighted to N(1, 1/2)."""
    samples = normal(4000, 50, dtype=torch.float64)
    log_weights = -((samples[:, 0] - 1) ** 2) + samples[:, 0] ** 2 / 2
    draws = Draws(samples, make_stats(), log_weights=log_weights)
    assert draws.mean[0] == pytest.approx(1, abs=0.05)
    assert draws.std[0] == pytest.approx(0.5**0.5, abs=0.04)
    lower, upper = draws.interval(0.9)
    assert lower[0] == pytest.approx(1 - 1.6449 * 0.5**0.5, abs=0.1)
    assert upper[0] == pytest.approx(1 + 1.6449 * 0.5**0.5, abs=0.1)


def test_draws_without_weight_do_not_count():
    draws = make_draws(40, 6)
    log_weights = torch.zeros(60)
    log_weights[40:] = float("-inf")
    padded = Draws(torch.cat([draws.samples, 100 + normal(20, 6)]), make_stats(), log_weights=log_weights)
    torch.testing.assert_close(padded.mean, draws.mean)
    torch.testing.assert_close(padded.std, draws.std)
    for a, b in zip(padded.interval(0.9), draws.interval(0.9), strict=True):
        torch.testing.assert_close(a, b)


def test_weights_that_leave_few_draws_support_no_interval():
    log_weights = torch.zeros(64)
    log_weights[0] = 5
    with pytest.raises(ValueError, match=r"worth \d\.\d of equal weight\) cannot support a 90 % interval"):
        make_draws(64, 3, log_weights=log_weights).interval(0.9)


def test_one_draw_has_no_spread():
    assert torch.equal(make_draws(1, 3).mean, normal(1, 3)[0])
    with pytest.raises(ValueError, match="takes two draws; got 1 draw"):
        _ = make_draws(1, 3).std


def test_point_estimates_offer_no_uncertainty_unasked():
    draws = make_draws(32, 4, 5, is_posterior=False)
    for ask in (lambda: draws.std, draws.spread, lambda: draws.interval(0.9)):
        with pytest.raises(PointEstimateError, match="MMPS.* point estimates"):
            ask()
    assert torch.equal(draws.spread(allow_point_estimate=True), draws.samples.std(0))
    assert len(draws.interval(0.9, allow_point_estimate=True)) == 2
    assert torch.equal(draws.mean, draws.samples.mean(0))


# --- the container --------------------------------------------------------------------------------------


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


def test_magnitude():
    draws = complex_draws()
    magnitude = draws.magnitude()
    torch.testing.assert_close(magnitude.samples, torch.complex(*draws.samples.unbind(1)).abs())
    torch.testing.assert_close(magnitude.truth, torch.complex(*draws.truth).abs())
    assert (magnitude.kind, magnitude.dims, magnitude.units) == ("real", ("y", "x"), "A m-1")
    assert list(magnitude.coords) == ["y", "x"]
    moved = make_draws(3, 4, 2, dims=("time", "channel"), kind="complex").magnitude()
    assert (moved.event_shape, moved.dims) == ((4,), ("time",))
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


# --- trees and files ------------------------------------------------------------------------------------


def test_tree_follows_the_schema():
    draws = complex_draws()
    tree = draws.to_datatree()
    assert set(tree.children) == {"posterior", "sample_stats", "observed_data", "constant_data", "reference"}
    field = tree["posterior/magnetisation"]
    assert field.dims == ("chain", "draw", "complex", "y", "x")
    assert field.attrs["units"] == "A m-1"
    assert field.coords["complex"].values.tolist() == ["real", "imag"]
    assert tree.coords["draw"].attrs["standard_name"] == "realization"
    assert tree.coords["y"].attrs == {"units": "mm", "axis": "Y"}
    second_run = torch.from_numpy(field.sel(chain=1).values)
    assert torch.equal(second_run, draws.samples[6:])
    assert tree["reference/magnetisation"].dims == ("complex", "y", "x")
    assert tree["observed_data/measurement"].shape == (3, 7, 2)
    assert tree["constant_data/noise_std"].dims == tree["observed_data/measurement"].dims[:-1]
    sample_stats = tree["sample_stats"]
    assert sample_stats["ess"].dims == ("chain",)
    assert sample_stats["log_weight"].dims == ("chain", "draw")
    assert (sample_stats["nfe"], sample_stats["seconds"]) == (64, 12.5)
    settings = json.loads(tree.attrs["settings"])
    assert settings["sampler"] == "MMPS(steps=64)"
    assert settings["versions"]["torch"] == "2.15.0"
    expected = {"Conventions": "CF-1.11", "creation_library": "posterior", "sample_dims": ["chain", "draw"]}
    assert expected.items() <= tree.attrs.items()
    assert {"created_at", "creation_library_version"} <= set(tree.attrs)
    assert set(make_draws(3, 4).to_datatree().children) == {"posterior", "sample_stats"}


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    "make",
    [
        complex_draws,
        weather_draws,
        lambda: make_draws(3, 4),
        lambda: make_draws(3, noise_std=torch.ones(1), observed=torch.zeros(1), truth=torch.tensor(2.0)),
        lambda: make_draws(3, 4, noise_std=torch.full((1, 1, 5), 0.5), observed=torch.zeros(1, 3, 5) > 0),
        lambda: complex_draws(stats=make_stats(ess=(1.0, 2.0, 3.0))),
        lambda: Draws(torch.full((2, 3), float("nan")), make_stats(status="not finite at step 3")),
    ],
    ids=["complex", "weather", "plain", "numbers", "broadcast", "other length", "not finite"],
)
def test_files_lose_nothing(make, suffix, tmp_path):
    draws = make()
    path = tmp_path / f"out{suffix}"
    for _ in range(2):  # the second replaces the first
        draws.save(path)
        if draws.samples.isnan().any():
            assert load_draws(path).samples.isnan().all()
            assert load_draws(path).stats == draws.stats
        else:
            assert_same(load_draws(str(path)), draws)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_other_tools_read_the_file(tmp_path):
    complex_draws().save(tmp_path / "out.nc")
    with xr.open_datatree(tmp_path / "out.nc") as tree:
        assert {"posterior", "sample_stats", "observed_data", "reference"} < set(tree.children)
        assert tree.attrs["Conventions"] == "CF-1.11"
        assert tree["posterior/magnetisation"].encoding["chunksizes"] == (1, 1, 2, 4, 5)
        assert tree["posterior"].attrs["is_posterior"] == 1
        assert tree["posterior/magnetisation"].dtype == np.float32
    # a group by itself, as ArviZ before 1.0 and viewers of NetCDF read it, has its coordinates
    with xr.open_dataset(tmp_path / "out.nc", group="posterior") as group:
        assert group["magnetisation"].coords["y"].attrs["units"] == "mm"
        assert group["draw"].attrs["standard_name"] == "realization"


def test_a_tree_that_was_cut_is_still_ours(tmp_path):
    draws = complex_draws(stats=make_stats())
    draws.to_datatree().isel(draw=slice(2)).to_netcdf(tmp_path / "few.nc", engine="h5netcdf")
    few = load_draws(tmp_path / "few.nc")
    assert torch.equal(few.samples, draws.samples[[0, 1, 6, 7]])
    assert torch.equal(few.log_weights, draws.log_weights[[0, 1, 6, 7]])


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_save_that_fails_leaves_the_old_file(suffix, error, tmp_path, monkeypatch):
    path = tmp_path / f"out{suffix}"
    old = make_draws(3, 4)
    old.save(path)
    method = "to_netcdf" if suffix == ".nc" else "to_zarr"
    write = getattr(xr.DataTree, method)

    def write_and_fail(*args, **kwargs):
        write(*args, **kwargs)
        raise error

    monkeypatch.setattr(xr.DataTree, method, write_and_fail)
    for target in (path, tmp_path / f"new{suffix}"):
        with pytest.raises(type(error)):
            make_draws(5, 6).save(target)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert_same(load_draws(path), old)


def test_a_store_that_cannot_take_its_place_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "out.zarr"
    old = make_draws(3, 4)
    old.save(path)
    replace = type(path).replace

    def refuse(self, target):
        if self.name.endswith(".partial"):
            raise OSError("no")
        return replace(self, target)

    monkeypatch.setattr(type(path), "replace", refuse)
    with pytest.raises(OSError, match="no"):
        make_draws(5, 6).save(path)
    assert [p.name for p in tmp_path.iterdir()] == ["out.zarr"]
    assert_same(load_draws(path), old)


def test_paths_that_cannot_be_written(tmp_path):
    draws = make_draws(3, 4)
    with pytest.raises(ValueError, match=r"out\.mat: the suffix is '\.mat'"):
        draws.save(tmp_path / "out.mat")
    with pytest.raises(FileNotFoundError, match=r"nowhere/out\.nc: there is no folder"):
        draws.save(tmp_path / "nowhere" / "out.nc")
    for name in ("out.nc", "out.zarr"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "precious").write_text("data")
        with pytest.raises(FileExistsError, match="is not overwritten"):
            draws.save(tmp_path / name)
        assert (tmp_path / name / "precious").read_text() == "data"


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.nc: there is no such file"):
        load_draws(tmp_path / "none.nc")
    (tmp_path / "out.txt").write_text("hello")
    with pytest.raises(ValueError, match=r"out\.txt: the suffix is"):
        load_draws(tmp_path / "out.txt")
    (tmp_path / "text.nc").write_text("hello")
    with pytest.raises(ValueError, match=r"text\.nc cannot be read"):
        load_draws(tmp_path / "text.nc")
    make_draws(3, 100).save(tmp_path / "whole.nc")
    data = (tmp_path / "whole.nc").read_bytes()
    for part in (0.0, 0.1, 0.5, 0.99):
        (tmp_path / "part.nc").write_bytes(data[: int(part * len(data))])
        with pytest.raises(ValueError, match=r"part\.nc (cannot be read|is damaged)") as caught:
            load_draws(tmp_path / "part.nc")
        assert "\n" not in str(caught.value)
    xr.Dataset({"a": ("x", np.arange(3))}).to_netcdf(tmp_path / "other.nc", engine="h5netcdf")
    with pytest.raises(ValueError, match=r"other\.nc holds no draws written by posterior"):
        load_draws(tmp_path / "other.nc")


def test_stores_that_cannot_be_read(tmp_path):
    (tmp_path / "empty.zarr").mkdir()
    (tmp_path / "file.zarr").write_text("hello")
    for name in ("empty", "file"):
        with pytest.raises(ValueError, match=rf"{name}\.zarr cannot be read"):
            load_draws(tmp_path / f"{name}.zarr")
    path = tmp_path / "whole.zarr"
    make_draws(3, 100).save(path)
    (chunk,) = path.glob("posterior/field/0.1.0")
    chunk.unlink()
    with pytest.raises(ValueError, match=r"whole\.zarr is damaged: .*values are missing"):
        load_draws(path)
    shutil.rmtree(path / "sample_stats")
    with pytest.raises(ValueError, match=r"whole\.zarr (cannot be read|is damaged)"):
        load_draws(path)


def test_draws_need_no_heavy_library():
    code = (
        "import sys, torch, posterior.draws as d\n"
        "s = d.Stats(1, 0, 0.0, None, 0, 'ok', '', '', '', {})\n"
        "d.Draws(torch.zeros(20, 3), s).interval(0.9)\n"
        "assert not {'xarray', 'matplotlib', 'h5netcdf', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
