"""Where in the field a bundled prior errs: ``python data/training/local_spread.py galaxies`` puts it in the prior's folder.

Fields are simulated and were not trained on: other galaxies, or other planes, contrasts and phases of the heads of training.
What it gains is on the card. A network errs more on its own draws than on noised fields: `--factor` widens the errors, and
`spread_brain_mri.py` says by how much.
"""

from __future__ import annotations

import argparse
import dataclasses
import json

import torch
import train_galaxies
from brain_images import BrainImages
from image_priors import FOLDER
from spread_brain_mri import widened
from torch import Tensor

import posterior


def galaxies() -> Tensor:
    """Simulated fields of odd seeds."""
    return train_galaxies.simulated(range(1, 97, 2)) * train_galaxies.SCALE


def brains() -> Tensor:
    """Simulated slices, of a seed that neither training nor the error spectrum of the card has."""
    return BrainImages(2345, ((144, 24, 1.0),))(0)


FIELDS = {
    "galaxies": (galaxies, "held-out fields"),
    "brain-mri": (brains, "simulated slices of the heads of training"),
}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=sorted(FIELDS))
    parser.add_argument("--factor", type=float, default=1.0, help="on the standard deviation of the errors")
    args = parser.parse_args()
    torch.set_num_threads(1)
    folder = FOLDER / args.name
    prior = posterior.load_prior(folder)
    make, what = FIELDS[args.name]
    fields = make()
    found = posterior.fit_local_spread(prior, fields, phase=args.name == "brain-mri")
    prior.local_spread = dataclasses.replace(found, references=tuple(widened(r, args.factor) for r in found.references))
    fitted = len(fields) // 2
    unit = "grid point and component" if len(found.references) > 1 else "grid point"
    factor = "" if args.factor == 1 else f" --factor {args.factor:g}"
    line = (
        f"`python data/training/local_spread.py {args.name}{factor}`: a local scale of the error covariance, "
        f"fitted to {fitted} {what}, gains {found.gain:.3f} nats a {unit} over one scale for the whole field on "
        f"{len(fields) - fitted} others"
    )
    prior.card = prior.card | {"local_spread": line, "local_factor": args.factor}
    posterior.save_prior(prior, folder, half=True)
    page = folder / "README.md"
    before, _, section = page.read_text().partition("\n## Local spread")
    _, heading, after = section.partition("\n## ")
    page.write_text(f"{before.rstrip()}\n\n## Local spread\n\n{line}.\n{heading}{after}")
    print(json.dumps(prior.card["local_spread"]))  # noqa: T201


if __name__ == "__main__":
    main()
