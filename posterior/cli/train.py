"""``posterior train``."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from posterior.cli._common import note, notes, one_sentence

if TYPE_CHECKING:
    from collections.abc import Callable

    from posterior.priors.training import Step


def train(
    config: Annotated[Path, typer.Argument(help="TOML file that describes data, network and training.")],
    output: Annotated[Path | None, typer.Option(help="Folder of the finished prior; priors/NAME if not given.")] = None,
    run: Annotated[
        Path | None, typer.Option(help="Folder of checkpoint and curves; runs/NAME if not given. A second run goes on.")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Processor threads; all if not given.", min=1)] = None,
) -> None:
    """Train a score or flow prior on gridded fields, resuming what was interrupted.

    On several GPUs: accelerate launch -m posterior train CONFIG.
    """
    with one_sentence(), notes():
        import shlex

        import torch

        from posterior._progress import bar
        from posterior.recipes.training import read_config, train_prior

        settings = read_config(config)
        if threads is not None:
            torch.set_num_threads(threads)
        out, folder = output or Path("priors") / settings.name, run or Path("runs") / settings.name
        if (folder / "checkpoint.pt").exists():
            note(f"going on from {folder / 'checkpoint.pt'}")
        command = f"posterior train {shlex.quote(str(config))}"
        if int(os.environ.get("RANK", "0")) > 0:  # the first of several processes speaks for all
            train_prior(settings, out, folder, folder=config.parent)
            return
        with bar("training", loss="loss {}", held_out="held-out {}") as update:
            report = _report(update)
            prior = train_prior(settings, out, folder, folder=config.parent, command=command, report=report)
        for row in prior.card.get("held_out_rmse", []):
            typer.echo(f"sigma {row['sigma']:<8.3g} error {row['network']:.4f}  optimal Gaussian {row['gaussian']:.4f}")
        typer.echo(f"wrote {out}")


def _report(update: Callable[..., None]) -> Callable[[Step], None]:
    mean, seen, score = 0.0, 0, "-"

    def report(step: Step) -> None:
        nonlocal mean, seen, score
        # The mean of about the last hundred steps: the loss of one is mostly its noise levels.
        seen += 1
        mean += (step.loss - mean) / min(seen, 100)
        if step.held_out is not None:
            score = f"{step.held_out:.4f}"
            if not sys.stdout.isatty():
                typer.echo(f"step {step.step} of {step.steps}: loss {mean:.4f}, held-out {score}")
        update(completed=step.step, total=step.steps, loss=f"{mean:.4f}", held_out=score)

    return report
