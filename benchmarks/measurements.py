"""A prior of pressure fields from measurements alone, beside priors that saw clean fields.

``python -m benchmarks.measurements --run RUN``: every day of 2001-2008 (without August 2005) is seen through another
random fifth of its grid points, with noise of 0.5 hPa; climatology and scale come from the same measurements. Scored on
2009: the denoising error, and the CRPS of reconstructions from a random fifth. ``--choose WEIGHT WEIGHT ...`` first asks
which weight on the start foretells measurements best that the fit did not see; it looks at no day of 2009.
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
from benchmarks.measurements_page import figure, page
from posterior._memory import keep_large_blocks
from posterior.io.fields import open_fields
from posterior.io.registry import fetch
from posterior.priors.base import Affine, Prior
from posterior.priors.climatology import Climatology
from posterior.priors.network import NetworkPrior, unet_multiple
from posterior.priors.parameterisations import GaussianResidual
from posterior.priors.reference import EOFReference
from posterior.priors.training import TrainingSettings
from posterior.recipes.measurements import GaussianFit, Lap, fit_gaussian, learn_prior
from posterior.recipes.training.build import measure
from posterior.uncertainty.scores import crps_members

SEEN, NOISE = 0.2, 0.5
SIGMAS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
BLOCKS = (16, 32, 48)
FLOOR = 1e-4  # least variance of the start, standardised; the evidence of the measurements falls with larger ones
RESULTS = Path(__file__).parent / "results" / "measurements.json"
PAGE = Path(__file__).parents[1] / "docs" / "results-measurements.md"
FIGURE = PAGE.parent / "figures" / "measurements.png"


def pressure() -> tuple[Tensor, np.ndarray]:
    """Daily sea-level pressure (N, 1, 17, 33) in hPa, and its days."""
    array = open_fields(fetch("ncep-slp-2001-2010"), "slp", units="hPa", rename=True).transpose("time", "latitude", "longitude")
    return torch.from_numpy(np.asarray(array.values, dtype=np.float64))[:, None], array["time"].values.astype("datetime64[D]")


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


def homogeneous(data: list[posterior.GaussianLikelihood], climatology: Climatology, days: np.ndarray, scale: float) -> Tensor:
    """Covariance (n, n) by separation alone, from all pairs of points that were seen on one day: where the EM begins."""
    there = torch.stack([d.operator.mask for d in data]).double()
    values = there * (torch.stack([d.y[0, 0] for d in data]).double() - climatology.on(days)[:, 0]) / scale
    h, w = there.shape[-2:]
    sums = [
        torch.fft.irfft2(torch.fft.rfft2(v, s=(2 * h, 2 * w)).abs().square().sum(0), s=(2 * h, 2 * w)) for v in (values, there)
    ]
    by_lag = sums[0] / sums[1].clamp_min(0.5)
    by_lag[0, 0] -= (NOISE / scale) ** 2
    rows, columns = (g.flatten() for g in torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij"))
    cov = by_lag[(rows[:, None] - rows) % (2 * h), (columns[:, None] - columns) % (2 * w)]
    eigenvalues, vectors = torch.linalg.eigh((cov + cov.T) / 2)
    return vectors @ (eigenvalues.clamp_min(FLOOR)[:, None] * vectors.T)


def foretold(data: list[posterior.GaussianLikelihood], affines: list[Affine], start: Tensor, weight: float, laps: int) -> float:
    """Mean log-evidence of every tenth day's measurements under the Gaussian that the other days' give."""
    shape, scale = tuple(data[0].y.shape[1:]), affines[0].scale
    rest, away = ([k for k in range(len(data)) if (k % 10 == 0) == tenth] for tenth in (False, True))
    fit = fit_gaussian([data[k] for k in rest], shape, [affines[k] for k in rest], laps=laps, start=start, weight=weight)
    centred = [Affine(scale, affines[k].shift + scale * fit.mean) for k in away]
    return fit_gaussian([data[k] for k in away], shape, centred, laps=0, start=fit.covariance).evidence[0]


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


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="folder of fits, draws and checkpoints; a second run goes on")
    parser.add_argument("--report", action="store_true", help="only write page and figure from the results file")
    parser.add_argument("--every", type=int, default=1, help="of the training days, take one in so many")
    parser.add_argument("--gaussian-laps", type=int, default=24)
    parser.add_argument("--weight", type=float, default=10.0, help="how many fields the start of the EM counts for")
    parser.add_argument("--choose", type=float, nargs="+", help="weights to try on withheld measurements, and nothing else")
    parser.add_argument("--laps", type=int, default=1)
    parser.add_argument("--per-lap", type=int, default=320)
    parser.add_argument("--steps", type=int, default=400, help="training steps in each lap")
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
    fields, times = pressure()
    rows = training_days(times, args.every)
    data = [seen(fields[i], int(i)) for i in rows]
    climatology, scale = climatology_of(data, times[rows])
    kept, choice = args.run / "gaussian.pt", args.run / "choice.json"
    affines = [Affine(scale, climatology.on(day)) for day in times[rows]]
    if args.choose:
        start = homogeneous(data, climatology, times[rows], scale)
        found = {f"{w:g}": round(foretold(data, affines, start, w, args.gaussian_laps), 3) for w in args.choose}
        choice.write_text(json.dumps({"days": len(rows), "evidence": found}))
        print(choice.read_text())
        return
    if kept.exists():
        fit = GaussianFit(**torch.load(kept, weights_only=True))
    else:
        say = lambda lap, e: print(f"Gaussian lap {lap}: evidence {e:.3f} a day", flush=True)  # noqa: E731
        start = homogeneous(data, climatology, times[rows], scale)
        shape, laps = tuple(fields.shape[1:]), args.gaussian_laps
        fit = fit_gaussian(data, shape, affines, laps=laps, start=start, weight=args.weight, progress=say)
        torch.save({"mean": fit.mean, "covariance": fit.covariance, "evidence": fit.evidence}, kept)
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
        "settings": {k: v for k, v in vars(args).items() if k not in ("run", "report", "choose")}
        | {"seen": SEEN, "noise": NOISE},
        "choice": json.loads(choice.read_text()) if choice.exists() else None,
        "measured_days": len(rows),
        "evidence": [round(e, 4) for e in fit.evidence],
        "sigmas": list(SIGMAS),
        "priors": priors,
        "cpu_seconds": round(float(clock.read_text())),
    }
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    PAGE.write_text(page(results))
    figure(results, FIGURE)


if __name__ == "__main__":
    main()
