"""Checkpoints of score_sde and rectified flow: a small network of that layout, written as the papers have it."""

import math

import pytest
import torch
from torch.nn.functional import avg_pool2d, conv2d, interpolate, pad, silu

from posterior.priors.layouts.score_sde import RectifiedFlow, ScoreSDE
from posterior.priors.loading import load_prior

WIDTH, ROOT = 32, math.sqrt(2)
TAPS = torch.tensor([1.0, 3.0, 3.0, 1.0])
KERNEL = (TAPS.outer(TAPS) / 64)[None, None]


def fir(x, padding):
    b, c = x.shape[:2]
    return conv2d(pad(x, padding).flatten(0, 1)[:, None], KERNEL).unflatten(0, (b, c))[:, :, 0]


def up(x, smooth):
    if not smooth:
        return interpolate(x, scale_factor=2, mode="nearest")
    wide = torch.zeros(*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3])
    wide[..., ::2, ::2] = 4 * x
    return fir(wide, (2, 1, 2, 1))


def down(x, smooth):
    return fir(x, (1, 1, 1, 1))[..., ::2, ::2] if smooth else avg_pool2d(x, 2)


def norm(channels):
    return torch.nn.GroupNorm(min(channels // 4, 32), channels, eps=1e-6)


class Frequencies(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.W = torch.nn.Parameter(16 * torch.randn(WIDTH), requires_grad=False)

    def forward(self, t):
        angles = t.log()[:, None] * self.W * 2 * torch.pi
        return torch.cat([angles.sin(), angles.cos()], 1)


class Residual(torch.nn.Module):
    def __init__(self, before, after, resample=None, smooth=False):
        super().__init__()
        self.GroupNorm_0 = norm(before)
        self.Conv_0 = torch.nn.Conv2d(before, after, 3, padding=1)
        self.Dense_0 = torch.nn.Linear(4 * WIDTH, after)
        self.GroupNorm_1 = norm(after)
        self.Conv_1 = torch.nn.Conv2d(after, after, 3, padding=1)
        if before != after or resample:
            self.Conv_2 = torch.nn.Conv2d(before, after, 1)
        self.resample = (lambda x: resample(x, smooth)) if resample else lambda x: x

    def forward(self, x, emb):
        h = self.Conv_0(self.resample(silu(self.GroupNorm_0(x)))) + self.Dense_0(silu(emb))[:, :, None, None]
        h = self.Conv_1(silu(self.GroupNorm_1(h)))
        x = self.resample(x)
        return ((self.Conv_2(x) if hasattr(self, "Conv_2") else x) + h) / ROOT


class NIN(torch.nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.W, self.b = torch.nn.Parameter(torch.randn(channels, channels) / 8), torch.nn.Parameter(torch.randn(channels))

    def forward(self, x):
        return torch.einsum("bchw,cd->bdhw", x, self.W) + self.b[:, None, None]


class SelfAttention(torch.nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.GroupNorm_0 = norm(channels)
        self.NIN_0, self.NIN_1, self.NIN_2, self.NIN_3 = (NIN(channels) for _ in range(4))

    def forward(self, x, emb):
        h = self.GroupNorm_0(x)
        q, k, v = (nin(h).flatten(2) for nin in (self.NIN_0, self.NIN_1, self.NIN_2))
        weights = torch.softmax(torch.einsum("bci,bcj->bij", q, k) / q.shape[1] ** 0.5, -1)
        return (x + self.NIN_3(torch.einsum("bij,bcj->bci", weights, v).reshape(x.shape))) / ROOT


class Shrink(torch.nn.Module):
    """Smooth, then a strided convolution: the input's own way down."""

    def __init__(self, before, after):
        super().__init__()
        self.Conv2d_0 = torch.nn.Conv2d(before, after, 3, stride=2)

    def forward(self, x):
        return self.Conv2d_0(fir(x, (2, 2, 2, 2)))


class ScoreNetwork(torch.nn.Module):
    """Two levels of 32 and 64 channels, two blocks each, attention on the lower one."""

    def __init__(self, ncsn):
        super().__init__()
        self.register_buffer("sigmas", torch.ones(5))
        self.ncsn = ncsn
        w, r = WIDTH, lambda a, b, f=None: Residual(a, b, f, ncsn)
        modules = [Frequencies()] if ncsn else []
        modules += [torch.nn.Linear(2 * w if ncsn else w, 4 * w), torch.nn.Linear(4 * w, 4 * w)]
        modules += [torch.nn.Conv2d(3, w, 3, padding=1), r(w, w), r(w, w), r(w, w, down)]
        modules += [Shrink(3, w)] if ncsn else []
        modules += [r(w, 64), SelfAttention(64), r(64, 64), SelfAttention(64)]
        modules += [r(64, 64), SelfAttention(64), r(64, 64)]
        modules += [r(128, 64), r(128, 64), r(96, 64), SelfAttention(64), r(64, 64, up)]
        modules += [r(96, w), r(64, w), r(64, w), norm(w), torch.nn.Conv2d(w, 3, 3, padding=1)]
        self.all_modules = torch.nn.ModuleList(modules)

    def forward(self, x, t):
        rest = iter(self.all_modules)
        if self.ncsn:
            emb = next(rest)(t)
        else:
            angles = t[:, None] * torch.exp(-math.log(10000) * torch.arange(WIDTH // 2) / (WIDTH // 2 - 1))
            emb = torch.cat([angles.sin(), angles.cos()], 1)
        emb = next(rest)(emb)
        emb = next(rest)(silu(emb))
        kept = [next(rest)(x)]
        for _ in range(3):
            kept.append(next(rest)(kept[-1], emb))
        if self.ncsn:
            kept[-1] = (next(rest)(x) + kept[-1]) / ROOT
        for _ in range(2):
            h = next(rest)(kept[-1], emb)
            kept.append(next(rest)(h, emb))
        h = kept[-1]
        for _ in range(3):
            h = next(rest)(h, emb)
        for extra in (2, 0):  # attention and the way up
            for _ in range(3):
                h = next(rest)(torch.cat([h, kept.pop()], 1), emb)
            for _ in range(extra):
                h = next(rest)(h, emb)
        h = next(rest)(h)
        return next(rest)(silu(h))


X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def make(ncsn):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return ScoreNetwork(ncsn).eval()


def save(network, path, **changes):
    """As score_sde's save_checkpoint does; the weights beside the averaged ones are others."""
    shadow = [p.detach().clone() for p in network.parameters() if p.requires_grad]
    model = {f"module.{k}": v if "sigmas" in k or k.endswith(".0.W") else v + 1 for k, v in network.state_dict().items()}
    ema = {"decay": 0.9999, "num_updates": 7, "shadow_params": shadow}
    torch.save({"optimizer": {"state": {}}, "model": model, "ema": ema, "step": 7} | changes, path)
    return path


@pytest.mark.parametrize("ncsn", [True, False], ids=["ncsn++", "ddpm++"])
class TestNetworks:
    def test_rectified_flow(self, ncsn, tmp_path):
        network, t = make(ncsn), torch.tensor([0.2, 0.9])
        prior = load_prior(save(network, tmp_path / "rf.pth"), layout=RectifiedFlow())
        column = t.reshape(-1, 1, 1, 1)
        with torch.no_grad():
            wanted = X + (1 - column) * network(X, 999 * t)
        torch.testing.assert_close(prior.denoise(X / column, (1 - t) / t), wanted, rtol=1e-4, atol=1e-4)
        assert (prior.event_shape, prior.multiple) == ((3, None, None), 2)

    def test_vp_score(self, ncsn, tmp_path):
        """score = -F(x_t, 999 t) / s_t, and D = (x_t + s_t^2 score) / alpha_t."""
        network, t = make(ncsn), torch.tensor([0.05, 0.6])
        alpha = torch.exp(-0.25 * t**2 * 19.9 - 0.05 * t).reshape(-1, 1, 1, 1)
        std = (1 - alpha**2).sqrt()
        with torch.no_grad():
            wanted = (X - std * network(X, 999 * t)) / alpha
        prior = load_prior(save(network, tmp_path / "vp.pth"), layout=ScoreSDE("vp"))
        torch.testing.assert_close(prior.denoise(X / alpha, (std / alpha).flatten()), wanted, rtol=1e-3, atol=1e-3)


def test_ve_score(tmp_path):
    """Data in [0, 1]: the network sees 2 x - 1, is told sigma and divides by it."""
    network, sigma = make(True), torch.tensor([0.02, 9.0])
    column = sigma.reshape(-1, 1, 1, 1)
    with torch.no_grad():
        score = network(2 * X - 1, sigma) / column
    prior = load_prior(save(network, tmp_path / "ve.pth"), layout=ScoreSDE(sigma_max=90.0), field_range=(0.0, 1.0))
    found = prior.affine.to_physical(prior.denoise(prior.affine.to_standard(X), 2 * sigma))
    torch.testing.assert_close(found, X + column**2 * score, rtol=1e-4, atol=1e-4)
    assert prior.sigma_max == 180.0


class TestRefusals:
    def refused(self, words, path, layout=None):
        with pytest.raises(ValueError, match=words):
            load_prior(path, layout=layout or ScoreSDE())

    def test_averaged_weights_of_another_network(self, tmp_path):
        shadow = [p.detach() for p in make(True).parameters() if p.requires_grad]
        self.refused(
            "entry 'ema': .* averaged tensors; wanted", save(make(True), tmp_path / "a.pth", ema={"shadow_params": shadow[:-1]})
        )
        self.refused("entry 'ema': no list of averaged tensors", save(make(True), tmp_path / "b.pth", ema={}))
        shadow[3] = shadow[3][:5]
        self.refused(r"entry 'ema': .* is \(5", save(make(True), tmp_path / "c.pth", ema={"shadow_params": shadow}))

    def test_missing_module(self, tmp_path):
        state = {k: v for k, v in make(False).state_dict().items() if ".9." not in k and "sigmas" not in k}
        torch.save(state, tmp_path / "n.pth")
        self.refused("missing|is not", tmp_path / "n.pth")

    def test_another_layout(self, tmp_path):
        torch.save({"conv.weight": torch.zeros(2)}, tmp_path / "n.pth")
        self.refused("not of this layout: conv.weight; wanted names like all_modules", tmp_path / "n.pth")

    def test_modules_that_cannot_be_read(self, tmp_path):
        state = {k: v for k, v in make(False).state_dict().items() if "sigmas" not in k}
        state["all_modules.7.Conv_9.weight"] = torch.zeros(3, 3, 1, 1)
        for name in [k for k in state if k.startswith("all_modules.7.") and "Conv_9" not in k]:
            del state[name]
        torch.save(state, tmp_path / "n.pth")
        self.refused("not of the networks that can be read", tmp_path / "n.pth")

    def test_unknown_equation(self):
        with pytest.raises(ValueError, match="sde 'subvp'; wanted ve or vp"):
            ScoreSDE("subvp").parameterisation()
