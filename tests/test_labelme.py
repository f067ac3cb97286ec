"""labelme's JSON, written by hand as labelme writes it. What it shares with other tools: test_exports.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exported import H, W, data_of, looked, problems, tagged, validated, write_photographs
from test_exports import labelme_file, png, write

from pipeline.kinds.pixels import VOID

SQUARE = [[10, 4], [30, 4], [30, 24], [10, 24]]


def shape(label: str, points: object = SQUARE, kind: str = "polygon", **more: object) -> dict[str, Any]:
    return {"label": label, "points": points, "shape_type": kind, "group_id": None, "flags": {}, **more}


def files(folder: Path, each: list[list[dict[str, Any]]], **more: Any) -> Path:
    for n, marks in enumerate(each):
        write(folder / f"p{n}.json", json.dumps(labelme_file(n, marks, **more)))
    return folder


def square(value: int, x: slice = slice(10, 30), y: slice = slice(4, 24)) -> np.ndarray:
    mask = np.zeros((H, W), np.uint8)
    mask[y, x] = value
    return mask


def test_every_shape_that_has_an_inside_is_drawn_in_the_order_of_the_file(tmp_path: Path) -> None:
    write_photographs(tmp_path / "photos", 5)
    bits = np.ones((3, 5), bool)
    bits[1, 1:4] = False
    each = [
        [shape("cat"), shape("dog", [[26.0, 20.0], [12.0, 6.0]], "rectangle")],
        [shape("dog"), shape("cat", [[28, 20], [28, 8]], "circle")],
        [shape("dog"), shape("cat", [[12.0, 6.0], [16.0, 8.0]], "mask", mask=png(bits))],
        [shape("dog"), shape("cat", [[-2.0, 38.0], [2.0, 40.0]], "mask", mask=png(bits))],
        [shape("cat"), shape("__ignore__", [[20, 4], [30, 4], [30, 24], [20, 24]]), shape("_background_", SQUARE[:3])],
    ]
    _, masks = looked(data_of("labelme", tmp_path / "photos", files(tmp_path / "in", each)), tmp_path / "out")
    np.testing.assert_array_equal(masks["p0"], square(1) + square(1, slice(12, 26), slice(6, 20)))
    y, x = np.mgrid[:H, :W] + 0.5
    np.testing.assert_array_equal(masks["p1"], np.where((x - 28) ** 2 + (y - 20) ** 2 <= 12**2, 1, square(2)))
    wanted = square(2)
    wanted[6:9, 12:17] = 1
    wanted[7, 13:16] = 2  # the hole of the crop leaves what lies below
    np.testing.assert_array_equal(masks["p2"], wanted)
    wanted = square(2)
    wanted[38, 0:3] = wanted[39, 2] = 1  # of the crop what is left inside the picture
    np.testing.assert_array_equal(masks["p3"], wanted)
    lower = (x - 10) < (y - 4)  # of the square, below its diagonal
    np.testing.assert_array_equal(masks["p4"], np.where(lower, square(1) + square(VOID - 1, slice(20, 30)), 0))


def test_flags_lines_and_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Tags alone, a point as a tag, and a file with nothing in it: a photograph that shows none of the classes."""
    write_photographs(tmp_path / "photos", 6)
    each = [[], [], [shape("dog", [[5, 5]], "point"), shape("cat", [[1, 1], [9, 9]], "line")], [], []]
    files(tmp_path / "in", each)
    write(tmp_path / "in/p0.json", json.dumps(labelme_file(0, [], flags={"cat": True, "dog": False})))
    write(tmp_path / "in/p1.json", json.dumps(labelme_file(1, [], flags={"cat": False, "dog": True, "x": "true"})))
    write(tmp_path / "in/p4.json", json.dumps(labelme_file(4, [], flags={"dog": True, "cat": True})))
    inventory, masks = looked(data_of("labelme", tmp_path / "photos", tmp_path / "in"), tmp_path / "out")
    both = {"cat", "dog"}
    assert tagged(inventory) == {"p0": {"cat"}, "p1": {"dog"}, "p2": both, "p3": set(), "p4": both}
    assert [*masks] == ["p3"] and not masks["p3"].any()
    assert inventory.about["counts"]["negative"]["train"] + inventory.about["counts"]["negative"]["val"] == 1
    said = capsys.readouterr().out
    assert "1 points draw no mask and count as tags" in said and "1 lines draw no mask" in said
    assert "are not used: p5" in said


def test_files_in_folders_and_photographs_that_were_renamed(tmp_path: Path) -> None:
    """imagePath leads from the file to its photograph; where it leads nowhere, the file's own name counts."""
    for part in ("train", "val"):
        write_photographs(tmp_path / "photos" / part, 3, first=3 * (part == "val"))
        for n in range(3):
            about = labelme_file(n, [shape("cat" if n else "dog")], imagePath=f"p{n}.jpg" if n else "IMG_0001.JPG")
            write(tmp_path / f"photos/{part}/p{n}.json", json.dumps(about))
    inventory, masks = looked(data_of("labelme", tmp_path / "photos", tmp_path / "photos"), tmp_path / "out")
    assert sorted(masks) == [f"{part}/p{n}" for part in ("train", "val") for n in range(3)]
    assert validated(inventory) == ["val/p0", "val/p1", "val/p2"]
    np.testing.assert_array_equal(masks["val/p0"], square(2))
    np.testing.assert_array_equal(masks["val/p1"], square(1))


def test_old_files_say_less(tmp_path: Path) -> None:
    """No type of shape, no size, flags that are a word."""
    write_photographs(tmp_path / "photos", 4)
    files(tmp_path / "in", [[{"label": "cat", "points": SQUARE}]] * 4, imageHeight=None, imageWidth=None, flags="")
    _, masks = looked(data_of("labelme", tmp_path / "photos", tmp_path / "in"), tmp_path / "out")
    np.testing.assert_array_equal(masks["p0"], square(1))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"shapes": [shape("")]}, "'p0.json' has a shape without a label"),
        ({"shapes": [7]}, "'p0.json' has a shape without a label (7)"),
        ({"shapes": [shape("cat", [[1, 2], [3]])]}, "has a polygon of 'cat' without the points it needs"),
        ({"shapes": [shape("cat", [[1, 2], [3, float("nan")], [4, 4]])]}, "has a polygon of 'cat' without the points"),
        ({"shapes": [shape("cat", "x")]}, "has a polygon of 'cat' without the points"),
        ({"shapes": [shape("cat", [[1, 2]], "circle")]}, "has a circle of 'cat' without the points"),
        ({"shapes": [shape("cat", [[1, 2]], "rectangle")]}, "has a rectangle of 'cat' without the points"),
        ({"shapes": [shape("cat", [[1, 2], [3, 4]], "mask", mask=None)]}, "has a mask of 'cat' without the points"),
        ({"shapes": [shape("cat", [[1, 2], [3, 4]], "mask", mask="AAAA")]}, "cannot identify its format"),
        ({"shapes": [shape("cat", [[1, 2], [3, 4]], "mask", mask="A")]}, "a mask that is no base64"),
        ({"shapes": {}}, "'p0.json' is no labelme file: a list `shapes` expected"),
        ({"imagePath": "gone.jpg", "imageHeight": H + 9}, "mask for a 56×40 photograph"),
        ({"imageHeight": 10**9, "imageWidth": 10**9}, "pixels expected"),
    ],
)
def test_what_is_wrong_is_named_with_the_file(change: dict[str, Any], says: str, tmp_path: Path) -> None:
    write_photographs(tmp_path / "photos", 4)
    files(tmp_path / "in", [[shape("cat")]] * 4)
    write(tmp_path / "in/p0.json", json.dumps({**labelme_file(0, [shape("cat")]), **change}))
    said = problems(data_of("labelme", tmp_path / "photos", tmp_path / "in"))
    assert says in said and "p0" in said, said


def test_a_photograph_that_is_gone(tmp_path: Path) -> None:
    write_photographs(tmp_path / "photos", 4)
    files(tmp_path / "in", [[shape("cat")]] * 4)
    write(tmp_path / "in/old.json", json.dumps(labelme_file(0, [shape("cat")], imagePath="D:\\shots\\gone.jpg")))
    said = problems(data_of("labelme", tmp_path / "photos", tmp_path / "in"))
    assert "'D:/shots/gone' has no photograph" in said or "old' has no photograph" in said, said


def test_equal_problems_of_many_files_are_one(tmp_path: Path) -> None:
    write_photographs(tmp_path / "photos", 30)
    files(tmp_path / "in", [[shape("")]] * 30)
    said = problems(data_of("labelme", tmp_path / "photos", tmp_path / "in"))
    assert "[and 29 more: 'p1.json', 'p10.json'" in said and len(said) < 1500, said
