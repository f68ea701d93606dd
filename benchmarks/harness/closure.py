"""The code that a name needs, found without running it: definitions, what they refer to, and so on to the end.

The unit is a definition at the top of a module, or a method. Names are followed through imports (absolute, relative, inside
functions) and through packages to where a name is defined, also those that import at first use by an ``__init__.pyi``; not
into annotations. A method is needed where its class is and its name is mentioned as an attribute anywhere in what is needed,
whatever it is an attribute of; all methods are of a class that extends one from elsewhere, which may call them. What a module
does beside defining names is needed with any of them. Modules found by a computed name are not followed: callers name what is
in them.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

# Classes of elsewhere that call no methods of those who extend them.
PLAIN = ("abc.ABC", "typing.Protocol", "typing.Generic", "typing.NamedTuple", "enum.Enum", "enum.StrEnum")
LOOKUPS = ("getattr", "hasattr", "setattr")
Function = ast.FunctionDef | ast.AsyncFunctionDef
Place = tuple[str, str]  # module, and name in it: "Class", "Class.method", "function", "" for what the module does besides


@dataclass
class Part:
    """One unit: its statements, and what they mention."""

    statements: list[ast.stmt] = field(default_factory=list)

    @cached_property
    def code(self) -> str:
        """Without comments, docstrings and annotations of functions."""
        return "\n".join(ast.unparse(s) for s in self.statements)

    @cached_property
    def imports(self) -> dict[str, tuple[ast.Import | ast.ImportFrom, ast.alias]]:
        """Names that it imports itself."""
        return dict(_imported(n for s in self.statements for n in ast.walk(s)))

    @cached_property
    def mentioned(self) -> tuple[set[tuple[str, ...]], set[str]]:
        """Dotted names, each as long as it is, and names of attributes of anything."""
        names, attributes = set(), set()
        for node in (n for s in self.statements for n in _evaluated(s)):
            if isinstance(node, ast.Name):
                names.add((node.id,))
            elif isinstance(node, ast.Attribute):
                chain = _chain(node)
                names |= {chain} if chain else set()
                attributes |= set(chain[1:]) if chain else {node.attr}
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in LOOKUPS:
                attributes |= {a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)}
        return names, attributes


class Module:
    """A file, in parts."""

    def __init__(self, name: str, path: Path) -> None:
        self.name = name
        self.package = name if path.stem == "__init__" else name.rpartition(".")[0]
        tree = _without_words(ast.parse(path.read_text()))
        self.imports = dict(_imported(_outside_functions(tree)))
        self.parts: dict[str, Part] = defaultdict(Part)
        self.methods: dict[str, list[str]] = {}
        self.bases: dict[str, list[ast.expr]] = {}
        for statement in tree.body:
            self._place(statement)

    def _place(self, statement: ast.stmt) -> None:
        if isinstance(statement, ast.Import | ast.ImportFrom) or _for_types(statement):
            return
        if isinstance(statement, ast.ClassDef):
            methods = [s for s in statement.body if isinstance(s, Function)]
            for method in methods:
                self.parts[f"{statement.name}.{method.name}"].statements.append(method)
            statement.body = [s for s in statement.body if not isinstance(s, Function)] or [ast.Pass()]
            self.methods[statement.name] = list(dict.fromkeys(m.name for m in methods))
            self.bases[statement.name] = statement.bases
        for name in self._names(statement) or [""]:
            self.parts[name].statements.append(statement)

    def _names(self, statement: ast.stmt) -> list[str]:
        """What it defines, or changes; a function that is registered somewhere belongs to the register."""
        if isinstance(statement, Function | ast.ClassDef):
            found = [c[0] for d in statement.decorator_list if (c := _chain(d.func if isinstance(d, ast.Call) else d))]
            return [statement.name, *(name for name in found if name in self.parts)]
        targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
        if not isinstance(statement, ast.Assign | ast.AnnAssign | ast.AugAssign):
            return []
        return [n.id for t in targets if t for n in ast.walk(t) if isinstance(n, ast.Name)]

    def origin(self, statement: ast.Import | ast.ImportFrom, alias: ast.alias) -> tuple[str, ...]:
        """The whole name of what an import binds."""
        if isinstance(statement, ast.Import):
            return tuple(alias.name.split(".")) if alias.asname else (alias.name.split(".")[0],)
        parts = self.package.split(".")
        base = parts[: len(parts) - statement.level + 1] if statement.level else []
        return (*base, *(statement.module.split(".") if statement.module else ()), alias.name)


class Code:
    """All modules below a folder, each read once.

    Args:
        root: The folder.
        aside: Modules and packages that are not looked into.
    """

    def __init__(self, root: Path, aside: tuple[str, ...] = ()) -> None:
        self.root = root
        self.aside = aside
        self.modules: dict[str, Module | None] = {}

    def module(self, name: str) -> Module | None:
        """A module by its dotted name; None if it is not below the folder."""
        if name not in self.modules:
            path = self.root.joinpath(*name.split("."))
            found = [p for p in (path / "__init__.pyi", path / "__init__.py", path.with_suffix(".py")) if p.is_file()]
            self.modules[name] = Module(name, found[0]) if found else None
        return self.modules[name]

    def needed(self, *names: str) -> dict[str, str]:
        """The code of everything that dotted names need, by "module:name", and the libraries' names in it.

        Raises:
            ValueError: If there is no such name.
        """
        todo: list[Place] = []
        for name in names:
            found, _ = self.find(tuple(name.split(".")))
            if not found:
                raise ValueError(f"{name} is not defined below {self.root.name}")
            todo += found
        seen: dict[Place, str] = {}
        mentioned: set[str] = set()
        waiting: dict[str, list[Place]] = defaultdict(list)
        while todo:
            place = todo.pop()
            module = self.module(place[0])
            if place in seen or module is None or place[1] not in module.parts or self._aside(place[0]):
                continue
            part = module.parts[place[1]]
            chains, attributes = part.mentioned
            seen[place], outside = part.code, set()
            todo.append((module.name, ""))
            for chain in chains:
                found, library = self.resolve(module, part, chain)
                todo += found
                outside |= {library} - {""}
            seen[place] += "".join(f"\n# {name}" for name in sorted(outside))
            for attribute in attributes - mentioned:
                todo += waiting.pop(attribute, [])
            mentioned |= attributes
            for method in module.methods.get(place[1], ()):
                at = (module.name, f"{place[1]}.{method}")
                ready = method.startswith("__") or method in mentioned or self.open(module, place[1])
                (todo if ready else waiting[method]).append(at)
        return {f"{module}:{name}": code for (module, name), code in sorted(seen.items()) if code}

    def resolve(self, module: Module, part: Part, chain: tuple[str, ...]) -> tuple[list[Place], str]:
        """Where a dotted name in a part of a module leads, and what it stands for if that is a library's."""
        head = part.imports.get(chain[0]) or module.imports.get(chain[0])
        if head:
            origin = module.origin(*head)
            whole = (*origin, *chain[1:])
            found, inside = self.find(whole)
            return found, "" if inside else ".".join(whole)
        return ([(module.name, chain[0])] if chain[0] in module.parts else []), ""

    def find(self, whole: tuple[str, ...], before: frozenset[tuple[str, ...]] = frozenset()) -> tuple[list[Place], bool]:
        """Where a whole name is defined, and whether it is below the folder at all."""
        module = self.module(whole[0])
        if module is None:
            return [], False
        for i, name in enumerate(whole[1:], 1):
            if name in module.parts:
                return [(module.name, name)], True
            if name in module.imports and whole[: i + 1] not in before:
                origin = module.origin(*module.imports[name])
                return self.find((*origin, *whole[i + 1 :]), before | {whole[: i + 1]})
            inner = self.module(f"{module.name}.{name}")
            if inner is None:
                return [], True
            module = inner
        # The module itself is handed about: all that is in it.
        found = [(module.name, name) for name in module.parts]
        for name in module.imports:
            if (*whole, name) not in before:
                found += self.find((*whole, name), before | {whole})[0]
        return found, True

    def _aside(self, name: str) -> bool:
        return any(name == a or name.startswith(f"{a}.") for a in self.aside)

    def open(self, module: Module, name: str) -> bool:
        """Whether a class extends one from elsewhere that may call its methods."""
        for base in module.bases.get(name, ()):
            chain = _chain(base.value if isinstance(base, ast.Subscript) else base)
            if chain is None:
                return True
            found, library = self.resolve(module, module.parts[name], chain)
            if library and library not in PLAIN:
                return True
            above = [(self.module(where), inner) for where, inner in found]
            if any(at is not None and self.open(at, inner) for at, inner in above):
                return True
        return False


def _without_words(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | Function):
            if ast.get_docstring(node, clean=False) is not None:
                node.body = node.body[1:] or [ast.Pass()]
            if isinstance(node, Function):
                node.returns = None
        elif isinstance(node, ast.arg):
            node.annotation = None
    tree.body = [s for s in tree.body if not isinstance(s, ast.Pass)]
    return tree


def _imported(nodes: Iterator[ast.AST]) -> Iterator[tuple[str, tuple[ast.Import | ast.ImportFrom, ast.alias]]]:
    for node in nodes:
        if isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                yield alias.asname or (alias.name.split(".")[0] if isinstance(node, ast.Import) else alias.name), (node, alias)


def _outside_functions(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        yield child
        if not isinstance(child, Function | ast.ClassDef):
            yield from _outside_functions(child)


def _evaluated(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those of annotations, and those inside a dotted name."""
    yield node
    if isinstance(node, ast.Attribute) and _chain(node):
        return
    for name, value in ast.iter_fields(node):
        if not (isinstance(node, ast.AnnAssign) and name == "annotation"):
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from _evaluated(child)


def _chain(node: ast.expr) -> tuple[str, ...] | None:
    names = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    return (node.id, *reversed(names)) if isinstance(node, ast.Name) else None


def _for_types(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.If) and (chain := _chain(statement.test)) is not None and chain[-1] == "TYPE_CHECKING"
