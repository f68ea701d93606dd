"""The page of calibration: its numbers are those of the trials, and nothing is drawn twice."""

import json

import pytest
import torch

import benchmarks.calibration as bench
from posterior.recipes.calibration import SAMPLERS, make_problem
from posterior.uncertainty import Trial, Trials


@pytest.fixture(scope="module")
def trials():
    on = make_problem("gaussian-field", 45)

    def draws(likelihood, count, seed):
        from posterior.exact import exact_posterior

        return exact_posterior(on.prior, likelihood).sample(count, seed)

    return on.run(draws, trials=45, draws=19)


def test_every_sampler_has_a_size_on_every_problem():
    for sizes in bench.SIZES.values():
        assert set(sizes) == set(SAMPLERS)
        assert sizes[bench.DEFAULT].draws >= 19 and all(s.trials >= 1 and s.draws >= 2 for s in sizes.values())


def test_a_row_says_what_the_trials_say(trials):
    row = bench.score("gaussian-field", trials, "GaussianBridge")
    assert row["trials"] == 45 and row["draws"] == 19
    inside = []
    for t in trials:
        low, high = t.draws.amin(0), t.draws.amax(0)
        inside.append(((t.truth >= low) & (t.truth <= high)).double().mean())
    assert row["coverage"][2] == pytest.approx(float(torch.stack(inside).mean()), abs=1e-9)
    assert row["coverage_band"][0][2] < row["coverage"][2] < row["coverage_band"][1][2]
    assert row["spread_skill"] == pytest.approx(1, abs=0.1)
    assert all(p > 0.001 for p in row["p_values"].values()) and len(row["p_values"]) == 4
    assert row["repair"]["pixels"]["trials"] == 27 and row["leave_one_out"]["pixels"]["trials"] == 45
    json.dumps(row["repair"], allow_nan=False)
    assert row["scales"] == pytest.approx([1, 1, 1, 1], abs=0.15)
    few = bench.score("gaussian-field", Trials(list(trials)[:3]), "GaussianBridge")
    assert "p_values" not in few and "repair" not in few and len(few["coverage"]) == 4


def test_waves_that_spread_too_little_are_told_from_others(trials):
    def narrower(trial):
        """Draws whose field mean, the longest wave, is half as uncertain."""
        means = trial.draws.mean((-2, -1), keepdim=True)
        return Trial(trial.truth, trial.draws - 0.5 * (means - means.mean(0)))

    before, after = bench.scales(trials), bench.scales(trials.map(narrower))
    assert after[0] < 0.9 * before[0] and after[1:] == pytest.approx(before[1:])


def test_the_page_shows_rows_reasons_and_what_is_missing(trials):
    row = bench.score("gaussian-field", trials, "GaussianBridge") | {"problem": "mri-4x", "nfe": 10.0, "vjps": 0.0}
    text = bench.page([row, {"problem": "mri-4x", "sampler": "DDRM", "reason": "TypeError: no"}])
    assert "| GaussianBridge | 45 x 19 |" in text and "DDRM could not run: `TypeError: no`" in text
    assert "Not run yet: MMPS," in text and "### Repair of GaussianBridge" in text and "exchangeable" in text
    assert "## Pressure" not in text and "diverged" not in text
    assert "for 24 pixels and more" in text and "for less than 6. Where long waves" in text
    wild = Trials([Trial(t.truth, torch.cat([t.draws[1:], 1e6 + t.draws[:1]]), cost=t.cost) for t in list(trials)[:2]])
    lost = bench.score("gaussian-field", wild, "FlowChef") | {"problem": "mri-4x", "nfe": 10.0, "vjps": 0.0}
    assert lost["crps"] < 2 * row["crps"] and "diverged" not in row  # the score alone does not tell
    assert "- FlowChef diverged at its default settings, in 2 of 2 trials." in bench.page([row, lost])
    few = row | {"sampler": "DPS", "trials": 2, "seconds_per_draw": 18.0}
    assert "- No p-values of DPS: fewer than 20 trials; 20 of each would take 1.9 hours." in bench.page([row, few])
    fast = row | {"gpu": "NVIDIA H100", "seconds_per_draw": 0.5}
    assert "| 0.5 (GPU) |" in bench.page([fast]) and "- Drawn on a GPU, NVIDIA H100: GaussianBridge." in bench.page([fast])
    assert max(len(line) for line in text.splitlines() if not line.startswith("|")) <= 200


def test_rows_of_an_earlier_training_are_named(trials):
    row = bench.score("gaussian-field", trials, "GaussianBridge") | {"problem": "mri-4x", "prior": bench.trained("mri-4x")}
    old = row | {"sampler": "MMPS", "prior": "0" * 10}
    assert "an earlier training" not in bench.page([row])
    assert "- Drawn with an earlier training of `brain-mri` than the others: MMPS." in bench.page([row, old])


def test_rows_of_an_earlier_test_are_marked(trials):
    row = bench.score("gaussian-field", trials, "GaussianBridge") | {"problem": "mri-4x"}
    shown = bench._p(row["p_values"]["pixels"])
    old = {k: v for k, v in row.items() if k != "exact_tests"} | {"sampler": "MMPS"}
    assert f"| {shown} |" in bench.page([row]) and "Hotelling" not in bench.page([row])
    text = bench.page([row, old])
    assert f"| {shown}* |" in text and "- *: of Hotelling's test" in text


def test_rows_of_other_runs_are_taken_over(trials, tmp_path):
    row = bench.score("gaussian-field", trials, "GaussianBridge") | {"problem": "mri-4x"}
    here, other = tmp_path / "here.json", tmp_path / "other.json"
    here.write_text(json.dumps([row, row | {"sampler": "MMPS", "crps": 1.0}]))
    other.write_text(json.dumps([row | {"crps": 2.0}]))
    bench.main(["--merge", str(other), "--results", str(here), "--page", str(tmp_path / "page.md")])
    assert {r["sampler"]: r["crps"] for r in json.loads(here.read_text())} == {"GaussianBridge": 2.0, "MMPS": 1.0}
    assert "| MMPS |" in (tmp_path / "page.md").read_text()


def test_figures_outlive_a_run_that_could_not_draw(trials, tmp_path, monkeypatch):
    def draw(*_, **__):
        raise RuntimeError("Found no NVIDIA driver on your system")

    monkeypatch.setattr(bench, "draw", draw)
    here = tmp_path / "here.json"
    row = bench.score("gaussian-field", trials, "GaussianBridge") | {"problem": "mri-4x"}
    here.write_text(json.dumps([row]))
    where = ["--folder", str(tmp_path), "--results", str(here), "--page", str(tmp_path / "page.md")]
    bench.main(["--problems", "mri-4x", "--samplers", "GaussianBridge", "MMPS", *where])
    found = {r["sampler"]: r for r in json.loads(here.read_text())}
    assert found["GaussianBridge"]["crps"] == row["crps"] and "NVIDIA" in found["MMPS"]["reason"]


def test_where_trials_were_drawn_is_kept_beside_them(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "gpu", lambda device: "NVIDIA H100" if device else "")
    size = bench.Size(2, 2)
    bench.draw("gaussian-field", "GaussianBridge", size, tmp_path, 1)
    row = bench.score("gaussian-field", Trials(folder=tmp_path), "GaussianBridge")
    assert row["machine"] == bench.machine() and "gpu" not in row
    bench.draw("gaussian-field", "GaussianBridge", size, tmp_path, 1, "cpu")  # nothing is left to draw
    assert bench.drawn_on(tmp_path) == [{"machine": bench.machine(), "gpu": "", "bfloat16": False}]
    bench.draw("gaussian-field", "GaussianBridge", bench.Size(3, 2), tmp_path, 1, "cpu")
    assert bench.score("gaussian-field", Trials(folder=tmp_path), "GaussianBridge")["gpu"] == "NVIDIA H100"
