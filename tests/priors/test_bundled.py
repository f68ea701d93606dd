"""The priors that travel with the package."""

import math

import numpy as np
import pytest
import torch

import posterior
from posterior._resources import resource
from posterior.io.registry import available
from posterior.priors.training.objectives import held_out_score
from posterior.recipes.training import read_config
from posterior.recipes.training.build import standardise
from posterior.recipes.training.data import load_fields

ROOM = 48 * 2**20  # bytes, all together
GRIDDED = {
    "slp-north-atlantic": ((1, 17, 33), "hPa", "slp"),
    "slp-north-atlantic-flow": ((1, 17, 33), "hPa", "slp"),
    "t2m-uk": ((1, 33, 49), "K", "t2m"),
    "currents-agulhas": ((2, 41, 81), "m s-1", "current"),
}


def test_all_fit_into_the_wheel():
    sizes = {p: p.stat().st_size for p in resource("priors").rglob("*") if p.is_file()}
    assert sum(sizes.values()) <= ROOM
    assert max(sizes.values()) <= 16 * 2**20


@pytest.mark.parametrize("name", GRIDDED)
class TestGridded:
    def test_is_labelled(self, name):
        prior = posterior.load_prior(name)
        shape, units, variable = GRIDDED[name]
        assert (prior.event_shape, prior.units, prior.labels.name) == (shape, units, variable)
        assert prior.labels.dims == ("channel", "latitude", "longitude")
        for dim, size in zip(prior.labels.dims, shape, strict=True):
            assert prior.labels.coords[dim].size == size
        for key in ("summary", "licence", "data", "train", "develop", "commands", "curves", "held_out_rmse"):
            assert prior.card[key], key
        assert (resource("priors", name) / "README.md").read_text().startswith(f"# {name}\n")

    def test_is_nowhere_worse_than_its_gaussian_where_it_is_used(self, name):
        rows = [r for r in posterior.load_prior(name).card["held_out_rmse"] if 0.05 <= r["sigma"] <= 2]
        assert len(rows) >= 6
        assert all(r["network"] <= 1.0001 * r["gaussian"] for r in rows)

    def test_error_spectrum_agrees_with_the_curve(self, name):
        prior = posterior.load_prior(name)
        mask = prior.labels.mask
        points = math.prod(prior.event_shape) if mask is None else int(mask.sum())
        for row in prior.card["held_out_rmse"]:
            total = prior.reference.error_covariance(prior.event_shape, row["sigma"]).eigenvalues.sum()
            spread = prior.card["reference"].get("spread", 1.0)
            assert float(total / points) ** 0.5 == pytest.approx(spread * row["network"], rel=0.1)

    def test_denoises_held_out_fields_as_the_card_says(self, name):
        config = read_config(resource("training", f"{name}.toml"))
        if not available(config.data.registry):
            pytest.skip(f"dataset {config.data.registry} is not at hand")
        prior = posterior.load_prior(name)
        data = standardise(load_fields(config.data), config.mean)
        assert prior.affine.scale == pytest.approx(data.affine.scale, rel=1e-6)
        some = data.develop[:: len(data.develop) // 24]
        row = next(r for r in prior.card["held_out_rmse"] if r["sigma"] == 0.5)
        want = row["network"] / row["gaussian"]
        assert held_out_score(prior, some, (0.5,)) == pytest.approx(want, abs=0.02)


def test_pressure_has_a_calendar():
    prior = posterior.load_prior("slp-north-atlantic")
    lat = prior.labels.coords["latitude"].values
    np.testing.assert_allclose(lat, np.arange(30, 70.1, 2.5))
    january, july = (prior.on(f"2009-{m}-15").affine.shift for m in ("01", "07"))
    # The Icelandic low of winter and the Azores high of summer.
    iceland = (0, int(np.argmin(abs(lat - 65))), 18)
    assert january[iceland] < july[iceland] - 5
    assert float(july.mean()) == pytest.approx(1015, abs=5)
    assert torch.as_tensor(prior.affine.scale).numel() == 1
