import copy

import deepinv
import numpy as np
import pytest
import torch

import posterior
from operators import (
    MRI,
    AreaAverage,
    Channel,
    Compose,
    Grid,
    MultiCoilMRI,
    Offset,
    RadiosondeProfiles,
    Region,
    Reshape,
    Stack,
    StationObservations,
    WindSpeed,
)
from tests.operators.checks import check_adjoint, check_autograd, check_norm, check_precision, check_solvers, draw, generator

GRID = Grid([60, 55, 50, 45], [350, 355, 0, 5, 10])
LEVELS = Grid(GRID.latitude, GRID.longitude, [1000, 700, 400])
FIELD = (2, *LEVELS.shape)


def analysis():
    """Stations on the lowest level, radiosondes and a coarse analysis of one field of two channels on three levels."""
    # levels seen as channels
    lowest = Compose(Channel((3, 4, 5), 0), Reshape((1, 3, 4, 5), (3, 4, 5)), Channel(FIELD, 0))
    return {
        "stations": Compose(StationObservations(GRID, [58, 47, 51], [-3, 2, 6]), lowest),
        "sondes": RadiosondeProfiles(LEVELS, [[52.0]], [[1.0]], [950.0, 600.0], channel=(0, 1), channels=2),
        "analysis": AreaAverage(LEVELS, 2, channels=2),
    }


def coils():
    maps = torch.randn(2, 6, 5, dtype=torch.complex64, generator=generator())
    mask = (torch.rand(6, 5, generator=generator(1)) < 0.5).float()
    return MultiCoilMRI(mask, maps), [MultiCoilMRI(mask, maps[c : c + 1]) for c in range(2)]


class Complex(deepinv.physics.LinearPhysics):
    """A stranger with complex data."""

    def A(self, x, **kwargs):
        return torch.fft.fft2(x, norm="ortho")

    def A_adjoint(self, y, **kwargs):
        return torch.fft.ifft2(y, norm="ortho").real


CASES = {
    "compose": lambda: Compose(StationObservations(GRID, [58, 47], [-3, 2]), Channel((3, 4, 5), 1)),
    "stack": lambda: Stack(analysis()),
    "coils": lambda: Stack(coils()[1]),
    "complex": lambda: Stack([Complex(), Channel((1, 4, 5), 0)]),
}


# torch.func.jvp loads its decompositions with torch's own deprecated scripting
@pytest.mark.filterwarnings("ignore:`torch.jit.script:FutureWarning")
@pytest.mark.parametrize("name", CASES)
def test_is_a_linear_operator(name):
    A = CASES[name]()
    assert isinstance(A, deepinv.physics.LinearPhysics)
    check_adjoint(A, A.img_size)
    check_autograd(A, A.img_size)
    check_norm(A, A.img_size)
    check_precision(A, A.img_size)
    # conjugate gradients do not reach the pseudo-inverse of instruments that nearly see the same
    check_solvers(A, A.img_size, rcond=None if name in ("coils", "stack") else 1e-10)


def test_compose_is_deepinvs_product():
    stations, channel = StationObservations(GRID, [58, 47], [-3, 2]), Channel((3, 4, 5), 1)
    ours, theirs = Compose(stations, channel), stations * channel
    x, y = draw(2, (3, 4, 5)), draw(2, (1, 2))
    torch.testing.assert_close(ours.A(x), theirs.A(x))
    torch.testing.assert_close(ours.A_adjoint(y), theirs.A_adjoint(y))
    torch.testing.assert_close(ours.A_adjoint_A(x), theirs.A_adjoint_A(x))
    assert isinstance(ours, Compose) and type(ours).__name__ == "LinearCompose"


def test_coils_stacked_are_the_multi_coil_operator():
    whole, parts = coils()
    A = Stack(parts)
    x = draw(3, (2, 6, 5))
    torch.testing.assert_close(torch.cat(list(A.split(A.A(x)).values()), dim=2), whole.A(x))
    torch.testing.assert_close(A.A_adjoint_A(x), whole.A_adjoint_A(x))
    with pytest.raises(ValueError, match=r"LinearStack: part 1 .*MRI|part 1 does not take a field of shape \(2, 6, 5\)"):
        Stack([parts[0], MRI(torch.ones(5, 5))])


def test_split_join_and_sigma():
    A = Stack(analysis())
    x = draw(2, FIELD)
    y = A.A(x)
    parts = A.split(y)
    assert list(parts) == ["stations", "sondes", "analysis"] and A.names == tuple(parts)
    assert [tuple(part.shape) for part in parts.values()] == [(2, 1, 3), (2, 2, 1, 2), (2, 2, 3, 2, 3)]
    for name, part in parts.items():
        torch.testing.assert_close(part, A[name].A(x))
    torch.testing.assert_close(A.join(parts), y)
    torch.testing.assert_close(A.join(list(parts.values())), y)
    sigma = A.sigma({"analysis": 3.0, "stations": torch.tensor([1.0, 2.0, 0.5]), "sondes": torch.tensor([[[0.1]], [[0.2]]])})
    assert sigma.shape == (1, y.shape[1]) and sigma.dtype == torch.float64
    assert sigma[0, :7].tolist() == pytest.approx([1, 2, 0.5, 0.1, 0.1, 0.2, 0.2]) and (sigma[0, 7:] == 3).all()


def test_complex_data_are_pairs():
    A = Stack([Complex(), Channel((1, 4, 5), 0)])
    x = draw(2, (1, 4, 5))
    y = A.A(x)
    assert y.shape == (2, 60) and not y.is_complex()
    parts = A.split(y)
    torch.testing.assert_close(parts[0], Complex().A(x))
    torch.testing.assert_close(A.join(parts), y)
    scale = torch.rand(1, 4, 5, generator=generator()) + 1
    sigma = A.sigma([scale, 0.1])
    torch.testing.assert_close(sigma[0, :40], scale.double().flatten().repeat_interleave(2))


@pytest.mark.filterwarnings("ignore:`torch.jit.script:FutureWarning")
def test_one_part_that_is_not_linear():
    wind = StationObservations(GRID, [58, 47], [-3, 2], channel=(0, 1), channels=2)
    A = Stack([wind, Compose(WindSpeed(), wind), Offset(wind, torch.tensor([[1.0], [2.0]]))])
    assert isinstance(A, deepinv.physics.Physics) and not isinstance(A, deepinv.physics.LinearPhysics)
    assert not hasattr(A, "A_adjoint")
    x, dx = draw(2, A.img_size), draw(2, A.img_size, seed=3)
    y, forward = torch.func.jvp(A.A, (x,), (dx,))
    torch.testing.assert_close(A.A_jvp(x, dx), forward)
    step = 1e-6
    torch.testing.assert_close((A.A(x + step * dx) - A.A(x - step * dx)) / (2 * step), forward, rtol=1e-6, atol=1e-8)
    v = draw(2, tuple(y.shape[1:]), seed=4)
    torch.testing.assert_close((A.A_vjp(x, v) * dx).sum(), (v * forward).sum())
    parts = A.split(y)
    torch.testing.assert_close(parts[2], parts[0] + torch.tensor([[1.0], [2.0]]).double())
    torch.testing.assert_close(parts[1], WindSpeed().A(parts[0]))
    other = copy.deepcopy(A).float()
    torch.testing.assert_close(other.A(x.float()), y.float(), rtol=1e-5, atol=1e-5)


def test_offset_takes_the_precision_of_the_data():
    A = Offset(Channel((1, 4), 0), 273.15)
    assert A.A(torch.zeros(2, 1, 4)).dtype == torch.float32
    assert float(A.A(torch.zeros(1, 1, 4).double())[0, 0, 0]) == 273.15
    assert float(A.float().A(torch.zeros(1, 1, 4))[0, 0, 0]) == pytest.approx(273.15)


def test_a_complex_offset_stays_complex_when_it_is_moved():
    A = Offset(deepinv.physics.Denoising(), 1 + 2j)
    assert A.to(torch.float64).offset == 1 + 2j


def problem(operators, sigmas, shape, seed=0):
    """A Gaussian prior, and data of a draw from it seen by the stack."""
    n = int(np.prod(shape))
    root = torch.randn(n, n, dtype=torch.float64, generator=generator(seed)) / n**0.5
    cov = root @ root.T + 0.2 * torch.eye(n, dtype=torch.float64)
    prior = posterior.GaussianPrior(torch.randn(shape, dtype=torch.float64, generator=generator(seed + 1)), cov)
    A = Stack(operators)
    sigma = A.sigma(sigmas)
    anomaly = root @ draw(1, (n,), seed=seed + 2)[0]
    y = A.A((prior.reference.mean(shape) + anomaly.reshape(shape))[None])
    y = y + sigma * draw(1, tuple(y.shape[1:]), seed=seed + 3)
    return prior, posterior.GaussianLikelihood(A, y, sigma), A


def test_stack_in_a_likelihood_and_the_samplers():
    grid = Grid([60, 55, 50, 45], [350, 355, 0, 5, 10], [1000, 500])
    instruments = {
        "sondes": RadiosondeProfiles(grid, [52.0, 48.0], [1.0, -7.0], [950.0, 600.0]),
        "analysis": AreaAverage(grid, 2),
        "box": Region(grid, (45, 50), (-5, 5)),
    }
    sigmas = {"sondes": torch.tensor([0.1, 0.3]), "analysis": 0.4, "box": 0.7}
    prior, like, A = problem(instruments, sigmas, (1, *grid.shape))
    exact = posterior.exact_posterior(prior, like)

    # the exact posterior by hand, from the matrices of the instruments
    eye = torch.eye(40, dtype=torch.float64).reshape(40, *A.img_size)
    matrix = torch.cat([A[name].A(eye).flatten(1) for name in A.names], dim=1).T
    cov, mean = prior.reference.cov.apply(eye).flatten(1), prior.reference.mean(A.img_size).flatten()
    gain = cov @ matrix.T @ torch.linalg.inv(matrix @ cov @ matrix.T + torch.diag(like.sigma[0] ** 2))
    torch.testing.assert_close(exact.mean.flatten(), mean + gain @ (like.y[0] - matrix @ mean))
    torch.testing.assert_close(exact.std.flatten(), (cov - gain @ matrix @ cov).diagonal().sqrt())

    # 200 draws know the mean to 0.07 standard deviations
    for sampler in (posterior.MMPS(steps=16), posterior.GaussianBridge(steps=4, tolerance=1e-7)):
        draws = posterior.sample(prior, like, sampler, draws=200, seed=0, batch_size=200, progress=False)
        error = (draws.mean - exact.mean) / exact.std
        assert error.abs().mean() < 0.1 and error.abs().max() < 0.3
        assert (draws.std / exact.std - 1).abs().mean() < 0.1


@pytest.mark.filterwarnings("ignore:`torch.jit.script:FutureWarning")
def test_offsets_and_winds_in_a_likelihood():
    wind = StationObservations(GRID, [58, 47], [-3, 2], channel=(0, 1), channels=2)
    area = AreaAverage(GRID, 2, channels=2)
    prior, like, A = problem([wind, area], [0.3, 0.5], wind.img_size)
    options = {"draws": 4, "seed": 0, "progress": False}
    plain = posterior.sample(prior, like, posterior.GaussianBridge(steps=4, tolerance=1e-7), **options)
    shifted = Stack([Offset(wind, 2.0), area])
    y = A.join({0: A.split(like.y)[0] + 2.0, 1: A.split(like.y)[1]})
    offset = posterior.GaussianLikelihood(shifted, y, like.sigma)
    again = posterior.sample(prior, offset, posterior.GaussianBridge(steps=4, tolerance=1e-7), **options)
    torch.testing.assert_close(again.samples, plain.samples, rtol=1e-4, atol=1e-4)

    speeds = Stack({"speed": Compose(WindSpeed(), wind), "analysis": area})
    truth = prior.reference.mean(wind.img_size)[None]
    fit = posterior.GaussianLikelihood(speeds, speeds.A(truth), speeds.sigma([0.05, 0.5]))
    draws = posterior.sample(prior, fit, posterior.MMPS(steps=8), **options)
    residual = speeds.split(speeds.A(draws.samples.double()) - fit.y)["speed"]
    assert float(residual.square().mean().sqrt()) < 0.15


CHANNEL = Channel((1, 4), 0)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Stack([]), ValueError, "Stack: wanted one operator at least"),
        (lambda: Compose(), ValueError, "Compose: wanted one operator at least"),
        (lambda: Stack([CHANNEL, "wind"]), TypeError, "part 1 is a str; wanted a deepinv Physics"),
        (lambda: Compose(CHANNEL, 3), TypeError, "Compose: part 1 is a int"),
        (lambda: Stack([WindSpeed()]), ValueError, "no part knows the shape of its field"),
        (
            lambda: Stack({"a": CHANNEL, "b": Channel((2, 4), 0)}),
            ValueError,
            r"part 'b' does not take a field of shape \(1, 4\)",
        ),
        (lambda: Stack([CHANNEL]).A_adjoint(torch.zeros(1, 3)), ValueError, r"LinearStack: y must be \(B, 4\), got \(1, 3\)"),
        (lambda: Stack([CHANNEL]).sigma([0.0]), ValueError, "sigma of part 0 must be positive"),
        (
            lambda: Stack([CHANNEL]).sigma([torch.ones(3)]),
            ValueError,
            r"sigma of part 0, \(3,\), does not broadcast to \(1, 4\)",
        ),
        (lambda: Stack([CHANNEL]).sigma([1.0, 2.0]), ValueError, "sigma must be of 1 parts, got 2"),
        (lambda: Stack({"a": CHANNEL}).sigma({"b": 1.0}), ValueError, r"must have the parts \('a',\), got \('b',\)"),
        (lambda: Stack([CHANNEL]).join([torch.zeros(1, 4)]), ValueError, r"data of part 0 must be \(B, 1, 4\), got \(1, 4\)"),
        (lambda: Offset(CHANNEL, float("nan")), ValueError, "Offset: offset must be finite"),
        (lambda: Offset("A", 0.0), TypeError, "Offset: part 0 is a str"),
    ],
)
def test_errors_name_the_object(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_what_is_linear_inside_an_operator():
    wind = StationObservations(GRID, [58, 47], [-3, 2], channel=(0, 1), channels=2)
    area = AreaAverage(GRID, 2, channels=2)
    x = torch.randn(3, 2, 4, 5, generator=generator()).double()
    for whole, seen in {
        Compose(WindSpeed(), wind): (2, 2),
        Compose(WindSpeed(), Offset(wind, 1.0)): (2, 2),
        Offset(Compose(WindSpeed(), wind), 1.0): (2, 2),
        Stack([Compose(WindSpeed(), wind), area, Offset(wind, 2.0)]): (4 + area.A(x)[0].numel() + 4,),
    }.items():
        outer, inner = whole.linear_inside()
        assert isinstance(inner, deepinv.physics.LinearPhysics) and not isinstance(outer, deepinv.physics.LinearPhysics)
        assert inner.A(x).shape[1:] == seen
        torch.testing.assert_close(outer.A(inner.A(x)), whole.A(x))
    assert Compose(wind).linear_inside() is None and Stack([wind, area]).linear_inside() is None  # linear to the end
    assert Compose(WindSpeed()).linear_inside() is None and Stack([wind, WindSpeed()], (2, 4, 5)).linear_inside() is None
