"""A device that no machine needs to have: "meta", with the numbers of its tensors kept on the CPU.

Inside `elsewhere()` a tensor on "meta" has values and computes, and an operation on tensors of two devices fails as it does
between the CPU and a GPU: only numbers (tensors without axes) may come from the CPU, and indices.
"""

import contextlib

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

AWAY = torch.device("meta")
# Operations that move; operations that take no number of another device.
MOVING = {"_to_copy", "copy_", "_local_scalar_dense"}
STRICT = {"cat", "stack", "searchsorted", "bucketize", "gather", "index_select", "index_add", "index_copy", "scatter"}
INDEXING = {"index", "_unsafe_index", "index_put", "index_put_", "_index_put_impl_"}


class Away(Tensor):
    """A tensor on `AWAY`; ``kept`` has its numbers."""

    @staticmethod
    def __new__(cls, kept):
        return Tensor._make_wrapper_subclass(
            cls,
            kept.shape,
            strides=kept.stride(),
            storage_offset=kept.storage_offset(),
            dtype=kept.dtype,
            device=AWAY,
        )

    def __init__(self, kept):
        self.kept = kept

    def __repr__(self):
        return f"Away({tuple(self.shape)})"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


def _mixes(name, tensors):
    home, away = ([t for t in tensors if isinstance(t, Away) is there] for there in (False, True))
    if not (home and away):
        return False
    return name in STRICT or any(t.ndim for t in home) or not any(t.ndim for t in away) and any(t.ndim for t in home)


def _run(func, args, kwargs):
    name = func._schema.name.split("::")[1]
    tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
    if name in INDEXING:
        owner, index, *value = args[:3]
        strays = any(isinstance(t, Away) for t in index if t is not None) and not isinstance(owner, Away)
        wrong = strays or (value and _mixes(name, [owner, value[0]]))
        away = isinstance(owner, Away)
    else:
        wrong = name not in MOVING and _mixes(name, tensors)
        away = isinstance(args[0], Away) if name == "copy_" else any(isinstance(t, Away) for t in tensors)
    if kwargs.get("device") is not None:
        away = torch.device(kwargs["device"]).type == AWAY.type
        kwargs = {**kwargs, "device": torch.device("cpu")}
    if wrong or (away and kwargs.get("generator") is not None):
        where = [f"{tuple(t.shape)} {'away' if isinstance(t, Away) else 'on the CPU'}" for t in tensors]
        raise RuntimeError(f"{func}: tensors, or a generator, on two devices: {', '.join(where)}")
    here = tree_map(lambda t: t.kept if isinstance(t, Away) else t, (args, kwargs))
    out = func(*here[0], **here[1])
    if name.endswith("_") and isinstance(out, Tensor):
        return args[0]
    return tree_map(lambda t: Away(t) if away and isinstance(t, Tensor) else t, out)


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


class _Functions(TorchFunctionMode):
    """What torch does not send through its dispatcher for "meta", whose tensors have no numbers to it."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") is not None:
            device = kwargs.pop("device")
            return func(*args, **kwargs).to(device)
        if func is torch.tensor and isinstance(args[0], list):
            return func([x.kept.item() if isinstance(x, Away) else x for x in args[0]], *args[1:], **kwargs)
        if func is Tensor.new_tensor:
            return torch.tensor(args[1], dtype=kwargs.get("dtype", args[0].dtype)).to(args[0].device)
        if func in (Tensor.conj, torch.conj):
            return torch.conj_physical(args[0])
        if func is Tensor.tolist:
            return func(args[0].cpu())
        return func(*args, **kwargs)


@contextlib.contextmanager
def elsewhere():
    """Where `AWAY` is a device like a GPU."""
    with _Functions(), _Operations():
        yield
