"""Guidances that need no more than the denoiser, or a row sum of its Jacobian, against what their updates promise."""

import math

import deepinv
import pytest
import torch

import posterior
from benchmarks.problems.random_field import random_field
from posterior.guidance.ddnm import DDNMGuidance
from posterior.guidance.ddrm import DDRMGuidance
from posterior.guidance.diffpir import DiffPIRGuidance
from posterior.guidance.flowchef import FlowChefGuidance, largest_information
from posterior.guidance.pigdm import PiGDMGuidance
from posterior.guidance.tmpd import TMPDGuidance
from posterior.problem import Problem
from posterior.svd import singular_system
from tests.samplers.laws import Setting, errors, law

SHAPE = (1, 4, 6)
N = 24
CENTRE, SPREAD = 0.4, 1.7


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def uneven(low, high):
    share = torch.rand(1, *SHAPE, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return low * (high / low) ** share


def mask():
    return (torch.rand(SHAPE, generator=torch.Generator().manual_seed(1)) < 0.6).double()


def blur():
    kernel = torch.rand(1, 1, 3, 3, generator=torch.Generator().manual_seed(2)).double()
    return deepinv.physics.BlurFFT(SHAPE, filter=kernel / kernel.sum())


def problem_of(physics=None, sigma=0.3, y=None):
    """An isotropic Gaussian prior N(CENTRE, SPREAD^2 I), whose denoiser acts on each coordinate of any basis alike."""
    physics = physics or deepinv.physics.Inpainting(SHAPE, mask=mask())
    prior = posterior.GaussianPrior(torch.full(SHAPE, CENTRE, dtype=torch.float64), SPREAD**2 * torch.eye(N).double())
    y = physics.A(normal(1, *SHAPE, seed=2)) + 0.3 * normal(1, *SHAPE, seed=3) if y is None else y
    like = posterior.GaussianLikelihood(physics, y, sigma)
    return Problem(prior, like.in_standard(prior.affine, SHAPE), SHAPE)


def dense_only(problem):
    """The same problem, its singular system worked out from the matrix."""
    problem.memo["matrix-free singular system"] = None
    return problem


class Bent(deepinv.physics.Physics):
    def A(self, x, **_):
        return torch.atan(x[..., ::2])


class Fixed:
    """The same white noise at every run."""

    def __init__(self, batch=2):
        self.generator, self.batch = torch.Generator().manual_seed(11), batch

    def __call__(self, shape=None):
        return torch.randn(self.batch, *(SHAPE if shape is None else shape), generator=self.generator, dtype=torch.float64)


def run(sampler, problem):
    noise = Fixed()
    with torch.no_grad():
        state = sampler.init(problem, noise)
        for _ in range(sampler.steps):
            state, _ = sampler.step(problem, state, noise)
    return state.x


def denoised(x, sigma):
    return CENTRE + SPREAD**2 / (SPREAD**2 + sigma**2) * (x - CENTRE)


class TestTMPD:
    def test_row_sums_are_exact_where_the_covariance_of_the_data_is_diagonal(self):
        """The posterior given x and y of every pixel by itself, with a noise level of its own."""
        noise, x = uneven(0.05, 2.0), 2 * normal(3, *SHAPE, seed=4)
        problem = problem_of(sigma=noise)
        found = TMPDGuidance()(problem, x, 0.8, (0.8, 0.5)).mean
        precision = 1 / SPREAD**2 + 1 / 0.8**2 + mask() / noise**2
        wanted = (CENTRE / SPREAD**2 + x / 0.8**2 + mask() * problem.likelihood.y / noise**2) / precision
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)

    def test_row_sums_that_cancel_do_not_blow_a_draw_up(self):
        """Real and imaginary parts of conjugate pairs of coefficients: the rows of the imaginary parts sum to nothing."""
        problem = random_field("fourier", side=16, dtype=torch.float64)
        draws = posterior.sample(problem.prior, problem.likelihood, posterior.TMPD(24), draws=8)
        exact = posterior.exact_posterior(problem.prior, problem.likelihood)
        assert float(((draws.samples - exact.mean) / exact.std).square().mean()) < 2

    def test_step_never_leaves_a_larger_misfit_than_it_met(self):
        problem = random_field("fourier", side=16, dtype=torch.float64)
        seen = Problem(problem.prior, problem.likelihood.in_standard(problem.prior.affine, (1, 16, 16)), (1, 16, 16))
        for sigma in (0.05, 1.0, 30.0):
            x = (1 + sigma) * normal(4, 1, 16, 16)
            before = seen.likelihood.chi_square(seen.prior.denoise(x, sigma))
            assert (seen.likelihood.chi_square(TMPDGuidance()(seen, x, sigma, (sigma, 0.0)).mean) < before).all()


class TestDiffPIR:
    @pytest.mark.parametrize("physics", [None, blur(), deepinv.physics.Denoising(), Bent()], ids=lambda p: type(p).__name__)
    @pytest.mark.parametrize("solver", ["closed form", "iterations"])
    @pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")
    def test_mean_solves_the_normal_equations(self, physics, solver):
        y = normal(1, *physics.A(torch.zeros(1, *SHAPE).double()).shape[1:]) if isinstance(physics, Bent) else None
        problem = problem_of(physics, y=y)
        if solver == "iterations":
            dense_only(problem)
        sigma, weight, x = 0.8, 3.0, 2 * normal(2, *SHAPE, seed=4)
        found = DiffPIRGuidance(weight, tolerance=1e-10)(problem, x, sigma, (sigma, 0.5)).mean
        like, d = problem.likelihood, denoised(x, sigma)
        lin = like.model.linearise(d)
        misfit = like.y - lin.prediction - lin.jvp(found - d)
        balance = lin.vjp(like.reach / like.variance * misfit) - weight / sigma**2 * (found - d)
        torch.testing.assert_close(balance, torch.zeros_like(balance), rtol=0, atol=1e-6)
        assert float((found - d).abs().max()) > 0.1


class TestDDNM:
    @pytest.mark.parametrize("physics", [None, blur()], ids=["mask", "blur"])
    def test_without_noise_the_data_are_fitted_exactly(self, physics):
        problem = problem_of(physics)
        for sampler in (posterior.DDNM(5, plus=False), posterior.DDNM(5, plus=False, integrator=posterior.DPMSolver2M())):
            assert float(problem.likelihood.residual(run(sampler, problem)).abs().max()) < 1e-6

    def test_noise_of_almost_nothing_is_no_noise(self):
        """DDNM+ becomes DDNM; what is left is noise of the last level."""
        problem = problem_of(sigma=1e-6)
        sampler, plain = (posterior.DDNM(8, plus=plus, sigma_min=1e-3) for plus in (True, False))
        torch.testing.assert_close(run(sampler, problem), run(plain, problem), rtol=0, atol=5e-3)

    @pytest.mark.parametrize("integrator", [posterior.DDIM(0.85), posterior.Ancestral(), posterior.Renoise(0.5)], ids=repr)
    def test_noise_of_the_data_takes_the_place_of_noise_that_the_step_would_add(self, integrator):
        """(a lambda / g)^2 + gamma = s^2 wherever the operator sees, and lambda is as large as that allows."""
        noise, sigma, end = uneven(0.05, 2.0), 1.2, 0.7
        x = normal(1, *SHAPE, seed=4)

        def stepped(y, white):
            denoiser = lambda *a: DDNMGuidance()(problem_of(sigma=noise, y=y), *a)  # noqa: E731
            return integrator.step(denoiser, x, sigma, end, lambda shape=None: white, None)[0]

        y, zero = normal(1, *SHAPE, seed=3), torch.zeros(1, *SHAPE, dtype=torch.float64)
        from_data = stepped(y + noise, zero) - stepped(y, zero)
        fresh = stepped(y, zero + 1) - stepped(y, zero)
        unseen = fresh[:, mask() == 0]
        s = float(unseen[0, 0])
        torch.testing.assert_close(unseen, torch.full_like(unseen, s))
        seen = mask() > 0
        total = (from_data**2 + fresh**2)[:, seen]
        torch.testing.assert_close(total, torch.full_like(total, s**2))
        used_up = fresh[:, seen].abs() < 1e-9
        assert used_up.any()
        assert not used_up.all()
        # where noise is left to add the data are taken in full: the weight in x' is the mean's
        weight = (from_data / noise)[:, seen][~used_up]
        torch.testing.assert_close(weight, weight[:1].expand_as(weight))
        assert float((from_data / noise)[:, seen].max()) == pytest.approx(float(weight[0]))


def ddrm_step(x, sigma, end, z, e, system_gain, datum, eta, eta_b):
    """The paper's three cases for one coordinate, on c = V^T D with the data's estimate datum of noise 1 / gain."""
    c = denoised(x, sigma)
    if system_gain == 0:
        return c + math.sqrt(1 - eta**2) * end * (x - c) / sigma + eta * end * z
    noise = 1 / system_gain
    if noise > end:
        return c + math.sqrt(1 - eta**2) * end * (datum - c) / noise + eta * end * z
    spread = math.sqrt(end**2 - (eta_b * noise) ** 2)
    return (1 - eta_b) * c + eta_b * datum + spread * (math.sqrt(1 - eta**2) * e + eta * z)


class TestDDRM:
    @pytest.mark.parametrize("eta_b", [1.0, 0.6])
    def test_step_is_that_of_the_paper(self, eta_b):
        """Pixel by pixel; the fresh noise of well measured ones is drawn in two parts, with the paper's variance."""
        noise, sigma, end, eta = uneven(0.05, 2.0), 1.2, 0.7, 0.85
        problem, x = problem_of(sigma=noise), normal(1, *SHAPE, seed=4)
        e, z = normal(1, *SHAPE, seed=6), normal(1, *SHAPE, seed=7)
        draws = iter((e, z))
        denoiser = lambda *a: DDRMGuidance(eta_b)(problem, *a)  # noqa: E731
        found, _ = posterior.Renoise(eta**2).step(denoiser, x, sigma, end, lambda shape=None: next(draws), None)
        parts = (t.flatten().tolist() for t in (x, z, e, mask() / noise, problem.likelihood.y))
        wanted = [ddrm_step(a, sigma, end, b, c, g, y, eta, eta_b) for a, b, c, g, y in zip(*parts, strict=True)]
        torch.testing.assert_close(found.flatten(), torch.tensor(wanted, dtype=torch.float64))

    def test_coordinates_of_a_blur_are_its_frequencies(self):
        problem, x = problem_of(blur(), sigma=0.5), normal(1, *SHAPE, seed=4)
        system = singular_system(problem)
        e, z = normal(1, *SHAPE, seed=6), normal(1, *SHAPE, seed=7)
        draws = iter((e, z))
        denoiser = lambda *a: DDRMGuidance()(problem, *a)  # noqa: E731
        found, _ = posterior.Renoise(0.85**2).step(denoiser, x, 1.2, 0.7, lambda shape=None: next(draws), None)
        # about the prior's mean the denoiser scales every frequency alike
        c, e, z = (system.analyse(t).flatten().tolist() for t in (x - CENTRE, e, z))
        offset = system.gains * system.analyse(torch.full((1, *SHAPE), CENTRE, dtype=torch.float64))
        gains, data = (t.flatten().tolist() for t in (system.gains, (system.data - offset) / system.gains))
        wanted = [
            ddrm_step(CENTRE + a, 1.2, 0.7, b, d, g, CENTRE + y, 0.85, 1.0) - CENTRE
            for a, b, d, g, y in zip(c, z, e, gains, data, strict=True)
        ]
        torch.testing.assert_close(system.analyse(found - CENTRE).flatten(), torch.tensor(wanted, dtype=torch.float64))
        assert min(gains) < 1 / 0.7 < max(gains)

    def test_first_fields_are_noised_data_where_these_are_good_enough(self):
        problem = problem_of(sigma=uneven(0.5, 50.0))
        sigma, noise = 5.0, uneven(0.5, 50.0)
        start = DDRMGuidance().start(problem, sigma, Fixed(4000))
        known = (mask() > 0) & (noise < sigma)
        mean = torch.where(known, problem.likelihood.y, CENTRE)
        std = torch.where(known, (sigma**2 - noise**2).clamp_min(0).sqrt(), (SPREAD**2 + sigma**2) ** 0.5)
        assert float(((start.mean(0) - mean) / std).abs().max()) < 4.5 / 4000**0.5
        assert float((start.std(0) / std - 1).abs().max()) < 4.5 / 8000**0.5


FORMS = [
    posterior.DDRM(4),
    posterior.DDRM(4, integrator=posterior.DDIM(0.5)),
    posterior.DDNM(4),
    posterior.DDNM(4, integrator=posterior.Ancestral()),
    posterior.DDNM(4, plus=False),
    posterior.DiffPIR(4),
]


@pytest.mark.parametrize("sampler", FORMS, ids=lambda s: f"{type(s).__name__}-{s.integrator}")
@pytest.mark.parametrize("physics", [None, blur(), deepinv.physics.Denoising()], ids=["mask", "blur", "identity"])
def test_draws_do_not_depend_on_the_form_in_which_the_operator_is_decomposed(sampler, physics):
    free, full = run(sampler, problem_of(physics)), run(sampler, dense_only(problem_of(physics)))
    torch.testing.assert_close(free, full, rtol=0, atol=1e-5)


class TestFlowChef:
    def test_step_is_a_gradient_step_in_flow_time(self):
        """u = (1 - tau) x moves along the velocity taken before, less scale times the gradient on the denoised field."""
        problem, sigma, end = problem_of(blur()), 1.2, 0.7
        x = 2 * normal(2, *SHAPE, seed=4)
        found, _ = posterior.DDIM().step(lambda *a: FlowChefGuidance(0.3)(problem, *a), x, sigma, end, None, None)
        rms = problem.prior.rms
        tau, tau_end = sigma / (rms + sigma), end / (rms + end)
        u, d = (1 - tau) * x, denoised(x, sigma)
        velocity = (u - d) / tau
        d.requires_grad_(True)
        misfit = problem.likelihood.residual(d).square().sum() / (2 * 0.3**2)
        (gradient,) = torch.autograd.grad(misfit, d)
        largest = float(singular_system(problem).gains.max()) ** 2
        moved = u + (tau_end - tau) * velocity - 0.3 * gradient / largest
        torch.testing.assert_close(found, (moved / (1 - tau_end)).detach(), rtol=1e-4, atol=1e-4)

    def test_largest_eigenvalue_is_that_of_the_whitened_operator(self):
        problem = problem_of(sigma=uneven(0.05, 2.0))
        largest = float((mask() / uneven(0.05, 2.0) ** 2).max())
        assert largest_information(problem, torch.zeros(1, dtype=torch.float64)) == pytest.approx(largest, rel=0.02)

    def test_an_operator_that_sees_nothing_leaves_the_prior(self):
        problem = problem_of(deepinv.physics.Inpainting(SHAPE, mask=torch.zeros(SHAPE).double()))
        x = normal(1, *SHAPE)
        torch.testing.assert_close(FlowChefGuidance()(problem, x, 1.0, (1.0, 0.5)).mean, denoised(x, 1.0))


class TestHeavySpectrum:
    """Images whose longest wave varies by 30 rms; every pixel is seen, so that nearly all of it is known."""

    N = 32

    def given(self):
        f = torch.hypot(torch.fft.fftfreq(self.N)[:, None], torch.fft.fftfreq(self.N)[None]).double()
        prior = posterior.GaussianPrior(torch.zeros(1, self.N, self.N).double(), (f + 0.005) ** -3 / 8000)
        truth = prior.reference.covariance((1, self.N, self.N)).sqrt(normal(1, 1, self.N, self.N, seed=3))
        y = truth + 0.1 * normal(1, 1, self.N, self.N, seed=4)
        return prior, truth, posterior.GaussianLikelihood(deepinv.physics.Denoising(), y, 0.1)

    def test_draws_of_pigdm_settle(self):
        prior, truth, like = self.given()
        assert 28 < prior.reference.covariance((1, self.N, self.N)).max_variance ** 0.5 / prior.rms < 32
        draws = posterior.sample(prior, like, posterior.PiGDM(), draws=8, batch_size=8)
        assert float((draws.mean - truth[0]).abs().max()) < 1
        assert float(draws.std.max()) < 1

    @pytest.mark.parametrize("guidance", [PiGDMGuidance(), FlowChefGuidance()])
    def test_no_step_throws_the_longest_wave_beyond_what_the_data_say(self, guidance):
        """By twice the misfit or more it would not come back: what a step on D does to D at the next level."""
        prior, _, like = self.given()
        problem = Problem(prior, like.in_standard(prior.affine, (1, self.N, self.N)), (1, self.N, self.N))
        for sigma in prior.rms * torch.tensor([1.0, 3.0, 10.0, 30.0, 100.0]).double():
            x, end = normal(1, 1, self.N, self.N), 0.9 * float(sigma)
            d = prior.denoise(x, sigma)
            moved = (guidance(problem, x, float(sigma), (float(sigma), end)).mean - d).mean()
            variance = prior.reference.covariance((1, self.N, self.N)).max_variance
            share = 1 - (end / sigma) ** (2 if isinstance(guidance, PiGDMGuidance) else 1)  # ancestral and Euler steps
            follows = variance / (variance + sigma**2)
            assert 0 < float(share * moved / (like.y - d).mean() * follows) < 1.6

    def test_a_white_prior_takes_the_steps_of_the_papers(self):
        """What D follows x by is there at most what the papers suppose."""
        n = 6
        prior = posterior.GaussianPrior(torch.zeros(n).double(), 4 * torch.eye(n).double())
        like = posterior.GaussianLikelihood(deepinv.physics.Denoising(), torch.ones(1, n).double(), 0.5)
        problem = Problem(prior, like.in_standard(prior.affine, (n,)), (n,))
        for sigma in (20.0, 2.0, 0.2):
            x, end = normal(1, n), 0.1 * sigma
            d = prior.denoise(x, sigma)
            r2 = 4 * sigma**2 / (4 + sigma**2)
            pigdm = d + sigma**2 * (4 / (4 + sigma**2)) * (1 - d) / (0.25 + r2)
            chef = d + 0.5 * (1 + end / 2) / (1 - end / sigma) * (1 - d)
            torch.testing.assert_close(PiGDMGuidance()(problem, x, sigma, (sigma, end)).mean, pigdm)
            torch.testing.assert_close(FlowChefGuidance()(problem, x, sigma, (sigma, end)).mean, chef, rtol=1e-4, atol=1e-4)


# Mean error in posterior standard deviations, and the ratios of standard deviations, on the Gaussian of `Setting`.
PINNED = {
    "MMPS": (posterior.MMPS(), 0.0, [1.025, 1.025, 1.025, 1.025]),
    "TMPD": (posterior.TMPD(), 0.296, [0.993, 0.942, 0.935, 0.934]),
    "DiffPIR": (posterior.DiffPIR(), 0.109, [0.683, 0.686, 0.700, 0.687]),
    "DDNM": (posterior.DDNM(), 0.677, [0.136, 0.410, 0.484, 0.403]),
    "DDRM": (posterior.DDRM(), 0.370, [0.599, 0.636, 0.734, 0.706]),
    "FlowChef": (posterior.FlowChef(), 0.357, [0.842, 0.988, 0.844, 0.823]),
}


@pytest.mark.parametrize("name", PINNED)
def test_bias_on_a_gaussian_is_what_it_was_measured_to_be(name):
    sampler, bias, ratios = PINNED[name]
    setting = Setting()
    found, std = errors(law(sampler, setting.problem()), setting.exact)
    assert found == pytest.approx(bias, abs=0.02)
    assert std.tolist() == pytest.approx(ratios, abs=0.02)


BAD = {
    "DDRM: eta_b must be between 0 and 1, got 1.5": lambda: DDRMGuidance(1.5),
    "DDRM: eta_b must be between 0 and 1, got nan": lambda: DDRMGuidance(math.nan),
    "DiffPIR: weight must be positive, got 0": lambda: posterior.DiffPIR(weight=0),
    "DiffPIR: iterations must be at least 1, got 0": lambda: posterior.DiffPIR(iterations=0),
    "FlowChef: scale must be positive, got -1": lambda: posterior.FlowChef(scale=-1),
    "Renoise: zeta must be between 0 and 1, got 2": lambda: posterior.DiffPIR(zeta=2),
    "DDRM: eta must be between 0 and 1, got 3": lambda: posterior.DDRM(eta=3),
    "DDNM: eta must be between 0 and 1, got -0.5": lambda: posterior.DDNM(eta=-0.5),
}


@pytest.mark.parametrize("message", BAD)
def test_arguments_out_of_range_are_refused(message):
    with pytest.raises(ValueError, match=message):
        BAD[message]()


@pytest.mark.parametrize("sampler", [posterior.TMPD, posterior.DiffPIR, posterior.DDNM, posterior.DDRM, posterior.FlowChef])
@pytest.mark.parametrize("integrator", [posterior.DDIM(), posterior.Ancestral(), posterior.Heun(), posterior.DPMSolver2M()])
def test_guidances_go_with_every_integrator(sampler, integrator):
    """Pixels that are measured well end near their data."""
    problem = problem_of(sigma=0.1)
    x = run(sampler(30, integrator=integrator), problem)
    assert float(problem.likelihood.residual(x).abs().max()) < 1.0
    assert float((x - CENTRE).abs().max()) < 6 * SPREAD
