"""The draw given data on which DAPS, PnP-DM and the scaled FlowDPS rest."""

import math

import deepinv
import pytest
import torch

import posterior
from posterior.problem import Problem
from posterior.samplers.alternating import information_norm
from tests.samplers.laws import F64, SIZE, Setting, normal

# torch.func.jvp compiles a part of itself the first time it is called
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")

DRAWS = 4000


class Curved(deepinv.physics.Physics):
    """The matrix of a linear operator, then a sensor that bends; nothing says whether it is linear."""

    def __init__(self, matrix, bend):
        super().__init__()
        self.matrix, self.bend = matrix, bend

    def A(self, x, **_):
        u = x @ self.matrix.T
        return torch.atan(self.bend * u) / self.bend if self.bend else u


def drawn(prior, likelihood, mean, r, dtype=F64, **options):
    shape = prior.event_shape
    problem = Problem(prior, likelihood.in_standard(prior.affine, shape, dtype), shape)
    generator = torch.Generator().manual_seed(0)

    def noise(inner=None):
        return torch.randn(DRAWS, *(shape if inner is None else inner), generator=generator, dtype=dtype)

    with torch.no_grad():
        return posterior.DataStep(**options).draw(problem, mean.expand(DRAWS, *shape).clone(), r, noise)


@pytest.fixture(scope="module")
def setting():
    return Setting()


@pytest.mark.parametrize(("linear", "wide"), [(True, 1.0), (False, 1 / (1 - 0.1))])
def test_draws_of_a_linear_operator_are_exact(setting, linear, wide):
    """And Langevin moves, for an operator that is not known to be linear, too wide by the stated factor at most."""
    physics = setting.likelihood.operator if linear else Curved(setting.matrix, 0.0)
    like = posterior.GaussianLikelihood(physics, setting.y, setting.noise)
    m, r = normal(SIZE, seed=6), 0.8
    draws = drawn(setting.prior, like, m, r, langevin=200)
    gain = setting.gain(r**2)
    keep = setting.eye - gain @ setting.matrix
    mean, cov = m + gain @ (setting.y[0] - setting.matrix @ m), r**2 * keep
    values, vectors = torch.linalg.eigh(cov)
    white = (draws - mean) @ vectors / values.sqrt()
    assert float(white.mean(0).abs().max()) < 5 / DRAWS**0.5
    margin = 5 * (2 / DRAWS) ** 0.5
    assert 1 - margin < float(white.var(0).min())
    assert float(white.var(0).max()) < wide + margin


@pytest.mark.parametrize(("m", "r", "y"), [(0.2, 0.5, 0.6), (1.0, 1.0, 0.3), (0.0, 2.0, 0.5)])
def test_draws_of_a_bent_sensor_follow_the_density(m, r, y):
    """One number, whose density is known by quadrature."""
    prior = posterior.GaussianPrior(torch.zeros(1, dtype=F64), torch.eye(1, dtype=F64))
    physics = Curved(torch.ones(1, 1, dtype=F64), 1.5)
    like = posterior.GaussianLikelihood(physics, torch.full((1, 1), y, dtype=F64), 0.15)
    draws = drawn(prior, like, torch.full((1,), m, dtype=F64), r, langevin=200)[:, 0]
    x = torch.linspace(-8, 8, 20_001, dtype=F64)
    log = -0.5 * ((x - m) / r).square() - 0.5 * ((physics.A(x[:, None])[:, 0] - y) / 0.15).square()
    p = torch.softmax(log, 0)
    mean = (p * x).sum()
    std = (p * (x - mean).square()).sum().sqrt()
    assert float(draws.mean()) == pytest.approx(float(mean), abs=0.12 * float(std))
    assert float(draws.std()) == pytest.approx(float(std), rel=0.12)


def test_moves_far_smaller_than_r_are_made_in_single_precision():
    """1 - a is 1e-9 of the way here, which is nothing beside a in float32."""
    f32 = torch.float32
    prior = posterior.GaussianPrior(torch.zeros(1, dtype=f32), torch.eye(1, dtype=f32))
    like = posterior.GaussianLikelihood(Curved(torch.ones(1, 1, dtype=f32), 1.5), torch.full((1, 1), 0.6, dtype=f32), 1e-4)
    draws = drawn(prior, like, torch.full((1,), 0.2, dtype=f32), 1.0, dtype=f32, langevin=200)[:, 0]
    root = math.tan(1.5 * 0.6) / 1.5
    std = 1e-4 * (1 + (1.5 * root) ** 2)
    assert float(draws.mean()) == pytest.approx(root, abs=0.2 * std)
    assert float(draws.std()) == pytest.approx(std, rel=0.2)


@pytest.mark.parametrize("name", ["GaussianBridge", "REDDiff"])
def test_methods_that_start_from_the_priors_mean_linearise_there(setting, name):
    """The mean of a Gaussian prior is one field, that of a batch as many; forward derivatives are taken at each."""
    like = posterior.GaussianLikelihood(Curved(setting.matrix, 1.0), setting.y, setting.noise)
    draws = posterior.sample(setting.prior, like, getattr(posterior, name)(4), draws=3)
    assert draws.samples.shape == (3, SIZE)


def test_information_norm_is_the_largest_eigenvalue(setting):
    matrix = setting.matrix.T @ torch.linalg.inv(setting.variance) @ setting.matrix
    found = information_norm(setting.problem(), setting.y)
    assert found == pytest.approx(float(torch.linalg.eigvalsh(matrix).max()), rel=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"iterations": 0}, "DataStep: iterations must be at least 1, got 0"),
        ({"langevin": 0}, "DataStep: langevin must be at least 1, got 0"),
        ({"tolerance": 0.0}, "DataStep: tolerance must be positive, got 0.0"),
        ({"step": 1.0}, "DataStep: step must be between 0 and 1, got 1.0"),
    ],
)
def test_arguments_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        posterior.DataStep(**options)
