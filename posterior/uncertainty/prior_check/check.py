"""`check_prior`: the whole examination of a prior, its verdicts, and what is kept of it."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from posterior.priors.base import Prior
from posterior.priors.empirical import EmpiricalPrior
from posterior.priors.labels import Labels
from posterior.priors.mixture import LARGEST_REFERENCE
from posterior.priors.reference import Reference
from posterior.uncertainty.prior_check.denoising import DenoisingError, denoising_error
from posterior.uncertainty.prior_check.jacobian import JacobianCheck, jacobian_check
from posterior.uncertainty.prior_check.memorisation import Memorisation, memorisation
from posterior.uncertainty.prior_check.statistics import FieldStatistics, compare_fields
from posterior.uncertainty.prior_check.verdicts import JUDGED, Grade, Verdict
from posterior.unconditional import sample_prior

FORMAT = 1
# Fields that the page shows, and that the figures need.
SHOWN = 4


@dataclass(frozen=True, eq=False)
class PriorCheck:
    """How a prior did.

    Args:
        prior: Its name.
        settings: What was run: numbers of fields and draws, seed, levels.
        denoising: Held-out denoising error.
        statistics: Unconditional draws beside held-out fields.
        training_statistics: Training fields beside held-out ones: what a prior that knew its training data by heart would
            reach; None without training fields. Every other block of them is compared along the EOFs of the rest, since
            fields vary more along their own EOFs than others do.
        memorisation: Nearest neighbours; None without training fields.
        jacobian: Symmetry and consistency of dD/dx.
        examples: Some draws and some held-out fields, (2, k, *event), standardised units.
        labels: The prior's names and coordinates, for the pictures; None where it has none.
        seconds: How long it took.
    """

    prior: str
    settings: dict[str, Any]
    denoising: DenoisingError
    statistics: FieldStatistics
    training_statistics: FieldStatistics | None
    memorisation: Memorisation | None
    jacobian: JacobianCheck
    examples: Tensor
    labels: Labels | None
    seconds: float

    @property
    def verdicts(self) -> list[Verdict]:
        """All findings."""
        found = [self.denoising.verdict, *self.statistics.verdicts]
        if self.memorisation is not None:
            found.append(self.memorisation.verdict)
        return [*found, *self.jacobian.verdicts]

    @property
    def grade(self) -> Grade:
        """The worst of the findings."""
        return Grade.worst(v.grade for v in self.verdicts)

    def to_dict(self) -> dict[str, Any]:
        """Everything but maps and examples as plain numbers; what is not finite is None."""
        kept = {"prior": self.prior, "format": FORMAT, "grade": str(self.grade), "seconds": self.seconds}
        known = () if self.training_statistics is None else self.training_statistics.verdicts
        for name, found in (("verdicts", self.verdicts), ("training_verdicts", known)):
            kept[name] = [{"check": v.check, "grade": str(v.grade), "sentence": v.sentence} for v in found]
        parts = ("settings", "denoising", "statistics", "training_statistics", "memorisation", "jacobian")
        return kept | {name: _plain(getattr(self, name)) for name in parts}

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write check.json, check.md and the figures check.png and check-fields.png into ``folder``; returns the page."""
        from posterior.uncertainty.prior_check.figures import curves_figure, fields_figure
        from posterior.uncertainty.prior_check.page import page

        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        curves_figure(self).savefig(target / "check.png", dpi=110)
        fields_figure(self).savefig(target / "check-fields.png", dpi=110)
        (target / "check.json").write_text(json.dumps(self.to_dict(), indent=1) + "\n")
        (target / "check.md").write_text(page(self))
        return target / "check.md"


def check_prior(
    prior: Prior,
    held_out: Tensor,
    training: Tensor | None = None,
    *,
    dates: tuple[Sequence[Any], Sequence[Any] | None] | None = None,
    linear: Reference | None = None,
    sigmas: Tensor | None = None,
    draws: int | Tensor = 128,
    steps: int = 32,
    block: int = 1,
    denoising_fields: int | None = None,
    jacobian_fields: int = 8,
    jacobian_levels: int = 5,
    batch_size: int = 8,
    seed: int = 0,
    progress: Callable[[str, float], None] | None = None,
) -> PriorCheck:
    """Ask of a prior what can be asked without an instrument.

    Args:
        prior: The prior.
        held_out: Fields that it was not trained on (n, *event), physical units, in the order of time where they have one.
        training: Fields that it was trained on (m, *event), or many of them: for the memorisation check, the EOFs, and the
            optimal linear denoiser of their covariance. None skips what needs them.

    Other arguments:
        dates: Days of the held-out and of the training fields, for priors with a calendar (``prior.on``).
        linear: A Gaussian whose denoiser to compare with, besides the prior's own reference and the covariance of
            ``training`` (up to 4096 unknowns, and where there are twice as many fields).
        sigmas: Noise levels of the denoising error, standardised units; 12 from 0.02 to 20 rms where None.
        draws: How many unconditional draws, or the draws themselves (n, *event), physical units, where they were made before.
        steps: Network calls of each.
        block: Neighbouring held-out fields that count as one: days of weather that last, 1 where fields are independent.
        denoising_fields: Held-out fields, evenly spaced, that are denoised; all of them where None.
        jacobian_fields: Held-out fields at which dD/dx is probed.
        jacobian_levels: Noise levels at which it is, between 0.05 and 2 rms.
        batch_size: Fields through the network at a time.
        seed: Of all that is random.
        progress: Called with what is being done and the share of the whole that is finished.

    Returns:
        The findings.

    Raises:
        ValueError: If shapes do not fit, values are not finite, or there are too few fields.
    """
    began = time.monotonic()
    report = progress or (lambda _what, _share: None)
    held = _standard(prior, held_out, None if dates is None else dates[0], "held_out")
    known = None
    if training is not None:
        known = _standard(prior, training, None if dates is None else dates[1], "training")
    shape = tuple(held.shape[1:])
    levels = _levels(prior, 0.02, 20, 12) if sigmas is None else torch.as_tensor(sigmas, dtype=torch.float64)
    gaussians = _gaussians(prior, known, linear)
    denoised = held if denoising_fields is None else held[_spaced(len(held), denoising_fields)]
    error = denoising_error(
        prior,
        denoised,
        gaussians,
        levels,
        block=max(1, round(block * len(denoised) / len(held))),
        batch_size=batch_size,
        seed=seed,
        tick=lambda j: report("denoising", 0.4 * (j + 1) / len(levels)),
    )
    if isinstance(draws, Tensor):
        x = _standard(prior, draws, None, "draws")
        if x.shape[1:] != held.shape[1:]:
            raise ValueError(f"check_prior: draws of shape {tuple(x.shape[1:])}, held_out of {shape}; wanted the same")
    else:
        made = sample_prior(
            prior,
            draws=draws,
            steps=steps,
            seed=seed,
            batch_size=batch_size,
            event_shape=shape,
            dtype=torch.float32,
            progress=lambda p: report("drawing", 0.4 + 0.4 * p.done / p.total),
        )
        x = prior.affine.to_standard(made.samples)
    comparison = compare_fields(x, held, known, block=block, seed=seed)
    yardstick = None
    if known is not None:
        first, second = _alternating(known, block)
        yardstick = compare_fields(second, held, first, block=block, draws_block=block, seed=seed, what="Training fields")
    copies = None if known is None else memorisation(x, held, known)
    probed = _levels(prior, *JUDGED, jacobian_levels)
    jacobian = jacobian_check(
        prior,
        held[_spaced(len(held), jacobian_fields)],
        probed,
        batch_size=min(4, batch_size),
        seed=seed,
        tick=lambda j: report("Jacobian", 0.8 + 0.2 * (j + 1) / len(probed)),
    )
    some = [s[_spaced(len(s), SHOWN)].float() for s in (x, held)]
    return PriorCheck(
        prior=prior.name,
        settings={
            "event_shape": list(shape),
            "held_out": len(held),
            "training": 0 if known is None else len(known),
            "draws": len(x),
            "steps": steps,
            "block": block,
            "denoising_fields": len(denoised),
            "jacobian_fields": min(jacobian_fields, len(held)),
            "seed": seed,
        },
        denoising=error,
        statistics=comparison,
        training_statistics=yardstick,
        memorisation=copies,
        jacobian=jacobian,
        examples=torch.stack([s[: min(map(len, some))] for s in some]),
        labels=prior.labels,
        seconds=time.monotonic() - began,
    )


def _standard(prior: Prior, fields: Tensor, dates: Sequence[Any] | None, what: str) -> Tensor:
    """Fields in standardised coordinates, single precision."""
    fields = torch.as_tensor(fields)
    if fields.ndim < 2 or len(fields) < 4:
        raise ValueError(f"check_prior: {what} has shape {tuple(fields.shape)}; wanted (n, *event), n at least 4")
    if not torch.isfinite(fields).all():
        raise ValueError(f"check_prior: {what} has values that are not finite")
    if (fields == fields[:1]).all():
        raise ValueError(f"check_prior: all fields of {what} are the same")
    prior.check_event(tuple(fields.shape[1:]), f"check_prior, {what}:")
    if dates is None:
        return prior.affine.to_standard(fields.double()).float()
    if len(dates) != len(fields):
        raise ValueError(f"check_prior: {len(dates)} dates for {len(fields)} fields of {what}")
    pairs = zip(fields.double(), dates, strict=True)
    return torch.stack([prior.on(day).affine.to_standard(x) for x, day in pairs]).float()


def _levels(prior: Prior, low: float, high: float, count: int) -> Tensor:
    """Noise levels between two multiples of the prior's rms, as far as the prior goes."""
    ends = max(low * prior.rms, prior.sigma_min), min(high * prior.rms, prior.sigma_max)
    return torch.from_numpy(np.geomspace(*ends, count))


def _gaussians(prior: Prior, training: Tensor | None, linear: Reference | None) -> dict[str, Reference]:
    found: dict[str, Reference] = {}
    if prior.reference is not None:
        found["reference Gaussian"] = prior.reference
    if training is not None and training[0].numel() <= LARGEST_REFERENCE and len(training) >= 2 * training[0].numel():
        fitted = EmpiricalPrior(training).reference
        assert fitted is not None
        found["training covariance"] = fitted
    if linear is not None:
        found["given Gaussian"] = linear
    return found


def _spaced(count: int, wanted: int) -> Tensor:
    return torch.linspace(0, count - 1, min(count, wanted)).round().long()


def _alternating(fields: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """Every other block of fields, and the rest; all of them twice where there are too few."""
    odd = torch.arange(len(fields)) // block % 2 == 1
    return (fields[~odd], fields[odd]) if int(odd.sum()) >= max(4, 2 * block) else (fields, fields)


def _plain(value: Any) -> Any:
    """Numbers, lists and dictionaries; maps of a whole event are left out."""
    if is_dataclass(value) and not isinstance(value, type):
        named = {f.name: getattr(value, f.name) for f in fields(value)}
        kept = {k: v for k, v in named.items() if k not in ("mean_draws", "mean_held_out", "moving", "std", "rms", "what")}
        if "std" in named:
            kept["std_deviation"] = named["std"].deviation
        return _plain(kept)
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, Tensor):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value
