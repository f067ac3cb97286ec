"""The repository's own promises: files in step with each other, settings documented, sizes kept in check."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

from pipeline.core.config import METHODS, Config, Data, Step, parse

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_conda_environment_and_pyproject_agree() -> None:
    environment = yaml.safe_load((ROOT / "envs" / "pipeline.yaml").read_text())["dependencies"]
    conda = next(item["pip"] for item in environment if isinstance(item, dict))
    assert sorted(conda) == sorted(PROJECT["project"]["dependencies"])


@pytest.mark.parametrize(
    "path", sorted((ROOT / "configs").glob("*.yaml")) + sorted((ROOT / "benchmarks").glob("*.yaml"))
)
def test_shipped_configurations_are_valid(path: Path) -> None:
    chain = load_chain()
    voc = "configs/voc2012.yaml"
    bases = {"voc_mini": [voc], "mix_and_match": [voc, "benchmarks/voc_mini.yaml"]}
    config = chain.load([*(ROOT / base for base in bases.get(path.stem, [])), path])
    from pipeline.core.recipe import recipe_nodes

    for name in config.run:
        assert recipe_nodes(config, name, 0)


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_settings_for_the_demo_do_not_leak_into_other_data(path: Path) -> None:
    """config.yaml is always read first: a shipped configuration sets again what it set for each step that it uses."""
    demo, other = (yaml.safe_load(text.read_text()) for text in (ROOT / "config.yaml", path))
    used = {step for recipe in other["recipes"].values() for step in recipe} | set(other["steps"])
    for name in used & set(demo["steps"]):
        missing = set(demo["steps"][name]) - {"method", "refine"} - set(other["steps"].get(name, {}))
        assert not missing, f"{path.name}, steps.{name}: {sorted(missing)} would come from config.yaml"


def load_chain():
    spec = importlib.util.spec_from_file_location("chain", ROOT / "benchmarks" / "chain.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_key_of_config_yaml_has_a_comment() -> None:
    """One comment at least for each top-level key and each named step."""
    lines = (ROOT / "config.yaml").read_text().splitlines()
    parse(yaml.safe_load("\n".join(lines)))
    for number, line in enumerate(lines):
        if re.match(r"( {2})?\w+:", line) and not re.match(r"  [\w-]+: \[", line):
            nearby = lines[max(0, number - 1) : number + 3]
            assert any("#" in text for text in nearby), f"config.yaml line {number + 1}: {line}"


def test_settings_are_documented() -> None:
    """A description, or a name that is the paper's own."""
    plain = {
        "method",
        "momentum",
        "weight_decay",
        "backbone",
        "flip",
        "epochs",
        "batch",
        "lr",
        "head_lr",
        "margin",
        "stride",
    }
    plain |= {
        "hidden",
        "iterations",
        "compat",
        "bilateral_compat",
        "head",
        "width",
        "schedule",
        "optimizer",
        "task",
        "crop",
    }
    plain |= {"algorithm", "scales", "jitter", "warmup", "background_share", "pool", "format", "demo", "voc", "folder"}
    for model in (*METHODS.values(), Data):
        for name, about in model.model_fields.items():
            assert about.description or name in plain, f"{model.__name__}.{name} has no description"


def test_number_of_settings_grows_only_on_purpose() -> None:
    """A ratchet: raise it when a new setting has earned its place."""
    shared = set(Step.model_fields)
    count = sum(len(set(model.model_fields) - shared) for model in METHODS.values()) + len(Config.model_fields)
    assert count <= 190


def test_files_stay_readable() -> None:
    """A ratchet on file length; a stage reads in one sitting."""
    for path in (ROOT / "pipeline").rglob("*.py"):
        limit = 420 if path.parent.name == "core" else 340
        assert len(path.read_text().splitlines()) <= limit, f"{path} is too long: split it"


def test_python_of_the_readme_exists() -> None:
    text = (ROOT / "README.md").read_text()
    for module in re.findall(r"python -m pipeline\.(\w+)", text):
        assert (ROOT / "pipeline" / f"{module}.py").is_file()
    for target in re.findall(r"\]\((docs/[\w./-]+)\)", text):
        assert (ROOT / target).exists(), target


def test_tables_come_from_the_json_beside_them(tmp_path: Path) -> None:
    chain = load_chain()
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
    assert "| r | ce | val | 2 | 42.0 ± 2.8 |" in chain.tables(rows)
    shipped = ROOT / "docs" / "results" / "chain.json"
    text = (ROOT / "docs" / "results" / "chain.md").read_text()
    assert chain.tables(json.loads(shipped.read_text())) in text, "run: python benchmarks/chain.py tables"


def test_nothing_of_the_data_or_of_results_is_committed() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    for name in listed.stdout.splitlines():
        assert not name.startswith(("results/", "logs/", "data/", "shared/")), name
        path = ROOT / name
        assert not path.is_file() or path.stat().st_size < 1_000_000, f"{name} is over 1 MB"
