"""Priors with small random networks, in every parameterisation that a folder can hold."""

import diffusers
import torch

from posterior.priors.network import NetworkPrior
from posterior.priors.parameterisations import EDM, GaussianResidual, VariancePreserving, Velocity
from posterior.priors.reference import RadialReference

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
TABLE = diffusers.DDPMScheduler(num_train_timesteps=50).alphas_cumprod


def make_unet(inputs=1, outputs=1, seed=0, **options):
    settings = {
        "sample_size": 8,
        "block_out_channels": (8, 16),
        "norm_num_groups": 4,
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "UpBlock2D"),
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = diffusers.UNet2DModel(in_channels=inputs, out_channels=outputs, **settings | options)
    return unet.eval().requires_grad_(False)


def reference(errors=False):
    frequencies = torch.linspace(0, 0.75, 9, dtype=torch.float64)
    power = 1 / (0.1 + frequencies) ** 2
    if not errors:
        return RadialReference(frequencies, power)
    sigmas = torch.tensor([0.1, 1.0, 10.0], dtype=torch.float64)
    return RadialReference(frequencies, power, sigmas, 0.5 * power * sigmas[:, None] ** 2 / (power + sigmas[:, None] ** 2))


PARAMETERISATIONS = {
    "epsilon": lambda: VariancePreserving(TABLE),
    "sample": lambda: VariancePreserving(TABLE, "sample"),
    "v_prediction": lambda: VariancePreserving(TABLE, "v_prediction"),
    "velocity": lambda: Velocity(37.0),
    "edm": lambda: EDM(0.7),
    "gaussian-residual": lambda: GaussianResidual(reference(errors=True)),
}


def make_prior(kind="edm", **options):
    parameterisation = PARAMETERISATIONS[kind]()
    if kind == "gaussian-residual":
        options.setdefault("reference", parameterisation.reference)
    unet = make_unet(parameterisation.inputs_per_channel)
    return NetworkPrior(unet, parameterisation, (1, 8, 8), multiple=2, **options)


def fields(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def denoised(prior, shape=(2, 1, 8, 8)):
    with torch.no_grad():
        return prior.denoise(fields(*shape), torch.tensor([0.4, 2.5]))
