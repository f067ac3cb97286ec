"""What annotation tools write, whatever the tool: the same drawing gives the same masks, and hostile files are named.

Each format draws the scene below in the words of its documentation; test_<format>.py has what is its own.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exported import H, W, data_of, drawn, looked, problems, tagged, write_photographs
from PIL import Image

from pipeline.annotations.brush import encode
from pipeline.datasets import coco, cvat, label_studio, labelme, rings, shapes, yolo
from pipeline.datasets.fingerprint import fingerprints
from pipeline.datasets.layouts import LAYOUTS
from pipeline.datasets.pictures import Unusable
from pipeline.kinds.pixels import VOID

Ring = list[tuple[float, float]]
# From the first to the last drawn, from the largest to the smallest: a cat, a dog on it, and a ring of cat on both,
# whose hole is reached along a bridge; what the first shows outside the picture is cut off.
HOLED: Ring = [(14, 8), (24, 8), (24, 18), (14, 18), (14, 8), (17, 11), (17, 15), (21, 15), (21, 11), (17, 11)]
SCENE: list[tuple[str, Ring]] = [
    ("cat", [(-6, 4), (40, 4), (40, 30), (-6, 30)]),
    ("dog", [(10, 6), (27, 6), (33, 27), (10, 27)]),
    ("cat", HOLED),
]
NAMES = ("cat", "dog")


def scene() -> np.ndarray:
    """The mask of SCENE, drawn pixel by pixel: uint8 [H,W], 1 cat, 2 dog."""
    y, x = np.mgrid[:H, :W] + 0.5
    mask = np.zeros((H, W), np.uint8)
    mask[(x < 40) & (y > 4) & (y < 30)] = 1
    mask[(x > 10) & (y > 6) & (y < 27) & (x < 27 + (y - 6) * 6 / 21)] = 2
    mask[(x > 14) & (x < 24) & (y > 8) & (y < 18) & ~((x > 17) & (x < 21) & (y > 11) & (y < 15))] = 1
    return mask


# ------------------------------------------------------------------------------------------------------ as polygons


def as_coco(at: Path, drawing: list[tuple[str, Ring]] = SCENE, number: int = 4) -> Path:
    images = [{"id": n, "file_name": f"p{n}.jpg", "height": H, "width": W} for n in range(number)]
    marks = [
        {"id": n, "image_id": n % number, "category_id": NAMES.index(name), "segmentation": [flat(points)]}
        for n, (name, points) in enumerate(part for part in drawing for _ in range(number))
    ]
    about = {"images": images, "categories": [{"id": i, "name": name} for i, name in enumerate(NAMES)]}
    return write(at / "coco.json", json.dumps({**about, "annotations": marks}))


def as_cvat(at: Path, drawing: list[tuple[str, Ring]] = SCENE, number: int = 4) -> Path:
    elements = "".join(
        f'<polygon label="{name}" points="{";".join(f"{x},{y}" for x, y in points)}" z_order="0"/>'
        for name, points in drawing
    )
    return write(at / "annotations.xml", cvat_file([elements] * number))


def as_label_studio(at: Path, drawing: list[tuple[str, Ring]] = SCENE, number: int = 4) -> Path:
    results = [
        {
            "type": "polygonlabels",
            "original_height": H,
            "original_width": W,
            "value": {"points": [[x / W * 100, y / H * 100] for x, y in points], "polygonlabels": [name]},
        }
        for name, points in drawing
    ]
    return write(at / "project.json", json.dumps([studio_task(n, results) for n in range(number)]))


def as_labelme(at: Path, drawing: list[tuple[str, Ring]] = SCENE, number: int = 4) -> Path:
    marks = [{"label": name, "shape_type": "polygon", "points": points} for name, points in drawing]
    for n in range(number):
        write(at / f"labelme/p{n}.json", json.dumps(labelme_file(n, marks)))
    return at / "labelme"


def as_yolo(at: Path, drawing: list[tuple[str, Ring]] = SCENE, number: int = 4) -> Path:
    rows = [f"{NAMES.index(name)} {' '.join(f'{x / W!r} {y / H!r}' for x, y in points)}\n" for name, points in drawing]
    for n in range(number):
        write(at / f"labels/{'val' if n == number - 1 else 'train'}/p{n}.txt", "".join(rows))
    text = "path: .\ntrain: images/train\nval: images/val\nnames:\n  0: cat\n  1: dog\n"
    return write(at / "data.yaml", text)


# ------------------------------------------------------------------------------------------------- as pixels, in parts


def bits_of(index: int) -> np.ndarray:
    """The pixels of a part of SCENE, bool [H,W]."""
    mask = np.zeros((H, W), np.uint8)
    shapes.paint(mask, {"v": 1, "polygon": flat(SCENE[index][1])}, {})
    return mask > 0


def as_cvat_masks(at: Path, number: int = 4) -> Path:
    elements = ""
    for index, (name, _) in enumerate(SCENE):
        bits = bits_of(index)
        (top, left), (bottom, right) = np.argwhere(bits).min(0), np.argwhere(bits).max(0) + 1
        flat_bits = bits[top:bottom, left:right].ravel()
        ends = np.flatnonzero(np.diff(flat_bits.astype(int), prepend=0))  # the first run is outside, maybe empty
        runs = np.diff([0, *ends, flat_bits.size]).tolist()
        box = f'left="{left}" top="{top}" width="{right - left}" height="{bottom - top}"'
        elements += f'<mask label="{name}" rle="{", ".join(map(str, runs))}" {box} z_order="{index}"/>'
    return write(at / "annotations.xml", cvat_file([elements] * number))


def as_brushes(at: Path, number: int = 4) -> Path:
    results = [
        {
            "type": "brushlabels",
            "original_height": H,
            "original_width": W,
            "value": {"format": "rle", "rle": encode(bits_of(index)).tolist(), "brushlabels": [name]},
        }
        for index, (name, _) in enumerate(SCENE)
    ]
    return write(at / "project.json", json.dumps([studio_task(n, results) for n in range(number)]))


def as_bitmasks(at: Path, number: int = 4) -> Path:
    results = [
        {
            "type": "bitmasklabels",
            "original_height": H,
            "original_width": W,
            "value": {"imageDataURL": f"data:image/png;base64,{png(bits_of(index))}", "bitmasklabels": [name]},
        }
        for index, (name, _) in enumerate(SCENE)
    ]
    return write(at / "project.json", json.dumps([studio_task(n, results) for n in range(number)]))


def as_labelme_masks(at: Path, number: int = 4) -> Path:
    marks = list[dict[str, Any]]()
    for index, (name, _) in enumerate(SCENE):
        bits = bits_of(index)
        (top, left), (bottom, right) = np.argwhere(bits).min(0), np.argwhere(bits).max(0)
        crop = png(bits[top : bottom + 1, left : right + 1])
        corners = [[float(left), float(top)], [float(right), float(bottom)]]  # the last pixel belongs to it
        marks.append({"label": name, "shape_type": "mask", "points": corners, "mask": crop})
    for n in range(number):
        write(at / f"labelme/p{n}.json", json.dumps(labelme_file(n, marks)))
    return at / "labelme"


# ------------------------------------------------------------------------------------------------------------ parts


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def flat(points: Ring) -> list[float]:
    return [value for point in points for value in point]


def png(bits: np.ndarray) -> str:
    content = BytesIO()
    Image.fromarray(bits).save(content, "PNG")
    return base64.b64encode(content.getvalue()).decode()


def cvat_file(images: list[str], labels: tuple[str, ...] = NAMES) -> str:
    """Elements of each image → annotations.xml."""
    named = "".join(f"<label><name>{name}</name></label>" for name in labels)
    body = "".join(
        f'<image id="{n}" name="p{n}.jpg" width="{W}" height="{H}">{elements}</image>'
        for n, elements in enumerate(images)
    )
    head = f"<version>1.1</version><meta><task><labels>{named}</labels></task></meta>"
    return f'<?xml version="1.0" encoding="utf-8"?>\n<annotations>{head}{body}</annotations>\n'


def studio_task(number: int, results: list[dict[str, Any]] | None, **more: Any) -> dict[str, Any]:
    """None: not annotated."""
    annotations = [] if results is None else [{"id": number, "was_cancelled": False, "result": results}]
    image = f"/data/upload/1/0a1b2c3d-p{number}.jpg"
    return {"id": number, "data": {"image": image}, "annotations": annotations, "predictions": [], **more}


def labelme_file(number: int, marks: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    head = {"version": "5.5.0", "flags": {}, "shapes": marks, "imagePath": f"..\\photos\\p{number}.jpg"}
    return {**head, "imageData": None, "imageHeight": H, "imageWidth": W, **more}


FORMATS: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "coco": ("coco", as_coco),
    "cvat": ("cvat", as_cvat),
    "cvat, masks": ("cvat", as_cvat_masks),
    "label-studio": ("label-studio", as_label_studio),
    "label-studio, brushes": ("label-studio", as_brushes),
    "label-studio, bitmasks": ("label-studio", as_bitmasks),
    "labelme": ("labelme", as_labelme),
    "labelme, masks": ("labelme", as_labelme_masks),
    "yolo": ("yolo", as_yolo),
}
POLYGONS = {"coco": as_coco, "cvat": as_cvat, "label-studio": as_label_studio, "labelme": as_labelme, "yolo": as_yolo}
MODULES = {"coco": coco, "cvat": cvat, "label-studio": label_studio, "labelme": labelme, "yolo": yolo}
each = pytest.mark.parametrize(("tool", "make"), FORMATS.values(), ids=list(FORMATS))
# One way to write each format.
once = pytest.mark.parametrize(
    ("tool", "make"), [pair for name, pair in FORMATS.items() if "," not in name], ids=list(MODULES)
)


# ------------------------------------------------------------------------------------------------------------ tests


@each
def test_one_drawing_is_one_mask(tool: str, make: Callable[[Path], Path], tmp_path: Path) -> None:
    write_photographs(tmp_path / "photos", 4)
    data = data_of(tool, tmp_path / "photos", make(tmp_path / "in"))
    inventory, masks = looked(data, tmp_path / "out")
    assert sorted(masks) == ["p0", "p1", "p2", "p3"]
    for mask in masks.values():
        np.testing.assert_array_equal(mask, scene())
    assert inventory.about["classes"] == ["background", *NAMES]
    assert tagged(inventory) == {name: {*NAMES} for name in inventory.id}


@pytest.mark.parametrize("name", ["label-studio, brushes", "yolo"])
def test_to_the_artifacts(name: str, tmp_path: Path) -> None:
    tool, make = FORMATS[name]
    write_photographs(tmp_path / "photos", 4)
    for mask in drawn(data_of(tool, tmp_path / "photos", make(tmp_path / "in")), tmp_path / "out").values():
        np.testing.assert_array_equal(mask, scene())


@once
def test_a_photograph_that_exif_turns(tool: str, make: Callable[[Path], Path], tmp_path: Path) -> None:
    """Tools that show it unturned say its unturned size: the mask is turned with it. YOLO's fractions are upright."""
    write_photographs(tmp_path / "photos", 4)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90° to the right
    with Image.open(tmp_path / "photos/p0.jpg") as picture:
        picture.save(tmp_path / "photos/p0.jpg", exif=exif)
    _, masks = looked(data_of(tool, tmp_path / "photos", make(tmp_path / "in")), tmp_path / "out")
    np.testing.assert_array_equal(masks["p1"], scene())
    if tool == "yolo":
        whole = np.zeros((W, H), np.uint8)
        for value, (name, points) in enumerate(SCENE):
            fractions = [part / (H if i % 2 else W) for i, part in enumerate(flat(points))]
            shapes.paint(whole, {"v": 1 + NAMES.index(name), "polygon": fractions, "unit": True}, {})
            assert value < 3
        np.testing.assert_array_equal(masks["p0"], whole)
    else:
        np.testing.assert_array_equal(masks["p0"], np.rot90(scene(), -1))


@once
def test_classes_that_are_not_kept(tool: str, make: Callable[[Path], Path], tmp_path: Path) -> None:
    write_photographs(tmp_path / "photos", 4)
    labels = make(tmp_path / "in")
    assert "data.other" in problems(data_of(tool, tmp_path / "photos", labels, classes=["cat"]))
    _, masks = looked(data_of(tool, tmp_path / "photos", labels, classes=["cat"], other="void"), tmp_path / "out")
    np.testing.assert_array_equal(masks["p0"], np.where(scene() == 2, VOID, scene()))


@once
def test_a_correction_is_seen(tool: str, make: Callable[[Path], Path], tmp_path: Path) -> None:
    """In whatever file it stands: YOLO's data.yaml names the folders that hold it."""
    write_photographs(tmp_path / "photos", 4)
    labels = make(tmp_path / "in")
    data = data_of(tool, tmp_path / "photos", labels)
    (_, before), first = looked(data, tmp_path / "out"), fingerprints(data)
    kept = {path: path.read_bytes() for path in (tmp_path / "in").rglob("*") if path.is_file()}
    POLYGONS[tool](tmp_path / "in", [("cat", SCENE[0][1]), ("dog", [(2, 2), (50, 2), (50, 38)])])
    single = [path for path in kept if path.stem == "p2"]
    for path, content in kept.items():
        if single and path not in single:
            path.write_bytes(content)
    (_, after), second = looked(data, tmp_path / "out"), fingerprints(data)
    assert first.photographs == second.photographs and first.masks != second.masks and first.tags != second.tags
    changed = [name for name in before if not np.array_equal(before[name], after[name])]
    assert sorted(changed) == (["p2"] if single else ["p0", "p1", "p2", "p3"])


@each
def test_a_look_recognises_the_format_and_no_other(tool: str, make: Callable[[Path], Path], tmp_path: Path) -> None:
    labels = make(tmp_path / "in")
    for place in (labels, labels.parent):
        assert [name for name, layout in LAYOUTS.items() if layout.recognised(place)] == [tool]
    assert not any(layout.recognised(tmp_path / "nowhere") for layout in LAYOUTS.values())


BROKEN: dict[str, bytes] = {
    "cut in half": b"",
    "empty": b"",
    "noise": bytes(range(256)) * 9,
    "UTF-16 without its mark": "[]".encode("utf-16-le"),
    "deep": b"[" * 200_000,
    "entities that multiply": b'<!DOCTYPE a [<!ENTITY b "bb"><!ENTITY c "&b;&b;&b;">]><annotations>&c;</annotations>',
    "numbers that are none": b'{"images": [{"id": 1e999}], "categories": [{"id": 1e999}], "annotations": [1e999]}',
    "a list of nothing": b"[null, 1, {}]",
    "a table of nothing": b"a,b\n1,2\n",
    "anchors in a circle": b"names: &a [*a]\ntrain: x\n",
    "another tool's": b"",
}


@pytest.mark.parametrize("how", BROKEN)
@once
def test_a_broken_file_is_named(tool: str, make: Callable[[Path], Path], how: str, tmp_path: Path) -> None:
    write_photographs(tmp_path / "photos", 1)
    labels = make(tmp_path / "in")
    file = labels / "p0.json" if tool == "labelme" else labels
    content = file.read_bytes()
    other = (as_coco if tool == "cvat" else as_cvat)(tmp_path / "other").read_bytes()
    file.write_bytes({"cut in half": content[: len(content) // 2], "another tool's": other}.get(how, BROKEN[how]))
    found = MODULES[tool].read([labels])  # type: ignore[attr-defined]
    assert any(str(file) in line or file.name in line for line in found.problems), found.problems
    assert all("Traceback" not in line and len(line) < 1000 for line in found.problems)


def test_a_pipe_is_not_opened(tmp_path: Path) -> None:
    import os

    for name in ("a.json", "annotations.xml", "a.zip", "data.yaml", "a.csv"):
        os.mkfifo(tmp_path / name)
    for tool, module in MODULES.items():
        for name in ("a.json", "annotations.xml", "a.zip", "data.yaml", "a.csv"):
            assert not module.recognised(tmp_path / name)
            assert any("pipe" in line for line in module.read([tmp_path / name]).problems), (tool, name)  # type: ignore[attr-defined]


def test_what_no_picture_has_is_refused_before_it_takes_memory() -> None:
    whole = {"v": 1, "polygon": [0.0, 0.0, 1.0, 0.0, 1.0, 1.0], "unit": True}
    for size in ([10**9, 10**9], [0, 5], [-5, 5]):
        with pytest.raises(Unusable, match="by what the tool says"):
            shapes.draw(shapes.sketched(json.dumps({"size": size, "shapes": [whole]})))
    mask = np.zeros((H, W), np.uint8)
    for shape in (
        {"runs": [10**12], "box": [0, 0, 10**6, 10**6]},
        {"rle": [10**12], "size": [10**6, 10**6]},
        {"brush": "AAAA", "size": [10**6, 10**6]},
        {"brush": "AAAA", "size": [H, W]},
        {"brush": "A", "size": [H, W]},
        {"png": "not base64", "at": [0, 0]},
        {"polygon": [0, 0, 5, 5]},
        {"polygon": [0, 0, 5, 5, float("nan"), 1]},
        {"polygon": [0, 0, 1e300, 5, 5, 1]},
    ):
        with pytest.raises(Unusable):
            shapes.paint(mask, {"v": 1, **shape}, {})
    assert not mask.any()


@pytest.mark.parametrize("at", [(-20, 3), (3, -20), (100, 3), (3, 100), (-2, -3), (54, 38), (10**9, -(10**9))])
def test_a_bitmap_is_cut_where_it_leaves_the_picture(at: tuple[int, int]) -> None:
    mask, whole = np.zeros((H, W), np.uint8), np.zeros((H, W), np.uint8)
    shapes.paint(mask, {"v": 7, "runs": [0, 60], "box": [*at, 6, 10]}, {})
    for y in range(at[1], at[1] + 10):
        for x in range(at[0], at[0] + 6):
            if 0 <= y < H and 0 <= x < W:
                whole[y, x] = 7
    np.testing.assert_array_equal(mask, whole)


def test_ellipses_are_as_their_equation() -> None:
    mask = np.zeros((H, W), np.uint8)
    shapes.paint(mask, {"v": 1, "polygon": rings.ellipse((25, 18, 16, 7), 30)}, {})
    y, x = np.mgrid[:H, :W] + 0.5
    along, across = ((x - 25) * np.cos(a) + (y - 18) * np.sin(a) for a in (np.radians(30), np.radians(120)))
    np.testing.assert_array_equal(mask, (along / 16) ** 2 + (across / 7) ** 2 <= 1)


def test_background_in_capitals_is_the_background(tmp_path: Path) -> None:
    """As a tag too: alone it says that a photograph shows none of the classes."""
    write_photographs(tmp_path / "photos", 5)
    images = [f'<tag label="{name}"/>' for name in ("cat", "Background", "cat", "dog", "dog")]
    labels = write(tmp_path / "annotations.xml", cvat_file(images, ("Background", *NAMES)))
    inventory, _ = looked(data_of("cvat", tmp_path / "photos", labels), tmp_path / "out")
    assert inventory.about["classes"] == ["background", *NAMES]
    assert tagged(inventory)["p1"] == set() and sum(inventory.about["counts"]["negative"].values()) >= 1


def test_a_class_of_no_name_is_named(tmp_path: Path) -> None:
    write_photographs(tmp_path / "photos", 4)
    marks = [{"label": "c\x1bt", "shape_type": "polygon", "points": [[1, 1], [9, 1], [9, 9]]}]
    for n in range(4):
        write(tmp_path / f"in/p{n}.json", json.dumps(labelme_file(n, marks)))
    said = problems(data_of("labelme", tmp_path / "photos", tmp_path / "in"))
    assert "class 'c\\x1bt', a name that holds a line break or the like; rename it" in said
