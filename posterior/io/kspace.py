"""Reading Cartesian k-space: NumPy ``.npy``, fastMRI ``.h5``, ISMRMRD raw data, BART ``.cfl`` with ``.hdr``.

Every format ends in the same `KSpace`: one slice, (coils, ky, kx), centred, zeros where nothing was measured.
Axis ky is the readout (fully sampled where lines are skipped), kx the phase encoding, as in fastMRI.
Whatever is wrong with a file is said in one sentence that names the file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np
import torch
from torch import Tensor

from posterior.io._files import FileError, first_line, must_exist

if TYPE_CHECKING:
    import h5py

_BART_SLICE = 13
_BART_DIMENSIONS = 16


class KSpaceError(FileError):
    """A k-space file, mask or set of coil maps is not what it should be."""


@dataclass(frozen=True, eq=False)
class KSpace:
    """One slice of Cartesian k-space, centred: the zero frequency is at (ky // 2, kx // 2).

    Args:
        data: (coils, ky, kx) complex64, the file's units; zeros where nothing was measured.
        mask: (ky, kx) bool, True where measured.
        source: Where the data come from, for error messages and provenance.

    Other arguments:
        slice_index: The slice of the file, or None where it holds one.
        voxel_size: Size of a pixel (dy, dx) in mm, or None where the file does not say.
        reference: Magnitude image that the file's makers reconstructed from all samples (H, W), or None.
        recon_size: Image size (H, W) after removing readout oversampling, or None where the file has none.
        attributes: What else the file says, as text and numbers.
        facts: What was chosen of the file, and with which mask: words for people.

    Raises:
        KSpaceError: If the data are not 3-D and complex, hold NaN or infinity or only zeros, or if the mask
            does not fit them.
    """

    data: Tensor
    mask: Tensor
    source: str = "k-space"
    slice_index: int | None = None
    voxel_size: tuple[float, float] | None = None
    reference: Tensor | None = None
    recon_size: tuple[int, int] | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        shape = tuple(self.data.shape)
        if len(shape) != 3 or 0 in shape:
            raise KSpaceError(f"{self.source}: k-space has shape {shape}; wanted (coils, ky, kx)")
        if not self.data.is_complex():
            raise KSpaceError(f"{self.source}: k-space has dtype {_dtype(self.data)}; wanted complex numbers")
        object.__setattr__(self, "data", as_tensor(self.data).to(torch.complex64))
        bad = int((~torch.isfinite(torch.view_as_real(self.data))).any(-1).sum())
        if bad:
            raise KSpaceError(
                f"{self.source}: k-space has {bad} of {self.data.numel()} values that are NaN or infinite; "
                "wanted finite numbers"
            )
        if tuple(self.mask.shape) != shape[1:]:
            raise KSpaceError(f"{self.source}: mask has shape {tuple(self.mask.shape)}; wanted {shape[1:]}")
        if not self.data.any():
            raise KSpaceError(f"{self.source}: k-space is zero everywhere; wanted at least one measured sample")
        if not self.mask.any():
            raise KSpaceError(f"{self.source}: the mask leaves no measured sample; wanted at least one")

    @property
    def coils(self) -> int:
        """Number of coils."""
        return self.data.shape[0]

    @property
    def sampled(self) -> float:
        """Share of the grid that was measured."""
        return float(self.mask.float().mean())

    def with_mask(self, mask: Tensor | np.ndarray, source: str = "mask") -> KSpace:
        """Keep only the samples that ``mask`` marks.

        Args:
            mask: Non-zero where measured: (kx,) for whole lines, or (ky, kx).
            source: What errors and `facts` call the mask, such as its file.

        Raises:
            KSpaceError: If the mask has another shape, holds NaN, or keeps no measured sample.
        """
        keep = _fit_mask(mask, tuple(self.data.shape[1:]), source, self.source) & self.mask
        if not keep.any():
            raise KSpaceError(f"{source}: marks no sample that {self.source} measured; wanted at least one")
        return replace(self, data=self.data * keep, mask=keep, facts={**self.facts, "mask": source})

    def without_oversampling(self) -> KSpace:
        """Cut the field of view to `recon_size` along a fully sampled readout; as it is where there is none.

        Scanners sample the readout twice as densely as the image needs. Halving the field of view along it
        costs nothing, since every readout is complete, and it halves the work.
        """
        height = self.data.shape[1]
        if self.recon_size is None or self.recon_size[0] >= height:
            return self
        lines = self.mask.any(0)
        if not bool((self.mask == lines).all()):
            return self
        start = height // 2 - self.recon_size[0] // 2
        rows = slice(start, start + self.recon_size[0])
        hybrid = _centred(self.data, torch.fft.ifft)[:, rows]
        data = _centred(hybrid, torch.fft.fft) * lines
        return replace(self, data=data, mask=lines.expand(data.shape[1:]).clone())


def read_kspace(path: str | Path, slice_index: int | None = None, select: Mapping[str, int] | None = None) -> KSpace:
    """One slice of Cartesian k-space from a file.

    Args:
        path: ``.npy``, complex (coils, ky, kx); ``.h5`` or ``.hdf5`` as fastMRI writes it, ``kspace``
            (slices, [coils,] H, W), of which one slice is read; ``.h5`` or ``.mrd`` with ISMRMRD raw data, see
            `posterior.io.ismrmrd.read_ismrmrd`; BART's ``.cfl`` or ``.hdr``, dimensions
            (read, phase 1, phase 2, coil, ..., slice at 13).
        slice_index: Slice to read, from 0; negative counts from the end; None for the middle one.
        select: Which repetition and the like of ISMRMRD raw data to read; see `posterior.io.ismrmrd.read_ismrmrd`.

    Raises:
        KSpaceError: If the file is missing, truncated or not k-space, or ``select`` is given for another format; one sentence
            says what was wanted.
    """
    path = Path(path)
    hdf5 = partial(_read_hdf5, select=select)
    readers: dict[str, Callable[[Path, int | None], KSpace]] = {
        ".npy": _read_npy,
        ".h5": hdf5,
        ".hdf5": hdf5,
        ".mrd": hdf5,
        ".cfl": _read_bart,
        ".hdr": _read_bart,
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise KSpaceError(f"{path}: k-space files end in {', '.join(readers)}; got {path.suffix or 'no ending'!r}")
    if select and reader is not hdf5:
        raise _no_loops(path, select)
    return reader(path, slice_index)


def _no_loops(path: Path, select: Mapping[str, int]) -> KSpaceError:
    return KSpaceError(f"{path}: no {next(iter(select))} can be selected; wanted ISMRMRD raw data, which number them")


def read_array(path: str | Path, what: str, *, mapped: bool = False) -> np.ndarray:
    """An array from a ``.npy`` file, never unpickled.

    Args:
        path: The file.
        what: What errors say was wanted, such as ``"a mask (kx,) or (ky, kx)"``.
        mapped: Leave the numbers on disk until they are asked for, read-only.

    Raises:
        KSpaceError: If the file is missing, truncated, or no array of numbers.
    """
    path = Path(path)
    must_exist(path, what, KSpaceError)
    try:
        array = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise KSpaceError(f"{path}: not a complete NumPy .npy file of numbers ({first_line(error)}); wanted {what}") from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "biufc":
        got = getattr(array, "dtype", type(array).__name__)
        raise KSpaceError(f"{path}: holds {got}; wanted {what}")
    return array


def as_tensor(values: Tensor | np.ndarray) -> Tensor:
    """``values`` as a tensor, from arrays that torch does not take as well: other byte orders, long doubles, turned round."""
    if isinstance(values, Tensor):
        return values.resolve_conj().resolve_neg()
    kind, size = values.dtype.kind, values.dtype.itemsize
    most = {"f": 8, "c": 16}.get(kind, size)
    return torch.as_tensor(np.ascontiguousarray(values, f"={kind}{min(size, most)}").reshape(values.shape))


def _read_npy(path: Path, slice_index: int | None) -> KSpace:
    array = read_array(path, "complex k-space (coils, ky, kx)")
    if array.ndim != 3:
        raise KSpaceError(f"{path}: k-space has shape {array.shape}; wanted (coils, ky, kx)")
    pick_slice(1, slice_index, path)
    data = _to_complex(array, path)
    return KSpace(data, _nonzero(data), source=path.name)


def _read_hdf5(path: Path, slice_index: int | None, select: Mapping[str, int] | None) -> KSpace:
    import h5py

    from posterior.io.ismrmrd import find_group, read_ismrmrd

    must_exist(path, "a fastMRI HDF5 file", KSpaceError)
    try:
        with h5py.File(path, "r") as file:
            if "kspace" in file or find_group(file) is None:
                if select:
                    raise _no_loops(path, select)
                return _fastmri_slice(file, path, slice_index)
        return read_ismrmrd(path, slice_index, select)
    except OSError as error:
        raise KSpaceError(f"{path}: not a complete HDF5 file ({first_line(error)}); wanted fastMRI k-space") from error


def _fastmri_slice(file: h5py.File, path: Path, slice_index: int | None) -> KSpace:
    import h5py

    dataset = file.get("kspace")
    if not isinstance(dataset, h5py.Dataset):
        found = ", ".join(sorted(file)) or "nothing"
        raise KSpaceError(f"{path}: has no dataset 'kspace' but {found}; wanted (slices, [coils,] H, W)")
    if dataset.ndim not in (3, 4) or 0 in dataset.shape:
        raise KSpaceError(f"{path}: dataset 'kspace' has shape {dataset.shape}; wanted (slices, [coils,] H, W)")
    index = pick_slice(dataset.shape[0], slice_index, path)
    pairs = dataset.dtype.names == ("real", "imag")  # as MATLAB writes complex numbers
    if dataset.dtype.kind != "c" and not pairs:
        raise KSpaceError(f"{path}: dataset 'kspace' has dtype {dataset.dtype}; wanted complex numbers")
    array = dataset[index]
    array = array["real"] + 1j * array["imag"] if pairs else array
    data = _to_complex(array if array.ndim == 3 else array[None], path)
    mask = _nonzero(data)
    given = file.get("mask")
    if isinstance(given, h5py.Dataset):
        what = f"{path}: dataset 'mask'"
        mask &= _fit_mask(np.asarray(given[()]), tuple(data.shape[1:]), what, "dataset 'kspace'")
    reference = file.get("reconstruction_rss", file.get("reconstruction_esc"))
    if isinstance(reference, h5py.Dataset) and reference.ndim == 3 and reference.shape[0] == dataset.shape[0]:
        reference = torch.from_numpy(np.abs(reference[index]).astype(np.float32))
    else:
        reference = None
    recon_size, view = _header(file.get("ismrmrd_header"))
    if recon_size is None and reference is not None:
        recon_size = (reference.shape[0], reference.shape[1])
    return KSpace(
        data * mask,
        mask,
        source=path.name,
        slice_index=index,
        voxel_size=pixel_size(view, data),
        reference=reference,
        recon_size=recon_size,
        attributes={name: _plain(value) for name, value in file.attrs.items()},
        facts=slice_facts(index, dataset.shape[0]),
    )


def _header(dataset: Any) -> tuple[tuple[int, int] | None, tuple[float, float] | None]:
    """Reconstructed matrix and encoded field of view in mm, (readout, phase), where the ISMRMRD header has them."""
    if dataset is None or getattr(dataset, "shape", None) != ():
        return None, None
    try:
        encoding: Any = ElementTree.fromstring(dataset[()]).find("{*}encoding")
        size = [int(encoding.findtext(f"{{*}}reconSpace/{{*}}matrixSize/{{*}}{axis}")) for axis in "xy"]
        view = [float(encoding.findtext(f"{{*}}encodedSpace/{{*}}fieldOfView_mm/{{*}}{axis}")) for axis in "xy"]
    except (ElementTree.ParseError, AttributeError, TypeError, ValueError):
        return None, None
    return (size[0], size[1]) if min(size) > 0 else None, (view[0], view[1])


def pixel_size(view: tuple[float, float] | None, data: Tensor) -> tuple[float, float] | None:
    """Size (dy, dx) in mm of a pixel of the image of ``data``; None where the field of view is not known.

    What a scanner calls its reconstructed matrix is interpolated, and an image of the k-space itself is not: its pixels
    have the size that the samples give. Cutting oversampling off leaves fewer pixels of the same size.

    Args:
        view: Field of view (readout, phase) in mm that the spacing of the samples encodes, the oversampled one.
        data: k-space (coils, ky, kx), all samples of the matrix.
    """
    if view is None or min(view) <= 0:
        return None
    return view[0] / data.shape[1], view[1] / data.shape[2]


def _read_bart(path: Path, slice_index: int | None) -> KSpace:
    header, body = path.with_suffix(".hdr"), path.with_suffix(".cfl")
    must_exist(header, "a BART header beside its .cfl", KSpaceError)
    must_exist(body, "BART data beside its .hdr", KSpaceError)
    shape = _bart_shape(header)
    wanted, got = 8 * math.prod(shape), body.stat().st_size
    if wanted != got:
        raise KSpaceError(f"{body}: has {got} bytes; wanted {wanted} for the dimensions in {header.name}")
    others = {i: n for i, n in enumerate(shape) if i > 3 and i != _BART_SLICE and n > 1}
    if others:
        raise KSpaceError(f"{header}: dimension {min(others)} has length {shape[min(others)]}; wanted 1")
    if sum(n > 1 for n in shape[:3]) > 2:
        raise KSpaceError(f"{header}: 3-D k-space of shape {shape[:3]}; wanted one slice, one of the three being 1")
    index = pick_slice(shape[_BART_SLICE], slice_index, path)
    array = np.fromfile(body, dtype="<c8").reshape(shape, order="F")
    array = array.reshape(*shape[:4], -1, order="F")[..., index]
    plane = array.squeeze(next((axis for axis in (2, 1, 0) if shape[axis] == 1), 2))
    data = _to_complex(np.moveaxis(plane, -1, 0), path)
    count = shape[_BART_SLICE]
    several = index if count > 1 else None
    return KSpace(data, _nonzero(data), source=path.name, slice_index=several, facts=slice_facts(index, count))


def _bart_shape(header: Path) -> tuple[int, ...]:
    lines = header.read_text(encoding="utf-8", errors="replace").splitlines()
    try:
        sizes = [int(n) for n in lines[lines.index("# Dimensions") + 1].split()]
    except (ValueError, IndexError):
        sizes = []
    if not sizes or min(sizes) < 1 or len(sizes) > _BART_DIMENSIONS:
        raise KSpaceError(f"{header}: wanted a line '# Dimensions' and below it up to 16 positive whole numbers")
    return tuple(sizes + [1] * (_BART_DIMENSIONS - len(sizes)))


def pick_slice(count: int, slice_index: int | None, path: Path) -> int:
    """Slice number from 0: the middle one for None; negative counts from the end."""
    if slice_index is None:
        return count // 2
    if not -count <= slice_index < count:
        raise KSpaceError(f"{path}: slice {slice_index} is out of range; the file has {count}, from 0")
    return slice_index % count


def slice_facts(index: int, count: int) -> dict[str, str]:
    """Which slice was read, where the file has several."""
    return {"slice": f"{index} of {count}, from 0"} if count > 1 else {}


def _to_complex(array: np.ndarray, path: Path) -> Tensor:
    if array.dtype.kind != "c":
        raise KSpaceError(f"{path}: k-space has dtype {array.dtype}; wanted complex numbers")
    with np.errstate(over="ignore"):
        return torch.from_numpy(np.ascontiguousarray(array, dtype=np.complex64))


def _nonzero(data: Tensor) -> Tensor:
    return (data != 0).any(0)


def _fit_mask(mask: Tensor | np.ndarray, shape: tuple[int, ...], source: str, target: str) -> Tensor:
    """``mask`` as bool (ky, kx)."""
    values = as_tensor(mask)
    while values.ndim > 1 and values.shape[0] == 1 and tuple(values.shape) != shape:
        values = values[0]
    if tuple(values.shape) not in (shape, shape[-1:]):
        raise KSpaceError(f"{source} has shape {tuple(values.shape)}; wanted ({shape[1]},) or {shape} to fit {target}")
    if values.is_complex() or (values.is_floating_point() and not torch.isfinite(values).all()):
        raise KSpaceError(f"{source} has {_dtype(values)} values that are no mask; wanted zeros and ones")
    return (values != 0).expand(shape).clone()


def _centred(x: Tensor, transform: Callable[..., Tensor]) -> Tensor:
    """Orthonormal ``transform`` along ky with the origin in the middle on both sides."""
    return torch.fft.fftshift(transform(torch.fft.ifftshift(x, dim=1), dim=1, norm="ortho"), dim=1)


def _dtype(x: Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value
