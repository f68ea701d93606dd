"""The report: one HTML file with the figures, the evidence, settings and provenance, readable without Python."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from posterior.draws import Draws
from posterior.figures.html import embedded, key_figures, warnings_of
from posterior.figures.panel import reconstruction
from posterior.quantiles import draws_needed
from posterior.uncertainty.assessment import Assessment
from posterior.uncertainty.findings import Finding
from posterior.uncertainty.maps import principal_components
from posterior.uncertainty.plots.maps import components, profile, samples
from posterior.uncertainty.plots.overview import assessment as overview
from posterior.uncertainty.records import evidence

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from xarray import DataTree

_DPI = 110
_LEVEL = 0.9
_KNOWN = (
    "posterior",
    "posterior_predictive",
    "observed_data",
    "constant_data",
    "sample_stats",
    "reference",
    "prior_sbc",
    "calibration",
)
_RESIDUAL = (0.8, 1.25)  # outside this the noise level, or the operator, deserves a second look
_STYLE = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")


def report(
    result: Draws | DataTree | str | os.PathLike[str], path: str | os.PathLike[str] | None = None, title: str = ""
) -> str:
    """Everything about a result on one page that a colleague opens without Python.

    Figures are inside the file and nothing is fetched: its content security policy forbids scripts and any address. Texts
    of the result are escaped. It follows the reader's light or dark setting, and prints.

    Args:
        result: Draws, a tree, or the path of a file that `Draws.save` wrote. What a test of calibration found is shown where
            `posterior.uncertainty.attach` kept it with a tree or a file.
        path: Where to write the page too, as .html; what was there is replaced once it is made.
        title: Of the page; the name of the field where empty.

    Returns:
        The page.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read, or ``path`` does not end in .html.
    """
    if path is not None and Path(path).suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"{path}: the report is a page; wanted a name that ends in .html")
    page = _page(*_read(result), title)
    if path is not None:
        from posterior.draws_io import replacing

        with replacing(Path(path)) as partial:
            partial.write_text(page, encoding="utf-8")
    return page


def _read(result: Draws | DataTree | str | os.PathLike[str]) -> tuple[Draws, DataTree]:
    from posterior.draws_io import from_datatree, open_tree

    if isinstance(result, Draws):
        return result, result.to_datatree()
    if isinstance(result, str | os.PathLike):
        with open_tree(Path(result)) as tree:
            return from_datatree(tree), tree.load()
    return from_datatree(result), result


def _page(draws: Draws, tree: DataTree, title: str) -> str:
    found = evidence(tree)
    title = title or f"{'Posterior' if draws.is_posterior else 'Point estimates'} of {draws.name}"
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        f"<p>{html.escape(_in_words(draws, tree))}</p>",
        "".join(f'<p class="warning" role="note">{html.escape(text)}</p>' for text in _warnings(draws, found)),
        _section(
            "Result", _table({**key_figures(draws), **_against_truth(draws), **_evidence_of_data(draws)}), *_pictures(draws)
        ),
        _calibration(found, tree, draws.units),
        _section("Settings and provenance", _table(_provenance(draws, tree))),
        *(_section(f"Recorded with it: {name}", _table(_attributes(tree, name))) for name in _others(tree)),
        _section("How to read this", _HOW),
    ]
    digest = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode("ascii")
    policy = f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">'
        f'<title>{html.escape(title)}</title><link rel="icon" href="data:,"><style>{_STYLE}</style></head>\n'
        f"<body><main>{''.join(parts)}</main></body></html>\n"
    )


def _in_words(draws: Draws, tree: DataTree) -> str:
    shape = " x ".join(map(str, draws.event_shape)) or "a single number"
    what = (
        f"draws from the posterior of {draws.name} given the data" if draws.is_posterior else f"point estimates of {draws.name}"
    )
    units = "without units" if draws.units == "1" else f"in {draws.units}"
    made = str(tree.attrs.get("created_at", ""))
    try:
        when = f", written on {datetime.fromisoformat(made):%d %B %Y}"
    except ValueError:
        when = ""
    return f"{draws.n} {what}, {draws.kind} fields of {shape}, {units}{when}."


def _warnings(draws: Draws, found: Assessment | None) -> Iterator[str]:
    for text in warnings_of(draws):
        yield f"{text[:1].upper()}{text[1:]}"
    needed = draws_needed(_LEVEL)
    if draws.is_posterior and draws.n_effective < needed:
        yield (
            f"The draws are worth {draws.n_effective:.3g} of equal weight; a {100 * _LEVEL:.0f} % interval takes "
            f"{math.ceil(needed)}. Intervals below are the widest that they support."
        )
    residual = draws.stats.residual
    if residual is not None and not _RESIDUAL[0] <= residual <= _RESIDUAL[1]:
        side = "larger" if residual > 1 else "smaller"
        yield (
            f"The residuals are {side} than the stated noise explains: chi-square per datum is {residual:.3g}, and 1 is what "
            "true noise gives. The noise level, the operator or the sampler may be wrong, and the uncertainty with it."
        )
    if draws.is_posterior and found is None:
        yield (
            "This file carries no evidence of calibration: whether the uncertainty can be trusted is not shown here. "
            "posterior.uncertainty.assess tests it on simulated data, and attach keeps what it finds."
        )
    if found is not None and not found.passed():
        yield (
            f"On {found.trials} trials with known truth the draws were {found.verdict}: see the evidence before relying on the "
            "uncertainty."
        )


def _against_truth(draws: Draws) -> dict[str, str]:
    """Error, spread and coverage where the truth is known."""
    if draws.truth is None:
        return {}
    if draws.kind == "complex":
        draws = draws.magnitude()
    exists = np.ones(draws.event_shape, bool) if draws.mask is None else draws.mask.cpu().numpy()
    assert draws.truth is not None
    error = (draws.mean - draws.truth.to(draws.mean)).cpu().double().numpy()[exists]
    units = "" if draws.units == "1" else f" {draws.units}"
    rows = {"error of the mean": f"{np.sqrt(np.square(error).mean()):.4g}{units} (root mean square, against the known truth)"}
    if draws.is_posterior and draws.n_effective > 1 + 1e-6:
        spread = np.sqrt(np.square(draws.std.cpu().double().numpy()[exists]).mean())
        rows["spread"] = f"{spread:.4g}{units} (root mean square of the standard deviation)"
    if draws.is_posterior and draws.n_effective >= draws_needed(_LEVEL) and error.size > 1:
        lower, upper = draws.interval(_LEVEL)
        inside = ((draws.truth >= lower) & (draws.truth <= upper)).cpu().numpy()[exists]
        rows["truth inside"] = f"{100 * inside.mean():.1f} % of the values lie in their {100 * _LEVEL:.0f} % interval"
    return rows


def _evidence_of_data(draws: Draws) -> dict[str, str]:
    rows = {}
    stats = draws.stats
    if stats.residual is not None:
        rows["residual chi-square"] = f"{stats.residual:.3g} per datum (1 is what true noise gives)"
    if stats.ess is not None:
        rows["effective sample size"] = f"{_listed(stats.ess)} of {draws.n // draws.chains} draws a run"
    if stats.log_evidence is not None:
        spread = "" if stats.log_evidence_std is None else f" (standard error {_listed(stats.log_evidence_std)})"
        rows["log-evidence"] = f"{_listed(stats.log_evidence)}{spread}"
    return rows


def _listed(values: Iterable[float]) -> str:
    return ", ".join(f"{v:.5g}" for v in values)


def _pictures(draws: Draws) -> Iterator[str]:
    if len(draws.event_shape) == (draws.kind == "complex") or not np.isfinite(draws.samples.cpu().numpy()).any():
        return
    yield _picture(
        reconstruction(draws, columns=3), "What was found and how sure it is; where the truth is known, the error too"
    )
    plane = len(draws.event_shape) > 2 - (draws.kind == "real")
    several = draws.is_posterior and draws.n_effective > 2
    if plane and draws.n > 1:
        yield _picture(samples(draws, min(4, draws.n)), "Draws side by side, and what each adds to the mean")
    if plane and several:
        yield _picture(profile(draws), "Intervals along the middle line")
        if draws.n_effective >= 10:
            values = math.prod(draws.event_shape) if draws.mask is None else int(draws.mask.sum())
            found = principal_components(draws, min(4, draws.n - 1, values))
            yield _picture(
                components(found, draws), "Directions in which the posterior varies most, with their share of the variance"
            )


def _calibration(found: Assessment | None, tree: DataTree, units: str) -> str:
    if found is None:
        return ""
    rows = "".join(_finding(name, finding) for name, finding in found.findings.items())
    head = "".join(f"<th scope='col'>{name}</th>" for name in ("diagnostic", "p-value", "with exact samples", "finding"))
    left = "".join(f"<li>{html.escape(name)}: {html.escape(str(why))}</li>" for name, why in found.left_out.items())
    about = str(tree["calibration"].attrs.get("about", ""))
    return _section(
        "Evidence of calibration",
        f"<p>{html.escape(about)}</p>" if about else "",
        f"<p>{found.trials} trials with known truth: {html.escape(found.verdict)} (p = {found.p_value:.3g}, all together). "
        "It says how the sampler does on problems like the trials, not on this one datum.</p>",
        f'<div class="wide"><table><tr>{head}</tr>{rows}</table></div>',
        f"<p>Left out:</p><ul>{left}</ul>" if left else "",
        _picture(overview(found, units), "p-values, rank histograms, coverage, and what else the trials show"),
    )


def _finding(name: str, finding: Finding) -> str:
    verdict = "consistent" if finding.passed() else "NOT consistent"
    cells = "".join(f"<td>{html.escape(text)}</td>" for text in (f"{finding.p_value:.3g}", verdict, str(finding)))
    return f"<tr><th scope='row'>{html.escape(name)}</th>{cells}</tr>"


def _provenance(draws: Draws, tree: DataTree) -> dict[str, str]:
    stats = draws.stats
    facts = draws.facts()
    memory = "unknown" if stats.peak_memory is None else f"{stats.peak_memory / 2**30:.2f} GiB"
    facts |= {"vector-Jacobian products": f"{stats.vjps} per draw", "peak memory": memory}
    facts |= {f"version of {name}": version for name, version in stats.versions.items()}
    names = ("created_at", "creation_library", "creation_library_version", "Conventions")
    return facts | {name.replace("_", " "): str(tree.attrs[name]) for name in names if name in tree.attrs}


def _others(tree: DataTree) -> list[str]:
    return [name for name in tree.children if name not in _KNOWN and tree[name].attrs]


def _attributes(tree: DataTree, name: str) -> dict[str, str]:
    return {str(key): _shown(value) for key, value in tree[name].attrs.items()}


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(np.asarray(value).tolist(), default=str)
    return text if len(text) <= 2000 else text[:2000] + " …"


def _section(title: str, *parts: str) -> str:
    return f"<section><h2>{html.escape(title)}</h2>{''.join(parts)}</section>"


def _table(rows: Mapping[str, str]) -> str:
    body = "".join(
        f"<tr><th scope='row'>{html.escape(str(k))}</th><td>{html.escape(str(v))}</td></tr>" for k, v in rows.items()
    )
    return f'<div class="wide"><table>{body}</table></div>'


def _picture(figure: Figure, caption: str) -> str:
    text = html.escape(caption)
    return f'<figure><img src="{embedded(figure, _DPI)}" alt="{text}"><figcaption>{text}</figcaption></figure>'


_HOW = """<p>A draw is one field that the data, the noise and the prior allow; many of them together are the posterior. The
standard deviation at a place is how far draws differ there. A 90 % interval should hold the truth in nine places of ten.
|error| / standard deviation should be below 1 in about two thirds of all places and hardly ever above 3. All of it is as good
as the prior: what it has never seen, it does not draw.</p>
<p>A p-value is the probability that exact samples look at least this odd; below 0.01 they are called not consistent. With a
dozen diagnostics, a smallest p-value of 0.05 is no news.</p>"""
