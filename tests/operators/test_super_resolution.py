import numpy as np
import pytest
import torch
from PIL import Image

from operators import SuperResolution
from operators.super_resolution import KINDS
from tests.operators.checks import check_adjoint, check_autograd, check_norm, check_precision, check_solvers, dense, draw

CASES = [((12, 8), 2), ((13, 9), 3), ((7, 10), 4), ((6, 9), (1, 5))]
every_kind = pytest.mark.parametrize("kind", KINDS)
every_case = pytest.mark.parametrize(("shape", "factor"), CASES)
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script:FutureWarning")


def pillow(x, size):
    return np.asarray(Image.fromarray(x.numpy()).resize(size[::-1], Image.Resampling.BICUBIC))


@every_kind
@every_case
def test_linear_operator(kind, shape, factor):
    A = SuperResolution(shape, factor, kind)
    check_adjoint(A, (2, *shape))
    assert A.A(draw(1, (1, *shape))).shape[-2:] == tuple(-(-n // f) for n, f in zip(shape, A.factor, strict=True))


@every_kind
def test_autograd_norm_precision_and_closed_forms(kind):
    A = SuperResolution((7, 6), 3, kind)
    check_autograd(A, (1, 7, 6))
    check_norm(A, (1, 7, 6))
    check_precision(A, (1, 7, 6))
    check_solvers(A, (2, 7, 6))


@every_kind
@every_case
def test_constants_stay(kind, shape, factor):
    A = SuperResolution(shape, factor, kind)
    torch.testing.assert_close(A.A(torch.ones(1, 1, *shape)), torch.ones(1, 1, *A.output_shape))


@every_case
def test_average_is_the_mean_over_the_cell(shape, factor):
    A = SuperResolution(shape, factor)
    x = draw(1, (1, *shape))
    y = A.A(x)[0, 0]
    (f, g), (m, n) = A.factor, A.output_shape
    want = [[x[0, 0, i * f : (i + 1) * f, j * g : (j + 1) * g].mean() for j in range(n)] for i in range(m)]
    torch.testing.assert_close(y, torch.tensor(want, dtype=x.dtype))
    whole = torch.nn.functional.avg_pool2d(x, A.factor)[0, 0]
    torch.testing.assert_close(y[: whole.shape[0], : whole.shape[1]], whole)


@pytest.mark.parametrize(("shape", "factor"), [((12, 8), 2), ((15, 9), 3), ((24, 16), 4)])
def test_bicubic_is_pillows_and_torchs(shape, factor):
    A = SuperResolution(shape, factor, "bicubic")
    x = draw(1, (1, *shape), torch.float32)
    y = A.A(x)
    np.testing.assert_allclose(y[0, 0].numpy(), pillow(x[0, 0], A.output_shape), atol=1e-5)
    torchs = torch.nn.functional.interpolate(x, A.output_shape, mode="bicubic", antialias=True, align_corners=False)
    torch.testing.assert_close(y, torchs, rtol=1e-5, atol=1e-5)


def test_bicubic_inside_an_odd_image_is_pillows():
    x = draw(1, (1, 41, 41), torch.float32)
    y = SuperResolution((41, 41), 3, "bicubic").A(x)[0, 0]
    # the border weights differ: the first 39 pixels as an image of their own end earlier
    want = pillow(x[0, 0, :39, :39], (13, 13))
    np.testing.assert_allclose(y[:12, :12].numpy()[:-1, :-1], want[:11, :11], atol=1e-5)


def test_gaussian_by_hand():
    A = SuperResolution((9, 8), 3, "gaussian", sigma=1.3)
    x = draw(1, (1, 9, 8))
    rows, columns = (np.arange(n) - (3 * np.arange(3)[:, None] + 1) for n in (9, 8))
    weights = [np.where(abs(u) <= 5.2, np.exp(-0.5 * (u / 1.3) ** 2), 0) for u in (rows, columns)]
    weights = [w / w.sum(1, keepdims=True) for w in weights]
    np.testing.assert_allclose(A.A(x)[0, 0].numpy(), weights[0] @ x[0, 0].numpy() @ weights[1].T, atol=1e-12)
    torch.testing.assert_close(
        SuperResolution((9, 8), 3, "gaussian", sigma=1.5).matrix2, SuperResolution((9, 8), 3, "gaussian").matrix2
    )
    # far narrower than a pixel, and no fine pixel in the middle of a coarse one
    assert torch.isfinite(SuperResolution((8, 8), 4, "gaussian", sigma=0.01).matrix2).all()


def test_pseudo_inverse_is_consistent_and_smallest():
    A = SuperResolution((9, 8), 2, "bicubic")
    x = draw(1, (1, 9, 8))
    y = A.A(x)
    back = A.A_dagger(y)
    torch.testing.assert_close(A.A(back), y)
    assert back.norm() <= x.norm()
    torch.testing.assert_close(A.A_dagger(y, max_iter=3), back)


def test_pseudo_inverse_of_pixels_that_see_the_same():
    A = SuperResolution((6, 6), 2, "gaussian", sigma=1e9)
    y = A.A(draw(1, (1, 6, 6)))
    torch.testing.assert_close(A.A(A.A_dagger(y)), y)


def test_matrix_is_a_product():
    A = SuperResolution((5, 4), 2, "gaussian")
    torch.testing.assert_close(dense(A, (1, 5, 4)), torch.kron(A.matrix2, A.matrix3))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SuperResolution((8,), 2), r"SuperResolution: shape must be \(H, W\)"),
        (lambda: SuperResolution((8, 8), 0), "factor must be a positive integer .* got 0"),
        (lambda: SuperResolution((8, 8), (2, 2, 2)), "factor must be"),
        (lambda: SuperResolution((8, 8), 2, "lanczos"), "kind must be one of average, .* got 'lanczos'"),
        (lambda: SuperResolution((8, 8), 2, "average", sigma=1.0), "only with kind 'gaussian'"),
        (lambda: SuperResolution((8, 8), 2, "gaussian", sigma=-1.0), "sigma must be positive"),
        (lambda: SuperResolution((8, 8), 2).A(torch.ones(1, 1, 8, 7)), r"x must be \(B, \*, 8, 8\)"),
        (lambda: SuperResolution((7, 8), 2).A_adjoint(torch.ones(1, 1, 3, 4)), r"y must be \(B, \*, 4, 4\)"),
        (lambda: SuperResolution((7, 8), 2).A_dagger(torch.ones(1, 1, 3, 4)), r"y must be \(B, \*, 4, 4\)"),
    ],
)
def test_errors_name_the_object(make, message):
    with pytest.raises(ValueError, match=message):
        make()
