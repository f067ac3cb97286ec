"""CVAT for images 1.1, written by hand from its documentation. What it shares with other tools: test_exports.py."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from exported import H, W, data_of, looked, problems, tagged, validated, write_photographs
from test_exports import cvat_file, write

from pipeline.datasets import cvat, shapes

CAT = '<polygon label="cat" points="10,4;30,4;30,24;10,24" z_order="0"/>'
DOG = '<polygon label="dog" points="10,4;30,4;30,24;10,24" z_order="0"/>'


def square(value: int, x: slice = slice(10, 30), y: slice = slice(4, 24)) -> np.ndarray:
    mask = np.zeros((H, W), np.uint8)
    mask[y, x] = value
    return mask


def masks_of(tmp_path: Path, images: list[str], **more: object) -> dict[str, np.ndarray]:
    write_photographs(tmp_path / "photos", len(images))
    labels = write(tmp_path / "annotations.xml", cvat_file(images))
    return looked(data_of("cvat", tmp_path / "photos", labels, **more), tmp_path / "out")[1]


def test_what_lies_higher_is_drawn_later(tmp_path: Path) -> None:
    """By z_order first, as CVAT shows it, then in the order of the file; a rectangle of run lengths among them."""
    runs = '<mask label="cat" rle="0, 4, 2, 2, 4" left="28" top="22" width="6" height="2" z_order="{}"/>'
    over = '<polygon label="dog" points="20,4;30,4;30,24;20,24" z_order="{}"/>'
    images = [CAT + over.format(1), CAT.replace('"0"', '"2"') + over.format(1), DOG + CAT, DOG + runs.format(3)]
    masks = masks_of(tmp_path, images)
    np.testing.assert_array_equal(masks["p0"], square(1) + square(1, slice(20, 30)))
    np.testing.assert_array_equal(masks["p1"], square(1))
    np.testing.assert_array_equal(masks["p2"], square(1))
    wanted = square(2)
    wanted[22, 28:32] = wanted[23, 28:30] = 1  # 4 in, 2 out; 2 in, 4 out
    np.testing.assert_array_equal(masks["p3"], wanted)


def test_ellipses_turn_clockwise(tmp_path: Path) -> None:
    flat = '<ellipse label="{}" cx="28.0" cy="20.0" rx="16.00" ry="4.00" rotation="{}" z_order="0"/>'
    masks = masks_of(
        tmp_path, [flat.format("cat", 0), flat.format("cat", 90), flat.format("dog", 30), flat.format("dog", 30)]
    )
    assert masks["p0"][20, 13] and not masks["p0"][5, 28]
    assert masks["p1"][5, 28] and not masks["p1"][20, 13]
    y, x = np.argwhere(masks["p2"]).T
    assert masks["p2"].max() == 2 and y[x.argmax()] > 20  # its right end points down
    assert abs((masks["p0"] > 0).sum() / (np.pi * 16 * 4) - 1) < 0.05


def test_boxes_lines_and_points_are_tags_and_the_unlabelled_is_no_negative(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_photographs(tmp_path / "photos", 6)
    images = [
        '<tag label="dog"/><box label="cat" xtl="1" ytl="1" xbr="9" ybr="9"/>',
        '<polyline label="dog" points="1,1;9,9"/><points label="cat" points="4,4"/>',
        '<polygon label="dog" points="1,1;9,9"/>',
        '<skeleton label="cat"><points label="nose" points="4,4"/></skeleton>',
        "",
        CAT,
    ]
    labels = write(tmp_path / "annotations.xml", cvat_file(images))
    inventory, masks = looked(data_of("cvat", tmp_path / "photos", labels, untagged="drop"), tmp_path / "out")
    found = tagged(inventory)
    assert found == {**found, "p0": {"cat", "dog"}, "p1": {"cat", "dog"}, "p2": {"dog"}, "p3": {"cat"}, "p5": {"cat"}}
    assert [*masks] == ["p5"] and inventory.about["counts"]["negative"] == {"train": 0, "val": 0, "score": 0}
    said = capsys.readouterr().out
    for count, kind in (
        (1, "boxes"), (1, "polylines"), (1, "sets of points"), (1, "elements <skeleton>"),
        (1, "polygons of fewer than three points"),
    ):  # fmt: skip
        assert f"{count} {kind} draw no mask and count as tags" in said, said
    assert "says nothing about 1 photographs (p4)" in said


def test_subsets_are_lists_and_names_have_folders(tmp_path: Path) -> None:
    write_photographs(tmp_path / "photos/cats", 4)
    text = cvat_file([CAT, DOG, DOG, CAT])
    for n, subset in enumerate(("Train", "Train", "Validation", "Validation")):
        text = text.replace(f'name="p{n}.jpg"', f'name="upload\\cats/p{n}.jpg" subset="{subset}"')
    labels = write(tmp_path / "annotations.xml", text.replace("utf-8", "utf-16").encode("utf-16"))
    inventory, _ = looked(data_of("cvat", tmp_path / "photos", labels), tmp_path / "out")
    assert validated(inventory) == ["cats/p2", "cats/p3"]


def test_the_archive_and_the_folder_say_the_same(tmp_path: Path) -> None:
    write_photographs(tmp_path / "photos", 4)
    text = cvat_file([CAT, DOG, CAT, DOG])
    (tmp_path / "zipped").mkdir()
    with zipfile.ZipFile(tmp_path / "zipped/task.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images/p0.jpg", b"x" * 1000)
        archive.writestr("annotations.xml", text)
    write(tmp_path / "unpacked/annotations.xml", text)
    write(tmp_path / "unpacked/images/readme.txt", "")
    places = [tmp_path / "zipped/task.zip", tmp_path / "zipped", tmp_path / "unpacked"]
    for number, labels in enumerate(places):
        assert cvat.recognised(labels)
        _, masks = looked(data_of("cvat", tmp_path / "photos", labels), tmp_path / f"out{number}")
        np.testing.assert_array_equal(masks["p1"], square(2))
    (tmp_path / "unpacked/annotations.xml").write_text(cvat_file([CAT] * 4).replace("cat", "dog"))
    both = looked(data_of("cvat", tmp_path / "photos", tmp_path / "unpacked"), tmp_path / "out2")[1]
    np.testing.assert_array_equal(both["p0"], square(1))  # read again: the only class now


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('label="cat" points', 'label="ct" points', "of the label 'ct', one of cat, dog expected"),
        ('label="cat" points', "points", "of the label '', one of cat, dog expected"),
        ("10,4;30,4", "10,4;30", "a <polygon> of 'cat' whose numbers are none"),
        ("10,4;30,4", "10,nan;30,4", "a <polygon> of 'cat' whose numbers are none"),
        ("10,4;30,4", "10,4;1e999,4", "a <polygon> of 'cat' whose numbers are none"),
        ("10,4;30,4", "10,4;1e300,4", "a polygon of fewer than three points, or with one that no picture has"),
        (f'width="{W}"', 'width="0"', "has width '0' and height '40', numbers above 0 expected"),
        (f'width="{W}"', "", "has width None and height '40'"),
        (f'width="{W}"', 'width="1e9"', "pixels expected"),
        (f'width="{W}"', f'width="{W + 1}"', "57×40 mask for a 56×40 photograph"),
        ('name="p0.jpg"', 'name="gone.jpg"', "'gone' has no photograph"),
        ('name="p0.jpg"', "", "image '0' without a name"),
        ('rle="0, 4', 'rle="1, 4', "run lengths that do not make a picture of 6×2"),
        ('rle="0, 4', 'rle="-1, 5', "run lengths"),
        ('rle="0, 4', 'rle="0.5, 4', "a <mask> of 'dog' whose numbers are none"),
        ('rle="0, 4', 'rle="', "a <mask> of 'dog' whose numbers are none"),
        ('top="22"', "", "a <mask> of 'dog' whose numbers are none"),
        ("<image id", "<track id", "is no XML"),
        ("</annotations>", "<track/></annotations>", "is CVAT for video; export it again as 'CVAT for images 1.1'"),
        ("annotations>", "annotation>", "images in a block <annotations> expected"),
    ],
)
def test_what_is_wrong_is_named_with_the_file(old: str, new: str, says: str, tmp_path: Path) -> None:
    write_photographs(tmp_path / "photos", 4)
    mask = '<mask label="dog" rle="0, 4, 2, 2, 4" left="28" top="22" width="6" height="2"/>'
    text = cvat_file([CAT + mask] * 4)
    assert old in text
    changed = text.replace(old, new) if old.startswith("annotations") else text.replace(old, new, 1)
    labels = write(tmp_path / "annotations.xml", changed)
    said = problems(data_of("cvat", tmp_path / "photos", labels))
    assert says in said and "annotations.xml" in said, said


def test_equal_problems_are_one(tmp_path: Path) -> None:
    write_photographs(tmp_path / "photos", 30)
    labels = write(tmp_path / "annotations.xml", cvat_file([CAT.replace("cat", "ct")] * 30))
    said = problems(data_of("cvat", tmp_path / "photos", labels))
    assert "[and 29 more: 'p1.jpg', 'p2.jpg'" in said and len(said) < 1000, said


@pytest.mark.parametrize("kind", ["no file in it", "cut short", "of a size it has not", "empty"])
def test_a_broken_archive_is_named(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "task.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("other.xml" if kind == "no file in it" else "annotations.xml", cvat_file([CAT] * 40))
    content = bytearray(path.read_bytes())
    if kind == "cut short":
        content = content[: len(content) // 2]
    elif kind == "of a size it has not":
        at = content.rindex(b"PK\x01\x02") + 24  # the uncompressed size in the directory at its end
        content[at : at + 4] = b"\xff\xff\xff\xf0"
    elif kind == "empty":
        content.clear()
    path.write_bytes(content)
    found = cvat.read([path]).problems
    assert len(found) == 1 and str(path) in found[0], found


def test_datumaro_reads_the_same(tmp_path: Path) -> None:
    """Its annotations painted in the order of their z_order, its polygons by us."""
    datumaro = pytest.importorskip("datumaro", reason="needs the extra `readers`")
    runs = (
        '<mask label="dog" source="manual" occluded="0" rle="0, 4, 2, 2, 4" left="28" top="22" width="6" height="2"{}/>'
    )
    over = '<polygon label="dog" source="manual" occluded="0" points="20,4;30,4;30,24" z_order="{}"></polygon>'
    images = [CAT + over.format(1), over.format(3) + CAT.replace('"0"', '"2"'), CAT + runs.format(' z_order="1"'), DOG]
    masks = masks_of(tmp_path, images)
    (tmp_path / "task").mkdir()
    (tmp_path / "photos").rename(tmp_path / "task/images")
    (tmp_path / "annotations.xml").rename(tmp_path / "task/annotations.xml")
    found = datumaro.Dataset.import_from(str(tmp_path / "task"), "cvat")
    names = {label.name: value for value, label in enumerate(found.categories()[datumaro.AnnotationType.label], 1)}
    known = [label.name for label in found.categories()[datumaro.AnnotationType.label]]
    assert [names[name] for name in ("cat", "dog")] == [1, 2]
    for item in found:
        mask = np.zeros((H, W), np.uint8)
        for one in sorted(item.annotations, key=lambda one: one.z_order):
            value = names[known[one.label]]
            if one.type == datumaro.AnnotationType.mask:
                mask[np.asarray(one.image) > 0] = value
            else:
                shapes.paint(mask, {"v": value, "polygon": [*map(float, one.points)]}, {})
        np.testing.assert_array_equal(mask, masks[item.id], err_msg=item.id)
    assert len(found) == 4
