"""GaussianBridge beyond linear operators and Gaussian noise, and every way to solve its linear systems."""

import deepinv
import pytest
import torch

import operators
import posterior
from benchmarks.problems.random_field import random_field
from posterior.guidance.solves import explain
from posterior.integrators import Ancestral, Estimate
from posterior.problem import Problem, pilot_noise
from tests.samplers.quadrature import Matrix, against_quadrature, tensor


class Function(deepinv.physics.Physics):
    """y = f(x)."""

    def __init__(self, f):
        super().__init__()
        self.f = f

    def A(self, x, **kwargs):
        return self.f(x)


@pytest.mark.parametrize("renewed", [0.0, 0.5, 1.0])
def test_renewed_noise_keeps_a_gaussian_exact(renewed):
    """However much of the noise of a step is drawn anew."""
    like = posterior.GaussianLikelihood(Matrix(torch.ones(1, 1)), tensor(1.0), 0.7)
    bias, ratio, distance = against_quadrature(like, 0.5, 2.0, posterior.GaussianBridge(4, renewed=renewed))
    assert abs(bias) < 0.06
    assert ratio == pytest.approx(1, abs=0.05)
    assert distance < 1.63  # the 1 % point of Kolmogorov's law


def test_renewing_all_of_the_noise_forgets_x():
    """x' = x0 + sigma' z: given x0 nothing of x is left, and a share of it by the bridge."""
    x0 = torch.zeros(20_000, 1, dtype=torch.float64)
    x = 2 * torch.randn(x0.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    estimate = Estimate(lambda: x0, lambda noise: x0)
    for renewed, kept in ((0.0, 0.25), (0.6, 0.1), (1.0, 0.0)):
        g = torch.Generator().manual_seed(1)
        moved, _ = Ancestral(renewed).step(
            lambda *_: estimate, x, 2.0, 1.0, lambda g=g: torch.randn(x.shape, generator=g, dtype=x.dtype), None
        )
        assert float((moved * x).mean() / x.square().mean()) == pytest.approx(kept, abs=0.02)
        assert float(moved.std()) == pytest.approx(1, abs=0.02)
    with pytest.raises(ValueError, match="GaussianBridge: renewed must be between 0 and 1"):
        posterior.GaussianBridge(renewed=1.5)
    with pytest.raises(ValueError, match="Ancestral: renewed must be between 0 and 1"):
        Ancestral(renewed=-0.1)


# torch.func.jvp loads its decompositions with torch's own deprecated scripting
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script:FutureWarning")
DATA = tensor(1.0, 1.3, 0.8, 1.6, 6.0)
ONES = torch.ones(5, 1)


class TestGrossErrors:
    @pytest.mark.parametrize("steps", [1, 6])
    @pytest.mark.parametrize(
        "like",
        [
            posterior.StudentTLikelihood(Matrix(ONES), DATA, 0.4, dof=3),
            posterior.StudentTLikelihood(Matrix(ONES), DATA, 0.4, dof=4.5),
            posterior.OutlierLikelihood(Matrix(ONES), DATA, 0.4, fraction=0.1),
        ],
        ids=["student 3", "student 4.5", "outlier"],
    )
    def test_exact_under_a_gaussian_prior(self, like, steps):
        bias, ratio, distance = against_quadrature(like, 0.0, 2.0, posterior.GaussianBridge(steps))
        assert abs(bias) < 0.08
        assert ratio == pytest.approx(1, abs=0.1)
        assert distance < 1.63  # the 1 % point of Kolmogorov's law

    def test_without_drawn_variances_it_is_not(self):
        """What the sweeps are for: one sweep from the wrong variances is seen by the same test."""
        like = posterior.StudentTLikelihood(Matrix(ONES), DATA, 0.4, dof=3)
        assert against_quadrature(like, 0.0, 2.0, posterior.GaussianBridge(1, sweeps=0))[2] > 2

    def test_variances_are_those_of_the_mixture(self):
        """Averaged over the law of w given the residual, 1 / w is the precision that `noise_variance` expects."""
        uniform = (torch.arange(20000, dtype=torch.float64)[:, None] + 0.5) / 20000
        for like in (
            posterior.StudentTLikelihood(Matrix(torch.ones(1, 1)), tensor(1.5), 0.5, dof=4),
            posterior.OutlierLikelihood(Matrix(torch.ones(1, 1)), tensor(1.5), 0.5),
        ):
            law = like.in_standard(posterior.GaussianPrior.affine, (1,))
            u = torch.zeros(20000, 1, dtype=torch.float64)
            drawn = law.noise_variance(u, uniform)
            torch.testing.assert_close((1 / drawn).mean(), 1 / law.noise_variance(u[:1])[0, 0], rtol=2e-3, atol=0)
            # and the posterior score of the location is that of the law itself
            score = ((law.y - u) / drawn).mean()
            torch.testing.assert_close(score, law.gradient(u[:1])[0, 0], rtol=2e-3, atol=0)

    def test_draws_do_not_depend_on_the_batch(self):
        problem = random_field("inpainting")
        like = posterior.StudentTLikelihood(problem.likelihood.operator, problem.likelihood.y, 0.05)
        one, three = (
            posterior.sample(problem.prior, like, posterior.GaussianBridge(2, sweeps=2), draws=3, batch_size=b).samples
            for b in (1, 3)
        )
        torch.testing.assert_close(one, three, rtol=0, atol=1e-5)


class TestCurved:
    @pytest.mark.parametrize("count", [0.0, 2.0, 20.0])
    def test_counts(self, count):
        like = posterior.PoissonLikelihood(Matrix(torch.ones(1, 1)), tensor(count))
        bias, ratio, _ = against_quadrature(like, max(3.0, count), max(1.0, 0.3 * count), posterior.GaussianBridge(10))
        assert abs(bias) < 0.15
        assert ratio == pytest.approx(1, abs=0.06)

    def test_counts_by_the_count_alone_are_worse(self):
        like = posterior.PoissonLikelihood(Matrix(torch.ones(1, 1)), tensor(0.0))
        assert abs(against_quadrature(like, 3.0, 1.0, posterior.GaussianBridge(10, relinearise=0))[0]) > 0.4

    def test_a_nonlinear_operator(self):
        like = posterior.GaussianLikelihood(Function(torch.exp), tensor(3.0), 0.5)
        rough, fine = (against_quadrature(like, 0.0, 1.0, posterior.GaussianBridge(1, relinearise=k)) for k in (0, 3))
        assert rough[0] > 1
        assert abs(fine[0]) < 0.3
        bias, ratio, _ = against_quadrature(like, 0.0, 1.0, posterior.GaussianBridge(20))
        assert abs(bias) < 0.2
        assert ratio == pytest.approx(1, abs=0.1)

    def test_negative_counts_of_iterations_are_refused(self):
        with pytest.raises(ValueError, match="relinearise must not be negative"):
            posterior.GaussianBridge(relinearise=-1)


class TestStacked:
    def test_two_instruments_of_different_precision(self):
        """One of them sees much better: the draws are those of the exact posterior, which knows both."""
        problem = random_field("inpainting")
        shape = tuple(problem.truth.shape[1:])
        parts = [operators.SuperResolution(shape, 4), problem.likelihood.operator]
        stack = operators.Stack(parts, shape)
        y = stack.A(problem.truth.double())
        sigma = torch.cat([torch.full((1, 64), 0.02), torch.full((1, y.shape[1] - 64), 0.3)], 1).double()
        g = torch.Generator().manual_seed(0)
        like = posterior.GaussianLikelihood(stack, y + sigma * torch.randn(y.shape, generator=g, dtype=y.dtype), sigma)
        exact = posterior.exact_posterior(problem.prior, like)
        draws = posterior.sample(problem.prior, like, posterior.GaussianBridge(3), draws=200, batch_size=100)
        white = ((draws.mean.double() - exact.mean) / exact.std * 200**0.5).square().mean()
        assert float(white) == pytest.approx(1, abs=0.35)
        assert float((draws.std / exact.std).mean()) == pytest.approx(1, abs=0.02)


class TestSolves:
    @pytest.mark.parametrize("operator", ["inpainting", "pooling", "blur", "fourier"])
    def test_every_way_gives_the_same_answer(self, operator, monkeypatch):
        """Closed form where there is one, dense and iterative, against each other."""
        import posterior.guidance.solves as solves

        instance = random_field(operator)
        shape = tuple(instance.truth.shape[1:])
        like = instance.likelihood.in_standard(instance.prior.affine, shape)
        cov = instance.prior.reference.error_covariance(shape, 0.3)
        residual = torch.cat([pilot_noise(tuple(like.y.shape[1:]), like.y, seed) for seed in (1, 2)]) * like.reach
        lin = like.model.linearise(torch.zeros(2, *shape, dtype=torch.float64))
        found = {}
        for name, few, diagonal in (("chosen", 512, True), ("dense", 4096, False), ("iterative", 0, False)):
            monkeypatch.setattr(solves, "FEW", few)
            if not diagonal:
                monkeypatch.setattr(solves, "_diagonal_weights", lambda *_: None)
            found[name] = explain(Problem(instance.prior, like, shape), "key", lin, cov, residual, 2000, 1e-9)
        for name in ("chosen", "iterative"):
            torch.testing.assert_close(found[name], found["dense"], rtol=1e-5, atol=1e-6)

    def test_drawn_variances_in_dense_and_iterative_solves(self, monkeypatch):
        import posterior.guidance.solves as solves

        instance = random_field("pooling")
        shape = tuple(instance.truth.shape[1:])
        like = instance.likelihood.in_standard(instance.prior.affine, shape)
        cov = instance.prior.reference.error_covariance(shape, 0.3)
        lin = like.model.linearise(torch.zeros(2, *shape, dtype=torch.float64))
        noise = pilot_noise((2, *like.y.shape[1:]), like.y)[0]
        variance = like.variance * torch.exp(noise.clamp(-1.3, 1.3))
        found = []
        for few in (4096, 0):
            monkeypatch.setattr(solves, "FEW", few)
            problem = Problem(instance.prior, like, shape)
            found.append(explain(problem, "key", lin, cov, noise.flip(0), 2000, 1e-9, variance))
        torch.testing.assert_close(*found, rtol=1e-5, atol=1e-6)


def open_direction(unobserved):
    """Ten coordinates, the last five seen; the first varies by ``unobserved``, the others by 1."""
    variances = torch.ones(10, dtype=torch.float64)
    variances[0] = unobserved**2
    like = posterior.GaussianLikelihood(Matrix(torch.eye(10)[5:].double()), torch.zeros(1, 5).double(), 0.1)
    return posterior.GaussianPrior(torch.zeros(10).double(), variances.diag()), like


class TestNoiseLevels:
    def test_widest_direction_of_the_posterior(self, monkeypatch):
        """Against the eigenvalues of a dense posterior covariance, by factorisation and by conjugate gradients."""
        import posterior.guidance.solves as solves

        g = torch.Generator().manual_seed(0)
        square, seen = torch.randn(12, 12, generator=g).double(), torch.randn(7, 12, generator=g).double()
        cov = square @ square.T
        prior = posterior.GaussianPrior(torch.zeros(12).double(), cov)
        like = posterior.GaussianLikelihood(Matrix(seen), torch.ones(1, 7).double(), 0.3)
        wanted = (
            float(
                torch.linalg.eigvalsh(
                    cov - cov @ seen.T @ torch.linalg.solve(seen @ cov @ seen.T + 0.09 * torch.eye(7).double(), seen @ cov)
                ).max()
            )
            ** 0.5
        )
        for few in (512, 0):
            monkeypatch.setattr(solves, "FEW", few)
            problem = Problem(prior, like.in_standard(prior.affine, (12,)), (12,))
            found = posterior.GaussianBridge().guidance.widest(problem)
            assert 0.9 * wanted < found < 1.001 * wanted

    @pytest.mark.parametrize(("unobserved", "top"), [(1.0, 2.0), (6.0, 12.0)])
    def test_start_is_twice_the_widest_direction_and_two_rms_at_least(self, unobserved, top):
        prior, like = open_direction(unobserved)
        problem = Problem(prior, like.in_standard(prior.affine, (10,)), (10,))
        assert posterior.GaussianBridge().levels(problem)[0] == pytest.approx(max(top, 2 * prior.rms), rel=0.02)
        assert posterior.GaussianBridge(sigma_max=3.0).levels(problem)[0] == 3.0
        prior.sigma_max = 5.0
        assert posterior.GaussianBridge().levels(problem)[0] == pytest.approx(min(max(top, 2 * prior.rms), 5.0), rel=0.02)

    def test_a_rare_mode_that_the_data_leave_open(self):
        """A twentieth of the prior is far out where nothing was measured: the Gaussian's posterior hardly has it."""
        means = torch.zeros(2, 20, dtype=torch.float64)
        means[0, 0], means[1, 0] = 2.3, -43.6
        prior = posterior.GaussianMixturePrior(means, torch.tensor([0.95, 0.05]).double(), 1.0)
        like = posterior.GaussianLikelihood(Matrix(torch.eye(20)[10:].double()), torch.ones(1, 10).double(), 0.3)
        rare = [
            float((posterior.sample(prior, like, sampler, draws=3000, batch_size=3000).samples[:, 0] < -20).double().mean())
            for sampler in (posterior.GaussianBridge(), posterior.GaussianBridge(sigma_max=2 * prior.rms))
        ]
        assert rare[0] == pytest.approx(0.05, abs=0.02)
        assert rare[1] < 0.03


class TestPiGDM:
    def test_its_own_covariance_drawn_from_is_exact_for_a_white_prior(self):
        """At five steps, where the mean alone loses half of the spread."""
        n = 12
        g = torch.Generator().manual_seed(0)
        prior = posterior.GaussianPrior(torch.zeros(n).double(), torch.eye(n).double())
        like = posterior.GaussianLikelihood(Matrix(torch.randn(5, n, generator=g).double()), torch.ones(1, 5).double(), 0.3)
        exact = posterior.exact_posterior(prior, like)
        found = {}
        for sampled in (True, False):
            sampler = posterior.PiGDM(5, sampled=sampled)
            draws = posterior.sample(prior, like, sampler, draws=1500, batch_size=1500)
            found[sampled] = float((draws.std / exact.std).mean()), float(((draws.mean - exact.mean) / exact.std).abs().max())
        assert found[True][0] == pytest.approx(1, abs=0.02)
        assert found[True][1] < 0.12
        assert abs(found[False][0] - 1) > 0.1


class Cut(deepinv.physics.Physics):
    """An operator that does not say what it is made of."""

    def __init__(self, operator):
        super().__init__()
        self.operator = operator

    def A(self, x, **kwargs):
        return self.operator.A(x, **kwargs)


class TestNonlinearOfFewNumbers:
    """y = f(B x) with B linear and few numbers B x: factorised, J (B C B^T) J^T + R for each draw."""

    GRID = operators.Grid([50.0, 52.0, 54.0, 56.0, 58.0], [0.0, 2.0, 4.0, 6.0])
    SHAPE = (2, 5, 4)

    def operator(self):
        stations = operators.StationObservations(self.GRID, [51.0, 53.3, 57.0], [1.0, 4.4, 3.0], channel=(0, 1), channels=2)
        return operators.Compose(operators.WindSpeed(), stations)

    def prior(self):
        g = torch.Generator().manual_seed(3)
        square = torch.randn(40, 40, generator=g).double()
        cov = (square @ square.T / 40 + 0.1 * torch.eye(40).double()) * 4
        return posterior.GaussianPrior(3 + torch.randn(self.SHAPE, generator=g).double(), cov)

    def like(self, operator):
        return posterior.GaussianLikelihood(operator, tensor(4.0, 6.0, 5.0)[None], 0.3)

    @pytest.mark.parametrize("scaled", [False, True])
    @pytest.mark.parametrize("drawn", [False, True])
    def test_against_the_matrix_of_the_derivative(self, scaled, drawn, monkeypatch):
        import posterior.guidance.solves as solves
        from posterior.priors.covariance import Covariance, FourierBasis, ScaledCovariance

        prior = self.prior()
        monkeypatch.setattr(solves, "_iterative", lambda *_: pytest.fail("conjugate gradients"))
        like = self.like(self.operator()).in_standard(prior.affine, self.SHAPE)
        g = torch.Generator().manual_seed(1)
        z, scale = torch.randn(3, *self.SHAPE, generator=g).double(), torch.rand(3, 1, 5, 4, generator=g).double() + 0.5
        cov = prior.reference.covariance(self.SHAPE)
        if scaled:
            base = Covariance(FourierBasis(2), torch.full((5, 4), 2.0).double())
            cov = ScaledCovariance((base,), (scale,), base)
        variance = like.variance * torch.tensor([[[1.0, 2.0, 0.5]]]).double().expand(3, 1, 3) if drawn else None
        residual = torch.randn(3, 1, 3, generator=g).double()
        found = explain(Problem(prior, like, self.SHAPE), "key", like.model.linearise(z), cov, residual, 5, 1e-3, variance)
        for i in range(3):
            a = torch.func.jacrev(lambda v: like.model.predict(v[None])[0])(z[i]).reshape(3, 40)
            of = cov.of(i) if scaled else cov
            c = of.apply(torch.eye(40).double().reshape(40, *self.SHAPE)).reshape(40, 40)
            r = (like.variance if variance is None else variance)[0, 0].diag()
            wanted = c @ a.T @ torch.linalg.solve(a @ c @ a.T + r, residual[i, 0])
            torch.testing.assert_close(found[i].flatten(), wanted, rtol=1e-9, atol=1e-11)

    @pytest.mark.parametrize("kind", ["compose", "offset", "stack"])
    def test_draws_are_those_of_conjugate_gradients(self, kind, monkeypatch):
        import posterior.guidance.solves as solves

        prior, speeds = self.prior(), self.operator()
        area = operators.AreaAverage(self.GRID, 2, channels=2)
        operator = {
            "compose": speeds,
            "offset": operators.Compose(operators.WindSpeed(), operators.Offset(speeds.parts[1], 0.5)),
            "stack": operators.Stack([speeds, area]),
        }[kind]
        y, sampler = operator.A(prior.reference.mean(self.SHAPE)[None]), posterior.GaussianBridge(4, tolerance=1e-9)
        made = [posterior.sample(prior, posterior.GaussianLikelihood(Cut(operator), y, 0.3), sampler, draws=5).samples]
        monkeypatch.setattr(solves, "_iterative", lambda *_: pytest.fail("conjugate gradients"))
        made.append(posterior.sample(prior, posterior.GaussianLikelihood(operator, y, 0.3), sampler, draws=5).samples)
        torch.testing.assert_close(*made, rtol=1e-5, atol=1e-5)

    def test_draws_do_not_depend_on_the_batch(self):
        prior, like = self.prior(), self.like(self.operator())
        one, all_ = (posterior.sample(prior, like, posterior.GaussianBridge(4), draws=6, batch_size=b).samples for b in (1, 6))
        torch.testing.assert_close(one, all_, rtol=0, atol=1e-9)


def test_a_blur_with_little_noise_in_single_precision():
    """High frequencies whose gains rounding hides must not be taken for unseen by one half of a step and seen by the other."""
    f = torch.fft.fftfreq(16, dtype=torch.float64) * 16
    spectrum = 1 / (1 + torch.hypot(f[:, None], f[None])) ** 3
    prior = posterior.GaussianPrior(torch.zeros(1, 16, 16, dtype=torch.float64), spectrum / spectrum.mean())
    operator = operators.Blur(operators.gaussian_kernel(2.0), (1, 16, 16), "periodic")
    g = torch.Generator().manual_seed(0)
    clean = operator.A(prior.reference.cov.sqrt(torch.randn(1, 1, 16, 16, generator=g, dtype=torch.float64)))
    y = clean + 1e-4 * torch.randn(clean.shape, generator=g, dtype=torch.float64)
    exact = posterior.exact_posterior(prior, posterior.GaussianLikelihood(operator, y, 1e-4))
    like = posterior.GaussianLikelihood(operator, y.float(), 1e-4)
    found = posterior.sample(prior, like, posterior.GaussianBridge(5), draws=64, batch_size=64, dtype=torch.float32)
    away = (found.mean.double() - exact.mean) / exact.std
    assert float(away.square().mean().sqrt()) < 2 / 64**0.5
    assert float((found.std.double() / exact.std).mean()) == pytest.approx(1, abs=0.05)


def test_images_of_one_row():
    spectrum = 1 / (0.1 + torch.fft.fftfreq(1200, dtype=torch.float64).abs()).expand(1, 1, 1200)
    prior = posterior.GaussianPrior(torch.zeros(1, 1, 1200, dtype=torch.float64), spectrum)
    operator = operators.Blur(torch.ones(1, 5, dtype=torch.float64) / 5, (1, 1, 1200), "zero")
    noise = torch.randn(1, 1, 1, 1200, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    like = posterior.GaussianLikelihood(operator, noise, 1.0)
    found = posterior.sample(prior, like, posterior.GaussianBridge(3), draws=40, batch_size=40)
    exact = posterior.exact_posterior(prior, like)
    away = (found.mean.double() - exact.mean) / exact.std
    assert float(away.square().mean().sqrt()) < 1.5 / 40**0.5
