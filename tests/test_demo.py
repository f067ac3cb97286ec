"""The demo set: deterministic, balanced, and with masks, tags and files that agree."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from pipeline.datasets import collage
from pipeline.datasets.demo import CLASSES
from pipeline.kinds.pixels import VOID

COUNT = 64
Picture = tuple[np.ndarray, np.ndarray, list[str]]


@pytest.fixture(scope="module")
def pictures() -> list[Picture]:
    return [collage.compose(0, index) for index in range(COUNT)]


def test_a_picture_depends_on_seed_and_index_alone(pictures: list[Picture]) -> None:
    rgb, mask, tags = collage.compose(0, 5)
    assert np.array_equal(rgb, pictures[5][0])
    assert np.array_equal(mask, pictures[5][1])
    assert tags == pictures[5][2]
    assert not np.array_equal(collage.compose(1, 5)[0], rgb)
    assert not np.array_equal(pictures[9][0], rgb)


def test_masks_hold_classes_and_void_only(pictures: list[Picture]) -> None:
    for rgb, mask, _ in pictures:
        assert rgb.dtype == mask.dtype == np.uint8
        assert rgb.shape == (*mask.shape, 3)
        assert set(np.unique(mask)) <= {*range(len(CLASSES)), VOID}
        assert 0 in mask


def test_tags_are_the_classes_in_the_mask(pictures: list[Picture]) -> None:
    for _, mask, tags in pictures:
        seen = [name for label, name in enumerate(CLASSES) if label and (mask == label).sum() >= 100]
        assert tags == sorted(seen)
        assert tags


def test_sizes_vary_and_both_orientations_occur(pictures: list[Picture]) -> None:
    shapes = [mask.shape for _, mask, _ in pictures]
    assert len(set(shapes)) > COUNT // 2
    assert 0.2 < np.mean([h > w for h, w in shapes]) < 0.6
    assert all(112 <= max(shape) <= 160 and min(shape) >= 88 for shape in shapes)


def test_pictures_hold_one_to_three_creatures_often_of_two_classes(pictures: list[Picture]) -> None:
    creatures = []
    for _, mask, _ in pictures:
        foreground = (mask > 0) & (mask < VOID)
        sizes = np.bincount(ndimage.label(foreground)[0].ravel())[1:]
        creatures.append(int((sizes > 100).sum()))
    assert {1, 2, 3} <= set(creatures)
    assert np.mean([len(tags) > 1 for *_, tags in pictures]) > 0.25


def test_void_surrounds_every_creature_and_is_thin(pictures: list[Picture]) -> None:
    for _, mask, _ in pictures:
        for a, b in ((mask[1:], mask[:-1]), (mask[:, 1:], mask[:, :-1])):
            assert not ((a != b) & (a != VOID) & (b != VOID)).any()
        # Bands are two pixels wide; legs and feelers, which are all band, up to about five.
        assert not ndimage.binary_erosion(mask == VOID, iterations=4).any()
        assert 0 < (mask == VOID).mean() < 0.15


def test_classes_are_balanced(pictures: list[Picture]) -> None:
    names = CLASSES[1:]
    occurs = np.array([[name in tags for name in names] for *_, tags in pictures]).sum(0)
    assert occurs.min() >= COUNT // len(names)
    assert occurs.max() <= 1.5 * occurs.min()
    area = np.array([[(mask == k).sum() for k in range(1, len(CLASSES))] for _, mask, _ in pictures]).sum(0)
    assert area.max() <= 2 * area.min()


def test_creatures_differ_from_the_ground_in_colour(pictures: list[Picture]) -> None:
    gaps = []
    for rgb, mask, _ in pictures:
        inside = (mask > 0) & (mask < VOID)
        gaps.append(np.abs(rgb[inside].mean(0) - rgb[mask == 0].mean(0)).max())
    assert np.median(gaps) > 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("demo") / "set"
    collage.write(root, train=8, val=4, seed=3)
    return root


def test_the_folder_is_complete(folder: Path) -> None:
    names = {split: (folder / "splits" / f"{split}.txt").read_text().split() for split in ("train", "val")}
    assert [len(names[split]) for split in ("train", "val")] == [8, 4]
    everything = sorted(names["train"] + names["val"])
    assert len(set(everything)) == 12
    assert sorted(file.stem for file in (folder / "images").iterdir()) == everything
    assert sorted(file.stem for file in (folder / "masks").iterdir()) == everything
    assert (folder / "classes.txt").read_text().splitlines() == list(CLASSES)


def test_files_agree_with_compose(folder: Path) -> None:
    with (folder / "tags.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12
    for index, row in enumerate(rows):
        rgb, mask, tags = collage.compose(3, index)
        with Image.open(folder / "masks" / f"{row['image']}.png") as stored:
            assert stored.mode == "P"
            assert np.array_equal(np.asarray(stored), mask)
        with Image.open(folder / "images" / f"{row['image']}.png") as photo:
            assert np.array_equal(np.asarray(photo), rgb)
        assert row["tags"].split() == tags


def test_writing_twice_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    collage.write(tmp_path, train=8, val=4, seed=3)
    files = sorted(file.relative_to(folder) for file in folder.rglob("*") if file.is_file())
    assert len(files) == 2 * 12 + 4
    for file in files:
        assert (folder / file).read_bytes() == (tmp_path / file).read_bytes()


def test_every_class_occurs_even_in_a_small_training_set(pictures: list[Picture]) -> None:
    assert {name for *_, tags in pictures[: len(CLASSES) - 1] for name in tags} == set(CLASSES[1:])
