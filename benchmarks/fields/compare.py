"""Our default sampler against every other method, problem by problem."""

from __future__ import annotations

import json
import math
from statistics import median
from typing import Any

from benchmarks.fields.methods import DEFAULT, EQUAL, EQUAL_TUNED, OURS, PEERS, chosen
from benchmarks.harness.device import CPU
from benchmarks.harness.markdown import cell, groups, label, markdown
from benchmarks.harness.statistics import Paired, paired
from benchmarks.harness.table import Row

Key = tuple[str, str]  # method and setting
SCORES = {"crps": "CRPS", "held_chi2": "withheld chi2"}  # what a cell is judged by, and what where no truth is known
OVER_L1, OVER_PEER, NEAR = 3.0, 1.0, 0.03  # dB, dB and share of pixels that MRI 4x was to show


def score_of(rows: list[Row]) -> str:
    """The column that a cell is judged by."""
    return next((s for s in SCORES if any(r[s] for r in rows)), "crps")


def by_problem(rows: list[Row], method: str, setting: str, column: str) -> dict[str, float]:
    """A figure of one method on each problem; a point estimate is the mean of all that it has."""
    found = {}
    for r in rows:
        if (r["method"], r["setting"], r["status"]) == (method, setting, "ok"):
            value = r[column] or (r["psnr"] if column == "psnr_all" and r["point"] else "")
            if value:
                found[r["problem"]] = float(value)
    return found


def rivals(rows: list[Row]) -> list[Key]:
    """All methods that are none of ours, at default and tuned settings and at equal calls; other budgets are for the curves."""
    others = {(r["method"], r["setting"]) for r in rows if r["method"] not in OURS}
    return sorted(k for k in others if k[1] in ("default", "tuned", EQUAL, EQUAL_TUNED))


def within_calls(rows: list[Row]) -> list[Key]:
    """Peers that make no more network calls a draw than our default on any problem, whatever the setting."""
    ours = by_problem(rows, DEFAULT, "default", "nfe")
    calls = groups([r for r in rows if r["status"] == "ok" and r["method"].split()[0] in PEERS], "method", "setting")
    most = max(ours.values(), default=-1.0)
    return sorted(k for k, these in calls.items() if max(float(r["nfe"]) for r in these) <= most)


def compared(rows: list[Row], column: str, among: list[Key] | None = None, setting: str = "default") -> dict[Key, Paired]:
    """The default sampler, at its default or at another setting, less each of ``among``, of all `rivals` where None."""
    mine = by_problem(rows, DEFAULT, setting, column)
    found = {k: paired(mine, by_problem(rows, *k, column)) for k in (rivals(rows) if among is None else among)}
    return {k: v for k, v in found.items() if v.n}


def best_of(found: dict[Key, Paired], column: str) -> Key:
    """The method that does best against the default."""
    better = -1 if column in SCORES else 1
    return min(found, key=lambda k: better * found[k].difference)


def lead(rows: list[Row], column: str, digits: int, among: list[Key] | None = None, setting: str = "default") -> str:
    """Mean figures of the default sampler and of the method that does best against it, and who is ahead."""
    found = compared(rows, column, among, setting)
    if not found:
        return ""
    best = best_of(found, column)
    p = found[best]
    mine, theirs = by_problem(rows, DEFAULT, setting, column), by_problem(rows, *best, column)
    a, b = (sum(v[k] for k in mine if k in theirs) / p.n for v in (mine, theirs))
    words = f"{cell(a, digits)}, {cell(b, digits)} of {named(best)}"
    unit, scale, digits_of_gain = (" %", -100 / b, 0) if column in SCORES else (" dB", 1.0, 1)
    gain, *ends = (scale * v for v in (p.difference, p.low, p.high))
    verdict = f"{'leads' if gain > 0 else '**loses**'} by {abs(gain):.{digits_of_gain}f}{unit}"
    broken = broke_down(rows, best, set(mine))
    if p.n < 3:
        return f"{words}: {verdict}, {p.n} problem{'s' * (p.n > 1)}{broken}: too few to test"
    low, high = (f"{v if gain > 0 else -v:+.{digits_of_gain}f}" for v in sorted(ends, reverse=gain < 0))
    doubt = ", within the error" if p.low <= 0 <= p.high else ""
    return f"{words}: {verdict} ({low} to {high}), {p.n} problems{doubt}{broken}"


def broke_down(rows: list[Row], key: Key, judged: set[str]) -> str:
    """On how many of the problems that are judged a method failed, in words; nothing where on none."""
    failed = {r["problem"] for r in rows if (r["method"], r["setting"], r["status"]) == (*key, "failed")} & judged
    return f" (it failed on {len(failed)} more)" if failed else ""


def named(key: Key) -> str:
    """Method and setting in words."""
    return label({"method": key[0], "setting": key[1]})


def coverage_lead(rows: list[Row]) -> str:
    """Distance of the mean share inside 90 % intervals from 0.9, of the truth or else of withheld data."""
    column = "cov90" if score_of(rows) == "crps" else "held_cov90"
    mine = by_problem(rows, DEFAULT, "default", column)
    best, words = math.inf, ""
    for key in rivals(rows):
        theirs = by_problem(rows, *key, column)
        common = [k for k in mine if k in theirs]
        if not common:
            continue
        a, b = (abs(sum(v[k] for k in common) / len(common) - 0.9) for v in (mine, theirs))
        if b - a < best:
            best = b - a
            verdict = "leads" if a <= b else "**loses**"
            count = f"{len(common)} problem{'s' * (len(common) > 1)}"
            words = f"{cell(a, 3)}, {cell(b, 3)} of {named(key)}: {verdict}, {count}{broke_down(rows, key, set(mine))}"
    return words


def speed(rows: list[Row]) -> str:
    """Seconds a draw of the default over those of the best peer, where the default reaches its CRPS, device by device."""
    found = {device: _speed(these) for (device,), these in sorted(groups(rows, "device").items())}
    return "; ".join(words if device == CPU else f"{words}, on {device}" for device, words in found.items() if words)


def _speed(rows: list[Row]) -> str:
    """Of rows whose times may be compared."""
    found = compared(rows, "crps", sorted({(r["method"], r["setting"]) for r in rows if r["method"].split()[0] in PEERS}))
    if not found:
        return ""
    best = best_of(found, "crps")
    if found[best].difference > 0:
        return f"not reached ({named(best)})"
    ours, theirs = _seconds(rows, (DEFAULT, "default")), _seconds(rows, best)
    common = ours.keys() & theirs.keys()
    return f"{sum(ours[k] for k in common) / sum(theirs[k] for k in common):.2f} of that of {named(best)}"


def _seconds(rows: list[Row], method: Key) -> dict[str, float]:
    """A draw, on each problem that is judged."""
    draws, judged = by_problem(rows, *method, "draws"), by_problem(rows, *method, "crps")
    return {k: v / draws[k] for k, v in by_problem(rows, *method, "seconds").items() if k in judged}


def as_tuned(rows: dict[str, list[Row]]) -> list[str]:
    """The default sampler at its tuned setting against all others, cell by cell."""
    body = []
    for suite, these in rows.items():
        for (kind,), of_cell in groups(these, "cell").items():
            score = score_of(of_cell)
            if compared(of_cell, score, setting="tuned"):
                tuned, default = (_seconds(of_cell, (DEFAULT, s)) for s in ("tuned", "default"))
                slower = [tuned[k] / default[k] for k in tuned if k in default]
                settings = {k: v for k, v in (chosen(suite, kind, DEFAULT) or {}).items() if v is not None}
                figures = (lead(of_cell, column, digits, setting="tuned") for column, digits in ((score, 4), ("psnr", 2)))
                body.append([suite, kind, f"`{json.dumps(settings)}`", cell(median(slower), 1) if slower else "", *figures])
    head = ["suite", "cell", "setting", "seconds over the default's, median", "CRPS (withheld chi2)", "PSNR"]
    return markdown(head, body) if body else []


def at_equal_calls(rows: dict[str, list[Row]]) -> list[str]:
    """The default against the best peer that makes at most as many network calls a draw, cell by cell."""
    body = []
    for suite, these in rows.items():
        for (kind,), of_cell in groups(these, "cell").items():
            peers, score = within_calls(of_cell), score_of(of_cell)
            if compared(of_cell, score, peers):
                calls = max(by_problem(of_cell, DEFAULT, "default", "nfe").values())
                figures = lead(of_cell, score, 4, peers), lead(of_cell, "psnr", 2, peers)
                body.append([suite, kind, cell(calls, 0), str(len(peers)), *figures])
    return markdown(["suite", "cell", "calls", "lines of peers", "CRPS (withheld chi2)", "PSNR"], body) if body else []


def mri_claim(rows: list[Row], kind: str) -> dict[str, Any] | None:
    """What MRI 4x was to show, in numbers: dB over L1-wavelet and over the best peer at equal calls, and the share in 90 %."""
    of_cell = [r for r in rows if r["cell"] == kind]
    baseline = [("L1-wavelet", "tuned")]
    over, all_draws = (compared(of_cell, column, baseline).get(baseline[0]) for column in ("psnr", "psnr_all"))
    peers = compared(of_cell, "psnr", within_calls(of_cell))
    shares = by_problem(of_cell, DEFAULT, "default", "cov90")
    if over is None or not shares:
        return None
    best = best_of(peers, "psnr") if peers else None
    share = sum(shares.values()) / len(shares)
    gain = over if all_draws is None else all_draws
    return {
        "cell": kind,
        "calls": max(by_problem(of_cell, DEFAULT, "default", "nfe").values()),
        "over_l1": _numbers(over),
        "over_l1_all_draws": None if all_draws is None else _numbers(all_draws),
        "best_peer_at_equal_calls": None if best is None else named(best),
        "over_best_peer": None if best is None else _numbers(peers[best]),
        "coverage90": round(share, 4),
        "met": {
            "over_l1": gain.difference >= OVER_L1,
            "over_best_peer": None if best is None else peers[best].difference >= OVER_PEER,
            "coverage90": abs(share - 0.9) <= NEAR,
        },
    }


def _numbers(p: Paired) -> dict[str, float | int | None]:
    ends = {"low": p.low, "high": p.high}
    return {"dB": round(p.difference, 3), **{k: None if v != v else round(v, 3) for k, v in ends.items()}, "problems": p.n}


def claim_lines(claim: dict[str, Any]) -> list[str]:
    """A sentence, and the same as one line of JSON."""
    few, many, peer = claim["over_l1"], claim["over_l1_all_draws"], claim["over_best_peer"]
    words = f"*{claim['cell']}*: {_decibels(few)} over L1-wavelet by the mean of 8 draws"
    if many:
        words += f", {_decibels(many)} by that of all draws"
    words += f": {_verdict(claim['met']['over_l1'], many or few, OVER_L1)}. "
    calls = f"at most {claim['calls']:.0f} network calls a draw"
    if peer:
        words += f"{_decibels(peer)} over {claim['best_peer_at_equal_calls']}, the best peer with {calls} (VJPs not counted): "
        words += f"{_verdict(claim['met']['over_best_peer'], peer, OVER_PEER)}. "
    else:
        words += f"No peer was run with {calls}. "
    share = f"{100 * claim['coverage90']:.1f} % in 90 % intervals"
    words += f"{share}: {'met' if claim['met']['coverage90'] else '**missed**'}."
    return [words, "", f"`{json.dumps(claim)}`"]


def _verdict(met: bool, numbers: dict[str, Any], bound: float) -> str:
    words = "met" if met else "**missed**"
    if numbers["low"] is None:
        return f"{words}, too few to test"
    return f"{words}, within the error" if numbers["low"] < bound < numbers["high"] else words


def _decibels(numbers: dict[str, Any]) -> str:
    text = f"{numbers['dB']:+.2f} dB"
    if numbers["low"] is not None:
        text += f" ({numbers['low']:+.2f} to {numbers['high']:+.2f})"
    return f"{text}, {numbers['problems']} problem{'s' * (numbers['problems'] > 1)},"
