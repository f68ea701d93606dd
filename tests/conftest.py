import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from posterior.io.registry import DATA_DIR_VARIABLE, available, fetch

# The problems are small: more threads only wait for each other, for ever so long on a shared machine.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def data_file() -> Callable[[str], Path]:
    """``data_file(name)``: checked path of a dataset of the registry; skips where it is not at hand."""

    def path(name: str) -> Path:
        if not available(name):
            pytest.skip(f"dataset {name!r} is not at hand: set {DATA_DIR_VARIABLE} or fetch it once")
        return fetch(name)

    return path


def _global_rng() -> tuple[Any, Any, torch.Tensor]:
    return random.getstate(), np.random.get_state(), torch.get_rng_state()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Fail a test whose body moves the global random state of torch, numpy or random.

    Fixtures run outside this check. A test body that builds a network, whose initialisation draws from
    torch's global generator, does so inside ``with torch.random.fork_rng(devices=[]):``.
    """
    python, numpy_state, torch_state = _global_rng()
    try:
        result = yield
        now = _global_rng()
        changed = [
            library
            for library, same in (
                ("random", now[0] == python),
                ("numpy", all(np.array_equal(a, b) for a, b in zip(now[1], numpy_state, strict=True))),
                ("torch", torch.equal(now[2], torch_state)),
            )
            if not same
        ]
        if changed:
            pytest.fail(
                f"the global random state of {', '.join(changed)} changed: pass a generator, or build the "
                "network in a fixture or inside torch.random.fork_rng(devices=[])",
                pytrace=False,
            )
        return result
    finally:
        random.setstate(python)
        np.random.set_state(numpy_state)
        torch.set_rng_state(torch_state)
