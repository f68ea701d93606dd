"""An MRI problem, run and reported: what ``reconstruct`` and the MRI demos share."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from posterior.cli._common import note, write, wrote
from posterior.cli.options import Sampling

if TYPE_CHECKING:
    from posterior.priors.base import Prior
    from posterior.recipes.mri import MRIProblem, Result


def run(problem: MRIProblem, prior: Prior, sampling: Sampling, output: Path, check: bool) -> None:
    """Sample, write the result and its picture, print the table."""
    from posterior.recipes.mri import figure, reconstruct

    result = reconstruct(problem, prior, sampling.method(), check=check, **sampling.settings())
    write(result, figure(result), output)
    _report(result)
    wrote(output)


def _report(result: Result) -> None:
    from rich.console import Console
    from rich.table import Table

    rows = result.table
    digits = {
        "PSNR": ("PSNR (dB)", "{:.2f}"),
        "NRMSE": ("NRMSE", "{:.4f}"),
        "residual": ("residual", "{:.3f}"),
    }
    known = [key for key in digits if key in rows[0]]
    table = Table(title=result.problem.source)
    table.add_column("reconstruction")
    for key in known:
        table.add_column(digits[key][0], justify="right")
    for row in rows:
        table.add_row(str(row["reconstruction"]), *(digits[key][1].format(row[key]) for key in known))
    Console(file=sys.stdout).print(table)
    stats = result.draws.stats
    lines = {
        "residual": "||y - A x||^2 / (m sigma^2); 1 is what noise gives; for the posterior, mean over draws",
        **result.problem.facts,
        "cost": f"{result.draws.n} draws, {stats.nfe} network calls each, {stats.seconds:.0f} s",
    }
    if result.interval_coverage is not None:
        lines["90 % intervals"] = f"hold {100 * result.interval_coverage:.1f} % of the true pixels inside the head"
    if result.predictive_coverage is not None:
        lines["withheld samples"] = f"{100 * result.predictive_coverage:.1f} % lie in their 90 % predictive interval"
    for key, text in lines.items():
        typer.echo(f"{key}: {text}")
    for text in stats.warnings:
        note(text)
