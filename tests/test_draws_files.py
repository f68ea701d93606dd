"""Draws as trees, and in NetCDF and Zarr files."""

import errno
import json
import shutil
from dataclasses import replace
from datetime import UTC, date, datetime

import numpy as np
import pytest
import torch
import xarray as xr

from posterior.draws import Draws, load_draws
from tests.made_draws import assert_same, complex_draws, make_draws, make_stats, weather_draws

SUFFIXES = (".nc", ".zarr")


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
        lambda: Draws(torch.randn(3, 4, dtype=torch.complex64, generator=torch.Generator()).conj().imag, make_stats()),
        lambda: complex_draws(stats=make_stats(ess=(1.0, 2.0, 3.0))),
        lambda: Draws(torch.full((2, 3), float("nan")), make_stats(status="not finite at step 3")),
    ],
    ids=["complex", "weather", "plain", "numbers", "broadcast", "negated view", "other length", "not finite"],
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


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("calendar", ["standard", "proleptic_gregorian", "noleap"])
def test_times_of_a_calendar_come_back_as_they_were(calendar, suffix, tmp_path):
    pytest.importorskip("cftime")
    times = xr.date_range("2000-02-28T06", periods=4, calendar=calendar, use_cftime=True)
    draws = make_draws(3, 4, dims=("valid",), coords={"valid": times})
    draws.save(tmp_path / f"out{suffix}")
    found = load_draws(tmp_path / f"out{suffix}").coords["valid"]
    xr.testing.assert_identical(found, draws.coords["valid"])
    assert [type(t) for t in found.values] == [type(t) for t in times]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("units", ["days since 2000-01-01", "months since 2000-01-01"])
def test_numbers_in_units_of_times_stay_numbers(tmp_path, suffix, units):
    # as xarray reads them with decode_times=False
    coordinate = xr.DataArray([1.0, 2.5, 3.0], dims="x", name="x", attrs={"units": units})
    draws = replace(make_draws(2, 3, coords={"x": coordinate}), units=units)
    draws.save(tmp_path / f"out{suffix}")
    found = load_draws(tmp_path / f"out{suffix}")
    xr.testing.assert_identical(found.coords["x"], draws.coords["x"])
    assert torch.equal(found.samples, draws.samples) and found.units == units


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_coordinates_and_attributes_that_no_file_knows(tmp_path, suffix):
    utc = [datetime(2020, 1, day, tzinfo=UTC) for day in (1, 2)]
    attrs = {
        "cyclic": True,
        "flags": [True, False],
        "size": np.array(2),
        "positive": None,
        "origin": np.datetime64("2000-01-01"),
        "edges": [1.0, 2.0],
    }
    coords = {
        "day": [date(2020, 1, 1), date(2020, 1, 2)],
        "time": xr.DataArray(np.array(["2020-01-01", "2020-01-02"], "M8[ns]"), dims="time", attrs={"units": "UTC"}),
        "zoned": np.array(utc, object),
        "x": xr.DataArray([1.0, 2.0], dims="x", attrs=attrs),
    }
    draws = make_draws(2, 2, 2, 2, 2, dims=tuple(coords), coords=coords)
    replace(draws, observed=torch.ones(1, 2, dtype=torch.bfloat16)).save(tmp_path / f"out{suffix}")
    found = load_draws(tmp_path / f"out{suffix}")
    assert (found.coords["day"].values == np.array(["2020-01-01", "2020-01-02"], "M8[D]")).all()
    assert (found.coords["time"].values == draws.coords["time"].values).all()
    assert found.coords["zoned"].values.tolist() == list(map(str, utc))
    kept = found.coords["x"].attrs
    assert list(kept.pop("edges")) == [1.0, 2.0] and list(kept.pop("flags")) == [1, 0]
    assert kept == {"cyclic": 1, "size": 2, "origin": "2000-01-01"}
    assert torch.equal(found.observed, torch.ones(1, 2))


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
    replace, refused = type(path).replace, []

    def refuse(self, target):
        # Zarr calls so what it writes inside the store, too, and that is not what is refused.
        if self.parent == tmp_path and self.name.endswith(".partial"):
            refused.append(self)
            raise OSError("no")
        return replace(self, target)

    monkeypatch.setattr(type(path), "replace", refuse)
    with pytest.raises(OSError, match="no"):
        make_draws(5, 6).save(path)
    assert len(refused) == 1 and [p.name for p in tmp_path.iterdir()] == ["out.zarr"]
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
