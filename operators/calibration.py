"""ESPIRiT with more than one set of coil maps."""

import math

import torch
from torch import Tensor

from operators.coils import calibration_region
from operators.masks import Array


def espirit_sets(
    kspace: Array, sets: int = 2, calibration: int = 24, *, kernel: int = 6, threshold: float = 0.02
) -> tuple[Tensor, Tensor]:
    r"""Coil sensitivities from the calibration square by ESPIRiT, several sets of them.

    At each pixel the maps are the eigenvectors of the largest eigenvalues of the operator that projects k-space
    neighbourhoods onto those seen in calibration. One eigenvalue near 1 means that one set explains the pixel; a second
    appears where the object folds over its own field of view.

    Args:
        kspace: (N, H, W) complex, zeros where it was not sampled.
        sets: Number M of sets, at most N.
        calibration: Side of the square at the centre of k-space that is used; it must be fully sampled.
        kernel: Side of the k-space kernel.
        threshold: Singular values of the calibration matrix below this share of the largest are noise.

    Returns:
        Maps (M, N, H, W) complex64, each of norm 1 over the coils and with a real first coil, and eigenvalues (M, H, W):
        weigh or cut maps with them, ``maps * (eigenvalues > 0.95)[:, None]``.

    Raises:
        ValueError: k-space is not (N, H, W) complex, ``sets`` does not fit, or the square is not fully sampled.

    References:
        Uecker et al., "ESPIRiT - an eigenvalue approach to autocalibrating parallel MRI: where SENSE meets GRAPPA",
        Magnetic Resonance in Medicine, 2014.
    """
    k = torch.as_tensor(kspace)
    if k.ndim != 3 or not k.is_complex():
        raise ValueError(f"espirit_sets: kspace must be (N, H, W) complex, got {k.dtype} of shape {tuple(k.shape)}")
    coils, height, width = k.shape
    if not 1 <= sets <= coils or not 1 <= kernel < calibration <= min(height, width):
        raise ValueError(
            f"espirit_sets: wanted 1 <= sets <= {coils} and kernel < calibration <= {min(height, width)}, "
            f"got sets={sets}, kernel={kernel}, calibration={calibration}"
        )
    region = calibration_region(k)
    if min(region) < calibration:
        raise ValueError(f"espirit_sets: a calibration of {calibration} is not fully sampled, the region is {region}")
    top, left = height // 2 - calibration // 2, width // 2 - calibration // 2
    square = k[:, top : top + calibration, left : left + calibration].to(torch.complex64)
    patches = square.unfold(1, kernel, 1).unfold(2, kernel, 1).permute(1, 2, 0, 3, 4).flatten(2).flatten(0, 1)
    _, values, rows = torch.linalg.svd(patches, full_matrices=False)
    # the rows span the neighbourhoods as row vectors: one without conj, since patches = U S V^H
    seen = rows[values > threshold * values[0]].reshape(-1, coils, kernel, kernel)
    gram = torch.zeros(height, width, coils, coils, dtype=torch.complex64, device=k.device)
    # The inverse transform of a kernel is a smooth image, wanted with the centre of the image in its middle.
    for part in seen.split(32):
        image = torch.fft.fftshift(torch.fft.ifft2(part, s=(height, width)), dim=(-2, -1)) * (height * width / kernel)
        gram += torch.einsum("rchw,rdhw->hwcd", image, image.conj())
    eigenvalue, vector = torch.linalg.eigh(gram)
    maps = vector.flip(-1)[..., :sets].permute(3, 2, 0, 1)
    maps = maps * torch.polar(torch.ones_like(maps[:, :1].real), -maps[:, :1].angle())
    return maps.contiguous(), eigenvalue.flip(-1)[..., :sets].permute(2, 0, 1).clamp(0, math.inf).contiguous()
