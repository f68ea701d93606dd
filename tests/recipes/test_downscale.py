"""The downscaling job: area means of a field, baselines, results."""

import dataclasses

import numpy as np
import pytest
import torch
import typer.testing

import posterior
from posterior.cli import app
from posterior.recipes import downscale as recipe


@pytest.fixture(scope="module")
def prior():
    return posterior.load_prior("slp-north-atlantic")


@pytest.fixture
def problem(prior, tmp_path, monkeypatch):
    """Of a draw of the prior's reference, so that optimal interpolation is the best there is."""
    monkeypatch.setenv("POSTERIOR_DATA_DIR", str(tmp_path))
    g = torch.Generator().manual_seed(2)
    cov = prior.reference.covariance((1, 17, 33))
    truth = prior.on("2009-01-15").affine.to_physical(cov.sqrt(torch.randn(1, 1, 17, 33, generator=g, dtype=torch.float64)))
    return recipe.averages(prior.on("2009-01-15"), truth[0].float(), seed=1)


def test_bicubic_follows_a_plane_and_its_fitted_error_is_the_error(problem):
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    plane = (2 * y + x)[None, None]
    coarse = torch.nn.functional.avg_pool2d(plane, 4)
    inner = (recipe.bicubic(coarse, (1, 32, 32), 4) - plane)[..., 8:-8, 8:-8]
    assert float(inner.abs().max()) < 0.6  # of 12 between coarse cells: torch's cubic bends a little
    fitted = recipe.fitted_bicubic(problem, problem.truth[None].expand(3, -1, -1, -1))
    error = (recipe.bicubic(problem.average.A(problem.truth[None].double()), (1, 17, 33), 4)[0] - problem.truth).abs()
    torch.testing.assert_close(fitted.std.double(), (error.double() ** 2 + problem.sigma**2).sqrt(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("factor", [6, 8, 16])
def test_cells_of_any_factor_lie_where_they_are(prior, problem, factor):
    """Of 17 x 33 points, which leave smaller cells at the end: bicubic interpolation has its cells' values in their middle."""
    wide = recipe.averages(prior, problem.truth, factor=factor)
    assert wide.factor == factor
    at = recipe.fitted_bicubic(wide, problem.truth[None].expand(2, -1, -1, -1)).mean[0]
    assert at.shape == (17, 33)
    ramp = torch.arange(wide.y.shape[-1], dtype=torch.float64).expand(wide.y.shape)
    middle = recipe.fitted_bicubic(dataclasses.replace(wide, y=ramp), problem.truth[None].expand(2, -1, -1, -1)).mean[0]
    assert float(middle[0, factor + factor // 2 - 1 : factor + factor // 2 + 1].mean()) == pytest.approx(1, abs=0.02)


def test_small_scales_are_told_from_large_ones():
    x = torch.arange(32.0)
    slow = torch.cos(np.pi * (x + 0.5) / 16).expand(1, 1, 32, 32)
    fast = torch.cos(np.pi * (x + 0.5) * 20 / 32).expand(1, 1, 32, 32)
    assert float(recipe.small_scales(slow, 4)) < 1e-6
    assert float(recipe.small_scales(slow + 0.5 * fast, 4)) == pytest.approx(float((0.5 * fast).square().sum()), rel=1e-5)


def test_optimal_interpolation_wins_on_its_own_ground(problem):
    found = recipe.downscale(problem, posterior.GaussianBridge(1), draws=20)
    bicubic, oi, ours = found.table
    assert oi["CRPS"] < bicubic["CRPS"]
    assert ours["CRPS"] < bicubic["CRPS"]
    assert bicubic["small scales"] < 0.7
    assert oi["coverage"] == pytest.approx(0.9, abs=0.08)


def test_bad_arguments_are_refused(problem, prior):
    with pytest.raises(ValueError, match="noise must be positive"):
        recipe.averages(prior, problem.truth, noise=0.0)
    with pytest.raises(ValueError, match="no coordinates"):
        recipe.demo_problem(posterior.load_prior("galaxies"))
    bare = dataclasses.replace(problem, prior=_without_reference(problem.prior))
    with pytest.raises(ValueError, match="pass fields="):
        recipe.downscale(bare, posterior.GaussianBridge(1), draws=1)


def _without_reference(prior):
    import copy

    bare = copy.copy(prior)
    bare.reference = None
    return bare


def test_command_on_a_draw_of_the_prior(tmp_path, monkeypatch):
    monkeypatch.setenv("POSTERIOR_DATA_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    options = ["--prior", "slp-north-atlantic", "--draws", "20", "--steps", "1", "--output", "a.nc"]
    result = typer.testing.CliRunner().invoke(app, ["demo", "downscale", *options])
    assert result.exit_code == 0, result.output
    for word in ("bicubic", "optimal", "a draw of the prior", "small", "wrote a.nc"):
        assert word in result.stdout.replace("\n", " ")
    assert posterior.load_draws("a.nc").units == "hPa"
    assert (tmp_path / "a.png").exists()


@pytest.mark.slow
def test_a_held_out_day_of_the_registry(prior):
    from posterior.io.registry import available

    if not available("ncep-slp-2001-2010"):
        pytest.skip("ncep-slp-2001-2010 is not at hand")
    values, time, name = recipe.held_out_field(prior)
    assert (time, name) == ("2009-01-15", "ncep-slp-2001-2010")
    assert 900 < float(values.min()) < float(values.max()) < 1060
    with pytest.raises(ValueError, match="no field of 1950-01-01"):
        recipe.held_out_field(prior, "1950-01-01")
    with pytest.raises(ValueError, match="'yesterday' is no date; wanted one as"):
        recipe.held_out_field(prior, "yesterday")
