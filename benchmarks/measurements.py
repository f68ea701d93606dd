"""A prior of pressure fields from measurements alone, beside priors that saw clean fields.

``python -m benchmarks.measurements --run RUN``: every day of 2001-2008 (without August 2005) is seen through
another random fifth of its grid points, with noise of 0.5 hPa; climatology and scale come from the same measurements.
Scored on 2009: the denoising error, and the CRPS of reconstructions from a random fifth.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import operators
import posterior
from posterior._memory import keep_large_blocks
from posterior.io.fields import open_fields
from posterior.io.registry import fetch
from posterior.priors.base import Affine, Prior
from posterior.priors.climatology import Climatology
from posterior.priors.network import NetworkPrior, unet_multiple
from posterior.priors.parameterisations import GaussianResidual
from posterior.priors.reference import EOFReference
from posterior.priors.training import TrainingSettings
from posterior.recipes.measurements import GaussianFit, Lap, fit_gaussian, fit_kernel, learn_prior
from posterior.recipes.training.build import measure
from posterior.uncertainty.scores import crps_members

SEEN, NOISE = 0.2, 0.5
SIGMAS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
BLOCKS = (16, 32, 48)
WEIGHTS = (30.0, 100.0, 300.0)
RESULTS = Path(__file__).parent / "results" / "measurements.json"
PAGE = Path(__file__).parents[1] / "docs" / "results-measurements.md"
FIGURE = PAGE.parent / "figures" / "measurements.png"


def pressure() -> tuple[Tensor, np.ndarray, Tensor]:
    """Daily sea-level pressure (N, 1, 17, 33) in hPa, its days and the positions of its points."""
    array = open_fields(fetch("ncep-slp-2001-2010"), "slp", units="hPa", rename=True).transpose("time", "latitude", "longitude")
    values = torch.from_numpy(np.asarray(array.values, dtype=np.float64))[:, None]
    return values, array["time"].values.astype("datetime64[D]"), positions(array["latitude"].values, array["longitude"].values)


def training_days(times: np.ndarray, every: int) -> np.ndarray:
    """Rows of the days that are measured."""
    inside = (times < np.datetime64("2009-01-01")) & (times.astype("datetime64[M]") != np.datetime64("2005-08"))
    return np.flatnonzero(inside)[::every]


def seen(field: Tensor, day: int) -> posterior.GaussianLikelihood:
    """What is known of a day: a random fifth of its points, with noise."""
    physics = operators.Inpainting.random(tuple(field.shape[-2:]), SEEN, seed=day)
    g = torch.Generator().manual_seed(10_000 + day)
    y = physics.A(field[None].float()) + NOISE * torch.randn(1, *field.shape, generator=g) * physics.mask
    return posterior.GaussianLikelihood(physics, y, NOISE)


def climatology_of(data: list[posterior.GaussianLikelihood], days: np.ndarray, yearly: int = 1) -> tuple[Climatology, float]:
    """Harmonics of the year at each point from the days on which it was seen, smoothed over neighbours, and the rms left.

    A point is seen on some hundred days, which tells its mean to 1 hPa; neighbours share theirs.
    """
    from scipy.ndimage import gaussian_filter

    values = torch.stack([d.y[0] for d in data]).double().flatten(1)
    there = torch.stack([d.operator.mask.flatten() for d in data]).double()
    basis = Climatology(torch.zeros(1 + 2 * yearly, 1), yearly)
    rows = torch.stack([_row(basis, day) for day in days])
    gram = torch.einsum("tp,ti,tj->pij", there, rows, rows)
    right = torch.einsum("tp,ti->pi", there * values, rows)
    solved = torch.linalg.solve(gram, right).T.reshape(-1, *data[0].y.shape[-2:]).numpy()
    smooth = [gaussian_filter(field, 1.5, mode="nearest") for field in solved]
    coefficients = torch.from_numpy(np.stack(smooth)).flatten(1).T
    left = (values - rows @ coefficients.T) * there
    rms = math.sqrt(float(left.square().sum() / there.sum()) - NOISE**2)
    return Climatology(coefficients.T.reshape(1 + 2 * yearly, *data[0].y.shape[1:]), yearly), rms


def positions(latitude: np.ndarray, longitude: np.ndarray) -> Tensor:
    """Of the grid's points on the unit sphere, (n, 3): east, north and up as seen from the middle of the region."""
    north, east = (g.ravel() for g in np.meshgrid(np.deg2rad(latitude), np.deg2rad(longitude), indexing="ij"))
    middle, east = (north.max() + north.min()) / 2, east - (east.max() + east.min()) / 2
    out, pole = np.cos(north) * np.cos(east), np.sin(north)
    turned = (out * np.cos(middle) + pole * np.sin(middle), pole * np.cos(middle) - out * np.sin(middle))
    return torch.from_numpy(np.stack([np.cos(north) * np.sin(east), turned[1], turned[0]], 1))


def amplitude(data: list[posterior.GaussianLikelihood], climatology: Climatology, days: np.ndarray, scale: float) -> Tensor:
    """Standard deviation at each point, (n,), standardised, from the days on which it was seen, smoothed over neighbours."""
    from scipy.ndimage import gaussian_filter

    there = torch.stack([d.operator.mask.reshape(d.y.shape[-2:]) for d in data]).double()
    left = (torch.stack([d.y[0, 0] for d in data]).double() - climatology.on(days)[:, 0]) * there / scale
    sums = [gaussian_filter(v.sum(0).numpy(), 1.5, mode="nearest") for v in (left.square(), there)]
    return torch.from_numpy(sums[0] / sums[1] - (NOISE / scale) ** 2).clamp_min(1e-4).sqrt().flatten()


def fitted(
    data: list[posterior.GaussianLikelihood], affines: list[Affine], places: Tensor, spread: Tensor, laps: int
) -> tuple[GaussianFit, dict[str, Any]]:
    """The Gaussian by EM from a covariance function, and what was chosen on the way.

    How many days the start counts for is chosen by the log-evidence of every tenth day, on fits of every third of the others.
    """
    shape = tuple(data[0].y.shape[1:])
    begin = time.process_time()
    start = fit_kernel(data, shape, places, affines, amplitude=spread)
    print(f"covariance function: evidence {start.evidence:.3f} a day, {time.process_time() - begin:.0f} s", flush=True)
    aside, rest = range(0, len(data), 10), [i for i in range(len(data)) if i % 10][::3]
    tried = {}
    for weight in WEIGHTS:
        fit = fit_gaussian(
            [data[i] for i in rest], shape, [affines[i] for i in rest], laps=laps, start=start.covariance, weight=weight
        )
        tried[f"{weight:g}"] = fit.log_evidence([data[i] for i in aside], [affines[i] for i in aside])
        print(f"weight {weight:g}: evidence of days set aside {tried[f'{weight:g}']:.3f}", flush=True)
    weight = max(WEIGHTS, key=lambda w: tried[f"{w:g}"])
    say = lambda lap, e: print(f"Gaussian lap {lap}: evidence {e:.3f} a day", flush=True)  # noqa: E731
    fit = fit_gaussian(data, shape, affines, laps=laps, start=start.covariance, weight=weight, progress=say)
    return fit, {"weight": weight, "aside": tried, "lengths": start.lengths.tolist(), "nugget": start.nugget}


def _row(empty: Climatology, day: np.datetime64) -> Tensor:
    """The harmonics on a day: a climatology of unit coefficients, asked one at a time."""
    unit = torch.eye(len(empty.coefficients), dtype=torch.float64)
    return Climatology(unit, empty.yearly).on(day)


def untrained(reference: EOFReference, climatology: Climatology, scale: float, name: str, seed: int = 0) -> NetworkPrior:
    """A residual network on a Gaussian, which starts as that Gaussian."""
    from diffusers.models.unets.unet_2d import UNet2DModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = UNet2DModel(
            in_channels=2,
            out_channels=1,
            layers_per_block=1,
            block_out_channels=BLOCKS,
            down_block_types=("DownBlock2D",) * len(BLOCKS),
            up_block_types=("UpBlock2D",) * len(BLOCKS),
            norm_num_groups=8,
            dropout=0.1,
            add_attention=False,
        )
    torch.nn.init.zeros_(network.conv_out.weight)
    torch.nn.init.zeros_(network.conv_out.bias)
    return NetworkPrior(
        network,
        GaussianResidual(reference),
        reference.shape,
        affine=Affine(scale, climatology.mean),
        units="hPa",
        reference=reference,
        sigma_range=(0.02, 40.0),
        climatology=climatology,
        multiple=unet_multiple(BLOCKS),
        name=name,
    )


def shifted(fit: GaussianFit, climatology: Climatology, scale: float) -> Climatology:
    """The climatology with the mean of the fit in it, so that standardised fields have none."""
    coefficients = climatology.coefficients.clone()
    coefficients[0] += scale * fit.mean
    return Climatology(coefficients, climatology.yearly)


def denoising(prior: Prior, fields: Tensor, days: np.ndarray, gaussian: bool = False) -> list[float]:
    """Root-mean-square error on days at noise levels in hPa; of the reference Gaussian alone if ``gaussian``."""
    scale = float(torch.as_tensor(prior.affine.scale))
    assert prior.climatology is not None
    clean = ((fields - prior.climatology.on(days)) / scale).float()
    errors = []
    for k, sigma in enumerate(SIGMAS):
        g = torch.Generator().manual_seed(k)
        noisy = clean + sigma / scale * torch.randn(clean.shape, generator=g)
        denoise = prior.reference.denoise if gaussian and prior.reference is not None else prior.denoise
        with torch.no_grad():
            parts = [denoise(x, sigma / scale) for x in noisy.split(64)]
        errors.append(scale * float((torch.cat(parts) - clean).square().mean().sqrt()))
    return errors


def reconstruction(prior: NetworkPrior, fields: Tensor, days: np.ndarray, draws: int, gaussian: bool = False) -> dict[str, Any]:
    """CRPS and error of the mean, hPa, of days seen through a fifth of their points, at the points not seen."""
    scores, errors, spreads = [], [], []
    for i, (field, day) in enumerate(zip(fields, days, strict=True)):
        like, there = seen(field, 100_000 + i), prior.on(day)
        if gaussian:
            assert prior.reference is not None
            shift, scale = torch.as_tensor(there.affine.shift), float(torch.as_tensor(there.affine.scale))
            n = field.numel()
            cov = prior.reference.covariance(tuple(field.shape)).apply(torch.eye(n).double().reshape(n, *field.shape))
            exact = posterior.GaussianPrior(shift, scale**2 * cov.reshape(n, n))
            members = posterior.exact_posterior(exact, like).sample(draws, seed=i)
        else:
            made = posterior.sample(
                there, like, posterior.GaussianBridge(), draws=draws, seed=i, batch_size=draws, dtype=torch.float32
            )
            members = made.samples
        away = (like.operator.mask == 0).expand(field.shape)
        members = members.double()[:, away]
        scores.append(float(crps_members(torch.cat([field[away][None], members]))[0]))
        # The mean of n draws carries 1/n of their variance as an error of its own.
        errors.append(float((members.mean(0) - field[away]).square().mean() - members.var(0).mean() / draws))
        spreads.append(float(members.var(0).mean()))
    se = float(np.std(scores, ddof=1) / len(scores) ** 0.5)
    return {
        "crps": float(np.mean(scores)),
        "crps_each": [round(s, 4) for s in scores],
        "crps_error": se,
        "rmse": float(np.sqrt(np.mean(errors))),
        "spread": float(np.sqrt(np.mean(spreads))),
    }


def figure(results: dict[str, Any], path: Path) -> None:
    """Denoising error against the clean Gaussian's, and CRPS, as a picture."""
    from matplotlib.figure import Figure

    made = Figure(figsize=(10, 4), layout="constrained")
    left, right = made.subplots(1, 2)
    base = np.array(results["priors"]["Gaussian of clean fields"]["denoising"])
    names = list(results["priors"])
    colours = dict(zip(names, ("#999999", "#d55e00", "#56b4e9", "#0072b2", "#009e73", "#222222"), strict=False))
    for name, row in results["priors"].items():
        left.semilogx(results["sigmas"], np.array(row["denoising"]) / base, "o-", ms=3, color=colours[name], label=name)
    left.set(xlabel="noise level (hPa)", ylabel="denoising error, times that of\nthe Gaussian of clean fields")
    rows = [(n, r["reconstruction"]) for n, r in results["priors"].items() if "reconstruction" in r]
    for k, (name, r) in enumerate(rows):
        right.errorbar(r["crps"], k, xerr=2 * r["crps_error"], fmt="o", color=colours[name])
    right.set_yticks(range(len(rows)), [n for n, _ in rows], fontsize=8)
    right.invert_yaxis()
    right.set(xlabel="CRPS at points not seen (hPa), ± 2 s.e.")
    made.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    made.savefig(path, dpi=110)


def comparison(priors: dict[str, Any]) -> list[str]:
    """What the numbers say, in sentences."""

    def ratios(name: str, base: str) -> np.ndarray:
        return np.array(priors[name]["denoising"]) / np.array(priors[base]["denoising"])

    clean, by_em = list(priors)[:2]
    off = ratios(by_em, clean)
    crps = {name: row["reconstruction"]["crps"] for name, row in priors.items() if "reconstruction" in row}
    lines = [
        f"The Gaussian by EM makes {off[0]:.2f} times the denoising error of the Gaussian of clean fields at the lowest noise",
        f"and {off[-1]:.2f} times at the highest, and {crps[by_em] / crps[clean]:.2f} times its CRPS.",
    ]
    for name in priors:
        if name.startswith("network after"):
            change = 100 * (ratios(name, by_em) - 1)
            text = f"The {name.partition(',')[0]} changes the denoising error of the Gaussian by EM by {change.min():+.1f} to"
            lines += [text, f"{change.max():+.1f} %."]
            if name in crps:
                each = [np.array(priors[n]["reconstruction"]["crps_each"]) for n in (name, by_em)]
                paired = each[0] - each[1]
                error = paired.std(ddof=1) / len(paired) ** 0.5
                lines[-1] += f" Its CRPS differs by {paired.mean():+.3f} ± {error:.3f} hPa, paired by day."
    return lines


def _listed(aside: dict[str, float]) -> str:
    """Weights with the evidence that each reached."""
    return ", ".join(f"{weight} ({evidence:.2f})" for weight, evidence in aside.items())


def page(results: dict[str, Any]) -> str:
    """The results as a page."""
    s, start, evidence, minutes = (results[k] for k in ("settings", "start", "evidence", "cpu_seconds"))
    minutes /= 60
    lines = [
        "# A prior from measurements alone",
        "",
        "Written by `python -m benchmarks.measurements --run RUN`; the method is expectation-maximisation with the posterior",
        "sampler in the loop (Rozet et al. 2024, arXiv:2405.13712), `posterior.recipes.measurements`.",
        "",
        f"{results['measured_days']} days of sea-level pressure over the North Atlantic, 17 x 33 points, from 2001 to 2008",
        f"without August 2005, each seen through another random {100 * SEEN:.0f} % of its points with noise of {NOISE} hPa.",
        "No clean field is used, not for climatology and scale either. First a covariance function, three squared exponentials",
        "with lengths of their own along east, north and up, by maximum likelihood (`fit_kernel`); from it the Gaussian by EM,",
        f"its E-step in closed form (`fit_gaussian`), {s['gaussian_laps']} laps with extrapolation: the mean log-evidence of a",
        f"day rose from {evidence[0]:.1f} to {evidence[-1]:.1f}, and by {evidence[-1] - evidence[-2]:.2f} in the last lap.",
        f"The covariance function counts for {start['weight']:g} days, the best of {_listed(start['aside'])} by the evidence",
        "of measured days that were set aside.",
        f"Laps of a residual network on that Gaussian: {s['laps']}, each of {s['per_lap']} posterior draws by GaussianBridge",
        f"and {s['steps']} training steps; {minutes:.1f} minutes of one core, everything included. Scored on 2009:",
        "",
        "| prior | "
        + " | ".join(f"D, {sigma:g} hPa" for sigma in results["sigmas"])
        + " | CRPS (hPa) | error / spread (hPa) |",
        "|---|" + "---|" * (len(results["sigmas"]) + 2),
    ]
    for name, row in results["priors"].items():
        r = row.get("reconstruction")
        cells = [f"{e:.3f}" for e in row["denoising"]]
        cells += ["", ""] if r is None else [f"{r['crps']:.3f} ± {r['crps_error']:.3f}", f"{r['rmse']:.3f} / {r['spread']:.3f}"]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "D: root-mean-square denoising error at that noise. CRPS, error of the mean and spread: at the points not seen of",
        f"{s['days']} days, each seen through a random fifth, {s['draws']} draws; ± one standard error over days.",
        "",
        *comparison(results["priors"]),
        "",
        "Without a weight on the covariance function further laps fit noise: a covariance has 158 000 free numbers, and each",
        "pair of points is seen on one day in 25. A lap of the network is one M-step on draws under that Gaussian, whose",
        "errors its draws inherit.",
        "`--every`, `--gaussian-laps`, `--laps`, `--per-lap` and `--steps` take more time and go further.",
        "",
        "![Denoising error and CRPS](figures/measurements.png)",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="folder of fits, draws and checkpoints; a second run goes on")
    parser.add_argument("--report", action="store_true", help="only write page and figure from the results file")
    parser.add_argument("--every", type=int, default=1, help="of the training days, take one in so many")
    parser.add_argument("--gaussian-laps", type=int, default=12)
    parser.add_argument("--laps", type=int, default=2)
    parser.add_argument("--per-lap", type=int, default=1440)
    parser.add_argument("--steps", type=int, default=1500, help="training steps in each lap")
    parser.add_argument("--days", type=int, default=12, help="days of 2009 that are reconstructed")
    parser.add_argument("--draws", type=int, default=12)
    parser.add_argument("--clean", default="slp-north-atlantic", help="the prior that was trained on clean fields")
    args = parser.parse_args()
    if args.report:
        results = json.loads(RESULTS.read_text())
        PAGE.write_text(page(results))
        figure(results, FIGURE)
        return
    keep_large_blocks()
    torch.set_num_threads(1)
    args.run.mkdir(parents=True, exist_ok=True)
    clock = args.run / "cpu_seconds"
    before = float(clock.read_text()) if clock.exists() else 0.0
    fields, times, places = pressure()
    rows = training_days(times, args.every)
    data = [seen(fields[i], int(i)) for i in rows]
    climatology, scale = climatology_of(data, times[rows])
    kept, told = args.run / "gaussian.pt", args.run / "gaussian.json"
    if kept.exists() and told.exists():
        fit, choice = GaussianFit(**torch.load(kept, weights_only=True)), json.loads(told.read_text())
    else:
        affines = [Affine(scale, climatology.on(day)) for day in times[rows]]
        fit, choice = fitted(data, affines, places, amplitude(data, climatology, times[rows], scale), args.gaussian_laps)
        torch.save({"mean": fit.mean, "covariance": fit.covariance, "evidence": fit.evidence}, kept)
        told.write_text(json.dumps(choice))
    climatology = shifted(fit, climatology, scale)
    prior = untrained(fit.eofs, climatology, scale, "measurements")

    year = np.flatnonzero(times.astype("datetime64[Y]") == np.datetime64("2009"))
    held, days = fields[year[::3]], times[year[::3]]
    some = np.linspace(0, len(held) - 1, args.days).round().astype(int)
    priors: dict[str, Any] = {}

    def score(name: str, of: NetworkPrior, gaussian: bool = False, draw: bool = True) -> None:
        priors[name] = {"denoising": denoising(of, held, days, gaussian)}
        if draw:
            priors[name]["reconstruction"] = reconstruction(of, held[some], days[some], args.draws, gaussian)
        clock.write_text(f"{before + time.process_time():.1f}")
        shown = priors[name].get("reconstruction", {}).get("crps", math.nan)
        print(name, [round(e, 3) for e in priors[name]["denoising"]], f"CRPS {shown:.3f}", flush=True)

    all_days = training_days(times, 1)
    whole = Climatology.fit(fields[all_days], times[all_days], climatology.yearly)
    clean = EOFReference.fit((fields[all_days] - whole.on(times[all_days])) / scale)
    score("Gaussian of clean fields", untrained(clean, whole, scale, "clean"), gaussian=True)
    score("Gaussian by EM, measurements alone", prior, gaussian=True)

    def carry(trained: NetworkPrior, rest: Tensor) -> EOFReference:
        found, _ = measure(trained, rest, np.geomspace(trained.sigma_min, trained.sigma_max, 12))
        assert isinstance(found, EOFReference)
        trained.reference = found
        lap = sum(n.startswith("network after") for n in priors) + 1
        score(f"network after lap {lap}, measurements alone", trained, draw=lap == args.laps)
        return found

    def tell(lap: Lap) -> None:
        if lap.done % 100 == 0:
            clock.write_text(f"{before + time.process_time():.1f}")
            print(f"lap {lap.lap}: {lap.what} {lap.done} of {lap.total} {lap.loss:.4f}", flush=True)

    settings = TrainingSettings(
        steps=args.steps, learning_rate=1e-3, warmup=10, ema=0.95, sigma_min=0.02, sigma_max=40.0, checkpoint_every=20
    )
    learn_prior(
        data, prior, settings, args.run, laps=args.laps, dates=times[rows], per_lap=args.per_lap, measure=carry, progress=tell
    )
    if args.clean in posterior.bundled_priors():
        trained = posterior.load_prior(args.clean)
        assert isinstance(trained, NetworkPrior)
        score(f"{args.clean}, trained on clean fields", trained)
    results = {
        "command": "python -m benchmarks.measurements --run RUN",
        "settings": {k: v for k, v in vars(args).items() if k not in ("run", "report")},
        "measured_days": len(rows),
        "evidence": [round(e, 4) for e in fit.evidence],
        "start": choice,
        "sigmas": list(SIGMAS),
        "priors": priors,
        "cpu_seconds": round(float(clock.read_text())),
    }
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    PAGE.write_text(page(results))
    figure(results, FIGURE)


if __name__ == "__main__":
    main()
