import deepinv
import numpy as np
import pytest
import torch

from operators import Inpainting
from tests.operators.checks import check_adjoint, check_autograd, check_norm, check_precision, check_solvers, draw, generator

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script:FutureWarning")


@pytest.mark.parametrize("shape", [(8, 6), (7, 5), (2, 7, 6), (11,)])
def test_linear_operator(shape):
    A = Inpainting.random(shape, 0.4)
    event = (2, *shape) if len(shape) == 2 else shape
    check_adjoint(A, event)
    check_autograd(A, event)
    check_norm(A, event)
    check_precision(A, event)
    check_solvers(A, event)


def test_agrees_with_deepinv():
    A = Inpainting.random((7, 6), 0.5)
    x, z = draw(2, (3, 7, 6), torch.float32), draw(2, (3, 7, 6), torch.float32, 1)
    theirs = deepinv.physics.Inpainting((3, 7, 6), mask=A.mask)
    torch.testing.assert_close(A.A(x), theirs.A(x))
    torch.testing.assert_close(A.prox_l2(z, x, 0.3), theirs.prox_l2(z, A.A(x), 0.3))
    gamma = torch.tensor([0.3, 2.0])
    torch.testing.assert_close(A.prox_l2(z, x, gamma)[1], A.prox_l2(z, x, 2.0)[1])


def test_random_mask():
    mask = Inpainting.random((30, 31), 0.3).mask
    assert mask.sum() == round(0.3 * 30 * 31)
    assert torch.equal(mask, Inpainting.random((30, 31), 0.3, seed=0).mask)
    assert not torch.equal(mask, Inpainting.random((30, 31), 0.3, seed=1).mask)
    assert Inpainting.random((2, 2), 1.0).mask.all()


def test_box():
    mask = Inpainting.box((5, 6), (1, 2), (3, 6)).mask
    assert mask.sum() == 30 - 8 and not mask[1:3, 2:6].any()


def test_missing_values():
    data = np.arange(12.0).reshape(3, 4)
    data[1, 2] = np.nan
    A, y = Inpainting.of_missing(data)
    assert y.shape == (1, 3, 4) and torch.isfinite(y).all() and y.dtype == torch.float64
    assert A.mask.sum() == 11 and A.mask[1, 2] == 0 and y[0, 1, 2] == 0
    torch.testing.assert_close(A.A_dagger(y), y)
    assert np.isnan(data[1, 2])


def test_masks_from_booleans_numpy_and_lists_of_pixels():
    pixels = torch.zeros(4, 5)
    pixels[[0, 2], [1, 3]] = 1
    x = draw(1, (4, 5))
    for mask in (pixels, pixels.bool(), pixels.bool().numpy(), pixels.int()):
        y = Inpainting(mask).A(x)
        assert y[0, 0, 1] == x[0, 0, 1] and (y != 0).sum() == 2


def test_does_not_alias_the_mask():
    mask = torch.ones(3, 3)
    A = Inpainting(mask)
    mask.zero_()
    assert A.mask.all()


def test_noise_stays_on_what_is_seen():
    A = Inpainting.random((40, 40), 0.5, noise_model=deepinv.physics.GaussianNoise(0.5, rng=generator(4)))
    noise = A(torch.zeros(1, 1, 40, 40))
    assert (noise[..., A.mask == 0] == 0).all()
    assert float(noise[..., A.mask == 1].std()) == pytest.approx(0.5, rel=0.1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Inpainting(torch.full((3, 3), 0.5)), "mask must be an array of 0 and 1, got 0.5 to 0.5"),
        (lambda: Inpainting(torch.tensor([1.0, float("nan")])), "mask must be an array of 0 and 1"),
        (lambda: Inpainting(torch.zeros(3, 3)), r"mask of shape \(3, 3\) sees nothing"),
        (lambda: Inpainting.random((4, 4), 0.0), r"fraction must be in \(0, 1\]"),
        (lambda: Inpainting.random((4, 4), 0.001), "see a value"),
        (lambda: Inpainting.random((4, 0), 0.5), "Inpainting.random: shape"),
        (lambda: Inpainting.box((4, 4), (0, 0), (5, 4)), r"a box inside \(4, 4\)"),
        (lambda: Inpainting.box((4, 4), (0, 0), (4, 4)), "sees nothing"),
        (lambda: Inpainting.of_missing(torch.tensor([1.0, float("inf")])), "1 values of the data are infinite"),
        (lambda: Inpainting.of_missing(torch.full((2, 2), float("nan"))), "sees nothing"),
        (lambda: Inpainting(torch.ones(3, 4)).A(torch.ones(1, 4, 3)), r"x must be \(B, ..., 3, 4\), got \(1, 4, 3\)"),
        (lambda: Inpainting(torch.ones(3, 4)).A(torch.ones(3, 4)), r"got \(3, 4\)"),
        (lambda: Inpainting(torch.ones(3)).A_adjoint(torch.ones(1, 3).half()), "y must be float32 or float64"),
    ],
)
def test_errors_name_the_object(make, message):
    with pytest.raises(ValueError, match=message):
        make()
