"""The training loop.

Every random number of step n is drawn from a generator seeded with (seed, n): a run that was killed and resumed sees
the very batches and noise of one that was not.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from posterior.priors.network import NetworkPrior
from posterior.priors.parameterisations import Parameterisation
from posterior.priors.training.batches import Batches
from posterior.priors.training.objectives import held_out_score, loss, noised
from posterior.priors.training.settings import TrainingSettings
from posterior.priors.training.workers import Workers

VALIDATION_SIGMAS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)


@dataclass(frozen=True)
class Step:
    """What a progress callback is told after every step.

    Args:
        step: Steps done.
        steps: Steps in all.
        loss: Loss of this step.
        held_out: Score of the averaged weights on held-out fields, at steps where it was measured.
    """

    step: int
    steps: int
    loss: float
    held_out: float | None = None


def train(
    prior: NetworkPrior,
    batches: Batches,
    settings: TrainingSettings,
    folder: Path,
    progress: Callable[[int, float], None] | None = None,
    *,
    held_out: Tensor | None = None,
    report: Callable[[Step], None] | None = None,
    parameterisation: Callable[[int], Parameterisation] | None = None,
) -> NetworkPrior:
    """Train ``prior.network`` in place and leave the averaged weights in it.

    The objective is `posterior.priors.training.objectives.loss`. The optimiser is AdamW with clipped gradients and a
    cosine schedule after a warm-up. Started by ``accelerate launch`` or ``torchrun``, the processes share each batch.

    Args:
        prior: The prior to train; its network, parameterisation and reference are used.
        batches: ``batches(step)`` returns standardised fields (B, *event); must depend on ``step`` alone (see
            `batches_of`).
        settings: Settings.
        folder: Where the checkpoint and the curves, ``loss.csv`` and ``validation.csv``, live; an unfinished run found
            here goes on, to the same weights as one that never stopped.

    Other arguments:
        progress: Called with the number of the step, from 0, and its loss.
        held_out: Standardised fields (N, *event) for ``settings.validate_every``; the averaged weights with the least
            `held_out_score` are the result, those at the start included. None to end with the last.
        report: Called with a `Step` after each.
        parameterisation: ``parameterisation(step)`` stands in for the prior's own in a step; must depend on ``step`` alone.

    Returns:
        ``prior``.

    Raises:
        ValueError: If the folder holds a run made with other settings, or held-out fields are missing.
        FloatingPointError: If the loss stops being finite.

    References:
        Vincent. A connection between score matching and denoising autoencoders. 2011.
        Karras, Aittala, Aila, Laine. Elucidating the design space of diffusion-based generative models. 2022.
            arXiv:2206.00364.
    """
    if settings.validate_every and held_out is None:
        raise ValueError(f"training '{prior.name}': validate_every is {settings.validate_every}, but nothing is held out")
    workers = Workers.find(settings.bfloat16)
    folder.mkdir(parents=True, exist_ok=True)
    network = prior.network.to(workers.device).train().requires_grad_(True)
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=settings.learning_rate, betas=(0.9, 0.99), weight_decay=settings.weight_decay
    )
    run = _Run(folder, settings, network, optimiser)
    start = run.resume()
    own = prior.parameterisation
    prior.network, optimiser = workers.prepare(network, optimiser)
    try:
        if held_out is not None and settings.validate_every and start == 0:
            # Where to begin is the first candidate: few fields may teach a network nothing that others have.
            run.validate(prior, 0, held_out.to(workers.device))
        for step in range(start, settings.steps):
            if parameterisation is not None:
                prior.parameterisation = parameterisation(step)
            value = _step(prior, batches(step), step, settings, workers, optimiser, network)
            prior.parameterisation = own
            if not math.isfinite(value):
                raise FloatingPointError(f"training '{prior.name}': the loss is {value} at step {step}")
            run.follow(step, value)
            last = step + 1 == settings.steps
            score = None
            if held_out is not None and settings.validate_every and ((step + 1) % settings.validate_every == 0 or last):
                score = run.validate(prior, step + 1, held_out.to(workers.device))
            if (step + 1) % settings.checkpoint_every == 0 or last:
                if workers.rank == 0:
                    run.save(step + 1)
                workers.wait()
            if progress is not None:
                progress(step, value)
            if report is not None:
                report(Step(step + 1, settings.steps, value, score))
    finally:
        prior.network, prior.parameterisation = network, own
    network.load_state_dict(run.result())
    prior.network = network.requires_grad_(False).eval()
    return prior


def _step(
    prior: NetworkPrior,
    clean: Tensor,
    step: int,
    settings: TrainingSettings,
    workers: Workers,
    optimiser: torch.optim.Optimizer,
    network: torch.nn.Module,
) -> float:
    """One step of the optimiser; returns the loss."""
    for group in optimiser.param_groups:
        group["lr"] = settings.rate(step)
    noisy, sigma = noised(clean, step, settings)
    clean, noisy, sigma = (workers.share(t) for t in (clean, noisy, sigma))
    devices = [workers.device.index or 0] if workers.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):  # dropout knows no other generator than the global one
        torch.manual_seed(((settings.seed * 1_000_003 + step) * 1009 + workers.rank) % 2**63)
        found = loss(prior, clean, noisy, sigma, settings)
        optimiser.zero_grad(set_to_none=True)
        workers.backward(found)
    torch.nn.utils.clip_grad_norm_(network.parameters(), settings.clip)
    optimiser.step()
    return workers.mean(found)


class _Run:
    """Weights, their average and the best of it so far, the curves, and the files of all these."""

    def __init__(
        self, folder: Path, settings: TrainingSettings, network: torch.nn.Module, optimiser: torch.optim.Optimizer
    ) -> None:
        self.folder, self.settings, self.network, self.optimiser = folder, settings, network, optimiser
        self.average = {k: v.detach().clone() for k, v in network.state_dict().items()}
        self.best: dict[str, Tensor] | None = None
        self.best_score, self.best_step = math.inf, 0
        self.rows: dict[str, list[list[Any]]] = {"loss.csv": [], "validation.csv": []}

    def follow(self, step: int, value: float) -> None:
        """Take the weights after a step into the average."""
        decay = min(self.settings.ema, (step + 1) / (step + 10))
        for k, v in self.network.state_dict().items():
            if v.is_floating_point():
                self.average[k].lerp_(v, 1 - decay)
            else:
                self.average[k].copy_(v)
        self.rows["loss.csv"].append([step, f"{value:.6g}"])

    def validate(self, prior: NetworkPrior, step: int, fields: Tensor) -> float:
        """Measure the average, and keep it if it is the best so far."""
        trained, wrapped = {k: v.clone() for k, v in self.network.state_dict().items()}, prior.network
        self.network.load_state_dict(self.average)
        prior.network = self.network.eval()
        score = held_out_score(prior, fields, VALIDATION_SIGMAS)
        self.network.load_state_dict(trained)
        self.network.train()
        prior.network = wrapped
        if score < self.best_score:
            self.best_score, self.best_step = score, step
            self.best = {k: v.clone() for k, v in self.average.items()}
        self.rows["validation.csv"].append([step, f"{score:.6g}"])
        return score

    def result(self) -> dict[str, Tensor]:
        """The weights to use."""
        return self.average if self.best is None else self.best

    def save(self, step: int) -> None:
        """The curves, then the checkpoint, never half of one."""
        for name, rows in self.rows.items():
            if rows:
                with (self.folder / name).open("a", newline="") as f:
                    csv.writer(f, lineterminator="\n").writerows(rows)
            rows.clear()
        state: dict[str, Any] = {
            "step": step,
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "average": self.average,
        }
        if self.best is not None:
            state |= {"best": self.best, "best_score": self.best_score, "best_step": self.best_step}
        (self.folder / "settings.json").write_text(json.dumps(asdict(self.settings), indent=2))
        torch.save(state, self.folder / "checkpoint.tmp")
        (self.folder / "checkpoint.tmp").replace(self.folder / "checkpoint.pt")

    def resume(self) -> int:
        """Take up the run in the folder; the number of steps it has done."""
        if not (self.folder / "checkpoint.pt").exists():
            for name in self.rows:
                (self.folder / name).unlink(missing_ok=True)
            return 0
        made_with = json.loads((self.folder / "settings.json").read_text())
        if made_with != asdict(self.settings):
            raise ValueError(
                f"training: {self.folder} holds a run made with other settings, {made_with}; choose another folder"
            )
        device = next(self.network.parameters()).device
        state = torch.load(self.folder / "checkpoint.pt", weights_only=True, map_location=device)
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.average = state["average"]
        if "best" in state:
            self.best, self.best_score, self.best_step = state["best"], state["best_score"], state["best_step"]
        step = int(state["step"])
        # A run killed between curves and checkpoint has rows of steps that it will do again.
        for name, offset in (("loss.csv", 0), ("validation.csv", 1)):
            path = self.folder / name
            if path.exists():
                kept = [line for line in path.read_text().splitlines() if int(line.split(",")[0]) < step + offset]
                path.write_text("".join(f"{line}\n" for line in kept))
        return step
