"""The report as one HTML file that needs no other."""

from __future__ import annotations

import base64
import html
import io
import re
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.fields.benchmark import BENCHMARKS
from benchmarks.fields.figures import accuracy, panels
from benchmarks.fields.maps import maps_path
from benchmarks.harness.table import Row
from posterior import load_prior

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NUMBER = re.compile(r"$|[-+]?\d+(\.\d+)?(e[-+]?\d+)?( |$)")  # what a cell of figures begins with; it may be empty
LONG = 40  # characters of a cell that is broken into lines
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 92rem; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; font-size: 12px; display: block; overflow-x: auto; margin: 1rem 0; }
th, td { border-bottom: 1px solid #ddd; padding: .2rem .5rem; text-align: right; white-space: nowrap; }
th.text, td.text { text-align: left; }
td.words { white-space: normal; text-align: left; min-width: 11rem; }
figure { margin: 1.5rem 0; }
figcaption { color: #555; }
img { max-width: 100%; }
"""


def html_page(markdown: str, rows: dict[str, list[Row]], maps: Path | None) -> str:
    """The page with figures at the end of each cell.

    Args:
        markdown: The page.
        rows: Of each suite.
        maps: Folder of maps, or None for no panels.
    """
    parts, waiting = [], ""
    for block in re.split(r"\n\n+", markdown):
        heading = re.match(r"(#+) (.*)", block)
        if heading:
            parts.append(waiting)
            waiting = _figures(heading[2], rows, maps) if len(heading[1]) == 3 else ""
        parts.append(_block(block))
    body = "\n".join(p for p in (*parts, waiting) if p)
    title = "Reconstructions with uncertainty, measured"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{STYLE}</style></head><body>\n{body}\n</body></html>\n"
    )


def _figures(heading: str, rows: dict[str, list[Row]], maps: Path | None) -> str:
    name, _, kind = heading.partition(": ")
    name = name.lower()
    if name not in rows or kind not in BENCHMARKS[name].suite.cells:
        return ""
    suite = BENCHMARKS[name].suite
    units = suite.units[kind]
    drawn = [
        (
            "Accuracy against time, of settings with as many calls and VJPs the best",
            accuracy([r for r in rows[name] if r["cell"] == kind], units),
        )
    ]
    if maps is not None:
        first = [r for r in rows[name] if r["cell"] == kind and r["problem"] == "0" and r["status"] == "failed"]
        failed = sorted(f"{r['method']} ({r['setting']})" for r in first)
        shown = panels(maps_path(maps, name, kind), units, load_prior(suite.priors[kind]).labels, failed)
        left = f"; left out, since they failed: {', '.join(failed)}" if failed else ""
        drawn.append((f"Reconstructions of one problem and their standard deviations{left}", shown))
    return "\n".join(
        f'<figure><img alt="{title}" src="{_png(f)}"><figcaption>{title}</figcaption></figure>' for title, f in drawn if f
    )


def _png(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90, metadata={"Software": None})
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _block(block: str) -> str:
    lines = block.strip("\n").split("\n")
    heading = re.match(r"(#+) (.*)", lines[0])
    if heading:
        level = len(heading[1])
        return f"<h{level}>{_inline(heading[2])}</h{level}>"
    if lines[0].startswith("| "):
        cells = [[c.strip() for c in line.strip("|").split(" | ")] for line in lines]
        columns = zip(cells[0], *cells[2:], strict=True)  # with the head, so that a table without rows has its columns too
        texts = [not all(NUMBER.match(c) for c in column[1:]) for column in columns]
        head = "".join(f"<th{' class=text' * text}>{_inline(c)}</th>" for c, text in zip(cells[0], texts, strict=True))
        body = "".join("<tr>" + "".join(map(_cell, row, texts)) + "</tr>" for row in cells[2:])
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    if lines[0].startswith("- "):
        items = re.split(r"\n(?=- )", block.strip("\n"))
        return "<ul>" + "".join(f"<li>{_inline(item[2:])}</li>" for item in items) + "</ul>"
    return f"<p>{_inline(block)}</p>"


def _cell(text: str, left: bool) -> str:
    kind = " class=words" if len(text) > LONG else " class=text" if left else ""
    return f"<td{kind}>{_inline(text)}</td>"


def _inline(text: str) -> str:
    text = html.escape(text, quote=False)
    text = re.sub(r"`([^`]*)`", r"<code>\1</code>", text)
    text = re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", text)
    return re.sub(r"(?<!\w)\*([^*]+)\*(?!\w)", r"<em>\1</em>", text)
