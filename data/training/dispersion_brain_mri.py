"""Why draws of `brain-mri` vary less than images do: ``python data/training/dispersion_brain_mri.py brain-mri``.

The sampler, the held-out head and the network are told apart. Draws of the same seeds with few and many steps show what
steps cost. A denoiser that is E[x0 | x] has E<x0, D> = E|D|^2 at every noise level; a ratio above 1 says that what it
returns is too small, on training images as on held-out ones.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path

import torch
from brain_images import BrainImages
from check_brain_mri import FOLDER
from torch import Tensor

import posterior
from posterior._memory import keep_large_blocks
from posterior.priors.base import Prior

LEVELS = (0.2, 0.6, 2.0, 6.0, 12.0, 20.0)


def slopes(prior: Prior, images: Tensor) -> list[float]:
    """E<x0, D> / E|D|^2 of standardised images (n, 2, H, W) at `LEVELS`, over the same noise."""
    found = []
    for k, sigma in enumerate(LEVELS):
        noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(k))
        with torch.no_grad():
            made = torch.cat([prior.denoise(x, sigma) for x in (images + sigma * noise).split(4)])
        found.append(float((images * made).sum() / made.square().sum()))
    return found


def reading(sizes: dict[int, float], known: float) -> str:
    """How much of what draws lack the steps and the choice of heads account for."""
    few, many = min(sizes), max(sizes)
    return (
        f"with {few} steps {1 - sizes[few]:.3f} is missing: {many} steps give {sizes[many] - sizes[few]:+.3f} back, training "
        f"heads lack {1 - known:.3f} themselves; the rest is not explained by either"
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--draws", type=int, default=6)
    parser.add_argument("--steps", type=int, nargs="+", default=[12, 40])
    args = parser.parse_args()
    keep_large_blocks()
    torch.set_num_threads(1)
    prior = posterior.load_prior(args.name)
    scale = float(torch.as_tensor(prior.affine.scale))
    held_out = BrainImages(3, ((args.size, args.images, 1.0),), held_out=True)(0) / scale
    training = BrainImages(4, ((args.size, args.images, 1.0),))(0) / scale
    rms = float(held_out.square().mean().sqrt())
    known = float(training.square().mean().sqrt()) / rms
    by_level = {"held-out head": slopes(prior, held_out), "training heads": slopes(prior, training)}
    for what, row in by_level.items():
        print(what, [round(r, 3) for r in row], flush=True)
    sizes = {}
    for steps in args.steps:
        made = posterior.sample_prior(
            prior, draws=args.draws, steps=steps, event_shape=(2, args.size, args.size), batch_size=1, dtype=torch.float32
        )
        sizes[steps] = float((made.samples / scale).square().mean().sqrt()) / rms
        print(f"{steps} steps: rms {sizes[steps]:.3f} of held-out images (training images {known:.3f})", flush=True)
    by_steps = ", ".join(f"{size:.3f} with {steps} steps" for steps, size in sizes.items())
    lines = [
        f"`{shlex.join(['python', 'data/training/dispersion_brain_mri.py', *sys.argv[1:]])}`",
        f"root-mean-square of {args.draws} draws of the same seeds, of that of {args.images} held-out images: {by_steps}; of "
        f"as many training images: {known:.3f}",
        reading(sizes, known),
        *(
            f"E<x0, D> / E|D|^2, 1 for the conditional mean, on {args.images} images of the {what}, by sigma: "
            + ", ".join(f"{sigma:g}: {r:.3f}" for sigma, r in zip(LEVELS, row, strict=True))
            for what, row in by_level.items()
        ),
    ]
    path: Path = FOLDER / args.name / "posterior.json"
    config = json.loads(path.read_text())
    config["card"]["dispersion"] = lines
    path.write_text(json.dumps(config, indent=2) + "\n")
    page = FOLDER / args.name / "README.md"
    before, heading, after = page.read_text().partition("\n## Verdicts")
    before = before.partition("\n## Dispersion")[0].rstrip()
    page.write_text("\n".join([before, "", "## Dispersion", "", *(f"- {line}" for line in lines), ""]) + heading + after)


if __name__ == "__main__":
    main()
