"""What a sampler is judged on: a prior, truths, the data they give, and how draws are looked at."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from posterior.priors.base import Prior
from posterior.samplers.base import Sampler
from posterior.uncertainty.assessment import Assessment, assess
from posterior.uncertainty.conformal import IntervalRepair, RepairCheck, conformal_risk_control, risk_controlling_sets
from posterior.uncertainty.experiments import Experiment, calibrate
from posterior.uncertainty.quantities import Quantity
from posterior.uncertainty.trials import Trial, Trials

BLOCKS = 2  # regions: so many blocks along each axis, and the whole
VALUES = 512  # of an image that are judged


@dataclass(frozen=True, eq=False)
class Yardstick:
    """How the trials of a problem are looked at: an image, value by value and by region.

    Args:
        image: Events (M, *event) as real images (M, H, W): a magnitude, a single channel.
        inside: Images (M, H, W), truth and draws alike, to where they are judged, (H, W) bool; everywhere where None. It must
            treat all images alike, or the truth is no longer one of them.
        event: For the reliability diagram: values to true and false.
        event_name: What it is, in words.
        image_name: What the image is, in words.
    """

    image: Callable[[Tensor], Tensor]
    inside: Callable[[Tensor], Tensor] | None = None
    event: Callable[[Tensor], Tensor] | None = None
    event_name: str = ""
    image_name: str = "field"

    def values(self, trial: Trial) -> Trial:
        """`VALUES` values of the image inside, evenly spaced in the order of their storage; all where there are fewer.

        A trial whose inside is smaller has some of them twice, so that all have as many.
        """
        images, mask = self._masked(trial)
        where = mask.flatten().nonzero()[:, 0]
        count = min(VALUES, mask.numel())
        chosen = where[torch.linspace(0, len(where) - 1, count, dtype=torch.float64).long()]
        return _vectors(images.flatten(1)[:, chosen], trial)

    def region_means(self, trial: Trial) -> Trial:
        """Means over the inside of blocks, and over all of it; a block with nothing inside is 0."""
        images, mask = self._masked(trial)
        both = torch.stack([(images * mask).double(), mask.double().expand(images.shape)])
        blocks = [part for half in both.tensor_split(BLOCKS, -2) for part in half.tensor_split(BLOCKS, -1)]
        sums = torch.stack([part.sum((-2, -1)) for part in (*blocks, both)], -1)
        return _vectors(sums[0] / sums[1].clamp_min(1), trial)

    @property
    def regions(self) -> Quantity:
        """`region_means` as a test quantity."""
        names = tuple(f"block {i}, {j}" for i in range(BLOCKS) for j in range(BLOCKS))
        return Quantity("region means", lambda trial: self.region_means(trial).members, (*names, "whole"))

    def _masked(self, trial: Trial) -> tuple[Tensor, Tensor]:
        images = self.image(trial.members)
        mask = torch.ones(images.shape[1:], dtype=torch.bool) if self.inside is None else self.inside(images)
        if not mask.any():
            raise ValueError("Yardstick: nothing of a trial lies inside what is judged")
        return images, mask

    def assess(self, trials: Trials, *, seed: int = 0) -> Assessment:
        """All diagnostics; see `posterior.uncertainty.assess`."""
        return assess(trials, event=self.event, regions=self.regions, view=self.values, seed=seed)

    def repair(
        self, trials: Trials, first: int, level: float = 0.9, delta: float | None = None
    ) -> dict[str, tuple[IntervalRepair, RepairCheck]]:
        """Conformal repair of pixel and region intervals on the first trials, judged on the others.

        Args:
            trials: The trials.
            first: How many of them the repair may see.
            level: Share that is to lie inside.
            delta: For risk-controlling sets, probability that these trials mislead; conformal risk control where None.

        Returns:
            By "pixels" and "region means": the repair, and its coverage of the trials that it did not see.

        Raises:
            ValueError: If there are too few trials for the guarantee, or too few left to judge by.
        """
        found = {}
        for name, view in (("pixels", self.values), ("region means", self.region_means)):
            seen, new = trials.map(view).split(first)
            made = conformal_risk_control(seen, level) if delta is None else risk_controlling_sets(seen, level, delta)
            found[name] = (made, made.check(new))
        return found


def plain_yardstick(event_shape: tuple[int, ...]) -> Yardstick:
    """For trials of no known problem: all values of an event, its last two axes taken for space."""
    width = event_shape[-1] if event_shape else 1
    return Yardstick(lambda x: x.reshape(len(x), -1, width))


def _vectors(members: Tensor, trial: Trial) -> Trial:
    return Trial(members[0], members[1:], log_weights=trial.log_weights)


@dataclass(frozen=True, eq=False)
class CalibrationProblem:
    """Truths and their data, on which samplers are run.

    Args:
        name: What the command line calls it.
        title: What it is, in words.
        prior: The prior, or a function from the number of a trial to it.
        experiment: Takes a truth to the likelihood of simulated data.
        yardstick: How the trials are looked at.
        sampler: The sampler that is meant for it.

    Other arguments:
        truths: Held-out events (n, *event), physical units; draws of the prior where None.
        settings: Arguments of `posterior.sample`.
        dims: Names of the event axes.
        coords: Coordinates along them.
        field_name: What an event is called in files.
        units: Of an event.
    """

    name: str
    title: str
    prior: Prior | Callable[[int], Prior]
    experiment: Experiment
    yardstick: Yardstick
    sampler: Sampler
    truths: Tensor | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    dims: tuple[str, ...] | None = None
    coords: Mapping[str, Any] | None = None
    field_name: str = "field"
    units: str = "1"

    def run(
        self,
        sampler: Sampler | None = None,
        *,
        trials: int,
        draws: int = 19,
        seed: int = 0,
        folder: str | os.PathLike[str] | None = None,
        workers: int = 1,
        progress: bool | Callable[[int, int], None] = False,
        **settings: Any,
    ) -> Trials:
        """Draw; see `posterior.uncertainty.calibrate`.

        Args:
            sampler: Another than its own.
            trials: How many.

        Other arguments:
            draws: Draws of each; a 90 % interval takes 19.
            seed: Of noise, places and draws.
            folder: Where trials are kept, from which a later call goes on.
            workers: Processes that share the work.
            progress: See `calibrate`.
            settings: Arguments of `posterior.sample` in place of the problem's own.
        """
        return calibrate(
            self.prior,
            self.experiment,
            sampler or self.sampler,
            trials=trials,
            draws=draws,
            seed=seed,
            truths=self.truths,
            folder=folder,
            workers=workers,
            progress=progress,
            **{**self.settings, **settings},
        )
