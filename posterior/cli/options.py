"""Options that commands share, and what is asked of the sampling by them.

A command writes out its own list, so that its defaults stand where its help and its signature are read::

    def command(prior: options.Prior = "brain-mri", sampler: options.Sampler = SamplerName.bridge, ...) -> None:
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from posterior.samplers.base import Sampler as SamplerBase


class SamplerName(StrEnum):
    """Samplers that the command line offers."""

    bridge = "bridge"
    mmps = "mmps"
    pigdm = "pigdm"
    dps = "dps"


_DEFAULT_STEPS = {"bridge": 10, "mmps": 32, "pigdm": 100, "dps": 1000}

Prior = Annotated[str, typer.Option(help="A bundled prior, or a folder in diffusers' format.")]
Sampler = Annotated[SamplerName, typer.Option(help="Sampling method.")]
Steps = Annotated[int | None, typer.Option(help="Sampler steps; 10, 32, 100, 1000 by method if not given.", min=1)]
Draws = Annotated[int, typer.Option(help="Draws; a 90 % interval takes 19.", min=1)]
Seed = Annotated[int, typer.Option(help="Seed of all that is random.", min=0, max=2**63 - 1)]
Batch = Annotated[int, typer.Option(help="Draws computed at a time; memory grows with it.", min=1)]
Device = Annotated[str | None, typer.Option(help="Where to compute, such as cuda; the CPU if not given.")]
Output = Annotated[Path, typer.Option(help="NetCDF file to write; a picture goes beside it as .png.")]
Check = Annotated[
    bool,
    typer.Option(
        "--check",
        help="Run a second time without a fifth of the samples, and count how well they are predicted.",
    ),
]
Checkpoint = Annotated[Path | None, typer.Option(help="File that keeps finished draws; a second run goes on from there.")]


@dataclass(frozen=True)
class Sampling:
    """What is asked of the sampling itself; one field for each option."""

    sampler: SamplerName
    steps: int | None
    draws: int
    seed: int
    batch_size: int
    checkpoint: Path | None
    device: str | None = None

    def method(self, bridge: Callable[[int], SamplerBase] | None = None) -> SamplerBase:
        """The sampler that is asked for; ``bridge`` makes it where a task has a `GaussianBridge` of its own."""
        import posterior

        makers: dict[str, Any] = {
            "bridge": bridge or posterior.GaussianBridge,
            "mmps": posterior.MMPS,
            "pigdm": posterior.PiGDM,
            "dps": posterior.DPS,
        }
        return makers[self.sampler](self.steps or _DEFAULT_STEPS[self.sampler])

    def settings(self) -> dict[str, Any]:
        """Keyword arguments of `posterior.sample`, with a progress bar."""
        return {
            "draws": self.draws,
            "seed": self.seed,
            "batch_size": self.batch_size,
            "checkpoint": self.checkpoint,
            "device": self.device,
            "progress": True,
        }
