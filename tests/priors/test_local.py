"""Where in a field a denoiser errs."""

import dataclasses

import pytest
import torch
from safetensors.torch import load_file, save_file

import operators
import posterior
from benchmarks.problems.random_field import matern_spectrum
from posterior.priors.base import Prior
from posterior.priors.covariance import Covariance, FourierBasis, ScaledCovariance, turned
from posterior.priors.labels import Labels
from posterior.priors.local import LocalSpread, band_amplitudes, features
from posterior.priors.network import NetworkPrior
from posterior.priors.parameterisations import GaussianResidual
from posterior.priors.reference import EOFReference, RadialReference, radial_spectrum

N = 16
PARTS = ("edges", "values", "errors")
SHAPE = (1, N, N)
QUIET, LIVELY = 0.2, 1.5


class Uneven(Prior):
    """Its denoiser says the same whatever it is shown, and errs little on the dark left half, much on the bright right half."""

    def __init__(self):
        g = torch.Generator().manual_seed(0)
        self.event_shape, self.name = SHAPE, "uneven"
        right = torch.arange(N) >= N // 2
        self.d = torch.where(right, 3 + torch.randn(SHAPE, generator=g, dtype=torch.float64), 0.01)
        self.s = torch.where(right, LIVELY, QUIET).double().expand(SHAPE)
        made = matern_spectrum(N)
        made = made / made.mean()
        self.base = posterior.GaussianPrior(torch.zeros(SHAPE, dtype=torch.float64), made).reference.cov
        white = torch.randn(400, *SHAPE, generator=g, dtype=torch.float64)
        self.reference = RadialReference(*radial_spectrum(self.base.sqrt(white)))
        self.fields = self.d + self.s * self.base.sqrt(torch.randn(400, *SHAPE, generator=g, dtype=torch.float64))

    def denoise(self, x, sigma):
        return self.d.to(x).expand(x.shape)


class Known(LocalSpread):
    """A covariance that is known in place of a fitted one."""

    def __init__(self, fitted, known):
        super().__init__(fitted.references, fitted.edges, fitted.values, fitted.gain)
        object.__setattr__(self, "known", known)

    def covariance(self, denoised, sigma, typical):
        return self.known


@pytest.fixture(scope="module")
def uneven():
    prior = Uneven()
    prior.local_spread = posterior.fit_local_spread(prior, prior.fields, sigmas=[0.5, 2.0])
    return prior


def test_finds_where_the_denoiser_errs_and_the_spectrum_of_the_rest(uneven):
    found = uneven.local_spread
    root = float((uneven.s.square().mean()) ** 0.5)
    for scale in found.scales(uneven.d[None], 1.0):
        # the window of the features mixes both sides of the border
        left, right = scale[0, 0, :, : N // 2 - 3].mean(), scale[0, 0, :, N // 2 + 3 :].mean()
        assert float(left) == pytest.approx(QUIET / root, rel=0.15)
        assert float(right) == pytest.approx(LIVELY / root, rel=0.1)
    assert found.gain > 0.3
    assert found.references[0].error_covariance(SHAPE, 1.0).mean_variance == pytest.approx(root**2, rel=0.15)


class Banded(Uneven):
    """Coarse errors are large on the left and small on the right, fine ones the other way round."""

    def __init__(self):
        super().__init__()
        flat = Covariance(FourierBasis(2), torch.ones(N, N, dtype=torch.float64))
        self.reference = RadialReference(torch.tensor([0.0, 0.5]).double(), torch.ones(2).double())
        bands = tuple(flat.scaled(h.square()) for h in band_amplitudes(self.reference, SHAPE))
        right = (torch.arange(N) >= N // 2).expand(1, *SHAPE)
        self.scales = tuple(torch.where(right == large, LIVELY, QUIET).double() for large in (False, True))
        self.known = ScaledCovariance(bands, self.scales, ScaledCovariance(bands, self.scales, flat))
        white = torch.randn(400, *SHAPE, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
        self.fields = self.d + self.known.sqrt(white)


def test_finds_that_bands_err_in_different_places():
    """On so small a grid the filter of the coarse band reaches across the border, where it meets the other side's errors."""
    prior = Banded()
    found = posterior.fit_local_spread(prior, prior.fields, sigmas=[0.5, 2.0])
    coarse, fine = (s[0, 0] for s in found.scales(prior.d[None], 1.0))
    left, right = slice(3, N // 2 - 3), slice(N // 2 + 3, -3)
    assert float(coarse[:, left].mean() / coarse[:, right].mean()) > 1.5
    assert float(fine[:, right].mean() / fine[:, left].mean()) > 5
    white = torch.randn(2000, *SHAPE, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    drawn = found.covariance(prior.d[None], 1.0, prior.d[None]).sqrt(white).std(0)
    ratio = drawn / (prior.fields - prior.d).std(0)
    assert float(ratio[..., left].mean()) == pytest.approx(1, abs=0.1)
    assert float(ratio[..., right].mean()) == pytest.approx(1, abs=0.1)


def some_points(prior, count):
    """A field of the prior, measured at so many random points."""
    mask = torch.zeros(N * N)
    mask[torch.randperm(N * N, generator=torch.Generator().manual_seed(3))[:count]] = 1
    physics = operators.Inpainting(mask.reshape(N, N))
    return posterior.GaussianLikelihood(physics, physics.A(prior.fields[:1].float()).double(), 0.1)


@pytest.mark.parametrize("seen", [40, 150], ids=["factorised", "conjugate gradients"])
def test_draws_have_the_covariance_of_two_bands(uneven, seen):
    prior = Banded()
    rows = prior.known.roots(prior.d)[0](torch.eye(N * N, dtype=torch.float64).reshape(-1, *SHAPE)).flatten(1).T
    exact = posterior.GaussianPrior(prior.d, rows @ rows.T)
    like = some_points(prior, seen)
    wanted = posterior.exact_posterior(exact, like)
    prior.local_spread = Known(uneven.local_spread, prior.known)
    draws = posterior.sample(prior, like, posterior.GaussianBridge(1), draws=400, batch_size=400)
    assert float(((draws.mean - wanted.mean) / wanted.std).square().mean().sqrt()) < 0.08
    assert float((draws.std / wanted.std).mean()) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("seen", [40, 150], ids=["factorised", "conjugate gradients"])
def test_draws_have_the_uneven_covariance(uneven, seen):
    """A prior whose C_sigma(x) is S C S exactly: one step of the bridge draws N(D, S C S) given the data."""
    prior = Uneven()
    rows = prior.s.flatten()[:, None] * prior.base.sqrt(torch.eye(N * N, dtype=torch.float64).reshape(-1, *SHAPE)).flatten(1)
    exact = posterior.GaussianPrior(prior.d, rows @ rows.T)
    like = some_points(prior, seen)
    wanted = posterior.exact_posterior(exact, like)
    once = ScaledCovariance((prior.base,), (prior.s[None],), prior.base)
    prior.local_spread = Known(uneven.local_spread, dataclasses.replace(once, typical=once))
    draws = posterior.sample(prior, like, posterior.GaussianBridge(1), draws=400, batch_size=400)
    assert float(((draws.mean - wanted.mean) / wanted.std).square().mean().sqrt()) < 0.08
    assert float((draws.std / wanted.std).mean()) == pytest.approx(1, abs=0.02)
    plain = posterior.sample(prior, like, posterior.GaussianBridge(1, local=False), draws=100, batch_size=100)
    assert float((plain.std / wanted.std)[..., : N // 2].mean()) > 1.5


class Turning(Prior):
    """A complex image of smooth phase, whose magnitude its denoiser does not know, and whose phase it knows well."""

    def __init__(self):
        g = torch.Generator().manual_seed(1)
        self.event_shape, self.name = (2, N, N), "turning"
        y, x = torch.meshgrid(torch.linspace(-1, 1, N, dtype=torch.float64), torch.linspace(-1, 1, N).double(), indexing="ij")
        angle = 1.5 * x - y + x * y
        self.frame = torch.stack([angle.cos(), angle.sin()])
        self.d = 3 * self.frame
        made = matern_spectrum(N)
        made = made / made.mean()
        spectra = torch.stack([made * LIVELY**2, torch.full_like(made, QUIET**2)])
        self.base = Covariance(FourierBasis(2), spectra)
        white = torch.randn(400, 2, N, N, generator=g, dtype=torch.float64)
        self.reference = RadialReference(*radial_spectrum(self.base.sqrt(white)[:, :1]))
        one = ScaledCovariance((self.base,), (torch.ones(1, 1, 1, 1),), self.base, self.frame[None])
        self.known = dataclasses.replace(one, typical=one)
        self.fields = self.d + one.sqrt(torch.randn(400, 2, N, N, generator=g, dtype=torch.float64))

    def denoise(self, x, sigma):
        return self.d.to(x).expand(x.shape)


@pytest.fixture(scope="module")
def turning():
    prior = Turning()
    prior.local_spread = posterior.fit_local_spread(prior, prior.fields, phase=True, sigmas=[0.5, 2.0])
    return prior


def test_tells_errors_along_the_phase_from_those_across_it(turning):
    found = turning.local_spread.covariance(turning.d[None], 1.0, turning.d[None])
    torch.testing.assert_close(found.frame[0, :, 4:-4, 4:-4], turning.frame[:, 4:-4, 4:-4], atol=0.1, rtol=0)
    along, across = (r.error_covariance((2, N, N), 1.0) for r in turning.local_spread.references)
    assert along.mean_variance**0.5 == pytest.approx(LIVELY, rel=0.1)
    assert across.mean_variance**0.5 == pytest.approx(QUIET, rel=0.3)
    assert float(along.eigenvalues[0, 1] / along.eigenvalues[8, 8]) > 20
    # white but for what the measured frame leaks of the other component
    assert float(across.eigenvalues[0, 4] / across.eigenvalues[8, 8]) < 3


class Twisted(Turning):
    """The phase turns fast in the right half, and only there is it known badly; the magnitude is rough everywhere."""

    def __init__(self):
        super().__init__()
        g = torch.Generator().manual_seed(2)
        right = torch.arange(N) >= N // 2
        angle = torch.where(right, 1.0, 0.05) * torch.arange(N)
        self.frame = torch.stack([angle.cos(), angle.sin()])[:, None].expand(2, N, N).double()
        self.d = (5 + torch.randn(1, N, N, generator=g, dtype=torch.float64)) * self.frame
        self.s = torch.stack([torch.ones(N), torch.where(right, 0.6, 0.1)])[:, None].double()
        errors = self.s * torch.randn(100, 2, N, N, generator=g, dtype=torch.float64)
        self.fields = self.d + turned(self.frame[None], errors, 1)


def test_finds_where_the_phase_is_known_badly():
    prior = Twisted()
    found = posterior.fit_local_spread(prior, prior.fields, phase=True, sigmas=[0.5, 2.0])
    inner = slice(3, -3)
    for along, across in (s[0] for s in found.scales(prior.d[None], 1.0)):
        ratio = across[inner, N // 2 + 3 : -3].mean() / across[inner, 3 : N // 2 - 3].mean()
        assert float(ratio) == pytest.approx(6, rel=0.25)
        torch.testing.assert_close(along[inner, inner], torch.ones_like(along[inner, inner]), rtol=0, atol=0.15)


@pytest.mark.parametrize("seen", [30, 150], ids=["factorised", "conjugate gradients"])
def test_draws_have_the_turned_covariance(turning, seen):
    prior = Turning()
    rows = prior.known.sqrt(torch.eye(2 * N * N, dtype=torch.float64).reshape(-1, 2, N, N)).flatten(1).T
    exact = posterior.GaussianPrior(prior.d, rows @ rows.T)
    like = some_points(prior, seen)
    wanted = posterior.exact_posterior(exact, like)
    prior.local_spread = Known(turning.local_spread, prior.known)
    draws = posterior.sample(prior, like, posterior.GaussianBridge(1), draws=400, batch_size=400)
    assert float(((draws.mean - wanted.mean) / wanted.std).square().mean().sqrt()) < 0.08
    units = torch.eye(2 * N * N, dtype=torch.float64).reshape(-1, 2, N, N)
    turn = turned(prior.known.frame, units, -1).flatten(1).T
    components = (turn @ wanted.cov @ turn.T).diagonal().sqrt().reshape(2, N, N)
    ratio = turned(prior.known.frame, draws.samples, -1).std(0) / components
    torch.testing.assert_close(ratio.mean((1, 2)), torch.ones(2, dtype=torch.float64), rtol=0, atol=0.03)


class Coast(Prior):
    """Errs by the same on all of a sea, whatever the field is, and on land not at all."""

    def __init__(self):
        g = torch.Generator().manual_seed(2)
        self.event_shape, self.name = SHAPE, "coast"
        sea = (torch.arange(N) >= N // 4).expand(SHAPE)
        self.labels = Labels("current", ("channel", "y", "x"), mask=sea)
        self.fields = sea * (3 + torch.randn(200, *SHAPE, generator=g, dtype=torch.float64))
        self.reference = EOFReference.fit(self.fields - sea * 3.0, mask=sea)

    def denoise(self, x, sigma):
        return torch.where(self.labels.mask, 3.0, 0.0).to(x).expand(x.shape)


def test_land_has_no_part_in_the_fit():
    prior = Coast()
    found = posterior.fit_local_spread(prior, prior.fields, sigmas=[0.5])
    assert found.gain < 0.01  # against land alone it would be 2 and more
    (scale,) = found.scales(prior.denoise(prior.fields[:1], 0.5), 0.5)
    at_sea = scale[0, 0][prior.labels.mask[0]]
    torch.testing.assert_close(at_sea, torch.ones_like(at_sea), atol=0.1, rtol=0)


def test_a_stationary_gaussian_needs_none():
    spectrum = matern_spectrum(32)
    prior = posterior.GaussianPrior(torch.zeros(1, 32, 32, dtype=torch.float64), spectrum)
    white = torch.randn(60, 1, 32, 32, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    fields = prior.reference.cov.sqrt(white)
    # the same Gaussian for images of any size, whose denoiser is exact too
    f = torch.fft.fftfreq(32, dtype=torch.float64)
    radius = torch.hypot(f[:, None], f[None]).flatten()
    order = radius.argsort()
    new = torch.cat([torch.ones(1, dtype=torch.bool), radius[order].diff() > 1e-9])
    prior.reference = RadialReference(radius[order][new], spectrum.flatten()[order][new])
    found = posterior.fit_local_spread(prior, fields, sigmas=[0.1, 1.0])
    assert abs(found.gain) < 0.005
    assert all(float((s - 1).abs().mean()) < 0.05 for s in found.scales(fields[:8], 0.3))


def test_draws_do_not_depend_on_the_batch(uneven):
    like = posterior.GaussianLikelihood(operators.Blur(operators.gaussian_kernel(1.0), (N, N)), uneven.fields[:1], 0.1)
    made = [posterior.sample(uneven, like, posterior.GaussianBridge(2), draws=4, batch_size=b).samples for b in (1, 4)]
    torch.testing.assert_close(*made, rtol=0, atol=1e-9)


class Stacked(operators.Inpainting):
    """Data with an axis more than the field, as those of several coils have."""

    def A(self, x, **_):
        return super().A(x)[:, None]

    def A_adjoint(self, y, **_):
        return super().A_adjoint(y[:, 0])

    def A_adjoint_A(self, x, **_):
        return super().A_adjoint_A(x)


def test_data_may_have_more_axes_than_the_field(uneven):
    mask = torch.rand(N, N, generator=torch.Generator().manual_seed(3)).gt(0.4).double()
    made = []
    for physics in (operators.Inpainting(mask), Stacked(mask)):
        like = posterior.GaussianLikelihood(physics, physics.A(uneven.fields[:1]), 0.1)
        made.append(posterior.sample(uneven, like, posterior.GaussianBridge(2), draws=2).samples)
    torch.testing.assert_close(*made, rtol=0, atol=1e-6)


def test_a_float32_event_of_any_size_has_features():
    for seen, count in (
        (features(torch.zeros(2, 2, 5, 7)), 6),
        (features(torch.zeros(2, 2, 5, 7), torch.ones(2, 2, 5, 7)), 10),
    ):
        assert seen.shape == (2, count, 5, 7)
        assert torch.isfinite(seen).all()


def test_fields_may_have_no_axis_but_those_of_space(uneven):
    fields = torch.stack([uneven.d[0], uneven.d[0].T, uneven.d[0].flip(0)])
    plain, axis = (uneven.local_spread.covariance(x, 1.0, x[:1]) for x in (fields, fields[:, None]))
    v = torch.randn(3, N, N, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(plain.apply(v), axis.apply(v[:, None])[:, 0])


def stored(prior):
    from diffusers import UNet2DModel

    channels = prior.event_shape[0]
    with torch.random.fork_rng(devices=[]):
        network = UNet2DModel(
            in_channels=channels + 1,
            out_channels=channels,
            layers_per_block=1,
            block_out_channels=(8, 8),
            down_block_types=("DownBlock2D",) * 2,
            up_block_types=("UpBlock2D",) * 2,
            norm_num_groups=4,
            add_attention=False,
        )
    shape = (channels, None, None)
    return NetworkPrior(network, GaussianResidual(prior.reference), shape, reference=prior.reference, multiple=2)


def tabled(t, components, features):
    """The tables of one component and six features, for as many as asked for."""
    many = {f"local.{k}": t[f"local.{k}"].repeat_interleave(components, 1) for k in PARTS}
    again = torch.arange(features) % 6
    edges, values = many["local.edges"][:, :, again], many["local.values"][:, :, :, again]
    return many | {"local.edges": edges.contiguous(), "local.values": values.contiguous()}


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda t: t.pop("local.errors"), "local"),
        (lambda t: [t.pop("local.errors"), t.pop("local.sigmas")], "local.values without local.errors"),
        (lambda t: t.update({"local.values": 1e4 * torch.ones_like(t["local.values"])}), "no logarithms of variances"),
        (lambda t: t.update({"local.values": t["local.values"].long()}), "wanted floating-point numbers"),
        (lambda t: t.update({"local.tails": torch.tensor(-1.0)}), "tails must be positive"),
        (lambda t: t.update(tabled(t, 2, 10)), "complex images"),
        (lambda t: t.update(tabled(t, 2, 6)), r"\(levels, components, 10, 2\)"),
        (lambda t: t.update({"local.values": t["local.values"][:, :, :1].contiguous()}), "2, 6, knots"),
        (lambda t: t.update(tabled(t, 3, 14)), "components 1 or 2"),
    ],
)
def test_tables_that_lie_are_refused(tmp_path, uneven, change, said):
    prior = stored(uneven)
    prior.local_spread = uneven.local_spread
    posterior.save_prior(prior, tmp_path)
    tensors = load_file(tmp_path / "tables.safetensors")
    change(tensors)
    save_file(tensors, tmp_path / "tables.safetensors")
    with pytest.raises(ValueError, match=said):
        posterior.load_prior(tmp_path)


def test_travels_with_the_prior(tmp_path, uneven):
    prior = stored(uneven)
    posterior.save_prior(prior, tmp_path / "without")
    assert posterior.load_prior(tmp_path / "without").local_spread is None
    prior.local_spread = dataclasses.replace(uneven.local_spread, tails=0.3)
    posterior.save_prior(prior, tmp_path / "with")
    found, want = posterior.load_prior(tmp_path / "with").local_spread, uneven.local_spread
    assert found is not None
    assert (found.gain, found.tails, want.tails) == (want.gain, 0.3, None)
    for a, b in zip(found.scales(uneven.d[None], 0.7), want.scales(uneven.d[None], 0.7), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(found.references[0].errors, want.references[0].errors)


def test_what_does_not_fit_is_refused(uneven):
    found = uneven.local_spread
    with pytest.raises(ValueError, match="wanted rising"):
        dataclasses.replace(found, edges=found.edges.flip(3))
    with pytest.raises(ValueError, match="carries no RadialReference"):
        posterior.fit_local_spread(posterior.GaussianPrior(torch.zeros(4), torch.eye(4)), torch.zeros(4, 4))
    with pytest.raises(ValueError, match="phase=True takes complex images"):
        posterior.fit_local_spread(uneven, uneven.fields, phase=True, sigmas=[0.5])
    with pytest.raises(ValueError, match="sigmas="):
        posterior.fit_local_spread(uneven, uneven.fields)


@pytest.mark.parametrize("name", ["galaxies", "brain-mri"])
def test_bundled_priors_that_carry_one_err_more_at_the_edge_of_what_is_bright(name):
    prior = posterior.load_prior(name)
    assert prior.local_spread.gain > 0.2
    disc = torch.zeros(1, prior.event_shape[0], 48, 48)
    disc[..., 12:36, 12:36] = 3.0
    coarse, fine = (s[0, 0] for s in prior.local_spread.scales(disc, 0.5))
    for scale in (coarse, fine):
        assert scale[24, 12] > 2 * scale[2, 2]
    assert fine[24, 12] > 5 * fine[24, 24]
    assert coarse[24, 24] > 5 * coarse[2, 2]
