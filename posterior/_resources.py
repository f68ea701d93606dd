"""Where the files that travel with the package lie: trained priors, small inputs, the data registry."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def resource(*parts: str) -> Path:
    """Path of a file or folder that ships with the package.

    In an installed wheel the files lie under ``posterior/_data``; in a checkout, and so in an editable
    install, under ``data`` beside the package.

    Args:
        *parts: the path below that folder, e.g. ``resource("priors", "brain-mri")``.

    Raises:
        FileNotFoundError: if neither place has it.
    """
    folders = [_PACKAGE / "_data"]
    # A checkout only: in site-packages, a folder called data is another package's.
    if (_PACKAGE.parent / "pyproject.toml").is_file():
        folders.append(_PACKAGE.parent / "data")
    for folder in folders:
        path = folder.joinpath(*parts)
        if path.exists():
            return path
    looked = ", ".join(map(str, folders))
    raise FileNotFoundError(f"{'/'.join(parts)} is not among the files shipped with posterior, in {looked}")
