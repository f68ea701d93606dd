import numpy as np
import pytest
import torch

from operators import calibration_region, cartesian_mask, poisson_disc_mask

KINDS = ["random", "equispaced", "variable-density"]
every_kind = pytest.mark.parametrize("kind", KINDS)


def lines(mask):
    assert mask.dtype == torch.float32
    assert (mask == mask[:1]).all()
    assert ((mask == 0) | (mask == 1)).all()
    return mask[0].bool()


@every_kind
@pytest.mark.parametrize(
    ("width", "acceleration", "fraction", "total", "centre"),
    [
        (320, 4, None, 80, 26),
        (320, 8, None, 40, 13),
        (257, 4, None, 64, 21),
        (180, 8, None, 22, 7),
        (101, 3, 0.1, 34, 10),
        (64, 4, 0.0, 16, 0),
        (64, 4, 0.25, 16, 16),
        (30, 1, 1.0, 30, 30),
    ],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_counts_are_exact_and_the_centre_is_full(kind, width, acceleration, fraction, total, centre, seed):
    mask = cartesian_mask((12, width), acceleration, fraction, kind, seed)
    assert mask.shape == (12, width)
    line = lines(mask)
    assert line.sum() == total
    first = width // 2 - centre // 2
    assert line[first : first + centre].all()
    if centre:
        assert line[width // 2]


@every_kind
def test_seeds(kind):
    masks = [cartesian_mask((4, 256), kind=kind, seed=seed) for seed in range(5)]
    assert torch.equal(masks[0], cartesian_mask((4, 256), kind=kind, seed=0))
    assert len({tuple(lines(mask).tolist()) for mask in masks}) > 1


@every_kind
def test_other_orientation(kind):
    mask = cartesian_mask((64, 20), kind=kind, phase_encode_axis=-2)
    assert mask.shape == (64, 20)
    assert torch.equal(mask, cartesian_mask((20, 64), kind=kind).T)
    assert torch.equal(mask, cartesian_mask((64, 20), kind=kind, phase_encode_axis=0))


def test_square_images_tell_the_axes_apart():
    columns, rows = (cartesian_mask((32, 32), phase_encode_axis=axis) for axis in (-1, -2))
    assert torch.equal(columns, rows.T) and not torch.equal(columns, rows)


def test_equispaced_lines_are_equispaced():
    for seed in range(4):
        line = lines(cartesian_mask((4, 320), 4, 0.08, "equispaced", seed))
        left = torch.nonzero(line[: 160 - 13]).flatten().diff()
        right = torch.nonzero(line[160 + 13 :]).flatten().diff()
        steps = torch.cat((left, right))
        assert steps.min() >= 5 and steps.max() <= 6  # 294 lines outside the centre, 54 of them sampled


def test_variable_density_thins_outwards():
    count = {kind: sum(lines(cartesian_mask((1, 256), 4, kind=kind, seed=s)).int() for s in range(40)) for kind in KINDS}
    near, far = slice(64, 114), slice(0, 50)
    ratio = {kind: (c[near].sum() / c[far].sum()).item() for kind, c in count.items()}
    assert ratio["variable-density"] > 3
    assert 0.8 < ratio["random"] < 1.25


def test_random_lines_are_uniform():
    count = sum(lines(cartesian_mask((1, 64), 4, 0.08, "random", seed=s)).float() for s in range(400))
    outer = torch.cat((count[:30], count[35:])) / 400
    assert outer.std() < 0.04  # binomial: 0.02
    assert outer.mean() == pytest.approx(11 / 59, rel=1e-5)


@pytest.mark.parametrize(
    ("shape", "acceleration", "calibration"),
    [((64, 64), 4, 16), ((61, 48), 6, 12), ((48, 63), 3, 11), ((64, 64), 8, 0), ((40, 40), 1.5, 8)],
)
@pytest.mark.parametrize("seed", [0, 3])
def test_poisson_disc(shape, acceleration, calibration, seed):
    mask = poisson_disc_mask(shape, acceleration, calibration, seed)
    assert mask.shape == shape and mask.dtype == torch.float32
    assert ((mask == 0) | (mask == 1)).all()
    assert mask.sum() == round(shape[0] * shape[1] / acceleration)
    top, left = shape[0] // 2 - calibration // 2, shape[1] // 2 - calibration // 2
    assert (mask[top : top + calibration, left : left + calibration] == 1).all()
    y, x = ((torch.arange(n) - n // 2) / (n / 2) for n in shape)
    assert (mask[torch.hypot(y[:, None], x) > 1] == 0).all()
    assert torch.equal(mask, poisson_disc_mask(shape, acceleration, calibration, seed))
    assert not torch.equal(mask, poisson_disc_mask(shape, acceleration, calibration, seed + 1))


def test_poisson_disc_keeps_its_distance_and_thins_outwards():
    mask = poisson_disc_mask((96, 96), 8, 16).numpy() > 0
    radius = np.hypot(*np.mgrid[-48:48, -48:48])
    points = {name: np.argwhere(mask & near) for name, near in (("in", radius < 30), ("out", radius > 36))}
    closest = {}
    for name, at in points.items():
        at = at[np.abs(at - 48).max(axis=1) > 12]
        gap = np.linalg.norm(at[:, None] - at, axis=-1)
        closest[name] = gap[gap > 0].min()
    # in the outer ring a random mask of this density would have many pairs of neighbours
    assert closest["out"] >= 2
    assert closest["out"] > closest["in"]
    assert mask[(radius > 12) & (radius < 24)].mean() > 2 * mask[(radius > 36) & (radius < 48)].mean()


def test_poisson_disc_corners():
    mask = poisson_disc_mask((64, 64), 4, 16, corners=True)
    assert mask.sum() == 1024
    y = (torch.arange(64) - 32) / 32
    assert mask[torch.hypot(y[:, None], y) > 1].sum() > 20
    assert (poisson_disc_mask((20, 20), 1, 4, corners=True) == 1).all()


def test_calibration_region_of_masks():
    assert calibration_region(poisson_disc_mask((64, 60), 6, 16)) == (16, 16)
    assert calibration_region(poisson_disc_mask((61, 48), 6, 13)) == (13, 13)
    line = torch.zeros(20, 64)
    line[:, 29:36] = 1
    assert calibration_region(line) == (20, 7)
    assert calibration_region(line.T.numpy()) == (7, 20)
    assert calibration_region(torch.ones(9, 8)) == (9, 8)
    line[10, 32] = 0
    assert calibration_region(line) == (0, 0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: cartesian_mask((10,)), "shape must be"),
        (lambda: cartesian_mask((10, 0)), "shape must be"),
        (lambda: cartesian_mask((10, 64), 0.5), "acceleration must be .* got 0.5"),
        (lambda: cartesian_mask((10, 64), float("nan")), "acceleration must be"),
        (
            lambda: cartesian_mask((10, 64), 8, 0.3),
            "leaves 8 of 64 lines, of which center_fraction 0.3 takes 19",
        ),
        (lambda: cartesian_mask((10, 64), 300), "leaves 0 of 64"),
        (lambda: cartesian_mask((10, 64), 4, -0.1), "center_fraction must be"),
        (lambda: cartesian_mask((10, 64), kind="spiral"), "kind must be .* got 'spiral'"),
        (lambda: cartesian_mask((10, 64), phase_encode_axis=2), "phase_encode_axis must be"),
        (lambda: poisson_disc_mask((64, 64), 8, 32), "asks for 512 samples, but a calibration square of 32"),
        (lambda: poisson_disc_mask((64, 64), 1, 8), "asks for 4096 samples"),
        (lambda: poisson_disc_mask((64, 20), 4, 24), "calibration must be 0 to 20, got 24"),
    ],
)
def test_errors_say_what_was_wanted(make, message):
    with pytest.raises(ValueError, match=message):
        make()
