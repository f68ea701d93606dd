import pytest
import torch

from posterior.priors.analytic import GaussianPrior
from posterior.priors.reference import GaussianReference, RadialReference, radial_spectrum

FREQUENCIES = torch.linspace(0, 0.72, 37, dtype=torch.float64)
POWER = 5.0 / (1 + (8 * FREQUENCIES) ** 2) ** 1.5
PLAIN = RadialReference(FREQUENCIES, POWER)
SHAPES = [(1, 16, 16), (2, 15, 22), (1, 9, 7)]


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def radius(h, w):
    return torch.hypot(torch.fft.fftfreq(h).double()[:, None], torch.fft.fftfreq(w).double()[None])


def given(power, sigma):
    return power * sigma**2 / (power + sigma**2)


class TestRadialSpectrum:
    @pytest.mark.parametrize("side", [(64, 64), (48, 61)])
    def test_recovers_the_spectrum_of_a_stationary_field(self, side):
        cov = PLAIN.covariance((2, *side))
        fields = cov.sqrt(normal(40, 2, *side))
        frequencies, power = radial_spectrum(fields, bins=24)
        wanted = 5.0 / (1 + (8 * frequencies) ** 2) ** 1.5
        # five standard errors of 80 fields, and 5 % for the slope within a ring
        sizes = torch.bincount(torch.bucketize(radius(*side).flatten(), (frequencies[1:] + frequencies[:-1]) / 2))
        error = 5 * (2 / (80 * sizes[: len(frequencies)].clamp_min(1))).sqrt() + 0.05
        assert ((power / wanted).log().abs() < error).all()

    def test_white_noise_is_flat(self):
        frequencies, power = radial_spectrum(0.5 * normal(50, 3, 20, 20), bins=12)
        assert (power[frequencies > 0.1] / 0.25 - 1).abs().max() < 0.1

    def test_one_plane_wave_fills_one_ring(self):
        x = torch.arange(32, dtype=torch.float64)
        wave = torch.cos(2 * torch.pi * 8 / 32 * x).expand(1, 1, 32, 32)
        frequencies, power = radial_spectrum(wave, bins=16)
        assert abs(float(frequencies[power.argmax()]) - 0.25) < 0.03

    def test_grid_runs_from_zero_to_the_corner_with_no_hole(self):
        frequencies, power = radial_spectrum(normal(2, 1, 8, 8), bins=64)
        assert frequencies.shape == power.shape == (65,)
        assert frequencies[0] == 0
        assert float(frequencies[-1]) == pytest.approx(0.5**0.5)
        assert (frequencies.diff() > 0).all()
        assert torch.isfinite(power).all()
        assert (power > 0).all()

    def test_spectrum_of_itself_gives_fields_of_the_same_variance(self):
        fields = PLAIN.covariance((1, 32, 32)).sqrt(normal(30, 1, 32, 32))
        again = RadialReference(*radial_spectrum(fields)).covariance((1, 32, 32))
        assert again.mean_variance == pytest.approx(float(fields.var()), rel=0.05)


class TestRadialReference:
    @pytest.mark.parametrize("shape", SHAPES)
    @pytest.mark.parametrize("sigma", [0.02, torch.tensor(0.5), torch.tensor([0.1, 1.0, 30.0])], ids=["number", "()", "(B,)"])
    def test_denoises_as_the_gaussian_prior_of_the_same_spectrum(self, shape, sigma):
        prior = GaussianPrior(torch.zeros(shape), PLAIN.covariance(shape).eigenvalues)
        x = normal(3, *shape)
        torch.testing.assert_close(PLAIN.denoise(x, sigma), prior.denoise(x, sigma), rtol=1e-10, atol=1e-10)

    @pytest.mark.parametrize("shape", SHAPES)
    def test_covariance_is_the_table_at_the_radius(self, shape):
        reference = RadialReference(torch.tensor([0.0, 1.0]).double(), torch.tensor([1.0, torch.e**-3]).double())
        wanted = torch.exp(-3 * radius(*shape[-2:]))
        torch.testing.assert_close(reference.covariance(shape).eigenvalues, wanted, rtol=1e-5, atol=1e-6)

    def test_mean_is_zero(self):
        assert PLAIN.mean((1, 8, 8)) == 0
        torch.testing.assert_close(PLAIN.denoise(torch.zeros(1, 1, 8, 8), 1.0), torch.zeros(1, 1, 8, 8))

    def test_error_covariance_is_the_gaussians_own_where_none_was_measured(self):
        found = PLAIN.error_covariance((1, 8, 8), 0.3).eigenvalues
        torch.testing.assert_close(found, given(PLAIN.covariance((1, 8, 8)).eigenvalues, 0.3))


class TestErrorCovariance:
    """A network whose error is 0.6 of the Gaussian's below sigma = 1 and 0.9 above."""

    shape = (1, 12, 10)
    sigmas = torch.tensor([0.1, 1.0, 10.0], dtype=torch.float64)
    gains = torch.tensor([0.6, 0.6, 0.9], dtype=torch.float64)

    @pytest.fixture
    def reference(self):
        errors = torch.stack([g * given(POWER, s) for g, s in zip(self.gains, self.sigmas, strict=True)])
        return RadialReference(FREQUENCIES, POWER, self.sigmas, errors)

    def on_grid(self, row):
        return RadialReference(FREQUENCIES, row).covariance(self.shape).eigenvalues

    @pytest.mark.parametrize("i", [0, 1, 2])
    def test_is_the_table_at_its_levels(self, reference, i):
        found = reference.error_covariance(self.shape, float(self.sigmas[i])).eigenvalues
        torch.testing.assert_close(found, self.on_grid(reference.errors[i]), rtol=1e-6, atol=0)

    @pytest.mark.parametrize(("sigma", "i"), [(0.1**0.5, 0), (10**0.5, 1)])
    def test_is_the_geometric_mean_half_way_between_levels(self, reference, sigma, i):
        found = reference.error_covariance(self.shape, sigma).eigenvalues
        wanted = self.on_grid((reference.errors[i] * reference.errors[i + 1]).sqrt())
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=0)

    @pytest.mark.parametrize(
        ("sigma", "gain", "edge"), [(0.003, 0.6, 0.1), (0.05, 0.6, 0.1), (30.0, 0.9, 10.0), (1e4, 0.9, 10.0)]
    )
    def test_keeps_the_gain_of_the_edge_outside_the_table(self, reference, sigma, gain, edge):
        found = reference.error_covariance(self.shape, sigma).eigenvalues
        grid = self.on_grid(POWER)
        at_edge = self.on_grid(gain * given(POWER, edge)) / given(grid, edge)
        torch.testing.assert_close(found, at_edge * given(grid, sigma), rtol=1e-6, atol=0)
        torch.testing.assert_close(found, gain * given(grid, sigma), rtol=1e-2, atol=0)

    def test_limits(self, reference):
        """At large sigma the gain times the prior, at small sigma at most the noise itself."""
        large = reference.error_covariance(self.shape, 1e5).eigenvalues
        torch.testing.assert_close(large, 0.9 * self.on_grid(POWER), rtol=1e-2, atol=0)
        small = reference.error_covariance(self.shape, 1e-3).eigenvalues
        assert (small <= 1e-6).all()
        assert (small > 0.5e-6).all()

    def test_a_network_worse_than_the_gaussian_is_taken_at_its_word(self):
        """What was measured stands, also where it exceeds what the Gaussian, or the noise, would say."""
        errors = torch.full((3, 37), 50.0, dtype=torch.float64)
        worse = RadialReference(FREQUENCIES, POWER, self.sigmas, errors)
        for sigma in (0.1, 0.5, 10.0):
            found = worse.error_covariance(self.shape, sigma).eigenvalues
            torch.testing.assert_close(found, torch.full_like(found, 50.0))

    def test_is_continuous_across_the_edges(self, reference):
        for edge in (0.1, 1.0, 10.0):
            below, above = (reference.error_covariance(self.shape, edge * f).eigenvalues for f in (1 - 1e-6, 1 + 1e-6))
            torch.testing.assert_close(below, above, rtol=1e-4, atol=0)


class TestGaussianReference:
    reference = GaussianPrior(normal(1, 3, 4), torch.eye(12, dtype=torch.float64)).reference

    def test_is_for_one_shape(self):
        assert isinstance(self.reference, GaussianReference)
        assert self.reference.mean((1, 3, 4)).shape == (1, 3, 4)
        with pytest.raises(ValueError, match=r"got shape \(1, 4, 3\), wanted \(1, 3, 4\)"):
            self.reference.covariance((1, 4, 3))

    def test_error_covariance_is_its_own(self):
        found = self.reference.error_covariance((1, 3, 4), 2.0).eigenvalues
        torch.testing.assert_close(found, torch.full((12,), 0.8, dtype=torch.float64))
