"""``posterior report FILE``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from posterior.cli._common import named_after, one_sentence


def report(
    file: Annotated[Path, typer.Argument(help="Draws that a command or Draws.save wrote: .nc or .zarr.")],
    output: Annotated[Path | None, typer.Option(help="Page to write; FILE's name with .html here if not given.")] = None,
    title: Annotated[str, typer.Option(help="Of the page; the name of the field if not given.")] = "",
) -> None:
    """Put a result on one page: figures, evidence of calibration, settings; opens in any browser, offline."""
    output = named_after(file, ".html") if output is None else output
    with one_sentence():
        if output.suffix.lower() not in (".html", ".htm"):
            raise ValueError(f"{output}: the report is a page; wanted a name that ends in .html")
        from posterior.uncertainty import report as make

        make(file, output, title)
        typer.echo(f"wrote {output}")
