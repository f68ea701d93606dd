"""Guides: potentials psi_sigma that need no derivative of the network, and proposals drawn for them.

Particles at noise level sigma stand for p_sigma(x) psi_sigma(x). What a guide foresees of psi at the next level is
Gaussian, or its logarithm linear, so that proposals aim at it and their weights are known in closed form.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from posterior.guidance.linear import prior_mean
from posterior.priors.covariance import Covariance
from posterior.problem import Problem
from posterior.samplers.smc.core import PopulationNoise
from posterior.samplers.smc.kernels import Kernel, ModelKernel, reference_of, reply
from posterior.samplers.smc.measurements import Measurements, half_log_det, log_normal, positive, solve
from posterior.samplers.smc.outlook import Look, Outlook, mean_variance, typical_curvature
from posterior.samplers.smc.rejuvenation import renoise


class Guide(ABC):
    """A potential and its proposals, for one run."""

    def start(self, problem: Problem, sigma: float, noise: PopulationNoise) -> tuple[Tensor, Tensor]:
        """Particles at the first noise level and log(model density / proposal density), (N,)."""
        white = noise()
        return problem.noised_prior(white, sigma), white.new_zeros(len(white))

    @abstractmethod
    def log_value(self, problem: Problem, x: Tensor, d: Tensor, sigma: float) -> Tensor:
        """log psi_sigma of particles ``x`` (N, *event) with D(x, sigma) = ``d``, (N,); log p(y | x) at sigma = 0."""

    @abstractmethod
    def kernel(self, problem: Problem, x: Tensor, d: Tensor, sigma: float, sigma_next: float) -> Kernel:
        """The model's own move."""

    def expect(self, problem: Problem, kernel: Kernel, now: Tensor, step: tuple[float, float]) -> Tensor:
        """log E[psi' | x], (N,), where it can be foreseen; else ``now``, log psi of the present level."""
        return now

    @abstractmethod
    def draw(self, problem: Problem, kernel: Kernel, step: tuple[float, float], noise: PopulationNoise) -> Tensor:
        """Particles x' of the proposal q; ``step`` is (sigma, sigma')."""

    @abstractmethod
    def log_ratio(self, problem: Problem, kernel: Kernel, ahead: Tensor, step: tuple[float, float]) -> Tensor:
        """log p(x' | x) / q(x' | x) of x' = ``ahead``, (N,)."""

    def renoise(self, x: Tensor, sigma: float, above: float, noise: PopulationNoise) -> Tensor:
        """Particles noised from ``sigma`` up to ``above``: the way up of a rejuvenation move."""
        return renoise(x, sigma, above, noise)


class ReferenceGuide(Guide):
    """psi looks at the network's D(x), or at the D_C(x) of the reference Gaussian, which is linear in x."""

    def __init__(self, problem: Problem, gamma: float, denoised: bool) -> None:
        self.reference = reference_of(problem)
        self.gamma = gamma
        self.denoised = denoised

    def kernel(self, problem: Problem, x: Tensor, d: Tensor, sigma: float, sigma_next: float) -> ModelKernel:
        """See `Guide.kernel`."""
        kernel = ModelKernel.of(self.reference, x, d, sigma, sigma_next)
        if self.denoised or sigma_next == 0:
            return kernel
        return kernel.foreseeing(self.reference.denoise(kernel.mean, sigma_next))

    def seen(self, x: Tensor, d: Tensor, sigma: float) -> Tensor:
        """Where psi evaluates the likelihood."""
        return d if self.denoised else self.reference.denoise(x, sigma)

    def slope(self, problem: Problem, x: Tensor, sigma: float) -> Tensor:
        """Gradient of log psi_sigma at ``x``, where psi does not look at the network's D."""
        gain = reply(self.reference.covariance(problem.event_shape), sigma)
        return gain.apply(self.uphill(problem, self.reference.denoise(x, sigma), sigma))

    @abstractmethod
    def uphill(self, problem: Problem, seen: Tensor, sigma: float) -> Tensor:
        """Gradient of log psi_sigma by what it sees."""

    def spread(self, problem: Problem, sigma: float) -> Covariance:
        """gamma^2 C_sigma."""
        return self.reference.covariance(problem.event_shape).given(sigma).scaled(self.gamma**2)


class LinearGuide(ReferenceGuide):
    """psi_sigma = N(y; A D, R + gamma^2 A C_sigma A^T) for linear operators.

    With gamma = 1 this is p(y | x_sigma) were the prior the reference Gaussian. The proposal is the model's N(m, P)
    given y as it is foreseen, drawn by Matheron's rule: with V' the covariance of psi',

        p(x' | x) / q(x' | x) = N(y; A f, V' + A G P G A^T) / N(y; A (f + G (x' - m)), V').

    Matrices of the size of the data, factorised once a level for all particles.
    """

    def __init__(self, problem: Problem, gamma: float, denoised: bool) -> None:
        super().__init__(problem, gamma, denoised)
        self.data = Measurements.of(problem, matrix=True)
        self._roots: dict[tuple[float, ...], Tensor] = {}

    def start(self, problem: Problem, sigma: float, noise: PopulationNoise) -> tuple[Tensor, Tensor]:
        """See `Guide.start`; drawn from the noised reference Gaussian times psi."""
        cov, white = self.reference.covariance(problem.event_shape), noise()
        mean = prior_mean(problem, white, self.reference)
        kernel = ModelKernel(mean, cov.plus_white(sigma**2), mean, reply(cov, sigma), 0.0)
        x = self._draw(problem, kernel, white, (0.0, sigma), noise)
        return x, self.log_ratio(problem, kernel, x, (0.0, sigma))

    def log_value(self, problem: Problem, x: Tensor, d: Tensor, sigma: float) -> Tensor:
        """See `Guide.log_value`."""
        if sigma == 0:
            return problem.likelihood.log_prob(x)
        return self._log_normal(self.seen(x, d, sigma), self._root(problem, sigma))

    def expect(self, problem: Problem, kernel: ModelKernel, now: Tensor, step: tuple[float, float]) -> Tensor:
        """See `Guide.expect`."""
        return self._log_normal(kernel.foreseen, self._wide_root(problem, kernel, step))

    def draw(self, problem: Problem, kernel: ModelKernel, step: tuple[float, float], noise: PopulationNoise) -> Tensor:
        """See `Guide.draw`."""
        return self._draw(problem, kernel, noise(), step, noise)

    def log_ratio(self, problem: Problem, kernel: ModelKernel, ahead: Tensor, step: tuple[float, float]) -> Tensor:
        """See `Guide.log_ratio`."""
        foreseen = self._log_normal(kernel.foresee(ahead), self._root(problem, step[1]))
        return self.expect(problem, kernel, foreseen, step) - foreseen

    def uphill(self, problem: Problem, seen: Tensor, sigma: float) -> Tensor:
        """See `ReferenceGuide.uphill`."""
        return self.data.explain(self._root(problem, sigma), self.data.residual(seen)).reshape(seen.shape)

    def _draw(
        self, problem: Problem, kernel: ModelKernel, white: Tensor, step: tuple[float, float], noise: PopulationNoise
    ) -> Tensor:
        free = kernel.draw(white)
        eta = noise((len(self.data.y),)) @ self._root(problem, step[1]).T
        off = self.data.residual(kernel.foresee(free)) - eta
        update = self.data.explain(self._wide_root(problem, kernel, step), off).reshape(free.shape)
        return free + kernel.cov.apply(kernel.reply.apply(update))

    def _log_normal(self, mean: Tensor, root: Tensor) -> Tensor:
        return log_normal(solve(root, self.data.residual(mean)), half_log_det(root))

    def _root(self, problem: Problem, sigma: float) -> Tensor:
        """The factor of V."""
        return self._remembered(problem, (sigma,), self.spread(problem, sigma))

    def _wide_root(self, problem: Problem, kernel: ModelKernel, step: tuple[float, float]) -> Tensor:
        """The factor of V' + A G P G A^T; that of V where they are the same."""
        sigma, sigma_next = step
        after = self.spread(problem, sigma_next).eigenvalues
        wide = Covariance(kernel.cov.basis, after + kernel.reply.eigenvalues**2 * kernel.cov.eigenvalues)
        if sigma > 0 and torch.allclose(wide.eigenvalues, self.spread(problem, sigma).eigenvalues, rtol=1e-9, atol=0):
            return self._root(problem, sigma)
        return self._remembered(problem, step, wide)

    def _remembered(self, problem: Problem, key: tuple[float, ...], cov: Covariance) -> Tensor:
        if key not in self._roots:
            while len(self._roots) > 3:
                del self._roots[next(iter(self._roots))]
            self._roots[key] = self.data.covariance_root(cov, problem.event_shape)
        return self._roots[key]


class SteeredGuide(ReferenceGuide):
    """Proposals N(m + P^(1/2) s, P): the kernel's, its white noise shifted by s."""

    @abstractmethod
    def _shift(self, problem: Problem, kernel: ModelKernel, step: tuple[float, float]) -> Tensor:
        """s, where q centres the white noise of the kernel."""

    def draw(self, problem: Problem, kernel: ModelKernel, step: tuple[float, float], noise: PopulationNoise) -> Tensor:
        """See `Guide.draw`."""
        return kernel.draw(noise() + self._shift(problem, kernel, step))

    def log_ratio(self, problem: Problem, kernel: ModelKernel, ahead: Tensor, step: tuple[float, float]) -> Tensor:
        """See `Guide.log_ratio`."""
        # Directions without any variance have no noise to be recovered, and no shift either.
        z = kernel.cov.function(ahead - kernel.mean, lambda e: torch.where(e > 0, e.rsqrt(), 0.0))
        shift = self._shift(problem, kernel, step)
        return (0.5 * shift.square() - z * shift).flatten(1).sum(1)


class GradientGuide(SteeredGuide):
    """psi_sigma = p(y | D)^beta, beta = 1 / (1 + gamma^2 c lambda), for any likelihood with a ``log_prob``.

    c is the average variance of x0 given x in the reference Gaussian, and lambda what one measurement tells of x0, the
    80 % point of the curvature of log p(y | x0) over draws of it. For Gaussian noise this widens the variance R to
    R + gamma^2 c |dA|^2. The proposal is N(m + P g, P), g the gradient of the foreseen log psi' at m, cut back along
    itself where psi' is curved.
    """

    def __init__(self, problem: Problem, gamma: float, denoised: bool, probes: int) -> None:
        super().__init__(problem, gamma, denoised)
        self.curvature = typical_curvature(problem, probes)

    def log_value(self, problem: Problem, x: Tensor, d: Tensor, sigma: float) -> Tensor:
        """See `Guide.log_value`."""
        if sigma == 0:
            return problem.likelihood.log_prob(x)
        return self._beta(problem, sigma) * problem.likelihood.log_prob(self.seen(x, d, sigma))

    def uphill(self, problem: Problem, seen: Tensor, sigma: float) -> Tensor:
        """See `ReferenceGuide.uphill`; none off the support of p(y | x0)."""
        found = self._beta(problem, sigma) * problem.likelihood.gradient(seen)
        return torch.nan_to_num(found, nan=0.0, posinf=0.0, neginf=0.0)

    def _beta(self, problem: Problem, sigma: float) -> float:
        return 1 / (1 + self.curvature * self.spread(problem, sigma).mean_variance)

    def _shift(self, problem: Problem, kernel: ModelKernel, step: tuple[float, float]) -> Tensor:
        """See `SteeredGuide._shift`."""

        def slope(z: Tensor) -> Tensor:
            found = self.uphill(problem, kernel.foresee(kernel.draw(z)), step[1])
            return kernel.cov.sqrt(kernel.reply.apply(found))

        first = slope(torch.zeros_like(kernel.mean))
        size = positive(first.flatten(1).square().sum(1))
        bend = ((first - slope(first)) * first).flatten(1).sum(1) / size
        return first / (1 + bend.clamp_min(0)).reshape(-1, *[1] * (first.ndim - 1))


class OutlookGuide(SteeredGuide):
    """psi_sigma is an `Outlook`: for operators that are not linear, and few data.

    The proposal is that of `GradientGuide`, the gradient taken at the present level and cut back by the curvature of a
    Gaussian with the outlook's lines: what was worked out for the weight of a particle also steers it.
    """

    def __init__(self, problem: Problem, gamma: float, denoised: bool) -> None:
        super().__init__(problem, gamma, denoised)
        self.outlook = Outlook(problem, gamma)
        self._last: tuple[Tensor, float, Look] | None = None

    def log_value(self, problem: Problem, x: Tensor, d: Tensor, sigma: float) -> Tensor:
        """See `Guide.log_value`."""
        if sigma == 0:
            return problem.likelihood.log_prob(x)
        return self._look(problem, self.seen(x, d, sigma), sigma).log_value

    def uphill(self, problem: Problem, seen: Tensor, sigma: float) -> Tensor:
        """See `ReferenceGuide.uphill`."""
        return self._look(problem, seen, sigma).uphill.reshape(seen.shape)

    def _shift(self, problem: Problem, kernel: ModelKernel, step: tuple[float, float]) -> Tensor:
        """See `SteeredGuide._shift`."""
        look = self._look(problem, kernel.foreseen, step[0])
        first = kernel.cov.sqrt(kernel.reply.apply(look.uphill.reshape(kernel.mean.shape)))
        moved = (look.rows @ kernel.reply.apply(kernel.cov.sqrt(first)).flatten(1)[:, :, None])[..., 0]
        wide = mean_variance(problem, step[0]) * look.rows @ look.rows.mT + torch.diag_embed(look.noise)
        bend = solve(torch.linalg.cholesky(wide), moved).square().sum(1)
        size = positive(first.flatten(1).square().sum(1))
        return first / (1 + bend / size).reshape(-1, *[1] * (first.ndim - 1))

    def _look(self, problem: Problem, seen: Tensor, sigma: float) -> Look:
        if self._last is None or self._last[0] is not seen or self._last[1] != sigma:
            self._last = seen, sigma, self.outlook.look(problem, seen, sigma)
        return self._last[2]
