"""What a notebook shows of draws."""

import base64
import io
import re

import numpy as np
import torch
from matplotlib.image import imread

from posterior.draws import Draws
from posterior.figures.html import png
from posterior.figures.style import Scale
from tests.figures.examples import head, normal, pressure, stats


def pictures(page):
    return [imread(io.BytesIO(base64.b64decode(data))) for data in re.findall('base64,([^"]+)', page)]


def test_thumbnails_key_figures_and_warnings():
    page = pressure()._repr_html_()
    captions = re.findall("<figcaption>([^<]+?):", page)
    assert captions == ["mean", "standard deviation", "draw 0", "draw 1"]
    assert [p.shape[:2] for p in pictures(page)] == [(5, 8)] * 4
    std = pressure().std
    assert f"{float(std.max()):.3g} (largest) hPa" in page
    assert "MMPS(steps=64)" in page


def test_a_status_and_point_estimates_are_warned_of():
    draws = Draws(normal(3, 4, 5), stats(status="stopped <b>"), is_posterior=False)
    page = draws._repr_html_()
    assert '<div class="warning">status: stopped &lt;b&gt;</div>' in page
    assert '<div class="warning">point estimates (no uncertainty)</div>' in page
    assert "standard deviation" not in page


def test_north_is_up_and_missing_is_grey():
    south_first = Draws(
        torch.arange(6.0).reshape(1, 3, 2).repeat(2, 1, 1),
        stats(),
        dims=("lat", "lon"),
        coords={"lat": [0, 1, 2], "lon": [0, 1]},
    )
    first = pictures(south_first._repr_html_())[0]
    assert (first[0, 0, :3] != first[2, 0, :3]).any()
    assert first[0, :, :3].sum() > first[2, :, :3].sum(), "the largest values, in the north, are brightest"
    grey = pictures(png(np.array([[np.nan, 1.0]]), Scale("gray", 0, 2, "1")) + '"')[0]
    np.testing.assert_allclose(grey[0, 0, :3], 200 / 255, atol=0.01)


def test_any_shape_has_a_page():
    for draws in (Draws(normal(30), stats()), Draws(normal(30, 7), stats()), Draws(normal(2, 2, 3, 400, 5), stats()), head()):
        assert "sampler" in draws._repr_html_()
    for draws in (Draws(normal(30, 1), stats()), Draws(normal(30, 1, 1), stats())):
        assert "sampler" in draws._repr_html_()
    assert len(pictures(Draws(normal(30, 7), stats())._repr_html_())) == 1
    missing = Draws(torch.full((2, 3), torch.nan), stats(status="not finite"))
    assert "none is finite" in missing._repr_html_()
