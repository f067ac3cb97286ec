"""Recipes → paths, missing kinds, code digests."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

from pipeline.core import recipe
from pipeline.core.config import ConfigError, parse

DEFAULT = yaml.safe_load((ROOT / "config.yaml").read_text())


def config(**recipes: str):
    return parse({**DEFAULT, "recipes": {name: steps.split() for name, steps in recipes.items()}, "run": list(recipes)})


def test_a_path_holds_what_the_artifact_depends_on_and_nothing_else() -> None:
    c = config(card="colorize classify cam ae ae saliency crf patches triplet ce")
    files = [node.file for node in recipe.recipe_nodes(c, "card", 3)]
    assert "saliency/saliency.json" in files
    assert "seed3/colorize/classify/cam/ae/ae/seeds.json" in files
    assert "seed3/colorize/classify/cam/ae/ae/saliency/crf/labels.json" in files
    assert files[-1] == "seed3/colorize/classify/cam/ae/ae/saliency/crf/patches/triplet/ce/model.json"


def test_order_of_independent_steps_does_not_change_their_paths() -> None:
    c = config(one="few colorize patches triplet ce", other="colorize few patches triplet ce")
    one, other = ({node.file for node in recipe.recipe_nodes(c, name, 0)} for name in ("one", "other"))
    assert {"seed0/few/labels.json", "seed0/colorize/weights.json", "seed0/few/patches/patches.json"} <= one & other


def test_recipes_that_begin_alike_share_work() -> None:
    c = config(
        a="imagenet classify cam ae crf ce", b="imagenet classify cam ae ae crf ce", d="imagenet classify cam crf ce"
    )
    lists = [[node.file for node in recipe.recipe_nodes(c, name, 0)] for name in c.recipes]
    assert sum(map(len, lists)) == 18
    assert len(set().union(*lists)) == 11


def test_a_path_read_back_gives_the_same_node() -> None:
    c = config(card="colorize classify cam ae ae saliency crf patches triplet ce")
    for node in recipe.recipe_nodes(c, "card", 2):
        again = recipe.node_of(c, node.folder)
        assert (again.file, again.inputs) == (node.file, node.inputs)


def test_a_path_with_a_step_that_is_not_needed_is_refused() -> None:
    c = config(card="colorize classify cam crf ce")
    with pytest.raises(ConfigError, match="depends on seed0/colorize/classify only"):
        recipe.node_of(c, "seed0/colorize/saliency/classify")


def test_a_missing_kind_names_recipe_step_kind_and_suppliers() -> None:
    c = config(broken="imagenet cam crf ce")
    with pytest.raises(ConfigError) as caught:
        recipe.recipe_nodes(c, "broken", 0)
    message = str(caught.value)
    for part in ("'broken'", "step 2 'cam'", "classifier", "classify"):
        assert part in message


def test_a_step_nothing_uses_is_refused() -> None:
    with pytest.raises(ConfigError, match="nothing after 'saliency' uses its saliency"):
        recipe.recipe_nodes(config(r="saliency few imagenet ce"), "r", 0)


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"steps": {"ae": {"method": "erase", "treshold": 0.3}}}, ["steps.ae.treshold", "unknown key", "0.3"]),
        ({"steps": {"ae": {"method": "erase", "reading": "max"}}}, ["steps.ae.reading", "of_max", "'max'"]),
        ({"steps": {"mine": {"epochs": 3}}}, ["steps.mine", "method", "classify"]),
        ({"run": ["crad"]}, ["crad", "card"]),
        ({"compute": {"device": "gpu"}}, ["compute.device", "gpu"]),
        ({"steps": {"patches": {"sides": [256, 64]}}}, ["steps.patches.sides", "smaller number first", "256"]),
        ({"steps": {"classify": {"scale": [0, 1]}}}, ["steps.classify.scale", "greater than 0"]),
        ({"steps": {"cam": {"scales": [1.0, -1.0]}}}, ["steps.cam.scales", "greater than 0"]),
        ({"steps": {"colorize": {"method": "proxy", "lr": -1}}}, ["steps.colorize.lr", "greater than 0"]),
        ({"steps": {"triplet": {"crop": 64}}}, ["steps.triplet.crop", "unknown key"]),
        ({"seeds": [-1]}, ["seeds.0", "-1"]),
    ],
)
def test_bad_settings_are_refused_with_key_value_and_choices(change: dict, parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        parse({**DEFAULT, **change})
    for part in parts:
        assert part in str(caught.value)


def test_planning_imports_no_torch_and_is_fast() -> None:
    program = (
        "import sys, yaml; from pipeline.core import config, recipe, sources\n"
        "c = config.parse(yaml.safe_load(open('config.yaml')))\n"
        "[recipe.recipe_nodes(c, name, 0) for name in c.recipes]; recipe.code_digest('erase')\n"
        "assert not {'torch', 'zarr', 'numpy'} & set(sys.modules), 'heavy import'"
    )
    started = time.monotonic()
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
    assert time.monotonic() - started < 5


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A two-module package that code digests look at instead of the real one."""
    folder = tmp_path / "pipeline"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "helper.py").write_text("def f(x):\n    return x + 1\n")
    (folder / "stage.py").write_text("from pipeline import helper\n\ndef run():\n    return helper.f(1)\n")
    monkeypatch.setattr(recipe, "PACKAGE", folder)
    return folder


@pytest.mark.parametrize(
    ("file", "before", "after", "changes"),
    [
        ("stage.py", "def run", "# a comment\ndef run", False),
        ("stage.py", "def run():", 'def run():\n    """What it does."""', False),
        ("helper.py", "x + 1", "x  +  1  # same", False),
        ("stage.py", "f(1)", "f(2)", True),
        ("helper.py", "x + 1", "x + 2", True),
    ],
)
def test_code_digest_sees_edits_but_not_comments(
    package: Path, file: str, before: str, after: str, changes: bool
) -> None:
    def digest() -> str:
        recipe.code_digest.cache_clear()
        recipe._tree.cache_clear()
        return recipe.code_digest("stage")

    first = digest()
    path = package / file
    path.write_text(path.read_text().replace(before, after))
    assert (digest() != first) == changes
    recipe.code_digest.cache_clear()
    recipe._tree.cache_clear()


def test_stages_import_core_and_never_each_other() -> None:
    stages = {path.stem for path in (ROOT / "pipeline").glob("*.py")} - {"__init__"}
    for name in stages:
        _, imports = recipe._tree(f"pipeline.{name}")
        siblings = {f"pipeline.{other}" for other in stages - {name}}
        assert not imports & siblings, f"{name} imports {imports & siblings}"
    for path in (ROOT / "pipeline" / "core").glob("*.py"):
        _, imports = recipe._tree(f"pipeline.core.{path.stem}")
        assert not imports & {f"pipeline.{name}" for name in stages}, path
