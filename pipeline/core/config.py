"""The settings of a run: config.yaml as one `Config`, checked by pydantic. Methods' settings are in core/steps/,
those of the data set in core/data.py.

This module must not import torch: a dry run has to answer in about a second.
"""

from __future__ import annotations

import os
import re
import reprlib
from collections import Counter
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import yaml
from pydantic import (
    BaseModel,
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from pipeline.core.data import Data
from pipeline.core.steps import METHODS, AnyStep
from pipeline.core.steps.base import Scales, Settings, Step

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")  # of steps and recipes: parts of paths and of report names
DEVICE = r"^(auto|cpu|cuda(:\d+)?)$"
UNUSABLE = "{}<>*?[]\n\r\t\0"  # in paths: patterns and variables to Snakemake
SHORT = reprlib.Repr()  # of what was found: by anchors a few lines of YAML stand for more than a terminal holds
SHORT.maxlevel, SHORT.maxlist, SHORT.maxdict, SHORT.maxstring, SHORT.maxother, SHORT.maxlong = 3, 5, 5, 200, 200, 80
LONGEST = 250  # bytes of a part of a path
Block = TypeVar("Block", bound=BaseModel)


def shown(value: Any) -> str:
    """What was found, as a message shows it."""
    text = SHORT.repr(value)
    return text if len(text) <= 200 else f"{text[:199]}…"


class ConfigError(ValueError):
    """A configuration that cannot be run. The message names the key, what was found and what was expected."""


class Evaluate(Settings):
    scales: Scales = Field((1.0,), description="of the final network")
    flip: bool = Field(False, description="mirror images too")
    crf: bool = Field(False, description="dense CRF on the final network's predictions; recorded in the report")
    thresholds: int = Field(19, ge=1, description="seeds are scored at this many thresholds between 0 and 1")


class Report(Settings):
    images: int = Field(8, ge=1, description="pictures shown at every stage")


class Compute(Settings):
    device: str = Field("auto", pattern=DEVICE, description="auto: cuda if there is one")
    precision: Literal["auto", "bf16", "f32"] = Field(
        "auto", description="auto: bf16 where the hardware computes it, else f32"
    )
    workers: int = Field(0, ge=0, description="loader processes; 0 suits few cores")


class Config(Settings):
    """The whole of config.yaml."""

    results: Path = Field(Path("results"), description="where every artifact goes")
    data: Data = Field(Data(), description="the photographs, their tags and masks")
    seeds: list[Annotated[int, Field(ge=0, lt=2**32)]] = Field(
        [0], min_length=1, description="each recipe is run once per seed"
    )
    run: list[str] = Field(min_length=1, description="recipes that `snakemake` makes")
    steps: dict[str, AnyStep] = Field(default_factory=dict, description="named blocks of a method's settings")
    recipes: dict[str, Annotated[list[str], Field(min_length=1)]] = Field(
        description="lists of steps; a method's name is a step with its defaults"
    )
    evaluate: Evaluate = Field(Evaluate(), description="how results are scored")
    report: Report = Field(Report(), description="what the report shows")
    compute: Compute = Field(Compute(), description="what is computed on, and how precisely")

    @field_validator("results")
    @classmethod
    def _path(cls, path: Path) -> Path:
        found = sorted(set(str(path)) & set(UNUSABLE))
        if found:
            signs = " ".join(map(repr, found))
            raise ValueError(f"a path without {signs} expected: Snakemake would take it for a pattern")
        if len(str(path)) > 4 * LONGEST or any(len(os.fsencode(part)) > LONGEST for part in path.parts):
            raise ValueError(f"a path of at most {4 * LONGEST} characters expected, {LONGEST} in each of its folders")
        if str(path).startswith("-"):
            raise ValueError("a path that does not begin with '-' expected: commands would take it for an option")
        return Path(os.path.normpath(path.expanduser()))

    @field_validator("steps", "recipes")
    @classmethod
    def _names(cls, named: dict[str, Any]) -> dict[str, Any]:
        for name in named:
            if not NAME.fullmatch(name) or name.startswith("seed") or len(name) > 100:
                raise ValueError(
                    f"'{name[:100]}': a name begins with a letter or digit, goes on with these or - _ . +, "
                    "is not 'seed…' and has at most 100 characters"
                )
        return named

    @model_validator(mode="after")
    def _run(self) -> Config:
        for name in self.run:
            if name not in self.recipes:
                raise ValueError(f"run: no recipe is called '{name}'. Recipes: {', '.join(sorted(self.recipes))}")
        if twice := [seed for seed, n in Counter(self.seeds).items() if n > 1]:
            raise ValueError(f"seeds: {twice[0]} stands there more than once; keep one")
        return self

    def step(self, name: str) -> Step:
        """The settings of a step, with lengths that follow from data.max_side filled in.

        A method's own name is a step with its defaults.
        """
        if name in self.steps:
            return self.steps[name].sized(self.data.max_side)
        if name in METHODS:
            return METHODS[name]().sized(self.data.max_side)  # type: ignore[call-arg]
        known = sorted({*self.steps, *METHODS})
        raise ConfigError(f"no step is called '{name}'. Steps: {', '.join(known)}. Add it under `steps:`.")


def parse(raw: dict[str, Any], files: dict[str, Any] | None = None) -> Config:
    """config.yaml as read → Config. A step without `method` takes the method of its own name.

    files: name → content of those it was merged from, later ones over earlier ones; what cannot be used is said to
    stand in one of them.
    """
    if {"kind", "digest", "arrays"} <= raw.keys():
        raise ConfigError(
            f"--configfile: one of the files is an artifact's manifest ({raw['kind']}), not a configuration. It takes "
            "every word after it for a file: name targets first, `snakemake --cores all TARGET --configfile FILE ...`"
        )
    raw, steps = dict(raw), raw.get("steps")
    if isinstance(steps, dict | None):
        raw["steps"] = {name: _block(name, block) for name, block in (steps or {}).items()}
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(explain(error, "config.yaml", Config, files=files)) from None
    except RecursionError:
        where = ", ".join(files or ["config.yaml"])
        raise ConfigError(f"{where}: a block or list holds itself (by an anchor, `&a` … `*a`); write it out") from None


def own_file() -> Path:
    """config.yaml of this folder, else, as in workflow/Snakefile, of the checkout. Raises ConfigError if neither is."""
    places = (Path(), Path(__file__).resolve().parents[2])
    for folder in places:
        if (folder / "config.yaml").is_file():
            return folder / "config.yaml"
    raise ConfigError(f"config.yaml is not in {Path.cwd()}: run from the folder that `snakemake` is run in")


def refuse_repeated(file: Path) -> None:
    """Raises ConfigError where a key stands twice in a block of a YAML file, of which YAML takes the last. Silent about
    what is no YAML: Snakemake has named it."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        todo, seen = [yaml.compose(file.read_bytes(), Loader=loader)], set[int]()
    except (OSError, RecursionError, yaml.YAMLError):
        return
    while todo:
        node = todo.pop()
        if node is None or id(node) in seen:  # an anchor may stand for a block that holds it
            continue
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            first: dict[str, int] = {}
            for key, value in node.value:
                line = key.start_mark.line + 1
                if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                    if key.value in first:
                        where = f"twice in one block, in line {first[key.value]} and in line {line}"
                        raise ConfigError(f"{file}: '{key.value}' stands {where}; keep one")
                    first[key.value] = line
                todo.append(value)
        elif isinstance(node, yaml.SequenceNode):
            todo += node.value


def _block(name: str, block: Any) -> dict[str, Any]:
    if not isinstance(block, dict | None):
        expected = "a block of settings expected, such as {method: cam}"
        raise ConfigError(f"config.yaml: steps.{name}: {expected} (found: {shown(block)})")
    return {**({"method": name} if name in METHODS else {}), **(block or {})}


def parse_block(block: type[Block], text: str, flag: str) -> Block:
    """Settings from the JSON a rule passes to a command.

    Raises ConfigError that names the flag and each key that cannot be used.
    """
    try:
        return block.model_validate_json(text)
    except ValidationError as error:
        raise ConfigError(explain(error, flag, block)) from None


def parse_step(text: str) -> Step:
    """One step's settings from the JSON a rule passes."""
    try:
        return TypeAdapter(AnyStep).validate_json(text)
    except ValidationError as error:
        raise ConfigError(explain(error, "--settings", None, tag=0)) from None


def explain(
    error: ValidationError,
    where: str,
    block: type[BaseModel] | None,
    tag: int | None = None,
    files: dict[str, Any] | None = None,
) -> str:
    """Pydantic's findings, one line each: key, what is wrong, what was found; for unknown keys, what may be meant.

    block: what was validated, None for a step. tag: at which part of a key pydantic adds the method; in steps the
    third, elsewhere nowhere. A setting may be called like a method. files: of a configuration, see `parse`.
    """
    where = ", ".join(files or [where])
    lines = [f"{where}: {error.error_count()} setting(s) cannot be used"]
    for item in error.errors():
        parts, owner = [str(part) for part in item["loc"]], block
        at = 2 if parts[:1] == ["steps"] else tag
        if at is not None and at < len(parts) and parts[at] in METHODS:
            owner = METHODS[parts[at]]
            del parts[at]
        elif block:
            owner = _inner(block, parts[:-1])
        key = ".".join(parts)
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            message = "unknown key" + _meant(parts[-1], owner)
        elif item["type"] == "union_tag_not_found":
            message = f"`method` is missing; methods: {', '.join(METHODS)}"
        elif item["type"] == "union_tag_invalid":
            message = f"no method is called '{item['ctx']['tag']}'; methods: {', '.join(METHODS)}"
        found = "" if isinstance(item["input"], dict | Config) else f" (found: {shown(item['input'])})"
        source = _source(parts, item["input"], files) if files and parts and item["type"] != "missing" else ""
        source = f" [{source}]" if source not in ("", where) else ""
        lines.append(f"  {key + ': ' if key else ''}{message}{found}{source}")
    return "\n".join(lines)


def _source(parts: Sequence[str], value: Any, files: dict[str, Any]) -> str:
    """Of these files the last that gives this key this value; of a whole block, the last that has it."""
    for file in reversed(files):
        found = files[file]
        for part in parts:
            if isinstance(found, list) and part.isdecimal() and int(part) < len(found):
                found = found[int(part)]
            elif isinstance(found, dict) and part in found:
                found = found[part]
            else:
                break
        else:
            # In their short forms: nan equals nothing, and anchors make more of a list than can be compared.
            if isinstance(value, dict) or shown(found) == shown(value):
                return file
    return "--config"


def _inner(block: type[BaseModel], parts: Sequence[str]) -> type[BaseModel] | None:
    """The block that lies at this key of another one."""
    for part in parts:
        kind = block.model_fields[part].annotation if part in block.model_fields else None
        inner = [t for t in (kind, *get_args(kind)) if isinstance(t, type) and issubclass(t, BaseModel)]
        if not inner:
            return None
        block = inner[0]
    return block


def _meant(key: str, owner: type[BaseModel] | None) -> str:
    if owner is None:
        return ""
    known = [name for name in owner.model_fields if name != "method"]
    close = get_close_matches(key, known, 1)
    return f"; did you mean '{close[0]}'?" if close else f"; known: {', '.join(known)}"
