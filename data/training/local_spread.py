"""Where in the field a bundled prior errs: ``python data/training/local_spread.py galaxies`` puts it in the prior's folder.

Fields are simulated and were not trained on: other galaxies, or other planes, contrasts and phases of the heads of training.
What it gains is on the card. A network errs more on its own draws than on noised fields: `--factor` widens the errors, and
`spread_brain_mri.py` says by how much. Measured images have a finer phase than the simulated ones that a network saw: at small
noise, where data say more of it than the network, errors across the phase are widened too.
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
from train_coarse import borrow

import posterior
from posterior.priors.local import LocalSpread
from posterior.priors.reference import MeasuredReference

# Which noise levels and by how much real k-space decided, of which other samples were withheld than the benchmark's
# (its problem 1000), and simulated crops, whose CRPS was to stay as it was within half a percent.
FINE, ACROSS = 0.1, 4.0


def galaxies() -> Tensor:
    """Simulated fields of odd seeds."""
    return train_galaxies.simulated(range(1, 97, 2)) * train_galaxies.SCALE


def brains() -> Tensor:
    """Simulated crops, of a seed that neither training nor the error spectrum of the card has.

    Of whole slices, whose phase varies less from pixel to pixel, a fit has too small an error across the phase for crops.
    """
    return BrainImages(2345, ((48, 120, 1.0),))(0)


FIELDS = {
    "galaxies": (galaxies, "held-out fields"),
    "brain-mri": (brains, "simulated crops of the heads of training"),
    "brain-mri-flow": (brains, "simulated crops of the heads of training"),
}


def with_fine_phase(across: MeasuredReference) -> MeasuredReference:
    """Errors across the phase, wider at small noise."""
    assert across.sigmas is not None and across.errors is not None
    factor = torch.where(across.sigmas < FINE, ACROSS, 1.0)
    return across.with_errors(across.sigmas, across.errors * factor[:, None].square())


def told_apart(found: LocalSpread) -> str:
    """How much more a denoiser errs along the phase than across it, up to the noise level of a field's own size."""
    sizes = [
        torch.tensor([r.error_covariance((2, 48, 48), float(s)).mean_variance ** 0.5 for s in r.sigmas if s <= 1])
        for r in found.references
        if r.sigmas is not None
    ]
    ratio = sizes[0] / sizes[1]
    return (
        f"errors along the phase are {float(ratio.min()):.1f} to {float(ratio.max()):.1f} times those across it up to sigma 1"
    )


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
    found = posterior.fit_local_spread(prior, fields, phase=args.name.startswith("brain-mri"))
    references, told = tuple(widened(r, args.factor) for r in found.references), ""
    if len(references) == 2:
        references = (references[0], with_fine_phase(references[1]))
        told = f"; {told_apart(found)}, and the latter are kept {ACROSS:g} times as large as measured below sigma {FINE:g}"
    prior.local_spread = dataclasses.replace(found, references=references)
    fitted = len(fields) // 2
    factor = "" if args.factor == 1 else f" --factor {args.factor:g}"
    line = (
        f"`python data/training/local_spread.py {args.name}{factor}`: a local scale of the error covariance, "
        f"fitted to {fitted} {what}, gains {found.gain:.3f} nats a grid point over one scale for the whole field on "
        f"{len(fields) - fitted} others{told}"
    )
    prior.card = prior.card | {"local_spread": line, "local_factor": args.factor}
    lender = json.loads((folder / "posterior.json").read_text()).get("coarse", {}).get("of")
    posterior.save_prior(prior, folder, half=True)
    if lender is not None:
        borrow(folder, lender)
    page = folder / "README.md"
    before, _, section = page.read_text().partition("\n## Local spread")
    _, heading, after = section.partition("\n## ")
    page.write_text(f"{before.rstrip()}\n\n## Local spread\n\n{line}.\n{heading}{after}")
    print(json.dumps(prior.card["local_spread"]))  # noqa: T201


if __name__ == "__main__":
    main()
