"""Files of named tensors."""

import os

import pytest
import torch
from safetensors import safe_open

from posterior._tensors import write_tensors


@pytest.fixture
def open_umask():
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.mark.usefixtures("open_umask")
def test_a_file_is_as_readable_as_any_other(tmp_path):
    path = tmp_path / "weights.safetensors"
    write_tensors({"a": torch.arange(3.0)}, path)
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_file_is_replaced_whole_and_left_alone_when_writing_fails(tmp_path):
    path = tmp_path / "weights.safetensors"
    write_tensors({"a": torch.arange(3.0)}, path, metadata={"run": "first"})
    shared = torch.arange(4.0)
    with pytest.raises(RuntimeError, match="share memory"):
        write_tensors({"a": shared, "b": shared}, path)
    write_tensors({"a": torch.arange(6.0).reshape(2, 3).T}, path, metadata={"run": "second"})
    with safe_open(path, framework="pt") as f:
        assert f.metadata() == {"run": "second"}
        assert torch.equal(f.get_tensor("a"), torch.tensor([[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]))
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
