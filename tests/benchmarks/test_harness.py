"""Rows on disk, statistics of comparisons, and the command line of the benchmarks."""

import math

import pytest

from benchmarks.__main__ import main
from benchmarks.harness.statistics import median_interval, paired
from benchmarks.harness.table import Layout, machine, revision, versions
from benchmarks.registry import BENCHMARKS


class TestRows:
    layout = Layout(("score",))

    def row(self, problem="0"):
        return self.layout.blank(("suite", "cell", problem, "method", "default"), 3) | {"score": "1.5"}

    def test_a_row_says_where_it_comes_from(self):
        row = self.row()
        assert row["machine"] == machine() and "cores" in machine()
        assert row["revision"] == revision() != ""
        assert row["versions"] == versions() and "posterior not installed" not in versions() and "torch" in versions()

    def test_files_without_the_later_columns_are_read(self, tmp_path):
        path = tmp_path / "rows.csv"
        self.layout.write(path, [self.row("10"), self.row("2")])
        assert [r["problem"] for r in self.layout.read(path)] == ["2", "10"]
        old = [",".join(line.split(",")[:-2]) for line in path.read_text().replace(f'"{machine()}"', "x").splitlines()]
        path.write_text("\n".join(old) + "\n")
        assert [r["problem"] for r in self.layout.read(path)] == ["2", "10"]
        assert all(r["machine"] == "" for r in self.layout.read(path))


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
        with pytest.raises(SystemExit):
            main(["run", "--quick", "--full"])
        assert "not allowed with" in capsys.readouterr().err

    def test_every_suite_of_the_issue_is_there(self):
        assert {"exact", "mri"} <= set(BENCHMARKS)
        for benchmark in BENCHMARKS.values():
            for suite in benchmark.suites:
                methods = benchmark.methods(None)
                assert any(benchmark.problems(m, suite, c) for m in methods for c in benchmark.cells(suite))
