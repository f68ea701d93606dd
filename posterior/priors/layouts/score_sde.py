"""Checkpoints of score_sde (NCSN++, DDPM++) and of rectified flow, which is built on it.

A training run keeps its modules by number, ``all_modules.17.Conv_0.weight``, and the averaged weights as a list without
names, in the order of the parameters. The same networks are EDM's "SongUNet" under other names: the tensors are renamed,
and attention's three matrices joined. Networks whose output is a sum over resolutions (``progressive = output_skip``) are
not among them and are refused.

References:
    Song, Sohl-Dickstein, Kingma, Kumar, Ermon, Poole. Score-based generative modeling through stochastic differential
        equations. 2021. arXiv:2011.13456.
    Liu, Gong, Liu. Flow straight and fast. 2022. arXiv:2209.03003.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from posterior.priors.layouts.base import ForeignNetwork, Layout
from posterior.priors.layouts.edm import edm_unet
from posterior.priors.parameterisations import ContinuousVP, Parameterisation, VarianceExploding, Velocity
from posterior.priors.weights import read_checkpoint, state_of

_Modules = list[dict[str, Tensor]]
RENAMED = {
    "GroupNorm_0": "norm0",
    "Conv_0": "conv0",
    "Dense_0": "affine",
    "GroupNorm_1": "norm1",
    "Conv_1": "conv1",
    "Conv_2": "skip",
}


class _Numbered(Layout):
    """A training checkpoint with numbered modules and averaged weights, or a state dictionary of such a network."""

    @property
    def _tells_logarithm(self) -> bool:
        """Whether the parameterisation hands on the logarithm that Fourier features are taken of."""
        return False

    def network(self, state: dict[str, Tensor], where: str) -> ForeignNetwork:
        """See `Layout.network`."""
        renamed = _with_edm_names(state, where)
        return edm_unet(renamed, where, log_time="map_noise.freqs" in renamed and not self._tells_logarithm)

    def _state(self, path: Path) -> dict[str, Tensor]:
        checkpoint = read_checkpoint(path)
        if not {"model", "ema"} <= checkpoint.keys():
            return super()._state(path)
        model = state_of(checkpoint["model"], f"{path}, entry 'model'")
        state = {name.removeprefix("module."): v for name, v in model.items() if not name.endswith("sigmas")}
        return state | _averaged(checkpoint["ema"], state, str(path))


@dataclass(frozen=True)
class ScoreSDE(_Numbered):
    """A training checkpoint of score_sde with continuous time, its averaged weights.

    Standardised coordinates have the data in [-1, 1]. A VE network was trained on [0, 1] and doubles its input itself;
    its noise levels are doubled here to match.

    Args:
        sde: "ve" or "vp".
        sigma_max: Largest noise level of a VE network as its configuration states it, on the scale of [0, 1]: 50 for
            CIFAR-10.

    Raises:
        ValueError: If a checkpoint is loaded and ``sde`` is none of these, or its tensors are not those
            of such a network.

    References:
        Song, Sohl-Dickstein, Kingma, Kumar, Ermon, Poole. Score-based generative modeling through stochastic differential
        equations. ICLR 2021. arXiv:2011.13456.
    """

    sde: str = "ve"
    sigma_max: float = 50.0

    @property
    def _tells_logarithm(self) -> bool:
        return self.sde == "ve"

    def parameterisation(self) -> Parameterisation:
        """Of the network without the division by sigma that score_sde puts behind it."""
        if self.sde == "vp":
            return ContinuousVP()
        if self.sde == "ve":
            return VarianceExploding("scaled-score", "log-half", 0.02, 2 * self.sigma_max)
        raise ValueError(f"ScoreSDE: sde {self.sde!r}; wanted ve or vp")


@dataclass(frozen=True)
class RectifiedFlow(_Numbered):
    """A training checkpoint of rectified flow: velocity x0 - eps, data at t = 1, the network told 999 t."""

    def parameterisation(self) -> Parameterisation:
        """Data at t = 1."""
        return Velocity(999.0, data_at_one=True)


def _averaged(ema: Any, state: dict[str, Tensor], where: str) -> dict[str, Tensor]:
    """The averaged weights by name: they are kept for parameters that learn, so not for the Fourier frequencies."""
    shadow = ema.get("shadow_params") if isinstance(ema, dict) else None
    names = [name for name in state if not re.fullmatch(r"all_modules\.0\.W", name)]
    if not isinstance(shadow, list | tuple) or len(shadow) != len(names):
        got = len(shadow) if isinstance(shadow, list | tuple) else "no list of"
        raise ValueError(f"{where}, entry 'ema': {got} averaged tensors; wanted {len(names)}")
    named = state_of(dict(zip(names, shadow, strict=True)), f"{where}, entry 'ema'")
    for name, tensor in named.items():
        if tensor.shape != state[name].shape:
            raise ValueError(f"{where}, entry 'ema': {name} is {tuple(tensor.shape)}, wanted {tuple(state[name].shape)}")
    return named


def _with_edm_names(state: dict[str, Tensor], where: str) -> dict[str, Tensor]:
    modules = _modules(state, where)
    renamed: dict[str, Tensor] = {}
    if "W" in modules[0]:
        renamed["map_noise.freqs"] = modules.pop(0)["W"]
    residual = [m for m in modules if "GroupNorm_1.weight" in m]
    # A residual layer that keeps its channels and still has a convolution to skip it is one that resamples.
    levels = 1 + sum(_resamples(m) for m in residual) // 2
    blocks = ((len([m for m in residual if not _resamples(m)]) - 2) // levels - 1) // 2
    for module, place in zip(modules, _places(modules, levels, blocks, where), strict=True):
        renamed |= _renamed(module, place)
    return _with_filters(renamed)


def _renamed(module: dict[str, Tensor], place: str) -> dict[str, Tensor]:
    attention = "NIN_0.W" in module
    renamed = _attention(module, place) if attention else {}
    for name, tensor in module.items():
        if not name.startswith("NIN"):
            layer, _, last = name.rpartition(".")
            inner = "norm2" if attention else RENAMED.get(layer, "")
            renamed[".".join(part for part in (place, inner, last) if part)] = tensor
    return renamed


def _modules(state: dict[str, Tensor], where: str) -> _Modules:
    """The tensors of each numbered module that has any, in order."""
    found: dict[int, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        match = re.fullmatch(r"all_modules\.(\d{1,4})\.(.+)", name)
        if match is None:
            raise ValueError(f"{where} is not of this layout: {name}; wanted names like all_modules.3.Conv_0.weight")
        found.setdefault(int(match[1]), {})[match[2]] = tensor
    if len(found) < 8:
        raise ValueError(f"{where} is not of this layout: {len(found)} modules make no U-Net")
    return [found[i] for i in sorted(found)]


def _resamples(module: dict[str, Tensor]) -> bool:
    before, after = module["GroupNorm_0.weight"].shape, module["GroupNorm_1.weight"].shape
    return "Conv_2.weight" in module and before == after


def _places(modules: _Modules, levels: int, blocks: int, where: str) -> Iterator[str]:
    """EDM's name for each module, found on the way down, through the middle and up again."""
    # EDM's names hold the side of the image; which one is of no consequence to a convolutional network
    side = 4 * 2 ** (levels - 1)
    way, seen, place = "enc", 0, ""
    yield from ("map_layer0", "map_layer1", f"enc.{side}x{side}_conv")
    for module in modules[3:]:
        here = f"{way}.{side}x{side}"
        if "NIN_0.W" in module:
            yield place  # attention belongs to the layer before it
        elif "Conv2d_0.weight" in module:
            yield f"{here}_aux_residual"
        elif "weight" in module:
            yield f"{here}_aux_{'norm' if module['weight'].ndim == 1 else 'conv'}"
        elif "GroupNorm_1.weight" not in module:
            raise ValueError(f"{where}: a module of {', '.join(sorted(module)[:3])} is not of the networks that can be read")
        elif _resamples(module):
            side, seen = (side // 2 if way == "enc" else side * 2), 0
            yield f"{way}.{side}x{side}_{'down' if way == 'enc' else 'up'}"
        elif way == "enc" and side == 4 and seen >= blocks:
            place = f"dec.4x4_in{seen - blocks}"
            yield place
            way, seen = ("dec", 0) if seen > blocks else (way, seen + 1)
        else:
            place = f"{here}_block{seen}"
            yield place
            seen += 1


def _attention(module: dict[str, Tensor], place: str) -> dict[str, Tensor]:
    """Four matrices (in, out) as two convolutions; query, key and value of a channel lie side by side."""
    weights = torch.stack([module[f"NIN_{j}.W"].T for j in range(3)], dim=1).flatten(0, 1)
    biases = torch.stack([module[f"NIN_{j}.b"] for j in range(3)], dim=1).flatten()
    return {
        f"{place}.qkv.weight": weights[..., None, None].contiguous(),
        f"{place}.qkv.bias": biases,
        f"{place}.proj.weight": module["NIN_3.W"].T[..., None, None].contiguous(),
        f"{place}.proj.bias": module["NIN_3.b"],
    }


def _with_filters(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The resampling filters, constants that EDM's files hold and these do not."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0] if "map_noise.freqs" in state else [1.0, 1.0])
    kernel = (taps.outer(taps) / taps.sum() ** 2)[None, None]
    places = {name.rsplit(".", 2)[0] for name in state if re.search(r"_(up|down)\.", name)}
    filters = {f"{place}.{part}.resample_filter": kernel for place in places for part in ("conv0", "skip")}
    residual = {name.rpartition(".")[0] for name in state if "_aux_residual." in name}
    return state | filters | {f"{place}.resample_filter": kernel for place in residual}
