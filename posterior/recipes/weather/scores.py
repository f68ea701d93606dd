"""Scores of ensembles against the true field, and against stations that were withheld."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from operators.grid import Grid
from posterior.quantiles import draws_needed, weibull_quantiles
from posterior.uncertainty.scores import crps_members

LEVEL = 0.9


@dataclass(frozen=True)
class Score:
    """One ensemble against what was true, averaged.

    Args:
        crps: Fair continuous ranked probability score, units of the field.
        coverage: Share inside the central 90 % interval at Weibull positions; NaN with fewer than 19 members.
        bias: Mean of (ensemble mean - truth).
        squared_error: Mean squared error of the ensemble mean, less what its finite size adds.
        variance: Mean variance of the ensemble.
    """

    crps: float
    coverage: float
    bias: float
    squared_error: float
    variance: float

    @property
    def rmse(self) -> float:
        """Root-mean-square error of the mean of an ensemble without end."""
        return math.sqrt(max(self.squared_error, 0.0))

    @property
    def spread_skill(self) -> float:
        """sqrt(variance / squared error): 1 if calibrated, below 1 if overconfident."""
        return math.sqrt(self.variance / self.squared_error) if self.squared_error > 0 else math.nan


def area_weights(grid: Grid) -> Tensor:
    """Weights of the grid points, (H, W), mean 1: the area of their cells, the cosine of latitude on a regular grid."""
    area = torch.from_numpy(np.ascontiguousarray(grid.area))
    return area / area.mean()


def score(members: Tensor, truth: Tensor, weights: Tensor | None = None) -> Score:
    """Score an ensemble.

    Args:
        members: (S, *event), two or more.
        truth: (*event).
        weights: Of the values, mean 1, broadcasts to an event; all 1 where None.

    Raises:
        ValueError: If shapes do not fit.

    References:
        Ferro. Fair scores for ensemble forecasts. 2014. QJRMS 140(683).
        Fortin, Abaza, Anctil, Turcotte. Why should ensemble spread match the RMSE of the ensemble mean? 2014. JHM 15(4).
    """
    if members.shape[1:] != truth.shape or len(members) < 2:
        raise ValueError(f"score: members {tuple(members.shape)} and truth {tuple(truth.shape)}; wanted two members or more")
    x, t = members.double(), truth.double()
    w = torch.ones_like(t) if weights is None else weights.to(t).expand(t.shape)
    # The score is homogeneous of degree one: weighted values have the weighted score.
    crps = float(crps_members(torch.cat([t[None], x]) * w)[0])
    variance, off = x.var(0), x.mean(0) - t
    coverage = math.nan
    if len(x) >= draws_needed(LEVEL):
        ends = weibull_quantiles(x.flatten(1).T.numpy(), ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
        low, high = torch.from_numpy(ends).reshape(2, *t.shape)
        coverage = float((w * ((t >= low) & (t <= high))).mean())
    error = off.square() - variance / len(x)
    return Score(crps, coverage, float((w * off).mean()), float((w * error).mean()), float((w * variance).mean()))
