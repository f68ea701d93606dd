"""The report, and that a browser has nothing to complain of."""

import dataclasses
import re

import pytest
import torch
from typer.testing import CliRunner

from benchmarks.diagnostics import Toy
from posterior.cli import app
from posterior.draws import Draws
from posterior.uncertainty import assess, attach, report
from tests import browser
from tests.figures.examples import head, normal, pressure, stats

ATTACK = '<script>document.title = "owned"</script><img src=x onerror=alert(1)> $\\frac{ "\'&'


@pytest.fixture(scope="module")
def found():
    return assess(Toy.make().trials("exact", 30), event=lambda x: (x > 0.5).flatten(1))


@pytest.fixture
def unrendered(monkeypatch):
    """Figures are made but not rendered, which is what takes the time."""
    monkeypatch.setattr("posterior.uncertainty.page.embedded", lambda figure, dpi: "data:image/png;base64,")


def hostile(found):
    """A tree whose every text is an attack."""
    made = stats(sampler=ATTACK, prior=ATTACK, likelihood=ATTACK, status=ATTACK, warnings=(ATTACK,), versions={ATTACK: ATTACK})
    name = ATTACK.replace("/", "|")
    tree = head(stats=made, name=name, units=ATTACK).to_datatree()
    ranks = found.findings["SBC pixels"]
    bad = dataclasses.replace(ranks, name=ATTACK, names=tuple(ATTACK for _ in ranks.names))
    attach(tree, dataclasses.replace(found, findings=found.findings | {ATTACK: bad}, left_out={ATTACK: ATTACK}), ATTACK)
    tree["mri"] = type(tree)()
    tree["mri"].attrs |= {ATTACK: ATTACK}
    tree.attrs["created_at"] = ATTACK
    return tree


def test_a_result_on_one_page(found, tmp_path, unrendered):
    draws = pressure()
    draws.save(tmp_path / "run.nc")
    attach(tmp_path / "run.nc", found, "MMPS on thirty toys")
    page = report(tmp_path / "run.nc", tmp_path / "run.html")
    assert (tmp_path / "run.html").read_text(encoding="utf-8") == page
    assert page.count('<img src="data:image/png;base64,') == 5
    for text in ("24 draws from the posterior of pressure", "MMPS on thirty toys", "MMPS(steps=64)", "Evidence of calibration"):
        assert text in page, text
    lower, upper = draws.interval(0.9)
    share = 100 * float(((draws.truth >= lower) & (draws.truth <= upper)).float().mean())
    assert f"{share:.1f} % of the values lie in their 90 % interval" in page
    assert "no evidence of calibration" not in page
    for name, finding in found.findings.items():
        assert f"<th scope='row'>{name}</th><td>{finding.p_value:.3g}</td>" in page


def test_warnings_are_in_words(unrendered):
    page = report(pressure(n=10, stats=stats(residual=2.5)))
    assert "a 90 % interval takes 19" in page
    assert "The residuals are larger than the stated noise explains: chi-square per datum is 2.5" in page
    assert "carries no evidence of calibration" in page
    worse = assess(Toy.make().trials("prior only", 30))
    tree = pressure().to_datatree()
    attach(tree, worse)
    page = report(tree)
    assert "NOT consistent with exact samples: see the evidence" in page
    assert "<td>NOT consistent</td>" in page


def test_any_shape_has_a_report(unrendered):
    point = Draws(normal(3, 4, 5), stats(), is_posterior=False)
    assert "Point estimates (no uncertainty)" in report(point)
    for draws in (Draws(normal(30), stats()), Draws(normal(30, 7), stats()), head(), Draws(normal(1, 4, 5), stats())):
        assert "How to read this" in report(draws)
    for draws in (Draws(normal(30, 1, 2), stats()), Draws(normal(30, 2), stats(), dims=("channel",), kind="complex")):
        assert "How to read this" in report(draws)
    assert "How to read this" in report(Draws(normal(30, 2, 3), stats(), mask=torch.arange(6).reshape(2, 3) < 2))
    assert "status: not finite" in report(Draws(torch.full((2, 3), torch.nan), stats(status="not finite"))).lower()


def test_the_command(tmp_path, monkeypatch, unrendered):
    monkeypatch.chdir(tmp_path)
    pressure().save("run.nc")
    made = CliRunner().invoke(app, ["report", "run.nc", "--title", "A storm"])
    assert (made.exit_code, made.output) == (0, "wrote run.html\n")
    assert "<title>A storm</title>" in (tmp_path / "run.html").read_text(encoding="utf-8")
    for arguments, words in ((["none.nc"], "no such file"), (["run.nc", "--output", "run.txt"], "ends in .html")):
        refused = CliRunner().invoke(app, ["report", *arguments])
        assert refused.exit_code == 2 and words in refused.output
    with pytest.raises(ValueError, match=r"ends in \.html"):
        report(pressure(), "run.pdf")


def test_texts_of_a_result_are_escaped(found, unrendered):
    page = report(hostile(found))
    assert "<script" not in page and "<img src=x" not in page
    assert page.count("&lt;script&gt;") >= 12
    assert re.search(r"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; style-src 'sha256-", page)


def test_a_browser_opens_it_without_a_complaint(found, tmp_path):
    path = tmp_path / "run.html"
    report(hostile(found), path)
    with browser.page(color_scheme="dark", viewport={"width": 900, "height": 700}) as (opened, log):
        opened.goto(path.as_uri())
        assert log["console"] == [] and log["errors"] == []
        assert [url for url in log["requests"] if not url.startswith(("file:", "data:"))] == []
        assert opened.title().startswith("Posterior of <script>")
        sizes = opened.eval_on_selector_all("img", "images => images.map(i => i.naturalWidth)")
        assert len(sizes) == 5 and min(sizes) > 100, "every figure is there"
        assert opened.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(22, 25, 29)", "the style applies"
        assert opened.evaluate("document.documentElement.scrollWidth") <= 900
        opened.emulate_media(media="print", color_scheme="light")
        assert opened.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        opened.screenshot(path=tmp_path / "page.png", full_page=True)
