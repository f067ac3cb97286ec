"""Shared by the tests: the tiny data set, and stages run as the real commands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.core import store

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data"
ENVIRONMENT = {**os.environ, "GOMP_SPINCOUNT": "500", "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


def command(stage: str, *args: object) -> list[str]:
    return [sys.executable, "-m", f"pipeline.{stage}", *map(str, args)]


def stage(stage_name: str, out: Path, settings: dict | None = None, fails: bool = False, **inputs: Path | int) -> str:
    """Run a stage as its command; returns what it printed."""
    flags = [part for kind, path in inputs.items() for part in (f"--{kind}", path)]
    words = command(stage_name, *flags, "--settings", json.dumps(settings or {}), "--out", out)
    if stage_name != "prepare":
        words += ["--precision", "f32", "--threads", "2"]
    done = subprocess.run(words, capture_output=True, text=True, env=ENVIRONMENT, cwd=out.parent)
    assert (done.returncode != 0) == fails, f"{' '.join(words)}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def content(manifest: Path) -> dict[str, bytes]:
    """The manifest and every chunk file; not the store's own attributes, which hold time and host."""
    folder = store.store_of(manifest)
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {manifest.name: manifest.read_bytes(), **{k: v for k, v in files.items() if k != "zarr.json"}}


TINY = {"batch": 4, "crop": 64, "epochs": 1, "lr": 0.001, "head_lr": 1.0}
CLASSES = {"train": 12, "val": 4}


def demo_settings(train: int = 12, val: int = 4) -> dict:
    return {"name": "tiny", "format": "demo", "max_side": 96, "demo": {"train": train, "val": val}}


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One artifact of every kind from the real stages, on 12 pictures."""
    root = tmp_path_factory.mktemp("tiny")
    made = {}

    def make(name: str, stage_name: str, settings: dict | None = None, **inputs: Path) -> None:
        made[name] = root / f"{name}.json"
        stage(stage_name, made[name], settings, **inputs)

    make("images", "prepare", demo_settings())
    images = made["images"]
    make("weights", "init", {"method": "random"})
    make("saliency", "saliency", images=images)
    make("classifier", "classify", TINY, images=images, weights=made["weights"])
    make("seeds", "cam", {"scales": [1.0]}, images=images, classifier=made["classifier"])
    erase = {**TINY, "scales": [1.0], "stop_recall": 0.0, "stop_loss": 9.0}
    make("erased", "erase", erase, images=images, seeds=made["seeds"], weights=made["weights"])
    make("labels", "crf", images=images, seeds=made["erased"], saliency=made["saliency"])
    make("masks", "masks", {"fraction": 0.5}, images=images)
    make("patches", "patches", {"sides": [16, 48], "size": 32, "draws": 2}, images=images, labels=made["masks"])
    make(
        "tuned",
        "triplet",
        {"batch": 4, "epochs": 1, "pool": 1},
        images=images,
        patches=made["patches"],
        weights=made["weights"],
    )
    make("model", "segment", {**TINY, "width": 16}, images=images, labels=made["labels"], weights=made["tuned"])
    return made
