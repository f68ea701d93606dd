"""`learn_prior`: a network prior from measurements alone, by expectation-maximisation.

E-step: one draw of every measured field from its posterior under the present prior. M-step: train the prior on the draws.
Each draw follows p(x | y_i) under the prior, so that the draws of all data together follow a mixture that is nearer to
the distribution of the fields than the prior was.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from posterior._tensors import write_tensors
from posterior.checkpoint import SamplingError, data_fingerprint
from posterior.driver import draw_seed, sample
from posterior.likelihoods import Likelihood
from posterior.priors.base import Prior
from posterior.priors.network import NetworkPrior
from posterior.priors.training import TrainingSettings, batches_of, train
from posterior.samplers.base import Sampler
from posterior.samplers.bridge import GaussianBridge

KEEP_EVERY = 50


@dataclass(frozen=True)
class Lap:
    """What a progress callback is told.

    Args:
        lap: From 1.
        what: "drawing" or "training".
        done: Data drawn, or steps done.
        total: Of how many.
        loss: Of the last training step; NaN while drawing.
    """

    lap: int
    what: str
    done: int
    total: int
    loss: float = float("nan")


def learn_prior(
    likelihoods: Sequence[Likelihood],
    prior: NetworkPrior,
    settings: TrainingSettings,
    folder: Path,
    *,
    laps: int = 3,
    sampler: Sampler | None = None,
    dates: Sequence[Any] | None = None,
    per_lap: int | None = None,
    batch: int = 32,
    seed: int = 0,
    measure: Callable[[NetworkPrior, Tensor], Any] | None = None,
    held_back: float = 0.125,
    dtype: torch.dtype = torch.float32,
    progress: Callable[[Lap], None] | None = None,
) -> NetworkPrior:
    """Train ``prior`` in place on measurements of fields that nobody has seen.

    Args:
        likelihoods: One for each measured field: any operators and any laws of noise that the sampler takes.
        prior: What to train. One with a reference Gaussian from `fit_gaussian` and a residual network that starts at zero
            is a fair prior before the first lap, as the method needs: from a poor one the laps drift.
        settings: Of the training in each lap; lap k has the seed ``settings.seed + k``.
        folder: Where draws, checkpoints and weights of each lap live. A run that was stopped goes on from there.

    Other arguments:
        laps: Of expectation and maximisation.
        sampler: For the E-step; `GaussianBridge` with 10 steps where None.
        dates: Of each datum, for priors with a calendar.
        per_lap: Data that are drawn in a lap, a new random choice each time; all of them where None.
        batch: Fields in a training batch.
        seed: Of draws and of the choice of data.
        measure: Called after each lap's training with the prior and draws that it was not trained on; returns the reference
            to carry from then on, such as one with a measured error spectrum. None keeps the reference.
        held_back: Share of the draws that ``measure`` gets and training does not.
        dtype: Precision of sampling.
        progress: Called with a `Lap`.

    Returns:
        ``prior``, with the weights after the last lap.

    Raises:
        ValueError: If there are too few data, or dates do not fit them.
        SamplingError: If sampling fails, or ``folder`` holds draws of another run.

    References:
        Rozet, Andry, Lanusse, Louppe. Learning diffusion priors from observations by expectation maximization. 2024.
            arXiv:2405.13712.
    """
    count = len(likelihoods) if per_lap is None else min(per_lap, len(likelihoods))
    if laps < 1 or count < 2 * batch or not 0 <= held_back < 1:
        raise ValueError(f"learn_prior: {laps} laps over {count} data, batches of {batch}; wanted twice a batch or more")
    if dates is not None and len(dates) != len(likelihoods):
        raise ValueError(f"learn_prior: {len(dates)} dates for {len(likelihoods)} data")
    sampler = sampler or GaussianBridge()
    data = f"{data_fingerprint(likelihoods)}, dates {None if dates is None else [str(date) for date in dates]}"
    for lap in range(1, laps + 1):
        place = folder / f"lap-{lap}"
        place.mkdir(parents=True, exist_ok=True)
        chosen = np.random.default_rng([seed, lap]).permutation(len(likelihoods))[:count]
        step = _Expectation(likelihoods, dates, sampler, seed, lap, dtype, progress, hashlib.sha256(data.encode()).hexdigest())
        draws = step.draw(prior, np.sort(chosen), place / "draws.safetensors")
        # Neighbours in time resemble each other: what is held back is a stretch, not a sprinkling.
        back = round(held_back * count) if measure is not None else 0
        kept, rest = draws[: count - back], draws[count - back :]
        tuned = dataclasses.replace(settings, seed=settings.seed + lap)
        train(
            prior,
            batches_of(kept, batch, seed=tuned.seed),
            tuned,
            place,
            None if progress is None else _told(progress, lap, settings.steps),
        )
        if measure is not None:
            prior.reference = measure(prior, rest)
    return prior


def _told(progress: Callable[[Lap], None], lap: int, steps: int) -> Callable[[int, float], None]:
    return lambda step, loss: progress(Lap(lap, "training", step + 1, steps, loss))


@dataclass(frozen=True)
class _Expectation:
    """The draws of one lap."""

    likelihoods: Sequence[Likelihood]
    dates: Sequence[Any] | None
    sampler: Sampler
    seed: int
    lap: int
    dtype: torch.dtype
    progress: Callable[[Lap], None] | None
    data: str  # what tells the data apart

    def draw(self, prior: Prior, rows: np.ndarray, path: Path) -> Tensor:
        """One standardised field for each of ``rows``, kept in ``path`` on the way."""
        finished = self._load(path)
        for done, i in enumerate(rows.tolist()):
            if str(i) not in finished:
                finished[str(i)] = self._one(prior, i)
                if len(finished) % KEEP_EVERY == 0:
                    write_tensors(finished, path, metadata=self._about())
            if self.progress is not None:
                self.progress(Lap(self.lap, "drawing", done + 1, len(rows)))
        write_tensors(finished, path, metadata=self._about())
        return torch.stack([finished[str(i)] for i in rows.tolist()])

    def _one(self, prior: Prior, i: int) -> Tensor:
        there = prior if self.dates is None else prior.on(self.dates[i])
        shape = tuple(n for n in prior.event_shape if n is not None)
        made = sample(
            there,
            self.likelihoods[i],
            self.sampler,
            draws=1,
            seed=draw_seed(self.seed, self.lap * len(self.likelihoods) + i),
            event_shape=shape if len(shape) == len(prior.event_shape) else None,
            dtype=self.dtype,
        )
        return there.affine.to_standard(made.samples.double()).float()[0]

    def _about(self) -> dict[str, str]:
        return {"run": f"lap {self.lap}, seed {self.seed}, {len(self.likelihoods)} data, {self.sampler!r}", "data": self.data}

    def _load(self, path: Path) -> dict[str, Tensor]:
        from safetensors import safe_open

        if not path.exists():
            return {}
        with safe_open(path, framework="pt") as f:
            if f.metadata() != self._about():
                raise SamplingError(f"learn_prior: {path} holds draws of another run; choose another folder")
            return {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118
