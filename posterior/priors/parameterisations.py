"""The door: from what a network predicts to the denoiser D(x, sigma).

With x = x_t / alpha_t and sigma = s_t / alpha_t every Gaussian path x_t = alpha_t x0 + s_t eps is the same path
x = x0 + sigma eps. A parameterisation says what the network is fed at (x, sigma) and how D follows from its output.

References:
    Karras, Aittala, Aila, Laine. Elucidating the design space of diffusion-based generative models. 2022.
    arXiv:2206.00364 (the coordinate, and `EDM`).
    Ho, Jain, Abbeel. Denoising diffusion probabilistic models. 2020. arXiv:2006.11239 (`epsilon`).
    Salimans, Ho. Progressive distillation. 2022. arXiv:2202.00512 (`v_prediction`).
    Liu, Gong, Liu. Flow straight and fast. 2022. arXiv:2209.03003 (`velocity`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from posterior.priors.base import column
from posterior.priors.reference import Reference

Network = Callable[[Tensor, Tensor], Tensor]


class Parameterisation(ABC):
    """How a network's output becomes a denoiser.

    Attributes:
        kind: Name in configuration files.
        inputs_per_channel: Network input channels for each channel of the field.
    """

    kind: ClassVar[str]
    inputs_per_channel: ClassVar[int] = 1

    @abstractmethod
    def denoise(self, network: Network, x: Tensor, sigma: Tensor) -> Tensor:
        """D(x, sigma) with one call of ``network(input, time)``; ``x`` (B, *event), ``sigma`` (B,)."""

    def range(self) -> tuple[float, float]:
        """Smallest and largest sigma the network was made for."""
        return 2e-3, 80.0


@dataclass(frozen=True)
class VariancePreserving(Parameterisation):
    """Discrete-time VP networks: x_t = sqrt(abar_t) x0 + sqrt(1 - abar_t) eps, t = 0 .. N-1.

    The time of a given sigma is interpolated in log sigma, so it need not be an integer.

    Args:
        alphas_cumprod: (N,) abar_t, descending in (0, 1).
        prediction: "epsilon", "sample" or "v_prediction".
    """

    alphas_cumprod: Tensor
    prediction: str = "epsilon"
    kind: ClassVar[str] = "vp"

    def __post_init__(self) -> None:
        if self.prediction not in ("epsilon", "sample", "v_prediction"):
            raise ValueError(f"prediction type '{self.prediction}': wanted epsilon, sample or v_prediction")

    def _log_sigmas(self) -> np.ndarray:
        abar = self.alphas_cumprod.double().numpy()
        # A table rescaled to zero terminal SNR ends at sigma = infinity; its last entry has no VE twin.
        abar = abar[abar > 1e-8]
        return 0.5 * np.log((1 - abar) / abar)

    def range(self) -> tuple[float, float]:
        """Smallest and largest sigma of the table."""
        log = self._log_sigmas()
        return float(np.exp(log[0])), float(np.exp(log[-1]))

    def denoise(self, network: Network, x: Tensor, sigma: Tensor) -> Tensor:
        """D = x - sigma eps (epsilon), the output itself (sample), or (x - sigma sqrt(1 + sigma^2) v) / (1 + sigma^2)."""
        table = self._log_sigmas()
        t = np.interp(sigma.detach().double().cpu().log().numpy(), table, np.arange(len(table)))
        s = column(sigma, x)
        scale = (1 + s**2).rsqrt()
        out = network(scale * x, torch.as_tensor(t, dtype=x.dtype, device=x.device))
        if self.prediction == "epsilon":
            return x - s * out
        if self.prediction == "sample":
            return out
        return scale**2 * x - s * scale * out


@dataclass(frozen=True)
class Velocity(Parameterisation):
    """Flow networks with noise at t = 1: x_t = (1 - t) x0 + t eps, output v = eps - x0 (SD3, Flux).

    Args:
        time_scale: The network's time input is ``time_scale * t``.
    """

    time_scale: float = 1000.0
    kind: ClassVar[str] = "velocity"

    def denoise(self, network: Network, x: Tensor, sigma: Tensor) -> Tensor:
        """D = x_t - t v with t = sigma / (1 + sigma), x_t = x / (1 + sigma)."""
        s = column(sigma, x)
        t = s / (1 + s)
        out = network(x / (1 + s), self.time_scale * sigma / (1 + sigma))
        return x / (1 + s) - t * out


@dataclass(frozen=True)
class EDM(Parameterisation):
    """Karras et al. preconditioning: D = c_skip x + c_out F(c_in x, ln(sigma) / 4).

    Args:
        sigma_data: Standard deviation of the training data.
        prediction: "epsilon" as above, or "v_prediction", diffusers' name for a network with the sign of c_out turned.
    """

    sigma_data: float = 1.0
    prediction: str = "epsilon"
    kind: ClassVar[str] = "edm"

    def __post_init__(self) -> None:
        if self.prediction not in ("epsilon", "v_prediction"):
            raise ValueError(f"EDM prediction type {self.prediction!r}: wanted epsilon or v_prediction")

    def denoise(self, network: Network, x: Tensor, sigma: Tensor) -> Tensor:
        """Table 1 of the paper, column "Ours"."""
        s = column(sigma, x)
        total = s**2 + self.sigma_data**2
        out = network(x * total.rsqrt(), sigma.log() / 4)
        sign = 1 if self.prediction == "epsilon" else -1
        return self.sigma_data**2 / total * x + sign * s * self.sigma_data * total.rsqrt() * out


@dataclass(frozen=True)
class GaussianResidual(Parameterisation):
    """Residual on the reference Gaussian's denoiser: D = D_g + c(sigma) F([D_g, (x - D_g) / sigma], ln(sigma) / 4).

    c(sigma)^2 is the Gaussian's mean posterior variance, so F starts at, and can only improve on, the optimal
    linear denoiser, and its target has unit variance wherever the Gaussian is right.

    Args:
        reference: The Gaussian.
    """

    reference: Reference
    kind: ClassVar[str] = "gaussian-residual"
    inputs_per_channel: ClassVar[int] = 2

    def parts(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """D_g, the network's input, and c(sigma) as a column."""
        linear = self.reference.denoise(x, sigma)
        eigen = self.reference.covariance(tuple(x.shape[1:])).eigenvalues
        s2 = sigma.detach().double().cpu() ** 2
        c = torch.stack([(eigen * v / (eigen + v)).mean() for v in s2]).sqrt()
        return linear, torch.cat([linear, (x - linear) / column(sigma, x)], dim=1), column(c.to(x), x)

    def denoise(self, network: Network, x: Tensor, sigma: Tensor) -> Tensor:
        """D_g + c F."""
        linear, inputs, c = self.parts(x, sigma)
        return linear + c * network(inputs, sigma.log() / 4)
