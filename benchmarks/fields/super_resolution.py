"""Four times finer: brain slices, and temperature over the British Isles."""

from __future__ import annotations

import torch

import posterior
from benchmarks.fields.brains import brain_case, brain_image
from benchmarks.fields.cases import Case, Suite
from benchmarks.fields.classical.images import UPSAMPLE
from benchmarks.fields.gridded import at_time, gridded, held_out
from operators import SuperResolution

FACTOR, SIDE, QUICK_SIDE = 4, 48, 24
NOISE = {"brain": 0.02, "temperature": 0.2}
CELLS = {
    "brain": "Complex brain slices, crops of 48 x 48 mm, means of 4 x 4 pixels, noise of 2 % of the brightest tissue",
    "temperature": "ERA5 2 m temperature, 0.25 degrees, means of 4 x 4 grid cells, errors of 0.2 K",
}


def build(cell: str, problem: int, quick: bool, draws: int) -> Case:
    """See `Suite`."""
    if cell == "brain":
        side = QUICK_SIDE if quick else SIDE
        operator = SuperResolution((side, side), FACTOR)
        image = brain_image(problem, side)
        return brain_case("super-resolution", cell, problem, draws, operator, image, NOISE[cell], factor=FACTOR)
    prior, fields = gridded("t2m-uk")
    hour, truth = held_out(fields, problem)
    operator = SuperResolution(tuple(truth.shape[-2:]), FACTOR)
    g = torch.Generator().manual_seed(problem)
    y = operator.A(truth[None])
    y = y + NOISE[cell] * torch.randn(y.shape, generator=g, dtype=torch.float64)
    return Case(
        suite="super-resolution",
        cell=cell,
        problem=problem,
        prior=at_time(prior, hour),
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
    problems={"brain": 6, "temperature": 6},
    few={"brain": 3, "temperature": 3},
    classical=UPSAMPLE,
    about="Area means on a grid four times coarser. Brain slices as in the suite of MRI, without coils and k-space. "
    "Temperature: hours that the prior t2m-uk was not trained on, by its card; the first third of them is for tuning.",
)
