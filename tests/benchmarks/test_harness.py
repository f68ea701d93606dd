"""Rows on disk, statistics of comparisons, and the command line of the benchmarks."""

import math
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.__main__ import main
from benchmarks.fields import tuning
from benchmarks.fields.maps import _write
from benchmarks.harness import source
from benchmarks.harness.device import lacks
from benchmarks.harness.runner import Benchmark, Method, Plan, run_plan
from benchmarks.harness.statistics import median_interval, paired
from benchmarks.harness.table import Layout, machine, versions
from benchmarks.registry import BENCHMARKS


class TestRows:
    layout = Layout(("score",))

    def row(self, problem="0"):
        return self.layout.blank(("suite", "cell", problem, "method", "default"), 3) | {"score": "1.5"}

    def test_a_row_says_where_it_comes_from(self):
        row = self.row()
        assert row["machine"] == machine() and "cores" in machine()
        assert row["versions"] == versions() and "posterior not installed" not in versions() and "torch" in versions()

    def test_files_without_the_later_columns_are_read(self, tmp_path):
        path = tmp_path / "rows.csv"
        self.layout.write(path, [self.row("10"), self.row("2")])
        assert [r["problem"] for r in self.layout.read(path)] == ["2", "10"]
        old = [",".join(line.split(",")[:-3]) for line in path.read_text().replace(f'"{machine()}"', "x").splitlines()]
        path.write_text("\n".join(old) + "\n")
        assert [r["problem"] for r in self.layout.read(path)] == ["2", "10"]
        assert all((r["machine"], r["device"]) == ("", "cpu") for r in self.layout.read(path))

    def test_rows_of_another_machine_are_merged(self, tmp_path):
        """Figures take the place of others, never of nothing; and what a machine lacked says nothing."""
        path = tmp_path / "rows.csv"
        here = [self.row(i) | {"status": "ok"} for i in "012"] + [self.row("3") | {"status": "failed", "score": ""}]
        self.layout.write(path, here)
        gpu = {"device": "A GPU", "score": "2.5"}
        there = [self.row(i) | gpu | {"status": "ok"} for i in "034"]
        there += [self.row("1") | gpu | {"status": "failed"}, self.row("2") | gpu | {"status": "lacking"}]
        there += [self.row("5") | gpu | {"status": "lacking"}, self.row("6") | gpu | {"status": "n/a"}]
        assert self.layout.merge(path, there) == (2, 2)
        found = {r["problem"]: (r["device"], r["status"]) for r in self.layout.read(path)}
        kept, taken = ("cpu", "ok"), ("A GPU", "ok")
        assert found == {"0": taken, "1": kept, "2": kept, "3": taken, "4": taken, "6": ("A GPU", "n/a")}
        assert self.layout.merge(path, there) == (0, 0)

    def test_two_runs_at_once_keep_the_rows_of_both(self, tmp_path):
        """Each writes the whole file after every row, and must not bring back the file that it began with."""
        path = tmp_path / "rows.csv"
        runs = [subprocess.Popen([sys.executable, "-c", ADD, str(path), str(first)]) for first in (0, 100)]
        assert [run.wait(60) for run in runs] == [0, 0]
        assert {int(r["problem"]) for r in self.layout.read(path)} == {*range(40), *range(100, 140)}


class TestFiles:
    """Threads stand in for processes: the lock is of an open file, and theirs are two."""

    def test_methods_on_a_gpu_write_the_maps_of_one_truth(self, tmp_path):
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda _: _write(tmp_path / "truth.npz", torch.zeros(1, 32, 32), None, None), range(300)))
        assert [p.name for p in tmp_path.iterdir()] == ["truth.npz"]

    def test_searches_at_once_keep_the_choices_of_both(self, tmp_path):
        path = tmp_path / "tuned.json"
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda i: tuning.merge(path, {"mri": {"4x": {str(i): {"chosen": {}, "log": []}}}}), range(100)))
        assert len(tuning.read(path)["mri"]["4x"]) == 100


# A process that adds rows as a run of the benchmarks does.
ADD = """
import sys
from pathlib import Path
from benchmarks.harness.table import Layout
layout = Layout(("score",))
first = int(sys.argv[2])
for problem in range(first, first + 40):
    layout.add(Path(sys.argv[1]), layout.blank(("suite", "cell", str(problem), "method", "default"), 3))
"""


class TestSource:
    @pytest.fixture
    def tree(self, tmp_path):
        """A prior, of which a test may change a file."""
        (tmp_path / "unet").mkdir()
        (tmp_path / "unet" / "weights.safetensors").write_bytes(b"1")
        (tmp_path / "posterior.json").write_text('{"scale": 1, "card": {"summary": "a"}}')
        return tmp_path

    def test_a_card_is_no_weight(self, tree):
        weights = source.weights.__wrapped__
        before = weights(tree)
        (tree / "posterior.json").write_text('{"scale": 1, "card": {"summary": "b"}}')
        assert weights(tree) == before
        (tree / "posterior.json").write_text('{"scale": 2}')
        assert weights(tree) != before
        (tree / "posterior.json").write_text('{"scale": 1}')
        (tree / "unet" / "weights.safetensors").write_bytes(b"2")
        assert weights(tree) != before

    def test_tables_are_no_network(self, tree):
        network = source.network.__wrapped__
        before = network(tree)
        (tree / "tables.safetensors").write_bytes(b"1")
        (tree / "posterior.json").write_text('{"scale": 2}')
        assert network(tree) == before
        (tree / "unet" / "weights.safetensors").write_bytes(b"2")
        assert network(tree) != before

    def test_rows_that_are_out_of_date_are_computed_again_when_asked(self, tmp_path):
        benchmark, path = Counted(), tmp_path / "rows.csv"
        plan = Plan(benchmark, tuple(benchmark.methods()), benchmark.suites)
        assert run_plan(plan, path, workers=1, progress=False) == 2
        rows = benchmark.layout.read(path)
        assert not any(map(benchmark.stale, rows))
        rows[0]["revision"] = "of before"
        benchmark.layout.write(path, rows)
        assert [benchmark.stale(r) for r in rows] == [True, False]
        assert run_plan(plan, path, workers=1, progress=False) == 0
        assert run_plan(replace(plan, renew=True), path, workers=1, progress=False) == 1
        assert not any(map(benchmark.stale, benchmark.layout.read(path)))

    def test_a_killed_run_goes_on_with_what_is_missing(self, tmp_path):
        """Rows that were done are kept, a half-written line is no row, and nothing is computed twice."""
        path, measured = tmp_path / "rows.csv", []

        class Killed(Counted):
            def measure(self, method, case, settings=None):
                measured.append(case)
                if len(measured) == 2:
                    raise KeyboardInterrupt
                return super().measure(method, case, settings)

        benchmark = Killed()
        plan = Plan(benchmark, tuple(benchmark.methods()), benchmark.suites)
        with pytest.raises(KeyboardInterrupt):
            run_plan(plan, path, workers=1, progress=False)
        path.write_text(path.read_text() + "suite,cell,1,meth")
        assert run_plan(plan, path, workers=1, progress=False) == 1
        assert measured == [0, 1, 1]
        assert [r["score"] for r in benchmark.layout.read(path)] == ["0", "1"]

    def test_what_a_machine_lacks_is_said_and_tried_again(self, tmp_path):
        class Lacking(Counted):
            def measure(self, method, case, settings=None):
                raise ModuleNotFoundError("No module named 'sigpy'")

        path = tmp_path / "rows.csv"
        for benchmark, status in ((Lacking(), "lacking"), (Counted(), "")):
            plan = Plan(benchmark, tuple(benchmark.methods()), benchmark.suites)
            assert run_plan(plan, path, workers=1, progress=False) == 2
            assert [r["status"] for r in benchmark.layout.read(path)] == [status] * 2
        assert run_plan(plan, path, workers=1, progress=False) == 0

    def test_only_what_says_nothing_of_the_method_is_lacking(self):
        assert lacks(ImportError()) and lacks(torch.OutOfMemoryError()) and lacks(RuntimeError("CUBLAS_STATUS_ALLOC_FAILED"))
        for much in (lambda: torch.empty(10**15), lambda: np.empty(10**15)):  # memory of the machine itself
            with pytest.raises((RuntimeError, MemoryError)) as refused:
                much()
            assert lacks(refused.value)
        assert not lacks(RuntimeError("shapes differ")) and not lacks(FloatingPointError("3 of 4 draws are not finite"))

    def test_a_gpu_is_given_one_row_at_a_time(self):
        benchmark = Counted()
        two = (Method("method"), Method("method", "tuned"))
        assert [len(j.methods) for j in Plan(benchmark, two, benchmark.suites).jobs(set())] == [2, 2]
        benchmark.device = "cuda"
        assert [len(j.methods) for j in Plan(benchmark, two, benchmark.suites).jobs(set())] == [1, 1, 1, 1]


class Counted(Benchmark):
    """Two problems that cost nothing."""

    name, module, layout, suites = "counted", "", Layout(("score",)), ("suite",)

    def parts(self, method, suite, cell):
        return ("benchmarks.harness.statistics.paired",)

    def cells(self, suite):
        return ("cell",)

    def methods(self, names=None):
        return [Method("method")]

    def problems(self, method, suite, cell):
        return 2

    def build(self, suite, cell, problem, quick=False, draws=None):
        return problem

    def measure(self, method, case, settings=None):
        key = ("suite", "cell", str(case), method.name, method.setting)
        return self.layout.blank(key, 1, self.revision(method, *key[:2])) | {"score": str(case)}


class TestStatistics:
    def test_the_interval_holds_the_median(self):
        middle, low, high = median_interval([float(i) for i in range(21)])
        assert middle == 10 and 4 < low < 10 < high < 16
        assert median_interval([3.0, 1.0])[0] == 2 and math.isnan(median_interval([3.0, 1.0])[1])
        assert math.isnan(median_interval([math.nan])[0])

    def test_pairs_are_of_the_same_problems(self):
        ours = {str(i): 1.0 + 0.1 * i for i in range(8)}
        theirs = {k: v + 0.5 + 0.01 * int(k) for k, v in ours.items()} | {"9": 100.0}
        found = paired(ours, theirs)
        assert found.n == 8 and found.difference == pytest.approx(-0.535)
        assert found.high < 0 and found.p_value == pytest.approx(2 / 2**8)
        same = paired(ours, dict(ours))
        assert same.difference == 0 and same.p_value == 1
        assert math.isnan(paired({"0": 1.0}, {"0": 2.0}).p_value)


class TestCommand:
    def test_names_are_checked(self, capsys):
        with pytest.raises(ValueError, match="'Magic'"):
            main(["run", "mri", "--quick", "--methods", "Magic"])
        with pytest.raises(ValueError, match="exact runs on the CPU alone"):
            main(["run", "exact", "--quick", "--device", "cuda"])
        with pytest.raises(ValueError, match="device 'gpu' is not there"):
            main(["run", "mri", "--quick", "--device", "gpu"])
        with pytest.raises(SystemExit):
            main(["run", "--quick", "--full"])
        assert "not allowed with" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            ("run mri --quick --cells 4x 44x", "no cell is called 44x; there are 4x"),
            ("tune mri --settings tunned", "no setting is called tunned; there are"),
            ("run mri --draws 0", "--draws is 0; wanted at least 1"),
            ("run mri --first -2", "--first is -2; wanted at least 0"),
            ("merge nowhere", "no folder is called nowhere"),
        ],
    )
    def test_what_is_not_there_is_said(self, arguments, words, capsys):
        with pytest.raises(SystemExit):
            main(arguments.split())
        assert words in capsys.readouterr().err

    def test_a_method_of_another_suite_asks_nothing_of_this_one(self, tmp_path, monkeypatch):
        plans = []
        monkeypatch.setattr("benchmarks.__main__.run_plan", lambda plan, *_, **__: plans.append(plan) or 0)
        main(["run", "--methods", "L1-wavelet", "--no-pages", "--out", str(tmp_path)])
        assert {p.benchmark.name: {m.name for m in p.methods} for p in plans} == {
            **dict.fromkeys(BENCHMARKS, set()),
            "mri": {"L1-wavelet"},
        }

    def test_every_suite_of_the_issue_is_there(self):
        assert {"exact", "mri"} <= set(BENCHMARKS)
        for benchmark in BENCHMARKS.values():
            for suite in benchmark.suites:
                methods = benchmark.methods(None)
                assert any(benchmark.problems(m, suite, c) for m in methods for c in benchmark.cells(suite))
