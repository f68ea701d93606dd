"""k-space simulated from a magnitude image: what the demo and the benchmarks reconstruct."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from posterior.io.kspace import KSpace
from posterior.recipes.mri.prepare import prepare
from posterior.recipes.mri.problem import MRIProblem

# Per real and imaginary part of an orthonormal k-space, relative to the brightest tissue: a signal-to-noise
# ratio of 50 in the fully sampled image, as a clinical scan of a few minutes has it.
NOISE = 0.02


def simulate(
    magnitude: Tensor | np.ndarray,
    *,
    seed: int = 0,
    acceleration: float = 4.0,
    coils: int = 8,
    noise: float = NOISE,
    kind: Literal["random", "equispaced", "variable-density", "poisson"] = "variable-density",
    center_fraction: float | None = None,
    source: str = "simulation",
    voxel_size: tuple[float, float] | None = None,
) -> KSpace:
    """Undersampled multi-coil k-space of an image with a smooth random phase.

    Args:
        magnitude: (H, W), non-negative, any units.
        seed: Seeds the phase, the mask and the noise.

    Other arguments:
        acceleration: Grid locations for each sampled one.
        coils: Coils on a circle around the head; see `operators.birdcage_maps`.
        noise: Standard deviation of real and imaginary part, in 99th percentiles of ``magnitude``.
        kind: Which lines are sampled (`operators.cartesian_mask`), or "poisson" for a Poisson disc of points
            (`operators.poisson_disc_mask`).
        center_fraction: Share of lines in the fully sampled centre; 8 % at fourfold acceleration where None.
        source: What errors and results call these data.
        voxel_size: (dy, dx) in mm.

    Returns:
        k-space whose `reference` is ``magnitude``.

    Raises:
        ValueError: If the magnitude is no image, the noise no standard deviation, or the mask cannot be made (see the functions
            named above).
    """
    from operators import MultiCoilMRI, birdcage_maps, cartesian_mask, poisson_disc_mask

    image = torch.as_tensor(magnitude).to(torch.float32)
    if image.ndim != 2 or not torch.isfinite(image).all() or image.min() < 0 or not image.any():
        raise ValueError(
            f"simulate: magnitude has shape {tuple(image.shape)}; wanted (H, W), finite, not negative and not all zero"
        )
    if not 0 <= noise < math.inf:
        raise ValueError(f"simulate: noise is {noise:g}; wanted a standard deviation, zero or above")
    shape = (image.shape[0], image.shape[1])
    rng = np.random.default_rng(seed)
    angle = torch.from_numpy(smooth_phase(shape, rng)).to(torch.float32)
    x = torch.stack((image * angle.cos(), image * angle.sin()))
    if kind == "poisson":
        mask = poisson_disc_mask(shape, acceleration, seed=seed)
    else:
        mask = cartesian_mask(shape, acceleration, center_fraction, kind, seed)
    y = MultiCoilMRI(mask, birdcage_maps(coils, shape)).A(x[None])[0]
    sigma = noise * float(np.percentile(image.numpy(), 99))
    y = (y + sigma * torch.from_numpy(rng.standard_normal(y.shape, dtype=np.float32))) * mask
    return KSpace(
        data=torch.complex(y[0], y[1]),
        mask=mask.bool(),
        source=source,
        voxel_size=voxel_size,
        reference=image,
        attributes={"acceleration": acceleration, "coils": coils, "noise": sigma, "mask": kind, "seed": seed},
    )


def smooth_phase(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Random quadratic in the coordinates, radians: a field that was shimmed, but not perfectly."""
    y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    terms = np.stack([np.ones(shape), y, x, y * y, y * x, x * x])
    return np.tensordot(rng.normal(0, [np.pi, 1, 1, 1, 1, 1]), terms, axes=1)


def demo_image() -> Tensor:
    """The real sagittal head slice that matplotlib ships, (256, 256), scanner units."""
    from matplotlib.cbook import get_sample_data

    opened: Any = get_sample_data("s1045.ima.gz")
    with opened as file:
        values = np.frombuffer(file.read(), dtype=">u2").astype(np.float32)
    return torch.from_numpy(values.reshape(256, 256))


def demo_problem(seed: int = 0, acceleration: float = 4.0, coils: int = 8, **options: Any) -> MRIProblem:
    """The bundled head slice, undersampled and made a problem again from its k-space alone.

    Noise and coil maps are estimated from the k-space, as they would be for a scan.

    Args:
        seed: Seeds the phase, the mask and the noise.
        acceleration: Grid locations for each sampled one.
        coils: Number of coils.
        **options: Further arguments of `simulate`.
    """
    kspace = simulate(
        demo_image(),
        seed=seed,
        acceleration=acceleration,
        coils=coils,
        source="bundled head slice",
        **options,
    )
    return prepare(kspace)
