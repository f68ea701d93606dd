"""GaussianBridge with the network's Jacobian in its gain."""

import pytest
import torch

import posterior
from posterior.guidance.bridge import BridgeGuidance
from posterior.problem import Problem
from tests.samplers.quadrature import Matrix, against_quadrature, tensor

SIGMA = 0.6
ONES = torch.ones(5, 1)


def two_lines():
    """A mixture whose components vary along directions at right angles: its own covariance is wrong at either."""
    covariances = torch.stack([torch.diag(tensor(1.0, 0.01, 0.5)[0]), torch.diag(tensor(0.01, 1.0, 0.5)[0])])
    prior = posterior.GaussianMixturePrior(tensor(4.0, 0.0, 0.0, 0.0, 4.0, 0.0).reshape(2, 3), torch.ones(2), covariances)
    matrix = tensor(1.0, 1.0, 0.3, 0.0, 0.5, 1.0).reshape(2, 3)
    return prior, posterior.GaussianLikelihood(Matrix(matrix), tensor(4.3, 0.4), 0.2), matrix


def jacobian_of(prior, x):
    return torch.stack([torch.autograd.functional.jacobian(lambda v: prior.denoise(v[None], SIGMA)[0], one) for one in x])


def test_gain_is_that_of_the_average_of_both_covariances():
    """Mean and draws of one step, by dense algebra from the same white noise."""
    prior, like, matrix = two_lines()
    problem = Problem(prior, like.in_standard(prior.affine, (3,)), (3,))
    x = tensor(3.4, 0.3, 0.2, 0.1, 3.0, -0.5).reshape(2, 3)
    guidance = BridgeGuidance(jacobian=2, tolerance=1e-9)
    found = guidance(problem, x, SIGMA, (SIGMA, 0.1))
    d, cov = prior.denoise(x, SIGMA), guidance.covariance(problem, SIGMA)
    dense = cov.apply(torch.eye(3, dtype=torch.float64))
    middle = (dense + SIGMA**2 * jacobian_of(prior, x).mT) / 2
    noise = 0.2**2 * torch.eye(2, dtype=torch.float64)
    gain = middle @ matrix.T @ torch.linalg.inv(matrix @ middle @ matrix.T + noise)

    def updated(before, eta):
        return before + (gain @ (like.y - before @ matrix.T - eta)[..., None])[..., 0]

    torch.testing.assert_close(found.mean, updated(d, 0.0), rtol=1e-6, atol=1e-6)
    white = {(3,): tensor(0.3, -1.0, 0.4), (2,): tensor(0.7, -0.2)}
    drawn = found.draw(lambda shape=(3,): white[shape])
    torch.testing.assert_close(drawn, updated(d + cov.sqrt(white[3,]), 0.2 * white[2,]), rtol=1e-6, atol=1e-6)
    plain = BridgeGuidance()(problem, x, SIGMA, (SIGMA, 0.1)).mean
    assert float((plain - found.mean).abs().max()) > 0.05


def test_nearer_to_the_truth_where_the_covariance_is_wrong():
    """Fields of known truth: the mean of x0 errs less with the Jacobian."""
    prior, _, matrix = two_lines()
    g, n = torch.Generator().manual_seed(0), 300
    which = torch.rand(n, 1, generator=g) < 0.5
    std = torch.where(which, tensor(1.0, 0.1, 0.5**0.5), tensor(0.1, 1.0, 0.5**0.5))
    truth = torch.where(which, tensor(4.0, 0.0, 0.0), tensor(0.0, 4.0, 0.0))
    truth = truth + std * torch.randn(n, 3, generator=g, dtype=torch.float64)
    y = truth @ matrix.T + 0.2 * torch.randn(n, 2, generator=g, dtype=torch.float64)
    x = truth + SIGMA * torch.randn(n, 3, generator=g, dtype=torch.float64)
    errors = torch.zeros(2, dtype=torch.float64)
    for datum, noised, wanted in zip(y.split(1), x.split(1), truth.split(1), strict=True):
        like = posterior.GaussianLikelihood(Matrix(matrix), datum, 0.2).in_standard(prior.affine, (3,))
        for i, guidance in enumerate((BridgeGuidance(), BridgeGuidance(jacobian=2))):
            found = guidance(Problem(prior, like, (3,)), noised, SIGMA, (SIGMA, 0.1)).mean
            errors[i] += (found - wanted).square().mean() / n
    assert errors[1] < 0.9 * errors[0]


@pytest.mark.parametrize(
    "like",
    [
        posterior.GaussianLikelihood(Matrix(ONES), tensor(1.0, 1.3, 0.8, 1.6, 2.0), 0.7),
        posterior.StudentTLikelihood(Matrix(ONES), tensor(1.0, 1.3, 0.8, 1.6, 6.0), 0.4, dof=3),
    ],
    ids=["gaussian", "student"],
)
@pytest.mark.parametrize("steps", [1, 4])
def test_exact_under_a_gaussian_prior(like, steps):
    """Where both covariances are one and the same."""
    bias, ratio, distance = against_quadrature(like, 0.0, 2.0, posterior.GaussianBridge(steps, jacobian=2))
    assert abs(bias) < 0.08
    assert ratio == pytest.approx(1, abs=0.1)
    assert distance < 1.63  # the 1 % point of Kolmogorov's law


def test_no_fewer_than_no_iterations():
    with pytest.raises(ValueError, match="GaussianBridge: jacobian must not be negative, got -1"):
        posterior.GaussianBridge(jacobian=-1)
