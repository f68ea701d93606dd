"""``posterior demo downscale``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from posterior.cli import options
from posterior.cli._common import check_output, one_sentence
from posterior.cli._comparison import finish
from posterior.cli.options import SamplerName, Sampling


def downscale(
    prior: Annotated[
        str | None,
        typer.Option(help="A bundled prior of a weather field, or a folder; t2m-uk, else slp-north-atlantic, if not given."),
    ] = None,
    sampler: options.Sampler = SamplerName.bridge,
    steps: options.Steps = None,
    draws: options.Draws = 20,
    seed: options.Seed = 0,
    output: options.Output = Path("posterior-demo-downscale.nc"),
    factor: Annotated[int, typer.Option(help="Rows and columns of the fine grid in a coarse cell.", min=2)] = 4,
    time: Annotated[
        str | None, typer.Option(help="Of the field, in the registry's reanalysis; a held-out one if not given.")
    ] = None,
    batch_size: options.Batch = 20,
    checkpoint: options.Checkpoint = None,
    device: options.Device = None,
) -> None:
    """Average a held-out field over coarse cells, draw what it was, and compare with bicubic and optimal interpolation."""
    sampling = Sampling(sampler, steps, draws, seed, batch_size, checkpoint, device)
    with one_sentence():
        check_output(output)
        import posterior
        from posterior.recipes import downscale as recipe
        from posterior.recipes.comparison import figure

        network = posterior.load_prior(prior or recipe.default_prior())
        problem = recipe.demo_problem(network, seed, factor=factor, time=time)
        found = recipe.downscale(problem, sampling.method(), **sampling.settings())
        finish(found, figure(found), output)
