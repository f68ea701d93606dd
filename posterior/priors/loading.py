"""Priors on disk: diffusers folders, with one more file where the prior is one of ours.

``unet/`` holds config.json and diffusion_pytorch_model.safetensors as diffusers writes them. Our folders add
``posterior.json`` (parameterisation, coordinates, units, card) and ``reference.safetensors``; a folder saved by a
diffusers pipeline has ``scheduler/scheduler_config.json`` instead. Nothing is ever unpickled.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from posterior._resources import resource
from posterior.priors.base import Affine
from posterior.priors.network import NetworkPrior, unet_multiple
from posterior.priors.parameterisations import (
    EDM,
    GaussianResidual,
    Parameterisation,
    VariancePreserving,
    Velocity,
)
from posterior.priors.reference import RadialReference

if TYPE_CHECKING:
    from diffusers.models.unets.unet_2d import UNet2DModel

FORMAT = 1
WEIGHTS = "diffusion_pytorch_model.safetensors"
REFERENCE_TABLES = ("frequencies", "power", "sigmas", "errors")
SETTINGS = ("parameterisation", "event_shape", "scale", "shift", "units", "rms", "sigma_range", "card")


def bundled_priors() -> dict[str, dict[str, Any]]:
    """The priors that travel with the package: name -> card."""
    root = resource("priors")
    folders = sorted(p.parent for p in root.glob("*/posterior.json"))
    return {folder.name: _read_json(folder / "posterior.json")["card"] for folder in folders}


def load_prior(name_or_path: str | os.PathLike) -> NetworkPrior:
    """A bundled prior by name, or a folder in diffusers' format by path.

    Args:
        name_or_path: A name that `bundled_priors` lists, or a folder with ``unet/`` in it.

    Returns:
        The prior, on the CPU, in float32.

    Raises:
        FileNotFoundError: If there is no such prior or folder, or a file is missing from it.
        ValueError: If weights are missing, superfluous, misshapen or not finite, or the configuration is not understood.
    """
    folder = Path(name_or_path)
    if not folder.is_dir():
        known = bundled_priors()
        if str(name_or_path) not in known:
            names = ", ".join(known) or "none"
            raise FileNotFoundError(f"no prior '{name_or_path}': not a folder, and the bundled priors are: {names}")
        folder = resource("priors", str(name_or_path))
    if (folder / "posterior.json").exists():
        return _load_ours(folder)
    return _load_diffusers(folder)


def save_prior(prior: NetworkPrior, folder: str | os.PathLike, *, half: bool = False) -> None:
    """Write a prior over a `UNet2DModel` as a folder that `load_prior` and diffusers read.

    Args:
        prior: The prior; its reference, if any, must be a `RadialReference`.
        folder: Created if need be.

    Other arguments:
        half: Store the weights in float16.

    Raises:
        TypeError: If the network is not a diffusers `UNet2DModel` or the reference of another kind.
    """
    from diffusers.models.unets.unet_2d import UNet2DModel
    from safetensors.torch import save_file

    if not isinstance(prior.network, UNet2DModel):
        raise TypeError(f"save_prior: the network is a {type(prior.network).__name__}; wanted a diffusers UNet2DModel")
    reference = prior.reference
    if isinstance(prior.parameterisation, GaussianResidual):
        reference = reference or prior.parameterisation.reference
    if reference is not None and not isinstance(reference, RadialReference):
        raise TypeError(f"save_prior: the reference is a {type(reference).__name__}; wanted a RadialReference")
    for name, value in (("scale", prior.affine.scale), ("shift", prior.affine.shift)):
        if torch.as_tensor(value).numel() != 1:
            raise TypeError(f"save_prior: the {name} of the coordinates is a tensor; wanted one number")
    target = Path(folder)
    (target / "unet").mkdir(parents=True, exist_ok=True)
    prior.network.save_config(target / "unet")
    dtype = torch.float16 if half else torch.float32
    save_file(
        {k: v.detach().to(dtype).contiguous() for k, v in prior.network.state_dict().items()},
        target / "unet" / WEIGHTS,
        metadata={"format": "pt"},
    )
    tensors = {}
    if isinstance(prior.parameterisation, VariancePreserving):
        tensors["alphas_cumprod"] = prior.parameterisation.alphas_cumprod.double()
    if reference is not None:
        named = {k: getattr(reference, k) for k in REFERENCE_TABLES}
        tensors |= {f"reference.{k}": v.double().contiguous() for k, v in named.items() if v is not None}
    if tensors:
        save_file(tensors, target / "tables.safetensors")
    config = {
        "format": FORMAT,
        "parameterisation": _describe(prior.parameterisation),
        "event_shape": list(prior.event_shape),
        "scale": float(torch.as_tensor(prior.affine.scale)),
        "shift": float(torch.as_tensor(prior.affine.shift)),
        "units": prior.units,
        "rms": prior.rms,
        "sigma_range": [prior.sigma_min, prior.sigma_max],
        "card": prior.card,
    }
    (target / "posterior.json").write_text(json.dumps(config, indent=2) + "\n")


def _describe(p: Parameterisation) -> dict[str, Any]:
    if isinstance(p, VariancePreserving):
        return {"kind": p.kind, "prediction": p.prediction}
    if isinstance(p, Velocity):
        return {"kind": p.kind, "time_scale": p.time_scale}
    if isinstance(p, EDM):
        return {"kind": p.kind, "sigma_data": p.sigma_data, "prediction": p.prediction}
    return {"kind": p.kind}


def _load_ours(folder: Path) -> NetworkPrior:
    config = _read_json(folder / "posterior.json")
    if config.get("format") != FORMAT:
        raise ValueError(f"{folder / 'posterior.json'}: format {config.get('format')!r}; this version reads {FORMAT}")
    absent = [k for k in SETTINGS if k not in config]
    if absent:
        raise ValueError(f"{folder / 'posterior.json'}: missing {', '.join(absent)}")
    tables: dict[str, Tensor] = {}
    if (folder / "tables.safetensors").exists():
        tables = _read_tensors(folder / "tables.safetensors")
    reference = _reference(tables, folder)
    try:
        parameterisation = _parameterisation(config["parameterisation"], tables, reference)
        event_shape = tuple(config["event_shape"])
        affine = Affine(float(config["scale"]), float(config["shift"]))
        low, high = map(float, config["sigma_range"])
        rms = float(config["rms"])
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise ValueError(f"{folder / 'posterior.json'} is not understood: {error}") from error
    network = _load_unet(folder / "unet", event_shape[0], parameterisation.inputs_per_channel)
    return NetworkPrior(
        network,
        parameterisation,
        event_shape,
        affine=affine,
        units=config["units"],
        reference=reference,
        rms=rms,
        sigma_range=(low, high),
        multiple=unet_multiple(network.config["block_out_channels"]),
        name=folder.name,
        card=config["card"],
    )


def _reference(tables: dict[str, Tensor], folder: Path) -> RadialReference | None:
    found = {k for k in REFERENCE_TABLES if f"reference.{k}" in tables}
    if not found:
        return None
    if not found >= {"frequencies", "power"} or ("sigmas" in found) != ("errors" in found):
        missing = ", ".join(f"reference.{k}" for k in REFERENCE_TABLES if k not in found)
        raise ValueError(f"{folder / 'tables.safetensors'}: missing {missing}")
    needed, optional = REFERENCE_TABLES[:2], REFERENCE_TABLES[2:]
    return RadialReference(*(tables[f"reference.{k}"] for k in needed), *(tables.get(f"reference.{k}") for k in optional))


def _parameterisation(
    settings: dict[str, Any], tables: dict[str, Tensor], reference: RadialReference | None
) -> Parameterisation:
    about = dict(settings)
    kind = about.pop("kind", None)
    if kind == "vp":
        if "alphas_cumprod" not in tables:
            raise ValueError("alphas_cumprod is missing from tables.safetensors")
        return VariancePreserving(tables["alphas_cumprod"], **about)
    if kind == "velocity":
        return Velocity(**about)
    if kind == "edm":
        return EDM(**about)
    if kind == "gaussian-residual":
        if reference is None:
            raise ValueError("a gaussian-residual prior without its reference in tables.safetensors")
        return GaussianResidual(reference)
    raise ValueError(f"parameterisation {kind!r} is not known")


def _load_diffusers(folder: Path) -> NetworkPrior:
    scheduler_file = folder / "scheduler" / "scheduler_config.json"
    for needed in (folder / "unet" / "config.json", scheduler_file):
        if not needed.exists():
            raise FileNotFoundError(f"{folder} is not a prior: {needed.relative_to(folder)} is missing")
    scheduler = _read_json(scheduler_file)
    kind = scheduler.get("_class_name", "")
    parameterisation: Parameterisation
    if kind == "EDMEulerScheduler":
        parameterisation = EDM(scheduler["sigma_data"], scheduler.get("prediction_type", "epsilon"))
    elif kind == "FlowMatchEulerDiscreteScheduler":
        parameterisation = Velocity(float(scheduler["num_train_timesteps"]))
    elif kind in ("DDPMScheduler", "DDIMScheduler", "PNDMScheduler"):
        import diffusers

        # The scheduler class owns the meaning of its beta_schedule names; the table is asked of it.
        table = getattr(diffusers, kind).from_config(scheduler).alphas_cumprod
        parameterisation = VariancePreserving(table, scheduler.get("prediction_type", "epsilon"))
    else:
        raise ValueError(f"{scheduler_file}: scheduler {kind!r} is not understood")
    config = _read_json(folder / "unet" / "config.json")
    channels = int(config.get("out_channels", 0))
    network = _load_unet(folder / "unet", channels, 1)
    size = config.get("sample_size")
    side = (size, size) if isinstance(size, int) or size is None else tuple(size)
    multiple = unet_multiple(network.config["block_out_channels"])
    return NetworkPrior(network, parameterisation, (channels, *side), multiple=multiple, name=folder.name)


def _load_unet(folder: Path, channels: int, inputs_per_channel: int) -> UNet2DModel:
    from diffusers.models.unets.unet_2d import UNet2DModel

    for needed in ("config.json", WEIGHTS):
        if not (folder / needed).exists():
            raise FileNotFoundError(f"{folder}: {needed} is missing (pickled .bin weights are never read)")
    config = _read_json(folder / "config.json")
    if config.get("_class_name") != "UNet2DModel":
        raise ValueError(f"{folder / 'config.json'}: network {config.get('_class_name')!r}; wanted UNet2DModel")
    if config.get("in_channels") != channels * inputs_per_channel or config.get("out_channels") != channels:
        raise ValueError(
            f"{folder / 'config.json'}: {config.get('in_channels')} channels in and {config.get('out_channels')} out; "
            f"wanted {channels * inputs_per_channel} and {channels}"
        )
    with torch.device("meta"):
        network: Any = UNet2DModel.from_config(config)
    state = _read_tensors(folder / WEIGHTS)
    wanted = network.state_dict()
    missing, extra = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
    if missing or extra:
        raise ValueError(f"{folder / WEIGHTS}: tensors missing: {_few(missing)}; superfluous: {_few(extra)}")
    for name, tensor in state.items():
        if tensor.shape != wanted[name].shape:
            raise ValueError(f"{folder / WEIGHTS}: {name} is {tuple(tensor.shape)}, wanted {tuple(wanted[name].shape)}")
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{folder / WEIGHTS}: {name} has values that are not finite")
    network.load_state_dict({k: v.float() for k, v in state.items()}, strict=True, assign=True)
    return network.eval().requires_grad_(False).to(memory_format=torch.channels_last)


def _few(names: list[str]) -> str:
    return "none" if not names else ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds a {type(value).__name__}; wanted an object with settings")
    return value


def _read_tensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file: {error}") from error
