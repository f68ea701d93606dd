"""Train what denoises an image prior where noise leaves only the lowest frequencies, and put it on that prior.

``python data/training/train_coarse.py brain-mri --run runs/brain-mri-coarse`` (or ``galaxies``); run again to
resume. The prior itself stays as it is. ``--start`` goes on from the averaged weights of another run. Training images are those
of the prior, made smaller (see `posterior.priors.coarse`). ``--kept`` trains nothing: after the prior itself was trained again,
the coarse denoiser that it had takes over where it now errs less.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from brain_images import BrainImages
from image_priors import FOLDER, residual_prior
from torch import Tensor
from train_galaxies import MEASURED, simulated, turned

import posterior
from posterior.priors.coarse import CoarseDenoiser
from posterior.priors.network import NetworkPrior
from posterior.priors.reference import EOFReference, RadialReference
from posterior.priors.training import TrainingSettings, train

BLOCKS = (32, 48, 64)
RANK = 150
SHOWN = (5.0, 10.0, 20.0, 40.0, 80.0, 160.0)


@dataclass(frozen=True)
class Task:
    """One coarse denoiser.

    Args:
        priors: The priors that it is for; all have the reference of the first.
        factor: See `CoarseDenoiser`.
        sigmas: Noise levels of the training, standardised units of the priors.
        sizes: Side of the images, how many are made, how many of them make a batch, and the probability of the side; the
            last is that of whole images.
        make: Images of the training population, standardised (count, C, side, side), from (count, side, seed).
        turn: Images moved within their population, from images and a generator.
        held_out: Images of the population that the card is measured on, from (count, seed).
        compared: How many images its error is measured on.
    """

    priors: tuple[str, ...]
    factor: int
    sigmas: tuple[float, float]
    sizes: tuple[tuple[int, int, int, float], ...]
    make: Callable[[int, int, int], Tensor]
    turn: Callable[[Tensor, torch.Generator], Tensor]
    held_out: Callable[[int, int], Tensor]
    compared: int = 6


def brains(count: int, side: int, seed: int, held_out: bool = False) -> Tensor:
    """Whole slices or crops."""
    data = BrainImages(seed, ((side, 50, 1.0),), held_out=held_out)
    return torch.cat([data(step) for step in range(-(-count // 50))])[:count] / 0.25


def turned_brains(images: Tensor, g: torch.Generator) -> Tensor:
    """Each with another global phase, mirrored and conjugated half the time."""
    n = len(images)
    # Mirrored at the first column, not in the middle: that moves a head by one pixel of the fine image and not of the coarse.
    mirrored = images.flip(-1).roll(1, -1)
    images = torch.where(torch.rand(n, 1, 1, 1, generator=g) < 0.5, mirrored, images)
    real, imaginary = images.unbind(1)
    imaginary = imaginary * torch.where(torch.rand(n, 1, 1, generator=g) < 0.5, -1.0, 1.0)
    angle = 2 * np.pi * torch.rand(n, 1, 1, generator=g)
    return torch.stack([angle.cos() * real - angle.sin() * imaginary, angle.sin() * real + angle.cos() * imaginary], 1)


def galaxies(count: int, side: int, seed: int, held_out: bool = False) -> Tensor:
    """Fields of even numbers, as in training; held-out ones are odd and follow those that gave the error spectrum."""
    first = 100_000 * seed + MEASURED
    return simulated(range(2 * first + held_out, 2 * (first + count), 2), side, len(os.sched_getaffinity(0)))


TASKS = {
    "brain-mri": Task(
        priors=("brain-mri", "brain-mri-flow"),
        factor=8,
        sigmas=(4.0, 400.0),
        sizes=((96, 1500, 48, 0.15), (128, 1500, 32, 0.15), (192, 2000, 20, 0.2), (256, 5000, 16, 0.5)),
        make=brains,
        turn=turned_brains,
        held_out=lambda count, seed: brains(count, 256, seed, held_out=True),
    ),
    "galaxies": Task(
        priors=("galaxies",),
        factor=2,
        sigmas=(3.0, 200.0),
        sizes=((96, 800, 16, 0.2), (64, 3000, 32, 0.8)),
        make=galaxies,
        turn=turned,
        held_out=lambda count, seed: galaxies(count, 64, seed, held_out=True),
        compared=96,
    ),
}


def untrained(task: Task, reference: RadialReference, seed: int) -> CoarseDenoiser:
    """With the reference Gaussian of the fine prior's lowest frequencies."""
    own = RadialReference(reference.frequencies * task.factor, reference.power / task.factor**2)
    channels = posterior.load_prior(FOLDER / task.priors[0]).event_shape[0]
    assert channels is not None
    low, high = (s / task.factor for s in task.sigmas)
    prior = residual_prior(
        "coarse", own, float(task.factor), (low, high), channels=channels, blocks=BLOCKS, layers=1, seed=seed
    )
    return CoarseDenoiser(prior, task.factor, task.sigmas[0])


def comparison(prior: NetworkPrior, coarse: CoarseDenoiser, images: Tensor) -> list[dict[str, float]]:
    """Root-mean-square errors on images, standardised units: the coarse denoiser, the prior's own network, its Gaussian."""
    rows = []
    assert prior.reference is not None
    for i, sigma in enumerate(SHOWN):
        g = torch.Generator().manual_seed(i)
        noisy = images + sigma * torch.randn(images.shape, generator=g)
        levels = torch.full((len(images),), sigma)
        row = {"sigma": sigma, "coarse": 0.0, "network": 0.0, "gaussian": 0.0}
        with torch.no_grad():
            for clean, x, s in zip(images.split(4), noisy.split(4), levels.split(4), strict=True):
                found = {"coarse": coarse.denoise(x, s, prior.reference), "gaussian": prior.reference.denoise(x, s)}
                if sigma <= prior.sigma_max:
                    found["network"] = prior.denoise(x, s)
                for name, d in found.items():
                    row[name] += float((clean - d).square().sum()) / images.numel()
        rows.append({k: round(v if k == "sigma" else v**0.5, 5) for k, v in row.items()})
    return rows


def put_on(name: str, coarse: CoarseDenoiser, rows: list[dict[str, float]], commands: list[str]) -> None:
    """The coarse denoiser in the prior's folder, and what it does on its card."""
    folder = FOLDER / name
    prior = posterior.load_prior(folder)
    prior.coarse = coarse
    prior.card = prior.card | {"coarse": {"commands": commands, "held_out_rmse": rows}}
    posterior.save_prior(prior, folder, half=True)
    begun = "" if coarse.start is None else f", from {RANK} EOFs for images of {coarse.start.shape[-1] * coarse.factor} pixels"
    parameters = sum(p.numel() for p in coarse.prior.network.parameters())
    lines = [
        "```",
        *commands,
        "```",
        "",
        f"Above a noise level of {coarse.above:g} a network of {parameters} parameters denoises the lowest",
        f"frequencies, up to {0.5 / coarse.factor:g} cycles per pixel, and the reference Gaussian the others; draws without",
        f"data start at {coarse.sigma_max:g} instead of {prior.sigma_max:g}{begun}. Error on held-out images,",
        "root-mean-square, standardised units:",
        "",
        "| sigma | coarse | network | optimal Gaussian |",
        "|---|---|---|---|",
    ]
    for r in rows:
        network = f"{r['network']:.4f}" if r["network"] else ""
        lines.append(f"| {r['sigma']:g} | {r['coarse']:.4f} | {network} | {r['gaussian']:.4f} |")
    page = folder / "README.md"
    text = page.read_text()
    before, _, section = text.partition("\n## High noise")
    if not section:
        before, _, section = text.partition("\n## Verdicts")
        section = f"\n## Verdicts{section}" if section else ""
    _, heading, after = section.partition("\n## ")
    page.write_text("\n".join([before.rstrip(), "", "## High noise", "", *lines]) + f"\n{heading}{after}")


def hand_over(task: Task, name: str, coarse: CoarseDenoiser, above: float | None, commands: list[str], seed: int = 0) -> None:
    """The coarse denoiser in the prior's folder, from ``above`` on: where None, from the least level at which it errs less."""
    prior = posterior.load_prior(FOLDER / name)
    prior.coarse = None
    if above is None:
        # Where to hand over is chosen on the training population, and the card measured on the other.
        rows = comparison(prior, coarse, task.make(task.compared, task.sizes[-1][0], seed + 900))
        better = [r["sigma"] for r in rows if r["coarse"] < r["network"]]
        above = min([*better, prior.sigma_max])  # beyond which the network was never trained
    rows = comparison(prior, coarse, task.held_out(task.compared, 5))
    put_on(name, dataclasses.replace(coarse, above=above), rows, commands)
    print(name, f"takes over above {above:g}", flush=True)


def borrow(folder: Path, lender: str) -> None:
    """Have a prior use the coarse denoiser in another's folder, which is the same, in place of a copy."""
    shutil.rmtree(folder / "coarse")
    path = folder / "posterior.json"
    config = json.loads(path.read_text())
    config["coarse"]["of"] = lender
    path.write_text(json.dumps(config, indent=2) + "\n")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=sorted(TASKS))
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--run", type=Path)
    what.add_argument("--kept", action="store_true", help="the coarse denoiser that the prior has, beside today's network")
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--images", type=int, default=1, help="times the images that one core is given")
    parser.add_argument("--batch", type=int, default=1, help="times the batches that one core is given")
    parser.add_argument("--start", type=Path, help="folder of a finished run to go on from")
    parser.add_argument("--lowest", type=float, help="least noise level of the training, where not that of the prior's task")
    parser.add_argument(
        "--begin", type=float, help="noise level at which draws begin, from EOFs of images of the last size; else the highest"
    )
    parser.add_argument("--above", type=float, help="noise level it takes over at; the least shown at which it errs less")
    args = parser.parse_args()
    torch.set_num_threads(1)
    task = TASKS[args.name]
    fine = posterior.load_prior(FOLDER / args.name)
    assert isinstance(fine.reference, RadialReference)
    if args.kept:
        assert fine.coarse is not None
        hand_over(task, args.name, fine.coarse, args.above, fine.card["coarse"]["commands"])
        return
    args.run.mkdir(parents=True, exist_ok=True)
    began = time.process_time()
    coarse = untrained(task, RadialReference(fine.reference.frequencies, fine.reference.power), args.seed)
    low, high = ((args.lowest or task.sigmas[0]) / task.factor, task.sigmas[1] / task.factor)
    settings = TrainingSettings(
        args.steps,
        args.learning_rate,
        warmup=50,
        ema=0.995,
        sigma_min=low,
        sigma_max=high,
        checkpoint_every=200,
        seed=args.seed,
    )
    kept = (args.start or args.run) / "images.pt"
    if args.start is not None:
        state = torch.load(args.start / "checkpoint.pt", weights_only=True, map_location="cpu")
        coarse.prior.network.load_state_dict(state["average"])
    if not kept.exists():
        pools = {
            side: torch.cat([coarse.restrict(x) for x in task.make(args.images * count, side, args.seed + 2).split(200)])
            / task.factor
            for side, count, *_ in task.sizes
        }
        torch.save(pools, kept)
    images = torch.load(kept, weights_only=True)
    chances = torch.tensor([p for *_, p in task.sizes])
    recent: list[float] = []

    def batches(step: int) -> Tensor:
        g = torch.Generator().manual_seed(7_000_003 * (args.seed + 1) + step)
        side, _, batch, _ = task.sizes[int(torch.multinomial(chances, 1, generator=g))]
        pool = images[side]
        return task.turn(pool[torch.randint(len(pool), (args.batch * batch,), generator=g)], g)

    def progress(step: int, loss: float) -> None:
        recent.append(loss)
        if (step + 1) % 100 == 0:
            spent = (time.process_time() - began) / 60
            print(f"step {step + 1} loss {np.mean(recent[-100:]):.4f} {spent:.1f} min of one core", flush=True)

    start = None
    if args.begin is not None:
        whole = images[task.sizes[-1][0]][:2000]
        both = torch.cat([whole, task.turn(whole, torch.Generator().manual_seed(args.seed))])
        start = EOFReference.fit(both, RANK)
    network = train(coarse.prior, batches, settings, args.run, progress).network.to("cpu")
    # What ships is half precision, so that is what is measured.
    network.load_state_dict({k: v.half().float() for k, v in network.state_dict().items()})
    if args.begin is not None:
        coarse.prior.sigma_max = args.begin / task.factor
    earlier = [] if args.start is None else (args.start / "commands.txt").read_text().splitlines()
    commands = [*earlier, shlex.join(["python", "data/training/train_coarse.py", *sys.argv[1:]])]
    (args.run / "commands.txt").write_text("\n".join(commands) + "\n")
    for name in task.priors:
        hand_over(task, name, dataclasses.replace(coarse, start=start), args.above, commands, args.seed)
        if name != task.priors[0]:
            borrow(FOLDER / name, task.priors[0])


if __name__ == "__main__":
    main()
