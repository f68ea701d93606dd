"""Simulation-based calibration and TARP: is the truth a draw like any other?"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Literal

import torch
from torch import Tensor

from posterior.uncertainty.quantities import Quantity, band_energies, extremes, log_likelihood, pixels, residual_chi_square
from posterior.uncertainty.ranks import Ranks, rank_truths
from posterior.uncertainty.trials import Trial, Trials


def sbc(trials: Trials, quantities: Iterable[Quantity] | None = None, *, seed: int = 0) -> list[Ranks]:
    """Simulation-based calibration: the ranks of the truth's test quantities among those of the draws are uniform.

    Ranks of pixels alone are blind to a sampler that returns the prior and to one whose correlations are wrong;
    quantities that use the data see the first, those that join pixels the second.

    Args:
        trials: The trials, 20 or more.
        quantities: What to rank; where None the pixels, the extremes, the energies of bands of spatial frequency and,
            where they were stored, log-likelihood and residual chi-square.

    Other arguments:
        seed: Of the ties.

    Returns:
        One `Ranks` for each quantity.

    References:
        Talts, Betancourt, Simpson, Vehtari, Gelman. Validating Bayesian inference algorithms with simulation-based
        calibration. 2018. arXiv:1804.06788.
        Modrak et al. Simulation-based calibration checking for Bayesian computation: the choice of test quantities
        shapes sensitivity. 2023. arXiv:2211.02383.
    """
    if quantities is None:
        quantities = default_quantities(trials)
    return [
        rank_truths(trials, q.fn, name=f"SBC {q.name}", names=q.names, pooled=q.pooled, seed=seed + i)
        for i, q in enumerate(quantities)
    ]


def default_quantities(trials: Trials) -> list[Quantity]:
    """Pixels, extremes, energies of bands of fields, and the log-likelihood and residual chi-square that were stored."""
    found = [pixels(), extremes()]
    if len(trials):
        first = trials[0]
        stored = {"log_prob": log_likelihood, "chi_square": residual_chi_square}
        found += [band_energies()] if first.truth.ndim >= 2 and min(first.truth.shape[-2:]) > 1 else []
        found += [make() for name, make in stored.items() if getattr(first, name) is not None]
    return found


def tarp(
    trials: Trials,
    reference: Literal["data", "random"] | Callable[[Tensor], Tensor] = "data",
    *,
    seed: int = 0,
) -> Ranks:
    """Tests of accuracy with random points: how many draws lie nearer to a reference point than the truth does.

    With a reference that depends on the data, ranks that are uniform for all references are sufficient for exact
    draws. With one that does not, a sampler that returns the prior passes. `Ranks.ecdf` is the expected coverage
    probability at each credibility level.

    Args:
        trials: The trials, 20 or more.
        reference: "data": the event that `calibrate` computed from the data, by default the operator's adjoint. A
            function from y (1, *range) to an event: that. "random": the truth of the next trial, which knows
            nothing of the data.

    Other arguments:
        seed: Of the ties.

    Raises:
        ValueError: If "data" is asked for and no reference was stored, or data are missing for a function.

    Warns:
        UserWarning: With "random", which is blind to a sampler of the prior.

    References:
        Lemos, Coogan, Hezaveh, Perreault-Levasseur. Sampling-based accuracy testing of posterior estimators for
        general inference. 2023. ICML. arXiv:2302.03026.
    """
    if reference == "random":
        warnings.warn(
            "tarp: random references are blind to a sampler that returns the prior; use them beside data-dependent ones",
            UserWarning,
            stacklevel=2,
        )
        points = _next_truths(trials)
    elif reference == "data" or callable(reference):
        points = (_point(trial, reference) for trial in trials)
    else:
        raise ValueError(f"tarp: reference is {reference!r}; wanted 'data', 'random' or a function of y")

    def distance(trial: Trial) -> Tensor:
        members = trial.members
        return (members - next(points).to(members)).flatten(1).norm(dim=1)

    kind = reference if isinstance(reference, str) else getattr(reference, "__name__", "function")
    return rank_truths(trials, distance, name=f"TARP ({kind} reference)", seed=seed)


def _point(trial: Trial, reference: Literal["data"] | Callable[[Tensor], Tensor]) -> Tensor:
    if callable(reference):
        if trial.y is None:
            raise ValueError("tarp: the trial has no data y to compute a reference from")
        point = reference(trial.y)
        if tuple(point.shape) != tuple(trial.truth.shape):
            raise ValueError(f"tarp: the reference has shape {tuple(point.shape)}; wanted {tuple(trial.truth.shape)}")
        return point
    if trial.reference is None:
        raise ValueError(
            "tarp: the trials have no reference; pass a function of y, such as the operator's adjoint, or "
            "reference='random', which is blind to a sampler of the prior"
        )
    return trial.reference


def _next_truths(trials: Trials) -> Iterator[Tensor]:
    """The truth of the next trial, and for the last that of the first."""
    every = iter(trials)
    first = next(every, None)
    for trial in every:
        yield trial.truth
    if first is not None:
        yield torch.clone(first.truth)
