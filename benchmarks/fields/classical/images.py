"""Deconvolution and interpolation of images."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.fields.cases import Case
from benchmarks.fields.classical.base import Classical, Estimate
from benchmarks.fields.classical.gaussian import EXACT_GAUSSIAN
from benchmarks.fields.classical.variational import TV


def _data(case: Case) -> Tensor:
    """Data as an image of the field's size, sky taken off, (C, H, W)."""
    return case.likelihood.y[0].double() - case.facts.get("sky", 0.0)


def wiener(case: Case, balance: float) -> Estimate:
    """Wiener-Hunt deconvolution, each channel by itself: Laplacian regularisation, circular borders (scikit-image).

    References:
        Hunt. A matrix theory proof of the discrete convolution theorem. 1971. IEEE Trans. Audio Electroacoust. 19.
    """
    from skimage.restoration import wiener as deconvolve

    kernel = case.facts["kernel"].double().numpy()
    done = [torch.from_numpy(deconvolve(c.numpy(), kernel, balance, clip=False)) for c in _data(case)]
    return Estimate.of(torch.stack(done))


def richardson_lucy(case: Case, iterations: int) -> Estimate:
    """Maximum likelihood of Poisson noise, stopped early (scikit-image).

    References:
        Richardson. Bayesian-based iterative method of image restoration. 1972. J. Opt. Soc. Am. 62.
        Lucy. An iterative technique for the rectification of observed distributions. 1974. Astron. J. 79.

    Raises:
        ValueError: If the image is complex.
    """
    from skimage.restoration import richardson_lucy as deconvolve

    if case.event_shape[0] != 1:
        raise ValueError("Richardson-Lucy takes light, which is never negative, and no complex images")
    kernel = case.facts["kernel"].double().clamp_min(0).numpy()
    done = [
        torch.from_numpy(deconvolve(c.clamp_min(1e-6).numpy(), kernel, num_iter=iterations, clip=False)) for c in _data(case)
    ]
    return Estimate.of(torch.stack(done))


def bicubic(case: Case) -> Estimate:
    """Keys' cubic between the centres of coarse pixels."""
    fine = case.event_shape[-2:]
    factor = case.facts["factor"]
    coarse = case.likelihood.y.double()
    whole = [factor * n for n in coarse.shape[-2:]]
    return Estimate.of(torch.nn.functional.interpolate(coarse, size=whole, mode="bicubic")[0, :, : fine[0], : fine[1]])


DEBLUR = {
    "Wiener": Classical(wiener, {"balance": [0.1, 1.0, 10.0, 100.0]}, {"balance": 1.0}),
    "Richardson-Lucy": Classical(richardson_lucy, {"iterations": [2, 4, 8, 16]}, {"iterations": 8}),
    "TV": TV,
    "exact Gaussian": EXACT_GAUSSIAN,
}
# Averages of pixels leave more to the prior than a blur does, so the best weights lie further apart.
COARSE_TV = Classical(TV.run, {"weight": [0.00003, 0.0003, 0.003, 0.03, 0.3]}, TV.start)
UPSAMPLE = {"bicubic": Classical(bicubic), "TV": COARSE_TV, "exact Gaussian": EXACT_GAUSSIAN}
