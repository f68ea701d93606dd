"""An analysis of station reports, run and reported: what ``assimilate`` and the weather demo share."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from posterior.cli._common import note, write, wrote
from posterior.cli.options import Sampling

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from posterior.recipes.weather import Analysis, Score, StationProblem

_LISTED = 20  # reports that are listed one by one


def run(problem: StationProblem, sampling: Sampling, output: Path, folds: int, background: Tensor | None = None) -> None:
    """Sample, write the result and its picture, print the tables."""
    from posterior.recipes.weather import assimilate, bridge, figure

    sampler = sampling.method(partial(bridge, problem.prior))
    result = assimilate(problem, sampler, folds=folds, background=background, **sampling.settings())
    write(result, figure(result), output)
    _report(result)
    wrote(output)


def list_dropped(problem: StationProblem) -> None:
    """Say what was left out: how many for each reason, and every gross error."""
    dropped = problem.dropped
    if dropped is None or not len(dropped):
        return
    gross = dropped.loc[dropped["reason"].str.startswith("gross error")]
    others = dropped.drop(gross.index)
    typer.echo(f"left out: {len(dropped)} reports; all of them, with reasons, are in the group 'dropped' of the file")
    for reason, count in others["reason"].value_counts().items():
        typer.echo(f"  {count}: {reason}")
    units = problem.prior.units
    for row in gross.head(_LISTED).to_dict("records"):
        where = f"{row['station']} ({row['latitude']:.2f} N, {row['longitude']:.2f} E)"
        typer.echo(f"  {where}: {row['value']:.1f} {units}, {row['departure']:+.1f} from the prior's mean; {row['reason']}")
    if len(gross) > _LISTED:
        typer.echo(f"  and {len(gross) - _LISTED} gross errors more")


def _report(result: Analysis) -> None:
    units = result.problem.prior.units
    if result.fields:
        _table(f"against the true field, {units}", result.fields)
    if result.stations:
        assert result.predictions is not None
        _table(f"at {len(result.predictions)} withheld stations, {units}", result.stations)
    stats = result.draws.stats
    lines = {
        "in 90 %": "share of the truth inside the central 90 % interval; empty with fewer than 19 draws",
        "stations": f"{len(result.problem.stations)}, error {_range(result.problem.stations['sigma'].to_numpy(float))} {units}",
        "residual": f"{stats.residual:.3f}, mean over draws of ||y - A x||^2 / (m sigma^2)",
        "cost": f"{result.draws.n} draws, {stats.nfe} network calls each, {stats.seconds:.0f} s",
    }
    for key, text in lines.items():
        typer.echo(f"{key}: {text}")
    for text in stats.warnings:
        note(text)


def _table(title: str, scores: Mapping[str, Score]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title)
    table.add_column("ensemble", no_wrap=True)
    for head in ("fair CRPS", "in 90 %", "bias", "RMSE", "spread/skill"):
        table.add_column(head, justify="right", no_wrap=True)
    for name, s in scores.items():
        coverage = "" if s.coverage != s.coverage else f"{100 * s.coverage:.1f} %"
        table.add_row(name, f"{s.crps:.3f}", coverage, f"{s.bias:+.2f}", f"{s.rmse:.2f}", f"{s.spread_skill:.2f}")
    Console(file=sys.stdout).print(table)


def _range(values: np.ndarray) -> str:
    low, high = values.min(), values.max()
    return f"{low:.2f}" if high - low < 0.005 else f"{low:.2f} to {high:.2f}"
