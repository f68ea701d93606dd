"""One Gaussian behind every checkpoint layout.

A checkpoint of each layout is written and loaded; then its network gives way to one that knows the Gaussian and takes its
input, its time and its output as the project that defined the layout does. What the loader concluded from the file, and
from what it was told, is thus all that is tested: the denoiser over six decades, and the draws of a seed.
"""

import diffusers
import numpy as np
import pytest
import torch
from deepinv.physics import Denoising

import posterior
from posterior.priors.base import Affine
from posterior.priors.conditioning import Condition
from posterior.priors.layouts.adm import GuidedDiffusion, TorchCFM
from posterior.priors.layouts.edm import EDMNetwork
from posterior.priors.layouts.score_sde import RectifiedFlow, ScoreSDE
from posterior.priors.loading import load_prior, save_prior
from posterior.priors.network import NetworkPrior
from posterior.priors.parameterisations import EDM, ContinuousVP, VarianceExploding, VariancePreserving, Velocity
from tests.priors import test_folders as folders, test_layouts as layouts, test_score_sde as score_sde
from tests.priors.test_parameterisations import (
    GAUSSIAN,
    SHAPE,
    SIGMAS,
    col,
    continuous_vp_network,
    edm_network,
    normal,
    ve_network,
    velocity_network,
    vp_network,
)

STEPS = 1000
LINEAR = torch.cumprod(1 - torch.linspace(1e-4, 0.02, STEPS, dtype=torch.float64), 0)
COSINE = torch.cos((torch.arange(STEPS + 1).double() / STEPS + 0.008) / 1.008 * torch.pi / 2) ** 2
COSINE = torch.cumprod((COSINE[1:] / COSINE[:-1]).clamp(min=0.001), 0)
TOKENS, POOLED = torch.zeros(5, 12), torch.zeros(8)


def folder(kind, scheduler, condition=None, vae=False, **options):
    def load(path):
        autoencoder = folders.make("vae") if vae else None
        folders.write(path, folders.make(kind, **options), scheduler(), autoencoder)
        return load_prior(path, condition=condition)

    return load


def pipeline(name, scheduler):
    def load(path):
        getattr(diffusers, name)(folders.make("unet"), scheduler()).save_pretrained(path)
        return load_prior(path)

    return load


def ours(parameterisation):
    def load(path):
        save_prior(NetworkPrior(folders.make("unet"), parameterisation, (4, 8, 8), multiple=2), path)
        return load_prior(path)

    return load


def file(write, layout):
    return lambda path: load_prior(write(path / "weights.pt"), layout=layout)


def openai(path):
    return layouts.save(layouts.make(layouts.OpenAI).state_dict(), path)


def cfm(path):
    network = layouts.make(layouts.OpenAI, 3, convolutions=True, shift_only=True)
    return layouts.save({"ema_model": network.state_dict(), "net_model": network.state_dict()}, path)


def edm(path):
    return layouts.save({"ema": {f"model.{k}": v for k, v in layouts.make_edm("ddpm++").state_dict().items()}}, path)


def numbered(path):
    return score_sde.save(score_sde.make(True), path)


def vp(prediction="epsilon", name="DDPMScheduler", **options):
    return lambda: getattr(diffusers, name)(num_train_timesteps=STEPS, prediction_type=prediction, **options)


TOLD = Condition(tokens=torch.zeros(5, 16), pooled=POOLED)
CASES = {
    "ddpm pipeline": (pipeline("DDPMPipeline", vp()), lambda: vp_network(LINEAR, "epsilon")),
    "ddpm pipeline, sample": (pipeline("DDPMPipeline", vp("sample")), lambda: vp_network(LINEAR, "sample")),
    "ddim pipeline, v": (
        pipeline("DDIMPipeline", vp("v_prediction", "DDIMScheduler")),
        lambda: vp_network(LINEAR, "v_prediction"),
    ),
    "learned variance": (
        folder("unet", vp(variance_type="learned_range"), out_channels=8),
        lambda: vp_network(LINEAR, "epsilon"),
    ),
    "text unet": (folder("text", vp(), Condition(tokens=TOKENS)), lambda: vp_network(LINEAR, "epsilon")),
    "class unet": (folder("unet", vp(), Condition(label=1), num_class_embeds=3), lambda: vp_network(LINEAR, "epsilon")),
    "dit": (folder("dit", vp(name="DDIMScheduler"), Condition(label=1)), lambda: vp_network(LINEAR, "epsilon")),
    "latent unet": (folder("unet", vp(), vae=True), lambda: vp_network(LINEAR, "epsilon")),
    "latent sd3": (folder("sd3", diffusers.FlowMatchEulerDiscreteScheduler, TOLD, vae=True), lambda: velocity_network(1000.0)),
    "edm euler": (folder("unet", lambda: diffusers.EDMEulerScheduler(sigma_data=0.7)), lambda: edm_network(0.7)),
    "flow match euler": (folder("unet", diffusers.FlowMatchEulerDiscreteScheduler), lambda: velocity_network(1000.0)),
    "ours, vp": (ours(VariancePreserving(LINEAR, "v_prediction")), lambda: vp_network(LINEAR, "v_prediction")),
    "ours, continuous vp": (ours(ContinuousVP()), lambda: continuous_vp_network(999.0, 0.1, 20.0, "epsilon")),
    "ours, ve": (ours(VarianceExploding()), lambda: ve_network(2, False)),
    "ours, edm": (ours(EDM(0.4)), lambda: edm_network(0.4)),
    "ours, velocity": (ours(Velocity()), lambda: velocity_network(1000.0)),
    "ours, velocity to data": (ours(Velocity(1.0, data_at_one=True)), lambda: velocity_network(1.0, True)),
    "guided diffusion": (file(openai, GuidedDiffusion(layouts.HEADS)), lambda: vp_network(LINEAR, "epsilon")),
    "improved diffusion": (file(openai, GuidedDiffusion(layouts.HEADS, "cosine")), lambda: vp_network(COSINE, "epsilon")),
    "edm vp of adm": (
        file(openai, GuidedDiffusion(layouts.HEADS, "continuous")),
        lambda: continuous_vp_network(999.0, 0.1, 20.0, "epsilon"),
    ),
    "torchcfm": (file(cfm, TorchCFM(layouts.HEADS)), lambda: velocity_network(1.0, True)),
    "inversebench": (file(edm, EDMNetwork()), lambda: edm_network(0.5)),
    "edm, vp": (file(edm, EDMNetwork(preconditioning="vp")), lambda: continuous_vp_network(999.0, 0.1, 20.0, "epsilon")),
    "edm, ve": (file(edm, EDMNetwork(preconditioning="ve")), lambda: ve_network(1, True)),
    "score_sde, ve": (file(numbered, ScoreSDE()), lambda: ve_network(1, True)),
    "score_sde, vp": (file(numbered, ScoreSDE("vp")), lambda: continuous_vp_network(999.0, 0.1, 20.0, "epsilon")),
    "rectified flow": (file(numbered, RectifiedFlow()), lambda: velocity_network(999.0, True)),
}


def draws(prior):
    prior.sigma_min, prior.sigma_max = 0.02, 100.0
    like = posterior.GaussianLikelihood(Denoising(), GAUSSIAN.reference.center[None] + normal(1, *SHAPE, seed=12), 0.5)
    return posterior.sample(prior, like, posterior.MMPS(steps=4), draws=2, seed=3).samples


@pytest.fixture(scope="module")
def expected():
    return draws(NetworkPrior(edm_network(0.5), EDM(0.5), SHAPE))


@pytest.mark.parametrize("case", CASES)
def test_one_gaussian_in_every_layout(case, expected, tmp_path):
    load, exact = CASES[case]
    prior = load(tmp_path)
    prior.network, prior.event_shape, prior.affine, prior.multiple = exact(), SHAPE, Affine(), 1
    low, high = prior.parameterisation.range() if prior.parameterisation.kind == "vp" else (SIGMAS[0], SIGMAS[-1])
    sigma = torch.from_numpy(SIGMAS[(low <= SIGMAS) & (high >= SIGMAS)])
    assert np.log10(float(sigma[-1] / sigma[0])) >= (3.5 if prior.parameterisation.kind == "vp" else 6 - 1e-9)
    x = GAUSSIAN.reference.center + col(sigma) * normal(len(sigma), *SHAPE)
    torch.testing.assert_close(prior.denoise(x, sigma), GAUSSIAN.denoise(x, sigma), rtol=1e-5, atol=1e-5)

    torch.testing.assert_close(draws(prior), expected, rtol=1e-3, atol=1e-3)
