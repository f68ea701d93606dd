"""Rows grouped and averaged, and tables of them in Markdown."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

from benchmarks.harness.table import Row


def groups(rows: list[Row], *columns: str) -> dict[tuple[str, ...], list[Row]]:
    """Rows that agree in ``columns``."""
    found: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(row[c] for c in columns), []).append(row)
    return found


def mean(rows: list[Row], column: str) -> float:
    """Over the rows that have a value."""
    values = [float(r[column]) for r in rows if r[column]]
    return sum(values) / len(values) if values else math.nan


def cell(value: float, digits: int = 2) -> str:
    """A number, or nothing."""
    if not math.isfinite(value):
        return ""
    return f"{value:.{digits}f}" if abs(value) < 1000 else f"{value:.3g}"


def markdown(head: Iterable[str], body: Iterable[Iterable[str]]) -> list[str]:
    """A table."""
    head = list(head)
    return [_line(head), _line(["---"] * len(head)), *(_line(row) for row in body)]


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def label(row: Row) -> str:
    """The method and its setting."""
    return row["method"] + ("" if row["setting"] == "default" else f", {row['setting']}")


def reasons(rows: list[Row]) -> list[str]:
    """Why rows have no figures, in the methods' own words."""
    bad = groups([r for r in rows if r["status"] != "ok"], "method", "setting", "status", "reason")
    lines = []
    for (*_, status, reason), these in sorted(bad.items()):
        where = ", ".join(sorted({f"{r['suite']} {r['cell']}" for r in these}))
        lines.append(f"- {label(these[0])}: {status} on {where}: `{reason}`")
    return lines


def fill(page: str, tables: dict[str, list[str]]) -> str:
    """The page with each block ``<!-- table NAME -->`` to ``<!-- end -->`` replaced.

    Raises:
        ValueError: If the page lacks a block.
    """
    for name, lines in tables.items():
        pattern = re.compile(rf"<!-- table {name} -->\n.*?<!-- end -->", re.DOTALL)
        if not pattern.search(page):
            raise ValueError(f"the page has no block '<!-- table {name} -->'")
        block = "\n".join([f"<!-- table {name} -->", "", *lines, "", "<!-- end -->"])
        page = pattern.sub(lambda _, block=block: block, page)
    return page
