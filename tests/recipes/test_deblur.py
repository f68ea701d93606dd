"""The deblurring job: simulated galaxies, point-spread functions, baselines, results."""

import pytest
import torch
import typer.testing

import posterior
from posterior.cli import app
from posterior.recipes import deblur as recipe
from posterior.recipes.comparison import Baseline, Comparison, figure


@pytest.fixture(scope="module")
def prior():
    return posterior.load_prior("galaxies")


@pytest.fixture
def without_data(tmp_path, monkeypatch):
    monkeypatch.setenv("POSTERIOR_DATA_DIR", str(tmp_path))


@pytest.mark.parametrize("index", [1.0, 2.5])
def test_half_of_the_light_of_a_sersic_profile_is_within_its_radius(index):
    image = torch.from_numpy(recipe.sersic((121, 121), (60, 60), 6.0, index))
    y, x = torch.meshgrid(torch.arange(121.0) - 60, torch.arange(121.0) - 60, indexing="ij")
    inside = image[torch.hypot(x, y) < 6].sum() / image.sum()
    assert float(inside) == pytest.approx(0.5, abs=0.02)
    with pytest.raises(ValueError, match="index 9"):
        recipe.sersic((8, 8), (4, 4), 2.0, 9)


def test_fields_reproduce_and_are_light():
    one, two = (recipe.galaxy_field((32, 40), 5) for _ in range(2))
    assert torch.equal(one, two)
    assert one.shape == (32, 40)
    assert float(one.min()) >= 0
    assert not torch.equal(one, recipe.galaxy_field((32, 40), 6))


def test_a_moffat_profile_stands_in_and_says_so(without_data):
    kernel, origin = recipe.point_spread()
    assert "Moffat" in origin
    assert float(kernel.sum()) == pytest.approx(1)
    half = kernel[18, 18:] > kernel[18, 18] / 2
    assert int(half.sum()) == 2  # half a width of 1.15 pixels


def test_baselines_come_closer_than_the_data(without_data, prior):
    problem = recipe.demo_problem(1)
    truth = problem.truth
    off = [
        float((x - truth).square().mean())
        for x in (problem.image[None], recipe.richardson_lucy(problem), recipe.wiener(problem, prior.reference, 0.04))
    ]
    assert max(off[1:]) < 0.8 * off[0]


def test_counts_have_the_noise_of_counts(without_data):
    problem = recipe.demo_problem(1, counts=500.0)
    like = problem.likelihood.in_standard(posterior.GaussianPrior.affine, (1, 64, 64))
    assert float(like.chi_square(problem.truth[None].double())) == pytest.approx(1, abs=0.1)
    with pytest.raises(ValueError, match="must be positive"):
        recipe.demo_problem(counts=-1.0)


def test_command(tmp_path, monkeypatch, without_data):
    monkeypatch.chdir(tmp_path)
    options = ["--draws", "20", "--steps", "1", "--batch-size", "20", "--output", "a.nc"]
    result = typer.testing.CliRunner().invoke(app, ["demo", "deblur", *options])
    assert result.exit_code == 0, result.output
    for word in ("Wiener", "Richardson-Lucy", "posterior", "Moffat", "wrote a.nc"):
        assert word in result.stdout
    assert (tmp_path / "a.png").stat().st_size > 10_000
    draws = posterior.load_draws("a.nc")
    assert draws.event_shape == (1, 64, 64)
    assert draws.truth is not None


def test_scores_of_a_comparison_with_known_answers():
    """A Gaussian baseline that is right, against draws that are: the same CRPS, sigma / sqrt(pi), and 90 % covered."""
    g = torch.Generator().manual_seed(0)
    truth = torch.randn(1, 80, 80, generator=g)
    made = torch.randn(39, 1, 80, 80, generator=g)
    draws = posterior.Draws(made, _stats())
    found = Comparison(draws, truth, truth[0], {"right": Baseline(torch.zeros(1, 80, 80), torch.ones(()))})
    right, ours = found.table
    for row in (right, ours):
        assert row["CRPS"] == pytest.approx(0.564, abs=0.015)
        assert row["coverage"] == pytest.approx(0.9, abs=0.015)
    assert figure(found).get_axes()


def _stats():
    from posterior.draws import Stats

    return Stats(1, 0, 0.0, 0, 0, "ok", "sampler", "prior", "likelihood", {})
