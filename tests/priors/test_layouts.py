"""Checkpoints of other makes: networks of the very layout, written and read back."""

import io
import pickle
import re
import zipfile
from pathlib import Path

import pytest
import torch
from deepinv.models import ADMUNet, NCSNpp
from deepinv.models.diffunet import AttentionBlock, Downsample, ResBlock, TimestepEmbedSequential, Upsample, timestep_embedding
from safetensors.torch import save_file

from posterior.priors.conditioning import Condition
from posterior.priors.layouts.adm import AttentionHeads, GuidedDiffusion, TorchCFM
from posterior.priors.layouts.edm import EDMNetwork
from posterior.priors.loading import load_prior

HEADS = AttentionHeads(head_channels=16)
WIDTH, EMBEDDING = 32, 128


class OpenAI(torch.nn.Module):
    """A small U-Net with the tensor names of guided-diffusion: one level of 32 channels, one of 64 with attention."""

    def __init__(self, outputs=6, classes=0, convolutions=False, shift_only=False):
        super().__init__()
        self.time_embed = torch.nn.Sequential(
            torch.nn.Linear(WIDTH, EMBEDDING), torch.nn.SiLU(), torch.nn.Linear(EMBEDDING, EMBEDDING)
        )
        if classes:
            self.label_emb = torch.nn.Embedding(classes, EMBEDDING)

        def res(before, after, **where):
            return ResBlock(before, EMBEDDING, 0.0, out_channels=after, use_scale_shift_norm=not shift_only, **where)

        def attention(channels):
            return AttentionBlock(channels, num_head_channels=16)

        down = Downsample(32, True) if convolutions else res(32, 32, down=True)
        up = Upsample(64, True) if convolutions else res(64, 64, up=True)
        blocks = [[torch.nn.Conv2d(3, 32, 3, padding=1)], [res(32, 32)], [down], [res(32, 64), attention(64)]]
        self.input_blocks = torch.nn.ModuleList(TimestepEmbedSequential(*b) for b in blocks)
        self.middle_block = TimestepEmbedSequential(res(64, 64), attention(64), res(64, 64))
        blocks = [[res(128, 64), attention(64)], [res(96, 64), attention(64), up], [res(96, 32)], [res(64, 32)]]
        self.output_blocks = torch.nn.ModuleList(TimestepEmbedSequential(*b) for b in blocks)
        self.out = torch.nn.Sequential(torch.nn.GroupNorm(32, 32), torch.nn.SiLU(), torch.nn.Conv2d(32, outputs, 3, padding=1))

    def forward(self, x, t, y=None):
        emb = self.time_embed(timestep_embedding(t, WIDTH))
        emb = emb if y is None else emb + self.label_emb(y)
        kept = []
        for block in self.input_blocks:
            x = block(x, emb)
            kept.append(x)
        x = self.middle_block(x, emb)
        for block in self.output_blocks:
            x = block(torch.cat([x, kept.pop()], 1), emb)
        return self.out(x)


def make(kind, *args, **options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = kind(*args, **options)
        for p in network.parameters():
            # layers that start at zero would hide what goes into them
            p.data = p.data + 0.05 * torch.randn(p.shape)
    return network.eval().requires_grad_(False)


def fields(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


X = fields(2, 3, 8, 8)


def col(v):
    return v.reshape(-1, 1, 1, 1)


def save(value, path):
    torch.save(value, path)
    return path


def close(found, wanted):
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


class TestGuidedDiffusion:
    @pytest.mark.parametrize("options", [{}, {"convolutions": True}, {"shift_only": True}, {"outputs": 3}], ids=str)
    def test_bare_state_dictionary(self, options, tmp_path):
        network = make(OpenAI, **options)
        prior = load_prior(save(network.state_dict(), tmp_path / "ffhq.pt"), layout=GuidedDiffusion(HEADS))
        assert (prior.event_shape, prior.multiple, prior.name) == ((3, None, None), 2, "ffhq")
        t = torch.tensor([10, 700])
        abar = col(torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)[t].float())
        wanted = (X - (1 - abar).sqrt() * network(X, t)[:, :3]) / abar.sqrt()
        close(prior.denoise(X / abar.sqrt(), ((1 - abar) / abar).sqrt().flatten()), wanted)

    def test_sides_that_do_not_halve_are_padded(self, tmp_path):
        prior = load_prior(save(make(OpenAI).state_dict(), tmp_path / "n.pt"), layout=GuidedDiffusion(HEADS))
        assert prior.denoise(fields(1, 3, 7, 9), 0.5).shape == (1, 3, 7, 9)

    def test_class(self, tmp_path):
        network = make(OpenAI, classes=4)
        path = save(network.state_dict(), tmp_path / "imagenet.pt")
        layout = GuidedDiffusion(HEADS, schedule="continuous")
        prior = load_prior(path, layout=layout, condition=Condition(label=3))
        sigma = torch.tensor([0.3, 4.0])
        out = network(X, prior.parameterisation.time(sigma.double()).float(), torch.tensor([3, 3]))[:, :3]
        close(prior.denoise(X * (1 + col(sigma) ** 2).sqrt(), sigma), X * (1 + col(sigma) ** 2).sqrt() - col(sigma) * out)
        with pytest.raises(ValueError, match="wants a label below 4, got none"):
            load_prior(path, layout=layout)
        with pytest.raises(ValueError, match="label 4 of a network of 4 classes"):
            load_prior(path, layout=layout, condition=Condition(label=4))

    def test_inversebench_keeps_it_within_its_preconditioning(self, tmp_path):
        state = {f"model.{k}": v for k, v in make(OpenAI).state_dict().items()}
        a = load_prior(save({"ema": state}, tmp_path / "a.pt"), layout=GuidedDiffusion(HEADS, "continuous"))
        b = load_prior(save(make(OpenAI).state_dict(), tmp_path / "b.pt"), layout=GuidedDiffusion(HEADS, "continuous"))
        close(a.denoise(X, 0.5), b.denoise(X, 0.5))

    @pytest.mark.parametrize(("schedule", "steps"), [("linear", 1000), ("linear", 4000), ("cosine", 4000)])
    def test_tables(self, schedule, steps):
        table = GuidedDiffusion(schedule=schedule, steps=steps).parameterisation().alphas_cumprod.double()
        if schedule == "linear":
            end = 0.02 * 1000 / steps
            wanted = torch.cumprod(1 - torch.linspace(end / 200, end, steps, dtype=torch.float64), 0)
        else:
            f = torch.cos((torch.arange(steps + 1).double() / steps + 0.008) / 1.008 * torch.pi / 2) ** 2
            wanted = torch.cumprod(1 - (1 - f[1:] / f[:-1]).clamp(max=0.999), 0)
        torch.testing.assert_close(table, wanted, rtol=2e-3, atol=1e-7)

    def test_unknown_schedule(self):
        with pytest.raises(ValueError, match="schedule 'sigmoid'; wanted linear, cosine or continuous"):
            GuidedDiffusion(schedule="sigmoid").parameterisation()


class TestTorchCFM:
    def checkpoint(self, tmp_path):
        network, older = (
            make(OpenAI, 3, convolutions=True, shift_only=True),
            make(OpenAI, 3, convolutions=True, shift_only=True),
        )
        older.out[2].bias += 1
        parts = {"net_model": older.state_dict(), "ema_model": {f"module.{k}": v for k, v in network.state_dict().items()}}
        extra = {"sched": {"base_lrs": [2e-4]}, "optim": {"state": {}, "param_groups": []}, "step": 400000}
        return network, save(parts | extra, tmp_path / "otcfm.pt")

    def test_data_at_one_and_averaged_weights(self, tmp_path):
        network, path = self.checkpoint(tmp_path)
        prior = load_prior(path, layout=TorchCFM(HEADS))
        t = torch.tensor([0.2, 0.9])
        wanted = X + (1 - col(t)) * network(X, t)
        close(prior.denoise(X / col(t), (1 - t) / t), wanted)

    def test_coupling_warns(self, tmp_path):
        _, path = self.checkpoint(tmp_path)
        with pytest.warns(UserWarning, match="approximate"):
            load_prior(path, layout=TorchCFM(HEADS, coupling="minibatch-ot"))


EDM_KINDS = {
    "adm": lambda **o: ADMUNet(16, 3, 3, model_channels=64, channel_mult_emb=2, augment_dim=0, pretrained=None, **COMMON | o),
    "ddpm++": lambda **o: NCSNpp("ddpm", model_channels=32, img_resolution=16, augment_dim=9, pretrained=None, **COMMON | o),
    "ncsn++": lambda **o: NCSNpp("ncsn", model_channels=32, img_resolution=16, augment_dim=0, pretrained=None, **COMMON | o),
}
COMMON = {"channel_mult": (1, 2), "num_blocks": 1, "attn_resolutions": (8,)}
Y = fields(2, 3, 16, 16)


def make_edm(kind, **options):
    """EDM's network of that kind: deepinv's, with 4 channels at least in a group."""
    network = make(EDM_KINDS[kind], **options)
    for module in network.modules():
        if isinstance(module, torch.nn.GroupNorm):
            module.num_groups = min(32, module.num_channels // 4)
    return network


@pytest.mark.parametrize("kind", EDM_KINDS)
class TestEDM:
    def test_converted_to_safetensors(self, kind, tmp_path):
        network = make_edm(kind)
        state = {f"model.{k}": v.contiguous() for k, v in network.state_dict().items()}
        save_file(state, tmp_path / "edm.safetensors")
        prior = load_prior(tmp_path / "edm.safetensors", layout=EDMNetwork(0.4), field_range=(0.0, 1.0))
        assert (prior.event_shape, prior.multiple, prior.affine.shift) == ((3, None, None), 2, 0.5)
        sigma = torch.tensor([0.02, 30.0])
        s = col(sigma)
        total = s**2 + 0.16
        wanted = 0.16 / total * Y + 0.4 * s / total.sqrt() * network.forward_unet(Y / total.sqrt(), sigma.log() / 4)
        close(prior.denoise(Y, sigma), wanted)

    def test_inversebench_checkpoint(self, kind, tmp_path):
        network = make_edm(kind)
        state = {f"model.{k}": v for k, v in network.state_dict().items()}
        path = save({"net": {k: v + 1 for k, v in state.items()}, "ema": state}, tmp_path / "mri.pt")
        found = load_prior(path, layout=EDMNetwork(preconditioning="vp")).denoise(Y, 0.5)
        t = (-0.1 + (0.01 + 2 * 19.9 * torch.tensor(1.25).log()) ** 0.5) / 19.9
        wanted = Y - 0.5 * network.forward_unet(Y / 1.25**0.5, (999 * t).expand(2))
        close(found, wanted)

    def test_output_of_zero_is_the_white_gaussian(self, kind, tmp_path):
        """Six decades: with F = 0 the preconditioning alone is the exact denoiser of N(0, sigma_data^2)."""
        state = {k: v if "freqs" in k or "filter" in k else 0 * v for k, v in make_edm(kind).state_dict().items()}
        prior = load_prior(save(state, tmp_path / "zero.pt"), layout=EDMNetwork(0.5))
        sigma = torch.logspace(-3, 3, 13)
        x = fields(13, 3, 16, 16)
        torch.testing.assert_close(prior.denoise(x, sigma), 0.25 / (0.25 + col(sigma) ** 2) * x, rtol=1e-5, atol=1e-5)

    def test_class(self, kind, tmp_path):
        network = make_edm(kind, label_dim=5)
        path = save(network.state_dict(), tmp_path / "c.pt")
        prior = load_prior(path, layout=EDMNetwork(preconditioning="ve"), condition=Condition(label=2))
        label = torch.eye(5)[[2, 2]]
        wanted = Y + 0.5 * network.forward_unet(Y, torch.full((2,), 0.25).log(), class_labels=label)
        close(prior.denoise(Y, 0.5), wanted)


class Trap:
    """Unpickling this leaves a mark."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def refused(path, *words, layout=None):
    with pytest.raises(ValueError) as caught:
        load_prior(path, layout=layout or GuidedDiffusion(HEADS))
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 700
    for word in words:
        assert re.search(word, text), f"{word!r} not in {text!r}"


class TestHostileFiles:
    @pytest.fixture
    def state(self):
        return make(OpenAI).state_dict()

    def test_pickle_with_code_in_an_archive(self, state, tmp_path):
        mark = tmp_path / "executed"
        path = save(dict(state) | {"trap": Trap(mark)}, tmp_path / "evil.pt")
        refused(path, r"would run \S+, which no weights need", "save_file")
        assert not mark.exists()
        torch.load(path, weights_only=False)  # the trap is a real one
        assert mark.exists()

    @pytest.mark.parametrize("protocol", [0, 2, 4])
    def test_call_spelt_in_any_protocol(self, protocol, tmp_path):
        mark, out = tmp_path / "executed", io.BytesIO()
        with zipfile.ZipFile(out, "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps({"a": Trap(mark)}, protocol))
        (tmp_path / "evil.pt").write_bytes(out.getvalue())
        refused(tmp_path / "evil.pt", "would run")
        assert not mark.exists()

    @pytest.mark.parametrize("name", ["edm.pkl", "model.pickle"])
    def test_pickle_is_refused_with_the_recipe(self, name, tmp_path):
        mark = tmp_path / "executed"
        (tmp_path / name).write_bytes(pickle.dumps(Trap(mark)))
        refused(tmp_path / name, "is a pickle", r"safetensors\.torch\.save_file\(", layout=EDMNetwork())
        assert not mark.exists()

    def test_pickle_by_another_name(self, tmp_path):
        mark = tmp_path / "executed"
        (tmp_path / "net.pth").write_bytes(pickle.dumps(Trap(mark)))
        refused(tmp_path / "net.pth", "bare pickles are never read", "save_file")
        assert not mark.exists()

    def test_compressed_bomb(self, tmp_path):
        path = tmp_path / "bomb.pt"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a/data.pkl", b"\x80\x02}.")
            archive.writestr("a/data/0", bytes(50_000_000))
        assert path.stat().st_size < 100_000
        refused(path, r"declares 50\d+ bytes inside \d+")

    def test_tensor_that_claims_more_than_it_has(self, state, tmp_path):
        huge = torch.zeros(1).expand(10**6, 10**6)
        refused(save(dict(state) | {"time_embed.0.weight": huge}, tmp_path / "bomb.pt"), "claims .* more than the file holds")

    def test_storage_that_claims_more_than_it_has(self, tmp_path):
        with zipfile.ZipFile(save({"a": torch.zeros(3)}, tmp_path / "good.pt")) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(tmp_path / "bomb.pt", "w") as archive:
            for name, data in members.items():
                # the storage's count, K\x03, becomes a million million
                archive.writestr(name, data.replace(b"K\x03tq", b"\x8a\x06" + (10**12).to_bytes(6, "little") + b"tq", 1))
        refused(tmp_path / "bomb.pt", "cannot be read as weights alone")

    def test_cut_off(self, state, tmp_path):
        path = save(state, tmp_path / "n.pt")
        path.write_bytes(path.read_bytes()[:-5000])
        refused(path, "no archive of PyTorch 1.6 or later|is broken")

    def test_not_finite(self, state, tmp_path):
        state["out.0.bias"][3] = torch.nan
        refused(save(state, tmp_path / "n.pt"), "out.0.bias has values that are not finite")

    def test_missing_and_superfluous(self, state, tmp_path):
        del state["middle_block.1.qkv.bias"]
        refused(save(state, tmp_path / "a.pt"), "missing: middle_block.1.qkv.bias; superfluous: none")
        state["middle_block.1.qkv.bias"], state["extra"] = torch.zeros(192), torch.zeros(3)
        refused(save(state, tmp_path / "b.pt"), "missing: none; superfluous: extra")

    def test_blocks_that_do_not_fit_together(self, state, tmp_path):
        # the last layer wants 64 channels, and gets 32
        state |= {"out.0.weight": torch.ones(64), "out.0.bias": torch.ones(64), "out.2.weight": torch.ones(6, 64, 3, 3)}
        refused(save(state, tmp_path / "n.pt"), "the blocks do not fit together")

    def test_another_layout(self, state, tmp_path):
        path = save(state, tmp_path / "n.pt")
        refused(path, "not of this layout: no tensor is called enc", layout=EDMNetwork())
        refused(save(make_edm("adm").state_dict(), tmp_path / "e.pt"), "not of this layout: time_embed.0.weight is missing")

    def test_no_tensors(self, tmp_path):
        refused(save({"step": 3, "lr": 0.1}, tmp_path / "a.pt"), r"wanted a dictionary of tensors, got one of step \(int\)")
        refused(save([torch.zeros(2)], tmp_path / "b.pt"), "holds a list; wanted a dictionary")

    def test_a_file_does_not_say_what_it_predicts(self, state, tmp_path):
        with pytest.raises(ValueError, match="pass layout=, one of posterior.GuidedDiffusion"):
            load_prior(save(state, tmp_path / "n.pt"))

    def test_heads_that_do_not_divide(self, state, tmp_path):
        refused(
            save(state, tmp_path / "n.pt"), "64 channels do not split into heads", layout=GuidedDiffusion(AttentionHeads(48))
        )
