"""Every operator beside deepinv's own on the same input: cost, shapes, and whether a closed form exists.

``python -m benchmarks.operators`` writes benchmarks/results/operators.json and the table in docs/operators.md.
"""

from __future__ import annotations

import json
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import deepinv
import torch

import operators

RESULTS = Path(__file__).parent / "results" / "operators.json"
PAGE = Path(__file__).parent.parent / "docs" / "operators.md"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"
SIDE, COILS, FRAMES, ROUNDS = 256, 8, 8, 9
GLOBE = (1, 181, 360)


@dataclass(frozen=True)
class Case:
    """One row. ``theirs`` is deepinv's operator for the same instrument, None where it has none."""

    name: str
    ours: Callable[[], Any]
    event: tuple[int, ...]
    closed: str
    units: str = "those of the field"
    theirs: Callable[[], Any] | None = None


def image(*channels: int) -> tuple[int, ...]:
    return (*channels, SIDE, SIDE)


def mask() -> torch.Tensor:
    return operators.cartesian_mask((SIDE, SIDE), 4.0)


def maps() -> torch.Tensor:
    return operators.birdcage_maps(COILS, (SIDE, SIDE))


def psf() -> torch.Tensor:
    return operators.gaussian_kernel(2.0).float()


def theirs_multicoil() -> Any:
    return deepinv.physics.MultiCoilMRI(mask=mask().expand(1, 2, SIDE, SIDE), coil_maps=maps()[None])


def theirs_radial() -> Any:
    warnings.filterwarnings("ignore", message="Samples will be rescaled")
    return deepinv.physics.NonCartesianMRI((SIDE, SIDE), 100, 512, coil_maps=maps()[None])


def ours_radial() -> Any:
    return operators.NonCartesianMRI(torch.from_numpy(theirs_radial().samples).reshape(-1, 2), (SIDE, SIDE), maps())


def theirs_varying() -> Any:
    weights = operators.bilinear_weights((SIDE, SIDE), (3, 3)).float()
    filters = psf().expand(1, 1, 9, *psf().shape)
    return deepinv.physics.SpaceVaryingBlur(filters=filters, multipliers=weights[None, None], padding="valid")


def globe(levels: int | None = None) -> Any:
    level = None if levels is None else torch.linspace(1000, 100, levels)
    return operators.Grid(torch.linspace(90, -90, 181), torch.arange(360.0), level)


def places(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Latitudes and longitudes all over the globe."""
    g = torch.Generator().manual_seed(1)
    height, turn = torch.rand(2, count, generator=g, dtype=torch.float64)
    return torch.rad2deg(torch.arcsin(2 * height - 1)), 360 * turn


def varying(boundary: str) -> Any:
    return operators.VaryingBlur(psf().expand(9, *psf().shape), operators.bilinear_weights((SIDE, SIDE), (3, 3)), boundary)


CASES = [
    Case("MRI", lambda: operators.MRI(mask()), image(2), "SVD", theirs=lambda: deepinv.physics.MRI(mask=mask())),
    Case("MultiCoilMRI", lambda: operators.MultiCoilMRI(mask(), maps()), image(2), "no", theirs=theirs_multicoil),
    Case("SoftSENSE", lambda: operators.SoftSENSE(mask(), torch.stack((maps(), 0.1 * maps()))), (2, 2, SIDE, SIDE), "no"),
    Case(
        "DynamicMRI",
        lambda: operators.DynamicMRI(operators.kt_mask(FRAMES, (SIDE, SIDE))),
        image(2, FRAMES),
        "A_dagger, prox_l2",
        theirs=lambda: deepinv.physics.DynamicMRI(
            mask=operators.kt_mask(FRAMES, (SIDE, SIDE)).expand(1, 2, FRAMES, SIDE, SIDE)
        ),
    ),
    Case(
        "VolumeMRI",
        lambda: operators.VolumeMRI(mask(), shape=(FRAMES, SIDE, SIDE)),
        image(2, FRAMES),
        "A_dagger, prox_l2",
        theirs=lambda: deepinv.physics.MRI(
            mask=mask().expand(1, 2, FRAMES, SIDE, SIDE), three_d=True, img_size=(2, FRAMES, SIDE, SIDE)
        ),
    ),
    Case("OffCentre", lambda: operators.OffCentre(operators.MRI(mask()), (0.5, 1.0)), image(2), "that of its operator"),
    Case("NonCartesianMRI", ours_radial, image(2), "no", theirs=theirs_radial),
    Case(
        "Blur",
        lambda: operators.Blur(psf(), (SIDE, SIDE), "periodic"),
        image(1),
        "SVD (periodic); A_dagger, prox_l2 (reflect, symmetric kernel)",
        theirs=lambda: deepinv.physics.BlurFFT(image(1), filter=psf()[None, None]),
    ),
    Case(
        "Blur, valid",
        lambda: operators.Blur(psf(), (SIDE, SIDE), "valid"),
        image(1),
        "no",
        theirs=lambda: deepinv.physics.Blur(psf()[None, None], padding="valid"),
    ),
    Case("PSFBlur", lambda: operators.PSFBlur(psf(), (SIDE, SIDE)), image(1), "as Blur"),
    Case("VaryingBlur", lambda: varying("valid"), image(1), "no", theirs=theirs_varying),
    Case(
        "SuperResolution",
        lambda: operators.SuperResolution((SIDE, SIDE), 4, "bicubic"),
        image(1),
        "SVD",
        theirs=lambda: deepinv.physics.DownsamplingMatlab(factor=4),
    ),
    Case(
        "Inpainting",
        lambda: operators.Inpainting.random((SIDE, SIDE), 0.5),
        image(1),
        "SVD",
        theirs=lambda: deepinv.physics.Inpainting(image(1), mask=operators.Inpainting.random((SIDE, SIDE), 0.5).mask),
    ),
    Case("StationObservations", lambda: operators.StationObservations(globe(), *places(10_000)), GLOBE, "no"),
    Case(
        "RadiosondeProfiles",
        lambda: operators.RadiosondeProfiles(globe(13), *places(600), torch.linspace(1000, 100, 600)),
        (1, 13, 181, 360),
        "no",
    ),
    Case("AreaAverage", lambda: operators.AreaAverage(globe(), 4), GLOBE, "A_dagger, prox_l2"),
    Case(
        "SatelliteSwath",
        lambda: operators.SatelliteSwath.along_orbit(
            globe(), operators.CircularOrbit(), duration=6000, interval=10, radius=50, across=(-500, -250, 0, 250, 500)
        ),
        GLOBE,
        "no",
    ),
    Case("WindSpeed", lambda: operators.WindSpeed(), (2, 181, 360), "no"),
    Case("WindDirection", lambda: operators.WindDirection(), (2, 181, 360), "no", units="1 (sine and cosine)"),
    Case("Accumulation", lambda: operators.Accumulation((1, 24, 181, 360), 6), (1, 24, 181, 360), "A_dagger, prox_l2"),
    Case("Channel", lambda: operators.Channel((4, 181, 360), 2), (4, 181, 360), "A_dagger, prox_l2"),
    Case("Region", lambda: operators.Region(globe(), (30, 70), (-70, 10)), GLOBE, "A_dagger, prox_l2"),
    Case(
        "Stack",
        lambda: operators.Stack(
            {"stations": operators.StationObservations(globe(), *places(1000)), "coarse": operators.AreaAverage(globe(), 4)},
            GLOBE,
        ),
        GLOBE,
        "no",
    ),
]


def seconds(function: Callable[[torch.Tensor], torch.Tensor], value: torch.Tensor) -> float:
    start = time.perf_counter()
    function(value)
    return time.perf_counter() - start


@torch.no_grad()
def measure(case: Case) -> dict[str, Any]:
    """Median milliseconds of A and of A_adjoint, ours and theirs in turn, so that other load meets both alike."""
    x = torch.randn(1, *case.event, generator=torch.Generator().manual_seed(0))
    ours, theirs = case.ours(), None if case.theirs is None else case.theirs()
    row: dict[str, Any] = {"operator": case.name, "linear": isinstance(ours, deepinv.physics.LinearPhysics)}
    row |= {"closed form": case.closed, "x": list(case.event), "y": list(ours.A(x).shape[1:]), "units": case.units}
    for method in ("A", "A_adjoint") if row["linear"] else ("A",):
        times: dict[str, list[float]] = {}
        for _ in range(ROUNDS):
            for who, physics in (("ours", ours), ("theirs", theirs)):
                if physics is not None:
                    value = x if method == "A" else physics.A(x)
                    times.setdefault(who, []).append(seconds(getattr(physics, method), value))
        median = {who: 1e3 * statistics.median(values[1:]) for who, values in times.items()}
        row[method] = {**median, **({"ratio": median["ours"] / median["theirs"]} if "theirs" in median else {})}
    return row


def table(rows: list[dict[str, Any]]) -> str:
    """The table of the page, in Markdown."""
    names = ["operator", "linear", "closed form", "x", "y", "units of y"]
    names += [n for method in ("A", "A_adjoint") for n in (f"{method}, ms", "deepinv's, ms", "ratio")]
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    for row in rows:
        cells = [f"`{row['operator']}`", "yes" if row["linear"] else "no", row["closed form"]]
        cells += [" x ".join(map(str, row[key])) for key in ("x", "y")] + [row["units"]]
        for method in ("A", "A_adjoint"):
            cost = row.get(method, {})
            cells += [f"{cost[key]:.2f}" if key in cost else "" for key in ("ours", "theirs", "ratio")]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    torch.set_num_threads(1)
    rows = []
    for case in CASES:
        rows.append(measure(case))
        print({k: v for k, v in rows[-1].items() if k in ("operator", "A", "A_adjoint")}, flush=True)
    RESULTS.write_text(json.dumps({"torch": torch.__version__, "deepinv": deepinv.__version__, "rows": rows}, indent=1) + "\n")
    page = PAGE.read_text(encoding="utf-8")
    head, tail = page.split(BEGIN)[0], page.split(END)[1]
    PAGE.write_text(f"{head}{BEGIN}\n{table(rows)}\n{END}{tail}", encoding="utf-8")


if __name__ == "__main__":
    main()
