"""Multi-coil MRI: crops and whole slices of a held-out head, and real undersampled k-space."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

import posterior
from benchmarks.fields.brains import SPAN, brain_crop, colin27, magnitude
from benchmarks.fields.cases import DEVELOPMENT, Case, Suite, Withheld
from benchmarks.fields.classical.mri import MRI
from operators import birdcage_maps, noise_covariance
from posterior.io.kspace import KSpace, read_kspace
from posterior.io.registry import fetch
from posterior.recipes.mri.heldout import withhold
from posterior.recipes.mri.prepare import prepare
from posterior.recipes.mri.problem import MRIProblem
from posterior.recipes.mri.results import head_mask
from posterior.recipes.mri.simulation import demo_image, simulate, smooth_phase

SIDE, QUICK_SIDE, QUICK_WHOLE, COILS = 48, 24, 112, 8
CELLS = {
    "4x": "Crops of 48 x 48 mm, 4x undersampled along one axis, maps and noise level known",
    "8x": "The same, 8x",
    "whole, 4x": "Whole slices, 4x; maps and noise level estimated from the data, as for a scan",
    "real k-space": "Measured 8-coil k-space, 12 % sampled, a fifth of it withheld outside the calibration square; no truth",
}


def build(cell: str, problem: int, quick: bool, draws: int) -> Case:
    """See `Suite`."""
    withheld = None
    if cell == "real k-space":
        # the one file there is; development problems withhold other samples
        kspace = read_kspace(fetch("mri-cartesian-kspace"))
        given, held = withhold(_coarse(kspace) if quick else prepare(kspace), seed=problem)
        withheld = _withheld(held.problem)
    elif cell == "whole, 4x":
        tuning = problem >= DEVELOPMENT
        image = demo_image() if tuning else colin27(problem)
        if quick:
            low = (len(image) - QUICK_WHOLE) // 2
            image = image[low : low + QUICK_WHOLE, low : low + QUICK_WHOLE].contiguous()
        given = prepare(simulate(image, seed=problem, source="bundled slice" if tuning else f"colin27 {problem}"))
    else:
        given = crop(brain_crop(problem, QUICK_SIDE if quick else SIDE), float(cell.removesuffix("x")), problem)
    truth = given.truth

    return Case(
        suite="mri",
        cell=cell,
        problem=problem,
        prior=posterior.load_prior("brain-mri"),
        likelihood=given.likelihood,
        event_shape=given.event_shape,
        draws=draws,
        truth=None if truth is None else truth[None],
        units="tissue",
        view=lambda x: magnitude(given.on_support(x)),
        inside=None if truth is None else head_mask(truth)[None],
        withheld=withheld,
        span=SPAN,
        picture=True,
        single=True,
        facts={"problem": given},
    )


def crop(image: Tensor, acceleration: float, seed: int) -> MRIProblem:
    """k-space of a magnitude image (H, W) as a problem whose maps and noise level are known."""
    kspace = simulate(image, seed=seed, acceleration=acceleration, coils=COILS)
    maps = birdcage_maps(COILS, tuple(image.shape)).to(torch.complex64)
    return prepare(kspace, maps=maps, noise=float(kspace.attributes["noise"]))


def complex_truth(problem: MRIProblem, seed: int) -> Tensor:
    """The image (2, H, W) behind a problem that `simulate` made with this seed: its magnitude and the phase drawn first."""
    assert problem.truth is not None
    angle = torch.from_numpy(smooth_phase(problem.event_shape[1:], np.random.default_rng(seed)))
    return torch.stack([problem.truth * angle.cos(), problem.truth * angle.sin()]).float()


def _coarse(kspace: KSpace) -> MRIProblem:
    """The middle half of k-space along both axes, the same slice on coarser pixels; its noise is that of all of k-space."""
    noise = noise_covariance(kspace.data, kspace.mask)
    rows, columns = (slice(n // 4, n // 4 + n // 2) for n in kspace.mask.shape)
    data, mask = kspace.data[:, rows, columns].contiguous(), kspace.mask[rows, columns].contiguous()
    return prepare(replace(kspace, data=data, mask=mask), noise=noise)


def _withheld(held: MRIProblem) -> Withheld:
    def predict(x: Tensor) -> Tensor:
        return held.operator.A(x.to(held.y))[..., held.mask].flatten(1)

    return Withheld(predict, held.y[..., held.mask].flatten(), held.sigma)


SUITE = Suite(
    name="mri",
    cells=CELLS,
    priors=dict.fromkeys(CELLS, "brain-mri"),
    units=dict.fromkeys(CELLS, "tissue"),
    build=build,
    draws=20,
    few_draws=10,
    quick_draws=4,
    problems={"4x": 24, "8x": 6, "whole, 4x": 4, "real k-space": 1},
    few={"4x": 3, "8x": 3, "whole, 4x": 0, "real k-space": 0},
    classical=MRI,
    about="Complex images with a smooth random phase, 8 coils, variable-density lines with a full centre, noise of 2 % of the "
    "brightest tissue in each real and imaginary part (Gaussian). What is judged is the magnitude inside the head, in units of "
    "the brightest tissue; the point estimate is the magnitude of the complex mean. The prior is brain-mri, which has seen "
    "neither head. Development: crops of the slice that matplotlib ships; comparison: colin27.",
)
