"""The command line: `posterior demo`, `posterior reconstruct FILE`, `posterior priors`.

Whatever can be expected to go wrong ends in one sentence on the error stream and exit status 2, with no
output file begun. Libraries are imported inside the commands, so that ``--help`` answers at once.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from posterior.priors.base import Prior
    from posterior.recipes.mri import MRIProblem, Result
    from posterior.samplers.base import Sampler

app = typer.Typer(
    name="posterior",
    help="Posterior sampling for inverse problems: reconstructions with uncertainty maps.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


class SamplerName(StrEnum):
    """Samplers that the command line offers."""

    bridge = "bridge"
    mmps = "mmps"
    pigdm = "pigdm"
    dps = "dps"


_DEFAULT_STEPS = {"bridge": 10, "mmps": 32, "pigdm": 100, "dps": 1000}
_EXPECTED = (ValueError, OSError, ImportError, MemoryError)

PriorOption = Annotated[str, typer.Option(help="A bundled prior, or a folder in diffusers' format.")]
SamplerOption = Annotated[SamplerName, typer.Option(help="Sampling method.")]
StepsOption = Annotated[int | None, typer.Option(help="Sampler steps; 10, 32, 100, 1000 by method if not given.", min=1)]
DrawsOption = Annotated[int, typer.Option(help="Draws; a 90 % interval takes 19.", min=1)]
SeedOption = Annotated[int, typer.Option(help="Seed of all that is random.", min=0)]
BatchOption = Annotated[int, typer.Option(help="Draws computed at a time; memory grows with it.", min=1)]
CheckOption = Annotated[
    bool,
    typer.Option(
        "--check",
        help="Run a second time without a fifth of the samples, and count how well they are predicted.",
    ),
]
CheckpointOption = Annotated[Path | None, typer.Option(help="File that keeps finished draws; a second run goes on from there.")]


@dataclass(frozen=True)
class _Sampling:
    """What is asked of the sampling itself."""

    prior: str
    sampler: SamplerName
    steps: int | None
    draws: int
    seed: int
    batch_size: int
    check: bool
    checkpoint: Path | None


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


@app.command()
def demo(
    prior: PriorOption = "brain-mri",
    sampler: SamplerOption = SamplerName.bridge,
    steps: StepsOption = None,
    draws: DrawsOption = 20,
    seed: SeedOption = 0,
    output: Annotated[Path, typer.Option(help="NetCDF file to write; a picture goes beside it as .png.")] = Path(
        "posterior-demo.nc"
    ),
    acceleration: Annotated[float, typer.Option(help="Grid locations for each sampled one.", min=1)] = 4.0,
    coils: Annotated[int, typer.Option(help="Simulated coils.", min=1)] = 8,
    batch_size: BatchOption = 4,
    check: CheckOption = False,
    checkpoint: CheckpointOption = None,
) -> None:
    """Undersample the bundled, real head slice, reconstruct it, and compare with the truth."""
    sampling = _Sampling(prior, sampler, steps, draws, seed, batch_size, check, checkpoint)
    with _one_sentence():
        _check_output(output)
        network = _load_prior(prior)
        from posterior.recipes.mri import demo_problem

        with _notes():
            problem = demo_problem(seed, acceleration, coils)
        _run(problem, network, sampling, output)


@app.command()
def reconstruct(
    file: Annotated[Path, typer.Argument(help="k-space: .npy (coils, ky, kx), fastMRI .h5, BART .cfl/.hdr.")],
    prior: PriorOption = "brain-mri",
    sampler: SamplerOption = SamplerName.bridge,
    steps: StepsOption = None,
    draws: DrawsOption = 20,
    seed: SeedOption = 0,
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
    batch_size: BatchOption = 4,
    check: CheckOption = False,
    checkpoint: CheckpointOption = None,
) -> None:
    """Reconstruct a slice of multi-coil k-space, with an uncertainty map."""
    sampling = _Sampling(prior, sampler, steps, draws, seed, batch_size, check, checkpoint)
    output = Path(f"{file.stem}-posterior.nc") if output is None else output
    with _one_sentence():
        _check_output(output)
        from posterior.io.kspace import read_array, read_kspace

        kspace = read_kspace(file, slice_index)
        if mask is not None:
            kspace = kspace.with_mask(read_array(mask, "a mask (kx,) or (ky, kx)"), str(mask))
        given = None if maps is None else read_array(maps, "coil maps (coils, ky, kx)")
        network = _load_prior(prior)
        from posterior.recipes.mri import prepare

        with _notes():
            problem = prepare(kspace, maps=given, noise=noise, coils=coils)
        _run(problem, network, sampling, output)


@app.command()
def priors() -> None:
    """List the priors that come with the package."""
    with _one_sentence():
        import posterior

        for name, card in posterior.bundled_priors().items():
            typer.echo(name)
            for key, value in card.items():
                if isinstance(value, str | int | float):
                    typer.echo(f"  {key}: {value}")


def main() -> None:
    """Entry point of the command ``posterior``."""
    from posterior._memory import keep_large_blocks

    keep_large_blocks()
    # Threads that wait by spinning take the cores from whoever shares them; OpenMP reads this when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    app()


@contextlib.contextmanager
def _one_sentence() -> Iterator[None]:
    """Turn what can be expected to go wrong into a sentence and an exit status."""
    try:
        yield
    except _EXPECTED as error:
        _fail(error)
    except KeyboardInterrupt:
        typer.echo("posterior: interrupted", err=True)
        raise typer.Exit(130) from None
    except RuntimeError as error:
        from posterior.driver import SamplingError

        if not isinstance(error, SamplingError):
            raise
        _fail(error)


def _fail(error: BaseException) -> NoReturn:
    message = " ".join(str(error).split()) or type(error).__name__
    typer.echo(f"posterior: error: {message}", err=True)
    raise typer.Exit(2) from None


@contextlib.contextmanager
def _notes() -> Iterator[None]:
    """Show our warnings as notes, without file names and line numbers."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        yield
    for text in dict.fromkeys(str(w.message) for w in caught if issubclass(w.category, UserWarning)):
        typer.echo(f"note: {text}", err=True)


def _check_output(output: Path) -> None:
    """Raise unless the result and its picture can be written, before any work is done."""
    if output.suffix != ".nc":
        raise ValueError(f"{output}: the output is a NetCDF file; wanted a name that ends in .nc")
    folder = output.parent
    if not folder.is_dir():
        raise FileNotFoundError(f"{output}: there is no folder {folder}")
    for path in (output, output.with_suffix(".png")):
        if path.is_dir():
            raise FileExistsError(f"{path} is a folder; wanted a name for a file")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(f"{output}: the folder {folder} cannot be written to ({error.strerror})") from error


def _load_prior(name: str) -> Prior:
    import posterior

    return posterior.load_prior(name)


def _sampler(name: SamplerName, steps: int | None) -> Sampler:
    import posterior

    makers: dict[str, Any] = {
        "bridge": posterior.GaussianBridge,
        "mmps": posterior.MMPS,
        "pigdm": posterior.PiGDM,
        "dps": posterior.DPS,
    }
    return makers[name](steps=steps or _DEFAULT_STEPS[name])


def _run(problem: MRIProblem, prior: Prior, sampling: _Sampling, output: Path) -> None:
    from posterior.draws_io import replacing
    from posterior.recipes.mri import figure, reconstruct

    result = reconstruct(
        problem,
        prior,
        _sampler(sampling.sampler, sampling.steps),
        draws=sampling.draws,
        seed=sampling.seed,
        batch_size=sampling.batch_size,
        check=sampling.check,
        progress=True,
        checkpoint=sampling.checkpoint,
    )
    picture = output.with_suffix(".png")
    with replacing(picture) as partial:
        figure(result).savefig(partial, format="png", dpi=150)
        result.save(output)
    _report(result)
    typer.echo(f"wrote {output} and {picture}")


def _report(result: Result) -> None:
    from rich.console import Console
    from rich.table import Table

    rows = result.table
    digits = {
        "PSNR": ("PSNR (dB)", "{:.2f}"),
        "NRMSE": ("NRMSE", "{:.4f}"),
        "residual": ("residual", "{:.3f}"),
    }
    known = [key for key in digits if key in rows[0]]
    table = Table(title=result.problem.source)
    table.add_column("reconstruction")
    for key in known:
        table.add_column(digits[key][0], justify="right")
    for row in rows:
        table.add_row(str(row["reconstruction"]), *(digits[key][1].format(row[key]) for key in known))
    Console(file=sys.stdout).print(table)
    stats = result.draws.stats
    lines = {
        "residual": "||y - A x||^2 / (m sigma^2); 1 is what noise gives; for the posterior, mean over draws",
        **result.problem.facts,
        "cost": f"{result.draws.n} draws, {stats.nfe} network calls each, {stats.seconds:.0f} s",
    }
    if result.interval_coverage is not None:
        lines["90 % intervals"] = f"hold {100 * result.interval_coverage:.1f} % of the true pixels inside the head"
    if result.predictive_coverage is not None:
        lines["withheld samples"] = f"{100 * result.predictive_coverage:.1f} % lie in their 90 % predictive interval"
    for key, text in lines.items():
        typer.echo(f"{key}: {text}")
    for text in stats.warnings:
        typer.echo(f"note: {text}", err=True)
