import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WEIGHTS_LIMIT = 16 * 2**20  # bytes, per file


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The built wheel, open for reading."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=300,
    )
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


@pytest.fixture(scope="module")
def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def readme():
    return (ROOT / "README.md").read_text()


def _tracked(folder):
    """Files below a folder that git does not ignore, as paths relative to the repository."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", folder],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return {line for line in listing.splitlines() if (ROOT / line).is_file()}


def test_a_room_imports_only_rooms_above_it():
    """The order is that of the code map; modules that begin with an underscore serve all of them."""
    code_map = (ROOT / "CONTRIBUTING.md").read_text().partition("## Code map")[2].partition("Inside `posterior`")[0]
    items = re.split(r"^\d+\. ", code_map, flags=re.MULTILINE)[1:]
    place = {}
    for number, item in enumerate(items):
        for name in re.findall(r"`(?:posterior/)?(\w+)(?:/|\.py)`", item):
            place.setdefault(name, number)
    package = ROOT / "posterior"
    rooms = {path.relative_to(package).parts[0].removesuffix(".py") for path in package.rglob("*.py")}
    rooms = {room for room in rooms if not room.startswith("_")}
    assert rooms <= set(place), f"not on the code map: {rooms - set(place)}"
    for path in package.rglob("*.py"):
        room = path.relative_to(package).parts[0].removesuffix(".py")
        if room not in rooms:
            continue
        tree = ast.parse(path.read_text())
        for_types = [node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)]
        skipped = {id(inner) for node in for_types for inner in ast.walk(node)}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and id(node) not in skipped and (node.module or "").startswith("posterior."):
                other = node.module.split(".")[1]
                assert other not in rooms or place[other] <= place[room], f"{path.relative_to(ROOT)} imports {node.module}"


def test_wheel_installs_only_two_packages(wheel, project):
    top_level = {name.split("/")[0] for name in wheel.namelist()}
    assert top_level == {"posterior", "operators", f"posterior-{project['version']}.dist-info"}


def test_wheel_holds_the_code(wheel):
    code = {path for folder in ("posterior", "operators") for path in _tracked(folder)}
    assert code <= set(wheel.namelist())
    assert {"posterior/py.typed", "operators/py.typed"} <= code


def test_wheel_holds_the_bundled_data(wheel):
    expected = {path for folder in ("data/priors", "data/samples") for path in _tracked(folder)}
    expected = {path.replace("data/", "posterior/_data/", 1) for path in expected | {"data/registry.toml"}}
    found = {name for name in wheel.namelist() if name.startswith("posterior/_data/")}
    assert found == expected
    assert any(re.fullmatch(r"posterior/_data/priors/brain-mri/.*\.safetensors", name) for name in found)


def test_weights_in_the_wheel_are_small(wheel):
    weights = [info for info in wheel.infolist() if info.filename.endswith((".safetensors", ".pt", ".bin"))]
    assert {info.filename: info.file_size for info in weights if info.file_size > WEIGHTS_LIMIT} == {}


def test_wheel_metadata(wheel, project):
    (metadata,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    text = wheel.read(metadata).decode()
    assert f"Version: {project['version']}\n" in text
    assert "License-Expression: Apache-2.0\n" in text
    entry_points = wheel.read(metadata.replace("METADATA", "entry_points.txt")).decode()
    assert "posterior = posterior.cli:main" in entry_points


def test_import_is_fast():
    def seconds(module):
        code = f"import time; t = time.perf_counter(); import {module}; print(time.perf_counter() - t)"
        command = [sys.executable, "-c", code]
        runs = [subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True) for _ in range(3)]
        return min(float(run.stdout) for run in runs)

    assert seconds("posterior") - seconds("torch") < 1.5


def test_public_names_are_there_at_first_use():
    code = (
        "import sys, posterior, operators\n"
        "assert not {'torch', 'numpy', 'deepinv'} & set(sys.modules), 'heavy'\n"
        "for package in (posterior, posterior.io, posterior.uncertainty, operators):\n"
        "    assert set(package.__all__) <= set(dir(package))\n"
        "    for name in package.__all__:\n"
        "        getattr(package, name)\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_readme_has_exactly_two_setup_commands(readme):
    commands = re.findall(r"^```bash setup\n(.*?)^```$", readme, flags=re.MULTILINE | re.DOTALL)
    assert [command.count("\n") for command in commands] == [1, 1]  # one line each
    demo, tests = commands
    for command in commands:
        assert command.startswith("python3.11 -m venv ")
        assert "pip install" in command
    assert demo.rstrip().endswith("posterior demo")
    assert tests.rstrip().endswith("pytest")
    other = re.sub(r"^```bash setup\n.*?^```$", "", readme, flags=re.MULTILINE | re.DOTALL)
    assert "pip install" not in other


def test_readme_python_uses_names_that_exist(readme):
    (source,) = re.findall(r"^```python\n(.*?)^```$", readme, flags=re.MULTILINE | re.DOTALL)
    import operators
    import posterior

    modules = {"posterior": posterior, "operators": operators}
    used = {
        (node.value.id, node.attr)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules
    }
    assert used
    assert [f"{module}.{name}" for module, name in used if not hasattr(modules[module], name)] == []


def test_every_dependency_is_explained(project):
    page = (ROOT / "docs" / "dependencies.md").read_text()
    requirements = [
        *project["dependencies"],
        *(line for extra in project["optional-dependencies"].values() for line in extra),
    ]
    names = {re.match(r"[A-Za-z0-9_-]+", requirement).group() for requirement in requirements} - {"posterior"}
    assert {name for name in names if f"**{name}**" not in page} == set()
