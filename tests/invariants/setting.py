"""What the tests of the invariants share: every sampler, a tiny network, data of it, and priors that spy on their use.

A new sampler is one more line in SAMPLERS.
"""

from functools import partial

import deepinv
import pytest
import torch

import posterior
from posterior.priors.base import Prior
from posterior.priors.network import NetworkPrior
from posterior.priors.parameterisations import GaussianResidual
from posterior.priors.reference import RadialReference

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
    # two Krylov iterations, the final product, and one to see how good the start is
    "GaussianBridge with the Jacobian": (partial(posterior.GaussianBridge, jacobian=2), lambda steps: (steps, 4 * steps)),
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
    # of the reference Gaussian's twist, which asks for no gradients
    "TDS": (posterior.TDS, lambda steps: (steps, 0)),
    # without moves, which follow a resampling and so come when chance has it
    "AFDPS": (partial(posterior.AFDPS, rejuvenation=0), lambda steps: (steps, 0)),
    "FKFilter": (partial(posterior.FKFilter, rejuvenation=0), lambda steps: (steps, 0)),
}
# Weighted particles: a run of all its draws is the unit.
POPULATIONS = {"TDS", "AFDPS", "FKFilter"}

every = pytest.mark.parametrize("name", SAMPLERS)
single = pytest.mark.parametrize("name", [name for name in SAMPLERS if name not in POPULATIONS])
# Those that need a linear operator.
LINEAR_ONLY = {"DDNM", "DDRM", "FKFilter"}


def called(name):
    """The class, of settings of one too."""
    return name.partition(" ")[0]


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


class Quiet(Counting):
    """Fails the test at the first network call."""

    def denoise(self, x, sigma):
        raise AssertionError("the network was called")


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
