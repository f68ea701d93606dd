"""Galaxies blurred by a telescope: the problem, its baselines, its result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from posterior.driver import sample
from posterior.likelihoods import GaussianLikelihood, PoissonLikelihood
from posterior.likelihoods.base import Likelihood
from posterior.priors.base import Prior
from posterior.recipes.comparison import Baseline, Comparison
from posterior.recipes.deblur.galaxies import galaxy_field
from posterior.samplers.base import Sampler

if TYPE_CHECKING:
    from operators import PSFBlur
    from posterior.priors.reference import Reference

DATASET = "hst-acs-psf"
# Standard deviation of the noise, in units of a bright galaxy's peak.
NOISE = 0.01
# Sky, in the same units, under data that are counted: without any, most pixels would count nothing.
SKY = 0.02


@dataclass(frozen=True, eq=False)
class DeblurProblem:
    """One blurred image.

    Args:
        blur: The convolution with the point-spread function.
        likelihood: p(y | x) of surface brightness x, (1, H, W).
        image: The data as surface brightness (H, W), sky subtracted.
        truth: True surface brightness (1, H, W).
        source: What was observed.
        facts: How: words for people.
    """

    blur: PSFBlur
    likelihood: Likelihood
    image: Tensor
    truth: Tensor
    source: str
    facts: dict[str, str] = field(default_factory=dict)


def moffat(size: int = 37, fwhm: float = 2.3, beta: float = 3.0) -> Tensor:
    """Moffat's profile (1 + (r / a)^2)^(-beta), sum one, (size, size).

    Args:
        size: Pixels, odd.
        fwhm: Full width at half maximum, pixels.
        beta: Steepness of the wings.

    References:
        Moffat. A theoretical investigation of focal stellar images in the photographic emulsion. 1969. A&A 3.
    """
    a = fwhm / (2 * (2 ** (1 / beta) - 1) ** 0.5)
    r = torch.arange(size, dtype=torch.float64) - size // 2
    profile = (1 + (r[:, None] ** 2 + r[None, :] ** 2) / a**2) ** -beta
    return profile / profile.sum()


def point_spread(seed: int = 0, path: Path | None = None) -> tuple[Tensor, str]:
    """A point-spread function and where it is from: one measured by Hubble's ACS, a Moffat profile where none is at hand.

    Args:
        seed: Picks the function.
        path: A FITS file of functions, in place of the registry's.
    """
    from posterior.io.psf import read_psfs
    from posterior.io.registry import available, fetch

    if path is None and not available(DATASET):
        return moffat(), f"a Moffat profile (the measured ones, {DATASET} of the registry, are not at hand)"
    functions = read_psfs(fetch(DATASET) if path is None else path)
    number = seed % len(functions)
    return functions[
        number
    ], f"number {number} of {len(functions)} {'measured by Hubble ACS' if path is None else f'in {path}'}"


def demo_problem(seed: int = 0, *, noise: float = NOISE, counts: float | None = None, psf: Path | None = None) -> DeblurProblem:
    """A simulated field of galaxies, which the prior was not trained on, seen through a point-spread function.

    Args:
        seed: Of field, noise and choice of the point-spread function.

    Other arguments:
        noise: Standard deviation of Gaussian noise, in units of a bright galaxy's peak.
        counts: Photons in a pixel of surface brightness one: the noise is then Poisson's, over a sky of 0.02.
        psf: A FITS file of point-spread functions.

    Raises:
        ValueError: If ``noise`` or ``counts`` is not positive.
    """
    from operators import Offset, PSFBlur

    if not (noise > 0 and (counts is None or counts > 0)):
        raise ValueError(f"deblur: noise and counts must be positive, got {noise} and {counts}")
    truth = galaxy_field((64, 64), 2 * seed + 1)[None]
    kernel, origin = point_spread(seed, psf)
    blur = PSFBlur(kernel.float(), (1, 64, 64), boundary="periodic")
    clean = blur.A(truth[None])
    g = torch.Generator().manual_seed(seed)
    facts = {"point-spread function": origin}
    likelihood: Likelihood
    if counts is None:
        y = clean + noise * torch.randn(clean.shape, generator=g)
        likelihood, image = GaussianLikelihood(blur, y, noise), y[0, 0]
        facts["noise"] = f"Gaussian, {noise:g} of a bright galaxy's peak"
    else:
        y = torch.poisson((clean.clamp_min(0) + SKY) * counts, generator=g) / counts
        likelihood, image = PoissonLikelihood(Offset(blur, torch.full_like(clean, SKY)), y, 1 / counts), y[0, 0] - SKY
        facts["noise"] = f"Poisson, {counts:g} photons at a bright galaxy's peak, {SKY * counts:g} of the sky"
    return DeblurProblem(blur, likelihood, image, truth, f"simulated galaxies {2 * seed + 1}", facts)


def wiener(problem: DeblurProblem, reference: Reference, scale: float) -> Tensor:
    """Wiener's filter: the mean were the field the prior's reference Gaussian, and the noise white; (1, H, W).

    Args:
        problem: The problem.
        reference: The Gaussian, standardised units.
        scale: Units of one standardised unit.
    """
    spectrum = reference.covariance(tuple(problem.truth.shape)).eigenvalues * scale**2
    variance = problem.likelihood.sigma.double().square().mean()
    transfer = torch.fft.fft2(problem.blur.A(_impulse(problem.truth))[0, 0].double())
    gain = spectrum * transfer.conj() / (spectrum * transfer.abs().square() + variance)
    return torch.fft.ifft2(torch.fft.fft2(problem.image.double()) * gain).real.float()[None]


def richardson_lucy(problem: DeblurProblem, iterations: int = 30) -> Tensor:
    """Richardson-Lucy: x <- x A^T (y / A x) from a flat start, stopped early; (1, H, W).

    References:
        Richardson. 1972. JOSA 62(1). Lucy. 1974. Astronomical Journal 79.
    """
    y = problem.image.clamp_min(0)[None, None]
    x = torch.full_like(y, float(y.mean()))
    for _ in range(iterations):
        x = x * problem.blur.A_adjoint(y / problem.blur.A(x).clamp_min(1e-6)).clamp_min(0)
    return x[0]


def deblur(
    problem: DeblurProblem,
    prior: Prior,
    sampler: Sampler,
    *,
    draws: int = 20,
    seed: int = 0,
    batch_size: int = 4,
    progress: bool | Callable[[Any], None] = False,
    checkpoint: str | Path | None = None,
    device: str | None = None,
) -> Comparison:
    """Draw images given a blurred one, and compare their mean with Wiener's filter and Richardson-Lucy.

    Scores are taken where the truth is above a hundredth of its peak.

    Args:
        problem: What `demo_problem` made.
        prior: Prior of surface brightness.
        sampler: The method.

    Other arguments:
        draws: How many draws; a 90 % interval takes 19.
        seed: Seed of the draws.
        batch_size: Draws computed at a time.
        progress: As in `posterior.sample`.
        checkpoint: As in `posterior.sample`.
        device: As in `posterior.sample`.
    """
    found = sample(
        prior,
        problem.likelihood,
        sampler,
        draws=draws,
        seed=seed,
        batch_size=batch_size,
        event_shape=tuple(problem.truth.shape),
        progress=progress,
        checkpoint=checkpoint,
        device=device,
    )
    baselines = {"observed": Baseline(problem.image[None]), "Richardson-Lucy": Baseline(richardson_lucy(problem))}
    if prior.reference is not None:
        baselines["Wiener"] = Baseline(wiener(problem, prior.reference, float(torch.as_tensor(prior.affine.scale))))
    region = problem.truth > 0.01 * problem.truth.max()
    return Comparison(found, problem.truth, problem.image, baselines, region=region, source=problem.source, facts=problem.facts)


def _impulse(like: Tensor) -> Tensor:
    field = torch.zeros(1, *like.shape)
    field[..., 0, 0] = 1
    return field
