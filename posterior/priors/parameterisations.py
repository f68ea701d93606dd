"""The door: from what a network predicts to the denoiser D(x, sigma).

With x = x_t / alpha_t and sigma = s_t / alpha_t every Gaussian path x_t = alpha_t x0 + s_t eps is the same path
x = x0 + sigma eps. A parameterisation says what the network is fed at (x, sigma) and how D follows from its output.

References:
    Karras, Aittala, Aila, Laine. Elucidating the design space of diffusion-based generative models. 2022.
    arXiv:2206.00364 (the coordinate, and `EDM`).
    Ho, Jain, Abbeel. Denoising diffusion probabilistic models. 2020. arXiv:2006.11239 (`epsilon`).
    Salimans, Ho. Progressive distillation. 2022. arXiv:2202.00512 (`v_prediction`).
    Song, Sohl-Dickstein, Kingma, Kumar, Ermon, Poole. Score-based generative modeling through stochastic differential
        equations. 2021. arXiv:2011.13456 (`VarianceExploding`, `ContinuousVP`).
    Liu, Gong, Liu. Flow straight and fast. 2022. arXiv:2209.03003 (`velocity`).
    Tong et al. Improving and generalizing flow-based generative models with minibatch optimal transport. 2023.
        arXiv:2302.00482 (the coupling of `velocity`).
"""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from posterior.priors.base import column, finite
from posterior.priors.reference import Reference

Network = Callable[[Tensor, Tensor], Tensor]
PREDICTIONS = ("epsilon", "sample", "v_prediction")


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


class _VariancePreserving(Parameterisation):
    """VP networks, x_t = alpha_t x0 + s_t eps with alpha_t^2 + s_t^2 = 1, whatever their clock."""

    prediction: str

    def __post_init__(self) -> None:
        _one_of("prediction type", self.prediction, PREDICTIONS)

    @abstractmethod
    def time(self, sigma: Tensor) -> Tensor:
        """What the network is told at ``sigma`` (B,), float64."""

    def denoise(self, network: Network, x: Tensor, sigma: Tensor) -> Tensor:
        """D = x - sigma eps (epsilon), the output itself (sample), or (x - sigma sqrt(1 + sigma^2) v) / (1 + sigma^2)."""
        s = column(sigma, x)
        scale = (1 + s**2).rsqrt()
        out = network(scale * x, self.time(sigma.detach().double()).to(x))
        if self.prediction == "epsilon":
            return x - s * out
        if self.prediction == "sample":
            return out
        return scale**2 * x - s * scale * out


@dataclass(frozen=True)
class VariancePreserving(_VariancePreserving):
    """Discrete-time VP networks: x_t = sqrt(abar_t) x0 + sqrt(1 - abar_t) eps, t = 0 .. N-1.

    The time of a given sigma is interpolated in log sigma, so it need not be an integer.

    Args:
        alphas_cumprod: (N,) abar_t, descending in (0, 1); the last may be 0.
        prediction: "epsilon", "sample" or "v_prediction".

    Raises:
        ValueError: If the table does not descend in (0, 1) or the prediction is of another type.
    """

    alphas_cumprod: Tensor
    prediction: str = "epsilon"
    kind: ClassVar[str] = "vp"

    def __post_init__(self) -> None:
        super().__post_init__()
        abar = self.alphas_cumprod
        if abar.ndim != 1 or len(abar) < 2 or not (abar[0] < 1 and abar[-1] >= 0 and (abar.diff() < 0).all()):
            raise ValueError(f"alphas_cumprod of shape {tuple(abar.shape)}: wanted a list that descends between 1 and 0")

    def _log_sigmas(self) -> np.ndarray:
        abar = self.alphas_cumprod.cpu().double().numpy()
        # A table rescaled to zero terminal SNR ends at sigma = infinity; its last entry has no VE twin.
        abar = abar[abar > 1e-8]
        return 0.5 * np.log((1 - abar) / abar)

    def range(self) -> tuple[float, float]:
        """Smallest and largest sigma of the table."""
        log = self._log_sigmas()
        return float(np.exp(log[0])), float(np.exp(log[-1]))

    def time(self, sigma: Tensor) -> Tensor:
        """The place of ``sigma`` in the table."""
        table = self._log_sigmas()
        return torch.from_numpy(np.interp(sigma.cpu().log().numpy(), table, np.arange(len(table))))


@dataclass(frozen=True)
class ContinuousVP(_VariancePreserving):
    """Continuous-time VP networks: dx = -beta x dt / 2 + sqrt(beta) dw, beta rising linearly with t from 0 to 1.

    1 + sigma^2 = exp(beta_min t + (beta_max - beta_min) t^2 / 2). The VP networks of score_sde, whose score is
    -output / s_t, and of EDM's "VP" preconditioning are of this kind with prediction "epsilon".

    Args:
        beta_min: beta at t = 0.
        beta_max: beta at t = 1.
        time_scale: The network's time input is ``time_scale * t``.
        prediction: "epsilon", "sample" or "v_prediction".

    Raises:
        ValueError: If not 0 < beta_min <= beta_max, ``time_scale`` is not positive, or the prediction is of another type.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0
    time_scale: float = 999.0
    prediction: str = "epsilon"
    kind: ClassVar[str] = "continuous-vp"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.beta_min <= self.beta_max < math.inf:
            raise ValueError(f"beta from {self.beta_min} to {self.beta_max}: wanted 0 < beta_min <= beta_max")
        finite("time_scale", self.time_scale, positive=True)

    def range(self) -> tuple[float, float]:
        """sigma at t = 1e-5, below which such networks are not trained, and at t = 1."""
        low, high = (math.expm1(self.beta_min * t + (self.beta_max - self.beta_min) * t * t / 2) ** 0.5 for t in (1e-5, 1.0))
        return low, high

    def time(self, sigma: Tensor) -> Tensor:
        """``time_scale * t``, the root written so that nothing cancels at small sigma."""
        grown = torch.log1p(sigma**2)
        root = (self.beta_min**2 + 2 * (self.beta_max - self.beta_min) * grown).sqrt()
        return self.time_scale * 2 * grown / (self.beta_min + root)


@dataclass(frozen=True)
class VarianceExploding(Parameterisation):
    """VE networks, which see the noisy field itself: x = x0 + sigma eps.

    Args:
        output: "score", D = x + sigma^2 out (score_sde's NCSN++), or "scaled-score", D = x + sigma out (EDM's "VE"
            preconditioning).
        time: What the network is told: "sigma", or "log-half", ln(sigma / 2).
        low: Smallest sigma it was trained for.
        high: Largest.

    Raises:
        ValueError: If ``output`` or ``time`` is another word, or not 0 < low < high.
    """

    output: str = "score"
    time: str = "sigma"
    low: float = 0.01
    high: float = 50.0
    kind: ClassVar[str] = "ve"

    def __post_init__(self) -> None:
        _one_of("output of a VE network", self.output, ("score", "scaled-score"))
        _one_of("time of a VE network", self.time, ("sigma", "log-half"))
        if not 0 < self.low < self.high:
            raise ValueError(f"VE network for sigma from {self.low} to {self.high}: wanted 0 < low < high")

    def range(self) -> tuple[float, float]:
        """``low`` and ``high``."""
        return self.low, self.high

    def denoise(self, network: Network, x: Tensor, sigma: Tensor) -> Tensor:
        """D = x + sigma^2 score."""
        s = column(sigma, x)
        out = network(x, sigma if self.time == "sigma" else (sigma / 2).log())
        return x + (s**2 if self.output == "score" else s) * out


@dataclass(frozen=True)
class Velocity(Parameterisation):
    """Flow networks on the straight path between data and noise, in either direction of time.

    Noise at t = 1 (SD3, Flux, deepinv): x_t = (1 - t) x0 + t eps, v = eps - x0. Data at t = 1 (torchcfm, PnP-Flow,
    rectified flow): x_t = t x0 + (1 - t) eps, v = x0 - eps.

    Args:
        time_scale: The network's time input is ``time_scale * t``.
        data_at_one: Whether t = 1 is the data.
        coupling: "independent", or "minibatch-ot" for a network trained on pairs of data and noise that an optimal
            transport plan matched. The identity between velocity and denoiser holds for independent pairs only, so
            the denoiser, and with it every posterior, is then approximate: a UserWarning says so.

    Raises:
        ValueError: If ``time_scale`` is not positive, or ``coupling`` is another word.
    """

    time_scale: float = 1000.0
    data_at_one: bool = False
    coupling: str = "independent"
    kind: ClassVar[str] = "velocity"

    def __post_init__(self) -> None:
        finite("time_scale", self.time_scale, positive=True)
        _one_of("coupling", self.coupling, ("independent", "minibatch-ot"))
        if self.coupling == "minibatch-ot":
            text = "velocity of a minibatch-OT coupling: the noise depends on the data, so score and denoiser are approximate"
            warnings.warn(text, UserWarning, stacklevel=3)

    def denoise(self, network: Network, x: Tensor, sigma: Tensor) -> Tensor:
        """D = x_t - (sigma / (1 + sigma)) (eps - x0) with x_t = x / (1 + sigma)."""
        s = column(sigma, x)
        t = 1 / (1 + sigma) if self.data_at_one else sigma / (1 + sigma)
        out = network(x / (1 + s), self.time_scale * t)
        return (x + s * out if self.data_at_one else x - s * out) / (1 + s)


@dataclass(frozen=True)
class EDM(Parameterisation):
    """Karras et al. preconditioning: D = c_skip x + c_out F(c_in x, ln(sigma) / 4).

    Args:
        sigma_data: Standard deviation of the training data.
        prediction: "epsilon" as above, or "v_prediction", diffusers' name for a network with the sign of c_out turned.

    Raises:
        ValueError: If ``sigma_data`` is not positive, or the prediction is of another type.
    """

    sigma_data: float = 1.0
    prediction: str = "epsilon"
    kind: ClassVar[str] = "edm"

    def __post_init__(self) -> None:
        finite("sigma_data", self.sigma_data, positive=True)
        _one_of("EDM prediction type", self.prediction, ("epsilon", "v_prediction"))

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


class GaussianResidualFlow(GaussianResidual):
    """The flow form of `GaussianResidual`: a velocity on the straight path x_t = (1 - t) x0 + t eps.

    v(x_t, t) = (x_t - D_g) / t - (c / t) F([D_g, (x - D_g) / sigma], ln(sigma) / 4) with sigma = t / (1 - t) and
    x = x_t / (1 - t): the velocity of the reference Gaussian, and what the network adds to it. c / t is between the
    reference's standard deviation and 1 at all t, so that the plain flow-matching loss weighs all times alike.

    Args:
        reference: The Gaussian.
    """

    kind: ClassVar[str] = "gaussian-residual-flow"

    def velocity(self, network: Network, x_t: Tensor, t: Tensor) -> Tensor:
        """E[eps - x0 | x_t]; ``x_t`` (B, *event), ``t`` (B,) in (0, 1), noise at 1."""
        sigma, tc = t / (1 - t), column(t, x_t)
        linear, inputs, c = self.parts(x_t / (1 - tc), sigma)
        return (x_t - linear - c * network(inputs, sigma.log() / 4)) / tc

    def denoise(self, network: Network, x: Tensor, sigma: Tensor) -> Tensor:
        """D = x_t - t v."""
        t = sigma / (1 + sigma)
        x_t = x / (1 + column(sigma, x))
        return x_t - column(t, x) * self.velocity(network, x_t, t)


def _one_of(what: str, value: str, words: tuple[str, ...]) -> None:
    if value not in words:
        raise ValueError(f"{what} {value!r}: wanted {', '.join(words[:-1])} or {words[-1]}")
