"""prepare: every layout becomes the same artifact, every problem is in one message, and nothing is done twice."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline import prepare as stage
from pipeline.core import cli, demo, integrity, store
from pipeline.core.config import Data
from pipeline.core.data import VOID, class_names, image, image_tags, resize_image, split, true_mask
from pipeline.core.sources import fingerprint
from pipeline.prepare import main, prepare

REAL = Path(__file__).resolve().parents[2] / "shared/data/voc_mini"
REPO = Path(__file__).resolve().parents[1]
SIX = ["cat", "cow", "dog", "horse", "sheep", "person"]
H, W = 40, 56


def photograph(number: int, h: int = H, w: int = W) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (h // 8, w // 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)


def save_mask(path: Path, values: np.ndarray) -> None:
    picture = Image.fromarray(values.astype(np.uint8)).convert("P")
    picture.putpalette(list(range(256)) * 3)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


def write_lines(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def make_folder(root: Path, count: int = 12, val: int = 4, masks: bool = True, start: int = 0) -> Path:
    """A sound folder: photographs a00, a01, ... of classes ant, bee, cow by turns; the last `val` validate."""
    names = [f"a{i:02d}" for i in range(start, start + count)]
    (root / "images").mkdir(parents=True, exist_ok=True)
    rows = [] if not (root / "tags.csv").exists() else (root / "tags.csv").read_text().splitlines()[1:]
    for i, name in enumerate(names, start):
        Image.fromarray(photograph(i)).save(root / "images" / f"{name}.jpg", quality=90)
        label = 1 + i % 3
        rows.append(f"{name},{['ant', 'bee', 'cow'][label - 1]}")
        if masks:
            values = np.zeros((H, W), np.uint8)
            values[8:24, 8:40], values[24:26] = label, VOID
            save_mask(root / "masks" / f"{name}.png", values)
    write_lines(root / "tags.csv", ["image,tags", *rows])
    write_lines(root / "classes.txt", ["background", "ant", "bee", "cow"])
    if val:
        write_lines(root / "splits/train.txt", names[:-val])
        write_lines(root / "splits/val.txt", names[-val:])
    return root


def make_voc(root: Path) -> Path:
    """The same pictures as a devkit, with two objects in v00."""
    make_folder(root / "plain")
    for old, new in (("images", "JPEGImages"), ("masks", "SegmentationClass")):
        (root / "plain" / old).rename(root / new)
    ids = [f"a{i:02d}" for i in range(12)]
    for name, part in (("train", ids[:6]), ("train_aug", ids[:8]), ("val", ids[8:])):
        write_lines(root / "ImageSets/Segmentation" / f"{name}.txt", part)
    for name in ("tags.csv", "classes.txt"):
        (root / "plain" / name).rename(root / name)
    with (root / "tags.csv").open() as file:
        for row in csv.DictReader(file):
            objects = [row["tags"], row["tags"], "lamp"] + (["cow"] if row["image"] == "a00" else [])
            body = "".join(f"<object><name>{o}</name><part><name>bee</name></part></object>" for o in objects)
            write_lines(root / "Annotations" / f"{row['image']}.xml", [f"<annotation>{body}</annotation>"])
    return root


def of_folder(root: Path, **settings: Any) -> Data:
    block = {"root": root, **settings.pop("folder", {})}
    return Data.model_validate({"name": "x", "format": "folder", "max_side": 32, "folder": block, **settings})


def of_voc(root: Path, **settings: Any) -> Data:
    block = {"root": root, **settings.pop("voc", {})}
    return Data.model_validate({"name": "x", "format": "voc", "max_side": 32, "voc": block, **settings})


def made(data: Data, out: Path, verify: bool = False) -> store.Artifact:
    prepare(data, out)
    if verify:
        assert integrity.verify(out) == []
    return store.Artifact(out, "images")


def refused(data: Data, out: Path) -> str:
    """The message; nothing may be left behind."""
    with pytest.raises(cli.InputError) as caught:
        prepare(data, out)
    assert not list(out.parent.iterdir()) if out.parent.exists() else True
    return str(caught.value)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "results" / "images.json"


# --------------------------------------------------------------------------------------------------------- layouts


def test_folder(tmp_path: Path, out: Path) -> None:
    images = made(of_folder(make_folder(tmp_path / "d")), out, verify=True)
    assert class_names(images) == ["background", "ant", "bee", "cow"]
    assert images.meta["tags_from"] == "csv"
    assert images.meta["counts"]["with_mask"] == {"train": 8, "val": 4, "score": 8}
    assert images.meta["counts"]["tags"] == {"ant": 3, "bee": 3, "cow": 2}
    assert store.decode_text(images.read("id")) == [f"a{i:02d}" for i in range(12)]
    assert split(images, "train").tolist() == split(images, "score").tolist() == list(range(8))
    assert split(images, "val").tolist() == list(range(8, 12))
    assert image_tags(images).argmax(1).tolist() == [i % 3 for i in range(12)]
    assert image_tags(images).sum(1).tolist() == [1] * 12
    assert images["rgb"].shape == (12, 32, 32, 3)
    assert images["mask"].shape == (12, 64, 64)
    assert images["size"][0].tolist() == [23, 32]
    assert images["full_size"][0].tolist() == [H, W]


def test_photographs_are_reduced_and_masks_are_not(tmp_path: Path, out: Path) -> None:
    root = make_folder(tmp_path / "d")
    images = made(of_folder(root), out)
    with Image.open(root / "images/a03.jpg") as picture:
        expected = resize_image(np.asarray(picture), 23, 32)
    assert np.array_equal(image(images, 3), expected)
    assert not np.asarray(images["rgb"][3])[23:].any()
    with Image.open(root / "masks/a03.png") as mask:
        assert np.array_equal(true_mask(images, 3), np.asarray(mask))
    assert (np.asarray(images["mask"][3])[H:] == VOID).all()
    whole = made(of_folder(root, max_side=100), out.with_name("whole.json"))
    with Image.open(root / "images/a03.jpg") as picture:
        assert np.array_equal(image(whole, 3), np.asarray(picture))


def test_folder_with_photographs_and_tags_alone(tmp_path: Path, out: Path) -> None:
    root = make_folder(tmp_path / "d", count=40, val=0, masks=False)
    (root / "classes.txt").unlink()
    images = made(of_folder(root), out)
    assert class_names(images) == ["background", "ant", "bee", "cow"]
    assert not images.read("has_mask").any()
    assert (true_mask(images, 0) == VOID).all()
    train, val = (set(np.array(store.decode_text(images.read("id")))[split(images, s)]) for s in ("train", "val"))
    assert len(train | val) == 40
    assert not train & val
    assert 2 <= len(val) <= 16
    # Another seed draws other images; more photographs leave the drawn ones where they are.
    other = made(of_folder(root, folder={"seed": 1}), out.with_name("other.json"))
    assert set(np.array(store.decode_text(other.read("id")))[split(other, "val")]) != val
    make_folder(root, count=10, val=0, masks=False, start=40)
    larger = made(of_folder(root), out.with_name("larger.json"))
    assert val <= set(np.array(store.decode_text(larger.read("id")))[split(larger, "val")])


def test_folder_without_tags_takes_them_from_masks(tmp_path: Path, out: Path) -> None:
    root = make_folder(tmp_path / "d")
    (root / "tags.csv").unlink()
    images = made(of_folder(root), out)
    assert images.meta["tags_from"] == "masks"
    assert image_tags(images).argmax(1).tolist() == [i % 3 for i in range(12)]


def test_a_missing_list_is_what_the_other_leaves(tmp_path: Path, out: Path) -> None:
    root = make_folder(tmp_path / "d")
    (root / "splits/train.txt").unlink()
    write_lines(root / "splits/score.txt", ["a01.jpg", "a00"])
    images = made(of_folder(root), out)
    assert split(images, "train").tolist() == list(range(8))
    assert split(images, "score").tolist() == [1, 0]


def test_a_share_of_the_training_images(tmp_path: Path, out: Path) -> None:
    root = make_folder(tmp_path / "d", count=44)
    half = made(of_folder(root, share=0.5), out)
    names = lambda images, name: np.array(store.decode_text(images.read("id")))[split(images, name)].tolist()  # noqa: E731
    train = names(half, "train")
    assert 10 <= len(train) <= 30
    assert names(half, "score") == train
    assert len(names(half, "val")) == 4
    # A smaller share is part of a larger one, and what a list of its own scores stays whole.
    write_lines(root / "splits/score.txt", ["a00", "a01", "a02"])
    less = made(of_folder(root, share=0.2), out.with_name("less.json"))
    assert set(names(less, "train")) <= {*train, "a00", "a01", "a02"}
    assert names(less, "score") == ["a00", "a01", "a02"]
    assert {"a00", "a01", "a02"} <= set(names(less, "train"))


@pytest.mark.parametrize("masks", [True, False])
def test_training_images_without_a_tag_can_be_dropped(tmp_path: Path, out: Path, masks: bool) -> None:
    root = make_folder(tmp_path / "d", masks=masks)
    if masks:
        (root / "tags.csv").unlink()
    settings = {"classes": ["ant", "cow"], "other": "background"}
    with pytest.raises(cli.InputError, match=r"a01.*data\.untagged: drop"):
        made(of_folder(root, **settings), out)
    images = made(of_folder(root, untagged="drop", **settings), out)
    names = store.decode_text(images.read("id"))
    assert [names[i] for i in split(images, "train")] == ["a00", "a02", "a03", "a05", "a06"]
    assert split(images, "score").tolist() == split(images, "train").tolist()
    assert len(split(images, "val")) == 4, "validation keeps images that hold none of the classes"


@pytest.mark.parametrize("tags", ["xml", "csv", "masks"])
def test_voc(tmp_path: Path, out: Path, tags: str) -> None:
    images = made(of_voc(make_voc(tmp_path / "VOC"), voc={"tags": tags}), out)
    assert images.meta["tags_from"] == tags
    assert class_names(images) == ["background", "ant", "bee", "cow"]
    assert [len(split(images, s)) for s in ("train", "val", "score")] == [8, 4, 6]
    assert image_tags(images)[0].tolist() == [True, False, tags == "xml"]
    assert image_tags(images)[1:].sum() == 11
    assert images.read("has_mask").all()


def test_voc_without_a_class_file_has_the_twenty(tmp_path: Path, out: Path) -> None:
    root = make_voc(tmp_path / "VOC")
    (root / "classes.txt").unlink()
    message = refused(of_voc(root, voc={"tags": "masks"}), out)
    assert "class 'tvmonitor': no training image" in message
    assert "class 'aeroplane'" not in message


def test_demo_is_what_it_writes(tmp_path: Path, out: Path) -> None:
    data = Data.model_validate({"max_side": 96, "demo": {"train": 10, "val": 4}})
    images = made(data, out)
    demo.write(tmp_path / "d", 10, 4, 0)
    files = made(of_folder(tmp_path / "d", max_side=96), out.with_name("files.json"))
    for name in ("rgb", "size", "full_size", "mask", "tags", "has_mask", "id", "split_train", "split_val"):
        assert np.array_equal(images.read(name), files.read(name)), name
    assert images.meta["format"] == "demo"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Path]]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    served = tmp_path / "served"
    served.mkdir()
    http = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(served)))
    threading.Thread(target=http.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{http.server_port}", served
    http.shutdown()
    http.server_close()


def test_voc_is_fetched(tmp_path: Path, out: Path, server: tuple[str, Path]) -> None:
    url, served = server
    make_voc(tmp_path / "VOC")
    with tarfile.open(served / "kit.tar", "w") as tar:
        tar.add(tmp_path / "VOC", "VOCdevkit/VOC2012")
    block = {"download": True, "url": f"{url}/kit.tar"}
    images = made(of_voc(tmp_path / "data/VOC2012", voc=block), out)
    assert images["rgb"].shape[0] == 12
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["VOC2012"]


@pytest.mark.parametrize("content", [None, b"not an archive"])
def test_a_failed_fetch_leaves_nothing(
    tmp_path: Path, out: Path, server: tuple[str, Path], content: bytes | None
) -> None:
    url, served = server
    if content:
        (served / "kit.tar").write_bytes(content)
    block = {"download": True, "url": f"{url}/kit.tar"}
    message = refused(of_voc(tmp_path / "data/VOC2012", voc=block), out)
    assert "kit.tar: could not be fetched" in message
    assert "unpack the devkit to" in message
    assert not list((tmp_path / "data").iterdir())


# --------------------------------------------------------------------------------------------------------- classes


@pytest.mark.parametrize(("other", "value"), [("background", 0), ("void", VOID)])
def test_classes_kept_are_renumbered(tmp_path: Path, out: Path, other: str, value: int) -> None:
    root = make_folder(tmp_path / "d")
    write_lines(root / "splits/train.txt", [f"a{i:02d}" for i in range(8) if i % 3 != 1])  # bees stay in val alone
    images = made(of_folder(root, classes=["cow", "ant"], other=other), out)
    assert class_names(images) == ["background", "cow", "ant"]
    ids = store.decode_text(images.read("id"))
    inside = {name: int(true_mask(images, i)[10, 10]) for i, name in enumerate(ids)}
    assert inside == {name: {0: 2, 1: value, 2: 1}[int(name[1:]) % 3] for name in ids}
    assert image_tags(images)[ids.index("a10")].tolist() == [False, False]
    assert image_tags(images)[ids.index("a00")].tolist() == [False, True]


def test_other_classes_are_refused_unless_said_otherwise(tmp_path: Path, out: Path) -> None:
    message = refused(of_folder(make_folder(tmp_path / "d"), classes=["cow", "ant", "hen"]), out)
    assert "data.classes: 'hen' is not a class here; classes: ant, bee, cow" in message
    assert "tags: 'bee' (4 images, the first a01) is not among data.classes" in message
    assert "a01.png: values 2 (bee)" in message
    assert "data.other" in message


# -------------------------------------------------------------------------------------------------------- problems


def spoil(root: Path) -> dict[str, str]:
    """Damage a folder in every way at once. → what the message must say, by file."""
    images, masks = root / "images", root / "masks"
    content = (images / "a00.jpg").read_bytes()
    (images / "a00.jpg").write_bytes(content[: len(content) * 3 // 4])
    (images / "a01.jpg").write_bytes(b"no picture")
    (masks / "a02.png").write_bytes(b"no mask")
    save_mask(masks / "a03.png", np.ones((H, W + 2)))
    Image.fromarray(photograph(4)).save(masks / "a04.png")
    save_mask(masks / "a05.png", np.full((H, W), 77))
    rows = (root / "tags.csv").read_text().replace("a06,ant", "a06,").replace("a07,bee", "a07,bee wasp")
    write_lines(root / "tags.csv", [*rows.splitlines(), "a08,cow", "z99,ant"])
    write_lines(root / "splits/train.txt", [*(f"a{i:02d}" for i in range(8)), "a02", "nobody"])
    write_lines(root / "splits/val.txt", ["a08", "a09", "a10", "a11", "a03"])
    write_lines(root / "splits/score.txt", ["a00", "a09"])
    write_lines(root / "classes.txt", ["background", "ant", "bee", "cow", "yak"])
    (images / "a11.jpg").write_bytes((images / "a05.jpg").read_bytes())
    Image.fromarray(photograph(50)).save(images / "a09.png")
    Image.fromarray(photograph(51)).save(images / "b00.bmp")
    save_mask(masks / "stray.png", np.zeros((H, W)))
    return {
        "a00.jpg": "truncated",
        "a01.jpg": "cannot identify",
        "masks/a02.png": "cannot be decoded",
        "masks/a03.png": f"{W + 2}×{H} mask for a {W}×{H} photograph",
        "masks/a04.png": "holds RGB colours",
        "masks/a05.png": "values 77; 0 to 4 and 255",
        "a06.jpg": "no class in tags.csv",
        "tags: 'wasp'": "is not a class",
        "tags.csv: line 14": "'a08' has a line already",
        "tags.csv: 'z99'": "has no photograph",
        "train.txt: 'a02'": "is listed 2 times",
        "train.txt: 'nobody'": "has no photograph",
        "val.txt: 'a03'": "train.txt too",
        "score.txt: 'a09'": "not a training image",
        "class 'yak'": "no training image",
        "a11.jpg": "same photograph as",
        "images/a09.png": "also the name of a09.jpg",
        "b00.bmp": ".bmp found",
        "masks/stray.png": "no photograph of this name",
    }


def test_every_problem_is_in_one_message(tmp_path: Path, out: Path) -> None:
    root = make_folder(tmp_path / "d")
    expected = spoil(root)
    lines = refused(of_folder(root), out).splitlines()
    assert f"{len(lines) - 1} problem(s), nothing was written" in lines[0]
    for file, finding in expected.items():
        assert any(file in line and finding in line for line in lines), (file, finding, lines)
    assert len(lines) - 1 == len(expected), lines
    assert all(";" in line or ":" in line for line in lines)


def no_photographs(root: Path) -> None:
    (root / "images").rename(root / "pictures")


def no_tags(root: Path) -> None:
    (root / "tags.csv").unlink()
    (root / "masks").rename(root / "elsewhere")


def other_header(root: Path) -> None:
    (root / "tags.csv").write_text("file;label\na00;ant\n")


def open_quote(root: Path) -> None:
    (root / "tags.csv").write_text((root / "tags.csv").read_text().replace("a03,", 'a03,"'))


def three_columns(root: Path) -> None:
    (root / "tags.csv").write_text((root / "tags.csv").read_text().replace("a03,ant", "a03,ant,bee"))


def one_class(root: Path) -> None:
    write_lines(root / "classes.txt", ["background"])


def empty_line_in_classes(root: Path) -> None:
    write_lines(root / "classes.txt", ["background", "ant", "", "bee", "cow"])


def folder_with_a_photographs_name(root: Path) -> None:
    (root / "images/a00.jpg").unlink()
    (root / "images/a00.jpg").mkdir()


def no_class_file(root: Path) -> None:
    (root / "classes.txt").unlink()


def doubled_class(root: Path) -> None:
    write_lines(root / "classes.txt", ["background", "ant", "bee", "cow", "ant"])


def background_left_out(root: Path) -> None:
    write_lines(root / "classes.txt", ["ant", "bee", "cow"])
    (root / "masks").rename(root / "elsewhere")


def empty_list(root: Path) -> None:
    write_lines(root / "splits/val.txt", [])


def binary_masks(root: Path) -> None:
    for path in (root / "masks").iterdir():
        save_mask(path, np.where(np.arange(W) < 9, VOID, 0)[None].repeat(H, 0))


def deep_photograph(root: Path) -> None:
    (root / "images/a00.jpg").unlink()
    Image.fromarray(np.zeros((H, W), np.uint16)).save(root / "images/a00.png")


def deep_mask(root: Path) -> None:
    Image.fromarray(np.full((H, W), 1000, np.uint16)).save(root / "masks/a00.png")


def narrow_photograph(root: Path) -> None:
    Image.fromarray(np.zeros((40, 4000, 3), np.uint8)).save(root / "images/a00.jpg")


def turned_photograph(root: Path) -> None:
    save_turned(root / "images/a00.jpg", photograph(0))


@pytest.mark.parametrize(
    ("damage", "finding"),
    [
        (no_photographs, "images: no such folder"),
        (no_tags, "tags.csv: no such file; write a header `image,tags`"),
        (other_header, "the first line is 'file;label'; `image,tags` expected"),
        (open_quote, "tags.csv: line 5: unexpected end of data; close its quotes"),
        (three_columns, "tags.csv: line 5: 3 columns"),
        (one_class, "classes.txt: 1 classes; 2 to 255 expected"),
        (empty_line_in_classes, "classes.txt: a line is empty"),
        (folder_with_a_photographs_name, "'a00' has no photograph"),
        (no_class_file, "classes.txt: missing, so nothing says what the values in masks/ mean"),
        (doubled_class, "'ant' stands on 2 lines"),
        (background_left_out, "tags: 'ant' (4 images, the first a00) stands first in classes.txt"),
        (empty_list, "val.txt: empty"),
        (binary_masks, "all hold 0 and 255 alone"),
        (deep_photograph, "save it with 8 bits per channel"),
        (deep_mask, "values 1000"),
        (narrow_photograph, "a00.jpg: is 4000×40, 0 px narrow at data.max_side 32"),
        (turned_photograph, "before its EXIF rotation"),
    ],
)
def test_single_problems(tmp_path: Path, out: Path, damage: Callable[[Path], None], finding: str) -> None:
    root = make_folder(tmp_path / "d")
    damage(root)
    assert finding in refused(of_folder(root), out)


def test_one_cause_is_one_line(tmp_path: Path, out: Path) -> None:
    root = make_folder(tmp_path / "d")
    other_header(root)
    assert len(refused(of_folder(root), out).splitlines()) == 2


def test_a_small_share_is_named_as_the_cause(tmp_path: Path, out: Path) -> None:
    root = make_folder(tmp_path / "d", count=40)
    assert "data.share 0.05 keeps" in refused(of_folder(root, share=0.05), out)


def test_voc_problems(tmp_path: Path, out: Path) -> None:
    root = make_voc(tmp_path / "VOC")
    assert "x: no such folder; set data.voc.root" in refused(of_voc(tmp_path / "x"), out)
    message = refused(of_voc(root, voc={"train": "trainaug", "masks": "Masks"}), out)
    assert "trainaug.txt: no such list; lists there: train, train_aug, val" in message
    assert "Masks: no such folder" in message
    (root / "Annotations/a01.xml").write_text("<annotation>")
    (root / "Annotations/a02.xml").unlink()
    message = refused(of_voc(root, voc={"train": "train", "score": "train_aug"}), out)
    assert "a01.xml: cannot be read" in message
    assert "a02.jpg: no class in its annotation" in message
    assert "train_aug.txt: 'a06' is not a training image" in message


def test_a_long_message_is_cut(tmp_path: Path, out: Path) -> None:
    root = make_folder(tmp_path / "d", count=70)
    for path in (root / "images").iterdir():
        path.write_bytes(path.name.encode())
    lines = refused(of_folder(root), out).splitlines()
    assert len(lines) == 1 + stage.LINES + 1
    assert "70 problem(s)" in lines[0]
    assert lines[-1].strip() == "... and 20 more"
    write_lines(root / "splits/score.txt", ["a69"])  # one of another kind is not crowded out
    message = refused(of_folder(root), out)
    assert "score.txt: 'a69' is not a training image" in message
    assert "... and 45 more" in message


def test_problems_spare_what_was_made_before(tmp_path: Path, out: Path) -> None:
    root = make_folder(tmp_path / "d")
    made(of_folder(root), out)
    before = out.read_bytes()
    (root / "images/a00.jpg").write_bytes(b"")
    with pytest.raises(cli.InputError, match=r"a00\.jpg: cannot be decoded"):
        prepare(of_folder(root), out)
    assert out.read_bytes() == before
    assert integrity.verify(out) == []


# ---------------------------------------------------------------------------------------------------------- pixels


def save_turned(path: Path, rgb: np.ndarray, orientation: int = 6) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(rgb).save(path, exif=exif, quality=95)


def test_photographs_become_upright_rgb(tmp_path: Path, out: Path) -> None:
    root = make_folder(tmp_path / "d", masks=False)
    rgb, folder = photograph(99), root / "images"
    for name in ("a00", "a01", "a02", "a03"):
        (folder / f"{name}.jpg").unlink()
    save_turned(folder / "a00.png", np.rot90(rgb).copy())  # stored turned, to be shown turned back
    Image.fromarray(rgb[..., 0]).save(folder / "a01.png")
    Image.fromarray(np.dstack([rgb, np.full((H, W), 200, np.uint8)])).save(folder / "a02.png")
    Image.fromarray(rgb).convert("CMYK").save(folder / "a03.JPEG", quality=100)
    images = made(of_folder(root, max_side=64), out)
    assert np.array_equal(image(images, 0), rgb)
    assert np.array_equal(image(images, 1), rgb[..., :1].repeat(3, 2))
    assert np.array_equal(image(images, 2), rgb)
    assert np.abs(image(images, 3).astype(int) - rgb).mean() < 12
    assert images["full_size"][0].tolist() == [H, W]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_all_orientations_agree_with_pillow(tmp_path: Path, out: Path, orientation: int) -> None:
    from PIL import ImageOps

    root = make_folder(tmp_path / "d", count=4, val=1, masks=False)
    save_turned(root / "images/a00.jpg", photograph(7), orientation)
    images = made(of_folder(root, max_side=64), out)
    with Image.open(root / "images/a00.jpg") as picture:
        assert np.array_equal(image(images, 0), np.asarray(ImageOps.exif_transpose(picture)))


# ----------------------------------------------------------------------------------------------------- incremental


def test_only_new_photographs_are_computed(
    tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_folder(tmp_path / "d", count=50, val=0)
    data = of_folder(root)
    prepare(data, out)
    assert "images.json: 50 of 50 images computed" in capsys.readouterr().out
    prepare(data, out)
    assert "complete already" in capsys.readouterr().out

    make_folder(root, count=5, val=0, start=50)
    decoded: list[str] = []
    for name in ("read_photograph", "look_at_mask"):
        original = getattr(stage, name)
        monkeypatch.setattr(stage, name, lambda p, *a, f=original: decoded.append(p.id) or f(p, *a))
    out.unlink()  # as Snakemake does before it runs a job
    grown = made(data, out, verify=True)
    assert "images.json: 5 of 55 images computed" in capsys.readouterr().out
    assert set(decoded) == {f"a{i}" for i in range(50, 55)}
    fresh = made(data, out.with_name("fresh.json"))
    assert grown.digest == fresh.digest

    # Other tags for one image: one row. Another size: all of them.
    text = (root / "tags.csv").read_text()
    (root / "tags.csv").write_text(text.replace("a07,bee", "a07,bee ant"))
    made(data, out)
    assert "images.json: 1 of 55 images computed" in capsys.readouterr().out
    made(of_folder(root, max_side=24), out)
    assert "images.json: 55 of 55 images computed" in capsys.readouterr().out


def test_lists_are_checked_though_rows_are_known(tmp_path: Path, out: Path) -> None:
    root = make_folder(tmp_path / "d")
    made(of_folder(root), out)
    write_lines(root / "splits/train.txt", [f"a{i:02d}" for i in (0, 1, 3, 4, 6, 7)])  # without cows
    with pytest.raises(cli.InputError, match="class 'cow': no training image has this tag"):
        prepare(of_folder(root), out)


def test_manifests_do_not_depend_on_place_name_or_time(tmp_path: Path) -> None:
    manifests = []
    for place in ("here", "there"):
        data = of_folder(make_folder(tmp_path / place / "data"), name=place)
        prepare(data, tmp_path / place / "images.json")
        manifests.append((tmp_path / place / "images.json").read_bytes())
    assert manifests[0] == manifests[1]
    assert str(tmp_path).encode() not in manifests[0]


# ----------------------------------------------------------------------------------------------------- fingerprint


def test_fingerprint_sees_names_sizes_and_lists(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "d")
    data, seen = of_folder(root), set[str]()

    def changed() -> bool:
        new = fingerprint(data)
        seen.add(new)
        return len(seen) > before

    for change in (
        lambda: None,
        lambda: Image.fromarray(photograph(60)).save(root / "images/new.jpg"),
        lambda: (root / "masks/a00.png").unlink(),
        lambda: write_lines(root / "splits/val.txt", ["a11"]),
        lambda: (root / "tags.csv").write_text((root / "tags.csv").read_text().replace("ant", "tan")),
    ):
        before = len(seen)
        change()
        assert changed()
        before = len(seen)
        assert not changed()
    (root / "notes.txt").write_text("not part of it")
    (root / "images/a00.jpg").touch()
    before = len(seen)
    assert not changed()


def test_fingerprint_of_voc_looks_at_listed_pictures_only(tmp_path: Path) -> None:
    root = make_voc(tmp_path / "VOC")
    data = of_voc(root)
    first = fingerprint(data)
    Image.fromarray(photograph(60)).save(root / "JPEGImages/unlisted.jpg")
    assert fingerprint(data) == first
    (root / "Annotations/a00.xml").write_text("<annotation/>")
    assert fingerprint(data) != first
    assert fingerprint(of_voc(tmp_path / "absent"))
    assert fingerprint(Data()) == fingerprint(Data(name="other"))


def test_fingerprint_is_light_and_fast(tmp_path: Path) -> None:
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
        for i in range(1500):
            (tmp_path / folder / f"{i:05d}.png").touch()
    data = of_folder(tmp_path)
    start = time.perf_counter()
    fingerprint(data)
    assert time.perf_counter() - start < 0.3
    code = (
        "import sys; from pipeline.core.sources import fingerprint; from pipeline.core.config import Data; "
        "fingerprint(Data()); print({'torch', 'numpy', 'zarr', 'PIL'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


# --------------------------------------------------------------------------------------------------- command, real


def test_command(tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--help"])
    assert left.value.code == 0
    text = capsys.readouterr().out
    assert "max_side" in text
    assert "block voc" in text
    main(["--settings", of_folder(make_folder(tmp_path / "d")).model_dump_json(), "--out", str(out)])
    assert json.loads(out.read_text())["kind"] == "images"
    for settings, finding in (('{"max_sid": 3}', "max_sid: unknown key"), ("{", "--settings")):
        with pytest.raises(SystemExit) as left:
            main(["--settings", settings, "--out", str(out)])
        assert left.value.code == 2
        assert finding in capsys.readouterr().err


def test_real_photographs(tmp_path: Path, out: Path) -> None:
    if not REAL.is_dir():
        pytest.skip("../shared/data/voc_mini is not here")
    block = {"train": "tiny_train", "val": "tiny_val", "score": None, "tags": "csv"}
    images = made(of_voc(REAL, voc=block, classes=SIX, other="background", max_side=128), out)
    assert class_names(images) == ["background", *SIX]
    assert [len(split(images, s)) for s in ("train", "val", "score")] == [198, 61, 198]
    assert images.read("has_mask").all()
    names, tags = store.decode_text(images.read("id")), image_tags(images)
    with (REAL / "tags.csv").open() as file:
        expected = {row["image"]: set(row["tags"].split()) & set(SIX) for row in csv.DictReader(file)}
    assert [{SIX[k] for k in np.flatnonzero(row)} for row in tags] == [expected[name] for name in names]
    known = (REAL / "classes.txt").read_text().split()
    for i in (0, 100, 258):
        with Image.open(REAL / "SegmentationClass" / f"{names[i]}.png") as mask:
            values, mine = np.asarray(mask), true_mask(images, i)
        for value in np.unique(values):
            wanted = VOID if value == VOID else SIX.index(known[value]) + 1 if known[value] in SIX else 0
            assert (mine[values == value] == wanted).all()
        assert max(images["size"][i]) == 128
