"""Train the prior `galaxies` and write its folder: ``python data/training/train_galaxies.py --run runs/galaxies``.

Everything is simulated (`posterior.recipes.deblur.galaxies`): fields of even number train, fields of odd number give the
error spectrum and the curves on the card. Run again to resume.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from image_priors import Ahead, residual_prior
from torch import Tensor

from posterior.priors.loading import save_prior
from posterior.priors.network import NetworkPrior
from posterior.priors.reference import RadialReference, radial_spectrum
from posterior.priors.symmetries import SYMMETRIES
from posterior.priors.training import TrainingSettings, train
from posterior.recipes.deblur.galaxies import galaxy_field

SIZE = 64
SCALE = 0.04  # about the root-mean-square of a field
BLOCKS = (32, 64, 96)
SIGMAS = np.geomspace(0.01, 20, 16)
POOL = 1500  # fields that the reference Gaussian is fitted on; those of the batches follow
MEASURED = 96  # held-out fields that the error spectrum is measured on
CARD = {
    "summary": "fields of galaxies at the scale of Hubble's ACS, any size",
    "scaling": "divide by the surface brightness of the brightest galaxy's peak: 0.25 to 1 is what it knows best",
    "data": [
        "simulated Sersic ellipticals, lenticulars and spirals with arms and clumps (posterior/recipes/deblur/galaxies.py)"
    ],
    "held_out": "simulated fields of odd seeds",
    "licence": "Apache-2.0",
    "limits": "simulated light only: no stars, no dust lanes, no noise of the sky; galaxies of 2.5 to 9 pixels",
}


def simulated(numbers: range, side: int = SIZE, workers: int = 1) -> Tensor:
    """Standardised simulated fields (N, 1, side, side) of these numbers."""
    make = partial(galaxy_field, (side, side))
    if workers > 1:
        with ProcessPoolExecutor(workers) as pool:
            made = list(pool.map(make, numbers, chunksize=16))
    else:
        made = list(map(make, numbers))
    return torch.stack(made)[:, None] / SCALE


def turned(clean: Tensor, g: torch.Generator) -> Tensor:
    """Each field turned, mirrored and dimmed at random."""
    out = []
    for x in clean:
        k = int(torch.randint(8, (), generator=g))
        x = torch.rot90(x, k % 4, (-2, -1))
        out.append((x.flip(-1) if k > 3 else x) * float(2 ** (torch.rand((), generator=g) - 0.5)))
    return torch.stack(out)


def galaxies_prior(reference: RadialReference, sigma_range: tuple[float, float], seed: int) -> NetworkPrior:
    """An untrained prior."""
    return residual_prior(
        "galaxies",
        reference,
        SCALE,
        sigma_range,
        channels=1,
        blocks=BLOCKS,
        layers=1,
        seed=seed,
        symmetries=SYMMETRIES,
    )


def measure(prior: NetworkPrior, clean: Tensor) -> tuple[Tensor, list[dict[str, float]]]:
    """Error spectrum (sigmas, frequencies) on held-out fields, and root-mean-square errors beside the Gaussian's."""
    rows, curves = [], []
    for i, sigma in enumerate(map(float, SIGMAS)):
        g = torch.Generator().manual_seed(i)
        noisy = clean + sigma * torch.randn(clean.shape, generator=g)
        with torch.no_grad():
            error = torch.cat([c - prior.denoise(n, sigma) for c, n in zip(clean.split(16), noisy.split(16), strict=True)])
        rows.append(radial_spectrum(error)[1])
        linear = clean - prior.reference.denoise(noisy, sigma)
        row = {"sigma": sigma, "network": float(error.square().mean().sqrt()), "gaussian": float(linear.square().mean().sqrt())}
        curves.append({k: round(v, 5) for k, v in row.items()})
    return torch.stack(rows), curves


def page(card: dict) -> str:
    """The card as a page for people."""
    lines = ["# galaxies", "", f"A prior of {card['summary']}. Scaling: {card['scaling']}. Licence: {card['licence']}.", ""]
    lines += ["## Data", "", *(f"- {d}" for d in card["data"]), f"- held out: {card['held_out']}", ""]
    lines += [f"Limits: {card['limits']}.", "", "## Training", ""]
    lines += [f"{card['parameters']} parameters, half precision; {card['minutes']} minutes on {card['machine']}.", ""]
    lines += ["```", card["command"], "```", ""]
    lines += ["Denoising error on held-out fields, root-mean-square, standardised units:", ""]
    lines += ["| sigma | network | optimal Gaussian |", "|---|---|---|"]
    lines += [f"| {r['sigma']:.3g} | {r['network']:.4f} | {r['gaussian']:.4f} |" for r in card["held_out_rmse"]]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "priors" / "galaxies")
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--ema", type=float, default=0.995)
    parser.add_argument("--workers", type=int, default=0, help="processes that simulate fields")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.run.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    reference = RadialReference(*radial_spectrum(simulated(range(0, 2 * POOL, 2), workers=args.workers)))
    settings = TrainingSettings(args.steps, args.learning_rate, ema=args.ema, checkpoint_every=400)
    prior = galaxies_prior(reference, (settings.sigma_min, settings.sigma_max), settings.seed)
    recent: list[float] = []

    def batches(step: int) -> Tensor:
        first = POOL + step * args.batch
        return turned(simulated(range(2 * first, 2 * (first + args.batch), 2)), torch.Generator().manual_seed(step))

    def progress(step: int, loss: float) -> None:
        recent.append(loss)
        if (step + 1) % 100 == 0:
            print(f"step {step + 1} loss {np.mean(recent[-100:]):.4f} {(time.monotonic() - began) / 60:.1f} min", flush=True)

    train(prior, Ahead(batches, args.steps, args.workers), settings, args.run, progress)
    minutes = round((time.monotonic() - began) / 60, 1)
    device = next(prior.network.parameters()).device
    prior.network.to("cpu")
    # What ships is half precision, so that is what is measured.
    prior.network.load_state_dict({k: v.half().float() for k, v in prior.network.state_dict().items()})
    errors, curves = measure(prior, simulated(range(1, 2 * MEASURED, 2)))
    prior.reference = RadialReference(reference.frequencies, reference.power, torch.from_numpy(SIGMAS), errors)
    prior.card = CARD | {
        "command": shlex.join(["python", "data/training/train_galaxies.py", *sys.argv[1:]]),
        "minutes": minutes,
        "machine": "one shared core" if device.type == "cpu" else torch.cuda.get_device_name(device),
        "steps": args.steps,
        "parameters": sum(p.numel() for p in prior.network.parameters()),
        "held_out_rmse": curves,
    }
    save_prior(prior, args.out, half=True)
    (args.out / "README.md").write_text(page(json.loads(json.dumps(prior.card))))


if __name__ == "__main__":
    main()
