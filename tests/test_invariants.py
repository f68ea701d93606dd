"""What holds for every sampler, whatever it computes: the invariants of the design.

A new sampler is one more line in SAMPLERS.
"""

import copy
import math
import random

import deepinv
import numpy as np
import pytest
import torch

import posterior
from posterior.driver import DrawNoise
from posterior.priors.base import Affine, Prior
from posterior.priors.network import NetworkPrior
from posterior.priors.parameterisations import EDM, GaussianResidual
from posterior.priors.reference import RadialReference
from posterior.problem import Problem

SHAPE = (1, 8, 8)
STEPS = 4
# Where two ways to the same draws differ in rounding they differ by what iterative solves leave unsolved.
SOLVED = 5e-3

# Class, called with the number of steps, and what a draw costs in network calls and vector-Jacobian products.
SAMPLERS = {
    "DPS": (posterior.DPS, lambda steps: (steps, steps)),
    "PiGDM": (posterior.PiGDM, lambda steps: (steps, steps)),
    # GMRES of 8 iterations and the final product, and one to see how good the reference's solution is
    "MMPS": (posterior.MMPS, lambda steps: (steps, 10 * steps)),
    "GaussianBridge": (posterior.GaussianBridge, lambda steps: (steps, 0)),
    "TMPD": (posterior.TMPD, lambda steps: (steps, 2 * steps)),
    "DiffPIR": (posterior.DiffPIR, lambda steps: (steps, 0)),
    "DDNM": (posterior.DDNM, lambda steps: (steps, 0)),
    "DDRM": (posterior.DDRM, lambda steps: (steps, 0)),
    "FlowChef": (posterior.FlowChef, lambda steps: (steps, 0)),
    "FlowDPS": (posterior.FlowDPS, lambda steps: (steps, 0)),
    "REDDiff": (posterior.REDDiff, lambda steps: (steps, 0)),
    # five steps of an ODE each
    "DAPS": (posterior.DAPS, lambda steps: (5 * steps, 0)),
    # ten steps of a reverse diffusion each
    "PnPDM": (posterior.PnPDM, lambda steps: (10 * steps, 0)),
    "LGD": (posterior.LGD, lambda steps: (steps, steps)),
}
# Those that need the operator's singular values.
LINEAR_ONLY = {"DDNM", "DDRM"}

pytestmark = pytest.mark.parametrize("name", SAMPLERS)


def calls(name, steps=STEPS):
    """Network calls of one batch."""
    return SAMPLERS[name][1](steps)[0]


def sampler_of(name, steps=STEPS, **options):
    return SAMPLERS[name][0](steps, **options)


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


class TinyNetwork(torch.nn.Module):
    """Two convolutions that know the noise level; nonlinear, float32."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.first = torch.nn.Conv2d(2, 6, 3, padding=1)
            self.level = torch.nn.Linear(1, 6)
            self.last = torch.nn.Conv2d(6, 1, 3, padding=1)

    def forward(self, inputs, time):
        hidden = self.first(inputs) + self.level(time[:, None])[..., None, None]
        return 0.3 * self.last(torch.tanh(hidden))


def network_prior(power=1.0):
    frequencies = torch.linspace(0, 0.75, 16, dtype=torch.float64)
    reference = RadialReference(frequencies, power * 4 / (1 + (6 * frequencies) ** 2) ** 2)
    return NetworkPrior(
        TinyNetwork(),
        GaussianResidual(reference),
        SHAPE,
        reference=reference,
        sigma_range=(0.02, 20.0),
        name="tiny",
    )


def gaussian_prior(shape=SHAPE):
    f = torch.hypot(torch.fft.fftfreq(shape[-2])[:, None], torch.fft.fftfreq(shape[-1])[None]).double()
    return posterior.GaussianPrior(0.2 * normal(*shape, seed=7, dtype=torch.float64), 4 / (1 + (6 * f) ** 2) ** 2)


def inpainting(seed=1, dtype=torch.float32):
    mask = (torch.rand(SHAPE, generator=torch.Generator().manual_seed(seed)) < 0.5).to(dtype)
    return deepinv.physics.Inpainting(SHAPE, mask=mask)


def likelihood(physics=None, sigma=0.1, seed=2, dtype=torch.float32):
    physics = physics or inpainting(dtype=dtype)
    clean = physics.A(normal(1, *SHAPE, seed=seed, dtype=dtype))
    return posterior.GaussianLikelihood(physics, clean + sigma * normal(*clean.shape, seed=3, dtype=dtype), sigma)


class Wrapped(Prior):
    """A prior seen through a wrapper: all that is public is passed on."""

    def __init__(self, inner):
        self.inner = inner
        for name in ("event_shape", "affine", "units", "rms", "sigma_min", "sigma_max", "reference", "name"):
            setattr(self, name, getattr(inner, name))

    def denoise(self, x, sigma):
        return self.inner.denoise(x, sigma)

    def __repr__(self):
        return repr(self.inner)


class CountBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, tally):
        ctx.tally = tally
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        ctx.tally["vjps"] += g.shape[0]
        return g, None


class Counting(Wrapped):
    """Counts fields denoised and gradients taken, by itself."""

    def __init__(self, inner):
        super().__init__(inner)
        self.tally = {"nfe": 0, "vjps": 0}

    def denoise(self, x, sigma):
        self.tally["nfe"] += x.shape[0]
        return CountBackward.apply(super().denoise(x, sigma), self.tally)


class Spoiled(Wrapped):
    """Returns ``value`` somewhere in the first field, from call ``after`` on."""

    def __init__(self, inner, value, after):
        super().__init__(inner)
        self.value, self.after, self.calls = value, after, 0

    def denoise(self, x, sigma):
        self.calls += 1
        out = super().denoise(x, sigma)
        if self.calls <= self.after:
            return out
        where = torch.zeros_like(out, dtype=torch.bool)
        where[0, 0, 0, 0] = True
        return torch.where(where, self.value, out)


class InUnits(Wrapped):
    """The same standardised prior in other physical units."""

    def __init__(self, inner, affine):
        super().__init__(inner)
        self.affine = affine


def draw(name, prior=None, like=None, *, steps=STEPS, draws=4, **options):
    sampler = options.pop("sampler", None) or sampler_of(name, steps)
    return posterior.sample(prior or network_prior(), like or likelihood(), sampler, draws=draws, **options)


def assert_same(found, wanted, tolerance=1e-4):
    torch.testing.assert_close(found, wanted, rtol=0, atol=tolerance)


# 1. A draw is its own.


def test_draws_are_the_same_at_any_batch_size(name):
    one, three, all_at_once = (draw(name, draws=16, batch_size=size).samples for size in (1, 3, 16))
    assert_same(three, one)
    assert_same(all_at_once, one)
    assert (one[0] - one[1]).abs().max() > 0.1


def test_fewer_draws_are_the_first_of_more(name):
    assert_same(draw(name, draws=2).samples, draw(name, draws=5).samples[:2])


def test_draws_are_the_same_in_any_order(name):
    wanted = draw(name, draws=6).samples
    prior, like, sampler = network_prior(), likelihood(), sampler_of(name)
    problem = Problem(prior, like.in_standard(prior.affine, SHAPE), SHAPE)
    indices = [4, 0, 5]
    noise = DrawNoise(0, indices, SHAPE, problem.likelihood.y)
    with torch.no_grad():
        state = sampler.init(problem, noise)
        for _ in range(sampler.steps):
            state, _ = sampler.step(problem, state, noise)
    assert_same(prior.affine.to_physical(state.x).float(), wanted[indices])


def test_draws_do_not_depend_on_what_was_sampled_before(name):
    prior, like, sampler = network_prior(), likelihood(), sampler_of(name)
    first = draw(name, prior, like, sampler=sampler).samples
    draw(name, prior, likelihood(inpainting(seed=9), sigma=0.5), sampler=sampler, seed=3)
    assert torch.equal(draw(name, prior, like, sampler=sampler).samples, first)


class Stop(Exception):
    pass


def stop_after(steps):
    def progress(p):
        if p.done == steps:
            raise Stop

    return progress


def test_stopped_run_goes_on_to_the_same_draws(name, tmp_path):
    path = tmp_path / "run.safetensors"
    whole = draw(name, draws=5, batch_size=2)
    with pytest.raises(Stop):
        draw(
            name,
            Counting(network_prior()),
            draws=5,
            batch_size=2,
            checkpoint=path,
            progress=stop_after(2 * STEPS - 1),
        )
    assert [p.name for p in tmp_path.iterdir()] == ["run.safetensors"]
    counting = Counting(network_prior())
    resumed = draw(name, counting, draws=5, batch_size=2, checkpoint=path)
    assert_same(resumed.samples, whole.samples)
    # the first batch was finished and is not computed again
    assert counting.tally["nfe"] == 3 * whole.stats.nfe
    assert resumed.stats.nfe == whole.stats.nfe


def test_finished_run_is_read_back_and_can_be_extended(name, tmp_path):
    path = tmp_path / "run.safetensors"
    first = draw(name, Counting(network_prior()), draws=3, checkpoint=path).samples
    counting = Counting(network_prior())
    again = draw(name, counting, draws=3, checkpoint=path)
    assert torch.equal(again.samples, first)
    assert torch.equal(draw(name, counting, draws=2, checkpoint=path).samples, first[:2])
    assert counting.tally["nfe"] == 0
    assert_same(draw(name, counting, draws=6, checkpoint=path).samples, draw(name, draws=6).samples)


def test_checkpoint_leaves_the_draws_alone(name, tmp_path):
    assert torch.equal(draw(name, checkpoint=tmp_path / "run").samples, draw(name).samples)


@pytest.mark.parametrize("changed", ["seed", "steps", "data", "sigma", "mask", "spectrum", "weights", "units"])
def test_checkpoint_of_another_run_is_refused(name, changed, tmp_path):
    path = tmp_path / "run.safetensors"
    draw(name, Counting(network_prior()), draws=2, checkpoint=path)
    kept = path.read_bytes()
    prior, like, options = network_prior(), likelihood(), {}
    if changed == "seed":
        options["seed"] = 1
    elif changed == "steps":
        options["steps"] = STEPS + 1
    elif changed == "data":
        like = posterior.GaussianLikelihood(like.operator, like.y + 1e-3, 0.1)
    elif changed == "sigma":
        like = posterior.GaussianLikelihood(like.operator, like.y, 0.11)
    elif changed == "mask":
        like = posterior.GaussianLikelihood(inpainting(seed=5), like.y, 0.1)
    elif changed == "spectrum":
        prior = network_prior(power=2.0)
    elif changed == "weights":
        prior.network.last.weight.data.mul_(1.5)
    else:
        prior.affine = Affine(2.0, 0.0)
    counting = Counting(prior)
    with pytest.raises(posterior.SamplingError, match=r"run\.safetensors belongs to another run"):
        draw(name, counting, like, draws=2, checkpoint=path, **options)
    assert counting.tally["nfe"] == 0
    assert path.read_bytes() == kept


def test_checkpoint_that_is_cut_off_is_refused(name, tmp_path):
    path = tmp_path / "run.safetensors"
    draw(name, draws=2, checkpoint=path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(posterior.SamplingError, match=r"run\.safetensors cannot be read"):
        draw(name, draws=2, checkpoint=path)


def test_checkpoint_that_cannot_be_written_is_refused_before_the_work(name, tmp_path):
    counting = Counting(network_prior())
    with pytest.raises((OSError, ValueError, posterior.SamplingError), match="missing"):
        draw(name, counting, draws=2, checkpoint=tmp_path / "missing" / "run.safetensors")
    assert counting.tally["nfe"] == 0


# 2. Randomness.


def test_global_random_state_is_neither_moved_nor_read(name):
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    first = draw(name, progress=True).samples
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])
    assert random.getstate() == states[2]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(12345)
        assert torch.equal(draw(name).samples, first)


def test_zero_is_a_seed_like_any_other(name):
    zero, default, one, large = (draw(name, **o).samples for o in ({"seed": 0}, {}, {"seed": 1}, {"seed": 2**63}))
    assert torch.equal(zero, default)
    for other in (one, large):
        assert ((zero - other).flatten(1).abs().amax(1) > 0.1).all()


# 3. Nothing passed in is changed.


def test_inputs_are_left_as_they_were(name):
    prior, physics = network_prior(), inpainting()
    y, sigma = likelihood(physics).y, torch.full((1, *SHAPE), 0.1)
    like, sampler = posterior.GaussianLikelihood(physics, y, sigma), sampler_of(name)
    tensors = [y, sigma, prior.reference.power, prior.reference.frequencies]
    tensors += [*prior.network.state_dict().values(), *physics.state_dict().values()]
    before, versions = [t.clone() for t in tensors], [t._version for t in tensors]
    physics_before, sampler_before, attributes = (
        copy.deepcopy(physics.__dict__),
        repr(sampler),
        set(vars(prior)),
    )
    grads = [(p.requires_grad, p.grad) for p in prior.network.parameters()]
    draw(name, prior, like, sampler=sampler)
    assert all(torch.equal(now, then) for now, then in zip(tensors, before, strict=True))
    assert [t._version for t in tensors] == versions
    assert [(p.requires_grad, p.grad) for p in prior.network.parameters()] == grads
    assert not prior.network.training
    assert set(vars(prior)) == attributes
    assert physics.__dict__.keys() == physics_before.keys()
    assert repr(sampler) == sampler_before
    assert like.y is y
    assert not y.requires_grad


def test_gaussian_prior_is_left_as_it_was(name):
    prior = gaussian_prior()
    tensors = [prior.reference.center, prior.reference.cov.eigenvalues]
    before = [t.clone() for t in tensors]
    draw(name, prior)
    assert all(torch.equal(now, then) for now, then in zip(tensors, before, strict=True))


def test_draws_carry_no_graph(name):
    draws = draw(name)
    assert not draws.samples.requires_grad
    assert draws.samples.is_leaf


# 4. Counting.


@pytest.mark.parametrize("steps", [1, 3])
def test_network_calls_and_gradients_are_counted_and_no_more_than_needed(name, steps):
    prior = Counting(network_prior())
    stats = draw(name, prior, steps=steps, draws=3, batch_size=2).stats
    nfe, vjps = SAMPLERS[name][1](steps)
    assert (stats.nfe, stats.vjps) == (nfe, vjps)
    assert prior.tally == {"nfe": 3 * nfe, "vjps": 3 * vjps}


def test_progress_reports_steps_and_calls(name):
    seen = []
    draws = draw(name, draws=3, batch_size=2, progress=seen.append)
    assert [p.done for p in seen] == list(range(1, 2 * STEPS + 1))
    assert {p.total for p in seen} == {2 * STEPS}
    assert seen[-1].nfe == 3 * draws.stats.nfe
    assert [p.nfe for p in seen] == sorted(p.nfe for p in seen)
    assert all(math.isfinite(p.info["sigma"]) for p in seen)


def test_progress_reports_the_draws_that_are_finished(name):
    seen = []
    draw(name, draws=3, batch_size=2, progress=seen.append)
    # those of the first batch are finished while the second is under way
    assert [p.draws for p in seen[: STEPS - 1]] == [0] * (STEPS - 1)
    assert [p.draws for p in seen[STEPS : 2 * STEPS - 1]] == [2] * (STEPS - 1)


# 5. Units.


@pytest.mark.parametrize("factor", [1e-3, 250.0])
def test_rescaling_the_physical_units_rescales_the_draws(name, factor):
    """Field and data in millikelvin instead of kelvin, from another origin: the same draws, in millikelvin."""
    prior, like = network_prior(), likelihood(dtype=torch.float64)
    shift = torch.tensor(3.0, dtype=torch.float64)
    y = like.operator.A(shift + factor * torch.zeros(1, *SHAPE, dtype=torch.float64)) + factor * like.y
    rescaled = posterior.GaussianLikelihood(like.operator, y, 0.1 * factor)
    wanted = draw(name, prior, like).samples
    found = draw(name, InUnits(prior, Affine(factor, shift)), rescaled).samples
    assert_same((found - shift) / factor, wanted, SOLVED)


def test_affine_map_is_applied_once_on_each_side(name):
    """A map for every grid point equals an operator that contains the map."""
    scale, shift = (
        normal(*SHAPE, seed=4, dtype=torch.float64).exp(),
        normal(*SHAPE, seed=5, dtype=torch.float64),
    )
    # DPS steps in units of the field's scale, so the map must not change that.
    scale = scale / scale.square().mean().sqrt()
    inner, like = network_prior(), likelihood(dtype=torch.float64)
    mask = like.operator.mask
    seen = deepinv.physics.LinearPhysics(
        A=lambda z, **_: mask.to(z) * scale.to(z) * z,
        A_adjoint=lambda u, **_: scale.to(u) * mask.to(u) * u,
        img_size=SHAPE,
    )
    standard = posterior.GaussianLikelihood(seen, like.y - mask * shift, 0.1)
    wanted = shift + scale * draw(name, inner, standard).samples
    assert_same(draw(name, InUnits(inner, Affine(scale, shift)), like).samples, wanted, SOLVED)


def test_draws_are_in_the_priors_units(name):
    prior = network_prior()
    prior.units = "K"
    assert draw(name, prior).units == "K"


# 6. Values that are not finite.


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("after", [0, 2])
def test_network_that_stops_being_finite_ends_in_an_error(name, value, after, tmp_path):
    prior = Spoiled(network_prior(), value, calls(name, after))
    path = tmp_path / "run.safetensors"
    with pytest.raises(posterior.SamplingError, match=rf"{name}: .*not finite after step {after + 1} of {STEPS}") as caught:
        draw(name, prior, draws=2, checkpoint=path)
    assert "\n" not in str(caught.value)
    assert not path.exists()
    assert prior.calls == calls(name, after + 1)


def test_error_names_the_draw_and_keeps_the_finished_ones(name, tmp_path):
    path = tmp_path / "run.safetensors"
    with pytest.raises(posterior.SamplingError, match="draw 2"):
        draw(name, Spoiled(network_prior(), torch.nan, calls(name)), draws=4, batch_size=2, checkpoint=path)
    mended = Spoiled(network_prior(), torch.nan, 10**9)
    found = draw(name, mended, draws=4, batch_size=2, checkpoint=path).samples
    assert mended.calls == calls(name)
    assert_same(found, draw(name, draws=4, batch_size=2).samples)


def test_values_too_large_for_the_datas_precision_end_in_an_error(name):
    """Finite in float64, infinite in the float32 of the data: never handed over as draws."""
    if name == "REDDiff":
        pytest.skip("Adam's steps are bounded, whatever the network returns")
    prior = Spoiled(network_prior(), 1e39, calls(name) - 1)
    with pytest.raises(posterior.SamplingError, match=f"{name}: .*not finite"):
        draw(name, prior, draws=2)


# 7. Bad input, before the first network call.


class Quiet(Counting):
    """Fails the test at the first network call."""

    def denoise(self, x, sigma):
        raise AssertionError("the network was called")


BAD = {
    "a mask that does not fit": (
        lambda: {
            "like": posterior.GaussianLikelihood(
                deepinv.physics.Inpainting((1, 8, 6), mask=torch.ones(1, 8, 6)), torch.ones(1, 1, 8, 6), 0.1
            )
        },
        r"prior 'tiny'.*\(1, 8, 6\).*\(1, 8, 8\)|Inpainting does not take a field of shape \(1, 8, 8\)",
    ),
    "data that do not fit the operator": (
        lambda: {"like": posterior.GaussianLikelihood(inpainting(), torch.ones(1, 1, 8, 7), 0.1)},
        r"Inpainting.*\(1, 1, 8, 7\)|Inpainting.*field of shape",
    ),
    "data of more channels": (
        lambda: {"like": posterior.GaussianLikelihood(inpainting(), torch.ones(1, 2, 8, 8), 0.1)},
        r"Inpainting gives .*\(1, 1, 8, 8\), but y is .*\(1, 2, 8, 8\)",
    ),
    "complex data of a real operator": (
        lambda: {"like": posterior.GaussianLikelihood(inpainting(), torch.ones(1, 1, 8, 8, dtype=torch.complex64), 0.1)},
        "Inpainting gives a float32 .* but y is a complex64",
    ),
    "data in half precision": (
        lambda: {"like": posterior.GaussianLikelihood(inpainting(dtype=torch.float16), torch.ones(1, 1, 8, 8).half(), 0.1)},
        "float16|half",
    ),
    "an event shape that is not the prior's": (
        lambda: {"event_shape": (1, 8, 6)},
        r"prior 'tiny': got a field of shape \(1, 8, 6\), wanted \(1, 8, 8\)",
    ),
    "an event shape of fewer axes": (
        lambda: {"event_shape": (8, 8)},
        r"prior 'tiny': got a field of shape \(8, 8\)",
    ),
    "data that are not a number": (
        lambda: {"like": spoilt_data(torch.nan)},
        "y has 1 values that are NaN or infinite",
    ),
    "infinite data": (lambda: {"like": spoilt_data(torch.inf)}, "y has 1 values that are NaN or infinite"),
    "a sigma of zero": (lambda: {"like": likelihood_at(0.0)}, "sigma must be positive and finite, got 0.0"),
    "a negative sigma": (
        lambda: {"like": likelihood_at(-0.1)},
        "sigma must be positive and finite, got -0.1",
    ),
    "no draws": (lambda: {"draws": 0}, "draws must be at least 1, got 0"),
    "a negative seed": (lambda: {"seed": -1}, "seed must not be negative, got -1"),
    "an empty batch": (lambda: {"batch_size": 0}, "batch_size must be at least 1, got 0"),
    "a precision that is none": (lambda: {"dtype": torch.int64}, "dtype"),
}


def spoilt_data(value):
    y = torch.ones(1, *SHAPE)
    y[0, 0, 3, 3] = value
    return posterior.GaussianLikelihood(inpainting(), y, 0.1)


def likelihood_at(sigma):
    return posterior.GaussianLikelihood(inpainting(), torch.ones(1, *SHAPE), sigma)


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_before_the_first_network_call(name, case):
    build, message = BAD[case]
    with pytest.raises((ValueError, TypeError), match=message) as caught:
        draw(name, Quiet(network_prior()), **build())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("steps", [0, -1])
def test_no_steps_are_refused(name, steps):
    with pytest.raises(ValueError, match=f"{name}: steps must be at least 1, got {steps}"):
        sampler_of(name, steps)


def test_noise_levels_that_do_not_fall_are_refused_before_the_first_network_call(name):
    with pytest.raises(ValueError, match="0 < sigma_min < sigma_max"):
        draw(name, Quiet(network_prior()), sampler=sampler_of(name, sigma_max=0.1, sigma_min=0.5))


def test_prior_of_any_size_takes_the_size_from_the_operator(name):
    prior = network_prior()
    prior.event_shape = (1, None, None)
    assert_same(draw(name, prior).samples, draw(name).samples)


# Operators.


def physics_of(kind, dtype):
    kernel = torch.rand(1, 1, 3, 3, generator=torch.Generator().manual_seed(2)).to(dtype)
    kernel = kernel / kernel.sum()
    if kind == "Inpainting":
        return inpainting(dtype=dtype)
    if kind == "BlurFFT":
        return deepinv.physics.BlurFFT(SHAPE, filter=kernel)
    if kind == "Downsampling":
        return deepinv.physics.Downsampling(SHAPE, filter=kernel, factor=2, padding="circular")
    return deepinv.physics.Denoising()


@pytest.mark.parametrize("kind", ["Inpainting", "BlurFFT", "Downsampling", "Denoising"])
def test_deepinv_operators_are_accepted_as_they_are(name, kind):
    """In float32 and in float64, with the same draws."""
    draws = {}
    for dtype in (torch.float32, torch.float64):
        physics = physics_of(kind, dtype)
        before = {k: (v.dtype, v.clone()) for k, v in physics.state_dict().items()}
        clean = physics.A(normal(1, *SHAPE, seed=2).to(dtype))
        like = posterior.GaussianLikelihood(physics, clean + 0.1 * normal(*clean.shape, seed=3).to(dtype), 0.1)
        draws[dtype] = draw(name, gaussian_prior(), like, draws=2)
        assert draws[dtype].samples.dtype == dtype
        assert draws[dtype].samples.shape == (2, *SHAPE)
        after = physics.state_dict()
        assert all(after[k].dtype == kept and torch.equal(after[k], value) for k, (kept, value) in before.items())
    assert_same(draws[torch.float32].samples.double(), draws[torch.float64].samples, SOLVED)


class Bent(deepinv.physics.Physics):
    """A nonlinear operator: every other pixel through a saturating sensor."""

    def A(self, x, **_):
        return torch.atan(x[..., ::2])


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")
def test_nonlinear_operators_are_accepted(name):
    like = likelihood(Bent())
    if name in LINEAR_ONLY:
        with pytest.raises(ValueError, match=f"{name}: operator Bent is not linear"):
            draw(name, Quiet(network_prior()), like)
        return
    one, both = (draw(name, like=like, steps=2, draws=2, batch_size=size).samples for size in (1, 2))
    assert torch.isfinite(both).all()
    assert_same(one, both)
    other = posterior.GaussianLikelihood(like.operator, -like.y, 0.1)
    assert (draw(name, like=other, steps=2, draws=2).samples - both).abs().max() > 0.1


def test_network_in_float64_is_used_in_float64(name):
    """The prior's own precision decides what the network computes in, not the data's."""
    seen = set()
    prior = NetworkPrior(Double(seen), EDM(), SHAPE, reference=network_prior().reference, sigma_range=(0.02, 20.0))
    draw(name, prior, draws=2)
    assert seen == {torch.float64}


class Double(torch.nn.Module):
    def __init__(self, seen):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.tensor(0.1, dtype=torch.float64))
        self.seen = seen

    def forward(self, inputs, time):
        self.seen.add(inputs.dtype)
        return self.gain * torch.tanh(inputs)
