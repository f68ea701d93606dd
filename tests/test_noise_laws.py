"""Laws of the noise other than independent Gaussian: their densities, gradients, proximal maps, and their Gaussians."""

import math
from functools import partial

import deepinv
import numpy as np
import pytest
import scipy.stats
import torch

import operators
import posterior
from posterior.likelihoods import (
    CorrelatedGaussianLikelihood,
    GaussianLikelihood,
    OutlierLikelihood,
    PoissonGaussianLikelihood,
    PoissonLikelihood,
    StudentTLikelihood,
)
from posterior.priors.base import Affine

SHAPE = (2, 6, 5)


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


class Exposure(deepinv.physics.Physics):
    """Expected counts exp(x), a nonlinear operator with positive output."""

    def A(self, x, **_):
        return x.exp()


def counts(gain=1.0, seed=3):
    rate = (1.5 + normal(1, *SHAPE, dtype=torch.float64)).exp()
    return gain * torch.poisson(rate, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("gain", [1.0, 0.25])
def test_counts_have_the_poisson_law(gain):
    y = counts(gain)
    x = normal(3, *SHAPE, seed=5, dtype=torch.float64)
    law = torch.distributions.Poisson(x.exp() / gain)
    wanted = law.log_prob(y / gain).flatten(1).sum(1)
    found = PoissonLikelihood(Exposure(), y, gain).log_prob(x)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-10)


def test_gradient_of_counts_agrees_with_differences():
    like = PoissonLikelihood(Exposure(), counts()).in_standard(Affine(2.0, 0.1), SHAPE)
    z = normal(1, *SHAPE, seed=6, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(like.log_prob, z)


def test_impossible_rates_have_no_probability_and_a_finite_gradient():
    y = torch.zeros(1, *SHAPE, dtype=torch.float64)
    y[0, 0, 0, 0] = 2.0
    like = PoissonLikelihood(deepinv.physics.Denoising(), y).in_standard(Affine(), SHAPE)
    zero, negative = torch.zeros(1, *SHAPE, dtype=torch.float64), torch.ones(1, *SHAPE, dtype=torch.float64)
    negative[0, 1, 0, 0] = -0.1
    assert like.log_prob(zero) == -torch.inf  # something was counted where nothing is expected
    assert like.log_prob(negative.requires_grad_()) == -torch.inf
    (gradient,) = torch.autograd.grad(like.log_prob(negative).sum(), negative)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("shift", [-2.0, 2.0])
def test_gaussian_that_stands_in_for_counts_is_close_where_counts_are_high(shift):
    y = torch.full((1, *SHAPE), 2500.0, dtype=torch.float64)
    like = PoissonLikelihood(deepinv.physics.Denoising(), y).in_standard(Affine(), SHAPE)
    off = y + shift * 50  # in standard deviations of the counts
    exact, gaussian = like.log_prob(off) - like.log_prob(y), like.gaussian_log_prob(off) - like.gaussian_log_prob(y)
    torch.testing.assert_close(gaussian, exact, rtol=0.05, atol=0)


def test_residual_of_counts_is_what_the_noise_explains():
    x = torch.full((1, *SHAPE), 3.0, dtype=torch.float64)
    y = torch.poisson(x.exp(), generator=torch.Generator().manual_seed(2))
    like = PoissonLikelihood(Exposure(), y).in_standard(Affine(), SHAPE)
    assert float(like.chi_square(x)) == pytest.approx(1, abs=0.4)
    assert float(like.chi_square(x + 0.5)) > 2


@pytest.mark.parametrize(("law", "drawn"), [("student", "t"), ("outliers", "mixture")])
def test_residual_of_robust_laws_is_what_the_noise_explains(law, drawn):
    """Gross errors are of the law, so no sign of a wrong sigma; five times the noise is."""
    n, rng = 20_000, np.random.default_rng(0)
    if drawn == "t":
        noise = 0.7 * rng.standard_t(3, n)
    else:
        noise = 0.7 * rng.standard_normal(n) * np.where(rng.random(n) < 0.05, 10, 1)
    y = torch.from_numpy(noise)[None]
    make = {"student": partial(StudentTLikelihood, dof=3), "outliers": partial(OutlierLikelihood, fraction=0.05, widen=10)}[law]
    for scale, wanted in ((0.7, 1.0), (3.5, 0.2)):
        chi = float(make(deepinv.physics.Denoising(), y, scale).in_standard(Affine(), (n,)).chi_square(torch.zeros_like(y)))
        assert chi == pytest.approx(wanted, rel=0.1) if scale == 0.7 else chi < 0.5


def test_residual_of_few_counts_is_finite():
    """A draw whose rate is next to nothing where one quantum was counted."""
    y = torch.tensor([[0.0, 1.0, 2.0, 0.0]], dtype=torch.float64)
    like = PoissonLikelihood(deepinv.physics.Denoising(), y).in_standard(Affine(), (4,))
    assert float(like.chi_square(torch.tensor([[-1.0, -0.5, 2.0, 0.0]], dtype=torch.float64))) < 1000


@pytest.mark.parametrize(
    ("y", "gain", "message"),
    [
        (torch.full((1, 4), 1.5), 1.0, "whole multiples of gain, 1, and not negative"),
        (torch.full((1, 4), 10000.3), 1.0, "whole multiples of gain, 1, and not negative"),
        (torch.full((1, 4), -1.0), 1.0, "whole multiples of gain, 1, and not negative"),
        (torch.ones(1, 4), 0.0, "gain must be positive and finite, got 0.0"),
        (torch.full((1, 4), torch.nan), 1.0, "PoissonLikelihood: y has 4 values that are NaN"),
    ],
)
def test_data_that_are_no_counts_are_refused(y, gain, message):
    with pytest.raises(ValueError, match=message):
        PoissonLikelihood(Exposure(), y, gain)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_counts_in_other_units_are_counts_to_their_rounding(dtype):
    k = torch.tensor([[0, 1, 7, 99, 4095, 65535, 999983]], dtype=dtype)
    assert PoissonLikelihood(Exposure(), k / 3, 1 / 3).gain == 1 / 3


def test_complex_counts_are_refused():
    with pytest.raises(TypeError, match="wanted real counts"):
        PoissonLikelihood(Exposure(), torch.ones(1, 4, dtype=torch.complex64))


# Every law.

LAWS = {
    "gaussian": lambda op, y: GaussianLikelihood(op, y, 0.7),
    "student": lambda op, y: StudentTLikelihood(op, y, 0.7, dof=3),
    "outliers": lambda op, y: OutlierLikelihood(op, y, 0.7, fraction=0.1, widen=8),
    "poisson": lambda op, y: PoissonLikelihood(op, y),
    "poisson-gaussian": lambda op, y: PoissonGaussianLikelihood(op, y, gain=1.0, sigma=0.6),
    "correlated": lambda op, y: CorrelatedGaussianLikelihood(op, y, correlation(y[0].numel())),
}


def correlation(n, length=3.0, variance=0.5):
    distance = torch.arange(n, dtype=torch.float64)
    return variance * torch.exp(-(distance[:, None] - distance).abs() / length)


def log_prob_of(law, y, prediction):
    """log p(y | A(x) = prediction) of data (m,)."""
    like = LAWS[law](deepinv.physics.Denoising(), y[None])
    return float(like.log_prob(prediction[None]))


@pytest.mark.parametrize("law", ["gaussian", "student", "outliers", "poisson-gaussian"])
@pytest.mark.parametrize("prediction", [0.4, 3.0])
def test_density_integrates_to_one(law, prediction):
    """Over a grid of data values, one datum each."""
    grid = torch.linspace(-400, 400, 80_001, dtype=torch.float64)
    like = LAWS[law](deepinv.physics.Denoising(), grid[None])
    inner = like.in_standard(Affine(), (len(grid),))
    density = inner.log_density(torch.full_like(grid, prediction)[None]).exp()
    assert float(torch.trapezoid(density[0], grid)) == pytest.approx(1, abs=2e-4)


def test_student_law_is_scipys():
    y, u = normal(1, 12, dtype=torch.float64) * 5, normal(1, 12, seed=1, dtype=torch.float64)
    like = StudentTLikelihood(deepinv.physics.Denoising(), y, 0.7, dof=3)
    wanted = scipy.stats.t(3, loc=u.numpy(), scale=0.7).logpdf(y.numpy()).sum()
    assert float(like.log_prob(u)) == pytest.approx(wanted, rel=1e-12)


def test_outlier_law_is_a_mixture():
    y, u = normal(1, 12, dtype=torch.float64) * 5, normal(1, 12, seed=1, dtype=torch.float64)
    like = OutlierLikelihood(deepinv.physics.Denoising(), y, 0.7, fraction=0.1, widen=8)
    good, gross = (scipy.stats.norm(u.numpy(), s).pdf(y.numpy()) for s in (0.7, 5.6))
    assert float(like.log_prob(u)) == pytest.approx(float(torch.from_numpy(0.9 * good + 0.1 * gross).log().sum()), rel=1e-12)


@pytest.mark.parametrize(("gain", "sigma"), [(1.0, 0.05), (1.0, 2.0), (2.5, 1.0)])
def test_counts_behind_an_amplifier_are_the_sum_over_counts(gain, sigma):
    y, u = (
        torch.tensor([[0.3, 2.2, 7.9, 15.0]], dtype=torch.float64),
        torch.tensor([[0.8, 3.0, 6.0, 12.0]], dtype=torch.float64),
    )
    y = gain * y.round() + 0.3 * sigma
    like = PoissonGaussianLikelihood(deepinv.physics.Denoising(), y, gain, sigma)
    k = torch.arange(200, dtype=torch.float64)[:, None]
    counted = torch.distributions.Poisson(u[0] / gain).log_prob(k)
    amplified = torch.distributions.Normal(gain * k, sigma).log_prob(y[0])
    wanted = torch.logsumexp(counted + amplified, 0).sum()
    assert float(like.log_prob(u)) == pytest.approx(float(wanted), rel=1e-10)


def test_correlated_noise_has_the_multivariate_law():
    y, u = normal(1, 12, dtype=torch.float64), normal(3, 12, seed=1, dtype=torch.float64)
    cov = correlation(12)
    wanted = torch.distributions.MultivariateNormal(u, cov).log_prob(y[0])
    found = CorrelatedGaussianLikelihood(deepinv.physics.Denoising(), y, cov).log_prob(u)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)


def test_spectrum_of_stationary_noise_is_its_circulant_matrix():
    n = 12
    lag = torch.minimum(torch.arange(n), n - torch.arange(n)).double()
    line = 0.5 * torch.exp(-lag / 2)
    circulant = torch.stack([line.roll(i) for i in range(n)])
    y, u = normal(1, n, dtype=torch.float64), normal(2, n, seed=1, dtype=torch.float64)
    dense, spectral = (
        CorrelatedGaussianLikelihood(deepinv.physics.Denoising(), y, c) for c in (circulant, torch.fft.fft(line).real)
    )
    torch.testing.assert_close(spectral.log_prob(u), dense.log_prob(u), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(spectral.sigma.expand_as(y), dense.sigma, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("operator", ["linear", "nonlinear"])
@pytest.mark.parametrize("law", LAWS)
def test_gradient_is_that_of_the_log_probability(law, operator):
    y = torch.poisson((1.0 + normal(1, 2, 12, dtype=torch.float64)).exp(), generator=torch.Generator().manual_seed(1))
    physics = deepinv.physics.Denoising() if operator == "linear" else Exposure()
    like = LAWS[law](physics, y).in_standard(Affine(1.5, 0.1), (2, 12))
    z = normal(3, 2, 12, seed=6, dtype=torch.float64)
    z = z.abs() + 0.2 if operator == "linear" else 0.3 * z
    leaf = z.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(like.log_prob(leaf).sum(), leaf)
    torch.testing.assert_close(like.gradient(z), wanted, rtol=1e-9, atol=1e-9)
    step = 1e-5 * normal(3, 2, 12, seed=8, dtype=torch.float64)
    rise = like.log_prob(z + step) - like.log_prob(z - step)
    torch.testing.assert_close(rise, 2 * (wanted * step).flatten(1).sum(1), rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("law", ["gaussian", "poisson"])
@pytest.mark.parametrize("step", [0.1, 3.0])
def test_proximal_map_minimises(law, step):
    y = torch.tensor([[0.0, 1.0, 4.0, 9.0]], dtype=torch.float64)
    like = LAWS[law](deepinv.physics.Denoising(), y).in_standard(Affine(), (4,))
    v = torch.tensor([[0.5, -1.0, 6.0, 2.0]], dtype=torch.float64)

    def objective(u):
        return -like.log_density(u) + (u - v) ** 2 / (2 * step)

    best = like.proximal(v, step)
    for move in (1e-4, -1e-4):
        assert (objective((best + move).clamp_min(1e-12)) >= objective(best.clamp_min(1e-12)) - 1e-12).all()
    assert (best != v).all()


@pytest.mark.parametrize("law", ["student", "outliers", "poisson-gaussian"])
def test_laws_without_a_closed_proximal_form_say_so(law):
    like = LAWS[law](deepinv.physics.Denoising(), torch.ones(1, 4)).in_standard(Affine(), (4,))
    with pytest.raises(NotImplementedError, match="closed form"):
        like.proximal(torch.ones(1, 4), 1.0)


@pytest.mark.parametrize("law", ["student", "outliers"])
def test_gross_error_costs_a_robust_law_little(law):
    y = torch.zeros(8, dtype=torch.float64)
    y[3] = 30.0
    lost = log_prob_of(law, torch.zeros(8, dtype=torch.float64), torch.zeros(8, dtype=torch.float64)) - log_prob_of(
        law, y, torch.zeros(8, dtype=torch.float64)
    )
    gaussian = 0.5 * (30 / 0.7) ** 2
    assert lost < 0.03 * gaussian


def test_equal_information_of_the_gaussian_that_stands_in_for_student():
    """Fisher information of the location, by quadrature."""
    y = torch.linspace(-2000, 2000, 2_000_001, dtype=torch.float64)
    like = StudentTLikelihood(deepinv.physics.Denoising(), y[None], 0.7, dof=3).in_standard(Affine(), (len(y),))
    u = torch.zeros(1, len(y), dtype=torch.float64, requires_grad=True)
    density = like.log_density(u)
    (score,) = torch.autograd.grad(density.sum(), u)
    information = float(torch.trapezoid(density.exp()[0] * score[0] ** 2, y).detach())
    assert 1 / information == pytest.approx(float(like.variance[0, 0]), rel=1e-4)


def test_correlated_noise_reaches_the_posterior_of_the_whitened_problem():
    """MMPS on a Gaussian prior, correlated noise, against the formula."""
    n = 12
    f = torch.fft.fftfreq(n).double()
    prior = posterior.GaussianPrior(torch.zeros(n, dtype=torch.float64), 2 / (1 + (6 * f) ** 2) ** 2)
    y, noise = normal(1, n, seed=4, dtype=torch.float64), correlation(n)
    like = CorrelatedGaussianLikelihood(deepinv.physics.Denoising(), y, noise)
    draws = posterior.sample(prior, like, posterior.MMPS(32), draws=400, batch_size=400)
    cov = prior.reference.cov.apply(torch.eye(n, dtype=torch.float64))
    gain = cov @ torch.linalg.inv(cov + noise)
    mean, std = gain @ y[0], (cov - gain @ cov).diagonal().sqrt()
    assert ((draws.mean - mean).abs() / std).max() < 4 / math.sqrt(400)
    torch.testing.assert_close(draws.std, std, rtol=0.15, atol=0)


@pytest.mark.filterwarnings("ignore:`torch.jit.script:FutureWarning")
def test_correlated_noise_of_a_composed_operator_is_that_of_independent_noise_where_it_is():
    """What is linear inside is linearised by itself, and must be whitened all the same."""
    x = 2 + normal(1, 2, 1, 3, seed=5, dtype=torch.float64)
    operator = operators.Compose(operators.WindSpeed(), deepinv.physics.Denoising())
    assert operator.linear_inside() is not None
    y = operator.A(x) + 0.1 * normal(1, 1, 1, 3, seed=6, dtype=torch.float64)
    noise = 0.01 * torch.eye(3, dtype=torch.float64)
    both = [CorrelatedGaussianLikelihood(operator, y, noise), posterior.GaussianLikelihood(operator, y, 0.1)]
    correlated, independent = (like.in_standard(Affine(), (2, 1, 3)) for like in both)
    z, direction = x + 0.3, torch.ones_like(x)
    torch.testing.assert_close(correlated.gradient(z), independent.gradient(z))
    lines = [like.model.linearise(z) for like in (correlated, independent)]
    torch.testing.assert_close(lines[0].prediction, correlated.model.predict(z))
    torch.testing.assert_close(lines[0].jvp(direction), 10 * lines[1].jvp(direction))


REFUSED = {
    "no degrees of freedom": (lambda y: StudentTLikelihood(Exposure(), y, 1.0, dof=0), "dof must be positive"),
    "no scale": (lambda y: StudentTLikelihood(Exposure(), y, 0.0), "scale must be positive and finite, got 0.0"),
    "no good data": (lambda y: OutlierLikelihood(Exposure(), y, 1.0, fraction=1.0), "fraction must be between 0 and 1"),
    "narrow errors": (lambda y: OutlierLikelihood(Exposure(), y, 1.0, widen=1.0), "widen must be above 1"),
    "a scale that does not fit": (
        lambda y: OutlierLikelihood(Exposure(), y, torch.ones(7)),
        r"sigma of shape \(7,\) does not broadcast to y, \(1, 4\)",
    ),
    "many counts of noise": (lambda y: PoissonGaussianLikelihood(Exposure(), y, 1.0, 40.0), "sigma is 40 counts"),
    "a singular covariance": (
        lambda y: CorrelatedGaussianLikelihood(Exposure(), y, torch.ones(4, 4)),
        "covariance is singular",
    ),
    "a covariance that does not fit": (lambda y: CorrelatedGaussianLikelihood(Exposure(), y, torch.eye(3)), "3"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_laws_that_make_no_sense_are_refused(case):
    build, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        build(torch.ones(1, 4))


def test_a_covariance_may_be_an_array():
    y, cov = normal(1, 4, dtype=torch.float64), correlation(4)
    found, wanted = (CorrelatedGaussianLikelihood(deepinv.physics.Denoising(), y, c) for c in (cov.numpy(), cov))
    assert torch.equal(found.log_prob(y + 1), wanted.log_prob(y + 1))
    assert torch.equal(found.sigma, wanted.sigma)
    with pytest.raises(TypeError, match="CorrelatedGaussianLikelihood: covariance is a str; wanted a tensor or an array"):
        CorrelatedGaussianLikelihood(deepinv.physics.Denoising(), y, "white")


def test_data_out_of_reach_are_refused_where_noise_is_correlated():
    mask = torch.tensor([1.0, 1.0, 0.0, 1.0])
    physics = deepinv.physics.Inpainting((4,), mask=mask)
    like = CorrelatedGaussianLikelihood(physics, torch.ones(1, 4), torch.eye(4))
    with pytest.raises(ValueError, match="does not reach 1 of the data"):
        like.in_standard(Affine(), (4,))
