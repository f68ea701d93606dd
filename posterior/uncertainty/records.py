"""Evidence of calibration kept with a result: what an assessment found, as groups of its tree."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from posterior.uncertainty._statistics import Curve
from posterior.uncertainty.assessment import Assessment
from posterior.uncertainty.probabilities import Reliability
from posterior.uncertainty.ranks import Coverage, Ranks
from posterior.uncertainty.scores import Scores
from posterior.uncertainty.spread import Sparsification, SpreadSkill

if TYPE_CHECKING:
    from xarray import Dataset, DataTree

_KINDS = {kind.__name__: kind for kind in (Coverage, Curve, Ranks, Reliability, Scores, Sparsification, SpreadSkill)}


def attach(result: DataTree | str | os.PathLike[str], assessment: Assessment, about: str = "") -> None:
    """Keep what an assessment of the sampler found with a result: in a tree, or in a file that `Draws.save` wrote.

    The group ``prior_sbc`` holds the fractional ranks (PIT values) of all findings, as ArviZ's plots of simulation-based
    calibration take them: (sample, quantity), sample being the trial. The group ``calibration`` holds the rest. An
    earlier assessment is replaced; a file is replaced once all is written.

    Args:
        result: The tree, or the path of a .nc or .zarr.
        assessment: What `assess` returned.
        about: What was tested, in words: sampler, prior, kind of data, number of draws. The reader has to know how
            like this result the trials were.

    Raises:
        TypeError: If ``result`` is neither tree nor path.
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read.
    """
    from xarray import DataTree

    if not isinstance(result, DataTree | str | os.PathLike):
        name = type(result).__name__
        raise TypeError(f"attach: result is a {name}; wanted a tree, as of Draws.to_datatree(), or the path of a saved one")
    if isinstance(result, DataTree):
        for name, group in groups(assessment, about).items():
            result[name] = DataTree(group)
        return
    from posterior.draws_io import open_tree, save_tree

    with open_tree(Path(result), trials=True) as tree:
        kept = tree.load()
        attach(kept, assessment, about)
        save_tree(kept, result)


def evidence(result: DataTree | str | os.PathLike[str]) -> Assessment | None:
    """The assessment that `attach` kept with a result; None where there is none.

    Args:
        result: The tree, or the path of a .nc or .zarr.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read.
    """
    from xarray import DataTree

    if not isinstance(result, DataTree):
        from posterior.draws_io import open_tree

        with open_tree(Path(result), trials=True) as tree:
            return evidence(tree)
    if "calibration" not in result.children:
        return None
    ranks, rest = result["prior_sbc"].to_dataset(), result["calibration"].to_dataset()
    try:
        what = json.loads(rest.attrs["findings"])
        findings = {name: _unpack(entry, ranks, rest) for name, entry in what["findings"].items()}
        return Assessment(findings, int(what["trials"]), dict(what["left_out"]))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"the evidence of calibration is damaged: {error}") from error


def groups(assessment: Assessment, about: str = "") -> dict[str, Dataset]:
    """The groups ``prior_sbc`` and ``calibration``.

    Args:
        assessment: What `assess` returned.
        about: What was tested, in words.
    """
    import xarray as xr

    ranks: dict[str, Any] = {}
    rest: dict[str, Any] = {}
    slugs = _slugs(assessment.findings)
    found = {name: _pack(finding, slugs[name], ranks, rest) for name, finding in assessment.findings.items()}
    what = {"findings": found, "trials": assessment.trials, "left_out": assessment.left_out}
    words = "ranks of the truth among the draws of each trial, uniform if the sampler is exact"
    verdict = {
        "findings": json.dumps(what),
        "about": about,
        "verdict": assessment.verdict,
        "p_value": assessment.p_value,
        "trials": assessment.trials,
    }
    return {
        "prior_sbc": xr.Dataset(ranks, attrs={"long_name": words, "sample_dims": ["sample"]}),
        "calibration": xr.Dataset(rest, attrs=verdict),
    }


def _slugs(names: Iterable[str]) -> dict[str, str]:
    """How variables of each finding begin; names that differ in their signs alone, as "u > 0" and "u < 0", are counted."""
    found: dict[str, str] = {}
    for name in names:
        slug = first = re.sub(r"\W+", "_", name.lower()).strip("_")
        number = 1
        while slug in found.values():
            number += 1
            slug = f"{first}_{number}"
        found[name] = slug
    return found


def _pack(finding: Any, slug: str, ranks: dict[str, Any], rest: dict[str, Any]) -> dict[str, Any]:
    """A finding as JSON, its tensors put into ``ranks`` and ``rest`` and named there."""
    entry: dict[str, Any] = {"kind": type(finding).__name__}
    for item in dataclasses.fields(finding):
        value, name = getattr(finding, item.name), f"{slug}_{item.name}"
        if dataclasses.is_dataclass(value):
            entry[item.name] = _pack(value, slug if item.name == "ranks" else name, ranks, rest)
        elif isinstance(finding, Ranks) and item.name == "values":
            ranks[slug] = (("sample", f"{slug}_quantity"), value.numpy(), {"long_name": finding.name, "units": "1"})
            entry[item.name] = {"variable": slug, "group": "prior_sbc"}
        elif isinstance(value, Tensor):
            rest[name] = (tuple(f"{name}_dim_{i}" for i in range(value.ndim)), value.numpy())
            entry[item.name] = {"variable": name, "group": "calibration"}
        else:
            entry[item.name] = value
    return entry


def _unpack(entry: dict[str, Any], ranks: Dataset, rest: Dataset) -> Any:
    kind = _KINDS[entry["kind"]]
    values: dict[str, Any] = {}
    for item in dataclasses.fields(kind):
        value = entry[item.name]
        if isinstance(value, dict) and "kind" in value:
            value = _unpack(value, ranks, rest)
        elif isinstance(value, dict):
            group = ranks if value["group"] == "prior_sbc" else rest
            value = torch.from_numpy(np.array(group[value["variable"]].values))
        values[item.name] = tuple(value) if isinstance(value, list) else value
    return kind(**values)
