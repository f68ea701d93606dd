"""Guidance by the covariance of a reference Gaussian, which can also be drawn from."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import torch
from torch import Tensor

from posterior.guidance.base import Guidance
from posterior.guidance.linear import gaussian_draw, gaussian_update, prior_mean
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
        cov = _reference(problem).covariance(problem.event_shape)
        white = noise()
        mean = prior_mean(problem, white)
        lin = problem.likelihood.model.linearise(mean)
        return self._draw(problem, "start", lin, mean, cov, white, noise) + sigma * noise()

    def __call__(self, problem: Problem, x: Tensor, sigma: float, step: tuple[float, float]) -> Estimate:
        """See `Guidance.__call__`."""
        like = problem.likelihood
        cov = _reference(problem).error_covariance(problem.event_shape, sigma)
        d = problem.denoise(x, sigma)
        lin = like.model.linearise(d)

        def mean() -> Tensor:
            tolerance = self._tolerance(sigma, d)
            return d + gaussian_update(problem, (sigma, self), lin, cov, like.y - lin.prediction, self.iterations, tolerance)

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
        tolerance = self._tolerance(key, d)
        return gaussian_draw(problem, (key, self), lin, d, cov, white, noise, self.iterations, tolerance)

    def _tolerance(self, key: Hashable, fields: Tensor) -> float:
        tolerance = self.tolerance if fields.dtype == torch.float64 else max(self.tolerance, SINGLE_TOLERANCE)
        # The start is noised at once, which drowns what a rough solve leaves.
        return tolerance * (5 if key == "start" else 1)


def _reference(problem: Problem) -> Reference:
    if problem.prior.reference is None:
        raise ValueError(f"GaussianBridge: prior '{problem.prior.name}' carries no reference Gaussian")
    return problem.prior.reference
