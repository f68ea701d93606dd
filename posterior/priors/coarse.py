"""Where noise leaves only the lowest frequencies of an image: a denoiser of coarse images in a network's place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from posterior.priors.reference import EOFReference

if TYPE_CHECKING:
    from posterior.priors.network import NetworkPrior
    from posterior.priors.reference import Reference


@dataclass(frozen=True, eq=False)
class CoarseDenoiser:
    """D(x, sigma) = P^T D_c(P x, sigma) + (I - P^T P) D_g(x, sigma) above a noise level.

    P keeps the lowest frequencies of the orthonormal FFT, so that white noise stays white and as strong; D_c is the denoiser
    of a prior of coarse images, D_g that of the reference Gaussian, which is the truth where noise drowns the rest. What a
    large network would have to learn at these levels, such as where in the image things are, a small one learns in minutes.

    Args:
        prior: Of P x, images of a ``factor``-th of the size; its affine map, one number as scale and no shift, leads to the
            standardised units of the fine prior.
        factor: Fine pixels in a coarse one, along each axis.
        above: Noise level from which it is used, standardised units of the fine prior.

    Other arguments:
        start: N(0, C) of P x for images of one size, in the coarse prior's standardised units: what draws without data begin
            with, where fields are not stationary. None for the reference Gaussian's own lowest frequencies.

    Raises:
        ValueError: If ``factor`` is no whole number above 1, the affine map is another, or ``above`` is not below `sigma_max`.

    References:
        Jing, Corso, Berlinghieri, Jaakkola. Subspace diffusion generative models. 2022. arXiv:2205.01490.
    """

    prior: NetworkPrior
    factor: int
    above: float
    start: EOFReference | None = None

    def __post_init__(self) -> None:
        if isinstance(self.factor, bool) or not isinstance(self.factor, int) or self.factor < 2:
            raise ValueError(f"coarse denoiser: factor is {self.factor!r}; wanted a whole number of at least 2")
        affine = self.prior.affine
        if torch.as_tensor(affine.scale).numel() != 1 or torch.as_tensor(affine.shift).count_nonzero():
            raise ValueError(
                f"coarse denoiser: the affine map of prior '{self.prior.name}' has a shift or a scale of many numbers; wanted "
                "one number as scale and no shift"
            )
        if not 0 < self.above < self.sigma_max:
            raise ValueError(f"coarse denoiser: above is {self.above}; wanted less than its sigma_max, {self.sigma_max:g}")

    @property
    def sigma_max(self) -> float:
        """Largest noise level it is for, from which draws without data begin, standardised units of the fine prior."""
        return self.prior.sigma_max * self._scale

    @property
    def _scale(self) -> float:
        return float(torch.as_tensor(self.prior.affine.scale))

    def restrict(self, x: Tensor) -> Tensor:
        """P x: (..., H, W) to about (..., H / factor, W / factor)."""
        h, w = x.shape[-2:]
        return _resized(x, (max(1, round(h / self.factor)), max(1, round(w / self.factor))))

    def denoise(self, x: Tensor, sigma: Tensor, reference: Reference) -> Tensor:
        """D above; ``x`` (B, C, H, W), ``sigma`` (B,)."""
        linear = reference.denoise(x, sigma)
        low, scale = self.restrict(x), self._scale
        change = scale * self.prior.denoise(low / scale, sigma / scale) - self.restrict(linear)
        return linear + _resized(change, tuple(x.shape[-2:]))

    def begin(self, drawn: Tensor, white: Tensor, sigma: float) -> Tensor:
        """``drawn``, (B, C, H, W) of the noised reference Gaussian, its lowest frequencies drawn from the noised ``start``.

        ``white`` is the noise that it was drawn with; images of another size than that of ``start`` stay as they are.
        """
        low, scale = self.restrict(white), self._scale
        if self.start is None or tuple(low.shape[1:]) != self.start.shape:
            return drawn
        begun = scale * self.start.covariance(self.start.shape).plus_white((sigma / scale) ** 2).sqrt(low)
        return drawn + _resized(begun - self.restrict(drawn), tuple(drawn.shape[-2:]))


def _resized(x: Tensor, size: tuple[int, ...]) -> Tensor:
    """The image of the frequencies that both sizes have, with the coefficients of the orthonormal FFT unchanged.

    The frequency that an even size has on one side only is left out: without it the map and its adjoint are one formula.
    """
    c = torch.fft.fftshift(torch.fft.fft2(x, norm="ortho"), dim=(-2, -1))
    for axis, n in zip((-2, -1), size, strict=True):
        m = x.shape[axis]
        most = (min(m, n) - 1) // 2
        c = c.narrow(axis, m // 2 - most, 2 * most + 1)
        before = n // 2 - most
        after = n - before - (2 * most + 1)
        c = torch.nn.functional.pad(c, (before, after) if axis == -1 else (0, 0, before, after))
    return torch.fft.ifft2(torch.fft.ifftshift(c, dim=(-2, -1)), norm="ortho").real
