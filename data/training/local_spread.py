"""Where in the field a bundled prior errs: ``python data/training/local_spread.py galaxies`` puts it in the prior's folder.

Fields are simulated and were not trained on. What it gains is on the card.
"""

from __future__ import annotations

import argparse
import json

import torch
import train_galaxies
from image_priors import FOLDER
from torch import Tensor

import posterior


def galaxies() -> Tensor:
    """Simulated fields of odd seeds."""
    return train_galaxies.fields(48, odd=True) * train_galaxies.SCALE


FIELDS = {"galaxies": galaxies}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=sorted(FIELDS))
    args = parser.parse_args()
    torch.set_num_threads(1)
    folder = FOLDER / args.name
    prior = posterior.load_prior(folder)
    fields = FIELDS[args.name]()
    prior.local_spread = posterior.fit_local_spread(prior, fields)
    fitted = len(fields) // 2
    line = (
        f"`python data/training/local_spread.py {args.name}`: a local scale of the error covariance, fitted to {fitted} "
        f"held-out fields, gains {prior.local_spread.gain:.3f} nats a grid point over one scale for the whole field on "
        f"{len(fields) - fitted} others"
    )
    prior.card = prior.card | {"local_spread": line}
    posterior.save_prior(prior, folder, half=True)
    page = folder / "README.md"
    before, _, section = page.read_text().partition("\n## Local spread")
    _, heading, after = section.partition("\n## ")
    page.write_text(f"{before.rstrip()}\n\n## Local spread\n\n{line}.\n{heading}{after}")
    print(json.dumps(prior.card["local_spread"]))  # noqa: T201


if __name__ == "__main__":
    main()
