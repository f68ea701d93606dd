"""What every reader shares: one kind of error, packages that are optional, archives that may be hostile."""

from __future__ import annotations

import bz2
import gzip
import importlib
import io
import lzma
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Far above any observation file, far below what an archive of a few megabytes can be made to unpack to.
UNPACKED_LIMIT = 2 << 30

_OPENERS: dict[bytes, Callable[[Path], Any]] = {b"\x1f\x8b": gzip.open, b"BZ": bz2.open, b"\xfd7": lzma.open}
_ZIP = b"PK\x03\x04"
_BROKEN = (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, zipfile.BadZipFile)
_BLOCK = 1 << 20


class FileError(ValueError):
    """A file is missing, broken, or does not hold what was asked for."""


def must_exist(path: Path, what: str, error: type[FileError] = FileError) -> None:
    """Raise ``error`` unless ``path`` is a file."""
    if not path.is_file():
        got = "it is a folder" if path.is_dir() else "there is no such file"
        raise error(f"{path}: {got}; wanted {what}")


def first_line(error: BaseException) -> str:
    """The first line of what a library says went wrong, as part of a sentence."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def needs(module: str, extra: str, purpose: str) -> Any:
    """An optional package, imported where it is used.

    Args:
        module: Name to import.
        extra: Extra of ``posterior`` that installs it.
        purpose: What takes it, for the error.

    Raises:
        ImportError: If it is not installed; says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise ImportError(f"{purpose} needs {package}: pip install 'posterior[{extra}]'") from error


def magic(path: Path, count: int = 8) -> bytes:
    """The first bytes of a file, by which its format is told."""
    with path.open("rb") as file:
        return file.read(count)


def read_bytes(path: Path, what: str, limit: int = UNPACKED_LIMIT) -> bytes:
    """Content of a file, unpacked if it is gzip, bzip2, xz or a zip archive of one file.

    Names inside an archive are not used, and nothing is written to disk.

    Args:
        path: The file.
        what: What errors say was wanted.
        limit: Most bytes to unpack; guards against archives made to fill the memory.

    Raises:
        FileError: If the file is missing, truncated, damaged, a zip of several files, or unpacks to more than ``limit``.
    """
    must_exist(path, what)
    start = magic(path, 4)
    try:
        if start == _ZIP:
            return _unzip(path, what, limit)
        with _OPENERS.get(start[:2], _plain)(path) as stream:
            return _read_up_to(stream, limit, path)
    except _BROKEN as error:
        raise FileError(f"{path}: truncated or damaged archive ({first_line(error)}); wanted {what}") from error


def _plain(path: Path) -> Any:
    return path.open("rb")


def _unzip(path: Path, what: str, limit: int) -> bytes:
    with zipfile.ZipFile(path) as archive:
        members = [member for member in archive.infolist() if not member.is_dir()]
        if len(members) != 1:
            raise FileError(f"{path}: an archive of {len(members)} files; wanted one, {what}")
        if members[0].flag_bits & 1:
            raise FileError(f"{path}: an encrypted archive; wanted {what}")
        with archive.open(members[0]) as stream:
            return _read_up_to(stream, limit, path)


def _read_up_to(stream: Any, limit: int, path: Path) -> bytes:
    buffer = io.BytesIO()
    while block := stream.read(_BLOCK):
        if buffer.tell() + len(block) > limit:
            raise FileError(f"{path}: unpacks to more than the {limit} bytes allowed; raise limit= if you trust it")
        buffer.write(block)
    return buffer.getvalue()
