"""Guidance turns a prior's denoiser into a posterior denoiser, E[x0 | x_sigma, y]."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from posterior.integrators import Estimate, Noise
from posterior.problem import Problem


class Guidance(ABC):
    """One way to condition a denoiser on data."""

    @abstractmethod
    def __call__(self, problem: Problem, x: Tensor, sigma: float, step: tuple[float, float]) -> Estimate:
        """x0 given x_sigma and y.

        Args:
            problem: Prior and likelihood.
            x: Noised fields (B, *event), standardised coordinates.
            sigma: Their noise level.
            step: The noise levels between which the integrator is stepping.
        """

    def start(self, problem: Problem, sigma: float, noise: Noise) -> Tensor:
        """Fields at the first noise level: draws of the noised prior, see `Problem.noised_prior`."""
        return problem.noised_prior(noise(), sigma)
