"""One Gaussian behind every parameterisation: networks that output what each wants must all denoise alike."""

import numpy as np
import pytest
import torch

import posterior
from posterior.priors.analytic import GaussianPrior
from posterior.priors.network import NetworkPrior
from posterior.priors.parameterisations import (
    EDM,
    ContinuousVP,
    GaussianResidual,
    VarianceExploding,
    VariancePreserving,
    Velocity,
)
from posterior.priors.reference import RadialReference

SHAPE = (2, 4, 6)
SIGMAS = np.geomspace(1e-3, 1e3, 19)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def smooth_spectrum():
    f = torch.hypot(torch.fft.fftfreq(4)[:, None], torch.fft.fftfreq(6)[None]).double()
    return 3.0 / (1 + (6 * f) ** 2) ** 2


GAUSSIAN = GaussianPrior(0.3 * normal(*SHAPE, seed=9), smooth_spectrum())
DDPM = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
WIDE = 1 / (1 + torch.logspace(-3, 3, 400, dtype=torch.float64) ** 2)
# Not the spectrum of GAUSSIAN, so that the residual is not zero.
REFERENCE = RadialReference(torch.tensor([0.0, 0.2, 0.8]), torch.tensor([4.0, 1.0, 0.05], dtype=torch.float64))


def col(s):
    return s.reshape(-1, 1, 1, 1)


class Exact(torch.nn.Module):
    """A network that knows the Gaussian: ``read`` undoes the scaling of the input, ``write`` gives the output."""

    def __init__(self, read, write):
        super().__init__()
        self.precision = torch.nn.Parameter(torch.zeros((), dtype=torch.float64), requires_grad=False)
        self.read, self.write, self.calls = read, write, 0

    def forward(self, inputs, time):
        assert time.shape == inputs.shape[:1]
        self.calls += 1
        x, sigma = self.read(inputs, time)
        return self.write(x, col(sigma), GAUSSIAN.denoise(x, sigma))


def vp_output(prediction):
    def write(x, s, x0):
        eps = (x - x0) / s
        alpha, std = (1 + s**2).rsqrt(), s * (1 + s**2).rsqrt()
        return {"epsilon": eps, "sample": x0, "v_prediction": alpha * eps - std * x0}[prediction]

    return write


def vp_network(table, prediction):
    log_sigma = 0.5 * np.log((1 - table.numpy()) / table.numpy())

    def read(inputs, time):
        assert time.min() >= 0
        assert time.max() <= len(table) - 1
        sigma = torch.from_numpy(np.exp(np.interp(time.numpy(), np.arange(len(table)), log_sigma)))
        return inputs * (1 + col(sigma) ** 2).sqrt(), sigma

    return Exact(read, vp_output(prediction))


def continuous_vp_network(scale, beta_min, beta_max, prediction):
    def read(inputs, time):
        t = time / scale
        sigma = torch.expm1(beta_min * t + (beta_max - beta_min) * t**2 / 2).sqrt()
        return inputs * (1 + col(sigma) ** 2).sqrt(), sigma

    return Exact(read, vp_output(prediction))


def ve_network(power, log):
    def read(inputs, time):
        return inputs, 2 * time.exp() if log else time

    return Exact(read, lambda x, s, x0: (x0 - x) / s**power)


def velocity_network(scale, data_at_one=False):
    def read(inputs, time):
        noise = 1 - time / scale if data_at_one else time / scale
        return inputs / (1 - col(noise)), noise / (1 - noise)

    def write(x, s, x0):
        eps = (x - x0) / s
        return x0 - eps if data_at_one else eps - x0

    return Exact(read, write)


def edm_network(sigma_data):
    def read(inputs, time):
        sigma = (4 * time).exp()
        return inputs * (col(sigma) ** 2 + sigma_data**2).sqrt(), sigma

    def write(x, s, x0):
        c_skip = sigma_data**2 / (s**2 + sigma_data**2)
        c_out = s * sigma_data / (s**2 + sigma_data**2).sqrt()
        return (x0 - c_skip * x) / c_out

    return Exact(read, write)


def residual_network():
    grid = REFERENCE.covariance(SHAPE).eigenvalues

    def read(inputs, time):
        sigma = (4 * time).exp()
        linear, rest = inputs.chunk(2, dim=1)
        return linear + col(sigma) * rest, sigma

    def write(x, s, x0):
        linear = REFERENCE.denoise(x, s.flatten())
        size = torch.stack([(grid * v**2 / (grid + v**2)).mean().sqrt() for v in s.flatten()])
        return (x0 - linear) / col(size)

    return Exact(read, write)


CASES = {
    **{
        f"vp-{p}": (lambda p=p: (vp_network(DDPM, p), VariancePreserving(DDPM, p)))
        for p in ("epsilon", "sample", "v_prediction")
    },
    **{
        f"wide-{p}": (lambda p=p: (vp_network(WIDE, p), VariancePreserving(WIDE, p)))
        for p in ("epsilon", "sample", "v_prediction")
    },
    "velocity": lambda: (velocity_network(1000.0), Velocity()),
    "velocity-unit-time": lambda: (velocity_network(1.0), Velocity(1.0)),
    "velocity-data-at-one": lambda: (velocity_network(1.0, True), Velocity(1.0, data_at_one=True)),
    "rectified-flow": lambda: (velocity_network(999.0, True), Velocity(999.0, data_at_one=True)),
    **{
        f"continuous-{p}": (lambda p=p: (continuous_vp_network(999.0, 0.1, 20.0, p), ContinuousVP(prediction=p)))
        for p in ("epsilon", "sample", "v_prediction")
    },
    "continuous-constant": lambda: (continuous_vp_network(1.0, 5.0, 5.0, "epsilon"), ContinuousVP(5.0, 5.0, 1.0)),
    "ve-score": lambda: (ve_network(2, False), VarianceExploding()),
    "ve-scaled": lambda: (ve_network(1, True), VarianceExploding("scaled-score", "log-half")),
    "edm": lambda: (edm_network(0.5), EDM(0.5)),
    "edm-unit": lambda: (edm_network(1.0), EDM()),
    "gaussian-residual": lambda: (residual_network(), GaussianResidual(REFERENCE)),
}


def build(case, **options):
    network, parameterisation = CASES[case]()
    return NetworkPrior(network, parameterisation, SHAPE, **options)


def levels_of(prior):
    """Six decades; of a VP table those that it holds, its ends among them."""
    if prior.parameterisation.kind != "vp":
        return torch.from_numpy(SIGMAS)
    low, high = prior.parameterisation.range()
    inside = SIGMAS[(SIGMAS > low) & (SIGMAS < high)]
    return torch.tensor([low, *inside, high], dtype=torch.float64)


@pytest.mark.parametrize("case", CASES)
def test_every_parameterisation_gives_the_same_denoiser(case):
    prior = build(case)
    sigma = levels_of(prior)
    assert len(sigma) >= 13  # four decades at least
    x = GAUSSIAN.reference.center + col(sigma) * normal(len(sigma), *SHAPE)
    torch.testing.assert_close(prior.denoise(x, sigma), GAUSSIAN.denoise(x, sigma), rtol=1e-5, atol=1e-5)
    assert prior.network.calls == 1


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("sigma", [0.37, torch.tensor(0.37), torch.tensor([0.37])], ids=["number", "()", "(1,)"])
def test_one_noise_level_stands_for_the_batch(case, sigma):
    prior, x = build(case), normal(3, *SHAPE, seed=4)
    each = prior.denoise(x, torch.full((3,), 0.37, dtype=torch.float64))
    torch.testing.assert_close(prior.denoise(x, sigma), each, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(each, GAUSSIAN.denoise(x, 0.37), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
def test_vp_between_the_entries_of_its_table(prediction):
    """Levels that no entry has: the time is not an integer, and the denoiser is still right."""
    prior = build(f"vp-{prediction}")
    entries = ((1 - DDPM) / DDPM).sqrt()
    sigma = (entries[[3, 200, 500, 900]] * entries[[4, 201, 501, 901]]).sqrt()
    times = []
    inner = prior.network.read
    prior.network.read = lambda inputs, time: (times.append(time), inner(inputs, time))[1]
    x = col(sigma) * normal(4, *SHAPE, seed=1)
    torch.testing.assert_close(prior.denoise(x, sigma), GAUSSIAN.denoise(x, sigma), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(times[0], torch.tensor([3.5, 200.5, 500.5, 900.5], dtype=torch.float64))


def test_vp_at_the_entries_of_its_table_asks_for_whole_times():
    seen = []
    sigma = ((1 - DDPM) / DDPM).sqrt()[[0, 7, 500, 999]]
    VariancePreserving(DDPM).denoise(lambda u, t: seen.append(t) or u, torch.ones(4, *SHAPE).double(), sigma)
    torch.testing.assert_close(seen[0], torch.tensor([0.0, 7.0, 500.0, 999.0], dtype=torch.float64))


@pytest.mark.parametrize("case", CASES)
def test_posterior_draws_are_the_same_for_the_same_seed(case):
    from deepinv.physics import Denoising

    y = GAUSSIAN.reference.center[None] + normal(1, *SHAPE, seed=12)
    like = posterior.GaussianLikelihood(Denoising(), y, 0.5)

    def draws(which):
        prior = build(which, sigma_range=(0.02, 100.0))
        return posterior.sample(prior, like, posterior.MMPS(steps=6), draws=2, seed=3).samples

    torch.testing.assert_close(draws(case), draws("edm"), rtol=1e-3, atol=1e-3)


def test_minibatch_coupling_warns_that_the_score_is_approximate():
    with pytest.warns(UserWarning, match="minibatch-OT coupling: .* approximate"):
        Velocity(1.0, data_at_one=True, coupling="minibatch-ot")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Velocity(coupling="ot"), "coupling 'ot': wanted independent or minibatch-ot"),
        (lambda: VarianceExploding("epsilon"), "output of a VE network 'epsilon': wanted score or scaled-score"),
        (lambda: VarianceExploding(time="t"), "time of a VE network 't': wanted sigma or log-half"),
        (lambda: VarianceExploding(low=2.0, high=1.0), "sigma from 2.0 to 1.0: wanted 0 < low < high"),
        (lambda: ContinuousVP(3.0, 2.0), "beta from 3.0 to 2.0: wanted 0 < beta_min <= beta_max"),
        (lambda: ContinuousVP(prediction="score"), "prediction type 'score'"),
        (lambda: VariancePreserving(DDPM.flip(0)), "a list that descends"),
        (lambda: VariancePreserving(torch.ones(3)), "a list that descends"),
        (lambda: VariancePreserving(DDPM[None]), "a list that descends"),
        (lambda: EDM(prediction="sample"), "EDM prediction type 'sample': wanted epsilon or v_prediction"),
    ],
)
def test_settings_that_mean_nothing_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_continuous_clock_runs_from_zero_to_its_scale():
    low, high = ContinuousVP(time_scale=500.0).range()
    times = ContinuousVP(time_scale=500.0).time(torch.tensor([low, high], dtype=torch.float64))
    torch.testing.assert_close(times, torch.tensor([500.0 * 1e-5, 500.0], dtype=torch.float64))
    assert high == pytest.approx((np.exp(0.1 + 19.9 / 2) - 1) ** 0.5)


def test_learned_variance_is_dropped():
    network, parameterisation = CASES["vp-epsilon"]()
    inner = network.write
    network.write = lambda x, s, x0: torch.cat([inner(x, s, x0), torch.full_like(x, 7.0)], dim=1)
    prior = NetworkPrior(network, parameterisation, SHAPE)
    x = normal(2, *SHAPE, seed=5)
    torch.testing.assert_close(prior.denoise(x, 0.8), GAUSSIAN.denoise(x, 0.8), rtol=1e-5, atol=1e-5)


def test_vp_range_is_that_of_the_table():
    low, high = VariancePreserving(DDPM).range()
    assert low == pytest.approx((1e-4 / (1 - 1e-4)) ** 0.5)
    assert high == pytest.approx(float(((1 - DDPM[-1]) / DDPM[-1]).sqrt()))


def test_table_with_zero_terminal_snr_ends_before_infinity():
    table = torch.cat([DDPM, torch.zeros(1, dtype=torch.float64)])
    assert VariancePreserving(table).range() == VariancePreserving(DDPM).range()


def test_network_prior_takes_its_range_from_the_parameterisation_unless_told():
    assert (build("vp-epsilon").sigma_min, build("vp-epsilon").sigma_max) == VariancePreserving(DDPM).range()
    told = build("vp-epsilon", sigma_range=(0.1, 3.0))
    assert (told.sigma_min, told.sigma_max) == (0.1, 3.0)


def test_unknown_prediction_type_is_refused():
    with pytest.raises(ValueError, match="prediction type 'noise': wanted epsilon, sample or v_prediction"):
        VariancePreserving(DDPM, "noise")


@pytest.mark.parametrize("case", CASES)
def test_jacobian_reaches_the_input(case):
    """Cov[x0 | x] = sigma^2 dD/dx: the graph runs through every parameterisation."""
    prior, sigma = build(case), 0.8
    x, v = normal(2, *SHAPE, seed=6).requires_grad_(True), normal(2, *SHAPE, seed=7)
    (found,) = torch.autograd.grad(prior.denoise(x, sigma), x, v)
    wanted = GAUSSIAN.reference.cov.given(sigma).apply(v) / sigma**2
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("case", ["velocity", "edm", "vp-epsilon"])
def test_network_works_in_its_own_precision(case):
    prior = build(case)
    prior.network.precision.data = prior.network.precision.data.float()
    seen = []
    prior.network.read = lambda inputs, time: (
        seen.append((inputs.dtype, time.dtype)),
        (inputs.double(), time.double()),
    )[1]
    out = prior.denoise(normal(2, *SHAPE), 0.5)
    assert seen == [(torch.float32, torch.float32)]
    assert out.dtype == torch.float64


def test_sides_are_padded_for_the_network_and_cut_back():
    class Probe(torch.nn.Conv2d):
        def forward(self, inputs, time):
            self.seen = inputs.shape
            return inputs

    with torch.random.fork_rng(devices=[]):
        network = Probe(1, 1, 1)
    prior = NetworkPrior(network, EDM(), (1, None, None), multiple=4)
    x = torch.ones(2, 1, 5, 8)
    assert prior.denoise(x, 1.0).shape == x.shape
    assert network.seen == (2, 1, 8, 8)
    # c_skip + c_out c_in = 1/2 + 1/2 at sigma = sigma_data = 1
    torch.testing.assert_close(prior.denoise(x, 1.0), x)
