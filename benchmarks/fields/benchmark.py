"""Each suite of fields as a `Benchmark`."""

from __future__ import annotations

import copy
import warnings
from importlib.util import find_spec
from typing import Any

import posterior
from benchmarks.fields import blur, methods as known, mri, super_resolution, weather
from benchmarks.fields.cases import DEVELOPMENT, Case, Suite
from benchmarks.fields.maps import keep_maps
from benchmarks.fields.methods import run
from benchmarks.fields.perceptual import PACKAGE as STLPIPS
from benchmarks.fields.scores import SCORES, require_convergence, scores
from benchmarks.harness.device import lacks, named
from benchmarks.harness.runner import Benchmark, Method
from benchmarks.harness.source import name_of, weights
from benchmarks.harness.table import Layout, Row, first_line, number
from posterior._devices import device_of
from posterior._resources import resource

LAYOUT = Layout(SCORES, cost=("nfe", "vjps", "seconds", "memory"), later=("psnr_all", "stlpips"))
DIGITS = 10  # so that rows of the same seeds can be held to 1e-6 of each other


class Fields(Benchmark):
    """One suite."""

    module = "benchmarks.fields.benchmark"
    layout = LAYOUT

    def __init__(self, suite: Suite) -> None:
        self.suite = suite
        self.name = suite.name
        self.suites = (suite.name,)

    def on(self, device: str) -> Fields:
        there = copy.copy(self)
        there.device = str(device_of(device, f"benchmark {self.name}"))
        return there

    def cells(self, suite: str) -> tuple[str, ...]:
        there = posterior.bundled_priors()
        return tuple(c for c in self.suite.cells if self.suite.priors[c] in there)

    def quick_cells(self, suite: str) -> tuple[str, ...]:
        # A whole slice costs more than a crop, and shows no other code.
        return tuple(c for c in self.cells(suite) if not c.startswith("whole"))

    def methods(self, names: list[str] | None = None) -> list[Method]:
        found = known.listed(self.suite)
        unknown = set(names or ()) - {m.name for m in found}
        if unknown:
            raise ValueError(f"methods {sorted(unknown)} are not known; wanted some of {sorted({m.name for m in found})}")
        return [m for m in found if names is None or m.name in names]

    def quick_methods(self) -> list[Method]:
        return known.shortest(self.suite)

    def problems(self, method: Method, suite: str, cell: str) -> int:
        return known.problems_of(method, self.suite, cell, self.device)

    def build(self, suite: str, cell: str, problem: int, quick: bool = False, draws: int | None = None) -> Case:
        return self.suite.build(cell, problem, quick, draws or (self.suite.quick_draws if quick else self.suite.draws))

    def parts(self, method: Method, suite: str, cell: str) -> tuple[str, ...]:
        return name_of(self.suite.build), *known.parts(method, self.suite)

    def revision(self, method: Method, suite: str, cell: str) -> str:
        """Of the code, and of the prior's weights."""
        prior = self.suite.priors[cell]
        return f"{super().revision(method, suite, cell)}, {prior} {weights(resource(f'priors/{prior}'))}"

    def stale(self, row: Row) -> bool:
        """Also where other settings have been chosen since."""
        return super().stale(row) or known.settled_otherwise(row, self.suite)

    def measure(self, method: Method, case: Case, settings: dict[str, Any] | None = None) -> Row:
        known_by = (case.suite, case.cell, str(case.problem), method.name, method.setting)
        made_with, device = self.revision(method, case.suite, case.cell), known.device_of(method, self.suite, self.device)
        row = LAYOUT.blank(known_by, case.draws, made_with, named(device))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                out = run(method, case, self.suite, settings, self.device)
                require_convergence(out, case)
                found = scores(out, case)
        except (ValueError, TypeError, NotImplementedError, AttributeError) as error:
            return row | {"status": "n/a", "reason": first_line(error)}
        except (ArithmeticError, RuntimeError) as error:
            if lacks(error):
                raise
            return row | {"status": "failed", "reason": first_line(error)}
        if case.problem < DEVELOPMENT:
            keep_maps(case, method, out)
        cost = {"nfe": out.nfe, "vjps": out.vjps, "seconds": out.seconds, "memory": out.memory}
        row |= {k: number(v, DIGITS) for k, v in found.items()} | {k: number(v) for k, v in cost.items()}
        row |= {"draws": str(len(out.samples))}
        note = "" if find_spec(STLPIPS) or not case.picture else f"no ST-LPIPS: {STLPIPS} is not installed"
        return row | {"status": "ok", "reason": note, "point": "yes" if out.point else "", "settings": out.settings}


BENCHMARKS = {suite.name: Fields(suite) for suite in (mri.SUITE, blur.SUITE, super_resolution.SUITE, weather.SUITE)}
