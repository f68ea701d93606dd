"""The page, made from the results file alone."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np

from benchmarks.harness.markdown import cell, groups, label, markdown
from benchmarks.harness.table import Row
from benchmarks.weather.benchmark import BRIDGE, ETKF, JACOBIAN, METHODS, OI, SEASONAL, SETTINGS
from benchmarks.weather.cases import ERROR, MONTHS, MORE_DAYS, PRIOR, STATIONS

DATA = Path(__file__).parent.parent.parent / "data"

HEADER = f"""# Measured: sea-level pressure from stations

Written by `python -m benchmarks.weather` from `benchmarks/results/weather.csv`.

60 days of 2009, five in every month, of NCEP/NCAR daily mean sea-level pressure over the North Atlantic (30 to 70 N, 70 W
to 10 E, 2.5 degrees). Each is seen by {STATIONS} stations at random places, with errors of {ERROR:g} hPa; the whole field is
scored, by area. The prior `slp-north-atlantic` was trained on 2001 to 2008 without August 2005 and developed on 2009;
the settings of the baselines and the noise levels of the bridge were chosen on other days of 2009. So 2009 is no test year,
and 2010 is kept for one.

- *climatology*: training fields within 15 days of the day of the year, as they are.
- *OI*: optimal interpolation, mean and covariance those of the prior's reference Gaussian (training anomalies). With a
  Gaussian denoiser `GaussianBridge` draws from the same posterior.
- *{SEASONAL}*: the same with the covariance of training fields of the calendar window, shrunk towards the year's.
- *ETKF*: ensemble transform Kalman filter from training fields of the calendar window, localised (LETKF).
- *{JACOBIAN}*: the bridge with two Krylov iterations of the network's Jacobian in its gain (`jacobian=2`).
- Fair CRPS in hPa, lower is better; *in 90 %*: share of the truth inside the central 90 % interval at Weibull positions;
  *spread/skill*: root of mean variance over mean squared error of the mean, both unbiased; *calls*, *VJPs*: network
  calls and vector-Jacobian products a draw.
"""


def write_page(rows: list[Row], path: Path) -> None:
    """Write docs/results-weather.md."""
    path.write_text("\n".join([HEADER, *body(rows)]) + "\n")


def body(rows: list[Row]) -> list[str]:
    """All sections that the rows have figures for."""
    fine = [r for r in rows if r["status"] == "ok"]
    lines: list[str] = []
    if SETTINGS.exists():
        settings = json.loads(SETTINGS.read_text())
        told = "; ".join(f"{name}: {', '.join(f'{k} {v:g}' for k, v in s.items())}" for name, s in settings.items())
        lines += [f"Settings chosen by `python -m benchmarks.weather --tune`: {told} (days, km).", ""]
    days = [r for r in fine if r["suite"] == "days"]
    if days:
        lines += ["## All days", "", *overall(days), "", "## Against the baselines", "", *comparisons(days), ""]
        lines += ["## By month", "", "Mean fair CRPS, hPa.", "", *by_month(days), ""]
        lines += ["## What was aimed at, and what limits it", "", *aims(days), "", *limits(days), ""]
    more = [r for r in fine if r["suite"] == "more days"]
    if more:
        lines += ["## Twice as many other days", "", *other_days(more), ""]
    hour = [r for r in fine if r["suite"] == "hour"]
    if hour:
        count = sum(int(float(r["count"])) for r in groups(hour, "method", "setting").popitem()[1])
        lines += [
            "## The real hour",
            "",
            f"METAR reports of 26 August 2005, 00 UTC, a month kept from all training: {count} stations of sea-level pressure",
            "in the region that pass the checks, each withheld once, in fifths. The reports themselves are predicted, with the",
            "error of an observation (0.71 hPa: 0.5 of the instrument, 0.5 of what the grid cannot show).",
            "",
            *overall(hour),
            "",
        ]
    return lines


def other_days(rows: list[Row]) -> list[str]:
    """The same for days that neither the table above nor any choice of settings has seen."""
    told = ", ".join(str(d) for d in MORE_DAYS[:-1])
    return [
        f"The same question asked of the {told} and {MORE_DAYS[-1]} of every month of 2009, days that no setting was",
        "chosen on: sixty days leave some doubt of a spread or of a month. Days that follow each other are alike, so intervals",
        "here are somewhat too narrow.",
        "",
        *overall(rows),
        "",
        *comparisons(rows),
        "",
        *by_month(rows),
        "",
        *aims(rows),
    ]


def overall(rows: list[Row]) -> list[str]:
    """One line a method, averaged over its problems by count of values."""
    head = ["method", "problems", "fair CRPS", "in 90 %", "spread/skill", "RMSE", "bias", "members", "calls", "VJPs", "s"]
    found = groups(rows, "method", "setting")
    table = []
    for method in METHODS:
        these = found.get((method.name, method.setting))
        if these:
            squared = _mean(these, "squared_error")
            table.append(
                [
                    label(these[0]),
                    str(len(these)),
                    cell(_mean(these, "crps"), 3),
                    cell(100 * _mean(these, "coverage90"), 1),
                    cell(math.sqrt(_mean(these, "variance") / squared), 3),
                    cell(math.sqrt(squared), 3),
                    cell(_mean(these, "bias"), 2),
                    these[0]["draws"],
                    cell(_mean(these, "nfe"), 0),
                    cell(_mean(these, "vjps"), 0),
                    cell(_mean(these, "seconds"), 1),
                ]
            )
    return markdown(head, table)


def comparisons(rows: list[Row]) -> list[str]:
    """The bridge against each baseline, paired by day."""
    from scipy.stats import wilcoxon

    table = []
    ours = {k: v for k, v in groups(rows, "method", "setting").items() if k[0] in (BRIDGE, JACOBIAN)}
    for (sampler, setting), mine in sorted(ours.items()):
        for name in (OI, SEASONAL, ETKF):
            theirs = [r for r in rows if r["method"] == name]
            a, b = _paired(mine, theirs)
            if len(a) < 6:
                continue
            low, high = _bootstrap(a, b)
            p = float(wilcoxon(a, b).pvalue)
            table.append(
                [
                    f"{sampler}, {setting}",
                    name,
                    f"{100 * (a.mean() / b.mean() - 1):+.1f} %",
                    f"{100 * low:+.1f} to {100 * high:+.1f} %",
                    f"{p:.1e}",
                    f"{int((a < b).sum())} of {len(a)}",
                ]
            )
    return markdown(["method", "against", "CRPS", "95 % (bootstrap over days)", "Wilcoxon p", "better days"], table)


def by_month(rows: list[Row]) -> list[str]:
    """Mean CRPS of every month."""
    table = []
    found = groups(rows, "method", "setting")
    most = max(len(days) for days in groups(rows, "cell", "method", "setting").values())
    for method in METHODS:
        these = found.get((method.name, method.setting))
        if these:
            months = groups(these, "cell")
            # a mean over fewer days is one over other days
            whole = {m for (m,), of_month in months.items() if len(of_month) == most}
            values = [cell(_mean(months[(m,)], "crps"), 2) if m in whole else "" for m in MONTHS]
            table.append([label(these[0]), *values])
    return markdown(["method", *MONTHS], table)


def aims(rows: list[Row]) -> list[str]:
    """Each aim with what was measured."""
    found = groups(rows, "method", "setting")
    table = []
    for sampler in (BRIDGE, JACOBIAN):
        who = f"{sampler}, 10 calls"
        for calls, against, wanted in (("10 calls", OI, -6), ("10 calls", ETKF, -10), ("40 calls", OI, -8)):
            mine = found.get((sampler, calls), [])
            a, b = _paired(mine, [r for r in rows if r["method"] == against])
            if len(a):
                got = 100 * (a.mean() / b.mean() - 1)
                what = f"CRPS against {against}, {sampler}, {calls}, {len(a)} days"
                table.append([what, f"{wanted} % or better", f"{got:+.1f} %", _met(got <= wanted)])
        mine = found.get((sampler, "10 calls"), [])
        if mine:
            coverage = 100 * _mean(mine, "coverage90")
            table.append([f"90 % coverage, {who}", "88 to 92 %", f"{coverage:.1f} %", _met(88 <= coverage <= 92)])
            spread = math.sqrt(_mean(mine, "variance") / _mean(mine, "squared_error"))
            table.append([f"spread/skill, {who}", "0.95 to 1.05", f"{spread:.3f}", _met(0.95 <= spread <= 1.05)])
            theirs = groups(found.get((OI, "default"), []), "cell")
            months = groups(mine, "cell")
            worse = [m for (m,), of in months.items() if (m,) in theirs and _mean(of, "crps") > _mean(theirs[(m,)], "crps")]
            got = f"worse in {', '.join(worse)}" if worse else "in none"
            table.append([f"months in which it is worse than OI, {who}", "none", got, _met(not worse)])
    return markdown(["aim", "wanted", "measured", ""], table)


def limits(rows: list[Row]) -> list[str]:
    """What the prior's card says of its denoiser."""
    about = json.loads((DATA / "priors" / PRIOR / "posterior.json").read_text())
    card = [r for r in about["card"]["held_out_rmse"] if r["sigma"] in (0.1, 0.2, 0.5, 1.0, 2.0)]
    told = ", ".join(f"{100 * (r['network'] / r['gaussian'] - 1):+.1f} % at {r['sigma']:g}" for r in card)
    lines = [
        "With a Gaussian denoiser the bridge draws from the posterior of optimal interpolation, and scores as it does;",
        "what the network adds is what it denoises better than the Gaussian does. On held-out days of 2009 its",
        "root-mean-square error differs from the Gaussian's, by noise level in standardised units (1 is",
        f"{about['scale']:.1f} hPa), by {told}.",
        "The gain in CRPS is of this size, which says that the prior limits it more than the sampler does.",
    ]
    plain, season = (_mean([r for r in rows if r["method"] == name], "crps") for name in (OI, SEASONAL))
    found = groups(rows, "method", "setting")
    ten, with_jacobian = (found.get((name, "10 calls")) for name in (BRIDGE, JACOBIAN))
    if ten and with_jacobian:
        change = 100 * (_mean(with_jacobian, "crps") / _mean(ten, "crps") - 1)
        lines.append(f"The network's Jacobian in the gain changes the CRPS of the bridge by {change:+.1f} % at ten calls.")
    return [
        *lines,
        "That the prior does not know the season is not it: the covariance of the season changes the score of optimal",
        f"interpolation by {100 * (season / plain - 1):+.1f} %.",
    ]


def _met(met: bool) -> str:
    return "met" if met else "missed"


def _paired(mine: list[Row], theirs: list[Row]) -> tuple[np.ndarray, np.ndarray]:
    other = {(r["cell"], r["problem"]): float(r["crps"]) for r in theirs}
    pairs = [(float(r["crps"]), other[r["cell"], r["problem"]]) for r in mine if (r["cell"], r["problem"]) in other]
    both = np.array(pairs).reshape(-1, 2)
    return both[:, 0], both[:, 1]


def _bootstrap(a: np.ndarray, b: np.ndarray, resamples: int = 4000) -> tuple[float, float]:
    """95 % interval of mean(a) / mean(b) - 1 over days."""
    index = np.random.default_rng(0).integers(0, len(a), (resamples, len(a)))
    ratio = a[index].mean(1) / b[index].mean(1) - 1
    low, high = np.quantile(ratio, (0.025, 0.975))
    return float(low), float(high)


def _mean(rows: list[Row], column: str) -> float:
    """Mean over problems, each by how many values it has."""
    weights = np.array([float(r["count"]) for r in rows])
    return float(weights @ np.array([float(r[column]) for r in rows]) / weights.sum())
