"""Check `brain-mri` or `brain-mri-flow` on the held-out head, and put the verdicts on its card.

``python data/training/check_brain_mri.py brain-mri``. Held-out fields are images of colin27 and training fields those of the
training subjects, both simulated in the same way: whole slices with the air around the head, the population of the reference
Gaussian that unconditional draws start from. Crops of the head alone have another mean power.
"""

from __future__ import annotations

import argparse
import shlex
import sys

import torch
from brain_images import BrainImages
from image_priors import FOLDER, put_on_card
from torch import Tensor

import posterior
from posterior._memory import keep_large_blocks
from posterior.priors.base import Prior
from posterior.priors.training.workers import InPrecision
from posterior.uncertainty import check_prior


def size_matters(prior: Prior, whole: Tensor) -> str:
    """Why draws are to be compared with whole slices."""
    crops = BrainImages(3, ((96, 20, 1.0),), held_out=True)(0)
    assert prior.reference is not None
    start = float(prior.reference.covariance(tuple(whole.shape[1:])).eigenvalues.mean().sqrt())
    sizes = [float(prior.affine.to_standard(x).square().mean().sqrt()) for x in (whole, crops)]
    return (
        f"unconditional draws start at a noise level of {prior.sigma_top:g} from the reference Gaussian of whole slices, "
        f"root-mean-square {start:.2f} (held-out whole slices {sizes[0]:.2f}; 96 x 96 crops of the head have {sizes[1]:.2f})"
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--held-out", type=int, default=100)
    parser.add_argument("--denoised", type=int, default=8, help="held-out fields that are denoised")
    parser.add_argument("--probed", type=int, default=1, help="held-out fields at which the Jacobian is probed")
    parser.add_argument("--training", type=int, default=100)
    parser.add_argument("--draws", type=int, default=32)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--bfloat16", action="store_true", help="the network as it was trained, in a third of the time")
    parser.add_argument("--checkpoint", help="file of finished draws, with which a run that was killed goes on")
    args = parser.parse_args()
    keep_large_blocks()
    torch.set_num_threads(1)
    prior = posterior.load_prior(FOLDER / args.name)
    if args.bfloat16:
        prior.network = InPrecision(prior.network, torch.device("cpu"), True)
    held_out = BrainImages(3, ((args.size, args.held_out, 1.0),), held_out=True)(0)
    training = BrainImages(4, ((args.size, args.training, 1.0),))(0)
    draws = posterior.sample_prior(
        prior,
        draws=args.draws,
        steps=args.steps,
        batch_size=1,
        event_shape=tuple(held_out.shape[1:]),
        dtype=torch.float32,
        checkpoint=args.checkpoint,
        progress=lambda p: print(f"draw {p.done} of {p.total}", flush=True),
    )
    check = check_prior(
        prior,
        held_out,
        training,
        draws=draws.samples,
        steps=args.steps,
        denoising_fields=args.denoised,
        batch_size=1,
        jacobian_fields=args.probed,
        jacobian_levels=3,
        progress=lambda what, share: print(f"{what} {100 * share:.0f} %", flush=True),
    )
    told = [a for i, a in enumerate(sys.argv) if i and "--checkpoint" not in sys.argv[i - 1 : i + 1]]
    command = shlex.join(["python", "data/training/check_brain_mri.py", *told])
    put_on_card(args.name, check, command, size_matters(prior, held_out))
    print(*check.verdicts, sep="\n")


if __name__ == "__main__":
    main()
