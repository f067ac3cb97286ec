"""Code digests: what a stage's code is, down to the single definition, so that only an edit it can feel reruns it.

    python -m pipeline.core.digest STAGE [CHOICE ...]     the digest, and every definition in it

From a stage's `run` and its command line, names are followed through the package: functions, classes and constants,
attributes of modules, names imported under another name, imports inside functions. Only what is found that way counts.
Where a name cannot be followed (`getattr(module, name)`, a star import, `globals()`), everything it could mean counts:
an unneeded rerun costs time, a missing one costs the truth. Statements that run when a module is imported (anything but
imports, definitions and assignments to names) count in every module that is loaded.

Comments, docstrings, layout, the order of definitions and annotations do not count, except the annotations in a class
body: dataclasses and pydantic act on them. Nor does Python's version (core/syntax.py).

Not seen: files that are not Python, other packages' versions, names given as text, and methods of an object that none
of the code found here makes. This module must stay free of heavy imports: every dry run and every job loads it.
"""

from __future__ import annotations

import ast
import hashlib
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pipeline.core.syntax import IMPORTERS, Dotted, Source, Text, only, table_keys

# Settings reach the fingerprint as values, and neither paths nor the command line change what is computed. What these
# modules use of others does count: a stage gets its artifacts from them.
NOT_CODE = frozenset(
    f"pipeline.core.{name}"
    for name in (
        *("config", "data", "recipe", "digest", "syntax", "cli", "job", "cards", "progress"),
        *(f"steps{theme}" for theme in ("", ".base", ".weights", ".seeds", ".labels", ".models")),
    )
)

STATEMENTS, MAIN = "<statements>", "<main>"  # names of what has none: run by an import, run as a command


def code_digest(module: str, choices: Iterable[str] = ()) -> str:
    """Digest (16 hex digits) of all definitions that the stage `pipeline.<module>` can reach.

    choices: the names this step picks from tables of alternatives (`HEADS = {"largefov": LargeFov, ...}`: a dict at
        module level, all keys text). A table with some of them among its keys counts with those entries only, so a new
        entry reruns nothing that does not pick it; a table with none of them counts whole, and so does one that is
        asked for its `items()` or `values()`.
    """
    return _package_digest(module, frozenset(choices))


def reached(module: str, choices: Iterable[str] = ()) -> list[str]:
    """The definitions in that digest, sorted: ["pipeline.core.train.fit", ...]."""
    return _package().reached(module, choices)


@cache
def _package_digest(module: str, choices: frozenset[str]) -> str:
    return _package().digest(module, choices)


@cache
def _package() -> Code:
    return Code(Path(__file__).resolve().parents[1])


class Code:
    """The definitions of the package in this folder. Every file is parsed once, every definition read once."""

    def __init__(self, root: Path):
        self.root, self.package = root, root.name
        self._files: dict[str, Path | None] = {}
        self._sources: dict[str, Source] = {}
        self._pieces: dict[tuple[str, str, Dotted | None], Piece] = {}

    def digest(self, module: str, choices: Iterable[str] = ()) -> str:
        found = _Search(self, frozenset(choices)).run(f"{self.package}.{module}")
        lines = "".join(f"{name} {text}\n" for name, text in sorted(found))
        return hashlib.sha256(lines.encode()).hexdigest()[:16]

    def reached(self, module: str, choices: Iterable[str] = ()) -> list[str]:
        return sorted({name for name, _ in _Search(self, frozenset(choices)).run(f"{self.package}.{module}")})

    def file(self, module: str) -> Path | None:
        """The file of a module or package; None if there is none."""
        if module not in self._files:
            path = self.root.joinpath(*module.split(".")[1:])
            files = (path / "__init__.py", path.parent / f"{path.name}.py")
            self._files[module] = next((file for file in files if file.is_file()), None)
        return self._files[module]

    def below(self, module: str) -> list[str]:
        """All modules inside a package; none inside a module."""
        folder = self.root.joinpath(*module.split(".")[1:])
        files = (file.relative_to(self.root).with_suffix("") for file in sorted(folder.rglob("*.py")))
        return [".".join([self.package, *file.parts]).removesuffix(".__init__") for file in files]

    def source(self, module: str) -> Source:
        if module not in self._sources:
            file = self.file(module)
            if file is None:
                raise ValueError(f"there is no module {module} in {self.root}")
            self._sources[module] = Source(module, file)
        return self._sources[module]

    def piece(self, module: str, name: str, keys: Dotted | None) -> Piece:
        """A definition, or what runs on import or as a command. keys: the only entries of a table that count."""
        key = (module, name, keys)
        if key not in self._pieces:
            source = self.source(module)
            special = {STATEMENTS: source.statements, MAIN: source.main}
            statements = special[name] if name in special else source.definitions[name]
            self._pieces[key] = Piece.of(statements if keys is None else [only(statements[0], keys)], source, self)
        return self._pieces[key]


class _Search:
    """One search through the package, from a stage to everything it reaches."""

    def __init__(self, code: Code, choices: frozenset[str]):
        self.code, self.choices = code, choices
        self.found: set[tuple[str, str]] = set()  # name of a definition, digest of its text
        self.todo: list[Dotted] = []
        self.seen: set[Dotted] = set()
        self.loaded: set[str] = set()
        self.taken: set[tuple[str, str, bool]] = set()

    def run(self, start: str) -> set[tuple[str, str]]:
        source = self.code.source(start)
        parts = tuple(start.split("."))
        self.todo.append((*parts, "run") if "run" in source.definitions else parts)
        if source.main:
            self.take(start, MAIN)
        while self.todo:
            parts = self.todo.pop()
            if parts not in self.seen:
                self.seen.add(parts)
                self.follow(parts)
        return self.found

    def follow(self, parts: Dotted) -> None:
        """Find what a full name means: pipeline.core.store.Artifact.read is the class Artifact of a module."""
        module, rest = parts[0], parts[1:]
        self.load(module)
        while rest and not self.code.source(module).binds(rest[0]) and self.code.file(f"{module}.{rest[0]}"):
            module, rest = f"{module}.{rest[0]}", rest[1:]
            self.load(module)
        source = self.code.source(module)
        if rest and source.binds(rest[0]):
            for target in source.imports.get(rest[0], ()):
                self.count(module, rest[0], f"from {'.'.join(target)}")
                if target[0] == self.code.package:
                    self.todo.append((*target, *rest[1:]))
            if rest[0] in source.definitions:
                self.take(module, rest[0], whole=rest[1:2] in (("items",), ("values",)))
        elif not rest or not rest[0].startswith("__"):
            self.take_all(module)

    def load(self, module: str) -> None:
        """Importing a module loads what it imports, and runs its statements."""
        if module in self.loaded:
            return
        self.loaded.add(module)
        source = self.code.source(module)
        for parts in source.loads:
            self.load_parts(parts)
        self.todo += [parts for parts in source.stars if parts[0] == self.code.package]
        if source.statements:
            self.take(module, STATEMENTS)
        for name, decorator in source.decorated:  # a decorator of our own may enter the function into a table
            targets = source.imports.get(decorator, ())
            if decorator in source.definitions or any(target[0] == self.code.package for target in targets):
                self.take(module, name)

    def load_parts(self, parts: Dotted) -> None:
        if parts[0] == self.code.package:
            for end in range(1, len(parts) + 1):
                if self.code.file(name := ".".join(parts[:end])):
                    self.load(name)

    def take_all(self, module: str) -> None:
        """Every definition of a module, and those (not modules) that it imports by name; of a package, all of it."""
        for name in self.code.below(module) or [module]:
            self.load(name)
            source = self.code.source(name)
            for definition in source.definitions:
                self.take(name, definition)
            for targets in source.imports.values():
                inside = (target for target in targets if target[0] == self.code.package)
                self.todo += [target for target in inside if not self.code.file(".".join(target))]

    def take(self, module: str, name: str, whole: bool = False) -> None:
        """Count a definition and note what it uses. whole: all entries of a table, whatever the choices."""
        if (module, name, whole) in self.taken:
            return
        self.taken.add((module, name, whole))
        source = self.code.source(module)
        table = None if whole else table_keys(source.definitions.get(name, ()))
        keys = tuple(key for key in table or () if key in self.choices) or None
        piece = self.code.piece(module, name, keys)
        self.count(module, name, piece.digest)
        self.todo += piece.uses
        for parts in piece.loads:
            self.load_parts(parts)

    def count(self, module: str, name: str, text: str) -> None:
        if module not in NOT_CODE:
            self.found.add((f"{module}.{name}", text))


@dataclass(frozen=True)
class Piece:
    """One definition: digest of its text, full names of the package that it uses, modules that it imports."""

    digest: str
    uses: list[Dotted]
    loads: list[Dotted]

    @classmethod
    def of(cls, statements: Sequence[ast.stmt], source: Source, code: Code) -> Piece:
        text = Text(source)
        for statement in statements:
            text.add(statement)
            text.out.append("\n")
        uses, bindings = set(text.imported), set()
        here = tuple(source.name.split("."))
        for path in text.scopes[0].loads:
            targets = source.imports.get(path[0], ())
            bindings |= {f"{path[0]} is {'.'.join(target)}\n" for target in targets}
            uses |= {(*target, *path[1:]) for target in targets}
            if path[0] in source.definitions:
                uses.add((*here, *path))
            elif path in (("globals",), ("eval",), ("exec",)) and source.name not in NOT_CODE:
                uses.add(here)
        unfollowed = text.unfollowed or any(path[-1] in IMPORTERS for path in uses)
        if unfollowed and source.name not in NOT_CODE:
            uses.add((code.package,))
        digest = hashlib.sha256("".join([*text.out, *sorted(bindings)]).encode()).hexdigest()
        return cls(digest, sorted(path for path in uses if path[0] == code.package), sorted(text.loads))


if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit("usage: python -m pipeline.core.digest STAGE [CHOICE ...]")
    print(code_digest(sys.argv[1], sys.argv[2:]), *reached(sys.argv[1], sys.argv[2:]), sep="\n")
