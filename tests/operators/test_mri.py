import subprocess
import sys
from pathlib import Path

import deepinv
import numpy as np
import pytest
import torch

import operators
from operators import MRI, MultiCoilMRI, mri as module
from tests.operators.checks import check_autograd

SHAPES = [(16, 12), (15, 13), (8, 9), (10, 7)]
COILS = 3


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def random_mask(shape, kind="points", seed=0):
    rng = np.random.default_rng(seed)
    mask = rng.random(shape) < 0.4 if kind == "points" else np.tile(rng.random(shape[1]) < 0.4, (shape[0], 1))
    mask = mask.T if kind == "rows" else mask
    mask[shape[0] // 2, shape[1] // 2] = True
    if kind == "lines":
        mask[:, shape[1] // 2] = True
    return torch.from_numpy(mask).float()


def build(coils, shape, kind="points", seed=0):
    mask = random_mask(shape, kind, seed)
    if coils is None:
        return MRI(mask)
    maps = torch.randn(coils, *shape, dtype=torch.complex128, generator=generator(seed + 1))
    return MultiCoilMRI(mask, maps)


def domain_range(coils, shape, batch, dtype=torch.float64, seed=0):
    x = torch.randn(batch, 2, *shape, dtype=dtype, generator=generator(seed + 2))
    middle = () if coils is None else (coils,)
    y = torch.randn(batch, 2, *middle, *shape, dtype=dtype, generator=generator(seed + 3))
    return x, y


def complexed(x):
    return torch.complex(x[:, 0], x[:, 1])


every_case = pytest.mark.parametrize("coils", [None, COILS])
every_shape = pytest.mark.parametrize("shape", SHAPES)


@every_case
@every_shape
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_dot_product(coils, shape, batch, dtype, tolerance):
    A = build(coils, shape)
    x, v = domain_range(coils, shape, batch, dtype)
    y, w = A.A(x), A.A_adjoint(v)
    assert y.shape == v.shape and w.shape == x.shape
    assert y.dtype == w.dtype == A.A_adjoint_A(x).dtype == dtype
    left, right = (y * v).sum(), (x * w).sum()
    assert abs(left - right) <= tolerance * y.norm() * v.norm()


@every_case
@every_shape
@pytest.mark.parametrize("kind", ["points", "lines"])
def test_normal_operator(coils, shape, kind):
    A = build(coils, shape, kind)
    x, y = domain_range(coils, shape, 2)
    torch.testing.assert_close(A.A_adjoint_A(x), A.A_adjoint(A.A(x)), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(A.A_A_adjoint(y), A.A(A.A_adjoint(y)), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("coils", [None, COILS])
def test_normal_operator_of_row_lines_and_of_full_sampling(coils):
    shape = (9, 8)
    x, _ = domain_range(coils, shape, 1)
    rows = torch.zeros(shape)
    rows[::3] = 1
    for mask in (rows, torch.ones(shape)):
        A = build(coils, shape)
        A.update(mask=mask)
        torch.testing.assert_close(A.A_adjoint_A(x), A.A_adjoint(A.A(x)), rtol=1e-10, atol=1e-10)


@every_shape
def test_against_numpy(shape):
    A = build(COILS, shape)
    x, _ = domain_range(COILS, shape, 2)
    want = np.empty((2, COILS, *shape), complex)
    grid = [np.arange(n) - n // 2 for n in shape]
    dft = [np.exp(-2j * np.pi * np.outer(g, g) / len(g)) / np.sqrt(len(g)) for g in grid]
    for b in range(2):
        for c in range(COILS):
            image = A.coil_maps[0, c].numpy() * complexed(x)[b].numpy()
            want[b, c] = A.mask[0, 0].numpy() * (dft[0] @ image @ dft[1].T)
    np.testing.assert_allclose(complexed(A.A(x)).numpy(), want, atol=1e-12)


@every_shape
def test_fourier_convention_is_sigpys(shape):
    sigpy = pytest.importorskip("sigpy")
    x, _ = domain_range(None, shape, 1)
    y = complexed(MRI(torch.ones(shape)).A(x))[0].numpy()
    np.testing.assert_allclose(y, sigpy.fft(complexed(x)[0].numpy()), atol=1e-12)


@every_case
@every_shape
def test_agrees_with_deepinv(coils, shape):
    A = build(coils, shape)
    x, v = domain_range(coils, shape, 2)
    theirs = (
        deepinv.physics.MRI(mask=A.mask) if coils is None else deepinv.physics.MultiCoilMRI(mask=A.mask, coil_maps=A.coil_maps)
    )
    torch.testing.assert_close(A(x), theirs(x), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(A.A_adjoint(v), theirs.A_adjoint(v), rtol=1e-10, atol=1e-10)
    flag = {"mag": True} if coils is None else {"rss": True}
    torch.testing.assert_close(A.A_adjoint(v, **flag), theirs.A_adjoint(v, **flag))


@every_case
def test_zero_off_the_mask(coils):
    A = build(coils, (15, 12))
    x, v = domain_range(coils, (15, 12), 2)
    off = A.mask[0, 0] == 0
    assert (A.A(x)[..., off] == 0).all()
    assert (A.A(x)[..., ~off] != 0).all()
    torch.testing.assert_close(A.A_adjoint(torch.where(off, 1e6, v)), A.A_adjoint(torch.where(off, 0.0, v)))


# torch.func.jvp loads its decompositions with torch's own deprecated scripting
@pytest.mark.filterwarnings("ignore:`torch.jit.script:FutureWarning")
@every_case
def test_autograd_is_the_operator(coils):
    check_autograd(build(coils, (9, 8)), (2, 9, 8))


@every_case
def test_coil_groups_do_not_change_the_result(coils, monkeypatch):
    A = build(coils, (9, 8))
    x, v = domain_range(coils, (9, 8), 2)
    whole = A.A(x), A.A_adjoint(v), A.A_adjoint_A(x)
    monkeypatch.setattr(module, "_CPU_CHUNK", 2 * 9 * 8 * 2)
    assert coils is None or len(A._coils(complexed(x)[:, None])) == 2
    for one, other in zip(whole, (A.A(x), A.A_adjoint(v), A.A_adjoint_A(x)), strict=True):
        torch.testing.assert_close(one, other)


@every_case
def test_batch_members_do_not_meet(coils):
    A = build(coils, (9, 8))
    x, v = domain_range(coils, (9, 8), 3)
    for method, value in ((A.A, x), (A.A_adjoint, v), (A.A_adjoint_A, x)):
        torch.testing.assert_close(method(value)[1:2], method(value[1:2]), rtol=1e-12, atol=1e-12)


@every_case
def test_calls_leave_operator_and_inputs_alone(coils):
    A = build(coils, (9, 8))
    x, v = domain_range(coils, (9, 8), 2)
    x0, v0 = x.clone(), v.clone()
    state = {name: value.clone() for name, value in A.state_dict().items()}
    attributes = {name: value for name, value in vars(A).items() if not name.startswith("_")}
    other = random_mask((9, 8), seed=5)
    want = build(coils, (9, 8))
    want.update(mask=other)

    for call in (A, A.A, A.A_adjoint_A):
        assert not torch.equal(call(x, mask=other), call(x))
        torch.testing.assert_close(call(x, mask=other), getattr(want, getattr(call, "__name__", "A"))(x))
    torch.testing.assert_close(A.A_adjoint(v, mask=other), want.A_adjoint(v))
    A.A_dagger(v, mask=other)
    if coils is not None:
        maps = A.coil_maps * 2
        torch.testing.assert_close(A.A(x, coil_maps=maps), 2 * A.A(x))
        A.A_dagger(v, solver="lsqr", max_iter=21, tol=0.5)
        A.prox_l2(x, v, 1.0, solver="minres", max_iter=21, tol=0.5)
    A.prox_l2(x, v, 1.0)

    assert torch.equal(x, x0) and torch.equal(v, v0)
    assert all(torch.equal(value, state[name]) for name, value in A.state_dict().items())
    assert {name: value for name, value in vars(A).items() if not name.startswith("_")} == attributes


def test_does_not_alias_the_maps():
    maps = torch.ones(2, 6, 6, dtype=torch.complex64)
    mask = torch.ones(6, 6)
    A = MultiCoilMRI(mask, maps)
    maps.zero_()
    mask.zero_()
    assert (A.coil_maps == 1).all() and (A.mask == 1).all()


def dense(A, x):
    """The real matrix of A, (range, domain)."""
    eye = torch.eye(x[0].numel(), dtype=x.dtype).reshape(-1, *x.shape[1:])
    return A.A(eye).flatten(1).T


def test_prox_with_a_weight_for_each_member():
    """As many members as columns, along which deepinv's would broadcast."""
    A = build(None, (6, 5))
    z, y = domain_range(None, (6, 5), 5)
    gamma = torch.linspace(0.1, 3, 5, dtype=z.dtype)
    each = [A.prox_l2(z[b : b + 1], y[b : b + 1], float(g)) for b, g in enumerate(gamma)]
    torch.testing.assert_close(A.prox_l2(z, y, gamma), torch.cat(each))
    torch.testing.assert_close(A.prox_l2(None, y, gamma), A.prox_l2(0.0, y, gamma))


@every_case
def test_prox_and_pseudo_inverse(coils):
    A = build(coils, (6, 5))
    z, y = domain_range(coils, (6, 5), 2)
    matrix, gamma = dense(A, z), 0.7
    system = gamma * matrix.T @ matrix + torch.eye(matrix.shape[1], dtype=z.dtype)
    want = torch.linalg.solve(system, (gamma * y.flatten(1) @ matrix + z.flatten(1)).T).T
    got = A.prox_l2(z, y, gamma) if coils is None else A.prox_l2(z, y, gamma, max_iter=200, tol=1e-10)
    torch.testing.assert_close(got.flatten(1), want, rtol=1e-6, atol=1e-6)

    want = y.flatten(1) @ torch.linalg.pinv(matrix).T
    if coils is None:
        torch.testing.assert_close(A.A_dagger(y).flatten(1), want)
    else:
        x = A.A_dagger(A.A(z), max_iter=500, tol=1e-12)
        torch.testing.assert_close(A.A(x), A.A(z), rtol=1e-4, atol=1e-4)


def test_deepinv_algorithms_accept_it():
    A = build(COILS, (9, 8))
    x, y = domain_range(COILS, (9, 8), 2)
    fidelity = deepinv.optim.L2()
    torch.testing.assert_close(fidelity.grad(x, y, A), A.A_adjoint(A.A(x) - y))
    norm = float(torch.linalg.matrix_norm(dense(A, x), 2))
    # deepinv's power method draws its start from the global generator
    with torch.random.fork_rng(devices=[]):
        estimate = A.compute_norm(x[:1], squared=False, verbose=False, max_iter=500, tol=1e-8)
    assert float(estimate) == pytest.approx(norm, rel=1e-2)
    descent = deepinv.optim.optim_builder(
        "PGD",
        data_fidelity=fidelity,
        prior=deepinv.optim.ZeroPrior(),
        max_iter=200,
        params_algo={"stepsize": norm**-2},
    )
    residual = A.A_adjoint(A.A(descent(y, A)) - y)
    assert residual.norm() < 0.05 * A.A_adjoint(y).norm()


@every_case
def test_noise_model_stays_on_the_mask(coils):
    noise = deepinv.physics.GaussianNoise(0.5, rng=generator(4))
    mask = random_mask((32, 32))
    maps = torch.ones(COILS, 32, 32, dtype=torch.complex64)
    A = MRI(mask, noise_model=noise) if coils is None else MultiCoilMRI(mask, maps, noise_model=noise)
    x, _ = domain_range(coils, (32, 32), 2, torch.float32)
    noise_only = A(x) - A.A(x)
    assert (noise_only[..., mask == 0] == 0).all()
    assert noise_only[..., mask == 1].std() == pytest.approx(0.5, rel=0.1)
    other = 1 - mask
    assert (A(x, mask=other)[..., other == 0] == 0).all()


def test_module_to_keeps_maps_complex():
    A = build(COILS, (9, 8))
    x, _ = domain_range(COILS, (9, 8), 1)
    before = A.A(x)
    assert A.to(torch.float64).coil_maps.dtype == torch.complex128
    torch.testing.assert_close(A.A(x), before)
    assert A.to(torch.float32).coil_maps.dtype == torch.complex64
    torch.testing.assert_close(A.A(x), before, rtol=1e-5, atol=1e-5)


def test_mask_layouts_are_one_operator():
    shape = (6, 8)
    line = (torch.arange(8) % 3 == 1).numpy()
    full = np.tile(line, (6, 1))
    maps = torch.randn(COILS, *shape, dtype=torch.complex64, generator=generator())
    x, _ = domain_range(COILS, shape, 1, torch.float32)
    y = MultiCoilMRI(line, maps).A(x)
    for mask in (line.astype(int), full, full[None], np.stack((full, full))[None], torch.from_numpy(full)):
        assert torch.equal(MultiCoilMRI(mask, maps.numpy()).A(x), y)
    assert torch.equal(MRI(line, img_size=(2, *shape)).A(x), MRI(full).A(x))


def test_mask_per_batch_member():
    masks = torch.stack([random_mask((9, 8), seed=seed) for seed in (0, 1)])[:, None]
    x, _ = domain_range(None, (9, 8), 2)
    A = MRI(masks)
    for b in range(2):
        one = MRI(masks[b])
        torch.testing.assert_close(A.A(x)[b : b + 1], one.A(x[b : b + 1]))
        torch.testing.assert_close(A.A_adjoint_A(x)[b : b + 1], one.A_adjoint_A(x[b : b + 1]))
    with pytest.raises(ValueError, match="mask is for a batch of 2, x has 3"):
        A.A(x[[0, 1, 1]])


ONES, MAPS = torch.ones(6, 8), torch.ones(2, 6, 8, dtype=torch.complex64)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MRI(torch.ones(8)), "MRI: a mask of shape .*needs img_size"),
        (lambda: MRI(torch.ones(7), img_size=(6, 8)), "MRI: mask has 7 entries, the image .* has 8 columns"),
        (lambda: MRI(torch.ones(6, 7), img_size=(6, 8)), r"mask is \(6, 7\), the image is \(6, 8\)"),
        (lambda: MRI(0.5 * ONES), "only 0 and 1, got 0.5 to 0.5"),
        (lambda: MRI(ONES * float("nan")), "only 0 and 1"),
        (lambda: MRI(0 * ONES), "samples nothing"),
        (lambda: MRI(torch.ones(3, 6, 8)), r"mask must be .* got \(1, 3, 6, 8\)"),
        (lambda: MRI(ONES.to(torch.complex64)), "mask must be real"),
        (
            lambda: MRI(torch.stack((ONES, ONES * (torch.arange(8) > 2)))),
            "same for the real and the imaginary",
        ),
        (
            lambda: MultiCoilMRI(torch.ones(8, 6), MAPS),
            r"MultiCoilMRI: mask is \(8, 6\), the image is \(6, 8\)",
        ),
        (lambda: MultiCoilMRI(ONES, MAPS.real), "coil_maps must be complex"),
        (lambda: MultiCoilMRI(ONES, 8), "coil_maps must be a complex .* array, got 8"),
        (lambda: MultiCoilMRI(ONES, MAPS[0]), r"coil_maps must be \(N, H, W\) or .* got \(6, 8\)"),
        (lambda: MultiCoilMRI(ONES, MAPS * float("inf")), "coil_maps must be finite"),
        (lambda: MultiCoilMRI(ONES, MAPS).update(mask=torch.ones(5, 8)), r"mask is \(5, 8\)"),
        (
            lambda: MultiCoilMRI(ONES, MAPS).A(torch.ones(1, 6, 8)),
            r"x must be \(B, 2, 6, 8\), got \(1, 6, 8\)",
        ),
        (
            lambda: MultiCoilMRI(ONES, MAPS).A_adjoint(torch.ones(1, 2, 3, 6, 8)),
            r"y must be \(B, 2, 2, 6, 8\)",
        ),
        (
            lambda: MRI(ONES).A(torch.ones(1, 2, 6, 8).half()),
            "x must be float32 or float64, got torch.float16",
        ),
        (lambda: MRI(ONES).A(torch.ones(1, 2, 8, 6)), r"MRI: x must be \(B, 2, 6, 8\), got \(1, 2, 8, 6\)"),
        (lambda: MRI(ONES).A_adjoint(MAPS[None]), "y must be float32 or float64, got torch.complex64"),
    ],
)
def test_errors_name_the_object(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_package_is_lazy_and_complete():
    code = "import sys, operators; assert not {'torch', 'deepinv', 'sigpy'} & set(sys.modules)"
    root = Path(operators.__file__).parents[1]
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, cwd=root)
    assert set(operators.__all__) <= set(dir(operators))
    assert all(callable(getattr(operators, name)) for name in operators.__all__)
    with pytest.raises(AttributeError, match="No operators attribute nothing"):
        _ = operators.nothing
