"""The comparison on fields: its scores, its peers and baselines, and its runs."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import posterior
from benchmarks.__main__ import main
from benchmarks.fields import tuning
from benchmarks.fields.benchmark import BENCHMARKS, LAYOUT
from benchmarks.fields.brains import brain_crop
from benchmarks.fields.cases import Case, Withheld
from benchmarks.fields.classical.gaussian import exact_gaussian
from benchmarks.fields.figures import panels
from benchmarks.fields.gridded import held_out
from benchmarks.fields.maps import FOLDER, maps_path, read_maps
from benchmarks.fields.methods import (
    AS_MANY,
    BUDGETS,
    CALLS,
    CHEAP,
    EQUAL,
    EQUAL_TUNED,
    GRIDS,
    MOST_TRIED,
    OURS,
    PEERS,
    chosen,
    listed,
    problems_of,
    run,
)
from benchmarks.fields.perceptual import perceptual_distance
from benchmarks.fields.report import DEFAULT, read_rows
from benchmarks.fields.scores import LEVELS, SCORES, Outcome, judged, require_convergence, scores
from benchmarks.fields.tuning import candidates
from benchmarks.harness.runner import Method
from benchmarks.peers.common import peer_problem
from benchmarks.peers.deepinv import decomposed
from benchmarks.registry import FIELDS_RESULTS
from operators import Inpainting
from posterior.priors.labels import Labels
from posterior.recipes.training.data import Fields
from tests.elsewhere import AWAY, elsewhere

SIDE = 12


@pytest.fixture(scope="module")
def case():
    """A Gaussian field seen at half of its pixels: the posterior is known."""
    g = torch.Generator().manual_seed(0)
    f = torch.fft.fftfreq(SIDE, dtype=torch.float64)
    spectrum = 4 / (1 + (10 * torch.hypot(f[:, None], f[None])) ** 2) ** 2
    prior = posterior.GaussianPrior(torch.full((1, SIDE, SIDE), 5.0).double(), spectrum, units="K")
    truth = 5 + prior.reference.cov.sqrt(torch.randn(1, 1, SIDE, SIDE, generator=g, dtype=torch.float64))
    operator = Inpainting.random((SIDE, SIDE), 0.5, seed=1)
    y = operator.A(truth)
    y = y + 0.1 * operator.mask * torch.randn(y.shape, generator=g, dtype=torch.float64)
    likelihood = posterior.GaussianLikelihood(operator, y, 0.1)
    return Case("test", "inpainting", 0, prior, likelihood, (1, SIDE, SIDE), 40, truth[0], "K")


@pytest.fixture(scope="module")
def exact(case):
    return posterior.exact_posterior(case.prior, case.likelihood)


def outcome(samples, **changes):
    return replace(Outcome(samples, False, 1, 0, 1.0, ""), **changes)


class TestScores:
    def test_exact_draws_are_calibrated(self, case, exact):
        """The truth is one draw of the posterior: averaged over draws in its place, all figures are what they should be."""
        found = []
        for i in range(12):
            draws = exact.sample(41, seed=i)
            found.append(scores(outcome(draws[1:]), replace(case, truth=draws[0])))
        mean = {k: sum(f[k] for f in found) / len(found) for k in SCORES}
        for level in LEVELS:
            assert mean[f"cov{level}"] == pytest.approx(level / 100, abs=0.035)
        assert mean["spread_skill"] == pytest.approx(1, abs=0.08)
        assert mean["chi2"] == pytest.approx(1, abs=0.25)
        assert mean["spectrum"] < 0.25 and 0 < mean["ause"] < 0.5
        # CRPS of a Gaussian about its own draws is std / sqrt(pi)
        assert mean["crps"] == pytest.approx(float(exact.std.mean()) / math.pi**0.5, rel=0.08)

    def test_a_point_estimate_is_given_no_uncertainty(self, case, exact):
        found = scores(outcome(exact.mean[None], point=True), case)
        for name in (*(f"cov{level}" for level in LEVELS), "spread_skill", "ause"):
            assert math.isnan(found[name])
        off = (exact.mean - case.truth).abs()
        assert found["crps"] == pytest.approx(float(off.mean()))
        assert found["psnr"] == pytest.approx(
            20 * math.log10(float(case.truth.max() - case.truth.min()) / float(off.square().mean().sqrt()))
        )

    def test_the_mean_of_all_draws_has_its_own_figure(self, case, exact):
        draws = exact.sample(40, seed=5)
        few, many = scores(outcome(draws[:8]), case), scores(outcome(draws), case)
        assert few["psnr"] == many["psnr"] == few["psnr_all"] < many["psnr_all"]

    def test_only_what_is_inside_counts(self, case, exact):
        inside = torch.zeros(1, SIDE, SIDE, dtype=torch.bool)
        inside[:, :, : SIDE // 2] = True
        draws = exact.sample(30, seed=3)
        spoilt = torch.where(inside, draws, 1e3)
        names = [n for n in SCORES if n not in ("chi2", "ssim") and not n.startswith("held")]
        a, b = (scores(outcome(x), replace(case, inside=inside)) for x in (draws, spoilt))
        assert [a[n] for n in names] == pytest.approx([b[n] for n in names], nan_ok=True)

    def test_a_draw_that_diverged_fails_the_problem(self, case, exact):
        """Fair scores do not see it, whatever its size; outside of what is judged, or without weight, it does no harm."""
        draws = exact.sample(40, seed=4)
        far = draws.clone()
        far[17] += 1e6
        good, bad = (scores(outcome(x), case) for x in (draws, far))
        assert bad["crps"] == pytest.approx(good["crps"], rel=0.2) and bad["energy"] == pytest.approx(good["energy"], rel=0.2)
        assert math.isnan(bad["spread_skill"]) and bad["psnr_all"] < -40  # its error is all variance / n
        for found, status in ((good, "ok"), (bad, "failed")):
            row = {k: "" if v != v else str(v) for k, v in found.items()} | {"status": "ok", "draws": "40", "point": ""}
            assert judged(row)["status"] == status and "diverged" in judged(row).get("reason", "diverged")
        require_convergence(outcome(draws), case)
        weights = torch.arange(40) != 17
        require_convergence(outcome(far, weights=weights.double() / 39), case)
        far[3, 0, 0, 0] = math.nan
        with pytest.raises(FloatingPointError, match="^2 of 40 draws diverged$"):
            require_convergence(outcome(far), case)
        with pytest.raises(FloatingPointError, match="^the point estimate diverged$"):
            require_convergence(outcome(far[17:18], point=True), case)
        held = Withheld(lambda x: x.flatten(1), case.truth.flatten(), 0.1)
        unknown = replace(case, truth=None, withheld=held)
        require_convergence(outcome(draws), unknown)
        with pytest.raises(FloatingPointError, match="^2 of 40 "):
            require_convergence(outcome(far), unknown)
        inside = torch.zeros(1, SIDE, SIDE, dtype=torch.bool)
        inside[:, 6:] = True
        require_convergence(outcome(torch.where(inside, draws, far)), replace(case, inside=inside))

    def test_few_draws_have_no_wide_intervals(self, case, exact):
        found = scores(outcome(exact.sample(10, seed=0)), case)
        assert math.isnan(found["cov90"]) and math.isnan(found["cov95"])
        assert 0 < found["cov50"] < 1 and 0 < found["cov80"] < 1

    def test_a_perceptual_distance_sees_what_people_see(self):
        pytest.importorskip("stlpips_pytorch")
        truth = brain_crop(1000, 48).double()
        noise = torch.randn(truth.shape, generator=torch.Generator().manual_seed(0)).double() * float(truth.max())
        same, some, much = (perceptual_distance(truth + share * noise, truth) for share in (0, 0.05, 0.3))
        assert same == pytest.approx(0, abs=1e-6) and 1e-4 < some < much
        # brightness and contrast of the scanner's units are no difference
        assert perceptual_distance(3 * (truth + 0.05 * noise) - 7, 3 * truth - 7) == pytest.approx(some, rel=1e-3)

    def test_without_its_package_there_is_no_perceptual_distance(self, monkeypatch):
        monkeypatch.setattr("benchmarks.fields.perceptual.find_spec", lambda name: None)
        assert math.isnan(perceptual_distance(torch.zeros(48, 48), torch.ones(48, 48)))

    def test_weights_count(self, case, exact):
        draws = torch.cat([exact.sample(30, seed=1), 50 + exact.sample(30, seed=2)])
        weights = torch.cat([torch.ones(30), torch.zeros(30)]).double() / 30
        some = scores(outcome(draws, weights=weights), case)
        alone = scores(outcome(draws[:30], mean=draws[:30].mean(0)), case)
        for name in ("psnr", "crps", "energy", "cov90", "spread_skill"):
            assert some[name] == pytest.approx(alone[name], abs=1e-6)


class TestMethods:
    def test_the_exact_gaussian_is_exact(self, case, exact):
        found = exact_gaussian(replace(case, draws=400))
        torch.testing.assert_close(found.mean, exact.mean.double(), atol=1e-3, rtol=0)
        assert float((found.samples.std(0) / exact.std).mean()) == pytest.approx(1, abs=0.02)

    @pytest.mark.filterwarnings("ignore::FutureWarning")  # of torch, as azula is imported
    @pytest.mark.parametrize("name", [f"{library} {kind}" for library, kinds in PEERS.items() for kind in kinds])
    def test_every_peer_runs_on_images(self, case, name):
        short = {"max_iter": 30} if "ULA" in name or name == "deepinv DiffPIR" else {"steps": 6}
        short = {"num_steps": 6} if name == "deepinv DPS" else {} if "DDRM" in name else short
        suite = replace(BENCHMARKS["mri"].suite, few_draws=4)
        a, b = (run(Method(name), replace(case, draws=4), suite, short) for _ in range(2))
        assert a.samples.shape == (4, 1, SIDE, SIDE) and a.nfe > 0 and not a.point
        assert torch.equal(a.samples, b.samples)

    # azula's MMPS takes a forward derivative, which tensors of `tests.elsewhere` do not have; generators are of real devices.
    @pytest.mark.filterwarnings("ignore")
    @pytest.mark.parametrize("name", [f"{lib} {kind}" for lib, kinds in PEERS.items() for kind in kinds if kind != "MMPS"])
    def test_peers_keep_to_their_device(self, case, name, monkeypatch):
        """All that they compute with lies there, the draws come back, and are those of the CPU."""
        monkeypatch.setattr("benchmarks.peers.deepinv.generator", lambda seed, device: None)
        short = {"max_iter": 5} if "ULA" in name or name == "deepinv DiffPIR" else {"steps": 3}
        short = {"num_steps": 3} if name == "deepinv DPS" else short
        suite, few = replace(BENCHMARKS["mri"].suite, few_draws=2), replace(case, draws=2)
        here = run(Method(name), few, suite, short)
        with elsewhere():
            there = run(Method(name), few, suite, short, AWAY)
        assert type(there.samples) is torch.Tensor and there.samples.device.type == "cpu"
        torch.testing.assert_close(there.samples, here.samples, rtol=1e-4, atol=1e-4 * float(here.samples.abs().max()))
        assert (there.nfe, there.vjps) == (here.nfe, here.vjps)

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
    @pytest.mark.filterwarnings("ignore::FutureWarning")  # of torch, as azula is imported
    @pytest.mark.parametrize(
        ("name", "short"), [(DEFAULT, {}), ("deepinv DPS", {"num_steps": 20}), ("azula MMPS", {"steps": 8})]
    )
    def test_on_a_gpu(self, name, short):
        benchmark = BENCHMARKS["blur"].on("cuda")
        case = benchmark.build("blur", "brain, motion blur", 0, quick=True, draws=4)
        a, b = (benchmark.measure(Method(name), case, short) for _ in range(2))
        assert (a["status"], a["device"]) == ("ok", torch.cuda.get_device_name()), a["reason"]
        assert float(a["seconds"]) > 0 and float(a["memory"]) > 0
        assert float(a["crps"]) == pytest.approx(float(b["crps"]), rel=1e-4)
        assert benchmark.measure(Method("Wiener"), case)["device"] == "cpu"

    def test_large_problems_are_put_to_peers_without_matrices(self, case, monkeypatch):
        """Norm, pseudo-inverse and singular system agree with those of the matrix."""
        peer = peer_problem(case, -3.0, 6.0)
        u = torch.randn(2, *case.event_shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        power, undo, (dense, y) = peer.power(), peer.pseudo_inverse(), decomposed(peer)
        monkeypatch.setattr("benchmarks.peers.common.LARGEST_MATRIX", 0)
        assert not peer.small
        assert peer.power() == pytest.approx(power)
        torch.testing.assert_close(peer.pseudo_inverse()(peer.forward(u)), undo(peer.forward(u)), rtol=0, atol=1e-4)
        free, data = decomposed(peer)
        torch.testing.assert_close(free.A_adjoint(free.A(u)), dense.A_adjoint(dense.A(u)))
        torch.testing.assert_close(free.A_adjoint(data), dense.A_adjoint(y))

    def test_a_network_is_asked_for_its_own_noise_levels(self, case):
        class Network(posterior.NetworkPrior):
            def __init__(self):
                self.asked, self.affine, self.sigma_min, self.sigma_max = [], posterior.priors.base.Affine(), 0.01, 20.0
                self.reference, self.rms, self.event_shape = None, 1.0, case.event_shape

            def denoise(self, x, sigma):
                self.asked.append((float(x.max()), float(sigma)))
                return x

        network = Network()
        peer = peer_problem(replace(case, prior=network), 0.0, 2.0)
        for level in (1e-6, 1.0, 50.0):
            peer.denoise(torch.ones(1, *case.event_shape).double(), level)
        assert network.asked == [(2.0, 0.01), (2.0, 2.0), (pytest.approx(0.4), 20.0)]

    def test_grids_name_every_peer(self):
        names = {f"{library} {kind}" for library, kinds in PEERS.items() for kind in kinds}
        grids = json.loads(GRIDS.read_text())
        assert set(grids) == names | {DEFAULT}
        assert max(len(candidates(grid)) for grid in grids.values()) <= MOST_TRIED
        assert set(BUDGETS) <= names | set(OURS) and set(CHEAP) <= names | set(OURS)
        assert set(AS_MANY) == names - {"deepinv ULA"}

    @pytest.mark.filterwarnings("ignore::FutureWarning")  # of torch, as azula is imported
    @pytest.mark.parametrize("name", list(AS_MANY))
    def test_no_peer_makes_more_calls_than_ours_when_they_are_to_be_equal(self, case, name):
        made = run(Method(name, EQUAL), replace(case, draws=4), replace(BENCHMARKS["mri"].suite, few_draws=4))
        assert 0.5 * CALLS <= made.nfe <= CALLS

    def test_a_line_tuned_at_equal_calls_was_tuned_and_found_something(self):
        suite = BENCHMARKS["mri"].suite
        assert problems_of(Method("azula MMPS", EQUAL_TUNED), suite, "4x") == suite.problems["4x"]
        assert problems_of(Method("azula PGDM", EQUAL_TUNED), suite, "8x") == 0  # not tuned there
        rows = [r for these in read_rows(FIELDS_RESULTS).values() for r in these if r["setting"] == EQUAL_TUNED]
        assert rows and all(chosen(r["suite"], r["cell"], f"{r['method']}, {EQUAL}") for r in rows)

    def test_methods_that_are_dear_on_a_cpu_have_as_many_problems_on_a_gpu(self, case):
        suite = BENCHMARKS["mri"].suite
        for cell, count in suite.problems.items():
            for method in (Method("deepinv DPS"), Method("azula TDS", EQUAL), Method("MMPS"), Method(DEFAULT, "4 steps")):
                assert problems_of(method, suite, cell, "cuda") == count >= problems_of(method, suite, cell)
        assert problems_of(Method("deepinv ULA", "tuned"), replace(suite, name="none"), "4x", "cuda") == 0  # never tuned

    @pytest.mark.parametrize("name", list(BENCHMARKS))
    def test_nobody_is_tuned_more_than_the_others(self, name):
        """Of ours the default sampler alone, and no baseline has a longer grid than a sampler may."""
        suite = BENCHMARKS[name].suite
        assert {m.name for m in listed(suite) if m.name in OURS and m.setting == "tuned"} == {DEFAULT}
        assert all(math.prod(map(len, c.grid.values())) <= MOST_TRIED for c in suite.classical.values())

    @pytest.mark.parametrize("name", list(BENCHMARKS))
    def test_a_baseline_called_tuned_was_tuned(self, name):
        rows = [r for r in read_rows(FIELDS_RESULTS).get(name, []) if r["setting"] == "tuned" and r["status"] == "ok"]
        assert rows and all(chosen(name, r["cell"], r["method"]) for r in rows)


class TestRun:
    def test_quick_rows_repeat_themselves_and_are_kept(self, tmp_path, monkeypatch, capsys, data_file):
        """The same seeds give every figure again; a second run computes nothing."""
        data_file("colin27")
        monkeypatch.setenv(FOLDER, "")
        short = ["run", "mri", "--quick", "--cells", "4x", "--workers", "1", "--silent", "--settings", "default"]
        short += ["--methods", "SENSE-CG", "exact Gaussian", DEFAULT]
        for name in ("a", "b"):
            main([*short, "--out", str(tmp_path / name)])
        a, b = (LAYOUT.read(tmp_path / name / "mri.csv") for name in ("a", "b"))
        assert [r["method"] for r in a] == [DEFAULT, "SENSE-CG", "exact Gaussian"]
        for x, y in zip(a, b, strict=True):
            assert x["status"] == "ok"
            assert {k: x[k] for k in SCORES} == {k: y[k] for k in SCORES}
        capsys.readouterr()
        main([*short, "--out", str(tmp_path / "a")])
        assert "mri: 0 rows computed" in capsys.readouterr().out
        page = (tmp_path / "a" / "results.md").read_text()
        assert f"| {DEFAULT} | 1 | 4 |" in page and "| SENSE-CG (point) | 1 |  |" in page

    def test_what_a_run_left_in_a_folder_is_taken_over(self, tmp_path, monkeypatch, data_file):
        data_file("colin27")
        main(
            ["run", "blur", "--cells", "brain, Gaussian blur", "--methods", "Wiener", "--problems", "1", "--workers", "1"]
            + ["--silent", "--no-pages", "--out", str(tmp_path / "there")]
        )
        home = {"results_path": lambda name: tmp_path / "here" / f"{name}.csv", "MAPS": tmp_path / "here" / "maps"}
        for name, value in {**home, "TUNED": tmp_path / "here" / "tuned.json"}.items():
            monkeypatch.setattr(f"benchmarks.__main__.{name}", value)
        tuning.merge(tmp_path / "there" / "tuned.json", {"blur": {"a cell": {"a method": {"chosen": {}}}}})
        main(["merge", str(tmp_path / "there"), "--no-pages"])
        assert [r["method"] for r in LAYOUT.read(tmp_path / "here" / "blur.csv")] == ["Wiener"]
        folder = maps_path(tmp_path / "here" / "maps", "blur", "brain, Gaussian blur")
        assert {p.name for p in folder.iterdir()} == {"truth.npz", "Wiener (tuned).npz"}
        assert "a method" in tuning.read(tmp_path / "here" / "tuned.json")["blur"]["a cell"]

    def test_a_search_is_kept_and_not_done_again(self, tmp_path, capsys):
        path = tmp_path / "tuned.json"
        wanted = list(tuning.searches("blur", ["Wiener"], ["brain, Gaussian blur"], None))
        assert [tuning.tune(wanted, path) for _ in range(2)] == [1, 0]
        entry = tuning.read(path)["blur"]["brain, Gaussian blur"]["Wiener"]
        scores = [one["crps"] for one in entry["log"]]
        assert len(scores) == 4 and entry["chosen"] == entry["log"][scores.index(min(scores))]["settings"]
        assert entry["chosen"] == chosen("blur", "brain, Gaussian blur", "Wiener")
        assert not list(tuning.searches("mri", ["azula MMPS"], ["whole, 4x"], None))  # too large to try settings on

    def test_settings_whose_draws_diverged_are_not_chosen(self, monkeypatch):
        """However good the score of such draws is; where all did, the default stays."""
        search = tuning.Search("blur", "brain, Gaussian blur", Method("azula MMPS", EQUAL_TUNED))
        case = BENCHMARKS["blur"].build("blur", "brain, Gaussian blur", 1000, quick=True, draws=6)
        monkeypatch.setattr(tuning, "_development", lambda *_: [case])
        for wild in ({"cg"}, {"cg", None}):

            def spoilt(method, case, suite, settings, device, wild=wild):
                near = settings.get("solver") == "cg"
                draws = case.truth + (0.001 if near else 0.01) * torch.arange(1, 7.0).reshape(-1, 1, 1, 1)
                draws[2] += 1e9 * (settings.get("solver") in wild)
                return outcome(draws)

            monkeypatch.setattr("benchmarks.fields.benchmark.run", spoilt)
            found = search._done()
            assert found["chosen"] == search.settings()[0] == {"steps": CALLS}
            assert [e.get("failed") for e in found["log"][1:]] == ["FloatingPointError: 1 of 6 draws diverged"] * 2

    def test_measured_k_space_is_judged_by_what_was_withheld(self, data_file):
        data_file("mri-cartesian-kspace")
        benchmark = BENCHMARKS["mri"]
        case = benchmark.build("mri", "real k-space", 0, quick=True)
        assert case.truth is None and case.withheld is not None
        found = scores(run(Method("SENSE-CG"), case, benchmark.suite), case)
        assert 0.5 < found["chi2"] < 1.5 < found["held_chi2"] < 100
        assert all(math.isnan(found[k]) for k in ("psnr", "psnr_all", "crps", "held_cov90"))

    def test_what_cannot_run_is_said(self, data_file):
        data_file("colin27")
        benchmark = BENCHMARKS["mri"]
        row = benchmark.measure(Method("TDS"), benchmark.build("mri", "4x", 0, quick=True, draws=2))
        assert row["status"] == "n/a" and "TDS" in row["reason"]

    def test_development_never_meets_the_comparison(self, data_file):
        data_file("colin27")
        assert not torch.equal(brain_crop(0, 24), brain_crop(1000, 24))
        assert torch.equal(brain_crop(1000, 24), brain_crop(1000, 24))

    def test_tuning_and_comparison_share_no_hour(self):
        """The first third of what the card holds out is for tuning, whatever periods it names."""
        hours = np.datetime64("2019-03-05T00") + np.r_[0:48, 300:372].astype("timedelta64[h]")
        values = torch.arange(len(hours)).double().reshape(-1, 1, 1, 1)
        fields = Fields(values[:0], values, hours[:0], hours, "K", None)
        tuning, shown = ([held_out(fields, first + i) for i in range(200)] for first in (1000, 0))
        assert max(t for t, _ in tuning) < min(t for t, _ in shown)
        assert len({t for t, _ in tuning}) == 40 and len({t for t, _ in shown}) == 80
        assert all(hours[int(x)] == t for t, x in (*tuning, *shown))

    def test_maps_are_kept_for_the_panels(self, case, exact, tmp_path, monkeypatch):
        from benchmarks.fields.maps import keep_maps

        monkeypatch.setenv(FOLDER, str(tmp_path))
        keep_maps(case, Method("GaussianBridge"), outcome(exact.sample(20, seed=0)))
        path = maps_path(tmp_path, "test", "inpainting")
        truth, ours = read_maps(path / "truth.npz"), read_maps(path / "GaussianBridge (default).npz")
        step = float(case.truth.max() - case.truth.min()) / 254
        assert abs(truth.image - case.truth[0].numpy()).max() <= step and truth.std is None
        assert abs(ours.std - exact.sample(20, seed=0).std(0)[0].numpy()).max() < 0.02
        h, w = truth.image.shape
        for south_first in (True, False):
            latitude = np.linspace(0, 1, h)[:: 1 if south_first else -1]
            labels = Labels("t", ("latitude", "longitude"), {"latitude": latitude, "longitude": np.arange(w)})
            figure = panels(path, "1", labels)
            assert figure is not None
            shown = next(ax for ax in figure.axes if ax.get_title() == "truth").images[0].get_array()
            np.testing.assert_array_equal(shown, truth.image[:: -1 if south_first else 1])
        assert panels(path, "1", None, {"GaussianBridge (default)"}) is None
