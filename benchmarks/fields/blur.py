"""Deblurring: galaxies through measured Hubble point-spread functions, and brain slices."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor

import posterior
from benchmarks.fields.brains import brain_case, brain_image
from benchmarks.fields.cases import DEVELOPMENT, Case, Suite
from benchmarks.fields.classical.images import DEBLUR
from operators import Blur, Offset, PSFBlur, gaussian_kernel, motion_kernel
from posterior.io.psf import read_psfs
from posterior.io.registry import fetch

SIDE, QUICK_SIDE = 48, 24
READ_NOISE = 0.01  # of a bright galaxy's peak
COUNTS, SKY = 400.0, 0.05  # counts at brightness 1, and brightness of the sky
CELLS = {
    "Hubble, Gaussian noise": "Sersic galaxies of 48 x 48 pixels, noise of 1 % of the brightest possible peak",
    "Hubble, Poisson noise": "The same on a sky of 5 %, 400 counts at the brightest possible peak",
    "brain, Gaussian blur": "Complex brain slices, crops of 48 x 48 mm, a Gaussian of 1.5 pixels, noise of 2 %",
    "brain, motion blur": "The same, straight motion by 9 pixels at an angle",
}
OVERSAMPLING = 3


@cache
def functions() -> Tensor:
    """The measured point-spread functions, (n, size, size)."""
    return read_psfs(fetch("hst-acs-psf"))


def galaxies(problem: int, side: int) -> Tensor:
    """Up to three Sersic galaxies, each a disc with a bulge, averaged over pixels, (1, side, side).

    The first peaks at 0.3 to 1.

    References:
        Sersic. Atlas de galaxias australes. 1968.
    """
    from astropy.modeling.models import Sersic2D

    rng = np.random.default_rng([problem, 8])
    at = (np.arange(side * OVERSAMPLING) + 0.5) / OVERSAMPLING - 0.5
    x, y = np.meshgrid(at, at)
    light = np.zeros((side, side))
    for i in range(int(rng.integers(1, 4))):
        margin = 0.3 if i == 0 else 0.1
        x0, y0 = rng.uniform(margin * side, (1 - margin) * side, 2)
        radius, ellipse, angle = rng.uniform(2.5, 7.0), rng.uniform(0.0, 0.7), rng.uniform(0, np.pi)
        disc = Sersic2D(1.0, radius, 1.0, x0, y0, ellipse, angle)(x, y)
        bulge = Sersic2D(rng.uniform(0.5, 3.0), 0.3 * radius, 2.5, x0, y0, 0.3 * ellipse, angle)(x, y)
        image = (disc + bulge).reshape(side, OVERSAMPLING, side, OVERSAMPLING).mean((1, 3))
        light += rng.uniform(0.3, 1.0) * (1.0 if i == 0 else 0.5) * image / image.max()
    return torch.from_numpy(light)[None].float()


def build(cell: str, problem: int, quick: bool, draws: int) -> Case:
    """See `Suite`."""
    side = QUICK_SIDE if quick else SIDE
    if cell.startswith("brain"):
        kernel = gaussian_kernel(1.5) if "Gaussian" in cell else motion_kernel(9.0, 0.5)
        operator = Blur(kernel.float(), (side, side), "reflect")
        return brain_case("blur", cell, problem, draws, operator, brain_image(problem, side), 0.02, kernel=kernel)
    kernel = functions()[(problem + problem // DEVELOPMENT) % len(functions())].float()
    if kernel.shape[-1] > side:
        cut = (kernel.shape[-1] - side) // 2 + 1
        kernel = kernel[cut:-cut, cut:-cut] / kernel[cut:-cut, cut:-cut].sum()
    operator = PSFBlur(kernel, (side, side))
    truth = galaxies(problem, side)
    g = torch.Generator().manual_seed(problem)
    clean = operator.A(truth[None])
    facts = {"kernel": operator.kernel}
    if "Gaussian" in cell:
        y = clean + READ_NOISE * torch.randn(clean.shape, generator=g)
        likelihood = posterior.GaussianLikelihood(operator, y, READ_NOISE)
    else:
        y = torch.poisson((clean + SKY).clamp_min(0) * COUNTS, generator=g) / COUNTS
        likelihood = posterior.PoissonLikelihood(Offset(operator, torch.tensor(SKY)), y, 1 / COUNTS)
        facts["sky"] = SKY
    return Case(
        suite="blur",
        cell=cell,
        problem=problem,
        prior=posterior.load_prior("galaxies"),
        likelihood=likelihood,
        event_shape=tuple(truth.shape),
        draws=draws,
        truth=truth,
        units="brightness",
        span=25.0,
        picture=True,
        single=True,
        facts=facts,
    )


SUITE = Suite(
    name="blur",
    cells=CELLS,
    priors={cell: "brain-mri" if cell.startswith("brain") else "galaxies" for cell in CELLS},
    units={cell: "tissue" if cell.startswith("brain") else "brightness" for cell in CELLS},
    build=build,
    draws=20,
    few_draws=10,
    quick_draws=4,
    problems={"Hubble, Gaussian noise": 12, "Hubble, Poisson noise": 4, "brain, Gaussian blur": 6, "brain, motion blur": 6},
    few={"Hubble, Gaussian noise": 3, "Hubble, Poisson noise": 0, "brain, Gaussian blur": 3, "brain, motion blur": 3},
    classical=DEBLUR,
    about="Galaxies are made with astropy's Sersic profiles, not with the simulator that the prior galaxies was trained on, "
    "and seen through point-spread functions of Hubble's ACS that were measured; dark sky beyond the edge. Bulges of that "
    "simulator once held some hundredths of the light, where real ones hold up to half of it; they were put right, and "
    "the prior was trained again, knowing that it helps on development problems. How heavy the tails of its errors are taken "
    "to be, and the noise levels of `GaussianBridge` where they are, were chosen on such problems too, the latter to win a "
    "comparison that was level. Settings of peers were chosen with the prior before. On galaxies ours ran on a slower "
    "machine than peers, so that its times there are too long beside theirs. Brain slices as in the suite of MRI, without "
    "coils and k-space, mirrored beyond the edge.",
)
