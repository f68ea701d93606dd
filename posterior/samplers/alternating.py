"""What methods are made of that alternate between the prior and the data: a step of each, exact where it can be."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from posterior.guidance.bridge import SINGLE_TOLERANCE
from posterior.guidance.linear import gaussian_draw
from posterior.guidance.solves import information_operator
from posterior.integrators import Denoiser, Estimate, Integrator, Noise
from posterior.likelihoods import Linearisation
from posterior.linalg import dot, norm
from posterior.priors.covariance import isotropic
from posterior.problem import Problem, pilot_noise
from posterior.schedules import Schedule


@dataclass(frozen=True)
class DataStep:
    """How fields are drawn that are N(mean, r^2 I) without the data, given the data.

    Exact for linear operators and Gaussian noise, by a linear solve; any other noise law is replaced by the Gaussian that
    stands in for it, `StandardLikelihood.variance`. For other operators approximate: the operator is linearised at
    ``mean`` for a first draw, and Langevin moves follow that without data would leave N(mean, r^2 I) as it is,

        x' = mean + a (x - mean) + (1 - a) r^2 grad log p(y | x) + r sqrt(1 - a^2) z,    a = (1 - q) / (1 + q),

    with q = min(1, step / (r^2 k)), k the largest curvature ||R^(-1/2) J g||^2 / ||g||^2 along the gradients g that the
    draw has met so far. Where the log-likelihood is quadratic with curvature k' the moves are stable for
    step < k / k', and too wide by a factor 1 / (1 - q r^2 k') in variance: 1 / (1 - step) at most where k has found
    the largest curvature. Directions of less curvature than about k / (2 step langevin) hardly move, and keep the
    linearised draw.

    Args:
        iterations: Conjugate-gradient iterations at most, in units of r.
        tolerance: They stop once x0 is right to this many r, root-mean-square; in float32 at 5e-3 or this, whichever
            is larger.
        langevin: Langevin moves, for operators that are not linear.
        step: Their size, 0 to 1.

    Raises:
        ValueError: If an argument is out of range.
    """

    iterations: int = 200
    tolerance: float = 1e-3
    langevin: int = 50
    step: float = 0.1

    def __post_init__(self) -> None:
        for name in ("iterations", "langevin"):
            if getattr(self, name) < 1:
                raise ValueError(f"DataStep: {name} must be at least 1, got {getattr(self, name)}")
        if not self.tolerance > 0:
            raise ValueError(f"DataStep: tolerance must be positive, got {self.tolerance}")
        if not 0 < self.step < 1:
            raise ValueError(f"DataStep: step must be between 0 and 1, got {self.step}")

    def draw(self, problem: Problem, mean: Tensor, r: float, noise: Noise) -> Tensor:
        """Draws of N(x0; mean, r^2 I) p(y | x0), one for each of the fields ``mean`` (B, *event)."""
        model = problem.likelihood.model
        lin, cov, tolerance = model.linearise(mean), isotropic(r**2), self._tolerance(mean)
        x = gaussian_draw(problem, (self, r), lin, mean, cov, noise(), noise, self.iterations, tolerance)
        return x if model.linear else self._langevin(problem, x, mean, r, noise)

    def _tolerance(self, fields: Tensor) -> float:
        return self.tolerance if fields.dtype == torch.float64 else max(self.tolerance, SINGLE_TOLERANCE)

    def _langevin(self, problem: Problem, x: Tensor, mean: Tensor, r: float, noise: Noise) -> Tensor:
        largest = torch.zeros_like(dot(x, x))
        for _ in range(self.langevin):
            lin = problem.likelihood.model.linearise(x)
            uphill = likelihood_gradient(problem, lin)
            largest = torch.maximum(largest, _curvature(problem, lin, uphill))
            q = self.step / (r**2 * largest).clamp_min(self.step)
            # 1 - a and 1 - a^2, which are nothing in float32 where q is small and a is cast.
            back, fresh = (2 * q / (1 + q)).to(x.dtype), (2 * q.sqrt() / (1 + q)).to(x.dtype)
            x = x + back * (mean - x + r**2 * uphill) + r * fresh * noise()
        return x


def likelihood_gradient(problem: Problem, lin: Linearisation) -> Tensor:
    """Gradient of log p(y | x0) in x0, A^T R^-1 (y - A(x0)), where the operator was linearised; (B, *event)."""
    like = problem.likelihood
    return lin.vjp(like.reach / like.variance * (like.y - lin.prediction))


def _curvature(problem: Problem, lin: Linearisation, g: Tensor) -> Tensor:
    """||R^(-1/2) J g||^2 / ||g||^2 of each field, as a column."""
    like = problem.likelihood
    seen, g = lin.jvp(g).double(), g.double()  # squares of float32 overflow or vanish where units are far from one
    size = dot(like.reach / like.variance * seen, seen).flatten()
    return (size / dot(g, g).flatten().clamp_min(1e-300)).reshape(-1, *[1] * (g.ndim - 1))


def information_norm(problem: Problem, like: Tensor, iterations: int = 30) -> float:
    """Largest eigenvalue of A^T R^-1 A: how fast data pull at standardised fields, in units of one over them squared.

    Found once for all draws, by power iteration, which errs on the small side by a few per cent at most; an operator
    that is not linear is linearised at one draw of the noised prior, see `Problem.noised_prior`.

    Args:
        problem: Prior and likelihood.
        like: A tensor whose precision and device are used.
        iterations: Of the power iteration.

    Raises:
        ValueError: If the operator sees nothing.
    """
    if "information norm" not in problem.memo:
        likelihood = problem.likelihood
        typical = problem.noised_prior(pilot_noise(problem.event_shape, like), 0.0)
        information = information_operator(likelihood, likelihood.model.linearise(typical))
        v = pilot_noise(problem.event_shape, like, seed=1)
        size = norm(v.double())  # squares of float32 overflow where units are small
        for _ in range(iterations):
            v = information(v / size.clamp_min(1e-300).to(v.dtype))
            size = norm(v.double())
        if not float(size) > 0:
            raise ValueError("likelihood: the operator maps a typical field to nothing, so the data say nothing of it")
        problem.memo["information norm"] = float(size)
    return problem.memo["information norm"]


def prior_denoiser(problem: Problem) -> Denoiser:
    """The prior's own denoiser, without data; it can draw x0 given x where the prior carries a reference Gaussian."""
    reference = problem.prior.reference

    def denoise(x: Tensor, sigma: float, step: tuple[float, float]) -> Estimate:
        mean = problem.denoise(x, sigma)
        if reference is None:
            return Estimate(mean)
        cov = reference.error_covariance(problem.event_shape, sigma)
        return Estimate(mean, lambda noise: mean + cov.sqrt(noise()))

    return denoise


def prior_step(
    problem: Problem, x: Tensor, sigma: float, integrator: Integrator, schedule: Schedule, steps: int, noise: Noise
) -> Tensor:
    """x0 of the prior given fields ``x`` at noise level ``sigma``: ``steps`` steps of an integrator down to 0.

    The last noise level before 0 is the prior's ``sigma_min``, or half of ``sigma`` where that is less.
    """
    levels = schedule(steps, sigma, min(problem.prior.sigma_min, sigma / 2))
    denoiser, memory = prior_denoiser(problem), None
    for level, following in pairwise(levels):
        x, memory = integrator.step(denoiser, x, level, following, noise, memory)
    return x
