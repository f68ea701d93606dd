"""Values that are not finite and bad input end in an error that says what is wrong."""

import deepinv
import pytest
import torch

import posterior
from tests.invariants.setting import (
    POPULATIONS,
    SHAPE,
    STEPS,
    Quiet,
    Spoiled,
    assert_same,
    called,
    calls,
    draw,
    every,
    inpainting,
    network_prior,
    sampler_of,
    single,
)

# 6. Values that are not finite.


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("after", [0, 2])
@every
def test_network_that_stops_being_finite_ends_in_an_error(name, value, after, tmp_path):
    prior = Spoiled(network_prior(), value, calls(name, after))
    path = tmp_path / "run.safetensors"
    # particles are weighed by a look at the next step, so that it may be found a step early
    step = rf"[{max(after, 1)}{after + 1}]" if name in POPULATIONS else after + 1
    with pytest.raises(posterior.SamplingError, match=rf"{called(name)}: .*not finite after step {step} of {STEPS}") as caught:
        draw(name, prior, draws=2, checkpoint=path)
    assert "\n" not in str(caught.value)
    assert not path.exists()
    found = [calls(name, after + 1), *([calls(name, after + 2)] if name in POPULATIONS else [])]
    assert prior.calls in found


@single
def test_error_names_the_draw_and_keeps_the_finished_ones(name, tmp_path):
    path = tmp_path / "run.safetensors"
    with pytest.raises(posterior.SamplingError, match="draw 2"):
        draw(name, Spoiled(network_prior(), torch.nan, calls(name)), draws=4, batch_size=2, checkpoint=path)
    mended = Spoiled(network_prior(), torch.nan, 10**9)
    found = draw(name, mended, draws=4, batch_size=2, checkpoint=path).samples
    assert mended.calls == calls(name)
    assert_same(found, draw(name, draws=4, batch_size=2).samples)


@every
def test_values_too_large_for_the_datas_precision_end_in_an_error(name):
    """Finite in float64, infinite in the float32 of the data: never handed over as draws."""
    if name == "REDDiff":
        pytest.skip("Adam's steps are bounded, whatever the network returns")
    prior = Spoiled(network_prior(), 1e39, calls(name) - 1)
    with pytest.raises(posterior.SamplingError, match=f"{called(name)}: .*not finite"):
        draw(name, prior, draws=2)


# 7. Bad input, before the first network call.


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
@every
def test_bad_input_is_refused_before_the_first_network_call(name, case):
    build, message = BAD[case]
    with pytest.raises((ValueError, TypeError), match=message) as caught:
        draw(name, Quiet(network_prior()), **build())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("steps", [0, -1])
@every
def test_no_steps_are_refused(name, steps):
    with pytest.raises(ValueError, match=f"{called(name)}: steps must be at least 1, got {steps}"):
        sampler_of(name, steps)


@every
def test_noise_levels_that_do_not_fall_are_refused_before_the_first_network_call(name):
    with pytest.raises(ValueError, match="0 < sigma_min < sigma_max"):
        draw(name, Quiet(network_prior()), sampler=sampler_of(name, sigma_max=0.1, sigma_min=0.5))


@every
def test_prior_of_any_size_takes_the_size_from_the_operator(name):
    prior = network_prior()
    prior.event_shape = (1, None, None)
    assert_same(draw(name, prior).samples, draw(name).samples)
