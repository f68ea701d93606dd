"""Gridded priors: EOF references, climatologies, labels, and their way to disk and into draws."""

import datetime
import json

import numpy as np
import pytest
import torch
import xarray as xr
from deepinv.physics import Inpainting
from diffusers import UNet2DModel
from safetensors.torch import load_file, save_file

import posterior
from posterior.priors.analytic import GaussianPrior
from posterior.priors.base import Affine
from posterior.priors.climatology import Climatology
from posterior.priors.labels import Labels
from posterior.priors.network import NetworkPrior
from posterior.priors.parameterisations import GaussianResidual
from posterior.priors.reference import EOFReference

SHAPE = (2, 3, 4)
MASK = torch.ones(SHAPE, dtype=torch.bool)
MASK[:, 0, :2] = False
MASK[:, 2, 3] = False


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def draws_of_a_field(count=400, mask=MASK):
    mix = normal(24, 24, seed=5) * torch.linspace(1, 0.05, 24).double()
    return (normal(count, 24) @ mix.T).reshape(count, *SHAPE) * mask


class TestEOFReference:
    @pytest.mark.parametrize("mask", [None, MASK], ids=["all", "masked"])
    def test_full_rank_is_the_sample_covariance(self, mask):
        fields = draws_of_a_field(mask=MASK if mask is not None else torch.ones(()))
        reference = EOFReference.fit(fields, mask=mask)
        flat = fields.flatten(1)
        x = normal(5, *SHAPE, seed=2)
        got = reference.covariance(SHAPE).apply(x)
        torch.testing.assert_close(got.flatten(1), x.flatten(1) @ (flat.T @ flat / len(flat)), atol=1e-6, rtol=1e-6)

    @pytest.mark.parametrize("sigma", [0.1, torch.tensor([0.3, 2.0])], ids=["number", "(B,)"])
    def test_low_rank_denoises_as_the_dense_gaussian(self, sigma):
        fields = draws_of_a_field(mask=torch.ones(()))
        reference = EOFReference.fit(fields, 6)
        cov = reference.vectors @ torch.diag(reference.variances - reference.rest) @ reference.vectors.T
        dense = GaussianPrior(torch.zeros(SHAPE), cov + reference.rest * torch.eye(24, dtype=torch.float64))
        x = normal(2, *SHAPE, seed=3)
        torch.testing.assert_close(reference.denoise(x, sigma), dense.denoise(x, sigma), rtol=1e-8, atol=1e-8)
        variance = reference.covariance(SHAPE).mean_variance
        assert variance == pytest.approx(float(fields.square().mean()), rel=1e-9)

    def test_draws_have_its_covariance_and_are_zero_behind_the_mask(self):
        reference = EOFReference.fit(draws_of_a_field(), 5, mask=MASK)
        cov = reference.covariance(SHAPE)
        made = cov.sqrt(normal(40_000, *SHAPE, seed=4))
        assert (made[:, ~MASK] == 0).all()
        columns = cov.apply(torch.eye(24, dtype=torch.float64).reshape(24, *SHAPE)).flatten(1)
        torch.testing.assert_close(
            made.flatten(1).T @ made.flatten(1) / 40_000, columns, atol=0.06 * float(columns.max()), rtol=0
        )
        noised = cov.plus_white(0.25).sqrt(normal(4000, *SHAPE, seed=6))
        assert float(noised[:, ~MASK].std()) == pytest.approx(0.5, rel=0.05)

    def test_fewer_fields_than_points(self):
        reference = EOFReference.fit(draws_of_a_field(7), mask=MASK)
        assert reference.vectors.shape == (24, 7)
        assert reference.rest > 0
        assert torch.isfinite(reference.denoise(normal(1, *SHAPE), 0.01)).all()

    def test_shrinkage_keeps_the_variance(self):
        fields = draws_of_a_field(mask=torch.ones(()))
        plain, shrunk = (EOFReference.fit(fields, shrinkage=a).covariance(SHAPE) for a in (0.0, 0.2))
        assert shrunk.mean_variance == pytest.approx(plain.mean_variance, rel=1e-9)
        want = 0.8 * plain.eigenvalues + 0.2 * plain.mean_variance
        torch.testing.assert_close(shrunk.eigenvalues, want)

    @pytest.mark.parametrize("rank", [None, 4], ids=["full", "leading"])
    def test_localisation_keeps_variances_and_cuts_far_covariances(self, rank):
        shape = (1, 1, 40)
        fields = normal(30, *shape, seed=7)
        reference = EOFReference.fit(fields, rank, localisation=6.0)
        cov = reference.covariance(shape)
        dense = cov.apply(torch.eye(40, dtype=torch.float64).reshape(40, *shape)).flatten(1)
        sample = fields.flatten(1).T @ fields.flatten(1) / 30
        assert cov.mean_variance == pytest.approx(float(sample.diagonal().mean()), rel=1e-6)
        if rank is None:
            torch.testing.assert_close(dense.diagonal(), sample.diagonal(), rtol=1e-6, atol=1e-8)
            far = (torch.arange(40)[:, None] - torch.arange(40)).abs() >= 6
            assert dense[far].abs().max() < 1e-6
            # half way to the edge of the taper it is 5 / 24 (Gaspari and Cohn, equation 4.10 at z = c)
            torch.testing.assert_close(dense.diagonal(3), sample.diagonal(3) * 5 / 24, rtol=1e-4, atol=1e-6)
        else:
            full = EOFReference.fit(fields, None, localisation=6.0)
            torch.testing.assert_close(reference.variances, full.variances[:4], rtol=0.03, atol=0)

    def test_a_hybrid_covariance_mixes_the_localised_and_the_sample_one(self):
        shape = (1, 1, 40)
        fields = normal(60, *shape, seed=7)
        eye = torch.eye(40, dtype=torch.float64).reshape(40, *shape)
        local, mixed = (
            EOFReference.fit(fields, localisation=6.0, hybrid=h).covariance(shape).apply(eye).flatten(1) for h in (0.0, 0.3)
        )
        sample = fields.flatten(1).T @ fields.flatten(1) / 60
        torch.testing.assert_close(mixed, 0.7 * local + 0.3 * sample, rtol=1e-6, atol=1e-6)
        with pytest.raises(ValueError, match=r"hybrid is 1.0; wanted a share in \[0, 1\)"):
            EOFReference.fit(fields, localisation=6.0, hybrid=1.0)
        with pytest.raises(ValueError, match="a localisation beside it"):
            EOFReference.fit(fields, hybrid=0.3)

    @pytest.mark.parametrize("mask", [None, MASK], ids=["all points", "mask"])
    def test_leading_eofs_are_whole_and_only_the_others_localised(self, mask):
        """A wave as long as the field, and noise: localised, the wave keeps a part of its variance; leading, all of it."""
        there = torch.ones(SHAPE, dtype=torch.bool) if mask is None else mask
        wave = there * torch.linspace(1, 2, 4, dtype=torch.float64)
        fields = 3 * normal(50, 1, 1, 1, seed=7) * wave + there * normal(50, *SHAPE, seed=8)

        def dense(some, leading=0):
            cov = EOFReference.fit(some, mask=mask, localisation=3.0, hybrid=0.3, leading=leading).covariance(SHAPE)
            return cov.apply(torch.eye(24, dtype=torch.float64).reshape(24, *SHAPE)).flatten(1)

        flat = fields.flatten(1)
        sample = flat.T @ flat / 50
        values, vectors = (found.flip(-1) for found in torch.linalg.eigh(sample))
        assert vectors[:, 0] @ dense(fields) @ vectors[:, 0] < 0.75 * values[0]
        for k in (1, 4):
            v = vectors[:, :k]
            cov, whole = dense(fields, k), (v * values[:k]) @ v.T
            others = dense((flat - flat @ v @ v.T).reshape(fields.shape))
            torch.testing.assert_close(cov, whole + others, atol=1e-6, rtol=1e-6)
            torch.testing.assert_close(cov.diagonal(), sample.diagonal(), atol=1e-6, rtol=1e-6)
            assert torch.linalg.eigvalsh(v.T @ cov @ v - torch.diag(values[:k])).min() > -1e-6
            assert torch.linalg.eigvalsh(cov).min() > -1e-6

    @pytest.mark.parametrize("wrong", [-1, 9])
    def test_leading_eofs_are_fewer_than_there_are_and_beside_a_localisation(self, wrong):
        fields = draws_of_a_field(9)
        with pytest.raises(ValueError, match=f"leading is {wrong} for 9 fields of 18 points; wanted fewer"):
            EOFReference.fit(fields, mask=MASK, localisation=3.0, leading=wrong)
        with pytest.raises(ValueError, match="above 0 a localisation of the others"):
            EOFReference.fit(fields, leading=1)

    def test_is_for_one_shape(self):
        reference = EOFReference.fit(draws_of_a_field(), 3)
        with pytest.raises(ValueError, match=r"got shape \(2, 4, 3\), wanted \(2, 3, 4\)"):
            reference.covariance((2, 4, 3))

    def test_error_spectrum_is_interpolated_and_keeps_its_gain_outside(self):
        plain = EOFReference.fit(draws_of_a_field(), 4, mask=MASK)
        row = torch.cat([plain.variances, plain.variances.new_tensor([plain.rest])])
        sigmas = torch.tensor([0.1, 1.0], dtype=torch.float64)
        own = torch.stack([row * s**2 / (row + s**2) for s in sigmas])
        reference = EOFReference(plain.vectors, plain.variances, plain.rest, SHAPE, MASK, sigmas, 0.7 * own)
        for sigma in (0.01, 0.1, 1.0, 50.0):
            got = reference.error_covariance(SHAPE, sigma).eigenvalues
            torch.testing.assert_close(got, 0.7 * plain.covariance(SHAPE).given(sigma).eigenvalues, rtol=1e-9, atol=0)
        between = reference.error_covariance(SHAPE, 0.1**0.5).eigenvalues
        torch.testing.assert_close(between[:4], 0.7 * (own[0] * own[1]).sqrt()[:4])
        assert (between[-int((~MASK).sum()) :] == 0).all()

    def test_power_of_its_own_draws_is_its_spectrum(self):
        reference = EOFReference.fit(draws_of_a_field(), 4, mask=MASK)
        power = reference.power(reference.covariance(SHAPE).sqrt(normal(20_000, *SHAPE, seed=8)))
        want = torch.cat([reference.variances, reference.variances.new_tensor([reference.rest])])
        torch.testing.assert_close(power, want, rtol=0.06, atol=0)


class TestClimatology:
    times = np.arange("2001-01-01", "2005-01-01", dtype="datetime64[D]")

    def test_finds_the_harmonics_that_are_there(self):
        year = (self.times - self.times.astype("datetime64[Y]")) / np.timedelta64(1, "D")
        days = 365 + (np.arange(2001, 2005) % 4 == 0)
        u = torch.from_numpy(year / days[self.times.astype("datetime64[Y]").astype(int) - 31])
        fields = 3 + 2 * torch.cos(2 * torch.pi * u) - torch.sin(4 * torch.pi * u)
        found = Climatology.fit(fields[:, None].expand(-1, 2), self.times, 2)
        want = torch.tensor([3, 2, 0, 0, -1], dtype=torch.float64)[:, None].expand(-1, 2)
        torch.testing.assert_close(found.coefficients, want, atol=1e-9, rtol=0)
        torch.testing.assert_close(found.on(self.times), fields[:, None].expand(-1, 2), atol=1e-9, rtol=0)

    def test_goes_on_over_the_new_year(self):
        season = Climatology(normal(7, 1, 2), 3)
        before, after = season.on("2003-12-31T23:59:59"), season.on("2004-01-01")
        torch.testing.assert_close(before, after, atol=1e-5, rtol=0)

    def test_hours_of_the_day(self):
        coefficients = torch.tensor([280.0, 0, 0, -3, 1], dtype=torch.float64)[:, None]
        day = Climatology(coefficients, 1, 1)
        assert float(day.on("2019-03-28T12:00") - day.on("2019-03-28T00:00")) == pytest.approx(6, abs=1e-6)

    @pytest.mark.parametrize(
        "date", ["2005-08-26", np.datetime64("2005-08-26"), datetime.date(2005, 8, 26), datetime.datetime(2005, 8, 26)]
    )
    def test_takes_dates_of_every_make(self, date):
        season = Climatology(normal(3, 2), 1)
        torch.testing.assert_close(season.on(date), season.on("2005-08-26T00:00:00"), rtol=0, atol=0)

    @pytest.mark.parametrize("date", ["yesterday", "2005-13-01", None, 3.5, 20050826, "20050826", "NaT"])
    def test_refuses_what_is_no_date(self, date):
        with pytest.raises(ValueError, match="is no date; wanted one as 2005-08-26"):
            Climatology(normal(3, 2), 1).on(date)

    def test_refuses_a_time_zone(self):
        with pytest.raises(ValueError, match="time zone"):
            Climatology(normal(3, 2), 1).on(datetime.datetime(2005, 8, 26, tzinfo=datetime.UTC))

    def test_refuses_coefficients_that_do_not_fit(self):
        with pytest.raises(ValueError, match="4 coefficients for 1 harmonics of the year and 0 of the day; wanted 3"):
            Climatology(normal(4, 2), 1)


def make_labels(mask=MASK):
    lat = xr.DataArray([50.0, 52.5, 55.0], dims="lat", attrs={"units": "degrees_north", "standard_name": "latitude"})
    coords = {"component": np.array(["u", "v"]), "lat": lat, "lon": np.arange(4.0)}
    return Labels("current", ("component", "lat", "lon"), coords, {"long_name": "surface current"}, mask)


class TestLabels:
    def test_keep_coordinates_with_their_attributes(self):
        labels = make_labels()
        assert labels.coords["lat"].attrs["units"] == "degrees_north"
        array = labels.label(normal(2, *SHAPE), "m s-1", draw=("draw", [0, 1]))
        assert array.dims == ("draw", "component", "lat", "lon")
        assert array.attrs == {"long_name": "surface current", "units": "m s-1"}
        np.testing.assert_array_equal(np.isnan(array.values), np.broadcast_to(~MASK.numpy(), (2, *SHAPE)))

    def test_refuse_what_does_not_fit(self):
        with pytest.raises(ValueError, match="coordinate 'time' has shape"):
            Labels("t", ("y", "x"), {"time": np.arange(3)})
        with pytest.raises(ValueError, match="coordinate 'y' has 3 values; the axis has 4"):
            Labels("t", ("y", "x"), {"y": np.arange(3)}).check((4, 2))
        with pytest.raises(ValueError, match="mask"):
            Labels("t", ("y",), mask=torch.zeros(3, dtype=torch.bool))


@pytest.fixture(scope="module")
def prior():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = UNet2DModel(
            in_channels=4,
            out_channels=2,
            layers_per_block=1,
            block_out_channels=(8, 8),
            norm_num_groups=4,
            down_block_types=("DownBlock2D",) * 2,
            up_block_types=("UpBlock2D",) * 2,
            add_attention=False,
        )
    plain = EOFReference.fit(draws_of_a_field(), 5, mask=MASK)
    sigmas = torch.tensor([0.1, 1.0], dtype=torch.float64)
    row = torch.cat([plain.variances, plain.variances.new_tensor([plain.rest])])
    errors = torch.stack([row * s**2 / (row + s**2) for s in sigmas])
    reference = EOFReference(plain.vectors.float().double(), plain.variances, plain.rest, SHAPE, MASK, sigmas, errors)
    season = Climatology(normal(3, *SHAPE).float().double() * MASK, 1)
    return NetworkPrior(
        unet.requires_grad_(False),
        GaussianResidual(reference),
        SHAPE,
        affine=Affine(0.25, season.mean),
        units="m s-1",
        reference=reference,
        labels=make_labels(),
        climatology=season,
        multiple=2,
    )


class TestPrior:
    def test_is_zero_behind_the_mask_and_hears_nothing_from_there(self, prior):
        x = normal(2, *SHAPE)
        d = prior.denoise(x, 0.5)
        assert (d[:, ~MASK] == 0).all()
        torch.testing.assert_close(prior.denoise(x + 9 * ~MASK, 0.5), d, rtol=0, atol=0)

    def test_on_a_date_has_the_mean_of_that_day(self, prior):
        dated = prior.on("2005-08-26")
        torch.testing.assert_close(dated.affine.shift, prior.climatology.on("2005-08-26"))
        assert dated.affine.scale == prior.affine.scale
        assert dated.network is prior.network
        assert "date='2005-08-26" in repr(dated)
        torch.testing.assert_close(prior.affine.shift, prior.climatology.mean)
        assert prior.date is None

    def test_without_a_climatology_there_are_no_dates(self):
        with pytest.raises(ValueError, match="prior 'gaussian' has no climatology"):
            GaussianPrior(torch.zeros(3), torch.eye(3)).on("2005-08-26")

    def test_draws_come_back_labelled(self, prior, tmp_path):
        mask = torch.zeros(1, *SHAPE)
        mask[..., ::2] = 1
        physics = Inpainting(SHAPE, mask=mask[0])
        like = posterior.GaussianLikelihood(physics, mask * (prior.affine.shift + 0.1).float(), sigma=0.1)
        draws = posterior.sample(prior.on("2005-08-26"), like, posterior.DPS(steps=3), draws=2)
        assert (draws.name, draws.dims, draws.units) == ("current", ("component", "lat", "lon"), "m s-1")
        assert torch.isfinite(draws.samples).all()
        field = draws.to_datatree()["posterior"]["current"]
        assert field.coords["lat"].attrs["standard_name"] == "latitude"
        assert list(field.coords["component"].values) == ["u", "v"]
        np.testing.assert_array_equal(np.isnan(field.values[0, 0]), ~MASK.numpy())
        draws.save(tmp_path / "d.nc")
        again = posterior.load_draws(tmp_path / "d.nc")
        torch.testing.assert_close(again.samples, draws.samples * MASK, rtol=0, atol=0)
        torch.testing.assert_close(again.mask, MASK)
        speed = draws.map(lambda x: x.norm(dim=1), name="speed", dims=("lat", "lon"))
        assert list(speed.coords) == ["lat", "lon"]
        torch.testing.assert_close(speed.mask, MASK[0])


class TestOnDisk:
    def test_all_comes_back(self, prior, tmp_path):
        posterior.save_prior(prior, tmp_path)
        found = posterior.load_prior(tmp_path)
        x = normal(2, *SHAPE)
        torch.testing.assert_close(found.denoise(x, 0.5), prior.denoise(x, 0.5), rtol=1e-5, atol=1e-6)
        for sigma in (0.02, 0.5):
            got, want = (p.reference.error_covariance(SHAPE, sigma).apply(x) for p in (found, prior))
            torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(found.on("2003-05-01").affine.shift, prior.on("2003-05-01").affine.shift)
        torch.testing.assert_close(found.affine.shift, prior.affine.shift)
        assert (found.labels.name, found.labels.dims, found.labels.attrs) == (
            "current",
            ("component", "lat", "lon"),
            {"long_name": "surface current"},
        )
        for dim in prior.labels.dims:
            xr.testing.assert_identical(found.labels.coords[dim], prior.labels.coords[dim])
        torch.testing.assert_close(found.labels.mask, MASK)

    def test_a_dated_prior_is_not_saved(self, prior, tmp_path):
        with pytest.raises(ValueError, match="stands at 2005-08-26"):
            posterior.save_prior(prior.on("2005-08-26"), tmp_path / "p")
        assert not (tmp_path / "p").exists()

    @pytest.mark.parametrize(
        ("name", "change", "says"),
        [
            ("reference.vectors", None, "missing reference.vectors"),
            ("reference.vectors", lambda t: t[:, :2], r"reference.variances is \(6,\), wanted \(3,\)"),
            ("reference.vectors", lambda t: 2 * t, "not orthonormal"),
            ("reference.variances", lambda t: -t, "not orthonormal, or reference.variances not positive"),
            ("reference.errors", lambda t: t * torch.nan, "reference.errors has values that are not finite"),
            ("reference.errors", lambda t: t[:, 1:], r"reference.errors is \(2, 5\), wanted \(2, 6\)"),
            ("reference.sigmas", lambda t: t.flip(0), "rising noise levels"),
            ("affine.shift", lambda t: t[:, :2], r"affine.shift is \(2, 2, 4\)"),
            ("climatology.coefficients", lambda t: t[:2], "2 coefficients"),
            ("labels.mask", lambda t: t.float(), "labels.mask is not boolean"),
            ("labels.mask", lambda t: t[:1], r"labels.mask is \(1, 3, 4\), wanted \(2, 3, 4\)"),
            ("spare", lambda _: torch.zeros(2), "superfluous spare"),
        ],
    )
    def test_broken_tables_are_refused(self, prior, tmp_path, name, change, says):
        posterior.save_prior(prior, tmp_path)
        path = tmp_path / "tables.safetensors"
        tables = load_file(path)
        old = tables.pop(name, None)
        if change is not None:
            tables[name] = change(old).contiguous()
        save_file(tables, path)
        with pytest.raises(ValueError, match=says):
            posterior.load_prior(tmp_path)

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            ({"reference": {"kind": "magic"}}, "reference 'magic' is not known"),
            ({"climatology": {"yearly": 2, "daily": 0}}, "wanted 5"),
            ({"labels": {"name": "x", "dims": ["a"], "coords": {}, "attrs": {}}}, "axes"),
            (
                {
                    "labels": {
                        "name": "x",
                        "dims": ["a", "b", "c"],
                        "attrs": {},
                        "coords": {"a": {"values": [1, "b"], "attrs": {}}},
                    }
                },
                "list of numbers or of names",
            ),
            ({"event_shape": [2, -3, 4]}, "event_shape"),
            ({"event_shape": [2, 3]}, "event_shape"),
            ({"scale": -1.0}, "positive"),
        ],
    )
    def test_settings_that_lie_are_refused(self, prior, tmp_path, change, says):
        posterior.save_prior(prior, tmp_path)
        path = tmp_path / "posterior.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
        with pytest.raises(ValueError, match=says):
            posterior.load_prior(tmp_path)
