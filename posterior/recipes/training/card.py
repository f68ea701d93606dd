"""The card of a trained prior: a page for people, and a picture of the curves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np


def curves(run: Path, points: int = 40) -> dict[str, list[list[float]]]:
    """The curves of a run for a card: [last step, mean loss] of ``points`` parts, and every measurement on held-out fields."""
    found: dict[str, list[list[float]]] = {}
    table = _table(run / "loss.csv")
    if table is not None:
        parts = np.array_split(table, min(points, len(table)))
        found["loss"] = [[int(p[-1, 0]) + 1, round(float(p[:, 1].mean()), 4)] for p in parts]
    table = _table(run / "validation.csv")
    if table is not None:
        found["held_out"] = [[int(step), round(float(score), 4)] for step, score in table]
    return found


def _table(path: Path) -> np.ndarray | None:
    if not path.exists() or not path.read_text().strip():
        return None
    return np.loadtxt(path, delimiter=",", ndmin=2)


def draw_curves(run: Path, curve: list[dict[str, float]], path: Path) -> None:
    """Loss, held-out score and denoising error as a picture."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    loss, held_out = (_table(run / name) for name in ("loss.csv", "validation.csv"))
    if loss is not None:
        parts = np.array_split(loss, min(100, len(loss)))
        left.plot([p[-1, 0] + 1 for p in parts], [p[:, 1].mean() for p in parts], color="0.5", lw=1, label="training loss")
    if held_out is not None:
        left.plot(held_out[:, 0], held_out[:, 1], "o-", color="C0", ms=3, label="held-out error, times the Gaussian's")
    left.set(xlabel="step")
    left.legend(fontsize=8)
    if curve:
        sigma = [row["sigma"] for row in curve]
        right.loglog(sigma, [row["gaussian"] for row in curve], "--", color="0.5", label="optimal linear (Gaussian) denoiser")
        right.loglog(sigma, [row["network"] for row in curve], "o-", color="C0", ms=3, label="network")
        right.set(xlabel="noise level, standardised", ylabel="held-out error, root-mean-square")
        right.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def page(name: str, card: dict[str, Any]) -> str:
    """The card as a page."""
    lines = [f"# {name}", "", f"A prior of {card['summary']}. Licence: {card['licence']}.", "", "## Data", ""]
    lines += [f"- {sentence}" for sentence in card["data"]]
    for key, what in (("train", "training"), ("develop", "held out")):
        if card[key]:
            periods = ", ".join(f"{first} to {last}" for first, last in card[key])
            lines.append(f"- {what}: {periods} ({card['fields'][key]} fields)")
    if card["limits"]:
        lines += ["", f"Limits: {card['limits']}."]
    lines += ["", "## Training", "", f"{card['parameters']} parameters, half precision.", ""]
    if card["commands"]:
        lines += ["```", *card["commands"], "```", ""]
    lines += [f"- {note}" for note in card["notes"]]
    lines += ["", "![curves](curves.png)", "", "## Checks", ""]
    lines += [f"- {check}" for check in card.get("checks", [])]
    if card["held_out_rmse"]:
        lines += ["", "Denoising error on held-out fields, root-mean-square, standardised units:", ""]
        lines += ["| sigma | network | optimal Gaussian | ratio |", "|---|---|---|---|"]
        for row in card["held_out_rmse"]:
            ratio = row["network"] / row["gaussian"]
            lines.append(f"| {row['sigma']:.3g} | {row['network']:.4f} | {row['gaussian']:.4f} | {ratio:.3f} |")
    return "\n".join(lines) + "\n"
