"""The command line, ``posterior COMMAND``.

Whatever can be expected to go wrong ends in one sentence on the error stream and exit status 2, with no
output file begun. Libraries are imported inside the commands, so that ``--help`` answers at once.

A command is a function in a module of its own, registered here.
"""

from __future__ import annotations

import os
from typing import Annotated

import typer

from posterior.cli import assimilate, calibrate, check_prior, demo, priors, reconstruct, report, train

app = typer.Typer(
    name="posterior",
    help="Posterior sampling for inverse problems: reconstructions with uncertainty maps.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(demo.app, name="demo")
app.command("assimilate")(assimilate.assimilate)
app.command("calibrate")(calibrate.calibrate)
app.command("reconstruct")(reconstruct.reconstruct)
app.command("priors")(priors.priors)
app.command("report")(report.report)
app.command("train")(train.train)
app.command("check-prior")(check_prior.check_prior)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        try:
            typer.echo(f"posterior {version('posterior')}")
        except PackageNotFoundError:
            typer.echo("posterior, from a checkout that is not installed")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Entry point of the command ``posterior``."""
    from posterior._memory import keep_large_blocks

    keep_large_blocks()
    # Threads that wait by spinning take the cores from whoever shares them; OpenMP reads this when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    app()
