"""Denoisers of deepinv as priors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from posterior.priors.base import Affine, Prior, column

if TYPE_CHECKING:
    from deepinv.models import Denoiser


class DeepinvPrior(Prior):
    """Any denoiser of deepinv, which takes images with values in [0, 1] and their noise level on that scale.

    Standardised coordinates are z = 2 x - 1, so that D_z(z, s) = 2 D(x, s / 2) - 1. The draws are from a posterior as far
    as the denoiser is the posterior mean of Gaussian noise: one trained on absolute errors gives a median, one that
    clips its output a mean that is wrong near the ends, and outside the levels it was trained for nothing is known.

    Args:
        denoiser: Called as ``denoiser(x, sigma)`` with ``x`` (B, C, H, W) and ``sigma`` (B,); used as it is, in evaluation
            mode.
        event_shape: (C, H, W); H and W None where any size goes.
        sigma_range: Smallest and largest noise level it was trained for, on the scale of [0, 1]: about (0.002, 0.2) for
            DRUNet. Samplers start from the largest, where the noised image should be all noise; a denoiser that stops
            earlier starts them from a rough guess.

    Other arguments:
        units: Physical units.
        name: What errors call this prior; the denoiser's class where None.

    Raises:
        TypeError: If ``denoiser`` is not one of deepinv's.
        ValueError: If ``sigma_range`` is not two rising positive numbers.

    References:
        Venkatakrishnan, Bouman, Wohlberg. Plug-and-play priors for model based reconstruction. 2013. GlobalSIP.
    """

    affine = Affine(0.5, 0.5)

    def __init__(
        self,
        denoiser: Denoiser,
        event_shape: tuple[int | None, ...],
        sigma_range: tuple[float, float],
        *,
        units: str = "1",
        name: str | None = None,
    ) -> None:
        from deepinv.models import Denoiser

        if not isinstance(denoiser, Denoiser):
            raise TypeError(f"DeepinvPrior: denoiser is a {type(denoiser).__name__}; wanted a deepinv Denoiser")
        low, high = sigma_range
        if not 0 < low < high < float("inf"):
            raise ValueError(f"DeepinvPrior: sigma_range is {sigma_range}; wanted two rising positive numbers")
        self.denoiser = denoiser.eval()
        self.event_shape = event_shape
        self.sigma_min, self.sigma_max = 2 * low, 2 * high
        self.units = units
        self.name = name or type(denoiser).__name__

    def denoise(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """See `Prior.denoise`."""
        levels = column(sigma, x).reshape(-1).expand(x.shape[0]) / 2
        parameter = next(self.denoiser.parameters(), x)
        out = self.denoiser(self.affine.to_physical(x).to(parameter.dtype), levels.to(parameter.dtype))
        return self.affine.to_standard(torch.as_tensor(out).to(x.dtype))
