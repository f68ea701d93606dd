"""Integrators: from sigma to sigma' < sigma, given a denoiser.

In the one coordinate the probability-flow ODE is dx/dsigma = (x - D(x, sigma)) / sigma, and every step below is a way
to follow it, or the reverse-time SDE with the same marginals. None of them knows about likelihoods.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from torch import Tensor


class Noise(Protocol):
    """White noise, one independent stream for each draw of the batch."""

    def __call__(self, shape: tuple[int, ...] | None = None) -> Tensor:
        """Standard normal (B, *shape); the shape of one field where None."""
        ...


Linear = Callable[[Tensor], Tensor]


class Estimate:
    """What a denoiser says of x0 given x (and y): its mean and, where a covariance is known, a way to draw it.

    Args:
        mean: E[x0 | x], (B, *event), or a function that computes it when first asked.
        draw: Called with a source of noise, returns draws of x0 given x; None where no covariance is known.

    Other arguments:
        direction: Called with a source of noise, returns the noise of x in units of one to go on with; (x - mean) / sigma
            where None.
        adding: For methods whose data bring noise of their own into x'. Called with the weight a of the mean in x' and
            the standard deviation s > 0 of the white noise that the step adds; returns the mean to use and the map of
            s z that takes its place. None: the mean as it is, and white noise.
    """

    def __init__(
        self,
        mean: Tensor | Callable[[], Tensor],
        draw: Callable[[Noise], Tensor] | None = None,
        *,
        direction: Callable[[Noise], Tensor] | None = None,
        adding: Callable[[float, float], tuple[Tensor, Linear]] | None = None,
    ) -> None:
        self._mean = mean
        self.draw = draw
        self._direction = direction
        self._adding = adding

    @property
    def mean(self) -> Tensor:
        """E[x0 | x]."""
        if callable(self._mean):
            self._mean = self._mean()
        return self._mean

    def move(self, x: Tensor, sigma: float, kept: float, fresh: float, noise: Noise) -> Tensor:
        """x' = mean + kept e + fresh z, e the noise of ``x`` in units of one, z white.

        Args:
            x: The noised fields (B, *event).
            sigma: Their noise level.
            kept: Standard deviation of the noise that is kept.
            fresh: That of the noise that is added; none is drawn where it is 0.
            noise: Source of white noise.
        """
        if fresh > 0 and self._adding is not None:
            mean, shape = self._adding(1 - kept / sigma if self._direction is None else 1.0, fresh)
        else:
            mean, shape = self.mean, None
        if kept > 0:
            e = (x - mean) / sigma if self._direction is None else self._direction(noise)
            mean = mean + kept * e
        if fresh > 0:
            white = fresh * noise()
            mean = mean + (white if shape is None else shape(white))
        return mean


Denoiser = Callable[[Tensor, float, tuple[float, float]], Estimate]


class Integrator(ABC):
    """One step from sigma to sigma'.

    Attributes:
        order: Order of the global error in the step size, for the deterministic part.
        calls: Denoiser calls in a step.
    """

    order: int = 1
    calls: int = 1

    @abstractmethod
    def step(
        self, denoiser: Denoiser, x: Tensor, sigma: float, sigma_next: float, noise: Noise, memory: Any
    ) -> tuple[Tensor, Any]:
        """Move ``x`` (B, *event) from ``sigma`` to ``sigma_next``.

        Args:
            denoiser: ``denoiser(x, level, (sigma, sigma_next))``: x0 given ``x`` at noise ``level``, on this step.
            x: The noised fields.
            sigma: Present noise level.
            sigma_next: The next, smaller; may be 0.
            noise: Source of white noise of the shape of ``x``.
            memory: What the last step handed on; None at the first.

        Returns:
            The fields at ``sigma_next`` and the memory for the next step.
        """


@dataclass(frozen=True)
class DDIM(Integrator):
    """Song, Meng, Ermon. Denoising diffusion implicit models. 2020. arXiv:2010.02502.

    x' = D + sqrt(sigma'^2 - s^2) / sigma (x - D) + s z with s = eta sigma' sqrt(1 - sigma'^2 / sigma^2).

    Args:
        eta: 0 is an Euler step of the probability-flow ODE, 1 the ancestral step.

    Raises:
        ValueError: If ``eta`` is not between 0 and 1.
    """

    eta: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ValueError(f"DDIM: eta must be between 0 and 1, got {self.eta}")

    def step(
        self, denoiser: Denoiser, x: Tensor, sigma: float, sigma_next: float, noise: Noise, memory: Any
    ) -> tuple[Tensor, Any]:
        """See `Integrator.step`."""
        estimate = denoiser(x, sigma, (sigma, sigma_next))
        s = self.eta * sigma_next * math.sqrt(1 - (sigma_next / sigma) ** 2)
        return estimate.move(x, sigma, math.sqrt(sigma_next**2 - s**2), s, noise), None


@dataclass(frozen=True)
class Renoise(Integrator):
    """A share of the noise is drawn anew at every step, whatever the step's length.

    x' = D + sigma' (sqrt(1 - zeta) e + sqrt(zeta) z) with e = (x - D) / sigma. Unlike `DDIM`, whose noise vanishes with the
    step, it has no limit of many steps but that of zeta = 0; with zeta = 1 x' forgets all of x but D.

    Args:
        zeta: Share of the noise's variance that is drawn anew, 0 to 1.

    Raises:
        ValueError: If ``zeta`` is not between 0 and 1.

    References:
        Zhu, Zhang, Liang, Cao, Wen, Timofte, Van Gool. Denoising diffusion models for plug-and-play image restoration.
        CVPR workshops 2023. arXiv:2305.08995.
    """

    zeta: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.zeta <= 1:
            raise ValueError(f"Renoise: zeta must be between 0 and 1, got {self.zeta}")

    def step(
        self, denoiser: Denoiser, x: Tensor, sigma: float, sigma_next: float, noise: Noise, memory: Any
    ) -> tuple[Tensor, Any]:
        """See `Integrator.step`."""
        estimate = denoiser(x, sigma, (sigma, sigma_next))
        kept, fresh = math.sqrt(1 - self.zeta) * sigma_next, math.sqrt(self.zeta) * sigma_next
        return estimate.move(x, sigma, kept, fresh, noise), None


@dataclass(frozen=True)
class Ancestral(Integrator):
    """From x_sigma to x_sigma' through a value of x0.

    x' = x0 + a (x - x0) + sqrt(sigma'^2 - a^2 sigma^2) z with a = (1 - renewed) r, r = (sigma' / sigma)^2. With a = r it is the
    bridge, p(x' | x, x0) = N(r x + (1 - r) x0, sigma'^2 (1 - r)); with a = 0, p(x' | x0), which keeps nothing of x but the x0
    that was drawn given it. Where the denoiser can draw x0 given x the draw is used, which makes the transition exact at any
    step size for every a; elsewhere its mean is (DDPM; Ho, Jain, Abbeel 2020, arXiv:2006.11239), which loses the variance of x0
    given x. A drawn x0 is handed on as memory.

    Args:
        renewed: Share of what the bridge keeps of x that is drawn anew, 0 to 1.

    Raises:
        ValueError: If ``renewed`` is not between 0 and 1.

    References:
        ``renewed=1``: Zhang, Chu, Berner, Meng, Anandkumar, Song. Improving diffusion inverse problem solving with decoupled
            noise annealing. 2024. arXiv:2407.01521.
    """

    renewed: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.renewed <= 1:
            raise ValueError(f"Ancestral: renewed must be between 0 and 1, got {self.renewed}")

    def step(
        self, denoiser: Denoiser, x: Tensor, sigma: float, sigma_next: float, noise: Noise, memory: Any
    ) -> tuple[Tensor, Any]:
        """See `Integrator.step`."""
        estimate = denoiser(x, sigma, (sigma, sigma_next))
        kept = (1 - self.renewed) * (sigma_next / sigma) ** 2
        fresh = math.sqrt(sigma_next**2 - (kept * sigma) ** 2)
        if estimate.draw is None:
            return estimate.move(x, sigma, kept * sigma, fresh, noise), None
        x0 = estimate.draw(noise)
        x = kept * x + (1 - kept) * x0
        return (x + fresh * noise() if fresh > 0 else x), x0


@dataclass(frozen=True)
class Heun(Integrator):
    """Second-order trapezoidal step of the probability-flow ODE (Karras et al. 2022, arXiv:2206.00364, algorithm 1)."""

    order = 2
    calls = 2

    def step(
        self, denoiser: Denoiser, x: Tensor, sigma: float, sigma_next: float, noise: Noise, memory: Any
    ) -> tuple[Tensor, Any]:
        """See `Integrator.step`; the last step, to sigma' = 0, is an Euler step."""
        slope = (x - denoiser(x, sigma, (sigma, sigma_next)).mean) / sigma
        euler = x + (sigma_next - sigma) * slope
        if sigma_next == 0:
            return euler, None
        again = (euler - denoiser(euler, sigma_next, (sigma, sigma_next)).mean) / sigma_next
        return x + (sigma_next - sigma) * (slope + again) / 2, None


@dataclass(frozen=True)
class DPMSolver2M(Integrator):
    """DPM-Solver++(2M), a two-step method with one call a step.

    With h = log(sigma / sigma') and the last step's D_, h_:
    x' = (sigma'/sigma) x + (1 - sigma'/sigma) ((1 + h / (2 h_)) D - h / (2 h_) D_).

    References:
        Lu, Zhou, Bao, Chen, Li, Zhu. DPM-Solver++. 2022. arXiv:2211.01095.
    """

    order = 2

    def step(
        self, denoiser: Denoiser, x: Tensor, sigma: float, sigma_next: float, noise: Noise, memory: Any
    ) -> tuple[Tensor, Any]:
        """See `Integrator.step`; the first step and the last, to sigma' = 0, are of first order."""
        mean = denoiser(x, sigma, (sigma, sigma_next)).mean
        if sigma_next == 0:
            return mean, None
        h = math.log(sigma / sigma_next)
        ahead = mean
        if memory is not None:
            before, h_before = memory
            ahead = mean + h / (2 * h_before) * (mean - before)
        r = sigma_next / sigma
        return r * x + (1 - r) * ahead, (mean, h)


@dataclass(frozen=True)
class SASolver(Integrator):
    """Stochastic Adams steps: the SDE with tau times the reverse diffusion's noise, by a multistep rule of one call a step.

    With h = log(sigma / sigma'), k = 1 + tau^2 and D(u) the polynomial in log sigma through the last ``order`` denoised fields,
    u = 0 at sigma and h at sigma',

        x' = e^(-k h) x + int_0^h k e^(-k (h - u)) D(u) du + sigma' sqrt(1 - e^(-2 tau^2 h)) z.

    Every tau has the same marginals where D is exact. Where it is not, as for any approximation of a posterior denoiser,
    noise lets a chain forget the errors made at higher noise levels, and with them a wrong choice of mode: the larger tau,
    the more. Errors of discretisation grow with k h, so tau is lowered on steps too long for it.

    For tau > 0 the law converges at second order in h, whatever ``order`` is from 2 on, with a smaller constant at 3; the
    paths of tau = 0 converge at ``order``. This is the paper's predictor with an exact integral of the exponential.

    Args:
        tau: 0 is the probability-flow ODE, 1 the reverse diffusion, whose step of order 1 is the ancestral one.
        order: Denoised fields that are used, the present one included; 1 to 4.

    Other arguments:
        reach: Largest k h; where (1 + tau^2) h is larger, tau^2 is max(0, reach / h - 1) on that step.

    Raises:
        ValueError: If an argument is out of range.

    References:
        Xue, Yi, Luo, Zhang, Sun, Li, Ma. SA-Solver: Stochastic Adams solver for fast sampling of diffusion models.
        NeurIPS 2023. arXiv:2309.05019.
    """

    tau: float = 1.0
    order: int = 3
    reach: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.tau < math.inf:
            raise ValueError(f"SASolver: tau must be finite and not negative, got {self.tau}")
        if self.order not in (1, 2, 3, 4):
            raise ValueError(f"SASolver: order must be 1, 2, 3 or 4, got {self.order}")
        if not self.reach > 0:
            raise ValueError(f"SASolver: reach must be positive, got {self.reach}")

    def step(
        self, denoiser: Denoiser, x: Tensor, sigma: float, sigma_next: float, noise: Noise, memory: Any
    ) -> tuple[Tensor, Any]:
        """See `Integrator.step`; the first steps are of lower order, the last, to sigma' = 0, is the denoised field."""
        mean = denoiser(x, sigma, (sigma, sigma_next)).mean
        if sigma_next == 0:
            return mean, None
        h = math.log(sigma / sigma_next)
        variance = min(self.tau**2, max(0.0, self.reach / h - 1))
        past = ((sigma, mean), *(memory or ()))[: self.order]
        weights = _adams_weights([math.log(sigma / level) for level, _ in past], h, 1 + variance)
        x = math.exp(-(1 + variance) * h) * x
        for weight, (_, field) in zip(weights, past, strict=True):
            x = x + weight * field
        if variance > 0:
            x = x + sigma_next * math.sqrt(-math.expm1(-2 * variance * h)) * noise()
        return x, past


def _adams_weights(nodes: list[float], h: float, rate: float) -> list[float]:
    """Weights w of values at ``nodes`` with sum_j w_j f(u_j) = int_0^h rate e^(-rate (h - u)) f(u) du for polynomials f."""
    moments = [-math.expm1(-rate * h)]
    for power in range(1, len(nodes)):
        moments.append(h**power - power * moments[-1] / rate)
    vandermonde = np.vander(np.asarray(nodes) / h, increasing=True).T
    return np.linalg.solve(vandermonde, [m / h**power for power, m in enumerate(moments)]).tolist()
