"""How draws were made: cost, seed, settings, versions and warnings."""

from __future__ import annotations

from dataclasses import dataclass

# What a saved tree calls them.
STATISTICS = {
    "nfe": ("network calls per draw", "1"),
    "vjps": ("vector-Jacobian products through the network per draw", "1"),
    "seconds": ("wall-clock time of the run", "s"),
    "peak_memory": ("peak memory of the run", "byte"),
    "residual": ("normalised residual chi-square, averaged over draws", "1"),
    "ess": ("effective sample size of a run", "1"),
    "log_evidence": ("estimate of the log-evidence of a run", "1"),
    "log_evidence_std": ("standard error of the log-evidence of a run", "1"),
    "log_weight": ("unnormalised log-weight of a draw", "1"),
}


@dataclass(frozen=True)
class Stats:
    """How the draws were made.

    Args:
        nfe: Network calls per draw.
        vjps: Vector-Jacobian products through the network per draw.
        seconds: Wall-clock time of the run.
        peak_memory: Peak memory in bytes, None where it is not known.
        seed: The seed given.
        status: "ok", or what went wrong.
        sampler: repr of the sampler.
        prior: repr of the prior.
        likelihood: repr of the likelihood.
        versions: Versions of the packages that had a part in it.
        warnings: What the user should know, one sentence each.
        ess: Effective sample size of each independent run of an SMC sampler.
        log_evidence: Estimate of log p(y), one for each SMC run.
        log_evidence_std: Its standard error, one for each SMC run.
        residual: ||y - A x||^2 / (m sigma^2) averaged over draws; 1 is what true noise gives.
    """

    nfe: int
    vjps: int
    seconds: float
    peak_memory: int | None
    seed: int
    status: str
    sampler: str
    prior: str
    likelihood: str
    versions: dict[str, str]
    warnings: tuple[str, ...] = ()
    ess: tuple[float, ...] | None = None
    log_evidence: tuple[float, ...] | None = None
    log_evidence_std: tuple[float, ...] | None = None
    residual: float | None = None

    def __post_init__(self) -> None:
        # Plain numbers, whatever array library they came from: they have to survive a file.
        for name in ("nfe", "vjps", "peak_memory", "seed", "seconds", "residual"):
            if (value := getattr(self, name)) is not None:
                number = float(value) if name in ("seconds", "residual") else int(value)
                object.__setattr__(self, name, number)
        for name in ("ess", "log_evidence", "log_evidence_std"):
            if (values := getattr(self, name)) is not None:
                object.__setattr__(self, name, tuple(float(v) for v in values))
        object.__setattr__(self, "warnings", tuple(self.warnings))
        object.__setattr__(self, "versions", dict(self.versions))
