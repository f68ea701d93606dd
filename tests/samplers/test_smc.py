import math
from dataclasses import replace

import deepinv
import pytest
import torch

import posterior
from benchmarks.metrics import mode_weights, sliced_w2
from benchmarks.problems.mixture import dense, mixture
from benchmarks.problems.nonlinear import nonlinear
from benchmarks.problems.random_field import matern_spectrum
from posterior.driver import RunNoise
from posterior.problem import Problem
from posterior.samplers.smc.core import Particles, resample_below, start, thin
from posterior.samplers.smc.resampling import SCHEMES, ess, resample
from posterior.samplers.smc.twisted import TwistName
from posterior.schedules import Karras, LogUniform


def uniforms(seed):
    g = torch.Generator().manual_seed(seed)
    return lambda k: torch.rand(k, generator=g, dtype=torch.float64)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_resampling_is_unbiased(scheme):
    log_weights = torch.tensor([0.0, -1.0, -30.0, 1.0, 0.3, -torch.inf, 0.1])
    w = torch.softmax(log_weights.double(), 0)
    uniform, rounds = uniforms(0), 4000
    copies = torch.stack([torch.bincount(resample(log_weights, uniform, scheme), minlength=7) for _ in range(rounds)])
    mean, spread = copies.double().mean(0), (7 * w * (1 - w) / rounds).sqrt()
    assert ((mean - 7 * w).abs() <= 4 * spread + 1e-9).all()
    assert copies[:, 5].sum() == 0
    if scheme == "systematic":
        assert ((copies >= (7 * w).floor()) & (copies <= (7 * w).ceil())).all()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_equal_weights_and_a_single_weight(scheme):
    index = resample(torch.zeros(50), uniforms(1), scheme)
    assert scheme == "multinomial" or torch.equal(index, torch.arange(50))
    alone = torch.full((50,), -torch.inf)
    alone[17] = -2000.0
    assert (resample(alone, uniforms(2), scheme) == 17).all()
    assert ess(alone) == pytest.approx(1)
    assert ess(torch.full((50,), 1e5)) == pytest.approx(50)


def test_the_population_keeps_evidence_and_genealogy():
    g = torch.Generator().manual_seed(0)
    n = 2000
    log_weights = 2 * torch.randn(n, generator=g, dtype=torch.float64)
    x = torch.arange(n, dtype=torch.float64)[:, None]
    state = Particles(x=x, log_weights=log_weights, eve=torch.arange(n), ancestors=(), carried=(2 * x,))
    assert resample_below(state, 0.0, uniforms(0), "systematic") is state
    after = resample_below(state, 1.0, uniforms(0), "systematic")
    assert after.log_evidence == pytest.approx(state.log_evidence)
    assert after.log_evidence == pytest.approx(2.0, abs=4 * state.log_evidence_std)
    assert state.log_evidence_std == pytest.approx(math.sqrt((math.exp(4) - 1) / n), rel=0.5)
    assert torch.equal(after.x, after.eve[:, None].double()) and torch.equal(after.carried[0], 2 * after.x)
    assert after.resamplings == 1 and torch.equal(after.ancestors[0], after.eve)
    again = resample_below(replace(after, log_weights=log_weights), 1.0, uniforms(1), "systematic")
    assert torch.equal(again.eve, after.ancestors[0][again.ancestors[1]])


@pytest.mark.parametrize(
    ("d", "m", "problems", "twist"), [(8, 2, 2, "auto"), (80, 4, 1, "auto"), (8, 1, 1, "reference"), (8, 2, 2, "reference")]
)
def test_tds_reaches_the_floor_on_the_mixture(d, m, problems, twist):
    ratios, misses, stds = [], [], []
    for seed in range(problems):
        p = mixture(d, m, seed)
        exact = posterior.exact_posterior(p.prior, p.likelihood)
        target = exact.sample(1000, seed=1)
        floor = sum(sliced_w2(target, exact.sample(1000, seed=s)) for s in (2, 3)) / 2
        draws = posterior.sample(p.prior, p.likelihood, posterior.TDS(twist=twist), draws=1000, seed=seed)
        ratios.append(sliced_w2(draws.samples, target, draws.weights) / floor)
        misses.append((draws.stats.log_evidence[0] - exact.log_evidence) / draws.stats.log_evidence_std[0])
        stds.append(float((draws.std / exact.std).mean()))
    assert sum(ratios) / problems < 1.5
    assert max(map(abs, misses)) < 3
    assert sum(stds) / problems == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("twist", ["mmps", "pigdm", "sharp", "reference"])
def test_every_twist_is_right_where_the_posterior_is_gaussian(twist):
    cov = torch.tensor([[1.0, 0.6], [0.6, 0.8]], dtype=torch.float64)
    prior = posterior.GaussianPrior(torch.tensor([1.0, -1.0], dtype=torch.float64), cov)
    matrix = torch.tensor([[1.0, 0.5]], dtype=torch.float64)
    sigma = 1.5 if twist == "sharp" else 0.3  # with the sharp twist precise data leave few ancestors
    likelihood = posterior.GaussianLikelihood(dense(matrix), torch.tensor([[1.5]], dtype=torch.float64), sigma)
    exact = posterior.exact_posterior(prior, likelihood)
    tds = posterior.TDS(60, twist=twist, sigma_min=0.01)
    draws = posterior.sample(prior, likelihood, tds, draws=4000, seed=0)
    tolerance = 4 * math.sqrt(1 / 4000 + draws.stats.log_evidence_std[0] ** 2)
    assert ((draws.mean - exact.mean).abs() < tolerance * exact.std).all()
    torch.testing.assert_close(draws.std, exact.std, rtol=0.05, atol=0)
    assert abs(draws.stats.log_evidence[0] - exact.log_evidence) < 3 * draws.stats.log_evidence_std[0] + 0.02


def test_the_reference_twist_has_constant_weights_for_a_gaussian():
    prior = posterior.GaussianPrior(torch.zeros(1, 12, 12, dtype=torch.float64), matern_spectrum(12))
    mask = (torch.rand(1, 12, 12, generator=torch.Generator().manual_seed(0)) < 0.3).double()
    physics = deepinv.physics.Inpainting((1, 12, 12), mask=mask)
    y = physics.A(prior.reference.cov.sqrt(torch.randn(1, 1, 12, 12, generator=torch.Generator().manual_seed(1)).double()))
    likelihood = posterior.GaussianLikelihood(physics, y, 0.05)
    exact = posterior.exact_posterior(prior, likelihood)
    draws = posterior.sample(prior, likelihood, posterior.TDS(4), draws=400, seed=0)
    assert draws.stats.ess[0] == pytest.approx(400)
    assert draws.stats.log_evidence[0] == pytest.approx(exact.log_evidence)
    assert (draws.stats.nfe, draws.stats.vjps) == (4, 0)
    bias = (draws.mean - exact.mean) / exact.std
    assert float(bias.square().mean()) ** 0.5 == pytest.approx(1 / 20, abs=0.02)
    assert float((draws.std / exact.std).mean()) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("m", [4, 32])
@pytest.mark.parametrize("sampler", [posterior.TDS(50), posterior.AFDPS(50)], ids=["TDS", "AFDPS"])
def test_particles_of_a_unimodal_posterior_keep_their_variance(sampler, m):
    g = torch.Generator().manual_seed(0)
    prior = posterior.GaussianMixturePrior(torch.zeros(1, 128), torch.ones(1), 1.0)
    matrix = torch.linalg.qr(torch.randn(128, m, generator=g, dtype=torch.float64)).Q.T
    likelihood = posterior.GaussianLikelihood(dense(matrix), torch.ones(1, m, dtype=torch.float64), 0.2)
    exact = posterior.exact_posterior(prior, likelihood)
    draws = posterior.sample(prior, likelihood, sampler, draws=256, seed=0)
    assert 0.97 < float((draws.std**2).sum() / (exact.std**2).sum()) < 1.03


def test_nonlinear_operator_with_a_finite_prior():
    g = torch.Generator().manual_seed(0)
    points = 2 * torch.randn(400, 2, generator=g, dtype=torch.float64)
    prior = posterior.EmpiricalPrior(points)
    speed = deepinv.physics.Physics(A=lambda x, **_: (x.square().sum(1, keepdim=True) + 1e-12).sqrt())
    likelihood = posterior.GaussianLikelihood(speed, torch.tensor([[2.5]], dtype=torch.float64), 0.4)
    exact = posterior.exact_posterior(prior, likelihood)
    target = exact.sample(1000, seed=1)
    floor = sum(sliced_w2(target, exact.sample(1000, seed=s)) for s in range(2, 6)) / 4
    draws = posterior.sample(prior, likelihood, posterior.TDS(60), draws=500, seed=0)
    assert sliced_w2(draws.samples, target, draws.weights) < 1.5 * floor
    assert abs(draws.stats.log_evidence[0] - exact.log_evidence) < 3 * draws.stats.log_evidence_std[0]


def test_weights_sum_to_one_and_pool_runs_by_evidence():
    p = mixture(8, 1)
    draws = posterior.sample(p.prior, p.likelihood, posterior.TDS(20), draws=50, runs=2, seed=0)
    assert float(draws.weights.sum()) == pytest.approx(1)
    evidence = draws.log_weights.reshape(2, 50).logsumexp(1) - math.log(50)
    assert evidence.tolist() == pytest.approx(draws.stats.log_evidence)


def test_network_calls_are_counted():
    p = mixture(8, 2)
    for tds, calls, vjps in [
        (posterior.TDS(10), 19, 20),
        (posterior.TDS(10, corrected=False), 10, 20),
        (posterior.TDS(10, twist="pigdm"), 19, 10),
        (posterior.TDS(10, twist="sharp", corrected=False), 10, 10),
    ]:
        stats = posterior.sample(p.prior, p.likelihood, tds, draws=8, batch_size=3).stats
        assert (stats.nfe, stats.vjps) == (calls, vjps)


def test_few_worthwhile_particles_are_said_to_be_few():
    p = mixture(80, 4)
    tds = posterior.TDS(3, twist="sharp", ess_threshold=0.0)
    draws = posterior.sample(p.prior, p.likelihood, tds, draws=100)
    assert any("worth" in text for text in draws.stats.warnings)


def test_the_genealogy_is_kept_on_request():
    p = mixture(8, 2)
    tds = posterior.TDS(15, genealogy=True, ess_threshold=1.0)
    like = p.likelihood.in_standard(p.prior.affine, (8,))
    problem, noise = Problem(p.prior, like, (8,)), RunNoise(0, 0, 30, (8,), like.y)
    state = tds.init(problem, noise)
    for _ in range(15):
        state, info = tds.step(problem, state, noise)
    eve = torch.arange(30)
    for parents in state.ancestors:
        eve = eve[parents]
    assert torch.equal(eve, state.eve) and len(state.ancestors) == state.resamplings > 0
    assert info["ess"] == pytest.approx(state.ess)


@pytest.mark.parametrize("shape", [(3,), (40,)], ids=["few unknowns", "many"])
def test_thinning_keeps_means_and_the_shares_of_modes(shape):
    g = torch.Generator().manual_seed(0)
    signs = torch.where(torch.rand(60, generator=g) < 0.3, -1.0, 1.0).double()
    x = 5 * signs[:, None] + torch.randn(60, *shape, generator=g, dtype=torch.float64)
    log_weights = torch.randn(60, generator=g, dtype=torch.float64)
    log_weights[x[:, 0].argsort()[:6]] = -torch.inf
    state = replace(start(x, log_weights, (x[:, 0],), None, True), eve=torch.arange(60))
    w = torch.softmax(log_weights, 0)
    means = []
    for seed in range(200):
        kept = thin(state, 3, uniforms(seed))
        assert kept.x.shape == (20, *shape) and torch.equal(kept.carried[0], kept.x[:, 0])
        assert kept.log_evidence == pytest.approx(state.log_evidence)
        v = torch.softmax(kept.log_weights, 0)
        assert float(v @ (kept.x[:, 0] > 0).double()) == pytest.approx(
            float(w @ (signs > 0).double()), abs=1.01 * float(v.max())
        )
        means.append(v @ kept.x)
        assert int(kept.eve.max()) < 20 and torch.equal(x[kept.ancestors[-1]], kept.x)
    means = torch.stack(means)
    assert ((means.mean(0) - w @ x).abs() < 4 * means.std(0) / 200**0.5 + 1e-9).all()


def test_more_particles_than_draws_bring_the_shares_of_modes_closer():
    p = mixture(8, 1)
    exact = posterior.exact_posterior(p.prior, p.likelihood)
    shares = mode_weights(exact.sample(5000, seed=0), p.prior.means)
    off = {}
    for times in (1, 4):
        tds = posterior.TDS(15, particles_per_draw=times)
        runs = [posterior.sample(p.prior, p.likelihood, tds, draws=100, seed=s) for s in range(6)]
        assert all(d.samples.shape == (100, 8) and d.stats.ess[0] <= 100.001 for d in runs)
        assert runs[0].stats.nfe == times * 29
        off[times] = sum(float((mode_weights(d.samples, p.prior.means, d.weights) - shares).square().sum()) for d in runs)
    assert off[4] < 0.7 * off[1]
    whole, chunks = (
        posterior.sample(p.prior, p.likelihood, tds, draws=20, batch_size=size, seed=1).samples for size in (None, 7)
    )
    torch.testing.assert_close(whole, chunks)


@pytest.mark.parametrize("sampler", [posterior.TDS(12), posterior.AFDPS(12)])
def test_steps_are_spaced_for_the_operator(sampler):
    linear, bent = mixture(8, 2), nonlinear("wind speed")
    for p, schedule in ((linear, LogUniform()), (bent, Karras(3.0))):
        shape = p.prior.event_shape
        levels = sampler.levels(Problem(p.prior, p.likelihood.in_standard(p.prior.affine, shape), shape))
        assert levels == schedule(12, levels[0], p.prior.sigma_min)


def test_what_is_refused():
    p = mixture(8, 2)
    bads = ({"steps": 0}, {"ess_threshold": 1.5}, {"resampling": "residual"}, {"twist": "dull"}, {"particles_per_draw": 0})
    for bad in bads:
        with pytest.raises(ValueError, match="TDS: "):
            posterior.TDS(**bad)
    assert set(TwistName.__args__) == {"auto", "mmps", "pigdm", "sharp", "reference"}
    with pytest.raises(ValueError, match="runs is 0"):
        posterior.sample(p.prior, p.likelihood, posterior.TDS(), runs=0)
    with pytest.raises(ValueError, match="runs is 2"):
        posterior.sample(p.prior, p.likelihood, posterior.MMPS(2), runs=2)


def test_too_many_data_for_a_twist():
    side = 40
    prior = posterior.GaussianPrior(torch.zeros(1, side, side, dtype=torch.float64), matern_spectrum(side))
    physics = deepinv.physics.Inpainting((1, side, side), mask=torch.ones(1, side, side))
    likelihood = posterior.GaussianLikelihood(physics, torch.zeros(1, 1, side, side), 0.1)
    for twist, other in (("mmps", "pigdm"), ("pigdm", "sharp"), ("reference", "GaussianBridge")):
        with pytest.raises(ValueError, match=f"{side * side}.*{other}"):
            posterior.sample(prior, likelihood, posterior.TDS(twist=twist), draws=4)


def test_values_that_are_not_finite_stop_the_run():
    p = mixture(8, 2)
    p.prior.denoise = lambda x, sigma: x * torch.nan
    with pytest.raises(posterior.SamplingError, match=r"not finite after step 0 .* particle 0 of run 0"):
        posterior.sample(p.prior, p.likelihood, posterior.TDS(5), draws=4)
