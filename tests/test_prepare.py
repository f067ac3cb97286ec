"""prepare: every layout becomes the same artifacts, every problem is in one message, and nothing is done twice."""

from __future__ import annotations

import csv
import json
import os
import shutil
import tarfile
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import yaml
from PIL import Image

from pipeline.core import cli, integrity, progress, store
from pipeline.core.data import Data
from pipeline.datasets import collage
from pipeline.datasets import look as looking
from pipeline.datasets.fingerprint import fingerprints
from pipeline.datasets.inventory import FILE, LINES, Inventory, load, take_inventory
from pipeline.datasets.layouts import absent
from pipeline.datasets.source import draw_val
from pipeline.datasets.spelling import check_spelling, slip
from pipeline.datasets.summary import grouped
from pipeline.datasets.tables import read_classes, split_tags
from pipeline.kinds import classes, photographs
from pipeline.kinds.masks import has_mask, true_mask
from pipeline.kinds.photographs import image, split
from pipeline.kinds.pixels import VOID, resize_image
from pipeline.kinds.tags import tags
from pipeline.prepare import MAKES, main, prepare

REAL = Path(__file__).resolve().parents[2] / "shared/data/voc_mini"
CAMVID = REAL.with_name("camvid_mini")
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
            values[8:24, 8:40], values[24:26], values[30, i % W] = label, VOID, label
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


class Made(NamedTuple):
    photographs: store.Artifact
    tags: store.Artifact
    masks: store.Artifact

    def names(self, split_name: str) -> list[str]:
        ids = photographs.ids(self.photographs)
        return [ids[i] for i in split(self.photographs, split_name)]

    def tagged(self) -> list[list[str]]:
        names = classes.names(self.tags)
        return [[names[k] for k in np.flatnonzero(row)] for row in tags(self.tags)]


def made(data: Data, out: Path, verify: bool = False) -> Made:
    """All three artifacts, in the folder `out`."""
    for name in Made._fields:
        of = None if name == "photographs" else out / "photographs.json"
        prepare(name, data, out / f"{name}.json", of)
    if verify:
        assert [integrity.verify(out / f"{name}.json") for name in Made._fields] == [[]] * 3
    return Made(*(store.Artifact(out / f"{name}.json", name) for name in Made._fields))


def noted(out: Path) -> Inventory:
    inventory = load(out / FILE)
    assert inventory is not None
    return inventory


def refused(data: Data, out: Path) -> str:
    """The message; nothing may be left behind."""
    with pytest.raises(cli.InputError) as caught:
        prepare("photographs", data, out / "photographs.json")
    assert not out.exists() or not list(out.iterdir())
    return str(caught.value)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "results"


# --------------------------------------------------------------------------------------------------------- layouts


def test_folder(tmp_path: Path, out: Path) -> None:
    got = made(of_folder(make_folder(tmp_path / "d")), out, verify=True)
    assert got.photographs.meta == {"format": "folder", "counts": {"train": 8, "val": 4, "score": 8}}
    assert got.tags.meta == {"classes": ["background", "ant", "bee", "cow"], "background": 0, "tags_from": "csv"}
    assert got.masks.meta == {"classes": ["background", "ant", "bee", "cow"], "background": 0}
    assert noted(out).about["counts"]["with_mask"] == {"train": 8, "val": 4, "score": 8}
    assert noted(out).about["counts"]["tags"] == {"ant": 3, "bee": 3, "cow": 2}
    assert photographs.ids(got.photographs) == [f"a{i:02d}" for i in range(12)]
    assert split(got.photographs, "train").tolist() == split(got.photographs, "score").tolist() == list(range(8))
    assert split(got.photographs, "val").tolist() == list(range(8, 12))
    assert tags(got.tags).shape == (12, 4)
    assert got.tagged() == [[["ant", "bee", "cow"][i % 3]] for i in range(12)]
    assert got.photographs["rgb"].shape == (12, 32, 32, 3)
    assert photographs.size(got.photographs, 0) == (23, 32)
    assert got.masks["mask"].shape == (12 * H * W,), "each mask at its own size"
    assert got.masks["full_size"].tolist() == [[H, W]] * 12
    assert has_mask(got.masks).all()


def test_photographs_are_reduced_and_masks_are_not(tmp_path: Path, out: Path) -> None:
    root = make_folder(tmp_path / "d")
    got = made(of_folder(root), out)
    with Image.open(root / "images/a03.jpg") as picture:
        expected = resize_image(np.asarray(picture), 23, 32)
    assert np.array_equal(image(got.photographs, 3), expected)
    assert not np.asarray(got.photographs["rgb"][3])[23:].any()
    with Image.open(root / "masks/a03.png") as mask:
        assert np.array_equal(true_mask(got.masks, 3), np.asarray(mask))
    whole = made(of_folder(root, max_side=100), out / "whole")
    with Image.open(root / "images/a03.jpg") as picture:
        assert np.array_equal(image(whole.photographs, 3), np.asarray(picture))


def test_folder_with_photographs_and_tags_alone(tmp_path: Path, out: Path) -> None:
    root = make_folder(tmp_path / "d", count=40, val=0, masks=False)
    (root / "classes.txt").unlink()
    got = made(of_folder(root), out)
    assert classes.names(got.tags) == ["background", "ant", "bee", "cow"]
    assert not has_mask(got.masks).any()
    assert (true_mask(got.masks, 0) == VOID).all()
    train, val = (set(got.names(name)) for name in ("train", "val"))
    assert len(train | val) == 40
    assert not train & val
    assert 2 <= len(val) <= 16
    # Another seed draws other images; more photographs leave the drawn ones where they are.
    assert set(made(of_folder(root, folder={"seed": 1}), out / "other").names("val")) != val
    make_folder(root, count=10, val=0, masks=False, start=40)
    assert val <= set(made(of_folder(root), out / "larger").names("val"))


def test_folder_without_tags_takes_them_from_masks(tmp_path: Path, out: Path) -> None:
    root = make_folder(tmp_path / "d")
    (root / "tags.csv").unlink()
    got = made(of_folder(root), out)
    assert got.tags.meta["tags_from"] == "masks"
    assert got.tagged() == [[["ant", "bee", "cow"][i % 3]] for i in range(12)]


def test_only_some_photographs_have_a_mask(tmp_path: Path, out: Path) -> None:
    root = make_folder(tmp_path / "d")
    for name in ("a01", "a09"):
        (root / "masks" / f"{name}.png").unlink()
    Image.fromarray(photograph(1, 400, 400)).save(root / "images/a01.jpg")
    got = made(of_folder(root), out)
    assert np.flatnonzero(~has_mask(got.masks)).tolist() == [1, 9]
    assert true_mask(got.masks, 1).tolist() == [[VOID]]
    assert got.masks["mask"].shape == (10 * H * W + 2,), "a photograph without a mask needs no room for one"


def test_a_missing_list_is_what_the_other_leaves(tmp_path: Path, out: Path) -> None:
    root = make_folder(tmp_path / "d")
    (root / "splits/train.txt").unlink()
    write_lines(root / "splits/score.txt", ["a01.jpg", "a00"])
    got = made(of_folder(root), out)
    assert split(got.photographs, "train").tolist() == list(range(8))
    assert split(got.photographs, "score").tolist() == [1, 0]


def test_a_share_of_the_training_images(tmp_path: Path, out: Path) -> None:
    root = make_folder(tmp_path / "d", count=44)
    half = made(of_folder(root, share=0.5), out)
    train = half.names("train")
    assert 10 <= len(train) <= 30
    assert half.names("score") == train
    assert len(half.names("val")) == 4
    # A smaller share is part of a larger one, and what a list of its own scores stays whole.
    write_lines(root / "splits/score.txt", ["a00", "a01", "a02"])
    less = made(of_folder(root, share=0.2), out / "less")
    assert set(less.names("train")) <= {*train, "a00", "a01", "a02"}
    assert less.names("score") == ["a00", "a01", "a02"]
    assert {"a00", "a01", "a02"} <= set(less.names("train"))


@pytest.mark.parametrize("masks", [True, False])
def test_training_images_without_a_tag_can_be_dropped(tmp_path: Path, out: Path, masks: bool) -> None:
    root = make_folder(tmp_path / "d", masks=masks)
    if masks:
        (root / "tags.csv").unlink()
    settings = {"classes": ["ant", "cow"], "other": "background"}
    assert "data.untagged: drop" in refused(of_folder(root, **settings), out)
    got = made(of_folder(root, untagged="drop", **settings), out)
    assert got.names("train") == got.names("score") == ["a00", "a02", "a03", "a05", "a06"]
    assert len(got.names("val")) == 4, "validation keeps images that hold none of the classes"
    assert got.tags["tags"].shape[0] == len(has_mask(got.masks)) == 9


@pytest.mark.parametrize("tags_from", ["csv", "masks"])
def test_photographs_that_show_nothing_are_known_to(
    tmp_path: Path, out: Path, tags_from: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Tagged `background`, or with an empty mask: rows without a positive tag. Of others nothing is known."""
    root = make_folder(tmp_path / "d")
    for name in ("a00", "a04", "a08"):
        values = np.zeros((H, W))
        values[0] = VOID if name == "a00" else 0
        save_mask(root / "masks" / f"{name}.png", values)
    if tags_from == "masks":
        (root / "tags.csv").unlink()
    else:
        rows = (root / "tags.csv").read_text().replace("a00,ant", "a00,background").replace("a04,bee", "a04,")
        (root / "tags.csv").write_text(rows.replace("a08,cow", "a08,background"))
    negative = [[], ["bee"], ["cow"], ["ant"], [], ["cow"], ["ant"], ["bee"], [], ["ant"], ["bee"], ["cow"]]
    got = made(of_folder(root), out)
    assert got.tagged() == negative
    said = capsys.readouterr().out
    assert "(no class)           2       1\n" in said
    assert ("1 of 12 hold 0 and 255 alone (a00)" in said) == (tags_from == "masks")
    assert noted(out).about["counts"]["negative"] == {"train": 2, "val": 1, "score": 2}
    save_mask(root / "masks/a01.png", np.full((H, W), 2))  # the others are known, and stay what they are
    assert made(of_folder(root), out).tagged() == negative
    assert len(made(of_folder(root, untagged="drop"), out / "drop").names("train")) == 8, "they stay"
    # Nothing is known where the mask is void throughout, and where there is neither tag nor mask.
    save_mask(root / "masks/a00.png", np.full((H, W), VOID))
    (root / "masks/a04.png").unlink()
    message = refused(of_folder(root), out / "unknown")
    if tags_from == "csv":
        assert "a04.jpg: no class in tags.csv; tag it (`background` where it shows none), remove it" in message
        assert "a00.jpg" not in message
    else:
        assert "a04.jpg: no mask, from which its tags are taken; add it, remove it" in message
        assert "a00.jpg: no class in its mask; tag it (an empty mask), remove it" in message
    left = made(of_folder(root, untagged="drop"), out / "known").names("train")
    assert left == [f"a{i:02d}" for i in range(8) if i != 4 and (i or tags_from == "csv")]


def test_subfolders_and_links_to_folders_are_taken(
    tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_folder(tmp_path / "d", val=0)
    (root / "tags.csv").unlink()
    for folder, suffix in (("images", "jpg"), ("masks", "png")):
        day, far = root / folder / "day2", tmp_path / "elsewhere" / folder
        day.mkdir()
        far.mkdir(parents=True)
        for i in range(6, 12):
            file = f"a{i:02d}.{suffix}"
            (root / folder / file).rename((day if i < 9 else far) / file)
        (root / folder / "far").symlink_to(far)
        (root / folder / "._a00.png").write_bytes(b"what some systems leave")
        (root / folder / "notes.txt").write_text("no picture")
    got = made(of_folder(root), out, verify=True)
    names = photographs.ids(got.photographs)
    expected = [*(f"a{i:02d}" for i in range(6)), *(f"day2/a{i:02d}" for i in (6, 7, 8))]
    assert sorted(names) == sorted([*expected, *(f"far/a{i:02d}" for i in (9, 10, 11))])
    assert got.tagged() == [[["ant", "bee", "cow"][int(name[-2:]) % 3]] for name in names]
    assert has_mask(got.masks).all()
    said = capsys.readouterr().out
    assert said.index("(all)") < said.index("left out"), "behind the classes"
    assert said.count("left out") == 4, "once"
    assert f"{root}/images: 1 hidden files and folders left out (._a00.png)" in said
    assert f"{root}/masks: 1 .txt files left out (notes.txt)" in said


@pytest.mark.parametrize("tags_from", ["xml", "csv", "masks"])
def test_voc(tmp_path: Path, out: Path, tags_from: str) -> None:
    got = made(of_voc(make_voc(tmp_path / "VOC"), voc={"tags": tags_from}), out)
    assert got.tags.meta["tags_from"] == tags_from
    assert classes.names(got.tags) == ["background", "ant", "bee", "cow"]
    assert [len(split(got.photographs, s)) for s in ("train", "val", "score")] == [8, 4, 6]
    assert got.tagged()[0] == ["ant", "cow"] if tags_from == "xml" else ["ant"]
    assert tags(got.tags)[1:].sum() == 11
    assert has_mask(got.masks).all()


def test_voc_without_a_class_file_has_the_twenty(tmp_path: Path, out: Path) -> None:
    root = make_voc(tmp_path / "VOC")
    (root / "classes.txt").unlink()
    message = refused(of_voc(root, voc={"tags": "masks"}), out)
    assert message.count("no training image has the tag") == 1
    assert "'tvmonitor'; tag some" in message
    assert "'aeroplane'" not in message


def test_demo_is_what_it_writes(tmp_path: Path, out: Path) -> None:
    data = Data.model_validate({"max_side": 96, "demo": {"train": 10, "val": 4}})
    got = made(data, out)
    collage.write(tmp_path / "d", 10, 4, 0)
    files = made(of_folder(tmp_path / "d", max_side=96), out / "files")
    for mine, theirs in zip(got, files, strict=True):
        assert set(mine.manifest["arrays"]) == set(theirs.manifest["arrays"])
        for name in mine.manifest["arrays"]:
            assert np.array_equal(mine.read(name), theirs.read(name)), name
    assert got.photographs.meta["format"] == "demo"


def test_demo_holds_the_pictures_as_they_were_composed(out: Path) -> None:
    got = made(Data.model_validate({"max_side": 160, "demo": {"train": 5, "val": 1, "seed": 2}}), out)
    for i in range(6):
        rgb, mask, names = collage.compose(2, i)
        assert np.array_equal(image(got.photographs, i), rgb)
        assert np.array_equal(true_mask(got.masks, i), mask)
        assert sorted(got.tagged()[i]) == names


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
    got = made(of_voc(tmp_path / "data/VOC2012", voc=block), out)
    assert got.photographs["rgb"].shape[0] == 12
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
    got = made(of_folder(root, classes=["cow", "ant"], other=other), out)
    assert classes.names(got.tags) == classes.names(got.masks) == ["background", "cow", "ant"]
    ids = photographs.ids(got.photographs)
    inside = {name: int(true_mask(got.masks, i)[10, 10]) for i, name in enumerate(ids)}
    assert inside == {name: {0: 2, 1: value, 2: 1}[int(name[1:]) % 3] for name in ids}
    assert got.tagged()[ids.index("a10")] == []
    assert tags(got.tags)[ids.index("a00")].tolist() == [False, False, True]


@pytest.mark.parametrize("tags_from", ["csv", "masks"])
def test_without_a_background_every_class_is_an_ordinary_one(tmp_path: Path, out: Path, tags_from: str) -> None:
    root = make_folder(tmp_path / "d")
    write_lines(root / "classes.txt", ["sky", "ant", "bee", "cow"])
    if tags_from == "masks":
        (root / "tags.csv").unlink()
    else:
        rows = [f"a{i:02d},sky {['ant', 'bee', 'cow'][i % 3]}" for i in range(12)]
        write_lines(root / "tags.csv", ["image,tags", *rows])
    got = made(of_folder(root, background="none"), out)
    assert classes.background(got.tags) is classes.background(got.masks) is None
    assert got.tagged() == [["sky", ["ant", "bee", "cow"][i % 3]] for i in range(12)]
    assert true_mask(got.masks, 0)[0, 0] == 0
    kept = made(of_folder(root, background="none", classes=["bee", "sky"], other="void", untagged="drop"), out / "kept")
    assert classes.names(kept.masks) == ["bee", "sky"]
    row = photographs.ids(kept.photographs).index("a01")
    assert (true_mask(kept.masks, row)[0, 0], true_mask(kept.masks, row)[10, 10]) == (1, 0)
    assert kept.tagged()[row] == ["bee", "sky"]
    assert kept.tagged()[0] == ["sky"]


def test_tags_alone_without_a_background(tmp_path: Path, out: Path) -> None:
    root = make_folder(tmp_path / "d", masks=False)
    (root / "classes.txt").unlink()
    got = made(of_folder(root, background="none"), out)
    assert classes.names(got.tags) == ["ant", "bee", "cow"]
    assert tags(got.tags).sum() == 12


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
    Image.fromarray(photograph(51)).save(images / "b00.gif")
    save_mask(masks / "stray.png", np.zeros((H, W)))
    (images / "back").symlink_to(images)
    return {
        "images/back": "a link to a folder that it lies in; remove it",
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
        "tag 'yak'": "no training image",
        "a11.jpg": "same photograph as",
        "images/a09.png": "also the name of a09.jpg",
        "b00.gif": ".gif found",
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
    (root / "tags.csv").write_text("picture;label\na00;ant\n")


def open_quote(root: Path) -> None:
    (root / "tags.csv").write_text((root / "tags.csv").read_text().replace("a03,", 'a03,"'))


def one_column(root: Path) -> None:
    (root / "tags.csv").write_text((root / "tags.csv").read_text().replace("a03,ant", "a03"))


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
    Image.fromarray(np.full((H, W), np.nan, np.float32)).save(root / "images/a00.tif")


def deep_mask(root: Path) -> None:
    Image.fromarray(np.full((H, W), 1000, np.uint16)).save(root / "masks/a00.png")


def narrow_photograph(root: Path) -> None:
    Image.fromarray(np.zeros((40, 4000, 3), np.uint8)).save(root / "images/a00.jpg")


def long_photograph(root: Path) -> None:
    """Wide enough as stored at 1024, too narrow at the 300 where saliency works."""
    Image.fromarray(np.zeros((24, 1024, 3), np.uint8)).save(root / "images/a00.jpg")


def dangling_link(root: Path) -> None:
    (root / "images/a00.jpg").unlink()
    (root / "images/a00.jpg").symlink_to(root / "nowhere.jpg")


def foreign_name(root: Path) -> None:
    os.link(os.fsencode(root / "images/a00.jpg"), os.fsencode(root / "images") + b"/\xff.jpg")


def link_to_itself(root: Path) -> None:
    (root / "images/a00.jpg").unlink()
    (root / "images/a00.jpg").symlink_to(root / "images/a00.jpg")


def other_format(root: Path) -> None:
    (root / "images/a00.jpg").rename(root / "images/a00.jxl")


def jpeg_of_another_name(root: Path) -> None:
    (root / "images/a00.jpg").rename(root / "images/a00.jfif")


def jpeg_mask(root: Path) -> None:
    (root / "masks/a00.png").unlink()
    Image.new("L", (W, H)).save(root / "masks/a00.jpg")


def mask_elsewhere(root: Path) -> None:
    (root / "images/day1").mkdir()
    (root / "images/a00.jpg").rename(root / "images/day1/a00.jpg")


def mask_of_another_name(root: Path) -> None:
    (root / "masks/a00.png").rename(root / "masks/a00_mask.png")


def too_many_pixels(root: Path) -> None:
    (root / "images/a00.jpg").unlink()
    Image.new("1", (14000, 14000)).save(root / "images/a00.png")


def git_pointer(root: Path) -> None:
    (root / "images/a00.jpg").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")


def turned_photograph(root: Path) -> None:
    save_turned(root / "images/a00.jpg", photograph(0))


def pipe_as_photograph(root: Path) -> None:
    (root / "images/a00.jpg").unlink()
    os.mkfifo(root / "images/a00.jpg")


def device_as_photograph(root: Path) -> None:
    (root / "images/a00.jpg").unlink()
    (root / "images/a00.jpg").symlink_to("/dev/zero")


def pipe_as_table(root: Path) -> None:
    (root / "tags.csv").unlink()
    os.mkfifo(root / "tags.csv")


def folder_as_list(root: Path) -> None:
    (root / "splits/val.txt").unlink()
    (root / "splits/val.txt").mkdir()


def blank_in_a_name(root: Path) -> None:
    (root / "images/a00.jpg").rename(root / "images/ a00.jpg")


def tiny_photograph(root: Path) -> None:
    Image.fromarray(photograph(0)[:4, :4]).save(root / "images/a00.jpg")


def endless_line(root: Path) -> None:
    table = (root / "tags.csv").read_text()
    (root / "tags.csv").write_text(table.replace("a00,ant", f"a00,ant {'x' * 200_000}"))


def too_deep(root: Path) -> None:
    (root / "images" / "/".join(["d"] * 120)).mkdir(parents=True)


@pytest.mark.parametrize(
    ("damage", "finding"),
    [
        (pipe_as_photograph, "images/a00.jpg: neither a file nor a folder, but a pipe or a device; remove it"),
        (device_as_photograph, "images/a00.jpg: neither a file nor a folder, but a pipe or a device; remove it"),
        (pipe_as_table, "tags.csv: neither a file nor a folder, but a pipe or a device; put a text file there"),
        (folder_as_list, "val.txt: cannot be read (Is a directory)"),
        (blank_in_a_name, "images/ a00.jpg: a name that begins or ends with a blank; rename it"),
        (
            tiny_photograph,
            "a00.jpg: is 4×4, 4 px narrow at data.max_side 32; 16 expected, use a larger one, or leave it",
        ),
        (endless_line, "tags.csv: line 2: 200008 characters, at most 131072 are read; one image and its tags per line"),
        (too_deep, "d/d: more than 100 folders deep; move it up, or remove it"),
        (no_photographs, "images: no such folder"),
        (no_tags, "tags.csv: no such file; write a header `image,tags`"),
        (other_header, "the first line is 'picture;label'; `image,tags` expected"),
        (open_quote, "tags.csv: line 5: unexpected end of data; close its quotes"),
        (one_column, "tags.csv: line 5: one column"),
        (one_class, "classes.txt: 1 classes; 2 to 255 expected"),
        (empty_line_in_classes, "classes.txt: a line is empty"),
        (folder_with_a_photographs_name, "'a00' has no photograph"),
        (no_class_file, "classes.txt: missing, so nothing says what the values in masks/ mean"),
        (doubled_class, "'ant' stands on 2 lines"),
        (background_left_out, "tags: 'ant' (4 images, the first a00) stands first in classes.txt"),
        (empty_list, "val.txt: empty"),
        (binary_masks, "all hold 0 and 255 alone"),
        (deep_photograph, "a00.tif: holds no number, only NaN; leave it out"),
        (deep_mask, "values 1000"),
        (narrow_photograph, "a00.jpg: is 4000×40, 0 px narrow at data.max_side 32"),
        (long_photograph, "a00.jpg: is 1024×24, 7 px narrow at the 300 px where saliency works; 8 expected, crop it"),
        (dangling_link, "a00.jpg: cannot be read (No such file or directory); mend the link"),
        (foreign_name, "images/\\udcff.jpg: a name that is not UTF-8; rename it"),
        (link_to_itself, "a00.jpg: cannot be read (Too many levels of symbolic links); mend the link"),
        (
            other_format,
            ".jxl found, .jpg, .jpeg, .png, .webp, .bmp, .tif, .tiff, .heic, .heif expected; convert it to .jpg",
        ),
        (
            jpeg_of_another_name,
            ".jfif found, .jpg, .jpeg, .png, .webp, .bmp, .tif, .tiff, .heic, .heif expected; rename it to .jpg",
        ),
        (jpeg_mask, "masks/a00.jpg: .jpg found, .png expected; JPEG blurs class numbers, export it again"),
        (mask_elsewhere, "masks/a00.png: no photograph of this name in images/; move or rename it to "),
        (mask_of_another_name, "a00_mask.png: no photograph of this name in images/; move or rename it to "),
        (
            too_many_pixels,
            "a00.png: has 196000000 pixels, at most 178956970 are read; make it smaller, or cut it in parts",
        ),
        (git_pointer, "a00.jpg: is a pointer of Git LFS, not the picture; fetch it with `git lfs pull`"),
        (turned_photograph, "before its EXIF rotation"),
    ],
)
def test_single_problems(tmp_path: Path, out: Path, damage: Callable[[Path], None], finding: str) -> None:
    root = make_folder(tmp_path / "d")
    damage(root)
    assert finding in refused(of_folder(root, max_side=1024 if damage is long_photograph else 32), out)


def test_more_tags_than_a_mask_has_values(tmp_path: Path, out: Path) -> None:
    root = make_folder(tmp_path / "d", masks=False)
    (root / "classes.txt").unlink()
    many = " ".join(f"tag{i}" for i in range(256))
    write_lines(root / "tags.csv", ["image,tags", *(f"a{i:02d},{many}" for i in range(12))])
    assert "257 classes; at most 255" in refused(of_folder(root), out)


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
    assert "a02.jpg: no class in its annotation; tag it (an empty mask), remove it" in message
    assert "train_aug.txt: 'a06' is not a training image" in message


def test_masks_of_no_photograph_in_a_devkit(tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Some are a part of a devkit; where it is all of them, they are called wrongly."""
    root = make_voc(tmp_path / "VOC")
    save_mask(root / "SegmentationClass/other.png", np.zeros((H, W)))
    made(of_voc(root), out)
    assert "SegmentationClass: 1 masks of no photograph left out, the first" in capsys.readouterr().out
    (root / "SegmentationClass/other.png").unlink()
    for path in sorted((root / "SegmentationClass").iterdir()):
        path.rename(path.with_name(f"{path.stem}_mask.png"))
    message = refused(of_voc(root), out / "none")
    assert "a00_mask.png: no photograph of this name in JPEGImages/; move or rename it to " in message
    assert "12 problem(s)" in message


def test_the_folder_is_named_as_it_was_looked_for(tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    make_folder(tmp_path / "home" / "photos")
    for root in ("photos", "~/pictures"):
        data = of_folder(Path(root))
        where = tmp_path / ("photos" if root == "photos" else "home/pictures") / "images"
        assert absent(data) == f"{where}: no such folder; put the photographs there or set data.folder.root"
        assert absent(data) in refused(data, out)
    assert absent(of_folder(Path("~/photos"))) == ""
    assert len(made(of_folder(Path("~/photos")), out).names("train")) == 8
    assert "set data.voc.root" in absent(of_voc(tmp_path / "none"))
    assert absent(of_voc(tmp_path / "none", voc={"download": True})) == absent(Data()) == ""


def test_one_large_photograph_makes_no_other_row_larger(
    tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is held, and stored, is each mask at its own size; nothing is computed again for a larger neighbour."""
    root = make_folder(tmp_path / "d", count=64, val=8)
    made(of_folder(root), out)
    Image.new("RGB", (1600, 1200), (90, 120, 60)).save(root / "images/a03.jpg", quality=60)
    save_mask(root / "masks/a03.png", np.ones((1200, 1600)))
    capsys.readouterr()
    tracemalloc.start()
    got = made(of_folder(root), out, verify=True)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 * 1600 * 1200 / 2, "a canvas of its size for every row would take 123 MB"
    assert computed(capsys.readouterr().out) == {"photographs": 1, "tags": 0, "masks": 1}
    assert got.masks["mask"].shape == (63 * H * W + 1600 * 1200,)
    assert true_mask(got.masks, 3).shape == (1200, 1600)
    with Image.open(root / "masks/a04.png") as mask:
        assert np.array_equal(true_mask(got.masks, 4), np.asarray(mask))


def test_photographs_that_cannot_be_read_are_no_twins(tmp_path: Path, out: Path) -> None:
    """Cut short alike in train and val, they are one problem and not two."""
    root = make_folder(tmp_path / "d")
    for path in (root / "images").iterdir():
        path.write_bytes(b"")
    said = refused(of_folder(root), out)
    assert "a00.jpg: is empty; copy it again [and 11 more: " in said and "same photograph" not in said


def test_a_row_may_end_with_its_tab(tmp_path: Path, out: Path) -> None:
    """Of a table with tabs, a photograph without a tag."""
    root = make_folder(tmp_path / "d")
    table = (root / "tags.csv").read_text().replace(",", "\t").replace("a01\tbee", "a01\t")
    (root / "tags.csv").write_text(table)
    said = refused(of_folder(root), out)
    assert "a01.jpg: no class in tags.csv" in said and "one column" not in said


def test_equal_problems_are_one(tmp_path: Path, out: Path) -> None:
    root = make_folder(tmp_path / "d", count=70)
    for path in (root / "images").iterdir():
        path.write_bytes(path.name.encode())
    write_lines(root / "splits/score.txt", ["a69"])  # one of another kind is not crowded out
    lines = refused(of_folder(root), out).splitlines()
    assert "71 problem(s)" in lines[0]
    assert "score.txt: 'a69' is not a training image" in lines[1]
    assert "a00.jpg: cannot be decoded (cannot identify its format); replace it [and 69 more: a01.jpg, a02" in lines[2]
    assert len(lines) == 3


def test_problems_are_equal_but_for_names_and_numbers() -> None:
    lines = [
        *(f"/d/my photos/a {i}.jpg: is {i}×9, 3 px narrow at 30 px; crop it" for i in range(20)),
        *(f"/d/tags.csv: '{i}' has no photograph; correct the name" for i in range(3)),
        *(f"/d/{name}.txt: 'x' has no photograph; correct the name" for name in "abcd"),
        *(f"/d/images/{i}/a.jpg (val): the same photograph as /d/images/b/{i}.jpg (train); remove one" for i in "1234"),
        *(f"/d/masks/{i}.png: values {i}, 7; 0 to 4 and 255 can be used; correct it" for i in range(4)),
    ]
    found = grouped(lines, LINES, Path("/d"))
    assert found.pop(8).endswith(" (train); remove one [and 3 more: 2/a.jpg (val), 3/a.jpg (val), 4/a.jpg (val)]")
    assert found[0].endswith("crop it [and 19 more: a 1.jpg, a 2.jpg, a 3.jpg, a 4.jpg, a 5.jpg, …]")
    assert found[1:8] == lines[20:27], "few of a kind stay lines, other lists are other kinds"
    assert found[8].endswith("[and 3 more: 1.png, 2.png, 3.png]")
    assert len(found) == 9
    assert grouped([f"{chr(97 + i) * 3}: bad" for i in range(26)], 10)[10:] == ["... and 16 more"]


# -------------------------------------------------------------------------------------------------- contradictions


def tag_table(root: Path, tags: Callable[[int], str], encoding: str = "utf-8") -> None:
    """tags.csv of another content, without classes.txt."""
    (root / "classes.txt").unlink(missing_ok=True)
    names = sorted(path.stem for path in (root / "images").iterdir())
    rows = "".join(f"{name},{tags(i)}\n" for i, name in enumerate(names))
    (root / "tags.csv").write_text(f"image,tags\n{rows}", encoding)


def test_tags_differ_in_capitals_alone(tmp_path: Path, out: Path) -> None:
    root = make_folder(tmp_path / "d", masks=False)
    tag_table(root, lambda i: ["ant", "Ant", "bee"][i % 3])
    message = refused(of_folder(root), out)
    assert "tags.csv: 'ant' (4 photographs) and 'Ant' (4 photographs) differ in capitals alone; write them" in message


def test_what_may_be_a_typing_error_is_a_warning(tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_folder(tmp_path / "d", count=24, val=0, masks=False)
    tag_table(root, lambda i: "trouzers" if i == 3 else "['hat'" if i == 4 else ["trousers", "top, hair"][i < 6])
    prepare("photographs", of_folder(root), out / "photographs.json")
    said = capsys.readouterr().out
    assert "tags.csv: typing errors? 'trouzers' (1 photograph) beside 'trousers' (18 photographs); correct" in said
    assert "odd names of classes: '['hat''" in said
    assert "warning: 2 class(es) of a single training photograph, too few to learn: '['hat'', 'trouzers'" in said
    prepare("tags", of_folder(root), out / "tags.json", out / "photographs.json")
    assert "trouzers" not in capsys.readouterr().out, "it is said once"


def test_blanks_of_other_scripts_are_blanks_and_what_nobody_sees_is_named(tmp_path: Path) -> None:
    """No-break and ideographic spaces come with texts that were copied; so do blanks without width."""
    (tmp_path / "classes.txt").write_text("background\nfire\u00a0 truck\u3000\n\u00a0bee\n")
    found = list[str]()
    known = read_classes(tmp_path / "classes.txt", found)
    assert (known, found) == (["background", "fire truck", "bee"], [])
    assert split_tags("bee\u3000fire\u00a0truck\u00a0", [known[1]]) == ("bee", "fire truck")
    problems, warnings = list[str](), list[str]()
    check_spelling({"ant": 9, "ＡＮＴ": 1, "bee，cow": 5, "cow\u200b": 5, "Hühner-stall": 5}, "t", problems, warnings)
    assert problems == [
        "t: 'ＡＮＴ' (1 photograph) and 'ant' (9 photographs) differ in capitals alone; write them alike"
    ]
    assert warnings[-1].startswith("t: odd names of classes: 'bee，cow', 'cow\u200b'; spaces, commas")


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("trouzers", "trousers", True),
        ("trosuers", "trousers", True),
        ("trusres", "trousers", False),
        ("blak dres", "black dress", True),
        ("hat", "cat", False),
        ("boot", "boots", True),
        ("boot", "beer", False),
        ("terrace 1", "terrace 2", False),
    ],
)
def test_a_slip_is_one_edit_or_two_in_long_names(one: str, other: str, expected: bool) -> None:
    assert slip(one, other) is slip(other, one) is expected


def test_the_classes_of_each_split_are_shown(tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_folder(tmp_path / "d")
    (root / "masks/a00.png").unlink()
    write_lines(root / "splits/train.txt", [f"a{i:02d}" for i in range(6)])
    made(of_folder(root), out)
    said = capsys.readouterr().out
    shown = [line.split() for line in said.splitlines()]
    assert shown[0] == ["data", "set", "'x':", "3", "classes"]
    assert ["(all)", "6", "4", "5", "4"] in shown
    assert ["ant", "2", "1", "1", "1"] in shown
    assert ["cow", "2", "2", "2", "2"] in shown
    assert f"warning: 2 photographs of {root}/images stand in no list and are not used: a06, a07" in said
    assert said.count("(all)") == said.count("stand in no list") == 1
    tag_table(root, lambda i: "many " + " ".join(f"{'long' * 20}{j:02d}" for j in range(i % 6, i % 6 + 33)))
    for path in (root / "masks").iterdir():
        path.unlink()
    (root / "masks").rmdir()
    prepare("photographs", of_folder(root), out / "photographs.json")
    table = capsys.readouterr().out.partition("warning")[0].splitlines()
    assert max(map(len, table)) <= 80
    assert len(table) == 34, "heads, thirty classes and a line for the rest"


def test_masks_of_255_beside_others(tmp_path: Path, out: Path) -> None:
    root = make_folder(tmp_path / "d")
    for name in ("a03", "a05", "a09"):
        save_mask(root / f"masks/{name}.png", np.where(np.arange(W) < 9, VOID, 0)[None].repeat(H, 0))
    finding = "masks: 3 of 12 hold 0 and 255 alone (a03, a05, a09), and 255 means void; write class numbers"
    assert finding in refused(of_folder(root), out)
    (root / "tags.csv").unlink()
    assert finding in refused(of_folder(root), out)


def test_masks_of_255_added_later(tmp_path: Path, out: Path) -> None:
    root = make_folder(tmp_path / "d", val=0)
    made(of_folder(root), out)
    make_folder(root, count=6, val=0, start=12)
    for i in range(12, 18):
        save_mask(root / f"masks/a{i}.png", np.where(np.arange(W) < 9, VOID, 0)[None].repeat(H, 0))
    with pytest.raises(cli.InputError, match="masks: 6 of 18 hold 0 and 255 alone"):
        prepare("photographs", of_folder(root), out / "photographs.json")


def test_tags_and_masks_that_never_agree(tmp_path: Path, out: Path) -> None:
    root = make_folder(tmp_path / "d")
    write_lines(root / "classes.txt", ["background", "bee", "cow", "ant"])
    lines = refused(of_folder(root), out).splitlines()
    assert "tags and masks share no class in 12 of 12 photographs (a00: tags ant, mask bee, a01: tags bee" in lines[1]
    assert "by the tags the values are 1 ant, 2 bee, 3 cow; put the lines of classes.txt in" in lines[1]
    assert len(lines) == 2


def test_masks_whose_values_mean_something_else_in_some_files(
    tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_folder(tmp_path / "d")
    for name, value in (("a00", 2), ("a01", 3), ("a02", 1)):
        save_mask(root / f"masks/{name}.png", np.full((H, W), value))
    made(of_folder(root), out)
    said = capsys.readouterr().out
    assert "warning: tags and masks share no class in 3 of 12 photographs (a00: tags ant, mask bee, a01: tags" in said


def test_a_tag_that_is_never_drawn(tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two classes that are mixed up beside one that is everywhere: each photograph shares a class with its mask."""
    root = make_folder(tmp_path / "d")
    write_lines(root / "classes.txt", ["background", "ant", "bee", "cow", "sky"])
    write_lines(root / "tags.csv", ["image,tags", *(f"a{i:02d},sky {['bee', 'ant', 'cow'][i % 3]}" for i in range(12))])
    for i in range(12):
        save_mask(root / f"masks/a{i:02d}.png", np.array([[0, 1 + i % 3, 4] + [0] * (W - 3)] * H))
    made(of_folder(root), out)
    assert (
        "never agree on 'ant' tagged in 4, drawn in 4, 'bee' tagged in 4, drawn in 4; look" in capsys.readouterr().out
    )


def test_the_background_left_out_of_the_classes(tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_folder(tmp_path / "d")
    write_lines(root / "classes.txt", ["ant", "bee", "cow"])
    finding = "classes.txt: the first line is 'ant', and value 0 is in 12 of 12 masks"
    assert f"{finding}, but 4 photographs are tagged so; put `background` above it" in refused(of_folder(root), out)
    (root / "tags.csv").unlink()
    message = refused(of_folder(root), out)
    assert (
        f"{finding}, as a background is, and value 3 has no line; put `background` above it" in message.splitlines()[1]
    )
    write_lines(root / "classes.txt", ["ant", "bee", "cow", "dog"])
    made(of_folder(root), out)
    assert f"warning: {finding}, as a background is; if 'ant' is an object, put" in capsys.readouterr().out
    write_lines(root / "classes.txt", ["_Background_", "ant", "bee", "cow"])
    made(of_folder(root), out)
    assert "first line" not in capsys.readouterr().out


def test_classes_that_no_training_image_shows_can_be_left_out_at_once(tmp_path: Path, out: Path) -> None:
    root = make_folder(tmp_path / "d")
    names = ["background", "ant", "bee", "cow", "no", "traffic light"]
    write_lines(root / "classes.txt", names)
    write_lines(root / "splits/train.txt", ["a00", "a03", "a06", "a02"])
    write_lines(root / "tags.csv", [*(root / "tags.csv").read_text().replace("a02,cow", "a02,cow no").splitlines()])
    message = refused(of_folder(root), out)
    assert len(message.splitlines()) == 2
    assert "no training image has the tag 'bee', 'traffic light'; tag some, or leave them out: " in message
    pasted = yaml.safe_load(message.split("`")[1])
    assert pasted == {"data": {"classes": ["ant", "cow", "no"], "other": "void"}}
    got = made(of_folder(root, **pasted["data"]), out)
    assert classes.names(got.tags) == ["background", "ant", "cow", "no"]


def test_names_that_no_photograph_has_and_why(tmp_path: Path, out: Path) -> None:
    root = make_folder(tmp_path / "d")
    rows = (root / "tags.csv").read_text().replace("\na", "\nimages/a").replace("images/a11", "A11.JPG")
    (root / "tags.csv").write_text(rows)
    write_lines(root / "splits/val.txt", ["a08", "a09.jpg", "A10", "nobody"])
    message = refused(of_folder(root), out)
    assert "names 11 photographs with other folders than they lie in; write a00 for 'images/a00', a01 for" in message
    assert "tags.csv: names 1 photographs in other capitals; write a11 for 'A11'" in message
    assert "val.txt: names 1 photographs in other capitals; write a10 for 'A10'" in message
    assert "val.txt: 'nobody' has no photograph; remove it from the list or add the file" in message
    assert len(message.splitlines()) <= 5


def test_a_column_for_each_tag(tmp_path: Path, out: Path) -> None:
    """The three shapes of a table, with whatever separates its columns, say the same; a photograph of zeros is none."""
    root = make_folder(tmp_path / "d")
    names = [f"a{i:02d}" for i in range(12)]
    shown = {name: [kind for n, kind in enumerate(("ant", "bee")) if i % 4 >> n & 1] for i, name in enumerate(names)}
    plain = ["image,tags", *(f"{name},{' '.join(kinds) or 'background'}" for name, kinds in shown.items())]
    rows = [(name, kind) for name, kinds in shown.items() for kind in kinds or ["background"]]
    table = [(name, *(kind in kinds for kind in ("ant", "bee"))) for name, kinds in shown.items()]
    shapes = [plain, ["filename;label", *(f"{name}.jpg;{kind}" for name, kind in rows)]]
    for gap, yes, no in ((",", "1", "0"), (";", "x", ""), ("\t", "Yes", "no"), (", ", '"1.0"', '"0.0"')):
        lines = [gap.join([name, *(yes if ticked else no for ticked in ticks)]) for name, *ticks in table]
        shapes.append([gap.join(("image", "ant", "bee")), *lines])
    write_lines(root / "classes.txt", ["background", "ant", "bee"])
    digests = []
    shutil.rmtree(root / "masks")
    for number, lines in enumerate(shapes):
        write_lines(root / "tags.csv", lines)
        digests.append([artifact.digest for artifact in made(of_folder(root), out / str(number))])
    assert all(other == digests[0] for other in digests)


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (["image,ant,bee", "a00,1,2", "a01,1,0"], "line 2: '2' found, 1 or 0 expected in a column per tag"),
        (["image,ant,bee", "a00,1,0,1", "a01,1,0"], "line 2: 3 cells for 2 columns"),
        (["image,ant,ant", "a00,1,0"], "columns ant have no name or that of another"),
        (["image,ant,", "a00,1,0"], "columns '' have no name or that of another"),
        (["image,ant,bee", "a00,1,0", "a00,1,0"], "line 3: 'a00' has a line already"),
        (["image,ant,bee", "a00,red,blue"], "the first line is 'image,ant,bee'; `image,tags` expected"),
        (["ant,bee,image", "1,0,a00"], "the first line is 'ant,bee,image'"),
        (["image,tags", "a00,ant", "a00,bee"], "line 3: 'a00' has a line already; keep one"),
    ],
)
def test_tables_of_tags_that_are_wrong(lines: list[str], says: str, tmp_path: Path, out: Path) -> None:
    root = make_folder(tmp_path / "d")
    write_lines(root / "tags.csv", lines)
    assert says in refused(of_folder(root), out)


def test_folders_are_tags(tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_folder(tmp_path / "d")
    for name in ("masks", "splits"):
        shutil.rmtree(root / name)
    (root / "classes.txt").unlink()
    for number, path in enumerate(sorted((root / "images").iterdir())):
        to = root / "images" / ("ant", "bee", "background")[number % 3] / path.name
        to.parent.mkdir(exist_ok=True)
        path.rename(to)
    data = of_folder(root, folder={"root": str(root), "tags": "folders"})
    before = fingerprints(data)
    pictures, said, _ = made(data, out)
    assert classes.names(said) == ["background", "ant", "bee"]
    for name, row in zip(photographs.ids(pictures), tags(said), strict=True):
        assert row.tolist() == [False, name.startswith("ant/"), name.startswith("bee/")]
    assert "tags.csv: not read, as data.folder.tags is folders" in capsys.readouterr().out
    for path in (root / "images/ant").iterdir():
        path.rename(root / "images" / path.name)
    assert fingerprints(data).tags != before.tags
    assert ".jpg: lies in no folder that says what it shows" in refused(data, out / "again")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig", "utf-32"])
def test_lists_and_tables_of_other_encodings(tmp_path: Path, out: Path, encoding: str) -> None:
    root = make_folder(tmp_path / "d")
    expected = made(of_folder(root), out / "plain")
    for path in (root / "tags.csv", root / "classes.txt", *(root / "splits").iterdir()):
        path.write_text(path.read_text().replace("\n", "\r\n"), encoding)
    (root / "tags.csv").write_text((root / "tags.csv").read_text(encoding).replace(",", "\t"), encoding)
    got = made(of_folder(root), out)
    assert [mine.digest for mine in got] == [theirs.digest for theirs in expected]


def test_an_encoding_that_no_mark_tells_is_named(tmp_path: Path, out: Path) -> None:
    root = make_folder(tmp_path / "d", masks=False)
    (root / "images/a03.jpg").rename(root / "images/café.jpg")
    write_lines(root / "splits/train.txt", [f"a{i:02d}" for i in (0, 1, 2, 4, 5)])
    text = (root / "tags.csv").read_text().replace("a03,", "café,")
    (root / "tags.csv").write_text(text, "latin-1")
    message = refused(of_folder(root), out)
    assert "tags.csv: is not UTF-8 (byte 0xe9 in line 5); save it as UTF-8" in message
    assert len(message.splitlines()) == 2, "the name is understood all the same"
    (root / "tags.csv").write_text(text, "utf-16-le")
    message = refused(of_folder(root), out)
    assert "tags.csv: holds NUL bytes, as UTF-16 without its mark does; save it as UTF-8" in message
    assert len(message.splitlines()) == 2


def test_both_unicode_forms_of_a_name_are_one(tmp_path: Path, out: Path) -> None:
    root = make_folder(tmp_path / "d")
    (root / "images/a03.jpg").rename(root / "images/cafe\u0301.jpg")
    (root / "masks/a03.png").rename(root / "masks/caf\u00e9.png")
    for path in (root / "tags.csv", root / "splits/train.txt"):
        path.write_text(path.read_text().replace("a03", "caf\u00e9"))
    got = made(of_folder(root), out)
    assert "caf\u00e9" in got.names("train")
    assert has_mask(got.masks).all()


# ------------------------------------------------------------------------------------------------------------ draw


def test_a_draw_leaves_each_class_a_training_photograph(tmp_path: Path, out: Path) -> None:
    root = make_folder(tmp_path / "d", count=20, val=0, masks=False)
    tag_table(root, lambda i: f"ant rare{i}" if i < 8 else "ant")
    got = made(of_folder(root, folder={"val_share": 0.9}), out)
    assert {name for name, row in zip(photographs.ids(got.photographs), got.tagged(), strict=True) if len(row) > 1} <= {
        *got.names("train")
    }
    assert got.names("val")


@pytest.mark.parametrize("seed", range(20))
def test_a_draw_follows_its_rules(seed: int) -> None:
    ids = [f"a{i:03d}" for i in range(100)]
    masked, said = ids[:8], {name: ("ant", f"t{i // 2}") for i, name in enumerate(ids)}
    val = draw_val(ids, 0.2, seed, masked, said)
    assert {tag for name in ids if name not in val for tag in said[name]} == {tag for name in ids for tag in said[name]}
    assert len(draw_val(ids, 0.2, seed, masked, {}).intersection(masked)) >= 4
    assert draw_val(ids, 0.2, seed, (), {}) <= draw_val([*ids, "new"], 0.2, seed, (), {})
    moved = draw_val(ids, 0.2, seed, masked, said) ^ draw_val([*ids, "new"], 0.2, seed, [*masked, "new"], said)
    assert len(moved - {"new"}) <= 2
    assert draw_val(["a", "b"], 0.01, seed, (), {"a": ("x",), "b": ("x",)})
    assert not draw_val(["a"], 0.99, seed, (), {"a": ("x",)}), "training goes first"


def test_problems_spare_what_was_made_before(tmp_path: Path, out: Path) -> None:
    root = make_folder(tmp_path / "d")
    made(of_folder(root), out)
    before = {path.name: path.read_bytes() for path in out.glob("*.json")}
    (root / "images/a00.jpg").write_bytes(b"")
    with pytest.raises(cli.InputError, match=r"a00\.jpg: is empty; copy it again"):
        prepare("photographs", of_folder(root), out / "photographs.json")
    assert {path.name: path.read_bytes() for path in out.glob("*.json")} == before
    assert integrity.verify(out / "photographs.json") == []


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
    got = made(of_folder(root, max_side=64), out)
    assert np.array_equal(image(got.photographs, 0), rgb)
    assert np.array_equal(image(got.photographs, 1), rgb[..., :1].repeat(3, 2))
    assert np.abs(image(got.photographs, 2) - (rgb * (200 / 255) + 55)).max() < 1, "what is transparent lies on white"
    assert np.abs(image(got.photographs, 3).astype(int) - rgb).mean() < 12
    assert noted(out).size[0].tolist() == [H, W]


@pytest.mark.parametrize("longest", [32, 300, 1024, 4096])
def test_what_passes_is_wide_enough_for_saliency(longest: int) -> None:
    """Of all widths, the narrowest that passes can be computed on, and the next narrower one could not."""
    from pipeline.saliency import METHODS

    full = (min(w for w in range(1, 4097) if photographs.too_narrow((w, 4096), longest) is None), 4096)
    stored = photographs.reduced(full, longest)
    small = photographs.reduced(stored, photographs.SALIENCY_SIDE)
    rng = np.random.default_rng(0)
    for method in METHODS.values():
        assert np.isfinite(method(rng.integers(0, 256, (*small, 3), np.uint8))).all()
    below = photographs.reduced((full[0] - 1, 4096), longest)
    assert min(full[0] - 1, *below) / 4096 * longest < 16 or min(photographs.reduced(below, 300)) < 8


# ----------------------------------------------------------------------------------------------------- incremental


def computed(text: str) -> dict[str, int]:
    """How many rows of each artifact were computed, as the commands print it; 0: complete already."""
    found = {name: 0 for name in Made._fields if f"{name}.json: complete already" in text}
    for name in Made._fields:
        for line in text.splitlines():
            if line.startswith(f"{name}.json: "):
                found[name] = int(line.split()[1])
    return found


def decoded(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Any]]:
    """What is decoded from now on, by the function that does it."""
    seen: dict[str, list[Any]] = {}
    for name in ("read_photograph", "look_at_photograph", "read_mask"):
        original, seen[name] = getattr(looking.pictures, name), []
        monkeypatch.setattr(
            looking.pictures,
            name,
            lambda file, *more, f=original, calls=seen[name]: calls.append(file) or f(file, *more),
        )
    return seen


def bytes_of(root: Path, *files: str) -> list[bytes]:
    return sorted((root / file).read_bytes() for file in files)


def test_five_new_photographs_are_five_rows(
    tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_folder(tmp_path / "d", count=50, val=0)
    data = of_folder(root)
    made(data, out)
    assert computed(capsys.readouterr().out) == {"photographs": 50, "tags": 50, "masks": 50}
    made(data, out)
    assert computed(capsys.readouterr().out) == {"photographs": 0, "tags": 0, "masks": 0}

    make_folder(root, count=5, val=0, start=50)
    calls = decoded(monkeypatch)
    for path in out.glob("*.json"):  # as Snakemake does before it runs a job
        path.unlink()
    grown = made(data, out, verify=True)
    # A row of tags is all it is made from: rows like the new ones were there already.
    assert computed(capsys.readouterr().out) == {"photographs": 5, "tags": 0, "masks": 5}
    jpg, png = (bytes_of(root, *(f.format(i) for i in range(50, 55))) for f in ("images/a{}.jpg", "masks/a{}.png"))
    assert sorted(calls["look_at_photograph"]) == sorted(calls["read_photograph"]) == jpg
    assert sorted(calls["read_mask"]) == sorted(png * 2)
    fresh = made(data, out / "fresh")
    assert [mine.digest for mine in grown] == [other.digest for other in fresh]
    capsys.readouterr()
    made(of_folder(root, max_side=24), out)
    assert computed(capsys.readouterr().out) == {"photographs": 55, "tags": 0, "masks": 0}


def manifests(out: Path) -> dict[str, bytes]:
    return {name: (out / f"{name}.json").read_bytes() for name in Made._fields}


def changed(before: dict[str, bytes], after: dict[str, bytes]) -> set[str]:
    return {name for name in before if before[name] != after[name]}


def test_a_corrected_mask_changes_masks_alone(
    tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_folder(tmp_path / "d")
    made(of_folder(root), out)
    before = manifests(out)
    save_mask(root / "masks/a03.png", np.full((H, W), 2, np.uint8))
    calls = decoded(monkeypatch)
    capsys.readouterr()
    got = made(of_folder(root), out, verify=True)
    assert changed(before, manifests(out)) == {"masks"}
    assert computed(capsys.readouterr().out) == {"photographs": 0, "tags": 0, "masks": 1}
    assert (true_mask(got.masks, 3) == 2).all()
    assert calls["read_photograph"] == []


def test_a_corrected_mask_changes_the_tags_that_come_from_it(
    tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_folder(tmp_path / "d")
    (root / "tags.csv").unlink()
    made(of_folder(root), out)
    before = manifests(out)
    save_mask(root / "masks/a03.png", np.full((H, W), 2, np.uint8))
    capsys.readouterr()
    got = made(of_folder(root), out, verify=True)
    assert changed(before, manifests(out)) == {"tags", "masks"}
    assert computed(capsys.readouterr().out) == {"photographs": 0, "tags": 0, "masks": 1}
    assert got.tagged()[3] == ["bee"]
    assert got.tagged()[4] == ["bee"], "known masks are not decoded again, their tags stay"


def test_a_corrected_tag_changes_tags_alone(tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_folder(tmp_path / "d")
    made(of_folder(root), out)
    before = manifests(out)
    text = (root / "tags.csv").read_text()
    (root / "tags.csv").write_text(text.replace("a07,bee", "a07,bee ant"))
    capsys.readouterr()
    got = made(of_folder(root), out)
    assert changed(before, manifests(out)) == {"tags"}
    assert computed(capsys.readouterr().out) == {"photographs": 0, "tags": 1, "masks": 0}
    assert got.tagged()[7] == ["ant", "bee"]


def test_an_edited_photograph_changes_photographs_alone(tmp_path: Path, out: Path) -> None:
    root = make_folder(tmp_path / "d")
    made(of_folder(root), out)
    before = manifests(out)
    Image.fromarray(photograph(77)).save(root / "images/a03.jpg")
    made(of_folder(root), out)
    assert changed(before, manifests(out)) == {"photographs"}


def test_lists_are_checked_though_rows_are_known(tmp_path: Path, out: Path) -> None:
    root = make_folder(tmp_path / "d")
    made(of_folder(root), out)
    write_lines(root / "splits/train.txt", [f"a{i:02d}" for i in (0, 1, 3, 4, 6, 7)])  # without cows
    with pytest.raises(cli.InputError, match="no training image has the tag 'cow'"):
        prepare("photographs", of_folder(root), out / "photographs.json")


@pytest.mark.parametrize("content", [b"", b"broken", None])
def test_a_damaged_inventory_is_made_anew(
    tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str], content: bytes | None
) -> None:
    root = make_folder(tmp_path / "d")
    first = made(of_folder(root), out)
    (out / FILE).write_bytes((out / FILE).read_bytes()[:-99] if content is None else content)
    capsys.readouterr()
    again = made(of_folder(root), out)
    text = capsys.readouterr().out
    assert text.count("all files are looked at anew") == 1
    assert computed(text) == {"photographs": 0, "tags": 0, "masks": 0}
    assert [mine.digest for mine in again] == [before.digest for before in first]


def test_one_look_serves_all_three(tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_folder(tmp_path / "d")
    read, original = list[Any](), looking.content
    monkeypatch.setattr(looking, "content", lambda file: read.append(file) or original(file))
    made(of_folder(root), out)
    assert len(read) == 2 * 24, "once to look, once to make rows"
    read.clear()
    made(of_folder(root), out)
    assert read == []
    save_mask(root / "masks/a03.png", np.full((H, W), 2, np.uint8))
    made(of_folder(root), out)
    assert len(read) == 24 + 1


def test_manifests_do_not_depend_on_place_name_or_time(tmp_path: Path) -> None:
    found = []
    for place in ("here", "there"):
        data = of_folder(make_folder(tmp_path / place / "data"), name=place)
        made(data, tmp_path / place)
        found.append(manifests(tmp_path / place))
    assert found[0] == found[1]
    assert not any(str(tmp_path).encode() in text for text in found[0].values())


# --------------------------------------------------------------------------------- files that change meanwhile


def new_photograph(root: Path) -> None:
    Image.fromarray(photograph(77)).save(root / "images/a03.jpg")


def lost_photograph(root: Path) -> None:
    (root / "images/a03.jpg").unlink()


def new_mask(root: Path) -> None:
    save_mask(root / "masks/a03.png", np.full((H, W), 2, np.uint8))


@pytest.mark.parametrize(
    ("change", "make", "finding"),
    [
        (new_mask, "masks", "a03.png: changed while the data set was being read; run again"),
        (new_photograph, "photographs", "a03.jpg: changed while the data set was being read; run again"),
        (lost_photograph, "photographs", "a03.jpg: cannot be read (No such file or directory)"),
    ],
)
def test_files_that_nobody_has_looked_at_are_refused(
    tmp_path: Path, out: Path, change: Callable[[Path], None], make: str, finding: str
) -> None:
    root = make_folder(tmp_path / "d")
    inventory = take_inventory(of_folder(root), out / FILE)
    change(root)
    with pytest.raises(cli.InputError) as caught:
        MAKES[make](of_folder(root), inventory, out / f"{make}.json")
    assert finding in str(caught.value)
    assert not (out / f"{make}.json").exists()
    # And the next run looks again.
    if change is not lost_photograph:
        made(of_folder(root), out, verify=True)


def test_a_look_at_all_files_says_how_far_it_is_and_leaves_nothing(
    tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, target, seen = make_folder(tmp_path / "d"), out / "new" / "photographs.json", list[Any]()
    (root / "images/a01.jpg").write_bytes(b"")
    real = looking.content
    monkeypatch.setattr(
        looking, "content", lambda file: (seen.append(progress.read(store.part_of(target))), real(file))[1]
    )
    with pytest.raises(SystemExit):
        main(["--make", "photographs", "--settings", of_folder(root).model_dump_json(), "--out", str(target)])
    assert {(said["of"], said["unit"]) for said in seen} == {(12, "photographs")}
    assert not target.parent.exists()


@pytest.mark.parametrize("make", ["tags", "masks"])
def test_rows_are_those_of_the_photographs(tmp_path: Path, out: Path, make: str) -> None:
    root = make_folder(tmp_path / "d", val=0)
    made(of_folder(root), out)
    make_folder(root, count=1, val=0, start=12)
    with pytest.raises(cli.InputError, match=r"photographs\.json: the data set holds other photographs now"):
        prepare(make, of_folder(root), out / f"{make}.json", out / "photographs.json")


def test_every_setting_that_changes_a_result_changes_its_fingerprint(tmp_path: Path, out: Path) -> None:
    """Snakemake makes again what has another fingerprint, and nothing else."""
    root = make_folder(tmp_path / "d", count=30, val=0)
    plain = {"other": "void", "untagged": "drop", "folder": {"val_share": 0.3}}
    prints, before = fingerprints(of_folder(root, **plain)), None
    made(of_folder(root, **plain), out)
    before = manifests(out)
    for number, more in enumerate(
        (
            {"max_side": 24},
            {"classes": ["cow", "ant"]},
            {"classes": ["cow", "ant"], "other": "background"},
            {"background": "none", "classes": ["ant", "bee", "cow"]},
            {"share": 0.5},
            {"folder": {"val_share": 0.5}},
            {"folder": {"val_share": 0.3, "seed": 4}},
        )
    ):
        data = of_folder(root, **{**plain, **more})
        made(data, out / str(number))
        now = fingerprints(data)
        for name in changed(before, manifests(out / str(number))):
            assert getattr(now, name) != getattr(prints, name), (more, name)


# --------------------------------------------------------------------------------------------------- command, real


def test_command(tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--help"])
    assert left.value.code == 0
    text = capsys.readouterr().out
    assert "max_side" in text
    assert "block voc" in text
    data = of_folder(make_folder(tmp_path / "d"))
    for make in Made._fields:
        of = [] if make == "photographs" else ["--photographs", str(out / "photographs.json")]
        main(["--make", make, "--settings", data.model_dump_json(), *of, "--out", str(out / f"{make}.json")])
        assert json.loads((out / f"{make}.json").read_text())["kind"] == make
    target = str(out / "photographs.json")
    for words, finding in (
        (["photographs", "--settings", '{"max_sid": 3}'], "max_sid: unknown key"),
        (["photographs", "--settings", "{"], "--settings"),
        (["tags"], "--photographs is missing"),
        (["photographs", "--photographs", target], "goes with tags and masks only"),
        (["masks", "--photographs", str(out / "tags.json")], "this is tags, photographs expected"),
    ):
        with pytest.raises(SystemExit) as left:
            main(["--settings", data.model_dump_json(), "--make", *words, "--out", target])
        assert left.value.code == 2
        assert finding in capsys.readouterr().err


def test_real_photographs(tmp_path: Path, out: Path) -> None:
    if not REAL.is_dir():
        pytest.skip("../shared/data/voc_mini is not here")
    block = {"train": "tiny_train", "val": "tiny_val", "score": None, "tags": "csv"}
    got = made(of_voc(REAL, voc=block, classes=SIX, other="background", max_side=128), out)
    assert classes.names(got.masks) == ["background", *SIX]
    assert [len(split(got.photographs, s)) for s in ("train", "val", "score")] == [198, 61, 198]
    assert has_mask(got.masks).all()
    names = photographs.ids(got.photographs)
    with (REAL / "tags.csv").open() as file:
        expected = {row["image"]: set(row["tags"].split()) & set(SIX) for row in csv.DictReader(file)}
    assert [set(row) for row in got.tagged()] == [expected[name] for name in names]
    known = (REAL / "classes.txt").read_text().split()
    for i in (0, 100, 258):
        with Image.open(REAL / "SegmentationClass" / f"{names[i]}.png") as mask:
            values, mine = np.asarray(mask), true_mask(got.masks, i)
        for value in np.unique(values):
            wanted = VOID if value == VOID else SIX.index(known[value]) + 1 if known[value] in SIX else 0
            assert (mine[values == value] == wanted).all()
        assert max(photographs.size(got.photographs, i)) == 128


def test_real_frames_without_a_background(out: Path) -> None:
    if not CAMVID.is_dir():
        pytest.skip("../shared/data/camvid_mini is not here")
    block = {"train": "val", "val": "test", "score": None, "tags": "masks"}
    got = made(of_voc(CAMVID, voc=block, background="none", max_side=64, share=0.3), out)
    names = (CAMVID / "classes.txt").read_text().split()
    assert classes.names(got.tags) == names
    assert classes.foreground(got.tags).tolist() == list(range(len(names)))
    assert tags(got.tags)[:, 0].mean() > 0.9, "the sky is a class as any other"
    with Image.open(CAMVID / "SegmentationClass" / f"{photographs.ids(got.photographs)[0]}.png") as mask:
        assert np.array_equal(true_mask(got.masks, 0), np.asarray(mask))
