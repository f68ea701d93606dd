"""What the commands share: refusals in one sentence, notes, and the files that results go to."""

from __future__ import annotations

import contextlib
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import typer

if TYPE_CHECKING:
    from matplotlib.figure import Figure


# Of observations and of results; other dots belong to the name, such as those of a date.
_FORMATS = {".csv", ".gz", ".nc", ".parquet", ".txt", ".zarr"}
_EXPECTED = (ValueError, OSError, ImportError, MemoryError, FloatingPointError)


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


def pairs(option: str, given: list[str] | None, wanted: str) -> dict[str, str]:
    """NAME=VALUE texts of an option that may be repeated, each name once.

    Raises:
        ValueError: If one is of another form, or a name comes twice.
    """
    found: dict[str, str] = {}
    for text in given or []:
        name, _, value = text.partition("=")
        if not (name and value):
            raise ValueError(f"{option} is {text!r}; wanted {wanted}")
        if name in found:
            raise ValueError(f"{option} gives {name!r} twice, {found[name]} and {value}; wanted one of them")
        found[name] = value
    return found


def note(text: str) -> None:
    """Say something on the error stream that is not an error."""
    typer.echo(f"note: {text}", err=True)


def named_after(file: Path, ending: str) -> Path:
    """A file in the current folder: the name of ``file``, less what tells its format, and ``ending``."""
    stem = file.name
    while (suffix := Path(stem).suffix.lower()) in _FORMATS and stem[: -len(suffix)]:
        stem = stem[: -len(suffix)]
    return Path(stem + ending)


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
