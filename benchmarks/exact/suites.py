"""The suites: which problems there are, and how many draws each is given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import posterior
from benchmarks.exact.scores import Yardstick
from benchmarks.problems import levy, mixture, nonlinear, random_field

# Problems from here on had no part in any choice of settings, of ours or of a peer's; pages show them apart.
FRESH = 2000
# From here to there peers' settings are chosen; pages do not show these.
DEVELOPMENT = 1000


@dataclass(frozen=True)
class Suite:
    """A family of problems.

    Args:
        name: Also in the table.
        cells: Kinds of problem.
        build: ``build(cell, seed, quick)`` returns an object with ``prior``, ``likelihood`` and ``truth``.
        draws: Draws of each method.
        quick_draws: The same in a quick run.
        problems: Problems of each cell.
        about: A sentence or two for the page.
    """

    name: str
    cells: tuple[str, ...]
    build: Callable[[str, int, bool], Any]
    draws: int
    quick_draws: int
    problems: int
    about: str


@dataclass(frozen=True)
class Case:
    """One problem with its posterior.

    Args:
        suite: Name of the suite.
        cell: Kind of problem.
        problem: Its number, also its seed.
        given: The problem itself.
        draws: How many draws methods are asked for.
        yardstick: The posterior.
        floor: Sliced W2 between exact samples.
    """

    suite: str
    cell: str
    problem: int
    given: Any
    draws: int
    yardstick: Yardstick
    floor: float


def build_case(suite: Suite, cell: str, problem: int, quick: bool = False, draws: int | None = None) -> Case:
    """The problem, solved exactly."""
    given = suite.build(cell, problem, quick)
    n = draws or (suite.quick_draws if quick else suite.draws)
    exact = posterior.exact_posterior(given.prior, given.likelihood)
    modes = getattr(given.prior, "means", None)
    # Kept states of Markov chains count as independent: they are thinned, and the error is below what methods show.
    known = 1 / len(exact.draws) if hasattr(exact, "draws") else 0.0
    yardstick = Yardstick.of(exact, n, modes, known)
    return Case(suite.name, cell, problem, given, n, yardstick, yardstick.floor)


def _mixture(cell: str, seed: int, quick: bool) -> Any:
    d, m = (int(part.split()[1]) for part in cell.split(", "))
    return mixture.mixture(d, m, seed)


def _field(cell: str, seed: int, quick: bool) -> Any:
    return random_field.random_field(cell, seed, side=16 if quick else 32)


def _levy(cell: str, seed: int, quick: bool) -> Any:
    law, operator = cell.split(", ")
    return levy.levy(law, operator, seed, d=8 if quick else 64)


def _nonlinear(cell: str, seed: int, quick: bool) -> Any:
    return nonlinear.nonlinear(cell, seed)


SUITES = {
    suite.name: suite
    for suite in (
        Suite(
            "mixture",
            tuple(f"d {d}, m {m}" for d, m in mixture.CELLS),
            _mixture,
            1000,
            100,
            4,
            "25 modes, d unknowns, m data from a random operator; the posterior is a mixture again.",
        ),
        Suite(
            "random field",
            random_field.OPERATORS,
            _field,
            100,
            8,
            1,
            "A 32 x 32 Matern field, noise 0.05; the posterior is Gaussian, so methods whose approximation is exact for "
            "Gaussian priors show discretisation here and nothing else.",
        ),
        Suite(
            "levy",
            tuple(f"{law}, {operator}" for law in levy.LAWS for operator in levy.OPERATORS),
            _levy,
            64,
            8,
            1,
            "Chains of 64 independent increments, blurred or half observed, noise 25 dB below the data (after Zach, Haouchat "
            "and Unser 2025, arXiv:2509.12821); the posterior is known through a Gibbs sampler.",
        ),
        Suite(
            "nonlinear",
            nonlinear.CELLS,
            _nonlinear,
            500,
            20,
            1,
            "Weighted points as prior, two or four unknowns; the posterior is a sum.",
        ),
    )
}
