"""Priors, operators and likelihoods of every kind, small: what `tests/test_device.py` moves and draws with."""

import importlib.util

import torch

import posterior
from posterior.priors.base import Affine
from posterior.priors.network import NetworkPrior
from posterior.priors.parameterisations import EDM, GaussianResidual, GaussianResidualFlow, VariancePreserving
from posterior.priors.reference import EOFReference, RadialReference

SHAPE = (1, 6, 8)
# What iterative solves leave unsolved, of the draws' own size.
SAME = 2e-3
# Of networks in single precision.
ROUGH = 2e-2


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
