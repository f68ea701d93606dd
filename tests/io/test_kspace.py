import re

import h5py
import numpy as np
import pytest
import torch

from posterior.io.kspace import KSpace, KSpaceError, read_array, read_kspace

COILS, HEIGHT, WIDTH = 3, 12, 10
HEADER = """<?xml version="1.0"?>
<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD"><encoding>
  <encodedSpace><matrixSize><x>12</x><y>10</y><z>1</z></matrixSize>
    <fieldOfView_mm><x>18.0</x><y>20.0</y><z>4.5</z></fieldOfView_mm></encodedSpace>
  <reconSpace><matrixSize><x>6</x><y>10</y><z>1</z></matrixSize>
    <fieldOfView_mm><x>9.0</x><y>20.0</y><z>4.5</z></fieldOfView_mm></reconSpace>
</encoding></ismrmrdHeader>"""


def _complex(*shape, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)


@pytest.fixture
def lines():
    """Every third line and the middle two."""
    mask = np.zeros(WIDTH, bool)
    mask[::3] = mask[4:6] = True
    return mask


def _npy(path, array):
    np.save(path, array)
    return path


def _fastmri(path, kspace, **datasets):
    with h5py.File(path, "w") as file:
        file["kspace"] = kspace
        for name, value in datasets.items():
            file[name] = value
        file.attrs["acquisition"] = "AXT1"
        file.attrs["max"] = np.float64(3.5)
    return path


def _bart(path, array, sizes=None):
    """``array`` in BART's order of dimensions, first varying fastest."""
    sizes = sizes or [*array.shape, *[1] * (16 - array.ndim)]
    path.with_suffix(".hdr").write_text(f"# Dimensions\n{' '.join(map(str, sizes))} \n# Command\nfft\n")
    array.astype("<c8").ravel(order="F").tofile(path.with_suffix(".cfl"))
    return path


def _inverse(x):
    return np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(x, axes=(-2, -1)), norm="ortho"), axes=(-2, -1))


# reading


def test_npy(tmp_path, lines):
    array = _complex(COILS, HEIGHT, WIDTH) * lines
    kspace = read_kspace(_npy(tmp_path / "k.npy", array.astype(np.complex128)))
    assert kspace.data.dtype == torch.complex64
    assert np.array_equal(kspace.data.numpy(), array)
    assert np.array_equal(kspace.mask.numpy(), np.broadcast_to(lines, (HEIGHT, WIDTH)))
    assert kspace.source == "k.npy"
    assert kspace.coils == COILS
    assert kspace.sampled == pytest.approx(lines.mean())


def test_fastmri_multi_coil(tmp_path, lines):
    array = _complex(5, COILS, HEIGHT, WIDTH) * lines
    rss = np.abs(_complex(5, 6, 6)).real
    path = _fastmri(tmp_path / "k.h5", array, reconstruction_rss=rss, ismrmrd_header=HEADER.encode())
    middle, last = read_kspace(path), read_kspace(str(path), slice_index=-1)
    assert np.array_equal(middle.data.numpy(), array[2])
    assert (middle.slice_index, last.slice_index) == (2, 4)
    assert np.array_equal(last.data.numpy(), array[4])
    assert np.allclose(last.reference.numpy(), rss[4])
    assert middle.voxel_size == (1.5, 2.0)
    assert middle.recon_size == (6, 10)
    assert middle.attributes == {"acquisition": "AXT1", "max": 3.5}


@pytest.mark.parametrize("phase", [5, 10, 15])
def test_pixels_have_the_size_that_the_samples_give(tmp_path, phase):
    """A reconstructed matrix is interpolated along the phase encoding; oversampling of the readout is cut off."""
    header = HEADER.replace("<x>6</x><y>10</y>", f"<x>6</x><y>{phase}</y>").encode()
    kspace = read_kspace(_fastmri(tmp_path / "k.h5", _complex(2, COILS, HEIGHT, WIDTH), ismrmrd_header=header))
    cut = kspace.without_oversampling()
    assert tuple(cut.data.shape) == (COILS, 6, WIDTH)
    assert kspace.voxel_size == cut.voxel_size == (1.5, 2.0)


def test_fastmri_single_coil(tmp_path):
    array = _complex(2, HEIGHT, WIDTH)
    kspace = read_kspace(_fastmri(tmp_path / "k.h5", array), slice_index=0)
    assert np.array_equal(kspace.data.numpy(), array[:1])
    assert kspace.voxel_size is None


def test_fastmri_mask_dataset(tmp_path, lines):
    array = _complex(1, COILS, HEIGHT, WIDTH)
    kspace = read_kspace(_fastmri(tmp_path / "k.h5", array, mask=lines.astype(np.float32)))
    assert np.array_equal(kspace.mask[0].numpy(), lines)
    assert np.array_equal(kspace.data.numpy(), array[0] * lines)


def test_fastmri_padding_is_not_measured(tmp_path):
    array = _complex(1, COILS, HEIGHT, WIDTH)
    array[..., :2] = 0
    kspace = read_kspace(_fastmri(tmp_path / "k.h5", array, mask=np.ones(WIDTH)))
    assert kspace.mask[0].tolist() == [False] * 2 + [True] * 8


@pytest.mark.parametrize("suffix", [".cfl", ".hdr"])
def test_bart(tmp_path, suffix):
    array = _complex(COILS, HEIGHT, WIDTH)
    _bart(tmp_path / "k", array.transpose(1, 2, 0)[:, :, None])
    kspace = read_kspace(tmp_path / f"k{suffix}")
    assert np.array_equal(kspace.data.numpy(), array)


def test_bart_slices_and_singleton_readout(tmp_path):
    array = _complex(4, COILS, HEIGHT, WIDTH)
    stack = array.transpose(2, 3, 1, 0)  # phase 1, phase 2, coil, slice
    _bart(tmp_path / "k", stack, [1, HEIGHT, WIDTH, COILS, *[1] * 9, 4, 1, 1])
    kspace = read_kspace(tmp_path / "k.cfl", slice_index=3)
    assert np.array_equal(kspace.data.numpy(), array[3])
    assert kspace.slice_index == 3


@pytest.mark.parametrize("height", [12, 13])
def test_without_oversampling_keeps_the_middle_of_the_image(lines, height):
    data = torch.from_numpy(_complex(COILS, height, WIDTH))
    full = KSpace(data, torch.ones(height, WIDTH, dtype=torch.bool), recon_size=(6, WIDTH))
    cut = full.without_oversampling()
    start = height // 2 - 3
    assert np.allclose(_inverse(cut.data.numpy()), _inverse(data.numpy())[:, start : start + 6], atol=1e-6)
    some = full.with_mask(lines).without_oversampling()
    assert torch.allclose(some.data, cut.data * torch.from_numpy(lines), atol=1e-6)
    assert np.array_equal(some.mask[0].numpy(), lines)


def test_without_oversampling_needs_complete_readouts():
    data = torch.from_numpy(_complex(COILS, HEIGHT, WIDTH))
    mask = torch.ones(HEIGHT, WIDTH, dtype=torch.bool)
    mask[3, 4] = False
    kspace = KSpace(data * mask, mask, recon_size=(6, WIDTH))
    assert kspace.without_oversampling() is kspace


def test_with_mask_changes_nothing_given(lines):
    data = torch.from_numpy(_complex(COILS, HEIGHT, WIDTH))
    kspace = KSpace(data.clone(), torch.ones(HEIGHT, WIDTH, dtype=torch.bool))
    kept = kspace.with_mask(lines)
    assert torch.equal(kspace.data, data)
    assert torch.equal(kept.data, data * torch.from_numpy(lines))


def test_real_file(data_file):
    kspace = read_kspace(data_file("mri-cartesian-kspace"))
    assert tuple(kspace.data.shape) == (8, 230, 180)
    assert int(kspace.mask.sum()) == 5148


# refusing


def _refused(path, *words, **options):
    with pytest.raises(KSpaceError) as caught:
        read_kspace(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert path.stem in message
    for word in words:
        assert re.search(word, message), message


@pytest.mark.parametrize("name", ["k.npy", "k.h5", "k.cfl", "k.hdr"])
def test_missing_file(tmp_path, name):
    _refused(tmp_path / name, "no such file")


def test_folder(tmp_path):
    (tmp_path / "k.npy").mkdir()
    _refused(tmp_path / "k.npy", "folder")


def test_unknown_ending(tmp_path):
    _refused(tmp_path / "k.dcm", r"\.npy", r"'\.dcm'")


@pytest.mark.parametrize("keep", [0, 40, 500])
def test_truncated_npy(tmp_path, keep):
    path = _npy(tmp_path / "k.npy", _complex(COILS, HEIGHT, WIDTH))
    path.write_bytes(path.read_bytes()[:keep])
    _refused(path, "not a complete NumPy")


def test_npy_with_objects_is_not_unpickled(tmp_path):
    path = tmp_path / "k.npy"
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    _refused(path, "not a complete NumPy .npy file of numbers")


@pytest.mark.parametrize("keep", [0, 100, 3000])
def test_truncated_h5(tmp_path, keep):
    path = _fastmri(tmp_path / "k.h5", _complex(2, COILS, HEIGHT, WIDTH))
    path.write_bytes(path.read_bytes()[:keep])
    _refused(path, "not a complete HDF5 file")


def test_truncated_cfl(tmp_path):
    _bart(tmp_path / "k", _complex(HEIGHT, WIDTH, 1, COILS))
    with (tmp_path / "k.cfl").open("r+b") as file:
        file.truncate(1000)
    _refused(tmp_path / "k.cfl", "has 1000 bytes", f"wanted {8 * HEIGHT * WIDTH * COILS}")


@pytest.mark.parametrize(
    "text", ["", "# Dimensions\n", "# Dimensions\n4 x 3\n", "# Dimensions\n4 0 3\n", "# Dimensions\n-4 -2\n"]
)
def test_bad_bart_header(tmp_path, text):
    _bart(tmp_path / "k", _complex(HEIGHT, WIDTH, 1, COILS))
    (tmp_path / "k.hdr").write_text(text)
    _refused(tmp_path / "k.cfl", "# Dimensions")


def test_bart_volume_and_other_dimensions(tmp_path):
    _bart(tmp_path / "k", _complex(HEIGHT, WIDTH, 2, COILS))
    _refused(tmp_path / "k.cfl", "3-D k-space", "one slice")
    _bart(tmp_path / "k", _complex(HEIGHT, WIDTH, 1, COILS, 2))
    _refused(tmp_path / "k.cfl", "dimension 4 has length 2")


@pytest.mark.parametrize("shape", [(HEIGHT, WIDTH), (2, COILS, HEIGHT, WIDTH), (COILS, 0, WIDTH)])
def test_wrong_shape(tmp_path, shape):
    _refused(_npy(tmp_path / "k.npy", _complex(*shape)), re.escape(str(shape)), r"\(coils, ky, kx\)")


def test_not_complex(tmp_path):
    real = _complex(COILS, HEIGHT, WIDTH).real
    _refused(_npy(tmp_path / "a.npy", real), "float32", "complex")
    _refused(_fastmri(tmp_path / "b.h5", real), "'kspace' has dtype float32", "complex")


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1j * np.nan])
def test_not_finite(tmp_path, bad):
    array = _complex(COILS, HEIGHT, WIDTH)
    array[1, 2, 3] = bad
    _refused(_npy(tmp_path / "a.npy", array), "1 of 360 values", "NaN or infinite")
    _refused(_fastmri(tmp_path / "b.h5", array[None]), "NaN or infinite")
    _bart(tmp_path / "c", array.transpose(1, 2, 0)[:, :, None])
    _refused(tmp_path / "c.cfl", "NaN or infinite")


def test_too_large_for_single_precision(tmp_path):
    _refused(_npy(tmp_path / "k.npy", _complex(COILS, HEIGHT, WIDTH).astype(complex) * 1e60), "infinite")


def test_all_zero(tmp_path):
    _refused(_npy(tmp_path / "k.npy", np.zeros((COILS, HEIGHT, WIDTH), np.complex64)), "zero everywhere")


def test_fastmri_without_kspace(tmp_path):
    with h5py.File(tmp_path / "k.h5", "w") as file:
        file["image"] = np.ones(3)
    _refused(tmp_path / "k.h5", "no dataset 'kspace' but image")


@pytest.mark.parametrize("index", [3, -4])
def test_slice_out_of_range(tmp_path, index):
    path = _fastmri(tmp_path / "k.h5", _complex(3, COILS, HEIGHT, WIDTH))
    _refused(path, f"slice {index} is out of range", "has 3", slice_index=index)


def test_slice_of_a_file_that_holds_one(tmp_path):
    _refused(_npy(tmp_path / "k.npy", _complex(COILS, HEIGHT, WIDTH)), "out of range", slice_index=1)


def test_fastmri_mask_of_the_wrong_length(tmp_path):
    path = _fastmri(tmp_path / "k.h5", _complex(1, COILS, HEIGHT, WIDTH), mask=np.ones(WIDTH + 1))
    _refused(path, "'mask' has shape \\(11,\\)", r"wanted \(10,\) or \(12, 10\)")


def test_mask_that_does_not_fit():
    kspace = KSpace(torch.ones(2, 4, 5, dtype=torch.complex64), torch.ones(4, 5, dtype=torch.bool), "file")
    for mask, words in [
        (torch.ones(4), r"my mask has shape \(4,\); wanted \(5,\) or \(4, 5\)"),
        (torch.full((5,), torch.nan), "no mask"),
        (torch.zeros(5), "marks no sample that file measured"),
    ]:
        with pytest.raises(KSpaceError, match=words):
            kspace.with_mask(mask, "my mask")


def test_kspace_from_arrays_is_checked():
    good = torch.ones(2, 4, 5, dtype=torch.complex64)
    with pytest.raises(KSpaceError, match=r"mask has shape \(4, 4\); wanted \(4, 5\)"):
        KSpace(good, torch.ones(4, 4, dtype=torch.bool))
    with pytest.raises(KSpaceError, match="leaves no measured sample"):
        KSpace(good, torch.zeros(4, 5, dtype=torch.bool))
    with pytest.raises(KSpaceError, match="float32; wanted complex"):
        KSpace(good.real, torch.ones(4, 5, dtype=torch.bool))


def test_read_array_says_what_was_wanted(tmp_path):
    np.savez(tmp_path / "maps.npz", a=np.ones(3))
    (tmp_path / "maps.npz").rename(tmp_path / "maps.npy")
    with pytest.raises(KSpaceError, match="wanted coil maps"):
        read_array(tmp_path / "maps.npy", "coil maps")
    np.save(tmp_path / "text.npy", np.array(["a"]))
    with pytest.raises(KSpaceError, match="<U1; wanted coil maps"):
        read_array(tmp_path / "text.npy", "coil maps")


def test_complex_numbers_as_matlab_writes_them_and_masks_with_an_axis_of_one(tmp_path):
    data = np.arange(48, dtype=np.float32).reshape(1, 2, 4, 6) + 1j
    pairs = np.zeros(data.shape, [("real", "<f4"), ("imag", "<f4")])
    pairs["real"], pairs["imag"] = data.real, data.imag
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["kspace"], file["mask"] = pairs, np.arange(6)[None] % 2
    kspace = read_kspace(tmp_path / "a.h5")
    assert np.array_equal(kspace.data.numpy(), (data[0] * (np.arange(6) % 2)).astype(np.complex64))


@pytest.mark.parametrize("order", [">", "<"])
def test_arrays_of_other_machines(tmp_path, lines, order):
    data = _complex(2, COILS, HEIGHT, WIDTH)
    pairs = np.zeros(data.shape, [("real", f"{order}f4"), ("imag", f"{order}f4")])
    pairs["real"], pairs["imag"] = data.real, data.imag
    kspace = read_kspace(_fastmri(tmp_path / "a.h5", pairs, mask=lines.astype(f"{order}i2")), 0)
    assert np.array_equal(kspace.data.numpy(), data[0] * lines)
    for kind in (f"{order}f8", np.longdouble):
        mask = read_array(_npy(tmp_path / "mask.npy", (lines & (np.arange(WIDTH) < 5)).astype(kind)), "a mask")
        assert kspace.with_mask(mask).mask[0].tolist() == (lines & (np.arange(WIDTH) < 5)).tolist()
        assert kspace.with_mask(lines.astype(kind)[::-1]).mask[0].tolist() == (lines & lines[::-1]).tolist()


def test_conjugated_and_double_kspace(lines):
    data = torch.from_numpy(_complex(COILS, HEIGHT, WIDTH) * lines)
    for given in (data.conj(), data.to(torch.complex128).conj()):
        kspace = KSpace(given, torch.from_numpy(lines).expand(HEIGHT, WIDTH))
        assert kspace.data.dtype == torch.complex64 and not kspace.data.is_conj()
        assert torch.equal(kspace.data, torch.complex(data.real, -data.imag))
