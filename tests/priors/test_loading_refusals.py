"""Folders that are spoilt are refused in one sentence, and nothing is unpickled."""

import json
import pickle
import re
import shutil
from pathlib import Path

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file

from posterior import EDMNetwork, GaussianPrior
from posterior.priors.loading import bundled_priors, load_prior, save_prior
from tests.priors.made_priors import WEIGHTS, denoised, make_prior

LABELS = {"name": "slp", "dims": ["channel", "x", "x"], "coords": {}, "attrs": {}}


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

    @pytest.mark.parametrize(
        ("key", "value", "words"),
        [
            ("shift", float("nan"), "shift is nan; wanted a finite number"),
            ("shift", float("inf"), "shift is inf; wanted a finite number"),
            ("scale", "0.5", "scale is '0.5'; wanted a positive number"),
            ("rms", float("nan"), "rms is nan; wanted a positive number"),
            ("rms", -1, "rms is -1; wanted a positive number"),
            ("sigma_range", [20, 0.01], r"sigma_range is \[20, 0.01\]; wanted two rising numbers"),
            ("sigma_range", [-5, -1], "sigma_range is -5; wanted a positive number"),
            ("sigma_range", [float("nan"), 1], "sigma_range is nan"),
            ("sigma_range", 3, "sigma_range is 3; wanted two numbers"),
            ("parameterisation", {"kind": "edm", "sigma_data": "abc"}, "sigma_data is 'abc'; wanted a positive number"),
            ("parameterisation", {"kind": "edm", "sigma_data": float("nan")}, "sigma_data is nan"),
            ("parameterisation", {"kind": "edm", "sigma_data": -1}, "sigma_data is -1"),
            ("parameterisation", {"kind": "velocity", "time_scale": "a"}, "time_scale is 'a'"),
            ("parameterisation", {"kind": "continuous-vp", "time_scale": [1]}, r"time_scale is \[1\]"),
            ("units", [1], r"units is \[1\]; wanted text"),
            ("card", [1], r"card is \[1\]; wanted an object"),
            ("coarse", [1], "coarse is a list; wanted an object with settings"),
            ("event_shape", [True, 8, 8], r"event_shape is \[True, 8, 8\]; wanted channels, height and width"),
            ("event_shape", [1, True, 8], r"event_shape is \[1, True, 8\]; wanted positive sizes"),
            ("labels", LABELS, "dims are channel, x, x; wanted a name of its own for each axis"),
            ("coarse", "x", "coarse is a str; wanted an object with settings"),
        ],
    )
    def test_settings_that_are_no_numbers_or_no_sensible_ones(self, folder, key, value, words):
        edit_json(folder / "posterior.json", **{key: value})
        refusal(ValueError, re.escape(str(folder / "posterior.json")), words, folder=folder)

    @pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn])
    def test_weights_of_another_kind_of_number(self, folder, dtype):
        edit_weights(folder, lambda s: s.update({"conv_out.bias": s["conv_out.bias"].to(dtype)}))
        refusal(ValueError, rf"conv_out\.bias is {dtype}, wanted floating-point numbers", "safetensors", folder=folder)

    @pytest.mark.parametrize("dtype", [torch.int64, torch.bool])
    def test_tables_of_another_kind_of_number(self, folder, dtype):
        tables = load_file(folder / "tables.safetensors")
        save_file(tables | {"reference.power": (1 + tables["reference.power"]).to(dtype)}, folder / "tables.safetensors")
        refusal(ValueError, rf"tables\.safetensors: reference\.power is {dtype}; wanted floating-point numbers", folder=folder)

    @pytest.mark.parametrize("key", ["in_channels", "out_channels"])
    @pytest.mark.parametrize("ours", [True, False], ids=["ours", "diffusers"])
    def test_channels_that_are_no_number(self, tmp_path, key, ours):
        """True counts as 1 in Python, and a network of one channel would load."""
        folder = tmp_path / "tiny"
        save_prior(make_prior("edm"), folder)
        if not ours:
            (folder / "posterior.json").unlink()
            assert load_prior(folder).event_shape[0] == 1
        edit_json(folder / "unet" / "config.json", **{key: True})
        refusal(ValueError, rf"config\.json: {key} is True; wanted a whole number", folder=folder)

    @pytest.mark.parametrize(
        "change",
        [
            {"reference.power": lambda t: -t},
            {"reference.frequencies": lambda t: t.flip(0).contiguous()},
            {f"reference.{k}": lambda t: t[..., :1].clone() for k in ("frequencies", "power", "errors")},
        ],
        ids=["negative power", "descending frequencies", "one frequency"],
    )
    def test_spectrum_that_is_none(self, folder, change):
        tables = load_file(folder / "tables.safetensors")
        save_file(tables | {k: f(tables[k]) for k, f in change.items()}, folder / "tables.safetensors")
        refusal(ValueError, "tables.safetensors: reference.power is not positive at two or more rising", folder=folder)

    def test_tables_that_are_a_folder(self, folder):
        (folder / "tables.safetensors").unlink()
        (folder / "tables.safetensors").mkdir()
        refusal(ValueError, "tables.safetensors is a folder", folder=folder)

    @pytest.mark.parametrize("size", ["abc", [8], -3, 8.5, True, [8, 8.0]])
    def test_sizes_of_images_that_are_none(self, folder, size):
        (folder / "posterior.json").unlink()
        edit_json(folder / "unet" / "config.json", in_channels=1, sample_size=size)
        diffusers.EDMEulerScheduler().save_pretrained(folder / "scheduler")
        refusal(ValueError, r"config\.json: sample_size is .*; wanted a positive whole number, or two", folder=folder)

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


def test_what_cannot_be_loaded_or_saved_is_named(tmp_path):
    with pytest.raises(TypeError, match=r"layout is the class EDMNetwork; wanted one of it, EDMNetwork\(\)"):
        load_prior(tmp_path / "weights.pt", layout=EDMNetwork)
    exact = GaussianPrior(torch.zeros(2), torch.eye(2))
    with pytest.raises(TypeError, match="save_prior: a GaussianPrior has no network; wanted a NetworkPrior"):
        save_prior(exact, tmp_path / "prior")
    assert not list(tmp_path.iterdir())
