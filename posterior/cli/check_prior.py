"""``posterior check-prior``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from posterior.cli import options
from posterior.cli._common import notes, one_sentence

if TYPE_CHECKING:
    from torch import Tensor

    from posterior.priors.network import NetworkPrior


def check_prior(
    prior: Annotated[str, typer.Argument(help="A bundled prior, or a folder in diffusers' format.")],
    data: Annotated[
        Path | None,
        typer.Option(
            help="TOML file of a training run, whose data.develop are the held-out fields and data.train the others; "
            "the dataset that the prior's card names if not given."
        ),
    ] = None,
    held_out: Annotated[
        Path | None, typer.Option(help="Instead of --data: fields (n, channels, height, width) in a .npy, physical units.")
    ] = None,
    training: Annotated[Path | None, typer.Option(help="With --held-out: the training fields, or many of them.")] = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder for check.md, check.json and the figures; NAME-check if not given.")
    ] = None,
    draws: Annotated[int, typer.Option(help="Unconditional draws.", min=4)] = 128,
    steps: Annotated[int, typer.Option(help="Network calls of each.", min=2)] = 32,
    block: Annotated[
        int | None, typer.Option(help="Held-out fields in a row that count as one; 10 days, a quarter of them at most.", min=1)
    ] = None,
    most: Annotated[int, typer.Option(help="Held-out fields at most, evenly spaced.", min=4)] = 400,
    batch_size: options.Batch = 16,
    seed: options.Seed = 0,
) -> None:
    """Ask whether a prior is a good one: denoising, draws, memorisation, and the Jacobian of its denoiser."""
    with one_sentence(), notes():
        import posterior
        from posterior._progress import bar
        from posterior.uncertainty import check_prior as examine
        from posterior.uncertainty.prior_check.verdicts import Grade

        if data is not None and held_out is not None:
            raise ValueError("check-prior: wanted one of --data and --held-out")
        if training is not None and held_out is None:
            raise ValueError("check-prior: --training goes with --held-out")
        network = posterior.load_prior(prior)
        folder = output or Path(f"{network.name}-check")
        if folder.exists() and not folder.is_dir():
            raise FileExistsError(f"{folder} is a file; wanted a folder")
        if held_out is None:
            held, known, dates, days = _gridded(network, data, most)
        else:
            held, known, dates, days = _array(held_out), None if training is None else _array(training), None, 1
            held = held[_spaced(len(held), most)]
        with bar("checking", part="{}") as update:
            found = examine(
                network,
                held,
                known,
                dates=dates,
                draws=draws,
                steps=steps,
                block=block or days,
                batch_size=batch_size,
                seed=seed,
                progress=lambda part, share: update(part=part, completed=share, total=1.0),
            )
        page = found.save(folder)
    for verdict in found.verdicts:
        typer.echo(str(verdict))
    typer.echo(f"wrote {page}")
    if found.grade is Grade.bad:
        raise typer.Exit(1)


def _array(path: Path) -> Tensor:
    from posterior.io.kspace import as_tensor, read_array

    what = "fields (n, channels, height, width)"
    if path.suffix != ".npy":
        raise ValueError(f"{path}: wanted {what} in a .npy; gridded data come with --data")
    array = read_array(path, what)
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{path}: holds {array.dtype}; wanted real numbers")
    return as_tensor(array)


def _gridded(prior: NetworkPrior, config: Path | None, most: int) -> tuple[Tensor, Tensor, Any, int]:
    """Held-out and training fields, their dates for a prior with a calendar, and how many held-out fields count as one."""
    from posterior.recipes.training import dataset_of, read_config
    from posterior.recipes.training.data import load_fields

    if config is None:
        data, folder = dataset_of(prior.card), Path()
        if data is None:
            raise ValueError(
                f"check-prior: the card of prior '{prior.name}' names no dataset; wanted one of --data and --held-out"
            )
    else:
        data, folder = read_config(config).data, config.parent
    fields = load_fields(data, folder)
    rows = _spaced(len(fields.develop), most)
    dates = None
    if prior.climatology is not None:
        if fields.times is None or fields.develop_times is None:
            raise ValueError(f"{config or data.registry}: fields without times; prior '{prior.name}' has a calendar")
        dates = (fields.develop_times[rows.numpy()], fields.times)
    return fields.develop[rows], fields.train, dates, _block(fields.develop_times, rows)


def _block(times: Any, rows: Tensor) -> int:
    """How many of the held-out fields make 10 days, a quarter of them at most; 1 without times."""
    import numpy as np

    if times is None or len(rows) < 2:
        return 1
    apart = float(np.median(np.diff(times[rows.numpy()])) / np.timedelta64(1, "D"))
    return max(1, min(round(10 / apart), len(rows) // 4))


def _spaced(count: int, most: int) -> Tensor:
    import torch

    return torch.arange(count) if count <= most else torch.linspace(0, count - 1, most).round().long()
