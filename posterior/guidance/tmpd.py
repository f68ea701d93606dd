"""Tweedie moment projected diffusions (TMPD)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from posterior.guidance.base import Guidance
from posterior.integrators import Estimate
from posterior.linalg import dot
from posterior.problem import Problem


@dataclass(frozen=True)
class TMPDGuidance(Guidance):
    """Tweedie's covariance of x0 given x, sigma^2 J with J = dD/dx, of which the data see the row sums.

    E[x0 | x, y] = D + sigma^2 J^T A^T (R + diag(sigma^2 A J^T A^T 1))^-1 (y - A(D)), data and operator in units of the
    noise, so that data of different instruments may be added up. Exact where A C A^T is diagonal for a Gaussian prior.

    Row sums may come out far too small, or negative, where a covariance's diagonal cannot be: conjugate pairs of Fourier
    data cancel, and a network's Jacobian is no covariance. Negative ones are set to zero. Small ones make the step delta
    overshoot. The step explains w = (R + sigma^2 A J^T A^T) u of the residual r = y - A(D), u being what the row sums make
    of r; it is shortened to the fraction <r, w> / <w, w>, which leaves the least of r, where that is below 1. This is worked
    out draw by draw, costs no backward pass, and changes nothing where the row sums are exact.

    References:
        Boys, Girolami, Pidstrigach, Reich, Mosca, Akyildiz. Tweedie moment projected diffusions for inverse problems.
        TMLR 2024. arXiv:2310.06721.
    """

    def __call__(self, problem: Problem, x: Tensor, sigma: float, step: tuple[float, float]) -> Estimate:
        """See `Guidance.__call__`."""
        like = problem.likelihood
        mean, vjp = problem.denoise_with_vjp(x, sigma)
        lin = like.model.linearise(mean)
        white = like.reach * like.variance.rsqrt()
        rows = sigma**2 * white * lin.jvp(vjp(lin.vjp(white.expand_as(lin.prediction))))
        residual = white * (like.y - lin.prediction)
        u = residual / (1 + rows.clamp_min(0))
        delta = sigma**2 * vjp(lin.vjp(white * u))
        explained = u + white * lin.jvp(delta)
        length = dot(residual, explained) / dot(explained, explained).clamp_min(1e-300)
        return Estimate(mean + length.clamp(0, 1).reshape(-1, *[1] * (x.ndim - 1)).to(x.dtype) * delta)
