"""Priors saved and loaded, and folders that diffusers wrote."""

import dataclasses
import json
import socket

import diffusers
import pytest
import torch
from safetensors.torch import load_file

from posterior.priors.analytic import GaussianPrior
from posterior.priors.base import Affine
from posterior.priors.coarse import CoarseDenoiser
from posterior.priors.loading import load_prior, save_prior
from posterior.priors.network import NetworkPrior
from posterior.priors.parameterisations import EDM, VariancePreserving
from tests.priors.made_priors import PARAMETERISATIONS, TABLE, WEIGHTS, denoised, fields, make_prior, make_unet, reference


@pytest.fixture
def no_internet(monkeypatch):
    def refuse(*_):
        raise AssertionError("the network was asked for")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


class TestRoundTrip:
    @pytest.mark.parametrize("kind", PARAMETERISATIONS)
    def test_denoises_as_before(self, kind, tmp_path):
        prior = make_prior(kind)
        save_prior(prior, tmp_path / "p")
        loaded = load_prior(tmp_path / "p")
        assert type(loaded.parameterisation) is type(prior.parameterisation)
        torch.testing.assert_close(denoised(loaded), denoised(prior), rtol=1e-5, atol=1e-5)

    def test_all_that_is_not_weights_comes_back(self, tmp_path):
        prior = make_prior(
            affine=Affine(2.5, -1.0),
            units="K",
            rms=0.8,
            sigma_range=(0.01, 40.0),
            card={"licence": "CC-BY-4.0", "mm": 1},
        )
        save_prior(prior, tmp_path / "warm" / "field")
        loaded = load_prior(str(tmp_path / "warm" / "field"))
        assert (loaded.name, loaded.units, loaded.rms, loaded.card) == (
            "field",
            "K",
            0.8,
            {"licence": "CC-BY-4.0", "mm": 1},
        )
        assert (loaded.sigma_min, loaded.sigma_max) == (0.01, 40.0)
        assert (loaded.affine.scale, loaded.affine.shift) == (2.5, -1.0)
        assert (loaded.event_shape, loaded.multiple, loaded.parameterisation.sigma_data) == (
            (1, 8, 8),
            2,
            0.7,
        )
        assert loaded.reference is None

    def test_any_image_size_stays_any(self, tmp_path):
        prior = NetworkPrior(make_unet(), EDM(), (1, None, None), multiple=2)
        save_prior(prior, tmp_path)
        loaded = load_prior(tmp_path)
        assert loaded.event_shape == (1, None, None)
        torch.testing.assert_close(denoised(loaded, (2, 1, 7, 9)), denoised(prior, (2, 1, 7, 9)), rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("errors", [False, True])
    @pytest.mark.parametrize("kind", ["edm", "gaussian-residual"])
    def test_reference_tables_come_back(self, kind, errors, tmp_path):
        table = reference(errors)
        prior = make_prior(kind, reference=table)
        save_prior(prior, tmp_path)
        loaded = load_prior(tmp_path).reference
        for name in ("frequencies", "power", "sigmas", "errors"):
            saved, found = getattr(table, name), getattr(loaded, name)
            assert (found is None) == (saved is None)
            if saved is not None:
                torch.testing.assert_close(found, saved, rtol=0, atol=0)
        want = table.error_covariance((1, 8, 8), 0.5).eigenvalues
        torch.testing.assert_close(loaded.error_covariance((1, 8, 8), 0.5).eigenvalues, want, rtol=0, atol=0)

    def test_vp_table_comes_back_exactly(self, tmp_path):
        table = TABLE.double() * 0.999
        prior = NetworkPrior(make_unet(), VariancePreserving(table, "sample"), (1, 8, 8))
        save_prior(prior, tmp_path)
        found = load_prior(tmp_path).parameterisation
        torch.testing.assert_close(found.alphas_cumprod, table, rtol=0, atol=0)
        assert found.prediction == "sample"

    def test_half_precision_on_disk_is_float32_in_memory(self, tmp_path):
        prior = make_prior()
        save_prior(prior, tmp_path / "half", half=True)
        save_prior(prior, tmp_path / "full")
        stored = load_file(tmp_path / "half" / WEIGHTS)
        assert {v.dtype for v in stored.values()} == {torch.float16}
        assert (tmp_path / "half" / WEIGHTS).stat().st_size < 0.6 * (tmp_path / "full" / WEIGHTS).stat().st_size
        loaded = load_prior(tmp_path / "half")
        for name, tensor in loaded.network.state_dict().items():
            assert tensor.dtype == torch.float32
            torch.testing.assert_close(tensor, stored[name].float(), rtol=0, atol=0)
        torch.testing.assert_close(denoised(loaded), denoised(prior), rtol=0.02, atol=0.02)

    def test_loaded_network_is_frozen_and_in_evaluation_mode(self, tmp_path):
        save_prior(make_prior(), tmp_path)
        network = load_prior(tmp_path).network
        assert not network.training
        assert not any(p.requires_grad or p.is_meta for p in network.parameters())

    def test_diffusers_reads_what_we_write(self, tmp_path):
        prior = make_prior()
        save_prior(prior, tmp_path)
        unet = diffusers.UNet2DModel.from_pretrained(tmp_path / "unet", use_safetensors=True, local_files_only=True)
        for name, tensor in unet.state_dict().items():
            torch.testing.assert_close(tensor, prior.network.state_dict()[name], rtol=0, atol=0)

    def test_saving_leaves_the_prior_alone(self, tmp_path):
        prior = make_prior()
        before = {k: v.clone() for k, v in prior.network.state_dict().items()}
        save_prior(prior, tmp_path, half=True)
        for k, v in prior.network.state_dict().items():
            assert v.dtype == torch.float32
            torch.testing.assert_close(v, before[k], rtol=0, atol=0)

    def test_residual_parameterisation_brings_its_own_reference(self, tmp_path):
        """Also where the prior carries none for guidance: the network means nothing without it."""
        parameterisation = PARAMETERISATIONS["gaussian-residual"]()
        prior = NetworkPrior(make_unet(2), parameterisation, (1, 8, 8), multiple=2)
        save_prior(prior, tmp_path)
        torch.testing.assert_close(denoised(load_prior(tmp_path)), denoised(prior), rtol=1e-5, atol=1e-5)

    def test_affine_map_with_a_scale_for_each_channel_comes_back(self, tmp_path):
        scale = torch.tensor([2.0, 3.0], dtype=torch.float64).reshape(2, 1, 1)
        save_prior(NetworkPrior(make_unet(2, 2), EDM(), (2, 8, 8), affine=Affine(scale, 1.0)), tmp_path)
        found = load_prior(tmp_path).affine
        torch.testing.assert_close(found.scale, scale, rtol=0, atol=0)
        assert found.shift == 1.0

    def test_other_networks_and_references_are_refused(self, tmp_path):
        with torch.random.fork_rng(devices=[]):
            conv = torch.nn.Conv2d(1, 1, 1)
        with pytest.raises(TypeError, match="network is a Conv2d; wanted a diffusers UNet2DModel"):
            save_prior(NetworkPrior(conv, EDM(), (1, 8, 8)), tmp_path / "a")
        gaussian = GaussianPrior(torch.zeros(1, 8, 8), torch.ones(1, 8, 8)).reference
        with pytest.raises(TypeError, match="reference is a GaussianReference; wanted a RadialReference or an EOFReference"):
            save_prior(make_prior(reference=gaussian), tmp_path / "b")
        assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("no_internet")
class TestDiffusersFolders:
    x = fields(2, 1, 8, 8, seed=3)

    @pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
    @pytest.mark.parametrize("family", ["DDPM", "DDIM"])
    def test_vp_pipeline(self, family, prediction, tmp_path):
        unet = make_unet()
        scheduler = getattr(diffusers, f"{family}Scheduler")(
            num_train_timesteps=40, beta_schedule="squaredcos_cap_v2", prediction_type=prediction
        )
        getattr(diffusers, f"{family}Pipeline")(unet, scheduler).save_pretrained(tmp_path / "pipe")
        prior = load_prior(tmp_path / "pipe")
        assert (prior.event_shape, prior.name, prior.multiple) == ((1, 8, 8), "pipe", 2)
        steps = torch.tensor([3, 31])
        abar = scheduler.alphas_cumprod[steps].reshape(2, 1, 1, 1)
        with torch.no_grad():
            out = unet(self.x, steps).sample
        x0 = {
            "epsilon": (self.x - (1 - abar).sqrt() * out) / abar.sqrt(),
            "sample": out,
            "v_prediction": abar.sqrt() * self.x - (1 - abar).sqrt() * out,
        }[prediction]
        found = prior.denoise(self.x / abar.sqrt(), ((1 - abar) / abar).sqrt().flatten())
        torch.testing.assert_close(found, x0, rtol=1e-4, atol=1e-4)

    def test_ddpm_agrees_with_the_schedulers_own_estimate(self, tmp_path):
        unet = make_unet()
        scheduler = diffusers.DDPMScheduler(clip_sample=False)
        diffusers.DDPMPipeline(unet, scheduler).save_pretrained(tmp_path)
        with torch.no_grad():
            out = unet(self.x[:1], 400).sample
        generator = torch.Generator().manual_seed(0)
        wanted = scheduler.step(out, 400, self.x[:1], generator=generator).pred_original_sample
        abar = float(scheduler.alphas_cumprod[400])
        found = load_prior(tmp_path).denoise(self.x[:1] / abar**0.5, ((1 - abar) / abar) ** 0.5)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
    def test_edm_folder(self, prediction, tmp_path):
        unet = make_unet()
        scheduler = diffusers.EDMEulerScheduler(sigma_data=0.6, prediction_type=prediction)
        unet.save_pretrained(tmp_path / "unet")
        scheduler.save_pretrained(tmp_path / "scheduler")
        prior = load_prior(tmp_path)
        sigma = torch.tensor([0.3, 5.0])
        column = sigma.reshape(2, 1, 1, 1)
        with torch.no_grad():
            out = unet(scheduler.precondition_inputs(self.x, column), scheduler.precondition_noise(sigma)).sample
        wanted = scheduler.precondition_outputs(self.x, out, column)
        torch.testing.assert_close(prior.denoise(self.x, sigma), wanted, rtol=1e-4, atol=1e-4)

    def test_flow_folder(self, tmp_path):
        unet = make_unet()
        scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
        unet.save_pretrained(tmp_path / "unet")
        scheduler.save_pretrained(tmp_path / "scheduler")
        prior = load_prior(tmp_path)
        t = torch.tensor([0.2, 0.75])
        column = t.reshape(2, 1, 1, 1)
        with torch.no_grad():
            velocity = unet(self.x, 1000 * t).sample
        # x_t = (1 - t) x0 + t eps and v = eps - x0, so x0 = x_t - t v
        found = prior.denoise(self.x / (1 - column), t / (1 - t))
        torch.testing.assert_close(found, self.x - column * velocity, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("size", [None, (8, 16)])
    def test_sample_size_of_the_configuration(self, size, tmp_path):
        make_unet(sample_size=size).save_pretrained(tmp_path / "unet")
        diffusers.EDMEulerScheduler().save_pretrained(tmp_path / "scheduler")
        assert load_prior(tmp_path).event_shape == (1, *(size or (None, None)))

    def test_scheduler_that_is_not_understood(self, tmp_path):
        make_unet().save_pretrained(tmp_path / "unet")
        (tmp_path / "scheduler").mkdir()
        config = {"_class_name": "EulerAncestralDiscreteScheduler", "prediction_type": "epsilon"}
        (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))
        with pytest.raises(ValueError, match="scheduler 'EulerAncestralDiscreteScheduler' is not understood"):
            load_prior(tmp_path)

    def test_folder_that_is_no_prior(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"is not a prior: unet/config\.json is missing"):
            load_prior(tmp_path)


def test_a_prior_takes_the_place_of_one_that_was_saved_before(tmp_path):
    """A reference, a schedule and a scheduler that it lacks are not left for it to be loaded with."""
    (tmp_path / "notes.txt").write_text("of the user")
    betas = VariancePreserving(torch.linspace(0.999, 0.01, 50).double(), prediction="epsilon")
    with torch.random.fork_rng(devices=[]):
        save_prior(NetworkPrior(make_unet(1, 1), betas, (1, 8, 8), reference=reference()), tmp_path)
        save_prior(NetworkPrior(make_unet(1, 1), EDM(), (1, 8, 8)), tmp_path)
    found = load_prior(tmp_path)
    assert found.reference is None and isinstance(found.parameterisation, EDM)
    assert not (tmp_path / "model_index.json").exists()
    assert (tmp_path / "notes.txt").read_text() == "of the user"


def test_what_is_replaced_goes_whole_and_what_is_cut_off_is_no_prior(tmp_path, monkeypatch):
    """Coarse priors too, and a second try finds nothing of the first."""
    (tmp_path / "coarse").mkdir()
    (tmp_path / "coarse" / "notes.txt").write_text("of the user")
    plain, own = make_prior(), reference()
    coarse = CoarseDenoiser(make_prior(affine=Affine(2.0)), 2, 3.0)
    save_prior(make_prior(reference=own, coarse=coarse), tmp_path)
    save_prior(plain, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["coarse", "posterior.json", "scheduler", "unet"]
    assert [p.name for p in (tmp_path / "coarse").iterdir()] == ["notes.txt"]

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("posterior.priors.loading.write_scheduler", stop)
        with pytest.raises(KeyboardInterrupt):
            save_prior(make_prior(reference=own), tmp_path)
    with pytest.raises(ValueError, match=r"posterior\.json"):
        load_prior(tmp_path)
    save_prior(plain, tmp_path)
    assert load_prior(tmp_path).reference is None


def test_a_coarse_prior_that_cannot_be_saved_is_refused_before_anything_is_written(tmp_path):
    coarse = CoarseDenoiser(make_prior(affine=Affine(2.0), card={"rate": torch.tensor(1.0)}), 2, 3.0)
    with pytest.raises(TypeError, match="are no JSON"):
        save_prior(make_prior(reference=reference(), coarse=coarse), tmp_path / "p")
    assert not (tmp_path / "p").exists()


def test_a_residual_on_another_gaussian_than_the_reference_is_refused(tmp_path):
    """A folder holds one: the network would be given the other."""
    other = dataclasses.replace(reference(), power=2 * reference().power)
    with pytest.raises(ValueError, match="reference of prior 'network' is another Gaussian than that of its parameterisation"):
        save_prior(make_prior("gaussian-residual", reference=other), tmp_path / "p")
    assert not (tmp_path / "p").exists()


def test_what_is_no_json_is_refused_before_anything_is_written(tmp_path):
    with torch.random.fork_rng(devices=[]):
        prior = NetworkPrior(make_unet(1, 1), EDM(), (1, 8, 8), card={"rate": torch.tensor(1.0)})
    with pytest.raises(TypeError, match="save_prior: the card or the coordinates .* are no JSON"):
        save_prior(prior, tmp_path / "p")
    assert not (tmp_path / "p").exists()
