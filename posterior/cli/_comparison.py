"""A posterior beside baselines, written and reported: what the demos of single fields share."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from posterior.cli._common import note, write, wrote

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from posterior.recipes.comparison import Comparison

_COLUMNS = {"RMSE": "{:.4g}", "CRPS": "{:.4g}", "coverage": "{:.1%}"}


def finish(found: Comparison, picture: Figure, output: Path) -> None:
    """Write the result and its picture, print the table."""
    from rich.console import Console
    from rich.table import Table

    write(found, picture, output)
    units = "" if found.draws.units == "1" else f" ({found.draws.units})"
    rows = found.table
    names = list(dict.fromkeys(key for row in rows for key in row if key != "reconstruction"))
    table = Table(title=found.source)
    table.add_column("reconstruction")
    for name in names:
        heading = "90 % intervals hold" if name == "coverage" else name + (units if name in _COLUMNS else "")
        table.add_column(heading, justify="right")
    for row in rows:
        cells = [_COLUMNS.get(name, "{:.2f}").format(row[name]) if name in row else "" for name in names]
        table.add_row(str(row["reconstruction"]), *cells)
    Console(file=sys.stdout).print(table)
    stats = found.draws.stats
    cost = f"{found.draws.n} draws, {stats.nfe} network calls each, {stats.seconds:.0f} s"
    for key, text in {**found.facts, "cost": cost, "residual": f"{stats.residual:.3f} times the noise"}.items():
        typer.echo(f"{key}: {text}")
    for text in stats.warnings:
        note(text)
    wrote(output)
