"""Turn a finished `brain-mri` training run into data/priors/brain-mri: weights, error spectrum, curves, card.

``python data/training/card_brain_mri.py --run runs/brain-mri``. The error spectrum is measured on freshly simulated
images of the training subjects; colin27, which training never read, gives the curves on the card and nothing else.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from brain_images import BrainImages, phase
from torch import Tensor
from train_brain_mri import brain_prior

import posterior
from posterior.io.registry import fetch
from posterior.priors.loading import save_prior
from posterior.priors.network import NetworkPrior
from posterior.priors.reference import RadialReference, radial_spectrum

SIGMAS = np.geomspace(0.01, 20, 16)
SCALE = 0.25
CARD = {
    "summary": "complex images of the head at about 1 mm, any size",
    "pixel_size_mm": 1.0,
    "scaling": "divide by the 99th percentile of the magnitude: tissue is then at most about 1",
    "data": [
        "ICBM152 2009a template: T1, grey and white matter (McGill, permissive notice; nilearn/nilearn)",
        "one clinical T1 head, seg3D_MR_T1 (MIT; neurolabusc/VolumeRenderingData)",
        "one skull-stripped subject in T1, T2 and FLAIR (MIT and BSD-2; neurolabusc/VolumeRenderingData, niivue/niivue)",
    ],
    "held_out": "colin27",
    "licence": "Apache-2.0",
    "limits": "trained on three heads with simulated contrast, deformation and phase; pathology is not represented",
}


def head_crops(seed: int, count: int, size: int = 128) -> Tensor:
    """Simulated crops that the head mostly fills, standardised (count, 2, size, size)."""
    data, kept, step = BrainImages(seed, ((size, 8, 1.0),)), [], 0
    while len(kept) < count:
        for image in data(step):
            magnitude = torch.hypot(image[0], image[1])
            if (magnitude > 0.1).float().mean() > 0.7:
                kept.append(image)
        step += 1
    return torch.stack(kept[:count]) / SCALE


def colin27_slices(count: int, size: int = 224) -> Tensor:
    """Slices of the held-out head in three orientations with a smooth phase, standardised (count, 2, size, size)."""
    volume = np.asarray(nibabel.as_closest_canonical(nibabel.load(fetch("colin27"))).dataobj, dtype=np.float32)
    rng, images = np.random.default_rng(0), []
    for i in range(count):
        axis = i % 3
        where = int(volume.shape[axis] * (0.35 + 0.3 * (i // 3 + 0.5) / (count / 3)))
        cut = np.rot90(np.take(volume, where, axis=axis))
        full = np.zeros((size, size), np.float32)
        top, left = (size - cut.shape[0]) // 2, (size - cut.shape[1]) // 2
        full[top : top + cut.shape[0], left : left + cut.shape[1]] = cut
        full /= np.percentile(full[full > 0], 99)
        angle = phase(size, rng)
        images.append(np.stack([full * np.cos(angle), full * np.sin(angle)]))
    return torch.from_numpy(np.stack(images)).float() / SCALE


def errors(prior: NetworkPrior, clean: Tensor, sigma: float, seed: int) -> Tensor:
    """x0 - D(x0 + sigma eps, sigma)."""
    g = torch.Generator().manual_seed(seed)
    noisy = clean + sigma * torch.randn(clean.shape, generator=g)
    with torch.no_grad():
        return torch.cat([c - prior.denoise(n, sigma) for c, n in zip(clean.split(4), noisy.split(4), strict=True)])


def measured(reference: RadialReference, prior: NetworkPrior, crops: Tensor, spread: float) -> RadialReference:
    """The reference with the denoiser's error spectrum, its square root scaled by ``spread``.

    On its own draws the network errs more than on noised images: `spread_brain_mri.py` finds by how much.
    """
    rows = []
    for i, sigma in enumerate(SIGMAS):
        power = radial_spectrum(errors(prior, crops, float(sigma), i))[1]
        at = np.interp(reference.frequencies.numpy(), radial_spectrum(crops[:1])[0].numpy(), power.log().numpy())
        rows.append(spread**2 * torch.from_numpy(np.exp(at)))
    return dataclasses.replace(reference, sigmas=torch.from_numpy(SIGMAS), errors=torch.stack(rows))


def curves(prior: NetworkPrior, clean: Tensor) -> list[dict[str, float]]:
    """Root-mean-square error of the network and of the Gaussian denoiser against sigma, standardised units."""
    rows = []
    for i, sigma in enumerate(SIGMAS):
        g = torch.Generator().manual_seed(100 + i)
        noisy = clean + sigma * torch.randn(clean.shape, generator=g)
        linear = (clean - prior.reference.denoise(noisy, float(sigma))).square().mean().sqrt()
        network = errors(prior, clean, float(sigma), 100 + i).square().mean().sqrt()
        row = {"sigma": float(sigma), "network": float(network), "gaussian": float(linear)}
        rows.append({k: round(v, 5) for k, v in row.items()})
    return rows


def thinned(losses: Path, every: int = 100) -> list[list[float]]:
    """[last step, mean loss] of each ``every`` steps of a run's loss.csv."""
    table = np.loadtxt(losses, delimiter=",")
    return [
        [int(part[-1, 0]) + 1, round(float(part[:, 1].mean()), 4)] for part in np.split(table, range(every, len(table), every))
    ]


def page(
    card: dict[str, Any], name: str = "brain-mri", loss: str = "1: as wrong as the Gaussian would be on whole slices"
) -> str:
    """The card as a page for people."""
    lines = [f"# {name}", "", f"A prior of {card['summary']}. Scaling: {card['scaling']}. Licence: {card['licence']}.", ""]
    lines += ["## Data", "", *(f"- {d}" for d in card["data"]), f"- held out entirely: {card['held_out']}", ""]
    lines += [f"Limits: {card['limits']}.", "", "## Training", "", f"{card['parameters']} parameters, half precision.", ""]
    lines += ["```", *card["commands"], "```", "", "## Checks", "", *(f"- {c}" for c in card["checks"]), ""]
    lines += ["Denoising error on the held-out head, root-mean-square, standardised units:", ""]
    lines += ["| sigma | network | optimal Gaussian |", "|---|---|---|"]
    lines += [f"| {r['sigma']:.3g} | {r['network']:.4f} | {r['gaussian']:.4f} |" for r in card["held_out_rmse"]]
    lines += [
        "",
        f"Training loss ({loss}), means of 100 steps, one row a run:",
        "",
    ]
    runs = [run[4::5] if len(run) > 9 else run for run in card["loss"]]
    lines += ["- " + ", ".join(f"{step}: {mean}" for step, mean in run) for run in runs]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "priors" / "brain-mri")
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--spread", type=float, default=1.0, help="factor on the standard deviation of the error spectrum")
    parser.add_argument("--after", action="store_true", help="the run went on from the prior in --out: keep what its card says")
    parser.add_argument("--earlier", type=Path, action="append", default=[], help="folder of an earlier run, for the card")
    parser.add_argument("--check", action="append", default=[], help="a sentence on what was checked, for the card")
    parser.add_argument("--command", action="append", default=[], help="a training command, for the card")
    args = parser.parse_args()
    settings = json.loads((args.run / "settings.json").read_text())
    frequencies, power = torch.load(args.run / "reference.pt", weights_only=True)
    reference = RadialReference(frequencies, power)
    sigma_range = (settings["sigma_min"], settings["sigma_max"])
    prior = brain_prior(reference, SCALE, sigma_range, settings["seed"])
    state = torch.load(args.run / "checkpoint.pt", weights_only=True, map_location="cpu")
    # What ships is half precision, so that is what is measured.
    prior.network.load_state_dict({k: v.half().float() for k, v in state["average"].items()})
    prior.network.requires_grad_(False)
    prior.reference = measured(reference, prior, head_crops(settings["seed"] + 7, args.images), args.spread)
    before = posterior.load_prior(args.out) if args.after else None
    prior.coarse = None if before is None else before.coarse
    known = {} if before is None else before.card
    prior.card = (
        CARD
        | {k: known[k] for k in ("coarse",) if k in known}
        | {
            "commands": [*known.get("commands", []), *args.command],
            "spread": args.spread,
            "checks": [*known.get("checks", []), *args.check],
            "loss": known.get("loss", []) + [thinned(folder / "loss.csv") for folder in (*args.earlier, args.run)],
            "settings": settings,
            "steps_done": state["step"],
            "parameters": sum(p.numel() for p in prior.network.parameters()),
            "held_out_rmse": curves(prior, colin27_slices(9)),
        }
    )
    save_prior(prior, args.out, half=True)
    (args.out / "README.md").write_text(page(prior.card))


if __name__ == "__main__":
    main()
