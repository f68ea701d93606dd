"""Reference Gaussians estimated from a prior's own draws."""

import pytest
import torch

import posterior
from posterior.guidance.estimation import estimate_reference
from posterior.priors.covariance import FourierBasis


class Bare(posterior.Prior):
    """A prior that is known by its denoiser alone, as a network from elsewhere is."""

    def __init__(self, prior):
        self.prior = prior
        self.event_shape, self.sigma_max, self.sigma_min = prior.event_shape, prior.sigma_max, prior.sigma_min

    def denoise(self, x, sigma):
        return self.prior.denoise(x, sigma)


def gaussians():
    """A mixture of two, its mean and its covariance."""
    means = torch.tensor([[1.0, 0.0, 2.0], [3.0, 1.0, 2.0]], dtype=torch.float64)
    prior = posterior.GaussianMixturePrior(means, torch.tensor([0.5, 0.5]).double(), 0.7)
    off = (means[0] - means[1]) / 2
    return prior, means.mean(0), 0.49 * torch.eye(3).double() + torch.outer(off, off)


def dense(cov, shape):
    n = torch.Size(shape).numel()
    return cov.apply(torch.eye(n, dtype=torch.float64).reshape(n, *shape)).flatten(1)


@pytest.mark.parametrize("shape", [(20, 18), (1, 20, 18)])
def test_fields_with_and_without_channels(shape):
    points = torch.randn(12, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 3
    reference = estimate_reference(posterior.EmpiricalPrior(points), draws=6, steps=4)
    mean = reference.mean(shape)
    assert torch.broadcast_to(torch.as_tensor(mean), shape).shape == shape
    assert float(mean.std()) < 1e-9  # one number for the only channel
    assert float(mean.mean()) == pytest.approx(3, abs=0.3)


def test_matrix_of_a_mixture():
    prior, mean, cov = gaussians()
    reference = estimate_reference(prior, draws=2000)
    torch.testing.assert_close(reference.mean((3,)), mean, rtol=0, atol=0.12)
    torch.testing.assert_close(dense(reference.covariance((3,)), (3,)), cov, rtol=0, atol=0.12)
    # the error of the denoiser, whose trace is the mean squared error and below that of the best linear denoiser
    error = reference.error_covariance((3,), 1.0).eigenvalues.sum()
    assert float(error) < float(reference.covariance((3,)).given(1.0).eigenvalues.sum())
    g = torch.Generator().manual_seed(1)
    clean = posterior.exact_posterior(prior, nothing(3)).sample(4000, seed=0).double()
    noisy = clean + torch.randn(clean.shape, generator=g, dtype=torch.float64)
    expected = (clean - prior.denoise(noisy, 1.0)).square().sum(1).mean()
    assert float(error) == pytest.approx(float(expected), rel=0.1)


def nothing(n):
    """Data that say nothing of a vector of n."""
    import deepinv

    class First(deepinv.physics.LinearPhysics):
        def A(self, x, **_):
            return x[:, :1]

        def A_adjoint(self, y, **_):
            return torch.nn.functional.pad(y, (0, n - 1))

    return posterior.GaussianLikelihood(First(), torch.zeros(1, 1, dtype=torch.float64), 1e6)


def test_spectrum_of_a_stationary_field():
    from benchmarks.problems.random_field import matern_spectrum

    spectrum = matern_spectrum(32)
    prior = posterior.GaussianPrior(torch.full((1, 32, 32), 0.5, dtype=torch.float64), spectrum)
    reference = estimate_reference(Bare(prior), draws=64)
    cov = reference.covariance((1, 32, 32))
    assert isinstance(cov.basis, FourierBasis)
    assert float(reference.mean((1, 32, 32)).mean()) == pytest.approx(0.5, abs=0.3)
    ratio = (cov.eigenvalues / spectrum)[spectrum < 0.3 * spectrum.max()]
    assert float(ratio.log().abs().mean()) < 0.3
    given = cov.given(0.5).eigenvalues.mean()
    assert float(reference.error_covariance((1, 32, 32), 0.5).eigenvalues.mean()) == pytest.approx(float(given), rel=0.1)


def test_same_seed_same_reference_and_what_is_spent_is_counted():
    prior, *_ = gaussians()
    calls = []

    def counted(x, sigma):
        calls.append(len(x))
        return prior.denoise(x, sigma)

    one, two = (estimate_reference(prior, draws=50, steps=8, seed=3, denoise=f) for f in (counted, prior.denoise))
    assert sum(calls) == 50 * (8 + 10)
    torch.testing.assert_close(one.base.errors, two.base.errors, rtol=0, atol=0)
    assert not torch.equal(one.center, estimate_reference(prior, draws=50, steps=8, seed=4).center)


def test_bridge_on_priors_without_a_reference():
    """A mixture and a set of points: the note is there, the bias is what a Gaussian transition leaves."""
    prior, *_ = gaussians()
    like = posterior.GaussianLikelihood(nothing(3).operator, torch.tensor([[1.5]], dtype=torch.float64), 0.4)
    exact = posterior.exact_posterior(prior, like)
    draws = posterior.sample(Bare(prior), like, posterior.GaussianBridge(20), draws=800, batch_size=400)
    assert float(((draws.mean - exact.mean) / exact.std).abs().max()) < 0.4
    assert float((draws.std / exact.std - 1).abs().max()) < 0.15
    assert any("estimate_reference" in note for note in draws.stats.warnings)
    # estimated in both batches of one run once, and counted
    assert draws.stats.nfe == 20 + round(128 * 34 / 800)

    points = Bare(posterior.EmpiricalPrior(torch.randn(40, 3, generator=torch.Generator().manual_seed(0)).double()))
    points.reference = estimate_reference(points)
    kept = posterior.sample(points, like, posterior.GaussianBridge(5), draws=4, batch_size=4)
    assert kept.stats.nfe == 5
    assert not any("estimate_reference" in note for note in kept.stats.warnings)


def test_what_cannot_be_estimated_is_refused():
    prior, *_ = gaussians()
    with pytest.raises(ValueError, match="two draws"):
        estimate_reference(prior, draws=1)
    with pytest.raises(ValueError, match="wanted"):
        estimate_reference(prior, (4,))


def test_grid_ends_where_the_measured_error_is_small():
    """At 0.1 rms of error where that was measured, at 0.03 rms of noise where not, or where the caller says."""
    from posterior.problem import Problem

    prior, *_ = gaussians()
    like = nothing(3)

    def last(prior, **options):
        problem = Problem(prior, like.in_standard(prior.affine, (3,)), (3,))
        return problem, posterior.GaussianBridge(6, **options).levels(problem)[-2]

    problem, low = last(Bare(prior))
    error = problem.memo["estimated reference"].error_covariance((3,), low).mean_variance ** 0.5
    assert error == pytest.approx(0.1, rel=0.02)
    assert last(prior)[1] == pytest.approx(0.03 * prior.rms)
    assert last(prior, sigma_min=0.2)[1] == pytest.approx(0.2)
