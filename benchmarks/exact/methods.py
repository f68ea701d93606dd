"""What is compared: our samplers at their default constructors, the peers' at defaults and tuned, and exact draws."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import posterior
from benchmarks.exact.suites import SUITES, Case
from benchmarks.harness.runner import Method

PEERS = Path(__file__).parent.parent / "peers"
GRIDS = PEERS / "grids.json"
TUNED = PEERS / "tuned.json"

OURS = (
    "DPS",
    "PiGDM",
    "MMPS",
    "TMPD",
    "DiffPIR",
    "DDRM",
    "DDNM",
    "FlowChef",
    "REDDiff",
    "FlowDPS",
    "DAPS",
    "PnPDM",
    "LGD",
    "TDS",
    "AFDPS",
    "FKFilter",
    "GaussianBridge",
)
LIBRARIES = {"deepinv": ("DPS", "PiGDM", "MomentMatching", "DiffPIR", "DDRM")}
LIBRARIES["azula"] = ("DPS", "MMPS", "PGDM", "TMPD", "DiffPIR", "TDS")
EXACT = "exact draws"

# Methods that limits are about, and the peers that come nearest to them, have more problems or draws than a suite's own
# number; methods with a thousand calls or more a draw have fewer.
MANY = 20
HELD = (EXACT, "TDS", "AFDPS", "FKFilter", "MMPS")
RIVALS = ("deepinv DPS", "deepinv MomentMatching", "azula DPS", "azula MMPS", "azula TMPD", "azula TDS")
DEAR = ("DPS", "LGD", "PnPDM", "deepinv PiGDM", "deepinv DDRM", "azula DiffPIR")
PROBLEMS = {
    "mixture": dict.fromkeys((*HELD, *RIVALS), MANY) | dict.fromkeys(DEAR, 1),
    "nonlinear": dict.fromkeys((EXACT, "TDS", "AFDPS"), MANY) | {"MMPS": 4},
}
DRAWS = {"random field": dict.fromkeys((EXACT, "TDS", "AFDPS", "MMPS"), 1000)}


@dataclass(frozen=True)
class Outcome:
    """Draws and what they cost; calls and products are for each draw."""

    samples: Tensor
    weights: Tensor | None
    nfe: float
    vjps: float
    seconds: float
    point: bool
    settings: str


def methods(names: list[str] | None = None) -> list[Method]:
    """Those asked for and exact draws, or all where None; a name alone stands for all its settings.

    Raises:
        ValueError: If a name is not known, or ours and not in `posterior`.
    """
    everything = [Method(EXACT), *(Method(name) for name in OURS)]
    for library, kinds in LIBRARIES.items():
        everything += [Method(f"{library} {kind}", setting) for kind in kinds for setting in ("default", "tuned")]
    known = {m.name for m in everything}
    wanted = known if names is None else {*names, EXACT} if names else set()
    if wanted - known:
        raise ValueError(f"methods {sorted(wanted - known)} are not known; wanted some of {sorted(known)}")
    missing = [m.name for m in everything if m.name in wanted and m.name in OURS and not hasattr(posterior, m.name)]
    if missing:
        raise ValueError(f"methods {missing} are not in posterior")
    return [m for m in everything if m.name in wanted]


def takes_part(method: Method, suite: str) -> bool:
    """Whether the method is run on the suite at all; a peer counts as tuned if something was better than its default."""
    if method.name.split()[0] not in LIBRARIES:
        return True
    return method.setting == "default" or bool(settings_of(method, suite))


def problems_of(method: Method, suite: str) -> int:
    """How many problems of each cell a full run has."""
    return PROBLEMS.get(suite, {}).get(method.name, SUITES[suite].problems)


def draws_of(method: Method, suite: str) -> int | None:
    """How many draws a full run asks for; the suite's own number where None."""
    return DRAWS.get(suite, {}).get(method.name)


def settings_of(method: Method, suite: str) -> dict[str, Any] | None:
    """Keyword arguments of a peer; None where it was not tuned for the suite."""
    if method.setting == "default":
        return {}
    if not TUNED.exists():
        return None
    return json.loads(TUNED.read_text()).get(suite, {}).get(method.name, {}).get("chosen")


def parts(method: Method) -> tuple[str, ...]:
    """Dotted names of what a method is made of."""
    library = method.name.split()[0]
    if library in LIBRARIES:
        return (f"benchmarks.peers.{library}.run",)
    return () if method.name == EXACT else ("posterior.sample", f"posterior.{method.name}")


def settled_otherwise(method: Method, suite: str, settings: str) -> bool:
    """Whether a row of a peer was made with other settings than those that are chosen by now."""
    if method.name.split()[0] not in LIBRARIES or not settings:
        return False
    return json.loads(settings) != settings_of(method, suite)


def run(method: Method, case: Case, settings: dict[str, Any] | None = None) -> Outcome:
    """All draws of one method on one problem, seeded by the problem's number."""
    began = time.monotonic()
    library = method.name.split()[0]
    if method.name == EXACT:
        return Outcome(case.yardstick.spare, None, 0, 0, 0.0, False, "")
    if library in LIBRARIES:
        chosen = settings if settings is not None else settings_of(method, case.suite) or {}
        peer = import_module(f"benchmarks.peers.{library}")
        samples, problem = peer.run(method.name.split()[1], case.given, case.draws, case.problem, chosen)
        if not torch.isfinite(samples).all():
            bad = int((~torch.isfinite(samples)).flatten(1).any(1).sum())
            raise FloatingPointError(f"{bad} of {len(samples)} draws are not finite")
        seconds = time.monotonic() - began
        nfe, vjps = problem.counts.forward / case.draws, problem.counts.vjps / case.draws
        return Outcome(samples, None, nfe, vjps, seconds, False, json.dumps(chosen))
    sampler = getattr(posterior, method.name)()
    size = None if sampler.population else case.draws
    given = case.given
    draws = posterior.sample(given.prior, given.likelihood, sampler, draws=case.draws, seed=case.problem, batch_size=size)
    weights = None if draws.log_weights is None else draws.weights
    stats = draws.stats
    return Outcome(draws.samples, weights, stats.nfe, stats.vjps, stats.seconds, not draws.is_posterior, stats.sampler)
