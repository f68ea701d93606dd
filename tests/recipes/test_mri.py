from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr

import posterior
from operators import MultiCoilMRI, birdcage_maps, cartesian_mask
from posterior.io.kspace import KSpace, KSpaceError
from posterior.recipes.mri import (
    demo_image,
    figure,
    head_mask,
    l1_wavelet,
    nrmse,
    predictive_coverage,
    prepare,
    psnr,
    reconstruct,
    sense_cg,
    simulate,
    withhold,
    zero_filled,
)
from posterior.recipes.mri.simulation import NOISE

SIZE = 64


def _magnitude(x):
    return torch.linalg.vector_norm(x, dim=0)


@pytest.fixture(scope="module")
def head():
    """The bundled slice at a quarter of its resolution."""
    return torch.nn.functional.avg_pool2d(demo_image()[None, None], 4)[0, 0]


@pytest.fixture(scope="module")
def kspace(head):
    return simulate(head, coils=4, center_fraction=0.2, acceleration=3, voxel_size=(4.0, 4.0))


@pytest.fixture(scope="module")
def problem(kspace):
    return prepare(kspace)


@pytest.fixture(scope="module")
def prior():
    return _prior(SIZE)


def _prior(size):
    f = torch.hypot(torch.fft.fftfreq(size)[:, None], torch.fft.fftfreq(size))
    spectrum = (f + 0.1) ** -2
    return posterior.GaussianPrior(torch.zeros(2, size, size), 0.1 * spectrum / spectrum.mean())


@pytest.fixture(scope="module")
def result(problem, prior):
    return reconstruct(problem, prior, posterior.GaussianBridge(steps=1), draws=20, batch_size=20, check=True)


@pytest.fixture(scope="module")
def from_prior():
    """A problem whose image is a draw of its prior, with maps and noise known."""
    size, generator = 32, torch.Generator().manual_seed(3)
    prior = _prior(size)
    x = prior.reference.cov.sqrt(torch.randn(1, 2, size, size, generator=generator, dtype=torch.float64)).float()
    mask, maps = cartesian_mask((size, size), 2, seed=1), birdcage_maps(4, (size, size))
    y = MultiCoilMRI(mask, maps).A(x)
    y = (y + 0.05 * torch.randn(y.shape, generator=generator)) * mask
    kspace = KSpace(torch.complex(y[0, 0], y[0, 1]), mask.bool(), reference=_magnitude(x[0]))
    problem = prepare(kspace, maps=maps, noise=0.05)
    # in units of the prior
    problem = replace(
        problem,
        y=problem.y * problem.scale,
        sigma=0.05,
        scale=1.0,
        truth=problem.truth * problem.scale,
    )
    return problem, prior, x


# simulation


def test_demo_image_is_the_real_slice():
    image = demo_image()
    assert tuple(image.shape) == (256, 256)
    assert image.max() == 215


def test_simulation_repeats(head, kspace):
    again = simulate(head, coils=4, center_fraction=0.2, acceleration=3, voxel_size=(4.0, 4.0))
    other = simulate(head, coils=4, center_fraction=0.2, acceleration=3, seed=1)
    assert torch.equal(again.data, kspace.data)
    assert not torch.equal(other.data, kspace.data)
    assert torch.equal(kspace.reference, head)


def test_simulated_noise_has_the_stated_size(head):
    quiet, noisy = (simulate(head, acceleration=1, noise=noise) for noise in (1e-9, NOISE))
    difference = torch.view_as_real(noisy.data - quiet.data)
    assert float(difference.std()) == pytest.approx(NOISE * np.percentile(head, 99), rel=0.01)
    assert noisy.mask.all()


@pytest.mark.parametrize("kind", ["random", "equispaced", "variable-density", "poisson"])
def test_simulated_masks(head, kind):
    acceleration = 4 if kind == "poisson" else 3
    kspace = simulate(head, kind=kind, acceleration=acceleration, coils=2)
    assert kspace.sampled == pytest.approx(1 / acceleration, rel=0.05)
    assert not kspace.data[:, ~kspace.mask].any()


@pytest.mark.parametrize("bad", [torch.ones(3), -torch.ones(8, 8), torch.zeros(8, 8), torch.full((8, 8), torch.nan)])
def test_simulation_refuses(bad):
    with pytest.raises(ValueError, match="magnitude has shape"):
        simulate(bad)
    with pytest.raises(ValueError, match="wanted a standard deviation"):
        simulate(torch.ones(8, 8), noise=-0.01)


# preparation


def test_noise_and_scale_are_found_in_the_data(problem, head):
    assert problem.sigma * problem.scale == pytest.approx(NOISE * np.percentile(head, 99), rel=0.15)
    assert np.percentile(problem.truth, 99) == pytest.approx(1, rel=0.15)
    assert torch.allclose(problem.truth * problem.scale, head)
    assert problem.measurements == 2 * 4 * int(problem.mask.sum())
    assert "ESPIRiT" in problem.facts["coil maps"]
    assert problem.support[head > 20].all()


@pytest.mark.parametrize("factor", [1e-6, 1e4])
def test_units_of_the_file_do_not_matter(kspace, problem, factor):
    scaled = prepare(replace(kspace, data=factor * kspace.data, reference=factor * kspace.reference))
    assert scaled.scale == pytest.approx(factor * problem.scale, rel=1e-3)
    assert torch.allclose(scaled.y, problem.y, atol=1e-3 * float(problem.y.abs().max()))
    assert scaled.sigma == pytest.approx(problem.sigma, rel=1e-3)


@pytest.mark.parametrize("coils", [None, 3])
def test_image_is_the_root_sum_of_squares_of_the_files_coils(head, coils):
    # Gains mix signal and noise: the whitened image has other weights, and has to come back to these.
    full = simulate(head, coils=4, acceleration=1, noise=1e-3)
    gains = torch.tensor([0.5, 2.0, 1.0, 1.5])[:, None, None]
    images = gains * birdcage_maps(4, (SIZE, SIZE)) * head
    rss = torch.linalg.vector_norm(images, dim=0)
    covariance = (1e-3 * np.percentile(head, 99)) ** 2 * torch.diag(gains.flatten() ** 2)
    problem = prepare(replace(full, data=gains * full.data), coils=coils, noise=covariance)
    image = problem.scale * _magnitude(sense_cg(problem))
    assert problem.maps.shape[0] == (coils or 4)
    assert nrmse(image, rss) < 0.02


def test_one_coil(head):
    single = simulate(head, coils=1, acceleration=1)
    problem = prepare(single)
    assert problem.support.all()
    assert nrmse(problem.scale * _magnitude(sense_cg(problem, 1e-6)), head) < 0.2


def test_given_maps_are_used(kspace, head):
    problem = prepare(kspace, maps=birdcage_maps(4, (SIZE, SIZE)).numpy(), noise=3.0)
    assert problem.facts["coil maps"] == "given"
    assert problem.sigma * problem.scale == pytest.approx(3.0, rel=1e-5)
    assert torch.allclose(problem.maps, birdcage_maps(4, (SIZE, SIZE)), atol=1e-5)
    turned = birdcage_maps(4, (SIZE, SIZE)).conj()
    one, other = (prepare(kspace, maps=m, noise=3.0).maps for m in (turned, turned.resolve_conj().numpy().astype(">c16")))
    assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"maps": birdcage_maps(8, (SIZE, SIZE))}, "coil maps are of 8 coils, but simulation has 4"),
        ({"maps": birdcage_maps(4, (SIZE, 32))}, r"shape \(4, 64, 32\); wanted \(4, 64, 64\)"),
        ({"maps": torch.ones(4, SIZE, SIZE)}, "float32; wanted complex"),
        ({"maps": torch.zeros(4, SIZE, SIZE, dtype=torch.complex64)}, "zero everywhere"),
        ({"maps": torch.full((4, SIZE, SIZE), complex(np.nan, 0))}, "NaN"),
        ({"noise": 0.0}, "noise is 0; wanted a positive"),
        ({"noise": torch.eye(3)}, r"noise has shape \(3, 3\)"),
        ({"noise": -torch.eye(4)}, "positive definite"),
    ],
)
def test_preparation_refuses(kspace, options, words):
    with pytest.raises(KSpaceError, match=words):
        prepare(kspace, **options)


def test_preparation_needs_calibration_lines(head):
    full = simulate(head, coils=4, acceleration=1)
    mask = np.arange(SIZE) % 2
    with pytest.raises(KSpaceError, match="fully sampled centre of k-space is .* pass coil maps"):
        prepare(full.with_mask(mask))


def test_preparation_needs_samples_for_the_noise(head):
    full = simulate(head, coils=4, acceleration=1)
    mask = np.zeros((SIZE, SIZE))
    mask[28:37, 28:37] = 1
    with pytest.raises(KSpaceError, match="the noise cannot be estimated"):
        prepare(full.with_mask(mask))


# baselines


def test_sense_leaves_what_the_noise_explains(problem, head):
    image = sense_cg(problem)
    assert float(problem.chi_square(image[None])) == pytest.approx(1, abs=0.05)
    error = [nrmse(_magnitude(x), problem.truth) for x in (image, zero_filled(problem))]
    assert error[0] < error[1]


def test_sense_solves_its_normal_equations(from_prior):
    problem, _, _ = from_prior
    image = sense_cg(problem, 0.1, iterations=100)[None]
    left = problem.operator.A_adjoint_A(image) + 0.1 * image
    right = problem.operator.A_adjoint(problem.y)
    assert torch.linalg.vector_norm(left - right) < 1e-3 * torch.linalg.vector_norm(right)


def test_baselines_are_dark_outside_the_support(problem):
    air = ~problem.support
    assert air.any()
    assert not sense_cg(problem)[:, air].any()
    assert not l1_wavelet(problem, 0.005)[:, air].any()


def test_l1_wavelet_lies_between_data_and_sparsity(problem):
    image, sparse = l1_wavelet(problem, 0.005), l1_wavelet(problem, 10.0)
    assert tuple(image.shape) == problem.event_shape
    assert nrmse(_magnitude(image), problem.truth) < nrmse(_magnitude(zero_filled(problem)), problem.truth)
    assert float(sparse.abs().max()) < 1e-3


def test_zero_filled_of_all_samples_is_the_image(head):
    problem = prepare(simulate(head, acceleration=1, noise=1e-3), noise=0.2)
    assert nrmse(problem.scale * _magnitude(zero_filled(problem)), head) < 0.01


def test_chi_square_of_the_true_image(from_prior):
    problem, _, x = from_prior
    assert float(problem.chi_square(x)) == pytest.approx(1, abs=0.05)
    assert float(problem.chi_square(0 * x)) > 5


# withheld samples


@pytest.mark.parametrize("kind", ["random", "poisson"])
def test_withhold(head, kind):
    problem = prepare(simulate(head, kind=kind, acceleration=4, coils=4, center_fraction=0.15))
    reduced, held_out = withhold(problem, 0.25, seed=0)
    held = held_out.mask
    assert torch.equal(reduced.mask | held, problem.mask)
    assert not (reduced.mask & held).any()
    assert torch.equal(reduced.y + held_out.problem.y, problem.y)
    assert not reduced.y[..., held].any()
    h, w = problem.calibration
    assert not held[SIZE // 2 - h // 2 :, SIZE // 2 - w // 2 :][:h, :w].any()
    outside = problem.mask.clone()
    outside[SIZE // 2 - h // 2 :, SIZE // 2 - w // 2 :][:h, :w] = False
    assert int(held.sum()) == pytest.approx(0.25 * int(outside.sum()), abs=SIZE)
    lines = bool((held == held[:1]).all())
    assert lines == (kind == "random")
    assert torch.equal(withhold(problem, 0.25, seed=0)[1].mask, held)
    assert not torch.equal(withhold(problem, 0.25, seed=1)[1].mask, held)


def test_withhold_refuses(problem):
    for fraction in (0, 1, -0.5):
        with pytest.raises(ValueError, match="fraction is"):
            withhold(problem, fraction)
    with pytest.raises(ValueError, match="of them is none"):
        withhold(problem, 0.001)


def test_predictive_coverage_of_exact_draws(from_prior):
    problem, prior, _ = from_prior
    reduced, held_out = withhold(problem, 0.4)
    draws = posterior.sample(prior, reduced.likelihood, posterior.GaussianBridge(steps=1), draws=60, batch_size=20)
    assert predictive_coverage(draws, held_out) == pytest.approx(0.9, abs=0.04)
    narrow = replace(draws, samples=draws.mean + 0.2 * (draws.samples - draws.mean))
    assert predictive_coverage(narrow, held_out) < 0.8
    with pytest.raises(ValueError, match="at least 19"):
        predictive_coverage(replace(draws, samples=draws.samples[:10]), held_out)


# results


def test_result_of_exact_draws_is_calibrated(from_prior):
    problem, prior, _ = from_prior
    result = reconstruct(problem, prior, posterior.GaussianBridge(steps=1), draws=40, batch_size=20)
    low, high = result.draws.magnitude().interval(0.9)
    inside = (result.truth >= low) & (result.truth <= high)
    assert float(inside.float().mean()) == pytest.approx(0.9, abs=0.04)
    assert result.residuals["posterior mean"] == pytest.approx(1, abs=0.15)


def test_result_is_in_the_units_of_the_file(result, problem, head):
    assert torch.allclose(result.truth, head)
    assert result.draws.units == "file units"
    assert nrmse(result.images["posterior mean"], head) < 0.35
    assert torch.allclose(result.images["SENSE-CG"], problem.scale * _magnitude(problem.on_support(sense_cg(problem))))
    assert torch.equal(result.std > 0, problem.support)
    assert not result.draws.samples[..., ~problem.support].any()


def test_result_numbers(result):
    assert [row["reconstruction"] for row in result.table] == ["zero-filled", "SENSE-CG", "posterior mean"]
    assert all(set(row) == {"reconstruction", "PSNR", "NRMSE", "residual"} for row in result.table)
    assert 0.7 < result.interval_coverage <= 1
    assert 0.7 < result.predictive_coverage <= 1
    assert 0.5 < result.residuals["posterior mean"] < 2


def test_result_without_truth_or_enough_draws(problem, prior):
    sampler = posterior.GaussianBridge(steps=1)
    few = reconstruct(problem, prior, sampler, draws=2)
    assert few.interval_coverage is None
    assert few.std is not None
    blind = reconstruct(replace(problem, truth=None), prior, sampler, draws=1)
    assert blind.std is None
    assert [set(row) for row in blind.table] == [{"reconstruction", "residual"}] * 3
    titles = [ax.get_title() for ax in figure(blind).axes if ax.get_title()]
    assert titles[0].startswith("sampled k-space")
    assert "one draw" in titles


@pytest.mark.parametrize(
    ("draws", "all_lines", "says"),
    [(3, False, "3 draws cannot support the 90% interval of a check; wanted 19"), (19, True, "outside the calibration region")],
)
def test_a_check_that_cannot_be_made_is_refused_before_sampling(problem, prior, draws, all_lines, says, monkeypatch):
    monkeypatch.setattr(prior, "denoise", lambda *_: pytest.fail("the prior was called"))
    asked = replace(problem, calibration=(SIZE, SIZE)) if all_lines else problem
    with pytest.raises(ValueError, match=says):
        reconstruct(asked, prior, posterior.GaussianBridge(steps=1), draws=draws, check=True)


def test_result_survives_a_file(result, tmp_path):
    path = tmp_path / "out.nc"
    result.save(path)
    assert [p.name for p in tmp_path.iterdir()] == ["out.nc"]
    draws = posterior.load_draws(path)
    assert torch.equal(draws.samples, result.draws.samples)
    assert draws.coords["y"].attrs["units"] == "mm"
    with xr.open_datatree(path, engine="h5netcdf") as tree:
        group = tree["mri"]
        assert np.allclose(group["true_magnitude"], result.truth)
        assert np.array_equal(group["sampled"].values.astype(bool), result.problem.mask)
        assert group["standard_deviation"].attrs["units"] == "file units"
        assert group["coil_maps"].shape == (4, 2, SIZE, SIZE)
        assert group.attrs["source"] == "simulation"
        assert "coil maps" in group.attrs


def test_figure(result, tmp_path):
    import matplotlib

    drawn = figure(result)
    titles = [ax.get_title() for ax in drawn.axes if ax.get_title()]
    assert [title.split(":")[0] for title in titles] == [
        "reference",
        "zero-filled",
        "SENSE-CG",
        "posterior mean",
        "standard deviation",
        "absolute error",
    ]
    bars = [bar.get_ylabel() for ax in drawn.axes for bar in ax.child_axes]
    assert bars == ["file units"] * 6
    drawn.savefig(tmp_path / "out.png")
    assert matplotlib.image.imread(tmp_path / "out.png").shape[0] > 500


def test_head_mask_fills_holes_and_drops_specks():
    image = torch.zeros(40, 40)
    image[5:30, 5:30] = 1
    image[12:18, 12:18] = 0
    image[36, 36] = 1
    expected = torch.zeros(40, 40, dtype=torch.bool)
    expected[5:30, 5:30] = True
    assert torch.equal(head_mask(image), expected)


def test_error_measures():
    truth = torch.tensor([[0.0, 2.0]])
    assert psnr(truth + 0.2, truth) == pytest.approx(20)
    assert nrmse(truth + 0.2, truth) == pytest.approx(0.2 * 2**0.5 / 2)
