"""Build the site: run the tutorials, write the reference pages, and hand it all to MkDocs in strict mode.

python -m docs.build                    everything, into build/site
python -m docs.build --only calibration one tutorial, and the rest of the pages
python -m docs.build --no-tutorials     pages and reference only

Needs the extra ``docs``. The tutorials are kept as scripts (jupytext's percent format) in docs/tutorials: they run as they
are, too. Here each becomes a notebook, is executed from its first cell to its last, and fails the build if a cell fails. What
was executed is kept until the tutorial or the code changes; --renew executes it again.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import logging
import os
import re
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nbformat import NotebookNode

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
BUILD = ROOT / "build"
PAGES = BUILD / "docs"
EXECUTED = BUILD / "executed"
_FIRST = ("mri", "weather", "calibration", "comparing-samplers")  # in the menu; the others follow by name
TUTORIALS = (*_FIRST, *sorted({p.stem for p in (DOCS / "tutorials").glob("*.py")} - set(_FIRST)))
# Pages from outside docs/, under the names they have in the site.
OUTSIDE = {
    "README.md": "readme.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "LICENSE": "license.md",
}
REFERENCE = {
    "posterior": "posterior",
    "uncertainty": "posterior.uncertainty",
    "plots": "posterior.uncertainty.plots",
    "operators": "operators",
}
_LINK = re.compile(r"(\]\()([^)#\s]+)((?:#[^)]*)?\))")


def stage(tutorials: tuple[str, ...] = TUTORIALS) -> None:
    """Copy the pages, with links between them as the site has them, to those tutorials that become pages."""
    shutil.rmtree(PAGES, ignore_errors=True)
    (PAGES / "tutorials").mkdir(parents=True)
    for path in sorted(DOCS.rglob("*.md")):
        target = PAGES / path.relative_to(DOCS)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(linked(path.read_text(encoding="utf-8"), path, tutorials), encoding="utf-8")
    for path in (p for suffix in ("png", "svg", "jpg") for p in DOCS.rglob(f"*.{suffix}")):
        target = PAGES / path.relative_to(DOCS)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    for name, staged in OUTSIDE.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        text = f"# Licence\n\n```text\n{text}\n```\n" if name == "LICENSE" else linked(text, ROOT / name, tutorials)
        (PAGES / staged).write_text(text, encoding="utf-8")


def linked(text: str, source: Path, tutorials: tuple[str, ...] = TUTORIALS) -> str:
    """Text of a page whose links to files of the repository point to the pages that these become.

    A link to a file that becomes no page loses its address and keeps its words.
    """

    def address(match: re.Match[str]) -> str:
        link = match[2]
        if "://" in link or link.startswith("mailto:"):
            return match[0]
        path = (source.parent / link).resolve()
        here = Path(OUTSIDE.get(source.name, source.name)) if source.parent == ROOT else source.relative_to(DOCS)
        if path.parent == ROOT and path.name in OUTSIDE:
            target = Path(OUTSIDE[path.name])
        elif path.parent == DOCS / "tutorials" and path.stem in tutorials:
            target = path.relative_to(DOCS).with_suffix(".md")
        elif path.is_relative_to(DOCS) and path.suffix != ".py" and path.is_file():
            target = path.relative_to(DOCS)
        elif path.is_relative_to(ROOT) and path.exists():
            return f"{match[1]}#{match[3]}" if match[3] == ")" else match[0]
        else:
            return match[0]  # MkDocs names it, and fails
        return f"{match[1]}{os.path.relpath(target, here.parent)}{match[3]}"

    return re.sub(r"\[([^\]]*)\]\(#\)", r"\1", _LINK.sub(address, text))


def code() -> bytes:
    """Digest of what a tutorial imports and loads."""
    digest = hashlib.sha256()
    kinds = {".py", ".pyi", ".css", ".js", ".json"}
    for folder in ("operators", "posterior", "data/priors"):
        for path in sorted(p for p in (ROOT / folder).rglob("*") if p.suffix in kinds and p.is_file()):
            digest.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    return digest.digest()


def executed(name: str, renew: bool = False) -> NotebookNode:
    """A tutorial as an executed notebook, whose metadata say how many seconds it took.

    It is kept in build/executed until the tutorial or the code changes: a build that was stopped goes on from there.
    """
    import jupytext
    import nbformat
    from nbclient import NotebookClient

    source = DOCS / "tutorials" / f"{name}.py"
    key = hashlib.sha256(code() + source.read_bytes()).hexdigest()[:16]
    kept = EXECUTED / f"{name}-{key}.ipynb"
    if kept.exists() and not renew:
        return nbformat.read(kept, as_version=4)
    notebook = jupytext.read(source)
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    start = time.monotonic()
    where = {"metadata": {"path": str(ROOT)}}
    NotebookClient(notebook, timeout=1800, kernel_name="python3", coalesce_streams=True, resources=where).execute()
    notebook.metadata["executed_seconds"] = round(time.monotonic() - start)
    EXECUTED.mkdir(parents=True, exist_ok=True)
    for old in EXECUTED.glob(f"{name}-{'?' * 16}.ipynb"):
        old.unlink()
    nbformat.write(notebook, kept)
    return notebook


def tutorial(name: str, renew: bool = False) -> int:
    """Write one executed tutorial as a page, with its figures and the notebook to download; seconds it took to execute."""
    import nbformat
    from nbconvert import MarkdownExporter

    notebook = executed(name, renew)
    seconds = notebook.metadata["executed_seconds"]
    folder = PAGES / "tutorials"
    nbformat.write(notebook, folder / f"{name}.ipynb")
    body, resources = MarkdownExporter().from_notebook_node(notebook, {"output_files_dir": name, "unique_key": name})
    for file, data in resources["outputs"].items():
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_bytes(data)
    note = f"\n\n*[This page as a notebook]({name}.ipynb), executed in {seconds} s.*\n"
    (folder / f"{name}.md").write_text(body.rstrip() + note, encoding="utf-8")
    return seconds


def reference() -> None:
    """A page of docstrings for each package, of its public names."""
    (PAGES / "reference").mkdir(exist_ok=True)
    for page, package in REFERENCE.items():
        module = importlib.import_module(package)
        lines = [f"# {package}", "", (module.__doc__ or "").strip(), ""]
        for name in sorted(n for n in module.__all__ if not n.startswith("_")):
            value = getattr(module, name)
            home = getattr(value, "__module__", None)
            if home is None or not home.startswith(package.partition(".")[0]):
                continue
            lines += [f"::: {home}.{getattr(value, '__qualname__', name)}", ""]
        (PAGES / "reference" / f"{page}.md").write_text("\n".join(lines), encoding="utf-8")


def navigation(tutorials: tuple[str, ...]) -> list[dict[str, object]]:
    """The menu: every page that was staged is in it."""
    measured = sorted(p.name for p in PAGES.glob("results-*.md"))
    named = {"index.md", "readme.md", "contributing.md", "changelog.md", "license.md", "dependencies.md"}
    guides = sorted(p.name for p in PAGES.glob("*.md") if p.name not in named and p.name not in measured)
    menu: list[dict[str, object]] = [{"Start": ["index.md", "readme.md"]}]
    if tutorials:
        menu.append({"Tutorials": [f"tutorials/{name}.md" for name in tutorials]})
    menu += [{"Guides": guides}, {"Measured": measured}] if measured else [{"Guides": guides}]
    menu.append({"Reference": [{package: f"reference/{page}.md"} for page, package in REFERENCE.items()]})
    menu.append({"Project": ["contributing.md", "dependencies.md", "changelog.md", "license.md"]})
    return menu


def site(tutorials: tuple[str, ...]) -> Path:
    """Hand the staged pages to MkDocs; a warning fails the build."""
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    config = load_config(str(ROOT / "mkdocs.yml"), nav=navigation(tutorials), strict=True)
    config.plugins.on_startup(command="build", dirty=False)
    try:
        build(config)
    finally:
        config.plugins.on_shutdown()
    return BUILD / "site"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=TUTORIALS, action="append", help="run this tutorial only; may be repeated")
    parser.add_argument("--no-tutorials", action="store_true", help="run none")
    parser.add_argument("--renew", action="store_true", help="run also what was run with the same code")
    a = parser.parse_args(arguments)
    chosen = () if a.no_tutorials else tuple(a.only or TUTORIALS)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")  # why a strict build fails
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    stage(chosen)
    for name in chosen:
        print(f"{name}: executed in {tutorial(name, a.renew)} s", flush=True)
    reference()
    print(f"wrote {site(chosen)}")


if __name__ == "__main__":
    main()
