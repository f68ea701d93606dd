"""`sample_prior`: draws of a prior without data, by the same driver as those with."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from posterior._devices import device_of
from posterior.draws import Draws
from posterior.driver import Progress, sample
from posterior.guidance.unguided import Unguided
from posterior.integrators import DPMSolver2M
from posterior.likelihoods import GaussianLikelihood
from posterior.priors.base import Prior
from posterior.samplers.base import Sampler
from posterior.samplers.guided import Guided
from posterior.schedules import LogUniform


def sample_prior(
    prior: Prior,
    sampler: Sampler | None = None,
    *,
    draws: int = 16,
    seed: int = 0,
    steps: int = 32,
    batch_size: int | None = None,
    event_shape: tuple[int, ...] | None = None,
    device: torch.device | str = "cpu",
    progress: bool | Callable[[Progress], None] = False,
    checkpoint: str | os.PathLike | None = None,
    dtype: torch.dtype = torch.float64,
) -> Draws:
    """Draw from p(x): the posterior of data that say nothing.

    Args:
        prior: The prior.
        sampler: A sampler of posteriors, but for three that measure their steps by the data and refuse: `REDDiff`, `FlowDPS`
            unless ``scaled``, `PnPDM` unless it is given a ``sigma_min``. Where None the probability-flow ODE by
            DPM-Solver++(2M), ``steps`` levels equally spaced in log sigma and as many network calls a draw, from the
            reference Gaussian noised to the prior's `sigma_top`.
        draws: How many.
        seed: See `posterior.sample`; draw i of a seed is the same at any batch size.

    Other arguments:
        steps: Of the default sampler.
        batch_size: Draws computed at a time, 4 where None.
        event_shape: Shape of one field, for priors that take any size.
        device: Where the computing is done, see `posterior.sample`.
        progress: See `posterior.sample`.
        checkpoint: Likewise.
        dtype: Precision of everything but the network.

    Returns:
        The draws in physical units.

    Raises:
        ValueError: If arguments do not fit, this machine has no such device, or the prior takes any size and no
            ``event_shape`` is given.
        SamplingError: If values stop being finite.

    References:
        Lu, Zhou, Bao, Chen, Li, Zhu. DPM-Solver++. 2022. arXiv:2211.01095.
    """
    if event_shape is None:
        if None in prior.event_shape:
            raise ValueError(f"sample_prior: prior '{prior.name}' takes any image size; say which with event_shape=")
        event_shape = tuple(n for n in prior.event_shape if n is not None)
    prior.check_event(event_shape)
    device = device_of(device, "sample_prior")
    # One datum that no field reaches; its precision is that of the draws.
    nothing = GaussianLikelihood(_blind(event_shape), torch.zeros(1, 1, dtype=dtype), 1.0)
    made = sample(
        prior,
        nothing,
        sampler or Guided(Unguided(), DPMSolver2M(), steps, LogUniform(), prior.sigma_top),
        draws=draws,
        seed=seed,
        batch_size=batch_size,
        event_shape=event_shape,
        progress=progress,
        checkpoint=checkpoint,
        dtype=dtype,
        device=device,
    )
    # The first warning says that the data say nothing.
    stats = replace(made.stats, likelihood="no data", residual=None, warnings=made.stats.warnings[1:])
    return replace(made, stats=stats, observed=None, noise_std=None)


def _blind(event_shape: tuple[int, ...]) -> Any:
    """An instrument that sees nothing: A = 0."""
    from deepinv.physics import LinearPhysics

    class Blind(LinearPhysics):
        def A(self, x: Tensor, **_: Any) -> Tensor:  # noqa: N802
            return x.new_zeros(x.shape[0], 1)

        def A_adjoint(self, y: Tensor, **_: Any) -> Tensor:  # noqa: N802
            return y.new_zeros(y.shape[0], *event_shape)

    return Blind()
