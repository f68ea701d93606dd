"""``posterior train``: configurations, data of every make, and the prior that comes out."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from typer.testing import CliRunner

import posterior
from posterior.cli import app
from posterior.priors.climatology import Climatology
from posterior.priors.reference import EOFReference
from posterior.recipes.training import dataset_of, read_config, train_prior
from posterior.recipes.training.build import cross_fitted, measure, standardise
from posterior.recipes.training.config import DataConfig, MeanConfig, dataset_entry
from posterior.recipes.training.data import load_fields

TEXT = """
name = "waves"
summary = "waves on a small grid"
[data]
file = "waves.nc"
variables = ["u", "v"]
name = "current"
train = [["2001-01-01", "2001-02-20"]]
develop = [["2001-02-25", "2001-03-10"]]
[mean]
yearly = 1
[reference]
rank = 6
localisation = 4.0
[network]
channels = [8, 8]
groups = 4
[training]
steps = 6
batch = 4
checkpoint_every = 3
validate_every = 3
bfloat16 = false
"""


def waves(days=70, gap=False):
    times = np.datetime64("2001-01-01") + np.arange(days)
    rng = np.random.default_rng(0)
    phase = 0.3 * np.arange(days)[:, None, None] + 0.7 * np.arange(5)[:, None] + 0.5 * np.arange(6)
    values = {k: f(phase) + 0.1 * rng.standard_normal(phase.shape) for k, f in (("u", np.sin), ("v", np.cos))}
    for value in values.values():
        value[:, 0, :2] = np.nan
    if gap:
        values["u"][3, 3, 3] = np.nan
    coords = {
        "time": times,
        "lat": ("lat", np.linspace(50, 52, 5), {"units": "degrees_north", "standard_name": "latitude"}),
        "lon": ("lon", np.linspace(0, 5, 6), {"units": "degrees_east", "standard_name": "longitude"}),
    }
    attrs = {"units": "m s-1"}
    return xr.Dataset({k: (("time", "lat", "lon"), v, attrs) for k, v in values.items()}, coords)


def config_of(tmp_path, *changes, data=None):
    text = TEXT
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path = tmp_path / "config.toml"
    path.write_text(text)
    (waves() if data is None else data).to_netcdf(tmp_path / "waves.nc", engine="h5netcdf")
    return path


class TestConfig:
    @pytest.mark.parametrize(
        ("old", "new", "says"),
        [
            ("steps = 6", "steps = 6\nrate = 1", "unknown key training.rate; known: steps"),
            ("steps = 6", 'steps = "six"', "training.steps: 'six'; wanted a whole number"),
            ("steps = 6\n", "", "missing training.steps"),
            ('name = "waves"\n', "", "missing name"),
            *(
                ('name = "waves"', f'name = "{n}"', "name: .*; wanted the name of a folder")
                for n in ("../../evil", "..", "", "a/b")
            ),
            ("channels = [8, 8]", "channels = [8, 9]", "network.channels: 9 does not divide into 4 groups"),
            ("rank = 6", 'kind = "magic"', "reference.kind: 'magic'; wanted eof, radial or none"),
            ("rank = 6", 'kind = "none"', "'gaussian-residual' needs a reference"),
            ("rank = 6", "spread = 0.0", "reference.spread: 0.0; wanted a positive factor"),
            ("rank = 6", "leading = -1", "reference.leading: -1; wanted a number of EOFs"),
            ("localisation = 4.0", "leading = 2", "reference.leading: 2; wanted a number of EOFs of a reference with a local"),
            ("channels = [8, 8]", "channels = []", r"network.channels: \[\]; wanted one number of channels or more"),
            ("groups = 4", "groups = 0", "network.groups: 0; wanted 1 or more"),
            ("groups = 4", "groups = 4\nlayers = 0", "network.layers: 0; wanted 1 or more"),
            ("groups = 4", "groups = 4\ndropout = 1.0", r"network.dropout: 1.0; wanted a number in \[0, 1\)"),
            ("[8, 8]", "[8, 4]\nattention = true", "network.attention: takes 8 channels or more at the last level, got 4"),
            ('"v"]', '"u"]', "data.variables: u, u; wanted each of them once"),
            (
                "steps = 6",
                "steps = 6\nseed = 9223372036854775808",
                r"seed is 9223372036854775808; wanted a whole number below 2\^63",
            ),
            ("rank = 6", "rank = 0", "reference.rank: 0; wanted 1 or more"),
            ("rank = 6", "shrinkage = nan", r"reference.shrinkage: nan; wanted a number in \[0, 1\)"),
            ("rank = 6", "spread = inf", "reference.spread: inf; wanted a positive factor"),
            ("localisation = 4.0", "localisation = -4.0", "reference.localisation: -4.0; wanted a positive number of grid"),
            ("localisation = 4.0", "localisation = inf", "reference.localisation: inf; wanted a positive number of grid"),
            ("yearly = 1", "yearly = -1", "mean.yearly: -1; wanted 0 or more"),
            ("batch = 4", "batch = 0", "training.batch: 0; wanted 1 or more"),
            ("yearly = 1", "folds = 1", "mean.folds: 1; wanted 0, or 2 or more"),
            ('file = "waves.nc"', "", "wanted one of registry and file"),
            ('[["2001-01-01", "2001-02-20"]]', '[["2001-01-01"]]', r"data.train\[0\]: .*wanted a list of 2"),
            ("steps = 6", "steps = 6\nobjective = 'x'", "objective is 'x'"),
            ("develop = ", "# ", "no fields to validate on"),
            ("[mean]", "[mean", "config.toml: "),
        ],
    )
    def test_errors_name_the_key(self, tmp_path, old, new, says):
        with pytest.raises(ValueError, match=says):
            read_config(config_of(tmp_path, (old, new)))

    def test_missing_file(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="there is no such file; wanted a TOML file"):
            read_config(tmp_path / "none.toml")


class TestData:
    def load(self, path):
        return load_fields(read_config(path).data, path.parent)

    def test_netcdf_and_zarr_give_labelled_fields(self, tmp_path):
        path = config_of(tmp_path)
        fields = self.load(path)
        assert fields.train.shape == (51, 2, 5, 6)
        assert fields.develop.shape == (14, 2, 5, 6)
        assert (fields.times[0], fields.times[-1]) == (np.datetime64("2001-01-01"), np.datetime64("2001-02-20"))
        assert fields.labels.dims == ("channel", "latitude", "longitude")
        assert (fields.labels.name, fields.units) == ("current", "m s-1")
        assert not fields.labels.mask[:, 0, :2].any()
        assert int(fields.labels.mask.sum()) == 2 * 28
        waves().to_zarr(tmp_path / "waves.zarr", zarr_format=2, consolidated=False)
        path.write_text(TEXT.replace("waves.nc", "waves.zarr"))
        torch.testing.assert_close(self.load(path).train, fields.train, rtol=0, atol=0)

    def test_variables_on_staggered_grids_are_not_one_field(self, tmp_path):
        path = config_of(tmp_path)
        data = waves()
        for shift, name in ((1e-6, "rounded"), (0.5, "staggered")):
            there = data[["v"]].rename(lon="lon_v").assign_coords(lon_v=data["lon"].values + shift)
            there["lon_v"].attrs["units"] = "degrees_east"
            data.drop_vars("v").merge(there).to_netcdf(tmp_path / "waves.nc", engine="h5netcdf")
            if name == "rounded":
                assert self.load(path).train.shape == (51, 2, 5, 6)
        with pytest.raises(ValueError, match="'v' has other longitudes than 'u'; wanted the same grid"):
            self.load(path)

    def test_numpy(self, tmp_path):
        np.save(tmp_path / "a.npy", np.arange(120.0).reshape(20, 2, 3))
        path = config_of(tmp_path, ('"waves.nc"', '"a.npy"'), ('[["2001-01-01", "2001-02-20"]]', "[[0, 9], [12, 12]]"),
                         ('[["2001-02-25", "2001-03-10"]]', "[[15, 19]]"))  # fmt: skip
        fields = self.load(path)
        assert fields.train.shape == (11, 1, 2, 3)
        assert float(fields.train[-1, 0, 0, 0]) == 72
        assert fields.times is None

    @pytest.mark.parametrize("array", [np.array([None, "a"]), np.zeros((0, 2, 3)), np.zeros((4, 4), complex), None])
    def test_a_file_that_holds_no_fields(self, tmp_path, array):
        path = config_of(tmp_path, ('"waves.nc"', '"junk.npy"'))
        (tmp_path / "junk.npy").write_bytes(b"no array")
        if array is not None:
            np.save(tmp_path / "junk.npy", array, allow_pickle=True)
        with pytest.raises(ValueError, match=r"junk\.npy: .*; wanted fields \(N, H, W\) or \(N, C, H, W\)"):
            self.load(path)

    def test_addresses_of_stores_are_left_as_they_are(self, tmp_path, monkeypatch):
        from posterior.recipes.training import data

        asked = []
        monkeypatch.setattr(data, "open_fields", lambda path, *_, **__: asked.append(path) or 1 / 0)
        with pytest.raises(ZeroDivisionError):
            self.load(config_of(tmp_path, ('"waves.nc"', '"gs://bucket/waves.zarr"')))
        assert asked == ["gs://bucket/waves.zarr"]

    def test_axes_of_one_value_are_left_out(self, tmp_path):
        plain = self.load(config_of(tmp_path))
        data = waves().expand_dims(number=[0], level=[850.0])
        fields = self.load(config_of(tmp_path, data=data))
        torch.testing.assert_close(fields.train, plain.train, rtol=0, atol=0)
        assert fields.labels.dims == plain.labels.dims

    def test_times_of_another_calendar(self, tmp_path):
        days = ("time", np.arange(70.0), {"units": "days since 2001-01-01", "calendar": "360_day"})
        with pytest.raises(ValueError, match="calendar of its times is '360_day'; wanted the standard one"):
            self.load(config_of(tmp_path, data=waves().assign_coords(time=days)))

    @pytest.mark.parametrize(
        ("changes", "data", "says"),
        [
            ([("2001-02-25", "2001-02-20")], None, "has fields that are in data.train as well"),
            ([("2001-02-20", "2000-12-31"), ("2001-01-01", "2000-01-01")], None, "no field lies in it"),
            ([("2001-02-20", "soon")], None, "wanted two dates"),
            ([], waves().where(False), "all values of data.train are missing"),
            ([], waves(gap=True), "values are missing at some times only"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, tmp_path, changes, data, says):
        with pytest.raises(ValueError, match=says):
            self.load(config_of(tmp_path, *changes, data=data))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    config, seen = read_config(config_of(folder)), []
    out, command = folder / "out", "posterior train x.toml"
    prior = train_prior(config, out, folder / "run", folder=folder, command=command, report=seen.append)
    return folder, prior, seen


class TestPrior:
    def test_comes_back_from_disk_with_its_card(self, made):
        folder, prior, seen = made
        assert [s.step for s in seen] == [1, 2, 3, 4, 5, 6]
        assert [s.held_out is not None for s in seen] == [False, False, True] * 2
        found = posterior.load_prior(folder / "out")
        x = torch.randn(2, 2, 5, 6, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(found.denoise(x, 0.5), prior.denoise(x, 0.5), rtol=1e-2, atol=2e-3)
        assert found.on("2001-01-05").affine.shift.shape == (2, 5, 6)
        assert (found.units, found.labels.name) == ("m s-1", "current")
        assert found.card["commands"] == ["posterior train x.toml"]
        assert found.card["fields"] == {"train": 51, "develop": 14}
        page = (folder / "out" / "README.md").read_text()
        for text in ("# waves", "2001-02-25 to 2001-03-10 (14 fields)", "posterior train x.toml", "| sigma |"):
            assert text in page
        assert (folder / "out" / "curves.png").stat().st_size > 1000

    def test_error_spectrum_is_that_of_the_held_out_fields(self, made):
        _, prior, _ = made
        row = min(prior.card["held_out_rmse"], key=lambda r: abs(r["sigma"] - 1))
        n = prior.labels.mask.sum()
        measured = prior.reference.error_covariance((2, 5, 6), row["sigma"]).eigenvalues.sum() / n
        assert float(measured) ** 0.5 == pytest.approx(row["network"], rel=0.1)

    def test_a_finished_run_is_not_run_again_and_another_is_refused(self, made):
        folder, _, _ = made
        seen = []
        train_prior(read_config(folder / "config.toml"), folder / "again", folder / "run", folder=folder, report=seen.append)
        assert seen == []
        again, out = (json.loads((folder / n / "posterior.json").read_text()) for n in ("again", "out"))
        assert again["card"]["held_out_rmse"] == out["card"]["held_out_rmse"]
        (folder / "other.toml").write_text(TEXT.replace("batch = 4", "batch = 2"))
        with pytest.raises(ValueError, match="holds a run of other data or another network"):
            train_prior(read_config(folder / "other.toml"), folder / "o", folder / "run", folder=folder)

    def test_a_field_meets_the_gaussian_of_the_other_folds(self, tmp_path):
        """The residual that the network learns from is what the Gaussian of other weeks leaves of a field."""
        config = read_config(config_of(tmp_path, ("rank = 6", "rank = 6\nleading = 2\nfolds = 3")))
        fields = load_fields(config.data, tmp_path)
        data = standardise(fields, config.mean)
        batches, met = cross_fitted(config, fields, data)
        weeks = data.train.tensor_split(3)
        for step in range(6):
            rows = [int((data.train == x).flatten(1).all(1).nonzero()[0]) for x in batches(step)]
            assert {r // 17 for r in rows} == {step % 3}
            others = torch.cat([w for k, w in enumerate(weeks) if k != step % 3])
            wanted = EOFReference.fit(others, 6, mask=fields.labels.mask, localisation=4.0, leading=2)
            torch.testing.assert_close(met(step).reference.variances, wanted.variances)
        trained = train_prior(config, tmp_path / "out", tmp_path / "run", folder=tmp_path)
        assert trained.parameterisation.reference.variances.equal(trained.reference.variances)  # the whole again
        with pytest.raises(ValueError, match="folds: 1; wanted 0, or 2 or more"):
            read_config(config_of(tmp_path, ("rank = 6", "folds = 1")))

    @pytest.mark.parametrize("yearly", [0, 1])
    def test_training_fields_may_be_deviations_from_the_mean_of_the_other_folds(self, tmp_path, yearly):
        """Held-out fields are always deviations from the mean of all training fields, which is what the prior keeps."""
        fields = load_fields(read_config(config_of(tmp_path)).data, tmp_path)
        known, crossed = (standardise(fields, MeanConfig(yearly, folds=k)) for k in (0, 3))
        scale = crossed.affine.scale
        assert scale > known.affine.scale
        torch.testing.assert_close(crossed.affine.shift, known.affine.shift, rtol=0, atol=0)
        torch.testing.assert_close(scale * crossed.develop, known.affine.scale * known.develop)
        exists = crossed.train[:, fields.labels.mask]
        assert float(exists.square().mean()) == pytest.approx(1, rel=1e-5)
        for k, days in enumerate(np.array_split(np.arange(51), 3)):
            others = np.setdiff1d(np.arange(51), days)
            mean = fields.train[others].mean(0)
            if yearly:
                mean = Climatology.fit(fields.train[others], fields.times[others], yearly).on(fields.times[days])
            wanted = (fields.train[days] - mean) / scale
            torch.testing.assert_close(crossed.train[days], wanted.float(), msg=lambda m, k=k: f"fold {k}: {m}")
        with pytest.raises(ValueError, match="mean: 61 coefficients of harmonics for 51 training fields; wanted more"):
            standardise(fields, MeanConfig(yearly=30))
        with pytest.raises(ValueError, match="mean.folds: 60 folds of 51 fields"):
            standardise(fields, MeanConfig(folds=60))

    def test_goes_on_from_the_weights_of_another_as_a_flow(self, made, tmp_path):
        folder, prior, _ = made
        text = TEXT.replace('"waves.nc"', f'"{folder / "waves.nc"}"').replace("steps = 6", "steps = 1\nobjective = 'flow'")
        text = text.replace("groups = 4", "groups = 4\nparameterisation = 'gaussian-residual-flow'")
        text = text.replace("bfloat16 = false", f"bfloat16 = false\nlearning_rate = 1e-9\nstart = '{folder / 'out'}'")
        (tmp_path / "flow.toml").write_text(text)
        flow = train_prior(read_config(tmp_path / "flow.toml"), tmp_path / "out", tmp_path / "run", command="go on")
        assert flow.card["commands"] == [*prior.card["commands"], "go on"]
        x = torch.randn(2, 2, 5, 6, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(flow.denoise(x, 0.5), prior.denoise(x, 0.5), rtol=1e-2, atol=2e-3)
        assert posterior.load_prior(tmp_path / "out").parameterisation.kind == "gaussian-residual-flow"

    @pytest.mark.parametrize(
        ("old", "new", "says"),
        [
            ("channels = [8, 8]", "channels = [8, 12]", r"has network.channels \[8, 8\]; this one has \[8, 12\]"),
            ("groups = 4", "groups = 2", "has network.groups 4; this one has 2"),
            ("groups = 4", "groups = 4\nlayers = 2", "has network.layers 1; this one has 2"),
            ("groups = 4", "groups = 4\nattention = true", "has network.attention False; this one has True"),
            ('variables = ["u", "v"]', 'variables = ["u"]', "has channels in 4; this one has 2"),
        ],
    )
    def test_weights_of_a_network_of_another_make(self, made, tmp_path, old, new, says):
        config = config_of(tmp_path, (old, new), ("steps = 6", f"steps = 1\nstart = '{made[0] / 'out'}'"))
        with pytest.raises(ValueError, match=f"training.start: the network of prior .* {says}"):
            train_prior(read_config(config), tmp_path / "out", tmp_path / "run", folder=tmp_path)


class TestCommand:
    def test_trains_and_says_what_it_wrote(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        config_of(tmp_path, ("steps = 6", "steps = 1"))
        result = CliRunner().invoke(app, ["train", "config.toml"])
        assert result.exit_code == 0, result.output
        assert "wrote priors/waves" in result.output
        assert (tmp_path / "runs" / "waves" / "curves.png").exists()

    def test_a_folder_of_something_else_is_not_overwritten(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        config_of(tmp_path, ("steps = 6", "steps = 1"))
        mine = tmp_path / "mine"
        mine.mkdir()
        (mine / "README.md").write_text("a page of mine")
        result = CliRunner().invoke(app, ["train", "config.toml", "--output", "mine"])
        assert result.exit_code == 2
        assert "mine is a folder of something else than a prior" in result.output
        assert [p.name for p in mine.iterdir()] == ["README.md"]
        assert (mine / "README.md").read_text() == "a page of mine"
        assert not (tmp_path / "runs").exists()

    def test_a_killed_run_and_a_finished_one_are_gone_on_from_in_their_folder(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        config_of(tmp_path, ("steps = 6", "steps = 1"))
        (tmp_path / "priors" / "waves" / "unet").mkdir(parents=True)
        for _ in range(2):
            result = CliRunner().invoke(app, ["train", "config.toml"])
            assert result.exit_code == 0, result.output

    def test_a_wrong_key_is_one_sentence(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        config_of(tmp_path, ("steps = 6", "stepz = 6"))
        result = CliRunner().invoke(app, ["train", "config.toml"])
        assert result.exit_code == 2
        assert "error: config.toml: unknown key training.stepz" in result.output


@pytest.mark.parametrize("name", ["slp-north-atlantic", "slp-north-atlantic-flow", "t2m-uk", "currents-agulhas"])
def test_cards_name_the_dataset_of_their_configuration(name):
    config = read_config(Path(__file__).parents[2] / "data" / "training" / f"{name}.toml")
    card = posterior.bundled_priors()[name]
    assert dataset_of(card) == config.data
    assert dataset_of({"dataset": dataset_entry(config.data)}) == config.data


def test_a_card_names_no_file_of_a_user():
    assert dataset_entry(DataConfig(train=(("2001", "2002"),), file="mine.nc")) is None
    assert dataset_of({"dataset": None}) is None
    assert dataset_of({}) is None
    with pytest.raises(ValueError, match="unknown key card.dataset.where"):
        dataset_of({"dataset": {"train": [], "where": "here"}})


def test_spread_widens_the_error_spectrum():
    prior = posterior.load_prior("t2m-uk")
    fields = torch.randn(3, *prior.event_shape, generator=torch.Generator().manual_seed(0))
    (plain, curve), (wide, same) = (measure(prior, fields, np.array([0.1, 1.0]), s) for s in (1.0, 1.5))
    torch.testing.assert_close(wide.errors, 2.25 * plain.errors)
    assert curve == same
