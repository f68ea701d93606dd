"""Images and volumes in NIfTI and NumPy files, with the affine that places them in space."""

from __future__ import annotations

import math
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from posterior.io._files import UNPACKED_LIMIT, FileError, first_line, must_exist, needs

_NIFTI = (".nii", ".nii.gz")
_MILLIMETRES = {"micron": 1e-3, "meter": 1e3}


class ImageError(FileError):
    """A file of an image is not what it should be."""


@dataclass(frozen=True, eq=False)
class Image:
    """An image or volume, as it is stored: axes in the order and direction of the file.

    Args:
        data: The values, real (float32) or complex (complex64), any number of axes.
        affine: (4, 4) float64, from voxel indices to mm (x right, y anterior, z superior), or None where the file has none.
        source: Where it comes from.

    Raises:
        ImageError: If ``data`` is empty, or ``affine`` is not a finite (4, 4) matrix that can be inverted.
    """

    data: Tensor
    affine: Tensor | None = None
    source: str = "image"

    def __post_init__(self) -> None:
        if self.data.numel() == 0:
            raise ImageError(f"{self.source}: image has shape {tuple(self.data.shape)}; wanted at least one value")
        if self.affine is None:
            return
        if tuple(self.affine.shape) != (4, 4) or not torch.isfinite(self.affine).all():
            raise ImageError(f"{self.source}: affine has shape {tuple(self.affine.shape)}; wanted a finite (4, 4) matrix")
        if min(self._spacing()) <= 0:
            raise ImageError(f"{self.source}: affine gives voxels of size {self._spacing()}; wanted them above zero")

    @property
    def voxel_size(self) -> tuple[float, ...] | None:
        """Size of a voxel along the first three axes in mm, or None where the file has no affine."""
        return None if self.affine is None else self._spacing()

    def _spacing(self) -> tuple[float, ...]:
        assert self.affine is not None
        return tuple(float(size) for size in self.affine[:3, :3].norm(dim=0))


def read_image(path: str | Path, name: str | None = None, *, limit: int = UNPACKED_LIMIT) -> Image:
    """An image from a NIfTI (``.nii``, ``.nii.gz``) or NumPy (``.npy``, ``.npz``) file; nothing is unpickled.

    Args:
        path: The file.
        name: Array of an ``.npz`` file that holds several.

    Other arguments:
        limit: Most bytes that the values may take in memory.

    Raises:
        ImageError: If the file is missing, truncated or too large, holds no numbers, lacks the array, or holds NaN
            or infinity.
        ImportError: If nibabel is not installed and the file is NIfTI.
    """
    path = Path(path)
    must_exist(path, "an image", ImageError)
    if path.name.lower().endswith(_NIFTI):
        return _read_nifti(path, limit)
    if path.suffix.lower() in (".npy", ".npz"):
        return Image(_tensor(_read_numpy(path, name, limit), path), source=path.name)
    raise ImageError(f"{path}: images end in .nii, .nii.gz, .npy or .npz; got {path.suffix or 'no ending'!r}")


def write_image(path: str | Path, image: Image) -> None:
    """An image to a NIfTI (``.nii``, ``.nii.gz``) or NumPy (``.npy``) file. NIfTI keeps the affine, NumPy only the values.

    Args:
        path: File to write.
        image: What to write.

    Raises:
        ImageError: If ``path`` ends otherwise, or NIfTI is asked for and the image has no affine.
        ImportError: If nibabel is not installed and NIfTI is asked for.
    """
    path = Path(path)
    values = image.data.detach().cpu().resolve_conj().resolve_neg().numpy()
    if path.suffix.lower() == ".npy":
        np.save(path, values, allow_pickle=False)
    elif not path.name.lower().endswith(_NIFTI):
        raise ImageError(f"{path}: images are written to .nii, .nii.gz or .npy; got {path.suffix or 'no ending'!r}")
    elif image.affine is None:
        raise ImageError(f"{path}: {image.source} has no affine; NIfTI wants one to say where the voxels lie")
    else:
        nibabel = needs("nibabel", "mri", "writing NIfTI")
        out = nibabel.Nifti1Image(values, image.affine.detach().cpu().double().numpy())
        out.header.set_xyzt_units("mm")
        nibabel.save(out, path)


def _read_nifti(path: Path, limit: int) -> Image:
    nibabel = needs("nibabel", "mri", "reading NIfTI")
    try:
        image = nibabel.load(path)
        kind = image.get_data_dtype()
        if kind.kind not in "biufc":
            raise ImageError(f"{path}: voxels are {kind}; wanted numbers")
        complex_values = kind.kind == "c"
        _check_size(math.prod(image.shape) * (8 if complex_values else 4), limit, path)
        values = np.asarray(image.dataobj, dtype=np.complex64) if complex_values else image.get_fdata(dtype=np.float32)
        affine = np.array(image.affine, np.float64)
        affine[:3] *= _MILLIMETRES.get(image.header.get_xyzt_units()[0], 1.0)
    except ImageError:
        raise
    except Exception as error:  # nibabel, gzip and zlib raise errors of many kinds for a file that is not whole
        raise ImageError(f"{path}: not a complete NIfTI file ({first_line(error)}); wanted an image") from error
    return Image(_tensor(values, path), torch.from_numpy(affine), path.name)


def _read_numpy(path: Path, name: str | None, limit: int) -> np.ndarray:
    try:
        if path.suffix.lower() == ".npz":
            with zipfile.ZipFile(path) as archive:
                _check_size(sum(member.file_size for member in archive.infolist()), limit, path)
        # mapped, so that nothing is read before the size is known; an archive has been checked above
        loaded: Any = np.load(path, allow_pickle=False, mmap_mode="r")
        if isinstance(loaded, np.ndarray):
            _check_size(loaded.nbytes, limit, path)
            return np.array(loaded)
        with loaded:
            return loaded[_pick(loaded.files, name, path)]
    except ImageError:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ImageError(f"{path}: not a complete NumPy file of numbers ({first_line(error)}); wanted an image") from error


def _pick(names: list[str], name: str | None, path: Path) -> str:
    if name is None and len(names) == 1:
        return names[0]
    if name not in names:
        asked = "several arrays" if name is None else f"no array {name!r}"
        raise ImageError(f"{path}: has {asked} but {', '.join(names) or 'none'}; say which one with name=")
    return name


def _check_size(size: int, limit: int, path: Path) -> None:
    if size > limit:
        raise ImageError(f"{path}: takes {size} bytes in memory, more than the {limit} allowed; raise limit= if you trust it")


def _tensor(values: np.ndarray, path: Path) -> Tensor:
    if values.dtype.kind not in "biufc":
        raise ImageError(f"{path}: holds {values.dtype}; wanted numbers")
    dtype = np.complex64 if values.dtype.kind == "c" else np.float32
    with np.errstate(over="ignore"):
        values = np.ascontiguousarray(values, dtype=dtype)
    bad = int((~np.isfinite(values)).sum())
    if bad:
        raise ImageError(f"{path}: has {bad} of {values.size} values that are NaN or infinite; wanted finite numbers")
    return torch.from_numpy(values)
