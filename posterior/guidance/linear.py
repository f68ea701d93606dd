"""The linear-Gaussian update: what data add to a Gaussian with a known covariance."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable

import torch
from torch import Tensor

from posterior.integrators import Noise
from posterior.likelihoods import Linearisation, StandardLikelihood
from posterior.linalg import Apply, cg
from posterior.priors.covariance import Covariance
from posterior.problem import Problem, pilot_noise


def gaussian_update(
    problem: Problem,
    key: Hashable,
    lin: Linearisation,
    cov: Covariance,
    residual: Tensor,
    iterations: int,
    tolerance: float,
) -> Tensor:
    """C A^T (A C A^T + R)^-1 residual, for residuals (B, *range).

    Solved as C^(1/2) w, (I + C^(1/2) A^T R^-1 A C^(1/2)) w = C^(1/2) A^T R^-1 residual, whose prior is white: the system
    is the identity plus something positive, so its residual bounds the error of w.

    Args:
        problem: Where the number of iterations is remembered.
        key: What the system depends on besides the problem.
        lin: The operator, at the fields in question.
        cov: C.
        residual: Right-hand sides.
        iterations: Conjugate-gradient iterations at most.
        tolerance: They stop once w is right to this much, root-mean-square, for a typical residual.
    """
    like = problem.likelihood
    precision = like.reach / like.variance
    root = cov.root(residual)

    def system(near: Linearisation) -> Apply:
        information = information_operator(like, near, precision)
        return lambda w: w + root(information(root(w)))

    def pilot() -> tuple[Apply, Tensor]:
        field = root(pilot_noise(problem.event_shape, residual))
        eta = like.variance.sqrt() * pilot_noise(tuple(like.y.shape[1:]), residual, seed=1)
        near = like.model.linearise(field)
        return system(near), root(near.vjp(precision * (near.jvp(field) + eta)))

    stop = tolerance * math.prod(problem.event_shape) ** 0.5
    count = problem.iterations_for(key, pilot, stop, iterations)
    right = root(lin.vjp(precision * residual))
    return root(cg(system(lin), right, iterations=count)[0])


def gaussian_draw(
    problem: Problem,
    key: Hashable,
    lin: Linearisation,
    mean: Tensor,
    cov: Covariance,
    white: Tensor,
    noise: Noise,
    iterations: int,
    tolerance: float,
) -> Tensor:
    """A draw of x0 ~ N(mean, C) given the data, by Matheron's rule: with xi ~ N(0, C), eta ~ N(0, R),

        x0 = mean + xi + C A^T (A C A^T + R)^-1 (y - A(mean) - A xi - eta).

    Args:
        problem: Prior and likelihood.
        key: See `gaussian_update`.
        lin: The operator, at ``mean``.
        mean: Fields (B, *event).
        cov: C.
        white: White noise (B, *event), which becomes xi.
        noise: Source of the noise that becomes eta.
        iterations: See `gaussian_update`.
        tolerance: See `gaussian_update`.
    """
    like = problem.likelihood
    xi = cov.sqrt(white)
    eta = like.variance.sqrt() * noise(tuple(like.y.shape[1:]))
    residual = like.y - lin.prediction - lin.jvp(xi) - eta
    return mean + xi + gaussian_update(problem, key, lin, cov, residual, iterations, tolerance)


def prior_mean(problem: Problem, like: Tensor) -> Tensor:
    """Fields (B, *event) like ``like`` that are the mean of the prior's reference Gaussian, zero without one."""
    reference = problem.prior.reference
    mean = 0.0 if reference is None else reference.mean(problem.event_shape)
    return torch.zeros_like(like) + (mean.to(like) if isinstance(mean, Tensor) else mean)


def information_operator(like: StandardLikelihood, lin: Linearisation, precision: Tensor) -> Callable[[Tensor], Tensor]:
    """v -> A^T R^-1 A v, through the operator's own normal map where the noise is white."""
    first = like.variance.flatten()[0]
    if like.model.linear and bool((like.variance == first).all()):
        return lambda v: like.model.normal(v) / first
    return lambda v: lin.vjp(precision * lin.jvp(v))
