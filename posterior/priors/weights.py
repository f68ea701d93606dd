"""Weights on disk to weights in a network: nothing is executed, and nothing is taken on trust.

safetensors files are plain numbers. Of files that ``torch.save`` wrote, the instructions inside are read first, without
following them; only those that rebuild tensors and containers get as far as ``torch.load(weights_only=True)``. Sizes that
a file declares are held against the bytes it has before anything is allocated.
"""

from __future__ import annotations

import json
import pickletools
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

_Module = TypeVar("_Module", bound=torch.nn.Module)

FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
PICKLES = (".pkl", ".pickle", ".p")
CONTAINERS = {"collections OrderedDict", "collections defaultdict", "torch Size", "torch._utils _rebuild_parameter"}
CONVERSION = (
    "to convert it, open it where nothing can be harmed, with the code of the project that wrote it, and keep the tensors "
    "alone: safetensors.torch.save_file({k: v.contiguous() for k, v in network.state_dict().items()}, 'weights.safetensors')"
)


def read_json(path: Path) -> dict[str, Any]:
    """A file of settings.

    Raises:
        ValueError: If it is not a JSON object.
    """
    try:
        value = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds a {type(value).__name__}; wanted an object with settings")
    return value


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        ValueError: If it is a folder, cut off or of another format.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if path.is_dir():
        raise ValueError(f"{path} is a folder; wanted a safetensors file")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file: {error}") from error


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What a training run saved: tensors, perhaps in dictionaries of dictionaries.

    Args:
        path: A safetensors file, or one that ``torch.save`` wrote (PyTorch 1.6 or later).

    Raises:
        ValueError: If it is a pickle, holds instructions other than those that rebuild tensors, or is broken.
    """
    if path.suffix == ".safetensors":
        return dict(read_tensors(path))
    if path.suffix in PICKLES:
        raise ValueError(f"{path} is a pickle, which runs code when it is opened, and is never read; {CONVERSION}")
    _check_archive(path)
    try:
        value = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a broken file makes torch raise
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{path} cannot be read as weights alone: {reason}; {CONVERSION}") from error
    if not isinstance(value, Mapping):
        raise ValueError(f"{path} holds a {type(value).__name__}; wanted a dictionary of tensors")
    return dict(value)


def _check_archive(path: Path) -> None:
    """Raise ValueError unless a torch archive holds what it says it holds and no instructions but harmless ones."""
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is no archive of PyTorch 1.6 or later, and bare pickles are never read; {CONVERSION}")
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            inside = sum(m.file_size for m in members)
            if inside > path.stat().st_size or any(m.compress_type != zipfile.ZIP_STORED for m in members):
                raise ValueError(f"{path} declares {inside} bytes inside {path.stat().st_size}; weights are not compressed")
            pickles = [m for m in members if m.filename.endswith("data.pkl")]
            if len(pickles) != 1:
                raise ValueError(f"{path} is no archive that torch.save wrote: it has {len(pickles)} data.pkl")
            foreign = _foreign_instructions(archive.read(pickles[0]))
    except (zipfile.BadZipFile, OSError, NotImplementedError) as error:
        raise ValueError(f"{path} is broken: {error}") from error
    if foreign:
        raise ValueError(f"{path} would run {foreign}, which no weights need, and is not opened; {CONVERSION}")


def _foreign_instructions(data: bytes) -> str | None:
    """The first thing that a pickle would call and that is neither a tensor nor a container."""
    try:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name in ("STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"):
                return f"a call hidden by {opcode.name}"
            if opcode.name == "GLOBAL" and not _harmless(str(argument)):
                return str(argument).replace(" ", ".")
    except Exception as error:  # pickletools raises many kinds, all for bytes that are no pickle
        return f"instructions that cannot be read ({error})"
    return None


def _harmless(name: str) -> bool:
    module, _, attribute = name.partition(" ")
    if module == "torch":
        return attribute.endswith("Storage") or isinstance(getattr(torch, attribute, None), torch.dtype) or name in CONTAINERS
    return name in CONTAINERS or name == "torch._utils _rebuild_tensor_v2"


def state_of(value: Any, where: str) -> dict[str, Tensor]:
    """``value`` as a state dictionary.

    Raises:
        ValueError: If it is not a dictionary of tensors, or a tensor claims more numbers than the file gives it.
    """
    if not isinstance(value, Mapping) or not value or not all(isinstance(v, Tensor) for v in value.values()):
        raise ValueError(f"{where}: wanted a dictionary of tensors, got {_glance(value)}")
    for name, tensor in value.items():
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise ValueError(f"{where}: {name} claims {tuple(tensor.shape)}, more than the file holds")
    return {str(k): v.detach() for k, v in value.items()}


def _glance(value: Any) -> str:
    if not isinstance(value, Mapping):
        return f"a {type(value).__name__}"
    return f"one of {', '.join(f'{k} ({type(v).__name__})' for k, v in list(value.items())[:4])}" if value else "an empty one"


def build(make: Callable[[], _Module], state: dict[str, Tensor], where: str) -> _Module:
    """The network that ``make`` builds with the weights of ``state``: float32, frozen, in evaluation mode.

    It is first built without memory, to compare every name and shape. Random numbers of the process are left alone.

    Raises:
        ValueError: If a tensor is missing, superfluous, misshapen, of another kind of number or not finite.
    """
    with torch.device("meta"):
        network = make()
    wanted = network.state_dict()
    _compare(state, wanted, where)
    if any(buffer.is_meta and name not in wanted for name, buffer in network.named_buffers()):
        # Tables that are computed, not stored: they exist only in a network built in earnest.
        with torch.random.fork_rng(devices=[]):
            network = make()
    network.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()}, strict=True, assign=True)
    return network.eval().requires_grad_(False)


def _compare(state: dict[str, Tensor], wanted: Mapping[str, Tensor], where: str) -> None:
    missing, extra = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
    if missing or extra:
        raise ValueError(f"{where}: tensors missing: {_few(missing)}; superfluous: {_few(extra)}")
    for name, tensor in state.items():
        if tensor.shape != wanted[name].shape:
            raise ValueError(f"{where}: {name} is {tuple(tensor.shape)}, wanted {tuple(wanted[name].shape)}")
        if wanted[name].is_floating_point() and tensor.dtype not in FLOATS:
            raise ValueError(f"{where}: {name} is {tensor.dtype}, wanted floating-point numbers of 16 bits or more")
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{where}: {name} has values that are not finite")


def _few(names: list[str]) -> str:
    return "none" if not names else ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
