"""Pages made from the results file alone."""

from __future__ import annotations

import math
from pathlib import Path

from benchmarks.exact.limits import ABOUT, limits_table
from benchmarks.exact.methods import EXACT, LIBRARIES, OURS, methods, takes_part
from benchmarks.exact.suites import DEVELOPMENT, FRESH, SUITES, Suite
from benchmarks.harness.markdown import cell, fill, groups, label, markdown, mean, reasons
from benchmarks.harness.table import Row

HEADER = """# Measured: samplers against exact posteriors

Written by `python -m benchmarks report` from `benchmarks/results/exact.csv`. Every problem has a prior whose
denoiser is exact and a posterior that is known, so each error below is the sampler's own.

- Our samplers run at their default constructors. deepinv and azula run at their documented defaults and, where a line says
  tuned, at the best of the grid in `benchmarks/peers/grids.json`, chosen on other problems (`benchmarks/peers/tuned.json`).
  A peer without a tuned line was best at its defaults there or, where that file does not name it, was not tuned.
- *W2 ratio*: sliced 2-Wasserstein distance to exact draws over that between two sets of exact draws; 1 is the floor.
- *bias*: root mean square of (mean - exact mean) / exact std, Monte-Carlo error taken out. *std*: mean of std / exact std.
  *std error*: mean of its distance from 1, and the 90 % quantile over coordinates. *coverage*: exact probability of the
  sampler's central 90 % intervals. *modes*: total variation of the shares of the modes.
- *calls*, *VJPs*: denoiser calls and vector-Jacobian products through it for each draw; *s*: seconds for 100 draws, one
  thread, on cores shared with other work, which can make them several times too long.
- The line *exact draws* shows what a perfect sampler scores with as many draws.
- * marks methods that return a point estimate: their spread means nothing and only the bias is to be read.
"""

FRESH_ABOUT = f"""Problems from number {FRESH} on (`python -m benchmarks run mixture --first {FRESH} --problems 10`). No
setting was chosen on them, no default of ours and nothing that a peer was tuned to. In the second table W2 distances are
compared problem by problem: the geometric mean of the first over the second, and on how many problems the first is nearer."""


def over_cells(rows: list[Row], column: str) -> float:
    """The mean over cells of the mean over each one's problems: cells count alike, however many problems they have."""
    values = [value for these in groups(rows, "cell").values() if math.isfinite(value := mean(these, column))]
    return sum(values) / len(values) if values else math.nan


def bias(rows: list[Row]) -> float:
    """Root of the mean squared bias; Monte-Carlo error can leave less than nothing."""
    return math.sqrt(max(0.0, over_cells(rows, "bias2")))


def marked(rows: list[Row]) -> str:
    """The method and its setting, marked where it gives point estimates."""
    return label(rows[0]) + ("\\*" if any(r["point"] for r in rows) else "")


def ordered(rows: list[Row]) -> list[list[Row]]:
    """Rows of each method and setting, in the order of the method list."""
    peers = [f"{library} {kind}" for library, kinds in LIBRARIES.items() for kind in kinds]
    order = [EXACT, *OURS, *peers]
    found = groups(rows, "method", "setting")
    return [found[k] for k in sorted(found, key=lambda k: (order.index(k[0]) if k[0] in order else len(order), k))]


def ratio_table(rows: list[Row], cells: list[str]) -> list[str]:
    """W2 ratio in every cell."""
    body = []
    for of_method in ordered(rows):
        by_cell = groups(of_method, "cell")
        values = [_ratio(by_cell.get((c,), [])) for c in cells]
        body.append([marked(of_method), *values, _problems(of_method)])
    return markdown(["W2 ratio", *cells, "problems"], body)


def _ratio(rows: list[Row]) -> str:
    fine = [r for r in rows if r["status"] == "ok"]
    if not fine:
        return rows[0]["status"] if rows else ""
    return cell(over_cells(fine, "ratio"))


def _problems(rows: list[Row]) -> str:
    counts = sorted({len(g) for g in groups(rows, "cell").values()})
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def moment_table(rows: list[Row]) -> list[str]:
    """Moments, coverage and cost, over all cells."""
    modes = any(r["mode_error"] for r in rows)
    head = ["mean over cells", "bias", "std", "std error", "worst tenth", "coverage", *(["modes"] if modes else [])]
    body = []
    for of_method in ordered([r for r in rows if r["status"] == "ok"]):
        line = [marked(of_method), cell(bias(of_method)), *(cell(over_cells(of_method, c)) for c in ("std_ratio", "std_error"))]
        line += [cell(over_cells(of_method, "worst_std")), cell(over_cells(of_method, "coverage90"))]
        line += [cell(over_cells(of_method, "mode_error"))] if modes else []
        body.append([*line, *costs(of_method)])
    return markdown([*head, "calls", "VJPs", "s"], body)


def cell_table(rows: list[Row], cells: list[str]) -> list[str]:
    """Bias, std and coverage in every cell."""
    body = []
    for of_method in ordered([r for r in rows if r["status"] == "ok"]):
        by_cell = groups(of_method, "cell")
        body.append([marked(of_method), *(_moments(by_cell.get((c,), [])) for c in cells)])
    return markdown(["bias / std / coverage", *cells], body)


def _moments(rows: list[Row]) -> str:
    if not rows:
        return ""
    spread = "" if rows[0]["point"] else f" / {cell(mean(rows, 'std_ratio'), 3)} / {cell(mean(rows, 'coverage90'))}"
    return f"{cell(bias(rows), 3)}{spread}"


def lacking(rows: list[Row], suite: Suite) -> list[str]:
    """Methods of which a full run has rows that are not there, with the cells that they do have."""
    there = {(m, s): {r["cell"] for r in these} for (m, s), these in groups(rows, "method", "setting").items()}
    found = []
    for method in methods():
        have = len(there.get((method.name, method.setting), ()))
        if takes_part(method, suite.name) and have < len(suite.cells):
            name = method.name + ("" if method.setting == "default" else f", {method.setting}")
            found.append(name + (f" (but in {have} of {len(suite.cells)} cells)" if have else ""))
    return found


def costs(rows: list[Row]) -> list[str]:
    """Calls, products and seconds for 100 draws."""
    seconds = sum(100 * float(r["seconds"]) / float(r["draws"]) for r in rows) / len(rows)
    return [cell(over_cells(rows, "nfe"), 0), cell(over_cells(rows, "vjps"), 0), cell(seconds)]


def scored(rows: list[Row]) -> list[Row]:
    """Without fresh problems, which are shown apart."""
    return [r for r in rows if int(r["problem"]) < FRESH]


def fresh_tables(rows: list[Row]) -> list[str]:
    """Sections on problems that no setting was chosen on."""
    lines = []
    for suite in SUITES.values():
        these = [r for r in rows if r["suite"] == suite.name and int(r["problem"]) >= FRESH]
        if not these:
            continue
        cells = [c for c in suite.cells if any(r["cell"] == c for r in these)]
        lines += ["", f"## Fresh problems: {suite.name}", "", FRESH_ABOUT, "", *ratio_table(these, cells)]
        lines += ["", *pair_table(these, cells)]
    return lines


def pair_table(rows: list[Row], cells: list[str]) -> list[str]:
    """Each of our samplers beside each peer on the same problems."""
    body = []
    named = {marked(these): these for these in ordered([r for r in rows if r["status"] == "ok"])}
    for name, ours in named.items():
        for other, peers in named.items():
            if ours[0]["method"] in OURS and peers[0]["method"].split()[0] in LIBRARIES:
                body.append([f"{name}, {other}", *(_pair(ours, peers, c) for c in cells), *_calls(ours, peers)])
    head = ["first over second, problems where the first is nearer", *cells, "calls", "VJPs"]
    return markdown(head, body)


def _pair(ours: list[Row], peers: list[Row], cell_name: str) -> str:
    by_problem = [{r["problem"]: float(r["sw2"]) for r in rows if r["cell"] == cell_name} for rows in (ours, peers)]
    common = by_problem[0].keys() & by_problem[1].keys()
    if not common:
        return ""
    ratios = [by_problem[0][p] / by_problem[1][p] for p in common]
    middle = math.exp(sum(map(math.log, ratios)) / len(ratios))
    return f"{cell(middle)}, {sum(r < 1 for r in ratios)} of {len(ratios)}"


def _calls(ours: list[Row], peers: list[Row]) -> list[str]:
    return [f"{cell(over_cells(ours, c), 0)}, {cell(over_cells(peers, c), 0)}" for c in ("nfe", "vjps")]


def results_page(rows: list[Row]) -> str:
    """The page of all results."""
    lines = [HEADER.rstrip()]
    for suite in SUITES.values():
        these = [r for r in scored(rows) if r["suite"] == suite.name]
        if not these:
            continue
        cells = [c for c in suite.cells if any(r["cell"] == c for r in these)]
        draws = sorted({int(r["draws"]) for r in these})
        size = " to ".join(str(n) for n in ({draws[0], draws[-1]} if len(draws) > 1 else draws))
        lines += ["", f"## {suite.name.capitalize()}", "", f"{suite.about} {size} draws a problem.", ""]
        lines += [*ratio_table(these, cells), "", *moment_table(these), "", *cell_table(these, cells)]
        missing = lacking(these, suite)
        lines += ["", f"Not run: {', '.join(missing)}."] if missing else []
    lines += fresh_tables(rows)
    held = limits_table(rows)
    lines += ["", "## Limits", "", ABOUT, "", *held] if held else []
    found = reasons(rows)
    if found:
        lines += ["", "## Not run, or failed", "", *found]
    lines += ["", "## Versions", "", *sorted({f"- {r['versions']}" for r in rows})]
    return "\n".join(lines) + "\n"


def choice_tables(rows: list[Row]) -> dict[str, list[str]]:
    """The tables of the page on choosing a sampler: "errors" and "costs" of our own, by suite."""
    ours = [r for r in scored(rows) if r["method"] in (*OURS, EXACT)]
    suites = [s for s in SUITES if any(r["suite"] == s for r in ours)]
    errors, spent = [], []
    for of_method in ordered(ours):
        by_suite = groups(of_method, "suite")
        line, cost = [marked(of_method)], [marked(of_method)]
        for suite in suites:
            these = by_suite.get((suite,), [])
            fine = [r for r in these if r["status"] == "ok"]
            if not fine:
                line.append(these[0]["status"] if these else "")
                cost.append("")
                continue
            spread = (
                "" if fine[0]["point"] else f" / {cell(over_cells(fine, 'std_ratio'))} / {cell(over_cells(fine, 'coverage90'))}"
            )
            line.append(f"{cell(over_cells(fine, 'ratio'))} / {cell(bias(fine))}{spread}")
            cost.append(" / ".join(costs(fine)))
        errors.append(line)
        if of_method[0]["method"] != EXACT:
            spent.append(cost)
    return {
        "errors": markdown(["W2 ratio / bias / std / coverage", *suites], errors),
        "costs": markdown(["calls / VJPs / s for 100 draws", *suites], spent),
    }


def write_pages(rows: list[Row], results: Path, choosing: Path | None) -> None:
    """Both pages, without problems that settings were chosen on; the second keeps its prose."""
    rows = [r for r in rows if not DEVELOPMENT <= int(r["problem"]) < FRESH]
    results.write_text(results_page(rows))
    if choosing is not None:
        choosing.write_text(fill(choosing.read_text(), choice_tables(rows)))
