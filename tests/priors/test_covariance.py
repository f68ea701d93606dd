import pytest
import torch

from posterior.priors.analytic import GaussianPrior
from posterior.priors.covariance import Covariance, EigenBasis, FourierBasis, covariance_of

# Event shape and the trailing axes that carry the spectrum.
GRIDS = [
    ((7,), 1),
    ((8,), 1),
    ((3, 8), 1),
    ((5, 6), 2),
    ((1, 6, 5), 2),
    ((2, 4, 4), 2),
    ((2, 3, 7), 3),
    ((1, 1, 4), 2),
]


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def spectrum_on(shape, seed=0):
    """A positive spectrum that is symmetric under f -> -f over its last two axes (or its only one)."""
    half = normal(*shape, seed=seed).exp()
    dims = tuple(range(-min(len(shape), 2), 0))
    return half + torch.roll(half.flip(dims), (1,) * len(dims), dims)


def circulant(spectrum, event_shape):
    """The matrix of a stationary covariance, column by column through the full complex FFT."""
    n = torch.Size(event_shape).numel()
    dims = tuple(range(-min(spectrum.ndim, 2), 0))
    columns = torch.eye(n, dtype=torch.float64).reshape(n, *event_shape)
    out = torch.fft.ifftn(spectrum * torch.fft.fftn(columns, dim=dims), dim=dims)
    assert out.imag.abs().max() < 1e-12
    return out.real.reshape(n, n).T


def as_matrix(action, event_shape):
    n = torch.Size(event_shape).numel()
    return action(torch.eye(n, dtype=torch.float64).reshape(n, *event_shape)).reshape(n, n).T


def cases():
    for event_shape, axes in GRIDS:
        spectrum = spectrum_on(event_shape[-axes:])
        yield pytest.param(event_shape, spectrum, circulant(spectrum, event_shape), id=f"fourier-{event_shape}-{axes}")
    for event_shape in [(6,), (2, 5)]:
        n = torch.Size(event_shape).numel()
        root = normal(n, n)
        yield pytest.param(event_shape, root @ root.T / n, root @ root.T / n, id=f"dense-{event_shape}")


@pytest.mark.parametrize(("event_shape", "given", "matrix"), list(cases()))
class TestAgainstExplicitMatrices:
    def test_apply_is_the_matrix(self, event_shape, given, matrix):
        cov = covariance_of(event_shape, given)
        torch.testing.assert_close(as_matrix(cov.apply, event_shape), matrix, rtol=1e-10, atol=1e-10)

    def test_sqrt_is_the_symmetric_positive_square_root(self, event_shape, given, matrix):
        root = as_matrix(covariance_of(event_shape, given).sqrt, event_shape)
        torch.testing.assert_close(root, root.T, rtol=1e-10, atol=1e-10)
        assert torch.linalg.eigvalsh(root).min() > 0
        torch.testing.assert_close(root @ root.T, matrix, rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("sigma", [0.03, 1.0, 40.0])
    def test_given_is_the_covariance_of_x0_given_the_noised_field(self, event_shape, given, matrix, sigma):
        wanted = torch.linalg.inv(torch.linalg.inv(matrix) + torch.eye(len(matrix), dtype=torch.float64) / sigma**2)
        cov = covariance_of(event_shape, given).given(sigma)
        torch.testing.assert_close(as_matrix(cov.apply, event_shape), wanted, rtol=1e-7, atol=1e-9)

    def test_white_noise_and_factors_are_added_and_multiplied(self, event_shape, given, matrix):
        cov = covariance_of(event_shape, given).plus_white(0.3).scaled(2.0)
        wanted = 2 * (matrix + 0.3 * torch.eye(len(matrix), dtype=torch.float64))
        torch.testing.assert_close(as_matrix(cov.apply, event_shape), wanted, rtol=1e-10, atol=1e-10)

    def test_summary_variances(self, event_shape, given, matrix):
        cov = covariance_of(event_shape, given)
        assert cov.mean_variance == pytest.approx(float(matrix.trace()) / len(matrix))
        assert cov.max_variance == pytest.approx(float(torch.linalg.eigvalsh(matrix).max()))

    def test_prior_denoises_as_the_matrices_say(self, event_shape, given, matrix):
        n = len(matrix)
        mean, x, sigma = (
            normal(*event_shape, seed=2),
            normal(3, *event_shape, seed=3),
            torch.tensor([0.1, 1.0, 9.0]),
        )
        found = GaussianPrior(mean, given).denoise(x, sigma)
        for item, level, out in zip(x, sigma.double(), found, strict=True):
            gain = matrix @ torch.linalg.inv(matrix + level**2 * torch.eye(n, dtype=torch.float64))
            wanted = mean + (gain @ (item - mean).flatten()).reshape(event_shape)
            torch.testing.assert_close(out, wanted, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("given", [spectrum_on((5, 6)), torch.eye(30, dtype=torch.float64)], ids=["spectrum", "matrix"])
def test_fields_keep_their_precision(given, dtype):
    cov = covariance_of((5, 6), given)
    assert cov.eigenvalues.dtype == torch.float64
    assert cov.apply(torch.ones(2, 5, 6, dtype=dtype)).dtype == dtype
    assert GaussianPrior(torch.zeros(5, 6), given).denoise(torch.ones(2, 5, 6, dtype=dtype), 1.0).dtype == dtype


def test_draws_have_the_covariance():
    spectrum = spectrum_on((3, 4))
    fields = covariance_of((3, 4), spectrum).sqrt(normal(40_000, 3, 4))
    empirical = torch.cov(fields.flatten(1).T)
    matrix = circulant(spectrum, (3, 4))
    # the standard error of a covariance is at most sqrt(2 / n) times the variance
    assert (empirical - matrix).abs().max() < 5 * (2 / 40_000) ** 0.5 * matrix.max()


def test_zero_eigenvalues_stay_zero():
    cov = covariance_of((4,), torch.diag(torch.tensor([2.0, 1.0, 0.0, 0.0], dtype=torch.float64)))
    v = torch.ones(1, 4, dtype=torch.float64)
    torch.testing.assert_close(cov.given(0.5).apply(v)[0, 2:], torch.zeros(2, dtype=torch.float64))
    assert torch.isfinite(cov.given(0.0).apply(v)).all()


@pytest.mark.parametrize("scale", [1.0, 1e-16, 1e-20])
def test_small_units_are_as_good_as_others(scale):
    cov = Covariance(FourierBasis(1), torch.tensor([scale**2, 0.0], dtype=torch.float64))
    assert cov.given(scale).eigenvalues.tolist() == pytest.approx([scale**2 / 2, 0.0], rel=1e-9, abs=0)
    assert cov.given(0.0).eigenvalues.tolist() == [0.0, 0.0]


def test_rounding_below_zero_is_cut():
    direction = torch.linalg.qr(normal(5, 5))[0][:, :1]
    cov = covariance_of((5,), direction @ direction.T)
    assert cov.eigenvalues.min() >= 0


@pytest.mark.parametrize("size", [(7,), (8,)])
def test_fourier_basis_is_orthonormal(size):
    v = normal(2, *size)
    basis = FourierBasis(1)
    c = basis.analyse(v)
    weight = torch.full((c.shape[-1],), 2.0, dtype=torch.float64)
    weight[0] = 1.0
    if size[-1] % 2 == 0:
        weight[-1] = 1.0
    torch.testing.assert_close((c.abs().square() * weight).sum(-1), v.square().sum(-1))
    torch.testing.assert_close(basis.synthesise(c, v.shape), v)


def test_eigen_basis_is_flattened_and_restored():
    vectors = torch.linalg.qr(normal(6, 6))[0]
    cov = Covariance(EigenBasis(vectors), torch.arange(1.0, 7.0, dtype=torch.float64))
    v = normal(4, 2, 3)
    assert cov.apply(v).shape == v.shape
    wanted = v.flatten(1) @ (vectors @ torch.diag(cov.eigenvalues) @ vectors.T)
    torch.testing.assert_close(cov.apply(v).flatten(1), wanted)


def _bad(kind):
    matrix, spectrum = torch.eye(6, dtype=torch.float64), spectrum_on((2, 3))
    if kind == "asymmetric matrix":
        matrix[0, 1] = 0.5
        return matrix, "not symmetric"
    if kind == "negative matrix":
        matrix[2, 2] = -0.5
        return matrix, "negative eigenvalue, -0.5"
    if kind == "nan matrix":
        matrix[1, 1] = torch.nan
        return matrix, "not finite"
    if kind == "infinite spectrum":
        spectrum[0, 0] = torch.inf
        return spectrum, "not finite"
    if kind == "negative spectrum":
        return -spectrum, "negative value"
    if kind == "asymmetric spectrum":
        spectrum[0, 1] *= 2
        return spectrum, "not symmetric under f -> -f"
    if kind == "wrong matrix":
        return torch.eye(5), r"shape \(5, 5\)"
    if kind == "wrong spectrum":
        return torch.ones(3, 2), r"shape \(3, 2\)"
    if kind == "too many axes":
        return torch.ones(1, 2, 3), r"shape \(1, 2, 3\)"
    return torch.tensor(1.0), r"shape \(\)"


@pytest.mark.parametrize(
    "kind",
    [
        "asymmetric matrix",
        "negative matrix",
        "nan matrix",
        "infinite spectrum",
        "negative spectrum",
        "asymmetric spectrum",
        "wrong matrix",
        "wrong spectrum",
        "too many axes",
        "scalar",
    ],
)
def test_what_is_no_covariance_is_refused(kind):
    cov, message = _bad(kind)
    with pytest.raises(ValueError, match=message):
        GaussianPrior(torch.zeros(2, 3), cov)


def test_mean_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="mean has values that are not finite"):
        GaussianPrior(torch.tensor([0.0, torch.nan]), torch.eye(2))


@pytest.mark.parametrize("sigma", [torch.ones(2), torch.ones(3, 1)])
def test_noise_levels_that_fit_no_batch_are_refused(sigma):
    with pytest.raises(ValueError, match="sigma has shape"):
        GaussianPrior(torch.zeros(4), torch.eye(4)).denoise(torch.zeros(3, 4), sigma)


def test_score_is_the_gradient_of_the_noised_log_density():
    root = normal(4, 4)
    cov, mean, sigma = root @ root.T, normal(4, seed=1), 0.7
    x = normal(3, 4, seed=2).requires_grad_(True)
    law = torch.distributions.MultivariateNormal(mean, cov + sigma**2 * torch.eye(4, dtype=torch.float64))
    (wanted,) = torch.autograd.grad(law.log_prob(x).sum(), x)
    torch.testing.assert_close(GaussianPrior(mean, cov).score(x.detach(), sigma), wanted)
