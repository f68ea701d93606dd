"""Draws from p(x | y): a pretrained prior, a forward operator, and an uncertainty map that can be trusted."""

from __future__ import annotations

import importlib
from typing import Any

_PUBLIC = {
    "AFDPS": "samplers.smc.afdps",
    "Ancestral": "integrators",
    "AttentionHeads": "priors.layouts.adm",
    "Condition": "priors.conditioning",
    "CorrelatedGaussianLikelihood": "likelihoods",
    "DAPS": "samplers.daps",
    "DDIM": "integrators",
    "DDNM": "samplers.guided",
    "DDRM": "samplers.guided",
    "DPMSolver2M": "integrators",
    "DPS": "samplers.guided",
    "DataStep": "samplers.alternating",
    "DeepinvPrior": "priors.plug_and_play",
    "DiffPIR": "samplers.guided",
    "Draws": "draws",
    "EDMNetwork": "priors.layouts.edm",
    "EmpiricalPrior": "priors.empirical",
    "FKFilter": "samplers.smc.fk_filter",
    "FlowChef": "samplers.guided",
    "FlowDPS": "samplers.flowdps",
    "FlowTime": "samplers.flowdps",
    "GaussianBridge": "samplers.bridge",
    "GaussianLikelihood": "likelihoods",
    "GaussianMixturePrior": "priors.mixture",
    "GaussianPrior": "priors.analytic",
    "Guided": "samplers.guided",
    "GuidedDiffusion": "priors.layouts.adm",
    "Heun": "integrators",
    "Karras": "schedules",
    "LGD": "samplers.lgd",
    "LatentPrior": "priors.latent",
    "LevyPrior": "priors.levy",
    "LogUniform": "schedules",
    "MMPS": "samplers.guided",
    "NetworkPrior": "priors.network",
    "OutlierLikelihood": "likelihoods",
    "PiGDM": "samplers.guided",
    "PnPDM": "samplers.pnp_dm",
    "PoissonGaussianLikelihood": "likelihoods",
    "PoissonLikelihood": "likelihoods",
    "Prior": "priors.base",
    "Progress": "driver",
    "REDDiff": "samplers.red_diff",
    "RectifiedFlow": "priors.layouts.score_sde",
    "Renoise": "integrators",
    "SASolver": "integrators",
    "SamplingError": "driver",
    "ScoreSDE": "priors.layouts.score_sde",
    "StudentTLikelihood": "likelihoods",
    "TDS": "samplers.smc.twisted",
    "TMPD": "samplers.guided",
    "TorchCFM": "priors.layouts.adm",
    "bundled_priors": "priors.loading",
    "estimate_reference": "guidance.estimation",
    "exact_posterior": "exact",
    "fit_spread_correction": "priors.spread",
    "load_draws": "draws",
    "load_prior": "priors.loading",
    "sample": "driver",
    "sample_prior": "unconditional",
    "save_prior": "priors.loading",
}

__all__ = sorted([*_PUBLIC, "__version__"])


def __getattr__(name: str) -> Any:  # noqa: ANN401
    if name == "__version__":
        from importlib.metadata import version

        return version("posterior")
    if name not in _PUBLIC:
        raise AttributeError(f"module 'posterior' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"posterior.{_PUBLIC[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
