"""Cartesian sampling masks for magnetic resonance imaging.

A mask is an (H, W) float32 tensor of zeros and ones with the zero frequency at (H // 2, W // 2). Its
randomness comes from ``seed`` alone: the global random states of torch, numpy and random are neither read nor
moved.
"""

import math
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from operators.linear import as_array

Array = Tensor | np.ndarray


def cartesian_mask(
    shape: tuple[int, int],
    acceleration: float = 4.0,
    center_fraction: float | None = None,
    kind: Literal["random", "equispaced", "variable-density"] = "random",
    seed: int = 0,
    phase_encode_axis: int = -1,
) -> Tensor:
    r"""Mask of whole k-space lines: a fully sampled centre and some of the others.

    Exactly ``round(W / acceleration)`` of the W lines are sampled, ``round(center_fraction * W)`` of them in
    the centre, from line ``W // 2 - centre // 2`` on. The others are drawn

    - ``"random"``: uniformly without replacement;
    - ``"equispaced"``: at equal spacing among the lines outside the centre, with a random offset;
    - ``"variable-density"``: without replacement with probability :math:`\propto (1 - |k| / k_{max})^2`.

    Args:
        shape: Image height and width (H, W). Lines run along H and are counted along W.
        acceleration: Lines of the full grid per sampled line, at least 1.
        center_fraction: Share of all lines that the centre takes. Default 0.08 at acceleration 4 and 0.04 at
            8, as in fastMRI, and 0.32 / acceleration otherwise.
        kind: How the lines outside the centre are drawn.
        seed: Seed of the draw; 0 is a seed.
        phase_encode_axis: Axis along which lines are counted: -1 or 1 for W, -2 or 0 for H.

    Returns:
        (H, W) float32 tensor of zeros and ones.

    Raises:
        ValueError: An argument is out of range, or the centre alone has more lines than the acceleration
            allows.

    References:
        Lustig, Donoho, Pauly, "Sparse MRI", Magnetic Resonance in Medicine, 2007 (variable density).
        Zbontar et al., "fastMRI: an open dataset and benchmarks for accelerated MRI", arXiv:1811.08839, 2018.
    """
    height, width = _shape(shape, acceleration, "cartesian_mask")
    if phase_encode_axis not in (-2, -1, 0, 1):
        raise ValueError(f"cartesian_mask: phase_encode_axis must be -2, -1, 0 or 1, got {phase_encode_axis}")
    columns = phase_encode_axis in (-1, 1)
    lines = width if columns else height
    fraction = 0.32 / acceleration if center_fraction is None else center_fraction
    if not 0 <= fraction <= 1:
        raise ValueError(f"cartesian_mask: center_fraction must be between 0 and 1, got {center_fraction}")
    total, centre = round(lines / acceleration), round(fraction * lines)
    if total < 1 or centre > total:
        raise ValueError(
            f"cartesian_mask: acceleration {acceleration} leaves {total} of {lines} lines, "
            f"of which center_fraction {fraction:.3g} takes {centre}"
        )
    rng = np.random.default_rng(seed)
    first = lines // 2 - centre // 2
    outer = np.r_[:first, first + centre : lines]
    wanted = total - centre
    if kind == "random":
        drawn = rng.choice(outer, wanted, replace=False)
    elif kind == "equispaced":
        drawn = outer[((rng.random() + np.arange(wanted)) * len(outer) / max(wanted, 1)).astype(int)]
    elif kind == "variable-density":
        density = (1 - np.abs(outer - lines // 2) / (lines / 2 + 1)) ** 2
        drawn = rng.choice(outer, wanted, replace=False, p=density / density.sum()) if wanted else outer[:0]
    else:
        raise ValueError(f"cartesian_mask: kind must be 'random', 'equispaced' or 'variable-density', got {kind!r}")
    line = torch.zeros(lines)
    line[first : first + centre] = 1
    line[torch.from_numpy(drawn)] = 1
    return line.repeat(height, 1) if columns else line[:, None].repeat(1, width)


def partial_fourier_mask(shape: tuple[int, int], fraction: float = 0.625, axis: int = -1, first: bool = True) -> Tensor:
    """Mask of partial Fourier sampling: one side of k-space and a little more than its centre.

    Args:
        shape: Image height and width (H, W).
        fraction: Share of the lines that is sampled, above 1/2 and at most 1; 5/8, 6/8 and 7/8 are usual.
        axis: Axis that is cut: -1 or 1 for W, -2 or 0 for H.
        first: Sample the lines of low index, else those of high index.

    Returns:
        (H, W) float32 tensor of zeros and ones, with ``round(fraction * n)`` of n lines. Times another mask it cuts that.

    Raises:
        ValueError: An argument is out of range, or the zero frequency would be lost.

    References:
        McGibney, Smith, Nichols, Crawley, "Quantitative evaluation of several partial Fourier reconstruction algorithms
        used in MRI", Magnetic Resonance in Medicine, 1993.
    """
    size = _shape(shape, 1.0, "partial_fourier_mask")
    if axis not in (-2, -1, 0, 1) or not 0.5 < fraction <= 1:
        raise ValueError(
            f"partial_fourier_mask: axis must be -2, -1, 0 or 1 and fraction in (0.5, 1], got {axis} and {fraction}"
        )
    n = size[axis]
    lines = round(fraction * n)
    line = (torch.arange(n) < lines if first else torch.arange(n) >= n - lines).float()
    if not line[n // 2]:
        raise ValueError(f"partial_fourier_mask: fraction {fraction} of {n} lines does not reach the zero frequency")
    return (line if axis in (-1, 1) else line[:, None]).expand(size).clone()


def kt_mask(frames: int, shape: tuple[int, int], seed: int = 0, **kwargs: Any) -> Tensor:
    """A :func:`cartesian_mask` for each time, drawn anew.

    Args:
        frames: Number T of times.
        shape: Image height and width (H, W).
        seed: Seed of all draws; 0 is a seed.
        **kwargs: As for :func:`cartesian_mask`.

    Returns:
        (T, H, W) float32 tensor of zeros and ones.

    Raises:
        ValueError: ``frames`` is not positive, or as for :func:`cartesian_mask`.
    """
    if frames != int(frames) or frames < 1:
        raise ValueError(f"kt_mask: frames must be a positive integer, got {frames}")
    seeds = np.random.SeedSequence(seed).generate_state(frames)
    return torch.stack([cartesian_mask(shape, seed=int(s), **kwargs) for s in seeds])


def poisson_disc_mask(
    shape: tuple[int, int],
    acceleration: float = 8.0,
    calibration: int = 24,
    seed: int = 0,
    corners: bool = False,
) -> Tensor:
    r"""Variable-density Poisson-disc mask with a fully sampled calibration square.

    Two samples outside the square are never closer than :math:`d(k) = 1 + s\,r(k)` grid steps, with d taken
    at the one drawn first, r the distance from the square (1 at the edge of k-space) and the slope s found by
    bisection so that just enough samples fit; the few too many are then dropped at random. Exactly
    ``round(H * W / acceleration)`` locations are sampled.

    Args:
        shape: Image height and width (H, W).
        acceleration: Locations of the full grid per sampled one, at least 1 (4 / pi without corners).
        calibration: Side of the square, which begins ``calibration // 2`` before the zero frequency.
        seed: Seed of the draw; 0 is a seed.
        corners: Sample the corners of k-space, outside the ellipse that touches its edges, as well.

    Returns:
        (H, W) float32 tensor of zeros and ones.

    Raises:
        ValueError: An argument is out of range, or the square alone has more samples than the acceleration
            allows.

    References:
        Bridson, "Fast Poisson disk sampling in arbitrary dimensions", SIGGRAPH sketches, 2007.
        Vasanawala et al., "Practical parallel imaging compressed sensing MRI: summary of two years of
        experience in accelerating body MRI of pediatric patients", IEEE ISBI, 2011.
    """
    height, width = _shape(shape, acceleration, "poisson_disc_mask")
    if not 0 <= calibration <= min(height, width):
        raise ValueError(f"poisson_disc_mask: calibration must be 0 to {min(height, width)}, got {calibration}")
    y, x = np.arange(height) - height // 2, np.arange(width) - width // 2
    half = calibration // 2
    square = ((y >= -half) & (y < calibration - half))[:, None] & ((x >= -half) & (x < calibration - half))
    inside = np.hypot(y[:, None] / (height / 2), x / (width / 2)) <= 1
    open_ = ~square & (inside | corners)
    total = round(height * width / acceleration)
    wanted = total - int(square.sum())
    if wanted < 0 or wanted > open_.sum():
        raise ValueError(
            f"poisson_disc_mask: acceleration {acceleration} asks for {total} samples, but a calibration "
            f"square of {calibration} in {shape} allows {square.sum()} to {square.sum() + open_.sum()}"
        )
    rng = np.random.default_rng(seed)
    order = rng.permutation(np.flatnonzero(open_))
    distance = np.hypot(np.maximum(np.abs(y) - half, 0)[:, None] / (height / 2), np.maximum(np.abs(x) - half, 0) / (width / 2))
    # a slope of max(shape) leaves next to nothing outside the square, a slope of 0 excludes nothing
    low, high, drawn = 0.0, float(max(shape)), order
    for _ in range(30):
        if len(drawn) <= 1.01 * wanted + 1:
            break
        slope = (low + high) / 2
        trial = _thinned(order, 1 + slope * distance, (height, width))
        if len(trial) >= wanted:
            low, drawn = slope, trial
        else:
            high = slope
    mask = torch.from_numpy(square.astype(np.float32))
    mask.view(-1)[torch.from_numpy(rng.permutation(drawn)[:wanted])] = 1
    return mask


def _thinned(order: np.ndarray, radius: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Flat indices kept when each in turn, unless excluded, excludes its disc of ``radius`` grid steps."""
    # half-step radii: the discs are then few enough to be kept
    steps = np.ceil(2 * radius).astype(int).ravel()
    reach = int(steps.max()) // 2 + 1
    outside = {}
    for step in np.unique(steps[order]):
        offset = np.arange(-(step // 2), step // 2 + 1)
        outside[step] = np.hypot(offset[:, None], offset) >= step / 2
    stride = shape[1]
    free = np.ones((shape[0] + 2 * reach, stride + 2 * reach), bool)
    kept = []
    for index in order.tolist():
        row, column = divmod(index, stride)
        if free[row + reach, column + reach]:
            kept.append(index)
            step = steps[index]
            n = step // 2
            block = free[row + reach - n : row + reach + n + 1, column + reach - n : column + reach + n + 1]
            block &= outside[step]
    return np.array(kept, dtype=np.int64)


def _shape(shape: tuple[int, int], acceleration: float, owner: str) -> tuple[int, int]:
    if np.ndim(shape) != 1 or len(shape) != 2 or any(n != int(n) or n < 1 for n in shape):
        raise ValueError(f"{owner}: shape must be (H, W), two positive integers, got {shape}")
    if not (math.isfinite(acceleration) and acceleration >= 1):
        raise ValueError(f"{owner}: acceleration must be a finite number of at least 1, got {acceleration}")
    return int(shape[0]), int(shape[1])


def as_mask(mask: Array, shape: tuple[int, ...] | None, owner: str) -> Tensor:
    """A user's mask in deepinv's layout, (B, 2, H, W) float32 of zeros and ones; ``owner`` is who asks."""
    mask = as_array(mask, owner, "mask")
    if mask.is_complex():
        raise ValueError(f"{owner}: mask must be real with values 0 and 1, got dtype {mask.dtype}")
    if mask.ndim == 1:
        if shape is None:
            raise ValueError(f"{owner}: a mask of shape (W,), got {tuple(mask.shape)}, needs img_size=(H, W)")
        if len(mask) != shape[1]:
            raise ValueError(f"{owner}: mask has {len(mask)} entries, the image {shape} has {shape[1]} columns")
        mask = mask.expand(shape)
    if mask.ndim == 3:
        mask = mask[None]
    if mask.ndim == 2:
        mask = mask[None, None]
    if mask.ndim != 4 or mask.shape[1] not in (1, 2) or mask.numel() == 0:
        got = tuple(mask.shape)
        raise ValueError(f"{owner}: mask must be (W,), (H, W), (1|2, H, W) or (B, 1|2, H, W), got {got}")
    if shape is not None and tuple(mask.shape[-2:]) != shape:
        raise ValueError(f"{owner}: mask is {tuple(mask.shape[-2:])}, the image is {shape}")
    if not ((mask == 0) | (mask == 1)).all():
        raise ValueError(f"{owner}: mask must hold only 0 and 1, got {mask.min()} to {mask.max()}")
    if not mask.flatten(1).any(dim=1).all():
        raise ValueError(f"{owner}: mask samples nothing: every entry is 0")
    if mask.shape[1] == 2 and not torch.equal(mask[:, 0], mask[:, 1]):
        raise ValueError(f"{owner}: mask must be the same for the real and the imaginary channel")
    return mask[:, :1].to(torch.float32).repeat(1, 2, 1, 1)
