"""Named tensors in a safetensors file, written as any other file is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor


def write_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Replace the file, never leaving half of one.

    safetensors makes its files readable by their owner alone, whatever the umask says; these are as readable as others.

    Args:
        tensors: What to write, by name; no two may share memory.
        path: Of the file.
        metadata: Words that the file carries.
    """
    from safetensors.torch import save_file

    partial = path.with_name(path.name + ".partial")
    partial.unlink(missing_ok=True)
    partial.touch()
    mode = partial.stat().st_mode
    save_file({name: x.detach().contiguous() for name, x in tensors.items()}, partial, metadata)
    partial.chmod(mode)
    partial.replace(path)
