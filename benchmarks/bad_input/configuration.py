"""Configurations: YAML that is none, of wrong types, endless, of names that no path can hold; dry runs by Snakemake."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from benchmarks.bad_input.case import CANARY, HANDLED, THEIRS, Case, Command, plan
from benchmarks.bad_input.drawn import folder

DEMO = "data: {demo: {train: 4, val: 2}}\n"


def yaml(text: str | bytes, *targets: str) -> Callable[[Path], Command]:
    return lambda at: plan(at, text, *targets)


def recipe(name: str) -> Callable[[Path], Command]:
    """A recipe of this name, which is to run."""
    return yaml(f"recipes: {{{json.dumps(name)}: [masks, imagenet, segment]}}\nrun: [{json.dumps(name)}]\n")


def many(count: int) -> Callable[[Path], Command]:
    """Recipes, of which one is run."""
    return yaml("recipes:\n" + "".join(f"  r{i}: [masks, imagenet, segment]\n" for i in range(count)) + "run: [r7]\n")


def is_folder(at: Path) -> Command:
    (at / "mine.yaml").mkdir()
    return plan(at, None)


def elsewhere(at: Path) -> Command:
    """Run where there is no config.yaml."""
    command = plan(at, DEMO)
    (at / "config.yaml").unlink()
    return command


def own_folder(*damage: str, run: str = "[tags]") -> Callable[[Path], Command]:
    """A folder of one's own, with parts of it gone."""

    def build(at: Path) -> Command:
        root = folder(at / "photos")
        for name in damage:
            shutil.rmtree(root / name)
        return plan(at, f"data: {{name: mine, folder: {{root: photos}}}}\nrun: {run}\n")

    return build


def dangling(at: Path) -> Command:
    root = folder(at / "photos")
    (root / "images/a00.png").unlink()
    (root / "images/a00.png").symlink_to("annex/a00.png")
    return plan(at, "data: {name: mine, folder: {root: photos}}\nrun: [tags]\n")


LAUGHS = "l0: &l0 [x]\n" + "".join(f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]\n" for i in range(1, 9))
RUNS = f"run: !!python/object/apply:os.system ['touch {CANARY}']\n"
CASES = [
    Case("YAML: empty", yaml(""), THEIRS),
    Case("YAML: none", yaml(None), THEIRS),  # type: ignore[arg-type]
    Case("YAML: a folder", is_folder, THEIRS),
    Case("YAML: a list", yaml("- a\n- b\n"), THEIRS),
    Case("YAML: a word", yaml("hello\n"), THEIRS),
    Case("YAML: a tab", yaml("data:\n\tname: x\n"), THEIRS),
    Case("YAML: noise", yaml(bytes(range(256)) * 4), THEIRS),
    Case("YAML: UTF-16", yaml(DEMO.encode("utf-16")), THEIRS),
    Case("YAML: quotes that do not close", yaml('data: {name: "x}\n'), THEIRS),
    Case("YAML: a key twice", yaml("run: [supervised]\nrun: [tags]\n"), says=(r"mine\.yaml.*run.*twice|duplicate",)),
    Case("YAML: code of Python is not run", yaml(RUNS), THEIRS),
    Case("YAML: an anchor in a circle", yaml("data: &a\n  demo: *a\n"), THEIRS),
    Case("YAML: an anchor in a circle, in a list", yaml("run: &a [*a]\n"), says=("run",)),
    Case("YAML: an anchor in a circle, as a step", yaml("steps: &a {cam: *a}\n"), THEIRS),
    Case("YAML: aliases that multiply", yaml(LAUGHS + "run: *l8\n"), says=("run.0: ",)),
    Case("YAML: 10,000 levels", yaml("run: " + "[" * 10000 + "]" * 10000 + "\n"), THEIRS),
    Case("YAML: a number of 10,000 digits", yaml("seeds: [" + "9" * 10000 + "]\n"), THEIRS),
    Case(
        "an unknown key", yaml("dtaa: {name: x}\n"), says=(r"dtaa: unknown key; did you mean 'data'\?", r"mine\.yaml")
    ),
    Case(
        "an unknown key of a step",
        yaml("steps: {cam: {method: cam, treshold: 1}}\n"),
        says=(r"steps\.cam\.treshold: unknown key; did you mean 'threshold'",),
    ),
    Case(
        "every block a list",
        yaml("data: []\nsteps: []\nrecipes: []\nevaluate: []\nreport: []\ncompute: []\n"),
        says=("data: ", "steps: ", "recipes: ", "compute: "),
    ),
    Case(
        "every block nothing",
        yaml("data:\nsteps:\nrecipes:\nrun:\nseeds:\n"),
        says=("data: ", "recipes: ", "run: ", "seeds: "),
    ),
    Case("a word for a number", yaml("data: {max_side: large}\n"), says=(r"data\.max_side: .*found: 'large'",)),
    Case(
        "numbers that are none",
        yaml("evaluate: {thresholds: .nan, scales: [.inf]}\nsteps: {cam: {threshold: .nan}}\n"),
        says=(r"evaluate\.thresholds", r"evaluate\.scales", r"steps\.cam\.threshold"),
    ),
    Case("epochs without end", yaml("steps: {segment: {epochs: .inf}}\n"), says=(r"steps\.segment\.epochs: ",)),
    Case("epochs that are none", yaml("steps: {segment: {epochs: .nan}}\n"), says=(r"steps\.segment\.epochs: ",)),
    Case(
        "huge numbers",
        yaml("data: {max_side: 1000000000}\nsteps: {segment: {batch: 1e300}}\n"),
        says=(r"data\.max_side", r"steps\.segment\.batch"),
    ),
    Case(
        "negative numbers",
        yaml("seeds: [-1]\nsteps: {segment: {batch: -4, lr: -1}}\ncompute: {workers: -1}\n"),
        says=(r"seeds\.0", r"steps\.segment\.batch", r"steps\.segment\.lr", r"compute\.workers"),
    ),
    Case("a seed of 31 digits", yaml("seeds: [1000000000000000000000000000000]\n"), says=("seeds",)),
    Case("a seed twice", yaml("seeds: [0, 0]\n"), says=("seeds.*0",)),
    Case("no seeds", yaml("seeds: []\n"), says=("seeds: ",)),
    Case("a recipe twice", yaml("run: [supervised, supervised]\n"), HANDLED),
    Case("a recipe that is not there", yaml("run: [supervized]\n"), says=("no recipe is called 'supervized'",)),
    Case("a recipe of no steps", yaml("recipes: {mine: []}\nrun: [mine]\n"), says=(r"recipes\.mine: ",)),
    Case(
        "a step that is not there",
        yaml("recipes: {mine: [masks, imagnet]}\nrun: [mine]\n"),
        says=("recipe 'mine', step 2: no step is called 'imagnet'",),
    ),
    Case(
        "steps in the wrong order",
        yaml("recipes: {mine: [segment, imagenet, masks]}\nrun: [mine]\n"),
        says=("recipe 'mine', step 1 'segment': it needs .*Put one of these before",),
    ),
    Case(
        "a step that nothing uses",
        yaml("recipes: {mine: [saliency, masks, imagenet, segment]}\nrun: [mine]\n"),
        says=("nothing after 'saliency' uses its saliency; remove it",),
    ),
    Case(
        "a recipe of 400 steps", yaml(f"recipes: {{mine: [{'masks, ' * 399} segment]}}\nrun: [mine]\n"), says=("mine",)
    ),
    Case("10,000 recipes", many(10_000), HANDLED, seconds=30),
    Case("names: ..", recipe("../../out"), says=(r"'\.\./\.\./out': a name begins with a letter",)),
    Case("names: a slash", recipe("a/b"), says=("'a/b': a name begins",)),
    Case("names: a space", recipe("my recipe"), says=("'my recipe': a name begins",)),
    Case("names: a tab", recipe("a\tb"), says=("a name begins",)),
    Case("names: nothing", recipe(""), says=("'': a name begins",)),
    Case("names: a line break at the end", recipe("mine\n"), says=("a name begins",)),
    Case("names: 300 letters", recipe("x" * 300), says=("at most 100 characters",)),
    Case("names: code", recipe(f"$(touch {CANARY})"), says=("a name begins",)),
    Case("names: a number and a date", yaml("recipes: {1: [masks], 2020-01-01: [masks]}\n"), says=("recipes",)),
    Case("names: yes", yaml("steps: {yes: {method: cam}}\n"), says=("steps",)),
    Case(
        "a data set called ../x", yaml("data: {name: ../x, format: demo}\n"), says=(r"data\.name: .*found: '\.\./x'",)
    ),
    Case("results below a pattern", yaml("results: 'a{b}*'\n"), says=("results: a path without",)),
    Case("results in a path with a NUL", yaml('results: "a\\0b"\n'), says=("results: ",)),
    Case("results: a path of 5,000 letters", yaml(f"results: {'x' * 5000}\n"), says=("results: ",)),
    Case("a target out of the results", yaml(DEMO, "results/demo/../../x.json"), says=("x.json",)),
    Case(
        "a root that is not there",
        yaml("data: {name: mine, folder: {root: nowhere}}\n"),
        says=("nowhere/images: no such folder; put the photographs there or set data.folder.root",),
    ),
    Case("a root with a NUL", yaml('data: {name: mine, folder: {root: "a\\0b"}}\n'), says=(r"data\.folder\.root",)),
    Case("a name without a root", yaml("data: {name: mine}\n"), says=("nothing says where the photographs are",)),
    Case(
        "masks that are not there",
        own_folder(run="[supervised]"),
        says=("it needs true masks, and this data set has none",),
    ),
    Case("photographs that are not there", own_folder("images"), says=("photos/images: no such folder",)),
    Case("a photograph that links to nothing", dangling, HANDLED),
    Case("run where config.yaml is not", elsewhere, says=(r"config\.yaml is not in",)),
]
