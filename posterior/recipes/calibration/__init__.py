"""Problems whose truth is known, on which samplers are judged: what `posterior calibrate` runs.

A problem is a module with a `Yardstick` and a function that makes the `CalibrationProblem`, and one entry of `PROBLEMS`.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from posterior.priors.base import Prior
    from posterior.recipes.calibration.problem import CalibrationProblem, Yardstick
    from posterior.samplers.base import Sampler


@dataclass(frozen=True)
class Entry:
    """Where a problem is made.

    Args:
        about: What it is, in a line.
        module: Its module in this package.
        make: Name of the function there.
        prior: Name of the prior it is meant for; its own where None.
        options: Arguments of the function.
    """

    about: str
    module: str
    make: str
    prior: str | None
    options: dict[str, Any]


_BRAIN = "magnitude of a held-out head (colin27), 8 coils"
PROBLEMS = {
    "gaussian-field": Entry(
        "a Gaussian field of which a quarter is measured: the posterior is known", "exact", "gaussian_problem", None, {}
    ),
    "mri-4x": Entry(f"{_BRAIN}, 4x undersampled", "mri", "mri_problem", "brain-mri", {"acceleration": 4.0}),
    "mri-8x": Entry(f"{_BRAIN}, 8x undersampled", "mri", "mri_problem", "brain-mri", {"acceleration": 8.0}),
    "pressure-stations": Entry(
        "sea-level pressure of days of 2009 from 30 stations", "pressure", "pressure_problem", "slp-north-atlantic", {}
    ),
}
# What returns draws of a posterior, in the order of docs/choosing-a-sampler.md.
SAMPLERS = (
    *("GaussianBridge", "MMPS", "PiGDM", "TMPD", "DPS", "LGD", "DiffPIR", "DDRM", "DDNM"),
    *("FlowChef", "FlowDPS", "DAPS", "PnPDM", "TDS", "AFDPS", "FKFilter"),
)


def make_problem(name: str, trials: int, seed: int = 0, prior: Prior | str | None = None, **options: Any) -> CalibrationProblem:
    """A problem by its name.

    Args:
        name: One of `PROBLEMS`.
        trials: How many truths.
        seed: Of their choice.
        prior: Another prior than the one it is meant for, or its name.
        options: Arguments of the function that makes it, such as ``side`` of the crops of MRI.

    Raises:
        ValueError: If there is no such problem.
    """
    entry = _entry(name)
    given = prior if prior is not None else entry.prior
    if isinstance(given, str):
        from posterior.priors.loading import load_prior

        given = load_prior(given)
    make = getattr(_module(entry), entry.make)
    if entry.prior is None:
        return make(given, **entry.options, **options)
    return make(given, trials, seed, **entry.options, **options)


def yardstick(name: str) -> Yardstick:
    """How trials of a problem are judged, without making it.

    Raises:
        ValueError: If there is no such problem.
    """
    return _module(_entry(name)).YARDSTICK


def make_sampler(name: str, steps: int | None = None) -> Sampler:
    """A sampler by its name, in any case, at its defaults but for the number of steps.

    Raises:
        ValueError: If it is not one of `SAMPLERS`.
    """
    import posterior

    known = {s.lower(): s for s in SAMPLERS}
    if name.lower() not in known:
        raise ValueError(f"there is no sampler of posteriors called {name!r}; wanted one of {', '.join(SAMPLERS)}")
    kind = getattr(posterior, known[name.lower()])
    return kind() if steps is None else kind(steps=steps)


def _entry(name: str) -> Entry:
    if name not in PROBLEMS:
        raise ValueError(f"there is no problem called {name!r}; wanted one of {', '.join(PROBLEMS)}")
    return PROBLEMS[name]


def _module(entry: Entry) -> Any:
    return importlib.import_module(f"posterior.recipes.calibration.{entry.module}")
