"""``posterior calibrate``: is a sampler's uncertainty right, on problems whose truth is known?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from posterior.cli import options
from posterior.cli._common import check_output, named_after, note, notes, one_sentence, wrote

if TYPE_CHECKING:
    from posterior.recipes.calibration.problem import Yardstick
    from posterior.uncertainty import Assessment, IntervalRepair, RepairCheck, Trials

    Repairs = dict[str, tuple[IntervalRepair, RepairCheck]]

_BATCH_HELP = "Draws computed at a time; the problem's own if not given."
_OUTPUT_HELP = (
    "NetCDF file of the trials; .json and .png of what they tell go beside it. "
    "If not given, calibration.nc, or FILE's name with -calibration.nc here."
)


def calibrate(
    file: Annotated[Path | None, typer.Argument(help="Score the trials in this .nc or .zarr, and draw nothing.")] = None,
    problem: Annotated[
        str | None,
        typer.Option(
            help="Problem to draw for, or that FILE was drawn for: gaussian-field, mri-4x, mri-8x, pressure-stations."
        ),
    ] = None,
    prior: Annotated[str | None, typer.Option(help="Bundled prior or folder in place of the problem's own.")] = None,
    sampler: Annotated[str, typer.Option(help="Class of the sampler, such as GaussianBridge, MMPS or TDS.")] = "GaussianBridge",
    steps: Annotated[int | None, typer.Option(help="Sampler steps; its own if not given.", min=1)] = None,
    trials: Annotated[int, typer.Option(help="Truths; tests take 20.", min=20)] = 100,
    draws: Annotated[int, typer.Option(help="Draws for each; a 90 % interval takes 19.", min=2)] = 19,
    seed: options.Seed = 0,
    workers: Annotated[int, typer.Option(help="Processes that share the work; the numbers stay the same.", min=1)] = 1,
    batch_size: Annotated[int | None, typer.Option(help=_BATCH_HELP, min=1)] = None,
    device: options.Device = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with trials that a run of the same arguments left behind.")
    ] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="Repair intervals on half of the trials, and judge them by the other half.")
    ] = False,
    level: Annotated[float, typer.Option(help="Share that repaired intervals are to hold.")] = 0.9,
    delta: Annotated[
        float | None,
        typer.Option(help="Repair with this probability of misleading trials (RCPS); on average over trials if not given."),
    ] = None,
    output: Annotated[Path | None, typer.Option(help=_OUTPUT_HELP)] = None,
) -> None:
    """Draw for many truths, and test ranks, coverage, scores and spread; or score trials that were drawn before."""
    if output is None:
        output = Path("calibration.nc") if file is None else named_after(file, "-calibration.nc")
    with one_sentence():
        check_output(output)
        if (numbers := output.with_suffix(".json")).is_dir():
            raise FileExistsError(f"{numbers} is a folder; wanted a name for a file")
        for name, share in (("--level", level), ("--delta", delta)):
            if share is not None and not 0 < share < 1:
                raise ValueError(f"{name} is {share:g}; wanted a number between 0 and 1")
        if file is not None:
            made, about, named = _read(file, problem)
        else:
            if problem is None:
                raise ValueError("say which problem with --problem, or give a file of trials")
            settings = {} if batch_size is None else {"batch_size": batch_size}
            settings |= {} if device is None else {"device": device}
            made, about, named = _draw(problem, prior, sampler, steps, trials, draws, seed, workers, settings, resume, output)
        with notes():
            assessment = named.assess(made, seed=seed)
            repairs = named.repair(made, len(made) // 2, level, delta) if repair else {}
        _report(made, assessment, repairs, about)
        _write(made, assessment, repairs, about, output, file)


def _draw(
    problem: str,
    prior: str | None,
    sampler: str,
    steps: int | None,
    trials: int,
    draws: int,
    seed: int,
    workers: int,
    settings: dict[str, Any],
    resume: bool,
    output: Path,
) -> tuple[Trials, dict[str, str], Yardstick]:
    from posterior.recipes.calibration import make_problem, make_sampler

    method = make_sampler(sampler, steps)
    folder = output.with_suffix(".trials")
    left = sorted(folder.glob("trial-*")) if folder.is_dir() else []
    if left and not resume:
        raise FileExistsError(f"{folder} holds {len(left)} trials; go on with them with --resume, or delete the folder")
    on = make_problem(problem, trials, seed, prior)
    typer.echo(f"{on.title}: {trials} trials of {draws} draws by {type(method).__name__}")
    made = on.run(method, trials=trials, draws=draws, seed=seed, folder=folder, workers=workers, progress=True, **settings)
    if len(made) > trials:  # an earlier run had more
        note(f"{folder} holds {len(made)} trials; all are used")
    about = {
        "problem": problem,
        "title": on.title,
        "sampler": repr(method),
        "prior": prior or "the problem's own",
        "draws": str(draws),
        "seed": str(seed),
        "field": on.field_name,
        "units": on.units,
        "dims": json.dumps(on.dims),
        "coords": json.dumps({k: [float(x) for x in v] for k, v in (on.coords or {}).items()}),
    }
    return made, about, on.yardstick


def _read(file: Path, problem: str | None) -> tuple[Trials, dict[str, str], Yardstick]:
    from posterior.recipes.calibration import yardstick
    from posterior.uncertainty import load_trials

    made, about = load_trials(file)
    known = problem or about.get("problem")
    if known is None:
        from posterior.recipes.calibration.problem import plain_yardstick

        return made, about, plain_yardstick(tuple(made[0].truth.shape))
    return made, about, yardstick(known)


def _write(
    made: Trials, assessment: Assessment, repairs: Repairs, about: dict[str, str], output: Path, file: Path | None
) -> None:
    from posterior.draws_io import replacing
    from posterior.uncertainty import plots, save_trials

    picture, numbers = output.with_suffix(".png"), output.with_suffix(".json")
    record: dict[str, Any] = {"about": about, **assessment.record()}
    record["repair"] = {name: {**r.record(), "check": c.record()} for name, (r, c) in repairs.items()}
    units = about.get("units", "1")
    with replacing(picture) as partial, replacing(numbers) as partial_numbers:
        plots.assessment(assessment, units).savefig(partial, format="png", dpi=130)
        partial_numbers.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n")
        if file is None or file.resolve() != output.resolve():
            dims = json.loads(about.get("dims", "null"))
            coords = json.loads(about.get("coords", "{}"))
            save_trials(
                made,
                output,
                assessment,
                name=about.get("field", "field"),
                units=units,
                dims=dims,
                coords={k: (k, v) for k, v in coords.items()},
                attrs=about,
            )
    wrote(output)
    typer.echo(f"wrote {numbers}")


def _report(made: Trials, assessment: Assessment, repairs: Repairs, about: dict[str, str]) -> None:
    if "title" in about:
        typer.echo(f"{about['title']}; {about['sampler']}")
    costs = [trial.cost for trial in made]
    if all(cost is not None for cost in costs):
        seconds = sum(float(cost[2]) for cost in costs if cost is not None)
        typer.echo(f"{len(made)} trials of {len(made[0].draws)} draws, {seconds:.0f} s of sampling")
    typer.echo(str(assessment))
    for name, (repair, check) in repairs.items():
        typer.echo(f"repair of {name}: {repair}")
        typer.echo(f"  {check}")
