"""Photographs and small exports for the tests of what annotation tools write."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.core.data import Data
from pipeline.core.job import InputError
from pipeline.core.store import Artifact
from pipeline.datasets.inventory import FILE, Inventory, take_inventory
from pipeline.datasets.layouts import at, root_of
from pipeline.datasets.look import content, mask_values
from pipeline.kinds.masks import has_mask, true_mask
from pipeline.kinds.photographs import ids
from pipeline.prepare import MAKES, prepare

H, W = 40, 56


def write_photographs(folder: Path, count: int, first: int = 0) -> list[str]:
    """p0.jpg, p1.jpg, ..., W pixels wide and H high; their names without suffix. first: other pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        rough = np.random.default_rng(first + number).integers(0, 256, (H // 8, W // 8, 3), np.uint8)
        Image.fromarray(rough.repeat(8, 0).repeat(8, 1)).save(folder / f"p{number}.jpg")
    return [f"p{number}" for number in range(count)]


def data_of(tool: str, photographs: Path, *labels: Path, **more: Any) -> Data:
    export = {"root": str(photographs), "labels": [str(path) for path in labels]}
    return Data.model_validate({"name": "own", "format": tool, "export": export, "max_side": 64, **more})


def prepared(data: Data, out: Path) -> Path:
    """The folder with the three artifacts."""
    for make in ("photographs", *(name for name in MAKES if name != "photographs")):
        prepare(make, data, out / f"{make}.json", None if make == "photographs" else out / "photographs.json")
    return out


def drawn(data: Data, out: Path) -> dict[str, np.ndarray]:
    """Photograph → its mask, uint8 [h,w]; of those that have one."""
    prepared(data, out)
    masks = Artifact(out / "masks.json", "masks")
    names = ids(Artifact(out / "photographs.json", "photographs"))
    return {name: true_mask(masks, row) for row, name in enumerate(names) if has_mask(masks)[row]}


def looked(data: Data, out: Path) -> tuple[Inventory, dict[str, np.ndarray]]:
    """What `prepare` finds before it writes anything, and the masks as they come out of it: a tenth of the time."""
    out.mkdir(parents=True, exist_ok=True)
    inventory, root = take_inventory(data, out / FILE), root_of(data)
    notes = {name: note for name, note in zip(inventory.id, inventory.mask, strict=True) if note}
    files = {name: at(note, root) for name, note in notes.items()}
    masks = {name: mask_values(content(file)) for name, file in files.items() if file is not None}
    return inventory, {name: inventory.values[mask].astype(np.uint8) for name, mask in masks.items()}


def tagged(inventory: Inventory) -> dict[str, set[str]]:
    """Photograph → its tags."""
    names = np.array(inventory.about["classes"])
    return {name: {*names[row].tolist()} for name, row in zip(inventory.id, inventory.tags, strict=True)}


def validated(inventory: Inventory) -> list[str]:
    """The validation list."""
    return [inventory.id[row] for row in inventory.splits["val"]]


def problems(data: Data) -> str:
    """What prepare says when it refuses a data set."""
    with tempfile.TemporaryDirectory() as out, pytest.raises(InputError) as refused:
        take_inventory(data, Path(out, FILE))
    return str(refused.value)
