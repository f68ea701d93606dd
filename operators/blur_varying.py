"""Blur that varies over the image."""

from typing import Any

import torch
from torch import Tensor

from operators.blur import Blur, Boundary
from operators.masks import Array


class VaryingBlur(Blur):
    r"""A blur that varies over the image: product-convolution, :math:`y = \sum_k h_k * (w_k \odot x)`.

    Light from pixel p is spread by :math:`\sum_k w_k(p) h_k`. Kernels of sum 1 therefore conserve the sum of x where
    the boundary does.

    Args:
        kernels: (K, h, w), centred as in :class:`Blur`.
        weights: (K, H, W), a partition of unity: :math:`\sum_k w_k = 1` at every pixel. See
            :func:`operators.bilinear_weights`.
        boundary: As for :class:`Blur`.
        **kwargs: As for :class:`Blur`.

    Raises:
        ValueError: As for :class:`Blur`; ``weights`` do not fit the kernels or do not sum to 1 within 1e-4.

    References:
        Nagy, O'Leary, "Restoring images degraded by spatially variant blur", SIAM Journal on Scientific Computing,
        1998.
        Escande, Weiss, "Approximation of integral operators using product-convolution expansions", Journal of
        Mathematical Imaging and Vision, 2017, arXiv:1604.04374.
    """

    _replaceable = ()
    weights: Tensor

    def __init__(self, kernels: Array, weights: Array, boundary: Boundary = "periodic", **kwargs: Any) -> None:
        name = type(self).__name__
        kernels, weights = torch.as_tensor(kernels), torch.as_tensor(weights)
        if kernels.ndim != 3 or weights.ndim != 3 or kernels.shape[0] != weights.shape[0]:
            got = f"{tuple(kernels.shape)} and {tuple(weights.shape)}"
            raise ValueError(f"{name}: kernels must be (K, h, w) and weights (K, H, W) with the same K, got {got}")
        total = weights.sum(0)
        if not (total - 1).abs().max() <= 1e-4:
            got = f"{float(total.min()):.6g} to {float(total.max()):.6g}"
            raise ValueError(f"{name}: weights must sum to 1 at every pixel, their sum is {got}")
        super().__init__(kernels, tuple(weights.shape[1:]), boundary, **kwargs)
        self.register_buffer("weights", weights.to(self.kernel).clone())

    @property
    def diagonal(self) -> bool:
        """False: nothing diagonalises it."""
        return False

    def A(self, x: Tensor, **parameters: Any) -> Tensor:
        """The blurred image, (B, C, H, W) -> (B, C, *output_shape).

        Args:
            x: Image.
            **parameters: Of a noise model; they pass by.
        """
        parts = self._spectrum(self.weights.to(x.dtype) * self._image(x)[:, :, None])
        return self._out((parts * self._gains(self.transfer, x)).sum(2))

    def A_adjoint(self, y: Tensor, **parameters: Any) -> Tensor:
        """The adjoint, (B, C, *output_shape) -> (B, C, H, W).

        Args:
            y: Blurred image.
            **parameters: Of a noise model; they pass by.
        """
        parts = self._back(self._in(self._data(y))[:, :, None] * self._gains(self.transfer, y).conj())
        return (self.weights.to(y.dtype) * parts).sum(2)

    def A_adjoint_A(self, x: Tensor, **parameters: Any) -> Tensor:
        """A^T A x."""
        return self.A_adjoint(self.A(x))

    def A_A_adjoint(self, y: Tensor, **parameters: Any) -> Tensor:
        """A A^T y."""
        return self.A(self.A_adjoint(y))

    @property
    def _channels(self) -> None:
        return None


def bilinear_weights(shape: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Partition of unity by hats on a regular grid of nodes, the outermost ones in the corners of the image.

    Args:
        shape: (H, W) of the image.
        grid: (R, C) nodes along H and along W.

    Returns:
        (R * C, H, W) float64, the nodes of one row after those of the row above.

    Raises:
        ValueError: ``shape`` or ``grid`` is not positive.
    """
    if len(shape) != 2 or len(grid) != 2 or min(*shape, *grid) < 1:
        raise ValueError(f"bilinear_weights: shape and grid must be two positive integers each, got {shape} and {grid}")
    hats = []
    for n, nodes in zip(shape, grid, strict=True):
        where = torch.linspace(0, nodes - 1, n, dtype=torch.float64)
        hats.append((1 - (where - torch.arange(nodes, dtype=torch.float64)[:, None]).abs()).clamp_min(0))
    return torch.einsum("rh,cw->rchw", *hats).reshape(-1, *shape)
