"""Multi-coil MRI of a head that no prior was trained on: crops of colin27 with a random phase."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from posterior.io.registry import fetch
from posterior.likelihoods import GaussianLikelihood
from posterior.priors.base import Prior
from posterior.recipes.calibration.problem import CalibrationProblem, Yardstick
from posterior.recipes.mri.results import head_mask
from posterior.recipes.mri.simulation import NOISE, smooth_phase
from posterior.samplers.bridge import GaussianBridge

BRIGHT = 0.5


def held_out_crops(count: int, side: int = 96, seed: int = 0) -> Tensor:
    """Complex images of planes of colin27, (count, 2, side, side), scaled as brain-mri takes them.

    Crop i has a generator of its own: orientation, plane, place inside the head, mirror image and smooth phase are
    random, so that crops are exchangeable. The 99th percentile of each magnitude is 1.

    Args:
        count: How many.
        side: Pixels of 1 mm.
        seed: Seed of all that is random.

    Raises:
        ValueError: If ``side`` does not fit into the head.
    """
    volume = head_volume()
    return torch.stack([_crop(volume, side, np.random.default_rng([seed, i])) for i in range(count)])


@cache
def head_volume() -> np.ndarray:
    """The colin27 head, magnitude (right, front, up), which the prior of brains has not seen; read-only."""
    import nibabel

    image = nibabel.as_closest_canonical(nibabel.load(fetch("colin27")))
    volume = np.asarray(image.dataobj, dtype=np.float32).copy()
    volume.flags.writeable = False
    return volume


def _crop(volume: np.ndarray, side: int, rng: np.random.Generator) -> Tensor:
    axis = int(rng.integers(3))
    plane = np.rot90(np.take(volume, int(volume.shape[axis] * rng.uniform(0.3, 0.7)), axis=axis))
    centres = np.argwhere(head_mask(torch.from_numpy(plane.copy())).numpy())
    y, x = centres[rng.integers(len(centres))]
    crop = np.pad(plane, side // 2 + 1)[y : y + side, x : x + side]
    crop = crop[:, ::-1] if rng.random() < 0.5 else crop
    magnitude = crop / np.percentile(crop, 99)
    angle = smooth_phase((side, side), rng)
    return torch.from_numpy(np.stack([magnitude * np.cos(angle), magnitude * np.sin(angle)]).astype(np.float32))


@dataclass(frozen=True)
class Scan:
    """An `Experiment`: a Cartesian scan of new random lines, with coil maps and noise level known.

    Args:
        acceleration: Grid locations for each sampled one.
        coils: Coils on a circle around the image; see `operators.birdcage_maps`.
        noise: Standard deviation of real and imaginary part, in units of the image.
    """

    acceleration: float = 4.0
    coils: int = 8
    noise: float = NOISE

    def __call__(self, truth: Tensor, generator: torch.Generator) -> GaussianLikelihood:
        """Data of a complex image (1, 2, H, W)."""
        from operators import MultiCoilMRI, birdcage_maps, cartesian_mask

        shape = (truth.shape[-2], truth.shape[-1])
        seed = int(torch.randint(2**31, (1,), generator=generator))
        mask = cartesian_mask(shape, self.acceleration, None, "variable-density", seed)
        operator = MultiCoilMRI(mask, birdcage_maps(self.coils, shape))
        with torch.no_grad():
            clean = operator.A(truth.float())
        noise = torch.randn(clean.shape, generator=generator)
        return GaussianLikelihood(operator, (clean + self.noise * noise) * mask, self.noise)


def magnitude(x: Tensor) -> Tensor:
    """Magnitude of complex images (M, 2, H, W)."""
    return torch.linalg.vector_norm(x, dim=1)


def head(images: Tensor) -> Tensor:
    """Pixels inside the head, (H, W) bool, by the mean of magnitudes (M, H, W)."""
    return head_mask(images.mean(0))


def bright(x: Tensor) -> Tensor:
    """Where the magnitude is above half of that of the brightest tissue."""
    return x > BRIGHT


YARDSTICK = Yardstick(magnitude, head, bright, f"magnitude above {BRIGHT:g}", "magnitude inside the head")


def mri_problem(
    prior: Prior, trials: int, seed: int = 0, *, acceleration: float = 4.0, coils: int = 8, side: int = 96
) -> CalibrationProblem:
    """Crops of the held-out head, each with a phase, a choice of lines and noise of its own.

    Args:
        prior: A prior of complex images, such as "brain-mri".
        trials: How many crops.
        seed: Of the crops.

    Other arguments:
        acceleration: Grid locations for each sampled one.
        coils: Receive coils, their maps known.
        side: Pixels of a crop along each axis.

    Raises:
        ValueError: If the prior is of other fields.
    """
    prior.check_event((2, side, side))
    return CalibrationProblem(
        name=f"mri-{acceleration:g}x",
        title=f"Crops of {side} x {side} mm of colin27, {acceleration:g}x undersampled, {coils} coils, noise {NOISE:g}",
        prior=prior,
        experiment=Scan(acceleration, coils),
        yardstick=YARDSTICK,
        sampler=GaussianBridge(),
        truths=held_out_crops(trials, side, seed),
        settings={"batch_size": 19, "dtype": torch.float32},
        field_name="image",
    )
