"""The report on fields, made from rows alone: who leads, by how much, and on which problems."""

import json

import posterior
from benchmarks.fields.benchmark import BENCHMARKS, LAYOUT
from benchmarks.fields.compare import (
    as_tuned,
    at_equal_calls,
    by_problem,
    claim_lines,
    coverage_lead,
    lead,
    mri_claim,
    score_of,
    speed,
    within_calls,
)
from benchmarks.fields.figures import accuracy
from benchmarks.fields.html import html_page
from benchmarks.fields.methods import EQUAL, chosen
from benchmarks.fields.report import DEFAULT, read_rows, results_page, table
from benchmarks.harness.runner import Method
from benchmarks.registry import BENCHMARKS as EVERY, DOCS, FIELDS_RESULTS, MAPS


def lines(method, setting, psnr, nfe=10.0, **more):
    """Rows of one method on problems 0, 1, ..."""
    blank = LAYOUT.blank(("mri", "4x", "0", method, setting), 20)
    figures = [{"psnr": str(v), "psnr_all": str(v + 0.5), "crps": str(1 / v), "nfe": str(nfe)} for v in psnr]
    return [blank | f | {"problem": str(i), "status": "ok"} | more for i, f in enumerate(figures)]


class TestCompare:
    """What the page says of rows that are made up."""

    rows = [
        *lines(DEFAULT, "default", (30.0, 31.0, 32.0), cov90="0.92"),
        *lines("L1-wavelet", "tuned", (27.4, 28.4, 29.4), 0, point="yes", psnr_all="", crps="1"),
        *lines("azula MMPS", "default", (35.0, 36.0, 37.0), 64),
        *lines("azula MMPS", EQUAL, (28.5, 29.5, 30.5)),
        *lines("deepinv DiffPIR", EQUAL, (20.0, 20.0, 20.0)),
        *lines("deepinv DPS", EQUAL, (29.5,), 10.5),
    ]

    def test_only_peers_with_as_many_calls_are_compared_at_equal_calls(self):
        assert within_calls(self.rows) == [("azula MMPS", EQUAL), ("deepinv DiffPIR", EQUAL)]
        table = at_equal_calls({"mri": self.rows})
        assert len(table) == 3 and table[2].startswith("| mri | 4x | 10 | 2 |")
        assert "31.00, 29.50 of azula MMPS, equal calls: leads by 1.5 dB (+1.5 to +1.5), 3 problems" in table[2]

    def test_ours_as_tuned_is_held_against_the_same_others(self):
        assert as_tuned({"mri": self.rows}) == []
        tuned = lines(DEFAULT, "tuned", (36.0, 37.0), 40, seconds="8")
        timed = [r | ({"seconds": "2"} if r["method"] == DEFAULT else {}) for r in self.rows]
        row = as_tuned({"mri": [*timed, *tuned]})[2]
        assert "36.50, 35.50 of azula MMPS: leads by 1.0 dB, 2 problems: too few to test" in row
        assert "| 4.0 |" in row and row.startswith("| mri | 4x |")

    def test_a_peer_is_not_judged_by_what_it_survived_alone(self):
        ours = lines(DEFAULT, "default", (30.0, 31.0, 32.0), cov90="0.92", crps="2")
        peer = lines("azula MMPS", "default", (35.0, 36.0, 37.0), 64, cov90="0.9", crps="1")
        broken = [*ours, peer[0], *(r | {"status": "failed"} for r in peer[1:])]
        assert lead(broken, "psnr", 2).endswith("1 problem (it failed on 2 more): too few to test")
        assert lead([*ours, *peer[:2]], "psnr", 2).endswith("2 problems: too few to test")
        assert coverage_lead(broken) == "0.020, 0.000 of azula MMPS: **loses**, 1 problem (it failed on 2 more)"

    def test_the_claim_of_mri_is_said_in_words_and_in_json(self):
        words, _, line = claim_lines(mri_claim(self.rows, "4x"))
        claim = json.loads(line.strip("`"))
        assert claim["over_l1"]["dB"] == 2.6 and claim["over_l1_all_draws"]["dB"] == 3.1
        assert (claim["best_peer_at_equal_calls"], claim["over_best_peer"]["dB"]) == ("azula MMPS, equal calls", 1.5)
        assert claim["met"] == {"over_l1": True, "over_best_peer": True, "coverage90": True}
        assert words.count(": met") == 3 and "missed" not in words
        worse = [r | {"psnr": "29.5", "psnr_all": "29.5", "cov90": "0.95"} if r["method"] == DEFAULT else r for r in self.rows]
        assert claim_lines(mri_claim(worse, "4x"))[0].count("**missed**") == 3
        assert mri_claim(self.rows, "8x") is None
        alone = mri_claim([r for r in self.rows if r["method"] in (DEFAULT, "L1-wavelet")], "4x")
        assert alone["over_best_peer"] is None and alone["met"]["over_best_peer"] is None
        assert "No peer was run with at most 10 network calls" in claim_lines(alone)[0]
        few = mri_claim([r for r in self.rows if r["problem"] == "0"], "4x")
        assert claim_lines(few)[0].count("met, too few to test") == 2

    def test_a_later_figure_is_shown_where_all_rows_have_it(self):
        suite, rows = BENCHMARKS["mri"].suite, lines(DEFAULT, "default", (30.0, 31.0, 32.0))
        assert "| 31.50 |" in table(rows, suite)[2]
        assert "| 31.50 |" not in table([*rows[:2], rows[2] | {"psnr_all": ""}], suite)[2]
        point = lines("L1-wavelet", "tuned", (27.0, 28.0, 29.0), 0, point="yes", psnr_all="")
        assert table([*rows, *point], suite)[2].count("28.00") == 2  # of a point estimate both are one

    def test_times_are_compared_on_one_device_only(self):
        """Accuracy counts wherever it was computed."""
        gpu = {"device": "A GPU", "draws": "20", "crps": "0.5"}
        ours = [r | {"draws": "20", "seconds": "4", "crps": "0.4"} for r in lines(DEFAULT, "default", (30.0, 31.0))]
        slow = [r | {"seconds": "60"} | gpu for r in lines("azula MMPS", "default", (29.0, 30.0), 64)]
        assert speed([*ours, *slow]) == ""
        assert "leads by 20 %" in lead([*ours, *slow], "crps", 4)
        there = [r | {"problem": f"1{r['problem']}", "seconds": "6", "device": "A GPU"} for r in ours]
        near = [r | {"problem": f"1{r['problem']}"} for r in slow]
        assert speed([*ours, *slow, *there, *near]) == "0.10 of that of azula MMPS, on A GPU"
        here = [r | {"device": "cpu", "seconds": "8"} for r in slow]
        words = "0.10 of that of azula MMPS, on A GPU; 0.50 of that of azula MMPS"
        assert speed([*ours, *there, *near, *here]) == words
        better = [r | {"crps": "0.3"} for r in near]
        assert speed([*ours, *there, *better]) == "not reached (azula MMPS), on A GPU"

    def test_the_curve_against_time_is_of_one_device(self):
        made = {"draws": "20", "seconds": "2"}
        gpu = [r | made | {"device": "A GPU"} for name in (DEFAULT, "azula MMPS") for r in lines(name, "default", (30.0, 31.0))]
        rows = [*gpu, *(r | made for r in lines("deepinv DiffPIR", "default", (29.0, 30.0)))]
        rows += [r | made for r in lines("Wiener", "default", (20.0, 21.0), 0)]
        axes = accuracy(rows, "1").axes
        assert [sum(len(line.get_xdata()) for line in ax.lines) for ax in axes[:2]] == [2, 3]
        assert axes[0].get_xlabel() == "seconds a draw, A GPU"

    def test_the_curve_against_time_is_of_the_device_and_the_problems_of_the_default(self):
        """Most peers ran on a GPU, where the default did not."""
        made = {"draws": "20", "seconds": "2"}
        ours = [*lines(DEFAULT, "default", (30.0, 31.0, 32.0)), *lines(DEFAULT, "2 steps", (30.0, 31.0), 2)]
        here = [*lines("azula MMPS", "default", (29.0, 31.0, 32.0)), *lines("azula TMPD", "default", (29.0, 30.0))]
        there = [r | {"device": "A GPU"} for k in ("DPS", "PGDM", "TDS") for r in lines(f"azula {k}", "default", (30.0,))]
        axes = accuracy([r | made for r in [*ours, *here, *there]], "1").axes
        assert axes[0].get_xlabel() == "seconds a draw, one thread"
        assert [ax.get_ylabel() for ax in axes] == ["CRPS (1), 2 problems", "CRPS (1), 1 problem"]
        drawn = {line.get_label(): len(line.get_xdata()) for line in axes[0].lines}
        assert drawn == {DEFAULT: 2, "azula MMPS": 1, "azula TMPD": 1}
        assert len(axes[1].lines) == 6

    def test_a_peer_that_ran_once_leaves_the_others_their_problems(self):
        made = {"draws": "20", "seconds": "2"}
        rows = lines(DEFAULT, "default", (30.0, 31.0, 32.0))
        rows += [r for k in ("DPS", "MMPS", "PGDM", "DiffPIR") for r in lines(f"azula {k}", "default", (30.0, 31.0, 32.0))]
        rows += lines("deepinv ULA", "default", (29.0,))
        axes = accuracy([r | made for r in rows], "1").axes[1]
        assert axes.get_ylabel() == "CRPS (1), 3 problems"
        drawn = {line.get_label() for line in axes.lines}
        assert drawn == {DEFAULT, "azula DPS", "azula MMPS", "azula PGDM", "azula DiffPIR"}

    def test_of_settings_with_as_many_calls_the_best_is_on_the_curve(self):
        made = {"draws": "20", "seconds": "2", "vjps": "0"}
        settings = [("default", 64, "0.2"), (EQUAL, 10, "0.4"), ("equal calls, tuned", 10, "0.3")]
        rows = [r | made | {"crps": c} for s, n, c in settings for r in lines("azula MMPS", s, (30.0, 31.0), n)]
        rows += [r | made for r in lines(DEFAULT, "default", (30.0, 31.0))]
        (curve,) = (line for line in accuracy(rows, "1").axes[1].lines if line.get_label() == "azula MMPS")
        assert curve.get_xydata().tolist() == [[10, 0.3], [64, 0.2]]

    def test_problems_on_which_a_method_failed_have_no_part(self):
        """Not in medians, comparisons and curves; the table counts them, and the page says why."""
        made, suite = {"draws": "20", "seconds": "2"}, BENCHMARKS["mri"].suite
        rows = [r | made for name in (DEFAULT, "azula MMPS", "azula DPS") for r in lines(name, "default", (30.0, 31.0, 32.0))]
        rows[3] |= {"status": "failed", "reason": "FloatingPointError: 3 of 20 draws diverged", "crps": "-4e10", "psnr": "-300"}
        page = results_page({"mri": rows})
        assert "| azula MMPS | 2, 1 failed | 20 |" in page and "e+10" not in page
        assert "- azula MMPS: failed on mri 4x: `FloatingPointError: 3 of 20 draws diverged`" in page
        assert by_problem(rows, "azula MMPS", "default", "crps").keys() == {"1", "2"}
        assert {line.get_label() for line in accuracy(rows, "1").axes[0].lines} == {DEFAULT, "azula DPS"}
        assert "| azula DPS | 3 | 20 |" in "\n".join(table(rows, suite))

    def test_one_method_alone_has_a_page(self):
        """Nobody to compare it with, and no table that is only a head."""
        for rows in (
            lines(DEFAULT, "default", (30.0, 31.0), seconds="1"),
            lines("azula MMPS", "default", (30.0,), status="failed"),
        ):
            text = results_page({"mri": rows})
            assert f"Nobody: there are no figures to hold those of `{DEFAULT}` against." in text
            assert html_page(text, {"mri": rows}, None).startswith("<!doctype html>")

    def test_the_table_says_where_a_line_was_computed(self):
        suite, ours = BENCHMARKS["mri"].suite, lines(DEFAULT, "default", (30.0, 31.0), seconds="4.0")
        assert " on |" not in table(ours, suite)[0]
        peers = lines("azula MMPS", "default", (29.0, 30.0), seconds="3.0", device="A GPU")
        mixed = [ours[0], ours[1] | {"device": "A GPU"}]
        head, _, first, second, *_, words = table([*mixed, *peers], suite)
        assert head.endswith("| s | on |") and words == "GPU: A GPU."
        assert first.endswith("|  | CPU, GPU |") and second.endswith("| 3.0 | GPU |")

    def test_without_a_truth_withheld_data_decide(self):
        rows = [r | {"crps": "", "psnr": "", "psnr_all": "", "held_chi2": r["crps"]} for r in self.rows]
        assert score_of(rows) == "held_chi2" and score_of(self.rows) == "crps"
        assert mri_claim(rows, "4x") is None
        assert lead(rows, "held_chi2", 4) == "0.0323, 0.0278 of azula MMPS: **loses** by 16 % (+15 to +17), 3 problems"
        assert lead(rows, "psnr", 2) == ""


def test_the_page_is_what_the_results_say():
    """Regenerated from the committed rows and compared with the committed page."""
    rows = read_rows(FIELDS_RESULTS)
    assert rows and set(rows) <= set(EVERY)
    assert (DOCS / "results-benchmarks.md").read_text() == results_page(rows)


def test_problems_for_tuning_are_on_no_page(tmp_path):
    """Rows of `run --first 1000` lie in the results file as others do."""
    row = LAYOUT.blank(("mri", "4x", "3", "GaussianBridge", "default"), 20) | {"status": "ok"}
    LAYOUT.write(tmp_path / "mri.csv", [row, row | {"problem": "1000"}])
    assert [r["problem"] for r in read_rows(tmp_path)["mri"]] == ["3"]


def test_the_html_needs_no_other_file():
    rows = read_rows(FIELDS_RESULTS)
    name = next(iter(rows))
    some = {name: rows[name]}
    page = html_page(results_page(some), some, MAPS)
    assert page.count("<table>") >= 3 and "<img" in page
    assert "src=" not in page.replace('src="data:image/png;base64,', "") and "<link" not in page and "<script" not in page


def test_a_row_with_settings_of_before_is_out_of_date():
    benchmark = BENCHMARKS["mri"]
    method = Method("L1-wavelet", "tuned")
    now = chosen("mri", "4x", "L1-wavelet")
    row = LAYOUT.blank(("mri", "4x", "0", method.name, method.setting), 1) | {"status": "ok", "settings": json.dumps(now)}
    row["revision"] = benchmark.revision(method, "mri", "4x")
    assert not benchmark.stale(row)
    assert benchmark.stale(row | {"settings": json.dumps({"weight": 7.0})})


def test_so_is_a_row_of_our_own_tuned_sampler():
    benchmark = BENCHMARKS["weather"]
    method = Method("GaussianBridge", "tuned")
    now = posterior.GaussianBridge(**chosen("weather", "pressure", "GaussianBridge"))
    row = LAYOUT.blank(("weather", "pressure", "0", method.name, method.setting), 1) | {"status": "ok", "settings": repr(now)}
    row["revision"] = benchmark.revision(method, "weather", "pressure")
    assert not benchmark.stale(row)
    assert benchmark.stale(row | {"settings": repr(posterior.GaussianBridge(7))})
