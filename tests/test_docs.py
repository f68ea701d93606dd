"""The documentation builds, and its tutorials run."""

import importlib.util
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from docs import build

ROOT = Path(__file__).parents[1]


def test_every_tutorial_is_in_the_menu():
    assert sorted(build.TUTORIALS) == sorted(path.stem for path in (ROOT / "docs" / "tutorials").glob("*.py"))


def test_the_cheapest_tutorial_runs(monkeypatch, capsys):
    """As the script that it is, with fewer draws; the slow test runs all of them as notebooks."""
    import posterior

    monkeypatch.setattr(
        posterior, "sample", lambda *a, draws, batch_size, _s=posterior.sample, **k: _s(*a, draws=200, batch_size=200, **k)
    )
    with torch.random.fork_rng(devices=[]):
        left = runpy.run_path(str(ROOT / "docs" / "tutorials" / "comparing-samplers.py"))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["exact", "DPS", "PiGDM", "MMPS", "TDS"]
    distances = [float(line.removeprefix("exact draws").split()[0 if line.startswith("exact") else 1]) for line in lines]
    assert distances[0] < 0.15 and distances[4] < 0.6 and distances[4] < distances[1]
    assert len(left["figure"].axes) == 4


@pytest.mark.parametrize(
    ("text", "page", "wanted"),
    [
        ("[a](../README.md)", "docs/index.md", "[a](readme.md)"),
        ("[a](../CONTRIBUTING.md#working)", "docs/index.md", "[a](contributing.md#working)"),
        ("[a](docs/operators.md)", "README.md", "[a](operators.md)"),
        ("[a](LICENSE)", "README.md", "[a](license.md)"),
        (
            "[a](operators.md) and [b](https://example.org/x)",
            "docs/index.md",
            "[a](operators.md) and [b](https://example.org/x)",
        ),
        ("[the code](../posterior/draws.py)", "docs/index.md", "the code"),
        ("[a](tutorials/mri.py)", "docs/index.md", "[a](tutorials/mri.md)"),
        ("[gone](none.md)", "docs/index.md", "[gone](none.md)"),
        ("[a](../operators.md)", "docs/tutorials/mri.md", "[a](../operators.md)"),
        ("[a](#here)", "docs/index.md", "[a](#here)"),
    ],
)
def test_links_are_those_of_the_site(text, page, wanted):
    assert build.linked(text, ROOT / page) == wanted


def test_a_tutorial_is_executed_once_for_each_code(tmp_path, monkeypatch):
    pytest.importorskip("jupytext")
    pytest.importorskip("nbconvert")
    nbclient = pytest.importorskip("nbclient")
    (tmp_path / "tutorials").mkdir()
    source = tmp_path / "tutorials" / "one.py"
    source.write_text("# %%\nprint(1)\n")
    runs = []

    class Client:
        def __init__(self, notebook, **settings):
            self.notebook = notebook

        def execute(self):
            runs.append(self.notebook.cells[0].source)

    monkeypatch.setattr(nbclient, "NotebookClient", Client)
    for name, path in {"DOCS": tmp_path, "EXECUTED": tmp_path / "kept", "PAGES": tmp_path / "pages"}.items():
        monkeypatch.setattr(build, name, path)
    (tmp_path / "pages" / "tutorials").mkdir(parents=True)
    for _ in range(2):
        build.tutorial("one")
    assert runs == ["print(1)"]
    assert "print(1)" in (tmp_path / "pages" / "tutorials" / "one.md").read_text()
    build.tutorial("one", renew=True)
    source.write_text("# %%\nprint(2)\n")
    build.tutorial("one")
    monkeypatch.setattr(build, "code", lambda: b"changed")
    build.tutorial("one")
    assert runs == ["print(1)", "print(1)", "print(2)", "print(2)"]
    assert len(list((tmp_path / "kept").iterdir())) == 1


def test_a_tutorial_that_is_not_built_is_not_linked():
    assert build.linked("[a](tutorials/mri.py)", ROOT / "docs" / "index.md", ("weather",)) == "a"


@pytest.mark.slow
def test_the_site_builds_with_all_tutorials():
    for library in ("mkdocs", "mkdocstrings", "jupytext", "nbclient", "nbconvert"):
        if importlib.util.find_spec(library) is None:
            pytest.skip(f"{library} is not installed: pip install 'posterior[docs]'")
    made = subprocess.run([sys.executable, "-m", "docs.build", "--renew"], cwd=ROOT, capture_output=True, text=True)
    assert made.returncode == 0, made.stdout + made.stderr
    for name in build.TUTORIALS:
        page = (ROOT / "build" / "site" / "tutorials" / f"{name}.html").read_text(encoding="utf-8")
        assert page.count("<img") >= 1 and "Traceback" not in page
