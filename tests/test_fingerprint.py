"""What makes Snakemake look at a data set again: each artifact for its own files, and nothing for nothing."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.core.config import Config, parse
from pipeline.core.data import Data
from pipeline.datasets.fingerprint import fingerprints
from pipeline.datasets.source import draw_val

REPO = Path(__file__).resolve().parents[1]
MAKES = ("inventory", "photographs", "tags", "masks")
ALL = set(MAKES)


def write(path: Path, text: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def make_folder(root: Path) -> Path:
    for i in range(12):
        write(root / f"images/a{i:02d}.jpg", "photograph")
        write(root / f"masks/a{i:02d}.png", "mask")
    write(root / "tags.csv", "image,tags\na00,ant\na01,bee\n")
    write(root / "classes.txt", "background\nant\nbee\n")
    write(root / "splits/val.txt", "a10\na11\n")
    return root


def make_voc(root: Path) -> Path:
    for i in range(12):
        write(root / f"JPEGImages/a{i:02d}.jpg", "photograph")
        write(root / f"SegmentationClass/a{i:02d}.png", "mask")
        write(root / f"Annotations/a{i:02d}.xml", "<annotation/>")
    lists = root / "ImageSets/Segmentation"
    write(lists / "train_aug.txt", "".join(f"a{i:02d}\n" for i in range(6)))
    write(lists / "train.txt", "a00\na01\n")
    write(lists / "val.txt", "a06\na07\n")
    return root


def data_of(block: str, root: Path, **settings: Any) -> Data:
    inner = settings.pop(block, {})
    return Data.model_validate({"name": "x", block: {"root": root, **inner}, **settings})


def changed(data: Data, change: Callable[[], object], after: Data | None = None) -> set[str]:
    before = dataclasses.asdict(fingerprints(data))
    change()
    now = dataclasses.asdict(fingerprints(after or data))
    return {name for name in MAKES if before[name] != now[name]}


def same_size(path: Path) -> None:
    """Another content of the same length, a moment later."""
    text, about = path.read_text(), path.stat()
    path.write_text(text[::-1])
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns + 1))


def test_each_artifact_follows_its_own_files(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "d")
    data = data_of("folder", root)
    assert changed(data, lambda: None) == set()
    assert changed(data, lambda: write(root / "notes.txt", "not part of it")) == set()
    assert changed(data, lambda: write(root / "images/notes.txt", "nor this")) == set()
    assert changed(data, lambda: same_size(root / "images/a03.jpg")) == {"inventory", "photographs"}
    assert changed(data, lambda: same_size(root / "masks/a03.png")) == {"inventory", "masks"}
    assert changed(data, lambda: write(root / "tags.csv", "image,tags\na00,bee\n")) == {"inventory", "tags"}
    assert changed(data, lambda: write(root / "classes.txt", "background\nbee\n")) == {"inventory", "tags", "masks"}
    assert changed(data, lambda: write(root / "images/new.jpg")) == ALL, "rows of all are as many as photographs"
    assert changed(data, lambda: write(root / "splits/val.txt", "a11\n")) == ALL
    assert changed(data, lambda: (root / "masks/a00.png").unlink()) == {"inventory", "masks"}


def test_tags_follow_the_masks_they_come_from(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "d")
    (root / "tags.csv").unlink()
    data = data_of("folder", root)
    assert changed(data, lambda: same_size(root / "masks/a03.png")) == {"inventory", "tags", "masks"}
    assert changed(data, lambda: same_size(root / "images/a03.jpg")) == {"inventory", "photographs"}


def test_where_untagged_photographs_are_dropped_all_follows_the_tags(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "d")
    data = data_of("folder", root, untagged="drop")
    assert changed(data, lambda: write(root / "tags.csv", "image,tags\na00,bee\n")) == ALL
    assert changed(data, lambda: same_size(root / "masks/a03.png")) == {"inventory", "masks"}


def test_what_moves_a_drawn_photograph_counts_for_all(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "d")
    (root / "splits/val.txt").unlink()
    data = data_of("folder", root)
    val = draw_val([f"a{i:02d}" for i in range(12)], 0.2, 0, {f"a{i:02d}" for i in range(12)}, {})
    rows = "".join(f"a{i:02d},ant\n" for i in range(12))
    write(root / "tags.csv", f"image,tags\n{rows}")
    train = min({f"a{i:02d}" for i in range(12)} - val)
    other = rows.replace(f"{train},ant", f"{train},ant bee")
    assert changed(data, lambda: write(root / "tags.csv", f"image,tags\n{other}")) == {"inventory", "tags"}
    rare = rows.replace(f"{min(val)},ant", f"{min(val)},bee")
    assert changed(data, lambda: write(root / "tags.csv", f"image,tags\n{rare}")) == ALL
    assert changed(data, lambda: same_size(root / "masks/a03.png")) == {"inventory", "masks"}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"max_side": 99}, {"inventory", "photographs"}),
        ({"classes": ["ant"]}, {"inventory", "tags", "masks"}),
        ({"background": "none"}, {"inventory", "tags", "masks"}),
        ({"share": 0.5}, ALL),
        ({"folder": {"seed": 1}}, ALL),
        ({"name": "y"}, set()),
    ],
)
def test_settings_count_where_they_are_read(tmp_path: Path, settings: dict[str, Any], expected: set[str]) -> None:
    root = make_folder(tmp_path / "d")
    one, other = data_of("folder", root), data_of("folder", root, **settings)
    assert changed(one, lambda: None, other) == expected


def test_voc_looks_at_listed_pictures_only(tmp_path: Path) -> None:
    root = make_voc(tmp_path / "VOC")
    data = data_of("voc", root)
    assert fingerprints(data).count == 8
    assert changed(data, lambda: same_size(root / "JPEGImages/a11.jpg")) == set()
    assert changed(data, lambda: same_size(root / "JPEGImages/a01.jpg")) == {"inventory", "photographs"}
    assert changed(data, lambda: same_size(root / "SegmentationClass/a07.png")) == {"inventory", "masks"}
    assert changed(data, lambda: same_size(root / "Annotations/a01.xml")) == {"inventory", "tags"}
    assert changed(data, lambda: write(root / "ImageSets/Segmentation/train.txt", "a00\n")) == ALL
    assert changed(data, lambda: None, data_of("voc", root, voc={"tags": "csv"})) == {"inventory", "tags"}


def test_subfolders_and_links_to_folders_count(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "d")
    data = data_of("folder", root)
    write(tmp_path / "far/b00.jpg", "photograph")
    assert changed(data, lambda: write(root / "images/day2/a00.jpg")) == ALL
    assert changed(data, lambda: (root / "images/far").symlink_to(tmp_path / "far")) == ALL
    assert fingerprints(data).count == 14
    assert changed(data, lambda: same_size(tmp_path / "far/b00.jpg")) == {"inventory", "photographs"}
    assert changed(data, lambda: write(root / "images/.hidden/b01.jpg")) == set()
    assert changed(data, lambda: (root / "images/day2/back").symlink_to(root)) == ALL, "a circle is gone round once"
    assert changed(data, lambda: same_size(root / "images/day2/a00.jpg")) == {"inventory", "photographs"}


def test_a_copy_elsewhere_is_the_same(tmp_path: Path) -> None:
    one, other = make_folder(tmp_path / "one"), make_folder(tmp_path / "other")
    for path in one.rglob("*"):
        about = path.stat()
        os.utime(other / path.relative_to(one), ns=(about.st_atime_ns, about.st_mtime_ns))
    assert changed(data_of("folder", one), lambda: None, data_of("folder", other)) == set()


def test_swapped_files_are_seen(tmp_path: Path) -> None:
    """Names, sizes and times stay the same as sets; only who has which differs."""
    root = make_folder(tmp_path / "d")
    write(root / "images/a00.jpg", "another photograph")
    first, second, spare = (root / "images" / name for name in ("a00.jpg", "a01.jpg", "spare"))

    def swap() -> None:
        for old, new in ((first, spare), (second, first), (spare, second)):
            old.rename(new)

    assert changed(data_of("folder", root), swap) == {"inventory", "photographs"}


def test_what_cannot_be_read_is_no_traceback(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "d")
    data = data_of("folder", root)
    link = root / "images/b00.jpg"
    assert changed(data, lambda: link.symlink_to(root / "nowhere")) == ALL
    assert changed(data, lambda: write(root / "nowhere", "mended")) == {"inventory", "photographs"}
    loop = root / "masks/loop.png"
    assert changed(data, lambda: loop.symlink_to(loop)) == {"inventory", "masks"}
    foreign = os.fsencode(root / "images") + b"/\xff\xfe.jpg"
    assert changed(data, lambda: os.close(os.open(foreign, os.O_CREAT))) == ALL
    (root / "tags.csv").unlink()
    assert changed(data, lambda: (root / "tags.csv").mkdir()) >= {"inventory", "tags"}
    for absent in (data_of("folder", tmp_path / "absent"), data_of("voc", root / "classes.txt")):
        assert fingerprints(absent).count == 0


def test_photographs_are_counted(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "d")
    assert fingerprints(data_of("folder", root)).count == 12
    write(root / "splits/train.txt", "a00\na01.jpg\n")
    assert fingerprints(data_of("folder", root)).count == 4
    demo = Data.model_validate({"demo": {"train": 7, "val": 2}})
    assert fingerprints(demo).count == 9
    other = Data.model_validate({"demo": {"train": 7, "val": 2, "seed": 1}})
    assert changed(demo, lambda: None, other) == ALL


def test_a_dry_run_loads_nothing_heavy() -> None:
    code = (
        "import sys; from pipeline.datasets.fingerprint import fingerprints; from pipeline.core.data import Data; "
        "fingerprints(Data()); print({'torch', 'numpy', 'zarr', 'PIL'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


# -------------------------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("given", "layout"),
    [
        ({}, "demo"),
        ({"demo": {"train": 3}}, "demo"),
        ({"name": "mine", "folder": {"root": "x"}}, "folder"),
        ({"name": "mine", "voc": {}}, "voc"),
        ({"name": "mine", "demo": {"train": 3}, "folder": {"val_share": 0.5}}, "folder"),
        ({"name": "mine", "format": "demo"}, "demo"),
        ({"format": "voc"}, "voc"),
    ],
)
def test_the_format_follows_from_the_block_given(given: dict[str, Any], layout: str) -> None:
    data = Data.model_validate(given)
    assert data.format == layout
    again = Data.model_validate_json(data.model_dump_json())
    assert again.format == layout
    assert getattr(again, layout) == getattr(data, layout)


@pytest.mark.parametrize(
    ("given", "finding"),
    [
        ({"name": "mine"}, "data.name is 'mine' but nothing says where the photographs are: set data.folder.root"),
        ({"name": "mine", "demo": {"train": 3}}, "nothing says where the photographs are"),
        ({"format": "demo", "folder": {"root": "x"}}, "data.folder is set but data.format is 'demo'"),
        ({"format": "voc", "folder": {"val_share": 0.5}}, "set data.format: folder, or remove data.folder"),
        ({"format": "folder", "voc": {"root": "x"}}, "data.voc is set but data.format is 'folder'"),
        ({"voc": {}, "folder": {}}, "data.voc and data.folder are both set; say which one counts with data.format"),
        ({"background": "none", "other": "background"}, "use other: void or error"),
        ({"format": "pascal"}, "Input should be 'demo', 'voc', 'folder'"),
        ({"format": "coco", "folder": {"root": "x"}}, "data.folder is set but data.format is 'coco'"),
        ({"name": "own", "export": {"root": "x"}}, "nothing says who wrote it: set data.format to one of coco"),
    ],
)
def test_other_data_never_run_under_my_name(given: dict[str, Any], finding: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Data.model_validate(given)
    assert finding in str(caught.value)


def test_the_whole_configuration_is_read_again_as_it_was_written() -> None:
    config = parse({"data": {"name": "m", "folder": {"root": "x"}}, "run": ["r"], "recipes": {"r": ["imagenet"]}})
    assert Config.model_validate_json(config.model_dump_json()).data == config.data
