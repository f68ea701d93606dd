"""Chains with independent increments, whose exact denoiser is a forward-backward recursion on a lattice."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from posterior.priors.base import Prior
from posterior.priors.covariance import Covariance, EigenBasis
from posterior.priors.reference import GaussianReference

Law = Literal["gauss", "laplace", "bernoulli-laplace", "student"]
REACH = 7.0  # half-width of a window in noise standard deviations
RANGE = 10.0  # and in prior standard deviations of the end of the chain
RECENTRINGS = 8  # at most
BLOCK = 2**22  # lattice values that are computed at once


class LevyPrior(Prior):
    """The discrete Levy chain x_k = x_(k-1) + u_k, x_0 = 0, with independent increments u_k of one law.

        gauss               u ~ N(0, s^2)
        laplace             u with density exp(-|u| / s) / (2 s)
        bernoulli-laplace   u = 0 with probability 1 - rate, else Laplace
        student             u / s of Student's t law with dof degrees of freedom

    Seen through white noise such a chain is a hidden Markov model, so E[x0 | x] follows from one forward and one
    backward recursion. They run on a lattice of spacing h, in a window around each x_k, h and the window's size being
    functions of sigma alone. The atom of the Bernoulli law is a shift by no lattice point, hence exact; the lattice
    Laplace law is the two-sided geometric one of the same variance, with which D is right to 0.004 sigma; sums of smooth
    functions over the lattice converge faster than any power of h. Differentiable by autograd: the windows do not move
    with x. Computed in float64; messages carry sixteen digits, so fields several times larger than any draw of the noised
    prior have a D that is rough.

    The reference Gaussian has the chain's mean, 0, and covariance, Var(u) min(j, k).

    Args:
        law: Of the increments.
        d: Length of the chain; events are (d,).
        scale: s above, physical units (standardised and physical coordinates are the same here).

    Other arguments:
        rate: Probability that an increment of the Bernoulli law is not 0.
        dof: Degrees of freedom of Student's law; above 2, so that the variance is finite.
        units: Physical units.

    Raises:
        ValueError: If an argument is unknown or out of range.

    References:
        Zach, Haouchat, Unser. A statistical benchmark for diffusion posterior sampling algorithms. 2025.
        arXiv:2509.12821.
    """

    event_shape: tuple[int, ...]

    def __init__(
        self,
        law: Law,
        d: int = 64,
        scale: float = 1.0,
        *,
        rate: float = 0.1,
        dof: float = 3.0,
        units: str = "1",
    ) -> None:
        if law not in Law.__args__:
            raise ValueError(f"LevyPrior: law must be one of {Law.__args__}, got {law!r}")
        if d < 2:
            raise ValueError(f"LevyPrior: d must be at least 2, got {d}")
        if not (scale > 0 and math.isfinite(scale)):
            raise ValueError(f"LevyPrior: scale must be positive and finite, got {scale}")
        if not 0 < rate <= 1:
            raise ValueError(f"LevyPrior: rate must be above 0 and at most 1, got {rate}")
        if not (dof > 2 and math.isfinite(dof)):
            raise ValueError(f"LevyPrior: dof must be above 2 and finite, got {dof}")
        self.law, self.d, self.scale, self.rate, self.dof = law, d, float(scale), float(rate), float(dof)
        self.event_shape = (d,)
        self.units = units
        self.name = f"levy chain ({law})"
        self.rms = math.sqrt(self.increment_variance * (d + 1) / 2)
        # As for `GaussianPrior`: the top need only drown the posterior's shift of the mean.
        self.sigma_max = 30 * math.sqrt(self.reference.cov.max_variance)
        self.sigma_min = 1e-2 * self.scale

    @property
    def increment_variance(self) -> float:
        """Var(u)."""
        s2 = self.scale**2
        return {
            "gauss": s2,
            "laplace": 2 * s2,
            "bernoulli-laplace": 2 * s2 * self.rate,
            "student": s2 * self.dof / (self.dof - 2),
        }[self.law]

    @cached_property
    def reference(self) -> GaussianReference:
        """The Gaussian with the chain's mean and covariance."""
        k = torch.arange(1, self.d + 1, dtype=torch.float64)
        values, vectors = torch.linalg.eigh(self.increment_variance * torch.minimum(k[:, None], k))
        return GaussianReference(torch.zeros(self.d, dtype=torch.float64), Covariance(EigenBasis(vectors), values))

    def sample(self, n: int, seed: int = 0) -> Tensor:
        """``n`` independent draws (n, d), float64."""
        g = torch.Generator().manual_seed(seed)
        normal = torch.randn(n, self.d, generator=g, dtype=torch.float64)
        if self.law == "student":
            # A t variable is normal over the root of a gamma one, drawn here through its own generator.
            mix = _gamma(self.dof / 2, (n, self.d), g) / (self.dof / 2)
            return (self.scale * normal * mix.rsqrt()).cumsum(1)
        if self.law != "gauss":
            uniform = torch.rand(n, self.d, generator=g, dtype=torch.float64)
            normal = normal * (-2 * torch.log1p(-uniform)).sqrt()
        if self.law == "bernoulli-laplace":
            normal = normal * (torch.rand(n, self.d, generator=g, dtype=torch.float64) < self.rate)
        return (self.scale * normal).cumsum(1)

    def denoise(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """See `Prior.denoise`."""
        levels = torch.as_tensor(sigma, dtype=torch.float64).reshape(-1)
        if levels.numel() not in (1, x.shape[0]):
            raise ValueError(f"sigma has shape {tuple(torch.as_tensor(sigma).shape)}; wanted () or ({x.shape[0]},)")
        z = x.to(torch.float64)
        if levels.numel() == 1:
            return self._at_level(z, float(levels)).to(x.dtype)
        # The lattice depends on sigma, so items of one level go together.
        out = torch.zeros_like(z)
        for level in levels.unique().tolist():
            at = (levels == level).nonzero()[:, 0].to(x.device)
            out = out.index_copy(0, at, self._at_level(z[at], level))
        return out.to(x.dtype)

    def _lattice(self, sigma: float) -> tuple[float, int]:
        """Spacing and the lattice points of a window.

        Narrow noise is resolved by two points a standard deviation, or six where the chain may stay in one place for long
        and the data then agree on it to sigma / sqrt(d). Wide noise blurs the increments' law, of which then little but
        the variance, which the lattice law has exactly, is left to resolve.
        """
        fine = 6 if self.law == "bernoulli-laplace" else 2
        h = min(sigma / fine, max(self.scale / 4, min(sigma / 16, self.scale)))
        half = min(REACH * sigma, self._range)
        return h, 2 * math.ceil(half / h) + 1

    @property
    def _range(self) -> float:
        return RANGE * math.sqrt(self.increment_variance * self.d)

    def _log_mass(self, lag: Tensor, h: float) -> Tensor:
        """Log-probability, up to a constant, of an increment of ``lag`` lattice points."""
        if self.law == "gauss":
            return -0.5 * (lag * (h / self.scale)) ** 2
        if self.law == "student":
            return -0.5 * (self.dof + 1) * torch.log1p((lag * (h / self.scale)) ** 2 / self.dof)
        # q of the two-sided geometric law with variance 2 q h^2 / (1 - q)^2 = 2 scale^2
        r = (h / self.scale) ** 2
        q = 1 + r / 2 - math.sqrt(r + r**2 / 4)
        log = lag.abs() * math.log(q) + math.log((1 - q) / (1 + q))
        if self.law == "laplace":
            return log
        log = log + math.log(self.rate)
        stay = math.log(1 - self.rate) if self.rate < 1 else -math.inf
        return torch.where(lag == 0, torch.logaddexp(log, torch.full_like(log, stay)), log)

    def _at_level(self, x: Tensor, sigma: float) -> Tensor:
        h, n = self._lattice(sigma)
        size = max(1, BLOCK // (4 * n * self.d))
        return torch.cat([self._smooth(part, sigma, h, n) for part in x.split(size)])

    def _smooth(self, x: Tensor, sigma: float, h: float, n: int) -> Tensor:
        """E[x0 | x] of one block."""
        half = n // 2
        # Noise wider than the chain's whole range: one window for all, around 0, and so one transition for all.
        centre = x.detach() if h * half >= REACH * sigma else torch.zeros_like(x)
        out = self._within(x, first := torch.round(centre / h) - half, sigma, h, n)
        for _ in range(RECENTRINGS):
            # Fields that no draw of the noised prior looks like have their mass elsewhere: the window goes after it.
            far = (out.detach() / h - first - half).abs() > 0.6 * half
            at = far.any(1).nonzero()[:, 0]
            if not len(at):
                break
            first = first.index_copy(0, at, torch.round(out.detach()[at] / h) - half)
            out = out.index_copy(0, at, self._within(x[at], first[at], sigma, h, n))
        return out

    def _within(self, x: Tensor, first: Tensor, sigma: float, h: float, n: int) -> Tensor:
        """E[x0 | x] with x_k among the ``n`` lattice points from ``first`` (B, d) on, whole numbers in float64."""
        inside = torch.arange(n, dtype=torch.float64, device=x.device)
        grid = h * (first[..., None] + inside)
        log = -0.5 * ((x[..., None] - grid) / sigma) ** 2
        fit = torch.exp(log - log.amax(-1, keepdim=True).detach())
        length = _fast_length(2 * n - 1)
        move = self._transitions(first, h, n, length)
        ahead, back = [fit[:, 0] * _from_log(self._log_mass(first[:, :1] + inside, h))], [torch.ones_like(fit[:, -1])]
        for k in range(1, self.d):
            come = _convolve(_normal(ahead[-1]), move[:, k - 1], n, length)
            ahead.append(come * fit[:, k])
            come = _convolve(_normal(back[-1] * fit[:, self.d - k]), move[:, self.d - 1 - k].conj(), n, length)
            back.append(come)
        marginal = _normal(torch.stack(ahead, 1) * torch.stack(back[::-1], 1))
        return (marginal * grid).sum(-1)

    def _transitions(self, first: Tensor, h: float, n: int, length: int) -> Tensor:
        """Fourier transforms of the law of the increments, as seen from window to window, (B or 1, d - 1, F)."""
        lag = torch.arange(length, dtype=torch.float64, device=first.device)
        lag = torch.where(lag < n, lag, lag - length)
        apart = torch.diff(first, dim=1)[..., None]
        if not apart.any():
            apart = apart[:1]
        mass = _from_log(self._log_mass(apart + lag, h))
        used = (lag > -n) & (lag < n)
        return torch.fft.rfft(torch.where(used, mass, 0.0))


def _from_log(log: Tensor) -> Tensor:
    """Masses along the last axis from their logarithms, the largest 1."""
    return torch.exp(log - log.amax(-1, keepdim=True))


def _normal(mass: Tensor) -> Tensor:
    """Masses along the last axis, summing to one; a sum of 0, where rounding ends, is left alone."""
    return mass / mass.sum(-1, keepdim=True).clamp_min(1e-300)


def _convolve(mass: Tensor, kernel: Tensor, n: int, length: int) -> Tensor:
    out = torch.fft.irfft(torch.fft.rfft(mass, length) * kernel, length)[..., :n]
    # Below this there is only rounding of the transform; messages without common ground are left to the data.
    return out.clamp_min(1e-30)


def _fast_length(least: int) -> int:
    """The next length 2^a, 3 * 2^a or 5 * 2^a."""
    return min(f * 2 ** max(0, math.ceil(math.log2(least / f))) for f in (1, 3, 5))


def _gamma(shape: float, size: tuple[int, ...], g: torch.Generator) -> Tensor:
    """Gamma(shape, 1) draws (Marsaglia, Tsang 2000), shape at least 1, each redrawn until it is accepted."""
    d = shape - 1 / 3
    out = torch.zeros(size, dtype=torch.float64)
    todo = torch.ones(size, dtype=torch.bool)
    while todo.any():
        z = torch.randn(size, generator=g, dtype=torch.float64)
        u = torch.rand(size, generator=g, dtype=torch.float64)
        v = (1 + z / math.sqrt(9 * d)) ** 3
        good = (v > 0) & (torch.log(u) < 0.5 * z**2 + d - d * v + d * torch.log(v.clamp_min(1e-300)))
        out = torch.where(todo & good, d * v, out)
        todo &= ~good
    return out
