"""What `GaussianBridge` must show: ``python -m benchmarks.bridge [PART ...]``, parts field, mixture, mri, downscale,
temperature, local, heads, orientations.

Writes benchmarks/results/bridge.json, row by row, and the tables of docs/gaussian-bridge.md. Rows already in the file are not
computed again.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import posterior
from benchmarks.exact.scores import scores
from benchmarks.exact.suites import SUITES, build_case
from benchmarks.fields import blur, mri
from benchmarks.fields.brains import colin27
from benchmarks.fields.cases import DEVELOPMENT, Case
from benchmarks.fields.gridded import gridded
from benchmarks.fields.scores import Outcome, scores as judged
from benchmarks.harness.files import change_json, read_json
from benchmarks.harness.markdown import fill, markdown
from benchmarks.metrics import coverage
from benchmarks.problems.random_field import OPERATORS, random_field
from posterior._memory import keep_large_blocks
from posterior.quantiles import draws_needed
from posterior.recipes import downscale as recipe
from posterior.recipes.mri.results import head_mask
from posterior.recipes.mri.simulation import NOISE
from posterior.uncertainty.scores import crps_members

RESULTS = Path(__file__).parent / "results" / "bridge.json"
PAGE = Path(__file__).parent.parent / "docs" / "gaussian-bridge.md"
LOCAL_SCORES = ("crps", "psnr", "cov50", "cov90", "spread_skill", "spectrum")
Row = dict[str, Any]
Job = tuple[str, Callable[[], Row]]


def field_jobs(draws: int = 1500) -> Iterator[Job]:
    """Gaussian random fields, whose posterior is known: 32 x 32, noise 0.05, at 1, 5 and 10 steps."""
    for operator in OPERATORS:
        for steps in (1, 5, 10):
            # the correlations of the last are long, and the average of its spread known to fewer digits
            n = 2 * draws if operator == "fourier" else draws
            yield f"{operator}, {steps} steps", lambda o=operator, s=steps, n=n: _field(o, s, n)


def _field(operator: str, steps: int, draws: int) -> Row:
    problem = random_field(operator)
    exact = posterior.exact_posterior(problem.prior, problem.likelihood)
    began = time.monotonic()
    sampler = posterior.GaussianBridge(steps)
    found = posterior.sample(problem.prior, problem.likelihood, sampler, draws=draws, seed=1, batch_size=500)
    seconds = time.monotonic() - began
    ratio = (found.std.double() / exact.std).flatten() * (1 + 1 / (4 * draws))
    bias2 = float(((found.mean.double() - exact.mean) / exact.std).square().mean()) - 1 / draws
    # The 90 % point of the Monte-Carlo error of one pixel's standard deviation is 1.645 / sqrt(2 n).
    worst2 = float((ratio - 1).abs().quantile(0.9)) ** 2 - 1.645**2 / (2 * draws)
    return {
        "operator": operator,
        "steps": steps,
        "draws": draws,
        "bias": max(bias2, 0.0) ** 0.5,
        "std_ratio": float(ratio.mean()),
        "std_ratio_error": _spread_error(exact, draws),
        "worst_std": max(worst2, 0.0) ** 0.5,
        "seconds_a_draw": seconds / draws,
    }


def _spread_error(exact: Any, draws: int) -> float:
    """Standard error of the pixel-averaged ratio of sample std to exact std: neighbours are correlated."""
    correlation = exact.cov / exact.std.flatten()[:, None] / exact.std.flatten()
    return float((correlation.square().mean() / (2 * draws)).sqrt())


def mixture_jobs(problems: int = 2) -> Iterator[Job]:
    """Mixtures of 25 Gaussians: the kernel as proposal and twist of particles, and alone."""
    methods = {
        "TDS": posterior.TDS(),
        'TDS(twist="reference")': posterior.TDS(twist="reference"),
        "GaussianBridge": posterior.GaussianBridge(),
        "GaussianBridge, 100 steps": posterior.GaussianBridge(100),
    }
    for cell in SUITES["mixture"].cells:
        for name, sampler in methods.items():
            yield f"{cell}, {name}", lambda c=cell, n=name, s=sampler: _mixture(c, n, s, problems)


def _mixture(cell: str, name: str, sampler: Any, problems: int) -> Row:
    rows, facts = [], []
    for k in range(problems):
        case = build_case(SUITES["mixture"], cell, k)
        found = posterior.sample(case.given.prior, case.given.likelihood, sampler, draws=case.draws, batch_size=case.draws)
        weights = None if found.log_weights is None else torch.softmax(found.log_weights, 0)
        rows.append(scores(found.samples, weights, case.yardstick, case.floor))
        if found.stats.ess is not None:
            exact = posterior.exact_posterior(case.given.prior, case.given.likelihood).log_evidence
            facts.append((found.stats.ess[0] / case.draws, found.stats.log_evidence[0] - float(exact)))
    mean = {k: float(np.mean([r[k] for r in rows])) for k in ("ratio", "bias2", "std_ratio", "coverage90")}
    mean["bias"] = max(mean.pop("bias2"), 0.0) ** 0.5
    if facts:
        mean |= {"ess": float(np.mean([f[0] for f in facts])), "log_evidence": float(np.mean([f[1] for f in facts]))}
    return {"cell": cell, "method": name, "problems": problems, "nfe": sampler.steps, **mean}


def mri_jobs(side: int = 40, slices: int = 10) -> Iterator[Job]:
    """The middle of ten colin27 slices, 4x with 8 coils, maps and noise known."""
    samplers = (
        ("GaussianBridge", posterior.GaussianBridge(), 20),
        ("MMPS", posterior.MMPS(64), 4),
        ("DPS", posterior.DPS(1000), 4),
    )
    for i in range(slices):
        for name, sampler, draws in samplers:
            yield f"{name}, slice {i}", lambda i=i, n=name, s=sampler, d=draws: _mri(i, side, n, s, d)


def mri_likelihood(index: int, side: int) -> tuple[posterior.GaussianLikelihood, Tensor]:
    """A likelihood whose coil maps and noise are known, and the true magnitude (side, side)."""
    import operators

    full = colin27(index)
    low = (len(full) - side) // 2
    magnitude = full[low : low + side, low : low + side]
    magnitude = magnitude / np.percentile(magnitude.numpy(), 99)
    g = torch.Generator().manual_seed(index)
    maps = operators.birdcage_maps(8, (side, side))
    maps = maps / maps.abs().square().sum(0).sqrt()
    y, x = torch.meshgrid(torch.linspace(-1, 1, side), torch.linspace(-1, 1, side), indexing="ij")
    a, b, c = torch.randn(3, generator=g)
    angle = a * x + b * y + c * x * y
    image = torch.stack([magnitude * angle.cos(), magnitude * angle.sin()])[None].float()
    operator = operators.MultiCoilMRI(mask=operators.cartesian_mask((side, side), 4.0, seed=index), coil_maps=maps)
    clean = operator.A(image)
    data = clean + NOISE * torch.randn(clean.shape, generator=g) * (clean != 0)
    return posterior.GaussianLikelihood(operator, data, NOISE), magnitude


def _mri(index: int, side: int, name: str, sampler: Any, draws: int) -> Row:
    likelihood, truth = mri_likelihood(index, side)
    prior = posterior.load_prior("brain-mri")
    found = posterior.sample(
        prior, likelihood, sampler, draws=draws, batch_size=4, event_shape=(2, side, side), dtype=torch.float32
    )
    head = head_mask(truth)
    size = torch.linalg.vector_norm(found.samples, dim=1)[:, head]
    inside = truth[head]
    row = {
        "method": name,
        "slice": index,
        "draws": draws,
        "crps": fair_crps(size, inside),
        "crps4": fair_crps(size[:4], inside),
        "error_over_std": float((size.mean(0) - inside).square().mean().sqrt() / (size.var(0).mean() * (1 + 1 / draws)).sqrt()),
        "nfe": found.stats.nfe,
        "vjps": found.stats.vjps,
        "seconds_a_draw": found.stats.seconds / draws,
    }
    if draws >= draws_needed(0.9):
        equal = torch.full((draws,), 1 / draws, dtype=torch.float64)
        row["coverage"] = coverage(size.double(), equal, inside.double())
    return row


def downscale_jobs(days: int = 12) -> Iterator[Job]:
    """Pressure of 12 days of 2009 from means over cells of 4 x 4 grid points."""
    # Bicubic's error is fitted on 2009 again, other days.
    others = [np.datetime64("2009-01-01") + 15 * i for i in range(24)]
    for i in range(days):
        yield f"day {i}", lambda i=i: _downscale("slp-north-atlantic", np.datetime64("2009-01-08") + 30 * i, others)


def temperature_jobs(every: int = 12) -> Iterator[Job]:
    """Hourly temperature of the days held out of t2m-uk, from means over cells of 4 x 4 grid points."""
    times = gridded("t2m-uk")[1].develop_times
    assert times is not None
    others = list(times[every // 2 :: every])
    for when in times[::every].astype("datetime64[h]"):
        yield f"hour {when}", lambda t=when: _downscale("t2m-uk", t, others)


def _downscale(name: str, when: np.datetime64, others: list[np.datetime64]) -> Row:
    prior = posterior.load_prior(name)
    found = recipe.held_out_field(prior, str(when))
    if found is None:
        raise FileNotFoundError(f"benchmarks.bridge: the data of {name} are not at hand; see posterior.io.registry")
    fields = torch.stack([recipe.held_out_field(prior, str(other))[0] for other in others])
    problem = recipe.averages(prior.on(str(when)), found[0], seed=int(when.astype(int)))
    compared = recipe.downscale(problem, posterior.GaussianBridge(10), draws=20, fields=fields)
    rows = {str(r.pop("reconstruction")): r for r in compared.table}
    return {"day": str(when), "rows": rows, "seconds_a_draw": compared.draws.stats.seconds / 20}


def local_jobs(problems: int = 4) -> Iterator[Job]:
    """Deblurred galaxies, problems that the comparison of methods does not have, with one covariance or the other."""
    for i in range(problems):
        number = DEVELOPMENT + i
        yield f"problem {i}", lambda n=number: _local(n, blur.build("Hubble, Gaussian noise", n, False, 20))


def heads_jobs(problems: int = 4) -> Iterator[Job]:
    """The same of crops of a head, 4x undersampled."""
    for i in range(problems):
        number = DEVELOPMENT + i
        yield f"problem {i}", lambda n=number: _local(n, mri.build("4x", n, False, 20))


def orientations_jobs(problems: int = 12) -> Iterator[Job]:
    """Crops of a head again, with the network asked in one orientation or in all."""
    for i in range(problems):
        number = DEVELOPMENT + 10 + i
        yield f"problem {i}", lambda n=number: _orientations(n, mri.build("4x", n, False, 20))


def _local(problem: int, case: Case) -> Row:
    samplers = {"average": posterior.GaussianBridge(local=False), "local": posterior.GaussianBridge(adaptive=False)}
    best, spread = "local", case.prior.local_spread
    if spread is not None and spread.tails is not None:
        best = "local, heavy tails"
        samplers[best] = posterior.GaussianBridge()
    return _beside(problem, case, samplers | {f"{best}, and the Jacobian": posterior.GaussianBridge(jacobian=2)})


def _orientations(problem: int, case: Case) -> Row:
    samplers = {name: posterior.GaussianBridge(equivariant=e) for name, e in (("one", False), ("another at each step", True))}
    return _beside(problem, case, samplers)


def _beside(problem: int, case: Case, samplers: dict[str, posterior.GaussianBridge]) -> Row:
    rows = {}
    for name, sampler in samplers.items():
        began = time.process_time()
        made = posterior.sample(
            case.prior, case.likelihood, sampler, draws=20, event_shape=case.event_shape, batch_size=20, dtype=torch.float32
        )
        seconds = time.process_time() - began
        found = judged(Outcome(made.samples, False, 10, 0, seconds, ""), case)
        rows[name] = {k: found[k] for k in LOCAL_SCORES} | {"seconds": seconds}
    return {"problem": problem, "rows": rows}


def local_table(rows: list[Row], what: str = "covariance") -> list[str]:
    """Means over problems."""
    body = []
    for name in rows[0]["rows"]:
        mean = {k: float(np.mean([r["rows"][name][k] for r in rows])) for k in rows[0]["rows"][name]}
        shares = (f"{100 * mean['cov50']:.1f} %", f"{100 * mean['cov90']:.1f} %")
        numbers = (f"{mean['crps']:.5f}", f"{mean['psnr']:.2f}", *shares, f"{mean['spread_skill']:.2f}")
        body.append((name, *numbers, f"{mean['spectrum']:.2f}", f"{mean['seconds']:.1f}"))
    head = (what, "fair CRPS", "PSNR (dB)", "in 50 %", "in 90 %", "spread / error", "spectrum off by", "seconds")
    return markdown(head, body)


def fair_crps(draws: Tensor, truth: Tensor) -> float:
    """Fair CRPS of draws (N, ...), averaged over all points."""
    return float(crps_members(torch.cat([truth[None], draws]))[0])


def field_table(rows: list[Row]) -> list[str]:
    """Bias and spread."""
    body = [
        (
            r["operator"],
            str(r["steps"]),
            f"{r['bias']:.4f}",
            f"{r['std_ratio']:.4f} ± {r['std_ratio_error']:.4f}",
            f"{100 * r['worst_std']:.1f} %",
        )
        for r in rows
    ]
    return markdown(("operator", "steps", "bias / posterior std", "std / posterior std", "worst decile off by"), body)


def mixture_table(rows: list[Row]) -> list[str]:
    """Distance to the posterior and what the particles say of themselves."""
    head = ("cell", "method", "W2 over floor", "bias / std", "std ratio", "coverage of 90 %", "ESS / N", "log-evidence error")
    body = []
    for r in rows:
        facts = (f"{r['ess']:.2f}", f"{r['log_evidence']:+.3f}") if "ess" in r else ("", "")
        numbers = (f"{r['ratio']:.2f}", f"{r['bias']:.3f}", f"{r['std_ratio']:.3f}", f"{r['coverage90']:.3f}")
        body.append((r["cell"], f"`{r['method']}`", *numbers, *facts))
    return markdown(head, body)


def mri_table(rows: list[Row]) -> list[str]:
    """Means over slices, and over those that the dear samplers were given."""
    methods = list(dict.fromkeys(r["method"] for r in rows))
    counts = {m: [r["slice"] for r in rows if r["method"] == m] for m in methods}
    dear = set.intersection(*(set(v) for v in counts.values())) if len(methods) > 1 else set()
    groups = [(m, counts[m]) for m in methods if set(counts[m]) != dear] + [(m, sorted(dear)) for m in methods if dear]
    body = []
    for method, slices in groups:
        these = [r for r in rows if r["method"] == method and r["slice"] in slices]
        mean = {k: float(np.mean([r[k] for r in these])) for k in ("crps4", "error_over_std", "nfe", "vjps", "seconds_a_draw")}
        covered = [r["coverage"] for r in these if "coverage" in r]
        share = _share(np.array(covered)) if covered else ""
        paired = _less_that_of(rows, "MMPS", these)
        numbers = (f"{mean['crps4']:.4f}", paired, share, f"{mean['error_over_std']:.2f}")
        cost = (f"{mean['nfe']:.0f} + {mean['vjps']:.0f}", f"{mean['seconds_a_draw']:.1f}")
        body.append((method, str(len(slices)), *numbers, *cost))
    head = ("method", "slices", "fair CRPS", "less that of MMPS", "coverage of 90 %", "error / std")
    head = (*head, "calls + backward", "seconds a draw")
    return markdown(head, body)


def _less_that_of(rows: list[Row], other: str, these: list[Row]) -> str:
    """Mean difference of the CRPS from another method's on the same slices, and its standard error."""
    known = {r["slice"]: r["crps4"] for r in rows if r["method"] == other}
    off = np.array([r["crps4"] - known[r["slice"]] for r in these if r["slice"] in known])
    return f"{off.mean():+.4f} ± {off.std(ddof=1) / len(off) ** 0.5:.4f}" if len(off) > 1 and off.any() else ""


def _share(covered: np.ndarray) -> str:
    """Mean over slices and its standard error."""
    error = f" ± {100 * covered.std(ddof=1) / len(covered) ** 0.5:.1f}" if len(covered) > 1 else ""
    return f"{100 * covered.mean():.1f}{error} %"


def downscale_table(rows: list[Row], units: str = "hPa", each: str = "days") -> list[str]:
    """Means over fields; the power is that of single draws, of an estimate where there are none."""
    body = []
    crps = {name: np.array([r["rows"][name]["CRPS"] for r in rows]) for name in rows[0]["rows"]}
    for name in rows[0]["rows"]:
        off = crps[name] - crps["optimal interpolation"]
        paired = f"{off.mean():+.3f} ± {off.std(ddof=1) / len(off) ** 0.5:.3f}" if off.any() else ""
        mean = {k: float(np.mean([r["rows"][name][k] for r in rows])) for k in rows[0]["rows"][name]}
        power = f"{mean['small scales']:.2f}"
        body.append((name, f"{mean['RMSE']:.3f}", f"{mean['CRPS']:.3f}", paired, f"{100 * mean['coverage']:.1f} %", power))
    head = (f"{len(rows)} {each}", f"RMSE ({units})", f"CRPS ({units})", "less that of OI", "coverage of 90 %")
    return markdown((*head, "small-scale power / truth"), body)


PARTS: dict[str, tuple[Callable[[], Iterator[Job]], Callable[[list[Row]], list[str]]]] = {
    "field": (field_jobs, field_table),
    "mixture": (mixture_jobs, mixture_table),
    "mri": (mri_jobs, mri_table),
    "downscale": (downscale_jobs, downscale_table),
    "temperature": (temperature_jobs, partial(downscale_table, units="K", each="hours")),
    "local": (local_jobs, local_table),
    "heads": (heads_jobs, local_table),
    "orientations": (orientations_jobs, partial(local_table, what="orientations")),
}


def _with(part: str, name: str, row: Row, kept: dict[str, dict[str, Row]]) -> dict[str, dict[str, Row]]:
    return kept | {part: kept.get(part, {}) | {name: row}}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=list(PARTS), choices=list(PARTS), help="all of them if none is named")
    args = parser.parse_args()
    keep_large_blocks()
    for part in args.parts:
        jobs, _ = PARTS[part]
        for name, job in jobs():
            if name in read_json(RESULTS, {}).get(part, {}):
                continue
            row = job()
            print(part, name, row, flush=True)
            change_json(RESULTS, partial(_with, part, name, row), {})
    kept = read_json(RESULTS, {})
    if PAGE.exists():
        PAGE.write_text(
            fill(PAGE.read_text(), {p: table(list(kept[p].values())) for p, (_, table) in PARTS.items() if p in kept})
        )


if __name__ == "__main__":
    main()
