"""Does a prior hand out its training data? Nearest neighbours of its draws, beside those of held-out fields."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from posterior.uncertainty.prior_check.verdicts import Grade, Verdict

COPY = 1 / 3  # a draw this much nearer to one training field than to the next is a copy of it
CLOSE = 0.75


@dataclass(frozen=True, eq=False)
class Memorisation:
    """Distances to the training fields, root-mean-square over a field's points, standardised units.

    Args:
        draws: Distance of each draw to its nearest training field (N,).
        held_out: The same of held-out fields (n,).
        copies: Share of draws whose nearest training field is nearer than a third of the distance to the second.
        held_out_copies: The same share of held-out fields.
        training: How many training fields were searched.
    """

    draws: Tensor
    held_out: Tensor
    copies: float
    held_out_copies: float
    training: int

    @property
    def ratio(self) -> float:
        """Median distance of draws over that of held-out fields."""
        return float(self.draws.median() / self.held_out.median())

    @property
    def verdict(self) -> Verdict:
        """Whether draws are copies."""
        words = (
            f"{100 * self.copies:.1f} % of draws are copies of one of {self.training} training fields (held-out fields: "
            f"{100 * self.held_out_copies:.1f} %); the median distance to the nearest training field is "
            f"{float(self.draws.median()):.3g}, {self.ratio:.2f} times that of held-out fields"
        )
        if self.copies > self.held_out_copies + 0.01:
            return Verdict("memorisation", Grade.bad, f"Training data come back: {words}.")
        if self.ratio < CLOSE:
            return Verdict(
                "memorisation", Grade.doubtful, f"Draws keep close to the training data, or are too smooth: {words}."
            )
        return Verdict("memorisation", Grade.good, f"No training data come back: {words}.")


def memorisation(draws: Tensor, held_out: Tensor, training: Tensor) -> Memorisation:
    """Compare nearest neighbours.

    Args:
        draws: (N, *event), standardised coordinates.
        held_out: (n, *event).
        training: (m, *event), at least two.

    Raises:
        ValueError: If there are fewer.

    References:
        Meehan, Chaudhuri, Dasgupta. A non-parametric test to detect data-copying in generative models. 2020. AISTATS.
            arXiv:2004.05675 (held-out data as the yardstick).
        Yoon, Choi, Kwon, Ryu. Diffusion probabilistic models generalize when they fail to memorize. 2023. ICML workshop
            on structured probabilistic inference (the rule of one third).
    """
    if len(training) < 2:
        raise ValueError(f"memorisation: there is {len(training)} training field; wanted two or more")
    first, share = _nearest(draws, training)
    held, held_share = _nearest(held_out, training)
    return Memorisation(first, held, share, held_share, len(training))


def _nearest(fields: Tensor, training: Tensor) -> tuple[Tensor, float]:
    """Distance to the nearest training field, and the share of fields that are copies."""
    known = training.flatten(1).float()
    found = []
    for part in fields.flatten(1).float().split(64):
        # Differences taken outright: the expanded square loses a copy's distance to rounding.
        found.append(torch.cdist(part, known, compute_mode="donot_use_mm_for_euclid_dist").topk(2, largest=False).values)
    two = torch.cat(found).double() / known.shape[1] ** 0.5
    return two[:, 0], float((two[:, 0] < COPY * two[:, 1]).double().mean())
