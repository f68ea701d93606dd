"""Nonlinear instruments in few dimensions: the prior is a set of weighted points, so the posterior is a sum.

Where two dimensions are enough the points are a grid, weighted by the density: the sum is then also the quadrature of a
smooth prior.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

import posterior

CELLS = ("phase retrieval", "wind speed", "detection limit", "counts")
SIDE = 41


@dataclass(frozen=True)
class NonlinearProblem:
    """Prior, likelihood and the truth (1, d), one of the points, that the data came from."""

    prior: posterior.EmpiricalPrior
    likelihood: object
    truth: Tensor


def nonlinear(cell: str, seed: int = 0) -> NonlinearProblem:
    """One problem.

    Args:
        cell: One of `CELLS`: 6 magnitudes of complex sums of 4 unknowns, whose sign is lost; the speed of a wind
            (u, v); a sensor of one mixture and one component that reports nothing below its limit; Poisson counts of two
            intensities seen through each other.
        seed: Of everything.
    """
    if cell not in CELLS:
        raise ValueError(f"nonlinear: cell {cell!r}; wanted one of {CELLS}")
    g = torch.Generator().manual_seed(50_000 * CELLS.index(cell) + seed)
    return _BUILD[cell](g)


def physics(forward: Callable[[Tensor], Tensor]):  # noqa: ANN201
    """A function of fields (B, d) as a deepinv Physics, nothing known of it but its values and derivatives."""
    import deepinv

    return deepinv.physics.Physics(A=lambda x, **_: forward(x))


def _normal(g: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=g, dtype=torch.float64)


def _grid_prior(mean: Tensor, cov: Tensor) -> posterior.EmpiricalPrior:
    """N(mean, cov) in the plane on a grid of SIDE x SIDE points out to four standard deviations."""
    t = torch.linspace(-4, 4, SIDE, dtype=torch.float64)
    white = torch.cartesian_prod(t, t)
    # Far corners have weights that no draw will ever see, and a weight of 0 is refused.
    weights = torch.exp(-0.5 * white.square().sum(1)).clamp_min(1e-12)
    return posterior.EmpiricalPrior(mean + white @ torch.linalg.cholesky(cov).T, weights)


def _pick(prior: posterior.EmpiricalPrior, g: torch.Generator) -> Tensor:
    return prior.points[torch.multinomial(prior.weights, 1, generator=g)]


def _gaussian(prior: posterior.EmpiricalPrior, forward: Callable[[Tensor], Tensor], sigma: float, g: torch.Generator):  # noqa: ANN202
    truth = _pick(prior, g)
    clean = forward(truth)
    y = clean + sigma * _normal(g, *clean.shape)
    return NonlinearProblem(prior, posterior.GaussianLikelihood(physics(forward), y, sigma), truth)


def _phase_retrieval(g: torch.Generator) -> NonlinearProblem:
    half = _normal(g, 1000, 4)
    prior = posterior.EmpiricalPrior(torch.cat([half, -half]))
    re, im = _normal(g, 6, 4) / 2, _normal(g, 6, 4) / 2
    return _gaussian(prior, lambda x: ((x @ re.to(x).T) ** 2 + (x @ im.to(x).T) ** 2 + 1e-8).sqrt(), 0.3, g)


def _wind_speed(g: torch.Generator) -> NonlinearProblem:
    cov = torch.tensor([[9.0, 2.0], [2.0, 6.0]], dtype=torch.float64)
    prior = _grid_prior(2 * _normal(g, 2), cov)
    return _gaussian(prior, lambda x: (x.square().sum(1, keepdim=True) + 1e-8).sqrt(), 0.5, g)


def _detection_limit(g: torch.Generator) -> NonlinearProblem:
    cov = torch.tensor([[1.0, 0.5], [0.5, 1.0]], dtype=torch.float64)
    prior = _grid_prior(torch.zeros(2, dtype=torch.float64), cov)
    matrix = torch.tensor([[0.7, 0.7], [1.0, 0.0]], dtype=torch.float64)
    limit = 0.25
    return _gaussian(prior, lambda x: torch.relu(x @ matrix.to(x).T - limit) + limit, 0.2, g)


def _counts(g: torch.Generator) -> NonlinearProblem:
    cov = torch.tensor([[0.25, 0.1], [0.1, 0.25]], dtype=torch.float64)
    logs = _grid_prior(torch.ones(2, dtype=torch.float64), cov)
    prior = posterior.EmpiricalPrior(logs.points.exp(), logs.weights)
    matrix = torch.tensor([[1.0, 0.5], [0.5, 1.0], [1.0, 1.0]], dtype=torch.float64)
    truth = _pick(prior, g)
    y = torch.poisson(truth @ matrix.T, generator=g)
    return NonlinearProblem(prior, posterior.PoissonLikelihood(physics(lambda x: x @ matrix.to(x).T), y, gain=1.0), truth)


_BUILD = {
    "phase retrieval": _phase_retrieval,
    "wind speed": _wind_speed,
    "detection limit": _detection_limit,
    "counts": _counts,
}
