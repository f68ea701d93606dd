"""What pages say of names, options, settings and cards is so: fences are parsed, not run."""

import ast
import inspect
import json
import re
import shlex
import tomllib
from importlib import import_module
from pathlib import Path

import pytest
import typer

import operators
import posterior
from posterior.cli import app

ROOT = Path(__file__).parents[1]
PAGES = {p.name: p.read_text() for p in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}
FENCE = re.compile(r"^```(\w+)[^\n]*\n(.*?)^```", re.DOTALL | re.MULTILINE)
PUBLIC = {name: getattr(m, name) for m in (operators, posterior) for name in m.__all__}


def fences(language):
    return [(page, code) for page, text in PAGES.items() for kind, code in FENCE.findall(text) if kind == language]


def calls():
    """Page and code of every call of a public name, in python fences and in the prose: `DPS(steps=1000)`."""
    for page, code in fences("python"):
        yield from ((page, ast.unparse(n)) for n in ast.walk(ast.parse(code)) if isinstance(n, ast.Call))
    for page, text in PAGES.items():
        for code in re.findall(r"`([A-Za-z_.]+\([^`\n]*\))`", FENCE.sub("", text)):
            yield page, code.replace("=)", "=...)").replace("=,", "=...,")


def public(function):
    """A name of ours that is called plainly, or by posterior. or operators. before it."""
    if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name):
        return PUBLIC.get(function.attr) if function.value.id in ("posterior", "operators") else None
    return PUBLIC.get(function.id) if isinstance(function, ast.Name) else None


def test_calls_of_public_names_fit_their_signatures():
    checked = 0
    for page, code in calls():
        try:
            call = ast.parse(code, mode="eval").body
        except SyntaxError:
            continue  # prose, such as N(D, C)
        target = public(call.func) if isinstance(call, ast.Call) else None
        if target is None:
            continue
        try:
            inspect.signature(target).bind_partial(*call.args, **{k.arg: k.value for k in call.keywords})
        except TypeError as error:
            pytest.fail(f"{page}: {code}: {error}")
        checked += 1
    assert checked > 10


def test_what_python_fences_import_and_name_is_there():
    for page, code in fences("python"):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom):
                missing = [a.name for a in node.names if not hasattr(import_module(node.module), a.name)]
                assert not missing, f"{page}: {node.module} has no {missing}"
            elif (
                isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name)
                and node.value.id in ("posterior", "operators")
            ):
                assert hasattr(import_module(node.value.id), node.attr), f"{page}: {ast.unparse(node)}"


def test_commands_and_their_options_are_there():
    found = 0
    for page, code in fences("bash"):
        for line in code.splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] != ["posterior"]:
                continue
            command = typer.main.get_command(app)
            names = iter(words[1:])
            for word in names:
                if word.startswith("-") or not hasattr(command, "commands"):
                    break
                assert word in command.commands, f"{page}: {line}"
                command = command.commands[word]
            known = {option for p in command.params for option in p.opts}
            assert {w for w in words if w.startswith("--")} <= known, f"{page}: {line}"
            found += 1
    assert found > 5


def test_the_training_file_in_short_is_the_one_that_trains():
    (code,) = (code for page, code in fences("toml") if page == "training.md")
    short, whole = tomllib.loads(code), tomllib.loads((ROOT / "data" / "training" / "t2m-uk.toml").read_text())
    short["data"].pop("file")  # the other way to say which data, beside registry
    for days in ("train", "develop"):
        assert all(period in whole["data"][days] for period in short["data"].pop(days))
    for name, value in short.items():
        assert value.items() <= whole[name].items() if isinstance(value, dict) else value == whole[name], name


def test_every_prior_that_ships_is_listed_with_what_its_card_says():
    text = PAGES["training.md"]
    assert set(re.findall(r"^\| \[([\w-]+)\]", text, re.MULTILINE)) == set(posterior.bundled_priors())
    for name in posterior.bundled_priors():
        low, high = map(int, re.search(rf"\[{name}\].* (\d+) to (\d+) % less error", text).groups())
        card = json.loads((ROOT / "data" / "priors" / name / "posterior.json").read_text())["card"]
        rows = [r for r in card["held_out_rmse"] if 0.05 <= r["sigma"] <= 2]
        less = [100 * (1 - r["network"] / r["gaussian"]) for r in rows]
        assert (low, high) == (round(min(less)), round(max(less))), (name, less)
