"""What every linear operator has to pass; one call per operator and shape."""

import copy

import pytest
import torch


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def draw(batch, shape, dtype=torch.float64, seed=0):
    return torch.randn(batch, *shape, dtype=dtype, generator=generator(seed))


def real(v):
    return torch.view_as_real(v) if v.is_complex() else v


def inner(a, b):
    return (real(a) * real(b)).sum()


def data_like(A, x, seed=1):
    """Random data of the shape and the type that A gives for x."""
    y = A.A(x)
    return torch.randn(y.shape, dtype=y.dtype, generator=generator(seed))


def dense(A, event, dtype=torch.float64):
    """The real matrix of A, (range, domain)."""
    eye = torch.eye(int(torch.tensor(event).prod()), dtype=dtype).reshape(-1, *event)
    return real(A.A(eye)).flatten(1).T


def check_adjoint(A, event, tolerances=((torch.float64, 1e-10), (torch.float32, 1e-4))):
    """Dot-product test, dtype kept, members of a batch apart, A^T A and A A^T as stated, nothing passed in changed."""
    for dtype, tolerance in tolerances:
        for batch in (1, 3):
            x = draw(batch, event, dtype)
            v = data_like(A, x)
            kept = x.clone(), v.clone()
            y, w, n = A.A(x), A.A_adjoint(v), A.A_adjoint_A(x)
            assert w.shape == x.shape and real(y).dtype == w.dtype == n.dtype == dtype
            assert abs(inner(y, v) - inner(x, w)) <= tolerance * y.norm() * v.norm()
            close = {"rtol": tolerance, "atol": tolerance * float(n.abs().max())}
            torch.testing.assert_close(n, A.A_adjoint(y), **close)
            torch.testing.assert_close(A.A_A_adjoint(v), A.A(w), rtol=tolerance, atol=tolerance * float(v.abs().max()) * 10)
            torch.testing.assert_close(A.A(x[-1:]), y[-1:], **close)
            assert torch.equal(x, kept[0]) and torch.equal(v, kept[1])


def check_autograd(A, event):
    """jvp is A, vjp is the adjoint, of A, of the adjoint and of A^T A; and vmap works."""
    x, tangent = draw(2, event), draw(2, event, seed=9)
    v = data_like(A, x)
    y, forward = torch.func.jvp(A.A, (x,), (tangent,))
    torch.testing.assert_close(forward, A.A(tangent))
    _, vjp = torch.func.vjp(A.A, x)
    torch.testing.assert_close(vjp(v)[0], A.A_adjoint(v))
    _, vjp = torch.func.vjp(A.A_adjoint, y)
    torch.testing.assert_close(vjp(x)[0], A.A(x))
    _, vjp = torch.func.vjp(A.A_adjoint_A, x)
    torch.testing.assert_close(vjp(tangent)[0], A.A_adjoint_A(tangent))
    stacked = torch.func.vmap(A.A)(torch.stack((x, tangent)))
    torch.testing.assert_close(stacked, torch.stack((A.A(x), A.A(tangent))))


def check_norm(A, event):
    """deepinv's power iteration is within 1 % of a dense singular value decomposition."""
    want = float(torch.linalg.matrix_norm(dense(A, event), 2))
    # deepinv's power method draws its start from the global generator
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        got = A.compute_norm(draw(1, event), squared=False, verbose=False, max_iter=1000, tol=1e-9)
    assert float(got) == pytest.approx(want, rel=1e-2)


def check_solvers(A, event, rcond=1e-10, tolerance=1e-5):
    """The proximal operator and the pseudo-inverse are those of the dense matrix, and no call changes the operator."""
    matrix = dense(A, event)
    z = draw(2, event)
    y = data_like(A, z)
    state = copy.deepcopy(A.state_dict())
    settings = {name: value for name, value in vars(A).items() if not name.startswith("_")}
    gamma = 0.7
    right = gamma * real(y).flatten(1) @ matrix + z.flatten(1)
    want = torch.linalg.solve(gamma * matrix.T @ matrix + torch.eye(len(matrix.T), dtype=z.dtype), right.T).T
    torch.testing.assert_close(A.prox_l2(z, y, gamma, max_iter=500, tol=1e-12).flatten(1), want, rtol=tolerance, atol=tolerance)
    if rcond is not None:
        want = real(y).flatten(1) @ torch.linalg.pinv(matrix, rcond=rcond).T
        got = A.A_dagger(y, max_iter=2000, tol=1e-13).flatten(1)
        torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance * float(want.abs().max()))
    assert all(torch.equal(value, state[name]) for name, value in A.state_dict().items())
    assert {name: value for name, value in vars(A).items() if not name.startswith("_")} == settings


def check_precision(A, event):
    """A change of precision of the module changes its results by rounding alone, complex buffers included."""
    x = draw(1, event)
    want = A.A(x)
    B = copy.deepcopy(A)
    for module, close in ((B.double(), 1e-5), (B.float(), 1e-4)):
        torch.testing.assert_close(module.A(x), want, rtol=close, atol=close * float(want.abs().max()))
