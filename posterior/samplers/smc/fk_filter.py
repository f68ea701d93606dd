"""The auxiliary particle filter of MCG-diff, for linear operators."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from functools import partial

import torch
from torch import Tensor

from posterior.guidance.linear import prior_mean
from posterior.priors.covariance import Covariance
from posterior.problem import Problem
from posterior.samplers.smc.core import PopulationNoise
from posterior.samplers.smc.guided import GuidedParticles
from posterior.samplers.smc.guides import Guide
from posterior.samplers.smc.kernels import ModelKernel, reference_of, reply
from posterior.samplers.smc.measurements import LARGEST_DENSE, half_log_det, log_normal, solve, solve_transposed
from posterior.svd import singular_system

# Steps whose matrices are kept: that of the move and that of the rejuvenation are one.
KEPT = 2


@dataclass(frozen=True)
class FKFilter(GuidedParticles):
    """Particles that are filtered by a pseudo-observation of every singular coordinate, exact as particles and steps grow.

    With A = U diag(s) V^T whitened by the noise, coordinate i of the data is x0_i + tau_i n, tau_i = 1 / s_i: the value
    of the noised field's coordinate at noise level tau_i. At tau_i the coordinate takes the value y_i; below it moves freely.
    While sigma > tau_i particles are steered towards it by

        psi(x) = N(y; E[Y | x], Cov[Y | x]),    Y_i = rho_i x_i + (1 - rho_i) x0_i + tau_i sqrt(1 - rho_i) n,

    rho_i = (tau_i / sigma)^2, the law of all those values together were x0 given x the Gaussian N(D(x), C_sigma) of the
    prior's reference. The proposal is the model's move conditioned on them, in closed form, so that weights change by what the
    network says that a Gaussian would not, and resampling looks ahead. Data noisier than the first level (tau_i above it,
    whatever the gain) are used in the first draw. One network call a step, no vector-Jacobian products.

    From the paper: the coordinates, the levels at which their values are met, the filter that looks ahead. Its psi is
    N(y_i; x_i, sigma^2 - tau_i^2), the law of getting from y_i at tau_i to x_i at sigma. That leaves the prior out: modes that
    have come apart wait until sigma falls to tau_i for what the data say of them, and one that few particles are in by then is
    lost. Its small variance at tau_i (kappa) is not needed: coordinates reach tau_i inside a step, by the bridge, and exactly.

    Args:
        steps: Steps from the first noise level to 0.

    Other arguments:
        corrected: Whether moves keep the variance of x0 given x, at no cost (see `GuidedParticles`).
        ess_threshold, resampling, rejuvenation, genealogy, schedule, sigma_max, sigma_min, particles_per_draw: See
            `ParticleSampler`. A rejuvenation move costs two network calls.

    Raises:
        ValueError: If an argument is out of range, the operator is not linear, is too large to be decomposed, or has more than
            1024 singular values.

    References:
        Cardoso, Janati El Idrissi, Le Corff, Moulines. Monte Carlo guided denoising diffusion models for Bayesian linear
        inverse problems. ICLR 2024. arXiv:2308.07983.
    """

    steps: int = 200
    _: KW_ONLY
    ess_threshold: float = 0.9
    rejuvenation: int = 1

    def _guide(self, problem: Problem) -> Guide:
        if not problem.likelihood.model.linear:
            raise ValueError("FKFilter: takes linear operators only; use TDS or AFDPS")
        return PseudoObservations(problem)


@dataclass(frozen=True)
class PinnedKernel(ModelKernel):
    """The model's own move, of particles some of whose coordinates are on their way to a value.

    Args:
        now: Singular coordinates of x, (N, m).
        free: What leaves a field but for those that are still on their way after the move.
    """

    now: Tensor
    free: Callable[[Tensor], Tensor]

    def correct(self, ahead: Tensor, d: Tensor, d_ahead: Tensor) -> Tensor:
        """See `Kernel.correct`; only what moves freely, so that pseudo-observations stay satisfied."""
        return ahead + self.free(super().correct(ahead, d, d_ahead) - ahead)


@dataclass(frozen=True)
class Sight:
    """The values Y of k coordinates given x' of a move from x at sigma, or of x' alone where sigma is infinite.

        Y = a x' + b D' + e x + noise,    D' = f + G (x' - m).

    Args:
        a, b, e: (k,).
        lift: Cov[x', Y | x], (n, k).
        root: Factor of Cov[Y | x], (k, k).
        own: Standard deviations of the noise but for what x0 adds to it, (k,).
    """

    a: Tensor
    b: Tensor
    e: Tensor
    lift: Tensor
    root: Tensor
    own: Tensor


class PseudoObservations(Guide):
    """The potential of `FKFilter`; weights are paid when tau_i is passed, and y_i is no part of psi from then on.

    Attributes:
        rows: Vectors of the coordinates that are seen, (m, n), by rising tau.
        tau: Their noise levels, (m,).
        y: Their values, (m,).
        order: Which of all coordinates they are, (m,).
    """

    def __init__(self, problem: Problem) -> None:
        self.system = system = singular_system(problem, "FKFilter")
        gains = system.gains.flatten()
        self.order = order = gains.argsort(descending=True)[: int((gains > 0).sum())]
        if len(order) > LARGEST_DENSE:
            raise ValueError(
                f"FKFilter: operator {type(problem.likelihood.model.physics).__name__} has {len(order)} singular values, whose "
                f"covariance is a matrix, and at most {LARGEST_DENSE} are taken; use a sampler without particles "
                "(MMPS, GaussianBridge)"
            )
        unit = torch.eye(len(order), dtype=gains.dtype, device=gains.device)
        self.rows = self._field(unit, order, system.gains).flatten(1)
        self.tau = 1 / gains[order]
        self.y = system.solution.flatten()[order]
        self.reference = reference_of(problem)
        self._roots: dict[float, Tensor] = {}
        self._sights: dict[tuple[float, float], Sight] = {}
        # log p(y | x0) = offset + sum_i log N(y_i; x0_i, tau_i^2): what no field can explain, and the change of units.
        at_zero = problem.likelihood.gaussian_log_prob(gains.new_zeros(1, *problem.event_shape))
        self.offset = float(at_zero) - float(log_normal((self.y / self.tau)[None], self.tau.log().sum()))

    def start(self, problem: Problem, sigma: float, noise: PopulationNoise) -> tuple[Tensor, Tensor]:
        """See `Guide.start`; the noised reference Gaussian, conditioned on every pseudo-observation."""
        cov, white = self.reference.covariance(problem.event_shape), noise()
        mean = prior_mean(problem, white, self.reference)
        wide, answer = cov.plus_white(sigma**2), reply(cov, sigma)
        kernel = PinnedKernel(mean, wide, mean, answer, 0.0, white.new_zeros(len(white), len(self.y)), torch.zeros_like)
        x = self._draw(problem, kernel, white, (math.inf, sigma), noise)
        return x, self.log_ratio(problem, kernel, x, (math.inf, sigma))

    def log_value(self, problem: Problem, x: Tensor, d: Tensor, sigma: float) -> Tensor:
        """See `Guide.log_value`; `offset` stands for what is already paid or never changes.

        Noise that is not Gaussian is seen through the Gaussian that stands in for it, and made up for at the end.
        """
        if sigma == 0:
            return self.offset + problem.likelihood.log_prob(x) - problem.likelihood.gaussian_log_prob(x)
        return self._log_ahead(problem, self._analyse(x), self._analyse(d), sigma)

    def kernel(self, problem: Problem, x: Tensor, d: Tensor, sigma: float, sigma_next: float) -> PinnedKernel:
        """See `Guide.kernel`."""
        move = ModelKernel.of(self.reference, x, d, sigma, sigma_next)
        free = partial(self._free, pinned=self._count(sigma_next))
        return PinnedKernel(move.mean, move.cov, move.foreseen, move.reply, move.r, self._analyse(x), free)

    def expect(self, problem: Problem, kernel: PinnedKernel, now: Tensor, step: tuple[float, float]) -> Tensor:
        """See `Guide.expect`."""
        sight = self._sight(problem, kernel, step)
        off = self.y[: len(sight.a)] - self._told(kernel, sight, kernel.mean, kernel.foreseen)
        return log_normal(solve(sight.root, off), half_log_det(sight.root)) + self.offset

    def draw(self, problem: Problem, kernel: PinnedKernel, step: tuple[float, float], noise: PopulationNoise) -> Tensor:
        """See `Guide.draw`; by Matheron's rule."""
        return self._draw(problem, kernel, noise(), step, noise)

    def log_ratio(self, problem: Problem, kernel: PinnedKernel, ahead: Tensor, step: tuple[float, float]) -> Tensor:
        """See `Guide.log_ratio`; q is p conditioned on the values of all coordinates with tau below sigma."""
        seen, foreseen = self._analyse(ahead), self._analyse(kernel.foresee(ahead))
        return self.expect(problem, kernel, seen, step) - self._log_ahead(problem, seen, foreseen, step[1])

    def renoise(self, x: Tensor, sigma: float, above: float, noise: PopulationNoise) -> Tensor:
        """See `Guide.renoise`; coordinates whose value at tau_i > sigma is known go up by the bridge to it."""
        white = math.sqrt(above**2 - sigma**2) * noise()
        first = self._count(sigma)
        y, tau2 = self.y[first:], self.tau[first:] ** 2
        c, z = self._analyse(x)[:, first:], self._analyse(white)[:, first:]
        share = ((above**2 - sigma**2) / (tau2 - sigma**2)).clamp_max(1)
        left = (above**2 - tau2).abs()
        variance = torch.where(tau2 > above**2, share * left, left)
        shift = share * (y - c) + (variance.sqrt() / math.sqrt(above**2 - sigma**2) - 1) * z
        return x + white + self._field(shift, self.order[first:], x)

    def _draw(
        self, problem: Problem, kernel: PinnedKernel, white: Tensor, step: tuple[float, float], noise: PopulationNoise
    ) -> Tensor:
        sight = self._sight(problem, kernel, step)
        free = kernel.draw(white)
        # Noise belongs to coordinates whatever their order: rounding decides it where gains are equal.
        k = len(sight.a)
        eta = sight.own * noise().flatten(1)[:, self.order[:k]]
        if self._count(step[1]) > 0:
            inside = self.reference.error_covariance(problem.event_shape, step[1]).sqrt(noise())
            eta = eta + sight.b * self._analyse(inside, k)
        off = self.y[:k] - self._told(kernel, sight, free, kernel.foresee(free)) - eta
        update = solve_transposed(sight.root, solve(sight.root, off)) @ sight.lift.T
        return free + update.reshape(free.shape)

    def _told(self, kernel: PinnedKernel, sight: Sight, ahead: Tensor, d_ahead: Tensor) -> Tensor:
        """E[Y | x', x], (N, k)."""
        k = len(sight.a)
        return sight.a * self._analyse(ahead, k) + sight.b * self._analyse(d_ahead, k) + sight.e * kernel.now[:, :k]

    def _log_ahead(self, problem: Problem, c: Tensor, d: Tensor, sigma: float) -> Tensor:
        """log psi of coordinates ``c`` and ``d`` of x and D, (N,)."""
        root = self._root(problem, sigma)
        k = len(root)
        rho = (self.tau[:k] / sigma) ** 2
        off = self.y[:k] - rho * c[:, :k] - (1 - rho) * d[:, :k]
        return log_normal(solve(root, off), half_log_det(root)) + self.offset

    def _root(self, problem: Problem, sigma: float) -> Tensor:
        """Factor of Cov[Y | x], (k, k), of the k coordinates with tau below ``sigma``."""
        if sigma not in self._roots:
            rows = self.rows[: self._count(sigma)]
            told = 1 - (self.tau[: len(rows)] / sigma) ** 2
            seen = told[:, None] * rows
            spread = _quadratic(_apply(self.reference.error_covariance(problem.event_shape, sigma), seen, problem), seen)
            _forget(self._roots, 2 * KEPT)
            self._roots[sigma] = torch.linalg.cholesky(spread + torch.diag(self.tau[: len(rows)] ** 2 * told))
        return self._roots[sigma]

    def _sight(self, problem: Problem, kernel: PinnedKernel, step: tuple[float, float]) -> Sight:
        if step not in self._sights:
            sigma, sigma_next = step
            k, ahead = self._count(sigma), self._count(sigma_next)
            rows, tau2 = self.rows[:k], self.tau[:k] ** 2
            is_ahead = torch.arange(k, device=tau2.device) < ahead
            # Between sigma' and sigma the coordinate is a Brownian bridge.
            near = torch.ones_like(tau2) if sigma == math.inf else (sigma**2 - tau2) / (sigma**2 - sigma_next**2)
            rho = tau2 / sigma_next**2 if sigma_next > 0 else tau2
            a, b = torch.where(is_ahead, rho, near), torch.where(is_ahead, 1 - rho, 0.0)
            seen = a[:, None] * rows + b[:, None] * _apply(kernel.reply, rows, problem)
            lifted = _apply(kernel.cov, seen, problem)
            own = torch.where(is_ahead, tau2 * b, (tau2 - sigma_next**2) * near).clamp_min(0)
            root = self._root(problem, sigma_next)
            noise = torch.block_diag(root @ root.T, torch.diag(own[ahead:]))
            wide = torch.linalg.cholesky(_quadratic(lifted, seen) + noise)
            _forget(self._sights, KEPT)
            e = torch.where(is_ahead, 0.0, 1 - near)
            self._sights[step] = Sight(a, b, e, lifted.T, wide, own.sqrt())
        return self._sights[step]

    def _analyse(self, x: Tensor, k: int | None = None) -> Tensor:
        """The first ``k`` coordinates, all where None, of fields: (N, k)."""
        return self.system.analyse(x).flatten(1)[:, self.order[:k]]

    def _field(self, c: Tensor, order: Tensor, like: Tensor) -> Tensor:
        """The fields of some coordinates ``c`` (N, k), those of ``order``."""
        full = c.new_zeros(len(c), like[0].numel())
        full[:, order] = c
        return self.system.synthesise(full.reshape(-1, *like.shape[1:]))

    def _free(self, x: Tensor, pinned: int) -> Tensor:
        """Fields without their first coordinates."""
        return x - self._field(self._analyse(x, pinned), self.order[:pinned], x)

    def _count(self, sigma: float) -> int:
        """How many coordinates have their tau below ``sigma``."""
        return int((self.tau < sigma).sum())


def _apply(cov: Covariance, rows: Tensor, problem: Problem) -> Tensor:
    """R C; there may be no rows, which a Fourier transform does not take."""
    return cov.apply(rows.reshape(-1, *problem.event_shape)).flatten(1) if len(rows) else rows


def _quadratic(applied: Tensor, rows: Tensor) -> Tensor:
    """R C R^T from C R^T, made symmetric."""
    found = rows @ applied.T
    return (found + found.T) / 2


def _forget(kept: dict, most: int) -> None:
    while len(kept) >= most:
        del kept[next(iter(kept))]
