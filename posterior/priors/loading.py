"""Priors on disk: diffusers folders, with more files where the prior is one of ours, and checkpoints of other makes.

``unet/`` holds config.json and diffusion_pytorch_model.safetensors as diffusers writes them. Our folders add
``posterior.json`` (parameterisation, coordinates, units, card) and ``tables.safetensors``, and keep diffusers'
``scheduler/`` where it has one for the parameterisation; ``coarse/`` is the folder of a prior of coarse images, where
there is one, unless ``posterior.json`` says that it is that of a bundled prior. Nothing is ever unpickled.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from posterior._resources import resource
from posterior._tensors import write_tensors
from posterior.priors.base import Affine, finite, rising
from posterior.priors.coarse import CoarseDenoiser
from posterior.priors.conditioning import Condition
from posterior.priors.folders import WEIGHTS, load_folder, read_network, write_scheduler
from posterior.priors.latent import LatentPrior
from posterior.priors.layouts.base import Layout
from posterior.priors.network import NetworkPrior, unet_multiple
from posterior.priors.parameterisations import (
    EDM,
    ContinuousVP,
    GaussianResidual,
    GaussianResidualFlow,
    Parameterisation,
    VarianceExploding,
    VariancePreserving,
    Velocity,
)
from posterior.priors.reference import EOFReference, RadialReference, Reference
from posterior.priors.symmetries import checked
from posterior.priors.tables import (
    Tables,
    read_affine,
    read_climatology,
    read_eofs,
    read_labels,
    read_local,
    read_reference,
    read_spread,
    write_eofs,
    write_tables,
)
from posterior.priors.weights import read_json, read_tensors

if TYPE_CHECKING:
    from diffusers.models.unets.unet_2d import UNet2DModel

FORMAT = 1
START = "start.safetensors"
OURS = (
    "posterior.json",
    "tables.safetensors",
    "model_index.json",
    "scheduler/scheduler_config.json",
    "unet/config.json",
    f"unet/{WEIGHTS}",
)
# Text encoders, often the largest part, are not fetched.
HUB_FILES = [
    "*.json",
    "diffusion_pytorch_model.safetensors",
    *(f"{part}/*.safetensors" for part in ("unet", "transformer", "vae")),
]
SETTINGS = ("parameterisation", "event_shape", "scale", "shift", "units", "rms", "sigma_range", "card")


def bundled_priors() -> dict[str, dict[str, Any]]:
    """The priors that travel with the package: name -> card."""
    root = resource("priors")
    folders = sorted(p.parent for p in root.glob("*/posterior.json"))
    return {folder.name: read_json(folder / "posterior.json")["card"] for folder in folders}


def load_prior(
    name_or_path: str | os.PathLike,
    *,
    layout: Layout | None = None,
    condition: Condition | None = None,
    field_range: tuple[float, float] | None = None,
    download: bool = False,
) -> NetworkPrior:
    """A bundled prior by name, a diffusers folder by path, or a checkpoint of another make.

    Args:
        name_or_path: A name that `bundled_priors` lists; a folder with ``unet/`` or ``transformer/`` in it, of ours or
            saved by a diffusers pipeline (see `posterior.priors.folders`); or a file of weights, .safetensors or one
            that ``torch.save`` wrote.

    Other arguments:
        layout: What a file of weights holds: `posterior.GuidedDiffusion`, `posterior.EDMNetwork` (InverseBench too),
            `posterior.ScoreSDE`, `posterior.RectifiedFlow` or `posterior.TorchCFM`. A file does not say whether its network
            predicts noise or velocity, nor at which end of time the data are.
        condition: What a conditional network is told: a class, a mask, the state before.
        field_range: What the ends -1 and 1 of the network's data range (or those that the layout states) are in physical
            units, (0, 1) for images of that range. None where physical fields have the network's range.
        download: Whether a name that is no bundled one may be fetched from the Hugging Face hub (JSON and safetensors
            files only). Never done unasked.

    Returns:
        The prior, on the CPU, in float32: a `posterior.LatentPrior` where the folder holds an autoencoder.

    Raises:
        TypeError: If ``layout`` is a class.
        FileNotFoundError: If there is no such prior or folder, or a file is missing from it.
        ValueError: If weights are missing, superfluous, misshapen or not finite, a file could run code, or the
            configuration is not understood or does not fit what was passed.
    """
    if isinstance(layout, type):
        raise TypeError(f"load_prior: layout is the class {layout.__name__}; wanted one of it, {layout.__name__}()")
    path = _locate(name_or_path, download)
    if path.is_file():
        if layout is None:
            raise ValueError(
                f"{path} is a file of weights, which does not say what its network predicts; pass layout=, one of "
                "posterior.GuidedDiffusion(), EDMNetwork(), ScoreSDE(), RectifiedFlow() or TorchCFM()"
            )
        return layout.load(path, condition, _coordinates(field_range, layout.data_range))
    if layout is not None:
        raise ValueError(f"{path} is a folder, which says itself what it holds; got layout={layout!r} as well")
    if (path / "posterior.json").exists():
        if field_range is not None or condition is not None:
            raise ValueError(f"{path} knows its own coordinates and takes no condition; got field_range or condition")
        return _load_ours(path)
    return load_folder(path, condition, _coordinates(field_range, (-1.0, 1.0)))


def _locate(name_or_path: str | os.PathLike, download: bool) -> Path:
    path, name = Path(name_or_path), str(name_or_path)
    if path.exists():
        return path
    known = bundled_priors()
    if name in known:
        return resource("priors", name)
    if download:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(name, allow_patterns=HUB_FILES))
    names = ", ".join(known) or "none"
    raise FileNotFoundError(f"no prior '{name}': neither a folder nor a file, and the bundled priors are: {names}")


def _coordinates(field_range: tuple[float, float] | None, data_range: tuple[float, float]) -> Affine | None:
    """The affine map that takes ``data_range`` to ``field_range``."""
    if field_range is None:
        return None
    scale = (field_range[1] - field_range[0]) / (data_range[1] - data_range[0])
    if not 0 < scale < float("inf"):
        raise ValueError(f"load_prior: field_range is {field_range}; wanted two rising numbers")
    return Affine(scale, field_range[0] - scale * data_range[0])


def save_prior(prior: NetworkPrior, folder: str | os.PathLike, *, half: bool = False) -> None:
    """Write a prior over a `UNet2DModel` as a folder that `load_prior` and diffusers read.

    Args:
        prior: The prior; its reference, if any, must be a `RadialReference` or an `EOFReference`. One that was put on a
            date (`Prior.on`) is refused: the map of the whole year would be lost. Where the parameterisation has a reference
            of its own, the prior's must be the same Gaussian; their error spectra may differ, and the prior's is saved.
        folder: Created if need be; a prior that was saved there before is replaced, and other files stay.

    Other arguments:
        half: Store weights and EOFs in float16.

    Raises:
        TypeError: If the prior has no network or an autoencoder, the network is not a diffusers `UNet2DModel`, the reference of
            another kind, or its card or coordinates are no JSON.
        ValueError: If the prior stands at a date, or its reference is not that of its parameterisation.
    """
    net, tensors, described = _content(prior, half)
    if prior.coarse is not None:
        _content(prior.coarse.prior, half)
    target = Path(folder)
    _clear(target)
    (target / "unet").mkdir(parents=True, exist_ok=True)
    # Until all is written no prior, and yet a folder of ours, that the next one clears.
    (target / "posterior.json").write_text("{}\n")
    net.save_config(target / "unet")
    dtype = torch.float16 if half else torch.float32
    network = {k: v.to(dtype) for k, v in net.state_dict().items()}
    write_tensors(network, target / "unet" / WEIGHTS, metadata={"format": "pt"})
    if tensors:
        write_tensors(tensors, target / "tables.safetensors")
    if prior.coarse is not None:
        save_prior(prior.coarse.prior, target / "coarse", half=half)
        if prior.coarse.start is not None:
            write_tensors(write_eofs(prior.coarse.start, half), target / "coarse" / START)
    write_scheduler(target, prior.parameterisation, (prior.sigma_min, prior.sigma_max))
    (target / "posterior.json").write_text(described)


def _content(prior: NetworkPrior, half: bool) -> tuple[UNet2DModel, dict[str, torch.Tensor], str]:
    """Network, tables and the text of posterior.json; what cannot be saved is refused here, before anything is written."""
    from diffusers.models.unets.unet_2d import UNet2DModel

    if not isinstance(prior, NetworkPrior):
        raise TypeError(f"save_prior: a {type(prior).__name__} has no network; wanted a NetworkPrior")
    if isinstance(prior, LatentPrior):
        raise TypeError(f"save_prior: prior '{prior.name}' is a LatentPrior; a folder of ours has no place for its autoencoder")
    if not isinstance(prior.network, UNet2DModel):
        raise TypeError(f"save_prior: the network is a {type(prior.network).__name__}; wanted a diffusers UNet2DModel")
    if prior.date is not None:
        raise ValueError(f"save_prior: prior '{prior.name}' stands at {prior.date}; save the one that `on` was called of")
    reference = prior.reference
    if isinstance(prior.parameterisation, GaussianResidual):
        reference = reference or prior.parameterisation.reference
    tensors, settings = write_tables(prior, reference, half)
    if isinstance(prior.parameterisation, GaussianResidual) and not _same_gaussian(reference, prior.parameterisation.reference):
        raise ValueError(
            f"save_prior: the reference of prior '{prior.name}' is another Gaussian than that of its parameterisation; a "
            "folder holds one for both"
        )
    if isinstance(prior.parameterisation, VariancePreserving):
        tensors["alphas_cumprod"] = prior.parameterisation.alphas_cumprod.double()
    config = {
        "format": FORMAT,
        "parameterisation": _describe(prior.parameterisation),
        "event_shape": list(prior.event_shape),
        "units": prior.units,
        "rms": prior.rms,
        "sigma_range": [prior.sigma_min, prior.sigma_max],
        **settings,
        **({"symmetries": list(prior.symmetries)} if prior.symmetries else {}),
        "card": prior.card,
    }
    if prior.coarse is not None:
        config["coarse"] = {"factor": prior.coarse.factor, "above": prior.coarse.above}
        if prior.coarse.start is not None:
            config["coarse"]["start"] = list(prior.coarse.start.shape)
    try:
        return prior.network, tensors, json.dumps(config, indent=2) + "\n"
    except TypeError as error:
        raise TypeError(f"save_prior: the card or the coordinates of prior '{prior.name}' are no JSON: {error}") from error


def _same_gaussian(a: Reference | None, b: Reference) -> bool:
    """Whether basis, mean and spectrum agree; tables of errors may differ."""
    if a is b:
        return True
    if isinstance(a, RadialReference) and isinstance(b, RadialReference):
        pairs = [(a.frequencies, b.frequencies), (a.power, b.power)]
    elif isinstance(a, EOFReference) and isinstance(b, EOFReference) and a.shape == b.shape:
        pairs = [(a.vectors, b.vectors), (a.variances, b.variances), (torch.tensor(a.rest), torch.tensor(b.rest))]
        pairs.append((a.exists(), b.exists()))
    else:
        return False
    return all(x.shape == y.shape and torch.allclose(x.cpu().double(), y.cpu().double(), rtol=1e-6, atol=0) for x, y in pairs)


def _clear(folder: Path) -> None:
    """Take away the prior that was saved here before, and nothing else; posterior.json first, so that no half of it loads."""
    if not (folder / "posterior.json").exists():
        return
    for name in OURS:
        (folder / name).unlink(missing_ok=True)
    _clear(folder / "coarse")
    (folder / "coarse" / START).unlink(missing_ok=True)
    for name in ("unet", "scheduler", "coarse"):
        if (folder / name).is_dir() and not any((folder / name).iterdir()):
            (folder / name).rmdir()


def _describe(p: Parameterisation) -> dict[str, Any]:
    """Its kind and its settings; tensors and the reference are kept elsewhere."""
    settings = {
        k: v.item() if isinstance(v, np.generic) or (isinstance(v, torch.Tensor) and v.ndim == 0) else v
        for k, v in vars(p).items()
    }
    return {"kind": p.kind} | {k: v for k, v in settings.items() if isinstance(v, str | int | float)}


def _load_ours(folder: Path) -> NetworkPrior:
    config = read_json(folder / "posterior.json")
    if config.get("format") != FORMAT:
        raise ValueError(f"{folder / 'posterior.json'}: format {config.get('format')!r}; this version reads {FORMAT}")
    absent = [k for k in SETTINGS if k not in config]
    if absent:
        raise ValueError(f"{folder / 'posterior.json'}: missing {', '.join(absent)}")
    tables = Tables({}, str(folder / "tables.safetensors"))
    if (folder / "tables.safetensors").exists():
        tables.tensors = _read_tables(folder / "tables.safetensors")
    try:
        event_shape = _event_shape(config["event_shape"])
        reference = read_reference(config, tables, event_shape)
        parameterisation = _parameterisation(config["parameterisation"], tables, reference)
        affine = read_affine(config, tables, event_shape)
        climatology = read_climatology(config, tables, event_shape)
        labels = read_labels(config, tables, event_shape)
        spread, local = read_spread(tables), read_local(tables, reference, event_shape)
        symmetries = checked(tuple(config.get("symmetries", ())), "symmetries")
        sigma_range = rising("sigma_range", config["sigma_range"])
        rms = finite("rms", config["rms"], positive=True)
        units, card = config["units"], config["card"]
        for key, value, kind, wanted in (("units", units, str, "text"), ("card", card, dict, "an object")):
            if not isinstance(value, kind):
                raise ValueError(f"{key} is {value!r:.60}; wanted {wanted}")
        tables.finish()
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise ValueError(f"{folder / 'posterior.json'} is not understood: {error}") from error
    inputs = event_shape[0] * parameterisation.inputs_per_channel
    network: Any = read_network(folder / "unet", inputs, event_shape[0], kinds=["UNet2DModel"])
    prior = NetworkPrior(
        network,
        parameterisation,
        event_shape,
        affine=affine,
        coarse=_read_coarse(folder, config),
        units=units,
        reference=reference,
        rms=rms,
        sigma_range=sigma_range,
        labels=labels,
        climatology=climatology,
        symmetries=symmetries,
        multiple=unet_multiple(network.config["block_out_channels"]),
        name=folder.name,
        card=card,
    )
    prior.spread, prior.local_spread = spread, local
    return prior


def _read_coarse(folder: Path, config: dict[str, Any]) -> CoarseDenoiser | None:
    """What denoises coarse images in the network's place at high noise, where there is one."""
    about = config.get("coarse")
    if about is None:
        return None
    if not isinstance(about, dict):
        raise ValueError(f"{folder / 'posterior.json'}: coarse is a {type(about).__name__}; wanted an object with settings")
    where = folder / "coarse"
    if (lender := about.get("of")) is not None:
        if not isinstance(lender, str) or lender not in bundled_priors():
            raise ValueError(
                f"{folder / 'posterior.json'}: the coarse denoiser is that of {lender!r}, which is no bundled prior"
            )
        where = resource("priors", lender, "coarse")
    if not (where / "posterior.json").exists():
        raise FileNotFoundError(f"{folder} is not a prior: coarse/posterior.json is missing")
    prior = _load_ours(where)
    if (prior.event_shape[0], prior.coarse) != (config["event_shape"][0], None):
        raise ValueError(f"{where}: {prior.event_shape[0]} channels; wanted a prior as the one it belongs to")
    try:
        start = None
        if about.get("start") is not None:
            tables = Tables(_read_tables(where / START), str(where / START))
            start = read_eofs(tables, _event_shape(about["start"]))
            tables.finish()
        return CoarseDenoiser(prior, about["factor"], finite("above", about["above"]), start)
    except (TypeError, ValueError, KeyError) as error:
        raise ValueError(f"{folder / 'posterior.json'} is not understood: {error}") from error


def _read_tables(path: Path) -> dict[str, torch.Tensor]:
    """Tables of floating-point numbers, and masks of points that exist."""
    tensors = read_tensors(path)
    for name, table in tensors.items():
        if not (table.is_floating_point() or name.endswith("mask")):
            raise ValueError(f"{path}: {name} is {table.dtype}; wanted floating-point numbers")
    return tensors


def _event_shape(sizes: Any) -> tuple[int, int | None, int | None]:
    if not (isinstance(sizes, list) and len(sizes) == 3 and type(sizes[0]) is int):
        raise ValueError(f"event_shape is {sizes!r}; wanted channels, height and width")
    for n in sizes:
        if n is not None and not (type(n) is int and 0 < n < 2**16):
            raise ValueError(f"event_shape is {sizes!r}; wanted positive sizes, or null for any")
    return tuple(sizes)


def _parameterisation(settings: dict[str, Any], tables: Tables, reference: Reference | None) -> Parameterisation:
    about = dict(settings)
    kind = about.pop("kind", None)
    if kind == "vp":
        return VariancePreserving(tables.take("alphas_cumprod"), **about)
    for known in (EDM, Velocity, ContinuousVP, VarianceExploding):
        if kind == known.kind:
            return known(**about)
    for residual in (GaussianResidual, GaussianResidualFlow):
        if kind == residual.kind:
            if reference is None:
                raise ValueError(f"a {kind} prior without its reference in tables.safetensors")
            return residual(reference)
    raise ValueError(f"parameterisation {kind!r} is not known")
