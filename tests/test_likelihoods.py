import cmath
import copy
import math

import deepinv
import pytest
import torch

from posterior.likelihoods import ForwardModel, GaussianLikelihood, real_view
from posterior.priors.base import Affine

SHAPE = (2, 6, 5)


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


TURN = cmath.exp(0.7j)


def fourier(shape=SHAPE, turn=TURN):
    """Complex data: the orthonormal FFT of a real field, turned by a phase so that no datum is real."""
    return deepinv.physics.LinearPhysics(
        A=lambda x, **_: turn * torch.fft.fft2(x, norm="ortho"),
        A_adjoint=lambda y, **_: torch.fft.ifft2(y * turn.conjugate(), norm="ortho").real,
        img_size=shape,
    )


def inpainting(shape=SHAPE, dtype=torch.float32):
    mask = (torch.rand(shape, generator=torch.Generator().manual_seed(1)) < 0.5).to(dtype)
    return deepinv.physics.Inpainting(shape, mask=mask), mask


def lopsided_blur(shape=(1, 8, 10), dtype=torch.float32):
    """A kernel without symmetry: its transfer function, a complex buffer in deepinv, is not real."""
    kernel = torch.rand(1, 1, 3, 5, generator=torch.Generator().manual_seed(2)).to(dtype)
    return deepinv.physics.BlurFFT(shape, filter=kernel / kernel.sum())


class Intensity(deepinv.physics.Physics):
    """|x|^2 of a two-channel field, and one datum that is linear."""

    def A(self, x, **_):
        return torch.cat([x.square().sum(1).flatten(1), x.flatten(1)[:, :1]], dim=1)


class SinglePrecision(deepinv.physics.LinearPhysics):
    """Refuses anything but float32."""

    def A(self, x, **_):
        if x.dtype != torch.float32:
            raise RuntimeError("expected float32")
        return 2 * x

    def A_adjoint(self, y, **_):
        return self.A(y)


def transposed(model, z):
    """J^T as a function, by autograd through ``predict`` alone."""

    def vjp(u):
        leaf = z.detach().clone().requires_grad_(True)
        with torch.enable_grad():
            return torch.autograd.grad(model.predict(leaf), leaf, u)[0]

    return vjp


class TestLogProb:
    @pytest.mark.parametrize("sigma", [0.3, torch.tensor(0.3), normal(1, *SHAPE, seed=3).exp(), normal(2, 1, 1, seed=3).exp()])
    def test_real_data(self, sigma):
        x, y = normal(4, *SHAPE), normal(1, *SHAPE, seed=1)
        wanted = torch.distributions.Normal(x.double(), torch.as_tensor(sigma).double()).log_prob(y.double())
        found = GaussianLikelihood(deepinv.physics.Denoising(), y, sigma).log_prob(x)
        torch.testing.assert_close(found.double(), wanted.sum((1, 2, 3)), rtol=1e-5, atol=1e-4)

    @pytest.mark.parametrize("sigma", [0.3, normal(1, *SHAPE, seed=3).exp(), normal(6, 1, seed=3).exp()])
    def test_complex_data_has_the_noise_in_each_part(self, sigma):
        x = normal(4, *SHAPE)
        y = torch.complex(normal(1, *SHAPE, seed=1), normal(1, *SHAPE, seed=2))
        law = torch.distributions.Normal(torch.view_as_real(fourier().A(x)), torch.as_tensor(sigma)[..., None])
        wanted = law.log_prob(torch.view_as_real(y)).sum((1, 2, 3, 4))
        found = GaussianLikelihood(fourier(), y, sigma).log_prob(x)
        torch.testing.assert_close(found.float(), wanted, rtol=1e-4, atol=1e-3)

    def test_only_what_the_mask_lets_through_counts(self):
        physics, mask = inpainting()
        x, y = normal(3, *SHAPE), normal(1, *SHAPE, seed=1)
        seen = mask.bool()
        wanted = torch.distributions.Normal(x[:, seen], 0.2).log_prob(y[:, seen]).sum(1)
        found = GaussianLikelihood(physics, y, 0.2).log_prob(x)
        torch.testing.assert_close(found.float(), wanted, rtol=1e-4, atol=1e-3)

    def test_nonlinear_operator(self):
        x, y = normal(3, *SHAPE), normal(1, 31, seed=1)
        wanted = torch.distributions.Normal(Intensity().A(x), 0.5).log_prob(y).sum(1)
        found = GaussianLikelihood(Intensity(), y, 0.5).log_prob(x)
        torch.testing.assert_close(found.float(), wanted, rtol=1e-4, atol=1e-3)

    def test_standardised_fields_are_taken_to_physical_units_first(self):
        affine = Affine(normal(*SHAPE, seed=7).exp(), normal(2, 1, 1, seed=8))
        like = GaussianLikelihood(fourier(), torch.complex(normal(1, *SHAPE), normal(1, *SHAPE, seed=1)), 0.4)
        z = normal(3, *SHAPE, seed=9)
        found = like.in_standard(affine, SHAPE).log_prob(z.double())
        torch.testing.assert_close(found, like.log_prob(affine.to_physical(z)), rtol=1e-5, atol=1e-4)


class TestReach:
    def test_is_the_mask(self):
        physics, mask = inpainting()
        like = GaussianLikelihood(physics, normal(1, *SHAPE), 0.1).in_standard(Affine(), SHAPE)
        assert torch.equal(like.reach, mask.bool()[None])
        assert like.count == int(mask.sum())

    def test_data_off_the_mask_have_no_residual(self):
        physics, mask = inpainting()
        like = GaussianLikelihood(physics, 100 + normal(1, *SHAPE), 0.1).in_standard(Affine(), SHAPE)
        residual = like.residual(normal(2, *SHAPE, dtype=torch.float64))
        assert (residual[:, mask == 0] == 0).all()
        assert (residual[:, mask == 1] != 0).all()

    def test_everything_where_the_operator_sees_everything(self):
        for physics in (
            deepinv.physics.Denoising(),
            deepinv.physics.Blur(filter=torch.ones(1, 1, 3, 3) / 9, padding="circular"),
        ):
            like = GaussianLikelihood(physics, normal(1, 1, 8, 10), 0.1).in_standard(Affine(), (1, 8, 10))
            assert like.reach.all()
            assert like.count == 80

    def test_everything_where_the_operator_is_not_linear(self):
        like = GaussianLikelihood(Intensity(), normal(1, 31), 0.1).in_standard(Affine(), SHAPE)
        assert like.count == 31

    @pytest.mark.parametrize("after", ["offset", "even", "threshold", "saturated"])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_what_an_operator_that_is_not_linear_cannot_see_is_no_datum(self, after, dtype):
        """Whatever stands there; and what it sees is one, be the operator flat about most fields."""
        mask = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0])
        bends = {
            "offset": lambda y: y + 1,
            "even": torch.square,
            "threshold": lambda y: torch.relu(y - 3),
            "saturated": lambda y: y.clamp(-0.1, 0.1),
        }

        class Masked(deepinv.physics.Physics):
            def A(self, x, **_):
                return bends[after](x * mask.to(x))

        x = normal(3, 2, 5, dtype=dtype)
        y = normal(1, 2, 5, seed=1, dtype=dtype)
        like = GaussianLikelihood(Masked(), y, 0.5).in_standard(Affine(), (2, 5), dtype)
        assert torch.equal(like.reach, mask.bool().expand(1, 2, 5))
        squares = (4 * (y - Masked().A(x)) ** 2)[:, :, mask.bool()].flatten(1)
        torch.testing.assert_close(like.chi_square(x), squares.mean(1))
        torch.testing.assert_close(like.log_prob(x), -0.5 * (squares + math.log(2 * math.pi / 4)).sum(1))

    def test_zero_imaginary_parts_of_a_real_transform_are_no_measurements(self):
        """Those of the four self-conjugate frequencies of a real field are zero whatever the field."""
        shape = (1, 6, 4)
        like = GaussianLikelihood(fourier(shape, 1 + 0j), torch.zeros(1, *shape, dtype=torch.complex64), 0.1)
        reach = like.in_standard(Affine(), shape).reach[0, 0]
        assert not reach[[0, 0, 3, 3], [0, 2, 0, 2], 1].any()
        assert reach[..., 0].all()

    def test_chi_square_is_one_for_true_noise(self):
        physics, mask = inpainting((1, 40, 40))
        x = normal(1, 1, 40, 40)
        y = physics.A(x) + 0.3 * mask * normal(1, 1, 40, 40, seed=5)
        like = GaussianLikelihood(physics, y, 0.3).in_standard(Affine(), (1, 40, 40))
        assert float(like.chi_square(x.double())) == pytest.approx(1, abs=5 * (2 / like.count) ** 0.5)
        by_hand = (y - x)[0, mask == 1].square().mean() / 0.09
        assert float(like.chi_square(x.double())) == pytest.approx(float(by_hand), rel=1e-5)


class TestOperatorAsSamplersSeeIt:
    affine = Affine(normal(2, 1, 1, seed=7).exp(), normal(*SHAPE, seed=8))

    def model(self, physics, y):
        return GaussianLikelihood(physics, y, 0.1).in_standard(self.affine, SHAPE).model

    @pytest.fixture(params=["real", "complex"])
    def linear(self, request):
        if request.param == "real":
            return self.model(inpainting()[0], normal(1, *SHAPE))
        return self.model(fourier(), torch.zeros(1, *SHAPE, dtype=torch.complex64))

    def test_transpose_passes_the_dot_product_test(self, linear):
        z = normal(3, *SHAPE, dtype=torch.float64)
        u = normal(*linear.predict(z).shape, seed=1, dtype=torch.float64)
        torch.testing.assert_close((linear.apply(z) * u).sum(), (z * linear.transpose(u)).sum())

    def test_predict_is_the_linear_part_plus_a_constant(self, linear):
        z = normal(3, *SHAPE, dtype=torch.float64)
        torch.testing.assert_close(linear.predict(z), linear.predict(torch.zeros_like(z)) + linear.apply(z))
        physical = linear.physics.A(self.affine.to_physical(z))
        torch.testing.assert_close(linear.predict(z), real_view(physical))

    def test_normal_is_transpose_after_apply(self, linear):
        z = normal(3, *SHAPE, dtype=torch.float64)
        torch.testing.assert_close(linear.normal(z), linear.transpose(linear.apply(z)))

    def test_linearisation_of_a_linear_operator_is_itself(self, linear):
        z, dz = normal(3, *SHAPE, dtype=torch.float64), normal(3, *SHAPE, seed=1, dtype=torch.float64)
        lin = linear.linearise(z)
        torch.testing.assert_close(lin.prediction + lin.jvp(dz), linear.predict(z + dz))
        u = normal(*lin.prediction.shape, seed=2, dtype=torch.float64)
        torch.testing.assert_close(lin.vjp(u), transposed(linear, z)(u))

    # torch 2.15 warns of its own use of torch.jit the first time that forward-mode derivatives are taken
    @pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")
    @pytest.mark.parametrize("grad", [True, False], ids=["grad", "no_grad"])
    def test_linearisation_of_a_nonlinear_operator_is_its_derivative(self, grad):
        """Against autograd and by hand, also where the caller switched gradients off, as `sample` does."""
        model = self.model(Intensity(), normal(1, 31))
        assert not model.linear
        z, dz = normal(3, *SHAPE, dtype=torch.float64), normal(3, *SHAPE, seed=1, dtype=torch.float64)
        u = normal(3, 31, seed=2, dtype=torch.float64)
        with torch.set_grad_enabled(grad):
            lin = model.linearise(z)
            forward, back = lin.jvp(dz), lin.vjp(u)
            assert torch.equal(lin.vjp(u), back)
        torch.testing.assert_close(lin.prediction, Intensity().A(self.affine.to_physical(z)))
        torch.testing.assert_close(forward, torch.autograd.functional.jvp(model.predict, z, dz)[1])
        torch.testing.assert_close(back, transposed(model, z)(u))
        x, dx = self.affine.to_physical(z), self.affine.scale_like(z) * dz
        torch.testing.assert_close(forward[:, :-1], 2 * (x * dx).sum(1).flatten(1))

    def test_linearisation_keeps_the_items_of_a_batch_apart(self):
        model = self.model(Intensity(), normal(1, 31))
        z, u = normal(3, *SHAPE, dtype=torch.float64), normal(3, 31, seed=2, dtype=torch.float64)
        together = model.linearise(z).vjp(u)
        for i in range(3):
            torch.testing.assert_close(model.linearise(z[i : i + 1]).vjp(u[i : i + 1]), together[i : i + 1])


class TestPrecision:
    def test_operator_is_copied_and_cast_never_changed(self):
        physics, _ = inpainting()
        before = copy.deepcopy(physics.state_dict())
        like = GaussianLikelihood(physics, normal(1, *SHAPE), 0.1)
        model = like.in_standard(Affine(), SHAPE).model
        assert model.physics is not physics
        assert like.operator is physics
        assert {k: v.dtype for k, v in physics.state_dict().items()} == {k: v.dtype for k, v in before.items()}
        assert all(torch.equal(v, before[k]) for k, v in physics.state_dict().items())
        assert {b.dtype for b in model.physics.buffers()} == {torch.float64}
        assert model.predict(normal(1, *SHAPE, dtype=torch.float64)).dtype == torch.float64

    def test_operator_of_the_right_precision_is_used_as_it_is(self):
        physics, _ = inpainting(dtype=torch.float64)
        like = GaussianLikelihood(physics, normal(1, *SHAPE, dtype=torch.float64), 0.1)
        assert like.in_standard(Affine(), SHAPE).model.physics is physics

    def test_operator_with_complex_buffers_stays_the_operator(self):
        """`Module.to(float64)` of a complex buffer drops its imaginary part."""
        physics = lopsided_blur()
        assert any(b.is_complex() for b in physics.buffers())
        x = normal(2, 1, 8, 10)
        like = GaussianLikelihood(physics, physics.A(x[:1]), 0.1).in_standard(Affine(), (1, 8, 10))
        torch.testing.assert_close(like.model.predict(x.double()).float(), physics.A(x), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(like.model.transpose(x.double()).float(), physics.A_adjoint(x), rtol=1e-5, atol=1e-5)

    def test_operator_that_cannot_work_in_float64_works_in_float32(self):
        like = GaussianLikelihood(SinglePrecision(), normal(1, *SHAPE), 0.1).in_standard(Affine(), SHAPE)
        z = normal(2, *SHAPE, dtype=torch.float64)
        assert like.model.dtype == torch.float32
        for out in (like.model.predict(z), like.model.transpose(z)):
            assert out.dtype == torch.float64
            torch.testing.assert_close(out, 2 * z, rtol=1e-6, atol=1e-6)

    def test_float32_throughout_when_asked(self):
        physics, _ = inpainting()
        like = GaussianLikelihood(physics, normal(1, *SHAPE), 0.1).in_standard(Affine(), SHAPE, torch.float32)
        assert like.model.physics is physics
        assert like.y.dtype == like.variance.dtype == like.log_prob(normal(2, *SHAPE)).dtype == torch.float32


Y = normal(1, *SHAPE)


def spoilt(value):
    y = Y.clone()
    y[0, 1, 2, 3] = value
    return y


class TestRefusals:
    @pytest.mark.parametrize(
        ("y", "message"),
        [
            (spoilt(torch.nan), "y has 1 values that are NaN or infinite"),
            (spoilt(-torch.inf), "y has 1 values that are NaN or infinite"),
            (torch.complex(Y, spoilt(torch.nan)), "y has 1 values that are NaN or infinite"),
            (Y.expand(2, *SHAPE), r"y has shape \(2, 2, 6, 5\); wanted \(1, \*range\)"),
            (Y.flatten(), r"y has shape \(60,\)"),
            (torch.zeros(1, 0), r"y has shape \(1, 0\)"),
            (torch.tensor(1.0), r"y has shape \(\)"),
        ],
    )
    def test_data_that_are_no_observation(self, y, message):
        with pytest.raises(ValueError, match=f"GaussianLikelihood: {message}"):
            GaussianLikelihood(deepinv.physics.Denoising(), y, 0.1)

    @pytest.mark.parametrize("y", [Y.int(), Y > 0, Y.numpy(), [1.0], None], ids=["int", "bool", "numpy", "list", "None"])
    def test_data_of_another_type(self, y):
        with pytest.raises(TypeError, match="GaussianLikelihood: y is .*; wanted a floating or complex tensor"):
            GaussianLikelihood(deepinv.physics.Denoising(), y, 0.1)

    @pytest.mark.parametrize("operator", [torch.eye(3), lambda x: x, None])
    def test_operator_of_another_type(self, operator):
        with pytest.raises(TypeError, match="operator is a .*; wanted a deepinv Physics"):
            GaussianLikelihood(operator, Y, 0.1)

    @pytest.mark.parametrize("sigma", [0.0, -0.1, math.nan, math.inf, torch.zeros(5), torch.tensor([0.1, 0.1, 0.1, 0.1, -0.1])])
    def test_sigma_that_is_not_positive_and_finite(self, sigma):
        with pytest.raises(ValueError, match="sigma must be positive and finite, got"):
            GaussianLikelihood(deepinv.physics.Denoising(), Y, sigma)

    @pytest.mark.parametrize("shape", [(3,), (6,), (2, 2, 6, 5), (1, 1, 2, 6, 5)])
    def test_sigma_that_does_not_broadcast_to_the_data(self, shape):
        with pytest.raises(ValueError, match=r"sigma of shape .* does not broadcast to y, \(1, 2, 6, 5\)"):
            GaussianLikelihood(deepinv.physics.Denoising(), Y, torch.ones(shape))

    def test_field_that_the_operator_does_not_take(self):
        like = GaussianLikelihood(inpainting()[0], Y, 0.1)
        like.check(SHAPE)
        with pytest.raises(ValueError, match=r"operator Inpainting does not take a field of shape \(2, 6, 4\)"):
            like.check((2, 6, 4))

    def test_data_that_the_operator_does_not_give(self):
        like = GaussianLikelihood(inpainting()[0], Y[..., :4], 0.1)
        with pytest.raises(ValueError, match=r"operator Inpainting gives .*\(1, 2, 6, 5\), but y is .*\(1, 2, 6, 4\)"):
            like.check(SHAPE)

    def test_complex_data_of_a_real_operator(self):
        like = GaussianLikelihood(inpainting()[0], torch.complex(Y, Y), 0.1)
        with pytest.raises(ValueError, match="gives a float32 tensor .* but y is a complex64 tensor"):
            like.check(SHAPE)


def test_given_tensors_are_not_changed():
    y, sigma = Y.clone(), normal(1, *SHAPE, seed=3).exp()
    kept = sigma.clone()
    like = GaussianLikelihood(inpainting()[0], y, sigma)
    like.log_prob(normal(2, *SHAPE))
    assert torch.equal(y, Y)
    assert torch.equal(sigma, kept)


def test_repr_says_what_it_is():
    text = repr(GaussianLikelihood(inpainting()[0], Y, 0.125))
    assert text == "GaussianLikelihood(Inpainting, y(1, 2, 6, 5), sigma=0.125)"
    assert "sigma=tensor(5,)" in repr(GaussianLikelihood(inpainting()[0], Y, torch.ones(5)))


def test_forward_model_counts_as_linear_what_deepinv_calls_linear():
    assert ForwardModel(fourier(), Affine(), True, torch.float32).linear
    assert not ForwardModel(Intensity(), Affine(), False, torch.float32).linear


class OneWay(deepinv.physics.LinearPhysics):
    """Takes any precision forward, and only its own on the way back."""

    def __init__(self, matrix):
        super().__init__(img_size=(4,))
        self.forward_matrix = torch.nn.Buffer(matrix)
        self.matrix = matrix  # not a buffer: stays behind in .double()

    def A(self, x, **_):
        return x @ self.forward_matrix.T

    def A_adjoint(self, y, **_):
        return y @ self.matrix


def test_operator_that_casts_one_way_only_works_in_its_own_precision():
    physics = OneWay(normal(3, 4))
    like = GaussianLikelihood(physics, torch.ones(1, 3), 0.1).in_standard(Affine(), (4,))
    z, u = normal(1, 4, dtype=torch.float64), normal(1, 3, seed=1, dtype=torch.float64)
    assert float((like.model.apply(z) * u).sum()) == pytest.approx(float((z * like.model.transpose(u)).sum()), rel=1e-5)
