"""Measured point-spread functions from FITS files, one per extension."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from posterior.io._files import FileError, first_line, needs, read_bytes

_WHAT = "point-spread functions in FITS"
_MOST_PIXELS = 1 << 24
_CUT_OFF = ("File may have been truncated", "Error validating header")


class PSFError(FileError):
    """A file of point-spread functions is not what it should be."""


def read_psfs(path: str | Path, size: int | None = None) -> Tensor:
    """All point-spread functions of a FITS file, each with sum one and its centre of mass on the central pixel.

    They are shifted by whole pixels, so that nothing is interpolated, and filled up with zeros to one odd size: the
    centre of mass lies within half a pixel of the middle, the rest of the shift being part of the instrument.

    Args:
        path: The file; every extension that holds an image is one function.
        size: Odd number of rows and columns; None for the smallest that cuts nothing off.

    Returns:
        (n, size, size) float64, the order of the file.

    Raises:
        PSFError: If the file is missing or truncated, holds no image, a function is not finite or its sum is not positive, or
            ``size`` is even or smaller than a function.
        ImportError: If astropy is not installed.
    """
    from operators.kernels import centred_psf

    path = Path(path)
    functions = []
    for name, values in _images(path):
        try:
            functions.append(centred_psf(torch.from_numpy(values)))
        except ValueError as error:
            raise PSFError(f"{path}: extension {name}: {first_line(error)}") from error
    if not functions:
        raise PSFError(f"{path}: no extension holds an image (h, w); wanted {_WHAT}")
    largest = max(max(function.shape) for function in functions)
    size = largest if size is None else size
    if size % 2 == 0 or size < largest:
        raise PSFError(f"{path}: size is {size}; wanted an odd number from {largest} on, the largest function being that wide")
    return torch.stack([_fill(function, size) for function in functions])


def _content(path: Path) -> bytes:
    try:
        return read_bytes(path, _WHAT)
    except FileError as error:
        raise PSFError(str(error)) from error


def _images(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    fits = needs("astropy.io.fits", "astronomy", "reading FITS")
    content = _content(path)
    try:
        # astropy says by a warning that a file is cut off, and then reads what is left; its others are about formalities
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for message in _CUT_OFF:
                warnings.filterwarnings("error", message)
            with fits.open(io.BytesIO(content), lazy_load_hdus=False) as file:
                for number, extension in enumerate(file):
                    shape = getattr(extension, "shape", ())
                    if not extension.is_image or len(shape) != 2 or 0 in shape:
                        continue
                    if shape[0] * shape[1] > _MOST_PIXELS:
                        raise PSFError(f"{path}: extension {number} has shape {shape}; wanted {_WHAT}, not an image of the sky")
                    # the copy has the byte order of this machine, and outlives the file
                    yield extension.name or str(number), np.array(extension.data, dtype=np.float64)
    except (FileError, GeneratorExit):
        raise
    except Exception as error:  # astropy's errors and warnings about broken files share no class
        raise PSFError(f"{path}: not a complete FITS file ({first_line(error)}); wanted {_WHAT}") from error


def _fill(function: Tensor, size: int) -> Tensor:
    rows, columns = ((size - n) // 2 for n in function.shape)
    return torch.nn.functional.pad(function, (columns, columns, rows, rows))
