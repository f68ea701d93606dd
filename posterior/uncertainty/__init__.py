"""Uncertainty: maps from draws, tests of calibration, and repairs with a guarantee."""

from __future__ import annotations

import importlib
from typing import Any

_PUBLIC = {
    "Assessment": "assessment",
    "Coverage": "ranks",
    "Curve": "_statistics",
    "DenoisingError": "prior_check",
    "FieldStatistics": "prior_check",
    "HighestDensity": "maps",
    "IntervalRepair": "conformal",
    "JacobianCheck": "prior_check",
    "Memorisation": "prior_check",
    "PrincipalComponents": "maps",
    "PriorCheck": "prior_check",
    "QuantileSketch": "sketch",
    "Quantity": "quantities",
    "Ranks": "ranks",
    "RegionSummary": "regions",
    "Reliability": "probabilities",
    "RepairCheck": "conformal",
    "ResidualCheck": "predictive",
    "Scores": "scores",
    "Sparsification": "spread",
    "SpreadRepair": "conformal",
    "SpreadSkill": "spread",
    "StreamingMoments": "streaming",
    "Trial": "trials",
    "Trials": "trials",
    "assess": "assessment",
    "attach": "records",
    "band_energies": "quantities",
    "calibrate": "experiments",
    "check_prior": "prior_check",
    "compare_fields": "prior_check",
    "conformal_risk_control": "conformal",
    "coverage": "ranks",
    "crps": "scores",
    "denoising_error": "prior_check",
    "energy": "scores",
    "entropy": "maps",
    "evidence": "records",
    "exceedance": "maps",
    "extremes": "quantities",
    "function": "quantities",
    "gaussian_experiment": "experiments",
    "highest_density": "maps",
    "jacobian_check": "prior_check",
    "leave_one_out": "conformal",
    "load_trials": "trials_io",
    "log_likelihood": "quantities",
    "memorisation": "prior_check",
    "pixels": "quantities",
    "principal_components": "maps",
    "rank_truths": "ranks",
    "recalibrate_spread": "conformal",
    "region_means": "quantities",
    "reliability": "probabilities",
    "report": "page",
    "residual_check": "predictive",
    "residual_chi_square": "quantities",
    "risk_controlling_sets": "conformal",
    "save_trials": "trials_io",
    "sbc": "accuracy",
    "score": "scores",
    "sparsification": "spread",
    "spread_skill": "spread",
    "summarise_regions": "regions",
    "tarp": "accuracy",
    "variogram": "scores",
    "view": "viewer",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:  # noqa: ANN401
    if name not in _PUBLIC:
        raise AttributeError(f"module 'posterior.uncertainty' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"posterior.uncertainty.{_PUBLIC[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
