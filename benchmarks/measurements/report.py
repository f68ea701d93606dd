"""The page and the figure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measurements.problem import NOISE, SEEN


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
        "of measured days that were set aside from these fits (climatology, scale and that function are of all days).",
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
