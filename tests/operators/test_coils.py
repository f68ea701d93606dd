import gzip

import matplotlib.cbook
import numpy as np
import pytest
import torch

from operators import (
    MultiCoilMRI,
    birdcage_maps,
    calibration_region,
    cartesian_mask,
    compress_coils,
    espirit_maps,
    noise_covariance,
    poisson_disc_mask,
    prewhiten,
)

COILS = 8


def complex_normal(rng, *shape):
    """Standard deviation 1 per real and imaginary part."""
    return torch.from_numpy(rng.standard_normal(shape) + 1j * rng.standard_normal(shape))


def covariance(sigma, seed=0, coils=COILS):
    rng = np.random.default_rng(seed)
    root = torch.eye(coils) + 0.2 * complex_normal(rng, coils, coils) / 2**0.5
    root = root * torch.linspace(0.8, 1.3, coils)[:, None] / root.norm(dim=1, keepdim=True)
    return sigma**2 * (root @ root.conj().T)


def noisy_kspace(image, maps, mask, cov, seed=0):
    """Complex (N, H, W): the operator on ``image``, plus noise of covariance ``cov`` on the mask."""
    x = torch.stack((image.real, image.imag))[None]
    y = MultiCoilMRI(mask, maps).A(x)[0]
    noise = complex_normal(np.random.default_rng(seed), len(maps), *mask.shape)
    coloured = torch.einsum("ij,jyx->iyx", torch.linalg.cholesky(cov), noise)
    return torch.complex(y[0], y[1]) + coloured * mask


@pytest.fixture(scope="module")
def head():
    """A measured 256 x 256 slice that matplotlib ships, 99th percentile 1, with a smooth phase."""
    data = matplotlib.cbook.get_sample_data("s1045.ima.gz", asfileobj=False)
    with gzip.open(data) as file:
        image = np.frombuffer(file.read(), ">u2").reshape(256, 256).astype(float)
    image = torch.from_numpy(image / np.percentile(image, 99))
    y = torch.linspace(-1, 1, 256, dtype=torch.float64)
    return torch.polar(image, 0.7 * y[:, None] - 0.4 * y**2)


@pytest.fixture(scope="module")
def phantom():
    """48 x 44 ellipse with smooth contrast and phase, so that its periphery of k-space is nearly empty."""
    y, x = (torch.linspace(-1, 1, n, dtype=torch.float64) for n in (48, 44))
    inside = torch.sigmoid((0.55 - (y[:, None] ** 2 / 1.3 + x**2)) * 25)
    return torch.polar(inside * (1 + 0.5 * x + 0.3 * torch.cos(4 * y)[:, None]), 0.8 * y[:, None] * x + 0.3)


@pytest.mark.parametrize(("coils", "shape"), [(8, (32, 24)), (5, (31, 33)), (1, (6, 7))])
def test_birdcage(coils, shape):
    maps = birdcage_maps(coils, shape)
    assert maps.shape == (coils, *shape) and maps.dtype == torch.complex64
    torch.testing.assert_close(maps.abs().square().sum(0), torch.ones(shape))
    centre = maps[:, shape[0] // 2, shape[1] // 2]
    torch.testing.assert_close(centre, torch.full((coils,), coils**-0.5, dtype=torch.complex64))


def test_birdcage_is_smooth_and_localised():
    maps = birdcage_maps(8, (64, 64))
    peaks = [divmod(int(m.abs().argmax()), 64) for m in maps]
    assert len(set(peaks)) == 8
    assert peaks[0][1] == 63 and peaks[2][0] == 63  # angles 0 and 90 degrees: right and bottom edge
    inner = maps[:, 8:56, 8:56]
    assert (inner[:, 1:] - inner[:, :-1]).abs().max() < 0.06
    assert maps.angle().std() > 0.1


@pytest.mark.parametrize("mask_kind", ["poisson", "lines", "full"])
def test_noise_is_found_in_a_measured_head(head, mask_kind):
    # sigma of 1.3 % of the image: what the measured k-space of test_measured_kspace has
    cov = covariance(0.013)
    mask = {
        "poisson": lambda: poisson_disc_mask((256, 256), 8),
        "lines": lambda: cartesian_mask((256, 256), 4),
        "full": lambda: torch.ones(256, 256),
    }[mask_kind]()
    kspace = noisy_kspace(head, birdcage_maps(COILS, (256, 256)), mask, cov)
    got = noise_covariance(kspace)
    assert got.dtype == torch.complex128
    torch.testing.assert_close(got, got.conj().T)
    sigma, want = got.diagonal().real.sqrt(), cov.diagonal().real.sqrt()
    assert ((sigma / want - 1).abs() < 0.1).all()
    # correlations: the statistical error of one entry is 1 / sqrt(samples) = 0.03 for the Poisson disc
    correlation = got / sigma / sigma[:, None] - cov / want / want[:, None]
    assert correlation.abs().max() < (0.12 if mask_kind == "poisson" else 0.08)


def test_noise_estimate_is_unbiased_and_shrugs_off_spikes():
    cov = covariance(2.0)
    root = torch.linalg.cholesky(cov)
    estimates = []
    for seed in range(8):
        noise = complex_normal(np.random.default_rng(seed), COILS, 80, 80)
        estimates.append(noise_covariance(torch.einsum("ij,jyx->iyx", root, noise), fraction=0.3))
    mean = torch.stack(estimates).mean(0)
    # 8 * 1920 samples: relative error 1 % of an entry
    assert (mean - cov).norm() < 0.03 * cov.norm()

    kspace = torch.einsum("ij,jyx->iyx", root, complex_normal(np.random.default_rng(0), COILS, 80, 80))
    spiked = kspace.clone()
    at = np.random.default_rng(1).permutation(6400)[:200]
    spiked.reshape(COILS, -1)[:, at] += 500 * complex_normal(np.random.default_rng(2), COILS, 200)
    clean, dirty = noise_covariance(kspace), noise_covariance(spiked)
    assert (dirty - clean).norm() < 0.1 * clean.norm()
    assert (noise_covariance(spiked, trim=0.0) - clean).norm() > 10 * clean.norm()


def test_noise_pools_slices_and_honours_the_mask():
    noise = complex_normal(np.random.default_rng(0), 3, 4, 64, 64).to(torch.complex64)
    pooled = noise_covariance(noise)
    assert pooled.shape == (4, 4)
    identity = torch.eye(4, dtype=torch.complex128)
    assert (pooled - identity).norm() < (noise_covariance(noise[0]) - identity).norm()
    filtered = noise.clone()
    filtered[..., 50:] *= 0.1
    assert noise_covariance(filtered).diagonal().real.min() < 0.7
    mask = torch.ones(64, 64)
    mask[:, 50:] = 0
    assert (noise_covariance(filtered, mask).diagonal().real.sqrt() - 1).abs().max() < 0.1


def test_noise_free_data_is_reported(phantom):
    clean = noisy_kspace(phantom, birdcage_maps(2, (48, 44)), torch.ones(48, 44), 1e-20 * covariance(1, coils=2))
    with pytest.warns(UserWarning, match="periphery of k-space falls by"):
        noise_covariance(clean, fraction=0.5)


def test_whitening_makes_unit_noise_per_part():
    cov = covariance(0.3)
    noise = complex_normal(np.random.default_rng(0), COILS, 100, 100)
    coloured = torch.einsum("ij,jyx->iyx", torch.linalg.cholesky(cov), noise)
    coloured[:, :, ::2] = 0
    original = coloured.clone()
    white = prewhiten(coloured, cov)
    assert torch.equal(coloured, original)
    assert (white[:, :, ::2] == 0).all()
    kept = white[:, :, 1::2].reshape(COILS, -1)
    assert kept.real.std() == pytest.approx(1, rel=0.01)
    assert kept.imag.std() == pytest.approx(1, rel=0.01)
    assert (kept @ kept.conj().T / kept.shape[1] / 2 - torch.eye(COILS)).abs().max() < 0.05
    single = prewhiten(coloured.to(torch.complex64).numpy(), cov.numpy())
    assert single.dtype == torch.complex64
    torch.testing.assert_close(single, white.to(torch.complex64))
    stacked = prewhiten(torch.stack((coloured, 2 * coloured)), cov)
    torch.testing.assert_close(stacked[1], 2 * white)


def test_compression_is_unitary_and_optimal():
    rng = np.random.default_rng(0)
    basis = complex_normal(rng, COILS, 3)
    kspace = torch.einsum("nc,cyx->nyx", basis, complex_normal(rng, 3, 20, 21))
    compressed, matrix = compress_coils(kspace, 3)
    assert compressed.shape == (3, 20, 21) and matrix.shape == (3, COILS)
    torch.testing.assert_close(matrix @ matrix.conj().T, torch.eye(3, dtype=matrix.dtype))
    torch.testing.assert_close(torch.einsum("ij,jyx->iyx", matrix, kspace), compressed)
    torch.testing.assert_close(torch.einsum("ij,iyx->jyx", matrix.conj(), compressed), kspace)

    full = complex_normal(rng, COILS, 20, 21) * torch.linspace(1, 4, COILS)[:, None, None]
    singular = torch.linalg.svdvals(full.flatten(1))
    energy = compress_coils(full, 4)[0].abs().square().sum()
    torch.testing.assert_close(energy, singular[:4].square().sum())
    torch.testing.assert_close(compress_coils(full.numpy(), 4)[1], compress_coils(full, 4)[1])
    matrix = compress_coils(full, 4)[1]
    largest = matrix.gather(1, matrix.abs().argmax(dim=1, keepdim=True))
    torch.testing.assert_close(largest, largest.abs().to(largest.dtype))


def test_espirit_recovers_the_maps_from_the_square_alone(phantom):
    pytest.importorskip("sigpy")
    truth = birdcage_maps(4, (48, 44))
    mask = poisson_disc_mask((48, 44), 3, 20)
    kspace = noisy_kspace(phantom, truth, mask, covariance(0.002, coils=4))
    maps = espirit_maps(kspace, 20)
    assert maps.shape == truth.shape and maps.dtype == torch.complex64
    assert calibration_region(kspace) == (20, 20)

    inside = phantom.abs() > 0.5
    support = maps.abs().sum(0) > 0
    assert support[inside].float().mean() > 0.98
    torch.testing.assert_close(maps.abs().square().sum(0)[support], torch.ones(int(support.sum())))
    # the maps are determined up to a phase per pixel, here that of the first coil
    both = inside & support
    aligned = (maps.conj() * truth).sum(0).abs()[both]
    assert aligned.mean() > 0.995 and aligned.min() > 0.97

    elsewhere = kspace.clone()
    elsewhere[:, :10] = 100
    elsewhere[:, :, 40:] = 0
    assert torch.equal(espirit_maps(elsewhere.numpy(), 20), maps)


def test_whitening_and_compression_reach_the_variance_of_theory(phantom):
    cov = covariance(0.05) * torch.outer(*2 * [torch.linspace(0.3, 2, COILS)])
    truth, mask = birdcage_maps(COILS, (48, 44)), torch.ones(48, 44)
    white_maps = prewhiten(truth, cov)
    compressed_maps, matrix = compress_coils(white_maps, COILS)
    variance = 1 / compressed_maps.abs().square().sum(0).double()  # per real and imaginary part

    def error(maps, kspace):
        y = torch.stack((kspace.real, kspace.imag))[None]
        x = MultiCoilMRI(mask, maps).A_adjoint(y)[0] / maps.abs().square().sum(0)
        return x - torch.stack((phantom.real, phantom.imag))

    whitened, plain = [], []
    for seed in range(4):
        kspace = noisy_kspace(phantom, truth, mask, cov, seed)
        white = torch.einsum("ij,jyx->iyx", matrix.to(kspace.dtype), prewhiten(kspace, cov))
        whitened.append(error(compressed_maps, white).square() / variance)
        plain.append(error(truth, kspace).square() / variance)
    # 16896 values of chi-square 1: standard error 1.1 %
    assert torch.stack(whitened).mean() == pytest.approx(1, rel=0.04)
    assert torch.stack(plain).mean() > 1.5


def test_measured_kspace(data_file):
    kspace = np.load(data_file("mri-cartesian-kspace"))
    assert calibration_region(kspace) == (24, 24)
    cov = noise_covariance(kspace)
    sigma = cov.diagonal().real.sqrt()
    # a floor of the same height where the outer samples are taken from a ring twice as thin
    thinner = noise_covariance(kspace, fraction=0.075).diagonal().real.sqrt()
    assert ((sigma / thinner - 1).abs() < 0.1).all()
    assert 0.009 < sigma.min() and sigma.max() < 0.017

    pytest.importorskip("sigpy")
    white = prewhiten(kspace, cov)
    mask = (white != 0).any(dim=0).float()
    A = MultiCoilMRI(mask, espirit_maps(white))
    y = torch.stack((white.real, white.imag))[None]
    misfit = y - A.A(A.prox_l2(0.0, y, 1e3, max_iter=60, tol=1e-5))
    # An independent check of the noise level. In the fully sampled square 8 coils see one unknown, so that
    # white noise leaves a misfit of sqrt(7 / 8); the innermost samples, up to 1000 times the noise, show the
    # error of the maps and are left out.
    square = misfit[..., 103:127, 78:102].clone()
    square[..., 8:16, 8:16] = float("nan")
    assert square.square().nanmean().sqrt() == pytest.approx((7 / 8) ** 0.5, rel=0.2)


K = torch.ones(2, 32, 32, dtype=torch.complex64)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: birdcage_maps(0, (8, 8)), r"birdcage_maps: coils and shape \(H, W\) must be positive"),
        (lambda: birdcage_maps(4, (8, 8), radius=1.0), r"radius must be above sqrt\(2\)"),
        (
            lambda: espirit_maps(K.real),
            r"espirit_maps: kspace must be complex .* got \(2, 32, 32\) torch.float32",
        ),
        (lambda: espirit_maps(K[None]), "one slice"),
        (lambda: espirit_maps(K * float("nan")), "kspace must be finite"),
        (lambda: espirit_maps(K, 40), "at most 32, got 40"),
        (lambda: espirit_maps(K, 6), "above kernel 6"),
        (
            lambda: espirit_maps(K * cartesian_mask((32, 32), 4, 0.25)),
            "of the central 24 x 24 samples are missing; the largest fully sampled rectangle is 32 x 8: "
            "pass calibration=8 or less",
        ),
        (lambda: noise_covariance(K[0]), "noise_covariance: kspace must be complex"),
        (lambda: noise_covariance(K[:, :8, :8]), "2 coils need 128 sampled locations, got 64"),
        (lambda: noise_covariance(K, fraction=0.7), "fraction must be in"),
        (lambda: noise_covariance(K, torch.ones(8, 8)), r"mask must be \(32, 32\), got \(8, 8\)"),
        (
            lambda: noise_covariance(torch.stack(((1 + 1j) * K[0], 0 * K[0]))),
            r"coils \[1\] are constant zero",
        ),
        (lambda: prewhiten(K, torch.eye(3)), r"covariance must be \(2, 2\), got \(3, 3\)"),
        (lambda: prewhiten(K, -torch.eye(2)), "positive definite"),
        (lambda: prewhiten(K, torch.tensor([[1.0, 0.5], [0.1, 1.0]])), "Hermitian"),
        (lambda: compress_coils(K, 3), "coils must be 1 to 2, got 3"),
    ],
)
def test_errors_name_the_function(make, message):
    with pytest.raises(ValueError, match=message):
        make()
