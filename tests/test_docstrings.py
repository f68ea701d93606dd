"""Docstrings of public names tell every argument, and that they raise where they do."""

import ast
import inspect
import re
import textwrap

import pytest

import operators
import posterior
from posterior import io, uncertainty
from posterior.recipes.calibration import SAMPLERS

PLACES = {"posterior": posterior, "operators": operators, "uncertainty": uncertainty, "io": io}
PUBLIC = {
    f"{place}.{name}": value
    for place, module in PLACES.items()
    for name in module.__all__
    if callable(value := getattr(module, name)) and not inspect.ismodule(value)
}


def raises_itself(target):
    """Whether the function, or what makes an object of the class, has a raise of its own."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(target))).body[0]
    made_by = [tree]
    if isinstance(tree, ast.ClassDef):
        made_by = [f for f in tree.body if isinstance(f, ast.FunctionDef) and f.name in ("__init__", "__post_init__")]
    return any(isinstance(node, ast.Raise) for part in made_by for node in ast.walk(part))


@pytest.mark.parametrize("name", PUBLIC)
def test_docstring_tells_arguments_and_errors(name):
    target = PUBLIC[name]
    text = inspect.getdoc(target) or ""
    assert text.strip(), f"{name} has no docstring"
    if inspect.isclass(target) and issubclass(target, Exception):
        return
    arguments = [
        p.name for p in inspect.signature(target).parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    untold = [a for a in arguments if not re.search(rf"\b{a}\b", text)]
    assert not untold, f"the docstring of {name} says nothing of {untold}"
    assert "Raises:" in text or not raises_itself(target), f"{name} raises, and its docstring does not say so"


@pytest.mark.parametrize("name", (*SAMPLERS, "REDDiff"))
def test_every_sampler_names_its_source(name):
    assert "References:" in (inspect.getdoc(getattr(posterior, name)) or "")
