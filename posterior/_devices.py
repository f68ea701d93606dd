"""Devices by name, and copies of priors, likelihoods and samplers that lie on one."""

from __future__ import annotations

import copy
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any, TypeVar

import torch
from torch import Tensor

_T = TypeVar("_T")
_LEFT = (type, str, bytes, FunctionType, BuiltinFunctionType, ModuleType)


def device_of(device: torch.device | str, owner: str) -> torch.device:
    """The device of this name; ``owner`` is who asks.

    Raises:
        ValueError: If there is none, or this machine lacks it.
    """
    try:
        return torch.empty(0, device=torch.device(device)).device
    except (RuntimeError, AssertionError, TypeError) as error:
        raise ValueError(f"{owner}: device {str(device)!r} is not there: {str(error).splitlines()[0]}") from None


def moved(value: _T, device: torch.device | str) -> _T:
    """``value`` with every tensor that it holds on ``device``; itself where they all lie there already.

    Holders of tensors elsewhere are copied, however deep they lie: networks, operators, dataclasses, lists. What several
    hold in common the copies hold in common. Nothing is changed; what has no tensors is shared. Tensors that only a function
    knows of cannot be seen, and stay.

    Args:
        value: Any object.
        device: Where to.
    """
    return _Mover(torch.device(device))(value)


class _Mover:
    def __init__(self, device: torch.device) -> None:
        self.device = device
        # The original beside its copy: an object that is gone would leave its id to another.
        self.known: dict[int, tuple[Any, Any]] = {}

    def __call__(self, value: Any) -> Any:
        if id(value) in self.known:
            return self.known[id(value)][1]
        made = self._moved(value)
        self.known[id(value)] = value, made
        return made

    def _moved(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self._tensor(value)
        if isinstance(value, torch.device):
            return value if value == self.device else self.device  # operators note where they are
        if isinstance(value, torch.jit.ScriptModule):
            return copy.deepcopy(value).to(self.device)
        if isinstance(value, MethodType):
            owner = self(value.__self__)
            return value if owner is value.__self__ else MethodType(value.__func__, owner)
        if isinstance(value, dict):
            changed = {k: new for k, v in value.items() if (new := self(v)) is not v}
            return self._filled(copy.copy(value), changed) if changed else value
        if isinstance(value, list | tuple):
            items = [self(v) for v in value]
            if all(new is old for new, old in zip(items, value, strict=True)):
                return value
            return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
        if isinstance(value, _LEFT) or not hasattr(value, "__dict__"):
            return value
        if isinstance(value, torch.nn.Module) and "_orig_mod" in value._modules:
            # What torch.compile returns is bound to its module: it is not copied but made again.
            network = self(value._orig_mod)
            return value if network is value._orig_mod else type(value)(network, value.dynamo_ctx)
        return self._holder(value)

    def _tensor(self, value: Tensor) -> Tensor:
        there = value.to(self.device)
        if there is value or not isinstance(value, torch.nn.Parameter):
            return there
        return torch.nn.Parameter(there.detach(), value.requires_grad)

    @staticmethod
    def _filled(made: dict, changed: dict) -> dict:
        made.update(changed)
        return made

    def _holder(self, value: Any) -> Any:
        """An object with attributes."""
        state = value.__getstate__()
        if not isinstance(state, dict):
            return value
        try:
            made = object.__new__(type(value))
        except TypeError:  # a builtin in disguise, which holds no tensors
            return value
        self.known[id(value)] = value, made  # before its attributes, which may lead back to it
        inside = {name: self(v) for name, v in state.items()}
        if all(new is state[name] for name, new in inside.items()):
            return value
        for name, new in inside.items():
            # A module writes to its tables when it is told new parameters.
            made.__dict__[name] = copy.copy(new) if isinstance(new, dict) and new is state[name] else new
        return made
