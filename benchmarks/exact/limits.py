"""What samplers are held to, and what the rows say of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from statistics import mean, stdev

from benchmarks.exact.methods import LIBRARIES
from benchmarks.exact.suites import FRESH, SUITES
from benchmarks.harness.markdown import cell, groups, label, markdown
from benchmarks.harness.table import Row

ABOUT = """Every limit is on the default constructor, cell by cell, and on means over the problems that were scored. After +- is
the standard error of that mean, over problems. Peers are compared on the problems that both have; named is the peer that comes
nearest, at its defaults or tuned. On random fields there is one problem, and what is left is the error of so many draws, which
the line of exact draws shows; for MMPS `tests/test_random_field.py` computes the law of its draws on these problems without
drawing, and holds that to the same limits in all four."""


def limits_table(rows: list[Row]) -> list[str]:
    """A line for each limit: what is wanted, what was measured, and whether that holds."""
    body: list[list[str]] = []
    for suite, about, wanted, judge in _limits():
        these = [r for r in rows if r["suite"] == suite]
        cells = [c for c in SUITES[suite].cells if any(r["cell"] == c for r in these)]
        found = [judge([r for r in these if r["cell"] == c]) for c in cells]
        known = [f for f in found if f is not None]
        if known:
            missing = "" if len(known) == len(SUITES[suite].cells) else f" ({len(known)} of {len(SUITES[suite].cells)} cells)"
            holds = "yes" if all(fine for _, fine in known) else "no"
            body.append([about, wanted, ", ".join(words for words, _ in known), holds + missing])
    mixed = _scored(rows, "mixture", "TDS")
    if mixed:
        middle = mean(_mean(these, "ratio")[0] for these in groups(mixed, "cell").values())
        body.insert(0, ["mixture: TDS, W2 ratio, mean over cells", "1.25", cell(middle), "yes" if middle <= 1.25 else "no"])
    return markdown(["limit", "at most", "measured, cell by cell", "holds"], body) if body else []


Judge = Callable[[list[Row]], tuple[str, bool] | None]


def _limits() -> Iterable[tuple[str, str, str, Judge]]:
    """Suite, words, limit in words, and what judges the rows of a cell."""
    yield "mixture", "mixture: TDS, W2 ratio", "2", _at_most("TDS", "ratio", 2.0)
    yield "mixture", "mixture: TDS, std off by", "0.05", _within("TDS", "std_ratio", 1.0, 0.05)
    yield "mixture", "mixture: TDS, 90 % coverage off by", "0.03", _within("TDS", "coverage90", 0.9, 0.03)
    yield "mixture", "mixture: TDS, W2 ratio over that of the nearest peer", "1", _nearer("TDS", tuple(LIBRARIES))
    yield "mixture", "mixture: AFDPS, W2 ratio", "2", _at_most("AFDPS", "ratio", 2.0)
    yield "mixture", "mixture: FKFilter, W2 ratio", "3", _at_most("FKFilter", "ratio", 3.0)
    yield "mixture", "mixture: MMPS, W2 ratio over that of azula's", "1", _nearer("MMPS", ("azula MMPS",))
    fresh = _nearer("MMPS", ("azula MMPS",), fresh=True)
    yield "mixture", f"mixture, problems from {FRESH} on: MMPS, W2 ratio over that of azula's", "1", fresh
    for name in ("MMPS", "TDS", "AFDPS"):
        yield "random field", f"random field: {name}, bias", "0.05", _bias(name, 0.05)
        yield "random field", f"random field: {name}, std off by", "0.03", _within(name, "std_ratio", 1.0, 0.03)
    for name in ("TDS", "AFDPS"):
        yield "nonlinear", f"nonlinear: {name}, W2 ratio", "1.5", _at_most(name, "ratio", 1.5)


def _scored(rows: list[Row], suite: str, name: str) -> list[Row]:
    return [r for r in rows if r["suite"] == suite and r["method"] == name and int(r["problem"]) < FRESH]


def _mean(rows: list[Row], column: str) -> tuple[float, float]:
    """Mean and its standard error; a row without a figure makes both infinite, so that no limit is met."""
    values = [float(r[column]) if r["status"] == "ok" else math.inf for r in rows]
    return mean(values), stdev(values) / len(values) ** 0.5 if len(values) > 1 and math.isfinite(sum(values)) else math.nan


def _of(rows: list[Row], name: str, fresh: bool = False) -> list[Row]:
    return [r for r in rows if r["method"] == name and (int(r["problem"]) >= FRESH) == fresh]


def _shown(value: float, error: float, digits: int = 2) -> str:
    return cell(value, digits) + (f" +- {cell(error, digits)}" if math.isfinite(error) else "")


def _at_most(name: str, column: str, limit: float) -> Judge:
    def judge(rows: list[Row]) -> tuple[str, bool] | None:
        own = _of(rows, name)
        if not own:
            return None
        value, error = _mean(own, column)
        return _shown(value, error), value <= limit

    return judge


def _within(name: str, column: str, target: float, limit: float) -> Judge:
    def judge(rows: list[Row]) -> tuple[str, bool] | None:
        own = _of(rows, name)
        if not own:
            return None
        value, error = _mean(own, column)
        return _shown(value - target, error, 3), abs(value - target) <= limit

    return judge


def _bias(name: str, limit: float) -> Judge:
    def judge(rows: list[Row]) -> tuple[str, bool] | None:
        own = _of(rows, name)
        if not own:
            return None
        value = math.sqrt(max(0.0, _mean(own, "bias2")[0]))
        return cell(value, 3), value < limit

    return judge


def _nearer(name: str, peers: tuple[str, ...], fresh: bool = False) -> Judge:
    """Mean W2 ratio over that of each peer on common problems: the largest such figure, and whose it is."""

    def judge(rows: list[Row]) -> tuple[str, bool] | None:
        own = {r["problem"]: float(r["ratio"]) for r in _of(rows, name, fresh) if r["status"] == "ok"}
        found = []
        beside = [r for r in rows if r["method"].startswith(peers) and r["status"] == "ok"]
        for peer in groups(beside, "method", "setting").values():
            theirs = {r["problem"]: float(r["ratio"]) for r in peer if (int(r["problem"]) >= FRESH) == fresh}
            common = own.keys() & theirs.keys()
            if common:
                ratio = sum(own[p] for p in common) / sum(theirs[p] for p in common)
                found.append((ratio, label(peer[0]), sum(own[p] < theirs[p] for p in common), len(common)))
        if not found:
            return None
        ratio, nearest, won, count = max(found)
        return f"{cell(ratio)} ({nearest}; nearer on {won} of {count})", ratio < 1

    return judge
