"""Fields on a latitude-longitude grid that a prior was not trained on, by the split that its card states."""

from __future__ import annotations

from functools import cache

import numpy as np
from torch import Tensor

import posterior
from benchmarks.fields.cases import DEVELOPMENT
from posterior.priors.network import NetworkPrior
from posterior.recipes.training import dataset_of
from posterior.recipes.training.data import Fields, load_fields

TUNING_SHARE = 1 / 3  # of the held-out times, the first ones
GOLDEN = (5**0.5 - 1) / 2


@cache
def gridded(name: str) -> tuple[NetworkPrior, Fields]:
    """A bundled prior, and the fields that it was trained and developed on."""
    prior = posterior.load_prior(name)
    assert isinstance(prior, NetworkPrior)
    data = dataset_of(prior.card)
    if data is None:
        raise ValueError(f"prior '{name}': its card names no dataset")
    return prior, load_fields(data)


def held_out(fields: Fields, problem: int) -> tuple[np.datetime64, Tensor]:
    """Time and field (C, H, W) of a problem, physical units.

    The first third of the held-out times is for tuning and the rest for the comparison. Successive problems lie far apart.
    """
    assert fields.develop_times is not None
    times = np.sort(fields.develop_times)
    border = int(len(times) * TUNING_SHARE)
    some = times[:border] if problem >= DEVELOPMENT else times[border:]
    when = some[int(len(some) * ((0.5 + GOLDEN * (problem % DEVELOPMENT)) % 1))]
    return when, fields.develop[int(np.flatnonzero(fields.develop_times == when)[0])]


def at_time(prior: NetworkPrior, when: np.datetime64) -> posterior.Prior:
    """The prior of that time, or the prior itself where its mean does not depend on it."""
    return prior if prior.climatology is None else prior.on(when)
