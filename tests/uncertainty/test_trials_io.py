"""Trials in files: nothing is lost on the way, and others can read them."""

import json

import pytest
import torch
import xarray as xr

from posterior.uncertainty import Trial, Trials, assess, evidence, load_trials, save_trials


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def full(seed, weighted=True):
    y = torch.complex(normal(1, 3, seed=seed), normal(1, 3, seed=seed + 100))
    x, e = normal(6, 2, 3, 4, seed=seed), {"dtype": torch.float64}
    weights = normal(5, seed=seed, **e) if weighted else None
    rest = (normal(6, seed=seed, **e), normal(6, seed=seed + 1, **e), torch.tensor([10.0, 0.0, 1.5], **e))
    return Trial(x[0], x[1:], y, weights, normal(2, 3, 4, seed=seed), *rest)


FIELDS = ("truth", "draws", "y", "log_weights", "reference", "log_prob", "chi_square", "cost")


@pytest.mark.parametrize("suffix", [".nc", ".zarr"])
def test_nothing_is_lost(tmp_path, suffix):
    if suffix == ".zarr":
        pytest.importorskip("zarr")
    path = tmp_path / f"trials{suffix}"
    trials = Trials(full(i) for i in range(3))
    save_trials(trials, path, name="pressure", units="hPa", attrs={"problem": "toy"})
    again, notes = load_trials(path)
    assert notes == {"problem": "toy"} and len(again) == 3
    for a, b in zip(trials, again, strict=True):
        for name in FIELDS:
            assert torch.equal(getattr(a, name), getattr(b, name)), name
    plain = Trials(Trial(t.truth, t.draws) for t in trials)
    save_trials(plain, path)  # over the old one
    (first, *_), _ = load_trials(path)
    assert all(getattr(first, name) is None for name in FIELDS[2:])


def test_the_tree_is_labelled(tmp_path):
    path = tmp_path / "trials.nc"
    trials = Trials(full(i, weighted=False) for i in range(20))
    coords = {"y": ("y", [50.0, 52.5, 55.0], {"units": "degrees_north"})}
    save_trials(
        trials, path, name="slp", units="hPa", dims=("part", "y", "x"), coords=coords, assessment=(found := assess(trials))
    )
    with xr.open_datatree(path, engine="h5netcdf") as tree:
        draws = tree["posterior/slp"]
        assert draws.dims == ("trial", "draw", "part", "y", "x") and draws.attrs["units"] == "hPa"
        assert tree["posterior"]["y"].attrs["units"] == "degrees_north"
        assert tree["reference/slp"].dims == ("trial", "part", "y", "x")
        pits = tree["prior_sbc"].to_dataset()
        assert set(pits) >= {"sbc_pixels", "sbc_log_likelihood"} and pits["sbc_log_likelihood"].dims[0] == "sample"
        assert 0 <= float(pits["sbc_pixels"].min()) and float(pits["sbc_pixels"].max()) <= 1
        assert json.loads(tree.attrs["notes"]) == {} and tree.attrs["Conventions"] == "CF-1.11"
        assert tree["observed_data/measurement"].dims[-1] == "complex"
    again = evidence(path)
    assert str(again) == str(found) and "coverage of pixels" in again.findings


def test_what_does_not_fit_is_refused(tmp_path):
    with pytest.raises(ValueError, match="wanted one shape"):
        save_trials(Trials([full(0), Trial(torch.zeros(3), torch.zeros(4, 3))]), tmp_path / "a.nc")
    with pytest.raises(ValueError, match="a name for each axis"):
        save_trials(Trials([full(0)]), tmp_path / "a.nc", dims=("y", "x"))
    with pytest.raises(ValueError, match=r"kept in \.nc or \.zarr"):
        save_trials(Trials([full(0)]), tmp_path / "a.csv")
    with pytest.raises(FileNotFoundError, match="there is no such file"):
        load_trials(tmp_path / "none.nc")
    (tmp_path / "b.nc").write_text("hello")
    with pytest.raises(ValueError, match="cannot be read"):
        load_trials(tmp_path / "b.nc")
    xr.Dataset({"x": 1}).to_netcdf(tmp_path / "c.nc", engine="h5netcdf")
    with pytest.raises(ValueError, match="holds no trials"):
        load_trials(tmp_path / "c.nc")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b.nc", "c.nc"]
