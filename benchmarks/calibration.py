"""Calibration on held-out data with the priors that come with the package, sampler by sampler.

python -m benchmarks.calibration                                    everything that is missing, and the page
python -m benchmarks.calibration --problems mri-4x --samplers MMPS  some of it
python -m benchmarks.calibration --score                            no drawing: the trials that are there, and the page
python -m benchmarks.calibration --device cuda                      draw on a GPU
python -m benchmarks.calibration --bfloat16                         networks in bfloat16, as they were trained
python -m benchmarks.calibration --compile                          compile networks first, which takes a C++ compiler

Trials are kept in a folder (runs/calibration) and never drawn twice; scores go to benchmarks/results/calibration.json and
docs/results-calibration.md.
"""

from __future__ import annotations

import argparse
import itertools
import json
import textwrap
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness.device import CPU, prepare
from benchmarks.harness.files import change_json
from benchmarks.harness.markdown import markdown
from benchmarks.harness.source import network, revision
from benchmarks.harness.table import first_line, gpu, machine
from benchmarks.metrics import diverged
from posterior._resources import resource
from posterior.priors.base import Prior
from posterior.priors.loading import load_prior
from posterior.priors.training.workers import InPrecision
from posterior.recipes.calibration import PROBLEMS, SAMPLERS, make_problem, make_sampler, yardstick
from posterior.uncertainty import Trial, Trials, leave_one_out, recalibrate_spread, tarp
from posterior.uncertainty._statistics import bootstrap
from posterior.uncertainty.quantities import log_likelihood, pixels
from posterior.uncertainty.ranks import rank_truths, uniform_ranks
from posterior.uncertainty.scores import crps_members
from posterior.uncertainty.spread import spread_over_error, unbiased

ROOT = Path(__file__).parent
RESULTS = ROOT / "results" / "calibration.json"
PAGE = ROOT.parent / "docs" / "results-calibration.md"
FOLDER = ROOT.parent / "runs" / "calibration"
LEVELS = (0.5, 0.8, 0.9, 0.95)
TESTED = 20  # trials that a p-value takes
REPAIR = 0.6  # share of the trials that the repair may see
SMALLEST_REPAIR = 25  # trials from which on there is one
OPTIONS = {"mri-4x": {"side": 48}, "mri-8x": {"side": 48}}
DEFAULT = "GaussianBridge"
WAVES = (24, 12, 6)  # pixels
PLACES = "drawn-on.json"  # beside the trials
POPULATIONS = ("TDS", "AFDPS", "FKFilter")  # samplers whose draws are the particles of one run


@dataclass(frozen=True)
class Size:
    """How many trials of how many draws, at a sampler's default settings."""

    trials: int
    draws: int


# What is dear gets fewer draws. Ranks of the truth among two or three draws test as well, only less sharply.
DEAR = ("MMPS", "PiGDM", "TMPD", "DPS", "LGD", "DiffPIR", "DDNM", "FlowChef", "DAPS", "PnPDM")
DEAREST = {"DPS": 2, "LGD": 2, "DAPS": 2, "PnPDM": 2, "AFDPS": 6}  # with a network as large as that of MRI
SIZES: dict[str, dict[str, Size]] = {
    "pressure-stations": {name: Size(TESTED, 3 if name in DEAR else 9) for name in SAMPLERS}
    | {DEFAULT: Size(150, 19), "TDS": Size(TESTED, 16), "AFDPS": Size(TESTED, 12), "FKFilter": Size(TESTED, 20)},
    "mri-4x": {name: Size(TESTED, DEAREST.get(name, 3 if name in DEAR else 9)) for name in SAMPLERS} | {DEFAULT: Size(104, 19)},
}
SIZES["mri-8x"] = SIZES["mri-4x"]


def parts(problem: str, sampler: str) -> tuple[str, ...]:
    """Dotted names of what a sampler's draws on a problem are computed with."""
    entry = PROBLEMS[problem]
    return f"posterior.recipes.calibration.{entry.module}.{entry.make}", "posterior.sample", f"posterior.{sampler}"


def score(problem: str, trials: Trials, sampler: str) -> dict[str, Any]:
    """Everything the page says of one sampler on one problem."""
    places = drawn_on(trials.folder)
    look = yardstick(problem)
    shown = trials.map(look.values)
    values = torch.stack([uniform_ranks(t.equally_weighted().members.flatten(1), seed=i) for i, t in enumerate(shown)])
    inside = torch.stack([((2 * values - 1).abs() <= level).double().mean(1) for level in LEVELS], 1)
    spread = torch.stack([torch.stack([v.mean() for v in unbiased(t.equally_weighted())]) for t in shown])
    errors = torch.stack([crps_members(t.equally_weighted().members)[0] for t in shown])
    costs = torch.stack([t.cost for t in trials])
    draws = len(trials[0].draws)
    row: dict[str, Any] = {
        "problem": problem,
        "sampler": sampler,
        "trials": len(trials),
        "draws": draws,
        "coverage": inside.mean(0).tolist(),
        "crps": float(errors.mean()),
        "spread_skill": float(spread_over_error(*spread.mean(0))),
        "nfe": float(costs[:, 0].mean()),
        "vjps": float(costs[:, 1].mean()),
        "seconds_per_draw": float(costs[:, 2].sum() / (draws * len(trials))),
        "machine": "; ".join(dict.fromkeys(p["machine"] for p in places)) or machine(),
        "revision": revision(*parts(problem, sampler)),
    }
    if PROBLEMS[problem].prior is not None:
        row["prior"] = trained(problem)
    if gpus := dict.fromkeys(p["gpu"] for p in places if p["gpu"]):
        row["gpu"] = ", ".join(gpus)
    if any(p.get("bfloat16") for p in places):
        row["bfloat16"] = True
    # Fair scores do not see one wild draw among others.
    if bad := sum(diverged(t.equally_weighted().members[1:], t.truth) > 0 for t in shown):
        row["diverged"] = bad
    if len(trials) > 1:
        row["coverage_band"] = [ends.tolist() for ends in bootstrap(inside, lambda means: means, 0.95)]
    if len(trials) >= TESTED:
        regions = look.regions
        region_ranks = rank_truths(trials, regions.fn, name="region means", names=regions.names)
        row["region_coverage"] = region_ranks.coverage(LEVELS).values.tolist()
        row["p_values"] = {
            "pixels": rank_truths(shown, pixels().fn, name="pixels", pooled=True).p_value,
            "region means": region_ranks.p_value,
            "log-likelihood": rank_truths(trials, log_likelihood().fn, name="log-likelihood").p_value,
            "TARP": tarp(trials).p_value,
        }
        row["exact_tests"] = True  # rows of before draws were tried in the truth's place lack it
    if len(trials) >= SMALLEST_REPAIR:
        row["scales"] = scales(trials)
        first = round(REPAIR * len(trials))
        row["repair"] = {
            name: {**repair.record(), "check": check.record(), "text": str(repair)}
            for name, (repair, check) in look.repair(trials, first).items()
        }
        views = {"pixels": look.values, "region means": look.region_means}
        row["leave_one_out"] = {name: leave_one_out(trials.map(view)).record() for name, view in views.items()}
        if first >= TESTED:
            row["spread_factor"] = recalibrate_spread(shown.split(first)[0]).factor
    return row


def scales(trials: Trials) -> list[float]:
    """Unbiased spread / skill of the waves of a field, the longest first: `WAVES` are the lengths between the bands."""
    sums = torch.zeros(2, len(WAVES) + 1, dtype=torch.float64)
    for trial in trials:
        waves = torch.fft.fft2(trial.equally_weighted().members.double(), norm="ortho")
        h, w = (torch.fft.fftfreq(n, dtype=torch.float64) for n in waves.shape[-2:])
        band = torch.bucketize(torch.hypot(h[:, None], w) - 1e-9, torch.tensor([1 / length for length in WAVES]))
        for k in range(len(WAVES) + 1):
            members = torch.view_as_real(waves[..., band == k].resolve_conj())
            sums[:, k] += torch.stack([v.sum() for v in unbiased(Trial(members[0], members[1:]))])
    return (sums[0] / sums[1].clamp_min(1e-30)).sqrt().tolist()


def draw(
    problem: str,
    sampler: str,
    size: Size,
    folder: Path,
    workers: int,
    device: str | None = None,
    bfloat16: bool = False,
    compiled: bool = False,
) -> None:
    """The trials that are still missing; the folder keeps where and in which precision they were drawn."""
    prior = faster(problem, device or CPU, bfloat16, compiled) if bfloat16 or compiled else None
    on = make_problem(problem, size.trials, prior=prior, **OPTIONS.get(problem, {}))
    # A small network is bound by the start of each kernel there: all draws of a trial at once cost what one costs.
    made = on.run if device is None else partial(on.run, device=device, batch_size=size.draws)
    before = len(Trials(folder=folder)) if folder.is_dir() else 0
    try:
        made(make_sampler(sampler), trials=size.trials, draws=size.draws, folder=folder, workers=workers, progress=True)
    finally:
        here = {"machine": machine(), "gpu": gpu(device), "bfloat16": bfloat16}
        if folder.is_dir() and len(Trials(folder=folder)) > before and here not in (places := drawn_on(folder)):
            (folder / PLACES).write_text(json.dumps([*places, here], indent=1) + "\n")


def faster(problem: str, device: str, bfloat16: bool, compiled: bool) -> Prior:
    """A problem's prior with its network in the precision that it was trained in, what surrounds it in its own, or compiled."""
    prior = load_prior(str(PROBLEMS[problem].prior))
    prior.network = InPrecision(prior.network.requires_grad_(False), torch.device(device), bfloat16)
    if compiled:
        prior.network = torch.compile(prior.network)
    return prior


def trained(problem: str) -> str | None:
    """Hash of the network of a problem's prior as it is today."""
    prior = PROBLEMS[problem].prior
    return None if prior is None else network(resource(f"priors/{prior}"))


def drawn_on(folder: Path | None) -> list[dict[str, Any]]:
    """Machines, and their GPUs where these were used, that drew the trials of a folder; empty where nobody kept them."""
    path = None if folder is None else folder / PLACES
    return json.loads(path.read_text()) if path is not None and path.exists() else []


INTRODUCTION = f"""\
Written by `python -m benchmarks.calibration`. Each trial takes a held-out truth, simulates its data and draws from
the posterior. Coverage is the share of true values inside central intervals, with a 95 % bootstrap band over trials
for the 90 % one; CRPS is fair; spread / skill is the unbiased ratio, below 1 where draws spread too little; p-values
are of the ranks (SBC) of pixels, region means and log p(y | x), and of TARP with data-dependent references, from
{TESTED} trials on. An exact sampler of a perfect prior has p-values above 0.01; here the priors are trained networks,
and the tests see that they are not perfect. All samplers are at their default settings, GaussianBridge on the
noise levels of each task's recipe; where the table says fewer than {TESTED} trials, figures are rough.
{", ".join(POPULATIONS[:-1])} and {POPULATIONS[-1]} return the weighted particles of one run:
their draws are its particles, resampled by weight, and far fewer here than the 1000 of
[the exact benchmark](results-exact.md). Seconds were measured on a machine shared with other work."""


def wrapped(text: str) -> list[str]:
    """Lines of a paragraph; no address of a link is broken."""
    return textwrap.wrap(text, 120, break_on_hyphens=False, break_long_words=False)


def page(rows: list[dict[str, Any]]) -> str:
    """The page, from the rows."""
    lines = [
        "# Calibration on held-out data",
        "",
        *wrapped(INTRODUCTION),
        "",
        *(line for name in SIZES for line in section(name, [r for r in rows if r["problem"] == name])),
    ]
    return "\n".join(lines) + "\n"


ABOUT = {
    "mri-4x": "## MRI, 4x\n\nMagnitude inside the head; crops of 48 x 48 mm of colin27 (held out of all training) at random "
    "places, orientations and phases; 8 coils and noise of 2 % of the brightest tissue, both known; prior `brain-mri`. CRPS in "
    "units of the brightest tissue. The prior's reference Gaussian is that of whole slices with the air around them, of which "
    "these crops are no fair sample; for the coverage of whole slices see [the reconstructions](results-benchmarks.md).",
    "mri-8x": "## MRI, 8x\n\nAs above, with half as many lines.",
    "pressure-stations": "## Pressure from stations\n\nDays of 2009 in random order (trained on 2001 to 2008), 30 stations at "
    "new random places each time, errors of 1 hPa; prior `slp-north-atlantic`. CRPS in hPa.",
}


def section(problem: str, rows: list[dict[str, Any]]) -> list[str]:
    """One problem: its table, its repair, and who could not run."""
    good = sorted((r for r in rows if "coverage" in r), key=lambda r: SAMPLERS.index(r["sampler"]))
    if not rows:
        return []
    head = ["sampler", "trials x draws", "50 %", "80 %", "90 % (band)", "95 %", "CRPS", "spread / skill"]
    head += ["p: pixels", "regions", "log-lik.", "TARP", "calls", "VJPs", "s / draw"]
    title, about = ABOUT[problem].split("\n\n")
    lines = [title, "", *wrapped(about), "", *markdown(head, (_cells(r) for r in good)), ""]
    lines += [f"- {r['sampler']} could not run: `{r['reason']}`" for r in rows if "reason" in r]
    for r in (r for r in good if r.get("diverged")):
        lines += [f"- {r['sampler']} diverged at its default settings, in {r['diverged']} of {r['trials']} trials."]
    if earlier := [r["sampler"] for r in good if r.get("prior") != trained(problem)]:
        lines += wrapped(
            f"- Drawn with an earlier training of `{PROBLEMS[problem].prior}` than the others: {', '.join(earlier)}."
        )
    gpus = {
        name: [r["sampler"] for r in good if r.get("gpu") == name] for name in sorted({r["gpu"] for r in good if "gpu" in r})
    }
    lines += [line for name, who in gpus.items() for line in wrapped(f"- Drawn on a GPU, {name}: {', '.join(who)}.")]
    if reduced := [r["sampler"] for r in good if r.get("bfloat16")]:
        lines += wrapped(f"- Drawn with the network in bfloat16, as it was trained: {', '.join(reduced)}.")
    if any("p_values" in r and "exact_tests" not in r for r in good):
        lines += wrapped(
            "- *: of Hotelling's test, as it was before draws were tried in the truth's place; where trials are few it calls "
            "exact samplers wrong too often, at 20 trials up to one in five at 0.01. Bands of these rows are a tenth too "
            "narrow at 20 trials, a fiftieth at 104."
        )
    untested = [r for r in good if r["trials"] < TESTED]
    if untested:
        hours = sum(TESTED * r["draws"] * r["seconds_per_draw"] for r in untested) / 3600
        names = ", ".join(r["sampler"] for r in untested)
        lines += wrapped(
            f"- No p-values of {names}: fewer than {TESTED} trials; {TESTED} of each would take {hours:.1f} hours."
        )
    missing = [s for s in SAMPLERS if s not in {r["sampler"] for r in rows}]
    lines += [f"- Not run yet: {', '.join(missing)}.", ""] if missing else [""]
    for row in good:
        if "scales" in row:
            lines += [*wrapped(_of_scales(row)), ""]
        if "repair" in row:
            lines += _repair(row)
    return lines


def _of_scales(row: dict[str, Any]) -> str:
    longest, *others = row["scales"]
    spans = [f"{low} to {high}" for high, low in itertools.pairwise(WAVES)] + [f"less than {WAVES[-1]}"]
    shown = ", ".join(f"{ratio:.2f} for {span}" for ratio, span in zip(others, spans, strict=True))
    return (
        f"Spread / skill of {row['sampler']} by the length of waves: {longest:.2f} for {WAVES[0]} pixels and more, {shown}. "
        "Where long waves spread too little, intervals of region means hold too little, whatever those of pixels hold."
    )


def _cells(r: dict[str, Any]) -> list[str]:
    share = [f"{100 * c:.1f}" for c in r["coverage"]]
    if "coverage_band" in r:
        low, high = (ends[2] for ends in r["coverage_band"])
        share[2] += f" ({100 * low:.1f} to {100 * high:.1f})"
    p = r.get("p_values", {})
    tests = [_p(p.get(name)) for name in ("pixels", "region means", "log-likelihood", "TARP")]
    if p and "exact_tests" not in r:
        tests[0] += "*"
    cost = [f"{r['nfe']:.0f}", f"{r['vjps']:.0f}", f"{r['seconds_per_draw']:.2g}{' (GPU)' if 'gpu' in r else ''}"]
    size = f"{r['trials']} x {r['draws']}"
    return [r["sampler"], size, *share, f"{r['crps']:.3g}", f"{r['spread_skill']:.2f}", *tests, *cost]


def _p(value: float | None) -> str:
    return "" if value is None else "< 1e-6" if value < 1e-6 else f"{value:.2g}"


def _repair(row: dict[str, Any]) -> list[str]:
    body = []
    for name, r in row["repair"].items():
        all_others, other = row["leave_one_out"][name], r["check"]
        factor = f"{r['factor']:.3f}"
        body.append([name, f"the first {r['trials']}", f"the other {other['trials']}", factor, *_inside(other)])
        body.append([name, f"all but one, {all_others['trials'] - 1}", "that one, each in turn", "", *_inside(all_others)])
    head = ["90 % intervals of", "repaired on", "judged by", "factor", "% inside before (band)", "% after (band)"]
    first = row["repair"]["pixels"]
    n = first["trials"]
    words = (
        f"Conformal risk control. {first['guarantee']} {first['assumes']} With n trials the guarantee itself costs about "
        f"100 / (n + 1) points of coverage too much: {100 / (n + 1):.1f} with {n}, {100 / row['trials']:.1f} with "
        f"{row['trials'] - 1}."
    )
    if "spread_factor" in row:
        words += f" Simple recalibration of the spread on the first {n} trials: times {row['spread_factor']:.3f}."
    return [f"### Repair of {row['sampler']}", "", *markdown(head, body), "", *wrapped(words), ""]


def _inside(check: dict[str, Any]) -> list[str]:
    return [f"{100 * m:.1f} ({100 * low:.1f} to {100 * high:.1f})" for m, low, high in (check["before"], check["after"])]


def write(rows: dict[tuple[str, str], dict[str, Any]], results: Path, shown: Path) -> None:
    """Add rows to the results and write the page of all; figures give way to other figures, never to a reason."""

    def add(kept: list[dict[str, Any]]) -> list[dict[str, Any]]:
        found = {(r["problem"], r["sampler"]): r for r in kept}
        found |= {k: r for k, r in rows.items() if "coverage" in r or "coverage" not in found.get(k, ())}
        return [found[k] for k in sorted(found)]

    shown.write_text(page(change_json(results, add, [])))


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.calibration", description=__doc__.splitlines()[0])
    parser.add_argument("--problems", nargs="+", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--samplers", nargs="+", default=list(SAMPLERS), choices=SAMPLERS)
    parser.add_argument("--trials", type=int, help="at most so many, whatever is planned")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--device", help="where to draw, such as cuda; the CPU if not given")
    parser.add_argument("--bfloat16", action="store_true", help="networks in bfloat16, as they were trained")
    parser.add_argument("--compile", action="store_true", help="compile networks, which takes a C++ compiler")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--score", action="store_true", help="score the trials that are there, and draw none")
    parser.add_argument("--merge", type=Path, nargs="+", metavar="RESULTS", help="draw none: take over the rows of other runs")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--page", type=Path, default=PAGE)
    a = parser.parse_args(arguments)
    prepare(a.device or CPU)
    if a.merge:
        write({(r["problem"], r["sampler"]): r for path in a.merge for r in json.loads(path.read_text())}, a.results, a.page)
        return
    for problem in a.problems:
        for sampler in a.samplers:
            size = SIZES[problem][sampler]
            size = Size(min(size.trials, a.trials or size.trials), size.draws)
            folder = a.folder / problem / sampler
            found = {"problem": problem, "sampler": sampler}
            try:
                if not a.score:
                    draw(problem, sampler, size, folder, a.workers, a.device, a.bfloat16, a.compile)
                trials = Trials(folder=folder) if folder.is_dir() else Trials()
                if not len(trials):
                    continue
                found = score(problem, trials, sampler)
            except (ValueError, TypeError, NotImplementedError, RuntimeError) as error:
                found["reason"] = first_line(error)
            print(problem, sampler, found.get("coverage") or found["reason"], flush=True)
            write({(problem, sampler): found}, a.results, a.page)


if __name__ == "__main__":
    main()
