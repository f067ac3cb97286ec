"""From recipes to paths: which artifact each step makes, where it lies, and what it is made from.

A recipe is a list of step names. Every method says which kinds it takes; a step takes each kind from the nearest step
to its left that makes it. The path of an artifact spells the steps it depends on, and only those, in the recipe's
order:

    results/<data set>/[seed<n>/]<step>/<step>/.../<kind>.json

so recipes that begin alike share folders. The seed level is there when any of those steps depends on a seed.
This module must not import torch: Snakemake loads it for every dry run and every cluster job.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from pipeline.core.config import METHODS, Config, ConfigError, Step

PACKAGE = Path(__file__).resolve().parents[1]
# Settings reach the fingerprint as values, and neither paths nor the command line change what is computed.
NOT_CODE = {"pipeline.core.config", "pipeline.core.recipe", "pipeline.core.cli"}


@dataclass(frozen=True)
class Node:
    """One artifact of one recipe: the result of a step."""

    name: str
    settings: Step = field(compare=False)
    steps: tuple[str, ...]  # names of everything it depends on, itself last
    seed: int | None
    inputs: dict[str, Node] = field(compare=False, hash=False)  # kind → node; images are implied

    @property
    def kind(self) -> str:
        return self.settings.makes

    @property
    def folder(self) -> str:
        """Path below results/<data set>/."""
        seed = () if self.seed is None else (f"seed{self.seed}",)
        return "/".join((*seed, *self.steps))

    @property
    def file(self) -> str:
        """The manifest's path below results/<data set>/."""
        return f"{self.folder}/{self.kind}.json"

    @property
    def scored(self) -> bool:
        """Seeds and labels are scored on train, models on val."""
        return self.kind in ("seeds", "labels", "model")


def resolve(config: Config, steps: Sequence[str], seed: int, recipe: str = "") -> list[Node]:
    """The artifacts of a recipe, in its order.

    Raises ConfigError naming recipe, step, the missing kind, and the steps that could supply it.
    """
    where = f"recipe '{recipe}'" if recipe else f"steps {'/'.join(steps)}"
    nodes: list[Node] = []
    needs: list[set[int]] = []  # positions each step depends on, itself included
    for position, name in enumerate(steps):
        try:
            settings = config.step(name)
        except ConfigError as error:
            raise ConfigError(f"{where}, step {position + 1}: {error}") from None
        inputs: dict[str, Node] = {}
        used = {position}
        for kind in settings.takes:
            kind, optional = kind.removesuffix("?"), kind.endswith("?")
            if kind == "images":
                continue
            source = next((j for j in reversed(range(position)) if nodes[j].kind == kind), None)
            if source is not None:
                inputs[kind] = nodes[source]
                used |= needs[source]
            elif not optional:
                raise ConfigError(f"{where}, step {position + 1} '{name}': {_missing(config, name, kind)}")
        seeded = settings.seeded or any(node.seed is not None for node in inputs.values())
        needs.append(used)
        path = tuple(steps[j] for j in sorted(used))
        nodes.append(Node(name, settings, path, seed if seeded else None, inputs))
    return nodes


def _missing(config: Config, name: str, kind: str) -> str:
    makers = sorted(step for step in {*config.steps, *METHODS} if config.step(step).makes == kind)
    return (
        f"it needs {kind}, and no step to its left makes any. "
        f"Put one of these before '{name}': {', '.join(makers) or 'none known'}"
    )


def node_of(config: Config, folder: str) -> Node:
    """The node whose folder this is: the path read back as a recipe, so a path need not stand in any recipe.

    Raises ConfigError when the path names steps its last one does not depend on.
    """
    parts = folder.strip("/").split("/")
    seed = config.seeds[0]
    if parts[0].startswith("seed") and parts[0][4:].isdigit():
        seed, parts = int(parts[0][4:]), parts[1:]
    node = resolve(config, parts, seed)[-1]
    if node.folder != folder.strip("/"):
        raise ConfigError(f"{folder}: '{node.name}' depends on {node.folder} only; ask for that path")
    return node


def closure(nodes: Iterable[Node]) -> list[Node]:
    """These nodes and everything they are made from, inputs first, each once."""
    found: dict[str, Node] = {}

    def visit(node: Node) -> None:
        for parent in node.inputs.values():
            visit(parent)
        found.setdefault(node.file, node)

    for node in nodes:
        visit(node)
    return list(found.values())


def recipe_nodes(config: Config, recipe: str, seed: int) -> list[Node]:
    """What a recipe's results rest on: its last artifact and all before it. A step that nothing uses is an error."""
    nodes = resolve(config, config.recipes[recipe], seed, recipe)
    used = closure(nodes[-1:])
    files = {node.file for node in used}
    for node in nodes:
        if node.file not in files:
            raise ConfigError(
                f"recipe '{recipe}': nothing after '{node.name}' uses its {node.kind}; remove it or move it"
            )
    return used


# ------------------------------------------------------------------------------------------------ code digests


@cache
def code_digest(module: str) -> str:
    """Digest of a module's syntax tree and of all pipeline modules it imports.

    Comments, docstrings and layout do not count, so only a real edit makes Snakemake run a step again.
    """
    trees = sorted(_imports(f"pipeline.{module}"))
    digest = hashlib.sha256()
    for name in trees:
        digest.update(f"{name}\n{_tree(name)[0]}\n".encode())
    return digest.hexdigest()[:16]


@cache
def _tree(module: str) -> tuple[str, frozenset[str]]:
    """Syntax tree without docstrings as text, and the pipeline modules it imports."""
    tree = ast.parse(_file(module).read_bytes())
    imports: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(getattr(first.value, "value", None), str):
                node.body = node.body[1:]
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "pipeline":
            imports |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
        elif isinstance(node, ast.Import):
            imports |= {alias.name for alias in node.names if alias.name.split(".")[0] == "pipeline"}
    return ast.dump(tree), frozenset(name for name in imports if _file(name).is_file())


def _file(module: str) -> Path:
    path = PACKAGE.joinpath(*module.split(".")[1:])
    return path.with_suffix(".py") if path != PACKAGE else PACKAGE / "__init__.py"


def _imports(module: str) -> set[str]:
    found: set[str] = set()
    todo = [module]
    while todo:
        name = todo.pop()
        if name in found or name in NOT_CODE:
            continue
        found.add(name)
        todo += _tree(name)[1]
    return found
