"""Which code a figure depends on."""

import pytest

from benchmarks.harness import source
from benchmarks.harness.closure import Code
from benchmarks.registry import BENCHMARKS, ROOT

FILES = {
    "house/__init__.py": "import lazy_loader\n__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)\n",
    "house/__init__.pyi": "from . import rooms as rooms\nfrom .sampler import Fine as Fine, sample as sample\n",
    "house/base.py": """
from abc import ABC
import house

class Sampler(ABC):
    steps = 3

    def step(self, x: "Unused") -> int:
        return x + 1

    def plot(self):
        from house.figures import draw
        return draw(self)
""",
    "house/figures.py": "def draw(x): return x\n",
    "house/sampler.py": """
from __future__ import annotations
from typing import TYPE_CHECKING
from .base import Sampler
from house.rooms import tools as t, network
if TYPE_CHECKING:
    from house.loader import Loader

class Fine(Sampler):
    def step(self, x: Loader):
        return super().step(x)

class Coarse(Sampler):
    def step(self, x):
        return 2 * x

def sample(sampler: Sampler, x: Loader) -> Loader:
    from house.rooms import helper
    return helper(t.double(sampler.step(x)))

def named(sampler):
    return getattr(sampler, "plot")()

def learned():
    return network.Net()
""",
    "house/rooms/__init__.py": "from house.rooms.tools import halve as helper\nfrom house.loader import Loader\n",
    "house/rooms/tools.py": """
from math import floor
TABLE = {}
TABLE["a"] = 1
for name in ("b",):
    print(name)

def double(x):
    return TABLE["a"] * x

def halve(x):
    return floor(x)

def unused(x):
    return x
""",
    "house/rooms/network.py": "import torch\n\nclass Net(torch.nn.Module):\n    def forward(self, x):\n        return x\n",
    "house/loader.py": "class Loader:\n    pass\n",
}


@pytest.fixture
def tree(tmp_path):
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def change(tree, file, old, new):
    text = (tree / file).read_text()
    assert old in text
    (tree / file).write_text(text.replace(old, new))


ROOTS = ("house.sample", "house.Fine")


@pytest.mark.parametrize(
    ("file", "old", "new", "matters"),
    [
        pytest.param("house/base.py", "x + 1", "x + 2", True, id="the method that one calls through super"),
        pytest.param("house/base.py", "steps = 3", "steps = 4", True, id="a default of the base"),
        pytest.param("house/sampler.py", "super().step(x)", "x", True, id="the sampler"),
        pytest.param("house/rooms/tools.py", "return floor(x)", "return -floor(x)", True, id="through a package's name for it"),
        pytest.param("house/rooms/tools.py", "import floor", "import ceil as floor", True, id="a library's function"),
        pytest.param("house/rooms/tools.py", 'TABLE["a"] = 1', 'TABLE["a"] = 2', True, id="a change to a table"),
        pytest.param("house/rooms/tools.py", '("b",)', '("c",)', True, id="what a module does at import"),
        pytest.param("house/sampler.py", "2 * x", "3 * x", False, id="another sampler of the same module"),
        pytest.param("house/rooms/tools.py", "def unused(x):\n    return x", "", False, id="another function there"),
        pytest.param("house/loader.py", "pass", "x = 1", False, id="what types alone or a package's other names need"),
        pytest.param("house/figures.py", "return x", "return 0", False, id="what a method needs that nothing asks for"),
        pytest.param("house/rooms/network.py", "return x", "return 0", False, id="a module that an unused function needs"),
        pytest.param("house/base.py", 'x: "Unused") -> int:', 'x) -> None:  # why\n        """What."""', False, id="words"),
    ],
)
def test_a_hash_changes_with_what_has_a_part(tree, file, old, new, matters):
    before = Code(tree).needed(*ROOTS)
    assert before and before == Code(tree).needed(*ROOTS)
    change(tree, file, old, new)
    assert (Code(tree).needed(*ROOTS) != before) == matters


def test_names_in_strings_and_methods_that_libraries_call(tree):
    code = Code(tree)
    assert "house.figures:draw" in code.needed("house.sampler.named", "house.Fine")
    assert "house.rooms.network:Net.forward" in code.needed("house.sampler.learned")
    assert "house.loader:Loader" in code.needed("house.rooms")  # a module that is handed about: all of it
    for wrong in ("house.nobody", "nobody.at.all"):
        with pytest.raises(ValueError, match=f"{wrong} is not defined"):
            code.needed(wrong)


def test_what_is_put_aside_has_no_part(tree):
    assert not any(name.startswith("house.rooms") for name in Code(tree, ("house.rooms",)).needed(*ROOTS))


def test_rows_depend_on_what_they_use():
    """Of the real code: the sampler's base but no loader, no other sampler, and peers on no sampler of ours."""
    code = Code(ROOT, source.ASIDE)
    exact, mri = BENCHMARKS["exact"], BENCHMARKS["mri"]
    methods = {m.name: m for m in exact.methods()}

    def modules(benchmark, method, suite, cell):
        return {name.partition(":")[0] for name in code.needed(*benchmark.parts(method, suite, cell))}

    mmps = modules(exact, methods["MMPS"], "mixture", "d 8, m 1")
    assert {"posterior.samplers.base", "posterior.guidance.mmps", "posterior.linalg", "posterior.driver"} <= mmps
    assert {"benchmarks.problems.mixture", "posterior.priors.mixture", "posterior.likelihoods.gaussian"} <= mmps
    unused = {"posterior.priors.loading", "posterior.guidance.dps", "posterior.samplers.smc.twisted", "posterior.figures.panel"}
    assert not mmps & {*unused, "benchmarks.problems.random_field", "posterior.recipes.mri.prepare", "operators.mri"}
    azula = modules(exact, methods["azula MMPS"], "mixture", "d 8, m 1")
    assert "benchmarks.peers.azula" in azula
    assert not azula & {"posterior.samplers.base", "posterior.driver", "benchmarks.peers.deepinv"}
    brain = modules(mri, next(m for m in mri.methods() if m.name == "DiffPIR"), "mri", "4x")
    assert {"posterior.priors.loading", "posterior.recipes.mri.prepare", "operators.mri", "benchmarks.fields.mri"} <= brain
    assert not brain & {"posterior.recipes.weather", "posterior.guidance.bridge", "operators.blur", "benchmarks.fields.weather"}


@pytest.mark.parametrize("name", list(BENCHMARKS))
def test_every_row_has_a_hash(name):
    benchmark = BENCHMARKS[name]
    for suite in benchmark.suites:
        for method in benchmark.methods():
            assert len(source.revision(*benchmark.parts(method, suite, benchmark.cells(suite)[0]))) == source.SHOWN
