"""Receive coils: sensitivity maps, noise estimation, pre-whitening and compression.

k-space is complex, (..., N, H, W) with the coil axis third from the end, centred as in :mod:`operators.mri`;
zeros mark locations that were not sampled. Arrays of numpy are accepted, tensors come back.

Noise convention of the whole package: sigma is the standard deviation of the real part and of the imaginary
part. The covariance of the coils is therefore :math:`C = E[n n^H] / 2`, and C = I is unit noise in each part.
"""

import math
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from operators.masks import Array


def birdcage_maps(coils: int, shape: tuple[int, int], radius: float = 1.5) -> Tensor:
    r"""Simulated sensitivities of coils on a circle around the image.

    Coil c sits at the angle :math:`2\pi c / N`; its sensitivity falls as one over the distance and its phase
    is the angle under which it is seen. The maps are normalised, :math:`\sum_c |s_c|^2 = 1` at every pixel.

    Args:
        coils: Number of coils N.
        shape: Image height and width (H, W).
        radius: Radius of the circle in half fields of view; above :math:`\sqrt 2` no coil is inside the
            image.

    Returns:
        (N, H, W) complex64.

    Raises:
        ValueError: ``coils`` or ``shape`` is not positive, or ``radius`` is not above sqrt(2).

    References:
        Hayes et al., "An efficient, highly homogeneous radiofrequency coil for whole-body NMR imaging at 1.5
        T", Journal of Magnetic Resonance, 1985 (the birdcage resonator; the 1 / distance model is a common
        idealisation).
    """
    if coils < 1 or np.ndim(shape) != 1 or len(shape) != 2 or min(shape) < 1:
        raise ValueError(f"birdcage_maps: coils and shape (H, W) must be positive, got {coils} and {shape}")
    if radius <= math.sqrt(2):
        raise ValueError(f"birdcage_maps: radius must be above sqrt(2), got {radius}")
    angle = 2 * math.pi * torch.arange(coils, dtype=torch.float64)[:, None, None] / coils
    y, x = ((torch.arange(n, dtype=torch.float64) - n // 2) / max(n / 2, 1) for n in shape)
    towards = torch.complex(x[None, None, :] - radius * angle.cos(), y[None, :, None] - radius * angle.sin())
    # as seen from the coil, so that the phase of every map is 0 at the centre of the image
    maps = -towards.conj() * torch.polar(torch.ones_like(angle), angle) / towards.abs() ** 2
    return (maps / maps.abs().square().sum(dim=0).sqrt()).to(torch.complex64)


def calibration_region(kspace_or_mask: Array) -> tuple[int, int]:
    """Size of the largest fully sampled rectangle around the centre of k-space.

    A rectangle of h by w covers rows ``H // 2 - h // 2`` to ``H // 2 - h // 2 + h - 1``, and columns alike.

    Args:
        kspace_or_mask: (..., H, W), complex or real; a location counts as sampled when any entry in front of
            the last two axes is not zero.

    Returns:
        (h, w) of the largest area, the most square one among equals; (0, 0) where the centre is not sampled.

    Raises:
        ValueError: There are no two axes.
    """
    sampled = torch.as_tensor(kspace_or_mask) != 0
    if sampled.ndim < 2:
        raise ValueError(f"calibration_region: k-space or mask must be (..., H, W), got {tuple(sampled.shape)}")
    height, width = sampled.shape[-2:]
    sampled = sampled.reshape(-1, height, width).any(dim=0).cpu()
    total = torch.nn.functional.pad(sampled.long().cumsum(0).cumsum(1), (1, 0, 1, 0))
    h, w = torch.arange(1, height + 1), torch.arange(1, width + 1)
    top, left = height // 2 - h // 2, width // 2 - w // 2
    upper, lower = total[top], total[top + h]
    count = lower[:, left + w] - upper[:, left + w] - lower[:, left] + upper[:, left]
    area = h[:, None] * w
    full = torch.where(count == area, area, 0)
    if not full.any():
        return 0, 0
    rows, columns = torch.nonzero(full == full.max(), as_tuple=True)
    best = torch.argmin((h[rows] - w[columns]).abs())
    return int(h[rows[best]]), int(w[columns[best]])


def espirit_maps(
    kspace: Array,
    calibration: int = 24,
    *,
    kernel: int = 6,
    threshold: float = 0.02,
    crop: float = 0.95,
    max_iter: int = 100,
) -> Tensor:
    """Coil sensitivities as :func:`espirit`, set to 0 where its eigenvalue is at most ``crop``.

    Args:
        kspace: As for :func:`espirit`.
        calibration: As for :func:`espirit`.
        kernel: As for :func:`espirit`.
        threshold: As for :func:`espirit`.
        crop: Eigenvalue from 0 to 1 below which a pixel is outside the object. Lower keeps more pixels.
        max_iter: As for :func:`espirit`.

    Returns:
        (N, H, W) complex64.
    """
    maps, eigenvalue = espirit(kspace, calibration, kernel=kernel, threshold=threshold, max_iter=max_iter)
    return maps * (eigenvalue > crop)


def espirit(
    kspace: Array,
    calibration: int = 24,
    *,
    kernel: int = 6,
    threshold: float = 0.02,
    max_iter: int = 100,
) -> tuple[Tensor, Tensor]:
    """Coil sensitivities from the calibration square by ESPIRiT, one set of maps, and how sure it is of an object.

    Nothing outside the square is used, so a retrospectively undersampled test leaks nothing. The maps have
    sum_n |s_n|^2 = 1, in air too, and the first coil is real: the image carries its phase. With strongly
    correlated noise, :func:`prewhiten` first.

    Args:
        kspace: (N, H, W) complex.
        calibration: Side of the square at the centre of k-space that is used; it must be fully sampled.
        kernel: Side of the k-space kernel.
        threshold: Singular values of the calibration matrix below this share of the largest are noise.
        max_iter: Power iterations per pixel.

    Returns:
        The maps (N, H, W) complex64, and the eigenvalue (H, W): about 1 where there is an object, less in air.

    Raises:
        ValueError: k-space is not (N, H, W) complex and finite, or the square is not fully sampled.
        ImportError: sigpy is not installed.

    References:
        Uecker et al., "ESPIRiT - an eigenvalue approach to autocalibrating parallel MRI: where SENSE meets
        GRAPPA", Magnetic Resonance in Medicine, 2014.
    """
    kspace = _kspace(kspace, "espirit_maps")
    if kspace.ndim != 3:
        raise ValueError(f"espirit_maps: kspace must be (N, H, W), one slice, got {tuple(kspace.shape)}")
    height, width = kspace.shape[-2:]
    if not kernel < calibration <= min(height, width):
        raise ValueError(
            f"espirit_maps: calibration must be above kernel {kernel} and at most {min(height, width)}, got {calibration}"
        )
    top, left = height // 2 - calibration // 2, width // 2 - calibration // 2
    square = kspace[:, top : top + calibration, left : left + calibration]
    missing = int((square == 0).all(dim=0).sum())
    if missing:
        h, w = calibration_region(kspace)
        raise ValueError(
            f"espirit_maps: {missing} of the central {calibration} x {calibration} samples are missing; "
            f"the largest fully sampled rectangle is {h} x {w}: pass calibration={min(h, w)} or less"
        )
    try:
        from sigpy.mri.app import EspiritCalib
    except ImportError as error:
        raise ImportError("espirit_maps needs sigpy: pip install 'posterior[mri]'") from error

    calibrate: Any = EspiritCalib(
        kspace.to(torch.complex64).numpy(force=True),
        calib_width=calibration,
        kernel_width=kernel,
        thresh=threshold,
        crop=0.0,
        max_iter=max_iter,
        output_eigenvalue=True,
        show_pbar=False,
    )
    maps, eigenvalue = calibrate.run()
    maps = torch.from_numpy(np.ascontiguousarray(maps)).to(kspace.device)
    if not torch.isfinite(torch.view_as_real(maps)).all():
        raise ValueError("espirit_maps: ESPIRiT returned NaN or infinity; is a coil without signal?")
    return maps, torch.from_numpy(np.ascontiguousarray(eigenvalue)).real.reshape(height, width).to(kspace.device)


def noise_covariance(kspace: Array, mask: Array | None = None, *, fraction: float = 0.15, trim: float = 0.1) -> Tensor:
    r"""Noise covariance of the coils, estimated from the periphery of the measured k-space itself.

    Far from the centre the signal has decayed below the noise. The covariance :math:`C = E[n n^H] / 2` is
    taken over the outermost ``fraction`` of the sampled locations (distance in units of the Nyquist frequency
    along each axis), without the ``trim`` of them whose Mahalanobis distance is largest - edges of the object
    and spikes - and with the factor that makes the trimmed estimate unbiased for Gaussian noise. Standard
    error of a coil's sigma with n
    locations: about :math:`1 / (2 \sqrt n)`. What signal is left there counts as noise, so the estimate is an
        upper
    bound; a periphery in which the power still falls outwards is reported with a warning.

    Args:
        kspace: (..., N, H, W) complex, at least one coil; leading axes, such as slices, are pooled.
        mask: (H, W), where k-space was sampled; default where any coil is not zero. Zero-filled or filtered
            outer k-space (partial Fourier, interpolation on the scanner) has to be masked out.
        fraction: Share of the sampled locations that is used; at least 32 per coil are.
        trim: Share of those that is left out.

    Returns:
        (N, N) complex128, Hermitian positive definite; sigma of coil c, per real and imaginary part, is the
        square root of entry (c, c).

    Raises:
        ValueError: Wrong shapes or values, or too few samples.

    Warns:
        UserWarning: The power in the periphery still falls outwards by more than a quarter.

    References:
        Kellman, McVeigh, "Image reconstruction in SNR units: a general method for SNR measurement", Magnetic
        Resonance in Medicine, 2005 (noise scaling); Rousseeuw, Van Driessen, "A fast algorithm for the
        minimum covariance determinant estimator", Technometrics, 1999 (concentration steps on trimmed
        samples).
    """
    kspace = _kspace(kspace, "noise_covariance")
    coils, height, width = kspace.shape[-3:]
    if not 0 < fraction <= 0.5 or not 0 <= trim < 0.5:
        raise ValueError(f"noise_covariance: fraction must be in (0, 0.5] and trim in [0, 0.5), got {fraction} and {trim}")
    samples = kspace.to(torch.complex128).reshape(-1, coils, height * width)
    sampled = (samples != 0).any(dim=1)
    if mask is not None:
        mask = torch.as_tensor(mask, device=kspace.device)
        if tuple(mask.shape) != (height, width):
            raise ValueError(f"noise_covariance: mask must be {(height, width)}, got {tuple(mask.shape)}")
        sampled = sampled & (mask.flatten() != 0)
    y, x = ((torch.arange(n, dtype=torch.float64) - n // 2) / (n / 2) for n in (height, width))
    radius = torch.hypot(y[:, None], x).to(kspace.device).flatten().expand_as(sampled)[sampled]
    samples = samples.movedim(1, 0)[:, sampled]
    n = max(math.ceil(fraction * len(radius)), 32 * coils)
    if n > len(radius) / 2:
        raise ValueError(f"noise_covariance: {coils} coils need {64 * coils} sampled locations, got {len(radius)}")
    outermost = torch.argsort(radius, descending=True, stable=True)[:n]
    samples = samples[:, outermost]
    covariance = _trimmed_covariance(samples, trim)

    power = _mahalanobis(samples, covariance)
    outer, inner = power[: n // 2].mean(), power[n // 2 :].mean()
    if inner > 1.25 * outer:
        warnings.warn(
            f"noise_covariance: power in the periphery of k-space falls by {inner / outer:.2f} from its "
            "inner to its outer half, so signal inflates the estimate; use a smaller fraction, or a "
            "separate noise measurement",
            stacklevel=2,
        )
    return covariance


def _mahalanobis(samples: Tensor, covariance: Tensor) -> Tensor:
    """n^H C^-1 n for samples (N, n); for Gaussian noise a chi-square of 2N degrees of freedom."""
    factor = torch.linalg.cholesky(covariance)
    return torch.linalg.solve_triangular(factor, samples, upper=False).abs().square().sum(dim=0)


def _trimmed_covariance(samples: Tensor, trim: float) -> Tensor:
    from scipy.stats import chi2

    coils, n = samples.shape
    # a robust diagonal start: spikes cannot hide behind the covariance they would inflate
    parts = torch.cat((samples.real, samples.imag), dim=1)
    scale = parts.abs().median(dim=1).values / 0.6744897501960817
    if not (scale > 0).all():
        dead = torch.nonzero(scale == 0).flatten().tolist()
        raise ValueError(f"noise_covariance: coils {dead} are constant zero in the periphery of k-space")
    covariance = torch.diag(scale.square()).to(samples.dtype)
    keep = n - round(trim * n)
    share = keep / n
    shrink = float(chi2.cdf(chi2.ppf(share, 2 * coils), 2 * coils + 2)) / share if keep < n else 1.0
    for _ in range(20 if keep < n else 1):
        nearest = samples[:, torch.argsort(_mahalanobis(samples, covariance))[:keep]]
        covariance = nearest @ nearest.conj().T / (2 * keep * shrink)
    return (covariance + covariance.conj().T) / 2


def prewhiten(kspace: Array, covariance: Array) -> Tensor:
    """k-space in which the noise is white: covariance I, standard deviation 1 per real and imaginary part.

    Multiplies the coil axis by L^-1, where C = L L^H is the Cholesky factorisation. The same call whitens
    coil maps that were made for the original coils. Images reconstructed from the result are in units of the
    noise.

    Args:
        kspace: (..., N, H, W) complex.
        covariance: (N, N), E[n n^H] / 2, as :func:`noise_covariance` returns it.

    Returns:
        Tensor of the shape and dtype of ``kspace``; locations that are 0 stay 0.

    Raises:
        ValueError: The shapes do not fit or the covariance is not positive definite.

    References:
        Pruessmann, Weiger, Boernert, Boesiger, "Advances in sensitivity encoding with arbitrary k-space
        trajectories", Magnetic Resonance in Medicine, 2001.
    """
    kspace = _kspace(kspace, "prewhiten")
    covariance = torch.as_tensor(covariance).to(kspace.device, torch.complex128)
    coils = kspace.shape[-3]
    if tuple(covariance.shape) != (coils, coils):
        raise ValueError(f"prewhiten: covariance must be {(coils, coils)}, got {tuple(covariance.shape)}")
    factor, failed = torch.linalg.cholesky_ex(covariance)
    if failed or not torch.allclose(covariance, covariance.conj().T):
        raise ValueError("prewhiten: covariance must be Hermitian and positive definite")
    whitening = torch.linalg.inv(factor).to(kspace.dtype)
    return torch.einsum("ij,...jyx->...iyx", whitening, kspace)


def compress_coils(kspace: Array, coils: int) -> tuple[Tensor, Tensor]:
    """Fewer virtual coils that keep as much of the energy as possible, by SVD over the coil axis.

    The matrix has orthonormal rows, so white noise stays white: :func:`prewhiten` first, compress then, and
    estimate the maps from the compressed k-space last.

    Args:
        kspace: (..., N, H, W) complex; one matrix serves all leading axes.
        coils: Number of virtual coils, 1 to N.

    Returns:
        Compressed k-space, (..., coils, H, W), and the matrix, (coils, N), with compressed = matrix @
        original.

    Raises:
        ValueError: ``coils`` is out of range, or k-space is not complex and finite.

    References:
        Buehrer, Pruessmann, Boesiger, Kozerke, "Array compression for MRI with large coil arrays", Magnetic
        Resonance in Medicine, 2007.
    """
    kspace = _kspace(kspace, "compress_coils")
    physical = kspace.shape[-3]
    if not 1 <= coils <= physical:
        raise ValueError(f"compress_coils: coils must be 1 to {physical}, got {coils}")
    samples = kspace.to(torch.complex128).movedim(-3, 0).flatten(1)
    _, vectors = torch.linalg.eigh(samples @ samples.conj().T)
    matrix = vectors.flip(1)[:, :coils].conj().T
    # eigenvectors have a free phase: the largest entry of each row is made real, so that runs agree
    largest = matrix.gather(1, matrix.abs().argmax(dim=1, keepdim=True))
    matrix = (matrix * largest.conj() / largest.abs()).to(kspace.dtype)
    return torch.einsum("ij,...jyx->...iyx", matrix, kspace), matrix


def _kspace(kspace: Array, owner: str) -> Tensor:
    kspace = torch.as_tensor(kspace)
    if kspace.ndim < 3 or kspace.dtype not in (torch.complex64, torch.complex128):
        raise ValueError(f"{owner}: kspace must be complex (..., N, H, W), got {tuple(kspace.shape)} {kspace.dtype}")
    if not torch.isfinite(torch.view_as_real(kspace)).all():
        raise ValueError(f"{owner}: kspace must be finite, got NaN or infinity")
    return kspace


def as_coil_maps(coil_maps: Array, owner: str, axes: int = 2) -> Tensor:
    """A user's coil maps in deepinv's layout, (B, N, *image) complex, copied; ``owner`` is who asks.

    Args:
        coil_maps: (N, *image) or (B, N, *image).
        owner: Named in errors.
        axes: Number of axes of the image.
    """
    want = ", ".join(("D", "H", "W")[-axes:])
    if not isinstance(coil_maps, Tensor | np.ndarray):
        raise ValueError(f"{owner}: coil_maps must be a complex (N, {want}) array, got {coil_maps!r}")
    coil_maps = torch.as_tensor(coil_maps)
    if coil_maps.dtype not in (torch.complex64, torch.complex128):
        raise ValueError(f"{owner}: coil_maps must be complex64 or complex128, got dtype {coil_maps.dtype}")
    if coil_maps.ndim not in (axes + 1, axes + 2) or coil_maps.numel() == 0:
        got = tuple(coil_maps.shape)
        raise ValueError(f"{owner}: coil_maps must be (N, {want}) or (B, N, {want}), got {got}")
    if not torch.isfinite(torch.view_as_real(coil_maps)).all():
        raise ValueError(f"{owner}: coil_maps must be finite, got NaN or infinity")
    return (coil_maps if coil_maps.ndim == axes + 2 else coil_maps[None]).clone()
