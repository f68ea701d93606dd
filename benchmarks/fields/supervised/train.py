"""Train the supervised U-Net of the MRI suite.

python -m benchmarks.fields.supervised.train --run runs/unet     # 10 minutes on one core; run again to resume

Pairs are made by the very code that makes the problems of the suite (`benchmarks.fields.mri.crop`), half of them 4x and half
8x undersampled, from images of the subjects that the prior brain-mri was trained on (`data/training/brain_images.py`).
Neither colin27 nor the slice that matplotlib ships is among them.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.fields.mri import SIDE, complex_truth, crop
from benchmarks.fields.supervised.unet import WEIGHTS, gaussian, inputs, negative_log_likelihood, network
from benchmarks.harness.source import ROOT
from posterior._tensors import write_tensors

ACCELERATIONS = (4.0, 8.0)
LEARNING_RATE, WARM_UP, WEIGHT_DECAY, EMA, CLIP = 1e-3, 50, 1e-3, 0.995, 1.0
CHECKPOINT_EVERY = 200
HELD_OUT = 64  # pairs


def pairs(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """What the network sees (N, 4, S, S) and what it should say (N, 2, S, S)."""
    sys.path.insert(0, str(ROOT / "data" / "training"))
    try:
        from brain_images import BrainImages
    finally:
        sys.path.pop(0)
    images = BrainImages(seed, ((SIDE, 1, 1.0),))
    seen, truth = [], []
    for i in range(count):
        magnitude = torch.linalg.vector_norm(images(i)[0], dim=0)
        number = 1_000_000 * (seed + 1) + i  # far from the numbers of the suite's problems
        problem = crop(magnitude, ACCELERATIONS[i % 2], number)
        seen.append(inputs(problem))
        truth.append(complex_truth(problem, number))
    return torch.stack(seen).float(), torch.stack(truth).float()


def augmented(seen: Tensor, truth: Tensor, g: torch.Generator) -> tuple[Tensor, Tensor]:
    """Pairs with a phase added and mirrored at random: what stands for the same problem."""
    both = torch.cat([seen, truth], 1)
    n, channels, *sides = both.shape
    angle = 2 * math.pi * torch.rand(n, 1, 1, 1, generator=g)
    turned = torch.view_as_complex(both.reshape(n, channels // 2, 2, *sides).movedim(2, -1).contiguous())
    turned = torch.view_as_real(turned * torch.polar(torch.ones_like(angle), angle)).movedim(-1, 2).reshape(both.shape)
    for axis in (-1, -2):
        flip = torch.rand(n, 1, 1, 1, generator=g) < 0.5
        turned = torch.where(flip, turned.flip(axis), turned)
    return turned[:, :4], turned[:, 4:]


def train(
    net: Any, seen: Tensor, truth: Tensor, folder: Path, steps: int, batch: int, seed: int, until: int | None = None
) -> dict[str, Tensor]:
    """The average of the weights; a run that was killed goes on where it was, with the batches it would have had.

    The rate falls as a cosine over ``steps``; training ends after ``until`` of them.
    """
    last = steps if until is None else until
    optimiser = torch.optim.AdamW(net.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.99), weight_decay=WEIGHT_DECAY)
    average = {k: v.detach().clone() for k, v in net.state_dict().items()}
    path, first = folder / "checkpoint.pt", 0
    if path.exists():
        state = torch.load(path, weights_only=True)
        net.load_state_dict(state["network"])
        optimiser.load_state_dict(state["optimiser"])
        average, first = state["average"], state["step"]
    began, recent = time.process_time(), []
    for step in range(first, last):
        rate = LEARNING_RATE * min((step + 1) / WARM_UP, 0.5 * (1 + math.cos(math.pi * step / steps)))
        for group in optimiser.param_groups:
            group["lr"] = rate
        g = torch.Generator().manual_seed(1_000_003 * (seed + 1) + step)
        chosen = torch.randint(len(seen), (batch,), generator=g)
        x, wanted = augmented(seen[chosen], truth[chosen], g)
        with torch.autocast("cpu", torch.bfloat16):
            mean, log_variance = gaussian(net, x)
        loss = negative_log_likelihood(mean, log_variance, wanted)
        recent.append(float(loss.detach()))
        if not math.isfinite(recent[-1]):
            raise FloatingPointError(f"the loss is {recent[-1]} at step {step}")
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), CLIP)
        optimiser.step()
        decay = min(EMA, (step + 1) / (step + 10))
        for k, v in net.state_dict().items():
            average[k].lerp_(v, 1 - decay)
        if (step + 1) % CHECKPOINT_EVERY == 0 or step + 1 == last:
            state = {"network": net.state_dict(), "optimiser": optimiser.state_dict(), "average": average, "step": step + 1}
            torch.save(state, path.with_suffix(".partial"))
            path.with_suffix(".partial").replace(path)
            minutes = (time.process_time() - began) / 60
            print(f"step {step + 1} of {last}, loss {np.mean(recent[-CHECKPOINT_EVERY:]):.4f}, {minutes:.1f} min", flush=True)
    return average


def held_out(net: Any, seen: Tensor, truth: Tensor) -> dict[str, float]:
    """Figures on pairs that were not trained on."""
    with torch.no_grad():
        mean, log_variance = gaussian(net, seen)
        off = (mean - truth).square()
        return {
            "rmse": round(float(off.mean().sqrt()), 5),
            "rmse_sense": round(float((seen[:, 2:] - truth).square().mean().sqrt()), 5),
            "rmse_said": round(float(log_variance.exp().mean().sqrt()), 5),
            "negative_log_likelihood": round(float(negative_log_likelihood(mean, log_variance, truth)), 4),
        }


CARD = """# Supervised U-Net for MRI

The baseline "U-Net" of the suite mri of `python -m benchmarks`. {parameters} parameters, half precision. In: the zero-filled
image and a SENSE image (2 + 2 channels). Out: the complex mean, and a log-variance that real and imaginary part of a pixel
share; draws are of that Gaussian, pixels independent. Loss: its negative log-likelihood.

Trained on {pairs} pairs of 48 x 48 pixels, half 4x and half 8x undersampled, 8 birdcage coils, noise of 2 %, simulated from the
training subjects of the prior brain-mri (their licences are on its card); colin27 and the slice that matplotlib ships are not
among them. {steps} steps of {batch}, mirrored and with a random phase; some ten minutes of one core.

```
{command}
```

On {held} other pairs of the same subjects: root-mean-square error {rmse:.4f} (the network says {rmse_said:.4f}; the SENSE image
that goes in has {rmse_sense:.4f}), negative log-likelihood {negative_log_likelihood:.3f} a pixel.

Licence of the weights: Apache-2.0. Limits: crops of up to 64 pixels with known coil maps, these accelerations and this noise.
"""


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="folder of pairs and checkpoint")
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pairs", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--until", type=int, help="stop after so many of the steps")
    parser.add_argument("--batch", type=int, default=16)
    a = parser.parse_args()
    torch.set_num_threads(1)
    a.run.mkdir(parents=True, exist_ok=True)
    settings = {k: getattr(a, k) for k in ("seed", "pairs", "steps", "batch")}
    known = a.run / "settings.json"
    if known.exists() and json.loads(known.read_text()) != settings:
        parser.error(f"{a.run} holds a run with other settings, {known.read_text()}; choose another folder")
    known.write_text(json.dumps(settings))
    began = time.process_time()
    if not (a.run / "pairs.safetensors").exists():
        seen, truth = pairs(a.pairs + HELD_OUT, a.seed)
        write_tensors({"seen": seen, "truth": truth}, a.run / "pairs.safetensors")
        print(f"{len(seen)} pairs, {(time.process_time() - began) / 60:.1f} min", flush=True)
    made = load_file(a.run / "pairs.safetensors")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(a.seed)
        net = network()
    average = train(net, made["seen"][: a.pairs], made["truth"][: a.pairs], a.run, a.steps, a.batch, a.seed, a.until)
    # What ships is half precision, so that is what is measured.
    half = {k: v.half().contiguous() for k, v in average.items()}
    net.load_state_dict({k: v.float() for k, v in half.items()})
    facts = held_out(net.eval(), made["seen"][a.pairs :], made["truth"][a.pairs :])
    net.save_config(a.out)
    write_tensors(half, a.out / "diffusion_pytorch_model.safetensors")
    options = " ".join(f"--{k} {v}" for k, v in (settings | ({"until": a.until} if a.until else {})).items())
    words = CARD.format(
        **facts,
        parameters=sum(p.numel() for p in net.parameters()),
        pairs=a.pairs,
        held=HELD_OUT,
        steps=a.until or a.steps,
        batch=a.batch,
        command=f"python -m benchmarks.fields.supervised.train --run runs/unet {options}",
    )
    (a.out / "README.md").write_text(words)
    print(facts)


if __name__ == "__main__":
    main()
