"""YOLO segmentation, written by hand from its documentation. What it shares with other tools: test_exports.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from exported import H, W, data_of, looked, problems, tagged, validated, write_photographs
from test_exports import write

from pipeline.datasets import yolo
from pipeline.datasets.fingerprint import fingerprints

SQUARE = [(10, 4), (30, 4), (30, 24), (10, 24)]


def row(number: int, points: list[tuple[int, int]] = SQUARE) -> str:
    return f"{number} " + " ".join(f"{x / W:.6f} {y / H:.6f}" for x, y in points) + "\n"


def square(value: int, x: slice = slice(10, 30), y: slice = slice(4, 24)) -> np.ndarray:
    mask = np.zeros((H, W), np.uint8)
    mask[y, x] = value
    return mask


def data_yaml(path: Path, /, **change: str) -> Path:
    said = {"path": ".", "train": "images/train", "val": "images/val", "names": "{0: cat, 1: dog}", **change}
    return write(path, "".join(f"{key}: {value}\n" for key, value in said.items() if value))


def photographs(root: Path, form: str = "images/{}") -> Path:
    """p0 to p2 in train, p3 and p4 in val; a label for each but p2."""
    for split, numbers in (("train", (0, 1, 2)), ("val", (3, 4))):
        folder = root / form.format(split)
        for n in numbers:
            write_photographs(folder, 1, first=n)
            (folder / "p0.jpg").rename(folder / f"p{n}.jpg.part")
        for part in folder.glob("*.part"):
            part.rename(part.with_suffix(""))
        for n in set(numbers) - {2}:
            write(root / form.replace("images", "labels").format(split) / f"p{n}.txt", row(n % 2))
    return root


def test_rows_boxes_and_files_without_a_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The smaller lies on the larger; a box is a tag; an empty file is a negative, no file is nothing."""
    root = photographs(tmp_path)
    small = [(12, 6), (20, 6), (20, 12), (12, 12)]
    write(root / "labels/train/p0.txt", row(1, small) + "\n" + row(0).replace("0 ", "0.0 ", 1))
    write(root / "labels/train/p1.txt", "1 0.5 0.5 0.2 0.2\r\n")
    write(root / "labels/val/p3.txt", "\n")
    write(root / "labels/val/p4.txt", row(0, [(-6, -6), (8, -6), (8, 8), (-6, 8)]))
    inventory, masks = looked(
        data_of("yolo", root / "images", data_yaml(root / "data.yaml"), untagged="drop"), tmp_path / "out"
    )
    wanted = square(1)
    wanted[6:12, 12:20] = 2
    np.testing.assert_array_equal(masks["train/p0"], wanted)
    np.testing.assert_array_equal(masks["val/p4"], square(1, slice(0, 8), slice(0, 8)))
    assert [*masks] == ["train/p0", "val/p3", "val/p4"] and not masks["val/p3"].any()
    assert tagged(inventory)["train/p1"] == {"dog"} and validated(inventory) == ["val/p3", "val/p4"]
    assert inventory.about["counts"]["negative"]["val"] == 1
    said = capsys.readouterr().out
    assert "1 boxes draw no mask and count as tags" in said
    assert "says nothing about 1 photographs (train/p2)" in said


@pytest.mark.parametrize(
    ("form", "change"),
    [
        ("images/{}", {"path": "", "names": "[cat, dog]"}),
        ("images/{}", {"path": "/content/somewhere", "train": "[images/train]"}),
        ("{}/images", {"path": "", "train": "../train/images", "val": "../val/images"}),
        ("images/{}", {"train": "train.txt"}),
        ("images/{}", {"train": "train.txt", "val": "lists/val.txt"}),
    ],
    ids=["a list of names", "a path of another machine", "Roboflow's", "a list", "lists"],
)
def test_where_photographs_are_found(form: str, change: dict[str, str], tmp_path: Path) -> None:
    root = photographs(tmp_path, form)
    write(root / "train.txt", "".join(f"./images/train/p{n}.jpg\n" for n in range(3)))
    write(root / "lists/val.txt", "/content/there/images/val/p3.jpg\n/content/there/images/val/p4.jpg\n\n")
    labels = data_yaml(root / "data.yaml", **change)
    inventory, masks = looked(data_of("yolo", root, labels, untagged="drop"), tmp_path / "out")
    assert [name.rpartition("/")[2] for name in masks] == ["p0", "p1", "p3", "p4"]
    assert [name.rpartition("/")[2] for name in validated(inventory)] == ["p3", "p4"]
    np.testing.assert_array_equal(masks[inventory.id[1]], square(2))


def test_what_label_studio_puts_before_names(tmp_path: Path) -> None:
    """It exports uploads as YOLO, and as COCO, under the names it gave them."""
    root = photographs(tmp_path)
    for file in [*root.glob("labels/*/*.txt")]:
        file.rename(file.with_name(f"0a1b2c3d-{file.name}"))
    (root / "images").rename(tmp_path / "photos")
    _, masks = looked(data_of("yolo", tmp_path / "photos", data_yaml(root / "data.yaml")), tmp_path / "out")
    assert [*masks] == ["train/p0", "train/p1", "val/p3", "val/p4"]


def test_other_yaml_beside_it_is_none(tmp_path: Path) -> None:
    """As the settings of a run are, which lie where one works."""
    root = photographs(tmp_path)
    data_yaml(root / "data.yaml")
    write(root / "mine.yaml", "data: {name: leaves}\nrun: [tags]\n")
    assert yolo.recognised(root) and not yolo.recognised(root / "mine.yaml")
    assert yolo.read([root]).problems == []
    assert "mine.yaml: no data.yaml of YOLO" in yolo.read([root / "mine.yaml"]).problems[0]


def test_labels_away_from_their_photographs(tmp_path: Path) -> None:
    """What is named by data.yaml has labels alone: the photographs lie elsewhere."""
    root = photographs(tmp_path / "in")
    (root / "images").rename(tmp_path / "photos")
    _, masks = looked(data_of("yolo", tmp_path / "photos", data_yaml(root / "data.yaml")), tmp_path / "out")
    np.testing.assert_array_equal(masks["train/p1"], square(2))
    assert [*masks] == ["train/p0", "train/p1", "val/p3", "val/p4"]


def test_a_label_that_is_added_is_seen(tmp_path: Path) -> None:
    root = photographs(tmp_path)
    data = data_of("yolo", root / "images", data_yaml(root / "data.yaml"), untagged="drop")
    first = fingerprints(data)
    assert first == fingerprints(data)
    write(root / "labels/train/p2.txt", row(1))
    second = fingerprints(data)
    assert first.masks != second.masks and second.masked == first.masked + 1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("7 0.1 0.1 0.2 0.1 0.2 0.2\n", "line 1: class '7', one of 0 cat, 1 dog expected"),
        ("-1 0.1 0.1 0.2 0.1 0.2 0.2\n", "line 1: class '-1'"),
        ("cat 0.1 0.1 0.2 0.1 0.2 0.2\n", "line 1: class 'cat'"),
        (f"{'9' * 5000} 0.1 0.1 0.2 0.1 0.2 0.2\n", "line 1: class '999"),
        ("\n0 0.1 0.1 0.2 0.1 0.2\n", "line 2: 6 entries, a class and pairs of numbers expected"),
        ("0 0.1 0.1\n", "line 1: 3 entries"),
        ("0 0.1 0.1 0.2 nan 0.2 0.2\n", "line 1: 7 entries"),
        ("0 0.1 0.1 0.2 x 0.2 0.2\n", "line 1: 7 entries"),
        ("0 10 4 30 4 30 24\n", "line 1: a point at 30.0, fractions of the size expected"),
        ("0 1e999 4 30 4 30 24\n", "line 1: 7 entries"),
        (row(0).encode().hex(" ") + "\n", "line 1: "),
        ("0 0.1 \xff\n", "is not UTF-8"),
    ],
)
def test_a_row_that_is_wrong_is_named_with_its_line(text: str, says: str, tmp_path: Path) -> None:
    root = photographs(tmp_path)
    write(root / "labels/train/p0.txt", text.encode("latin-1"))
    said = problems(data_of("yolo", root / "images", data_yaml(root / "data.yaml")))
    assert says in said and "data.yaml: 'train/p0.txt'" in said and len(said) < 1500, said


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"names": ""}, "`names`, `train` and `val` expected"),
        ({"names": "[]"}, "`names` is []; a list of the classes expected"),
        ({"names": "cat"}, "`names` is 'cat'"),
        ({"names": "[cat, no]"}, "`names` has 1: False, a number and a word expected; write it in quotes"),
        ({"names": "{cat: 0}"}, "`names` has 'cat': 0"),
        ({"names": "[[cat], dog]"}, "`names` has 0: ['cat']"),
        ({"names": "[cat, dog", "val": ""}, "is no YAML"),
        ({"nc": "3"}, "nc is 3 and `names` has 2"),
        ({"train": "images/gone"}, "train: no folder or list 'images/gone'"),
        ({"train": '"images/\\0"'}, r"train: no folder or list 'images/\x00'"),
        ({"train": "{a: b}"}, "train is {'a': 'b'}; a folder, or a .txt list, expected"),
        ({"train": "", "val": ""}, "names no photograph in train or val"),
        ({"val": "[images/val, images/train]"}, "'p0' is in train and in val; keep one"),
        ({"train": "list.txt"}, "'far/away/p0.jpg' of list.txt lies in no folder that is here"),
        ({"names": "!!python/object/apply:os.system [ls]"}, "is no YAML"),
    ],
)
def test_a_data_yaml_that_is_wrong_is_named(change: dict[str, str], says: str, tmp_path: Path) -> None:
    root = photographs(tmp_path)
    write(root / "list.txt", "far/away/p0.jpg\n")
    said = problems(data_of("yolo", root / "images", data_yaml(root / "data.yaml", **change)))
    assert says in said and "data.yaml" in said, said


def test_equal_problems_of_many_files_are_one(tmp_path: Path) -> None:
    root = photographs(tmp_path)
    for n in range(30):
        write(root / f"labels/train/x{n}.txt", "7 0.1 0.1 0.2 0.1 0.2 0.2\n")
    found = yolo.read([data_yaml(root / "data.yaml")]).problems
    assert len(found) == 30
    said = problems(data_of("yolo", root / "images", root / "data.yaml"))
    assert "[and 29 more: 'train/x1.txt'" in said and len(said) < 5000, said
