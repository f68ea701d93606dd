"""Train `brain-mri`: ``python data/training/train_brain_mri.py --out runs/brain-mri``; run again to resume.

``--start`` goes on from the averaged weights of another run, or from a finished prior, on the reference Gaussian of that.

Training reads icbm152, one clinical T1 head and one three-contrast subject; colin27 is held out entirely and gives the
error spectrum and the curves on the card.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from brain_images import BrainImages
from image_priors import Ahead, residual_prior

import posterior
from posterior.priors.network import NetworkPrior
from posterior.priors.reference import RadialReference, radial_spectrum
from posterior.priors.training import TrainingSettings, train

SIZES = ((96, 8, 0.45), (128, 5, 0.25), (192, 2, 0.18), (256, 1, 0.12))
BLOCKS = (32, 64, 96, 128)
SYMMETRIES = ("flip-x", "flip-y", "transpose")  # planes lie in all eight orientations, though not in each as often


def brain_reference(seed: int, images: int, scale: float, sharp: bool) -> RadialReference:
    """Radial power spectrum of whole training slices, standardised by ``scale``."""
    data = BrainImages(seed, ((256, images, 1.0),), sharp)(0) / scale
    return RadialReference(*radial_spectrum(data))


def brain_prior(reference: RadialReference, scale: float, sigma_range: tuple[float, float], seed: int) -> NetworkPrior:
    """An untrained prior."""
    return residual_prior(
        "brain-mri",
        reference,
        scale,
        sigma_range,
        channels=2,
        blocks=BLOCKS,
        layers=2,
        seed=seed,
        symmetries=SYMMETRIES,
    )


def started(name: str) -> tuple[dict[str, torch.Tensor], RadialReference]:
    """Averaged weights and reference Gaussian of a run, or of a prior."""
    run = Path(name)
    if (run / "checkpoint.pt").exists():
        state = torch.load(run / "checkpoint.pt", weights_only=True, map_location="cpu")
        return state["average"], RadialReference(*torch.load(run / "reference.pt", weights_only=True))
    prior = posterior.load_prior(name)
    assert isinstance(prior, NetworkPrior)
    assert isinstance(prior.reference, RadialReference)
    return prior.network.state_dict(), RadialReference(prior.reference.frequencies, prior.reference.power)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--smooth", action="store_true", help="no native planes and no sharpening")
    parser.add_argument("--start", help="what to go on from: folder of a finished run, or a prior")
    parser.add_argument("--batch", type=int, default=1, help="times the batches that one core is given")
    parser.add_argument("--workers", type=int, default=0, help="processes that simulate images")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    scale = 0.25  # about the root-mean-square of real and imaginary parts inside a head
    cache = args.out / "reference.pt"
    start = None if args.start is None else started(args.start)
    if cache.exists():
        reference = RadialReference(*torch.load(cache, weights_only=True))
    else:
        reference = brain_reference(args.seed + 1, 300, scale, not args.smooth) if start is None else start[1]
        torch.save((reference.frequencies, reference.power), cache)
    settings = TrainingSettings(steps=args.steps, learning_rate=args.learning_rate, seed=args.seed)
    prior = brain_prior(reference, scale, (settings.sigma_min, settings.sigma_max), args.seed)
    if start is not None:
        prior.network.load_state_dict(start[0])
    sizes = tuple((side, args.batch * count, chance) for side, count, chance in SIZES)
    data = BrainImages(args.seed, sizes, not args.smooth)
    recent: list[float] = []
    began = time.monotonic()
    first: list[int] = []

    def progress(step: int, loss: float) -> None:
        recent.append(loss)
        first[:] = first or [step]
        if (step + 1) % 50 == 0:
            pace = (time.monotonic() - began) / (step + 1 - first[0])
            left = pace * (settings.steps - step - 1) / 60
            print(f"step {step + 1}/{settings.steps} loss {np.mean(recent[-200:]):.4f} {left:.0f} min left", flush=True)  # noqa: T201

    train(prior, Ahead(lambda step: data(step) / scale, args.steps, args.workers), settings, args.out, progress)


if __name__ == "__main__":
    main()
