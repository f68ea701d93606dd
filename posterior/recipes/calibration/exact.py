"""A problem whose posterior is known: a Gaussian field of which a quarter is measured."""

from __future__ import annotations

import torch

from posterior.priors.analytic import GaussianPrior
from posterior.priors.base import Prior
from posterior.recipes.calibration.pressure import channel
from posterior.recipes.calibration.problem import CalibrationProblem, Yardstick
from posterior.samplers.bridge import GaussianBridge
from posterior.uncertainty.experiments import gaussian_experiment

SIDE, SIGMA, LENGTH = 12, 0.3, 2.0


def above(x: torch.Tensor) -> torch.Tensor:
    """Where the field is above one half."""
    return x > 0.5


YARDSTICK = Yardstick(channel, event=above, event_name="field above 0.5")


def gaussian_problem(prior: Prior | None = None) -> CalibrationProblem:
    """Truths are draws of the prior itself, so that an exact sampler passes and its faults show.

    Args:
        prior: Another Gaussian prior of fields (1, H, W); by default correlations fall as exp(-(d / 2)^2 / 2) over d pixels.

    Raises:
        ValueError: If the prior is no `GaussianPrior` of such fields.
    """
    from operators import Inpainting

    prior = _field() if prior is None else prior
    if not isinstance(prior, GaussianPrior) or len(prior.event_shape) != 3 or prior.event_shape[0] != 1:
        raise ValueError(f"gaussian-field: got {prior!r}; wanted a GaussianPrior of fields (1, H, W)")
    shape = prior.event_shape
    mask = torch.zeros(shape)
    mask[..., ::2, ::2] = 1
    return CalibrationProblem(
        name="gaussian-field",
        title=f"Draws of a Gaussian prior, a quarter of the pixels measured with an error of {SIGMA:g}",
        prior=prior,
        experiment=gaussian_experiment(Inpainting(mask), SIGMA, torch.float64),
        yardstick=YARDSTICK,
        sampler=GaussianBridge(),
    )


def _field() -> GaussianPrior:
    at = torch.cartesian_prod(*[torch.arange(SIDE, dtype=torch.float64)] * 2)
    cov = torch.exp(-0.5 * torch.cdist(at, at).square() / LENGTH**2) + 1e-4 * torch.eye(SIDE**2, dtype=torch.float64)
    return GaussianPrior(torch.zeros(1, SIDE, SIDE, dtype=torch.float64), cov)
