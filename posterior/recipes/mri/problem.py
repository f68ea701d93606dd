"""What every reconstruction of one slice needs to know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from posterior.likelihoods import GaussianLikelihood

if TYPE_CHECKING:
    from operators import MultiCoilMRI


@dataclass(frozen=True, eq=False)
class MRIProblem:
    """One slice, ready for any reconstruction.

    Images are in units of `scale`: the 99th percentile of the magnitude is about 1, which is what priors are
    trained for. Multiplied by `scale` they are in the units of the file, as the root sum of squares of its
    coil images.

    Args:
        operator: y = M F (s_n x), with sensitivities of whitened and compressed coils.
        y: (1, 2, coils, H, W), zeros where nothing was measured.
        sigma: Noise standard deviation of the real and of the imaginary part of ``y``.
        scale: File units in one unit of the image.
        mask: (H, W) bool, True where k-space was measured.
        calibration: Height and width of the fully sampled centre of k-space.

    Other arguments:
        inside: (H, W) bool, where the calibration lines show an object; where the maps are not zero if None.
        truth: Magnitude of the true image (H, W), or None.
        source: Where the data come from.
        voxel_size: (dy, dx) in mm, or None.
        facts: How the problem was made: words for people.
    """

    operator: MultiCoilMRI
    y: Tensor
    sigma: float
    scale: float
    mask: Tensor
    calibration: tuple[int, int]
    inside: Tensor | None = None
    truth: Tensor | None = None
    source: str = "k-space"
    voxel_size: tuple[float, float] | None = None
    facts: Mapping[str, str] = field(default_factory=dict)

    @property
    def event_shape(self) -> tuple[int, int, int]:
        """Shape of an image, (2, H, W)."""
        return (2, self.mask.shape[0], self.mask.shape[1])

    @property
    def maps(self) -> Tensor:
        """Coil sensitivities (coils, H, W), complex."""
        return self.operator.coil_maps[0]

    @property
    def support(self) -> Tensor:
        """(H, W) bool, where there may be an object and some coil sees it."""
        seen = (self.maps != 0).any(0)
        return seen if self.inside is None else seen & self.inside

    @property
    def measurements(self) -> int:
        """Number of real measurements: two for each sampled location and coil."""
        return 2 * self.maps.shape[0] * int(self.mask.sum())

    @property
    def likelihood(self) -> GaussianLikelihood:
        """p(y | x) for images in units of `scale`."""
        return GaussianLikelihood(self.operator, self.y, self.sigma)

    def on_support(self, x: Tensor) -> Tensor:
        """Images (B, 2, H, W) or (2, H, W), zero outside `support`, where there is no object."""
        return x * self.support

    def chi_square(self, x: Tensor) -> Tensor:
        """Normalised residual ||y - A x||^2 / (m sigma^2) of images ``x`` (B, 2, H, W), shape (B,)."""
        with torch.no_grad():
            each = [(self.operator.A(v[None]) - self.y).square().sum() for v in x]
        return torch.stack(each) / (self.measurements * self.sigma**2)
