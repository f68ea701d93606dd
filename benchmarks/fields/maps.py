"""Reconstructions with their uncertainty maps, kept for the panels of the report: eight bits a pixel."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from benchmarks.fields.cases import Case
from benchmarks.fields.methods import EQUAL, EQUAL_TUNED
from benchmarks.fields.scores import Outcome, point_estimate
from benchmarks.harness.files import alone
from benchmarks.harness.runner import Method

FOLDER = "BENCHMARK_MAPS"  # environment variable: where a run keeps maps; none are kept without it
SHOWN = ("default", "tuned", EQUAL, EQUAL_TUNED)  # settings


@dataclass(frozen=True)
class Maps:
    """What one method made of one problem, or the truth.

    Args:
        image: (H, W), first channel of what is judged.
        std: (H, W) posterior standard deviation, or None.
    """

    image: np.ndarray
    std: np.ndarray | None


def keep_maps(case: Case, method: Method, out: Outcome) -> None:
    """Write the maps of the first problem of a cell."""
    folder = os.environ.get(FOLDER)
    if not folder or case.problem != 0 or method.setting not in SHOWN:
        return
    path = maps_path(Path(folder), case.suite, case.cell)
    if case.truth is not None:
        _write(path / "truth.npz", case.truth, None, case.inside)
    image = case.view(point_estimate(out)[None])[0]
    std = None
    if not out.point and len(out.samples) > 2:
        std = (
            case.view(out.samples).double().std(0)
            if out.weights is None
            else _weighted_std(case.view(out.samples), out.weights)
        )
    _write(path / f"{method.name} ({method.setting}).npz", image, std, case.inside)


def maps_path(folder: Path, suite: str, cell: str) -> Path:
    """Folder of a cell."""
    return folder / suite / re.sub(r"[^\w]+", "-", cell).strip("-")


def read_maps(path: Path) -> Maps:
    """What `keep_maps` wrote, NaN outside of what is judged."""
    with np.load(path) as file:
        found = {name: _unpack(file[name], file[f"{name} range"]) for name in ("image", "std") if name in file}
    return Maps(found["image"], found.get("std"))


def _write(path: Path, image: Tensor, std: Tensor | None, inside: Tensor | None) -> None:
    content = {}
    for name, field in (("image", image), ("std", std)):
        if field is not None:
            values = field[0].double().numpy()
            mask = np.ones(values.shape, bool) if inside is None else inside[0].numpy()
            content[name], content[f"{name} range"] = _pack(values, mask)
    fresh = path.with_suffix(".partial")
    with alone(path.parent):  # on a GPU all methods of a problem run at once, and each writes the truth
        with fresh.open("wb") as file:
            np.savez_compressed(file, **content)
        fresh.replace(path)


def _pack(values: np.ndarray, inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    low, high = float(values[inside].min()), float(values[inside].max())
    scaled = np.round((values - low) / max(high - low, 1e-30) * 254).clip(0, 254).astype(np.uint8)
    return np.where(inside, scaled, np.uint8(255)), np.array([low, high])


def _unpack(packed: np.ndarray, ends: np.ndarray) -> np.ndarray:
    values = ends[0] + packed.astype(float) / 254 * (ends[1] - ends[0])
    return np.where(packed == 255, np.nan, values)


def _weighted_std(fields: Tensor, weights: Tensor) -> Tensor:
    w = weights.double().reshape(-1, *[1] * (fields.ndim - 1))
    mean = (w * fields).sum(0)
    return (w * (fields - mean).square()).sum(0).sqrt()
