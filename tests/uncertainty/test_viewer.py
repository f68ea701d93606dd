"""The viewer: its widgets by themselves, and in a browser with a kernel behind them."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from posterior.draws import Draws
from tests import browser
from tests.figures.examples import head, normal, pressure, stats

widgets = pytest.importorskip("ipywidgets", reason="ipywidgets is not installed")
pytest.importorskip("anywidget", reason="anywidget is not installed")

from posterior.uncertainty import view  # noqa: E402


@pytest.fixture
def viewer():
    return view(pressure())


def test_controls_choose_what_is_shown(viewer):
    draws = viewer.draws
    assert viewer.show.options == ("mean", "standard deviation", "quantile", "draw", "truth", "error")
    wanted = {
        "mean": draws.mean,
        "standard deviation": draws.std,
        "truth": draws.truth,
        "error": draws.mean - draws.truth,
        "draw": draws.samples[3],
        "quantile": draws.interval(0.8)[1],
    }
    viewer.draw.value, viewer.quantile.value = 3, 0.9
    sources = set()
    for kind, event in wanted.items():
        viewer.show.value = kind
        np.testing.assert_allclose(viewer.values()[0], event[0], rtol=1e-6)
        sources.add(viewer.picture.source)
        assert (viewer.draw.layout.display == "none") == (kind != "draw")
    assert len(sources) == 6 and all(source.startswith("data:image/png") for source in sources)
    assert "quantile 0.9" in viewer.caption.value and "hPa" in viewer.caption.value


def test_a_probe_tells_the_posterior_of_a_pixel(viewer):
    viewer.picture.probe = [1, 6]  # latitudes fall from the first row on: rows lie as they are stored
    assert viewer.pixel == (1, 6)
    lower, upper = (float(end[0, 1, 6]) for end in viewer.draws.interval(0.9))
    assert f"{lower:.5g} to {upper:.5g} hPa" in viewer.probed.value
    assert "latitude 55.0 °N, longitude 0.0 °E" in viewer.probed.value
    before = viewer.probed.value
    viewer.picture.probe = [1, 5]
    assert viewer.probed.value != before


def test_rows_on_the_screen_are_those_of_the_map():
    draws = Draws(normal(24, 3, 4), stats(), dims=("lat", "lon"), coords={"lat": [40.0, 50, 60], "lon": [0.0, 1, 2, 3]})
    viewer = view(draws)
    viewer.picture.probe = [0, 3]
    assert viewer.pixel == (2, 3) and "lat 60.0" in viewer.probed.value


def test_slices_and_what_has_no_uncertainty():
    draws = Draws(normal(24, 3, 2, 4, 5), stats(), dims=("time", "level", "y", "x"))
    viewer = view(draws)
    assert list(viewer.slices) == ["time", "level"]
    viewer.slices["time"].value, viewer.slices["level"].value = 2, 1
    np.testing.assert_allclose(viewer.values()[0], draws.mean[2, 1], rtol=1e-6)
    points = view(Draws(normal(3, 4, 5), stats(), is_posterior=False))
    assert points.show.options == ("estimate", "draw")
    assert view(head()).draws.kind == "real"
    masked = view(pressure(mask=torch.zeros(1, 5, 8, dtype=torch.bool)))
    assert "no value here" in masked.probed.value
    with pytest.raises(ValueError, match="wanted two or more"):
        view(Draws(normal(4, 5), stats()))


def test_names_are_escaped():
    viewer = view(pressure(units="<script>", name="<b>"))
    assert "<script>" not in viewer.probed.value + viewer.caption.value


SOURCE = "from tests.figures.examples import pressure\nfrom posterior.uncertainty import view\nview(pressure())"
NOTEBOOK = {
    "cells": [{"cell_type": "code", "execution_count": None, "id": "a", "metadata": {}, "outputs": [], "source": SOURCE}],
    "metadata": {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}},
    "nbformat": 4,
    "nbformat_minor": 5,
}


@pytest.fixture
def address(tmp_path):
    """A notebook server, with a kernel for each visitor, that shows the viewer; stopped in the end."""
    browser.require()
    pytest.importorskip("voila", reason="voila is not installed")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    (tmp_path / "view.ipynb").write_text(json.dumps(NOTEBOOK))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    names = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
    own = {name: str(tmp_path / name) for name in names}
    env = os.environ | own | {"PYTHONPATH": str(Path.cwd()), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "voila", "view.ipynb", "--no-browser", f"--port={port}", "--Voila.ip=127.0.0.1"]
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=log, stderr=log)
        try:
            url = f"http://127.0.0.1:{port}/"
            end = time.monotonic() + 90
            while time.monotonic() < end:
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                assert server.poll() is None, (tmp_path / "log").read_text()
                time.sleep(0.1)
            yield url
        finally:
            server.terminate()
            server.wait(20)


@pytest.mark.slow
def test_in_a_browser(address):
    draws = pressure()
    with browser.page() as (page, log):
        page.goto(address, timeout=120_000)
        picture = page.locator(".posterior-picture")
        picture.wait_for(timeout=120_000)
        first = picture.locator("img").get_attribute("src")

        page.get_by_role("combobox").select_option("draw")
        expect(page, lambda: "draw 0" in page.locator(".posterior-caption").inner_text())
        assert picture.locator("img").get_attribute("src") != first

        box = picture.bounding_box()  # the pixel in row 1, column 6 of 5 x 8
        page.mouse.click(box["x"] + box["width"] * 6.5 / 8, box["y"] + box["height"] * 1.5 / 5)
        expect(page, lambda: "latitude 55.0 °N, longitude 0.0 °E" in page.locator(".posterior-probe").inner_text())
        assert f"{float(draws.samples[0, 0, 1, 6]):.5g} hPa" in page.locator(".posterior-probe").inner_text()

        page.keyboard.press("ArrowLeft")
        expect(page, lambda: "longitude -5.0 °E" in page.locator(".posterior-probe").inner_text())
        assert f"{float(draws.samples[0, 0, 1, 5]):.5g} hPa" in page.locator(".posterior-probe").inner_text()
        assert log["errors"] == []


def expect(page, true, seconds=30):
    """Wait until the kernel has answered."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, page.locator("body").inner_text()
        page.wait_for_timeout(50)
