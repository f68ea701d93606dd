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

import posterior
from benchmarks.measurements.problem import amplitude, climatology_of, pressure, seen, training_days
from benchmarks.measurements.report import figure, page
from posterior._memory import keep_large_blocks
from posterior.priors.base import Affine, Prior
from posterior.priors.climatology import Climatology
from posterior.priors.network import NetworkPrior, unet_multiple
from posterior.priors.parameterisations import GaussianResidual
from posterior.priors.reference import EOFReference
from posterior.priors.training import TrainingSettings
from posterior.recipes.measurements import GaussianFit, Lap, fit_gaussian, fit_kernel, learn_prior
from posterior.recipes.training.build import measure
from posterior.uncertainty.scores import crps_members

SIGMAS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
BLOCKS = (16, 32, 48)
WEIGHTS = (30.0, 100.0, 300.0)
ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "measurements.json"
PAGE = ROOT / "docs" / "results-measurements.md"
FIGURE = PAGE.parent / "figures" / "measurements.png"


def fitted(
    data: list[posterior.GaussianLikelihood], affines: list[Affine], places: Tensor, spread: Tensor, laps: int
) -> tuple[GaussianFit, dict[str, Any]]:
    """The Gaussian by EM from a covariance function, and what was chosen on the way.

    How many days the start counts for is chosen by the log-evidence of every tenth day, on fits of every third of the others;
    the start itself is of all of them.
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
