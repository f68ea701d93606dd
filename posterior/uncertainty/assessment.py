"""All that trials tell of a sampler, in one go."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import Tensor

from posterior.uncertainty.accuracy import sbc, tarp
from posterior.uncertainty.findings import Finding, Judged
from posterior.uncertainty.probabilities import reliability
from posterior.uncertainty.quantities import Quantity
from posterior.uncertainty.scores import crps, energy, variogram
from posterior.uncertainty.spread import sparsification, spread_skill
from posterior.uncertainty.trials import Trials

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

    def __str__(self) -> str:
        head = f"{self.trials} trials, {len(self.findings)} diagnostics, p = {self.p_value:.3g}: {self.verdict}"
        missing = [f"{name}: left out, {why}" for name, why in self.left_out.items()]
        return "\n".join([head, *map(str, self.findings.values()), *missing])


def assess(
    trials: Trials,
    quantities: Iterable[Quantity] | None = None,
    event: Callable[[Tensor], Tensor] | None = None,
    *,
    seed: int = 0,
) -> Assessment:
    """Simulation-based calibration, TARP, scores, spread-skill, sparsification and reliability.

    Args:
        trials: The trials, 20 or more.
        quantities: For `sbc`; its own choice where None.
        event: For `reliability`; left out where None.

    Other arguments:
        seed: Of ties and resamples.

    Returns:
        The findings. What a diagnostic needs and the trials do not have is named in ``left_out``.

    Raises:
        ValueError: If there are too few trials.
    """
    findings: dict[str, Finding] = {ranks.name: ranks for ranks in sbc(trials, quantities, seed=seed)}
    left_out = {}
    first = trials[0]
    if first.reference is None:
        left_out["TARP"] = "the trials have no reference"
    else:
        findings["TARP"] = tarp(trials, seed=seed)
    findings["CRPS"] = crps(trials, seed=seed)
    findings["spread-skill"] = spread_skill(trials, seed=seed)
    if first.truth.numel() > 1:
        findings["energy score"] = energy(trials, seed=seed)
        findings["variogram score"] = variogram(trials, seed=seed)
    if first.truth.numel() < _SPARSE:
        left_out["sparsification"] = f"events have fewer than {_SPARSE} values"
    else:
        findings["sparsification"] = sparsification(trials, points=_SPARSE, seed=seed)
    if event is None:
        left_out["reliability"] = "no event was given"
    else:
        findings["reliability"] = reliability(trials, event, seed=seed)
    return Assessment(findings, len(trials), left_out)
