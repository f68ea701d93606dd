"""`calibrate`: truths, data and draws of many trials, stored so that any score can be worked out later."""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from types import MethodType
from typing import Any

import torch
from torch import Tensor

from posterior._progress import bar
from posterior.checkpoint import Checkpoint, SamplingError, contents_of
from posterior.draws import Draws
from posterior.driver import draw_seed, sample
from posterior.likelihoods import GaussianLikelihood, Likelihood
from posterior.priors.analytic import GaussianPrior
from posterior.priors.base import Affine, Prior
from posterior.priors.empirical import EmpiricalPrior
from posterior.samplers.base import Sampler
from posterior.uncertainty._workers import in_processes
from posterior.uncertainty.trials import Trial, Trials, pack, trial_path, unpack

# Simulates the data of a truth (1, *event) with a generator of its own, and returns the likelihood that holds them.
Experiment = Callable[[Tensor, torch.Generator], Likelihood]
# Draws with a sampler of another library: likelihood, number of draws and seed to (S, *event) or Draws.
Foreign = Callable[[Likelihood, int, int], Tensor | Draws]


def calibrate(
    prior: Prior | Callable[[int], Prior],
    experiment: Experiment,
    sampler: Sampler | Foreign,
    *,
    trials: int = 100,
    draws: int = 64,
    seed: int = 0,
    truths: Tensor | None = None,
    folder: str | os.PathLike[str] | None = None,
    workers: int = 1,
    shard: tuple[int, int] = (0, 1),
    reference: Callable[[Likelihood], Tensor | None] | None = None,
    progress: bool | Callable[[int, int], None] = False,
    **settings: Any,
) -> Trials:
    """Run a sampler on simulated problems: draw a truth, draw its data, draw from the posterior, store all three.

    Trial i of a seed is the same in any order, after a stop and with any number of workers (to the rounding of a
    different number of threads): its truth, its noise and its draws have seeds of their own.

    Args:
        prior: The prior, for the sampler and, unless ``truths`` are given, for the truths. A function from the number of
            a trial to its prior where they differ, such as ``lambda i: prior.on(dates[i])``.
        experiment: Takes a truth (1, *event) and a generator to the likelihood of data simulated from it; it may draw
            a mask or a place of stations too. See `gaussian_experiment`.
        sampler: A sampler of this package, or a function (likelihood, number of draws, seed) -> draws (S, *event).

    Other arguments:
        trials: How many.
        draws: Draws of each; a 90 % interval takes 19.
        seed: Of all that is random.
        truths: Held-out events (n, *event), ``trials`` of them or more, in physical units; draws of the prior where None.
        folder: Where to store; a later call with the same arguments goes on from there, also with more trials. Functions,
            such as a sampler of another library, are told apart by their names and by what objects and partials hold.
        workers: Processes that share the work, and the threads of this one. A script that asks for several must guard its
            start with ``if __name__ == "__main__"``.
        shard: (k, of): do the trials k, k + of, k + 2 of, ... only, for processes started by hand on one folder.
        reference: Takes the likelihood to an event (*event) computed from the data, for TARP; the operator's adjoint
            where None, if it has one.
        progress: True for a bar with time left, or a function that is called with how many trials are done and in all.
        settings: Passed to `posterior.sample`: batch_size, runs, dtype, device. Truths, data and scores stay on the CPU.

    Returns:
        The trials; with a folder, all that are in it.

    Raises:
        TypeError: If the experiment is an operator, or the sampler a class.
        ValueError: If arguments do not fit, the prior cannot be drawn from and no truths are given, or arguments cannot be
            sent to workers.
        SamplingError: If sampling fails, or the folder holds trials of another run.
    """
    _check(trials, draws, seed, truths, shard, workers)
    if isinstance(experiment, torch.nn.Module):
        raise TypeError(
            f"calibrate: experiment is the operator {type(experiment).__name__}; wanted what simulates data and makes their "
            "likelihood, such as gaussian_experiment(operator, sigma)"
        )
    if isinstance(sampler, type):
        raise TypeError(f"calibrate: sampler is the class {sampler.__name__}; wanted one of it, {sampler.__name__}()")
    path = None if folder is None else Path(folder)
    if path is not None:
        if path.exists() and not path.is_dir():
            raise ValueError(f"calibrate: {path} is a file; wanted a folder")
        path.mkdir(parents=True, exist_ok=True)
    run = Run(prior, experiment, sampler, draws, seed, truths, path, reference or adjoint, settings)
    numbers = range(shard[0], trials, shard[1])
    with _reporter(progress) as report:
        if workers == 1 or len(numbers) < 2:
            made = (run(i) for i in numbers)
            return _collect(made, len(numbers), path, report)
        if path is not None:
            return _collect(in_processes(run, numbers, workers), len(numbers), path, report)
        with tempfile.TemporaryDirectory() as kept:
            run = replace(run, folder=Path(kept))
            return Trials(list(_collect(in_processes(run, numbers, workers), len(numbers), run.folder, report)))


def _collect(made: Iterable[Trial | None], total: int, folder: Path | None, report: Callable[[int, int], None]) -> Trials:
    kept = Trials()
    for done, trial in enumerate(made, 1):
        if trial is not None and folder is None:
            kept.append(trial)
        report(done, total)
    return kept if folder is None else Trials(folder=folder)


@contextmanager
def _reporter(progress: bool | Callable[[int, int], None]) -> Iterator[Callable[[int, int], None]]:
    if callable(progress):
        yield progress
    elif progress:
        with bar("trials", done="{} done") as update:
            yield lambda done, total: update(completed=done, total=total, done=done)
    else:
        yield lambda done, total: None


@dataclass(frozen=True, eq=False)
class Run:
    """Arguments of `calibrate` that every trial needs; called with its number, it makes the trial."""

    prior: Prior | Callable[[int], Prior]
    experiment: Experiment
    sampler: Sampler | Foreign
    draws: int
    seed: int
    truths: Tensor | None
    folder: Path | None
    reference: Callable[[Likelihood], Tensor | None]
    settings: dict[str, Any]

    def __call__(self, i: int) -> Trial:
        """Trial ``i``, from its file where there is one."""
        prior = self.prior if isinstance(self.prior, Prior) else self.prior(i)
        truth = self.truths[i : i + 1] if self.truths is not None else _draw_truth(prior, draw_seed(self.seed, 3 * i))
        likelihood = self.experiment(truth, torch.Generator().manual_seed(draw_seed(self.seed, 3 * i + 1)))
        path = None if self.folder is None else trial_path(self.folder, i)
        # Where and how many at a time draws are computed has no part in what they are.
        what = {name: value for name, value in self.settings.items() if name not in ("device", "batch_size")}
        key = f"{self.seed} {self.draws} {what}"
        sampler, reference = self._known_by
        stored = Checkpoint(path, prior, likelihood, sampler, key + reference)
        found = stored.load()
        if not found:
            began = time.monotonic()
            seed = draw_seed(self.seed, 3 * i + 2)
            made = _draw(prior, likelihood, self.sampler, self.draws, seed, self.settings)
            found = pack(_trial(truth[0], made, likelihood, self.reference, time.monotonic() - began))
            stored.save(found)
        trial = unpack(found)
        # Data tell truths apart only where the instrument looks.
        if self.truths is not None and not torch.equal(trial.truth, truth[0].to(trial.truth)):
            raise SamplingError(f"{path} is a trial of another truth; delete it or name another folder")
        return trial

    @cached_property
    def _known_by(self) -> tuple[Any, str]:
        """What a checkpoint knows sampler and reference by, before they are called: calls may change what they hold."""
        if self.folder is None:
            return self.sampler, ""
        sampler = self.sampler if isinstance(self.sampler, Sampler) else _named(self.sampler)
        return sampler, "" if self.reference is adjoint else f" {_named(self.reference)}"


def gaussian_experiment(operator: Any, sigma: Tensor | float, dtype: torch.dtype = torch.float32) -> Experiment:
    """Data y = A(x) + sigma n with n ~ N(0, I), and a `GaussianLikelihood` of them.

    Args:
        operator: A deepinv physics or one of `operators`; its own noise model is not used.
        sigma: Noise standard deviation in the units of the data; of complex data, that of either part. Data that are
            exactly zero without noise are taken to lie off a sampling mask, and stay zero.
        dtype: Real precision of the field the operator is given.

    Raises:
        TypeError: If ``operator`` is none.
        ValueError: If ``sigma`` is not positive and finite.
    """
    if not hasattr(operator, "A"):
        raise TypeError(f"gaussian_experiment: operator is a {type(operator).__name__}; wanted a deepinv Physics")
    spread = torch.as_tensor(sigma)
    if not (torch.isfinite(spread) & (spread > 0)).all():
        raise ValueError(f"gaussian_experiment: sigma must be positive and finite, got {float(spread.min()):g}")
    return _Gaussian(operator, sigma, dtype)


@dataclass(frozen=True, eq=False)
class _Gaussian:
    """What `gaussian_experiment` returns: a class, so that it travels to other processes."""

    operator: Any
    sigma: Tensor | float
    dtype: torch.dtype

    def __call__(self, truth: Tensor, generator: torch.Generator) -> GaussianLikelihood:
        with torch.no_grad():
            clean = self.operator.A(truth.to(self.dtype))
        parts = torch.view_as_real(clean) if clean.is_complex() else clean
        white = torch.randn(parts.shape, generator=generator, dtype=parts.dtype).to(parts.device)
        noise = torch.view_as_complex(white) if clean.is_complex() else white
        # Data that are exactly zero lie off a sampling mask, where there is no noise either.
        return GaussianLikelihood(self.operator, clean + self.sigma * noise * (clean != 0), self.sigma)


def adjoint(likelihood: Likelihood) -> Tensor | None:
    """The operator's adjoint of the data, (*event); None if it has none."""
    operator: Any = likelihood.operator
    if not hasattr(operator, "A_adjoint"):
        return None
    with torch.no_grad():
        return operator.A_adjoint(likelihood.y)[0]


def _check(trials: int, draws: int, seed: int, truths: Tensor | None, shard: tuple[int, int], workers: int) -> None:
    if trials < 1 or draws < 2 or seed < 0:
        raise ValueError(f"calibrate: trials={trials}, draws={draws}, seed={seed}; wanted at least 1, 2 and 0")
    if not 0 <= shard[0] < shard[1]:
        raise ValueError(f"calibrate: shard is {shard}; wanted (k, of) with 0 <= k < of")
    if workers < 1:
        raise ValueError(f"calibrate: workers is {workers}; wanted 1 or more")
    if truths is not None and len(truths) < trials:
        raise ValueError(f"calibrate: there are {len(truths)} truths for {trials} trials")


def _draw_truth(prior: Prior, seed: int) -> Tensor:
    """One draw of the prior, (1, *event), in physical units."""
    made: Any = prior
    if hasattr(made, "sample"):
        return prior.affine.to_physical(made.sample(1, seed))
    g = torch.Generator().manual_seed(seed)
    if isinstance(prior, GaussianPrior):
        white = torch.randn(1, *prior.event_shape, generator=g, dtype=torch.float64)
        return prior.reference.center + prior.reference.cov.sqrt(white)
    if isinstance(prior, EmpiricalPrior):
        return prior.points[torch.multinomial(prior.weights, 1, generator=g)]
    raise ValueError(f"calibrate: prior '{prior.name}' cannot be drawn from exactly; pass held-out events as truths=")


def _draw(
    prior: Prior, likelihood: Likelihood, sampler: Sampler | Foreign, draws: int, seed: int, settings: dict[str, Any]
) -> Draws | Tensor:
    if isinstance(sampler, Sampler):
        made = sample(prior, likelihood, sampler, draws=draws, seed=seed, **settings)
        if not made.is_posterior:
            raise ValueError(f"calibrate: {type(sampler).__name__} returns point estimates, which have no spread to calibrate")
        return made
    return sampler(likelihood, draws, seed)


def _trial(
    truth: Tensor,
    made: Draws | Tensor,
    likelihood: Likelihood,
    reference: Callable[[Likelihood], Tensor | None],
    seconds: float,
) -> Trial:
    samples, log_weights = (made.samples, made.log_weights) if isinstance(made, Draws) else (made, None)
    calls = (made.stats.nfe, made.stats.vjps) if isinstance(made, Draws) else (math.nan, math.nan)
    samples = samples.detach()
    standard = likelihood.in_standard(Affine(), tuple(truth.shape))
    y = standard.y
    with torch.no_grad():
        pairs = [(standard.log_prob(x), standard.chi_square(x)) for x in (m[None].to(y) for m in (truth, *samples))]
    log_prob, chi_square = (torch.cat(values).double().cpu() for values in zip(*pairs, strict=True))
    cost = torch.tensor([*calls, seconds], dtype=torch.float64)
    return Trial(truth, samples, likelihood.y, log_weights, reference(likelihood), log_prob, chi_square, cost)


def _named(fn: Any) -> str:
    """What a checkpoint knows a function by, whose representation has an address that changes: its name, and what it holds."""
    name = _named(fn.func) if isinstance(fn, partial) else getattr(fn, "__qualname__", type(fn).__name__)
    held = contents_of(fn.__self__ if isinstance(fn, MethodType) else fn)
    return f"{name} {held}" if held else name
