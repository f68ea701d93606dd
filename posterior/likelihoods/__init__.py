"""Likelihoods p(y | x): operator, data and noise model, all in physical units."""

from posterior.likelihoods.base import (
    ForwardModel,
    Likelihood,
    Linearisation,
    StandardLikelihood,
    real_view,
)
from posterior.likelihoods.counts import PoissonGaussianLikelihood, PoissonLikelihood
from posterior.likelihoods.gaussian import CorrelatedGaussianLikelihood, GaussianLikelihood
from posterior.likelihoods.robust import OutlierLikelihood, StudentTLikelihood

__all__ = [
    "CorrelatedGaussianLikelihood",
    "ForwardModel",
    "GaussianLikelihood",
    "Likelihood",
    "Linearisation",
    "OutlierLikelihood",
    "PoissonGaussianLikelihood",
    "PoissonLikelihood",
    "StandardLikelihood",
    "StudentTLikelihood",
    "real_view",
]
