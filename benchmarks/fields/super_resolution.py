"""Four times finer: brain slices, and temperature over the British Isles."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor

import posterior
from benchmarks.fields.brains import brain_case, brain_image
from benchmarks.fields.cases import DEVELOPMENT, Case, Suite
from benchmarks.fields.classical.images import UPSAMPLE
from operators import SuperResolution
from posterior.io import open_fields
from posterior.io.registry import fetch

FACTOR, SIDE, QUICK_SIDE = 4, 48, 24
NOISE = {"brain": 0.02, "temperature": 0.2}
CELLS = {
    "brain": "Complex brain slices, crops of 48 x 48 mm, means of 4 x 4 pixels, noise of 2 % of the brightest tissue",
    "temperature": "ERA5 2 m temperature, 0.25 degrees, means of 4 x 4 grid cells, errors of 0.2 K",
}


@cache
def temperatures() -> tuple[np.ndarray, Tensor]:
    """Hours and fields (N, 1, 33, 49), K."""
    field = open_fields(fetch("era5-t2m-uk-2019-03"), units="K", chunks=None, rename=True)
    return field["time"].values.astype("datetime64[h]"), torch.from_numpy(field.values).double()[:, None]


def hour_of(problem: int) -> np.datetime64:
    """Hours that the prior was developed on and not trained: the comparison has those of 28 to 31 March, tuning 25 to 27."""
    first, days = ("2019-03-25", 3) if problem >= DEVELOPMENT else ("2019-03-28", 4)
    return np.datetime64(first, "h") + (17 * (problem % DEVELOPMENT)) % (24 * days)


def build(cell: str, problem: int, quick: bool, draws: int) -> Case:
    """See `Suite`."""
    if cell == "brain":
        side = QUICK_SIDE if quick else SIDE
        operator = SuperResolution((side, side), FACTOR)
        image = brain_image(problem, side)
        return brain_case("super-resolution", cell, problem, draws, operator, image, NOISE[cell], factor=FACTOR)
    times, fields = temperatures()
    hour = hour_of(problem)
    truth = fields[int(np.flatnonzero(times == hour)[0])]
    operator = SuperResolution(tuple(truth.shape[-2:]), FACTOR)
    g = torch.Generator().manual_seed(problem)
    y = operator.A(truth[None])
    y = y + NOISE[cell] * torch.randn(y.shape, generator=g, dtype=torch.float64)
    return Case(
        suite="super-resolution",
        cell=cell,
        problem=problem,
        prior=posterior.load_prior("t2m-uk").on(hour),
        likelihood=posterior.GaussianLikelihood(operator, y, NOISE[cell]),
        event_shape=tuple(truth.shape),
        draws=draws,
        truth=truth,
        units="K",
        facts={"factor": FACTOR},
    )


SUITE = Suite(
    name="super-resolution",
    cells=CELLS,
    priors={"brain": "brain-mri", "temperature": "t2m-uk"},
    units={"brain": "tissue", "temperature": "K"},
    build=build,
    draws=40,
    few_draws=10,
    quick_draws=4,
    problems={"brain": 3, "temperature": 6},
    few={"brain": 1, "temperature": 2},
    classical=UPSAMPLE,
    about="Area means on a grid four times coarser. Brain slices as in the suite of MRI, without coils and k-space. "
    "Temperature: hours of March 2019 that the prior t2m-uk was not trained on.",
)
