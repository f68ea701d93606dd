from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr
from scipy import stats

import posterior
from operators import WindSpeed
from operators.grid import Grid
from posterior.recipes.weather import (
    LinearPrior,
    area_weights,
    assimilate,
    calendar_window,
    demo_problem,
    etkf,
    figure,
    gaspari_cohn,
    optimal_interpolation,
    score,
    simulate,
)
from posterior.recipes.weather.etkf import great_circle
from tests.recipes.pressure import LATITUDE, LONGITUDE, SHAPE, SLP, covariance, pressure_prior


@pytest.fixture(scope="module")
def prior():
    return pressure_prior()


@pytest.fixture(scope="module")
def problem(prior):
    return demo_problem(prior, 3, stations=25)


@pytest.fixture(scope="module")
def exact(prior, problem):
    """The posterior in closed form."""
    plain = posterior.GaussianPrior(problem.prior.affine.shift, covariance())
    return posterior.exact_posterior(plain, problem.likelihood)


@pytest.fixture(scope="module")
def result(problem):
    return assimilate(problem, posterior.GaussianBridge(steps=3), draws=40, folds=5)


# baselines against the closed form


def test_optimal_interpolation_is_the_gaussian_posterior(problem, exact):
    found = optimal_interpolation(problem.prior, problem.likelihood)
    assert torch.allclose(found.mean, exact.mean, atol=1e-6)
    assert torch.allclose(found.std, exact.std, atol=1e-6)
    draws = found.sample(4000, seed=1)
    assert torch.equal(draws[:3], found.sample(4000, seed=1)[:3])
    assert float((draws.mean(0) - exact.mean).abs().max()) < 5 * float(exact.std.max()) / 4000**0.5
    assert float((draws.std(0) / exact.std - 1).abs().max()) < 0.06


def test_3d_var_of_wind_speeds_reaches_a_minimum_of_its_cost():
    wind = posterior.GaussianPrior(3 * torch.ones(2, 4, 5, dtype=torch.float64), 4.0 * torch.eye(40, dtype=torch.float64))
    y = torch.full((1, 1, 4, 5), 8.0, dtype=torch.float64)
    like = posterior.GaussianLikelihood(WindSpeed(), y, 0.5)
    found = optimal_interpolation(wind, like).mean[None]

    def cost(x):
        fit = (like.operator.A(x) - y).square().sum() / 0.5**2
        return 0.5 * ((x - 3).square().sum() / 4 + fit)

    x = found.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(cost(x), x)
    (at_background,) = torch.autograd.grad(cost(b := torch.full_like(found, 3.0).requires_grad_(True)), b)
    assert float(gradient.norm()) < 1e-3 * float(at_background.norm())


def test_reference_prior_samples_the_same_posterior(problem, exact):
    linear = LinearPrior(problem.prior)
    draws = posterior.sample(linear, problem.likelihood, posterior.GaussianBridge(steps=2), draws=200, seed=1, batch_size=200)
    assert float(((draws.mean - exact.mean) / exact.std).abs().mean()) < 2 / 200**0.5
    assert float((draws.std / exact.std).mean()) == pytest.approx(1, abs=0.02)


def test_etkf_without_localisation_is_the_posterior_of_its_own_covariance(problem):
    g = torch.Generator().manual_seed(0)
    members = 1010 + 6 * torch.randn(30, *SHAPE, generator=g, dtype=torch.float64)
    updated = etkf(members, problem.likelihood, inflation=1.3)
    flat = members.flatten(1)
    cov = 1.3 * torch.cov(flat.T)
    plain = posterior.GaussianPrior(members.mean(0), cov)
    exact = posterior.exact_posterior(plain, problem.likelihood)
    assert torch.allclose(updated.mean(0), exact.mean, atol=1e-6)
    assert torch.allclose(torch.cov(updated.flatten(1).T), exact.cov, atol=1e-5)


def test_localised_etkf_leaves_what_is_far_away_and_keeps_what_is_near(prior, problem):
    g = torch.Generator().manual_seed(0)
    members = problem.prior.affine.shift + prior.reference.cov.sqrt(torch.randn(60, *SHAPE, generator=g, dtype=torch.float64))
    one = replace(problem, stations=problem.stations.iloc[:1])
    where = {k: one.stations[k].to_numpy() for k in ("latitude", "longitude")}
    local = etkf(members, one.likelihood, grid=one.grid, radius=800.0, **where)
    everywhere = etkf(members, one.likelihood)
    north, east = np.meshgrid(LATITUDE, LONGITUDE, indexing="ij")
    far = great_circle(north.ravel(), east.ravel(), where["latitude"], where["longitude"])[:, 0].reshape(SHAPE[1:]) > 800
    assert torch.allclose(local[:, 0, far], members[:, 0, far])
    assert not torch.allclose(everywhere[:, 0, far], members[:, 0, far], atol=0.1)
    wide = etkf(members, one.likelihood, grid=one.grid, radius=1e9, **where)
    assert torch.allclose(wide, everywhere, atol=1e-6)


def test_etkf_refuses(problem):
    members = torch.zeros(3, *SHAPE, dtype=torch.float64)
    with pytest.raises(ValueError, match="two members"):
        etkf(members[:1], problem.likelihood)
    with pytest.raises(ValueError, match="latitude and longitude of each of the 25"):
        etkf(members, problem.likelihood, radius=1000.0, grid=problem.grid)


def test_gaspari_cohn_is_a_correlation_that_ends():
    r = torch.linspace(0, 3000, 301, dtype=torch.float64)
    values = gaspari_cohn(r, 2000.0)
    assert float(values[0]) == 1
    assert float(values[100]) == pytest.approx(5 / 24)  # at the half-width, eq. 4.10
    assert bool((values.diff() <= 1e-12).all())
    assert not values[200:].any()
    matrix = gaspari_cohn((r[:, None] - r[None]).abs(), 2000.0)
    assert float(torch.linalg.eigvalsh(matrix).min()) > -1e-9


def test_calendar_window_goes_round_the_new_year():
    times = np.arange(np.datetime64("2001-01-01"), np.datetime64("2005-01-01"))
    inside = times[calendar_window(times, "2009-01-03", 5)]
    assert len(inside) == 4 * 11 - 3  # before the first of January 2001 there is nothing
    assert {str(t)[5:] for t in inside} == {*(f"12-{d}" for d in range(29, 32)), *(f"01-0{d}" for d in range(1, 9))}


# scores


def test_scores_of_a_known_law():
    g = torch.Generator().manual_seed(0)
    truth = torch.randn(1, 60, 70, generator=g, dtype=torch.float64)
    members = torch.randn(39, 1, 60, 70, generator=g, dtype=torch.float64)
    found = score(members, truth)
    assert found.crps == pytest.approx(1 / np.sqrt(np.pi), rel=0.03)
    assert found.coverage == pytest.approx(0.9, abs=0.015)
    assert found.spread_skill == pytest.approx(1, abs=0.03)
    assert found.rmse == pytest.approx(1, abs=0.03)
    assert np.isnan(score(members[:10], truth).coverage)


def test_scores_weigh_by_area():
    grid = Grid(np.arange(30.0, 71.0, 2.5), np.arange(-70.0, 11.0, 2.5))
    weights = area_weights(grid)
    cosine = np.cos(np.radians(grid.latitude))
    assert np.allclose(weights[:, 0], cosine / cosine.mean())
    members = torch.zeros(2, 1, *grid.shape, dtype=torch.float64)
    truth = torch.zeros(1, *grid.shape, dtype=torch.float64)
    truth[0, -1] = 1.0  # an error in the northernmost row
    share = cosine[-1] / cosine.sum()
    found = score(members, truth, weights)
    assert found.crps == pytest.approx(share)
    assert found.bias == pytest.approx(-share)
    assert found.squared_error == pytest.approx(share)


# the whole job


def test_assimilation_is_calibrated_and_beats_climatology(result, exact):
    mean = result.ensembles["posterior"].mean(0)
    assert float(((mean - exact.mean) / exact.std).abs().mean()) < 3 / 40**0.5
    fields = result.fields
    assert fields["posterior"].crps < 0.5 * fields["climatology"].crps
    assert fields["posterior"].crps == pytest.approx(fields["optimal interpolation"].crps, rel=0.2)
    assert set(result.stations) == {"posterior", "optimal interpolation", "ETKF", "climatology"}
    assert result.stations["posterior"].crps < 0.7 * result.stations["climatology"].crps
    assert sorted(result.predictions["station"]) == sorted(result.problem.stations["station"])


def test_withheld_stations_are_not_used(problem):
    rows = np.zeros(25, dtype=bool)
    rows[:5] = True
    held = problem.without(rows)
    spoiled = replace(held, withheld=held.withheld.assign(value=held.withheld["value"] + 50))
    sampler = posterior.GaussianBridge(steps=2)
    a, b = (assimilate(p, sampler, draws=20) for p in (held, spoiled))
    assert torch.equal(a.ensembles["posterior"], b.ensembles["posterior"])
    assert b.stations["posterior"].crps > 10 * a.stations["posterior"].crps
    assert b.stations["posterior"].bias == pytest.approx(a.stations["posterior"].bias - 50)
    for rows in (np.zeros(25, bool), np.ones(25, bool)):
        with pytest.raises(ValueError, match="leaves nothing"):
            problem.without(rows)


def test_files_are_cf_and_load_again(result, tmp_path):
    path = tmp_path / "analysis.nc"
    result.save(path)
    loaded = posterior.load_draws(path)
    assert torch.equal(loaded.samples, result.draws.samples)
    assert loaded.units == "hPa"
    with xr.open_datatree(path, engine="h5netcdf") as tree:
        slp = tree["posterior"]["slp"]
        assert slp.dims == ("chain", "draw", "latitude", "longitude")
        assert slp.attrs["standard_name"] == SLP and slp.attrs["units"] == "hPa"
        assert np.array_equal(slp["latitude"], LATITUDE) and np.array_equal(slp["longitude"], LONGITUDE)
        assert tree["time"].values == np.datetime64("2009-01-15")
        assert tree.attrs["Conventions"].startswith("CF-")
        mean = tree["analyses"]["posterior_mean"]
        assert mean.attrs["standard_name"] == SLP
        assert np.allclose(mean, result.draws.mean)
        assert tree["analyses"].attrs["posterior: fair CRPS"] == pytest.approx(result.fields["posterior"].crps)
        assert tree["stations"].sizes["report"] == 25
        assert tree["withheld"].sizes["report"] == 25
        assert "reference" in tree.children


def test_figure_shows_both_analyses_and_the_stations(result, tmp_path):
    drawn = figure(result)
    titles = [ax.get_title() for ax in drawn.axes]
    assert titles[0].startswith("posterior") and titles[1].startswith("optimal interpolation")
    drawn.savefig(tmp_path / "map.png", dpi=40)
    unknown = replace(result, problem=replace(result.problem, truth=None), fields={})
    assert len(figure(unknown).axes) == len(drawn.axes) // 2 == 2


def test_the_demo_sees_a_draw_of_the_prior_of_its_day(prior):
    values, vectors = torch.linalg.eigh(covariance())
    truths = [demo_problem(prior, seed, stations=5).truth for seed in range(8)]
    off = (torch.stack(truths) - prior.on("2009-01-15").affine.shift).flatten(1)
    assert float((off @ vectors[:, -30:] / values[-30:].sqrt()).var()) == pytest.approx(1, abs=0.2)
    again = demo_problem(prior, 3, stations=5)
    assert torch.equal(again.truth, truths[3]) and not torch.equal(truths[2], truths[3])


def test_simulated_errors_have_the_stated_size(prior):
    truth = prior.on("2009-07-01").affine.shift
    made = simulate(prior, truth, "2009-07-01", stations=400, sigma=2.0, seed=5)
    errors = (made.y - made.operator.A(truth[None]))[0, 0]
    assert float(errors.std()) == pytest.approx(2, rel=0.1)
    assert stats.normaltest(errors.numpy()).pvalue > 0.01
    assert made.prior.date == np.datetime64("2009-07-01")
