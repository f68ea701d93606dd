"""``posterior train``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from posterior.cli._common import note, notes, one_sentence

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.progress import Progress

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

    On several GPUs: accelerate launch -m posterior.cli train CONFIG.
    """
    with one_sentence(), notes():
        import shlex

        import torch

        from posterior.recipes.training import read_config, train_prior

        settings = read_config(config)
        if threads is not None:
            torch.set_num_threads(threads)
        out, folder = output or Path("priors") / settings.name, run or Path("runs") / settings.name
        if (folder / "checkpoint.pt").exists():
            note(f"going on from {folder / 'checkpoint.pt'}")
        command = f"posterior train {shlex.quote(str(config))}"
        with _progress() as bar:
            report = _report(bar, settings.training.steps)
            prior = train_prior(settings, out, folder, folder=config.parent, command=command, report=report)
        for row in prior.card.get("held_out_rmse", []):
            typer.echo(f"sigma {row['sigma']:<8.3g} error {row['network']:.4f}  optimal Gaussian {row['gaussian']:.4f}")
        typer.echo(f"wrote {out}")


def _progress() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]}  held-out {task.fields[held_out]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=Console(stderr=True))


def _report(bar: Progress, steps: int) -> Callable[[Step], None]:
    task = bar.add_task("training", total=steps, loss="-", held_out="-")
    mean = 0.0
    seen = 0

    def report(step: Step) -> None:
        nonlocal mean, seen
        # The mean of about the last hundred steps: the loss of one is mostly its noise levels.
        seen += 1
        mean += (step.loss - mean) / min(seen, 100)
        shown: dict[str, str] = {"loss": f"{mean:.4f}"}
        if step.held_out is not None:
            shown["held_out"] = f"{step.held_out:.4f}"
            if not bar.console.is_terminal:
                bar.console.print(f"step {step.step} of {step.steps}: loss {mean:.4f}, held-out {step.held_out:.4f}")
        bar.update(task, completed=step.step, **shown)

    return report
