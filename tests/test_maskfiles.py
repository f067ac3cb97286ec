"""Masks that are files of their own: CVAT's, Roboflow's, colour tables, one mask a class, Cityscapes, ADE20K. Small
folders, written by hand from the formats' documentation, and read as data sets."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import DATA_FOLDER
from exported import H, W, data_of, drawn, prepared, problems, write_photographs
from PIL import Image

from pipeline.core.data import Data
from pipeline.core.store import Artifact
from pipeline.datasets import ade20k, binary, cityscapes, colours, cvat_mask, roboflow
from pipeline.datasets.fingerprint import fingerprints
from pipeline.kinds import classes
from pipeline.kinds.photographs import ids, split
from pipeline.kinds.pixels import VOID
from pipeline.kinds.tags import tags
from pipeline.start import found_layout

CAMVID = DATA_FOLDER / "camvid_mini"
RED, GREEN, BLACK = (250, 50, 83), (0, 200, 20), (0, 0, 0)
COUNT = 6
LAYOUTS = {
    "cvat-mask": cvat_mask,
    "roboflow": roboflow,
    "colours": colours,
    "binary": binary,
    "cityscapes": cityscapes,
    "ade20k": ade20k,
}


def values(number: int) -> np.ndarray:
    """Mask of the photograph p<number>: a cat (1), and a dog (2) on every other one."""
    mask = np.zeros((H, W), np.uint8)
    mask[4:24, 10:30] = 1
    mask[20:30, 20 + number : 40 + number] = 2 * (number % 2)
    return mask


def save(path: Path, pixels: np.ndarray, palette: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(pixels)
    (picture.quantize(8) if palette else picture).save(path)
    return path


def coloured(mask: np.ndarray, table: tuple[tuple[int, int, int], ...] = (BLACK, RED, GREEN)) -> np.ndarray:
    return np.array(table, np.uint8)[mask]


def text(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


# ------------------------------------------------------------------------------------------------- a folder of each
# Each writes photographs and an export that says `values` of p0 to p5, and gives the settings.


def cvat_folder(at: Path) -> Data:
    names = write_photographs(at / "task/JPEGImages/day1", COUNT)
    text(
        at / "task/labelmap.txt",
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:250,50,83::\ndog:0,200,20::\n",
    )
    for number, name in enumerate(names):
        save(at / f"task/SegmentationClass/day1/{name}.png", coloured(values(number)), palette=number > 2)
        save(at / f"task/SegmentationObject/day1/{name}.png", coloured(values(number)))
    text(at / "task/ImageSets/Segmentation/default.txt", "".join(f"day1/{name}\n" for name in names))
    return data_of("cvat-mask", at / "task", at / "task")


def roboflow_folder(at: Path) -> Data:
    write_photographs(at / "flow/train", 4)
    write_photographs(at / "all", COUNT)
    (at / "flow/valid").mkdir()
    for number in range(COUNT):
        part = "valid" if number > 3 else "train"
        (at / f"all/p{number}.jpg").rename(at / f"flow/{part}/p{number}_jpg.rf.0f{number}.jpg")
        (at / f"flow/train/p{number}.jpg").unlink(missing_ok=True)
        save(at / f"flow/{part}/p{number}_jpg.rf.0f{number}_mask.png", values(number))
    for part in ("train", "valid"):
        text(at / f"flow/{part}/_classes.csv", "Pixel Value, Class\n0, background\n1, cat\n2, dog\n")
    return data_of("roboflow", at / "flow", at / "flow")


def colours_folder(at: Path) -> Data:
    names = write_photographs(at / "photos", COUNT)
    for number, name in enumerate(names):
        save(at / f"labels/{name}_L.png", coloured(values(number)))
    text(at / "label_colors.txt", "0 0 0\tbackground\n250 50 83\tcat\n0 200 20\tdog\n0 0 192\t\tVoid\n")
    return data_of("colours", at / "photos", at / "label_colors.txt", at / "labels")


def binary_folder(at: Path) -> Data:
    names = write_photographs(at / "photos", COUNT)
    for number, name in enumerate(names):
        save(at / f"masks/cat/{name}.png", ((values(number) == 1) * 255).astype(np.uint8))
        if number % 2:
            save(at / f"masks/dog/{name}.png", (values(number) == 2).astype(np.uint8))
    return data_of("binary", at / "photos", at / "masks")


def cityscapes_folder(at: Path) -> Data:
    names = write_photographs(at / "all", COUNT)
    for number, name in enumerate(names):
        part = "val" if number > 3 else "train"
        to = at / f"leftImg8bit/{part}/ulm/{name}_leftImg8bit.png"
        save(to, np.asarray(Image.open(at / f"all/{name}.jpg")))
        save(at / f"gtFine/{part}/ulm/{name}_gtFine_labelIds.png", np.array([3, 26, 33], np.uint8)[values(number)])
        save(at / f"gtFine/{part}/ulm/{name}_gtFine_color.png", coloured(values(number)))
    return data_of(*("cityscapes", at / "leftImg8bit", at / "gtFine"), classes=["car", "bicycle"], other="void")


def ade_folder(at: Path) -> Data:
    lines = "Idx\tRatio\tTrain\tVal\tStuff\tName\n1\t0.2\t9\t2\t1\tcat, tabby             \n2\t0.1\t6\t6\t1\tdog \n"
    text(at / "ADE/objectInfo150.txt", lines)
    names = write_photographs(at / "all", COUNT)
    for number, name in enumerate(names):
        part = "validation" if number > 3 else "training"
        (at / f"ADE/images/{part}").mkdir(parents=True, exist_ok=True)
        (at / f"all/{name}.jpg").rename(at / f"ADE/images/{part}/{name}.jpg")
        save(at / f"ADE/annotations/{part}/{name}.png", values(number))
    return data_of("ade20k", at / "ADE/images", at / "ADE")


FOLDERS: dict[str, Callable[[Path], Data]] = {
    "cvat-mask": cvat_folder,
    "roboflow": roboflow_folder,
    "colours": colours_folder,
    "binary": binary_folder,
    "cityscapes": cityscapes_folder,
    "ade20k": ade_folder,
}


@pytest.mark.parametrize("layout", FOLDERS)
def test_each_says_the_same(layout: str, tmp_path: Path) -> None:
    data = FOLDERS[layout](tmp_path)
    masks = drawn(data, tmp_path / "out")
    free = data.background == "none"
    meaning = np.array([VOID, 0, 1] if free else [0, 1, 2], np.uint8)
    found = {name.rpartition("/")[2][:2]: mask for name, mask in masks.items()}
    assert sorted(found) == [f"p{number}" for number in range(COUNT)] and len(masks) == COUNT
    for number in range(COUNT):
        np.testing.assert_array_equal(found[f"p{number}"], meaning[values(number)], err_msg=f"p{number}")
    pictures, tagged = Artifact(tmp_path / "out/photographs.json"), Artifact(tmp_path / "out/tags.json", "tags")
    wanted = {"cityscapes": ["car", "bicycle"]}.get(layout, ["cat", "dog"])
    assert classes.names(tagged) == [*["background"] * (not free), *wanted]
    for name, row in zip(ids(pictures), tags(tagged)[:, 0 if free else 1 :], strict=True):
        assert row.tolist() == [True, bool(int(name.rpartition("/")[2][1]) % 2)]
    if layout in ("roboflow", "cityscapes", "ade20k"):
        val = [ids(pictures)[row].rpartition("/")[2][:2] for row in split(pictures, "val")]
        assert val == ["p4", "p5"]


@pytest.mark.parametrize("layout", FOLDERS)
def test_each_is_recognised_and_no_other(layout: str, tmp_path: Path) -> None:
    data = FOLDERS[layout](tmp_path)
    top = data.export.labels[0]
    assert [name for name, module in LAYOUTS.items() if module.recognised(top)] == [layout]
    assert not any(module.recognised(tmp_path / "out") for module in LAYOUTS.values())
    (tmp_path / "empty").mkdir()
    assert not any(module.recognised(tmp_path / "empty") for module in LAYOUTS.values())


@pytest.mark.parametrize("layout", ["cvat-mask", "roboflow", "binary"])
def test_a_corrected_mask_plans_masks_and_tags_alone(layout: str, tmp_path: Path) -> None:
    data = FOLDERS[layout](tmp_path)
    before, first = fingerprints(data), drawn(data, tmp_path / "out")
    file = next(path for path in sorted(tmp_path.rglob("*p3*.png")) if is_mask(path))
    with Image.open(file) as picture:
        pixels = np.array(picture.convert("RGB") if picture.mode == "P" else picture)
    pixels[0, 0] = pixels[5, 11]  # a cat's
    save(file, pixels)
    after, second = fingerprints(data), drawn(data, tmp_path / "out")
    assert before.photographs == after.photographs and before.masks != after.masks
    assert [name.rpartition("/")[2][:2] for name in first if not np.array_equal(first[name], second[name])] == ["p3"]


def is_mask(path: Path) -> bool:
    return (
        not {"JPEGImages", "leftImg8bit", "SegmentationObject", "dog", "out"} & {*path.parts}
        and "_color" not in path.name
    )


@pytest.mark.parametrize("layout", ["cvat-mask", "binary"])
def test_a_folder_that_moved_makes_no_row_again(layout: str, tmp_path: Path) -> None:
    data = FOLDERS[layout](tmp_path / "here")
    before = Artifact(prepared(data, tmp_path / "out") / "masks.json").manifest
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    shutil.rmtree(tmp_path / "here")
    moved = data.model_dump_json().replace(f"{tmp_path}/here", f"{tmp_path}/there")
    after = Artifact(prepared(Data.model_validate_json(moved), tmp_path / "out") / "masks.json").manifest
    assert before == after


# ------------------------------------------------------------------------------------------------------- what is wrong


@pytest.mark.parametrize("layout", FOLDERS)
def test_a_mask_without_a_photograph_and_a_photograph_without_a_mask(
    layout: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = FOLDERS[layout](tmp_path)
    photograph = next(
        path for path in sorted(data.export.root.rglob("*p0*.*")) if not is_mask(path) or path.suffix == ".jpg"
    )
    content = photograph.read_bytes()
    photograph.unlink()
    said = problems(data)
    assert "p0" in said and "has no photograph; add the file" in said
    photograph.write_bytes(content)
    for mask in [path for path in sorted(tmp_path.rglob("*p0*.png")) if is_mask(path)]:
        mask.unlink()
    if layout == "cvat-mask":  # it stands in its list
        data = data.model_copy(update={"untagged": "drop"})
    prepared(data, tmp_path / "out")
    said = capsys.readouterr().out
    expected = "says nothing about 1 photographs" if layout == "cvat-mask" else "1 photographs of"
    assert expected in said and "p0" in said


@pytest.mark.parametrize("layout", FOLDERS)
def test_a_mask_of_another_size_or_no_mask_at_all(layout: str, tmp_path: Path) -> None:
    data = FOLDERS[layout](tmp_path)
    masks = [path for path in sorted(tmp_path.rglob("*p[12]*.png")) if is_mask(path)]
    save(masks[0], np.array(Image.open(masks[0]))[:30])
    masks[1].write_bytes(b"no picture")
    said = problems(data)
    assert "56×30 mask for a 56×40 photograph" in said and "cannot identify its format" in said
    assert masks[0].name in said and masks[1].name in said


@pytest.mark.parametrize(
    ("layout", "pixels", "says"),
    [
        ("cvat-mask", coloured(values(1), (BLACK, RED, (1, 2, 3))), "holds colour 1,2,3, which the table"),
        ("roboflow", values(1) * 9, "holds value 9, value 18, which the table"),
        ("colours", coloured(values(1), (BLACK, RED, (1, 2, 3))), "holds colour 1,2,3, which the table"),
        ("binary", values(1) * 7, "holds value 0, value 7, value 14; the mask of one class holds 0 and 1"),
        ("binary", coloured(values(1)), "holds colour 0,0,0, colour 0,200,20, colour 250,50,83; the mask of one class"),
        ("cityscapes", values(1) + np.uint8(90), "holds value 90, value 91, value 92, which the table"),
        ("ade20k", values(1) * 50, "holds value 50, value 100, which the table"),
    ],
)
def test_what_the_table_does_not_have_is_named(layout: str, pixels: np.ndarray, says: str, tmp_path: Path) -> None:
    data = FOLDERS[layout](tmp_path)
    mask = next(path for path in sorted(tmp_path.rglob("*p1*.png")) if is_mask(path))
    save(mask, pixels)
    said = problems(data)
    assert says in said and mask.name in said, said
    assert "1 problem(s)" in said  # and not that its photograph has no class, too


@pytest.mark.parametrize("layout", ["colours", "cityscapes", "ade20k"])
def test_masks_without_a_background_say_so(layout: str, tmp_path: Path) -> None:
    data = FOLDERS[layout](tmp_path)
    assert data.background == ("first" if layout == "colours" else "none")  # left out
    if layout == "colours":
        text(tmp_path / "label_colors.txt", "0 0 0 Void\n250 50 83 cat\n0 200 20 dog\n")
    elsewise = Data.model_validate({**data.model_dump(), "background": "first", "other": "void"})
    assert "set data.background: none" in problems(elsewise)
    masks = drawn(Data.model_validate({**data.model_dump(), "background": "none"}), tmp_path / "out")
    assert {0, VOID} <= set().union(*(np.unique(mask).tolist() for mask in masks.values()))


@pytest.mark.parametrize(
    ("layout", "file", "content", "says"),
    [
        ("cvat-mask", "task/labelmap.txt", "", "no line `class:red,green,blue::`"),
        ("cvat-mask", "task/labelmap.txt", "cat;1;2;3", "'cat;1;2;3' found, `class:red,green,blue::` expected"),
        ("cvat-mask", "task/labelmap.txt", "cat:300,2,3::", "'cat:300,2,3::' found"),
        ("cvat-mask", "task/labelmap.txt", "cat:1,2,3::\ndog:1,2,3::", "1,2,3 is 'cat' and 'dog'; keep one"),
        ("cvat-mask", "task/labelmap.txt", "cat:250,50,83::", "has no line `background`; set data.background: none"),
        ("roboflow", "flow/train/_classes.csv", "Pixel Value, Class\n", "no line as `1, cat`"),
        ("roboflow", "flow/train/_classes.csv", "1\n", "'1' found, `1, cat` expected"),
        (
            "roboflow",
            "flow/train/_classes.csv",
            f"{'9' * 5000}, cat\n",
            "line 1: '9999",
        ),  # more digits than int() reads
        ("colours", "label_colors.txt", "0 0 0 background\n1 2 ² cat", "line 2: '1 2 ² cat' found"),
        ("ade20k", "ADE/objectInfo150.txt", f"{'9' * 5000}\tcat\n", "a number and names"),
        ("roboflow", "flow/train/_classes.csv", "1, cat\n1, dog\n", "1 is 'cat' and 'dog'; keep one"),
        ("roboflow", "flow/train/_classes.csv", "1, cat\n2, dog\n", "has no line `0, background`"),
        ("colours", "label_colors.txt", "", "no line as `64 128 64 Animal`"),
        ("colours", "label_colors.txt", "0 0 0 background\n1 2 cat", "line 2: '1 2 cat' found, `64 128 64 Animal`"),
        ("colours", "label_colors.txt", "1 2 3 cat\n1 2 3 dog", "1,2,3 is 'cat' and 'dog'; keep one"),
        ("colours", "label_colors.txt", "1 2 3 cat\n1 2 4 Cat", "differ in capitals alone"),
        ("colours", "labels/q_L.png", None, "'q' has no photograph"),
        ("binary", "masks/stray.png", None, "no class in its name; cat/a.png or a_cat.png expected"),
        ("ade20k", "ADE/objectInfo150.txt", "Idx\tName\none\tcat\n", "a number and names with tabs between expected"),
    ],
)
def test_tables_that_are_wrong(layout: str, file: str, content: str | None, says: str, tmp_path: Path) -> None:
    data = FOLDERS[layout](tmp_path)
    if content is None:
        save(tmp_path / file, coloured(values(0)))
    else:
        text(tmp_path / file, content)
    said = problems(data)
    assert says in said and Path(file).name.split(".")[0] in said, said


@pytest.mark.parametrize(
    ("layout", "gone", "says"),
    [
        ("cvat-mask", "task/labelmap.txt", "labelmap.txt: no such file, and nothing else says what colours mean"),
        ("roboflow", "flow/train/_classes.csv", "4 masks without a _classes.csv beside them"),
        ("colours", "label_colors.txt", "label_colors.txt: no such file or folder; set data.export.labels"),
        ("cityscapes", "gtFine/", "gtFine: no file *_gtFine_labelIds.png"),
        ("ade20k", "ADE/objectInfo150.txt", "objectInfo150.txt: no such file, which names the classes"),
        ("ade20k", "ADE/annotations/", "annotations: no such folder"),
    ],
)
def test_parts_that_are_not_there(layout: str, gone: str, says: str, tmp_path: Path) -> None:
    data = FOLDERS[layout](tmp_path)
    if gone.endswith("/"):
        shutil.rmtree(tmp_path / gone)
        if layout == "cityscapes":
            (tmp_path / gone).mkdir()
    else:
        (tmp_path / gone).unlink()
    assert says in problems(data)


def test_an_archive_is_to_be_unpacked(tmp_path: Path) -> None:
    write_photographs(tmp_path / "photos", 2)
    archive = text(tmp_path / "task.zip", "PK")
    for layout in ("cvat-mask", "roboflow"):
        assert "no folder; unpack what" in problems(data_of(layout, tmp_path / "photos", archive))


# ------------------------------------------------------------------------------------------------------------ details


def test_cvat_lists_of_a_project(tmp_path: Path) -> None:
    data = cvat_folder(tmp_path)
    lists = tmp_path / "task/ImageSets/Segmentation"
    (lists / "default.txt").unlink()
    text(lists / "train.txt", "".join(f"day1/p{n}\n" for n in range(4)))
    text(lists / "val.txt", 'day1/p4\n"day1/p5.jpg"\n')
    out = prepared(data, tmp_path / "out")
    pictures = Artifact(out / "photographs.json")
    assert [ids(pictures)[row] for row in split(pictures, "val")] == ["JPEGImages/day1/p4", "JPEGImages/day1/p5"]
    text(lists / "val.txt", "day1/p3\nday1/p4\n")
    assert "'day1/p3' is in the list train too; keep one" in problems(data)


def test_cvat_background_is_void_where_there_is_none(tmp_path: Path) -> None:
    data = cvat_folder(tmp_path)
    masks = drawn(data.model_copy(update={"background": "none"}), tmp_path / "out")
    mask = next(mask for name, mask in masks.items() if name.endswith("p1"))
    np.testing.assert_array_equal(mask, np.array([VOID, 0, 1], np.uint8)[values(1)])


def test_roboflow_test_is_scored_where_there_is_no_valid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = roboflow_folder(tmp_path)
    shutil.copytree(tmp_path / "flow/valid", tmp_path / "flow/test")
    for path in (tmp_path / "flow/test").glob("p*"):
        path.rename(path.with_name(f"t{path.name}"))
    out = prepared(data, tmp_path / "out")
    assert len(ids(Artifact(out / "photographs.json"))) == COUNT
    assert "2 photographs are in no list, train or val, and are not used: test/tp4" in capsys.readouterr().out
    shutil.rmtree(tmp_path / "flow/valid")
    pictures = Artifact(prepared(data, tmp_path / "again") / "photographs.json")
    assert [ids(pictures)[row][:8] for row in split(pictures, "val")] == ["test/tp4", "test/tp5"]


def test_roboflow_calls_the_background_unlabeled(tmp_path: Path) -> None:
    data = roboflow_folder(tmp_path)
    for part in ("train", "valid"):
        text(tmp_path / f"flow/{part}/_classes.csv", "Pixel Value, Class\n0, unlabeled\n2, dog\n1, cat\n")
    masks = drawn(data, tmp_path / "out")
    mask = next(mask for name, mask in masks.items() if "p1" in name)
    np.testing.assert_array_equal(mask, np.array([0, 2, 1], np.uint8)[values(1)])  # dog stands first


def test_roboflow_photographs_may_be_named_alone(tmp_path: Path) -> None:
    roboflow_folder(tmp_path)
    part = data_of("roboflow", tmp_path / "flow/train", tmp_path / "flow/train")
    assert len(drawn(part, tmp_path / "out")) == 4
    assert "2 photographs" not in problems(data_of("roboflow", tmp_path / "flow/train", tmp_path / "flow"))


@pytest.mark.parametrize(
    "table",
    [
        "name,r,g,b\nBackground,0,0,0\ncat,250,50,83\ndog,0,200,20\n",
        "# colours\nbackground;0;0;0\ncat;250;50;83\ndog;0;200;20\n",
        "r g b name\n0 0 0 background\n250 50 83 cat\n0 200 20 dog\n",
        "id\tname\tcolour\tr\tg\tb\n0\tbackground\tblack\t0\t0\t0\n1\tcat\tred\t250\t50\t83\n2\tdog\tgreen\t0\t200\t20\n",
        "0,background,0,0,0\n1,cat,250,50,83\n2,dog,0,200,20\n",
        "0,0,0,background\n250,50,83,cat\n0,200,20,dog\n9,9,9,dog\n",
        'class,r,g,b\n"background",0,0,0\n"cat",250,50,83\n"dog",0,200,20\n',
    ],
)
def test_tables_of_colours_in_the_forms_people_have(table: str, tmp_path: Path) -> None:
    data = colours_folder(tmp_path)
    text(tmp_path / "label_colors.txt", table)
    masks = drawn(data, tmp_path / "out")
    for number in range(COUNT):
        np.testing.assert_array_equal(masks[f"p{number}"], values(number))


def test_names_of_classes_may_have_blanks(tmp_path: Path) -> None:
    for line in (
        "250 170 30 traffic light",
        "traffic light,250,170,30",
        "traffic light;250;170;30",
        "250,170,30,traffic light",
    ):
        assert colours.table(text(tmp_path / "t.txt", line), []) == [[250, 170, 30, "traffic light"]]


def test_endings_are_what_all_masks_share() -> None:
    assert colours.endings(["a/0001TP_L", "b/0002TP_L"]) == ["_L"]
    assert colours.endings(["x_gtFine_color", "y_gtFine_color"]) == ["_color", "_gtFine_color"]
    assert colours.endings(["a_1", "a_2"]) == [] and colours.endings(["a_L"]) == []


def test_a_name_as_it_stands_comes_before_one_without_its_ending(tmp_path: Path) -> None:
    """Photographs p and p_L: the mask p_L is that of p_L."""
    write_photographs(tmp_path / "photos", 4)
    for number, name in enumerate(("a", "a_L", "b", "b_L")):
        (tmp_path / f"photos/p{number}.jpg").rename(tmp_path / f"photos/{name}.jpg")
    for name in ("a_L", "b_L"):
        save(tmp_path / f"labels/{name}.png", coloured(values(1)))
    table = text(tmp_path / "t.txt", "0 0 0 background\n250 50 83 cat\n0 200 20 dog\n")
    assert [*drawn(data_of("colours", tmp_path / "photos", table, tmp_path / "labels"), tmp_path / "out")] == [
        "a_L",
        "b_L",
    ]


def test_two_masks_of_one_photograph(tmp_path: Path) -> None:
    data = colours_folder(tmp_path)
    for number in range(COUNT):
        (tmp_path / f"labels/p{number}_L.png").rename(tmp_path / f"labels/p{number}.png")
    save(tmp_path / "more/p2.png", coloured(values(2)))
    both = data_of("colours", tmp_path / "photos", *data.export.labels, tmp_path / "more")
    said = problems(both)
    assert "more/p2.png: 'p2' has a mask already" in said and "labels/p2.png); keep one" in said


def test_photographs_and_masks_in_one_folder(tmp_path: Path) -> None:
    data = colours_folder(tmp_path)
    for path in (tmp_path / "photos").iterdir():
        shutil.copy(path, tmp_path / "labels")
    mixed = data_of("colours", tmp_path / "labels", *data.export.labels)
    assert "photographs and masks in one folder; keep masks in one of their own" in problems(mixed)


def test_lists_are_folders_of_masks(tmp_path: Path) -> None:
    data = colours_folder(tmp_path)
    for number in range(COUNT):
        part = "val_labels" if number > 3 else "train_labels"
        (tmp_path / part).mkdir(exist_ok=True)
        (tmp_path / f"labels/p{number}_L.png").rename(tmp_path / f"{part}/p{number}_L.png")
    parts = data_of(
        "colours", tmp_path / "photos", data.export.labels[0], tmp_path / "train_labels", tmp_path / "val_labels"
    )
    pictures = Artifact(prepared(parts, tmp_path / "out") / "photographs.json")
    assert [ids(pictures)[row] for row in split(pictures, "val")] == ["p4", "p5"]


def test_a_jpeg_is_no_mask_of_colours(tmp_path: Path) -> None:
    data = colours_folder(tmp_path)
    Image.fromarray(coloured(values(0))).save(tmp_path / "labels/p0_L.png", "JPEG")
    assert "is JPEG, whatever its suffix; JPEG blurs class numbers" in problems(data)


def test_the_later_class_lies_on_top_and_names_may_say_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_photographs(tmp_path / "photos", 4)
    whole, part = np.full((H, W), 255, np.uint8), np.zeros((H, W), np.uint8)
    part[4:24, 10:30] = 255
    for number in range(4):
        save(tmp_path / f"masks/p{number}_dog.png", part)
        save(tmp_path / f"masks/p{number}_cat.png", np.dstack([part, part, part, whole]) if number else whole)
    masks = drawn(data_of("binary", tmp_path / "photos", tmp_path / "masks"), tmp_path / "out")
    np.testing.assert_array_equal(masks["p1"], np.where(part > 0, 2, 1))
    np.testing.assert_array_equal(masks["p0"], masks["p1"])
    assert "where masks overlap the later class lies on top: cat, dog" in capsys.readouterr().out


def test_cityscapes_has_nineteen_classes_and_leaves_its_test_list_out(tmp_path: Path) -> None:
    data = cityscapes_folder(tmp_path)
    known = cityscapes.read(data.export.labels)
    assert len(known.classes) == 19 and known.classes[0] == "road" and known.classes[-1] == "bicycle"
    write_photographs(tmp_path / "leftImg8bit/test/bonn", 1)
    (tmp_path / "leftImg8bit/test/bonn/p0.jpg").rename(tmp_path / "leftImg8bit/test/bonn/t_leftImg8bit.jpg")
    save(tmp_path / "gtFine/test/bonn/t_gtFine_labelIds.png", np.zeros((H, W), np.uint8))
    assert len(ids(Artifact(prepared(data, tmp_path / "out") / "photographs.json"))) == COUNT


@pytest.mark.skipif(not CAMVID.is_dir(), reason="camvid_mini is not here")
def test_camvid_in_colours_is_camvid_in_numbers(tmp_path: Path) -> None:
    """The same frames as numbered masks in the layout `folder`, and as coloured ones."""
    listed = (CAMVID / "ImageSets/Segmentation/train.txt").read_text().split()[:6]
    names = (CAMVID / "classes.txt").read_text().splitlines()
    table = np.random.default_rng(0).permutation(256)[: len(names)].astype(np.uint8)[:, None] * np.uint8([1, 3, 7])
    for frame in listed:
        for part in ("plain/images", "photos"):
            (tmp_path / part).mkdir(parents=True, exist_ok=True)
            shutil.copy(CAMVID / f"JPEGImages/{frame}.jpg", tmp_path / part)
        mask = np.array(Image.open(CAMVID / f"SegmentationClass/{frame}.png"))
        save(tmp_path / f"plain/masks/{frame}.png", mask)
        colour = np.full((*mask.shape, 3), (255, 255, 255), np.uint8)
        colour[mask < 255] = table[mask[mask < 255]]
        save(tmp_path / f"labels/{frame}_L.png", colour)
    shutil.copy(CAMVID / "classes.txt", tmp_path / "plain")
    lines = [f"{r} {g} {b}\t{name}" for (r, g, b), name in zip(table.tolist(), names, strict=True)]
    text(tmp_path / "label_colors.txt", "\n".join([*lines, "255 255 255\tVoid", ""]))
    shown = sorted(
        {int(v) for path in (tmp_path / "plain/masks").iterdir() for v in np.unique(Image.open(path))} - {255}
    )
    more = {
        "background": "none",
        "classes": [names[v] for v in shown if v < len(names)],
        "other": "void",
        "max_side": 96,
    }
    plain = Data.model_validate({"name": "own", "folder": {"root": str(tmp_path / "plain")}, **more})
    colourful = data_of("colours", tmp_path / "photos", tmp_path / "label_colors.txt", tmp_path / "labels", **more)
    first, second = drawn(plain, tmp_path / "a"), drawn(colourful, tmp_path / "b")
    assert len(first) == 6 and {*first} == {*second}
    for frame in listed:
        np.testing.assert_array_equal(first[frame], second[frame])


@pytest.mark.parametrize("layout", FOLDERS)
def test_start_finds_each(layout: str, tmp_path: Path) -> None:
    data = FOLDERS[layout](tmp_path)
    found = found_layout(data.export.root, data.export.labels, None)
    assert found == (layout, {"root": str(data.export.root), "labels": [str(path) for path in data.export.labels]})
    if layout == "roboflow":  # its masks lie among the photographs
        assert found_layout(data.export.root, (), None) == found
