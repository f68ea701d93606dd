"""The page of all suites on fields, made from the results files alone."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.fields.benchmark import BENCHMARKS, LAYOUT
from benchmarks.fields.cases import DEVELOPMENT, Suite
from benchmarks.fields.compare import (
    SCORES,
    as_tuned,
    at_equal_calls,
    by_problem,
    claim_lines,
    compared,
    coverage_lead,
    lead,
    mri_claim,
    score_of,
    speed,
)
from benchmarks.fields.methods import DEFAULT, MOST_TRIED, OURS, TUNED
from benchmarks.fields.scores import judged
from benchmarks.harness.device import CPU
from benchmarks.harness.markdown import cell, groups, label, markdown, reasons
from benchmarks.harness.statistics import median_interval
from benchmarks.harness.table import Row
from benchmarks.metrics import DIVERGED

HEADER = f"""# Measured: reconstructions with uncertainty

Written by `python -m benchmarks report` from `benchmarks/results`; `python -m benchmarks run` computes what is missing there.
The same with plots of accuracy against time and panels of reconstructions: `docs/results-benchmarks.html`.

- Our samplers run at their default constructors; the default sampler of the package is `GaussianBridge`. deepinv and azula run
  on the same priors, data and seeds at their documented defaults, and where a line says tuned at the best of the grid in
  `benchmarks/fields/grids.json`; baselines with a setting are tuned too. Tuning is on development problems that the tables
  never see (`benchmarks/fields/tuned.json` is the log, shown at the end). A line such as "20 steps" is another budget, for
  the curves; *Jacobian* is the default with two Krylov iterations of the network's Jacobian in its gain.
- *n*: problems; *draws*: of each; *failed*: problems whose draws diverged, or on which the method broke down, named at the
  end of each suite. A draw has diverged if its root-mean-square error is above {DIVERGED:.0f} times the standard deviation of
  the truth (of withheld data, where no truth is known) or is not finite. One such draw fails the problem, which then has no
  part in medians, means, tests and curves: fair scores do not see it, since both their terms grow alike. Methods
  that cost more than a hundred network calls a draw have fewer problems and draws on a CPU.
- Figures are medians over problems, in brackets the 95 % bootstrap interval of the median where there are three or more.
- *PSNR* (dB), *SSIM*, *NRMSE* (over the standard deviation of the truth) are of the point estimate: the mean of the first 8
  draws for every method that draws; *all draws*: PSNR of the mean of all of them, however many. *ST-LPIPS*: perceptual
  distance of the point estimate (shift-tolerant LPIPS, arXiv:2207.13686), of images that people look at; LPIPS itself is not
  here, since no package brings its network's weights in a safe file. *CRPS* (fair) is in units of the field; of a point
  estimate it is the mean absolute error. *energy*: fair energy score over the root of the number of pixels. *chi2*: mean over
  draws of ||y - A x||^2 / (m sigma^2); *withheld chi2*: that of the point estimate on data that the method did not see.
- *50 %* to *95 %*: share of pixels inside that central interval; empty where there are too few draws (90 % takes 19).
  *spread*: spread over error, 1 if calibrated; empty where draws are so wide that some problem's unbiased squared error is
  negative. *AUSE*: area under the sparsification error. *spectrum*: mean |log10| ratio of
  the power of draws to that of the truth. *calls*, *VJPs*: network calls and vector-Jacobian products a draw; *s*: processor
  seconds of one thread for all draws of a problem, and those of the clock where a line says that it ran on a GPU; *MB*: peak
  memory of that device beyond what was there before. Times are compared only between lines of the same device.
- Point estimates have no uncertainty, and none is judged of them.
"""
WHO = (
    f"`{DEFAULT}` at its default against the method that does best against it, none of ours, on the problems both have: means "
    "over these problems, in brackets the 95 % bootstrap interval of the lead or of the loss; *within the error* where that "
    "interval holds zero. Where no truth is known, what is judged is the residual of data that were withheld."
)
TUNED_TOO = (
    f"`{DEFAULT}` after the same search as the peers', at most as many settings on the same small problem, where something "
    "better than its default was found, against the method that does best against it at any setting above. Its grid, 40 calls "
    "with the Jacobian at its own levels or from 8 or down to 0.1, was drawn up knowing what helps on development problems of "
    "Hubble."
)
EQUALLY = (
    f"`{DEFAULT}` at its default against the best of those peers that make at most as many network calls a draw, at any "
    "setting. In a line *equal calls* their number of steps is cut and the rest is as they ship; in one *equal calls, tuned* "
    "the rest was chosen at that number of calls, where something better was found. Vector-Jacobian products come on top of "
    "the calls and are not held against them: DPS makes one a call, MMPS two or more. ULA has no part, since ten steps of a "
    "chain are no sample."
)
SHOWN = (
    "A posterior mean at least 3 dB above L1-wavelet, and at least 1 dB above the best peer with the same prior and at most "
    "the same network calls; 87 to 93 % of pixels in 90 % intervals. Intervals are of the mean paired difference."
)
COLUMNS = {
    "psnr": ("PSNR", 2),
    "psnr_all": ("all draws", 2),
    "ssim": ("SSIM", 3),
    "stlpips": ("ST-LPIPS", 4),
    "nrmse": ("NRMSE", 3),
    "crps": ("CRPS", 4),
    "energy": ("energy", 4),
    "chi2": ("chi2", 2),
    "cov50": ("50 %", 3),
    "cov80": ("80 %", 3),
    "cov90": ("90 %", 3),
    "cov95": ("95 %", 3),
    "spread_skill": ("spread", 2),
    "ause": ("AUSE", 3),
    "spectrum": ("spectrum", 3),
    "held_chi2": ("withheld chi2", 2),
    "held_cov90": ("withheld in 90 %", 3),
    "nfe": ("calls", 0),
    "vjps": ("VJPs", 0),
    "seconds": ("s", 1),
    "memory": ("MB", 0),
}
INTERVALS = ("psnr", "crps")


def read_rows(folder: Path) -> dict[str, list[Row]]:
    """Rows of each suite that has any, without problems that settings are chosen on."""
    there = {name: LAYOUT.read(folder / f"{name}.csv") for name in BENCHMARKS}
    found = {name: [judged(r) for r in rows if int(r["problem"]) < DEVELOPMENT] for name, rows in there.items()}
    return {name: rows for name, rows in found.items() if rows}


def write_report(folder: Path, page: Path, html: Path, maps: Path | None) -> None:
    """The page in Markdown and, with figures, in HTML; nothing where there are no results."""
    from benchmarks.fields.html import html_page

    rows = read_rows(folder)
    if rows:
        text = results_page(rows)
        page.write_text(text)
        html.write_text(html_page(text, rows, maps))


def results_page(rows: dict[str, list[Row]]) -> str:
    """The page."""
    lines = [HEADER.rstrip(), "", "## Who leads", "", *_verdicts(rows), *_tuned(rows), *_equal(rows)]
    for name, these in rows.items():
        suite = BENCHMARKS[name].suite
        lines += ["", f"## {_title(name)}", "", suite.about]
        for kind in suite.cells:
            of_cell = [r for r in these if r["cell"] == kind]
            if of_cell:
                lines += ["", f"### {_title(name)}: {kind}", "", f"{suite.cells[kind]}.", ""]
                lines += [*table(of_cell, suite), *_comparison(of_cell)]
        found = reasons(these)
        lines += ["", f"### {_title(name)}: not run, or failed", "", *found] if found else []
    lines += ["", "## Tuning", "", *_tuning()]
    everything = [r for these in rows.values() for r in these]
    lines += ["", "## Where the figures come from", "", *_provenance(everything)]
    return "\n".join(lines) + "\n"


def _title(name: str) -> str:
    return name.upper() if name == "mri" else name.capitalize()


def ordered(rows: list[Row], suite: Suite) -> list[list[Row]]:
    """Rows of each method and setting: classical ones, ours, peers."""
    order = [*suite.classical, *OURS]
    found = groups([r for r in rows if r["status"] == "ok"], "method", "setting")
    return [found[k] for k in sorted(found, key=lambda k: (order.index(k[0]) if k[0] in order else len(order), *k))]


def table(rows: list[Row], suite: Suite) -> list[str]:
    """All figures of a cell."""
    shown = [c for c in COLUMNS if any(r[c] for r in rows)]
    gpus = sorted({r["device"] for r in rows} - {CPU})
    marks = {CPU: "CPU"} | {gpu: "GPU" + "*" * i for i, gpu in enumerate(gpus)}
    body = []
    failed = groups([r for r in rows if r["status"] == "failed"], "method", "setting")
    for these in ordered(rows, suite):
        bad = len(failed.get((these[0]["method"], these[0]["setting"]), ()))
        line = [
            label(these[0]) + (" (point)" if these[0]["point"] else ""),
            str(len(these)) + (f", {bad} failed" if bad else ""),
        ]
        line.append("" if these[0]["point"] else _range([int(r["draws"]) for r in these]))
        on = sorted({marks[r["device"]] for r in these})
        body.append([*line, *(_figure(these, column) for column in shown), *([", ".join(on)] if gpus else [])])
    lines = markdown(["method", "n", "draws", *(COLUMNS[c][0] for c in shown), *(["on"] if gpus else [])], body)
    return lines + [words for gpu in gpus for words in ("", f"{marks[gpu]}: {gpu}.")]


def _figure(rows: list[Row], column: str) -> str:
    values = list(by_problem(rows, rows[0]["method"], rows[0]["setting"], column).values())
    if column in (*LAYOUT.later, "spread_skill") and len(values) < len(rows):
        return ""  # rows of before lack it, or draws too wide for it, and the others are no fair sample
    if column in ("seconds", "memory") and len({r["device"] for r in rows}) > 1:
        return ""
    middle, low, high = median_interval(values)
    digits = COLUMNS[column][1]
    text = cell(middle, digits)
    if column in INTERVALS and low == low:
        text += f" ({cell(low, digits)} to {cell(high, digits)})"
    return text


def _range(values: list[int]) -> str:
    return str(min(values)) if min(values) == max(values) else f"{min(values)} to {max(values)}"


def _comparison(rows: list[Row]) -> list[str]:
    score = score_of(rows)
    found, better = compared(rows, score), compared(rows, "psnr")
    if not found:
        return []
    body = []
    for (method, setting), p in found.items():
        interval = "" if p.low != p.low else f"{p.low:+.4f} to {p.high:+.4f}"
        value = "" if p.p_value != p.p_value else f"{p.p_value:.3f}"
        gain = better.get((method, setting))
        line = [label({"method": method, "setting": setting}), str(p.n), f"{p.difference:+.4f}", interval, value]
        body.append([*line, "" if gain is None else f"{gain.difference:+.2f}"])
    words = f"{SCORES[score]} of {DEFAULT} less that of"
    return ["", *markdown([words, "n", "mean difference", "95 % interval", "Wilcoxon p", "PSNR, mean difference"], body)]


def _verdicts(rows: dict[str, list[Row]]) -> list[str]:
    """CRPS, PSNR and coverage of the default against the best of the others, and how soon it reaches the best peer's CRPS."""
    body = []
    for name, these in rows.items():
        for (kind,), of_cell in groups(these, "cell").items():
            score = score_of(of_cell)
            if compared(of_cell, score):
                figures = lead(of_cell, score, 4), lead(of_cell, "psnr", 2), coverage_lead(of_cell), speed(of_cell)
                body.append([name, kind, *figures])
    head = ["suite", "cell", "CRPS (withheld chi2)", "PSNR", "distance from 90 % coverage", "time to the best peer's CRPS"]
    return [WHO, "", *markdown(head, body)] if body else [f"Nobody: there are no figures to hold those of `{DEFAULT}` against."]


def _tuned(rows: dict[str, list[Row]]) -> list[str]:
    """Against the others when ours too is tuned."""
    table = as_tuned(rows)
    return ["", "## When ours too is tuned", "", TUNED_TOO, "", *table] if table else []


def _equal(rows: dict[str, list[Row]]) -> list[str]:
    """Against the peers at as many network calls, and what MRI 4x was to show."""
    table = at_equal_calls(rows)
    if not table:
        return []
    lines = ["", "## At equal network calls", "", EQUALLY, "", *table]
    claims = [c for kind in ("4x", "whole, 4x") if (c := mri_claim(rows.get("mri", []), kind))]
    if claims:
        lines += ["", "### What MRI 4x was to show", "", SHOWN]
        for claim in claims:
            lines += ["", *claim_lines(claim)]
    return lines


def _tuning() -> list[str]:
    """What was tried and chosen, from the log."""
    body = []
    for suite, cells in json.loads(TUNED.read_text()).items():
        for kind, found in cells.items():
            for method, entry in found.items():
                figures = [e.get("crps", e.get("held_chi2")) for e in entry["log"] if "failed" not in e]
                words = json.dumps(entry["chosen"]) if entry["chosen"] else "the default"
                spread = f"{cell(min(figures), 4)} to {cell(max(figures), 4)}" if figures else "all failed"
                body.append([f"{suite}: {kind}", method, str(len(entry["log"])), f"`{words}`", spread])
    words = (
        "`python -m benchmarks tune`: baselines on two development problems; samplers, ours as the peers', on a small one with "
        f"six draws; at most {MOST_TRIED} settings each, peers as many again at equal calls. A choice at the end of a grid "
        "(`benchmarks/fields/grids.json`) says that more may be had beyond. Where it does not say otherwise "
        "the comparisons above are of our default. Methods that no line names were not tuned there."
    )
    return [words, "", *markdown(["problems", "method", "settings", "chosen", "CRPS (withheld chi2) of these"], body)]


def _provenance(rows: list[Row]) -> list[str]:
    # One line a prior: the code differs from method to method, and a line for each would say little.
    shown = [r | {"prior": r["revision"].partition(", ")[2]} for r in rows]
    body = [[*k, str(len(v))] for k, v in sorted(groups(shown, "machine", "device", "prior", "versions").items())]
    words = (
        "Every row holds a hash of the code that it was computed with, as far as its problem and its method need it, and one "
        "of the weights of the prior, shown here. `python -m benchmarks report` counts the rows that other code made; "
        "`run --renew` computes them again."
    )
    return [words, "", *markdown(["machine", "networks on", "prior", "versions", "rows"], body)]
