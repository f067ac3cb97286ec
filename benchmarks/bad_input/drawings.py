"""Exports of drawings: COCO, CVAT, Label Studio, labelme, YOLO. Cut short, recoded, of other types, huge."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.bad_input.case import CANARY, HANDLED, Case, Command, prepare
from benchmarks.bad_input.drawn import SIDE, photo, rewritten, save, write

NAMES = [f"a{i:02d}" for i in range(6)]
CLASSES = ("ant", "bee", "cow")
SQUARE = [(24, 24), (72, 24), (72, 72), (24, 72)]  # as in `photo`
Change = Callable[[Path], object]


def export(layout: str, change: Change, label: str = "", **data: object) -> Callable[[Path], Command]:
    """A sound export of this layout with six photographs, and what `change` makes of it (it is given the folder).
    label: another file, or folder, as what the tool wrote."""

    def build(at: Path) -> Command:
        for i, name in enumerate(NAMES):
            save(at / f"photos/{name}.png", photo(i))
        own = WRITES[layout](at)
        change(at)
        return prepare(at, format=layout, export={"root": "photos", "labels": [label or own]}, **data)

    return build


def coco(at: Path) -> str:
    images = [{"id": i, "file_name": f"{name}.png", "height": SIDE, "width": SIDE} for i, name in enumerate(NAMES)]
    marks = [{"id": i, "image_id": i, "category_id": i % 3, "segmentation": [sum(SQUARE, ())]} for i in range(6)]
    about = {"images": images, "annotations": marks}
    write(at / "coco.json", json.dumps({**about, "categories": [{"id": i, "name": n} for i, n in enumerate(CLASSES)]}))
    return "coco.json"


def cvat(at: Path) -> str:
    write(at / "annotations.xml", xml())
    return "annotations.xml"


def xml() -> str:
    points = ";".join(f"{x},{y}" for x, y in SQUARE)
    images = "".join(
        f'<image id="{i}" name="{name}.png" width="{SIDE}" height="{SIDE}">'
        f'<polygon label="{CLASSES[i % 3]}" points="{points}" z_order="0"/></image>'
        for i, name in enumerate(NAMES)
    )
    labels = "".join(f"<label><name>{name}</name></label>" for name in CLASSES)
    meta = f"<meta><task><labels>{labels}</labels></task></meta>"
    return f'<?xml version="1.0" encoding="utf-8"?><annotations><version>1.1</version>{meta}{images}</annotations>'


def label_studio(at: Path) -> str:
    tasks = []
    for i, name in enumerate(NAMES):
        about = {"points": [[x / SIDE * 100, y / SIDE * 100] for x, y in SQUARE], "polygonlabels": [CLASSES[i % 3]]}
        result = {"type": "polygonlabels", "original_width": SIDE, "original_height": SIDE, "value": about}
        image = f"/data/upload/1/0a1b2c3d-{name}.png"
        tasks.append({"id": i, "data": {"image": image}, "annotations": [{"result": [result]}]})
    write(at / "project.json", json.dumps(tasks))
    return "project.json"


def labelme(at: Path) -> str:
    for i, name in enumerate(NAMES):
        shape = {"label": CLASSES[i % 3], "points": SQUARE, "shape_type": "polygon"}
        about = {"shapes": [shape], "imagePath": f"../photos/{name}.png", "imageHeight": SIDE, "imageWidth": SIDE}
        write(at / f"labels/{name}.json", json.dumps({"version": "5.5.0", "flags": {}, **about}))
    return "labels"


def yolo(at: Path) -> str:
    row = " ".join(f"{x / SIDE} {y / SIDE}" for x, y in SQUARE)
    for i, name in enumerate(NAMES):
        write(at / f"labels/{'train' if i < 4 else 'val'}/{name}.txt", f"{i % 3} {row}\n")
    write(at / "data.yaml", "train: images/train\nval: images/val\nnames: [ant, bee, cow]\n")
    return "data.yaml"


WRITES = {"coco": coco, "cvat": cvat, "label-studio": label_studio, "labelme": labelme, "yolo": yolo}
FILES = {  # of each layout, one that a person could damage
    "coco": "coco.json",
    "cvat": "annotations.xml",
    "label-studio": "project.json",
    "labelme": "labels/a01.json",
    "yolo": "data.yaml",
}


# --------------------------------------------------------------------------------------------------------- changes


def none(at: Path) -> None:
    pass


def gone(at: Path) -> None:
    (at / "photos/a01.png").unlink()


def of(name: str, content: str | bytes) -> Change:
    return lambda at: write(at / name, content)


def changed(name: str, old: str, new: str, count: int = -1) -> Change:
    """Something else in the place of a text that is there."""

    def change(at: Path) -> None:
        text = (at / name).read_text()
        assert old in text, f"{name} has no {old}"
        write(at / name, text.replace(old, new, count))

    return change


def half(name: str) -> Change:
    return lambda at: write(at / name, (at / name).read_bytes()[: (at / name).stat().st_size * 2 // 3])


def recoded(name: str, encoding: str) -> Change:
    return lambda at: write(at / name, (at / name).read_text().encode(encoding))


def pipe(name: str) -> Change:
    def change(at: Path) -> None:
        (at / name).unlink()
        os.mkfifo(at / name)

    return change


def region(change: Callable[[dict[str, Any]], object]) -> Change:
    """Label Studio's first region, changed."""
    return lambda at: rewritten(
        at / "project.json",
        lambda tasks: change(tasks[0]["annotations"][0]["result"][0]),  # type: ignore[index]
    )


def shape(change: Callable[[dict[str, Any]], object]) -> Change:
    """labelme's shape in one file, changed."""
    return lambda at: rewritten(at / "labels/a01.json", lambda about: change(about["shapes"][0]))


def brush(runs: list[int], size: int = SIDE) -> Change:
    def change(found: dict[str, Any]) -> None:
        found["type"], found["value"] = "brushlabels", {"format": "rle", "rle": runs, "brushlabels": ["ant"]}
        found["original_width"] = found["original_height"] = size

    return region(change)


def archive(content: str | bytes, name: str = "annotations.xml") -> Change:
    def change(at: Path) -> None:
        with zipfile.ZipFile(at / "task.zip", "w", zipfile.ZIP_DEFLATED) as packed:
            packed.writestr(name, content)

    return change


def bomb(at: Path) -> None:
    """An archive of 7 MB with a file of 1.5 GB."""
    name, form = at / "task.zip", zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(name, "w", form, compresslevel=1) as packed, packed.open("annotations.xml", "w") as file:
        file.write(b"<annotations>")
        for _ in range(1536):
            file.write(bytes(2**20))


LAUGHS = '<!DOCTYPE a [<!ENTITY l0 "ha">' + "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, 12))
SECRET = '<!DOCTYPE a [<!ENTITY secret SYSTEM "file:///etc/passwd">]>'
LONG = "9" * 5000
HUGE = {"size": [10**9, 10**9], "counts": [10**18]}
ALIASES = "".join(f"{n}: &{n} [{', '.join([f'*{o}'] * 9)}]\n" for o, n in zip("abcdefg", "bcdefgh", strict=True))
CASES = [
    *[Case(f"{layout}, sound", export(layout, none), HANDLED) for layout in WRITES],
    *[
        Case(
            f"{layout}: cut short",
            export(layout, half(file)),
            says=(rf"{Path(file).name}.*(export it|correct it|again)",),
        )
        for layout, file in FILES.items()
    ],
    *[
        Case(f"{layout}: UTF-16 without its mark", export(layout, recoded(file, "utf-16-le")), says=(Path(file).name,))
        for layout, file in FILES.items()
        if layout in ("cvat", "yolo")
    ],
    *[
        Case(f"{layout}: UTF-16 with its mark", export(layout, recoded(file, "utf-16")), HANDLED)
        for layout, file in FILES.items()
        if layout not in ("cvat", "yolo")
    ],
    *[
        Case(f"{layout}: noise", export(layout, of(file, bytes(range(256)) * 64)), says=(Path(file).name,))
        for layout, file in FILES.items()
    ],
    *[
        Case(f"{layout}: a pipe", export(layout, pipe(file)), says=(rf"{Path(file).name}.*a pipe or a device",))
        for layout, file in FILES.items()
    ],
    *[
        Case(f"{layout}: a photograph is missing", export(layout, gone), says=("a01' has no photograph",))
        for layout in WRITES
    ],
    *[
        Case(f"{layout}: 10⁵ levels", export(layout, of(FILES[layout], "[" * 10**5)), says=(Path(FILES[layout]).name,))
        for layout in WRITES
    ],
    # ------------------------------------------------------------------------------------------------- of one tool
    Case("coco: infinite ids", export("coco", changed("coco.json", '"id": 0', '"id": 1e999')), says=("without an id",)),
    Case(
        "coco: a list for an id",
        export("coco", changed("coco.json", '"image_id": 1', '"image_id": [1]')),
        says=("annotation 1 of an image or a category",),
    ),
    Case(
        "coco: points of words",
        export("coco", changed("coco.json", "[24, 24, 72", '["a", {}, null', 1)),
        says=("annotation 0 of 'ant' has points that are no pairs of numbers",),
    ),
    Case(
        "coco: 10⁹ × 10⁹ run lengths",
        export("coco", changed("coco.json", "[[24, 24, 72, 24, 72, 72, 24, 72]]", json.dumps(HUGE), 1)),
        says=("by what the tool says",),
    ),
    Case(
        "cvat: entities that multiply",
        export("cvat", of("annotations.xml", LAUGHS + "]><annotations>&l11;</annotations>")),
        says=("it has a DOCTYPE",),
    ),
    Case(
        "cvat: a file of the machine",
        export("cvat", of("annotations.xml", SECRET + "<annotations>&secret;</annotations>")),
        says=("it has a DOCTYPE",),
    ),
    Case(
        "cvat: a class typed wrongly",
        export("cvat", changed("annotations.xml", 'label="ant"', 'label="aunt"', 1)),
        says=("of the label 'aunt', one of ant, bee, cow expected",),
    ),
    Case(
        "cvat: huge points",
        export("cvat", changed("annotations.xml", "24,24", "1e308,-1e308", 1)),
        says=("one that no picture has",),
    ),
    Case(
        "cvat: a number of 5,000 digits",
        export("cvat", changed("annotations.xml", "24,24", f"{LONG},24", 1)),
        says=("whose numbers are none",),
    ),
    Case(
        "cvat: 10⁹ pixels wide",
        export("cvat", changed("annotations.xml", 'width="96"', 'width="1000000000"', 1)),
        says=("a00",),
    ),
    Case(
        "cvat: a name that moves the cursor",
        export("cvat", changed("annotations.xml", 'name="a00.png"', 'name="&#x9b;2J&#133;gone.png"')),
        says=("has no photograph",),
    ),
    Case("cvat: an archive, sound", export("cvat", archive(xml()), "task.zip"), HANDLED),
    Case(
        "cvat: an archive that is none",
        export("cvat", of("task.zip", b"PK\x03\x04" + bytes(200)), "task.zip"),
        says=(r"task\.zip: is no \.zip",),
    ),
    Case(
        "cvat: an archive without the file",
        export("cvat", archive("x", "../../canary.xml"), "task.zip"),
        says=(r"has no annotations\.xml",),
    ),
    Case("cvat: an archive of 1.5 GB in 7 MB", export("cvat", bomb, "task.zip"), says=("at most 1073741824 are read",)),
    Case(
        "label-studio: a task without a photograph",
        export("label-studio", changed("project.json", "a01.png", "a01")),
        says=("task 1 has no photograph in its data",),
    ),
    Case(
        "label-studio: points of words",
        export("label-studio", region(lambda found: found["value"].update(points=[["a", 1]] * 9))),
        says=("has points that are none",),
    ),
    Case(
        "label-studio: a brush of few bytes",
        export("label-studio", brush([0, 0, 144, 0, 57, 1])),
        says=("a brush region: ",),
    ),
    Case(
        "label-studio: a brush of 10⁹ × 10⁹", export("label-studio", brush([0, 0, 144, 0, 57, 1], 10**9)), says=("a00",)
    ),
    Case(
        "label-studio: a turned picture",
        export("label-studio", region(lambda found: found.update(image_rotation=90))),
        says=("image_rotation",),
    ),
    Case(
        "label-studio: a class of an escape sequence",
        export("label-studio", region(lambda found: found["value"].update(polygonlabels=["\x1b[31mant"]))),
        says=("a name that holds a line break",),
    ),
    Case(
        "label-studio: half a surrogate",
        export("label-studio", region(lambda found: found["value"].update(polygonlabels=["\ud800ant"]))),
        says=("a name that is not UTF-8",),
    ),
    Case(
        "labelme: a mask that is a bomb",
        export("labelme", shape(lambda found: found.update(shape_type="mask", mask="iVBORw0KGgo" + "A" * 4000))),
        says=(r"a01",),
    ),
    Case(
        "labelme: endless points",
        export("labelme", shape(lambda found: found.update(points=[[float("inf"), 1]] * 5))),
        says=("'a01.json' has a polygon of 'bee' without the points",),
    ),
    Case(
        "labelme: a label that is a list",
        export("labelme", shape(lambda found: found.update(label=["ant"]))),
        says=("'a01.json' has a shape without a label",),
    ),
    Case(
        "labelme: another tool's JSON among them",
        export("labelme", of("labels/notes.json", "[1, 2]")),
        says=("'notes.json' is no labelme file",),
    ),
    Case(
        "yolo: a class typed wrongly",
        export("yolo", changed("labels/train/a01.txt", "1 ", "7 ", 1)),
        says=(r"'train/a01\.txt' line 1: class '7', one of 0 ant, 1 bee, 2 cow",),
    ),
    Case(
        "yolo: points in pixels",
        export("yolo", of("labels/train/a01.txt", "1 24 24 72 24 72 72\n")),
        says=("a point at 72.0, fractions of the size expected",),
    ),
    Case(
        "yolo: a class of 5,000 digits",
        export("yolo", of("labels/train/a01.txt", f"{LONG} 0.1 0.1 0.2 0.2 0.3 0.1\n")),
        says=("line 1: class",),
    ),
    Case(
        "yolo: rows of noise",
        export("yolo", of("labels/train/a01.txt", bytes(range(128, 256)) * 40)),
        says=(r"a01\.txt' is not UTF-8",),
    ),
    Case(
        "yolo: code of Python is not run",
        export("yolo", of("data.yaml", f"names: !!python/object/apply:os.system ['touch {CANARY}']\n")),
        says=("is no YAML",),
    ),
    Case(
        "yolo: aliases that multiply",
        export("yolo", of("data.yaml", f"a: &a [x]\n{ALIASES}names: *h\n")),
        says=("`names` has 0: ",),
    ),
]
