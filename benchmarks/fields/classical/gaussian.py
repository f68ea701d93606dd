"""The training covariance and nothing more: the exact Gaussian posterior, and variational assimilation with it."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

import posterior
from benchmarks.fields.cases import Case
from benchmarks.fields.classical.base import Classical, Estimate
from posterior.guidance.solves import explain
from posterior.likelihoods import Likelihood
from posterior.priors.base import Prior
from posterior.problem import Problem
from posterior.recipes.weather.baselines import LinearPrior


def reference_prior(case: Case) -> Prior:
    """The reference Gaussian of the problem's prior, for fields of the problem's shape."""
    prior = copy.copy(case.prior)
    prior.event_shape = case.event_shape
    return LinearPrior(prior)


def exact_gaussian(case: Case) -> Estimate:
    """The posterior of the Gaussian that has the training data's mean and covariance; linearised once where A is not linear."""
    prior = reference_prior(case)
    drawn = posterior.sample(
        prior,
        case.likelihood,
        posterior.GaussianBridge(steps=1),
        draws=case.draws,
        seed=case.problem,
        batch_size=case.draws,
        event_shape=case.event_shape,
        dtype=torch.float32 if case.single else torch.float64,
    )
    return Estimate(drawn.samples, minimum(prior, case.likelihood, case.event_shape, 1), point=False)


def three_d_var(case: Case, outer: int = 4) -> Estimate:
    """argmin (x - mu)^T C^-1 (x - mu) / 2 - log p(y | x), Gauss-Newton steps ``outer``.

    References:
        Lorenc. Analysis methods for numerical weather prediction. 1986. Q. J. R. Meteorol. Soc. 112.
    """
    return Estimate.of(minimum(reference_prior(case), case.likelihood, case.event_shape, outer))


def minimum(prior: Prior, likelihood: Likelihood, event: tuple[int, ...], outer: int) -> Tensor:
    """The posterior mode of a Gaussian prior, physical units (*event)."""
    problem = Problem(prior, likelihood.in_standard(prior.affine, event), event)
    reference, like = prior.reference, problem.likelihood
    assert reference is not None
    cov = reference.covariance(event)
    mean = reference.mean(event)
    mean = mean.double().expand(event) if isinstance(mean, Tensor) else torch.full(event, mean, dtype=torch.float64)
    mean = z = mean[None].to(like.y)
    for i in range(1 if like.model.linear else outer):
        lin = like.model.linearise(z)
        residual = like.y - lin.prediction + lin.jvp(z - mean)
        z = mean + explain(problem, ("mode", i), lin, cov, residual, 500, 1e-4)
    return prior.affine.to_physical(z)[0]


EXACT_GAUSSIAN = Classical(exact_gaussian)
THREE_D_VAR = Classical(three_d_var)
