"""Python files as definitions: what each defines, imports and runs, and a text of the code that no version changes.

For core/digest.py, which says what counts. Nothing here knows which package it reads.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Dotted = tuple[str, ...]  # ("store", "Artifact"): a name and its attributes

IMPORTERS = ("import_module", "__import__")  # called with a computed name, they may mean any module
SKIPPED = {"ctx", "kind", "type_comment", "type_params", "type_ignores", "simple", "annotation", "returns"}


class Source:
    """A file's statements, sorted by what they do."""

    def __init__(self, name: str, file: Path):
        self.name, self.is_package = name, file.name == "__init__.py"
        self.definitions: dict[str, list[ast.stmt]] = {}
        self.imports: dict[str, set[Dotted]] = {}  # name here → what it means
        self.loads: set[Dotted] = set()
        self.stars: set[Dotted] = set()
        self.statements: list[ast.stmt] = []
        self.main: list[ast.stmt] = []
        self.decorated: list[tuple[str, str]] = []  # definition, first name of a decorator
        for statement in ast.parse(file.read_bytes(), str(file)).body:
            self._sort(statement)

    def binds(self, name: str) -> bool:
        return name in self.definitions or name in self.imports

    def _sort(self, statement: ast.stmt) -> None:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            self.definitions.setdefault(statement.name, []).append(statement)
            for decorator in statement.decorator_list:
                self.decorated += [(statement.name, n.id) for n in ast.walk(decorator) if isinstance(n, ast.Name)]
        elif isinstance(statement, ast.Import | ast.ImportFrom):
            self._import(statement)
        elif isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            pass
        elif isinstance(statement, ast.If) and ast.unparse(statement.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            for part in statement.body:  # never run, but an annotation in a class may use the names
                if isinstance(part, ast.Import | ast.ImportFrom):
                    self._import(part, loads=False)
            for part in statement.orelse:
                self._sort(part)
        elif isinstance(statement, ast.If) and ast.unparse(statement.test) == "__name__ == '__main__'":
            self.main += statement.body
            for part in statement.orelse:
                self._sort(part)
        elif isinstance(statement, ast.AnnAssign) and statement.value is None:
            pass
        elif (names := _assigned(statement)) is not None:
            for name in names:
                self.definitions.setdefault(name, []).append(statement)
        else:
            self._side_effect(statement)

    def _side_effect(self, statement: ast.stmt) -> None:
        self.statements.append(statement)
        for node in ast.walk(statement):
            if isinstance(node, ast.Import | ast.ImportFrom):
                self._import(node)
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                self.definitions.setdefault(node.name, []).append(statement)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                self.definitions.setdefault(node.id, []).append(statement)

    def _import(self, node: ast.Import | ast.ImportFrom, loads: bool = True) -> None:
        for name, target, loaded in self.imported(node):
            if name == "*":
                self.stars.add(target[:-1])
            elif target[0] != "__future__":
                self.imports.setdefault(name, set()).add(target)
            if loads:
                self.loads.add(loaded)

    def imported(self, node: ast.Import | ast.ImportFrom) -> Iterator[tuple[str, Dotted, Dotted]]:
        """Name here, what it means, and what is loaded: `import a.b` loads a.b, and its name is a."""
        if isinstance(node, ast.Import):
            for alias in node.names:
                parts = tuple(alias.name.split("."))
                yield (alias.asname, parts, parts) if alias.asname else (parts[0], parts[:1], parts)
            return
        base = node.module.split(".") if node.module else []
        if node.level:
            here = self.name.split(".")
            base = here[: len(here) - node.level + self.is_package] + base
        for alias in node.names:
            parts = (*base, alias.name)
            yield alias.asname or alias.name, parts, parts


def _assigned(statement: ast.stmt) -> list[str] | None:
    """Names that an assignment defines; None for any other statement, and for assignments to parts of something."""
    if isinstance(statement, ast.Assign):
        todo: list[ast.expr] = list(statement.targets)
    elif isinstance(statement, ast.AnnAssign):
        todo = [statement.target]
    else:
        return None
    names = []
    while todo:
        target = todo.pop()
        if isinstance(target, ast.Name):
            names.append(target.id)
        elif isinstance(target, ast.Tuple | ast.List):
            todo += target.elts
        elif isinstance(target, ast.Starred):
            todo.append(target.value)
        else:
            return None
    return names


def table_keys(statements: Sequence[ast.stmt]) -> list[str] | None:
    """Keys of a definition that is one dict with text for keys; None for any other definition."""
    first = statements[0] if len(statements) == 1 else None
    if not isinstance(first, ast.Assign | ast.AnnAssign) or not isinstance(first.value, ast.Dict):
        return None
    nodes = first.value.keys
    keys = [key.value for key in nodes if isinstance(key, ast.Constant) and isinstance(key.value, str)]
    return keys if len(keys) == len(nodes) else None


def only(statement: ast.stmt, keys: Dotted) -> ast.stmt:
    """That definition with these entries only."""
    assert isinstance(statement, ast.Assign | ast.AnnAssign) and isinstance(statement.value, ast.Dict)
    pairs = zip(statement.value.keys, statement.value.values, strict=True)
    kept = [(key, value) for key, value in pairs if isinstance(key, ast.Constant) and key.value in keys]
    targets: list[ast.expr] = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
    return ast.Assign(targets=targets, value=ast.Dict(keys=[k for k, _ in kept], values=[v for _, v in kept]))


# ----------------------------------------------------------------------------------------------- one definition


@dataclass
class Scope:
    """Names inside a function, class or comprehension."""

    is_class: bool = False
    loads: set[Dotted] = field(default_factory=set)
    bound: set[str] = field(default_factory=set)
    outer: set[str] = field(default_factory=set)  # global and nonlocal
    imports: dict[str, list[Dotted]] = field(default_factory=dict)


class Text:
    """The same text for the same code under every Python, and the names that the code takes from its module.

    `ast.dump` is not: it says more or less from one Python to the next. Here fields stand in alphabetical order, and
    empty ones, zeros and what cannot matter are left out, so that a field that a later Python adds does not show. Text
    in f-strings is merged, as Pythons split it differently.
    """

    def __init__(self, source: Source):
        self.source = source
        self.out: list[str] = []
        self.scopes = [Scope()]
        self.imported: set[Dotted] = set()  # full names used through imports inside functions
        self.loads: set[Dotted] = set()
        self.unfollowed = False

    def add(self, node: ast.AST) -> None:
        _HANDLERS.get(type(node), Text.plain)(self, node)

    def plain(self, node: Any) -> None:
        out = self.out
        out.append(type(node).__name__)
        out.append("(")
        for name in _fields(type(node)):
            value = getattr(node, name, None)
            if not value:
                continue
            out.append(name)
            out.append("=")
            if isinstance(value, ast.AST):
                self.add(value)
            elif isinstance(value, list):
                self.list(value)
            else:
                out.append(ascii(value))
            out.append(",")
        out.append(")")

    def list(self, items: Iterable[Any]) -> None:
        self.out.append("[")
        for item in items:
            before = len(self.out)
            if isinstance(item, ast.AST):
                self.add(item)
            else:
                self.out.append(ascii(item))
            if len(self.out) > before:  # docstrings leave no trace
                self.out.append(",")
        self.out.append("]")

    def constant(self, node: ast.Constant | ast.MatchSingleton) -> None:
        # ascii: which characters repr shows as they are depends on Python's Unicode tables.
        self.out.append(f"{type(node.value).__name__}:{node.value!a}")

    def name(self, node: ast.Name) -> None:
        self.out.append(node.id)
        self.unfollowed |= node.id in IMPORTERS
        if isinstance(node.ctx, ast.Load):
            self.scopes[-1].loads.add((node.id,))
        else:
            self.scopes[-1].bound.add(node.id)

    def attribute(self, node: ast.Attribute) -> None:
        names, base = [node.attr], node.value
        while isinstance(base, ast.Attribute):
            names.append(base.attr)
            base = base.value
        if isinstance(base, ast.Name):
            path = (base.id, *reversed(names))
            self.scopes[-1].loads.add(path)
            self.out.append(".".join(path))
            self.unfollowed |= path[-1] in IMPORTERS or (path[:2] == ("sys", "modules") and len(path) > 2)
        else:
            self.out.append("(")
            self.add(base)
            self.out.append(").")
            self.out.append(".".join(reversed(names)))

    def call(self, node: ast.Call) -> None:
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        first = node.args[0] if name in IMPORTERS and len(node.args) == 1 else None
        if isinstance(first, ast.Constant) and isinstance(first.value, str):
            self.out.append(f"import {first.value}")
            parts = tuple(first.value.split("."))
            self.loads.add(parts)
            self.imported.add(parts)
        else:
            self.plain(node)

    def item(self, node: ast.Subscript) -> None:
        """sys.modules["torch"] says which module it means, sys.modules[name] does not."""
        where, key = node.value, node.slice
        if isinstance(where, ast.Attribute) and where.attr == "modules" and getattr(where.value, "id", "") == "sys":
            self.unfollowed |= not isinstance(key, ast.Constant)
            if isinstance(key, ast.Constant) and isinstance(key.value, str):
                self.imported.add(tuple(key.value.split(".")))
        self.plain(node)

    def expression(self, node: ast.Expr) -> None:
        if not isinstance(node.value, ast.Constant):
            self.plain(node)

    def annotated(self, node: ast.AnnAssign) -> None:
        if self.scopes[-1].is_class:
            self.out.append("Field")
            self.list([node.target, node.annotation, node.value])
        elif node.value is not None:
            self.add(ast.Assign(targets=[node.target], value=node.value))
        elif isinstance(node.target, ast.Name):
            self.scopes[-1].bound.add(node.target.id)

    def augmented(self, node: ast.AugAssign) -> None:
        self.plain(node)
        if isinstance(node.target, ast.Name):
            self.scopes[-1].loads.add((node.target.id,))

    def fstring(self, node: ast.JoinedStr) -> None:
        parts: list[str | ast.FormattedValue] = []
        for part in _flat(node):
            if isinstance(part, str) and parts and isinstance(parts[-1], str):
                parts[-1] += part
            elif part != "":
                parts.append(part)
        if not any(isinstance(part, ast.FormattedValue) for part in parts):
            self.constant(ast.Constant("".join(part for part in parts if isinstance(part, str))))
            return
        self.out.append("f")
        self.list(parts)

    def formatted(self, node: ast.FormattedValue) -> None:
        self.out.append("{")
        self.add(node.value)
        self.out.append(f"!{node.conversion}:")
        if node.format_spec is not None:
            self.add(node.format_spec)
        else:
            self.constant(ast.Constant(""))
        self.out.append("}")

    def function(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> None:
        self.out.append(type(node).__name__)
        if not isinstance(node, ast.Lambda):
            self.scopes[-1].bound.add(node.name)
            self.out.append(f" {node.name} ")
            self.list(node.decorator_list)
        a = node.args
        self.list(a.defaults)
        self.list(a.kw_defaults)
        self.scopes.append(Scope())
        for group in (a.posonlyargs, a.args, [a.vararg], a.kwonlyargs, [a.kwarg]):
            names = [argument.arg for argument in group if argument is not None]
            self.scopes[-1].bound.update(names)
            self.list(names)
        if isinstance(node, ast.Lambda):
            self.add(node.body)
        else:
            self.list(node.body)
        self.close()

    def klass(self, node: ast.ClassDef) -> None:
        self.scopes[-1].bound.add(node.name)
        self.out.append(f"ClassDef {node.name} ")
        for outside in (node.decorator_list, node.bases, node.keywords):
            self.list(outside)
        self.scopes.append(Scope(is_class=True))
        self.list(node.body)
        self.close()

    def comprehension(self, node: Any) -> None:
        self.out.append(f"{type(node).__name__} ")
        self.add(node.generators[0].iter)  # outside the new scope, in which its names may be hidden
        self.scopes.append(Scope())
        for k, part in enumerate(node.generators):
            self.list([part.is_async, part.target, *([part.iter] if k else []), *part.ifs])
        self.list([node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt])
        self.close()

    def outer(self, node: ast.Global | ast.Nonlocal) -> None:
        self.plain(node)
        self.scopes[-1].outer.update(node.names)
        if isinstance(node, ast.Global):
            self.scopes[0].loads.update((name,) for name in node.names)

    def capture(self, node: Any) -> None:
        """Patterns and except clauses, which name what they catch."""
        name = node.rest if isinstance(node, ast.MatchMapping) else node.name
        if name:
            self.scopes[-1].bound.add(name)
        self.plain(node)

    def imports(self, node: ast.Import | ast.ImportFrom) -> None:
        self.plain(node)
        for name, target, loaded in self.source.imported(node):
            self.loads.add(loaded)
            self.scopes[-1].imports.setdefault(name, []).append(target)

    def close(self) -> None:
        """End of a scope: its own names stay inside, the others are asked for outside."""
        scope = self.scopes.pop()
        hidden = set() if scope.is_class else scope.bound - scope.outer
        for path in scope.loads:
            if path[0] in scope.imports:
                self.imported |= {(*target, *path[1:]) for target in scope.imports[path[0]]}
            elif path[0] not in hidden:
                self.scopes[-1].loads.add(path)


def _flat(node: ast.JoinedStr) -> Iterator[str | ast.FormattedValue]:
    for part in node.values:
        if isinstance(part, ast.JoinedStr):
            yield from _flat(part)
        elif isinstance(part, ast.FormattedValue):
            yield part
        elif isinstance(part, ast.Constant) and isinstance(part.value, str):
            yield part.value


_FIELDS: dict[type, Dotted] = {}  # filled as they come


def _fields(kind: type[ast.AST]) -> Dotted:
    if kind not in _FIELDS:
        _FIELDS[kind] = tuple(sorted(set(kind._fields) - SKIPPED))
    return _FIELDS[kind]


_HANDLERS: dict[type, Callable[[Text, Any], None]] = {
    ast.Constant: Text.constant,
    ast.MatchSingleton: Text.constant,
    ast.Name: Text.name,
    ast.Attribute: Text.attribute,
    ast.Call: Text.call,
    ast.Subscript: Text.item,
    ast.Expr: Text.expression,
    ast.AnnAssign: Text.annotated,
    ast.AugAssign: Text.augmented,
    ast.JoinedStr: Text.fstring,
    ast.FormattedValue: Text.formatted,
    ast.FunctionDef: Text.function,
    ast.AsyncFunctionDef: Text.function,
    ast.Lambda: Text.function,
    ast.ClassDef: Text.klass,
    **dict.fromkeys((ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp), Text.comprehension),
    **dict.fromkeys((ast.Global, ast.Nonlocal), Text.outer),
    **dict.fromkeys((ast.MatchAs, ast.MatchStar, ast.MatchMapping, ast.ExceptHandler), Text.capture),
    **dict.fromkeys((ast.Import, ast.ImportFrom), Text.imports),
}
