"""Problems with a known truth, and the command that runs them."""

import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from posterior.cli import app
from posterior.draws import load_draws
from posterior.io.registry import fetch
from posterior.recipes.calibration import PROBLEMS, SAMPLERS, make_problem, make_sampler, yardstick
from posterior.recipes.calibration.problem import VALUES, Yardstick
from posterior.uncertainty import Trial, Trials, evidence, load_trials, save_trials


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def fetched(name):
    try:
        return fetch(name)
    except OSError as error:
        pytest.skip(str(error))


def run(*arguments):
    return CliRunner().invoke(app, ["calibrate", *map(str, arguments)])


class TestYardstick:
    def test_values_and_regions_are_those_inside(self):
        left = torch.zeros(6, 8, dtype=torch.bool)
        left[:, :4] = True
        trial = Trial(normal(1, 6, 8), normal(5, 1, 6, 8, seed=1))
        seen = Yardstick(lambda x: x[:, 0], lambda images: left)
        values = seen.values(trial)
        assert values.truth.shape == (48,)  # as many as the image has, so that all trials have as many
        assert set(values.truth.tolist()) == set(trial.truth[0, :, :4].flatten().tolist())
        regions = seen.region_means(trial)
        wanted = [
            trial.draws[:, 0, :3, :4].mean((1, 2)),
            torch.zeros(5),
            trial.draws[:, 0, 3:, :4].mean((1, 2)),
            torch.zeros(5),
        ]
        wanted = torch.stack([*wanted, trial.draws[:, 0, :, :4].mean((1, 2))], 1)
        torch.testing.assert_close(regions.draws, wanted.double())
        big = Trial(normal(1, 40, 40), normal(3, 1, 40, 40, seed=1))
        assert Yardstick(lambda x: x[:, 0]).values(big).truth.shape == (VALUES,)
        with pytest.raises(ValueError, match="nothing of a trial lies inside"):
            Yardstick(lambda x: x[:, 0], lambda images: ~left & left).values(trial)

    def test_repair_is_judged_by_trials_it_did_not_see(self):
        x = normal(120, 20, 1, 5, 6)
        trials = Trials(Trial(a[0], 0.6 * a[1:]) for a in x)
        found = Yardstick(lambda x: x[:, 0]).repair(trials, 80)
        for name in ("pixels", "region means"):
            repair, check = found[name]
            assert repair.trials == 80 and check.trials == 40 and repair.factor > 1.3
            assert check.before[0] < 0.8 and abs(check.after[0] - 0.91) < 0.04
            assert check.after[1] <= check.after[0] <= check.after[2]
            assert "on 40 other trials" in str(check)
        rcps, _ = Yardstick(lambda x: x[:, 0]).repair(trials, 80, delta=0.1)["pixels"]
        assert rcps.method == "RCPS" and rcps.factor > found["pixels"][0].factor


class TestProblems:
    def test_names(self):
        for name in PROBLEMS:
            assert yardstick(name).image_name
        with pytest.raises(ValueError, match="no problem called 'mri'; wanted one of gaussian-field, mri-4x"):
            make_problem("mri", 3)
        assert make_sampler("gaussianbridge", 3).steps == 3
        assert all(make_sampler(name).is_posterior for name in SAMPLERS)
        with pytest.raises(ValueError, match="no sampler of posteriors called 'REDDiff'"):
            make_sampler("REDDiff")

    def test_mri_crops_are_of_the_head_and_scans_know_their_noise(self):
        fetched("colin27")
        from posterior.recipes.calibration.mri import Scan, head, held_out_crops, magnitude

        x = held_out_crops(3, 48)
        assert x.shape == (3, 2, 48, 48) and torch.equal(x[:2], held_out_crops(2, 48))
        size = magnitude(x)
        assert [float(np.percentile(s, 99)) for s in size] == pytest.approx([1, 1, 1], rel=1e-5)
        assert head(size[:1]).float().mean() > 0.2
        like = Scan(4.0)(x[:1], torch.Generator().manual_seed(0))
        off = (like.y - like.operator.A(x[:1]))[:, :, :, like.operator.mask[0, 0].bool()]
        assert float(off.std()) == pytest.approx(0.02, rel=0.05)
        sampled = like.operator.mask[0, 0, 0]
        assert int(sampled.sum()) == 12

    def test_pressure_is_of_the_year_and_on_its_dates(self):
        fetched("ncep-slp-2001-2010")
        from posterior.recipes.calibration.pressure import OnDates, Reports, held_out_days
        from tests.recipes.pressure import LATITUDE, LONGITUDE, pressure_prior

        dates, fields = held_out_days(365)
        assert len(set(dates.astype("datetime64[D]"))) == 365 and set(dates.astype("datetime64[Y]").astype(str)) == {"2009"}
        assert fields.shape == (365, 1, 17, 33) and 900 < float(fields.min()) < float(fields.max()) < 1080
        assert not (np.diff(dates) > np.timedelta64(0, "s")).all()
        prior = pressure_prior()
        assert OnDates(prior, dates)(1).affine.shift.shape == prior.event_shape
        truth = torch.full((1, 1, len(LATITUDE), len(LONGITUDE)), 1000.0)
        made = [Reports(prior, 30, 1.0)(truth, torch.Generator().manual_seed(s)) for s in (0, 0, 1)]
        assert torch.equal(made[0].y, made[1].y) and made[0].y.shape == (1, 1, 30)
        assert 0.5 < float((made[0].y - 1000).std()) < 1.5
        with pytest.raises(ValueError, match="2009 has 365 days; got 366"):
            held_out_days(366)


class TestCommand:
    def test_draws_scores_repairs_and_goes_on(self, tmp_path):
        output = tmp_path / "out.nc"
        common = ("--problem", "gaussian-field", "--draws", 19, "--steps", 3, "--output", output)
        first = run(*common, "--trials", 20)
        assert first.exit_code == 0, first.output
        again = run(*common, "--trials", 40)
        assert again.exit_code == 2 and "go on with them with --resume" in again.output
        more = run(*common, "--trials", 40, "--resume", "--repair")
        assert more.exit_code == 0, more.output
        assert "40 trials" in more.output and "exchangeable" in more.output and "on 20 other trials" in more.output
        record = json.loads(output.with_suffix(".json").read_text())
        assert record["trials"] == 40 and record["passed"], more.output
        assert record["repair"]["pixels"]["method"] == "CRC" and record["repair"]["pixels"]["check"]["trials"] == 20
        assert record["findings"]["coverage of pixels"]["curve"]["at"] == [0.5, 0.8, 0.9, 0.95]
        assert output.with_suffix(".png").stat().st_size > 10_000
        trials, about = load_trials(output)
        assert len(trials) == 40 and about["problem"] == "gaussian-field" and evidence(output).passed()

        scored = run(output, "--output", tmp_path / "scored.nc")
        assert scored.exit_code == 0, scored.output
        fresh = json.loads((tmp_path / "scored.json").read_text())
        assert fresh["findings"] == record["findings"]

    def test_trials_of_others_are_scored(self, tmp_path):
        x = normal(30, 8, 3, 4)
        save_trials(Trials(Trial(a[0], 0.3 * a[1:] + 1) for a in x), tmp_path / "theirs.nc")
        found = run(tmp_path / "theirs.nc", "--output", tmp_path / "out.nc")
        assert found.exit_code == 0 and "NOT consistent with exact samples" in found.output

    def test_scoring_a_file_leaves_what_another_run_wrote(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        save_trials(Trials(Trial(a[0], a[1:]) for a in normal(30, 8, 3, 4)), tmp_path / "theirs.nc")
        former = [f"calibration.{end}" for end in ("nc", "json", "png")]
        for name in former:
            (tmp_path / name).write_bytes(b"former")
        found = run("theirs.nc")
        assert found.exit_code == 0, found.output
        assert all((tmp_path / name).read_bytes() == b"former" for name in former)
        assert {f"theirs-calibration.{end}" for end in ("nc", "json", "png")} <= {p.name for p in tmp_path.iterdir()}

    def test_what_does_not_fit_is_one_sentence(self, tmp_path):
        out = ("--output", tmp_path / "out.nc")
        for arguments, message in (
            (out, "say which problem with --problem"),
            (("--problem", "none", *out), "no problem called 'none'"),
            (("--problem", "gaussian-field", "--sampler", "x", *out), "no sampler of posteriors called 'x'"),
            (("--problem", "gaussian-field", "--prior", "brain-mri", *out), "wanted a GaussianPrior of fields"),
            (("--problem", "gaussian-field", "--repair", "--level", 90, *out), "--level is 90; wanted a number between"),
            ((tmp_path / "none.nc", *out), "there is no such file"),
        ):
            found = run(*arguments)
            assert found.exit_code == 2 and message in " ".join(found.output.split()), found.output
        assert not list(tmp_path.iterdir())
        (tmp_path / "out.json").mkdir()
        found = run("--problem", "gaussian-field", *out)
        assert (
            found.exit_code == 2
            and "out.json is a folder" in " ".join(found.output.split())
            and len(list(tmp_path.iterdir())) == 1
        )

    def test_trials_are_not_draws(self, tmp_path):
        save_trials(Trials(Trial(a[0], a[1:]) for a in normal(30, 8, 3, 4)), tmp_path / "trials.nc")
        with pytest.raises(ValueError, match="holds trials of a calibration.*wanted draws"):
            load_draws(tmp_path / "trials.nc")
        found = CliRunner().invoke(app, ["report", str(tmp_path / "trials.nc"), "--output", str(tmp_path / "a.html")])
        assert found.exit_code == 2 and "holds trials" in " ".join(found.output.split())
