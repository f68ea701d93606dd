"""A local spread that believes the data: wider where they say that the denoiser is further off than is usual."""

from __future__ import annotations

from collections.abc import Hashable

from torch import Tensor

from posterior.guidance.solves import explain
from posterior.likelihoods import Linearisation
from posterior.priors.covariance import Covariance, ScaledCovariance
from posterior.problem import Problem, pilot_noise

LARGEST = 100.0  # what lambda is at most
# Of solvers: they learn how many iterations they need from errors so many times the usual; and how much more accurately z is
# solved for, since z^2 enlarges what a truncated solve makes of rounding, which would let a draw depend on its batch.
FURTHER, FINER = 4.0, 0.01


def judged(
    problem: Problem,
    key: Hashable,
    lin: Linearisation,
    cov: ScaledCovariance,
    residual: Tensor,
    iterations: int,
    tolerance: float,
    variance: Tensor | None,
    kappa: float,
) -> ScaledCovariance:
    """C with s^2 multiplied, at each grid point and for each component, by

        lambda = (kappa + z^2) / (kappa + g), at most 100.

    z is the error of D that the data point to, C A^T (A C A^T + R)^-1 (y - A(D)), over its standard deviation under C, and g
    what z^2 would be on average if C were right, a number for each component. Data that say nothing of a component leave it
    nearly as it was: both z and g are small.

    With kappa = 0 it is MacKay's fixed point for the variances of independent numbers, g then the share of a number that the
    data determine; one step of it, since more follow single draws. Errors of a network have heavier tails than a Gaussian with
    any local spread, and a variance that follows the error is how a Gaussian stands in for such a law.

    Args:
        problem: See `explain`, as for the others.
        key: What C depends on, besides the draw.
        lin: The operator, at D.
        cov: C.
        residual: y - A(D), (B, *range).
        iterations: Conjugate-gradient iterations at most.
        tolerance: When they would stop for a draw; these go further.
        variance: Noise variances; those of the likelihood where None.
        kappa: How firmly the usual s^2 is held.

    References:
        MacKay. Bayesian interpolation. 1992. Neural Computation 4(3).
        Tipping. Sparse Bayesian learning and the relevance vector machine. 2001. JMLR 1.
        The same for whole kinds of data, g from random probes: Desroziers, Ivanov. Diagnosis and adaptive tuning of
            observation-error parameters in a variational assimilation. 2001. Q. J. R. Meteorol. Soc. 127.
    """
    key, tolerance = ("judged", key), tolerance * FINER  # iterations of its own
    found = _squares(cov, explain(problem, key, lin, cov, residual, iterations, tolerance, variance), cov)

    def usual() -> tuple[Tensor, Tensor]:
        typical, like = cov.typical, problem.likelihood
        field = typical.sqrt(pilot_noise(problem.event_shape, residual))
        eta = like.variance.sqrt() * pilot_noise(tuple(like.y.shape[1:]), residual, seed=1)
        near = like.model.linearise(field)
        seen = near.jvp(field) + eta
        squares = _squares(typical, explain(problem, key, near, typical, seen, iterations, tolerance), cov)
        return squares, squares.mean((-2, -1), True)

    memo = ("what data tell of a component", key)
    if memo not in problem.memo:
        problem.memo[memo] = usual()
    squares, g = problem.memo[memo]

    def factor(z2: Tensor) -> Tensor:
        return ((kappa + z2) / (kappa + g)).clamp_max(LARGEST).sqrt()

    return cov.resized(factor(found), cov.typical.resized(factor(FURTHER**2 * squares)))


def _squares(cov: Covariance | ScaledCovariance, v: Tensor, like: ScaledCovariance) -> Tensor:
    """Squares of fields over their variances under ``cov``, averaged over what shares a scale in ``like``."""
    squares = cov.components(v).square() / cov.variances().to(v)
    shared = [i for i in range(1, v.ndim - 2) if like.scales[0].shape[i] == 1]
    return squares.mean(shared, keepdim=True) if shared else squares
