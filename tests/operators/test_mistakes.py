"""What users get wrong in a constructor: one sentence that names who asks, what it got and what it wanted."""

import numpy as np
import pytest
import torch
import xarray as xr

import operators as ops

GRID = ops.Grid(np.arange(30, 41.0), np.arange(0, 11.0))
STATIONS = ops.StationObservations(GRID, [35.0], [5.0])
KERNEL = ops.gaussian_kernel(1.0)
SPOKES = ops.radial_trajectory(4, 16)
DATASET = xr.Dataset(coords={"latitude": GRID.latitude, "longitude": GRID.longitude})

MISTAKES = {
    "blur of one size": (lambda: ops.Blur(KERNEL, 16), ValueError, r"Blur: shape must be \(H, W\).*got 16"),
    "super-resolution of one size": (lambda: ops.SuperResolution(16, 4), ValueError, r"SuperResolution: shape must be.*got 16"),
    "trajectory for one size": (lambda: ops.NonCartesianMRI(SPOKES, 16), ValueError, r"NonCartesianMRI: shape must be.*got 16"),
    "mask of one size": (lambda: ops.cartesian_mask(32), ValueError, r"cartesian_mask: shape must be \(H, W\).*got 32"),
    "discs of one size": (lambda: ops.poisson_disc_mask(32), ValueError, r"poisson_disc_mask: shape must be.*got 32"),
    "maps of one size": (lambda: ops.birdcage_maps(4, 16), ValueError, r"birdcage_maps: coils and shape \(H, W\).*4 and 16"),
    "complex data": (
        lambda: ops.MRI(torch.ones(8, 8)).A_adjoint(torch.zeros(1, 8, 8, dtype=torch.complex64)),
        ValueError,
        r"y must be \(B, 2, 8, 8\), got \(1, 8, 8\) complex; pass real and imaginary part, torch\.stack",
    ),
    "no mask": (lambda: ops.MRI(None), TypeError, "MRI: mask must be an array of numbers, got NoneType"),
    "a mask's name": (lambda: ops.Inpainting("mask.npy"), TypeError, "Inpainting: mask must be an array of numbers, got str"),
    "a line of k-space": (lambda: ops.calibration_region(torch.ones(16)), ValueError, r"calibration_region: .*got \(16,\)"),
    "no station": (lambda: ops.StationObservations(GRID, [], []), ValueError, "latitude holds no point; wanted one or more"),
    "all stations elsewhere": (
        lambda: ops.StationObservations(GRID, [50.0], [5.0], outside="drop"),
        ValueError,
        r"1 of 1 points are outside .*none is left",
    ),
    "sizes for a grid": (
        lambda: ops.StationObservations((11, 11), [35.0], [5.0]),
        TypeError,
        "StationObservations: grid is a tuple; wanted an operators.Grid",
    ),
    "a dataset for a grid": (
        lambda: ops.AreaAverage(DATASET, 2),
        TypeError,
        "AreaAverage: grid is a Dataset.*Grid.from_xarray",
    ),
    "operators without a list": (lambda: ops.Stack(STATIONS, STATIONS), TypeError, "Stack: shape is a StationObs.*in one list"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_named(name):
    build, kind, words = MISTAKES[name]
    with pytest.raises(kind, match=words):
        build()


def test_whole_numbers_of_any_type_are_factors():
    assert ops.SuperResolution((16, 16), 4.0).factor == (4, 4)
    assert ops.AreaAverage(GRID, np.int64(2)).coarse.shape == ops.AreaAverage(GRID, 2.0).coarse.shape == (6, 6)
