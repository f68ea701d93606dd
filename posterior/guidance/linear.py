"""The linear-Gaussian update: what data add to a Gaussian with a known covariance."""

from __future__ import annotations

from collections.abc import Callable, Hashable

import torch
from torch import Tensor

from posterior.guidance.solves import explain
from posterior.integrators import Noise
from posterior.likelihoods import Linearisation
from posterior.priors.covariance import Covariance, ScaledCovariance
from posterior.priors.reference import Reference
from posterior.problem import Problem

Refine = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def gaussian_draw(
    problem: Problem,
    key: Hashable,
    lin: Linearisation,
    mean: Tensor,
    cov: Covariance | ScaledCovariance,
    white: Tensor,
    noise: Noise,
    iterations: int,
    tolerance: float,
    *,
    prediction: Tensor | None = None,
    variance: Tensor | None = None,
    refine: Refine | None = None,
) -> Tensor:
    """A draw of x0 ~ N(mean, C) given the data, by Matheron's rule: with xi ~ N(0, C), eta ~ N(0, R),

        x0 = mean + xi + C A^T (A C A^T + R)^-1 (y - A(mean) - A xi - eta).

    Args:
        problem: Prior and likelihood.
        key: See `explain`.
        lin: The operator, near ``mean``.
        mean: Fields (B, *event).
        cov: C.
        white: White noise (B, *event), which becomes xi.
        noise: Source of the noise that becomes eta.
        iterations: See `explain`.
        tolerance: See `explain`.
        prediction: What the line says of A(mean), where it was not drawn there; that of ``lin`` where None.
        variance: See `explain`.
        refine: Called with the residual, what data add and ``variance``, returns what is added in its place: another gain in
            place of C A^T (A C A^T + R)^-1, as xi ~ N(0, C) is drawn. None for this gain.
    """
    like = problem.likelihood
    xi = cov.sqrt(white)
    eta = (like.variance if variance is None else variance).sqrt() * noise(tuple(like.y.shape[1:]))
    residual = like.y - (lin.prediction if prediction is None else prediction) - lin.jvp(xi) - eta
    added = explain(problem, key, lin, cov, residual, iterations, tolerance, variance)
    return mean + xi + (added if refine is None else refine(residual, added, variance))


def prior_mean(problem: Problem, like: Tensor, reference: Reference | None = None) -> Tensor:
    """Fields (B, *event) like ``like`` that are the mean of a reference Gaussian, the prior's if None, or its `center`."""
    reference = problem.prior.reference if reference is None else reference
    mean = problem.prior.center if reference is None else reference.mean(problem.event_shape)
    return torch.zeros_like(like) + (mean.to(like) if isinstance(mean, Tensor) else mean)


def response(problem: Problem, sigma: float) -> float:
    """How far D(x, sigma) follows x, at most: e / (e + sigma^2), e the variance in the direction of most of it.

    Of the prior's reference Gaussian; of a white one with the prior's rms where it carries none.
    """
    reference, key = problem.prior.reference, "largest variance"
    if key not in problem.memo:
        known = 0.0 if reference is None else reference.covariance(problem.event_shape).max_variance
        problem.memo[key] = max(problem.prior.rms**2, known)
    return problem.memo[key] / (problem.memo[key] + sigma**2)
