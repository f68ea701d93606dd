"""``posterior assimilate OBS``."""

from __future__ import annotations

import math
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from posterior.cli import options
from posterior.cli._common import check_output, named_after, notes, one_sentence, pairs
from posterior.cli._weather import list_dropped, run
from posterior.cli.options import SamplerName, Sampling

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from posterior.priors.base import Prior

_ALL_FLAGS = ("V", "S", "C", "G", "Z", "", "Q", "X", "B", "I", "W", "T")


class Law(StrEnum):
    """Laws of the observations' errors."""

    gaussian = "gaussian"
    outlier = "outlier"
    student = "student"


def assimilate(
    file: Annotated[Path, typer.Argument(metavar="OBS", help="Observation table (CSV, Parquet), MADIS NetCDF or METAR text.")],
    prior: options.Prior = "slp-north-atlantic",
    sampler: options.Sampler = SamplerName.bridge,
    steps: options.Steps = None,
    draws: options.Draws = 64,
    seed: options.Seed = 0,
    output: Annotated[
        Path | None,
        typer.Option(
            help="NetCDF file to write, and a .png; if not given OBS's name, what --time says, and -analysis.nc, here."
        ),
    ] = None,
    variable: Annotated[
        str | None, typer.Option(help="Variable of the table; the prior's own, by its CF name, if not given.")
    ] = None,
    unit: Annotated[
        list[str] | None, typer.Option(help="VARIABLE=UNIT, as slp=hPa, for a table without a column units; may be repeated.")
    ] = None,
    time: Annotated[
        str | None,
        typer.Option(
            help="Time of the analysis, UTC, as 2005-08-26T00; the hour of the reports if not given. METAR text may need it."
        ),
    ] = None,
    window: Annotated[float, typer.Option(help="Hours that a report may be away from it.", min=0)] = 3.0,
    instrument: Annotated[
        float | None, typer.Option(help="Error of an instrument that states none, units of the prior; 0.5 hPa for pressure.")
    ] = None,
    representativeness: Annotated[
        float | None, typer.Option(help="Error of what the grid cannot show, units of the prior; 0.5 hPa for pressure.")
    ] = None,
    gross: Annotated[float, typer.Option(help="Standard deviations from which a report is a gross error.", min=0)] = 5.0,
    highest: Annotated[float, typer.Option(help="Metres that a station of sea-level pressure may lie above the sea.")] = 800.0,
    law: Annotated[Law, typer.Option(help="Law of the errors that are left after the checks.")] = Law.outlier,
    altimeter: Annotated[
        bool, typer.Option("--altimeter", help="Use altimeter settings of stations below 100 m that report no pressure.")
    ] = False,
    all_flags: Annotated[
        bool, typer.Option("--all-flags", help="Also take values that the provider's quality control refused.")
    ] = False,
    withhold: Annotated[
        float, typer.Option(help="Share of the stations to leave out of the analysis and score it by.", min=0, max=0.9)
    ] = 0.0,
    folds: Annotated[
        int, typer.Option(help="Withhold every station once, in so many more runs, and score the predictions.", min=0)
    ] = 0,
    background: Annotated[
        Path | None, typer.Option(help="Past fields with times, for climatology and ETKF; drawn from the prior if not given.")
    ] = None,
    batch_size: options.Batch = 32,
    checkpoint: options.Checkpoint = None,
    device: options.Device = None,
) -> None:
    """Turn station reports into an ensemble of fields, with a map, baselines and scores at withheld stations."""
    sampling = Sampling(sampler, steps, draws, seed, batch_size, checkpoint, device)
    with one_sentence():
        if time is not None:
            time = _time(time)
        output = named_after(file, _ending(time)) if output is None else output
        check_output(output)
        if math.isnan(withhold):
            raise ValueError("--withhold is nan; wanted a share of the stations, from 0 to 0.9")
        if withhold and folds:
            raise ValueError("--withhold and --folds are two ways to the same scores; give one of them")
        from dataclasses import replace

        import numpy as np

        import posterior
        from posterior.io import read_observations, summarise
        from posterior.io.observations import PASSED
        from posterior.recipes.weather import errors_of, screen, with_altimeter
        from posterior.recipes.weather.analysis import parts

        table = read_observations(
            file,
            units=pairs("--unit", unit, "VARIABLE=UNIT, such as slp=hPa") or None,
            date=time,
            accept=_ALL_FLAGS if all_flags else PASSED,
        )
        typer.echo(str(summarise(table)))
        if altimeter:
            with notes():
                table = with_altimeter(table, variable=variable)
        network = posterior.load_prior(prior)
        problem = screen(
            table,
            network,
            variable=variable,
            time=time,
            window=window,
            errors=errors_of(network, instrument, representativeness),
            highest=highest,
            gross=gross,
            law=law.value,
            source=file.name,
        )
        list_dropped(problem)
        about = {"accepted_flags": "all" if all_flags else " ".join(flag or "none" for flag in PASSED)}
        about |= {"altimeter_settings": "used" if altimeter else "not used"}
        about |= {} if background is None else {"background_file": str(background)}
        problem = replace(problem, settings={**problem.settings, **about, "withheld_share": withhold})
        if withhold:
            count = len(problem.stations)
            if count < 2:
                raise ValueError("--withhold: one station is left after the checks; wanted 2 or more, to use and to score by")
            problem = problem.without(np.any(parts(count, count, seed)[: max(1, round(withhold * count))], axis=0))
        fields = None if background is None else _fields(background, problem.prior, problem.time)
        with notes():
            run(problem, sampling, output, folds, fields)


def _time(given: str) -> str:
    from posterior.priors.climatology import as_time

    try:
        return str(as_time(given))
    except ValueError as error:
        raise ValueError(f"--time: {error}") from error


def _ending(time: str | None) -> str:
    """What tells the analyses of one file apart, without the colons that not every file system takes."""
    when = "" if time is None else "-" + time.removesuffix(":00").removesuffix(":00").replace(":", "")
    return f"{when}-analysis.nc"


def _fields(path: Path, prior: Prior, time: np.datetime64) -> Tensor:
    """Fields of the calendar window in a file, on the prior's grid."""
    import torch

    from posterior.io import open_fields
    from posterior.io.axes import on_grid
    from posterior.recipes.weather import calendar_window
    from posterior.recipes.weather.problem import ALIASES, grid_of, standard_name

    grid = grid_of(prior)
    labels, standard = prior.labels, standard_name(prior)
    names = [standard, *([labels.name] if labels else []), *ALIASES.get(standard, ())]
    field = open_fields(path, known_as=names, units=prior.units, chunks=None, rename=True).squeeze()
    if set(field.dims) != {"time", "latitude", "longitude"}:
        raise ValueError(f"{path}: {field.name!r} has axes {dict(field.sizes)}; wanted time, latitude and longitude")
    if field["time"].dtype.kind != "M":
        raise ValueError(f"{path}: the calendar of its times is {field['time'].dt.calendar!r}; wanted the standard one")
    field = on_grid(field, grid.latitude, grid.longitude, str(path), f"prior '{prior.name}'")
    field = field.transpose("time", "latitude", "longitude")
    inside = calendar_window(field["time"].values, time, 15)
    if inside.sum() < 2:
        raise ValueError(
            f"{path}: {int(inside.sum())} fields within 15 days of the day of the year of {time}; wanted 2 or more"
        )
    found = torch.from_numpy(field.values[inside]).double()[:, None]
    if not found.isfinite().all():
        raise ValueError(f"{path}: {int((~found.isfinite()).sum())} values within 15 days of the day of the year are missing")
    return found
