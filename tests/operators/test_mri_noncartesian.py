import copy
import pickle
import sys

import deepinv
import numpy as np
import pytest
import torch

from operators import MRI, NonCartesianMRI, birdcage_maps, radial_trajectory, spiral_trajectory
from tests.operators.checks import (
    check_adjoint,
    check_autograd,
    check_norm,
    check_precision,
    check_solvers,
    data_like,
    draw,
    generator,
)

pytest.importorskip("mrinufft")
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script:FutureWarning")
SHAPES = [(8, 6), (7, 9)]
COILS = 3
# six digits for float32; ten for float64
TOLERANCES = ((torch.float64, 1e-8), (torch.float32, 1e-4))
every_case = pytest.mark.parametrize("coils", [None, COILS])
every_shape = pytest.mark.parametrize("shape", SHAPES)


def trajectory(samples=70, dim=2, seed=0):
    return torch.rand(samples, dim, dtype=torch.float64, generator=generator(seed)) - 0.5


def build(coils, shape, **kwargs):
    maps = None if coils is None else torch.randn(coils, *shape, dtype=torch.complex128, generator=generator(1))
    kwargs.setdefault("offset", tuple(0.3 * (i + 1) for i in range(len(shape))))
    return NonCartesianMRI(trajectory(dim=len(shape)), shape, maps, **kwargs)


def complexed(x):
    return torch.complex(x[:, 0], x[:, 1])


@every_case
@every_shape
def test_linear_operator(coils, shape):
    check_adjoint(build(coils, shape), (2, *shape), TOLERANCES)


@every_case
def test_autograd_norm_precision_and_solvers(coils):
    A = build(coils, (7, 6))
    check_autograd(A, (2, 7, 6))
    check_norm(A, (2, 7, 6))
    check_precision(A, (2, 7, 6))
    check_solvers(A, (2, 7, 6), rcond=None)


@pytest.mark.parametrize("shape", [*SHAPES, (4, 5, 6)])
def test_is_the_direct_non_uniform_transform(shape):
    A = build(COILS, shape)
    x = draw(2, (2, *shape))
    grid = np.stack(np.meshgrid(*(np.arange(n) - n // 2 for n in shape), indexing="ij"), -1).reshape(-1, len(shape))
    k = A.trajectory.numpy()
    offset = np.array([0.3 * (i + 1) for i in range(len(shape))])
    matrix = np.exp(-2j * np.pi * k @ (grid + offset).T) / np.sqrt(len(grid))
    image = (A.coil_maps * complexed(x)[:, None]).flatten(2).numpy()
    np.testing.assert_allclose(complexed(A.A(x)).numpy(), image @ matrix.T, atol=1e-8)
    single = complexed(A.A(x.float())).numpy()
    np.testing.assert_allclose(single, image @ matrix.T, atol=2e-5 * np.abs(image).max())


@every_shape
def test_on_grid_points_it_is_the_cartesian_operator(shape):
    k = torch.cartesian_prod(*((torch.arange(n, dtype=torch.float64) - n // 2) / n for n in shape))
    x = draw(1, (2, *shape))
    y = NonCartesianMRI(k, shape).A(x)
    torch.testing.assert_close(y.reshape(1, 2, *shape), MRI(torch.ones(shape)).A(x), rtol=1e-8, atol=1e-8)


@every_shape
@every_case
def test_toeplitz_is_two_transforms(coils, shape):
    for dtype, tolerance in ((torch.float64, 1e-8), (torch.float32, 1e-5)):
        x = draw(2, (2, *shape), dtype)
        want = build(coils, shape, normal="nufft").A_adjoint_A(x)
        got = build(coils, shape).A_adjoint_A(x)
        assert (got - want).norm() <= tolerance * want.norm()


def test_offset_moves_the_object():
    shape, k = (12, 12), trajectory(200)
    x = torch.zeros(1, 2, *shape, dtype=torch.float64)
    x[0, 0, 4:6, 5:8] = 1.0
    moved = torch.roll(x, (2, -1), (-2, -1))
    torch.testing.assert_close(NonCartesianMRI(k, shape, offset=(2, -1)).A(x), NonCartesianMRI(k, shape).A(moved))


def test_data_from_a_gradient_scan_are_recovered():
    side = 24
    A = NonCartesianMRI(radial_trajectory(60, 48), (side, side), birdcage_maps(4, (side, side)))
    y, x = torch.meshgrid(*2 * [torch.arange(side) - side // 2], indexing="ij")
    blob = torch.exp(-(y**2 + 2 * x**2) / 40.0)
    image = torch.stack((blob, -0.5 * blob))[None]
    data = A.A(image)
    solved = A.A_dagger(data, max_iter=100, tol=1e-6)
    assert (solved - image).norm() < 0.02 * image.norm()
    # without compensation the centre of k-space counts far too often
    gridded = A.gridding(data)
    assert (gridded - image).norm() < 0.06 * image.norm() < (A.A_adjoint(data) - image).norm()
    assert A.density.shape == (60 * 48,) and (A.density > 0).all()
    given = NonCartesianMRI(A.trajectory, (side, side), A.coil_maps, density=A.density)
    torch.testing.assert_close(given.gridding(data), gridded)


def test_density_is_flat_where_sampling_is():
    n = 12
    k = torch.cartesian_prod(*2 * [(torch.arange(n, dtype=torch.float64) - n // 2) / n])
    torch.testing.assert_close(NonCartesianMRI(k, (n, n)).density, torch.ones(n * n, dtype=torch.float64))
    doubled = NonCartesianMRI(torch.cat((k, k)), (n, n)).density
    torch.testing.assert_close(doubled, torch.full((2 * n * n,), 0.5, dtype=torch.float64))


def test_density_of_spokes_is_a_ramp():
    d = NonCartesianMRI(radial_trajectory(16, 32, tilt="uniform"), (16, 16)).density.reshape(16, 32)
    inner = d[:, 18:28]
    torch.testing.assert_close(inner / inner[:, :1], torch.arange(2.0, 12).double().expand(16, -1) / 2, rtol=0.02, atol=0.0)


def test_trajectories():
    radial = radial_trajectory(5, 16, tilt="uniform").reshape(5, 16, 2)
    assert radial.abs().max() == 0.5 and (radial[:, 8] == 0).all()
    angle = torch.atan2(radial[:, -1, 0], radial[:, -1, 1])
    torch.testing.assert_close(angle.diff(), torch.full((4,), torch.pi / 5, dtype=torch.float64))
    golden = radial_trajectory(2, 16).reshape(2, 16, 2)[1, -1]
    assert float(torch.rad2deg(torch.atan2(golden[0], golden[1]))) == pytest.approx(111.246, abs=1e-3)
    spiral = spiral_trajectory(3, 200, revolutions=4).reshape(3, 200, 2)
    radius = spiral.norm(dim=-1)
    assert radius.max() == pytest.approx(0.5, abs=1e-6) and (radius[:, 0] == radius.min(1).values).all()
    turns = np.unwrap(torch.atan2(spiral[0, 20:, 0], spiral[0, 20:, 1]).numpy())
    assert abs(turns[-1] - turns[0]) / (2 * np.pi) == pytest.approx(3.6, abs=0.15)


@pytest.mark.filterwarnings("ignore:Samples will be rescaled")
def test_agrees_with_deepinv():
    maps = birdcage_maps(2, (16, 16))
    theirs = deepinv.physics.NonCartesianMRI((16, 16), num_shots=30, num_samples_per_shot=64, coil_maps=maps[None])
    ours = NonCartesianMRI(theirs.samples.reshape(-1, 2), (16, 16), maps)
    x = draw(1, (2, 16, 16), torch.float32)
    # their transform is 2 ** (-1/2) of ours per axis
    torch.testing.assert_close(2 * theirs.A(x), ours.A(x), rtol=1e-4, atol=1e-4)


def test_copies_work_and_keep_their_own_plans():
    A = build(COILS, (8, 6))
    x = draw(1, (2, 8, 6))
    y = A.A(x)
    torch.testing.assert_close(copy.deepcopy(A).A(x), y)
    again = pickle.loads(pickle.dumps(A._transform))
    torch.testing.assert_close(again.forward(complexed(x)), A._transform.forward(complexed(x)))


def test_other_maps_for_one_call():
    A = build(COILS, (8, 6))
    x = draw(2, (2, 8, 6))
    y = A.A(x)
    torch.testing.assert_close(A.A(x, coil_maps=2 * A.coil_maps), 2 * y)
    torch.testing.assert_close(A.A_adjoint_A(x, coil_maps=2 * A.coil_maps), 4 * A.A_adjoint_A(x))
    assert torch.equal(A.A(x), y)
    batched = torch.stack((A.coil_maps[0], 3 * A.coil_maps[0]))
    A.update(coil_maps=batched)
    torch.testing.assert_close(A.A(x)[1], 3 * y[1])
    v = data_like(A, x)
    assert abs((A.A(x) * v).sum() - (x * A.A_adjoint(v)).sum()) < 1e-8 * v.norm() * y.norm()
    with pytest.raises(ValueError, match="coil_maps is for a batch of 2, x has 3"):
        A.A(draw(3, (2, 8, 6)))


def test_needs_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "mrinufft", None)
    with pytest.raises(ImportError, match=r"pip install 'posterior\[mri\]'"):
        NonCartesianMRI(trajectory(), (8, 6))


K, MAPS = trajectory(10), torch.ones(2, 8, 6, dtype=torch.complex64)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NonCartesianMRI(2 * torch.pi * K, (8, 6)), r"trajectory must be \(S, 2\), from -0.5 to 0.5 cycles"),
        (lambda: NonCartesianMRI(K * float("nan"), (8, 6)), "trajectory must be"),
        (lambda: NonCartesianMRI(K, (8, 6, 4)), r"trajectory must be \(S, 3\), .* got \(10, 2\)"),
        (lambda: NonCartesianMRI(K, (8,)), r"shape must be \(H, W\) or \(D, H, W\)"),
        (lambda: NonCartesianMRI(K, (6, 8), MAPS), r"coil_maps are of \(8, 6\), the image is \(6, 8\)"),
        (lambda: NonCartesianMRI(K, (8, 6), MAPS.real), "coil_maps must be complex64"),
        (lambda: NonCartesianMRI(K, (8, 6), offset=(1.0,)), "offset must be 2 finite numbers"),
        (lambda: NonCartesianMRI(K, (8, 6), density=torch.ones(9)), r"density must be \(10,\), finite .* got shape \(9,\)"),
        (lambda: NonCartesianMRI(K, (8, 6), density=-torch.ones(10)), "not negative"),
        (lambda: NonCartesianMRI(K, (8, 6), normal="fast"), "normal must be 'toeplitz' or 'nufft', got 'fast'"),
        (lambda: NonCartesianMRI(K, (8, 6)).A(torch.ones(1, 2, 6, 8)), r"x must be \(B, 2, 8, 6\)"),
        (lambda: NonCartesianMRI(K, (8, 6), MAPS).A_adjoint(torch.ones(1, 2, 3, 10)), r"y must be \(B, 2, 2, 10\)"),
        (lambda: NonCartesianMRI(K[:4], (8, 6)).density, "too few samples for a density"),
        (lambda: radial_trajectory(0, 5), "radial_trajectory: wanted positive integers"),
        (lambda: spiral_trajectory(3, 0), "spiral_trajectory: wanted positive integers"),
    ],
)
def test_errors_name_the_object(make, message):
    with pytest.raises(ValueError, match=message):
        make()
