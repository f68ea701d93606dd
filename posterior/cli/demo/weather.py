"""``posterior demo weather``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from posterior.cli import options
from posterior.cli._common import check_output, notes, one_sentence
from posterior.cli._weather import run
from posterior.cli.options import SamplerName, Sampling


def weather(
    prior: options.Prior = "slp-north-atlantic",
    sampler: options.Sampler = SamplerName.bridge,
    steps: options.Steps = None,
    draws: options.Draws = 64,
    seed: options.Seed = 0,
    output: options.Output = Path("posterior-demo-weather.nc"),
    stations: Annotated[int, typer.Option(help="Simulated stations.", min=1)] = 30,
    error: Annotated[float, typer.Option(help="Standard deviation of their errors, units of the prior.", min=1e-3)] = 1.0,
    folds: Annotated[int, typer.Option(help="Withhold every station once, in so many more runs; 0 for none.", min=0)] = 0,
    batch_size: options.Batch = 32,
    checkpoint: options.Checkpoint = None,
    device: options.Device = None,
) -> None:
    """Simulate stations in a draw of the prior, map it from them, and compare with the truth and with the baselines."""
    sampling = Sampling(sampler, steps, draws, seed, batch_size, checkpoint, device)
    with one_sentence():
        check_output(output)
        import posterior
        from posterior.recipes.weather import demo_problem

        network = posterior.load_prior(prior)
        with notes():
            problem = demo_problem(network, seed, stations=stations, sigma=error)
            run(problem, sampling, output, folds)
