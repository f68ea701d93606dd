"""Operators of every kind and precision."""

import deepinv
import pytest
import torch

import posterior
from posterior.priors.network import NetworkPrior
from posterior.priors.parameterisations import EDM
from tests.invariants.setting import (
    LINEAR_ONLY,
    SHAPE,
    SOLVED,
    Quiet,
    assert_same,
    draw,
    every,
    gaussian_prior,
    inpainting,
    likelihood,
    network_prior,
    normal,
)


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
@every
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
    if (name, kind) == ("FKFilter", "Downsampling"):
        # all singular values are equal, so that rounding turns the vectors that carry the noise
        return
    assert_same(draws[torch.float32].samples.double(), draws[torch.float64].samples, SOLVED)


class Bent(deepinv.physics.Physics):
    """A nonlinear operator: every other pixel through a saturating sensor."""

    def A(self, x, **_):
        return torch.atan(x[..., ::2])


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")
@every
def test_nonlinear_operators_are_accepted(name):
    like = likelihood(Bent())
    if name in LINEAR_ONLY:
        with pytest.raises(ValueError, match=f"{name}: .*linear"):
            draw(name, Quiet(network_prior()), like)
        return
    one, both = (draw(name, like=like, steps=2, draws=2, batch_size=size).samples for size in (1, 2))
    assert torch.isfinite(both).all()
    assert_same(one, both)
    other = posterior.GaussianLikelihood(like.operator, -like.y, 0.1)
    assert (draw(name, like=other, steps=2, draws=2).samples - both).abs().max() > 0.1


@every
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
