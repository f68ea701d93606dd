"""A reference Gaussian for priors that carry none, estimated from their own draws."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from posterior._devices import moved
from posterior.integrators import DPMSolver2M, Estimate
from posterior.priors.base import Prior
from posterior.priors.covariance import Covariance
from posterior.priors.reference import EOFReference, RadialReference, Reference, radial_spectrum
from posterior.problem import Problem
from posterior.schedules import Karras

# Up to this many coordinates their covariance is estimated as a matrix, beyond it as a spectrum.
DENSE = 256
LEVELS = 10


@dataclass(frozen=True)
class CentredReference(Reference):
    """A Gaussian of mean zero, moved.

    Args:
        base: The Gaussian of mean zero.
        center: Its new mean, broadcasts to an event.
    """

    base: Reference
    center: Tensor

    @property
    def measured(self) -> bool:
        """See `Reference.measured`."""
        return self.base.measured

    def covariance(self, event_shape: tuple[int, ...]) -> Covariance:
        """See `Reference.covariance`."""
        return self.base.covariance(event_shape)

    def mean(self, event_shape: tuple[int, ...]) -> Tensor:
        """See `Reference.mean`."""
        return self.center.expand(event_shape)

    def error_covariance(self, event_shape: tuple[int, ...], sigma: float) -> Covariance:
        """See `Reference.error_covariance`."""
        return self.base.error_covariance(event_shape, sigma)


def estimate_reference(
    prior: Prior,
    event_shape: tuple[int, ...] | None = None,
    *,
    draws: int | None = None,
    steps: int = 24,
    seed: int = 0,
    denoise: Callable[[Tensor, float], Tensor] | None = None,
    like: Tensor | None = None,
) -> Reference:
    """Mean, covariance and error spectrum of a prior, from unconditional draws of it.

    Draws follow the probability-flow ODE (DPM-Solver++ 2M). Up to 256 coordinates their covariance is a matrix; fields of more
    are taken to be stationary and isotropic over the last two axes, with a mean for each channel and one spectrum. The error
    spectrum is the mean power of x0 - D(x0 + sigma eps, sigma) over the same draws, at ten noise levels. Set
    ``prior.reference`` to the result to pay for it once.

    Args:
        prior: The prior; its own reference is not looked at.
        event_shape: Shape of a field, for priors that take any size.

    Other arguments:
        draws: How many; 4 for each coordinate of a matrix and at least 128, 16 for a spectrum, if None.
        steps: Network calls for each draw; ten more measure its error.
        seed: Seed of the draws.
        denoise: Called in place of ``prior.denoise``, to count what is spent.
        like: A tensor of the precision and device to work in; float64 on the CPU if None.

    Returns:
        The reference, standardised coordinates.

    Raises:
        ValueError: If the shape of a field is not known, or draws or steps are too few.
    """
    wanted = prior.event_shape if event_shape is None else event_shape
    shape = tuple(size for size in wanted if size is not None)
    if len(shape) < len(wanted):
        raise ValueError(f"estimate_reference: prior '{prior.name}' takes any image size; say which with event_shape=")
    prior.check_event(shape)
    n = math.prod(shape)
    matrix = n <= DENSE or len(shape) < 2
    count = (max(128, 4 * n) if n <= DENSE else 256) if matrix else 16
    count = count if draws is None else draws
    if count < 2 or steps < 2:
        raise ValueError(f"estimate_reference: wanted two draws and two steps at least, got {count} and {steps}")
    denoise = prior.denoise if denoise is None else denoise
    like = torch.zeros((), dtype=torch.float64) if like is None else like
    g = torch.Generator().manual_seed(seed)

    def white() -> Tensor:
        return torch.randn(count, *shape, generator=g, dtype=like.dtype).to(like.device)

    def denoised(x: Tensor, sigma: float) -> Tensor:
        with torch.no_grad():
            return torch.cat([denoise(part, sigma) for part in x.split(max(8, 2**18 // n))])

    fields = _unconditional(denoised, prior, steps, white())
    apart = 1 if len(shape) == 2 else 2  # a number for each channel, where there are channels
    center = fields.mean(0) if matrix else fields.mean((0, *range(apart, fields.ndim)), keepdim=True)[0]
    base = _fit(fields - center, matrix, n <= DENSE)
    rms = float((fields - center).square().mean().sqrt())
    low, high = max(prior.sigma_min, 0.02 * rms), min(prior.sigma_max, 5 * rms)
    sigmas = np.geomspace(low, max(high, 2 * low), LEVELS)
    errors = [_power(base, fields - denoised(fields + float(s) * white(), float(s))) for s in sigmas]
    floor = 1e-9 * rms**2
    measured = replace(base, sigmas=torch.from_numpy(sigmas), errors=torch.stack(errors).clamp_min(floor))
    return CentredReference(measured, center.cpu().double())


def reference_of(problem: Problem) -> Reference:
    """The prior's reference, or one estimated for this problem, which its notes then tell of."""
    prior = problem.prior
    if prior.reference is not None:
        return prior.reference
    key = "estimated reference"
    if key not in problem.memo:
        before = problem.counts.forward
        found = estimate_reference(prior, problem.event_shape, denoise=problem.denoise, like=problem.likelihood.y)
        problem.memo[key] = moved(found, problem.likelihood.y.device)
        problem.notes.append(
            f"prior '{prior.name}' carries no reference Gaussian: one was estimated from its own draws in "
            f"{problem.counts.forward - before} network calls; prior.reference = posterior.estimate_reference(prior) keeps one"
        )
    return problem.memo[key]


def _unconditional(denoise: Callable[[Tensor, float], Tensor], prior: Prior, steps: int, white: Tensor) -> Tensor:
    """Draws of the prior."""
    integrator, memory = DPMSolver2M(), None
    x = (prior.rms**2 + prior.sigma_max**2) ** 0.5 * white
    levels = Karras()(steps, prior.sigma_max, prior.sigma_min)
    for sigma, after in zip(levels[:-1], levels[1:], strict=True):
        x, memory = integrator.step(lambda x, s, _: Estimate(denoise(x, s)), x, sigma, after, lambda shape=None: white, memory)
    return x


def _fit(fields: Tensor, matrix: bool, full: bool) -> EOFReference | RadialReference:
    fields = fields.cpu().double()
    if matrix:
        return EOFReference.fit(fields, None if full else len(fields) // 4)
    return RadialReference(*radial_spectrum(fields.reshape(len(fields), -1, *fields.shape[-2:])))


def _power(base: EOFReference | RadialReference, errors: Tensor) -> Tensor:
    """Mean power of errors, as a row of the table of ``base``."""
    errors = errors.cpu().double()
    if isinstance(base, EOFReference):
        return base.power(errors)
    return radial_spectrum(errors.reshape(len(errors), -1, *errors.shape[-2:]))[1]
