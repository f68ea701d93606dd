"""Folders of diffusers: conditional, transformer and latent models, and what is refused of them."""

import json
import re

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file

import posterior
from posterior.priors.conditioning import Condition
from posterior.priors.latent import LatentPrior
from posterior.priors.loading import load_prior, save_prior
from posterior.priors.network import NetworkPrior
from posterior.priors.parameterisations import EDM, VarianceExploding, VariancePreserving, Velocity

WEIGHTS = "diffusion_pytorch_model.safetensors"
SMALL = {"block_out_channels": (8, 16), "norm_num_groups": 4, "layers_per_block": 1}
UNET = {"sample_size": 8, "down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2, **SMALL}
KINDS = {
    "unet": lambda **o: diffusers.UNet2DModel(**{"in_channels": 4, "out_channels": 4, **UNET, **o}),
    "text": lambda **o: diffusers.UNet2DConditionModel(
        **UNET
        | {"in_channels": 4, "out_channels": 4, "cross_attention_dim": 12, "attention_head_dim": 4}
        | {"down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D")}
        | o
    ),
    "dit": lambda **o: diffusers.DiTTransformer2DModel(
        **{"num_attention_heads": 2, "attention_head_dim": 8, "in_channels": 4, "out_channels": 8, "num_layers": 1}
        | {"sample_size": 8, "patch_size": 2, "num_embeds_ada_norm": 10, "norm_num_groups": 4}
        | o
    ),
    "sd3": lambda **o: diffusers.SD3Transformer2DModel(
        **{"sample_size": 8, "patch_size": 2, "in_channels": 4, "num_layers": 1, "attention_head_dim": 8}
        | {"num_attention_heads": 2, "joint_attention_dim": 16, "caption_projection_dim": 16, "pooled_projection_dim": 8}
        | {"out_channels": 4, "pos_embed_max_size": 8}
        | o
    ),
    "vae": lambda **o: diffusers.AutoencoderKL(
        **{"in_channels": 3, "out_channels": 3, "latent_channels": 4, "sample_size": 16, **SMALL}
        | {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
        | o
    ),
}


def make(kind, **options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = KINDS[kind](**options)
        for p in network.parameters():
            # layers that start at zero would hide what goes into them
            p.data = p.data + 0.05 * torch.randn(p.shape)
    return network.eval().requires_grad_(False)


def write(folder, network, scheduler, vae=None):
    name = "transformer" if "Transformer" in type(network).__name__ else "unet"
    network.save_pretrained(folder / name)
    scheduler.save_pretrained(folder / "scheduler")
    if vae is not None:
        vae.save_pretrained(folder / "vae")
    return folder


def fields(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def from_epsilon(scheduler, t, x, out):
    """The argument of `denoise`, its sigma and the answer wanted, at step ``t`` with input ``x`` and output ``out``."""
    abar = scheduler.alphas_cumprod[t]
    return x / abar.sqrt(), ((1 - abar) / abar).sqrt(), (x - (1 - abar).sqrt() * out) / abar.sqrt()


X = fields(2, 4, 8, 8)
TOKENS, POOLED = fields(5, 12, seed=2), fields(8, seed=3)
DDPM = diffusers.DDPMScheduler(num_train_timesteps=50)


class TestConditional:
    def test_text(self, tmp_path):
        network = make("text")
        prior = load_prior(write(tmp_path, network, DDPM), condition=Condition(tokens=TOKENS))
        out = network(X, 20, encoder_hidden_states=TOKENS.expand(2, 5, 12)).sample
        x, sigma, wanted = from_epsilon(DDPM, 20, X, out)
        torch.testing.assert_close(prior.denoise(x, sigma), wanted, rtol=1e-4, atol=1e-4)
        assert (prior.event_shape, prior.multiple) == ((4, 8, 8), 2)

    def test_label_of_a_unet(self, tmp_path):
        network = make("unet", num_class_embeds=7)
        folder = write(tmp_path, network, DDPM)
        out = network(X, 20, class_labels=torch.tensor([6, 6])).sample
        x, sigma, wanted = from_epsilon(DDPM, 20, X, out)
        found = load_prior(folder, condition=Condition(label=6)).denoise(x, sigma)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
        with pytest.raises(ValueError, match="label 7 of a network of 7 classes"):
            load_prior(folder, condition=Condition(label=7))

    def test_mask_and_previous_state_as_channels(self, tmp_path):
        network, extra = make("unet", in_channels=7), fields(3, 8, 8, seed=4)
        prior = load_prior(write(tmp_path, network, DDPM), condition=Condition(channels=extra))
        out = network(torch.cat([X, extra.expand(2, 3, 8, 8)], 1), 20).sample
        x, sigma, wanted = from_epsilon(DDPM, 20, X, out)
        assert prior.event_shape == (4, 8, 8)
        torch.testing.assert_close(prior.denoise(x, sigma), wanted, rtol=1e-4, atol=1e-4)

    def test_transformer_with_learned_variance_and_guidance(self, tmp_path):
        network = make("dit")
        folder = write(tmp_path, network, DDPM)
        told, free = (network(X, torch.full((2,), 20), class_labels=torch.full((2,), n)).sample[:, :4] for n in (3, 10))
        for weight, out in ((1.0, told), (2.5, free + 2.5 * (told - free))):
            condition = Condition(label=3, free=Condition(label=10), guidance=weight)
            x, sigma, wanted = from_epsilon(DDPM, 20, X, out)
            found = load_prior(folder, condition=condition).denoise(x, sigma)
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)

    def test_learned_variance_of_a_unet_must_be_announced(self, tmp_path):
        network = make("unet", out_channels=8)
        learned = diffusers.DDPMScheduler(num_train_timesteps=50, variance_type="learned_range")
        prior = load_prior(write(tmp_path / "a", network, learned))
        x, sigma, wanted = from_epsilon(DDPM, 20, X, network(X, 20).sample[:, :4])
        torch.testing.assert_close(prior.denoise(x, sigma), wanted, rtol=1e-4, atol=1e-4)
        with pytest.raises(ValueError, match="4 channels in and 8 out; wanted 4 and 4"):
            load_prior(write(tmp_path / "b", network, DDPM))

    @pytest.mark.parametrize(
        ("kind", "condition", "words"),
        [
            ("text", None, "must be told tokens; got none of these"),
            ("dit", Condition(tokens=TOKENS), "must be told label; got tokens"),
            ("sd3", Condition(tokens=TOKENS), "must be told pooled, tokens; got tokens"),
            ("unet", Condition(label=1), "must be told nothing; got label"),
        ],
    )
    def test_what_it_is_told_must_fit(self, kind, condition, words, tmp_path):
        with pytest.raises(ValueError, match=words):
            load_prior(write(tmp_path, make(kind), DDPM), condition=condition)


class TestLatent:
    @pytest.fixture(scope="class")
    @staticmethod
    def folder(tmp_path_factory):
        vae = make("vae", scaling_factor=0.4, shift_factor=0.3)
        return write(tmp_path_factory.mktemp("latent"), make("sd3"), diffusers.FlowMatchEulerDiscreteScheduler(), vae)

    @pytest.fixture(scope="class")
    @staticmethod
    def prior(folder):
        return load_prior(folder, condition=Condition(tokens=fields(5, 16, seed=2), pooled=POOLED))

    def test_flow_transformer(self, folder, prior):
        network = make("sd3")
        assert isinstance(prior, LatentPrior)
        t = torch.tensor([0.3, 0.3])
        told = {"encoder_hidden_states": fields(5, 16, seed=2).expand(2, 5, 16), "pooled_projections": POOLED.expand(2, 8)}
        with torch.no_grad():
            wanted = X - 0.3 * network(X, timestep=1000 * t, **told).sample
        torch.testing.assert_close(prior.denoise(X / 0.7, 0.3 / 0.7), wanted, rtol=1e-4, atol=1e-4)

    def test_coordinates_are_those_of_the_autoencoder(self, prior):
        vae = make("vae")
        image = fields(1, 3, 16, 16)
        latent = vae.encode(image).latent_dist.mode()
        torch.testing.assert_close(prior.encode(image), latent, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(prior.affine.to_standard(latent), (latent - 0.3) * 0.4)
        torch.testing.assert_close(prior.decode(latent.double()), vae.decode(latent).sample.double(), rtol=1e-4, atol=1e-5)
        assert prior.stride == 2

    @pytest.mark.filterwarnings("ignore:`torch.jit.script:FutureWarning")
    def test_draws_through_the_decoder(self, prior):
        from deepinv.physics import Inpainting

        physics = Inpainting((3, 16, 16), mask=0.5, rng=torch.Generator().manual_seed(0))
        y = physics.A(prior.decode(fields(1, 4, 8, 8)))
        like = posterior.GaussianLikelihood(prior.through(physics), y, 0.1)
        draws = posterior.sample(prior, like, posterior.MMPS(steps=2), draws=2)
        again = posterior.sample(prior, like, posterior.MMPS(steps=2), draws=2, batch_size=1)
        assert draws.samples.shape == (2, 4, 8, 8)
        torch.testing.assert_close(draws.samples, again.samples, rtol=1e-3, atol=1e-3)
        assert draws.map(prior.decode, name="image").samples.shape == (2, 3, 16, 16)

    def test_autoencoder_with_other_channels_is_refused(self, folder, tmp_path):
        import shutil

        shutil.copytree(folder, tmp_path / "bad")
        make("vae", latent_channels=3).save_pretrained(tmp_path / "bad" / "vae")
        with pytest.raises(ValueError, match="3 latent channels; the network wants 4"):
            load_prior(tmp_path / "bad", condition=Condition(tokens=fields(5, 16), pooled=POOLED))

    def test_field_range_of_a_latent_model_is_refused(self, folder):
        with pytest.raises(ValueError, match="latent model, whose coordinates are those of its autoencoder"):
            load_prior(folder, condition=Condition(tokens=fields(5, 16), pooled=POOLED), field_range=(0, 1))


class TestOurFoldersInDiffusers:
    """A network whose output is zero is a white Gaussian under EDM and v-prediction: what it draws is known."""

    def folder(self, parameterisation, tmp_path):
        network = make("unet")
        for p in network.parameters():
            p.data.zero_()
        save_prior(NetworkPrior(network, parameterisation, (4, 8, 8), multiple=2), tmp_path)
        return tmp_path

    def draw(self, folder, scheduler, steps):
        unet = diffusers.UNet2DModel.from_pretrained(folder / "unet", use_safetensors=True, local_files_only=True)
        g = torch.Generator().manual_seed(0)
        scheduler.set_timesteps(steps)
        x = torch.randn(16, 4, 8, 8, generator=g) * getattr(scheduler, "init_noise_sigma", 1.0)
        with torch.no_grad():
            for t in scheduler.timesteps:
                inputs = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
                x = scheduler.step(unet(inputs, t).sample, t, x, generator=g).prev_sample
        return x

    def test_vp(self, tmp_path):
        folder = self.folder(VariancePreserving(DDPM.alphas_cumprod, "v_prediction"), tmp_path)
        scheduler = diffusers.DDPMScheduler.from_pretrained(folder / "scheduler")
        torch.testing.assert_close(scheduler.alphas_cumprod, DDPM.alphas_cumprod)
        assert float(self.draw(folder, scheduler, 50).std()) == pytest.approx(1.0, rel=0.05)
        sigma = torch.logspace(-2, 0, 9)
        prior = load_prior(folder)
        x = fields(9, 4, 8, 8)
        torch.testing.assert_close(prior.denoise(x, sigma), x / (1 + sigma**2).reshape(-1, 1, 1, 1), rtol=1e-5, atol=1e-5)

    def test_vp_pipeline(self, tmp_path):
        folder = self.folder(VariancePreserving(DDPM.alphas_cumprod), tmp_path)
        pipe = diffusers.DDPMPipeline.from_pretrained(folder, use_safetensors=True, local_files_only=True)
        pipe.set_progress_bar_config(disable=True)
        images = pipe(batch_size=2, num_inference_steps=3, generator=torch.Generator().manual_seed(0), output_type="np").images
        assert images.shape == (2, 8, 8, 4)

    def test_edm(self, tmp_path):
        folder = self.folder(EDM(0.7), tmp_path)
        scheduler = diffusers.EDMEulerScheduler.from_pretrained(folder / "scheduler")
        assert float(self.draw(folder, scheduler, 100).std()) == pytest.approx(0.7, rel=0.1)
        sigma = torch.logspace(-3, 3, 13)
        x = fields(13, 4, 8, 8)
        wanted = 0.49 / (0.49 + sigma**2).reshape(-1, 1, 1, 1) * x
        torch.testing.assert_close(load_prior(folder).denoise(x, sigma), wanted, rtol=1e-5, atol=1e-5)

    def test_noise_levels_of_edm_go_both_ways(self, tmp_path):
        save_prior(NetworkPrior(make("unet"), EDM(0.7), (4, 8, 8), sigma_range=(0.1, 5.0), multiple=2), tmp_path)
        scheduler = diffusers.EDMEulerScheduler.from_pretrained(tmp_path / "scheduler")
        assert (scheduler.config.sigma_min, scheduler.config.sigma_max) == (0.1, 5.0)
        (tmp_path / "posterior.json").unlink()
        prior = load_prior(tmp_path)
        assert (prior.sigma_min, prior.sigma_max) == (0.1, 5.0)

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"sigma_min": 6.0, "sigma_max": 5.0}, r"sigma_min, sigma_max is \[6.0, 5.0\]; wanted two rising"),
            ({"sigma_max": "high"}, "is 'high'; wanted a positive number"),
            ({"sigma_data": float("nan")}, "sigma_data is nan"),
        ],
    )
    def test_noise_levels_of_edm_that_are_none(self, changes, words, tmp_path):
        write(tmp_path, make("unet"), diffusers.EDMEulerScheduler())
        path = tmp_path / "scheduler" / "scheduler_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
        with pytest.raises(ValueError, match=words):
            load_prior(tmp_path)

    def test_flow(self, tmp_path):
        folder = self.folder(Velocity(), tmp_path)
        scheduler = diffusers.FlowMatchEulerDiscreteScheduler.from_pretrained(folder / "scheduler")
        assert float(self.draw(folder, scheduler, 10).std()) == pytest.approx(1.0, rel=0.05)  # zero velocity: the noise itself

    @pytest.mark.parametrize(
        "parameterisation", [Velocity(1.0, data_at_one=True), VarianceExploding("scaled-score", "log-half")], ids=["flow", "ve"]
    )
    def test_no_scheduler_where_diffusers_has_none(self, parameterisation, tmp_path):
        folder = self.folder(parameterisation, tmp_path)
        assert not (folder / "scheduler").exists()
        assert load_prior(folder).parameterisation == parameterisation


class TestWhereItComesFrom:
    def test_the_hub_is_asked_only_when_told_to_and_for_safe_files_alone(self, tmp_path, monkeypatch):
        import huggingface_hub

        asked = []
        folder = write(tmp_path, make("unet"), DDPM)
        monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **o: asked.append((name, o)) or str(folder))
        with pytest.raises(FileNotFoundError, match="no prior 'someone/something'"):
            load_prior("someone/something")
        assert asked == []
        assert load_prior("someone/something", download=True).event_shape == (4, 8, 8)
        [(name, options)] = asked
        assert name == "someone/something"
        assert all(pattern.endswith((".json", ".safetensors")) for pattern in options["allow_patterns"])

    def test_network_and_scheduler_in_one_folder(self, tmp_path):
        network = make("unet")
        network.save_pretrained(tmp_path)
        DDPM.save_pretrained(tmp_path)
        x, sigma, wanted = from_epsilon(DDPM, 20, X, network(X, 20).sample)
        torch.testing.assert_close(load_prior(tmp_path).denoise(x, sigma), wanted, rtol=1e-4, atol=1e-4)

    def test_field_range(self, tmp_path):
        prior = load_prior(write(tmp_path, make("unet"), DDPM), field_range=(0.0, 255.0))
        assert prior.affine.to_physical(torch.tensor([-1.0, 0.0, 1.0])).tolist() == [0.0, 127.5, 255.0]
        with pytest.raises(ValueError, match="field_range is"):
            load_prior(tmp_path, field_range=(1.0, 0.0))


class TestRefusals:
    """Configurations that ask for more than the weights can be."""

    def spoil(self, path, **changes):
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    @pytest.fixture
    def folder(self, tmp_path):
        return write(tmp_path, make("unet"), DDPM)

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"layers_per_block": 10**9}, "layers_per_block is 1000000000, but there are only"),
            ({"block_out_channels": [8, 2**20]}, r"is \(.*\), wanted \(.*1048576"),
            ({"block_out_channels": [8, 2**40]}, "does not describe a UNet2DModel"),
            ({"layers_per_block": [1, 10**9]}, "there are only"),
            ({"block_out_channels": [8, 17]}, "does not describe a UNet2DModel"),
            ({"down_block_types": ["Nonsense", "DownBlock2D"]}, "does not describe a UNet2DModel"),
            ({"in_channels": "many"}, "in_channels is 'many'; wanted a whole number"),
            ({"in_channels": 5}, "5 channels in and 4 out; wanted 5 and 5"),
        ],
    )
    def test_network(self, folder, changes, words):
        self.spoil(folder / "unet" / "config.json", **changes)
        with pytest.raises(ValueError, match=words):
            load_prior(folder)

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"num_train_timesteps": 10**15}, "num_train_timesteps is 1000000000000000"),
            ({"beta_end": 3.0}, "descends between 1 and 0"),
            ({"beta_schedule": "mystery"}, "not understood"),
            ({"prediction_type": "flow"}, "prediction type 'flow'"),
        ],
    )
    def test_scheduler(self, folder, changes, words):
        self.spoil(folder / "scheduler" / "scheduler_config.json", **changes)
        with pytest.raises(ValueError, match=words):
            load_prior(folder)

    def test_half_of_an_autoencoder(self, folder):
        make("vae").save_pretrained(folder / "vae")
        state = load_file(folder / "vae" / WEIGHTS)
        del state["quant_conv.bias"]
        save_file(state, folder / "vae" / WEIGHTS, metadata={"format": "pt"})
        with pytest.raises(ValueError, match=re.escape("missing: quant_conv.bias")):
            load_prior(folder)
