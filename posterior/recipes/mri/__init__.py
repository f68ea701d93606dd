"""Magnetic resonance imaging: from raw or simulated k-space to draws, baselines, numbers and a figure."""

from posterior.recipes.mri.baselines import l1_wavelet, sense_cg, zero_filled
from posterior.recipes.mri.figures import figure
from posterior.recipes.mri.heldout import HeldOut, predictive_coverage, withhold
from posterior.recipes.mri.prepare import prepare
from posterior.recipes.mri.problem import MRIProblem
from posterior.recipes.mri.results import Result, head_mask, nrmse, psnr, reconstruct
from posterior.recipes.mri.simulation import demo_image, demo_problem, simulate

__all__ = [
    "HeldOut",
    "MRIProblem",
    "Result",
    "demo_image",
    "demo_problem",
    "figure",
    "head_mask",
    "l1_wavelet",
    "nrmse",
    "predictive_coverage",
    "prepare",
    "psnr",
    "reconstruct",
    "sense_cg",
    "simulate",
    "withhold",
    "zero_filled",
]
