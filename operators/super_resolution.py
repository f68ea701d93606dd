"""Super-resolution: images seen at a coarser grid, by area, by an antialiased cubic, or by a Gaussian aperture."""

import math
from typing import Literal

import deepinv
import torch
from torch import Tensor

from operators.linear import image_shape
from operators.separable import Separable

Kind = Literal["average", "bicubic", "gaussian"]
KINDS = ("average", "bicubic", "gaussian")


class SuperResolution(Separable):
    r"""Coarse pixels as weighted means of fine ones, :math:`y = R_H\, x\, R_W^T` in every channel.

    Coarse pixel i is centred at :math:`c_i = f i + (f - 1) / 2`, in the middle of the f fine pixels that it covers along
    each axis, and weighs fine pixel j by :math:`w(j - c_i)`:

    - ``"average"``: 1 where :math:`|u| < f / 2`, the mean over its area;
    - ``"bicubic"``: Keys' cubic with a = -1/2, stretched by f against aliasing, as in Pillow and in torch's
      ``interpolate(antialias=True)``;
    - ``"gaussian"``: :math:`e^{-u^2 / 2 \sigma^2}` up to 4 sigma.

    **Border.** Each row of weights is cut off at the edge of the image and scaled to sum 1. Where f does not divide n,
    there are ceil(n / f) coarse pixels and the last one is made of the fine pixels that it has.

    Both factors are small matrices that are decomposed once, so ``A_dagger`` and ``prox_l2`` are closed forms for every
    kind and size. x is (B, C, H, W) and y (B, C, ceil(H / f), ceil(W / f)), both in the units
    of x, float32 or float64.

    Args:
        shape: (..., H, W) of the fine image, pixels.
        factor: f, a positive integer, or those along H and along W.
        kind: Weights of a coarse pixel.
        sigma: Standard deviation of ``"gaussian"`` in fine pixels; default f / 2.
        noise_model: deepinv noise model that calling the operator applies; default none.
        device: Where the operator lives.

    Raises:
        ValueError: An argument is out of range or unknown; x or y has the wrong shape or dtype.

    References:
        Keys, "Cubic convolution interpolation for digital image processing", IEEE Transactions on Acoustics, Speech, and
        Signal Processing, 1981.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        factor: int | tuple[int, int],
        kind: Kind = "average",
        *,
        sigma: float | None = None,
        noise_model: deepinv.physics.NoiseModel | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        name = type(self).__name__
        height, width = image_shape(shape, name)
        pair = factor if isinstance(factor, tuple | list) else (factor, factor)
        if len(pair) != 2 or any(f != int(f) or f < 1 for f in pair):
            raise ValueError(f"{name}: factor must be a positive integer or two of them, got {factor}")
        if kind not in KINDS:
            raise ValueError(f"{name}: kind must be one of {', '.join(KINDS)}, got {kind!r}")
        if sigma is not None and (kind != "gaussian" or not (math.isfinite(sigma) and sigma > 0)):
            raise ValueError(f"{name}: sigma must be positive, and only with kind 'gaussian', got {sigma} with {kind!r}")
        rows, columns = (_weights(n, int(f), kind, sigma or f / 2) for n, f in zip((height, width), pair, strict=True))
        # any number of channels
        super().__init__((None, height, width), {2: rows, 3: columns})
        self.factor, self.kind = (int(pair[0]), int(pair[1])), kind
        self.shape, self.output_shape = (height, width), (len(rows), len(columns))
        if noise_model is not None:
            self.noise_model = noise_model
        self.to(device)

    def extra_repr(self) -> str:
        return f"shape={self.shape}, factor={self.factor}, kind={self.kind!r}"


def _weights(n: int, factor: int, kind: Kind, sigma: float) -> Tensor:
    """(ceil(n / factor), n), rows of sum 1."""
    centre = factor * torch.arange(math.ceil(n / factor), dtype=torch.float64) + (factor - 1) / 2
    offset = torch.arange(n, dtype=torch.float64) - centre[:, None]
    if kind == "average":
        weight = (offset.abs() < factor / 2).to(torch.float64)
    elif kind == "bicubic":
        weight = _keys(offset / factor)
    else:
        weight = torch.where(offset.abs() <= 4 * sigma, torch.exp(-0.5 * (offset / sigma) ** 2), 0.0)
        # a coarse pixel that no fine one is near takes the nearest
        weight = torch.where(weight.sum(1, keepdim=True) > 0, weight, offset.abs() == offset.abs().amin(1, keepdim=True))
    return weight / weight.sum(1, keepdim=True)


def _keys(u: Tensor) -> Tensor:
    """Keys' cubic with a = -1/2."""
    u = u.abs()
    near = 1.5 * u**3 - 2.5 * u**2 + 1
    far = -0.5 * u**3 + 2.5 * u**2 - 4 * u + 2
    return torch.where(u < 1, near, torch.where(u < 2, far, 0.0))
