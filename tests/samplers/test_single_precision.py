"""Weighted particles in single precision, and guidance in the smallest units: no divisor is rounded to zero."""

import pytest
import torch
from deepinv.physics import Inpainting, LinearPhysics, Physics

import posterior
from posterior.priors.base import Affine

F32 = torch.float32


class Twice(LinearPhysics):
    """Every value measured two times: more data than unknowns."""

    def A(self, x, **_):  # noqa: N802
        return torch.cat([x, x], 1)

    def A_adjoint(self, y, **_):  # noqa: N802
        return y[:, :3] + y[:, 3:]


class Ramp(Physics):
    """Flat below zero, where the likelihood has no slope; many data where it is ``repeated``."""

    def __init__(self, repeated=1):
        super().__init__()
        self.repeated = repeated

    def A(self, x, **_):  # noqa: N802
        return x.clamp_min(0).repeat(1, self.repeated)


class Bent(Physics):
    """Steeper above zero than below."""

    def A(self, x, **_):  # noqa: N802
        return x + 0.5 * x.abs()


def white(scale=1.0):
    prior = posterior.GaussianPrior(torch.zeros(3).double(), torch.eye(3).double())
    prior.affine = Affine(scale=scale)
    return prior


@pytest.mark.parametrize(
    ("physics", "sampler"),
    [
        (Twice(), posterior.TDS(12, "mmps")),
        (Ramp(), posterior.TDS(12, "mmps")),
        (Ramp(), posterior.TDS(12, "sharp")),
        (Ramp(), posterior.AFDPS(12)),
        (Ramp(30), posterior.AFDPS(12)),
    ],
    ids=lambda x: type(x).__name__,
)
def test_particles_in_single_precision_are_those_of_double(physics, sampler):
    y = physics.A(torch.tensor([[0.0, 0.5, -0.4]]))
    found = {}
    for dtype in (F32, torch.float64):
        like = posterior.GaussianLikelihood(physics, y.to(dtype), 0.5 * len(y[0]) ** 0.5)
        found[dtype] = posterior.sample(white(), like, sampler, draws=400, dtype=dtype).stats.log_evidence[0]
    assert abs(found[F32] - found[torch.float64]) < 0.2


@pytest.mark.parametrize("sampler", [posterior.DPS(20), posterior.LGD(20)], ids=["DPS", "LGD"])
def test_steps_along_the_residual_know_no_units(sampler):
    y = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64)
    mask = torch.ones(3, dtype=torch.float64)
    draws = []
    for scale in (1.0, 1e-14):
        like = posterior.GaussianLikelihood(Inpainting((3,), mask=mask), scale * y, 0.3 * scale)
        draws.append(posterior.sample(white(scale), like, sampler, draws=4).samples / scale)
    torch.testing.assert_close(*draws, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "sampler", [posterior.REDDiff(20), posterior.PnPDM(10, 3), posterior.FlowDPS(10), posterior.GaussianBridge(4)], ids=repr
)
def test_a_prior_of_small_units_gives_the_draws_of_large_ones(sampler):
    y, mask = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([1.0, 1.0, 0.0])
    draws = []
    for unit in (1.0, 1e-15):
        prior = posterior.GaussianPrior(torch.zeros(3), unit**2 * torch.eye(3, dtype=torch.float64))
        like = posterior.GaussianLikelihood(Inpainting((3,), mask=mask), unit * y, 0.3 * unit)
        draws.append(posterior.sample(prior, like, sampler, draws=4, dtype=F32).samples / unit)
    torch.testing.assert_close(*draws, rtol=1e-3, atol=1e-3)


# torch.func.jvp loads its decompositions with torch's own deprecated scripting
@pytest.mark.filterwarnings("ignore:`torch.jit.script:FutureWarning")
@pytest.mark.parametrize("unit", [1e-12, 1e15])
def test_langevin_moves_know_no_units(unit):
    draws = []
    for u in (1.0, unit):
        prior = posterior.GaussianPrior(torch.zeros(3), u**2 * torch.eye(3, dtype=torch.float64))
        like = posterior.GaussianLikelihood(Bent(), u * torch.tensor([[1.0, 0.5, 0.0]]), 0.3 * u)
        draws.append(posterior.sample(prior, like, posterior.DAPS(4, 2), draws=4, dtype=F32).samples / u)
    torch.testing.assert_close(*draws, rtol=1e-3, atol=1e-3)
