"""Guidance by the covariance of a reference Gaussian, which can also be drawn from."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import torch
from torch import Tensor

from posterior.guidance.base import Guidance
from posterior.guidance.linear import gaussian_update
from posterior.integrators import Estimate, Noise
from posterior.likelihoods import Linearisation
from posterior.priors.covariance import Covariance
from posterior.priors.reference import Reference
from posterior.problem import Problem

SINGLE_TOLERANCE = 5e-3


@dataclass(frozen=True)
class BridgeGuidance(Guidance):
    """p(x0 | x) is taken to be N(D, C_s), C_s the average covariance of x0 given x_sigma that the prior carries.

    A draw of x0 given x and y follows by Matheron's rule, without a backward pass: with xi ~ N(0, C_s), eta ~ N(0, R),

        x0 = D + xi + C_s A^T (A C_s A^T + R)^-1 (y - A(D + xi) - eta).

    Exact at any number of steps where the prior is Gaussian. Nonlinear operators are linearised at D.

    Args:
        iterations: Conjugate-gradient iterations at most, in coordinates in which C_s is the identity.
        tolerance: They stop once x0 is right to this many standard deviations of C_s, root-mean-square; in float32,
            whose rounding goes no further, at 5e-3 or this, whichever is larger.

    Raises:
        ValueError: If the prior carries no reference Gaussian.
    """

    iterations: int = 200
    tolerance: float = 1e-3

    def start(self, problem: Problem, sigma: float, noise: Noise) -> Tensor:
        """A draw of the reference Gaussian's own posterior, noised: right at any ``sigma`` where the prior is Gaussian."""
        reference = _reference(problem)
        prior_mean = reference.mean(problem.event_shape)
        cov = reference.covariance(problem.event_shape)
        white = noise()
        mean = prior_mean.to(white).expand_as(white) if isinstance(prior_mean, Tensor) else torch.full_like(white, prior_mean)
        lin = problem.likelihood.model.linearise(mean)
        return self._draw(problem, "start", lin, mean, cov, white, noise) + sigma * noise()

    def __call__(self, problem: Problem, x: Tensor, sigma: float, step: tuple[float, float]) -> Estimate:
        """See `Guidance.__call__`."""
        like = problem.likelihood
        cov = _reference(problem).error_covariance(problem.event_shape, sigma)
        d = problem.denoise(x, sigma)
        lin = like.model.linearise(d)

        def mean() -> Tensor:
            return d + self._update(problem, sigma, lin, cov, like.y - lin.prediction)

        def draw(noise: Noise) -> Tensor:
            return self._draw(problem, sigma, lin, d, cov, noise(), noise)

        return Estimate(mean, draw)

    def _draw(
        self,
        problem: Problem,
        key: Hashable,
        lin: Linearisation,
        d: Tensor,
        cov: Covariance,
        white: Tensor,
        noise: Noise,
    ) -> Tensor:
        like = problem.likelihood
        xi = cov.sqrt(white)
        eta = like.variance.sqrt() * noise(tuple(like.y.shape[1:]))
        return d + xi + self._update(problem, key, lin, cov, like.y - lin.prediction - lin.jvp(xi) - eta)

    def _update(self, problem: Problem, key: Hashable, lin: Linearisation, cov: Covariance, residual: Tensor) -> Tensor:
        tolerance = self.tolerance if residual.dtype == torch.float64 else max(self.tolerance, SINGLE_TOLERANCE)
        # The start is noised at once, which drowns what a rough solve leaves.
        tolerance *= 5 if key == "start" else 1
        return gaussian_update(problem, (key, self), lin, cov, residual, self.iterations, tolerance)


def _reference(problem: Problem) -> Reference:
    if problem.prior.reference is None:
        raise ValueError(f"GaussianBridge: prior '{problem.prior.name}' carries no reference Gaussian")
    return problem.prior.reference
