"""From k-space to an inverse problem: noise, coils, sensitivities, scale."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from posterior.io.kspace import KSpace, KSpaceError, as_tensor
from posterior.recipes.mri.baselines import sense_cg
from posterior.recipes.mri.problem import MRIProblem

_SMALLEST_CALIBRATION = 8


def prepare(
    kspace: KSpace,
    *,
    maps: Tensor | np.ndarray | None = None,
    maps_source: str | None = None,
    noise: Tensor | float | None = None,
    coils: int | None = 8,
    calibration: int = 24,
    crop: float = 0.8,
) -> MRIProblem:
    """Turn k-space into a problem, all from the k-space itself.

    Readout oversampling is cut off, the noise covariance estimated from the periphery of k-space, the coils
    whitened and compressed, sensitivities estimated from the calibration lines by ESPIRiT, and the whole
    scaled by the 99th percentile of the SENSE image.

    Args:
        kspace: The data.

    Other arguments:
        maps: Sensitivities of the file's coils (coils, H, W), complex, in place of ESPIRiT.
        maps_source: Where the maps come from, such as their file, for the facts of the result.
        noise: Standard deviation of the real and of the imaginary part in file units, one number, or the
            covariance of the coils (coils, coils), in place of the estimate.
        coils: Compress to this many virtual coils where there are more; None for no compression.
        calibration: Largest side of the calibration square that ESPIRiT uses.
        crop: ESPIRiT's eigenvalue, from 0 to 1, below which a pixel counts as outside the object.

    Raises:
        KSpaceError: If the maps do not fit, or noise or maps cannot be estimated from these data.
    """
    from operators import MultiCoilMRI, calibration_region, compress_coils, prewhiten

    kspace = kspace.without_oversampling()
    shape = tuple(kspace.data.shape)
    given = None if maps is None else _given_maps(maps, shape, kspace.source)
    covariance = _covariance(kspace, noise)
    factor = torch.linalg.cholesky(covariance)
    sigma = float(factor.diagonal().real.log().mean().exp())
    # Whitened coils keep the size they had: noise of standard deviation sigma, the geometric mean over coils.
    data = sigma * prewhiten(kspace.data, covariance)
    matrix = torch.eye(shape[0], dtype=data.dtype)
    if coils is not None and coils < shape[0]:
        data, matrix = compress_coils(data, coils)
    centre = calibration_region(kspace.mask.float())
    inside = None
    if given is not None:
        whitened = torch.einsum("ij,jyx->iyx", matrix, sigma * prewhiten(given, covariance))
        how = "given"
    elif shape[0] == 1:
        whitened, how = torch.ones(1, *shape[1:], dtype=data.dtype), "one coil, taken as uniform"
    else:
        whitened, inside, how = _estimated_maps(data, kspace, centre, calibration, crop)
    if given is None:
        # In the coils of the file the sensitivities shall have a root sum of squares of one.
        back = (factor.to(data.dtype) / sigma) @ matrix.conj().T
        rss = torch.linalg.vector_norm(torch.einsum("ij,jyx->iyx", back, whitened), dim=0)
        whitened = torch.where(rss > 0, whitened / rss.clamp_min(1e-30), 0)

    y = torch.view_as_real(data * kspace.mask).movedim(-1, 0)[None]
    operator = MultiCoilMRI(kspace.mask.float(), whitened.to(torch.complex64))
    reference = kspace.reference
    fits = reference is not None and tuple(reference.shape) == shape[1:]
    problem = MRIProblem(
        operator=operator,
        y=y.contiguous(),
        sigma=sigma,
        scale=1.0,
        mask=kspace.mask,
        calibration=centre,
        inside=inside,
        truth=reference if fits else None,
        source=kspace.source,
        voxel_size=kspace.voxel_size,
        facts={
            **kspace.facts,
            "coils": f"{shape[0]}" + (f", compressed to {data.shape[0]}" if data.shape[0] < shape[0] else ""),
            "coil maps": how,
            **({} if given is None or maps_source is None else {"maps": maps_source}),
            "noise": f"{sigma:.4g} (file units)" + (", estimated" if noise is None else ", given"),
            "sampled": f"{100 * kspace.sampled:.1f} %",
        },
    )
    return _scaled(problem)


def _scaled(problem: MRIProblem) -> MRIProblem:
    """In units of the 99th percentile of the SENSE image."""
    scale = float(np.percentile(torch.linalg.vector_norm(sense_cg(problem), dim=0).numpy(), 99))
    if not (np.isfinite(scale) and scale > 0):
        raise KSpaceError(f"{problem.source}: the coil maps are zero where the image is not; wanted maps that fit")
    truth = None if problem.truth is None else problem.truth / scale
    return replace(problem, y=problem.y / scale, sigma=problem.sigma / scale, scale=scale, truth=truth)


def _given_maps(maps: Tensor | np.ndarray, shape: tuple[int, ...], source: str) -> Tensor:
    values = as_tensor(maps)
    if not values.is_complex():
        raise KSpaceError(f"coil maps are {str(values.dtype).removeprefix('torch.')}; wanted complex numbers")
    if values.ndim == 3 and values.shape[0] != shape[0]:
        raise KSpaceError(f"coil maps are of {values.shape[0]} coils, but {source} has {shape[0]}")
    if tuple(values.shape) != shape:
        raise KSpaceError(f"coil maps have shape {tuple(values.shape)}; wanted {shape} to fit {source}")
    if not torch.isfinite(torch.view_as_real(values)).all():
        raise KSpaceError("coil maps have values that are NaN or infinite; wanted finite numbers")
    if not values.any():
        raise KSpaceError("coil maps are zero everywhere; wanted the sensitivity of each coil")
    return values.to(torch.complex64)


def _covariance(kspace: KSpace, noise: Tensor | float | None) -> Tensor:
    from operators import noise_covariance

    if noise is None:
        try:
            return noise_covariance(kspace.data, kspace.mask)
        except ValueError as error:
            raise KSpaceError(f"{kspace.source}: the noise cannot be estimated ({error}); pass it") from error
    value = torch.as_tensor(noise)
    if value.ndim == 0:
        if not (torch.isfinite(value) and value > 0):
            raise KSpaceError(f"noise is {float(value):g}; wanted a positive standard deviation")
        return float(value) ** 2 * torch.eye(kspace.coils, dtype=torch.complex128)
    value = value.to(torch.complex128)
    if tuple(value.shape) != (kspace.coils, kspace.coils) or torch.linalg.cholesky_ex(value).info:
        raise KSpaceError(
            f"noise has shape {tuple(value.shape)}; wanted a number or a positive definite covariance of {kspace.coils} coils"
        )
    return value


def _estimated_maps(
    data: Tensor, kspace: KSpace, centre: tuple[int, int], calibration: int, crop: float
) -> tuple[Tensor, Tensor, str]:
    from operators import espirit

    side = min(calibration, *centre)
    if side < _SMALLEST_CALIBRATION:
        raise KSpaceError(
            f"{kspace.source}: the fully sampled centre of k-space is {centre[0]} x {centre[1]}; estimating "
            f"coil maps takes {_SMALLEST_CALIBRATION} x {_SMALLEST_CALIBRATION}: pass coil maps"
        )
    try:
        # Below two kernels a side the patches are too few to tell the coils' subspace from all there is.
        # The operator keeps the maps of air as well: only so do the data tell that it is dark.
        maps, eigenvalue = espirit(data, side, kernel=min(6, side // 2))
    except ValueError as error:
        raise KSpaceError(f"{kspace.source}: coil maps cannot be estimated ({error}); pass them") from error
    inside = (eigenvalue > crop) & (maps != 0).any(0)
    if not inside.any():
        raise KSpaceError(f"{kspace.source}: ESPIRiT finds no object in the calibration data; pass coil maps")
    return maps, inside, f"ESPIRiT, from the central {side} x {side} samples"
