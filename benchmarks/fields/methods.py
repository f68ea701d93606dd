"""What is compared on fields: classical methods, our samplers at their default constructors, and the peers'."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

import posterior
from benchmarks.fields.cases import Case, Suite
from benchmarks.fields.scores import Outcome
from benchmarks.harness.device import CPU, Used, meter, warm_up
from benchmarks.harness.runner import Method
from benchmarks.harness.source import name_of
from benchmarks.harness.table import Row
from posterior.draws import Draws

HERE = Path(__file__).parent
GRIDS = HERE / "grids.json"
TUNED = HERE / "tuned.json"
DEFAULT = "GaussianBridge"  # the sampler of the recipes and of the command line
OURS = ("GaussianBridge", "DiffPIR", "DDNM", "DDRM", "PiGDM", "MMPS", "TMPD", "TDS")
PEERS = {
    "deepinv": ("DPS", "DiffusionDPS", "PiGDM", "MomentMatching", "ALD", "ScoreSDE", "ILVR", "DiffPIR", "DDRM", "ULA"),
    "azula": ("DPS", "MMPS", "PGDM", "TMPD", "DiffPIR", "TDS"),
}
LOADED = {"deepinv": ("deepinv",), "azula": ("azula.sample", *(f"azula.guidance.{k.lower()}" for k in PEERS["azula"]))}
MOST_AT_ONCE = 20  # draws in a batch of ours on a CPU; a GPU is given all
MOST_TRIED = 5  # settings tried of one method on one kind of problem, the default among them
# Too large to try settings of samplers on, so that these take what was chosen on another cell.
TUNED_AS = {("mri", "whole, 4x"): "4x", ("mri", "real k-space"): "4x"}
# Settings of a peer that makes as many network calls a draw as our default, or fewer: as it ships, and tuned at that number.
EQUAL, EQUAL_TUNED = "equal calls", "equal calls, tuned"
# Methods without a backward pass as they ship and with at most a hundred network calls a draw; all others are given fewer
# problems and draws on a CPU.
CHEAP = ("GaussianBridge", "DiffPIR", "DDNM", "DDRM", "deepinv DiffPIR", "deepinv DDRM", "azula DiffPIR")
# Other budgets than the default, for the curves of accuracy against time, and of ours the gain with the Jacobian; the first is
# that of quick runs, of ours and of methods without an entry in `AS_MANY`.
BUDGETS: dict[str, dict[str, dict[str, Any]]] = {
    DEFAULT: {f"{n} steps": {"steps": n} for n in (4, 2, 20, 40)} | {"Jacobian": {"jacobian": 2}},
    "DiffPIR": {f"{n} steps": {"steps": n} for n in (10, 30)},
    "deepinv DPS": {"50 steps": {"num_steps": 50}},
    "deepinv DiffPIR": {f"{n} steps": {"max_iter": n} for n in (10, 30)},
    "deepinv ULA": {"100 steps": {"max_iter": 100}},
    "azula MMPS": {f"{n} steps": {"steps": n} for n in (8, 24)},
}
BUDGETS |= {name: {"10 steps": {"steps": 10}} for name in ("DDNM", "PiGDM", "MMPS", "TMPD", "TDS")}
BUDGETS |= {f"azula {name}": {"16 steps": {"steps": 16}} for name in ("DPS", "PGDM", "TMPD", "DiffPIR", "TDS")}
BUDGETS |= {
    f"deepinv {name}": {"30 steps": {"steps": 30}}
    for name in ("DiffusionDPS", "PiGDM", "MomentMatching", "ALD", "ScoreSDE", "ILVR")
}
CALLS = posterior.GaussianBridge().steps  # of our default, a draw
# How each peer is told so; a fidelity that calls the denoiser itself doubles the calls of a step. ULA is one long chain.
AS_MANY: dict[str, dict[str, Any]] = {
    "deepinv DPS": {"num_steps": CALLS},
    "deepinv DiffPIR": {"max_iter": CALLS},
    **{f"deepinv {name}": {"steps": CALLS} for name in ("DDRM", "DiffusionDPS", "ALD", "ScoreSDE", "ILVR")},
    **{f"deepinv {name}": {"steps": CALLS // 2} for name in ("PiGDM", "MomentMatching")},
    **{f"azula {name}": {"steps": CALLS} for name in PEERS["azula"]},
}
for _name, _settings in AS_MANY.items():
    BUDGETS[_name] = {EQUAL: _settings} | BUDGETS.get(_name, {})
# Peers that have a part even in cells where none can be afforded at its defaults, with as many calls as ours.
RIVALS = ("azula MMPS", "azula DiffPIR", "deepinv DiffPIR")
# Lines that do best in such a cell, and as many problems as a test takes.
BEST = {("mri", "whole, 4x", "azula MMPS", "tuned"): 3}


def library(method: Method) -> str | None:
    """Of a peer's method."""
    first = method.name.split()[0]
    return first if first in PEERS else None


def listed(suite: Suite) -> list[Method]:
    """All methods of a suite, classical ones first, with all their settings."""
    found = [Method(name, "tuned" if method.grid else "default") for name, method in suite.classical.items()]
    names = [*OURS, *(f"{lib} {kind}" for lib, kinds in PEERS.items() for kind in kinds)]
    for name in names:
        found.append(Method(name))
        if name not in OURS or name == DEFAULT:
            found.append(Method(name, "tuned"))
        found += [Method(name, setting) for setting in BUDGETS.get(name, {})]
        found += [Method(name, EQUAL_TUNED)] if name in AS_MANY else []
    return found


def shortest(suite: Suite) -> list[Method]:
    """Every method once, at its smallest budget: what a quick run is made of."""
    first = {name: next(iter(budgets)) for name, budgets in BUDGETS.items()} | {DEFAULT: "default"}  # short as it is
    wanted = {m.name: m for m in listed(suite) if m.setting == first.get(m.name, m.setting)}
    return list(wanted.values())


def problems_of(method: Method, suite: Suite, cell: str, device: str = CPU) -> int:
    """How many problems of a cell a full run has; none where the method's settings were not tuned for it.

    All that the cell has, but for methods that are dear on a CPU, there.
    """
    if method.name in suite.classical:
        return suite.problems[cell]
    if method.setting == "tuned" and not chosen(suite.name, cell, method.name):
        return 0  # never tuned, or no better than the default
    if method.setting == EQUAL_TUNED and settings_of(method, suite.name, cell) in ({}, AS_MANY[method.name]):
        return 0
    if device != CPU:
        return suite.problems[cell]
    if method.setting in (EQUAL, EQUAL_TUNED):
        return suite.problems[cell] if suite.few[cell] or method.name in RIVALS else 0
    if (suite.name, cell, method.name, method.setting) in BEST:
        return BEST[suite.name, cell, method.name, method.setting]
    if method.setting in BUDGETS.get(method.name, {}):
        return suite.few[cell]
    # Where peers cannot be afforded at their defaults, of ours the default alone runs.
    every = method.name == DEFAULT and method.setting == "default"
    return suite.problems[cell] if every or (method.name in CHEAP and suite.few[cell]) else suite.few[cell]


def chosen(suite: str, cell: str, name: str) -> dict[str, Any] | None:
    """The tuned settings; None where there are none. In cells of `TUNED_AS` samplers take those of another cell."""
    if not TUNED.exists():
        return None
    found = json.loads(TUNED.read_text()).get(suite, {})
    entry = found.get(cell, {}).get(name) or found.get(TUNED_AS.get((suite, cell), cell), {}).get(name, {})
    return entry.get("chosen")


def settings_of(method: Method, suite: str, cell: str) -> dict[str, Any]:
    """Keyword arguments."""
    if method.setting == "tuned":
        return chosen(suite, cell, method.name) or {}
    if method.setting == EQUAL_TUNED:
        return chosen(suite, cell, f"{method.name}, {EQUAL}") or {}
    return BUDGETS.get(method.name, {}).get(method.setting, {})


def settled_otherwise(row: Row, suite: Suite) -> bool:
    """Whether a row of a tuned method was made with other settings than those that are chosen by now."""
    method = Method(row["method"], row["setting"])
    if row["status"] != "ok" or method.setting not in ("tuned", EQUAL_TUNED):
        return False
    settings = settings_of(method, suite.name, row["cell"])
    if method.name in OURS:
        return row["settings"] != repr(getattr(posterior, method.name)(**settings))
    start = suite.classical[method.name].start if method.name in suite.classical else {}
    return json.loads(row["settings"]) != {**start, **settings}


def parts(method: Method, suite: Suite) -> tuple[str, ...]:
    """Dotted names of what a method is made of."""
    if method.name in suite.classical:
        return (name_of(suite.classical[method.name].run),)
    if library(method):
        return (f"benchmarks.peers.{library(method)}.run",)
    return "posterior.sample", f"posterior.{method.name}"


def device_of(method: Method, suite: Suite, device: str) -> str:
    """Where a method runs if networks run on ``device``: baselines stay on the CPU."""
    return CPU if method.name in suite.classical else device


def run(method: Method, case: Case, suite: Suite, settings: dict[str, Any] | None = None, device: str = CPU) -> Outcome:
    """All that one method makes of a problem, seeded by the problem's number; the draws come back on the CPU."""
    settings = settings_of(method, case.suite, case.cell) if settings is None else settings
    if method.name in suite.classical:
        with meter() as used:
            return _classical(method, case, suite, settings, used)
    if method.name not in CHEAP and device == CPU:
        case = replace(case, draws=min(case.draws, suite.few_draws))
    for module in LOADED.get(library(method) or "", ()):
        import_module(module)  # before the clock starts
    warm_up(case.prior, case.event_shape, case.draws, device)
    with meter(device) as used:
        return _peer(method, case, settings, used) if library(method) else _ours(method, case, settings, used)


def _classical(method: Method, case: Case, suite: Suite, settings: dict[str, Any], used: Used) -> Outcome:
    classical = suite.classical[method.name]
    with torch.random.fork_rng(devices=[]):
        made = classical(case, settings)
    words = json.dumps({**classical.start, **settings})
    return Outcome(made.samples, made.point, 0, 0, used.seconds, words, mean=made.mean, memory=used.memory)


def _ours(method: Method, case: Case, settings: dict[str, Any], used: Used) -> Outcome:
    sampler = getattr(posterior, method.name)(**settings)
    draws: Draws = posterior.sample(
        case.prior,
        case.likelihood,
        sampler,
        draws=case.draws,
        seed=case.problem,
        batch_size=min(case.draws, MOST_AT_ONCE) if used.device == CPU else case.draws,
        event_shape=case.event_shape,
        dtype=torch.float32 if case.single else torch.float64,
        device=used.device,
    )
    weights = None if draws.log_weights is None else draws.weights
    stats = draws.stats
    point = not draws.is_posterior
    return Outcome(
        draws.samples, point, stats.nfe, stats.vjps, used.seconds, stats.sampler, weights=weights, memory=used.memory
    )


def _peer(method: Method, case: Case, settings: dict[str, Any], used: Used) -> Outcome:
    peer = import_module(f"benchmarks.peers.{library(method)}")
    samples, problem = peer.run(method.name.split()[1], case, case.draws, case.problem, settings, used.device)
    nfe, vjps = problem.counts.forward / case.draws, problem.counts.vjps / case.draws
    return Outcome(samples, False, nfe, vjps, used.seconds, json.dumps(settings), memory=used.memory)
