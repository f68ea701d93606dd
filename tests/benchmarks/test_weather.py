from dataclasses import replace

import numpy as np
import pytest
import torch

import posterior
from benchmarks.harness.runner import Method
from benchmarks.weather.benchmark import BENCHMARKS, BRIDGE, ETKF, JACOBIAN, LAYOUT, LINEAR, METHODS, OI, chosen, measure
from benchmarks.weather.cases import DAYS, MONTHS, MORE_DAYS, TUNING_DAYS, Case
from benchmarks.weather.report import body, comparisons, overall
from posterior.recipes.weather import bridge, demo_problem
from tests.recipes.pressure import pressure_prior


def _row(method, cell, problem, crps, suite="days", count=561):
    row = LAYOUT.blank((suite, cell, str(problem), method.name, method.setting), 20)
    figures = {"count": count, "crps": crps, "coverage90": 0.9, "bias": 0.1, "squared_error": 4.0, "variance": 3.61}
    return row | {k: str(v) for k, v in {**figures, "nfe": 10, "vjps": 0, "seconds": 1}.items()} | {"status": "ok"}


def _rows():
    rng = np.random.default_rng(0)
    rows = []
    for cell in MONTHS:
        for problem in range(2):
            hard = 1 + rng.uniform()
            share = {BRIDGE: 0.9, JACOBIAN: 0.85, ETKF: 1.1}
            rows += [_row(m, cell, problem, hard * share.get(m.name, 1.0)) for m in METHODS]
    return rows


def test_comparisons_are_paired_by_day():
    lines = comparisons(_rows())
    against_oi = next(line for line in lines if line.startswith(f"| {BRIDGE}, 10 calls | {OI} "))
    assert "-10.0 % | -10.0 to -10.0 %" in against_oi and "24 of 24" in against_oi
    against_etkf = next(line for line in lines if line.startswith(f"| {BRIDGE}, 40 calls | {ETKF} "))
    assert f"{100 * (0.9 / 1.1 - 1):+.1f} %" in against_etkf


def test_the_levels_of_the_package_are_those_of_the_benchmark():
    sampler, settings = bridge(pressure_prior()), chosen()[BRIDGE]
    rms = pressure_prior().rms
    assert sampler.sigma_max == pytest.approx(settings["sigma_max"] * rms)
    assert sampler.sigma_min == pytest.approx(settings["sigma_min"] * rms)


def test_averages_count_values():
    method = METHODS[1]
    rows = [_row(method, "h", 0, 1.0, "hour", 10), _row(method, "h", 1, 2.0, "hour", 30)]
    line = overall(rows)[-1].split(" | ")
    assert line[1:5] == ["2", "1.750", "90.0", "0.950"]


def test_the_page_has_a_section_for_each_suite():
    rows = _rows()
    assert not any("real hour" in line for line in body(rows))
    rows += [_row(m, "h", k, 0.5, "hour", 16) for m in METHODS for k in range(5)]
    assert "## Twice as many other days" not in "\n".join(body(rows))
    rows += [row | {"suite": "more days"} for row in _rows()]
    text = "\n".join(body(rows))
    assert text.count("24 days |") == 12 and "23, 25 and 28 of every month" in text
    assert "## By month" in text and "80 stations" in text and "Settings chosen" in text


def test_suites_share_no_day():
    """Nor do they have one on which settings were chosen."""
    assert len({*DAYS, *MORE_DAYS, *TUNING_DAYS}) == len(DAYS) + len(MORE_DAYS) + len(TUNING_DAYS)
    benchmark = BENCHMARKS["weather"]
    assert benchmark.problems(METHODS[1], "more days", "02") == len(MORE_DAYS) and max(MORE_DAYS) <= 28


def test_a_member_that_diverged_fails_the_day(monkeypatch):
    given = demo_problem(pressure_prior(), 1, stations=10)
    members = given.truth + torch.arange(-3.0, 4.0).reshape(-1, 1, 1, 1)
    members[2] *= 1e5
    monkeypatch.setattr("benchmarks.weather.benchmark.run", lambda method, case, settings: (members, 10, 0))
    row = measure(Method(BRIDGE, "2 calls"), Case("days", "01", 0, 7, given, 1), {})
    assert (row["status"], row["reason"]) == ("failed", "FloatingPointError: 1 of 7 draws diverged") and not row["crps"]


@pytest.mark.parametrize("method", [Method(OI), Method(LINEAR, "2 calls"), Method(BRIDGE, "2 calls")], ids=lambda m: m.name)
def test_a_row_is_measured(method):
    case = Case("days", "01", 0, 20, demo_problem(pressure_prior(), 1, stations=10), 1)
    row = measure(method, case, {})
    assert row["status"] == "ok" and 0 < float(row["crps"]) < 8 and row["count"] == "117"
    held = case.given.without(np.arange(10) < 4)
    row = measure(method, replace(case, suite="hour", given=replace(held, truth=None)), {})
    assert row["status"] == "ok" and row["count"] == "4"


def test_backward_passes_are_counted():
    """Of a prior that is not Gaussian: what its Jacobian adds to the average covariance is not zero but for rounding."""
    case = Case("days", "01", 0, 3, demo_problem(posterior.load_prior("slp-north-atlantic"), 1, stations=10), 1)
    row = measure(Method(JACOBIAN, "2 calls"), case, {"jacobian": 2})
    assert (row["nfe"], row["vjps"]) == ("2", "8")


def test_a_method_that_is_not_there_is_said():
    with pytest.raises(ValueError, match="'Bridge'.*are not known; wanted some of"):
        BENCHMARKS["weather"].methods(["Bridge", ETKF])
