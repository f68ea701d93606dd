"""Check `galaxies` on simulated fields that it has not seen, and put the verdicts on its card.

``python data/training/check_galaxies.py``. The first 96 held-out fields gave the card its error spectrum; those here
follow, turned and dimmed as in training.
"""

from __future__ import annotations

import argparse
import shlex
import sys

import torch
from image_priors import put_on_card
from train_galaxies import MEASURED, POOL, SCALE, simulated, turned

import posterior
from posterior._memory import keep_large_blocks
from posterior.uncertainty import check_prior


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--held-out", type=int, default=400)
    parser.add_argument("--denoised", type=int, default=48, help="held-out fields that are denoised")
    parser.add_argument("--training", type=int, default=1500)
    parser.add_argument("--draws", type=int, default=128)
    parser.add_argument("--steps", type=int, default=24)
    args = parser.parse_args()
    keep_large_blocks()
    torch.set_num_threads(1)
    g = torch.Generator().manual_seed(0)
    held_out = turned(simulated(range(2 * MEASURED + 1, 2 * (MEASURED + args.held_out), 2)), g)
    training = turned(simulated(range(2 * POOL, 2 * (POOL + args.training), 2)), g)
    check = check_prior(
        posterior.load_prior("galaxies"),
        SCALE * held_out,
        SCALE * training,
        draws=args.draws,
        steps=args.steps,
        denoising_fields=args.denoised,
        jacobian_fields=4,
        jacobian_levels=3,
        progress=lambda what, share: print(f"{what} {100 * share:.0f} %", flush=True),
    )
    put_on_card("galaxies", check, shlex.join(["python", "data/training/check_galaxies.py", *sys.argv[1:]]))
    print(*check.verdicts, sep="\n")


if __name__ == "__main__":
    main()
