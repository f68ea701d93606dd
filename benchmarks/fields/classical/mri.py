"""Reconstructions of k-space."""

from __future__ import annotations

from torch import Tensor

from benchmarks.fields.cases import Case
from benchmarks.fields.classical.base import Classical, Estimate
from benchmarks.fields.classical.gaussian import EXACT_GAUSSIAN
from benchmarks.fields.classical.variational import TV
from benchmarks.fields.supervised import unet
from posterior.recipes.mri.baselines import l1_wavelet, sense_cg, zero_filled


def _on_support(case: Case, image: Tensor) -> Estimate:
    return Estimate.of(case.facts["problem"].on_support(image))


def _network(case: Case) -> Estimate:
    mean, draws = unet.reconstruct(case.facts["problem"], case.draws, case.problem)
    return Estimate(draws, mean, point=False)


MRI = {
    "zero-filled": Classical(lambda case: _on_support(case, zero_filled(case.facts["problem"]))),
    "SENSE-CG": Classical(lambda case: _on_support(case, sense_cg(case.facts["problem"]))),
    "L1-wavelet": Classical(
        lambda case, weight: _on_support(case, l1_wavelet(case.facts["problem"], weight)),
        {"weight": [0.001, 0.002, 0.004, 0.008, 0.016]},
        {"weight": 0.006},
    ),
    "TV": TV,
    "exact Gaussian": EXACT_GAUSSIAN,
    "U-Net": Classical(_network),
}
