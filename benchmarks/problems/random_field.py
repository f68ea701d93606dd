"""Random-field problems whose posterior is Gaussian and known: 32 x 32 Matern field, four operators, sigma 0.05."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

import posterior

SIGMA = 0.05
OPERATORS = ("inpainting", "pooling", "blur", "fourier")


def matern_spectrum(side: int, smoothness: float = 1.5, length: float = 4.0) -> Tensor:
    """Spectrum of a periodic Matern field of unit variance: (2 nu / l^2 + k^2)^-(nu + 1), k in radians per pixel."""
    k = 2 * torch.pi * torch.fft.fftfreq(side, dtype=torch.float64)
    spectrum = (2 * smoothness / length**2 + k[:, None] ** 2 + k[None] ** 2) ** -(smoothness + 1)
    return spectrum / spectrum.mean()


@dataclass(frozen=True)
class FieldProblem:
    """Prior, likelihood and the truth (1, 1, 32, 32) that the data came from."""

    prior: posterior.GaussianPrior
    likelihood: posterior.GaussianLikelihood
    truth: Tensor


def random_field(operator: str, seed: int = 0, side: int = 32, dtype: torch.dtype = torch.float32) -> FieldProblem:
    """One problem.

    Args:
        operator: One of `OPERATORS`: 30 % of the pixels, 4x average pooling, Gaussian blur of 2 pixels (periodic), or
            about a quarter of the Fourier coefficients.
        seed: Of the truth, the noise and the mask.
        side: Grid side.
        dtype: Precision of the data.
    """
    import deepinv

    g = torch.Generator().manual_seed(seed)
    prior = posterior.GaussianPrior(torch.zeros(1, side, side, dtype=torch.float64), matern_spectrum(side))
    size = (1, side, side)
    if operator == "inpainting":
        mask = (torch.rand(size, generator=g) < 0.3).to(dtype)
        physics = deepinv.physics.Inpainting(size, mask=mask)
    elif operator == "pooling":
        kernel = torch.ones(1, 1, 4, 4, dtype=dtype) / 16
        physics = deepinv.physics.Downsampling(size, filter=kernel, factor=4, padding="circular")
    elif operator == "blur":
        t = torch.arange(-8, 9, dtype=dtype)
        line = torch.exp(-(t**2) / (2 * 2.0**2))
        kernel = line[:, None] * line[None]
        physics = deepinv.physics.BlurFFT(size, filter=(kernel / kernel.sum())[None, None])
    elif operator == "fourier":
        physics = MaskedFourier(side, torch.rand(side, side, generator=g) < 0.25)
    else:
        raise ValueError(f"random_field: operator {operator!r}; wanted one of {OPERATORS}")
    white = torch.randn(1, *size, generator=g, dtype=torch.float64)
    truth = prior.reference.cov.sqrt(white).to(dtype)
    clean = physics.A(truth)
    noise = torch.randn(clean.shape, generator=g, dtype=dtype) * SIGMA
    y = clean + noise * (clean != 0)
    return FieldProblem(prior, posterior.GaussianLikelihood(physics, y, SIGMA), truth)


def MaskedFourier(side: int, mask: Tensor):  # noqa: ANN201, N802
    """Real and imaginary parts of some orthonormal Fourier coefficients of a real field (B, 1, side, side)."""
    import deepinv

    weight = (mask | torch.roll(mask.flip((0, 1)), (1, 1), (0, 1))).float()

    def forward(x: Tensor, **_: object) -> Tensor:
        c = torch.fft.fft2(x, norm="ortho")[:, 0] * weight.to(x)
        return torch.stack([c.real, c.imag], dim=1)

    def adjoint(y: Tensor, **_: object) -> Tensor:
        return torch.fft.ifft2(torch.complex(y[:, 0], y[:, 1]) * weight.to(y), norm="ortho").real[:, None]

    return deepinv.physics.LinearPhysics(A=forward, A_adjoint=adjoint, img_size=(1, side, side))
