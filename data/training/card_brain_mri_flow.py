"""Turn a finished `brain-mri-flow` run into data/priors/brain-mri-flow: weights, error spectrum, curves, card.

``python data/training/card_brain_mri_flow.py --run runs/brain-mri-flow``; what is measured is what ships, half precision.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from card_brain_mri import CARD, colin27_slices, curves, head_crops, measured, page, thinned
from train_brain_mri_flow import flow_prior

import posterior
from posterior.priors.loading import save_prior
from posterior.priors.network import NetworkPrior
from posterior.priors.reference import RadialReference

COMMAND = "python data/training/train_brain_mri_flow.py --out runs/brain-mri-flow --steps 1500 --learning-rate 6e-4 --threads 1"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "priors" / "brain-mri-flow")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--slices", type=int, default=3)
    parser.add_argument("--spread", type=float, default=2.0, help="factor on the standard deviation of the error spectrum")
    args = parser.parse_args()
    torch.set_num_threads(1)
    settings = json.loads((args.run / "settings.json").read_text())
    teacher = posterior.load_prior("brain-mri")
    assert isinstance(teacher, NetworkPrior)
    assert isinstance(teacher.reference, RadialReference)
    prior = flow_prior(teacher, settings["seed"])
    state = torch.load(args.run / "checkpoint.pt", weights_only=True, map_location="cpu")
    prior.network.load_state_dict({k: v.half().float() for k, v in state["average"].items()})
    prior.network.requires_grad_(False).eval()
    plain = RadialReference(teacher.reference.frequencies, teacher.reference.power)
    prior.reference = measured(plain, prior, head_crops(settings["seed"] + 7, args.images, 96), args.spread)
    clean = colin27_slices(args.slices)
    rows, scores = curves(prior, clean), curves(teacher, clean)
    prior.card = CARD | {
        "summary": "complex images of the head at about 1 mm, any size: the velocity of a flow",
        "commands": [COMMAND, f"{COMMAND.split()[0]} data/training/card_brain_mri_flow.py --run runs/brain-mri-flow"],
        "start": "the blocks of brain-mri, its first and last convolution and time embedding fitted anew by least squares",
        "spread": args.spread,
        "checks": [
            f"flow matching from the weights of brain-mri, {state['step']} of {settings['steps']} steps; averaged weights",
            "error over that of brain-mri on the held-out head, by sigma: "
            + ", ".join(f"{r['sigma']:.3g}: {r['network'] / s['network']:.2f}" for r, s in zip(rows, scores, strict=True)),
            f"spread factor {args.spread} taken over from brain-mri, not tuned for this network",
        ],
        "loss": [thinned(args.run / "loss.csv")],
        "settings": settings,
        "steps_done": state["step"],
        "parameters": sum(p.numel() for p in prior.network.parameters()),
        "held_out_rmse": rows,
    }
    save_prior(prior, args.out, half=True)
    (args.out / "README.md").write_text(page(prior.card, "brain-mri-flow", "the mean squared error of the velocity"))
    assert np.isfinite([r["network"] for r in rows]).all()


if __name__ == "__main__":
    main()
