import numpy as np
import pytest
import torch

from posterior.io.psf import PSFError, read_psfs

fits = pytest.importorskip("astropy.io.fits")


def _spot(height, width, row, column, scale=3.0):
    y, x = np.mgrid[:height, :width]
    return scale * np.exp(-((y - row) ** 2 + (x - column) ** 2) / 2)


def _write(path, *images):
    hdus = [fits.PrimaryHDU(), *(fits.ImageHDU(image) for image in images)]
    fits.HDUList(hdus).writeto(path)
    return path


def _centroids(psfs):
    place = torch.arange(psfs.shape[-1], dtype=psfs.dtype)
    return torch.stack([(psfs.sum(2) * place).sum(1), (psfs.sum(1) * place).sum(1)], 1)


def test_normalised_centred_and_of_one_size(tmp_path):
    path = _write(tmp_path / "a.fits", _spot(15, 17, 7, 8), _spot(16, 13, 6.3, 7))
    psfs = read_psfs(path)
    assert psfs.shape[0] == 2 and psfs.shape[1] == psfs.shape[2] and psfs.shape[1] % 2 == 1
    assert torch.allclose(psfs.sum((1, 2)), torch.ones(2, dtype=torch.float64))
    assert ((_centroids(psfs) - psfs.shape[1] // 2).abs() <= 0.5).all()
    assert read_psfs(path, size=31).shape == (2, 31, 31)
    # whole pixels: nothing was interpolated
    first = _spot(15, 17, 7, 8)
    assert torch.isclose(psfs[0].max(), torch.tensor(first.max() / first.sum()))


def test_real_file(data_file):
    psfs = read_psfs(data_file("hst-acs-psf"))
    assert psfs.shape[0] == 100
    assert psfs.shape[1] == psfs.shape[2] == 41
    assert torch.allclose(psfs.sum((1, 2)), torch.ones(100, dtype=torch.float64))
    assert ((_centroids(psfs) - 20).abs() <= 0.5).all()
    peak = psfs.flatten(1).argmax(1)
    assert ((peak // 41 - 20).abs() <= 1).all() and ((peak % 41 - 20).abs() <= 1).all()


def test_refusals(tmp_path, refused):
    good = _spot(9, 9, 4, 4)
    holes = good.copy()
    holes[3, 3] = np.nan
    refused(PSFError, ["none.fits", "no such file"], read_psfs, tmp_path / "none.fits")
    refused(PSFError, ["nan.fits", "extension 2", "finite"], read_psfs, _write(tmp_path / "nan.fits", good, holes))
    refused(PSFError, ["minus.fits", "extension 1", "positive sum"], read_psfs, _write(tmp_path / "minus.fits", -good))
    refused(PSFError, ["empty.fits", "no extension holds an image"], read_psfs, _write(tmp_path / "empty.fits"))
    path = _write(tmp_path / "small.fits", good)
    refused(PSFError, ["small.fits", "size is 8"], read_psfs, path, size=8)
    refused(PSFError, ["small.fits", "odd number from 9"], read_psfs, path, size=7)


@pytest.mark.parametrize(
    ("card", "becomes"),
    [
        (b"BUNIT   = 'electron'", b"BLANK   =        -32"),
        (b"BUNIT   = 'electron'", b"BUNIT   ='electron' "),
        (b"COMMENT a psf", "COMMENT \u00e9psf".encode("latin-1")),
    ],
)
def test_formalities_of_a_header_are_no_damage(tmp_path, card, becomes):
    spot = fits.ImageHDU(_spot(15, 17, 7, 8))
    spot.header["BUNIT"] = "electron"
    spot.header["COMMENT"] = "a psf"
    path = tmp_path / "a.fits"
    fits.HDUList([fits.PrimaryHDU(), spot]).writeto(path)
    expected, content = read_psfs(path), path.read_bytes()
    assert content.count(card) == 1
    path.write_bytes(content.replace(card, becomes.ljust(len(card))))
    assert torch.equal(read_psfs(path), expected)


@pytest.mark.parametrize("keep", [0, 2000, 4000, 6000, 9000, 15000])
def test_truncated(tmp_path, refused, keep):
    path = _write(tmp_path / "a.fits", _spot(30, 30, 14, 14), _spot(30, 30, 14, 14))
    path.write_bytes(path.read_bytes()[:keep])
    refused(PSFError, ["a.fits", "not a complete FITS file|no extension"], read_psfs, path)
