"""Draws on another device: the same as on the CPU, and nothing of the caller's is moved.

Of every sampler on every problem, on a GPU where there is one, and on the device of `tests.elsewhere` everywhere.
"""

import copy
import importlib.util

import pytest
import torch

import posterior
from posterior._devices import moved
from posterior.priors.base import Affine
from posterior.priors.network import NetworkPrior
from posterior.priors.parameterisations import EDM, GaussianResidual, GaussianResidualFlow, VariancePreserving
from posterior.priors.reference import EOFReference, RadialReference
from posterior.recipes.calibration import SAMPLERS
from tests.elsewhere import AWAY, elsewhere

SHAPE = (1, 6, 8)
STEPS, DRAWS = 2, 3
# What iterative solves leave unsolved, of the draws' own size.
SAME = 2e-3
# Of networks in single precision, whose convolutions a GPU may round to ten bits.
ROUGH = 5e-2
NAMES = (*SAMPLERS, "REDDiff")


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


class Net(torch.nn.Module):
    """A network that knows a little of x and of the noise level."""

    def __init__(self, inputs, outputs=1, dtype=torch.float64):
        super().__init__()
        self.weight = torch.nn.Parameter(0.1 * normal(outputs, inputs, 3, 3, seed=5, dtype=dtype), requires_grad=False)
        self.register_buffer("scale", torch.tensor(0.05, dtype=dtype))

    def forward(self, inputs, time):
        out = torch.tanh(torch.nn.functional.conv2d(inputs, self.weight, padding=1))
        return out * (1 + self.scale * time.reshape(-1, 1, 1, 1))


def fields_of(count, seed=1):
    """Smooth random fields."""
    x = torch.fft.fft2(normal(count, *SHAPE, seed=seed))
    f = torch.hypot(torch.fft.fftfreq(SHAPE[1])[:, None], torch.fft.fftfreq(SHAPE[2])[None]).double()
    return torch.fft.ifft2(x / (0.15 + f)).real


def eof_reference(rank=None, mask=None):
    found = EOFReference.fit(fields_of(80), rank, mask=mask)
    sigmas = torch.tensor([0.05, 0.5, 5.0], dtype=torch.float64)
    own = torch.cat([found.variances, torch.tensor([found.rest], dtype=torch.float64)])
    return found.with_errors(sigmas, 0.8 * own * sigmas[:, None] ** 2 / (own + sigmas[:, None] ** 2))


def radial_reference(errors=True):
    f = torch.linspace(0, 0.75, 9, dtype=torch.float64)
    power = 1 / (0.15 + f) ** 2
    sigmas = torch.tensor([0.05, 0.5, 5.0], dtype=torch.float64)
    measured = (sigmas, 0.8 * power * sigmas[:, None] ** 2 / (power + sigmas[:, None] ** 2)) if errors else ()
    return RadialReference(f, power, *measured)


def network_prior(reference, form=GaussianResidual, **options):
    return NetworkPrior(Net(2), form(reference), SHAPE, reference=reference, sigma_range=(0.02, 20.0), **options)


def observed(prior, operator, sigma=0.2, law=posterior.GaussianLikelihood, **options):
    """A likelihood of data that are about what the prior expects."""
    truth = prior.affine.to_physical(fields_of(1, seed=3).reshape(1, *prior.event_shape))
    clean = operator.A(truth)
    return prior, law(operator, clean + 0.1 * normal(*clean.shape, seed=4), sigma, **options)


def masked():
    import operators

    return operators.Inpainting((normal(*SHAPE, seed=2) > 0).double())


def blurred():
    import operators

    return operators.Blur(operators.gaussian_kernel(0.8), SHAPE[1:], "reflect")


class Bent:
    """A nonlinear instrument: every other pixel through a saturating sensor."""

    def __new__(cls):
        import deepinv

        class Bent(deepinv.physics.Physics):
            def A(self, x, **_):  # noqa: N802
                return torch.atan(x[..., ::2])

        return Bent()


def gaussian():
    root = normal(48, 48, seed=7)
    return posterior.GaussianPrior(fields_of(1, seed=8)[0], root @ root.T / 48 + 0.1 * torch.eye(48))


def mixture():
    root = normal(48, 48, seed=7)
    return posterior.GaussianMixturePrior(
        normal(3, *SHAPE, seed=9), torch.ones(3), root @ root.T / 48 + 0.1 * torch.eye(48, dtype=torch.float64)
    )


def counted():
    prior = NetworkPrior(
        Net(2), GaussianResidual(radial_reference()), SHAPE, reference=radial_reference(), affine=Affine(0.3, 20.0)
    )
    operator = blurred()
    counts = operator.A(prior.affine.to_physical(fields_of(1, seed=3))).round().clamp_min(0)
    return prior, posterior.PoissonLikelihood(operator, counts)


def pressure():
    """The shipped prior of sea-level pressure and stations."""
    from posterior.recipes.calibration.pressure import Reports

    prior = posterior.load_prior("slp-north-atlantic").on("2009-02-11")
    truth = prior.affine.to_physical(torch.zeros(1, *prior.event_shape, dtype=torch.float64))
    return prior, Reports(prior, 20)(truth, torch.Generator().manual_seed(1))


def scan():
    """The shipped prior of heads and a crop in k-space."""
    import operators

    prior, shape = posterior.load_prior("brain-mri"), (32, 32)
    operator = operators.MultiCoilMRI(operators.cartesian_mask(shape, 3.0), operators.birdcage_maps(4, shape))
    image = torch.zeros(1, 2, *shape)
    image[:, 0, 8:24, 6:26] = 0.7
    clean = operator.A(image)
    noise = 0.02 * normal(*clean.shape, seed=4, dtype=torch.float32) * (clean != 0)
    return prior, posterior.GaussianLikelihood(operator, clean + noise, 0.02)


# What is drawn from, and how alike draws on two devices have to be.
PROBLEMS = {
    "gaussian": (lambda: observed(gaussian(), masked()), SAME),
    "mixture": (lambda: observed(mixture(), masked()), SAME),
    "EOFs": (lambda: observed(network_prior(eof_reference()), masked()), SAME),
    "few EOFs, flow": (lambda: observed(network_prior(eof_reference(12), GaussianResidualFlow), blurred()), SAME),
    "radial": (lambda: observed(network_prior(radial_reference()), blurred()), SAME),
    "no reference": (lambda: observed(NetworkPrior(Net(1), EDM(1.5), SHAPE, rms=1.5), masked()), SAME),
    "outliers": (
        lambda: observed(network_prior(radial_reference()), masked(), law=posterior.StudentTLikelihood, dof=4.0),
        SAME,
    ),
    "counts": (counted, SAME),
    "nonlinear": (lambda: observed(network_prior(eof_reference()), Bent()), SAME),
}
SHIPPED = {"pressure": (pressure, ROUGH), "scan": (scan, ROUGH)}
gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


def drawn(problem, name, device=None):
    """Draws, or the class of the refusal."""
    prior, likelihood = problem
    made = getattr(posterior, name)(steps=STEPS)
    try:
        return posterior.sample(prior, likelihood, made, draws=DRAWS, batch_size=3, seed=1, device=device)
    except (ValueError, NotImplementedError, posterior.SamplingError) as error:
        return type(error)


def check(here, there, alike):
    """That draws on a device are those of the CPU, or refused as there."""
    if isinstance(here, type) or isinstance(there, type):
        assert here is there
        return
    assert there.samples.device.type == "cpu"
    scale = here.samples.double().std()
    assert (there.samples - here.samples).abs().max() < alike * scale
    assert there.stats.nfe == here.stats.nfe
    assert there.stats.sampler == here.stats.sampler
    assert there.stats.likelihood == here.stats.likelihood


@pytest.fixture(scope="module")
def problem():
    made = {}

    def get(name):
        if name not in made:
            made[name] = (PROBLEMS | SHIPPED)[name][0]()
        return made[name]

    return get


# Every sampler, and every problem that needs no forward-mode derivative, of which "meta" has none; the rest of their pairs
# takes longer.
LINES = [case for case in PROBLEMS if case != "nonlinear"]
QUICK = {(case, name) for case in LINES for name in NAMES if case == "EOFs" or name in ("GaussianBridge", "AFDPS")}
PAIRS = [pytest.param(case, name, marks=() if (case, name) in QUICK else pytest.mark.slow) for case in LINES for name in NAMES]
quiet = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")


@quiet
@pytest.mark.parametrize(("case", "name"), PAIRS)
def test_draws_elsewhere_are_those_of_the_cpu(problem, name, case):
    here = drawn(problem(case), name)
    with elsewhere():
        there = drawn(problem(case), name, AWAY)
    check(here, there, 1e-5)


@gpu
@quiet
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("case", [*PROBLEMS, *SHIPPED])
def test_draws_on_a_gpu_are_those_of_the_cpu(problem, name, case):
    here, there = (drawn(problem(case), name, device) for device in (None, "cuda"))
    check(here, there, (PROBLEMS | SHIPPED)[case][1])


def tensors(value, seen):
    """Every tensor that an object leads to, whatever holds it."""
    if id(value) in seen or isinstance(value, type | str | bytes):
        return
    seen[id(value)] = value
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors(item, seen)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors(item, seen)
    elif hasattr(value, "__self__"):
        yield from tensors(value.__self__, seen)
    elif hasattr(value, "__dict__") and not callable(value) or isinstance(value, torch.nn.Module):
        yield from tensors(vars(value), seen)


def places(value):
    return {t.device.type for t in tensors(value, {})}


def kept(value):
    return [(t, t.device, t.dtype, t._version) for t in tensors(value, {})]


def coarse():
    from posterior.priors.coarse import CoarseDenoiser

    own = radial_reference(errors=False)
    small = NetworkPrior(Net(2), GaussianResidual(own), (1, None, None), affine=Affine(2.0), reference=own)
    return network_prior(radial_reference(), coarse=CoarseDenoiser(small, 2, 1.0))


def behind_a_mask():
    from posterior.priors.climatology import Climatology
    from posterior.priors.labels import Labels

    mask = torch.ones(SHAPE, dtype=torch.bool)
    mask[0, :2, :3] = False
    reference = eof_reference(12, mask)
    labels = Labels("slp", ("channel", "y", "x"), mask=mask)
    prior = network_prior(reference, labels=labels, affine=Affine(normal(*SHAPE).exp(), normal(*SHAPE)))
    prior.climatology = Climatology(normal(3, *SHAPE), 1)
    return prior.on("2009-03-01")


def told():
    from posterior.priors.conditioning import Condition, Conditioned

    class Named(Net):
        def forward(self, inputs, timestep, class_labels):
            return super().forward(inputs, timestep) * (1 + class_labels.reshape(-1, 1, 1, 1))

    network = Conditioned(Named(1), Condition(label=2, guidance=1.5, free=Condition(label=0)))
    return NetworkPrior(network, EDM(1.5), SHAPE)


def plug_and_play():
    import deepinv

    class Smooth(deepinv.models.Denoiser):
        def __init__(self):
            super().__init__()
            self.kernel = torch.full((1, 1, 3, 3), 1 / 9, dtype=torch.float64)  # held as deepinv often does: no buffer

        def forward(self, x, sigma, **_):
            return torch.nn.functional.conv2d(x, self.kernel, padding=1)

    return posterior.DeepinvPrior(Smooth(), SHAPE, (0.01, 0.5))


# Priors of every kind besides those of the problems.
PRIORS = {
    "coarse": coarse,
    "behind a mask, on a date": behind_a_mask,
    "conditional": told,
    "plug and play": plug_and_play,
    "VP": lambda: NetworkPrior(Net(1), VariancePreserving(torch.linspace(0.99, 0.01, 40).double()), SHAPE),
    "points": lambda: posterior.EmpiricalPrior(fields_of(20)),
    "balls": lambda: posterior.GaussianMixturePrior(normal(3, *SHAPE), torch.ones(3), 0.5),
    "ellipsoids": lambda: posterior.GaussianMixturePrior(
        normal(2, 4), torch.ones(2), torch.stack([torch.eye(4), torch.diag(torch.arange(1.0, 5.0))])
    ),
    "chain": lambda: posterior.LevyPrior("laplace", 12),
}


@pytest.mark.parametrize("kind", PRIORS)
def test_a_prior_elsewhere_denoises_as_here(kind):
    prior = PRIORS[kind]()
    before = kept(prior)
    x, sigma = normal(2, *prior.event_shape, seed=6), torch.tensor([0.4, 3.0], dtype=torch.float64)
    expected = prior.denoise(x, sigma)
    with elsewhere():
        there = prior.to(AWAY)
        assert there is not prior
        got = there.denoise(x.to(AWAY), sigma.to(AWAY))
        assert got.device == AWAY
        got = got.cpu()
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)
    now = kept(prior)
    assert len(before) <= len(now)  # what is worked out when asked for
    assert all(any(a[0] is b[0] and a[1:] == b[1:] for b in now) for a in before)


def test_a_prior_is_itself_where_it_lies():
    prior = network_prior(eof_reference())
    assert prior.to("cpu") is prior
    assert prior.to(torch.device("cpu")) is prior


@pytest.mark.parametrize("name", posterior.bundled_priors())
def test_all_of_a_bundled_prior_moves(name):
    prior = posterior.load_prior(name)
    before = kept(prior)
    there = prior.to("meta")
    assert places(there) == {"meta"}
    assert places(prior) == {"cpu"}
    assert [(*t[1:],) for t in kept(prior)] == [(*t[1:],) for t in before]
    assert there.network is not prior.network
    assert type(there) is type(prior)
    assert repr(there) == repr(prior)
    if prior.reference is not None and getattr(prior.parameterisation, "reference", None) is prior.reference:
        assert there.parameterisation.reference is there.reference


def operators_of_all_kinds():
    import operators

    shape, kernel = (8, 8), operators.gaussian_kernel(0.8)
    mask, maps = operators.cartesian_mask(shape, 2.0), operators.birdcage_maps(3, shape)
    grid = operators.Grid(range(40, 64, 4), range(0, 40, 5))
    stations = operators.StationObservations(grid, [45.0, 52.0], [3.0, 20.0])
    gridded = {}
    if importlib.util.find_spec("mrinufft"):
        gridded["NonCartesianMRI"] = operators.NonCartesianMRI(operators.radial_trajectory(6, 16), shape, maps)
    return gridded | {
        "MRI": operators.MRI(mask),
        "MultiCoilMRI": operators.MultiCoilMRI(mask, maps),
        "OffCentre": operators.OffCentre(operators.MultiCoilMRI(mask, maps), (0.5, 1.0)),
        "Blur": operators.Blur(kernel, shape, "reflect"),
        "SuperResolution": operators.SuperResolution(shape, 2, "bicubic"),
        "Inpainting": operators.Inpainting.random(shape, 0.5),
        "StationObservations": stations,
        "AreaAverage": operators.AreaAverage(grid, 2),
        "SatelliteSwath": operators.SatelliteSwath(grid, [50.0], [10.0], radius=200.0),
        "Compose": operators.Compose(
            operators.WindSpeed(), operators.StationObservations(grid, [45.0], [3.0], channel=(0, 1), channels=2)
        ),
        "Stack": operators.Stack({"a": stations, "b": operators.Offset(stations, 2.0)}),
        "Accumulation": operators.Accumulation((1, 4, 6, 8), 2),
        "TimeSeries": operators.TimeSeries(stations, (1, 3, 6, 8)),
        "DynamicMRI": operators.DynamicMRI(operators.kt_mask(4, shape, acceleration=2)),
        "VaryingBlur": operators.VaryingBlur(
            kernel.expand(4, *kernel.shape), operators.bilinear_weights(shape, (2, 2)), "reflect"
        ),
    }


def test_all_of_every_operator_moves():
    for name, operator in operators_of_all_kinds().items():
        before = {k: v.dtype for k, v in operator.state_dict().items()}
        for there in (moved(operator, "meta"), copy.deepcopy(operator).to("meta")):
            assert type(there) is type(operator), name
            assert {t.device.type for t in there.state_dict().values()} <= {"meta"}, name
            assert {k: v.dtype for k, v in there.state_dict().items()} == before, name  # complex maps stay complex
        assert places(moved(operator, "meta")) <= {"meta"}, name
        assert places(operator) <= {"cpu"}, name


def test_what_is_held_in_common_is_held_in_common_elsewhere():
    reference = eof_reference()
    prior = network_prior(reference)
    a, b = moved((prior, [prior]), "meta")
    assert b[0] is a
    assert a.parameterisation.reference is a.reference


def test_a_device_that_is_the_data_s_own_changes_nothing(problem):
    for case in ("EOFs", "radial"):
        here, there = drawn(problem(case), "GaussianBridge"), drawn(problem(case), "GaussianBridge", "cpu")
        assert torch.equal(here.samples, there.samples)


def test_nothing_of_the_callers_moves(problem):
    prior, likelihood = problem("EOFs")
    before = kept(prior), kept(likelihood)
    with elsewhere():
        drawn((prior, likelihood), "GaussianBridge", AWAY)
    for given, was in zip((prior, likelihood), before, strict=True):
        assert [t is u and (*rest,) == (*now,) for (t, *rest), (u, *now) in zip(was, kept(given), strict=True)]
        assert places(given) == {"cpu"}


def test_a_device_that_is_not_there_is_named(problem):
    prior, likelihood = problem("gaussian")
    for device in ("cuda:7", "gpu", "the graphics card"):
        with pytest.raises(ValueError, match=f"sample: device '{device}' is not there"):
            posterior.sample(prior, likelihood, posterior.DPS(2), draws=1, device=device)
        with pytest.raises(ValueError, match=f"prior 'gaussian': device '{device}' is not there"):
            prior.to(device)


def test_a_checkpoint_of_one_device_is_good_on_another(problem, tmp_path):
    prior, likelihood = problem("EOFs")
    sampler, path = posterior.GaussianBridge(steps=2), tmp_path / "draws"
    whole = posterior.sample(prior, likelihood, sampler, draws=3, checkpoint=path).samples
    with elsewhere():
        more = posterior.sample(prior, likelihood, sampler, draws=5, checkpoint=path, device=AWAY)
    assert torch.equal(more.samples[:3], whole)
    assert more.stats.nfe == 2


def test_draws_without_data_and_calibration_take_a_device():
    from posterior.uncertainty import calibrate, gaussian_experiment

    prior = gaussian()
    make = {
        "prior": lambda device: posterior.sample_prior(prior, draws=2, steps=3, device=device).samples,
        "trials": lambda device: (
            calibrate(
                prior,
                gaussian_experiment(masked(), 0.3, torch.float64),
                posterior.GaussianBridge(steps=2),
                trials=2,
                draws=2,
                **({} if device == "cpu" else {"device": device}),
            )[1].draws
        ),
    }
    for draw in make.values():
        here = draw("cpu")
        with elsewhere():
            there = draw(AWAY)
        torch.testing.assert_close(there, here, rtol=1e-9, atol=1e-9)
