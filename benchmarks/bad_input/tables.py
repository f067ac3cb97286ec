"""Tables of tags, lists of classes and splits, annotations: encodings, separators, formulas, contradictions, size."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np

from benchmarks.bad_input.case import CANARY, HANDLED, Case, Command, prepare
from benchmarks.bad_input.drawn import folder, photo, save, write
from pipeline.core import store

TAGS = ("ant", "bee", "cow", "ant", "bee", "cow")
ROWS = [f"a0{i},{tag}" for i, tag in enumerate(TAGS)]
PLAIN = "\n".join(["image,tags", *ROWS]) + "\n"


def table(content: str | bytes, classes: bool = True, check: bool = False) -> Callable[[Path], Command]:
    """The data set with this tags.csv. check: what is stored must be what `PLAIN` says."""

    def same(manifest: Path) -> str:
        found = [int(np.flatnonzero(row)[0]) for row in store.Artifact(manifest).read("tags")]
        return "" if found == [1, 2, 3, 1, 2, 3] else f"tags are read as {found}"

    def build(at: Path) -> Command:
        root = folder(at / "photos")
        write(root / "tags.csv", content)
        if not classes:
            (root / "classes.txt").unlink()
        if not check:
            return prepare(at)
        settings = {"name": "x", "max_side": 96, "folder": {"root": "photos"}}
        from pipeline.core.data import Data
        from pipeline.datasets.inventory import FILE
        from pipeline.prepare import prepare as make

        with redirect_stdout(StringIO()):
            make("photographs", Data.model_validate(settings | {"folder": {"root": root}}), at / "out/photographs.json")
        (at / "out" / FILE).unlink()
        command = prepare(at, make="tags", check=same)
        return command._replace(words=[*command.words, "--photographs", "out/photographs.json"])

    return build


def text(name: str, content: str | bytes) -> Callable[[Path], Command]:
    """The data set with another classes.txt or list."""

    def build(at: Path) -> Command:
        write(folder(at / "photos") / name, content)
        return prepare(at)

    return build


def folder_for(name: str) -> Callable[[Path], Command]:
    def build(at: Path) -> Command:
        root = folder(at / "photos")
        (root / name).unlink()
        (root / name).mkdir()
        return prepare(at)

    return build


def annotation(content: str) -> Callable[[Path], Command]:
    """A devkit, one of whose annotations is this."""

    def build(at: Path) -> Command:
        root = at / "voc"
        for i in range(6):
            save(root / f"JPEGImages/a0{i}.png", photo(i))
            save(root / f"SegmentationClass/a0{i}.png", np.full((96, 96), 0, np.uint8))
            write(root / f"Annotations/a0{i}.xml", f"<annotation><object><name>{TAGS[i]}</name></object></annotation>")
        write(root / "Annotations/a00.xml", content)
        write(root / "classes.txt", "background\nant\nbee\ncow\n")
        write(root / "ImageSets/Segmentation/train.txt", "a00\na01\na02\na03\n")
        write(root / "ImageSets/Segmentation/val.txt", "a04\na05\n")
        return prepare(at, voc={"root": "voc", "train": "train", "score": None, "tags": "xml"})

    return build


def rows(count: int, known: bool) -> str:
    return "\n".join(["image,tags", *ROWS, *(f"{'a00' if known else 'x'}{i},ant" for i in range(count))]) + "\n"


LAUGHS = (
    '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY l0 "ant">'
    + "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, 10))
    + "]><annotation><object><name>&l9;</name></object></annotation>"
)
OUTSIDE = (
    '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>'
    "<annotation><object><name>&x;</name></object></annotation>"
)
FORMULA = f"=cmd|'/C touch {CANARY}'!A0"
NOISE = np.random.default_rng(1).bytes(3000)
TABLE, LIST = r"photos/tags\.csv: ", r"photos/splits/train\.txt: "
CASES = [
    Case("table: UTF-8 with its mark", table(PLAIN.encode("utf-8-sig"), check=True), HANDLED),
    Case("table: UTF-16 with its mark", table(PLAIN.encode("utf-16"), check=True), HANDLED),
    Case("table: UTF-32 with its mark", table(PLAIN.encode("utf-32"), check=True), HANDLED),
    Case(
        "table: UTF-16 without its mark", table(PLAIN.encode("utf-16-le")), says=(f"{TABLE}.*UTF-16.*save it as UTF-8",)
    ),
    Case(
        "table: Latin-1", table(PLAIN.replace("cow", "kühe").encode("latin-1")), says=(f"{TABLE}is not UTF-8.*line 4",)
    ),
    Case("table: semicolons", table(PLAIN.replace(",", ";"), check=True), HANDLED),
    Case("table: tabs", table(PLAIN.replace(",", "\t"), check=True), HANDLED),
    Case("table: bars", table(PLAIN.replace(",", "|")), says=(f"{TABLE}.*image\\|tags.*`image,tags` expected",)),
    Case("table: lines of Windows", table(PLAIN.replace("\n", "\r\n"), check=True), HANDLED),
    Case("table: lines of an old Mac", table(PLAIN.replace("\n", "\r"), check=True), HANDLED),
    Case(
        "table: everything quoted",
        table("\n".join(f'"{a}","{b}"' for a, b in (r.split(",") for r in PLAIN.split())), check=True),
        HANDLED,
    ),
    Case("table: empty", table(""), says=(f"{TABLE}.*`image,tags` expected",)),
    Case("table: a header alone", table("image,tags\n"), says=("tag", "a00")),
    Case(
        "table: no header", table("\n".join(ROWS)), says=(f"{TABLE}the first line is 'a00,ant'; `image,tags` expected",)
    ),
    Case(
        "table: columns the other way round",
        table(PLAIN.replace("image,tags", "tags,image")),
        says=(f"{TABLE}the first line is 'tags,image'; `image,tags` expected",),
    ),
    Case(
        "table: a column for each tag, one cell odd",
        table("image,ant,bee\na00,1,0\na01,0,7\n"),
        says=(f"{TABLE}line 3: '7' found, 1 or 0 expected",),
    ),
    Case(
        "table: a column for each tag, a row short",
        table("image,ant,bee\na00,1,0\na01,0\n"),
        says=(f"{TABLE}line 3: 1 cells for 2 columns",),
    ),
    Case("table: noise", table(NOISE), says=(TABLE, "save it as UTF-8")),
    Case("table: a PNG", table(b"\x89PNG\r\n\x1a\n" + NOISE), says=(TABLE,)),
    Case("table: NUL bytes", table(PLAIN.replace("bee", "b\0e")), says=(f"{TABLE}holds NUL bytes",)),
    Case(
        "table: quotes that do not close",
        table(PLAIN.replace("a01,bee", 'a01,"bee')),
        says=(f"{TABLE}line 3: .*close",),
    ),
    Case("table: one column", table(PLAIN.replace("a01,bee", "a01")), says=(f"{TABLE}line 3: one column",)),
    Case(
        "table: a row twice", table(PLAIN + "a00,ant\n"), says=(f"{TABLE}line 8: 'a00' has a line already; keep one",)
    ),
    Case(
        "table: rows that disagree",
        table(PLAIN + "a00,bee\na00.png,cow\n"),
        says=("line 8: 'a00' has a line", "line 9"),
    ),
    Case("table: 400 rows twice are one problem", table(PLAIN + "a00,ant\n" * 400), says=("and 399 more",)),
    Case("table: names with folders", table(PLAIN.replace("a0", "images/a0")), says=("with other folders",)),
    Case("table: names in capitals", table(PLAIN.replace("a0", "A0")), says=("in other capitals",)),
    Case(
        "table: 10⁵ rows of no photograph", table(rows(100_000, False)), says=(f"{TABLE}'x0' has no photograph.*more",)
    ),
    Case("table: 10⁵ rows of names much alike", table(rows(100_000, True)), says=("has no photograph.*more",)),
    Case(
        "table: 10⁵ tags in one cell",
        table(PLAIN.replace("a00,ant", "a00," + " ".join(f"t{i}" for i in range(10**5)))),
        says=(f"{TABLE}line 2: .* characters, at most",),
    ),
    Case(
        "table: 10⁵ tags and no classes.txt",
        table(PLAIN.replace("a00,ant", "a00," + " ".join(f"t{i}" for i in range(10**5))), classes=False),
        says=(f"{TABLE}line 2: .* characters, at most",),
    ),
    Case(
        "table: a tag of 10⁶ letters", table(PLAIN.replace("a00,ant", "a00," + "x" * 10**6)), says=(f"{TABLE}|tags: ",)
    ),
    Case(
        "table: 250 tags all like one another",
        table(
            "image,tags\n"
            + "".join(
                f"a0{i},{' '.join(f'colour{chr(97 + j // 16)}{chr(97 + j % 16)}' for j in range(250))}\n"
                for i in range(6)
            ),
            classes=False,
        ),
        HANDLED,
    ),
    Case(
        "table: formulas, with classes.txt",
        table(PLAIN.replace("a00,ant", f'a00,"{FORMULA}"')),
        says=("is not a class",),
    ),
    Case(
        "table: formulas, without",
        table(PLAIN.replace("ant", "=1+1"), classes=False),
        HANDLED,
        says=("odd names.*'=1\\+1'",),
    ),
    Case("table: escapes of the terminal", table(PLAIN.replace("a00,ant", "a00,\x1b[31mred"), classes=False), HANDLED),
    Case("table: capitals", table(PLAIN.replace("a03,ant", "a03,Ant"), classes=False), says=("capitals alone",)),
    Case("table: a typing error", table(PLAIN.replace("a03,ant", "a03,beee")), says=(r"'beee'.*meant bee\?",)),
    Case("table: a folder of its name", folder_for("tags.csv"), says=(TABLE,)),
    Case("classes: empty", text("classes.txt", ""), says=(r"classes\.txt: 0 classes",)),
    Case(
        "classes: a name twice",
        text("classes.txt", "background\nant\nbee\nant\ncow\n"),
        says=("'ant' stands on 2 lines",),
    ),
    Case(
        "classes: 300",
        text("classes.txt", "background\nant\nbee\ncow\n" + "".join(f"c{i}\n" for i in range(296))),
        says=("300 classes; 2 to 255 expected",),
    ),
    Case("classes: noise", text("classes.txt", NOISE), says=(r"classes\.txt: .*save it as UTF-8",)),
    Case("classes: a folder of its name", folder_for("classes.txt"), says=(r"classes\.txt: ",)),
    Case("list: UTF-16", text("splits/train.txt", "a00\na01\na02\na03\n".encode("utf-16")), HANDLED),
    Case("list: empty", text("splits/train.txt", ""), says=(f"{LIST}empty",)),
    Case(
        "list: names of nothing",
        text("splits/train.txt", "a00\na01\na02\nzz\n../../etc/passwd\n"),
        says=(f"{LIST}'zz' has no photograph", "etc/passwd' has no photograph"),
    ),
    Case(
        "list: a name twice", text("splits/train.txt", "a00\na01\na02\na03\na00\n"), says=("'a00' is listed 2 times",)
    ),
    Case(
        "list: a name of both",
        text("splits/train.txt", "a00\na01\na02\na03\na04\n"),
        says=("'a04' is in .* too; keep one",),
    ),
    Case("list: a folder of its name", folder_for("splits/train.txt"), says=(LIST,)),
    Case(
        "list: 10⁵ names",
        text("splits/train.txt", "a00\na01\na02\n" + "".join(f"x{i}\n" for i in range(10**5))),
        says=("has no photograph.*more",),
    ),
    Case("annotation: cut short", annotation("<annotation><object>"), says=(r"Annotations/a00\.xml: cannot be read",)),
    Case("annotation: entities that multiply", annotation(LAUGHS), says=(r"Annotations/a00\.xml: ",)),
    Case("annotation: an entity from outside", annotation(OUTSIDE), says=(r"Annotations/a00\.xml: ",)),
]
