"""`sample`: seeds, batches, progress, checkpoints, counting and units; no mathematics."""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from typing import Any

import numpy as np
import torch
from torch import Tensor

from posterior._arguments import check_form, check_number, check_parts
from posterior._devices import device_of, moved
from posterior._progress import bar
from posterior.checkpoint import Checkpoint, SamplingError
from posterior.draws import Draws, Stats
from posterior.likelihoods import Likelihood, real_view
from posterior.priors.base import Affine, Prior
from posterior.problem import Counts, Problem
from posterior.samplers.base import Sampler


@dataclass(frozen=True)
class Progress:
    """What a progress callback is told after every step.

    Args:
        done: Sampler steps done, over all batches (or runs).
        total: Steps in all.
        draws: Draws finished.
        nfe: Network evaluations so far.
        info: What the sampler reports of the step.
    """

    done: int
    total: int
    draws: int
    nfe: int
    info: dict[str, float]


class RunNoise:
    """White noise for all particles of a run, from one generator seeded by (seed, run).

    Numbers are drawn on the CPU and for the whole population, so neither the device nor the chunks matter.
    """

    def __init__(self, seed: int, run: int, particles: int, event_shape: tuple[int, ...], like: Tensor) -> None:
        self.particles = particles
        self.event_shape = event_shape
        self.like = like
        self.generator = torch.Generator().manual_seed(draw_seed(seed, run))

    def __call__(self, shape: tuple[int, ...] | None = None) -> Tensor:
        """Standard normal (N, *shape); the shape of one field where None."""
        shape = self.event_shape if shape is None else shape
        drawn = torch.randn(self.particles, *shape, generator=self.generator, dtype=self.like.dtype)
        return drawn.to(self.like.device)

    def uniform(self, count: int) -> Tensor:
        """``count`` uniforms on [0, 1), float64 on the CPU."""
        return torch.rand(count, generator=self.generator, dtype=torch.float64)


class DrawNoise:
    """White noise for a batch of draws, each from its own generator seeded by (seed, draw index).

    Numbers are drawn on the CPU, so a seed means the same on every device.
    """

    def __init__(self, seed: int, indices: list[int], event_shape: tuple[int, ...], like: Tensor) -> None:
        self.event_shape = event_shape
        self.like = like
        self.generators = [torch.Generator().manual_seed(draw_seed(seed, i)) for i in indices]

    def __call__(self, shape: tuple[int, ...] | None = None) -> Tensor:
        """Standard normal (B, *shape); the shape of one field where None."""
        shape = self.event_shape if shape is None else shape
        drawn = [torch.randn(shape, generator=g, dtype=self.like.dtype) for g in self.generators]
        return torch.stack(drawn).to(self.like.device)


def draw_seed(seed: int, index: int) -> int:
    """The generator seed of draw ``index`` of ``seed``: 63 well-mixed bits."""
    return int(np.random.SeedSequence([seed, index]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def sample(
    prior: Prior,
    likelihood: Likelihood,
    sampler: Sampler,
    *,
    draws: int = 16,
    seed: int = 0,
    runs: int = 1,
    batch_size: int | None = None,
    event_shape: tuple[int, ...] | None = None,
    progress: bool | Callable[[Progress], None] = False,
    checkpoint: str | os.PathLike | None = None,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str | None = None,
) -> Draws:
    """Draw from p(x | y).

    Args:
        prior: The prior.
        likelihood: Operator, data and noise, in physical units.
        sampler: The method.
        draws: How many draws; for samplers of populations (TDS), how many particles each run returns.
        seed: Non-negative integer. Draw i of a seed is the same at any batch size, in any order, after a
            resume.

    Other arguments:
        runs: Independent runs of a sampler of populations. All their particles are returned, run by run, with
            weights that pool the runs by their evidence.
        batch_size: Draws computed at a time; 4 where None, fewer if ``draws`` is. Memory grows with it. For
            samplers of populations, how many particles go through the network at once; all of them where
            None.
        event_shape: Shape of one field, for priors that take any size; found from the operator's adjoint
            where None.
        progress: True for a bar with time left and network calls; or a function that is given a `Progress`.
        checkpoint: Path of a file that finished draws (or runs) are kept in. A later call with the same
            prior, likelihood, sampler and seed goes on from there, also with more ``draws`` (or ``runs``).
        dtype: Precision of everything but the network, which keeps its own. In float32 large linear solves
            are twice as fast and their rounding shows: badly conditioned data then tell draws of different
            batch sizes apart by 1e-3.
        device: Where the computing is done, such as "cuda"; where ``likelihood.y`` lies if None. Prior, likelihood and
            sampler stay where they are: copies of their tensors are moved, at each call unless they are there already,
            see `Prior.to`. Noise is drawn on the CPU, so that a seed means the same on every device, to its rounding; and
            a checkpoint of one device is good on another.

    Returns:
        The draws in physical units, on the CPU, with statistics of the run.

    Raises:
        TypeError: If an argument is of the wrong kind: a sampler's class, a prior's name, a number that is not whole.
        ValueError: If shapes, units or arguments do not fit, or this machine has no such device, before the first network
            call.
        SamplingError: If values stop being finite, or a checkpoint belongs to another run.
    """
    check_parts(prior=prior, likelihood=likelihood, sampler=sampler)
    for name, value, least in (("draws", draws, 1), ("seed", seed, 0), ("runs", runs, 0)):
        check_number(name, value, least)
    if batch_size is not None:
        check_number("batch_size", batch_size, 1)
    check_form(event_shape, dtype)
    if runs < 1 or (runs > 1 and not sampler.population):
        raise ValueError(f"sample: runs is {runs}; wanted 1, or more of a sampler of populations such as TDS")
    place = likelihood.y.device if device is None else device_of(device, "sample")
    near, seen, method = moved((prior, likelihood, sampler), place)
    shape = _event_shape(near, seen, event_shape)
    chunk = batch_size if sampler.population else None
    problem = Problem(near, seen.in_standard(near.affine, shape, dtype), shape, Counts(), chunk=chunk)
    began = time.monotonic()
    made = _Job(problem, method, (prior, likelihood, sampler), seed, draws, runs, batch_size, checkpoint)
    with torch.no_grad(), _reporter(progress) as report:
        result = made.populations(report) if sampler.population else made.separate_draws(report)
    chi = _chi_square(seen, result.samples, shape, result.log_weights)
    nfe, vjps, computed = result.cost.tolist()
    stats = Stats(
        nfe=round(nfe / max(1, computed)),
        vjps=round(vjps / max(1, computed)),
        seconds=time.monotonic() - began,
        peak_memory=_peak_memory(place),
        seed=seed,
        status="ok",
        sampler=repr(sampler),
        prior=repr(prior),
        likelihood=repr(likelihood),
        versions=_versions(),
        warnings=(*_warnings(chi), *_collapse(result, draws), *problem.notes),
        ess=result.ess,
        log_evidence=result.log_evidence,
        log_evidence_std=result.log_evidence_std,
        residual=chi,
    )
    return Draws(
        samples=result.samples,
        stats=stats,
        units=prior.units,
        is_posterior=sampler.is_posterior,
        log_weights=result.log_weights,
        chains=runs,
        observed=likelihood.y,
        noise_std=likelihood.sigma,
        **_labels(prior, shape),
    )


def _labels(prior: Prior, shape: tuple[int, ...]) -> dict[str, Any]:
    """What draws of a labelled prior are called; nothing where it has no labels."""
    labels = prior.labels
    if labels is None:
        return {}
    coords = {dim: values for dim, values in labels.coords.items() if values.size == shape[labels.dims.index(dim)]}
    return {"name": labels.name, "dims": labels.dims, "coords": coords, "mask": labels.mask}


@dataclass(frozen=True)
class _Result:
    """Samples in physical units, their `Checkpoint.cost`, and what populations know besides."""

    samples: Tensor
    cost: Tensor
    log_weights: Tensor | None = None
    ess: tuple[float, ...] | None = None
    log_evidence: tuple[float, ...] | None = None
    log_evidence_std: tuple[float, ...] | None = None


@dataclass(frozen=True)
class _Job:
    """One call of `sample`, its arguments checked; ``given`` are those that a checkpoint knows it by, where they were."""

    problem: Problem
    sampler: Sampler
    given: tuple[Prior, Likelihood, Sampler]
    seed: int
    draws: int
    runs: int
    batch_size: int | None
    checkpoint: str | os.PathLike | None

    def separate_draws(self, report: Callable[[Progress], None]) -> _Result:
        """Draws that know nothing of each other, in batches."""
        kept = Checkpoint(self.checkpoint, *self.given, str(self.seed))
        finished = {i: x for i, x in kept.load().items() if int(i) < self.draws}
        todo = [i for i in range(self.draws) if str(i) not in finished]
        size = min(self.batch_size or 4, max(1, len(todo)))
        batches = [todo[i : i + size] for i in range(0, len(todo), size)]
        for number, batch in enumerate(batches):
            noise = DrawNoise(self.seed, batch, self.problem.event_shape, self.problem.likelihood.y)
            name = [f"draw {i}" for i in batch].__getitem__
            state = self._run(noise, name, number, len(batches), len(finished), report)
            finished |= dict(zip(map(str, batch), self._physical(state.x, name), strict=True))
            kept.save(finished, kept.cost(self.problem.counts, number * size + len(batch)))
        samples = torch.stack([finished[str(i)] for i in range(self.draws)])
        return _Result(samples, kept.cost(self.problem.counts, len(todo)))

    def populations(self, report: Callable[[Progress], None]) -> _Result:
        """Independent runs, each of ``draws`` particles that are resampled together."""
        key = f"{self.seed}, {self.draws} particles"
        kept = Checkpoint(self.checkpoint, *self.given, key)
        finished = kept.load()
        todo = [r for r in range(self.runs) if f"{r}.samples" not in finished]
        for number, run in enumerate(todo):
            noise = RunNoise(self.seed, run, self.draws, self.problem.event_shape, self.problem.likelihood.y)
            name = partial("particle {1} of run {0}".format, run)
            finished_draws = self.draws * (self.runs - len(todo) + number)
            state = self._run(noise, name, number, len(todo), finished_draws, report)
            facts = (state.ess, state.log_evidence, state.log_evidence_std)
            finished[f"{run}.samples"] = self._physical(state.x, name)
            finished[f"{run}.log_weights"] = state.final_log_weights.to("cpu", torch.float64)
            finished[f"{run}.facts"] = torch.tensor(facts, dtype=torch.float64)
            kept.save(finished, kept.cost(self.problem.counts, self.draws * (number + 1)))
        facts = torch.stack([finished[f"{r}.facts"] for r in range(self.runs)])
        return _Result(
            torch.cat([finished[f"{r}.samples"] for r in range(self.runs)]),
            kept.cost(self.problem.counts, self.draws * len(todo)),
            torch.cat([finished[f"{r}.log_weights"] for r in range(self.runs)]),
            *(tuple(column) for column in facts.T.tolist()),
        )

    def _run(
        self,
        noise: DrawNoise | RunNoise,
        name: Callable[[int], str],
        number: int,
        parts: int,
        finished: int,
        report: Callable[[Progress], None],
    ) -> Any:
        """All steps of part ``number`` of ``parts``."""
        steps = self.sampler.steps
        state = self.sampler.init(self.problem, noise)
        _check_finite(self.sampler, state, -1, name, {})
        for k in range(steps):
            state, info = self.sampler.step(self.problem, state, noise)
            _check_finite(self.sampler, state, k, name, info)
            report(Progress(number * steps + k + 1, steps * parts, finished, self.problem.counts.forward, info))
        return state

    def _physical(self, x: Tensor, name: Callable[[int], str]) -> Tensor:
        """Physical fields in the precision of the data."""
        dtype = real_view(self.given[1].y).dtype
        physical = self.problem.prior.affine.to_physical(x).to("cpu", dtype)
        bad = ~torch.isfinite(physical).flatten(1).all(1)
        if bad.any():
            kind = str(dtype).removeprefix("torch.")
            where = f"are not finite in physical units, in {kind} as the data are"
            raise SamplingError(f"{type(self.sampler).__name__}: values {where}, in {_some(name, bad)}")
        return physical


def _event_shape(prior: Prior, likelihood: Likelihood, given: tuple[int, ...] | None) -> tuple[int, ...]:
    if given is not None:
        shape = tuple(given)
    elif None not in prior.event_shape:
        shape = tuple(n for n in prior.event_shape if n is not None)
    elif hasattr(likelihood.operator, "A_adjoint"):
        try:
            adjoint: Any = likelihood.operator.A_adjoint
            shape = tuple(adjoint(likelihood.y).shape[1:])
        except (RuntimeError, ValueError, IndexError) as error:
            name = type(likelihood.operator).__name__
            raise ValueError(f"operator {name} does not take data of shape {tuple(likelihood.y.shape)}: {error}") from error
    else:
        raise ValueError(f"sample: prior '{prior.name}' takes any image size; say which with event_shape=")
    prior.check_event(shape)
    likelihood.check(shape)
    return shape


def _chi_square(likelihood: Likelihood, samples: Tensor, shape: tuple[int, ...], log_weights: Tensor | None) -> float | None:
    like = likelihood.in_standard(Affine(), shape)
    if like.count == 0:
        return None
    with torch.no_grad():
        values = torch.cat([like.chi_square(x[None].to(like.y.device, like.y.dtype)) for x in samples])
    if log_weights is None:
        return float(values.mean())
    weights = torch.softmax(log_weights, 0)  # what weighs nothing may be infinitely far off
    return float(weights @ torch.where(weights > 0, values.cpu().double(), 0.0))


def _warnings(chi: float | None) -> tuple[str, ...]:
    if chi is None:
        return ("no field changes what the operator gives: the data say nothing, and the posterior is the prior",)
    if 0.5 <= chi <= 2:
        return ()
    side = "larger" if chi > 1 else "smaller"
    return (
        f"the mean squared residual is {chi:.3g} times sigma^2, {side} than the noise explains: "
        "check sigma, the operator, or the sampler's settings",
    )


def _collapse(result: _Result, particles: int) -> tuple[str, ...]:
    """A sentence for each run whose weights have collapsed."""
    return tuple(
        f"run {run}: the {particles} particles are worth {worth:.1f}; take more of them (draws=), more "
        "steps, or a twist that knows more of the data"
        for run, worth in enumerate(result.ess or ())
        if worth < min(0.1 * particles, 100)
    )


def _check_finite(sampler: Sampler, state: Any, step: int, name: Callable[[int], str], info: dict[str, float]) -> None:
    """Raise SamplingError where fields or weights are not finite."""
    bad = ~torch.isfinite(state.x).flatten(1).all(1)
    if sampler.population:
        bad |= torch.isnan(state.log_weights) | (state.log_weights == torch.inf)
        if not bad.any() and not torch.isfinite(state.log_weights).any():
            raise SamplingError(f"{type(sampler).__name__}: no particle has any weight after step {step + 1}")
    if not bad.any():
        return
    where = ", ".join(f"{k} = {v:.4g}" for k, v in info.items())
    raise SamplingError(
        f"{type(sampler).__name__}: values are not finite after step {step + 1} of {sampler.steps}"
        f"{f' ({where})' if where else ''} in {_some(name, bad)}"
    )


def _some(name: Callable[[int], str], bad: Tensor) -> str:
    which = [name(i) for i in bad.nonzero().flatten().tolist()]
    return ", ".join(which[:8]) + (f" and {len(which) - 8} more" if len(which) > 8 else "")


def _peak_memory(device: torch.device) -> int:
    """Bytes: of the GPU where the data are on one, else the largest resident size of this process so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _versions() -> dict[str, str]:
    found = {"python": sys.version.split()[0]}
    for name in ("posterior", "torch", "deepinv", "numpy"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


@contextmanager
def _reporter(progress: bool | Callable[[Progress], None]) -> Iterator[Callable[[Progress], None]]:
    if callable(progress) or not progress:
        yield progress if callable(progress) else lambda _: None
        return
    with bar("sampling", calls="{} network calls") as update:
        yield lambda p: update(completed=p.done, total=p.total, calls=p.nfe)
