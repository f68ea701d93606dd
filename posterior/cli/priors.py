"""``posterior priors``."""

from __future__ import annotations

import typer

from posterior.cli._common import one_sentence


def priors() -> None:
    """List the priors that come with the package."""
    with one_sentence():
        import posterior

        for name, card in posterior.bundled_priors().items():
            typer.echo(name)
            for key, value in card.items():
                if isinstance(value, str | int | float):
                    typer.echo(f"  {key}: {value}")
