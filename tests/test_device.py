"""Draws on another device: the same as on the CPU, and nothing of the caller's is moved.

Of every sampler on every problem, on a GPU where there is one, and on the device of `tests.elsewhere` everywhere.
"""

import copy

import pytest
import torch

import posterior
from posterior._devices import moved
from posterior.recipes.calibration import SAMPLERS
from tests.device_problems import (
    PRIORS,
    PROBLEMS,
    SHIPPED,
    eof_reference,
    fields_of,
    gaussian,
    masked,
    network_prior,
    normal,
    observed,
    operators_of_all_kinds,
)
from tests.elsewhere import AWAY, elsewhere

STEPS, DRAWS = 2, 3
NAMES = (*SAMPLERS, "REDDiff")


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


# What drivers and libraries warn of is theirs.
@gpu
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("case", [*PROBLEMS, *SHIPPED])
def test_draws_on_a_gpu_are_those_of_the_cpu(problem, name, case):
    here = drawn(problem(case), name)
    # As precise as on the CPU; what ten bits in place of 24 make of a network is not asked here.
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        there = drawn(problem(case), name, "cuda")
    check(here, there, (PROBLEMS | SHIPPED)[case][1])


@gpu
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("case", SHIPPED)
def test_a_gpu_as_it_comes_is_near_enough(problem, case):
    here, there = (drawn(problem(case), "GaussianBridge", device) for device in (None, "cuda"))
    check(here, there, 0.1)


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


def test_a_compiled_network_draws_and_moves():
    prior = posterior.load_prior("slp-north-atlantic")
    plain = posterior.sample_prior(prior, draws=2, steps=2).samples
    prior.network = torch.compile(prior.network, backend="eager")
    torch.testing.assert_close(posterior.sample_prior(prior, draws=2, steps=2).samples, plain)
    assert prior.to("cpu") is prior
    there = prior.to(AWAY)
    assert {p.device for p in there.network.parameters()} == {AWAY}
    assert {p.device for p in prior.network.parameters()} == {torch.device("cpu")}
    assert type(there.network) is type(prior.network)


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


def test_exact_posteriors_are_worked_out_on_the_cpu():
    for prior in (gaussian(), posterior.EmpiricalPrior(fields_of(20))):
        _, likelihood = observed(prior, masked())
        with elsewhere():
            there = posterior.exact_posterior(prior, moved(likelihood, AWAY))
        assert torch.equal(there.mean, posterior.exact_posterior(prior, likelihood).mean)


@gpu
@pytest.mark.filterwarnings("default")
def test_workers_share_a_gpu():
    from posterior.uncertainty import calibrate, gaussian_experiment

    def run(**settings):
        experiment = gaussian_experiment(masked(), 0.3, torch.float64)
        return calibrate(gaussian(), experiment, posterior.GaussianBridge(steps=2), trials=2, draws=2, **settings)

    for here, there in zip(run(), run(workers=2, device="cuda"), strict=True):
        torch.testing.assert_close(there.draws, here.draws, rtol=1e-6, atol=1e-6)
