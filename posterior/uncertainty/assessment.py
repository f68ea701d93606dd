"""All that trials tell of a sampler, in one go."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from posterior.uncertainty.accuracy import default_quantities, sbc, tarp
from posterior.uncertainty.findings import Finding, Judged
from posterior.uncertainty.probabilities import reliability
from posterior.uncertainty.quantities import Quantity, region_means
from posterior.uncertainty.ranks import coverage
from posterior.uncertainty.scores import crps, energy, variogram
from posterior.uncertainty.spread import sparsification, spread_skill
from posterior.uncertainty.trials import Trial, Trials

_SPARSE = 20  # values that `sparsification` takes


@dataclass(frozen=True, eq=False)
class Assessment(Judged):
    """Findings by name, and one verdict.

    Args:
        findings: By name.
        trials: How many trials they rest on.
        left_out: What could not be worked out, and why.
    """

    findings: dict[str, Finding]
    trials: int
    left_out: dict[str, str]

    @property
    def p_value(self) -> float:
        """The smallest p-value times their number: one for all, however dependent they are."""
        return min(1.0, min(f.p_value for f in self.findings.values()) * len(self.findings))

    def _numbers(self) -> dict[str, Any]:
        found = {name: finding.record() for name, finding in self.findings.items()}
        return {"trials": self.trials, "findings": found, "left_out": self.left_out}

    def __str__(self) -> str:
        head = f"{self.trials} trials, {len(self.findings)} diagnostics, p = {self.p_value:.3g}: {self.verdict}"
        missing = [f"{name}: left out, {why}" for name, why in self.left_out.items()]
        return "\n".join([head, *map(str, self.findings.values()), *missing])


def assess(
    trials: Trials,
    quantities: Iterable[Quantity] | None = None,
    event: Callable[[Tensor], Tensor] | None = None,
    *,
    regions: Mapping[str, Tensor] | Quantity | None = None,
    view: Callable[[Trial], Trial] | None = None,
    seed: int = 0,
) -> Assessment:
    """Simulation-based calibration, coverage, TARP, scores, spread-skill, sparsification and reliability.

    Args:
        trials: The trials, 20 or more.
        quantities: For `sbc`; its own choice where None.
        event: For `reliability`, of a trial as ``view`` shows it; left out where None.

    Other arguments:
        regions: For region means and their coverage: weights by name, that broadcast to an event, or a quantity.
        view: What is judged pixel by pixel, where that is not the event itself: the magnitude of a complex image, the
            pixels inside a head. It takes a trial to another and treats truth and draws alike.
        seed: Of ties and resamples.

    Returns:
        The findings. What a diagnostic needs and the trials do not have is named in ``left_out``.

    Raises:
        TypeError: If these are no trials.
        ValueError: If there are too few trials, or two quantities have one name.
    """
    if not isinstance(trials, Trials):
        raise TypeError(f"assess: trials are a {type(trials).__name__}; wanted the Trials that calibrate returns")
    shown = trials if view is None else trials.map(view)
    findings: dict[str, Finding] = {}
    chosen = default_quantities(trials) if quantities is None else list(quantities)
    over = regions if isinstance(regions, Quantity) else region_means(regions) if regions else None
    if over is not None:
        chosen = [*chosen, over]
    names = [quantity.name for quantity in chosen]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"assess: several quantities are called {', '.join(map(repr, repeated))}; wanted names of their own")
    for i, quantity in enumerate(chosen):
        (ranks,) = sbc(shown if quantity.pooled else trials, [quantity], seed=seed + i)
        findings[ranks.name] = ranks
        if quantity.pooled or quantity is over:
            found = coverage(ranks)
            findings[found.name] = found
    left_out = {}
    first, pixels = trials[0], shown[0].truth.numel()
    if first.reference is None:
        left_out["TARP"] = "the trials have no reference"
    else:
        findings["TARP"] = tarp(trials, seed=seed)
    findings["CRPS"] = crps(shown, seed=seed)
    findings["spread-skill"] = spread_skill(shown, seed=seed)
    if first.truth.numel() > 1:
        findings["energy score"] = energy(trials, seed=seed)
        findings["variogram score"] = variogram(trials, seed=seed)
    if pixels < _SPARSE:
        left_out["sparsification"] = f"events have fewer than {_SPARSE} values"
    else:
        findings["sparsification"] = sparsification(shown, points=_SPARSE, seed=seed)
    if event is None:
        left_out["reliability"] = "no event was given"
    else:
        findings["reliability"] = reliability(shown, event, seed=seed)
    return Assessment(findings, len(trials), left_out)
