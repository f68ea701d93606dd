"""The auxiliary particle filter of MCG-diff, for linear operators."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from posterior.problem import Problem
from posterior.samplers.smc.core import PopulationNoise
from posterior.samplers.smc.guided import GuidedParticles
from posterior.samplers.smc.guides import Guide
from posterior.samplers.smc.kernels import catch_up, reference_of
from posterior.svd import SingularSystem, singular_system


@dataclass(frozen=True)
class FKFilter(GuidedParticles):
    """Particles that are filtered by a pseudo-observation of every singular coordinate, exact as particles and steps grow.

    With A = U diag(s) V^T whitened by the noise, coordinate i of the data is x0_i + tau_i n, tau_i = 1 / s_i: the value
    of the noised field's coordinate at noise level tau_i. While sigma > tau_i particles are steered towards it by

        psi_i(x) = N(y_i; x_i, sigma^2 - tau_i^2),

    the law of getting from y_i at tau_i to x_i at sigma; at tau_i the coordinate takes the value y_i; below it moves
    freely. The proposal is the model's move conditioned on psi, so that a weight depends on the particle before it moves
    and resampling looks ahead. Data noisier than the first level (tau_i above it, whatever the gain) are used in the
    first draw. One network call a step, no vector-Jacobian products.

    The paper keeps a small variance at tau_i (kappa) and works on the grid of levels; here coordinates reach tau_i inside
    a step, by the bridge, and exactly.

    Args:
        steps: Steps from the first noise level to 0.

    Other arguments:
        corrected: Whether moves keep the variance of x0 given x, at no cost (see `GuidedParticles`).
        ess_threshold, resampling, rejuvenation, genealogy, schedule, sigma_min: See `ParticleSampler`. A rejuvenation
            move costs two network calls.
        sigma_max: First noise level, the prior's own where None: particles start from white noise.

    Raises:
        ValueError: If an argument is out of range, the operator is not linear, or it is too large to be decomposed.

    References:
        Cardoso, Janati El Idrissi, Le Corff, Moulines. Monte Carlo guided denoising diffusion models for Bayesian linear
        inverse problems. ICLR 2024. arXiv:2308.07983.
    """

    steps: int = 200
    _: KW_ONLY
    ess_threshold: float = 0.9
    rejuvenation: int = 1

    def levels(self, problem: Problem) -> list[float]:
        """See `ParticleSampler.levels`."""
        top = problem.prior.sigma_max if self.sigma_max is None else self.sigma_max
        low = problem.prior.sigma_min if self.sigma_min is None else self.sigma_min
        return self._spacing(problem)(self.steps, top, low)

    def _guide(self, problem: Problem) -> Guide:
        if not problem.likelihood.model.linear:
            raise ValueError("FKFilter: takes linear operators only; use TDS or AFDPS")
        return PseudoObservations(problem)


@dataclass(frozen=True)
class CoordinateKernel:
    """The ancestral move N(r x + (1 - r) D, sigma'^2 (1 - r) I) in singular coordinates.

    Args:
        x: V^T x, (N, *event).
        d: V^T D.
        free: Which coordinates move unsteered, (1, *event).
        system: The coordinates.
        r: (sigma' / sigma)^2.
    """

    x: Tensor
    d: Tensor
    free: Tensor
    system: SingularSystem
    r: float

    def towards(self, ratio: Tensor | float) -> Tensor:
        """Mean at the level sqrt(ratio) sigma."""
        return ratio * self.x + (1 - ratio) * self.d

    def correct(self, ahead: Tensor, d: Tensor, d_ahead: Tensor) -> Tensor:
        """See `Kernel.correct`; only what moves freely, so that pseudo-observations stay satisfied."""
        change = catch_up(self.r) * self.free * self.system.analyse(d_ahead - d)
        return ahead + self.system.synthesise(change)


class PseudoObservations(Guide):
    """The potential of `FKFilter`; weights are paid when tau_i is passed, and psi_i is 1 from then on."""

    def __init__(self, problem: Problem) -> None:
        self.system = singular_system(problem, "FKFilter")
        gains = self.system.gains
        self.seen = gains > 0
        self.tau = torch.where(self.seen, 1 / gains, torch.inf)
        self.y = torch.where(self.seen, self.system.data / gains, 0.0)
        # log p(y | x0) = offset + sum_i log N(y_i; x0_i, tau_i^2): what no field can explain, and the change of units.
        at_zero = problem.likelihood.gaussian_log_prob(gains.new_zeros(1, *problem.event_shape))
        self.offset = float(at_zero) - float(self._sum(_log_normal(self.y, self.tau**2, self.seen)))

    def start(self, problem: Problem, sigma: float, noise: PopulationNoise) -> tuple[Tensor, Tensor]:
        """See `Guide.start`; white noise, conditioned on every pseudo-observation."""
        white = noise()
        mean = self.system.analyse(reference_of(problem).mean(problem.event_shape) + torch.zeros_like(white[:1]))
        wide = problem.prior.rms**2 + sigma**2
        apart = torch.where(self.seen, (self.tau**2 - sigma**2).abs(), torch.inf)
        share = wide / (wide + apart)
        c = mean + share * (self.y - mean) + (wide * (1 - share)).sqrt() * white
        x = self.system.synthesise(c)
        log_all = self._sum(_log_normal(self.y - mean, wide + apart, self.seen)) + self.offset
        return x, log_all - self.log_value(problem, x, x, sigma)

    def log_value(self, problem: Problem, x: Tensor, d: Tensor, sigma: float) -> Tensor:
        """See `Guide.log_value`; `offset` stands for what is already paid or never changes.

        Noise that is not Gaussian is seen through the Gaussian that stands in for it, and made up for at the end.
        """
        value = self._ahead(self.system.analyse(x), sigma) + self.offset
        if sigma > 0:
            return value
        return value + problem.likelihood.log_prob(x) - problem.likelihood.gaussian_log_prob(x)

    def kernel(self, problem: Problem, x: Tensor, d: Tensor, sigma: float, sigma_next: float) -> CoordinateKernel:
        """See `Guide.kernel`."""
        analyse = self.system.analyse
        return CoordinateKernel(analyse(x), analyse(d), self.tau >= sigma, self.system, (sigma_next / sigma) ** 2)

    def expect(self, problem: Problem, kernel: CoordinateKernel, now: Tensor, step: tuple[float, float]) -> Tensor:
        """See `Guide.expect`."""
        sigma, sigma_next = step
        ahead, passing = self._ahead_and_passing(step)
        ratio = torch.where(passing, self.tau / sigma, sigma_next / sigma) ** 2
        # At tau itself where that is passed in the step, else at sigma' and seen through psi'.
        variance = torch.where(passing, self.tau, sigma_next) ** 2 * (1 - ratio)
        variance = variance + torch.where(ahead, sigma_next**2 - self.tau**2, 0.0)
        return self._sum(_log_normal(self.y - kernel.towards(ratio), variance, ahead | passing)) + self.offset

    def draw(self, problem: Problem, kernel: CoordinateKernel, step: tuple[float, float], noise: PopulationNoise) -> Tensor:
        """See `Guide.draw`."""
        sigma_next = step[1]
        ahead, passing = self._ahead_and_passing(step)
        r, tau = kernel.r, torch.where(passing, self.tau, 1.0)
        mean = torch.where(passing, self.y + (1 - (sigma_next / tau) ** 2) * (kernel.d - self.y), kernel.towards(r))
        variance = sigma_next**2 * torch.where(passing, 1 - (sigma_next / tau) ** 2, 1 - r)
        apart = torch.where(ahead, sigma_next**2 - self.tau**2, torch.inf)
        share = torch.where(ahead, variance / (variance + apart), 0.0)
        c = mean + share * (self.y - mean) + ((1 - share) * variance).clamp_min(0).sqrt() * noise()
        return self.system.synthesise(c)

    def log_ratio(self, problem: Problem, kernel: CoordinateKernel, ahead: Tensor, step: tuple[float, float]) -> Tensor:
        """See `Guide.log_ratio`; q is p conditioned on psi'."""
        now = self._ahead(self.system.analyse(ahead), step[1]) + self.offset
        return self.expect(problem, kernel, now, step) - now

    def renoise(self, x: Tensor, sigma: float, above: float, noise: PopulationNoise) -> Tensor:
        """See `Guide.renoise`; coordinates whose value at tau_i > sigma is known go up by the bridge to it."""
        c = self.system.analyse(x)
        passed = self.seen & (self.tau > sigma)
        tau2 = torch.where(passed, self.tau, 2 * above) ** 2
        share = ((above**2 - sigma**2) / (tau2 - sigma**2)).clamp_max(1)
        bridge = c + share * (self.y - c)
        mean = torch.where(passed, bridge, c)
        left = (above**2 - tau2).abs()
        between = torch.where(tau2 > above**2, share * left, left)
        variance = torch.where(passed, between, above**2 - sigma**2)
        return self.system.synthesise(mean + variance.sqrt() * noise())

    def _ahead_and_passing(self, step: tuple[float, float]) -> tuple[Tensor, Tensor]:
        """Which coordinates are steered at sigma', and which pass their tau in the step."""
        return self.tau < step[1], (self.tau < step[0]) & (self.tau >= step[1])

    def _ahead(self, c: Tensor, sigma: float) -> Tensor:
        ahead = self.tau < sigma
        return self._sum(_log_normal(self.y - c, sigma**2 - self.tau**2, ahead))

    def _sum(self, terms: Tensor) -> Tensor:
        return terms.flatten(1).sum(1)


def _log_normal(off: Tensor, variance: Tensor, where: Tensor) -> Tensor:
    """log N(off; 0, variance) at the coordinates ``where``, 0 elsewhere."""
    variance = torch.where(where, variance, 1.0)
    return torch.where(where, -0.5 * (off.square() / variance + torch.log(2 * math.pi * variance)), 0.0)
