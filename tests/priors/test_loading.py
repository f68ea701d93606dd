import json
import pickle
import re
import shutil
import socket
from pathlib import Path

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file

from posterior.priors.analytic import GaussianPrior
from posterior.priors.base import Affine
from posterior.priors.loading import bundled_priors, load_prior, save_prior
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


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "tiny"
    save_prior(make_prior("gaussian-residual"), folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    """A fresh copy of a good folder, to be spoilt."""
    return Path(shutil.copytree(saved, tmp_path / "tiny"))


def refusal(error, *words, folder):
    """Load ``folder``; it must be refused in one sentence that holds ``words``. The sentence."""
    with pytest.raises(error) as caught:
        load_prior(folder)
    text = str(caught.value)
    assert "\n" not in text.strip(), text
    assert 0 < len(text) < 600
    for word in words:
        assert re.search(word, text), f"{word!r} not in {text!r}"
    return text


def edit_weights(folder, change):
    state = load_file(folder / WEIGHTS)
    change(state)
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})


def edit_json(path, **changes):
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not ...}))


class Trap:
    """Unpickling this leaves a mark."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


class TestRefusals:
    def test_the_good_folder_loads(self, folder):
        assert torch.isfinite(denoised(load_prior(folder))).all()

    def test_missing_tensor(self, folder):
        edit_weights(folder, lambda s: s.pop("conv_in.weight"))
        refusal(ValueError, "missing: conv_in.weight", "superfluous: none", "safetensors", folder=folder)

    def test_extra_tensor(self, folder):
        edit_weights(folder, lambda s: s.update({"extra.bias": torch.zeros(2)}))
        refusal(ValueError, "missing: none", "superfluous: extra.bias", folder=folder)

    def test_many_missing_tensors_are_not_all_listed(self, folder):
        edit_weights(folder, lambda s: [s.pop(k) for k in list(s) if k.startswith("mid_block")])
        refusal(ValueError, r"missing: mid_block\S+, mid_block\S+, mid_block\S+ and \d+ more", folder=folder)

    def test_wrong_shape(self, folder):
        edit_weights(folder, lambda s: s.update({"conv_out.bias": torch.zeros(3)}))
        refusal(ValueError, r"conv_out\.bias is \(3,\), wanted \(1,\)", folder=folder)

    @pytest.mark.parametrize("value", [torch.nan, torch.inf])
    def test_weights_that_are_not_finite(self, folder, value):
        edit_weights(folder, lambda s: s["time_embedding.linear_1.weight"].view(-1)[5].fill_(value))
        refusal(ValueError, r"time_embedding\.linear_1\.weight has values that are not finite", folder=folder)

    @pytest.mark.parametrize("kept", [0.5, 0.01, 0.0])
    def test_truncated_weights(self, folder, kept):
        data = (folder / WEIGHTS).read_bytes()
        (folder / WEIGHTS).write_bytes(data[: int(kept * len(data))])
        refusal(ValueError, "safetensors", "whole", folder=folder)

    def test_truncated_tables(self, folder):
        data = (folder / "tables.safetensors").read_bytes()
        (folder / "tables.safetensors").write_bytes(data[:-8])
        refusal(ValueError, "tables.safetensors is not a whole safetensors file", folder=folder)

    @pytest.mark.parametrize("ours", [True, False], ids=["ours", "diffusers"])
    @pytest.mark.parametrize("name", ["diffusion_pytorch_model.bin", "pytorch_model.bin"])
    def test_pickled_weights_are_never_read(self, folder, ours, name, tmp_path):
        if not ours:
            (folder / "posterior.json").unlink()
            diffusers.EDMEulerScheduler().save_pretrained(folder / "scheduler")
        (folder / WEIGHTS).unlink()
        mark = tmp_path / "executed"
        with (folder / "unet" / name).open("wb") as f:
            torch.save({"conv_in.weight": Trap(mark)}, f)
        refusal(FileNotFoundError, "safetensors is missing", "pickled", folder=folder)
        assert not mark.exists()
        # the trap is a real one
        torch.load(folder / "unet" / name, weights_only=False)
        assert mark.exists()

    def test_pickle_under_the_name_of_safetensors(self, folder, tmp_path):
        mark = tmp_path / "executed"
        (folder / WEIGHTS).write_bytes(pickle.dumps(Trap(mark)) + bytes(64))
        refusal(ValueError, "not a whole safetensors file", folder=folder)
        assert not mark.exists()

    def test_unknown_name(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        text = refusal(FileNotFoundError, "no prior 'nonesuch'", "bundled priors are", folder="nonesuch")
        for name in bundled_priors():
            assert name in text

    def test_configuration_that_lies_about_channels(self, folder):
        edit_json(folder / "unet" / "config.json", in_channels=3)
        refusal(ValueError, "3 channels in and 1 out", "wanted 2 and 1", folder=folder)

    def test_event_shape_that_lies_about_channels(self, folder):
        edit_json(folder / "posterior.json", event_shape=[2, 8, 8])
        refusal(ValueError, "2 channels in and 1 out", "wanted 4 and 2", folder=folder)

    def test_both_lie_and_the_weights_tell(self, folder):
        edit_json(folder / "posterior.json", event_shape=[2, 8, 8])
        edit_json(folder / "unet" / "config.json", in_channels=4, out_channels=2)
        refusal(ValueError, r"conv_\w+\.\w+ is \(", "wanted", folder=folder)

    def test_another_kind_of_network(self, folder):
        edit_json(folder / "unet" / "config.json", _class_name="UNet2DConditionModel")
        refusal(ValueError, "network 'UNet2DConditionModel'; wanted UNet2DModel", folder=folder)

    def test_scheduler_that_is_not_json(self, folder):
        (folder / "posterior.json").unlink()
        (folder / "scheduler").mkdir()
        (folder / "scheduler" / "scheduler_config.json").write_text("beta_start: 0.1")
        refusal(ValueError, r"scheduler_config\.json is not valid JSON", folder=folder)

    @pytest.mark.parametrize("name", ["posterior.json", "unet/config.json"])
    @pytest.mark.parametrize("text", [b'{"format": 1,', b"", b"\xff\xfe\x00{}"], ids=["cut", "empty", "bytes"])
    def test_not_json(self, folder, name, text):
        (folder / name).write_bytes(text)
        refusal(ValueError, "is not valid JSON", re.escape(name.split("/")[-1]), folder=folder)

    @pytest.mark.parametrize("name", ["posterior.json", "unet/config.json"])
    def test_json_that_is_no_object(self, folder, name):
        (folder / name).write_text("[1, 2]")
        refusal(ValueError, re.escape(name.split("/")[-1]), folder=folder)

    @pytest.mark.parametrize(
        "key", ["parameterisation", "event_shape", "scale", "shift", "units", "rms", "sigma_range", "card"]
    )
    def test_missing_key(self, folder, key):
        edit_json(folder / "posterior.json", **{key: ...})
        refusal(ValueError, "posterior.json", key, folder=folder)

    def test_unknown_format(self, folder):
        edit_json(folder / "posterior.json", format=99)
        refusal(ValueError, "format 99; this version reads 1", folder=folder)

    def test_unknown_parameterisation(self, folder):
        edit_json(folder / "posterior.json", parameterisation={"kind": "magic"})
        refusal(ValueError, "parameterisation 'magic' is not known", folder=folder)

    def test_unknown_setting_of_a_parameterisation(self, folder):
        edit_json(folder / "posterior.json", parameterisation={"kind": "edm", "sigma_dat": 1.0})
        refusal(ValueError, "posterior.json", "sigma_dat", folder=folder)

    def test_vp_without_its_table(self, folder):
        edit_json(folder / "posterior.json", parameterisation={"kind": "vp"})
        refusal(ValueError, "alphas_cumprod", folder=folder)

    def test_residual_without_its_reference(self, folder):
        (folder / "tables.safetensors").unlink()
        refusal(ValueError, "gaussian-residual prior without its reference", folder=folder)

    @pytest.mark.parametrize("dropped", ["frequencies", "sigmas"])
    def test_reference_with_a_tensor_missing(self, folder, dropped):
        tables = load_file(folder / "tables.safetensors")
        del tables[f"reference.{dropped}"]
        save_file(tables, folder / "tables.safetensors")
        refusal(ValueError, f"reference.{dropped}", "tables.safetensors", folder=folder)

    def test_network_weights_missing(self, folder):
        (folder / WEIGHTS).unlink()
        refusal(FileNotFoundError, "safetensors is missing", folder=folder)
