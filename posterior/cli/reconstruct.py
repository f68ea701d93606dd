"""``posterior reconstruct FILE``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from posterior.cli import options
from posterior.cli._common import check_output, notes, one_sentence
from posterior.cli._mri import run
from posterior.cli.options import SamplerName, Sampling


def reconstruct(
    file: Annotated[
        Path, typer.Argument(help="k-space: .npy (coils, ky, kx), fastMRI .h5, ISMRMRD .h5 or .mrd, BART .cfl/.hdr.")
    ],
    prior: options.Prior = "brain-mri",
    sampler: options.Sampler = SamplerName.bridge,
    steps: options.Steps = None,
    draws: options.Draws = 20,
    seed: options.Seed = 0,
    output: Annotated[
        Path | None,
        typer.Option(help="NetCDF file to write, FILE's name with -posterior.nc here if not given; and a .png."),
    ] = None,
    slice_index: Annotated[
        int | None, typer.Option("--slice", help="Slice to reconstruct, from 0; the middle one if not given.")
    ] = None,
    mask: Annotated[Path | None, typer.Option(help="Use only the samples that this .npy, (kx,) or (ky, kx), marks.")] = None,
    maps: Annotated[Path | None, typer.Option(help="Coil maps, complex .npy (coils, ky, kx); estimated if not given.")] = None,
    noise: Annotated[
        float | None,
        typer.Option(help="Noise standard deviation per real and imaginary part; estimated if not given."),
    ] = None,
    coils: Annotated[int, typer.Option(help="Compress to this many virtual coils.", min=1)] = 8,
    batch_size: options.Batch = 4,
    check: options.Check = False,
    checkpoint: options.Checkpoint = None,
    device: options.Device = None,
) -> None:
    """Reconstruct a slice of multi-coil k-space, with an uncertainty map."""
    sampling = Sampling(sampler, steps, draws, seed, batch_size, checkpoint, device)
    output = Path(f"{file.stem}-posterior.nc") if output is None else output
    with one_sentence():
        check_output(output)
        import posterior
        from posterior.io.kspace import read_array, read_kspace

        kspace = read_kspace(file, slice_index)
        if mask is not None:
            kspace = kspace.with_mask(read_array(mask, "a mask (kx,) or (ky, kx)"), str(mask))
        given = None if maps is None else read_array(maps, "coil maps (coils, ky, kx)")
        network = posterior.load_prior(prior)
        from posterior.recipes.mri import prepare

        with notes():
            problem = prepare(kspace, maps=given, noise=noise, coils=coils)
        run(problem, network, sampling, output, check)
