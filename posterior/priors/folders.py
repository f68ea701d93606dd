"""Folders that diffusers writes: a network, the scheduler that says what it predicts, perhaps an autoencoder.

``unet/`` or ``transformer/`` holds config.json and diffusion_pytorch_model.safetensors, ``scheduler/`` its
scheduler_config.json, ``vae/`` the autoencoder of a latent model; or network and scheduler lie in one folder. Text encoders
are not read: what a conditional network is told comes as a `Condition`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from posterior.priors.base import Affine, finite, rising
from posterior.priors.conditioning import Condition, Conditioned
from posterior.priors.latent import LatentPrior
from posterior.priors.network import NetworkPrior, unet_multiple
from posterior.priors.parameterisations import EDM, Parameterisation, VariancePreserving, Velocity
from posterior.priors.weights import build, read_json, read_tensors

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

WEIGHTS = "diffusion_pytorch_model.safetensors"
MOST_STEPS = 1_000_000
# What each network has to be told; those that a configuration may add are found by `_needed`.
NEEDS = {
    "UNet2DModel": set[str](),
    "UNet2DConditionModel": {"tokens"},
    "DiTTransformer2DModel": {"label"},
    "SD3Transformer2DModel": {"tokens", "pooled"},
}


def load_folder(folder: Path, condition: Condition | None, affine: Affine | None) -> NetworkPrior:
    """The prior in a folder that a diffusers pipeline saved.

    Args:
        folder: With ``unet/`` or ``transformer/``, ``scheduler/`` and, for a latent model, ``vae/``.
        condition: What a conditional network is told.
        affine: Coordinates of a model of pixels; None for the network's own. A latent model has those of its
            autoencoder.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If weights or configuration are not understood or do not fit each other.
    """
    flat = (folder / "config.json").exists() and (folder / "scheduler_config.json").exists()
    inner = folder if flat else folder / ("transformer" if (folder / "transformer").is_dir() else "unet")
    scheduler_file = (folder if flat else folder / "scheduler") / "scheduler_config.json"
    for needed in (inner / "config.json", scheduler_file):
        if not needed.exists():
            raise FileNotFoundError(f"{folder} is not a prior: {needed.relative_to(folder)} is missing")
    scheduler = read_json(scheduler_file)
    parameterisation, sigma_range = _from_scheduler(scheduler, scheduler_file)
    config = read_json(inner / "config.json")
    learned = config.get("_class_name") == "DiTTransformer2DModel" or "learned" in str(scheduler.get("variance_type"))
    channels = config.get("in_channels")
    if isinstance(channels, bool) or not isinstance(channels, int):
        raise ValueError(f"{inner / 'config.json'}: in_channels is {channels!r}; wanted a whole number")
    channels -= condition.extra_channels if condition else 0
    side = _side(config.get("sample_size"), inner / "config.json")
    network = read_network(inner, channels, channels, doubled=learned, condition=condition)
    multiple = unet_multiple(config["block_out_channels"]) if "block_out_channels" in config else 1
    event_shape = (channels, *side)
    options: dict[str, Any] = {"sigma_range": sigma_range, "multiple": multiple, "name": folder.name}
    if not (folder / "vae").is_dir():
        return NetworkPrior(network, parameterisation, event_shape, affine=affine, **options)
    if affine is not None:
        raise ValueError(f"{folder} is a latent model, whose coordinates are those of its autoencoder; got field_range as well")
    autoencoder = _read_autoencoder(folder / "vae", channels)
    return LatentPrior(network, parameterisation, event_shape, autoencoder, **options)


def _side(size: Any, where: Path) -> tuple[int | None, int | None]:
    """Height and width of the images that a network was trained on; None where it does not say."""
    if size is None:
        return None, None
    sides = size if isinstance(size, list) else [size, size]
    if len(sides) != 2 or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in sides):
        raise ValueError(f"{where}: sample_size is {size!r}; wanted a positive whole number, or two")
    return sides[0], sides[1]


def write_scheduler(folder: Path, parameterisation: Parameterisation, sigma_range: tuple[float, float]) -> None:
    """Add what diffusers needs to draw from the folder, where it has a scheduler for this parameterisation."""
    import diffusers

    if isinstance(parameterisation, VariancePreserving):
        abar = parameterisation.alphas_cumprod.double()
        betas = 1 - abar / torch.cat([torch.ones(1, dtype=abar.dtype), abar[:-1]])
        name = "DDPMScheduler"
        settings: dict[str, Any] = {
            "num_train_timesteps": len(betas),
            "trained_betas": betas.tolist(),
            "prediction_type": parameterisation.prediction,
            "clip_sample": False,
        }
        index = {
            "_class_name": "DDPMPipeline",
            "_diffusers_version": diffusers.__version__,
            "scheduler": ["diffusers", name],
            "unet": ["diffusers", "UNet2DModel"],
        }
        (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    elif isinstance(parameterisation, EDM):
        name = "EDMEulerScheduler"
        low, high = sigma_range
        settings = {
            "sigma_data": float(parameterisation.sigma_data),
            "sigma_min": low,
            "sigma_max": high,
            "prediction_type": parameterisation.prediction,
        }
    elif isinstance(parameterisation, Velocity) and not parameterisation.data_at_one and parameterisation.time_scale % 1 == 0:
        name = "FlowMatchEulerDiscreteScheduler"
        settings = {"num_train_timesteps": int(parameterisation.time_scale)}
    else:
        return
    getattr(diffusers, name)(**settings).save_pretrained(folder / "scheduler")


def _from_scheduler(scheduler: dict[str, Any], where: Path) -> tuple[Parameterisation, tuple[float, float]]:
    """What the network predicts and the noise levels it is for."""
    found = _predicted(scheduler, where)
    if not isinstance(found, EDM):
        return found, found.range()
    ends = [scheduler.get(f"sigma_{end}", default) for end, default in zip(("min", "max"), found.range(), strict=True)]
    try:
        return found, rising("sigma_min, sigma_max", ends)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _predicted(scheduler: dict[str, Any], where: Path) -> Parameterisation:
    kind, prediction = scheduler.get("_class_name", ""), scheduler.get("prediction_type", "epsilon")
    steps = scheduler.get("num_train_timesteps", 1000)
    if not isinstance(steps, int) or not 1 < steps <= MOST_STEPS:
        raise ValueError(f"{where}: num_train_timesteps is {steps}; wanted a whole number up to {MOST_STEPS}")
    try:
        if kind == "EDMEulerScheduler":
            return EDM(finite("sigma_data", scheduler["sigma_data"]), prediction)
        if kind == "FlowMatchEulerDiscreteScheduler":
            return Velocity(float(steps))
        if kind in ("DDPMScheduler", "DDIMScheduler", "PNDMScheduler"):
            import diffusers

            # The scheduler class owns the meaning of its beta_schedule names; the table is asked of it.
            return VariancePreserving(getattr(diffusers, kind).from_config(scheduler).alphas_cumprod, prediction)
    except (KeyError, TypeError, ValueError, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"{where} is not understood: {error}") from error
    raise ValueError(f"{where}: scheduler {kind!r} is not understood")


def read_network(
    folder: Path,
    inputs: int,
    outputs: int,
    *,
    kinds: Iterable[str] = tuple(NEEDS),
    doubled: bool = False,
    condition: Condition | None = None,
) -> torch.nn.Module:
    """A diffusers network with the weights beside its configuration.

    Args:
        folder: With config.json and the weights.
        inputs: Channels that the network sees of a field.
        outputs: Channels of its estimate.

    Other arguments:
        kinds: Class names that are welcome.
        doubled: Whether it may give twice the channels: a learned variance.
        condition: What it is told; its own ``channels`` come on top of ``inputs``.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If the class is another, or channels, condition or weights do not fit.
    """
    config, state = _read_parts(folder, kinds)
    wanted = inputs + (condition.extra_channels if condition else 0)
    # None is SD3's way to say: as many as go in
    for key in ("in_channels", "out_channels"):
        if isinstance(config.get(key), bool | float):
            raise ValueError(f"{folder / 'config.json'}: {key} is {config[key]!r}; wanted a whole number")
    got_in, got_out = config.get("in_channels"), config.get("out_channels") or config.get("in_channels")
    if got_in != wanted or got_out not in ((outputs, 2 * outputs) if doubled else (outputs,)):
        raise ValueError(f"{folder / 'config.json'}: {got_in} channels in and {got_out} out; wanted {wanted} and {outputs}")
    _check_condition(config, condition, folder / "config.json")
    network = _build(config, state, folder)
    network.to(memory_format=torch.channels_last)
    return Conditioned(network, condition) if condition else network


def _read_autoencoder(folder: Path, channels: int) -> AutoencoderKL:
    config, state = _read_parts(folder, ["AutoencoderKL"])
    if config.get("latent_channels") != channels:
        got = config.get("latent_channels")
        raise ValueError(f"{folder / 'config.json'}: {got} latent channels; the network wants {channels}")
    return _build(config, state, folder)


def _read_parts(folder: Path, kinds: Iterable[str]) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    for needed in ("config.json", WEIGHTS):
        if not (folder / needed).exists():
            raise FileNotFoundError(f"{folder}: {needed} is missing (pickled .bin weights are never read)")
    config = read_json(folder / "config.json")
    kind = config.get("_class_name")
    if str(kind) not in kinds:
        raise ValueError(f"{folder / 'config.json'}: network {kind!r}; wanted {' or '.join(kinds)}")
    state = read_tensors(folder / WEIGHTS)
    for name, value in config.items():
        counts = value if isinstance(value, list) else [value]
        if "layers" in name and any(isinstance(n, int) and n > len(state) for n in counts):
            raise ValueError(f"{folder / 'config.json'}: {name} is {value}, but there are only {len(state)} tensors")
    return config, state


def _build(config: dict[str, Any], state: dict[str, torch.Tensor], folder: Path) -> Any:
    import diffusers

    kind = getattr(diffusers, config["_class_name"])

    def make() -> Any:
        try:
            return kind.from_config(config)
        except Exception as error:  # diffusers raises many kinds for settings that make no network
            reason = str(error).partition("\n")[0]
            raise ValueError(f"{folder / 'config.json'} does not describe a {kind.__name__}: {reason}") from error

    return build(make, state, str(folder / WEIGHTS))


def _check_condition(config: dict[str, Any], condition: Condition | None, where: Path) -> None:
    needed, given = _needed(config), condition.given - {"channels"} if condition else set()
    if needed != given:
        got = ", ".join(sorted(given)) or "none of these"
        raise ValueError(
            f"{where}: a {config['_class_name']} that must be told {', '.join(sorted(needed)) or 'nothing'}; "
            f"got {got} (condition=posterior.Condition(...))"
        )
    if condition is None or condition.label is None:
        return
    # A DiT has one class more than it says, the null class of classifier-free guidance.
    classes = config.get("num_class_embeds") or config.get("num_embeds_ada_norm", 1000) + 1
    for told in (condition, condition.free):
        if told is not None and told.label is not None and told.label >= classes:
            raise ValueError(f"{where}: label {told.label} of a network of {classes} classes")


def _needed(config: dict[str, Any]) -> set[str]:
    if config["_class_name"].startswith("UNet") and (config.get("class_embed_type") or config.get("num_class_embeds")):
        return NEEDS[config["_class_name"]] | {"label"}
    return NEEDS[config["_class_name"]]
