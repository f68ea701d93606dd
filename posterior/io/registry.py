"""The registry of real datasets: where each comes from, its licence, and the checksum every read is held to.

The entries stand in ``data/registry.toml``. A file is downloaded from its origin on first use and kept in the
user's cache; the environment variable ``POSTERIOR_DATA_DIR`` names a local folder in the same layout to be
read instead.
"""

import hashlib
import os
import tomllib
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path

from posterior._resources import resource

DATA_DIR_VARIABLE = "POSTERIOR_DATA_DIR"


class ChecksumError(ValueError):
    """A file is there, but its bytes are not the registered ones."""


@dataclass(frozen=True)
class Entry:
    """One dataset of the registry.

    Attributes:
        name: what :func:`fetch` takes.
        file: path below the data folder, with forward slashes.
        origin: page of the repository that publishes it.
        sha256: checksum of the file, in hexadecimal.
        licence: terms of use, in words.
        description: what it holds: shape, span, units.
        url: direct download, or ``None`` for a file derived from its origin.
    """

    name: str
    file: str
    origin: str
    sha256: str
    licence: str
    description: str
    url: str | None = None


@cache
def _read_registry() -> tuple[Entry, ...]:
    table = tomllib.loads(resource("registry.toml").read_text(encoding="utf-8"))
    return tuple(Entry(name=name, **fields) for name, fields in table.items())


def entries() -> dict[str, Entry]:
    """All datasets by name, in the order of the registry file."""
    return {entry.name: entry for entry in _read_registry()}


def fetch(name: str) -> Path:
    """Local path of a dataset whose checksum has been verified; downloads it on first use.

    Args:
        name: a name of :func:`entries`.

    Raises:
        ValueError: the name is not in the registry.
        ChecksumError: the file differs from the registered one.
        FileNotFoundError: ``POSTERIOR_DATA_DIR`` lacks the file, or the file has no direct download.
        ConnectionError: the download failed.
    """
    entry = _entry(name)
    path = _location(entry)
    if path.is_file():
        _verify(path, entry)
        return path
    if local := _local_folder():
        raise FileNotFoundError(
            f"dataset {name!r}: {entry.file} is not in {local} ({DATA_DIR_VARIABLE}); "
            f"put it there, or unset {DATA_DIR_VARIABLE} to download it"
        )
    if entry.url is None:
        raise FileNotFoundError(
            f"dataset {name!r} has no direct download: make it from {entry.origin} ({entry.description}) "
            f"and name the folder that holds {entry.file} in {DATA_DIR_VARIABLE}"
        )
    return _download(entry, entry.url, path)


def available(name: str) -> bool:
    """Whether :func:`fetch` has the file at hand without the network. The checksum is left to :func:`fetch`.

    Args:
        name: a name of :func:`entries`.

    Raises:
        ValueError: the name is not in the registry.
    """
    return _location(_entry(name)).is_file()


def _entry(name: str) -> Entry:
    known = entries()
    if name in known:
        return known[name]
    close = get_close_matches(name, known, n=3)
    hint = f"did you mean {' or '.join(map(repr, close))}?" if close else f"known: {', '.join(known)}"
    raise ValueError(f"no dataset {name!r} in the registry; {hint}")


def _local_folder() -> Path | None:
    value = os.environ.get(DATA_DIR_VARIABLE)
    if not value:
        return None
    folder = Path(value).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"{DATA_DIR_VARIABLE} is {value!r}, which is not a folder")
    return folder


def _cache_folder() -> Path:
    import pooch

    return Path(pooch.os_cache("posterior"))


def _location(entry: Entry) -> Path:
    return (_local_folder() or _cache_folder()) / entry.file


def _verify(path: Path, entry: Entry) -> None:
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if digest != entry.sha256:
        raise ChecksumError(
            f"dataset {entry.name!r}: {path} has sha256 {digest}, the registry wants {entry.sha256}; "
            "delete the file and fetch it again"
        )


def _download(entry: Entry, url: str, path: Path) -> Path:
    import pooch

    try:
        pooch.retrieve(url, known_hash=f"sha256:{entry.sha256}", fname=path.name, path=path.parent)
    except ValueError as error:  # pooch checks before it moves the file into place, so nothing is left behind
        raise ChecksumError(f"dataset {entry.name!r}: what {url} serves is not the registered file ({error})") from error
    except OSError as error:  # requests, urllib3 and http.client each wrap what the socket said: that alone is kept
        raise ConnectionError(
            f"dataset {entry.name!r}: could not download {url} ({_first_cause(error)}); try again with a network, "
            f"or name a folder that holds {entry.file} in {DATA_DIR_VARIABLE}"
        ) from None
    return path


def _first_cause(error: BaseException) -> str:
    while (earlier := error.__cause__ or error.__context__) is not None:
        error = earlier
    return str(error) or type(error).__name__
