"""The page of all suites on fields, made from the results files alone."""

from __future__ import annotations

import json
import math
from pathlib import Path

from benchmarks.fields.benchmark import BENCHMARKS, LAYOUT
from benchmarks.fields.cases import Suite
from benchmarks.fields.methods import DEFAULT, MOST_TRIED, OURS, TUNED
from benchmarks.harness.markdown import cell, groups, label, markdown, mean, reasons
from benchmarks.harness.statistics import Paired, median_interval, paired
from benchmarks.harness.table import Row

HEADER = """# Measured: reconstructions with uncertainty

Written by `python -m benchmarks report` from `benchmarks/results`; `python -m benchmarks run` computes what is missing there.
The same with plots of accuracy against time and panels of reconstructions: `docs/results-benchmarks.html`.

- Our samplers run at their default constructors; the default sampler of the package is `GaussianBridge`. deepinv and azula run
  on the same priors, data and seeds at their documented defaults, and where a line says tuned at the best of the grid in
  `benchmarks/fields/grids.json`; baselines with a setting are tuned too. Tuning is on development problems that the tables
  never see (`benchmarks/fields/tuned.json` is the log, shown at the end). A line such as "20 steps" is another budget, for
  the curves.
- *n*: problems; *draws*: of each. Methods that cost more than a hundred network calls a draw have fewer problems.
- Figures are medians over problems, in brackets the 95 % bootstrap interval of the median where there are three or more.
- *PSNR* (dB), *SSIM*, *NRMSE* (over the standard deviation of the truth) are of the point estimate: the mean of the first 8
  draws for every method that draws. *ST-LPIPS*: perceptual distance of the same (shift-tolerant LPIPS, arXiv:2207.13686), of
  images that people look at; LPIPS itself is not here, since no package brings its network's weights in a safe file.
  *CRPS* (fair) is in units of the field; of a point estimate it is the mean absolute error. *energy*: fair energy score over
  the root of the number of pixels. *chi2*: mean over draws of ||y - A x||^2 / (m sigma^2).
- *50 %* to *95 %*: share of pixels inside that central interval; empty where there are too few draws (90 % takes 19).
  *spread*: spread over error, 1 if calibrated. *AUSE*: area under the sparsification error. *spectrum*: mean |log10| ratio of
  the power of draws to that of the truth. *calls*, *VJPs*: network calls and vector-Jacobian products a draw; *s*: processor
  seconds of one thread for all draws of a problem; *MB*: peak memory beyond what was there before.
- Point estimates have no uncertainty, and none is judged of them.
"""
COLUMNS = {
    "psnr": ("PSNR", 2),
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
    """Rows of each suite that has any."""
    found = {name: LAYOUT.read(folder / f"{name}.csv") for name in BENCHMARKS}
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
    lines = [HEADER.rstrip(), "", "## Who leads", "", *_verdicts(rows)]
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
    body = []
    for these in ordered(rows, suite):
        line = [label(these[0]) + (" (point)" if these[0]["point"] else ""), str(len(these))]
        line.append("" if these[0]["point"] else _range([int(r["draws"]) for r in these]))
        body.append([*line, *(_figure(these, column) for column in shown)])
    return markdown(["method", "n", "draws", *(COLUMNS[c][0] for c in shown)], body)


def _figure(rows: list[Row], column: str) -> str:
    values = [float(r[column]) for r in rows if r[column]]
    middle, low, high = median_interval(values)
    digits = COLUMNS[column][1]
    text = cell(middle, digits)
    if column in INTERVALS and low == low:
        text += f" ({cell(low, digits)} to {cell(high, digits)})"
    return text


def _range(values: list[int]) -> str:
    return str(min(values)) if min(values) == max(values) else f"{min(values)} to {max(values)}"


def by_problem(rows: list[Row], method: str, setting: str, column: str) -> dict[str, float]:
    """A figure of one method on each problem."""
    these = (r for r in rows if r["method"] == method and r["setting"] == setting and r["status"] == "ok" and r[column])
    return {r["problem"]: float(r[column]) for r in these}


def compared(rows: list[Row], column: str = "crps") -> dict[tuple[str, str], Paired]:
    """The default sampler less every other method that is none of ours, budgets left out."""
    mine = by_problem(rows, DEFAULT, "default", column)
    others = {(r["method"], r["setting"]) for r in rows if r["setting"] in ("default", "tuned") and r["method"] not in OURS}
    found = {k: paired(mine, by_problem(rows, *k, column)) for k in sorted(others)}
    return {k: v for k, v in found.items() if v.n}


def _comparison(rows: list[Row]) -> list[str]:
    found, better = compared(rows), compared(rows, "psnr")
    if not found:
        return []
    body = []
    for (method, setting), p in found.items():
        interval = "" if p.low != p.low else f"{p.low:+.4f} to {p.high:+.4f}"
        value = "" if p.p_value != p.p_value else f"{p.p_value:.3f}"
        gain = better.get((method, setting))
        line = [label({"method": method, "setting": setting}), str(p.n), f"{p.difference:+.4f}", interval, value]
        body.append([*line, "" if gain is None else f"{gain.difference:+.2f}"])
    head = [f"CRPS of {DEFAULT} less that of", "n", "mean difference", "95 % interval", "Wilcoxon p", "PSNR, mean difference"]
    return ["", *markdown(head, body)]


def _verdicts(rows: dict[str, list[Row]]) -> list[str]:
    """CRPS, PSNR and coverage of the default against the best of the others, and how soon it reaches the best peer's CRPS."""
    body = []
    for name, these in rows.items():
        for (kind,), of_cell in groups(these, "cell").items():
            if compared(of_cell):
                figures = (_lead(of_cell, "crps", 4), _lead(of_cell, "psnr", 2), _coverage_lead(of_cell), _speed(of_cell))
                body.append([name, kind, *figures])
    head = ["suite", "cell", "CRPS", "PSNR", "distance from 90 % coverage", "time to the best peer's CRPS"]
    words = f"`{DEFAULT}` at its default against the method that does best against it, none of ours, on the problems both have."
    return [words, "", *markdown(head, body)]


def _lead(rows: list[Row], column: str, digits: int) -> str:
    better = -1 if column == "crps" else 1
    found = compared(rows, column)
    best = min(found, key=lambda k: better * found[k].difference)
    p, name = found[best], label({"method": best[0], "setting": best[1]})
    mine, theirs = by_problem(rows, DEFAULT, "default", column), by_problem(rows, *best, column)
    a, b = (sum(v[k] for k in mine if k in theirs) / p.n for v in (mine, theirs))
    wins = better * p.difference > 0
    share = f"{100 * (a / b - 1):.0f} %" if column == "crps" else f"{b - a:.1f} dB"
    verdict = "leads" if wins else f"**loses** by {share}"
    if p.n < 3:
        verdict += f", {p.n} problem{'s' if p.n > 1 else ''}: too few to test"
    elif p.low <= 0 <= p.high:
        verdict += f", within the error of {p.n} problems"
    else:
        verdict += f", {p.n} problems"
    return f"{cell(a, digits)}, {cell(b, digits)} of {name}: {verdict}"


def _coverage_lead(rows: list[Row]) -> str:
    """Distance of the mean share inside 90 % intervals from 0.9."""
    mine = by_problem(rows, DEFAULT, "default", "cov90")
    best, words = math.inf, ""
    others = {(r["method"], r["setting"]) for r in rows if r["setting"] in ("default", "tuned") and r["method"] not in OURS}
    for key in sorted(others):
        theirs = by_problem(rows, *key, "cov90")
        common = [k for k in mine if k in theirs]
        if not common:
            continue
        a, b = (abs(sum(v[k] for k in common) / len(common) - 0.9) for v in (mine, theirs))
        if b - a < best:
            best = b - a
            verdict = "leads" if a <= b else "**loses**"
            words = f"{cell(a, 3)}, {cell(b, 3)} of {label({'method': key[0], 'setting': key[1]})}: {verdict}"
    return words


def _speed(rows: list[Row]) -> str:
    """Seconds a draw of the default over those of the peer with the best CRPS, where the default reaches that."""
    problems = {r["problem"] for r in rows if r["method"].split()[0] in ("deepinv", "azula") and r["status"] == "ok"}
    costs = {}
    for (method, setting), these in groups([r for r in rows if r["status"] == "ok"], "method", "setting").items():
        fine = [r for r in these if r["problem"] in problems and r["crps"] and not r["point"]]
        if fine and len(fine) == len(problems & {r["problem"] for r in these}):
            costs[method, setting] = mean(fine, "crps"), sum(float(r["seconds"]) / float(r["draws"]) for r in fine) / len(fine)
    peers = {k: v for k, v in costs.items() if k[0].split()[0] in ("deepinv", "azula")}
    if not peers or (DEFAULT, "default") not in costs:
        return ""
    best = min(peers, key=lambda k: peers[k][0])
    target, seconds = peers[best]
    ours = costs[DEFAULT, "default"]
    name = label({"method": best[0], "setting": best[1]})
    if ours[0] > target:
        return f"not reached ({name})"
    return f"{ours[1] / seconds:.2f} of that of {name}"


def _tuning() -> list[str]:
    """What was tried and chosen, from the log."""
    body = []
    for suite, cells in json.loads(TUNED.read_text()).items():
        for kind, found in cells.items():
            for method, entry in found.items():
                figures = [e["crps"] for e in entry["log"] if "crps" in e]
                words = json.dumps(entry["chosen"]) if entry["chosen"] else "the default"
                spread = f"{cell(min(figures), 4)} to {cell(max(figures), 4)}" if figures else "none ran"
                body.append([f"{suite}: {kind}", method, str(len(entry["log"])), f"`{words}`", spread])
    words = (
        "`python -m benchmarks tune`: baselines on two development problems; samplers, ours as the peers', on a small one with "
        f"six draws; at most {MOST_TRIED} settings each. The comparisons above are always of our default. Methods that no line "
        "names were not tuned there."
    )
    return [words, "", *markdown(["problems", "method", "settings", "chosen", "CRPS of these"], body)]


def _provenance(rows: list[Row]) -> list[str]:
    body = [[*k, str(len(v))] for k, v in sorted(groups(rows, "machine", "revision", "versions").items())]
    words = (
        "A revision is a hash of the code of the package (without its samplers, for methods that use none) and one of the "
        "weights of the prior; rows of before have that of a commit. `python -m benchmarks report` counts the rows that other "
        "code made; `run --renew` computes them again."
    )
    return [words, "", *markdown(["machine", "revision", "versions", "rows"], body)]
