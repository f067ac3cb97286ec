"""Masks that are files of an export: CVAT's, Roboflow's, colour tables, one mask a class, Cityscapes, ADE20K."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.bad_input.case import CANARY, HANDLED, Case, Command, prepare
from benchmarks.bad_input.drawn import encoded, mask, photo, png, save, write

COLOURS = np.array([(0, 0, 0), (250, 50, 83), (0, 200, 20), (9, 9, 200)], np.uint8)
LABELMAP = "# label:color_rgb:parts:actions\nbackground:0,0,0::\nant:250,50,83::\nbee:0,200,20::\ncow:9,9,200::\n"
TABLE = "0 0 0 background\n250 50 83 ant\n0 200 20 bee\n9 9 200 cow\n"
CLASSES = "Pixel Value, Class\n0, background\n1, ant\n2, bee\n3, cow\n"
INFO = (
    "Idx\tRatio\tTrain\tVal\tStuff\tName\n1\t0.1\t1\t1\t0\tant\n2\t0.1\t1\t1\t0\tbee, honey bee\n3\t0.1\t1\t1\t0\tcow\n"
)
NAMES = [f"a{i:02d}" for i in range(6)]
Change = Callable[[Path], None]


def export(layout: str, change: Change, **data: object) -> Callable[[Path], Command]:
    """A sound export of this layout with six photographs, and what `change` makes of it (it is given the folder)."""

    def build(at: Path) -> Command:
        root, labels = WRITES[layout](at)
        change(at)
        more = {"classes": ["road", "car", "bus"], "other": "void"} if layout == "cityscapes" else {}
        return prepare(at, format=layout, export={"root": root, "labels": labels}, **{**more, **data})

    return build


def cvat(at: Path) -> tuple[str, list[str]]:
    for i, name in enumerate(NAMES):
        save(at / f"photos/{name}.png", photo(i))
        save(at / f"task/SegmentationClass/{name}.png", COLOURS[mask(i)])
    write(at / "task/labelmap.txt", LABELMAP)
    write(at / "task/ImageSets/Segmentation/default.txt", "\n".join(NAMES) + "\n")
    return "photos", ["task"]


def roboflow(at: Path) -> tuple[str, list[str]]:
    for i, name in enumerate(NAMES):
        part = "train" if i < 4 else "valid"
        save(at / f"photos/{part}/{name}_png.rf.0{i}.png", photo(i))
        save(at / f"photos/{part}/{name}_png.rf.0{i}_mask.png", mask(i))
        write(at / f"photos/{part}/_classes.csv", CLASSES)
    return "photos", ["photos"]


def colours(at: Path) -> tuple[str, list[str]]:
    for i, name in enumerate(NAMES):
        save(at / f"photos/{name}.png", photo(i))
        save(at / f"labels/{name}_L.png", COLOURS[mask(i)])
    write(at / "colours.txt", TABLE)
    return "photos", ["colours.txt", "labels"]


def binary(at: Path) -> tuple[str, list[str]]:
    for i, name in enumerate(NAMES):
        save(at / f"photos/{name}.png", photo(i))
        for value, kind in enumerate(("ant", "bee", "cow"), 1):
            save(at / f"masks/{kind}/{name}.png", ((mask(i) == value) * 255).astype(np.uint8))
    return "photos", ["masks"]


def cityscapes(at: Path) -> tuple[str, list[str]]:
    for i, name in enumerate(NAMES):
        part = "train" if i < 4 else "val"
        save(at / f"leftImg8bit/{part}/ulm/{name}_leftImg8bit.png", photo(i))
        save(at / f"gtFine/{part}/ulm/{name}_gtFine_labelIds.png", np.array([0, 7, 26, 28], np.uint8)[mask(i)])
    return "leftImg8bit", ["gtFine"]


def ade(at: Path) -> tuple[str, list[str]]:
    for i, name in enumerate(NAMES):
        part = "training" if i < 4 else "validation"
        save(at / f"ADE/images/{part}/{name}.png", photo(i))
        save(at / f"ADE/annotations/{part}/{name}.png", mask(i))
    write(at / "ADE/objectInfo150.txt", INFO)
    return "ADE/images", ["ADE"]


WRITES = {
    "cvat-mask": cvat,
    "roboflow": roboflow,
    "colours": colours,
    "binary": binary,
    "cityscapes": cityscapes,
    "ade20k": ade,
}


def of(name: str, content: str | bytes) -> Change:
    return lambda at: write(at / name, content) and None


def gone(name: str) -> Change:
    return lambda at: (at / name).unlink()


def none(at: Path) -> None:
    pass


def elsewhere(at: Path) -> None:
    """A folder of masks that is a link to itself."""
    (at / "masks/loop").symlink_to(at / "masks")


def unknown() -> bytes:
    return encoded(np.random.default_rng(0).integers(0, 256, (96, 96, 3), np.uint8))


def jpeg() -> bytes:
    return encoded(Image.fromarray(COLOURS[mask()]), "JPEG")


CASES = [
    *[Case(f"{layout}, sound", export(layout, none), HANDLED) for layout in WRITES],
    Case(
        "cvat-mask: labelmap.txt is missing",
        export("cvat-mask", gone("task/labelmap.txt")),
        says=("labelmap.txt: no such file",),
    ),
    Case(
        "cvat-mask: labelmap.txt of noise",
        export("cvat-mask", of("task/labelmap.txt", b"\xff\x00\x01\n" * 400)),
        says=("labelmap.txt: ",),
    ),
    Case(
        "cvat-mask: 400 lines that are none",
        export("cvat-mask", of("task/labelmap.txt", "cat\n" * 400)),
        says=("'cat' found, `class:red,green,blue::` expected", "and 399 more"),
    ),
    Case(
        "cvat-mask: two classes of one colour",
        export("cvat-mask", of("task/labelmap.txt", LABELMAP.replace("0,200,20", "250,50,83"))),
        says=("250,50,83 is 'ant' and 'bee'; keep one",),
    ),
    Case(
        "cvat-mask: a mask of 9,000 colours",
        export("cvat-mask", of("task/SegmentationClass/a01.png", unknown())),
        says=(r"a01\.png: holds colour .* and \d+ more, which the table",),
    ),
    Case(
        "cvat-mask: a bomb for a mask",
        export("cvat-mask", of("task/SegmentationClass/a01.png", png(14000, 14000))),
        says=(r"a01\.png: ", "make it smaller"),
    ),
    Case(
        "roboflow: no table beside masks",
        export("roboflow", gone("photos/train/_classes.csv")),
        says=("4 masks without a _classes.csv",),
    ),
    Case(
        "roboflow: values out of range",
        export("roboflow", of("photos/train/_classes.csv", f"{CLASSES}256, owl\n")),
        says=("line 6: '256, owl' found",),
    ),
    Case(
        "roboflow: a number of 5,000 digits",
        export("roboflow", of("photos/train/_classes.csv", f"{CLASSES}{'9' * 5000}, owl\n")),
        says=("line 6: ",),
    ),
    Case("colours: a mask in JPEG", export("colours", of("labels/a01_L.png", jpeg())), says=("is JPEG",)),
    Case(
        "colours: no background, and none set",
        export("colours", of("colours.txt", TABLE.replace("background", "Void"))),
        says=("no line is called `background`; set data.background: none",),
    ),
    Case(
        "colours: a table of executable lines",
        export("colours", of("colours.txt", f"0 0 0 $(touch {CANARY})\n__import__('os').system('touch {CANARY}')\n")),
        says=("colours.txt: line 2: ",),
    ),
    Case(
        "binary: a mask of many values",
        export("binary", of("masks/ant/a00.png", encoded(mask(2) * 40 + np.eye(96, dtype=np.uint8)))),
        says=(r"masks/ant/a00\.png: holds value 0, value 1, value 120, value 121; the mask of one class",),
    ),
    Case(
        "binary: a folder that lies in itself",
        export("binary", elsewhere),
        says=("a link to a folder that it lies in",),
    ),
    Case(
        "binary: a class in capitals too",
        export("binary", of("masks/Ant/a01.png", encoded(mask()))),
        says=("capitals",),
    ),
    Case(
        "cityscapes: background left as it is",
        export("cityscapes", none, background="first", classes=["road"], other="void"),
        says=("Cityscapes has no background.*set data.background: none",),
    ),
    Case(
        "cityscapes: label ids of another release",
        export("cityscapes", of("gtFine/train/ulm/a00_gtFine_labelIds.png", encoded(mask() * 50))),
        says=("value 50, which the table of classes does not have",),
    ),
    Case("ade20k: no names of classes", export("ade20k", gone("ADE/objectInfo150.txt")), says=("names the classes",)),
    Case(
        "ade20k: spaces for tabs",
        export("ade20k", of("ADE/objectInfo150.txt", INFO.replace("\t", " "))),
        says=("tabs between",),
    ),
]
