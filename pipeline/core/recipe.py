"""From recipes to paths: which artifact each step makes, where it lies, and what it is made from.

A recipe is a list of step names. Every method names its inputs by role, and each role the kind it accepts; a role takes
the nearest artifact of its kind to the left, a second role of the same kind the next nearest. The path of an artifact
spells the steps it depends on, and only those, in the recipe's order:

    results/<data set>/[seed<n>/]<step>/<step>/.../<kind>.json

so recipes that begin alike share folders. The seed level is there when any of those steps depends on a seed. The data
set's own artifacts (photographs, tags, masks) lie directly below results/<data set>/.
This module must not import torch: Snakemake loads it for every dry run and every cluster job.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from pipeline.core.config import Config, ConfigError
from pipeline.core.steps import METHODS
from pipeline.core.steps.base import DATA, Step


@dataclass(frozen=True)
class Role:
    """What may play a role: artifacts of these kinds, made by this method if one is named."""

    kinds: tuple[str, ...]
    method: str | None
    optional: bool

    def accepts(self, kind: str, method: str) -> bool:
        return kind in self.kinds and self.method in (None, method)

    def __str__(self) -> str:
        return " or ".join(self.kinds) + (f" made by '{self.method}'" if self.method else "")


def role(text: str) -> Role:
    """'labels|soft?' → what it means; the grammar is in core/steps/."""
    kinds, _, method = text.removesuffix("?").partition("@")
    return Role(tuple(kinds.split("|")), method or None, text.endswith("?"))


@dataclass(frozen=True)
class Node:
    """One artifact: the result of a step of a recipe, or (settings None) a part of the data set."""

    name: str
    settings: Step | None = field(compare=False)
    steps: tuple[str, ...] = ()  # names of everything it depends on, itself last
    seed: int | None = None
    inputs: dict[str, Node] = field(default_factory=dict, compare=False, hash=False)  # role → node

    @property
    def kind(self) -> str:
        return self.settings.makes if self.settings else self.name

    @property
    def method(self) -> str:
        return self.settings.method if self.settings else "prepare"

    @property
    def folder(self) -> str:
        """Path below results/<data set>/."""
        seed = () if self.seed is None else (f"seed{self.seed}",)
        return "/".join((*seed, *self.steps))

    @property
    def file(self) -> str:
        """The manifest's path below results/<data set>/."""
        return f"{self.folder}/{self.kind}.json" if self.settings else f"{self.kind}.json"

    @property
    def scored(self) -> bool:
        """Seeds and labels, hard or soft, are scored on train, models on val."""
        return self.kind in ("seeds", "labels", "soft", "model")

    @property
    def choices(self) -> frozenset[str]:
        """Names among the settings that it rests on: which entries of a table of alternatives its code can reach."""
        own = [] if self.settings is None else self.settings.model_dump().values()
        return frozenset(v for v in own if isinstance(v, str)).union(*(n.choices for n in self.inputs.values()))


PARTS = {kind: Node(kind, None) for kind in DATA}


def resolve(config: Config, steps: Sequence[str], seed: int, recipe: str = "") -> list[Node]:
    """The artifacts of a recipe, in its order.

    Raises ConfigError naming recipe, step, the role that nothing can play, and the steps that could.
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
        taken: list[int] = []
        for title, text in settings.takes.items():
            wanted = role(text)
            if wanted.kinds[0] in DATA:
                inputs[title] = PARTS[wanted.kinds[0]]
                continue
            found = _nearest(nodes, wanted, taken)
            if found is not None:
                inputs[title] = nodes[found]
                taken.append(found)
            elif not wanted.optional:
                raise ConfigError(f"{where}, step {position + 1} '{name}': {_missing(config, name, title, wanted)}")
        seeded = settings.seeded or any(node.seed is not None for node in inputs.values())
        needs.append({position}.union(*(needs[j] for j in taken)))
        path = tuple(steps[j] for j in sorted(needs[-1]))
        nodes.append(Node(name, settings, path, seed if seeded else None, inputs))
    return nodes


def _nearest(nodes: Sequence[Node], wanted: Role, taken: Sequence[int]) -> int | None:
    """Position of the last artifact that may play the role and plays no other one of this step."""
    fitting = (j for j in reversed(range(len(nodes))) if j not in taken)
    return next((j for j in fitting if wanted.accepts(nodes[j].kind, nodes[j].method)), None)


def _missing(config: Config, name: str, title: str, wanted: Role) -> str:
    known = {step: config.step(step) for step in {*config.steps, *METHODS}}
    makers = sorted(step for step, settings in known.items() if wanted.accepts(settings.makes, settings.method))
    part = "" if title in wanted.kinds else f" as '{title}'"
    return (
        f"it needs {wanted}{part}, and no step to its left makes any (that it does not use already). "
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
    """What a recipe's results rest on: its last artifact and all before it, the data set's own first.

    Raises ConfigError when nothing uses one of its steps.
    """
    nodes = resolve(config, config.recipes[recipe], seed, recipe)
    used = closure(nodes[-1:])
    files = {node.file for node in used}
    for node in nodes:
        if node.file not in files:
            raise ConfigError(
                f"recipe '{recipe}': nothing after '{node.name}' uses its {node.kind}; remove it or move it"
            )
    return used


def refuse_without_masks(recipe: str, nodes: Iterable[Node]) -> None:
    """Raises ConfigError when a recipe reads masks, for a data set that has none."""
    for node in nodes:
        if PARTS["masks"] in node.inputs.values():
            raise ConfigError(
                f"recipe '{recipe}', step '{node.name}': it needs true masks, and this data set has none. "
                "Add some (README, your own photographs), or run a recipe that learns from tags"
            )
