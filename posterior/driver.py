"""`sample`: seeds, batches, progress, checkpoints, counting and units; no mathematics."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from posterior.draws import Draws, Stats
from posterior.likelihoods import GaussianLikelihood, real_view
from posterior.priors.base import Affine, Prior
from posterior.problem import Counts, Problem
from posterior.samplers.base import Sampler


class SamplingError(RuntimeError):
    """A run that could not end well; the message says which sampler, at which step, and what happened."""


@dataclass(frozen=True)
class Progress:
    """What a progress callback is told after every step.

    Args:
        done: Sampler steps done, over all batches.
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
    likelihood: GaussianLikelihood,
    sampler: Sampler,
    *,
    draws: int = 16,
    seed: int = 0,
    batch_size: int | None = None,
    event_shape: tuple[int, ...] | None = None,
    progress: bool | Callable[[Progress], None] = False,
    checkpoint: str | os.PathLike | None = None,
    dtype: torch.dtype = torch.float64,
) -> Draws:
    """Draw from p(x | y).

    Main arguments:
        prior: The prior.
        likelihood: Operator, data and noise, in physical units.
        sampler: The method.
        draws: How many draws.
        seed: Non-negative integer. Draw i of a seed is the same at any batch size, in any order, after a resume.

    Other arguments:
        batch_size: Draws computed at a time; 4 where None, fewer if ``draws`` is. Memory grows with it.
        event_shape: Shape of one field, for priors that take any size; found from the operator's adjoint where None.
        progress: True for a bar with time left and network calls; or a function that is given a `Progress`.
        checkpoint: Path of a file that finished draws are kept in. A later call with the same prior, likelihood, sampler
            and seed goes on from there, also with more ``draws``.
        dtype: Precision of everything but the network, which keeps its own. In float32 large linear solves are twice as
            fast and their rounding shows: badly conditioned data then tell draws of different batch sizes apart by 1e-3.

    Returns:
        The draws in physical units, with statistics of the run.

    Raises:
        ValueError: If shapes, units or arguments do not fit, before the first network call.
        SamplingError: If values stop being finite, or a checkpoint belongs to another run.
    """
    if draws < 1:
        raise ValueError(f"sample: draws must be at least 1, got {draws}")
    if seed < 0:
        raise ValueError(f"sample: seed must not be negative, got {seed}")
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"sample: batch_size must be at least 1, got {batch_size}")
    shape = _event_shape(prior, likelihood, event_shape)
    counts = Counts()
    problem = Problem(prior, likelihood.in_standard(prior.affine, shape, dtype), shape, counts)
    kept = _Checkpoint(checkpoint, prior, likelihood, sampler, seed)
    finished = {i: x for i, x in kept.load().items() if i < draws}
    todo = [i for i in range(draws) if i not in finished]
    size = min(batch_size or 4, max(1, len(todo)))
    batches = [todo[i : i + size] for i in range(0, len(todo), size)]
    began = time.monotonic()
    done = 0
    with torch.no_grad(), _reporter(progress) as report:
        for batch in batches:
            noise = DrawNoise(seed, batch, shape, problem.likelihood.y)
            state = sampler.init(problem, noise)
            for k in range(sampler.steps):
                state, info = sampler.step(problem, state, noise)
                if not torch.isfinite(state.x).all():
                    raise SamplingError(_not_finite(sampler, state.x, k, batch, info))
                done += 1
                report(Progress(done, sampler.steps * len(batches), draws - len(todo), counts.forward, info))
            physical = prior.affine.to_physical(state.x).to("cpu", real_view(likelihood.y).dtype)
            finished |= dict(zip(batch, physical, strict=True))
            kept.save(finished)
    samples = torch.stack([finished[i] for i in range(draws)])
    per_draw = max(1, len(todo))
    chi = _chi_square(likelihood, samples, shape)
    stats = Stats(
        nfe=round(counts.forward / per_draw),
        vjps=round(counts.vjps / per_draw),
        seconds=time.monotonic() - began,
        peak_memory=_peak_memory(likelihood.y.device),
        seed=seed,
        status="ok",
        sampler=repr(sampler),
        prior=repr(prior),
        likelihood=repr(likelihood),
        versions=_versions(),
        warnings=_warnings(chi),
        residual=chi,
    )
    return Draws(
        samples=samples,
        stats=stats,
        units=prior.units,
        is_posterior=sampler.is_posterior,
        observed=likelihood.y,
        noise_std=likelihood.sigma,
    )


def _event_shape(prior: Prior, likelihood: GaussianLikelihood, given: tuple[int, ...] | None) -> tuple[int, ...]:
    if given is not None:
        shape = tuple(given)
    elif None not in prior.event_shape:
        shape = tuple(n for n in prior.event_shape if n is not None)
    elif hasattr(likelihood.operator, "A_adjoint"):
        try:
            shape = tuple(likelihood.operator.A_adjoint(likelihood.y).shape[1:])
        except (RuntimeError, ValueError, IndexError) as error:
            name = type(likelihood.operator).__name__
            raise ValueError(f"operator {name} does not take data of shape {tuple(likelihood.y.shape)}: {error}") from error
    else:
        raise ValueError(f"sample: prior '{prior.name}' takes any image size; say which with event_shape=")
    prior.check_event(shape)
    likelihood.check(shape)
    return shape


def _chi_square(likelihood: GaussianLikelihood, samples: Tensor, shape: tuple[int, ...]) -> float:
    like = likelihood.in_standard(Affine(), shape)
    with torch.no_grad():
        values = [like.chi_square(x[None].to(like.y.device, like.y.dtype)) for x in samples]
    return float(torch.cat(values).mean())


def _warnings(chi: float) -> tuple[str, ...]:
    if 0.5 <= chi <= 2:
        return ()
    side = "larger" if chi > 1 else "smaller"
    return (
        f"the mean squared residual is {chi:.3g} times sigma^2, {side} than the noise explains: "
        "check sigma, the operator, or the sampler's settings",
    )


def _not_finite(sampler: Sampler, x: Tensor, step: int, batch: list[int], info: dict[str, float]) -> str:
    bad = [i for i, v in zip(batch, x, strict=True) if not torch.isfinite(v).all()]
    where = ", ".join(f"{k} = {v:.4g}" for k, v in info.items())
    return f"{type(sampler).__name__}: draws {bad} are not finite after step {step + 1} of {sampler.steps} ({where})"


def _peak_memory(device: torch.device) -> int:
    """Bytes: of the GPU where the data are on one, else the largest resident size of this process so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _versions() -> dict[str, str]:
    found = {"python": sys.version.split()[0]}
    for name in ("posterior", "torch", "deepinv", "numpy"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


class _Checkpoint:
    """Finished draws in a safetensors file, with a fingerprint of the run that they belong to."""

    def __init__(
        self, path: str | os.PathLike | None, prior: Prior, likelihood: GaussianLikelihood, sampler: Sampler, seed: int
    ) -> None:
        self.path = None if path is None else Path(path)
        digest = hashlib.sha256()
        for part in (repr(prior), repr(sampler), repr(likelihood), str(seed)):
            digest.update(part.encode())
        for tensor in (likelihood.y, likelihood.sigma):
            digest.update(np.ascontiguousarray(tensor.detach().cpu().numpy()).tobytes())
        self.fingerprint = digest.hexdigest()

    def load(self) -> dict[int, Tensor]:
        """Draws kept so far."""
        if self.path is None or not self.path.exists():
            return {}
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.path, framework="pt") as f:
                meta = f.metadata() or {}
                if json.loads(meta.get("run", "null")) != self.fingerprint:
                    raise SamplingError(f"checkpoint {self.path} belongs to another run; delete it or name another file")
                return {int(k): f.get_tensor(k) for k in f.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise SamplingError(f"checkpoint {self.path} cannot be read: {error}") from error

    def save(self, finished: dict[int, Tensor]) -> None:
        """Replace the file, never leaving half of one."""
        if self.path is None:
            return
        from safetensors.torch import save_file

        partial = self.path.with_name(self.path.name + ".partial")
        tensors = {str(i): x.contiguous() for i, x in finished.items()}
        save_file(tensors, partial, metadata={"run": json.dumps(self.fingerprint)})
        partial.replace(self.path)


@contextmanager
def _reporter(progress: bool | Callable[[Progress], None]) -> Iterator[Callable[[Progress], None]]:
    if callable(progress):
        yield progress
        return
    if not progress:
        yield lambda _: None
        return
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("sampling"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TextColumn("{task.fields[calls]} network calls"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Bar(*columns) as bar:
        task = bar.add_task("sampling", total=None, calls=0)
        yield lambda p: bar.update(task, completed=p.done, total=p.total, calls=p.nfe)
