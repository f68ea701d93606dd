import math

import deepinv
import numpy as np
import pytest
import scipy.ndimage
import scipy.signal
import torch

from operators import (
    Blur,
    PSFBlur,
    VaryingBlur,
    bilinear_weights,
    centred_psf,
    defocus_kernel,
    gaussian_kernel,
    motion_kernel,
)
from operators.blur import BOUNDARIES
from tests.operators.checks import (
    check_adjoint,
    check_autograd,
    check_norm,
    check_precision,
    check_solvers,
    draw,
    generator,
)

MODES = {"periodic": "wrap", "reflect": "reflect", "zero": "constant"}
every_boundary = pytest.mark.parametrize("boundary", BOUNDARIES)
every_size = pytest.mark.parametrize(("shape", "size"), [((12, 9), (5, 3)), ((11, 8), (4, 5)), ((7, 7), (2, 6))])
# torch.func.jvp loads its decompositions with torch's own deprecated scripting
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script:FutureWarning")


def random_kernel(size, seed=0):
    return torch.rand(size, dtype=torch.float64, generator=generator(seed)) - 0.3


def varying(shape, size, boundary):
    return VaryingBlur(random_kernel((4, *size)), bilinear_weights(shape, (2, 2)), boundary)


@every_boundary
@every_size
def test_is_scipys_convolution(boundary, shape, size):
    kernel, x = random_kernel(size), draw(2, (3, *shape))
    y = Blur(kernel, shape, boundary).A(x).numpy()
    for got, image in zip(y.reshape(-1, *y.shape[-2:]), x.reshape(-1, *shape).numpy(), strict=True):
        if boundary == "valid":
            want = scipy.signal.convolve2d(image, kernel.numpy(), mode="valid")
        else:
            want = scipy.ndimage.convolve(image, kernel.numpy(), mode=MODES[boundary])
        np.testing.assert_allclose(got, want, atol=1e-12)


@pytest.mark.parametrize("boundary", ["periodic", "reflect", "zero"])
def test_kernel_larger_than_the_image(boundary):
    kernel, x = random_kernel((15, 12)), draw(1, (1, 5, 6))
    want = scipy.ndimage.convolve(x[0, 0].numpy(), kernel.numpy(), mode=MODES[boundary])
    A = Blur(kernel, (5, 6), boundary)
    np.testing.assert_allclose(A.A(x)[0, 0].numpy(), want, atol=1e-12)
    check_adjoint(A, (1, 5, 6))


@every_boundary
@every_size
def test_linear_operator(boundary, shape, size):
    for A in (Blur(random_kernel(size), shape, boundary), varying(shape, size, boundary)):
        check_adjoint(A, (2, *shape))


@every_boundary
def test_autograd_norm_and_precision(boundary):
    shape, size = (9, 8), (4, 3)
    for A in (Blur(random_kernel(size), shape, boundary), varying(shape, size, boundary)):
        check_autograd(A, (1, *shape))
        check_norm(A, (1, *shape))
        check_precision(A, (1, *shape))


@every_boundary
@pytest.mark.parametrize("symmetric", [False, True])
def test_proximal_operator_and_pseudo_inverse(boundary, symmetric):
    shape = (7, 6)
    # conjugate gradients reach the pseudo-inverse only where the blur is mild
    kernel = gaussian_kernel((0.4, 0.5), truncate=2) if symmetric else random_kernel((3, 2)) / 9
    kernel[1, kernel.shape[1] // 2] += 0 if symmetric else 1
    A = Blur(kernel, shape, boundary)
    assert A.diagonal == (boundary == "periodic" or (boundary == "reflect" and symmetric))
    check_solvers(A, (1, *shape), rcond=A.rcond)
    check_solvers(varying(shape, (3, 3), boundary), (1, *shape), rcond=None)


def test_pseudo_inverse_leaves_out_small_gains():
    A = Blur(torch.ones(1, 4) / 4, (3, 8))
    x = draw(1, (1, 3, 8))
    y = A.A(x)
    torch.testing.assert_close(A.A(A.A_dagger(y)), y)
    assert A.A_dagger(y).norm() < x.norm()


@pytest.mark.parametrize("boundary", ["periodic", "reflect"])
def test_weight_per_batch_member(boundary):
    A = Blur(gaussian_kernel(1.0), (8, 8), boundary)
    z, y = draw(2, (1, 8, 8)), draw(2, (1, 8, 8), seed=1)
    both = A.prox_l2(z, y, torch.tensor([0.5, 3.0]))
    for b, gamma in enumerate((0.5, 3.0)):
        torch.testing.assert_close(both[b : b + 1], A.prox_l2(z[b : b + 1], y[b : b + 1], gamma))
    torch.testing.assert_close(A.prox_l2(None, y, 1.0), A.prox_l2(0.0, y, 1.0))


def test_one_kernel_per_channel():
    kernels = random_kernel((2, 3, 4))
    x = draw(1, (2, 9, 8))
    y = Blur(kernels, (9, 8), "reflect").A(x)
    for c in range(2):
        torch.testing.assert_close(y[:, c : c + 1], Blur(kernels[c], (9, 8), "reflect").A(x[:, c : c + 1]))
    with pytest.raises(ValueError, match=r"x must be \(B, 2, 9, 8\), got \(1, 3, 9, 8\)"):
        Blur(kernels, (9, 8)).A(draw(1, (3, 9, 8)))


def test_new_kernel():
    A, other = Blur(random_kernel((3, 3)), (6, 6)), random_kernel((3, 3), 1)
    x = draw(1, (1, 6, 6))
    want, before = Blur(other, (6, 6)), A.A(x)
    for method in ("A", "A_adjoint", "A_adjoint_A", "A_A_adjoint", "A_dagger"):
        torch.testing.assert_close(getattr(A, method)(x, kernel=other), getattr(want, method)(x))
    torch.testing.assert_close(A.prox_l2(x, x, 0.3, kernel=other), want.prox_l2(x, x, 0.3))
    assert torch.equal(A.A(x), before)
    A.update(kernel=other)
    torch.testing.assert_close(A.A(x), want.A(x))
    with pytest.raises(ValueError, match="size of the old one"):
        A.update(kernel=random_kernel((3, 5)))


@pytest.mark.parametrize(("boundary", "padding"), [("periodic", "circular"), ("valid", "valid")])
def test_agrees_with_deepinv(boundary, padding):
    kernel, x = random_kernel((5, 3)), draw(2, (3, 12, 9))
    theirs = deepinv.physics.Blur(kernel[None, None], padding=padding)
    torch.testing.assert_close(Blur(kernel, (12, 9), boundary).A(x), theirs.A(x))


@pytest.mark.parametrize("boundary", list(MODES))
def test_gaussian_is_scipys(boundary):
    x = draw(1, (1, 20, 17))
    y = Blur(gaussian_kernel((1.2, 2.0)), (20, 17), boundary).A(x)
    want = scipy.ndimage.gaussian_filter(x[0, 0].numpy(), (1.2, 2.0), mode=MODES[boundary], radius=8)
    np.testing.assert_allclose(y[0, 0].numpy(), want, atol=1e-12)


def test_turned_gaussian():
    torch.testing.assert_close(gaussian_kernel((1.0, 2.0), angle=90), gaussian_kernel((2.0, 1.0)))
    turned = gaussian_kernel((1.0, 2.0), angle=30)
    offset = torch.arange(len(turned), dtype=torch.float64) - len(turned) // 2
    y, x = offset[:, None], offset
    c, s = math.cos(math.radians(30)), math.sin(math.radians(30))
    assert float((turned * y * y).sum()) == pytest.approx(c * c * 1 + s * s * 4, rel=0.01)
    assert float((turned * x * y).sum()) == pytest.approx(c * s * (1 - 4), rel=0.01)


def test_motion_by_hand():
    want = torch.tensor([0.125, 0.875, 1, 0.875, 0.125], dtype=torch.float64) / 3
    kernel = motion_kernel(3)
    torch.testing.assert_close(kernel[kernel.shape[0] // 2][kernel[kernel.shape[0] // 2] > 0], want)
    assert kernel.sum() == pytest.approx(1)
    up = motion_kernel(3, 90)
    torch.testing.assert_close(up, kernel.T)
    slanted = motion_kernel(9.3, 30)
    n = len(slanted) // 2, slanted.shape[1] // 2
    y, x = torch.arange(-n[0], n[0] + 1.0)[:, None], torch.arange(-n[1], n[1] + 1.0)
    # second moment along the motion; the hat adds its own, which is at most 1/4 a side
    assert float((slanted * x * y).sum()) == pytest.approx(-(9.3**2) / 12 * math.cos(math.pi / 6) * 0.5, rel=0.05)


def test_defocus_by_area():
    kernel = defocus_kernel(3.7)
    assert kernel.shape == (9, 9) and kernel.sum() == pytest.approx(1)
    assert float(kernel[4, 4]) == pytest.approx(1 / (math.pi * 3.7**2), rel=1e-4)
    torch.testing.assert_close(kernel, kernel.T)
    torch.testing.assert_close(kernel, kernel.flip(0))
    assert float(defocus_kernel(0.4)) == pytest.approx(1)
    fine = np.linspace(-4.5, 4.5, 1801)
    disc = np.hypot(fine[:, None], fine) <= 3.7
    share = disc[:-1, :-1].reshape(9, 200, 9, 200).mean((1, 3)) / (math.pi * 3.7**2)
    np.testing.assert_allclose(kernel.numpy(), share, atol=2e-4)


def test_centred_psf():
    psf = np.zeros((6, 9))
    psf[1, 6] = 3.0
    kernel = centred_psf(psf)
    assert kernel.shape == (9, 13) and kernel[4, 6] == 1 and kernel.sum() == 1
    x = draw(1, (1, 8, 8))
    torch.testing.assert_close(PSFBlur(psf, (8, 8)).A(x), x)


def test_measured_psf(data_file):
    path = data_file("hst-acs-psf")
    fits = pytest.importorskip("astropy.io.fits")
    raw = fits.getdata(path, 1).astype(float)
    assert raw.shape == (39, 37) and 0.95 < raw.sum() < 1
    A = PSFBlur(raw, (64, 50))
    assert A.kernel.sum() == pytest.approx(1) and all(n % 2 for n in A.kernel.shape)
    offset = [torch.arange(n, dtype=torch.float64) - n // 2 for n in A.kernel.shape]
    assert abs(float((A.kernel.sum(1) * offset[0]).sum())) <= 0.5
    assert abs(float((A.kernel.sum(0) * offset[1]).sum())) <= 0.5
    star = torch.zeros(1, 1, 64, 50, dtype=torch.float64)
    star[..., 30, 24] = 100.0
    seen = A.A(star)
    # nearly all the light of a star in the middle stays in the picture
    assert 99 < seen.sum() <= 100 + 1e-9
    want = scipy.ndimage.convolve(star[0, 0].numpy(), A.kernel.numpy(), mode="constant")
    np.testing.assert_allclose(seen[0, 0].numpy(), want, atol=1e-10)
    check_adjoint(A, (1, 64, 50))


@every_boundary
def test_varying_blur_by_pixel(boundary):
    shape, size = (7, 6), (3, 4)
    A = varying(shape, size, boundary)
    x = draw(1, (1, *shape))
    parts = [Blur(k, shape, boundary).A(w * x) for k, w in zip(A.kernel, A.weights, strict=True)]
    torch.testing.assert_close(A.A(x), sum(parts))


def test_varying_blur_of_one_kernel_is_a_blur():
    kernel = gaussian_kernel(1.0)
    A = VaryingBlur(kernel.expand(6, *kernel.shape), bilinear_weights((12, 10), (2, 3)), "reflect")
    x = draw(1, (1, 12, 10))
    torch.testing.assert_close(A.A(x), Blur(kernel, (12, 10), "reflect").A(x))


def test_bilinear_weights():
    weights = bilinear_weights((7, 9), (2, 3))
    assert weights.shape == (6, 7, 9) and (weights >= 0).all()
    torch.testing.assert_close(weights.sum(0), torch.ones(7, 9, dtype=torch.float64))
    assert weights[0, 0, 0] == weights[2, 0, 8] == weights[3, 6, 0] == 1


K = gaussian_kernel(1.0, truncate=2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Blur(K, (8, 8), "circular"), "Blur: boundary must be one of periodic, .* got 'circular'"),
        (lambda: Blur(K, (4, 8), "valid"), r"needs a kernel no larger than \(4, 8\), got \(5, 5\)"),
        (lambda: Blur(K, (8,)), r"shape must be \(H, W\)"),
        (lambda: Blur(K[0], (8, 8)), "kernel must be real"),
        (lambda: Blur(K * float("nan"), (8, 8)), "finite and not zero"),
        (lambda: Blur(0 * K, (8, 8)), "finite and not zero"),
        (lambda: Blur(3, (8, 8)), "kernel must be a real .* got int"),
        (lambda: Blur(K, (8, 8)).A(torch.ones(1, 1, 8, 9)), r"Blur: x must be \(B, \*, 8, 8\), got \(1, 1, 8, 9\)"),
        (lambda: Blur(K, (8, 8), "valid").A_adjoint(torch.ones(1, 1, 8, 8)), r"y must be \(B, \*, 4, 4\)"),
        (lambda: Blur(K, (8, 8)).A(torch.ones(1, 1, 8, 8).half()), "x must be float32 or float64"),
        (lambda: VaryingBlur(K[None], torch.full((1, 8, 8), 0.9)), "weights must sum to 1 .* 0.9 to 0.9"),
        (lambda: VaryingBlur(K[None], torch.ones(2, 8, 8)), "with the same K"),
        (lambda: PSFBlur(-K, (8, 8)), "positive sum"),
        (lambda: PSFBlur(K[None], (8, 8)), r"psf must be real \(h, w\)"),
        (lambda: gaussian_kernel(0.0), "gaussian_kernel: sigma"),
        (lambda: motion_kernel(-1), "motion_kernel: length"),
        (lambda: defocus_kernel(float("inf")), "defocus_kernel: radius"),
        (lambda: bilinear_weights((8, 8), (0, 1)), "bilinear_weights: shape and grid"),
    ],
)
def test_errors_name_the_object(make, message):
    with pytest.raises(ValueError, match=message):
        make()
