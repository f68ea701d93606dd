"""Levy chains blurred or partly observed: heavy tails and jumps, with a Gibbs sampler for the posterior."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

import posterior
from benchmarks.problems.mixture import dense

LAWS = ("gauss", "laplace", "bernoulli-laplace", "student")
OPERATORS = ("deconvolution", "imputation")
DECIBEL = 25.0


@dataclass(frozen=True)
class LevyProblem:
    """Prior, likelihood and the truth (1, d) that the data came from."""

    prior: posterior.LevyPrior
    likelihood: posterior.GaussianLikelihood
    truth: Tensor


def levy(law: str, operator: str, seed: int = 0, d: int = 64) -> LevyProblem:
    """One problem; noise 25 dB below the mean power of the clean data.

    Args:
        law: One of `LAWS`: increments N(0, 0.25), Laplace(1), a tenth of them Laplace(1) and the rest 0, or Student's t
            with 3 degrees of freedom.
        operator: One of `OPERATORS`: a Gaussian blur of 2 points over 13 taps, zero outside the chain, or a random half of
            the points.
        seed: Of truth, noise and which points are seen.
        d: Length of the chain.

    References:
        Zach, Haouchat, Unser. A statistical benchmark for diffusion posterior sampling algorithms. 2025.
        arXiv:2509.12821.
    """
    if law not in LAWS or operator not in OPERATORS:
        raise ValueError(f"levy: got {law!r}, {operator!r}; wanted one of {LAWS} and one of {OPERATORS}")
    g = torch.Generator().manual_seed(1000 * LAWS.index(law) + 100_000 * OPERATORS.index(operator) + seed)
    prior = posterior.LevyPrior(law, d, 0.5 if law == "gauss" else 1.0)
    k = torch.arange(d, dtype=torch.float64)
    if operator == "deconvolution":
        apart = (k[:, None] - k).abs()
        taps = torch.exp(-0.5 * (torch.arange(-6, 7, dtype=torch.float64) / 2) ** 2)
        matrix = torch.where(apart <= 6, torch.exp(-0.5 * (apart / 2) ** 2), 0.0) / taps.sum()
    else:
        seen = torch.randperm(d, generator=g)[: d // 2].sort().values
        matrix = torch.eye(d, dtype=torch.float64)[seen]
    cov = prior.increment_variance * torch.minimum(k[:, None] + 1, k + 1)
    power = float((matrix @ cov * matrix).sum(1).mean())
    sigma = math.sqrt(power * 10 ** (-DECIBEL / 10))
    truth = prior.sample(1, seed=seed + 7_000_000)
    y = truth @ matrix.T + sigma * torch.randn(1, len(matrix), generator=g, dtype=torch.float64)
    return LevyProblem(prior, posterior.GaussianLikelihood(dense(matrix), y, sigma), truth)
