"""Shared by the tests: the tiny data set, and stages run as the real commands."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import pytest
import warm

from pipeline.core import cli, store
from pipeline.core.steps.base import DATA

# Started in the background of a shell, the tests would hand an ignored Ctrl-C on to every process they start.
signal.signal(signal.SIGINT, signal.default_int_handler)
ROOT = Path(__file__).resolve().parents[1]
DATA_FOLDER = ROOT.parent / "shared" / "data"
os.environ["GOMP_SPINCOUNT"] = "500"
THREADS = max(1, cli.usable_cores() // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1)))  # of each stage
os.environ["OMP_NUM_THREADS"] = str(THREADS)  # read when torch is imported, by the tests and what they start
LONGEST = ("test_slurm", "test_workflow", "test_stages", "test_durability")  # begun first where files run side by side
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


def words(stage: str, out: Path, settings: dict | None = None, **inputs: Path | int) -> list[str]:
    """The arguments of a stage's command."""
    flags = [part for role, path in inputs.items() for part in (f"--{role}", str(path))]
    flags += ["--settings", json.dumps(settings or {}), "--out", str(out)]
    return flags if stage == "prepare" else [*flags, "--precision", "f32", "--threads", str(THREADS)]


def command(stage: str, *args: object) -> list[str]:
    """The same as a process of its own, for tests that kill it."""
    return [sys.executable, "-m", f"pipeline.{stage}", *map(str, args)]


def stage(stage_name: str, out: Path, settings: dict | None = None, fails: bool = False, **inputs: Path | int) -> str:
    """Run a stage as its command; returns what it printed."""
    given = words(stage_name, out, settings, **inputs)
    status, said = warm.run(f"pipeline.{stage_name}", given, out.parent, server=warm.server_of(ROOT))
    assert (status != 0) == fails, f"{stage_name} {' '.join(given)}\n{said}"
    return said


def kill_stage(stage_name: str, die_after: str, out: Path, settings: dict, **inputs: Path | int) -> None:
    """Run a stage that is killed with all its processes once this function has returned (see warm.py)."""
    given = words(stage_name, out, settings, **inputs)
    often, server = {"CHECKPOINT_SECONDS": "0"}, warm.server_of(ROOT)
    status, said = warm.run(f"pipeline.{stage_name}", given, out.parent, often, die_after, server)
    assert status == -signal.SIGKILL, said


def prepare(folder: Path, settings: dict) -> dict[str, Path]:
    """A data set's artifacts in this folder, by kind."""
    folder.mkdir(parents=True, exist_ok=True)
    made = {kind: folder / f"{kind}.json" for kind in DATA}
    stage("prepare", made["photographs"], settings, make="photographs")
    for kind in ("tags", "masks"):
        stage("prepare", made[kind], settings, make=kind, photographs=made["photographs"])
    return made


def content(manifest: Path) -> dict[str, bytes]:
    """The manifest and every chunk file; not the store's own attributes, which hold time and host."""
    folder = store.store_of(manifest)
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {"manifest": manifest.read_bytes(), **{k: v for k, v in files.items() if k != "zarr.json"}}


TINY = {"batch": 4, "crop": 64, "epochs": 1, "lr": 0.001, "head_lr": 1.0}
ERASE = {**TINY, "stop_recall": 0.0, "stop_loss": 9.0}
CAM = {"scales": [1.0], "flip": False}
MINE = {**CAM, "recognised": 0, "stop_mined": 0}
PATCHES = {"sides": [16, 48], "size": 32, "draws": 2}
TRIPLET = {"batch": 4, "epochs": 1, "pool": 1}


def demo_settings(train: int = 12, val: int = 4, side: int = 96) -> dict:
    return {"name": "tiny", "format": "demo", "max_side": side, "demo": {"train": train, "val": val}}


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One artifact of every kind from the real stages, on 12 pictures."""
    root = tmp_path_factory.mktemp("tiny")
    made = prepare(root, demo_settings())

    def make(name: str, stage_name: str, settings: dict | None = None, **inputs: str) -> None:
        made[name] = root / f"{name}.json"
        stage(stage_name, made[name], settings, **{role: made[source] for role, source in inputs.items()})

    see, know = {"photographs": "photographs"}, {"photographs": "photographs", "tags": "tags"}
    make("weights", "init", {"method": "random"})
    make("saliency", "saliency", **see)
    make("classifier", "classify", TINY, **know, weights="weights")
    make("seeds", "cam", CAM, **know, classifier="classifier")
    make("eraser", "erase", ERASE, **know, seeds="seeds", weights="weights")
    make("mined", "mine", MINE, **see, seeds="seeds", classifier="eraser")
    make("labels", "crf", **see, seeds="mined", saliency="saliency")
    make("few", "masks", {"fraction": 0.5}, **know, masks="masks")
    make("patches", "patches", PATCHES, **see, labels="few")
    make("tuned", "triplet", TRIPLET, **see, patches="patches", weights="weights")
    make("model", "segment", {**TINY, "width": 16}, **see, labels="labels", weights="tuned")
    return made
