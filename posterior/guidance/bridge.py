"""Guidance by the covariance of a reference Gaussian, which can also be drawn from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from posterior.guidance.base import Guidance
from posterior.integrators import Estimate, Noise
from posterior.likelihoods import Linearisation, StandardLikelihood
from posterior.linalg import cg
from posterior.priors.covariance import Covariance
from posterior.problem import Problem


@dataclass(frozen=True)
class BridgeGuidance(Guidance):
    """p(x0 | x) is taken to be N(D, C_s), C_s the average covariance of x0 given x_sigma that the prior carries.

    A draw of x0 given x and y follows by Matheron's rule, without a backward pass: with xi ~ N(0, C_s), eta ~ N(0, R),

        x0 = D + xi + C_s A^T (A C_s A^T + R)^-1 (y - A(D + xi) - eta).

    Exact at any number of steps where the prior is Gaussian. Nonlinear operators are linearised at D.

    Args:
        iterations: Conjugate-gradient iterations at most, in coordinates in which C_s is the identity.
        tolerance: Relative residual at which they stop.

    Raises:
        ValueError: If the prior carries no reference Gaussian.
    """

    iterations: int = 60
    tolerance: float = 1e-3

    def start(self, problem: Problem, sigma: float, noise: Noise) -> Tensor:
        """A draw of the reference Gaussian's own posterior, noised: right at any ``sigma`` where the prior is Gaussian."""
        reference = _reference(problem)
        prior_mean = reference.mean(problem.event_shape)
        cov = reference.covariance(problem.event_shape)
        white = noise()
        mean = prior_mean.to(white).expand_as(white) if isinstance(prior_mean, Tensor) else torch.full_like(white, prior_mean)
        lin = problem.likelihood.model.linearise(mean)
        return self._draw(problem.likelihood, lin, mean, cov, white, noise) + sigma * noise()

    def __call__(self, problem: Problem, x: Tensor, sigma: float, step: tuple[float, float]) -> Estimate:
        """See `Guidance.__call__`."""
        like = problem.likelihood
        cov = _reference(problem).error_covariance(problem.event_shape, sigma)
        d = problem.denoise(x, sigma)
        lin = like.model.linearise(d)

        def mean() -> Tensor:
            return d + self._gain(like, lin, cov, like.y - lin.prediction)

        def draw(noise: Noise) -> Tensor:
            return self._draw(like, lin, d, cov, noise(), noise)

        return Estimate(mean, draw)

    def _draw(
        self, like: StandardLikelihood, lin: Linearisation, d: Tensor, cov: Covariance, white: Tensor, noise: Noise
    ) -> Tensor:
        xi = cov.sqrt(white)
        eta = like.variance.sqrt() * noise(tuple(like.y.shape[1:]))
        return d + xi + self._gain(like, lin, cov, like.y - lin.prediction - lin.jvp(xi) - eta)

    def _gain(self, like: StandardLikelihood, lin: Linearisation, cov: Covariance, residual: Tensor) -> Tensor:
        """C A^T (A C A^T + R)^-1 residual, as C^(1/2) (I + C^(1/2) A^T R^-1 A C^(1/2))^-1 C^(1/2) A^T R^-1 residual."""
        precision = like.reach / like.variance
        information = information_operator(like, lin, precision)

        def system(w: Tensor) -> Tensor:
            return w + cov.sqrt(information(cov.sqrt(w)))

        right = cov.sqrt(lin.vjp(precision * residual))
        return cov.sqrt(cg(system, right, iterations=self.iterations, tolerance=self.tolerance))


def information_operator(
    like: StandardLikelihood, lin: Linearisation, precision: Tensor
) -> Callable[[Tensor], Tensor]:
    """v -> A^T R^-1 A v, through the operator's own normal map where the noise is white."""
    white = bool((like.variance == like.variance.flatten()[0]).all())
    if like.model.linear and white:
        scale = 1 / float(like.variance.flatten()[0])
        return lambda v: scale * like.model.normal(v)
    return lambda v: lin.vjp(precision * lin.jvp(v))


def _reference(problem: Problem):  # noqa: ANN202
    if problem.prior.reference is None:
        raise ValueError(f"GaussianBridge: prior '{problem.prior.name}' carries no reference Gaussian")
    return problem.prior.reference
