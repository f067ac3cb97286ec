"""The repository's own promises: files in step with each other, settings documented, sizes kept in check."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import ROOT
from pydantic import BaseModel

from benchmarks import claims, systems
from pipeline.core import recipe, reference
from pipeline.core.config import Config, ConfigError, parse
from pipeline.core.steps import METHODS
from pipeline.core.steps.base import Step
from pipeline.datasets import reference as formats

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
DEFAULT = yaml.safe_load((ROOT / "config.yaml").read_text())
CONFIGS, BENCHMARKS = (sorted((ROOT / folder).glob("*.yaml")) for folder in ("configs", "benchmarks"))
VOC = ROOT / "configs" / "voc2012.yaml"
BASES = {
    "voc_mini": [VOC],
    "mix_and_match": [VOC, ROOT / "benchmarks" / "voc_mini.yaml"],
    "systems": [VOC, ROOT / "benchmarks" / "voc_mini.yaml"],
    **{
        name: [VOC, ROOT / "benchmarks" / "voc_mini.yaml", ROOT / "benchmarks" / "systems.yaml"]
        for name in ("regimes", "longer", "pooled", "few")
    },
}  # what is read before
SETTINGS = [*METHODS.values(), *reference.BLOCKS.values()]


def merged(base: dict, over: dict) -> dict:
    """Snakemake's rule for several configuration files: blocks merge, everything else is replaced."""
    out = dict(base)
    for key, value in over.items():
        out[key] = merged(out[key], value) if isinstance(value, dict) and isinstance(out.get(key), dict) else value
    return out


def read(*paths: Path) -> dict:
    """What Snakemake makes of these files."""
    found: dict = {}
    for path in paths:
        found = merged(found, yaml.safe_load(path.read_text()))
    return found


def test_conda_environment_and_pyproject_agree() -> None:
    environment = yaml.safe_load((ROOT / "envs" / "pipeline.yaml").read_text())["dependencies"]
    conda = next(item["pip"] for item in environment if isinstance(item, dict))
    assert sorted(conda) == sorted(PROJECT["project"]["dependencies"])
    assert f"python {PROJECT['project']['requires-python']}" in environment


# ------------------------------------------------------------------------------------------------ configurations


@pytest.mark.parametrize("path", [None, *CONFIGS, *BENCHMARKS], ids=lambda path: path.stem if path else "demo")
def test_every_recipe_resolves_for_every_shipped_configuration(path: Path | None) -> None:
    files = [] if path is None else [*BASES.get(path.stem, []), path]
    config = parse(merged(DEFAULT, read(*files) if files else {}))
    assert set(config.recipes) >= set(DEFAULT["recipes"])
    for name in config.recipes:
        assert recipe.recipe_nodes(config, name, 0)[-1].scored


def leaves(block: dict, key: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in block.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{key}{name}.")
        else:
            yield f"{key}{name}", value


@pytest.mark.parametrize("path", [*CONFIGS, *BENCHMARKS], ids=lambda path: path.stem)
def test_a_shipped_configuration_says_only_what_differs(path: Path) -> None:
    before = dict(leaves(merged(DEFAULT, read(*BASES.get(path.stem, [])))))
    repeated = [key for key, value in leaves(read(path)) if key in before and before[key] == value]
    assert repeated == []


def test_configurations_of_data_sets_bring_no_recipes() -> None:
    """Those stand in config.yaml, for whatever data."""
    assert [path.name for path in CONFIGS if "recipes" in read(path)] == []


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_no_shipped_configuration_can_run_the_demo(path: Path) -> None:
    """Neither as it is nor when whoever copies it leaves out where the photographs are."""
    config = merged(DEFAULT, read(path))
    assert parse(config).data.format != "demo"
    config["data"] = {key: value for key, value in config["data"].items() if key not in ("format", "voc", "folder")}
    with pytest.raises(ConfigError, match="nothing says where the photographs are"):
        parse(config)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"name": "mine"}, r"data\.name is 'mine' but nothing says where the photographs are: set data\.folder\.root"),
        ({"format": "demo", "folder": {"root": "x"}}, r"data\.folder is set but data\.format is 'demo'"),
        ({"format": "voc", "folder": {"root": "x"}}, r"data\.folder is set but data\.format is 'voc'"),
        ({"folder": {"root": "x"}, "voc": {"root": "y"}}, r"data\.voc and data\.folder are both set"),
    ],
)
def test_other_data_than_was_named_is_never_run(data: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse(merged(DEFAULT, {"data": data}))


def test_where_the_photographs_are_says_the_layout() -> None:
    assert parse(merged(DEFAULT, {"data": {"name": "mine", "folder": {"root": "x"}}})).data.format == "folder"
    assert parse(merged(DEFAULT, {"data": {"name": "mine", "voc": {"root": "x"}}})).data.format == "voc"
    assert parse(merged(DEFAULT, {"data": {"name": "mine", "format": "demo"}})).data.format == "demo"
    assert parse(DEFAULT).data.format == "demo"


@pytest.mark.parametrize("side", [160, 320, 512, 1000])
def test_lengths_follow_from_the_photographs_side(side: int) -> None:
    """So that a configuration says the side alone. What networks see is a multiple of 16 pixels."""
    config = parse({"recipes": {"r": ["random"]}, "run": ["r"], "data": {"max_side": side, "format": "demo"}})
    for name, method in METHODS.items():
        step = config.step(name)
        for length, share in method.lengths.items():
            found = np.atleast_1d(getattr(step, length))
            unit = 16 if length in ("crop", "size") else 2 if length == "sides" else 1
            expected = np.maximum(np.atleast_1d(share) * side, 64 if unit == 16 else 0)
            assert (found % unit == 0).all() and (abs(found - expected) <= unit / 2).all(), f"{name}.{length}: {found}"
            assert method.model_fields[length].default is None
    assert METHODS["classify"](method="classify", crop=99).sized(side).crop == 99


def test_every_key_of_config_yaml_has_a_comment() -> None:
    """One comment at least for each top-level key and each named step."""
    lines = (ROOT / "config.yaml").read_text().splitlines()
    parse(yaml.safe_load("\n".join(lines)))
    for number, line in enumerate(lines):
        if re.match(r"( {2})?\w+:", line) and not re.match(r"  [\w-]+: \[", line):
            nearby = lines[max(0, number - 1) : number + 3]
            assert any("#" in text for text in nearby), f"config.yaml line {number + 1}: {line}"


# ------------------------------------------------------------------------------------------------- documentation


def test_the_page_of_settings_is_what_the_classes_say() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text()
    assert text == reference.page(), "run: python -m pipeline.core.reference > docs/configuration.md"


def test_formats_are_documented_by_their_own_words() -> None:
    text = (ROOT / "docs" / "formats_in.md").read_text()
    assert text == formats.page(), "run: python -m pipeline.datasets.reference > docs/formats_in.md"


@pytest.mark.parametrize("model", SETTINGS, ids=lambda model: model.__name__)
def test_every_setting_has_a_description(model: type[Step]) -> None:
    missing = [name for name, about in model.model_fields.items() if name != "method" and not about.description]
    assert missing == []


def test_number_of_settings_grows_only_on_purpose() -> None:
    """A ratchet: raise it when a new setting has earned its place."""
    assert sum(len(set(model.model_fields) - {"method"}) for model in SETTINGS) <= 284


def test_every_block_of_the_configuration_is_in_the_page() -> None:
    named = [about.annotation for block in reference.BLOCKS.values() for about in block.model_fields.values()]
    blocks = [kind for kind in named if isinstance(kind, type) and issubclass(kind, BaseModel)]
    assert {Config, *blocks} == set(reference.BLOCKS.values())


def test_files_stay_readable() -> None:
    """A ratchet on file length; a stage reads in one sitting."""
    for path in (ROOT / "pipeline").rglob("*.py"):
        limit = 410 if path.parent.name == "core" else 310
        assert len(path.read_text().splitlines()) <= limit, f"{path} is too long: split it"


@pytest.mark.parametrize("path", [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")], ids=lambda path: path.name)
def test_what_the_documentation_names_exists(path: Path) -> None:
    """Modules that are run, configuration files, and links to files of the repository."""
    text = path.read_text()
    for module in re.findall(r"python -m (pipeline[.\w]*\w)", text):
        file = ROOT.joinpath(*module.split("."))
        assert file.with_suffix(".py").is_file() or (file / "__main__.py").is_file(), module
    for name in re.findall(r"(?<![\w/.])((?:configs|benchmarks)/\w+\.\w+)", text):
        assert (ROOT / name).is_file(), name
    for target in re.findall(r"\]\((?!\w+:|#)([^)#]+)", text):
        assert (path.parent / target).exists(), target


def test_tables_come_from_the_json_beside_them(tmp_path: Path) -> None:
    row = {
        "data": "d",
        "recipe": "r",
        "stage": "ce",
        "split": "val",
        "threshold": None,
        "coverage": 100.0,
        "seconds": 2.0,
    }
    rows = [
        {**row, "seed": seed, "miou": miou, "miou_labelled": miou, "commit": "abc"}
        for seed, miou in enumerate((40.0, 44.0))
    ]
    assert "| r | ce | val | 2 | 42.0 ± 2.8 |" in systems.tables(rows)
    shipped = ROOT / "docs" / "results" / "chain.json"
    text = (ROOT / "docs" / "results" / "chain.md").read_text()
    assert systems.tables(json.loads(shipped.read_text())) in text, (
        "run: python -m benchmarks.systems tables --json docs/results/chain.json --markdown docs/results/chain.md"
    )


def test_a_row_names_the_commit_that_made_it(tmp_path: Path) -> None:
    """Collected again by a later checkout, a result of the same bytes keeps its commit; a new one takes the later."""
    row = {"data": "d", "recipe": "r", "stage": "ce", "seed": 0, "miou": 1.0, "commit": "old", "digest": "a"}
    other = {**row, "stage": "crf", "digest": "c"}
    systems.save([row, other], tmp_path / "rows.json")
    systems.save([{**row, "commit": "new"}, {**other, "commit": "new", "digest": "d"}], tmp_path / "rows.json")
    found = {row["stage"]: row["commit"] for row in json.loads((tmp_path / "rows.json").read_text())}
    assert found == {"ce": "old", "crf": "new"}


def test_a_claim_holds_only_beyond_twice_the_standard_error_of_three_seeds() -> None:
    """Of 1, 2, 3 the mean is 2 and its standard error 0.58; of 0, 2, 4 it is 1.15."""
    assert [claims.verdict(found) for found in ([1, 2, 3], [-1, -2, -3], [0, 2, 4])] == ["yes", "no", "undecided"]
    assert claims.verdict([5, 5]) == "undecided"
    row = {"data": claims.DATA, "split": "val", "threshold": None, "last": True, "classes": {}}
    networks = {"ae-psl": (3.0, 4.0, 5.0), "erasing": (2.0, 2.0, 2.0)}
    rows = [
        row | {"recipe": name, "stage": "ce", "seed": seed, "miou": miou}
        for name, values in networks.items()
        for seed, miou in enumerate(values)
    ]
    (found,) = claims.evaluate(rows)
    assert (found["claim"], found["ours"], found["sd"]) == ("PSL > cross-entropy on the same masks", 2.0, 1.0)
    assert (found["seeds"], found["holds"]) == (3, "yes")


def test_nothing_of_the_data_or_of_results_is_committed() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    for name in listed.stdout.splitlines():
        assert not name.startswith(("results/", "logs/", "data/", "shared/")), name
        path = ROOT / name
        assert not path.is_file() or path.stat().st_size < 1_000_000, f"{name} is over 1 MB"
