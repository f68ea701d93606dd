"""``posterior demo [NAME]``: whole jobs on data that come with the package, compared with the truth.

A demo is a command in a module of its own with options of its own, and one entry of `DEMOS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from posterior.cli.demo.deblur import deblur
from posterior.cli.demo.downscale import downscale
from posterior.cli.demo.mri import mri
from posterior.cli.demo.weather import weather

DEFAULT = "mri"


@dataclass(frozen=True)
class Demo:
    """One demo.

    Args:
        run: Its command.
        summary: One line of what it shows.
        defaults: Options that differ from those of ``run``, by parameter name.
    """

    run: Callable[..., None]
    summary: str
    defaults: dict[str, Any] = field(default_factory=dict)


DEMOS = {
    "mri": Demo(mri, "A head slice from 4x undersampled 8-coil k-space."),
    "mri-8x": Demo(
        mri,
        "The same slice from 8x undersampled k-space.",
        {"acceleration": 8.0, "output": "posterior-demo-mri-8x.nc"},
    ),
    "deblur": Demo(deblur, "Galaxies seen through a point-spread function of the Hubble telescope."),
    "downscale": Demo(downscale, "A weather field from averages over cells four times as wide."),
    "weather": Demo(weather, "A pressure map of the North Atlantic from 30 stations."),
}


class _DefaultGroup(TyperGroup):
    """A group whose options, given without a command, are those of the default demo."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or (args[0].startswith("-") and args[0] not in ("--help", "--list")):
            args = [DEFAULT, *args]
        return super().parse_args(ctx, args)


def _list(wanted: bool) -> None:
    if wanted:
        width = max(map(len, DEMOS))
        for name, demo in DEMOS.items():
            typer.echo(f"{name:{width}}  {demo.summary}")
        raise typer.Exit


app = typer.Typer(
    cls=_DefaultGroup,
    help=f"Run a demo, '{DEFAULT}' if none is named; 'posterior demo NAME --help' lists the options of one.",
    rich_markup_mode=None,
)


@app.callback()
def _options(
    demos: Annotated[bool, typer.Option("--list", callback=_list, is_eager=True, help="List the demos and stop.")] = False,
) -> None:
    pass


for _name, _demo in DEMOS.items():
    app.command(_name, help=_demo.summary, context_settings={"default_map": _demo.defaults})(_demo.run)
