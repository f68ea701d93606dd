"""The page of a check, in Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from posterior.uncertainty.prior_check.check import PriorCheck


def page(check: PriorCheck) -> str:
    """Verdicts, figures and the tables behind them."""
    s = check.settings
    shape = " x ".join(map(str, s["event_shape"]))
    lines = [
        f"# Check of the prior {check.prior}",
        "",
        f"{s['held_out']} held-out fields of {shape}, {s['training'] or 'no'} training fields, {s['draws']} draws of the prior "
        f"of {s['steps']} network calls, seed {s['seed']}; {check.seconds:.0f} s. All in standardised units.",
        "",
        "| check | verdict | finding |",
        "|---|---|---|",
        *(f"| {v.check} | {v.grade} | {v.sentence} |" for v in check.verdicts),
        "",
        "![Curves](check.png)",
        "",
        "![Draws and held-out fields](check-fields.png)",
        "",
        "## Held-out denoising error",
        "",
        *denoising_table(check),
        "",
        "## Jacobian of the denoiser",
        "",
        "| sigma | antisymmetric / symmetric | least / largest eigenvalue | sigma^2 tr J / squared error | Fokker-Planck |",
        "|---|---|---|---|---|",
    ]
    j = check.jacobian
    for i in range(len(j.sigmas)):
        covariance = f"{float(j.covariance[i]):.3g} ({float(j.lower[i]):.3g} to {float(j.upper[i]):.3g})"
        before, after = (j.sigmas[i], j.antisymmetry[i], j.lowest[i]), (j.fokker_planck[i],)
        row = [*(f"{float(v):.3g}" for v in before), covariance, *(f"{float(v):.3g}" for v in after)]
        lines.append("| " + " | ".join(row) + " |")
    if check.training_statistics is not None:
        lines += [
            "",
            "## What the training fields themselves reach",
            "",
            "The same statistics of training fields instead of draws: no prior can be asked for more.",
            "",
            "| check | verdict | finding |",
            "|---|---|---|",
            *(f"| {v.check} | {v.grade} | {v.sentence} |" for v in check.training_statistics.verdicts),
        ]
    return "\n".join(lines) + "\n"


def denoising_table(check: PriorCheck) -> list[str]:
    """Root-mean-square errors against sigma, as lines of a Markdown table."""
    d = check.denoising
    names = list(d.linear)
    head = ["sigma", "prior", *names, *(["prior / best linear (95 % band)"] if names else [])]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for i in range(len(d.sigmas)):
        row = [f"{float(d.sigmas[i]):.3g}", f"{float(d.prior[i]):.4f}", *(f"{float(d.linear[n][i]):.4f}" for n in names)]
        if names:
            row.append(f"{float(d.ratio[i]):.3f} ({float(d.lower[i]):.3f} to {float(d.upper[i]):.3f})")
        lines.append("| " + " | ".join(row) + " |")
    return lines
