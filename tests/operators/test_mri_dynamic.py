import deepinv
import pytest
import torch

from operators import (
    MRI,
    DynamicMRI,
    MultiCoilMRI,
    OffCentre,
    SoftSENSE,
    VolumeMRI,
    birdcage_maps,
    cartesian_mask,
    espirit,
    espirit_sets,
    kt_mask,
    partial_fourier_mask,
)
from tests.operators.checks import check_adjoint, check_autograd, check_norm, check_precision, check_solvers, draw, generator

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script:FutureWarning")
COILS, SETS = 3, 2


def mask(*shape, seed=0):
    m = (torch.rand(shape, generator=generator(seed)) < 0.5).float()
    m[..., shape[-2] // 2, shape[-1] // 2] = 1
    return m


def maps(*shape, seed=1):
    return torch.randn(shape, dtype=torch.complex128, generator=generator(seed))


BUILDERS = {
    "volume": lambda: VolumeMRI(mask(3, 5, 4)),
    "volume, coils": lambda: VolumeMRI(mask(4, 3, 6), maps(COILS, 4, 3, 6)),
    "dynamic": lambda: DynamicMRI(mask(3, 5, 4)),
    "dynamic, coils": lambda: DynamicMRI(mask(2, 5, 6), maps(COILS, 5, 6)),
    "dynamic volume": lambda: DynamicMRI(mask(2, 3, 4, 5), maps(COILS, 3, 4, 5)),
    "sets": lambda: SoftSENSE(mask(5, 6), maps(SETS, COILS, 5, 6)),
    "off centre": lambda: OffCentre(MRI(mask(6, 5)), (0.7, -2.0)),
    "off centre, coils": lambda: OffCentre(MultiCoilMRI(mask(6, 5), maps(COILS, 6, 5)), (1.3, 0.2)),
    "off centre, dynamic": lambda: OffCentre(DynamicMRI(mask(2, 6, 5), maps(COILS, 6, 5)), (1.3, 0.2)),
}


def event(A):
    return (2, *(A.operator if isinstance(A, OffCentre) else A).shape)


@pytest.mark.parametrize("name", BUILDERS)
def test_linear_operator(name):
    A = BUILDERS[name]()
    check_adjoint(A, event(A))
    check_autograd(A, event(A))
    check_norm(A, event(A))
    check_precision(A, event(A))
    free = "coils" not in name and name not in ("sets", "dynamic volume", "off centre, dynamic")
    check_solvers(A, event(A), rcond=1e-8 if free else None)


def test_volume_is_sigpys_transform():
    sigpy = pytest.importorskip("sigpy")
    x, s = draw(1, (2, 5, 4, 7)), maps(COILS, 5, 4, 7)
    y = VolumeMRI(torch.ones(5, 4, 7), s).A(x)
    want = sigpy.fft((s * torch.complex(x[0, 0], x[0, 1])).numpy(), axes=(-3, -2, -1))
    torch.testing.assert_close(torch.complex(y[0, 0], y[0, 1]), torch.from_numpy(want))


def test_agree_with_deepinv():
    m = mask(4, 6, 5)
    x = draw(2, (2, 4, 6, 5))
    dynamic = deepinv.physics.DynamicMRI(mask=m.expand(1, 2, 4, 6, 5))
    torch.testing.assert_close(DynamicMRI(m).A(x), dynamic.A(x), check_dtype=False)
    s = maps(COILS, 4, 6, 5)
    volume = deepinv.physics.MultiCoilMRI(mask=m.expand(1, 2, 4, 6, 5), coil_maps=s[None], three_d=True, img_size=(2, 4, 6, 5))
    torch.testing.assert_close(VolumeMRI(m, s).A(x), volume.A(x), check_dtype=False)


def test_each_time_is_an_image_of_its_own():
    m, s, x = kt_mask(3, (8, 12), acceleration=3), maps(COILS, 8, 12), draw(2, (2, 3, 8, 12))
    y = DynamicMRI(m, s).A(x)
    for t in range(3):
        torch.testing.assert_close(y[:, :, :, t], MultiCoilMRI(m[t], s).A(x[:, :, t]))


def test_lines_for_a_stated_shape_and_masks_of_volumes():
    lines = kt_mask(3, (1, 12), acceleration=3)
    torch.testing.assert_close(DynamicMRI(lines, shape=(3, 8, 12)).mask, kt_mask(3, (8, 12), acceleration=3))
    assert VolumeMRI(mask(6, 5), shape=(4, 6, 5)).mask.shape == (4, 6, 5)


def test_maps_per_batch_member_and_for_one_call():
    A = DynamicMRI(mask(2, 5, 6), maps(COILS, 5, 6))
    x = draw(2, (2, 2, 5, 6))
    y = A.A(x)
    both = torch.stack((A.coil_maps[0], 2 * A.coil_maps[0]))
    torch.testing.assert_close(A.A(x, coil_maps=both), y * torch.tensor([1.0, 2.0]).reshape(2, 1, 1, 1, 1, 1))
    other = 1 - A.mask
    assert (A.A(x, mask=other)[..., other == 0] == 0).all() and torch.equal(A.A(x), y)
    A.update(coil_maps=both, mask=other)
    assert not torch.equal(A.A(x), y)
    with pytest.raises(ValueError, match="coil_maps are for a batch of 2, x has 3"):
        A.A(draw(3, (2, 2, 5, 6)))


def test_solvers_with_maps_for_one_call():
    """An operator without maps, of which the closed forms hold, given some: those of the operator that has them."""
    given = maps(COILS, 3, 5, 6)
    bare, own = VolumeMRI(torch.ones(3, 5, 6)), VolumeMRI(torch.ones(3, 5, 6), given)
    x = draw(1, (2, 3, 5, 6))
    y, settings = own.A(x), {"max_iter": 200, "tol": 1e-12}
    torch.testing.assert_close(bare.A_dagger(y, coil_maps=own.coil_maps, **settings), x, rtol=1e-4, atol=1e-4)
    want = own.prox_l2(x, y, 0.7, **settings)
    torch.testing.assert_close(bare.prox_l2(x, y, 0.7, coil_maps=own.coil_maps, **settings), want, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["volume", "off centre", "sets"])
def test_noise_stays_on_the_mask(name):
    noise = deepinv.physics.GaussianNoise(0.5, rng=generator(4))
    base = {
        "volume": lambda: VolumeMRI(mask(3, 20, 20), noise_model=noise),
        "off centre": lambda: OffCentre(MRI(mask(20, 20), noise_model=noise), (1.0, 2.0)),
        "sets": lambda: SoftSENSE(mask(20, 20), maps(SETS, COILS, 20, 20), noise_model=noise),
    }[name]()
    x = torch.zeros(1, *event(base))
    seen = (base.operator.mask[0, 0] if name == "off centre" else base.mask) == 1
    y = base(x)
    assert (y[..., ~seen] == 0).all() and float(y[..., seen].std()) == pytest.approx(0.5, rel=0.1)


def test_one_set_is_the_multi_coil_operator():
    s, m, x = maps(COILS, 6, 5), mask(6, 5), draw(2, (2, 6, 5))
    torch.testing.assert_close(SoftSENSE(m, s[None]).A(x[:, :, None]), MultiCoilMRI(m, s).A(x))


@pytest.mark.parametrize("shape", [(12, 10), (11, 9)])
def test_offset_moves_the_object(shape):
    x, s = draw(1, (2, *shape)), maps(COILS, *shape)
    A = MultiCoilMRI(torch.ones(shape), s)
    moved = MultiCoilMRI(torch.ones(shape), torch.roll(s, (3, -2), (-2, -1))).A(torch.roll(x, (3, -2), (-2, -1)))
    torch.testing.assert_close(OffCentre(A, (3, -2)).A(x), moved)


def folded(side=32):
    """k-space of a smooth object and coils, encoded with three quarters of the field of view that it needs, and its width."""
    n = side * 4 // 3
    y, x = (torch.arange(m) - m // 2 for m in (side, n))
    ellipse = ((y[:, None] / (0.4 * side)) ** 2 + (x / (0.46 * n)) ** 2 < 1).float()
    coils = birdcage_maps(6, (side, n))
    image = (coils * ellipse).to(torch.complex128)
    pad = torch.zeros(6, side, 2 * side, dtype=torch.complex128)
    first = side - n // 2
    pad[..., first : first + n] = image
    # the part beyond the encoded field of view comes in from the other side
    fold = pad[..., side // 2 : side // 2 + side].clone()
    fold[..., side // 2 :] += pad[..., : side // 2]
    fold[..., : side // 2] += pad[..., side // 2 + side :]
    k = MultiCoilMRI(torch.ones(side, side), torch.ones(1, side, side, dtype=torch.complex128))
    data = torch.cat([k.A(torch.stack((f.real, f.imag))[None])[:, :, 0] for f in fold]).movedim(0, 1)[None]
    return data, torch.complex(data[0, 0], data[0, 1])


def test_first_set_is_espirits():
    pytest.importorskip("sigpy")
    side = 32
    y, x = (torch.arange(side) - side // 2 for _ in range(2))
    image = ((y[:, None] ** 2 + x**2) < 10**2).float()
    k = MultiCoilMRI(torch.ones(side, side), birdcage_maps(4, (side, side))).A(torch.stack((image, 0 * image))[None])
    k = torch.complex(k[0, 0], k[0, 1])
    one, eigenvalue = espirit(k, 20)
    many, eigenvalues = espirit_sets(k, 2, 20)
    inside = image > 0
    assert (one.conj() * many[0]).sum(0).abs()[inside].min() > 0.999
    torch.testing.assert_close(eigenvalues[0][inside], eigenvalue[inside], rtol=0.01, atol=0.01)
    assert eigenvalues[1][inside].median() < 0.5


def test_two_sets_explain_a_folded_object():
    data, k = folded()
    found, eigenvalues = espirit_sets(k, 2, 24)
    assert (eigenvalues[1] > 0.9).float().mean() > 0.1
    residual = []
    for count in (1, 2):
        A = SoftSENSE(torch.ones(32, 32), found[:count].to(torch.complex128))
        residual.append(float((A.A(A.A_dagger(data, max_iter=200, tol=1e-8)) - data).norm() / data.norm()))
    assert residual[1] < 0.3 * residual[0]


def test_partial_fourier_mask():
    m = partial_fourier_mask((8, 16), 0.625)
    assert m[:, :10].all() and not m[:, 10:].any()
    assert torch.equal(partial_fourier_mask((16, 8), 0.625, axis=0, first=False), m.T.flip(0))
    assert (m * cartesian_mask((8, 16), 2.0)).sum() < m.sum()
    assert partial_fourier_mask((5, 5), 1.0).all()


def test_kt_mask():
    m = kt_mask(4, (6, 32), acceleration=4)
    assert m.shape == (4, 6, 32) and (m[:, 0].sum(-1) == 8).all()
    assert not torch.equal(m[0], m[1]) and torch.equal(m, kt_mask(4, (6, 32), seed=0, acceleration=4))


S = torch.ones(2, 6, 8, dtype=torch.complex64)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: VolumeMRI(torch.ones(6, 8)), ValueError, r"VolumeMRI: mask, or shape, must be \(D, H, W\), got \(6, 8\)"),
        (lambda: DynamicMRI(torch.ones(6, 8)), ValueError, r"DynamicMRI: mask, or shape, must be \(T, H, W\)"),
        (lambda: DynamicMRI(0.5 * torch.ones(2, 6, 8)), ValueError, "mask must hold 0 and 1"),
        (lambda: DynamicMRI(torch.zeros(2, 6, 8)), ValueError, "and some 1"),
        (lambda: DynamicMRI(torch.ones(3, 6, 8), shape=(2, 6, 8)), ValueError, "does not broadcast to"),
        (lambda: DynamicMRI(torch.ones(2, 8, 6), S), ValueError, r"coil_maps are of \(6, 8\), the image is \(8, 6\)"),
        (lambda: DynamicMRI(torch.ones(2, 6, 8), S.real), ValueError, "DynamicMRI: coil_maps must be complex64"),
        (lambda: VolumeMRI(torch.ones(2, 6, 8), S), ValueError, r"coil_maps must be \(N, D, H, W\)"),
        (lambda: DynamicMRI(torch.ones(2, 6, 8)).A(torch.ones(1, 2, 6, 8)), ValueError, r"x must be \(B, 2, 2, 6, 8\)"),
        (lambda: SoftSENSE(torch.ones(6, 8), S[None]).A_adjoint(torch.ones(1, 2, 6, 8)), ValueError, r"y must be \(B, 2, 2, 6"),
        (lambda: OffCentre(deepinv.physics.Denoising(), (1, 1)), TypeError, "operator is a Denoising; wanted one of MRI"),
        (lambda: OffCentre(MRI(torch.ones(6, 8)), (1.0, 2.0, 3.0)), ValueError, "offset must be up to 2 finite numbers"),
        (lambda: OffCentre(MRI(torch.ones(6, 8)), (1.0, 2.0)).A_adjoint(S), ValueError, "MRI: y must be"),
        (lambda: espirit_sets(S.real), ValueError, r"kspace must be \(N, H, W\) complex"),
        (lambda: espirit_sets(S, 3), ValueError, "wanted 1 <= sets <= 2"),
        (lambda: espirit_sets(S * mask(6, 8), 1, 5, kernel=2), ValueError, "is not fully sampled"),
        (lambda: partial_fourier_mask((8, 8), 0.4), ValueError, r"fraction in \(0.5, 1\], got -1 and 0.4"),
        (lambda: partial_fourier_mask((4, 4), 0.51), ValueError, "does not reach the zero frequency"),
        (lambda: kt_mask(0, (8, 8)), ValueError, "frames must be a positive integer"),
    ],
)
def test_errors_name_the_object(make, error, message):
    with pytest.raises(error, match=message):
        make()
