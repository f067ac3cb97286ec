"""docs/configuration.md, written from the settings classes:

    python -m pipeline.core.reference > docs/configuration.md

A test compares the two, so a setting cannot be added without a line in the reference.
"""

from __future__ import annotations

import json
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo

from pipeline.core.config import Compute, Config, Evaluate, Report
from pipeline.core.data import Data, Demo, Export, Folder, Voc
from pipeline.core.steps import METHODS
from pipeline.core.steps.base import Step

INTRODUCTION = """# Every setting

Written by `python -m pipeline.core.reference > docs/configuration.md`; a test keeps it in step with the code.

`config.yaml` is read first; files given with `--configfile` override single keys of it, later ones win. Lengths are in
pixels of the stored photographs (`data.max_side`), shares between 0 and 1. `null` stands for what the description says.
"""
BLOCKS: dict[str, type[BaseModel]] = {
    "top level": Config,
    "data": Data,
    "data.demo": Demo,
    "data.voc": Voc,
    "data.folder": Folder,
    "data.export": Export,
    "evaluate": Evaluate,
    "report": Report,
    "compute": Compute,
}
STEPS = """## Steps

A step is a named block under `steps:` with a `method` and any of its settings; a method's own name is a step with the
defaults below. A role takes the nearest artifact of its kind to the left in the recipe; `?` is optional, `|` the nearer
of the two, `@` only what that method made.
"""


def page() -> str:
    """The whole text."""
    parts = [INTRODUCTION]
    parts += [f"## {name}\n\n{table(model)}" for name, model in BLOCKS.items()]
    parts.append(STEPS)
    parts += [f"### {name}\n\n{_about(method)}\n\n{table(method)}" for name, method in METHODS.items()]
    return "\n".join(parts)


def table(model: type[BaseModel]) -> str:
    """One row a key: name, default, values, meaning."""
    rows = ["| key | default | values | meaning |", "|---|---|---|---|"]
    for name, about in model.model_fields.items():
        if name != "method":
            meaning = (about.description or "").replace("|", "\\|")
            rows.append(f"| `{name}` | {_default(about)} | {_values(about.annotation)} | {meaning} |")
    return "\n".join(rows) + "\n" if len(rows) > 2 else "No settings.\n"


def _about(method: type[Step]) -> str:
    takes = ", ".join(
        f"{role} ({kind})" if role != kind.rstrip("?") else kind for role, kind in method.takes.items()
    ).replace("|", "\\|")
    return f"`pipeline/{method.stage}.py`. Takes {takes or 'nothing'}; makes {method.makes}."


def _default(about: FieldInfo) -> str:
    if about.is_required():
        return "*required*"
    value = about.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return "see below"
    return f"`{json.dumps(TypeAdapter(Any).dump_python(value, mode='json'), ensure_ascii=False)}`"


def _values(annotation: Any) -> str:
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in args)
    if origin in (Union, UnionType):
        return " or ".join("null" if part is NoneType else _values(part) for part in args)
    if origin in (tuple, list):
        inner = [_values(part) for part in args if part is not Ellipsis]
        return "list of " + " and ".join(dict.fromkeys(inner))
    if origin is dict:
        return "block"
    if hasattr(annotation, "__origin__"):  # Annotated
        return _values(annotation.__origin__)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "block"
    plain = {int: "whole number", float: "number", str: "text", bool: "true, false"}
    return plain.get(annotation, "path" if getattr(annotation, "__name__", "") == "Path" else "block")


if __name__ == "__main__":
    print(page(), end="")
