import gzip

import numpy as np
import pytest
import torch

from posterior.io.images import Image, ImageError, read_image, write_image

nibabel = pytest.importorskip("nibabel")

AFFINE = np.array([[-2.0, 0, 0, 90], [0, 0, 1.5, -126], [0, 3.0, 0, -72], [0, 0, 0, 1]])


@pytest.fixture
def volume():
    return np.random.default_rng(0).standard_normal((5, 6, 7)).astype(np.float32)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_nifti_in_and_out(tmp_path, volume, ending):
    path = tmp_path / f"a{ending}"
    write_image(path, Image(torch.from_numpy(volume), torch.from_numpy(AFFINE)))
    image = read_image(path)
    assert np.array_equal(image.data.numpy(), volume)
    assert np.array_equal(image.affine.numpy(), AFFINE)
    assert image.voxel_size == (2.0, 3.0, 1.5)
    assert np.array_equal(nibabel.load(path).get_fdata(dtype=np.float32), volume)


def test_nifti_keeps_the_order_of_its_axes_and_applies_its_scale(tmp_path):
    stored = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    out = nibabel.Nifti1Image(stored, AFFINE)
    out.header.set_slope_inter(0.5, 10)
    nibabel.save(out, tmp_path / "a.nii")
    raw = nibabel.load(tmp_path / "a.nii")
    assert np.array_equal(read_image(tmp_path / "a.nii").data.numpy(), raw.get_fdata(dtype=np.float32))


@pytest.mark.parametrize(("unit", "factor"), [("mm", 1.0), ("micron", 1000.0), ("meter", 0.001), ("unknown", 1.0)])
def test_voxels_are_in_millimetres_whatever_the_unit_of_the_file(tmp_path, volume, unit, factor):
    out = nibabel.Nifti1Image(volume, np.diag([factor, factor, factor, 1]) @ AFFINE)
    out.header.set_xyzt_units(unit)
    nibabel.save(out, tmp_path / "a.nii")
    image = read_image(tmp_path / "a.nii")
    np.testing.assert_allclose(image.affine, AFFINE, rtol=1e-6)
    assert image.voxel_size == pytest.approx((2.0, 3.0, 1.5))


def test_complex_nifti(tmp_path, volume):
    image = Image(torch.from_numpy(volume + 1j * volume[::-1]).to(torch.complex64), torch.from_numpy(AFFINE))
    write_image(tmp_path / "a.nii.gz", image)
    assert torch.equal(read_image(tmp_path / "a.nii.gz").data, image.data)
    for name in ("b.nii", "b.npy"):
        for view in (image.data.conj(), image.data.conj().imag):
            write_image(tmp_path / name, Image(view, image.affine))
            assert torch.equal(read_image(tmp_path / name).data, view.resolve_conj().resolve_neg())


def test_numpy(tmp_path, volume):
    write_image(tmp_path / "a.npy", Image(torch.from_numpy(volume)))
    np.savez_compressed(tmp_path / "b.npz", scan=volume, other=volume[0])
    assert np.array_equal(read_image(tmp_path / "a.npy").data.numpy(), volume)
    assert read_image(tmp_path / "a.npy").voxel_size is None
    assert np.array_equal(read_image(tmp_path / "b.npz", "other").data.numpy(), volume[0])


def test_real_volume(data_file):
    image = read_image(data_file("stroke-t1"))
    assert tuple(image.data.shape) == (124, 160, 140)
    assert image.voxel_size == pytest.approx((1, 1, 1), abs=0.2)


def test_npz_of_several_arrays_has_to_be_told_which(tmp_path, volume, refused):
    np.savez(tmp_path / "a.npz", scan=volume, other=volume)
    refused(ImageError, ["a.npz", "several arrays but scan, other"], read_image, tmp_path / "a.npz")
    refused(ImageError, ["a.npz", "no array 'mask' but scan, other"], read_image, tmp_path / "a.npz", "mask")


@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
def test_objects_are_not_unpickled(tmp_path, refused, name):
    array = np.array([{"a": 1}], dtype=object)
    (np.save if name == "a.npy" else np.savez)(tmp_path / name, array, allow_pickle=True)
    refused(ImageError, [name, "not a complete NumPy file of numbers"], read_image, tmp_path / name)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.npy", "a.npz"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.6])
def test_truncated(tmp_path, volume, refused, name, share):
    path = tmp_path / name
    if name == "a.npz":
        np.savez(path, volume)
    else:
        write_image(path, Image(torch.from_numpy(volume), torch.from_numpy(AFFINE)))
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    refused(ImageError, [name, "not a complete"], read_image, path)


def test_missing_values(tmp_path, volume, refused):
    volume[1, 2, 3] = np.nan
    np.save(tmp_path / "a.npy", volume)
    refused(ImageError, ["a.npy", "1 of 210 values", "NaN"], read_image, tmp_path / "a.npy")
    nibabel.save(nibabel.Nifti1Image(volume, AFFINE), tmp_path / "a.nii")
    refused(ImageError, ["a.nii", "1 of 210 values"], read_image, tmp_path / "a.nii")


def test_size_limit_comes_before_the_reading(tmp_path, refused):
    header = nibabel.Nifti1Header()
    header.set_data_shape((20000, 20000, 20000))
    header.set_data_dtype(np.float32)
    (tmp_path / "a.nii").write_bytes(header.binaryblock + bytes(4))
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(header.binaryblock + bytes(100_000)))
    refused(ImageError, ["a.nii", "32000000000000 bytes", "more than"], read_image, tmp_path / "a.nii")
    refused(ImageError, ["b.nii.gz", "more than"], read_image, tmp_path / "b.nii.gz")
    np.savez_compressed(tmp_path / "c.npz", np.zeros(10_000_000))
    refused(ImageError, ["c.npz", "more than the 1000000 allowed"], read_image, tmp_path / "c.npz", limit=1_000_000)


def test_missing_and_unknown(tmp_path, volume, refused):
    refused(ImageError, ["a.nii", "no such file"], read_image, tmp_path / "a.nii")
    (tmp_path / "a.png").touch()
    refused(ImageError, [r"a\.png", r"wanted|end in \.nii"], read_image, tmp_path / "a.png")
    image = Image(torch.from_numpy(volume))
    refused(ImageError, ["b.nii", "no affine"], write_image, tmp_path / "b.nii", image)
    refused(ImageError, ["b.png", "written to"], write_image, tmp_path / "b.png", image)
    refused(ImageError, ["voxels of size"], Image, image.data, torch.zeros(4, 4))
    refused(ImageError, [r"wanted a finite \(4, 4\)"], Image, image.data, torch.eye(3))
