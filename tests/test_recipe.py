"""Recipes → paths: who plays which role, what a path means, what is refused; and who may import whom."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT

from pipeline.core import recipe
from pipeline.core.config import Config, ConfigError, parse, refuse_repeated
from pipeline.core.recipe import Node, Role
from pipeline.core.steps import METHODS
from pipeline.core.steps.labels import Merge

DEFAULT = yaml.safe_load((ROOT / "config.yaml").read_text())
CARD = "colorize classify cam erase mine erase mine saliency crf patches triplet ce"


def config(**recipes: str) -> Config:
    return parse({**DEFAULT, "recipes": {name: steps.split() for name, steps in recipes.items()}, "run": list(recipes)})


def nodes(steps: str, seed: int = 0) -> dict[str, Node]:
    """All of a recipe's artifacts, by path."""
    return {node.file: node for node in recipe.recipe_nodes(config(r=steps), "r", seed)}


def played(steps: str) -> dict[str, str]:
    """Role → path, of the recipe's last step."""
    last = recipe.resolve(config(r=steps), steps.split(), 0)[-1]
    return {role: node.file for role, node in last.inputs.items()}


# ------------------------------------------------------------------------------------------------- paths


def test_a_path_holds_what_the_artifact_depends_on_and_nothing_else() -> None:
    files = list(nodes(CARD, seed=3))
    assert {"photographs.json", "tags.json"} <= set(files) and "masks.json" not in files
    assert "saliency/saliency.json" in files
    assert "seed3/colorize/classify/cam/erase/classifier.json" in files
    assert "seed3/colorize/classify/cam/erase/mine/erase/mine/seeds.json" in files
    assert "seed3/colorize/classify/cam/erase/mine/erase/mine/saliency/crf/labels.json" in files
    assert files[-1] == "seed3/colorize/classify/cam/erase/mine/erase/mine/saliency/crf/patches/triplet/ce/model.json"


def test_a_key_that_stands_twice_is_named(tmp_path: Path) -> None:
    """YAML would take the last without a word. Not what is merged, nor in blocks beside each other."""
    file = tmp_path / "mine.yaml"
    for text, said in (
        ("run: [a]\nsteps: {a: {lr: 1}}\nrun: [b]\n", "'run' stands twice in one block, in line 1 and in line 3"),
        ("steps:\n  a: {lr: 1,\n      lr: 2}\n", "'lr' stands twice in one block, in line 2 and in line 3; keep one"),
        ("- {x: 1, x: 2}\n", "'x' stands twice"),
    ):
        file.write_text(text)
        with pytest.raises(ConfigError, match=f"{re.escape(str(file))}: {said}"):
            refuse_repeated(file)
    for text in ("", "a: &a {b: 1}\nc: {<<: *a, b: 1}\n", "a: {x: 1}\nb: {x: 1}\n", "a: &a [*a]\n", "a: [", "[" * 9999):
        file.write_text(text)
        refuse_repeated(file)


def test_order_of_independent_steps_does_not_change_their_paths() -> None:
    one, other = (set(nodes(steps)) for steps in ("few colorize patches triplet ce", "colorize few patches triplet ce"))
    assert {"seed0/few/labels.json", "seed0/colorize/weights.json", "seed0/few/patches/patches.json"} <= one & other


def test_what_depends_on_no_seed_has_no_seed_in_its_path() -> None:
    assert set(nodes("imagenet classify cam crf ce", seed=5)) >= {
        "imagenet/weights.json",
        "seed5/imagenet/classify/cam/seeds.json",
    }


def test_recipes_that_begin_alike_share_work() -> None:
    c = config(
        a="imagenet classify cam erase mine crf ce",
        b="imagenet classify cam erase mine crf ce",
        d="imagenet classify cam crf ce",
    )
    lists = [[node.file for node in recipe.recipe_nodes(c, name, 0)] for name in c.recipes]
    assert [len(files) for files in lists] == [9, 9, 7]  # photographs and tags among them
    assert len(set().union(*lists)) == 11


def test_a_path_read_back_gives_the_same_node() -> None:
    c = config(card=CARD, merged="few imagenet classify cam saliency crf merge ce")
    for name in c.recipes:
        for node in recipe.recipe_nodes(c, name, 2):
            if node.settings:
                again = recipe.node_of(c, node.folder)
                assert (again.file, again.inputs, again.settings) == (node.file, node.inputs, node.settings)


def test_a_path_with_a_step_that_is_not_needed_is_refused() -> None:
    c = config(card=CARD)
    with pytest.raises(ConfigError, match="depends on seed0/colorize/classify only"):
        recipe.node_of(c, "seed0/colorize/saliency/classify")


# ------------------------------------------------------------------------------------------------- roles


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("weights", Role(("weights",), None, False)),
        ("saliency?", Role(("saliency",), None, True)),
        ("labels|soft", Role(("labels", "soft"), None, False)),
        ("labels|soft?", Role(("labels", "soft"), None, True)),
        ("labels@masks", Role(("labels",), "masks", False)),
        ("model@dis?", Role(("model",), "dis", True)),
    ],
)
def test_what_a_role_says(text: str, expected: Role) -> None:
    assert recipe.role(text) == expected


def test_a_role_takes_the_nearest_of_its_kind() -> None:
    assert played("random colorize classify")["weights"] == "seed0/colorize/weights.json"
    assert played("colorize classify cam erase mine erase") == {
        "photographs": "photographs.json",
        "tags": "tags.json",
        "weights": "seed0/colorize/weights.json",
        "seeds": "seed0/colorize/classify/cam/erase/mine/seeds.json",
    }


def test_a_role_of_one_method_looks_past_the_others() -> None:
    """`mine` wants the classifier of `erase`, which is not the nearest here."""
    steps = "imagenet classify cam erase classify mine"
    assert played(steps)["classifier"] == "seed0/imagenet/classify/cam/erase/classifier.json"
    assert METHODS["mine"].takes["classifier"] == "classifier@erase"


def test_a_second_role_of_a_kind_takes_the_next_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    assert played("few imagenet classify cam crf merge") == {
        "photographs": "photographs.json",
        "true": "seed0/few/labels.json",
        "pseudo": "seed0/imagenet/classify/cam/crf/labels.json",
    }
    # Without a method's name it is the order of the roles that decides.
    monkeypatch.setattr(Merge, "takes", {"near": "labels", "far": "labels"})
    assert played("few imagenet classify cam crf merge") == {
        "near": "seed0/imagenet/classify/cam/crf/labels.json",
        "far": "seed0/few/labels.json",
    }
    with pytest.raises(ConfigError, match="it needs labels as 'far', and no step to its left makes any"):
        played("few merge")


def test_the_second_training_of_dis_goes_on_from_the_first() -> None:
    """Of the labels it is told which are true; the first has one kind of labels, and no model before it."""
    first = played("few imagenet dis")
    assert first["labels"] == "seed0/few/labels.json" and not {"true", "model"} & set(first)
    second, path = played("few imagenet dis infer merge dis"), "seed0/few/imagenet/dis"
    assert (second["labels"], second["true"]) == (f"{path}/infer/merge/labels.json", "seed0/few/labels.json")
    assert (second["model"], second["weights"]) == (f"{path}/model.json", "imagenet/weights.json")
    steps = "few imagenet dis ce infer"  # infer wants a model of dis, which is not the nearest here
    assert played(steps)["model"] == f"{path}/model.json"


def test_hard_and_soft_labels_stand_for_each_other() -> None:
    """The nearer of the two: I-DCNN learns from the simple images' soft labels, E-DCNN from hard ones of the same."""
    assert played("imagenet saliency simple ce")["labels"] == "saliency/simple/soft.json"
    assert played("imagenet saliency simple few ce")["labels"] == "seed0/few/labels.json"
    initial = "seed0/imagenet/saliency/simple/ce"
    enhanced = f"{initial}/relabel-simple/ce"
    stc = "imagenet saliency simple ce relabel-simple"
    assert played(stc)["covered"] == "saliency/simple/soft.json"
    assert played(stc)["model"] == f"{initial}/model.json"
    assert played(f"{stc} ce")["labels"] == f"{initial}/relabel-simple/labels.json"
    assert played(f"{stc} ce relabel-all")["model"] == f"{enhanced}/model.json"
    assert played(f"{stc} ce relabel-all ce")["weights"] == "imagenet/weights.json", "each network starts anew"


def test_an_optional_role_may_stay_empty() -> None:
    assert "saliency" not in played("imagenet classify cam crf")
    assert played("saliency imagenet classify cam crf")["saliency"] == "saliency/saliency.json"


@pytest.mark.parametrize(
    ("steps", "parts"),
    [
        ("imagenet cam crf ce", ["'r'", "step 2 'cam'", "it needs classifier,", "before 'cam': classify, erase"]),
        ("few merge", ["step 2 'merge'", "it needs labels as 'pseudo'", ": crf, few, harden, infer, masks, merge, "]),
        ("imagenet classify cam crf merge ce", ["step 5 'merge'", "labels made by 'masks' as 'true'", ": few, masks"]),
        ("imagenet classify cam mine", ["step 4 'mine'", "classifier made by 'erase'", ": erase"]),
        ("imagenet ce", ["step 2 'ce'", "it needs labels or soft,", "few"]),
        ("imagenet clasify", ["step 2", "no step is called 'clasify'", "classify", "Add it under `steps:`"]),
    ],
)  # fmt: skip
def test_a_missing_role_names_recipe_step_role_and_suppliers(steps: str, parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        nodes(steps)
    for part in parts:
        assert part in str(caught.value)


def test_a_step_nothing_uses_is_refused() -> None:
    with pytest.raises(ConfigError, match="nothing after 'saliency' uses its saliency"):
        nodes("saliency few imagenet ce")


def test_a_recipe_that_reads_masks_is_refused_where_there_are_none() -> None:
    c = parse(DEFAULT)
    few = "masks few-only mix-and-match mix-and-match-jigsaw mix-and-match-random contrast contrast-semi tags-few"
    readers = {**dict.fromkeys(f"{few} ae-psl-few contrast-tags dis".split(), "few"), "supervised": "masks"}
    for name in c.recipes:
        if name not in readers:
            recipe.refuse_without_masks(name, recipe.recipe_nodes(c, name, 0))
    for name, step in readers.items():
        with pytest.raises(ConfigError, match=f"recipe '{name}', step '{step}': .* this data set has none"):
            recipe.refuse_without_masks(name, recipe.recipe_nodes(c, name, 0))


def test_choices_are_the_names_that_code_is_chosen_by() -> None:
    """Those of the steps before too: a stage opens what they made."""
    found = nodes(CARD)
    model = next(node for node in found.values() if node.kind == "model")
    assert {"deeplabv3+", "resnet18", "colorization", "rbd", "crf", "adamw", "segment", "erase"} <= model.choices
    saliency = found["saliency/saliency.json"]
    assert saliency.choices == {"saliency", "rbd"}
    assert found["photographs.json"].choices == frozenset()


# ----------------------------------------------------------------------------------------- settings and names


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (
            {"steps": {"cut": {"method": "cam", "treshold": 0.3}}},
            ["steps.cut.treshold: unknown key; did you mean 'threshold'?", "0.3"],
        ),
        ({"steps": {"cut": {"method": "cam", "reading": "max"}}}, ["steps.cut.reading", "of_max", "'max'"]),
        ({"steps": {"own": {"epochs": 3}}}, ["steps.own: `method` is missing", "classify"]),
        ({"steps": {"own": {"method": "camm"}}}, ["steps.own: no method is called 'camm'", "classify, cam"]),
        ({"steps": {"x": "cam"}}, ["steps.x", "{method: cam}", "'cam'"]),
        ({"steps": {"x": ["cam"]}}, ["steps.x", "{method: cam}"]),
        ({"steps": ["cam"]}, ["steps", "dictionary", "['cam']"]),
        ({"run": ["crad"]}, ["crad", "card"]),
        ({"compute": {"device": "gpu"}}, ["compute.device", "gpu"]),
        ({"steps": {"patches": {"sides": [256, 64]}}}, ["steps.patches.sides", "smaller number first", "256"]),
        ({"steps": {"classify": {"scale": [0, 1]}}}, ["steps.classify.scale", "greater than 0"]),
        ({"steps": {"cam": {"scales": [1.0, -1.0]}}}, ["steps.cam.scales", "greater than 0"]),
        ({"steps": {"colorize": {"method": "proxy", "lr": -1}}}, ["steps.colorize.lr", "greater than 0"]),
        ({"steps": {"triplet": {"crop": 64}}}, ["steps.triplet.crop: unknown key; known: ", "margin"]),
        ({"seeds": [-1]}, ["seeds.0", "-1"]),
        ({"evaluate": {"thresholds": 0}}, ["evaluate.thresholds", "greater than or equal to 1", "0"]),
        ({"evaluate": {"scales": []}}, ["evaluate.scales", "at least 1"]),
        ({"evaluate": {"scale": [1.0]}}, ["evaluate.scale: unknown key; did you mean 'scales'?"]),
        ({"evaluate": "fast"}, ["evaluate", "'fast'"]),
        ({"data": {"folder": {"roots": "x"}}}, ["data.folder.roots: unknown key; did you mean 'root'?"]),
        ({"recipe": {}}, ["recipe: unknown key; did you mean 'recipes'?"]),
        ({"recipes": {"a $(id) b": ["cam"]}}, ["recipes", "a $(id) b", "a name begins with a letter or digit"]),
        ({"recipes": {"my results; touch x": ["cam"]}}, ["recipes", "my results; touch x"]),
        ({"recipes": {"{seed}": ["cam"]}}, ["recipes", "{seed}"]),
        ({"recipes": {"a/b": ["cam"]}}, ["recipes", "a/b"]),
        ({"recipes": {"seed1": ["cam"]}}, ["recipes", "seed1", "not 'seed…'"]),
        ({"recipes": {"": ["cam"]}}, ["recipes", "''"]),
        ({"recipes": {"-n": ["cam"]}}, ["recipes", "'-n'"]),
        ({"recipes": {"empty": []}}, ["recipes.empty", "at least 1"]),
        ({"steps": {"a $(id) b": {"method": "cam"}}}, ["steps", "a $(id) b"]),
        ({"steps": {"../x": {"method": "cam"}}}, ["steps", "../x"]),
        ({"results": "my {data}"}, ["results", "without '{' '}'"]),
        ({"results": "what?*"}, ["results", "without '*' '?'"]),
        ({"results": "two\nlines"}, ["results", r"without '\n'"]),
        ({"data": {"name": "a $(id) b"}}, ["data.name", "a $(id) b"]),
    ],
    ids=str,
)
def test_bad_settings_are_refused_with_key_value_and_choices(change: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        parse({**DEFAULT, **change})
    for part in parts:
        assert part in str(caught.value)


def test_a_mistake_is_said_to_stand_where_it_stands() -> None:
    """In the file that has the last word, or on the command line, which no file knows of."""
    cut = {"method": "cam", "treshold": 0.3}
    files = {
        "base.yaml": {"evaluate": {"scales": [1.0]}, "seeds": [-1], "steps": {"cut": cut}},
        "mine.yaml": {"evaluate": {"thresholds": 0}, "steps": {"cut": cut}},
        "over.yaml": {"compute": {"device": "gpu"}},
    }
    found = {"evaluate": {"thresholds": 0}, "seeds": [-1], "compute": {"device": "tpu", "precision": "f8"}}
    with pytest.raises(ConfigError) as caught:
        parse({**DEFAULT, **found, "steps": {"cut": cut}}, files)
    first, *lines = str(caught.value).splitlines()
    assert first == "base.yaml, mine.yaml, over.yaml: 5 setting(s) cannot be used"
    assert {line.split(":")[0].strip(): line[line.rindex("[") + 1 : -1] for line in lines} == {
        "seeds.0": "base.yaml",
        "steps.cut.treshold": "mine.yaml",
        "evaluate.thresholds": "mine.yaml",
        "compute.device": "--config",
        "compute.precision": "--config",
    }


@pytest.mark.parametrize("name", ["a", "0", "ae-psl+", "v1.2_x"])
def test_plain_names_are_good_names(name: str) -> None:
    assert name in parse({**DEFAULT, "recipes": {name: ["cam"]}, "run": [name]}).recipes


@pytest.mark.parametrize("path", ["my results", "a & b", "it's; touch x", "$(touch x)", "/abs/päth"])
def test_any_path_that_a_rule_can_quote_is_good(path: str) -> None:
    assert str(parse({**DEFAULT, "results": path}).results) == path


# ---------------------------------------------------------------------------------------------------- imports


def test_planning_imports_nothing_heavy() -> None:
    program = (
        "import sys, yaml\n"
        "from pipeline.core import config, digest, recipe; from pipeline.datasets import fingerprint\n"
        "c = config.parse(yaml.safe_load(open('config.yaml')))\n"
        "[recipe.recipe_nodes(c, name, 0) for name in c.recipes]; digest.code_digest('segment', ['largefov'])\n"
        "fingerprint.fingerprints(c.data)\n"
        "heavy = {'torch', 'zarr', 'numpy', 'PIL', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


PACKAGE = ROOT / "pipeline"
# Room → the rooms it may use. Stages, modules directly below pipeline/, may use them all but the report.
BELOW = {
    "core": set(),
    "kinds": {"core"},
    "annotations": {"core"},
    "datasets": {"core", "kinds", "annotations"},
    "kernels": {"core", "kinds"},
    "networks": {"core", "kinds", "kernels"},
    "report": {"core", "kinds", "kernels", "networks"},
    "stage": {"core", "kinds", "kernels", "networks", "datasets", "annotations"},
}


def imported(tree: ast.AST) -> Iterator[str]:
    """Full names that import statements in here name: modules, or what is in them."""
    for statement in ast.walk(tree):
        if isinstance(statement, ast.Import):
            yield from (alias.name for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom):
            assert statement.level == 0, "relative imports are not followed here"
            yield from (f"{statement.module}.{alias.name}" for alias in statement.names)


def room_of(path: Path) -> str:
    inside = path.relative_to(PACKAGE)
    return inside.parts[0] if len(inside.parts) > 1 else "stage"


def module_of(name: str) -> Path | None:
    """The file of one of our modules that a full name lies in, None for other packages and for the package itself."""
    parts = name.split(".")
    for end in range(len(parts), 1, -1):
        path = ROOT.joinpath(*parts[:end])
        if parts[0] == "pipeline" and path.with_suffix(".py").is_file():
            return path.with_suffix(".py")
        if parts[0] == "pipeline" and path.is_dir():
            return path / "__init__.py"
    return None


FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_downwards_and_stages_never_import_each_other(path: Path) -> None:
    room = room_of(path)
    for name in imported(ast.parse(path.read_text())):
        target = module_of(name)
        if target is None or (room != "stage" and room_of(target) == room):
            continue
        assert room_of(target) in BELOW[room], f"{path.relative_to(ROOT)} imports {name}"


def test_there_is_no_room_but_those() -> None:
    assert {room_of(path) for path in FILES} == set(BELOW)


def at_import(tree: ast.Module) -> Iterator[str]:
    """What is imported when the module is: imports outside functions."""
    for statement in tree.body:
        if not isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from imported(statement)


@pytest.mark.parametrize(
    "path", [path for path in FILES if room_of(path) in ("kinds", "datasets", "annotations", "core")], ids=str
)
def test_kinds_and_data_sets_need_no_torch_and_of_the_core_only_the_loop_does(path: Path) -> None:
    heavy = {name for name in at_import(ast.parse(path.read_text())) if name.split(".")[0] in ("torch", "torchvision")}
    assert not heavy or path.relative_to(PACKAGE).as_posix() in ("core/train.py", "core/loop.py"), heavy
