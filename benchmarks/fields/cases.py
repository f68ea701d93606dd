"""What every problem on fields is made of, and how it is judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

import posterior
from posterior.likelihoods import Likelihood
from posterior.priors.base import Affine

DEVELOPMENT = 1000  # problems from this number on are for tuning; the comparison never sees them


@dataclass(frozen=True)
class Withheld:
    """Data that the reconstruction does not see and is asked to predict.

    Args:
        predict: Physical fields (B, *event) to the data that they predict, noiseless, (B, m).
        y: The data, (m,).
        sigma: Noise standard deviation, a number or (m,).
    """

    predict: Callable[[Tensor], Tensor]
    y: Tensor
    sigma: Tensor | float


@dataclass(frozen=True)
class Case:
    """One problem.

    Args:
        suite: Name of the suite.
        cell: Kind of problem.
        problem: Its number, also its seed.
        prior: The prior.
        likelihood: Operator, data and noise.
        event_shape: Shape of one field.
        draws: How many draws methods are asked for.
        truth: What reconstructions are held to, (C, H, W), or None where it is not known.
        units: Of the truth.

    Other arguments:
        view: Physical fields (B, *event) to what is judged, (B, C, H, W): a magnitude, say.
        inside: (C, H, W) bool, where it is judged; everywhere if None.
        withheld: Data kept from the reconstruction, or None.
        span: Largest size of a coordinate of the prior, for libraries that want fields in [0, 1]; None if it need not be said.
        picture: Whether people look at it as a picture, so that a perceptual distance has a meaning.
        single: Whether our samplers work in float32.
        facts: What classical methods of the suite need besides.
    """

    suite: str
    cell: str
    problem: int
    prior: posterior.Prior
    likelihood: Likelihood
    event_shape: tuple[int, ...]
    draws: int
    truth: Tensor | None
    units: str
    view: Callable[[Tensor], Tensor] = lambda x: x
    inside: Tensor | None = None
    withheld: Withheld | None = None
    span: float | None = None
    picture: bool = False
    single: bool = False
    facts: Mapping[str, Any] = field(default_factory=dict)

    def chi_square(self, x: Tensor, weights: Tensor | None = None) -> float:
        """Mean normalised residual of physical fields (B, *event), weighted if asked: 1 where the noise explains it."""
        like = self.likelihood.in_standard(Affine(), self.event_shape)
        with torch.no_grad():
            found = torch.stack([like.chi_square(v[None].double())[0] for v in x])
        return float(found.mean() if weights is None else (weights * found).sum())


@dataclass(frozen=True)
class Suite:
    """A family of problems on fields.

    Args:
        name: Also in the table.
        cells: Kinds of problem, each with a sentence for the page.
        priors: Name of the prior of each cell; a cell takes part once its prior travels with the package.
        units: Of what is judged, by cell.
        build: ``build(cell, problem, quick, draws)`` returns the `Case`.
        draws: Draws of methods that are cheap, see `methods.CHEAP`; on a GPU of all.
        few_draws: Draws of all other methods on a CPU.
        quick_draws: The same in a quick run.
        problems: Problems of each cell for methods that are cheap, by cell; on a GPU for all.
        few: The same for all other methods on a CPU.
        classical: Methods of the suite that know no trained prior; see `classical.Classical`.
        about: A paragraph for the page.
    """

    name: str
    cells: Mapping[str, str]
    priors: Mapping[str, str]
    units: Mapping[str, str]
    build: Callable[[str, int, bool, int], Case]
    draws: int
    few_draws: int
    quick_draws: int
    problems: Mapping[str, int]
    few: Mapping[str, int]
    classical: Mapping[str, Any]
    about: str
