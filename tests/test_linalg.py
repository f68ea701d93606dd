import pytest
import torch

from posterior.linalg import cg, dot, gmres, norm

N = 12


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def positive(batch, seed=0, condition=1.0):
    """Symmetric positive definite matrices (batch, N, N)."""
    root = normal(batch, N, N, seed=seed)
    return root @ root.mT / N + condition * torch.eye(N, dtype=torch.float64)


def square(batch, seed=0):
    """Matrices that are neither symmetric nor positive, but not singular."""
    return normal(batch, N, N, seed=seed) + 0.5 * torch.eye(N, dtype=torch.float64)


def acting(matrices):
    """The matrices on fields (B, 3, 4), one item at a time so that no batched kernel mixes rounding."""

    def apply(v):
        return torch.stack([(m @ x.flatten()).reshape(x.shape) for m, x in zip(matrices, v, strict=True)])

    return apply


def solved(matrices, b):
    return torch.linalg.solve(matrices, b.flatten(1)[..., None])[..., 0].reshape(b.shape)


def cg_solve(apply, b, iterations):
    return cg(apply, b, iterations=iterations)[0]


def gmres_solve(apply, b, iterations):
    return gmres(apply, b, iterations=iterations)


SOLVERS = pytest.mark.parametrize("solve", [cg_solve, gmres_solve], ids=["cg", "gmres"])


def test_inner_products_are_per_item_and_accumulated_in_float64():
    a, b = normal(3, 2, 5, dtype=torch.float32), normal(3, 2, 5, seed=1, dtype=torch.float32)
    assert dot(a, b).shape == norm(a).shape == (3, 1, 1)
    assert dot(a, b).dtype == torch.float64
    torch.testing.assert_close(dot(a, b).flatten(), (a.double() * b.double()).sum((1, 2)))
    torch.testing.assert_close(norm(a).flatten(), torch.linalg.vector_norm(a.double(), dim=(1, 2)))


@SOLVERS
def test_solves_positive_systems(solve):
    matrices, b = positive(5), normal(5, 3, 4, seed=1)
    torch.testing.assert_close(solve(acting(matrices), b, 2 * N), solved(matrices, b), rtol=1e-9, atol=1e-9)


def test_gmres_solves_systems_that_are_neither_symmetric_nor_positive():
    matrices, b = square(6), normal(6, 3, 4, seed=1)
    assert (torch.linalg.eigvals(matrices).real < 0).any()
    torch.testing.assert_close(gmres(acting(matrices), b, iterations=N), solved(matrices, b), rtol=1e-8, atol=1e-8)


def test_gmres_is_the_best_point_of_the_krylov_space():
    matrices, b = square(2, seed=3), normal(2, 3, 4, seed=1)
    for k in (1, 3, 7):
        found = gmres(acting(matrices), b, iterations=k).flatten(1)
        for m, rhs, x in zip(matrices, b.flatten(1), found, strict=True):
            krylov = torch.stack([torch.linalg.matrix_power(m, j) @ rhs for j in range(k)], dim=1)
            basis = torch.linalg.qr(krylov)[0]
            best = basis @ torch.linalg.lstsq(m @ basis, rhs[:, None]).solution[:, 0]
            torch.testing.assert_close(x, best, rtol=1e-7, atol=1e-8)


def test_cg_error_falls_in_the_energy_norm():
    matrices, b = positive(1, condition=0.05), normal(1, 3, 4, seed=1)
    exact = solved(matrices, b)
    errors = []
    for k in range(N):
        e = (cg(acting(matrices), b, iterations=k)[0] - exact).flatten()
        errors.append(float(e @ matrices[0] @ e))
    assert all(late < early for early, late in zip(errors, errors[1:], strict=False))
    assert errors[-1] < 1e-6 * errors[0]


@SOLVERS
@pytest.mark.parametrize("iterations", [2, 5, 30])
def test_an_item_does_not_know_its_companions(solve, iterations):
    """Bit for bit, also when companions converge early, blow up, or have nothing to solve."""
    matrices, b = positive(7, condition=0.01), normal(7, 3, 4, seed=1)
    matrices[1] = torch.eye(N)
    matrices[2] = -matrices[2]
    matrices[3] = 1e200 * matrices[3]
    b[4] = 0
    together = solve(acting(matrices), b, iterations)
    for i in range(7):
        alone = solve(acting(matrices[i : i + 1]), b[i : i + 1], iterations)
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-12, atol=0)
    some = [5, 0, 2]
    torch.testing.assert_close(solve(acting(matrices[some]), b[some], iterations), together[some], rtol=1e-12, atol=0)


@SOLVERS
def test_zero_right_hand_side_gives_zero(solve):
    matrices = positive(3)
    b = normal(3, 3, 4)
    b[1] = 0
    found = solve(acting(matrices), b, N)
    assert (found[1] == 0).all()
    torch.testing.assert_close(found[[0, 2]], solved(matrices, b)[[0, 2]], rtol=1e-8, atol=1e-8)
    assert (solve(acting(matrices), torch.zeros(3, 3, 4, dtype=torch.float64), N) == 0).all()


@SOLVERS
def test_singular_but_consistent_system(solve):
    """For b in the range the solution in the range is found, and further iterations do no harm."""
    basis = torch.linalg.qr(normal(N, 4))[0]
    matrix = (basis * torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)) @ basis.T
    x = (basis @ normal(4, seed=1)).reshape(1, 3, 4)
    b = acting(matrix[None])(x)
    torch.testing.assert_close(solve(acting(matrix[None]), b, N), x, rtol=1e-8, atol=1e-8)


@SOLVERS
@pytest.mark.parametrize("kind", ["zero", "nilpotent"])
def test_singular_and_inconsistent_system_stays_finite(solve, kind):
    matrices = positive(2)
    matrices[0] = 0 if kind == "zero" else torch.diag(torch.ones(N - 1), 1)
    b = normal(2, 3, 4, seed=1)
    found = solve(acting(matrices), b, N)
    assert torch.isfinite(found).all()
    torch.testing.assert_close(found[1:], solved(matrices[1:], b[1:]), rtol=1e-8, atol=1e-8)


@SOLVERS
def test_exhausted_krylov_space_changes_nothing_more(solve):
    """With three distinct eigenvalues three iterations are all it takes."""
    matrix = torch.diag(torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64).repeat(N // 3))[None]
    b = normal(1, 3, 4)
    for iterations in (3, 4, N):
        torch.testing.assert_close(solve(acting(matrix), b, iterations), solved(matrix, b), rtol=1e-10, atol=1e-10)


def test_cg_stops_an_item_where_the_matrix_is_not_positive():
    matrices, b = positive(3), normal(3, 3, 4, seed=1)
    matrices[0] = -torch.eye(N)
    # positive along b, negative soon after
    matrices[1] = torch.diag(torch.tensor([1.0] * 6 + [-0.5] * 6))
    b[1, 0] = 10.0
    found = cg_solve(acting(matrices), b, 3 * N)
    assert (found[0] == 0).all()
    assert torch.isfinite(found[1]).all()
    assert norm(found[1:2]) < 10 * norm(b[1:2])
    torch.testing.assert_close(found[2:], solved(matrices[2:], b[2:]), rtol=1e-8, atol=1e-8)


@SOLVERS
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("after", [0, 2])
def test_item_whose_matrix_gives_values_that_are_not_finite(solve, value, after):
    """It keeps the finite answer it reached; the others do not notice."""
    matrices, b = positive(3), normal(3, 3, 4, seed=1)
    calls = 0

    def apply(v):
        nonlocal calls
        out = acting(matrices)(v)
        if calls >= after:
            out[1, 0, 0] = value
        calls += 1
        return out

    found = solve(apply, b, N)
    torch.testing.assert_close(found[[0, 2]], solved(matrices, b)[[0, 2]], rtol=1e-8, atol=1e-8)
    assert torch.isfinite(found[1]).all()
    reached = solve(acting(matrices[1:2]), b[1:2], after) if after else torch.zeros(1, 3, 4, dtype=torch.float64)
    torch.testing.assert_close(found[1:2], reached, rtol=1e-10, atol=1e-12)


@SOLVERS
def test_right_hand_side_that_is_not_finite_spoils_its_own_item_only(solve):
    matrices, b = positive(3), normal(3, 3, 4, seed=1)
    b[1, 2, 2] = torch.nan
    found = solve(acting(matrices), b, N)
    torch.testing.assert_close(found[[0, 2]], solved(matrices, b)[[0, 2]], rtol=1e-8, atol=1e-8)


@SOLVERS
@pytest.mark.parametrize("scale", [1e-100, 1e-30, 1e30, 1e100])
def test_scale_of_the_right_hand_side_does_not_matter(solve, scale):
    matrices, b = positive(2), normal(2, 3, 4, seed=1)
    found = solve(acting(matrices), scale * b, 2 * N) / scale
    torch.testing.assert_close(found, solved(matrices, b), rtol=1e-8, atol=1e-8)


@SOLVERS
def test_float32_is_kept_and_right_to_its_precision(solve):
    matrices, b = positive(3).float(), normal(3, 3, 4, seed=1, dtype=torch.float32)
    found = solve(acting(matrices), b, 2 * N)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, solved(matrices, b), rtol=1e-4, atol=1e-4)


@SOLVERS
def test_right_hand_side_is_not_written_to(solve):
    b = normal(2, 3, 4)
    before = b.clone()
    solve(acting(positive(2)), b, 5)
    assert torch.equal(b, before)


class TestStopping:
    def test_cg_reports_the_iterations_it_ran(self):
        matrices, b = positive(2), normal(2, 3, 4)
        assert cg(acting(matrices), b, iterations=4)[1] == 4
        assert cg(acting(matrices), torch.zeros_like(b), iterations=4)[1] == 0
        assert cg(acting(torch.eye(N, dtype=torch.float64).expand(2, N, N)), b, iterations=9)[1] == 1

    @pytest.mark.parametrize("stop", [1e-1, 1e-4])
    def test_cg_stops_once_the_residual_is_small(self, stop):
        matrices, b = positive(1, condition=0.05), normal(1, 3, 4)
        found, count = cg(acting(matrices), b, iterations=50, stop=stop)
        assert norm(b - acting(matrices)(found)) <= stop
        before = cg(acting(matrices), b, iterations=count - 1)[0]
        assert norm(b - acting(matrices)(before)) > stop

    def test_cg_starts_where_it_is_told(self):
        matrices, b = positive(2), normal(2, 3, 4)
        exact = solved(matrices, b)
        found, count = cg(acting(matrices), b, iterations=5, start=exact, stop=1e-10)
        assert count == 0
        torch.testing.assert_close(found, exact, rtol=0, atol=0)
        start = exact + 1e-3 * normal(2, 3, 4, seed=2)
        near, _ = cg(acting(matrices), b, iterations=3, start=start)
        far, _ = cg(acting(matrices), b, iterations=3)
        assert (norm(near - exact) < 1e-2 * norm(far - exact)).all()

    @pytest.mark.parametrize("iterations", [1, 4, 9])
    def test_gmres_applies_the_matrix_once_an_iteration(self, iterations):
        calls = []
        gmres(lambda v: calls.append(1) or acting(square(2))(v), normal(2, 3, 4), iterations=iterations)
        assert len(calls) == iterations

    def test_gmres_cuts_its_dimension_to_the_system(self):
        matrices, b = square(2), normal(2, 3, 4)
        torch.testing.assert_close(gmres(acting(matrices), b, iterations=500), solved(matrices, b), rtol=1e-7, atol=1e-7)
