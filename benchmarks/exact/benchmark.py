"""The comparison with exact posteriors as a `Benchmark`."""

from __future__ import annotations

import warnings
from typing import Any

import posterior
from benchmarks.exact import methods as listed
from benchmarks.exact.methods import run
from benchmarks.exact.scores import SCORES, Yardstick, scores
from benchmarks.exact.suites import SUITES, Case, build_case
from benchmarks.harness.device import lacks
from benchmarks.harness.runner import Benchmark, Method
from benchmarks.harness.source import name_of
from benchmarks.harness.table import Layout, Row, first_line, number

LAYOUT = Layout(SCORES)
# A chain or a set of points costs samplers more than any other problem: each operator of chains once, with a light-tailed and a
# heavy-tailed law, and an operator that is not linear under each kind of noise.
QUICK_CELLS = {"levy": ("laplace, deconvolution", "student, imputation"), "nonlinear": ("wind speed", "counts")}


class Exact(Benchmark):
    """All suites whose posterior is known."""

    name = "exact"
    module = "benchmarks.exact.benchmark"
    layout = LAYOUT
    suites = tuple(SUITES)

    def cells(self, suite: str) -> tuple[str, ...]:
        return SUITES[suite].cells

    def quick_cells(self, suite: str) -> tuple[str, ...]:
        return QUICK_CELLS.get(suite, self.cells(suite))

    def methods(self, names: list[str] | None = None) -> list[Method]:
        return listed.methods(names)

    def problems(self, method: Method, suite: str, cell: str) -> int:
        return listed.problems_of(method, suite) if listed.takes_part(method, suite) else 0

    def draws(self, method: Method, suite: str) -> int | None:
        return listed.draws_of(method, suite)

    def parts(self, method: Method, suite: str, cell: str) -> tuple[str, ...]:
        judged = (name_of(SUITES[suite].build), name_of(posterior.exact_posterior), name_of(Yardstick.of), name_of(scores))
        return *judged, *listed.parts(method)

    def stale(self, row: Row) -> bool:
        """Also where other settings of a peer have been chosen since."""
        method = Method(row["method"], row["setting"])
        return super().stale(row) or listed.settled_otherwise(method, row["suite"], row["settings"])

    def build(self, suite: str, cell: str, problem: int, quick: bool = False, draws: int | None = None) -> Case:
        return build_case(SUITES[suite], cell, problem, quick, draws)

    def measure(self, method: Method, case: Case, settings: dict[str, Any] | None = None) -> Row:
        row = LAYOUT.blank(
            (case.suite, case.cell, str(case.problem), method.name, method.setting),
            case.draws,
            self.revision(method, case.suite, case.cell),
        )
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                out = run(method, case, settings)
        except (ValueError, TypeError, NotImplementedError) as error:
            return row | {"status": "n/a", "reason": first_line(error)}
        except (ArithmeticError, RuntimeError) as error:
            if lacks(error):
                raise
            return row | {"status": "failed", "reason": first_line(error)}
        found = scores(out.samples, out.weights, case.yardstick, case.floor)
        cost = {"nfe": out.nfe, "vjps": out.vjps, "seconds": out.seconds}
        row |= {k: number(v) for k, v in {**found, **cost}.items()}
        return row | {"status": "ok", "point": "yes" if out.point else "", "settings": out.settings}


BENCHMARKS = {"exact": Exact()}
