"""The prior's own moves from one noise level to the next, as Gaussian kernels that weights can be computed for."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from posterior.priors.covariance import Covariance, isotropic
from posterior.priors.reference import GaussianReference, Reference
from posterior.problem import Problem


def denoise_in_chunks(problem: Problem, x: Tensor, sigma: float) -> Tensor:
    """D(x, sigma) of all particles, `Problem.chunk` at a time."""
    (mean,) = problem.in_chunks(lambda piece: (problem.denoise(piece, sigma),), x)
    return mean


def catch_up(r: float) -> float:
    """What a move with D held still owes to the change of D, per unit of that change; r = (sigma' / sigma)^2.

    D is a martingale of the reverse process, and x' carries the average of D along the step. (1 - r) / (sqrt(r) (1 +
    sqrt(r))), half the step to leading order, is exact where dD/dx = I and nearly so for every Gaussian.
    """
    return (1 - r) / (math.sqrt(r) * (1 + math.sqrt(r)))


def reference_of(problem: Problem) -> Reference:
    """The prior's reference Gaussian; N(0, rms^2 I) for a prior without one."""
    if problem.prior.reference is not None:
        return problem.prior.reference
    center = problem.likelihood.y.new_zeros(problem.event_shape)
    return GaussianReference(center, isotropic(problem.prior.rms**2))


class Kernel(Protocol):
    """The model's own move, p(x' | x)."""

    def correct(self, ahead: Tensor, d: Tensor, d_ahead: Tensor) -> Tensor:
        """x' = ``ahead`` caught up with D' - D, as far as the kernel's noise does not hold it.

        Args:
            ahead: Particles drawn by way of the kernel, (N, *event).
            d: D(x, sigma).
            d_ahead: D(x', sigma').
        """
        ...


@dataclass(frozen=True)
class ModelKernel:
    """p(x' | x) = N(m, P), with what is foreseen of the next denoiser output: D' = f + G (x' - m).

    Args:
        mean: m, (N, *event).
        cov: P, positive unless sigma' is 0.
        foreseen: f, (N, *event).
        reply: G, that of the Gaussian which P was taken from.
        r: (sigma' / sigma)^2.
    """

    mean: Tensor
    cov: Covariance
    foreseen: Tensor
    reply: Covariance
    r: float

    @classmethod
    def of(cls, reference: Reference, x: Tensor, d: Tensor, sigma: float, sigma_next: float) -> ModelKernel:
        """x0 ~ N(D, C_sigma), then the bridge: m = r x + (1 - r) D, P = sigma'^2 (1 - r) I + (1 - r)^2 C_sigma, f = D.

        Exact at any step size where the prior is the reference Gaussian.
        """
        r, shape = (sigma_next / sigma) ** 2, tuple(x.shape[1:])
        inside = reference.error_covariance(shape, sigma).scaled((1 - r) ** 2)
        cov = inside.plus_white(sigma_next**2 * (1 - r))
        return cls(r * x + (1 - r) * d, cov, d, reply(reference.covariance(shape), sigma_next), r)

    def draw(self, white: Tensor) -> Tensor:
        """Draws of x' from white noise."""
        return self.mean + self.cov.sqrt(white)

    def foreseeing(self, foreseen: Tensor) -> ModelKernel:
        """The same kernel with another f."""
        return replace(self, foreseen=foreseen)

    def foresee(self, ahead: Tensor) -> Tensor:
        """D' at x'."""
        return self.foreseen + self.reply.apply(ahead - self.mean)

    def correct(self, ahead: Tensor, d: Tensor, d_ahead: Tensor) -> Tensor:
        """See `Kernel.correct`; P holds what the Gaussian's D would take up of the noise in the step, G (x' - m)."""
        return ahead + catch_up(self.r) * (d_ahead - d - self.reply.apply(ahead - self.mean))


def reply(cov: Covariance, sigma: float) -> Covariance:
    """G = C (C + sigma^2 I)^-1, the derivative of the linear denoiser; the identity at sigma = 0."""
    if sigma == 0:
        return Covariance(cov.basis, torch.ones_like(cov.eigenvalues))
    return Covariance(cov.basis, cov.eigenvalues / (cov.eigenvalues + sigma**2))
