"""The singular system of a whitened operator: orthonormal, diagonal, and of unit noise, whatever form it is found in."""

import deepinv
import pytest
import torch

import operators
import posterior
from benchmarks.problems.mixture import dense
from benchmarks.problems.random_field import MaskedFourier, random_field
from posterior.priors.base import Affine, Prior
from posterior.problem import Problem
from posterior.svd import matrix_free_system, singular_system

SIDE = 8
SHAPE = (1, SIDE, SIDE)
STANDARD = Affine()


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mask(share=0.5, shape=SHAPE, seed=1):
    return (torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < share).double()


class Flat(Prior):
    """A prior of which nothing but its coordinates is asked."""

    def __init__(self, shape, affine):
        self.event_shape, self.affine = shape, affine

    def denoise(self, x, sigma):
        raise AssertionError("the network was called")


def problem_of(physics, shape=SHAPE, sigma=0.3, affine=STANDARD):
    truth = affine.to_physical(normal(1, *shape, seed=2))
    clean = physics.A(truth)
    like = posterior.GaussianLikelihood(physics, clean + 0.3 * normal(*clean.shape, seed=3), sigma)
    return Problem(Flat(shape, affine), like.in_standard(affine, shape), shape)


def blur(shape=SHAPE):
    kernel = torch.rand(1, 1, 3, 3, generator=torch.Generator().manual_seed(2)).double()
    return deepinv.physics.BlurFFT(shape, filter=kernel / kernel.sum())


def uneven(*shape):
    return 0.1 + torch.rand(1, *shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


SHIFT = Affine(2.5, 10.0)
PIXELWISE = Affine(uneven(*SHAPE)[0], normal(*SHAPE, seed=6))


def multi_coil(rows, sigma=0.3):
    """Three coils, every third line along one axis: it does not mix rows, or columns."""
    line = (torch.arange(SIDE) % 3 == 0).double()
    sampled = line.expand(SIDE, SIDE) if rows else line.expand(SIDE, SIDE).T
    maps = torch.view_as_complex(normal(3, SIDE, SIDE, 2, seed=4))
    return problem_of(operators.MultiCoilMRI(sampled.contiguous(), maps), (2, SIDE, SIDE), sigma)


# Problem, and whether its basis is known without a matrix.
CASES = {
    "mask": (lambda: problem_of(deepinv.physics.Inpainting(SHAPE, mask=mask())), True),
    "mask, uneven noise and units": (
        lambda: problem_of(deepinv.physics.Inpainting(SHAPE, mask=mask()), sigma=uneven(*SHAPE), affine=PIXELWISE),
        True,
    ),
    "denoising": (lambda: problem_of(deepinv.physics.Denoising()), True),
    "blur": (lambda: problem_of(blur(), affine=SHIFT), True),
    "blur of two channels": (lambda: problem_of(blur((2, SIDE, SIDE)), (2, SIDE, SIDE)), True),
    "blur of an odd size": (lambda: problem_of(blur((1, 7, 9)), (1, 7, 9)), True),
    "real Fourier coefficients": (lambda: problem_of(MaskedFourier(SIDE, mask()[0] > 0)), True),
    "single-coil MRI": (lambda: problem_of(operators.MRI(mask(shape=(SIDE, SIDE))), (2, SIDE, SIDE)), True),
    "blur, uneven noise": (lambda: problem_of(blur(), sigma=uneven(*SHAPE)), False),
    "blur in uneven units": (lambda: problem_of(blur(), affine=PIXELWISE), False),
    "few data": (lambda: problem_of(dense(normal(5, 12)), (12,)), False),
    "many data": (lambda: problem_of(dense(normal(30, 12)), (12,)), False),
    "data that say the same": (lambda: problem_of(dense(normal(1, 12).expand(3, 12)), (12,)), False),
    "multi-coil MRI, columns by themselves": (lambda: multi_coil(False), False),
    "multi-coil MRI, rows by themselves": (lambda: multi_coil(True), False),
    "pooling": (
        lambda: problem_of(
            deepinv.physics.Downsampling(
                SHAPE, filter=torch.ones(1, 1, 3, 3, dtype=torch.float64) / 9, factor=2, padding="circular"
            )
        ),
        False,
    ),
}

each_case = pytest.mark.parametrize("case", CASES)


def whitened(problem, z):
    like = problem.likelihood
    return like.model.apply(z) * like.reach * like.variance.rsqrt()


@each_case
def test_basis_is_found_without_a_matrix_where_it_is_known(case):
    problem, known = CASES[case][0](), CASES[case][1]
    assert (matrix_free_system(problem) is not None) == known
    assert singular_system(problem) is singular_system(problem)


@pytest.mark.parametrize("rows", [False, True])
def test_lines_that_are_not_mixed_are_decomposed_one_by_one(rows, monkeypatch):
    monkeypatch.setattr("posterior.svd.LARGEST_MATRIX", 0)
    problem = multi_coil(rows)
    system = singular_system(problem)
    assert system.basis == "lines"
    z = normal(1, 2, SIDE, SIDE)
    one = torch.zeros(SIDE, dtype=torch.float64)
    one[3] = 1.0
    kept = z * (one[:, None] if rows else one)
    assert torch.equal(system.analyse(kept) != 0, (kept != 0))


def test_a_single_line_is_no_block():
    assert singular_system(problem_of(dense(normal(5, 12)), (12,))).basis == "dense"
    row = deepinv.physics.LinearPhysics(
        A=lambda x, **_: x.flatten(1) @ normal(5, 12).T, A_adjoint=lambda y, **_: (y @ normal(5, 12)).reshape(-1, 1, 1, 12)
    )
    assert singular_system(problem_of(row, (1, 1, 12))).basis == "dense"


def test_an_operator_that_mixes_all_lines_has_no_basis_of_them(monkeypatch):
    monkeypatch.setattr("posterior.svd.LARGEST_MATRIX", 0)
    scattered = operators.MultiCoilMRI(mask(shape=(SIDE, SIDE)), torch.view_as_complex(normal(3, SIDE, SIDE, 2, seed=4)))
    with pytest.raises(ValueError, match="line by line, and its matrix"):
        singular_system(problem_of(scattered, (2, SIDE, SIDE)))


@each_case
def test_coefficients_are_an_orthonormal_basis(case):
    problem = CASES[case][0]()
    system = singular_system(problem)
    n = torch.Size(problem.event_shape).numel()
    vectors = system.analyse(torch.eye(n, dtype=torch.float64).reshape(n, *problem.event_shape)).reshape(n, n)
    torch.testing.assert_close(vectors @ vectors.T, torch.eye(n, dtype=torch.float64), rtol=0, atol=1e-12)
    z = normal(3, *problem.event_shape)
    assert system.analyse(z).shape == z.shape
    torch.testing.assert_close(system.synthesise(system.analyse(z)), z, rtol=0, atol=1e-12)
    torch.testing.assert_close(system.analyse(system.synthesise(z)), z, rtol=0, atol=1e-12)


@each_case
def test_operator_sees_each_coefficient_by_itself(case):
    """A^T R^-1 A z = V g^2 V^T z, so also |R^(-1/2) A z|^2 = sum g^2 c^2."""
    problem = CASES[case][0]()
    system, like = singular_system(problem), problem.likelihood
    z = normal(3, *problem.event_shape)
    wanted = like.model.transpose(whitened(problem, z) * like.variance.rsqrt())
    torch.testing.assert_close(system.synthesise(system.gains**2 * system.analyse(z)), wanted, rtol=1e-6, atol=1e-6)
    energy = (system.gains * system.analyse(z)).flatten(1).square().sum(1)
    torch.testing.assert_close(energy, whitened(problem, z).flatten(1).square().sum(1), rtol=1e-6, atol=1e-6)
    assert system.gains.shape == (1, *problem.event_shape)


@each_case
def test_data_are_gains_times_coefficients_plus_the_noise(case):
    """Linear in y, and V g d = A^T R^-1 (y - A(0)); exactly so for data without noise."""
    problem = CASES[case][0]()
    system, like = singular_system(problem), problem.likelihood
    wanted = like.model.transpose(like.residual(torch.zeros(1, *problem.event_shape, dtype=torch.float64)) / like.variance)
    torch.testing.assert_close(system.synthesise(system.gains * system.data), wanted, rtol=1e-6, atol=1e-6)
    assert torch.equal(system.data == 0, system.gains == 0)


@each_case
def test_noise_of_the_data_is_white(case):
    """Of what y - A(0) is made of, the part that the operator can reach keeps its length: no noise is scaled."""
    problem = CASES[case][0]()
    system, like = singular_system(problem), problem.likelihood
    reachable = whitened(problem, normal(1, *problem.event_shape, seed=8))
    moved = Problem(
        problem.prior,
        type(like)(like.model, like.y + reachable * like.variance.sqrt(), like.variance, like.reach),
        problem.event_shape,
    )
    difference = singular_system(moved).data - system.data
    torch.testing.assert_close(difference.square().sum(), reachable.square().sum(), rtol=1e-6, atol=1e-9)


def test_forms_agree():
    """A mask and a blur through the matrix-free and the dense form: the same gains, the same likelihood."""
    for physics in (deepinv.physics.Inpainting(SHAPE, mask=mask()), blur()):
        problem = problem_of(physics, affine=SHIFT)
        free = singular_system(problem)
        problem.memo.clear()
        problem.memo["matrix-free singular system"] = None
        full = singular_system(problem)
        torch.testing.assert_close(free.gains.flatten().sort().values, full.gains.flatten().sort().values, rtol=1e-6, atol=1e-6)
        z = normal(4, *SHAPE)
        misfit = [(s.data - s.gains * s.analyse(z)).square().flatten(1).sum(1) for s in (free, full)]
        torch.testing.assert_close(*misfit, rtol=1e-6, atol=1e-6)


def test_gains_that_rounding_hides_are_zero():
    """A wide Gaussian blur takes from high frequencies more digits than there are."""
    problem = random_field("blur", dtype=torch.float64)
    system = singular_system(Problem(problem.prior, problem.likelihood.in_standard(STANDARD, (1, 32, 32)), (1, 32, 32)))
    assert ((system.gains == 0) | (system.gains > 1e-8 * system.gains.max())).all()
    assert 0.1 < float((system.gains == 0).double().mean()) < 0.5
    assert torch.isfinite(system.data).all()


def test_precise_data_do_not_hide_that_others_mix_pixels():
    """Points known to 1e-4, and an average of eight others to 0.3, which no basis of pixels or lines diagonalises."""
    matrix = torch.zeros(9, 16, dtype=torch.float64)
    matrix[torch.arange(8), torch.arange(8)] = 1
    matrix[8, 8:] = 1 / 8
    sigma = torch.tensor([[*[1e-4] * 8, 0.3]], dtype=torch.float64)
    problem = problem_of(dense(matrix), (16,), sigma)
    assert matrix_free_system(problem) is None
    system = singular_system(problem)
    assert system.basis == "dense"
    assert int((system.gains > 0).sum()) == 9
    assert float(system.gains[system.gains > 0].min()) == pytest.approx(1 / 8**0.5 / 0.3, rel=1e-6)


def test_pixels_seen_with_much_noise_are_seen_in_single_precision():
    like = posterior.GaussianLikelihood(
        deepinv.physics.Denoising(), torch.ones(1, 8), torch.tensor([[*[1e-3] * 4, *[2.0] * 4]], dtype=torch.float32)
    )
    system = singular_system(Problem(Flat((8,), STANDARD), like.in_standard(STANDARD, (8,)), (8,)))
    torch.testing.assert_close(system.gains, 1 / like.sigma, check_dtype=False)
    torch.testing.assert_close(system.solution, torch.ones(1, 8), check_dtype=False)


class Square(deepinv.physics.Physics):
    def A(self, x, **_):
        return x**2


def test_nonlinear_operators_are_refused_by_name():
    with pytest.raises(ValueError, match="DDRM: operator Square is not linear; use DiffPIR or MMPS"):
        singular_system(problem_of(Square()), "DDRM")


def test_matrices_that_are_too_large_are_refused_by_name():
    side = 72
    physics = deepinv.physics.Blur(filter=torch.ones(1, 1, 3, 3, dtype=torch.float64) / 9, padding="reflect")
    with pytest.raises(ValueError, match="DDNM: operator Blur has no singular value decomposition.*5184 unknowns"):
        singular_system(problem_of(physics, (1, side, side)), "DDNM")
