"""Which diagnostic catches which fault: every one of them on samplers whose fault is known.

python -m benchmarks.diagnostics                    100 repetitions of exact samples, 20 of each fault, 500 trials each
python -m benchmarks.diagnostics --repetitions 10   fewer of both
python -m benchmarks.diagnostics --renew reliability one row again, the others as they were measured

p-values are kept in benchmarks/results/diagnostics.json, from where a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.problems.random_field import matern_spectrum
from posterior.priors.covariance import covariance_of
from posterior.uncertainty import (
    Quantity,
    Trial,
    Trials,
    band_energies,
    crps,
    energy,
    extremes,
    log_likelihood,
    pixels,
    rank_truths,
    region_means,
    reliability,
    residual_chi_square,
    sparsification,
    spread_skill,
    tarp,
    variogram,
)

RESULT = Path(__file__).parent.parent / "docs" / "results-diagnostics.md"
PVALUES = Path(__file__).parent / "results" / "diagnostics.json"
BLOCK = 10  # repetitions between two looks at the disk
SIDE, SIGMA, HEIGHT, SHARE = 6, 0.3, 2.0, 0.7
GAUSSIAN_FAULTS = ("exact", "std x 0.85", "std x 1.15", "bias 0.3 std", "prior only", "wrong correlations")
BIMODAL_FAULTS = ("exact, two modes", "dropped mode")
FAULTS = (*GAUSSIAN_FAULTS, *BIMODAL_FAULTS)
TOGETHER = "all together"
# What a diagnostic cannot see, however many the trials, and why: by fault, the reason and the diagnostics.
MARGINAL = "they look at one value at a time, and these are right"
BLIND: dict[str, dict[str, tuple[str, ...]]] = {
    "std x 0.85": {"it asks for the order of the spreads only": ("sparsification",)},
    "std x 1.15": {"it asks for the order of the spreads only": ("sparsification",)},
    "bias 0.3 std": {
        "it asks for the order of the spreads only": ("sparsification",),
        "differences between pixels keep their law, as the bias is nearly the same everywhere": ("variogram score ranks",),
        "a bias moves a residual of many data by its square, .09 of a variance": ("SBC log-likelihood", "residual chi-square"),
    },
    "prior only": {
        "truths and draws are both draws of the prior; only what uses the data tells them apart": (
            *("SBC pixels", "SBC region means", "SBC band energies", "SBC extremes", "TARP, random", "coverage of pixels"),
            *("coverage of regions", "CRPS ranks", "energy score ranks", "variogram score ranks", "spread-skill"),
            *("sparsification", "reliability"),
        )
    },
    "wrong correlations": {
        MARGINAL: ("SBC pixels", "coverage of pixels", "sparsification", "reliability"),
        "the measured pixels are nearly independent of each other, so their joint law is right": (
            *("SBC log-likelihood", "residual chi-square"),
        ),
    },
    "dropped mode": {
        "the modes differ only where nothing is measured": ("SBC log-likelihood", "residual chi-square"),
    },
}


@dataclass(frozen=True, eq=False)
class Toy:
    """A periodic Matern field of 6 x 6 pixels, of which every other one in every other row is measured.

    Args:
        root: Square root of the prior covariance, (n, n).
        seen: Indices of the measured pixels.
        gain: Posterior mean over data, (n, m).
        spread: Square root of the posterior covariance, (n, n).
        std: Posterior standard deviations, (n,).
        bump: Pattern of the second mode, zero on measured pixels, (n,).
    """

    root: Tensor
    seen: Tensor
    gain: Tensor
    spread: Tensor
    std: Tensor
    bump: Tensor

    @classmethod
    def make(cls) -> Toy:
        """The problem, the same every time."""
        n = SIDE * SIDE
        cov = covariance_of((1, SIDE, SIDE), matern_spectrum(SIDE, length=2.0))
        dense = cov.apply(torch.eye(n, dtype=torch.float64).reshape(n, 1, SIDE, SIDE)).reshape(n, n)
        seen = torch.arange(n).reshape(SIDE, SIDE)[::2, ::2].flatten()
        data = dense[seen][:, seen] + SIGMA**2 * torch.eye(len(seen), dtype=torch.float64)
        gain = torch.linalg.solve(data, dense[seen]).T
        posterior = dense - gain @ dense[seen]
        bump = torch.zeros(SIDE, SIDE, dtype=torch.float64)
        bump[1::2, 1::2] = HEIGHT
        return cls(_root(dense), seen, gain, _root(posterior), posterior.diagonal().sqrt(), bump.flatten())

    def trials(self, fault: str, n: int = 500, draws: int = 49, seed: int = 0) -> Trials:
        """``n`` trials of a sampler with a fault, one of `FAULTS`."""
        g = torch.Generator().manual_seed(seed)
        d = len(self.root)
        truth = torch.randn(n, d, generator=g, dtype=torch.float64) @ self.root
        y = truth[:, self.seen] + SIGMA * torch.randn(n, len(self.seen), generator=g, dtype=torch.float64)
        mean = (y @ self.gain.T)[:, None]
        white = torch.randn(n, draws, d, generator=g, dtype=torch.float64)
        x = mean + self._deviation(fault, white, mean)
        if fault in BIMODAL_FAULTS:
            signs = torch.rand(n, draws + 1, 1, generator=g, dtype=torch.float64) < SHARE
            truth = truth + torch.where(signs[:, 0], self.bump, -self.bump)
            here = signs[:, 1:] | (fault == "dropped mode")
            x = x + torch.where(here, self.bump, -self.bump)
        members = torch.cat([truth[:, None], x], 1)
        chi = ((members[..., self.seen] - y[:, None]) / SIGMA).square().sum(-1)
        reference = torch.zeros(n, d, dtype=torch.float64)
        reference[:, self.seen] = y
        shape = (SIDE, SIDE)
        return Trials(
            Trial(
                truth[i].reshape(shape),
                x[i].reshape(-1, *shape),
                y[i : i + 1],
                reference=reference[i].reshape(shape),
                log_prob=-0.5 * chi[i] - y.shape[1] * math.log(SIGMA * math.sqrt(2 * math.pi)),
                chi_square=chi[i] / y.shape[1],
            )
            for i in range(n)
        )

    def _deviation(self, fault: str, white: Tensor, mean: Tensor) -> Tensor:
        if fault == "prior only":
            return white @ self.root - mean
        if fault == "wrong correlations":
            return white * self.std
        exact = white @ self.spread
        scale = {"std x 0.85": 0.85, "std x 1.15": 1.15}.get(fault, 1.0)
        return scale * exact + (0.3 * self.std if fault == "bias 0.3 std" else 0.0)


def regions() -> dict[str, Tensor]:
    """Four quadrants and the whole."""
    half = torch.arange(SIDE) < SIDE // 2
    sides = {"first": half, "last": ~half}
    found = {f"{a}, {b}": x[:, None] & y[None] for a, x in sides.items() for b, y in sides.items()}
    return found | {"all": torch.ones(SIDE, SIDE, dtype=torch.bool)}


def _ranked(quantity: Quantity, test: str = "p_value") -> Callable[[Trials, int], float]:
    def p_value(trials: Trials, seed: int) -> float:
        ranks = rank_truths(trials, quantity.fn, name=quantity.name, names=quantity.names, pooled=quantity.pooled, seed=seed)
        return ranks.p_value if test == "p_value" else ranks.coverage_p_value()

    return p_value


def _random_tarp(trials: Trials, seed: int) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return tarp(trials, "random", seed=seed).p_value


DIAGNOSTICS: dict[str, Callable[[Trials, int], float]] = {
    "SBC pixels": _ranked(pixels()),
    "SBC region means": _ranked(region_means(regions())),
    "SBC band energies": _ranked(band_energies(3)),
    "SBC extremes": _ranked(extremes()),
    "SBC log-likelihood": _ranked(log_likelihood()),
    "residual chi-square": _ranked(residual_chi_square()),
    "TARP, data": lambda t, s: tarp(t, seed=s).p_value,
    "TARP, random": _random_tarp,
    "coverage of pixels": _ranked(pixels(), "coverage"),
    "coverage of regions": _ranked(region_means(regions()), "coverage"),
    "CRPS ranks": lambda t, s: crps(t, seed=s).p_value,
    "energy score ranks": lambda t, s: energy(t, seed=s).p_value,
    "variogram score ranks": lambda t, s: variogram(t, seed=s).p_value,
    "spread-skill": lambda t, s: spread_skill(t, seed=s).p_value,
    "sparsification": lambda t, s: sparsification(t, seed=s).p_value,
    "reliability": lambda t, s: reliability(t, lambda x: (x > 0.5).flatten(1), seed=s).p_value,
}


def measure(
    fault: str, repetitions: int, n: int = 500, first: int = 0, only: Iterable[str] = tuple(DIAGNOSTICS)
) -> dict[str, list[float]]:
    """p-values of every diagnostic, one for each repetition; repetition ``r`` has the seed ``r``."""
    toy = Toy.make()
    found: dict[str, list[float]] = {name: [] for name in only}
    for r in range(first, first + repetitions):
        trials = toy.trials(fault, n, seed=r)
        for name, values in found.items():
            values.append(DIAGNOSTICS[name](trials, r))
    return found


def complete(kept: dict[str, list[float]], fault: str, repetitions: int, n: int) -> Iterator[dict[str, list[float]]]:
    """Add to the p-values of a fault what is missing, some repetitions at a time; after each, all that there is."""
    for first in range(0, repetitions, BLOCK):
        last = min(first + BLOCK, repetitions)
        missing = [name for name in DIAGNOSTICS if len(kept.get(name, ())) < last]
        if missing:
            begin = min(len(kept.get(name, ())) for name in missing)
            for name, values in measure(fault, last - begin, n, begin, missing).items():
                kept[name] = kept.get(name, [])[:begin] + [float(f"{p:.3g}") for p in values]
            yield kept


def cannot_see(fault: str) -> set[str]:
    """Diagnostics that are blind to a fault."""
    return {name for names in BLIND.get(fault, {}).values() for name in names}


def rows_of(results: dict[str, dict[str, list[float]]]) -> dict[str, list[str]]:
    """By diagnostic, and for all together, the share of repetitions of each fault with p below 0.01."""
    found: dict[str, list[str]] = {}
    for r in results.values():
        together = [min(1.0, min(p) * len(p)) for p in zip(*r.values(), strict=True)]
        for name, values in (r | {TOGETHER: together}).items():
            found.setdefault(name, []).append(f"{sum(p <= 0.01 for p in values) / len(values):.2f}")
    return found


def table(rows: dict[str, list[str]], repetitions: list[int], n: int) -> str:
    """Markdown."""
    heads = (f"{fault} ({count})" for fault, count in zip(FAULTS, repetitions, strict=True))
    lines = [
        "# What each diagnostic catches",
        "",
        "Written by `python -m benchmarks.diagnostics`.",
        f"Share of repetitions with p below 0.01, at {n} trials of 49 draws; the number of repetitions in brackets.",
        "Exact samples should give 0.01. In brackets: what it cannot see, or hardly, for the reason below the table.",
        "",
        f"| diagnostic | {' | '.join(heads)} |",
        "|" + "---|" * (len(FAULTS) + 1),
    ]
    for name in (*DIAGNOSTICS, TOGETHER):
        blind = (name in cannot_see(fault) for fault in FAULTS)
        cells = (f"({share})" if b else share for share, b in zip(rows[name], blind, strict=True))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", f"{TOGETHER}: the smallest of all p-values times their number, as `posterior.uncertainty.assess` has it."]
    lines += ["", "Blind, or nearly so, and why:", ""]
    for fault, reasons in BLIND.items():
        lines += [f"- {fault}: {', '.join(names)}: {why}." for why, names in reasons.items()]
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.diagnostics", description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, help="of each; 100 of exact samples and 20 of faults where not given")
    parser.add_argument("--trials", type=int, default=500)
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--results", type=Path, default=PVALUES, help="what was measured; it goes on from there")
    parser.add_argument("--renew", nargs="+", choices=list(DIAGNOSTICS), default=[], help="measure these again")
    a = parser.parse_args(arguments)
    torch.set_num_threads(1)
    repetitions = [a.repetitions or (100 if fault.startswith("exact") else 20) for fault in FAULTS]
    kept = json.loads(a.results.read_text()) if a.results.exists() else {}
    if kept.get("trials") != a.trials:
        kept = {"trials": a.trials, "p": {}}
    for fault, count in zip(FAULTS, repetitions, strict=True):
        of_fault = kept["p"].setdefault(fault, {})
        for name in a.renew:
            of_fault.pop(name, None)
        for _ in complete(of_fault, fault, count, a.trials):
            a.results.write_text(json.dumps(kept) + "\n")
        print(f"{fault}: done", flush=True)
    chosen = {f: {name: kept["p"][f][name][:n] for name in DIAGNOSTICS} for f, n in zip(FAULTS, repetitions, strict=True)}
    text = table(rows_of(chosen), repetitions, a.trials)
    a.out.write_text(text)
    print(text)


def _root(cov: Tensor) -> Tensor:
    """Symmetric square root of a covariance."""
    values, vectors = torch.linalg.eigh((cov + cov.T) / 2)
    return (vectors * values.clamp_min(0).sqrt()) @ vectors.T


if __name__ == "__main__":
    main()
