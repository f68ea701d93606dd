"""The random-field problems, whose posterior is known: a 32 x 32 Matern field, four operators, noise of 0.05.

Two ways to be sharper than Monte-Carlo error allows. With DPMSolver2M MMPS follows the probability-flow ODE, whose exact
end point is known for every starting point, so each draw is compared with the exact draw of the same seed.
GaussianBridge maps zero noise to its mean, and its spread is averaged over enough pixels and draws, with the
standard error worked out from the exact correlations.
"""

from functools import cache
from itertools import pairwise

import pytest
import torch

import posterior
from benchmarks.problems.random_field import OPERATORS, SIGMA, matern_spectrum, random_field
from posterior.driver import DrawNoise
from posterior.integrators import Estimate
from posterior.problem import Problem

SHAPE = (1, 32, 32)


@cache
def solved(operator):
    problem = random_field(operator)
    return problem, posterior.exact_posterior(problem.prior, problem.likelihood)


def exact_flow(problem, exact, draws, seed):
    """Where the exact probability-flow ODE of the posterior takes the starting points of these draws, (draws, n)."""
    top = problem.prior.sigma_max
    white = DrawNoise(seed, list(range(draws)), SHAPE, torch.zeros(1, dtype=torch.float64))()
    start = problem.prior.reference.center + problem.prior.reference.cov.plus_white(top**2).sqrt(white)
    values, vectors = torch.linalg.eigh(exact.cov)
    values = values.clamp_min(0)
    gain = (values / (values + top**2)).sqrt()
    return exact.location + ((start.flatten(1) - exact.location) @ vectors * gain) @ vectors.T


def spread_error(exact, draws):
    """Standard error of the pixel-averaged ratio of sample std to exact std: neighbours are correlated."""
    correlation = exact.cov / exact.std.flatten()[:, None] / exact.std.flatten()
    return float((correlation.square().mean() / (2 * draws)).sqrt())


def eigenvector_law(integrator, levels, values, offset):
    """Variance and mean error of each coordinate at the last level, started with variance ``values`` and off by ``offset``."""
    rows, steps = torch.zeros(len(levels) + 1, len(values), dtype=torch.float64), iter(range(2, len(levels) + 1))
    rows[0], rows[1] = offset, (values + levels[0] ** 2).sqrt()

    def noise(shape=None):
        out = torch.zeros_like(rows)
        out[next(steps)] = 1
        return out

    x, memory = rows, None
    for sigma, sigma_next in pairwise(levels):
        denoiser = lambda x, level, step: Estimate(values / (values + level**2) * x)  # noqa: E731
        x, memory = integrator.step(denoiser, x, sigma, sigma_next, noise, memory)
    return x[1:].square().sum(0), x[0]


class TestProblems:
    def test_field_has_unit_variance_and_a_symmetric_spectrum(self):
        spectrum = matern_spectrum(32)
        assert float(spectrum.mean()) == pytest.approx(1)
        torch.testing.assert_close(spectrum, spectrum.T)
        assert spectrum.argmax() == 0

    @pytest.mark.parametrize("operator", OPERATORS)
    def test_truth_explains_the_data(self, operator):
        problem, _ = solved(operator)
        like = problem.likelihood.in_standard(problem.prior.affine, SHAPE)
        assert float(like.chi_square(problem.truth.double())) == pytest.approx(1, abs=5 * (2 / like.count) ** 0.5)
        assert float(like.variance.sqrt().max()) == pytest.approx(SIGMA)

    @pytest.mark.parametrize("operator", OPERATORS)
    def test_operators_pass_the_dot_product_test(self, operator):
        model = solved(operator)[0].likelihood.in_standard(posterior.GaussianPrior.affine, SHAPE).model
        g = torch.Generator().manual_seed(3)
        x = torch.randn(2, *SHAPE, generator=g, dtype=torch.float64)
        u = torch.randn(model.apply(x).shape, generator=g, dtype=torch.float64)
        torch.testing.assert_close((model.apply(x) * u).sum(), (x * model.transpose(u)).sum(), rtol=1e-6, atol=1e-6)

    @pytest.mark.parametrize("operator", OPERATORS)
    def test_truth_is_a_draw_of_the_exact_posterior(self, operator):
        problem, exact = solved(operator)
        z = ((problem.truth[0].double() - exact.mean) / exact.std).flatten()
        correlation = exact.cov / exact.std.flatten()[:, None] / exact.std.flatten()
        assert float(z.square().mean()) == pytest.approx(1, abs=4 * float((2 * correlation.square().mean()).sqrt()))

    def test_unknown_operator_is_refused(self):
        with pytest.raises(ValueError, match="operator 'sharpen'; wanted one of"):
            random_field("sharpen")


class TestMMPS:
    @pytest.mark.parametrize("operator", OPERATORS)
    def test_48_steps_are_within_the_stated_bounds(self, operator):
        """Mean within 0.05 posterior std, pixelwise std within 3 % on average and 8 % in the worst decile."""
        problem, exact = solved(operator)
        sampler = posterior.MMPS(steps=48, integrator=posterior.DPMSolver2M())
        draws = posterior.sample(problem.prior, problem.likelihood, sampler, draws=3, batch_size=3)
        found, wanted = draws.samples.flatten(1).double(), exact_flow(problem, exact, 3, seed=0)
        std = exact.std.flatten()
        assert float(((found - wanted).mean(0) / std).square().mean().sqrt()) < 0.05
        ratio = (found.std(0) / wanted.std(0) - 1).abs()
        assert float(ratio.mean()) < 0.03
        assert float(ratio.quantile(0.9)) < 0.08
        # not the mean and the spread alone: every draw ends where the exact flow takes it
        assert float(((found - wanted) / std).square().mean().sqrt()) < 0.05
        assert draws.stats.warnings == ()

    def test_exact_flow_has_the_exact_law(self):
        """The yardstick of the test above, against the posterior itself."""
        problem, exact = solved("inpainting")
        draws = exact_flow(problem, exact, 2000, seed=1)
        std = exact.std.flatten()
        bias = float(((draws.mean(0) - exact.location) / std).square().mean())
        assert bias < 2 / 2000
        assert float((draws.std(0) / std).mean()) == pytest.approx(1, abs=4 * spread_error(exact, 2000))

    @pytest.mark.parametrize("operator", OPERATORS)
    def test_law_of_the_default_is_within_the_stated_bounds(self, operator):
        """No draws: the posterior denoiser is exact and acts on each eigenvector of the posterior by itself."""
        problem, exact = solved(operator)
        seen = Problem(problem.prior, problem.likelihood.in_standard(problem.prior.affine, SHAPE), SHAPE)
        values, vectors = torch.linalg.eigh(exact.cov)
        values, sampler = values.clamp_min(1e-8), posterior.MMPS()
        levels = sampler.levels(seen)
        variance, mean = eigenvector_law(sampler.integrator, levels, values, vectors.T @ -exact.location)
        std = exact.std.flatten()
        assert float((vectors @ mean / std).square().mean().sqrt()) < 0.05
        ratio = (vectors.square() @ variance).sqrt() / std
        assert float(ratio.mean()) == pytest.approx(1, abs=0.03)
        assert float((ratio - 1).abs().quantile(0.9)) < 0.04

    def test_few_steps_leave_no_room_for_noise(self):
        assert isinstance(posterior.MMPS(steps=23).integrator, posterior.DPMSolver2M)
        assert isinstance(posterior.MMPS(steps=24).integrator, posterior.SASolver)

    @pytest.mark.slow
    @pytest.mark.parametrize("operator", OPERATORS)
    def test_64_steps_by_draws_alone(self, operator):
        """The same statement with nothing but 200 draws, their Monte-Carlo error taken out in quadrature."""
        n = 200
        problem, exact = solved(operator)
        draws = posterior.sample(problem.prior, problem.likelihood, posterior.MMPS(), draws=n, batch_size=100)
        assert draws.stats.nfe <= 64
        bias = ((draws.mean.double() - exact.mean) / exact.std).square().mean() - 1 / n
        ratio = (draws.std.double() / exact.std).flatten() * (1 + 1 / (4 * n))
        assert float(bias) < 0.05**2 + 3 * 2 * spread_error(exact, n) / n**0.5
        assert float(ratio.mean()) == pytest.approx(1, abs=0.03 + 2 * spread_error(exact, n))
        # the standard error of one pixel's std is 1 / sqrt(2 n) and its 90 % point 1.645 times that
        assert float((ratio - 1).abs().quantile(0.9)) < ((1.645 / (2 * n) ** 0.5) ** 2 + 0.08**2) ** 0.5


class Silent:
    """No noise at all: a method that is affine in its noise then ends at its mean."""

    def __call__(self, shape=None):
        return torch.zeros(1, *(SHAPE if shape is None else shape), dtype=torch.float64)


class TestGaussianBridge:
    @pytest.mark.parametrize("steps", [1, 5, 10])
    @pytest.mark.parametrize("operator", OPERATORS)
    def test_mean_is_exact_at_any_number_of_steps(self, operator, steps):
        problem, exact = solved(operator)
        sampler = posterior.GaussianBridge(steps)
        seen = Problem(problem.prior, problem.likelihood.in_standard(problem.prior.affine, SHAPE), SHAPE)
        state = sampler.init(seen, Silent())
        for _ in range(steps):
            state, _ = sampler.step(seen, state, Silent())
        assert float(((state.x[0] - exact.mean) / exact.std).square().mean().sqrt()) < 0.02

    @pytest.mark.parametrize(
        ("operator", "steps", "draws"),
        [
            ("inpainting", 1, 300),
            ("pooling", 1, 600),
            ("blur", 1, 300),
            ("inpainting", 5, 100),
            ("pooling", 10, 200),
            *(pytest.param(operator, steps, 1000, marks=pytest.mark.slow) for operator in OPERATORS for steps in (1, 5, 10)),
        ],
    )
    def test_spread_is_exact_at_any_number_of_steps(self, operator, steps, draws):
        """Std within 1 % on average, and the mean of the draws where it should be."""
        problem, exact = solved(operator)
        sampler = posterior.GaussianBridge(steps)
        found = posterior.sample(problem.prior, problem.likelihood, sampler, draws=draws, seed=5, batch_size=100)
        ratio = float((found.std.double() / exact.std).mean()) * (1 + 1 / (4 * draws))
        error = spread_error(exact, draws)
        assert error < 0.007
        assert ratio == pytest.approx(1, abs=0.01 + 2 * error)
        bias = float(((found.mean.double() - exact.mean) / exact.std).square().mean()) - 1 / draws
        assert bias < 0.02**2 + 3 * 2 * error / draws**0.5
        assert found.stats.nfe == steps

    def test_one_step_has_the_exact_covariance(self):
        """Not pixel by pixel: in the eigenbasis of the posterior every coordinate has unit variance."""
        problem, exact = solved("pooling")
        n = 400
        draws = posterior.sample(problem.prior, problem.likelihood, posterior.GaussianBridge(1), draws=n, batch_size=100)
        values, vectors = torch.linalg.eigh(exact.cov)
        white = (draws.samples.double().flatten(1) - exact.location) @ vectors / values.sqrt()
        mean_square = white.square().mean(0)
        # 1024 coordinates of n draws: a chi-square each, and their average
        assert float(mean_square.mean()) == pytest.approx(1, abs=0.02)
        assert float((mean_square - 1).abs().max()) < 6 * (2 / n) ** 0.5


@pytest.mark.parametrize(
    ("operator", "sampler"),
    [
        ("inpainting", posterior.GaussianBridge(5)),
        ("blur", posterior.GaussianBridge(5)),
        ("inpainting", posterior.PiGDM(8)),
        ("blur", posterior.PiGDM(8)),
        ("fourier", posterior.PiGDM(8)),
        ("pooling", posterior.DPS(8)),
        ("inpainting", posterior.MMPS(6)),
        ("blur", posterior.MMPS(6)),
    ],
    ids=lambda v: v if isinstance(v, str) else type(v).__name__,
)
def test_draws_are_the_same_at_any_batch_size(operator, sampler):
    """Where the data are badly conditioned and the linear solves long."""
    problem, _ = solved(operator)
    one, three = (
        posterior.sample(problem.prior, problem.likelihood, sampler, draws=3, batch_size=size).samples for size in (1, 3)
    )
    torch.testing.assert_close(one, three, rtol=0, atol=1e-4)
