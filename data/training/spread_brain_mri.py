"""Which factor on the errors makes draws of `brain-mri` as wide as they are wrong.

``python data/training/spread_brain_mri.py``: simulated images of the training subjects, undersampled with 8 coils; for each
factor the error of the posterior mean beside the standard deviation of the draws, and the fair CRPS, inside the head. The
factor is that of the covariance that `GaussianBridge` draws with: the local one, or the average one with ``--average``.
"""

from __future__ import annotations

import argparse
import dataclasses

import numpy as np
import torch
from brain_images import BrainImages

import posterior
from posterior._memory import keep_large_blocks
from posterior.priors.reference import MeasuredReference
from posterior.recipes.mri.prepare import prepare
from posterior.recipes.mri.results import head_mask
from posterior.recipes.mri.simulation import simulate
from posterior.uncertainty.scores import crps_members


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--factors", type=float, nargs="+", default=[1.0, 1.5, 2.0, 2.5, 3.0])
    parser.add_argument("--images", type=int, default=6)
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--draws", type=int, default=4)
    parser.add_argument("--acceleration", type=float, default=4.0)
    parser.add_argument("--average", action="store_true", help="one scale for the whole field")
    args = parser.parse_args()
    keep_large_blocks()
    prior = posterior.load_prior("brain-mri")
    assert isinstance(prior, posterior.NetworkPrior)
    table, local = prior.reference, prior.local_spread
    data = BrainImages(1234, ((args.size, args.images, 1.0),))
    problems = [
        prepare(simulate(torch.hypot(*image), seed=i, acceleration=args.acceleration, source=f"simulated image {i}"))
        for i, image in enumerate(data(0))
    ]
    for factor in args.factors:
        if args.average or local is None:
            prior.reference, prior.local_spread = widened(table, factor / prior.card["spread"]), None
        else:
            references = tuple(widened(r, factor / prior.card["local_factor"]) for r in local.references)
            prior.local_spread = dataclasses.replace(local, references=references)
        squared, variance, scores = [], [], []
        for problem in problems:
            draws = posterior.sample(
                prior,
                problem.likelihood,
                posterior.GaussianBridge(),
                draws=args.draws,
                event_shape=problem.event_shape,
                dtype=torch.float32,
            )
            size = torch.linalg.vector_norm(draws.samples, dim=1)
            head = head_mask(problem.truth)
            spread = size.var(0)[head]
            # The mean of n draws carries 1/n of their variance as an error of its own.
            squared.append(float(((size.mean(0) - problem.truth)[head] ** 2 - spread / args.draws).mean()))
            variance.append(float(spread.mean()))
            members = torch.cat([problem.truth[None], size])[:, head]
            scores.append(float(crps_members(members)[0].mean()))
        error, std = np.sqrt(squared), np.sqrt(variance)
        print(  # noqa: T201
            f"factor {factor}: error {error.round(4)} std {std.round(4)} ratio {np.median(error / std):.2f} "
            f"CRPS {np.mean(scores):.5f}",
            flush=True,
        )


def widened(reference: MeasuredReference, factor: float) -> MeasuredReference:
    """With errors of this factor on their standard deviation."""
    assert reference.errors is not None
    return reference.with_errors(reference.sigmas, reference.errors * factor**2)


if __name__ == "__main__":
    main()
