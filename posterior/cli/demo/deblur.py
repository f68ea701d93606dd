"""``posterior demo deblur``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from posterior.cli import options
from posterior.cli._common import check_output, one_sentence
from posterior.cli._comparison import finish
from posterior.cli.options import SamplerName, Sampling


def deblur(
    prior: options.Prior = "galaxies",
    sampler: options.Sampler = SamplerName.bridge,
    steps: options.Steps = None,
    draws: options.Draws = 20,
    seed: options.Seed = 0,
    output: options.Output = Path("posterior-demo-deblur.nc"),
    noise: Annotated[float, typer.Option(help="Noise, in units of a bright galaxy's peak.")] = 0.01,
    photons: Annotated[
        float | None, typer.Option(help="Count photons instead, this many at a bright galaxy's peak: Poisson noise.")
    ] = None,
    psf: Annotated[Path | None, typer.Option(help="FITS file of point-spread functions; Hubble's if not given.")] = None,
    batch_size: options.Batch = 4,
    checkpoint: options.Checkpoint = None,
    device: options.Device = None,
) -> None:
    """Blur simulated galaxies by a measured point-spread function, draw what they were, and compare with the truth."""
    sampling = Sampling(sampler, steps, draws, seed, batch_size, checkpoint, device)
    with one_sentence():
        check_output(output)
        import posterior
        from posterior.recipes import deblur as recipe
        from posterior.recipes.comparison import figure

        network = posterior.load_prior(prior)
        problem = recipe.demo_problem(seed, noise=noise, counts=photons, psf=psf)
        found = recipe.deblur(problem, network, sampling.method(), **sampling.settings())
        finish(found, figure(found, gamma=0.5), output)
