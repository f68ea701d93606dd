"""Other tools read what we write: ArviZ of both lines, CF conventions, plain xarray."""

import sys
import warnings

import numpy as np
import pytest
import torch
import xarray as xr

import posterior
from benchmarks.diagnostics import Toy
from operators import Inpainting
from posterior.draws import Draws, load_draws
from posterior.uncertainty import assess, attach, evidence, quantities
from tests.figures.examples import head, normal, pressure, stats


@pytest.fixture(scope="module")
def found():
    return assess(Toy.make().trials("exact", 30), event=lambda x: (x > 0.5).flatten(1))


def everything(tmp_path, found, suffix=".nc"):
    """A file with every group: draws of a field, its data, what they predict, the truth, evidence."""
    mask = torch.ones(1, 5, 8)
    mask[..., ::2] = 0
    operator = Inpainting(mask)
    truth = 1013 + 4 * normal(1, 1, 5, 8)
    likelihood = posterior.GaussianLikelihood(operator, operator.A(truth), sigma=0.5)
    draws = pressure(truth=truth[0], observed=likelihood.y, noise_std=likelihood.sigma)
    path = tmp_path / f"run{suffix}"
    draws.save(path, likelihood)
    attach(path, found, "MMPS on toys")
    return path, draws, likelihood


@pytest.mark.parametrize("suffix", [".nc", ".zarr"])
def test_evidence_survives_a_file(suffix, tmp_path, found):
    path, draws, _ = everything(tmp_path, found, suffix)
    assert torch.equal(load_draws(path).samples, draws.samples)
    kept = evidence(path)
    assert str(kept) == str(found)
    assert torch.equal(kept.findings["SBC pixels"].values, found.findings["SBC pixels"].values)
    assert kept.findings["SBC pixels"].p_value == found.findings["SBC pixels"].p_value
    curve, wanted = (a.findings["sparsification"].curve for a in (kept, found))
    assert torch.equal(curve.values, wanted.values) and curve.band == wanted.band
    with xr.open_datatree(path, engine="h5netcdf" if suffix == ".nc" else "zarr") as tree:
        assert set(tree.children) == {
            *("posterior", "posterior_predictive", "observed_data", "constant_data", "sample_stats", "reference"),
            *("prior_sbc", "calibration"),
        }
        assert tree["prior_sbc/sbc_pixels"].dims[0] == "sample"
        assert tree["calibration"].attrs["about"] == "MMPS on toys"
    attach(path, found, "again")  # the second replaces the first
    assert evidence(path) is not None
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_names_that_differ_in_signs_alone_keep_their_own_evidence():
    above = quantities.function("u > 0", lambda x: (x > 0).double().flatten(1).sum(1))
    below = quantities.function("u < 0", lambda x: x.flatten(1).sum(1))
    found, tree = assess(Toy.make().trials("exact", 20), [above, below]), pressure().to_datatree()
    attach(tree, found)
    for name in ("SBC u > 0", "SBC u < 0"):
        assert torch.equal(evidence(tree).findings[name].values, found.findings[name].values)


def test_evidence_that_is_not_there_or_damaged(found):
    tree = pressure().to_datatree()
    assert evidence(tree) is None
    attach(tree, found)
    tree["calibration"].attrs["findings"] = '{"findings": {"a": {"kind": "os.system"}}, "trials": 1, "left_out": {}}'
    with pytest.raises(ValueError, match="damaged"):
        evidence(tree)


def test_predictive_data_have_the_noise_of_the_likelihood(tmp_path, found):
    path, draws, likelihood = everything(tmp_path, found)
    with xr.open_datatree(path) as tree:
        group = tree["posterior_predictive"].load()
        assert group["measurement"].dims[2:] == tree["observed_data/measurement"].dims
    prediction = likelihood.operator.A(draws.samples)
    np.testing.assert_allclose(group["prediction"].values[0], prediction, rtol=1e-6)
    noise = group["measurement"].values[0] - prediction.numpy()
    assert (noise[..., ::2] == 0).all(), "what was not measured has no noise"
    assert noise[..., 1::2].std() == pytest.approx(0.5, rel=0.1)
    again = draws.to_datatree(likelihood)["posterior_predictive"]
    np.testing.assert_array_equal(again["measurement"], group["measurement"])
    other = draws.to_datatree(posterior.StudentTLikelihood(likelihood.operator, likelihood.y, 0.5))
    assert list(other["posterior_predictive"].data_vars) == ["prediction"]


def test_predictive_data_of_complex_measurements():
    coils = torch.ones(1, 2, 6, 4, dtype=torch.complex64)
    from operators import MultiCoilMRI

    operator = MultiCoilMRI(mask=torch.ones(6, 4), coil_maps=coils)
    draws = head(n=4)
    y = operator.A(draws.truth[None])
    tree = draws.to_datatree(posterior.GaussianLikelihood(operator, y, sigma=0.1))
    measured = tree["posterior_predictive/measurement"]
    assert measured.shape[:2] == (1, 4) and measured.shape[2:] == tuple(y.shape[1:])


@pytest.fixture
def described(tmp_path):
    """A file as plain xarray opens it, and what cf_xarray makes of it, which moves Python's random state."""
    pytest.importorskip("cf_xarray", reason="cf_xarray is not installed")
    days = np.array(["2009-01-01", "2009-01-02"], "datetime64[D]")
    coords = {"time": days, "lat": np.arange(50.0, 53), "lon": np.arange(4.0)}
    draws = Draws(normal(3, 2, 3, 4), stats(), dims=tuple(coords), coords=coords, units="K", name="t2m")
    draws.save(tmp_path / "a.nc")
    with xr.open_dataset(tmp_path / "a.nc", group="posterior") as group:
        yield group, group.cf.axes, group.cf.coordinates, group.cf.standard_names


def test_cf_axes_are_recognised(described):
    group, axes, coordinates, names = described
    assert (axes["X"], axes["Y"], axes["T"]) == (["lon"], ["lat"], ["time"])
    assert coordinates == {"latitude": ["lat"], "longitude": ["lon"], "time": ["time"]}
    assert names["realization"] == ["draw"]
    assert group["lat"].attrs["units"] == "degrees_north"
    assert group["t2m"].attrs["units"] == "K" and group["t2m"].attrs["long_name"]
    assert group["t2m"].dims == ("chain", "draw", "time", "lat", "lon")
    assert "units" not in group["time"].attrs and group["time"].encoding["units"].startswith("days since")


def test_what_coordinates_say_of_themselves_is_kept():
    radians = xr.DataArray([0.1, 0.2], dims="lat", attrs={"units": "radian"})
    draws = Draws(normal(2, 2), stats(), dims=("lat",), coords={"lat": radians})
    assert draws.coords["lat"].attrs == {"units": "radian"}
    named = Draws(normal(2, 2), stats(), dims=("lon",), coords={"lon": ["west", "east"]})
    assert named.coords["lon"].attrs == {}


@pytest.fixture
def az():
    """ArviZ, whose import warns of its own future."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("arviz", reason="arviz is not installed")


@pytest.mark.parametrize("suffix", [".nc", ".zarr"])
def test_arviz_before_1_opens_it(suffix, tmp_path, az, found):
    if not az.__version__.startswith("0."):
        pytest.skip(f"arviz {az.__version__} is of the other line")
    path, draws, _ = everything(tmp_path, found, suffix)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of groups that its schema does not name
        if suffix == ".nc":
            data = az.from_netcdf(path)
        else:  # it reads no stores by itself that a zarr of today can open
            data = az.InferenceData.from_datatree(xr.open_datatree(path, engine="zarr"))
        names = {"posterior", "posterior_predictive", "observed_data", "constant_data", "sample_stats", "prior_sbc"}
        assert names <= set(data.groups())
        table = az.summary(data.posterior["pressure"].isel(latitude=2, longitude=[1, 3]), kind="stats", hdi_prob=0.9)
        interval = az.hdi(data.posterior, hdi_prob=0.9)
    np.testing.assert_allclose(table["mean"], draws.mean[0, 2, [1, 3]], atol=1e-3)
    assert dict(interval.sizes)["hdi"] == 2
    assert data.posterior["pressure"].attrs["units"] == "hPa"


@pytest.mark.parametrize("suffix", [".nc", ".zarr"])
def test_arviz_from_1_on_opens_it(suffix, tmp_path, az, found):
    if sys.version_info < (3, 12):
        pytest.skip("arviz 1 takes Python 3.12")
    if az.__version__.startswith("0."):
        pytest.skip(f"arviz {az.__version__} is of the other line")
    path, draws, _ = everything(tmp_path, found, suffix)
    tree = az.from_netcdf(path) if suffix == ".nc" else az.from_zarr(path)
    assert az.convert_to_datatree(tree) is not None
    lower = az.eti(tree, prob=0.9, method="weibull")["pressure"].sel(ci_bound="lower")
    np.testing.assert_allclose(lower, draws.interval(0.9)[0], atol=1e-3)
