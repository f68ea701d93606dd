"""Train a prior as a configuration says, measure it, and write it with its card."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from posterior.priors.loading import save_prior
from posterior.priors.network import NetworkPrior
from posterior.priors.training import Step, train
from posterior.priors.training.workers import Workers
from posterior.recipes.training.build import Standardised, build_prior, cross_fitted, measure, standardise
from posterior.recipes.training.card import curves, draw_curves, page
from posterior.recipes.training.config import TrainingConfig, dataset_entry
from posterior.recipes.training.data import Fields, load_fields

LEVELS = 16
_OURS = {"posterior.json", "checkpoint.pt"}
# What a run that was killed early leaves beside none of these.
_LEFT = {"config.json", "loss.csv", "validation.csv", "unet", "tables.safetensors"}


def train_prior(
    config: TrainingConfig,
    out: Path,
    run: Path,
    *,
    fields: Fields | None = None,
    folder: Path = Path(),
    command: str = "",
    report: Callable[[Step], None] | None = None,
) -> NetworkPrior:
    """Train, measure and save a prior.

    Args:
        config: What to train (see `read_config`).
        out: Folder of the prior, for `posterior.load_prior`: network, tables, card (README.md) and curves (curves.png).
        run: Folder of the run: checkpoint and curves (loss.csv, validation.csv). An unfinished run found here goes on.

    Other arguments:
        fields: Fields in place of those that the configuration names.
        folder: What relative paths in the configuration are relative to.
        command: How the run was started, for the card, where it follows those of the prior that training goes on from.
        report: Called after each step.

    Returns:
        The prior as it was saved, its weights rounded to half precision; in other processes than the first the trained one.

    Raises:
        FileExistsError: If ``out`` is a file, or a folder of something else than a prior.
        ValueError: If data and configuration do not fit each other, or ``run`` holds another run.
    """
    _check_out(out)
    fields = load_fields(config.data, folder) if fields is None else fields
    data = standardise(fields, config.mean)
    prior = build_prior(config, fields, data)
    rank = Workers.find(config.training.bfloat16).rank
    _check_run(config, run, write=rank == 0)
    batches, met = cross_fitted(config, fields, data)
    held_out = _thinned(data) if config.training.validate_every else None
    train(prior, batches, config.training.settings(), run, held_out=held_out, report=report, parameterisation=met)
    if rank == 0:
        _finish(config, prior, data, out, run, command)
    return prior


def _check_out(out: Path) -> None:
    """Raise unless ``out`` is new, empty, or holds a prior or what a killed run has left of one."""
    if out.exists() and not out.is_dir():
        raise FileExistsError(f"{out} is a file; wanted a folder for the prior")
    names = {path.name for path in out.iterdir()} if out.exists() else set()
    if not (names & _OURS or names <= _LEFT):
        raise FileExistsError(f"{out} is a folder of something else than a prior, and is not overwritten")


def _thinned(data: Standardised, most: int = 128) -> Any:
    """Held-out fields for the choice of the step: evenly spaced, since neighbours in time tell little more."""
    fields = data.develop
    return fields[:: -(-len(fields) // most)]


def _check_run(config: TrainingConfig, run: Path, write: bool) -> None:
    """Raise unless ``run`` is new or holds a run of the same data, network and batches."""
    about = dataclasses.asdict(config)
    kept = {key: about[key] for key in ("data", "mean", "reference", "network")}
    kept |= {key: about["training"][key] for key in ("batch", "augment", "start")}
    text = json.dumps(kept, indent=2)
    path = run / "config.json"
    if path.exists() and path.read_text() != text:
        raise ValueError(f"training: {run} holds a run of other data or another network; choose another folder")
    if write:
        run.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def _finish(config: TrainingConfig, prior: NetworkPrior, data: Standardised, out: Path, run: Path, command: str) -> None:
    """Round the weights as they will be stored, measure, and write all there is."""
    network = prior.network.to("cpu")
    network.load_state_dict({k: v.half().float() if v.is_floating_point() else v for k, v in network.state_dict().items()})
    prior.network = network
    sigmas = np.geomspace(prior.sigma_min, prior.sigma_max, LEVELS)
    curve: list[dict[str, float]] = []
    if len(data.develop):
        # The levels that cards are compared at go into the curve, the others into the table of the error spectrum.
        prior.reference, curve = measure(
            prior, data.develop, np.unique([*sigmas, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0]), config.reference.spread
        )
    prior.card = _card(config, prior, data, run, command, curve)
    save_prior(prior, out, half=True)
    (out / "README.md").write_text(page(config.name, prior.card))
    draw_curves(run, curve, out / "curves.png")
    draw_curves(run, curve, run / "curves.png")


def _card(
    config: TrainingConfig, prior: NetworkPrior, data: Standardised, run: Path, command: str, curve: list[dict[str, float]]
) -> dict[str, Any]:
    about = dataclasses.asdict(config)
    return {
        "summary": config.summary,
        "licence": config.licence,
        "data": list(config.sources),
        "dataset": dataset_entry(config.data),
        "train": [list(period) for period in config.data.train],
        "develop": [list(period) for period in config.data.develop],
        "fields": {"train": len(data.train), "develop": len(data.develop)},
        "limits": config.limits,
        "notes": list(config.notes),
        "commands": [*prior.card.get("commands", []), *([command] if command else [])],
        "mean": about["mean"],
        "reference": about["reference"],
        "network": about["network"],
        "training": about["training"],
        "parameters": sum(p.numel() for p in prior.network.parameters()),
        "held_out_rmse": [{k: round(v, 5) for k, v in row.items()} for row in curve],
        "curves": curves(run),
    }
