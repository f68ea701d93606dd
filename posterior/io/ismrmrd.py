"""Cartesian k-space out of ISMRMRD raw data: readouts, noise scans and an XML header in HDF5, through the ismrmrd package."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from posterior.io._files import first_line, must_exist, needs
from posterior.io.kspace import KSpace, KSpaceError, pick_slice, pixel_size, slice_facts

if TYPE_CHECKING:
    import h5py

_WHAT = "ISMRMRD raw data"
_LOOPS = ("contrast", "phase", "repetition", "set")
# Readouts that are no samples of the image; a calibration line counts only where it is marked as image too.
_NOT_IMAGE = (
    "ACQ_IS_NOISE_MEASUREMENT",
    "ACQ_IS_PHASECORR_DATA",
    "ACQ_IS_NAVIGATION_DATA",
    "ACQ_IS_HPFEEDBACK_DATA",
    "ACQ_IS_DUMMYSCAN_DATA",
    "ACQ_IS_RTFEEDBACK_DATA",
    "ACQ_IS_SURFACECOILCORRECTIONSCAN_DATA",
    "ACQ_IS_PARALLEL_CALIBRATION",
)


def read_ismrmrd(path: str | Path, slice_index: int | None = None, select: Mapping[str, int] | None = None) -> KSpace:
    """One slice of 2-D Cartesian k-space from ISMRMRD raw data.

    Every readout goes to its phase-encoding line with its central sample at the centre of the encoded matrix, so that
    partial echoes and partial Fourier leave zeros; repeated averages are averaged; readouts played backwards are turned.
    Noise scans are left to `read_noise`, and navigators and phase-correction lines are left out.

    Args:
        path: HDF5 file with a group that holds ``xml`` and ``data``.
        slice_index: Slice to read, from 0; negative counts from the end; None for the middle one.
        select: Which ``contrast``, ``phase``, ``repetition`` or ``set`` to read where the file holds several:
            ``{"repetition": 0}``; or the one ``average`` to read, in place of their mean.

    Raises:
        KSpaceError: If the file is missing, truncated or not such data; if it is not Cartesian or not 2-D; if it holds
            several contrasts, phases, repetitions or sets and ``select`` does not say which.
        ImportError: If ismrmrd is not installed.

    References:
        Inati et al., ISMRM Raw data format: a proposed standard for MRI raw datasets, Magn. Reson. Med. 77 (2017) 411-421.
    """
    path = Path(path)
    header, heads, acquisitions = _open(path)
    encoding = header.encoding[0]
    trajectory = getattr(encoding.trajectory, "value", encoding.trajectory)
    if trajectory != "cartesian":
        raise KSpaceError(f"{path}: the trajectory is {trajectory!r}; wanted cartesian k-space")
    keep = ~_flagged(heads, _NOT_IMAGE) | _flagged(heads, ("ACQ_IS_PARALLEL_CALIBRATION_AND_IMAGING",))
    keep &= ~_flagged(heads, ("ACQ_IS_NOISE_MEASUREMENT",)) & (heads["encoding_space_ref"] == 0)
    if not keep.any():
        raise KSpaceError(f"{path}: none of {len(heads)} readouts is a sample of the image; wanted at least one")
    chosen, facts = _loops(heads, keep, dict(select or {}), path)
    keep &= chosen
    counters = heads["idx"]
    slices = int(counters["slice"][keep].max()) + 1
    index = pick_slice(slices, slice_index, path)
    keep &= counters["slice"] == index
    if not keep.any():
        raise KSpaceError(f"{path}: slice {index} has no readouts; wanted at least one")
    if len(np.unique(counters["kspace_encode_step_2"][keep])) > 1:
        raise KSpaceError(f"{path}: 3-D k-space, encoded along two directions; wanted one slice")
    data, mask = _grid(encoding, acquisitions(np.flatnonzero(keep)), path)
    view, size = encoding.encodedSpace.fieldOfView_mm, encoding.reconSpace.matrixSize
    return KSpace(
        data,
        mask,
        path.name,
        slice_index=index,
        voxel_size=pixel_size((view.x, view.y), data),
        recon_size=(size.x, size.y) if min(size.x, size.y) > 0 else None,
        attributes=_facts(header),
        facts={**slice_facts(index, slices), **facts},
    )


def read_noise(path: str | Path) -> Tensor:
    """Samples of the noise scans of an ISMRMRD file, brought to the bandwidth of the image's readouts.

    White noise has a power proportional to its bandwidth, so the samples are multiplied by
    sqrt(dwell time of the noise scan / (dwell time of the image * relative receiver noise bandwidth)); the last is 1 where
    the header has none. Their covariance is then that of the k-space, for `operators.prewhiten`.

    Args:
        path: See `read_ismrmrd`.

    Returns:
        (coils, samples) complex64.

    Raises:
        KSpaceError: As `read_ismrmrd`; also if the file has no noise scan.
        ImportError: If ismrmrd is not installed.
    """
    path = Path(path)
    header, heads, acquisitions = _open(path)
    noise = _flagged(heads, ("ACQ_IS_NOISE_MEASUREMENT",))
    if not noise.any():
        raise KSpaceError(f"{path}: none of {len(heads)} readouts is a noise scan; wanted at least one")
    image = heads[~_flagged(heads, _NOT_IMAGE)]
    system = getattr(header, "acquisitionSystemInformation", None)
    bandwidth = float(getattr(system, "relativeReceiverNoiseBandwidth", None) or 1.0)
    dwell = float(image["sample_time_us"][0]) if len(image) else 0.0
    samples = []
    for readout in acquisitions(np.flatnonzero(noise)):
        ratio = readout.sample_time_us / (dwell * bandwidth) if dwell > 0 and readout.sample_time_us > 0 else 1.0
        samples.append(readout.data * np.float32(math.sqrt(ratio)))
    return torch.from_numpy(np.concatenate(samples, axis=1))


def find_group(file: h5py.File) -> str | None:
    """Name of the group of an HDF5 file that holds ISMRMRD raw data, or None."""
    import h5py

    groups = ((name, file[name]) for name in file)
    return next((name for name, group in groups if isinstance(group, h5py.Group) and {"xml", "data"} <= set(group)), None)


def _open(path: Path) -> tuple[Any, np.ndarray, Any]:
    """The header, the heads of all readouts, and a function that reads some of the readouts."""
    import h5py

    ismrmrd = needs("ismrmrd", "mri", "reading ISMRMRD raw data")
    must_exist(path, _WHAT, KSpaceError)
    try:
        with h5py.File(path, "r") as file:
            name = find_group(file)
            if name is None:
                found = ", ".join(sorted(file)) or "nothing"
                raise KSpaceError(f"{path}: has no group with 'xml' and 'data' but {found}; wanted {_WHAT}")
            readouts = file[f"{name}/data"]
            if not isinstance(readouts, h5py.Dataset):
                raise KSpaceError(f"{path}: '{name}/data' is no data set; wanted {_WHAT}")
            heads = readouts.fields("head")[:]
        with ismrmrd.Dataset(str(path), name, mode="r") as dataset:
            header = ismrmrd.xsd.CreateFromDocument(dataset.read_xml_header())
    except KSpaceError:
        raise
    except Exception as error:  # h5py and the XML parser raise errors of many kinds for a file that is not whole
        raise KSpaceError(f"{path}: not a complete HDF5 file of {_WHAT} ({first_line(error)})") from error
    if not header.encoding or not len(heads):
        raise KSpaceError(
            f"{path}: the header has {len(header.encoding)} encodings and the file {len(heads)} readouts; wanted some"
        )

    def acquisitions(numbers: np.ndarray) -> list[Any]:
        try:
            with ismrmrd.Dataset(str(path), name, mode="r") as dataset:
                return [dataset.read_acquisition(int(number)) for number in numbers]
        except (OSError, ValueError) as error:
            raise KSpaceError(f"{path}: a readout is truncated or damaged ({first_line(error)}); wanted {_WHAT}") from error

    return header, heads, acquisitions


def _flagged(heads: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    """Which readouts carry any of the flags; flag n of the standard is bit n - 1."""
    constants = needs("ismrmrd.constants", "mri", "reading ISMRMRD raw data")
    bits = sum(1 << (getattr(constants, name) - 1) for name in names)
    return (heads["flags"] & np.uint64(bits)) != 0


def _loops(heads: np.ndarray, keep: np.ndarray, select: dict[str, int], path: Path) -> tuple[np.ndarray, dict[str, str]]:
    """Which readouts are of the loops selected, and what was chosen where there is a choice."""
    known = (*_LOOPS, "average")
    unknown = [name for name in select if name not in known]
    if unknown:
        raise KSpaceError(f"{path}: select has {unknown[0]!r}; wanted one of {', '.join(known)}")
    chosen, facts = np.ones_like(keep), {}
    for loop in known:
        there = np.unique(heads["idx"][loop][keep]).tolist()
        if loop in select and select[loop] not in there:
            raise KSpaceError(f"{path}: has no {loop} {select[loop]} but {', '.join(map(str, there))}")
        if loop not in select and loop in _LOOPS and len(there) > 1:
            raise KSpaceError(
                f"{path}: holds {len(there)} {loop}s, {there[0]} to {there[-1]}; say which with "
                f"select={{{loop!r}: {there[0]}}} or --select {loop}={there[0]}"
            )
        if loop in select:
            chosen &= heads["idx"][loop] == select[loop]
            facts |= {loop: f"{select[loop]} of {len(there)}"} if len(there) > 1 else {}
    return chosen, facts


def _grid(encoding: Any, readouts: list[Any], path: Path) -> tuple[Tensor, Tensor]:
    """Readouts on the encoded matrix: (coils, readout, phase) and the mask."""
    size = encoding.encodedSpace.matrixSize
    height, width, coils = size.x, size.y, readouts[0].data.shape[0]
    limits = getattr(encoding.encodingLimits, "kspace_encoding_step_1", None)
    centre = width // 2 if limits is None else limits.center
    total = np.zeros((coils, height, width), np.complex64)
    count = np.zeros((height, width), np.float32)
    for readout in readouts:
        samples, middle = _samples(readout)
        start = height // 2 - middle
        line = int(readout.idx.kspace_encode_step_1) - centre + width // 2
        rows = slice(start, start + samples.shape[1])
        if samples.shape[0] != coils or start < 0 or rows.stop > height or not 0 <= line < width:
            raise KSpaceError(
                f"{path}: a readout of {samples.shape[0]} coils, samples {start} to {rows.stop}, line {line}; "
                f"wanted {coils} coils, within 0 to {height}, lines 0 to {width - 1}, as the header's encodedSpace says"
            )
        total[:, rows, line] += samples
        count[rows, line] += 1
    return torch.from_numpy(total / np.maximum(count, 1)), torch.from_numpy(count > 0)


def _samples(readout: Any) -> tuple[np.ndarray, int]:
    """The samples to keep, (coils, n), in the direction of the encoded axis, and the place of the central one."""
    stop = readout.number_of_samples - readout.discard_post
    samples, middle = readout.data[:, readout.discard_pre : stop], readout.center_sample - readout.discard_pre
    constants = needs("ismrmrd.constants", "mri", "reading ISMRMRD raw data")
    if readout.is_flag_set(constants.ACQ_IS_REVERSE):
        return samples[:, ::-1], samples.shape[1] - 1 - middle
    return samples, middle


def _facts(header: Any) -> dict[str, Any]:
    system = getattr(header, "acquisitionSystemInformation", None)
    facts = {name: getattr(system, name, None) for name in ("systemVendor", "systemModel", "systemFieldStrength_T")}
    return {name: value for name, value in facts.items() if value is not None}
