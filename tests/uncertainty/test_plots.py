"""Figures of draws and of what tests of calibration found."""

import io

import numpy as np
import pytest
import torch
import xarray as xr
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.diagnostics import Toy
from posterior.draws import Draws
from posterior.uncertainty import ResidualCheck, assess, plots, principal_components
from tests.figures.examples import bars, head, normal, pressure, stats, titles
from tests.uncertainty.normal_trials import plain


@pytest.fixture(scope="module")
def found():
    return assess(Toy.make().trials("exact", 40), event=lambda x: (x > 0.5).flatten(1))


def test_every_public_name_is_there():
    for name in plots.__all__:
        assert callable(getattr(plots, name))


def test_samples_lie_side_by_side_on_one_scale():
    draws = pressure()
    figure = plots.samples(draws, 3)
    assert titles(figure) == ["draw 0", "draw 1", "draw 2", "draw 0 - mean", "draw 1 - mean", "draw 2 - mean"]
    assert len({ax.collections[0].get_clim() for ax in figure.axes[:3]}) == 1
    low, high = figure.axes[3].collections[0].get_clim()
    assert low == -high
    shown = figure.axes[4].collections[0].get_array().reshape(5, 8)
    np.testing.assert_allclose(shown, draws.samples[1, 0] - draws.mean[0], atol=1e-3)
    assert bars(figure) == ["hPa", "hPa"]
    assert len(plots.samples(head(), 50, deviations=False).axes) == 24
    with pytest.raises(ValueError, match="wanted two or more"):
        plots.samples(Draws(normal(4, 3), stats()))


def test_any_map_of_an_event():
    draws = pressure()
    ax = plots.field(draws, draws.std, "spread", points=[[50.0, -10.0]]).axes[0]
    assert (ax.get_title(), ax.collections[0].get_clim()[0]) == ("spread", 0)
    assert ax.lines[0].get_xydata().tolist() == [[-10.0, 50.0]]
    figure = plots.field(draws, torch.zeros(5, 8), kind="probability")
    assert figure.axes[0].collections[0].get_clim() == (0, 1)
    assert bars(figure) == ["probability"]
    assert plots.field(draws, draws.mean, kind="error", limits=(-2, 2)).axes[0].collections[0].get_clim() == (-2, 2)
    with pytest.raises(ValueError, match=r"values have shape \(5, 7\); wanted \(5, 8\)"):
        plots.field(draws, torch.zeros(5, 7))
    with pytest.raises(ValueError, match="kind is 'other'"):
        plots.field(draws, draws.std, kind="other")


def test_profile_shows_the_intervals_of_the_line():
    draws = pressure()
    ax = plots.profile(draws, "longitude", {"latitude": 1}).axes[0]
    assert ax.get_title() == "along longitude at latitude = 55 °N"
    texts = [text.get_text() for text in ax.get_legend().get_texts()]
    assert texts == ["90 % interval", "50 % interval", "truth", "mean"]
    np.testing.assert_allclose(ax.lines[-1].get_ydata(), draws.mean[0, 1], rtol=1e-6)
    band = ax.collections[0].get_paths()[0].vertices[:, 1]
    lower, upper = draws.interval(0.9)
    assert (band.min(), band.max()) == pytest.approx((float(lower[0, 1].min()), float(upper[0, 1].max())))
    few = plots.profile(pressure(n=6), "latitude").axes[0]
    assert [t.get_text() for t in few.get_legend().get_texts()][:2] == ["71 % interval", "50 % interval"]
    wide, narrow = (handle.get_facecolor()[0] for handle in ax.collections[:2])
    assert wide[3] == narrow[3] == 1 and (wide[:3] > narrow[:3])[:2].all()  # as the legend has them
    assert plots.profile(head()).axes[0].get_ylabel() == "image magnitude (A m-1)"
    with pytest.raises(ValueError, match="no axis 'depth'"):
        plots.profile(draws, "depth")
    with pytest.raises(ValueError, match="index 5 on the axis 'latitude'"):
        plots.profile(draws, "longitude", {"latitude": 5})


def test_components_are_scaled_by_their_spread():
    draws = pressure()
    pcs = principal_components(draws, 2)
    figure = plots.components(pcs, draws)
    assert titles(figure) == [f"component {i + 1}: {100 * float(pcs.share[i]):.0f} %" for i in range(2)]
    shown = figure.axes[1].collections[0].get_array().reshape(5, 8)
    np.testing.assert_allclose(shown, pcs.components[1, 0] * pcs.std[1], rtol=1e-5)
    assert bars(figure) == ["hPa per standard deviation"]


def test_an_assessment_on_one_page(found):
    figure = plots.assessment(found, "K")
    shown = titles(figure)
    assert shown[0] == "40 trials: consistent with exact samples"
    for start in ("SBC pixels", "coverage", "TARP", "spread / error", "sparsification", "reliability"):
        assert any(title.startswith(start) for title in shown), start
    labels = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    assert labels == list(found.findings)


@pytest.mark.parametrize("size", [1, 9])
def test_events_of_few_values_are_shown_too(size):
    found = assess(plain(20, 9, (size,)))
    assert found.findings["spread-skill"].curve.values.isfinite().tolist() == [True] * size
    assert any(title.startswith("spread / error") for title in titles(plots.assessment(found)))


def test_curves_are_those_of_the_ranks(found):
    ranks = found.findings["SBC pixels"]
    ax = plots.coverage(ranks, (0.5, 0.9)).axes[0]
    np.testing.assert_allclose(ax.lines[0].get_ydata(), ranks.coverage((0.5, 0.9)).values)
    tarp = found.findings["TARP"]
    ax = plots.ecdf(tarp, difference=True).axes[0]
    curve = tarp.ecdf()
    np.testing.assert_allclose(ax.lines[0].get_ydata(), curve.values - curve.expected)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("credibility level", "expected coverage - level")
    ax = plots.rank_histogram(tarp, 5).axes[0]
    assert sum(bar.get_height() for bar in ax.patches) == pytest.approx(1)
    with pytest.raises(ValueError, match="no ranks"):
        plots.coverage([])


def test_several_samplers_are_compared_and_composed(found):
    several = [found.findings["SBC pixels"], found.findings["SBC extremes"]]
    texts = [t.get_text() for t in plots.coverage(several).axes[0].get_legend().get_texts()]
    assert texts[0].startswith("SBC pixels, p = ") and texts[1].startswith("SBC extremes")
    figure = Figure()
    left, right = figure.subplots(1, 2)
    assert plots.coverage(several, ax=left) is figure
    assert plots.spread_skill(found.findings["spread-skill"], "K", ax=right) is figure
    assert right.get_xlabel() == "spread (K)"


def test_curves_of_skill_are_those_found(found):
    skill = found.findings["spread-skill"]
    ax = plots.spread_skill(skill).axes[0]
    np.testing.assert_allclose(ax.lines[1].get_xydata(), torch.stack([skill.curve.expected, skill.curve.values], 1))
    sparse = found.findings["sparsification"]
    ax = plots.sparsification(sparse).axes[0]
    np.testing.assert_allclose(ax.lines[1].get_ydata(), sparse.curve.expected)
    reliable = found.findings["reliability"]
    ax = plots.reliability(reliable, "warmth").axes[0]
    assert ax.get_xlabel() == "probability given to warmth"
    some = reliable.curve.at.isfinite()
    np.testing.assert_allclose(ax.lines[1].get_ydata(), reliable.curve.values[some])


def test_residuals_lie_beside_what_noise_gives():
    check = ResidualCheck(1 + 0.1 * normal(50).double(), 200, 0.4)
    ax = plots.residuals(check).axes[0]
    assert "200 data (predictive p = 0.4)" in ax.get_title()
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["of noise alone", "of the draws"]


def test_no_label_is_cut_off():
    """A map whose aspect is fixed, where one round of the layout leaves the labels of latitudes outside."""
    at = {"latitude": np.linspace(70, 30, 17), "longitude": np.linspace(-70, 10, 33)}
    coords = {k: xr.DataArray(v, dims=k, attrs={"standard_name": k}) for k, v in at.items()}
    x = 6 * torch.randn(32, 1, 17, 33, generator=torch.Generator().manual_seed(0))
    draws = Draws(x, stats(), units="hPa", dims=("channel", *at), coords=coords)
    figure = plots.field(draws, draws.std, "standard deviation")
    canvas = FigureCanvasAgg(figure)
    figure.savefig(io.BytesIO(), dpi=100)
    box = figure.axes[0].get_tightbbox(canvas.get_renderer())
    assert box.x0 > 2 and box.y0 > 2 and box.x1 < figure.bbox.width - 2 and box.y1 < figure.bbox.height - 2  # the padding is 4
