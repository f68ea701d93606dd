"""What the commands share: options, refusals in one sentence, notes, and the files that results go to."""

from __future__ import annotations

import contextlib
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from posterior.samplers.base import Sampler


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
OutputOption = Annotated[Path, typer.Option(help="NetCDF file to write; a picture goes beside it as .png.")]
CheckOption = Annotated[
    bool,
    typer.Option(
        "--check",
        help="Run a second time without a fifth of the samples, and count how well they are predicted.",
    ),
]
CheckpointOption = Annotated[Path | None, typer.Option(help="File that keeps finished draws; a second run goes on from there.")]


@dataclass(frozen=True)
class Sampling:
    """What is asked of the sampling itself; one field for each option."""

    sampler: SamplerName
    steps: int | None
    draws: int
    seed: int
    batch_size: int
    checkpoint: Path | None

    def method(self, bridge: Callable[[int], Sampler] | None = None) -> Sampler:
        """The sampler that is asked for; ``bridge`` makes it where a task has a `GaussianBridge` of its own."""
        import posterior

        makers: dict[str, Any] = {
            "bridge": bridge or posterior.GaussianBridge,
            "mmps": posterior.MMPS,
            "pigdm": posterior.PiGDM,
            "dps": posterior.DPS,
        }
        return makers[self.sampler](self.steps or _DEFAULT_STEPS[self.sampler])

    def settings(self) -> dict[str, Any]:
        """Keyword arguments of `posterior.sample`, with a progress bar."""
        return {
            "draws": self.draws,
            "seed": self.seed,
            "batch_size": self.batch_size,
            "checkpoint": self.checkpoint,
            "progress": True,
        }


@contextlib.contextmanager
def one_sentence() -> Iterator[None]:
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
def notes() -> Iterator[None]:
    """Show our warnings as notes, without file names and line numbers."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        yield
    for text in dict.fromkeys(str(w.message) for w in caught if issubclass(w.category, UserWarning)):
        note(text)


def note(text: str) -> None:
    """Say something on the error stream that is not an error."""
    typer.echo(f"note: {text}", err=True)


def check_output(output: Path) -> None:
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


def write(result: Any, figure: Figure, output: Path) -> None:
    """Write ``result``, by its ``save``, and its picture; neither replaces an older file until both are made."""
    from posterior.draws_io import replacing

    picture = output.with_suffix(".png")
    with replacing(picture) as partial:
        figure.savefig(partial, format="png", dpi=150)
        result.save(output)


def wrote(output: Path) -> None:
    """Say where the result and its picture are."""
    typer.echo(f"wrote {output} and {output.with_suffix('.png')}")
