"""``posterior demo mri`` and ``mri-8x``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from posterior.cli._common import (
    BatchOption,
    CheckOption,
    CheckpointOption,
    DrawsOption,
    OutputOption,
    PriorOption,
    SamplerName,
    SamplerOption,
    Sampling,
    SeedOption,
    StepsOption,
    check_output,
    notes,
    one_sentence,
)
from posterior.cli._mri import run


def mri(
    prior: PriorOption = "brain-mri",
    sampler: SamplerOption = SamplerName.bridge,
    steps: StepsOption = None,
    draws: DrawsOption = 20,
    seed: SeedOption = 0,
    output: OutputOption = Path("posterior-demo.nc"),
    acceleration: Annotated[float, typer.Option(help="Grid locations for each sampled one.", min=1)] = 4.0,
    coils: Annotated[int, typer.Option(help="Simulated coils.", min=1)] = 8,
    batch_size: BatchOption = 4,
    check: CheckOption = False,
    checkpoint: CheckpointOption = None,
) -> None:
    """Undersample the bundled, real head slice, reconstruct it, and compare with the truth."""
    sampling = Sampling(sampler, steps, draws, seed, batch_size, checkpoint)
    with one_sentence():
        check_output(output)
        import posterior

        network = posterior.load_prior(prior)
        from posterior.recipes.mri import demo_problem

        with notes():
            problem = demo_problem(seed, acceleration, coils)
        run(problem, network, sampling, output, check)
