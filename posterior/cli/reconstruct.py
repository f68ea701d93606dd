"""``posterior reconstruct FILE``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from posterior.cli import options
from posterior.cli._common import check_output, notes, one_sentence, pairs
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
        typer.Option(
            help="NetCDF file to write, and a .png; if not given FILE's name, -slice-N for a slice given of several, "
            "what --select says, and -posterior.nc, here."
        ),
    ] = None,
    slice_index: Annotated[
        int | None, typer.Option("--slice", help="Slice to reconstruct, from 0; the middle one if not given.")
    ] = None,
    select: Annotated[
        list[str] | None,
        typer.Option(help="NAME=NUMBER, as repetition=0, of what ISMRMRD data hold several of; may be repeated."),
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
    with one_sentence():
        if output is not None:
            check_output(output)
        import posterior
        from posterior.io.kspace import read_array, read_kspace

        chosen = _selected(select)
        kspace = read_kspace(file, slice_index, chosen)
        if output is None:
            parts = [] if slice_index is None or "slice" not in kspace.facts else [f"slice-{kspace.slice_index}"]
            parts += [f"{name}-{number}" for name, number in sorted(chosen.items())]
            output = Path("-".join([file.stem, *parts, "posterior.nc"]))
            check_output(output)
        if mask is not None:
            kspace = kspace.with_mask(read_array(mask, "a mask (kx,) or (ky, kx)"), str(mask))
        given = None if maps is None else read_array(maps, "coil maps (coils, ky, kx)")
        network = posterior.load_prior(prior)
        from posterior.recipes.mri import prepare

        with notes():
            problem = prepare(kspace, maps=given, maps_source=str(maps), noise=noise, coils=coils)
        run(problem, network, sampling, output, check)


def _selected(given: list[str] | None) -> dict[str, int]:
    wanted = "NAME=NUMBER, such as repetition=0"
    found = pairs("--select", given, wanted)
    if bad := [f"{name}={text}" for name, text in found.items() if not (text.isascii() and text.isdigit())]:
        raise ValueError(f"--select is {bad[0]!r}; wanted {wanted}")
    return {name: int(text) for name, text in found.items()}
