"""The comparison with exact posteriors: its metrics, its peers, and a run that is stopped and resumed."""

import json
from dataclasses import replace

import pytest
import torch

import posterior
from benchmarks.__main__ import main
from benchmarks.exact.benchmark import BENCHMARKS, LAYOUT
from benchmarks.exact.limits import limits_table
from benchmarks.exact.methods import GRIDS, LIBRARIES, OURS, TUNED, methods, run, settings_of
from benchmarks.exact.report import choice_tables, lacking, over_cells, results_page, write_pages
from benchmarks.exact.scores import SCORES, Yardstick, scores
from benchmarks.exact.suites import FRESH, SUITES, build_case
from benchmarks.exact.tuning import candidates
from benchmarks.harness.markdown import fill
from benchmarks.harness.runner import Method, Plan
from benchmarks.metrics import coverage
from benchmarks.peers.common import peer_problem
from benchmarks.problems.nonlinear import CELLS, nonlinear
from benchmarks.registry import DOCS, results_path
from posterior.exact import GaussianPosterior
from posterior.quantiles import weibull_quantiles


@pytest.fixture(scope="module")
def case():
    with torch.random.fork_rng(devices=[]):
        return build_case(SUITES["mixture"], "d 8, m 2", 0, draws=100)


def normal(n, seed=0):
    return torch.randn(n, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def unit_yardstick(n):
    return Yardstick.of(GaussianPosterior(torch.zeros(3).double(), torch.eye(3).double(), (3,), 0.0), n)


class TestScores:
    def test_an_exact_sample_scores_as_one(self):
        yardstick = unit_yardstick(1500)
        found = scores(yardstick.spare, None, yardstick, yardstick.floor)
        assert set(found) == set(SCORES)
        assert found["ratio"] == pytest.approx(1, abs=0.5)
        assert abs(found["bias2"]) < 4 * 2**0.5 / 1500
        assert found["std_ratio"] == pytest.approx(1, abs=0.04) and found["worst_std"] < 0.06
        assert found["coverage90"] == pytest.approx(0.9, abs=0.02)

    def test_shift_and_scale_are_read_off(self):
        yardstick = unit_yardstick(1500)
        found = scores(0.5 + 2 * normal(1500), None, yardstick, yardstick.floor)
        assert found["bias2"] == pytest.approx(0.25, abs=0.1)
        assert found["std_ratio"] == pytest.approx(2, rel=0.06) and found["std_error"] == pytest.approx(1, rel=0.1)
        assert found["sw2"] == pytest.approx((0.25 + 1) ** 0.5, rel=0.1)
        assert found["coverage90"] > 0.985

    def test_weights_count(self):
        yardstick = unit_yardstick(1500)
        x = torch.cat([normal(1500, 5), 3 + normal(1500, 6)])
        weights = torch.cat([torch.ones(1500), torch.zeros(1500)]).double() / 1500
        some, alone = (scores(*a, yardstick, yardstick.floor) for a in ((x, weights), (x[:1500], None)))
        for name in ("sw2", "bias2", "std_ratio", "coverage90"):
            assert some[name] == pytest.approx(alone[name], abs=1e-3)

    def test_small_samples_are_neither_sharp_nor_wide(self):
        target = normal(4000, seed=99)
        found = [coverage(normal(24, s), torch.full((24,), 1 / 24).double(), target) for s in range(60)]
        assert sum(found) / 60 == pytest.approx(0.9, abs=0.02)

    def test_draws_without_weight_are_no_ends_of_intervals(self):
        x, weights = normal(40, 1), torch.ones(41).double()
        weights[x[:, 0].argmin()], weights[40] = 5, 0
        far, target = torch.cat([x, torch.full((1, 3), -1e6).double()]), normal(4000, seed=98)
        assert coverage(far, weights / 44, target) == coverage(x, weights[:40] / 44, target)

    def test_quantiles_stand_at_weibull_positions(self):
        x = torch.arange(1.0, 10.0).double()[:, None]
        equal = torch.full((9,), 1 / 9).double()
        for q, wanted in ((0.1, 1.0), (0.5, 5.0), (0.9, 9.0), (0.25, 2.5)):
            assert float(weibull_quantiles(x.T.numpy(), (q,), equal.numpy())[0, 0]) == pytest.approx(wanted)


class TestPeers:
    def test_the_problem_is_ours_in_other_coordinates(self, case):
        peer = peer_problem(case.given, 3.0, 7.0, image=True)
        u = normal(5, 1).repeat(1, 3)[:, :8].reshape(5, 1, 1, 8)
        ours = case.given.likelihood.operator.A(peer.to_physical(u))
        y = case.given.likelihood.y
        torch.testing.assert_close((peer.y - peer.forward(u)) / peer.sigma, (y - ours) / case.given.likelihood.sigma)
        v = normal(5, 2)[:, :2]
        torch.testing.assert_close((peer.forward(u) * v).sum(1), (u * peer.adjoint(v)).sum((1, 2, 3)))
        wanted = case.given.prior.denoise(peer.to_physical(u), 0.1 * 7.0)
        leaf = u.clone().requires_grad_(True)
        found = peer.denoise(leaf, torch.tensor([0.1]))
        torch.testing.assert_close(peer.to_physical(found), wanted)
        torch.autograd.grad(found.sum(), leaf)
        assert (peer.counts.forward, peer.counts.vjps) == (5, 5)

    @pytest.mark.parametrize("name", [f"{library} {kind}" for library, kinds in LIBRARIES.items() for kind in kinds])
    def test_every_peer_runs_and_repeats_itself(self, case, name, monkeypatch):
        settings = {"deepinv DPS": {"num_steps": 30}}.get(name, {})
        a, b = (BENCHMARKS["exact"].measure(Method(name), case, settings) for _ in range(2))
        assert a["status"] == "ok", a["reason"]
        assert {k: v for k, v in a.items() if k != "seconds"} == {k: v for k, v in b.items() if k != "seconds"}
        assert float(a["nfe"]) > 0

    def test_what_a_peer_cannot_take_is_said(self):
        speed = build_case(SUITES["nonlinear"], "wind speed", 0, draws=10)
        assert BENCHMARKS["exact"].measure(Method("azula TMPD"), speed)["reason"] == "ValueError: wanted a linear operator"
        assert BENCHMARKS["exact"].measure(Method("azula MMPS"), speed)["status"] == "ok"
        counts = build_case(SUITES["nonlinear"], "counts", 0, draws=10)
        assert "wanted Gaussian noise" in BENCHMARKS["exact"].measure(Method("deepinv DDRM"), counts)["reason"]

    def test_grids_name_every_peer_and_hold_the_default(self):
        grids = json.loads(GRIDS.read_text())
        assert set(grids) == {f"{library} {kind}" for library, kinds in LIBRARIES.items() for kind in kinds}
        assert candidates({"a": [1, 2], "b": [3]}) == [{}, {"a": 1, "b": 3}, {"a": 2, "b": 3}]
        assert settings_of(Method("azula MMPS"), "mixture") == {}


class TestProblems:
    @pytest.mark.parametrize("cell", CELLS)
    def test_nonlinear_posteriors_know_the_truth(self, cell):
        """The truth is a draw of the posterior: its rank among draws is neither far out nor outside."""
        z = []
        for seed in range(6):
            p = nonlinear(cell, seed)
            exact = posterior.exact_posterior(p.prior, p.likelihood)
            z.append((p.truth[0] - exact.mean) / exact.std)
        z = torch.stack(z)
        assert 0.3 < float(z.square().mean()) < 2.2 and float(z.abs().max()) < 4.5

    def test_a_lost_sign_stays_lost(self):
        p = nonlinear("phase retrieval", 1)
        exact = posterior.exact_posterior(p.prior, p.likelihood)
        torch.testing.assert_close(exact.mean, torch.zeros(4).double(), rtol=0, atol=1e-9)


class TestRun:
    cells = ("--cells", "d 8, m 1", "wind speed")

    def test_quick_run_writes_rows_and_page_and_resumes(self, tmp_path, monkeypatch, capsys):
        out = tmp_path / "exact.csv"
        arguments = ["run", "mixture", "nonlinear", "--quick", "--draws", "16", "--workers", "1", "--silent"]
        arguments += ["--out", str(tmp_path), *self.cells]
        main([*arguments, "--methods", "GaussianBridge"])
        first = LAYOUT.read(out)
        assert {(r["cell"], r["method"]) for r in first} == {
            (c, m) for c in ("d 8, m 1", "wind speed") for m in ("exact draws", "GaussianBridge")
        }
        assert all(r["status"] == "ok" and r["draws"] == "16" for r in first)
        page = (tmp_path / "results-exact.md").read_text()
        assert "| GaussianBridge | " in page and "## Nonlinear" in page

        done = []
        monkeypatch.setattr("benchmarks.exact.benchmark.run", lambda m, c, s=None: done.append(m.name) or run(m, c, s))
        main([*arguments, "--methods", "GaussianBridge", "PiGDM"])
        assert done == ["PiGDM", "PiGDM"]
        assert "2 rows computed" in capsys.readouterr().out
        rows = LAYOUT.read(out)
        assert len(rows) == 6 and all(r in rows for r in first)
        main([*arguments, "--methods", "GaussianBridge", "PiGDM"])
        assert len(done) == 2

    def test_a_quick_run_leaves_out_the_dearest_cells(self):
        benchmark, methods = BENCHMARKS["exact"], (Method("GaussianBridge"),)

        def cells(quick, **about):
            jobs = Plan(benchmark, methods, benchmark.suites, quick=quick, problems=1, **about).jobs(set())
            return {(job.suite, job.cell) for job in jobs}

        left_out = cells(False) - cells(True)
        assert len(cells(True)) == 14 and {suite for suite, _ in left_out} == {"levy", "nonlinear"}
        assert cells(True, cells=("gauss, imputation",)) == {("levy", "gauss, imputation")}

    def test_same_seeds_same_figures(self, case):
        a, b = (BENCHMARKS["exact"].measure(Method("GaussianBridge"), case) for _ in range(2))
        assert {k: v for k, v in a.items() if k != "seconds"} == {k: v for k, v in b.items() if k != "seconds"}

    def test_a_method_that_fails_keeps_its_row(self, case, monkeypatch):
        def explode(*_):
            raise posterior.SamplingError("values are not finite\nand more")

        monkeypatch.setattr("benchmarks.exact.benchmark.run", explode)
        row = BENCHMARKS["exact"].measure(Method("MMPS"), case)
        assert (row["status"], row["reason"]) == ("failed", "SamplingError: values are not finite")
        assert "failed" in results_page([row]) and "values are not finite" in results_page([row])

    def test_what_ran_out_of_memory_has_not_failed(self, case, monkeypatch):
        """The row is left for a machine that has more."""
        monkeypatch.setattr("benchmarks.exact.benchmark.run", lambda *_: torch.empty(10**15))
        with pytest.raises(RuntimeError, match="DefaultCPUAllocator"):
            BENCHMARKS["exact"].measure(Method("MMPS"), case)

    def test_a_line_cut_short_is_computed_again(self, case, tmp_path):
        path = tmp_path / "rows.csv"
        LAYOUT.write(path, [BENCHMARKS["exact"].measure(Method("GaussianBridge"), case)])
        path.write_text(path.read_text() + "mixture,d 8,1,MM")
        assert len(LAYOUT.read(path)) == 1
        path.write_text("a,b\n1,2\n")
        with pytest.raises(ValueError, match="has columns"):
            LAYOUT.read(path)

    def test_names_are_checked(self, monkeypatch):
        assert {m.name for m in methods(["MMPS"])} == {"exact draws", "MMPS"}
        assert len(OURS) == 17
        with pytest.raises(ValueError, match="'Magic'.*are not known"):
            methods(["Magic"])
        monkeypatch.setattr("benchmarks.exact.methods.OURS", ("MMPS", "NotThere"))
        with pytest.raises(ValueError, match="'NotThere'.*are not in posterior"):
            methods(["NotThere"])


def test_marked_blocks_are_filled_and_prose_is_kept(case):
    rows = [BENCHMARKS["exact"].measure(Method(name), case) for name in ("exact draws", "GaussianBridge")]
    page = "Above.\n\n<!-- table errors -->\nold\n<!-- end -->\n\nBelow.\n\n<!-- table costs -->\n<!-- end -->\n"
    filled = fill(page, choice_tables(rows))
    assert filled.startswith("Above.\n") and "\n\nBelow.\n" in filled and "old" not in filled
    assert "| GaussianBridge | 10 / 0 / " in filled
    assert fill(filled, choice_tables(rows)) == filled
    with pytest.raises(ValueError, match="no block"):
        fill("nothing", {"errors": []})


def test_fresh_problems_stand_apart():
    def row(method, problem, sw2):
        key = ("mixture", "d 8, m 1", str(problem), method, "default")
        return LAYOUT.blank(key, 9) | {
            "status": "ok",
            "sw2": str(sw2),
            "ratio": str(sw2),
            "nfe": "64",
            "vjps": "9",
            "seconds": "1",
        }

    old = [row("MMPS", 0, 3.0), row("azula MMPS", 0, 1.0)]
    fresh = [row(m, FRESH + i, w) for m, two in (("MMPS", (1, 3)), ("azula MMPS", (2, 1.5))) for i, w in enumerate(two)]
    page = results_page(old + fresh)
    assert choice_tables(old + fresh) == choice_tables(old)
    before, after = page.split("## Fresh problems: mixture")
    assert "| MMPS | 3.00 | 1 |" in before and "| MMPS | 2.00 | 2 |" in after
    assert "| MMPS, azula MMPS | 1.00, 1 of 2 | 64, 64 | 9, 9 |" in after
    alone = results_page(old)
    assert alone.startswith(before.rstrip()) and "## Fresh problems" not in alone


class TestLimits:
    """What the page says of rows that are made up."""

    @staticmethod
    def rows(method, problems, setting="default", cell="d 8, m 1", **figures):
        suite = next(s.name for s in SUITES.values() if cell in s.cells)
        known = [LAYOUT.blank((suite, cell, str(p), method, setting), 9) | {"status": "ok"} for p in problems]
        return [row | {k: str(v[i]) for k, v in figures.items()} for i, row in enumerate(known)]

    def lines(self, rows):
        table = [[c.strip() for c in line.strip("| ").split(" | ")] for line in limits_table(rows)[2:]]
        return {line[0]: line[1:] for line in table}

    def test_means_are_held_to_limits_cell_by_cell(self):
        fine = self.rows("TDS", range(2), ratio=(1.0, 1.2), std_ratio=(1.01, 0.99), coverage90=(0.9, 0.94))
        found = self.lines(fine)
        assert found["mixture: TDS, W2 ratio"] == ["2", "1.10 +- 0.10", "yes (1 of 6 cells)"]
        assert found["mixture: TDS, W2 ratio, mean over cells"] == ["1.25", "1.10", "yes"]
        assert found["mixture: TDS, 90 % coverage off by"] == ["0.03", "0.020 +- 0.020", "yes (1 of 6 cells)"]
        off = self.rows("TDS", range(2), cell="d 8, m 2", ratio=(1.0, 3.2), std_ratio=(1.1, 1.1), coverage90=(0.86, 0.86))
        found = self.lines(fine + off)
        assert [found[f"mixture: TDS, {what}"][-1] for what in ("W2 ratio", "std off by", "90 % coverage off by")] == [
            "no (2 of 6 cells)"
        ] * 3

    def test_a_failure_is_no_figure_to_leave_out(self):
        rows = self.rows("FKFilter", range(2), ratio=(1.0, 1.0))
        rows[1] |= {"status": "failed", "ratio": ""}
        assert self.lines(rows)["mixture: FKFilter, W2 ratio"][-1].startswith("no")

    def test_peers_are_compared_on_common_problems(self):
        ours = self.rows("TDS", range(3), ratio=(1.0, 1.0, 9.0), std_ratio=[1] * 3, coverage90=[0.9] * 3)
        near = self.rows("azula TMPD", range(2), ratio=(0.9, 1.5))
        far = self.rows("deepinv DPS", range(1), setting="tuned", ratio=(4.0,))
        line = "mixture: TDS, W2 ratio over that of the nearest peer"
        assert self.lines(ours + far)[line][1:] == ["0.25 (deepinv DPS, tuned; nearer on 1 of 1)", "yes (1 of 6 cells)"]
        assert self.lines(ours + near + far)[line][1] == "0.83 (azula TMPD; nearer on 1 of 2)"
        fresh = self.rows("azula TMPD", [FRESH], ratio=(0.1,))
        assert self.lines(ours + near + fresh)[line][1] == "0.83 (azula TMPD; nearer on 1 of 2)"

    def test_bias_counts_in_posterior_standard_deviations(self):
        rows = self.rows("MMPS", range(1), cell="blur", bias2=(0.0036,), std_ratio=(0.98,))
        found = self.lines(rows)
        assert found["random field: MMPS, bias"] == ["0.05", "0.060", "no (1 of 4 cells)"]
        assert found["random field: MMPS, std off by"][-1] == "yes (1 of 4 cells)"


def test_the_page_names_what_was_not_run(monkeypatch):
    monkeypatch.setattr("benchmarks.exact.report.methods", lambda: [Method("TDS"), Method("MMPS"), Method("azula TDS")])
    done = {"status": "ok", "seconds": "1", "ratio": "1"}
    rows = [LAYOUT.blank(("nonlinear", c, "0", "TDS", "default"), 9) | done for c in CELLS]
    assert lacking(rows, SUITES["nonlinear"]) == ["MMPS", "azula TDS"]
    assert lacking(rows[:1], SUITES["nonlinear"]) == ["TDS (but in 1 of 4 cells)", "MMPS", "azula TDS"]
    assert "\nNot run: MMPS, azula TDS.\n" in results_page(rows)


def test_the_pages_are_those_of_the_rows():
    rows = LAYOUT.read(results_path("exact"))
    assert (DOCS / "results-exact.md").read_text() == results_page(rows)
    choosing = (DOCS / "choosing-a-sampler.md").read_text()
    assert choosing == fill(choosing, choice_tables(rows))


def test_methods_with_draws_of_their_own_have_jobs_of_their_own():
    benchmark = BENCHMARKS["exact"]
    plan = Plan(benchmark, (Method("exact draws"), Method("TDS"), Method("DDRM")), ("random field",), ("blur",))
    assert {(job.methods, job.draws) for job in plan.jobs(set())} == {
        ((Method("exact draws"), Method("TDS")), 1000),
        ((Method("DDRM"),), None),
    }
    assert [job.draws for job in replace(plan, quick=True).jobs(set())] == [None]
    assert [job.draws for job in replace(plan, draws=7).jobs(set())] == [7]


def test_a_run_may_start_at_any_problem(tmp_path):
    arguments = ["run", "mixture", "--first", "2003", "--problems", "2", "--draws", "8", "--methods", "GaussianBridge"]
    main([*arguments, "--cells", "d 8, m 1", "--workers", "1", "--silent", "--out", str(tmp_path)])
    assert {r["problem"] for r in LAYOUT.read(tmp_path / "exact.csv")} == {"2003", "2004"}


def test_peers_are_tuned_into_the_folder_asked_for(tmp_path, monkeypatch):
    """The repository's own choices are left, and what was chosen before is not chosen again."""
    before, tried = TUNED.read_text(), []
    monkeypatch.setattr("benchmarks.exact.tuning.build_case", lambda *_, **__: None)
    monkeypatch.setattr("benchmarks.exact.tuning.score", lambda method, *_: tried.append(method.name) or 1.0)
    counts = []
    for more in ([], [], ["--renew"]):
        main(["tune", "mixture", "--methods", "azula MMPS", "--out", str(tmp_path), *more])
        counts.append(len(tried))
    assert counts[0] > 1 and counts[1:] == [counts[0], 2 * counts[0]]
    assert TUNED.read_text() == before
    here = tmp_path / "here.json"
    monkeypatch.setattr("benchmarks.__main__.EXACT_TUNED_HERE", here)
    main(["merge", str(tmp_path), "--no-pages"])
    assert list(json.loads(here.read_text())["mixture"]) == ["azula MMPS"]


def test_problems_for_tuning_are_on_no_page(tmp_path):
    rows = [r for r in LAYOUT.read(results_path("exact")) if (r["cell"], r["method"]) == ("d 8, m 1", "TDS")]
    write_pages(rows, tmp_path / "without.md", None)
    write_pages([*rows, rows[0] | {"problem": "1000", "ratio": "100"}], tmp_path / "with.md", None)
    assert (tmp_path / "with.md").read_text() == (tmp_path / "without.md").read_text()


def test_cells_count_alike_however_many_problems_they_have():
    rows = [{"cell": "a", "ratio": "1"}, {"cell": "b", "ratio": "2"}, {"cell": "b", "ratio": "4"}, {"cell": "c", "ratio": ""}]
    assert over_cells(rows, "ratio") == 2
