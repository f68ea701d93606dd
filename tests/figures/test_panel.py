"""The reconstruction panel, and fields on their axes."""

import numpy as np
import pytest
import torch
import xarray as xr
from matplotlib.figure import Figure

from posterior.draws import Draws
from posterior.figures import fields
from posterior.figures.fields import Plane, plane
from posterior.figures.style import sequential
from posterior.uncertainty import plots
from posterior.uncertainty.plots import reconstruction
from tests.figures.examples import bars, head, normal, pressure, stats, titles

RATIO = "|error| / standard deviation"


def mesh(ax):
    return ax.collections[0].get_array().reshape(ax.collections[0].get_coordinates().shape[0] - 1, -1)


def test_complex_draws_are_shown_by_their_magnitude(tmp_path):
    draws = head()
    figure = draws.plot(path=tmp_path / "out.png")
    assert isinstance(figure, Figure)
    assert titles(figure) == ["truth", "data, magnitude", "mean", "standard deviation", "error", RATIO]
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
    assert [p.name for p in tmp_path.iterdir()] == ["out.png"]

    _, data, mean, std, error, z = figure.axes
    magnitude = draws.magnitude()
    np.testing.assert_allclose(mesh(mean), magnitude.mean)
    np.testing.assert_allclose(mesh(std), magnitude.std)
    off = magnitude.mean - magnitude.truth
    np.testing.assert_allclose(mesh(error), off, rtol=1e-5)
    np.testing.assert_allclose(mesh(z), off.abs() / magnitude.std, rtol=1e-5)
    np.testing.assert_allclose(data.images[0].get_array(), draws.observed.square().sum((0, 1, 2)).sqrt(), rtol=1e-5)
    assert mean.collections[0].get_cmap().name == "gray"
    assert std.collections[0].get_cmap().name == "viridis"
    assert std.collections[0].get_clim()[0] == 0
    assert error.collections[0].get_clim()[0] == -error.collections[0].get_clim()[1] < 0
    assert z.collections[0].get_clim() == (0, 3)
    assert bars(figure) == ["A m-1", "units of the data", *["A m-1"] * 3, "standard deviations"]
    assert mean.get_ylabel() == "y (mm)"
    assert mean.yaxis_inverted(), "row 0 of an image is on top"


def test_truth_and_mean_share_a_scale():
    truth, mean, *_ = pressure().plot().axes
    assert truth.collections[0].get_clim() == mean.collections[0].get_clim()


def test_pyplot_knows_nothing_of_it():
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    pressure().plot()
    assert plt.get_fignums() == before


def test_notebooks_show_it():
    assert pressure().plot()._repr_png_().startswith(b"\x89PNG")


def test_rows_are_channels_and_a_truth_may_be_given():
    draws = Draws(normal(8, 2, 4, 5), stats())
    assert titles(draws.plot()) == [f"{t} [{i}]" for i in (0, 1) for t in ("mean", "standard deviation")]
    assert len(titles(draws.plot(truth=torch.zeros(2, 4, 5)))) == 10
    assert draws.truth is None
    with pytest.raises(ValueError, match="truth has shape"):
        draws.plot(truth=torch.zeros(4, 5))


def test_data_are_shown_where_they_are_an_image():
    draws = Draws(normal(8, 4, 5), stats(), observed=normal(1, 1, 2, 3))
    figure = reconstruction(draws)
    assert titles(figure) == ["data", "mean", "standard deviation"]
    np.testing.assert_allclose(figure.axes[0].images[0].get_array(), draws.observed[0, 0], rtol=1e-6)
    assert "data" in titles(reconstruction(draws, data=torch.complex(normal(3, 3), normal(3, 3))))[0]
    assert titles(Draws(normal(8, 4, 5), stats(), observed=normal(1, 7)).plot()) == ["mean", "standard deviation"]
    with pytest.raises(ValueError, match=r"data have shape \(7,\); wanted an image"):
        reconstruction(draws, data=normal(7))


def test_lines_have_their_interval():
    km = xr.DataArray(np.arange(6) * 2.0, attrs={"units": "km"})
    draws = Draws(normal(32, 6), stats(), coords={"x": km}, units="K")
    figure = draws.plot(truth=torch.zeros(6))
    assert titles(figure) == ["mean", "standard deviation", "error", RATIO]
    first = figure.axes[0]
    assert [text.get_text() for text in first.get_legend().get_texts()] == ["90 % interval", "truth", "mean"]
    assert (first.get_xlabel(), first.get_ylabel()) == ("x (km)", "K")
    band = first.collections[0].get_paths()[0].vertices
    assert band[:, 1].min() == pytest.approx(float(draws.interval(0.9)[0].min()))
    few = Draws(normal(5, 6), stats()).plot().axes[0].get_legend().get_texts()[0].get_text()
    assert few == "67 % interval"
    uneven = Draws(normal(3, 6), stats(), log_weights=torch.tensor([0.0, -1.0, -3.0]))
    assert "standard deviation" in titles(uneven.plot())


def test_lines_along_a_calendar_are_drawn():
    pytest.importorskip("cftime")
    times = xr.date_range("2000-02-27", periods=5, calendar="360_day", use_cftime=True)
    axes = Draws(normal(32, 5), stats(), dims=("time",), coords={"time": times}).plot().axes[0]
    assert axes.get_xticklabels()[-1].get_text().startswith("2000-03-01")


def test_point_estimates_show_no_uncertainty_unasked():
    draws = Draws(normal(8, 4, 5), stats(), is_posterior=False, truth=torch.zeros(4, 5))
    assert titles(draws.plot()) == ["truth", "estimate", "error"]
    assert "standard deviation" in titles(draws.plot(allow_point_estimate=True))
    assert titles(Draws(normal(1, 4, 5), stats()).plot()) == ["mean"]
    with pytest.raises(ValueError, match="a single number"):
        Draws(normal(8), stats()).plot()


def test_a_figure_that_cannot_be_written_leaves_the_old_file(tmp_path):
    (tmp_path / "out.abc").write_text("old")
    with pytest.raises(ValueError, match="abc"):
        head().plot(path=tmp_path / "out.abc")
    assert [p.name for p in tmp_path.iterdir()] == ["out.abc"]
    assert (tmp_path / "out.abc").read_text() == "old"


def test_values_that_are_missing_are_grey_and_spoil_no_scale():
    draws = pressure()
    draws.samples[:, :, 0, 0] = torch.nan
    figure = draws.plot()
    clims = [ax.collections[0].get_clim() for ax in figure.axes]
    assert np.isfinite(clims).all()
    assert figure.axes[1].collections[0].get_array().mask.sum() == 1


def test_points_that_do_not_exist_are_grey():
    mask = torch.ones(1, 5, 8, dtype=torch.bool)
    mask[..., :3] = False
    draws = pressure(mask=mask)
    for figure in (draws.plot(), plots.samples(draws, 2), plots.field(draws, draws.std)):
        for ax in figure.axes:
            assert ax.collections[0].get_array().mask.sum() == 15


class TestPlane:
    def test_latitude_is_true_to_scale_and_north_is_up(self):
        figure = pressure().plot()
        ax = figure.axes[0]
        assert plane(pressure()).geographic
        assert ax.get_aspect() == pytest.approx(1 / np.cos(np.radians(50)))
        assert not ax.yaxis_inverted()
        figure.canvas.draw()
        assert "60°N" in [t.get_text() for t in ax.get_yticklabels()]
        assert "0°" in [t.get_text() for t in ax.get_xticklabels()]

    def test_levels_of_pressure_grow_downwards(self):
        level = xr.DataArray([1000.0, 500.0, 100.0], attrs={"positive": "down"})
        draws = Draws(normal(4, 3, 2), stats(), dims=("level", "x"), coords={"level": level, "x": np.arange(2.0)})
        assert draws.plot().axes[0].yaxis_inverted()

    def test_other_units_fill_a_square(self):
        y, x = xr.DataArray([0.0, 500.0]), xr.DataArray([0.0, 1.0], attrs={"units": "s"})
        assert Plane(("y", "x"), {"y": y, "x": x}).aspect == pytest.approx(1 / 500)

    def test_small_integers_do_not_overflow(self):
        y, x = np.array([100, 0, -100], dtype=np.int8), np.array([200, 100], dtype=np.uint8)
        draws = Draws(normal(4, 3, 2), stats(), coords={"y": y, "x": x})
        assert plane(draws).shape_on_paper((3, 2)) == pytest.approx(300 / 200)
        corners = draws.plot().axes[0].collections[0].get_coordinates()
        assert corners[:, 0, 1].tolist() == [150, 50, -50, -150] and corners[0, :, 0].tolist() == [250, 150, 50]
        assert not Plane(("y", "x"), {"y": xr.DataArray(np.array([5, 3, 4], np.uint8)), "x": xr.DataArray(x)}).to_scale

    def test_names_that_are_no_numbers_are_not_drawn_to_scale(self):
        draws = Draws(normal(4, 2, 3), stats(), coords={"y": ["low", "high"], "x": np.arange(3)})
        assert len(draws.plot().axes[0].images) == 1


def test_coastlines_are_read_from_cartopys_folder(tmp_path, monkeypatch):
    shapefile = pytest.importorskip("shapefile", reason="pyshp is not installed")
    folder = tmp_path / "shapefiles" / "natural_earth" / "physical"
    folder.mkdir(parents=True)
    with shapefile.Writer(folder / "ne_50m_coastline.shp") as writer:
        writer.field("name", "C")
        writer.line([[[-20.0, 45.0], [-10.0, 50.0]], [[340.0, 55.0], [345.0, 56.0]]])
        writer.record("a coast")
    fields.coastlines.cache_clear()
    monkeypatch.setenv("CARTOPY_DATA_DIR", str(tmp_path))
    try:
        (drawn,) = pressure().plot().axes[0].collections[1:]
        points = sorted(map(tuple, np.concatenate([path.vertices for path in drawn.get_paths()])))
        assert points == [(-20.0, 45.0), (-20.0, 55.0), (-15.0, 56.0), (-10.0, 50.0)]
        monkeypatch.setenv("CARTOPY_DATA_DIR", str(tmp_path / "empty"))
        monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "empty"))
        fields.coastlines.cache_clear()
        assert len(pressure().plot().axes[0].collections) == 1
    finally:
        fields.coastlines.cache_clear()


def test_a_constant_has_a_scale():
    scale = sequential(np.full(3, 2.0), "K", low=None)
    assert (scale.low, scale.high) == (2.0, 3.0)
    assert sequential(np.full(3, np.nan), "K").high > 0


def test_what_is_no_truth_is_refused_and_an_array_is_one(tmp_path):
    draws = pressure()
    with pytest.raises(TypeError, match=r"plot: truth is a str; .* goes to path="):
        draws.plot(str(tmp_path / "out.png"))
    assert titles(draws.plot(draws.truth.numpy())) == titles(draws.plot())
    with pytest.raises(ValueError, match=r"an event has shape \(0, 4\); wanted at least one value"):
        Draws(torch.zeros(3, 0, 4), stats()).plot()
