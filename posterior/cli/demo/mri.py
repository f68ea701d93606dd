"""``posterior demo mri`` and ``mri-8x``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from posterior.cli import options
from posterior.cli._common import check_output, notes, one_sentence
from posterior.cli._mri import run
from posterior.cli.options import SamplerName, Sampling


def mri(
    prior: options.Prior = "brain-mri",
    sampler: options.Sampler = SamplerName.bridge,
    steps: options.Steps = None,
    draws: options.Draws = 20,
    seed: options.Seed = 0,
    output: options.Output = Path("posterior-demo.nc"),
    acceleration: Annotated[float, typer.Option(help="Grid locations for each sampled one.", min=1)] = 4.0,
    coils: Annotated[int, typer.Option(help="Simulated coils.", min=1)] = 8,
    batch_size: options.Batch = 4,
    check: options.Check = False,
    checkpoint: options.Checkpoint = None,
    device: options.Device = None,
) -> None:
    """Undersample the bundled, real head slice, reconstruct it, and compare with the truth."""
    sampling = Sampling(sampler, steps, draws, seed, batch_size, checkpoint, device)
    with one_sentence():
        check_output(output)
        import posterior

        network = posterior.load_prior(prior)
        from posterior.recipes.mri import demo_problem

        with notes():
            problem = demo_problem(seed, acceleration, coils)
        run(problem, network, sampling, output, check)
