"""What annotation tools read, from the masks: every export read back, pixel for pixel the same; what no format can hold
refused; resumed or not, the same bytes."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import planted
import pytest
from colours import PALETTE, colour_segmenter, stripes
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image
from pycocotools.coco import COCO

from pipeline import predict
from pipeline.annotations import brush, coco, cvat, export, labelstudio
from pipeline.annotations.labelled import About, Labelled
from pipeline.core import store
from pipeline.core.durable import writing

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools's own
CLASSES = ["background", "cat", "traffic light", "Kühe & Schafe"]
ABOUT = About(CLASSES, 0, "f" * 32)
ALL = About([*CLASSES[1:], "background"], None, "f" * 32)  # no background, and an ordinary class of that name
MAPS = arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.sampled_from([0, 1, 2, 3, 255]))
RING = np.pad(np.pad(np.zeros((1, 1), np.uint8), 1, constant_values=1), 1)


def expected(labels: np.ndarray, about: About) -> np.ndarray:
    """What an export can say of a mask: background where there is one and nothing else is said."""
    return labels if about.background is None else np.where(labels == 255, about.background, labels)


def canvas(about: About, height: int, width: int) -> np.ndarray:
    return np.full((height, width), 255 if about.background is None else about.background, np.uint8)


# ------------------------------------------------------------------------------------------ readers, one a format


def from_coco(path: Path, about: About) -> dict[str, np.ndarray]:
    """As pycocotools decodes it, painted in order."""
    found = COCO(path)
    assert [(one["id"], one["name"]) for one in found.loadCats(found.getCatIds())] == [
        (number, about.names[k]) for number, k in enumerate(about.objects, 1)
    ]
    masks = {}
    for number, image in found.imgs.items():
        masks[image["file_name"]] = canvas(about, image["height"], image["width"])
        for one in found.loadAnns(found.getAnnIds(imgIds=number)):
            inside = found.annToMask(one) == 1
            (y, x) = np.nonzero(inside)
            assert one["area"] == inside.sum() and one["iscrowd"] == 0
            assert one["bbox"] == [x.min(), y.min(), x.max() - x.min() + 1, y.max() - y.min() + 1]
            masks[image["file_name"]][inside] = about.objects[one["category_id"] - 1]
    return masks


def from_label_studio(path: Path, about: About) -> dict[str, np.ndarray]:
    masks = {}
    labels = [label.get("value") for label in ElementTree.parse(path.with_suffix(".xml")).iter("Label")]
    for task in json.loads(path.read_text()):
        (prediction,) = task["predictions"]
        assert len({region["id"] for region in prediction["result"]}) == len(prediction["result"])
        mask: np.ndarray | None = None
        for region in prediction["result"]:
            height, width = region["original_height"], region["original_width"]
            mask = canvas(about, height, width) if mask is None else mask
            (name,) = region["value"]["brushlabels"]
            assert name in labels
            mask[brush.decode(region["value"]["rle"], height, width) > 0] = about.names.index(name)
        masks[task["data"]["photograph"]] = mask
    return masks


def from_cvat(path: Path, about: About) -> dict[str, np.ndarray]:
    """By colours, as labelmap.txt names them, without a look at their numbers."""
    with zipfile.ZipFile(path) as archive:
        lines = [line.split(":") for line in archive.read("labelmap.txt").decode().splitlines()[1:]]
        assert {(len(line), *line[2:]) for line in lines} == {(4, "", "")}
        values = {line[1]: about.names.index(line[0]) for line in lines if line[0] in about.names}
        masks = {}
        for name in archive.read("ImageSets/Segmentation/default.txt").decode().splitlines():
            with archive.open(f"SegmentationClass/{name}.png") as file:
                rgb = np.asarray(Image.open(file).convert("RGB"))
            with archive.open(f"SegmentationObject/{name}.png") as file:
                objects = np.asarray(Image.open(file))
            mask = canvas(about, *rgb.shape[:2])
            for colour in np.unique(rgb.reshape(-1, 3), axis=0):
                if (value := values.get(",".join(map(str, colour)))) is not None:
                    mask[(rgb == colour).all(-1)] = value
            for number in range(1, int(objects.max()) + 1):
                assert len(np.unique(mask[objects == number])) == 1
            assert ((objects == 0) == (rgb == 0).all(-1)).all()
            masks[name] = mask
    return masks


READERS = {"coco": from_coco, "label-studio": from_label_studio, "cvat": from_cvat}


def written(to: str, folder: Path, about: About, *maps: np.ndarray) -> dict[str, np.ndarray]:
    """These masks written and read back, by photograph's number."""
    photos = [Labelled(folder / f"{i}.jpg", f"{i}.jpg", labels) for i, labels in enumerate(maps)]
    export.WRITERS[to](folder, photos, About(about.names, about.background, about.model, [folder]))
    return READERS[to](folder / export.FILES[to][0], about)


# -------------------------------------------------------------------------------------------- brush's run lengths


def bits_of(values: Sequence[int], sizes: Sequence[int] = (3, 4, 8, 16)) -> list[int]:
    """A stream as browsers write it: what stands alone is literal. Slow and plain."""
    bits, i, alone = f"{len(values):032b}{7:05b}" + "".join(f"{size - 1:04b}" for size in sizes), 0, list[int]()

    def head(repeats: int, count: int) -> str:
        size_class = next(k for k, size in enumerate(sizes) if count <= 1 << size)
        return f"{repeats}{size_class:02b}{count - 1:0{sizes[size_class]}b}"

    while i <= len(values):
        end = i + 1
        while end < len(values) and values[end] == values[i] and end - i < 1 << sizes[-1]:
            end += 1
        if alone and (i == len(values) or end > i + 1 or len(alone) == 1 << sizes[-1]):
            bits += head(0, len(alone)) + "".join(f"{value:08b}" for value in alone)
            alone = []
        if i < len(values) and end > i + 1:
            bits += head(1, end - i) + f"{values[i]:08b}"
        elif i < len(values):
            alone.append(values[i])
        i = end
    bits += "0" * (-len(bits) % 8)
    return [int(bits[at : at + 8], 2) for at in range(0, len(bits), 8)]


def values_of(stream: Sequence[int]) -> list[int]:
    """What a stream holds, token by token, as the format says it. Slow and plain."""
    bits, at, out = "".join(f"{value:08b}" for value in stream), 0, list[int]()

    def read(count: int) -> int:
        nonlocal at
        at += count
        return int(bits[at - count : at], 2)

    total, word = read(32), read(5) + 1
    sizes = [read(4) + 1 for _ in range(4)]
    while len(out) < total:
        repeats = read(1)
        count = 1 + read(sizes[read(2)])
        out += [read(word)] * count if repeats else [read(word) for _ in range(count)]
    return out


@examples(max_examples=60, deadline=None)
@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=40)))
def test_brush_regions_come_back(inside: np.ndarray) -> None:
    stream = brush.encode(inside)
    assert stream.dtype == np.uint8
    assert values_of(stream.tolist()) == np.repeat(inside.ravel() * 255, 4).tolist()
    np.testing.assert_array_equal(brush.decode(stream.tolist(), *inside.shape), inside * np.uint8(255))


def test_long_runs_are_cut_where_a_count_ends() -> None:
    for pixels in (1, 2, 1 << 14, (1 << 14) + 1, 1 << 15, (1 << 15) + 3):
        inside = np.zeros((2, pixels), bool)
        inside[1] = True
        stream = brush.encode(inside)
        assert values_of(stream.tolist()) == [0] * 4 * pixels + [255] * 4 * pixels
        np.testing.assert_array_equal(brush.decode(stream, 2, pixels) > 0, inside)


@examples(max_examples=40, deadline=None)
@given(
    arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=30)),
    st.tuples(*[st.integers(0, 255)] * 4),
    st.sampled_from([(3, 4, 8, 16), (2, 5, 9, 16)]),
)
def test_what_browsers_write_is_read(inside: np.ndarray, colour: tuple[int, ...], sizes: tuple[int, ...]) -> None:
    rgba = np.where(inside[..., None], np.array(colour, np.uint8), 0)
    stream = bits_of(rgba.ravel().tolist(), sizes)
    np.testing.assert_array_equal(brush.decode(stream, *inside.shape), rgba[..., 3])


def test_a_painted_region_of_a_browser_is_one_row_of_literal_values() -> None:
    rgba = np.zeros((150, 200, 4), np.uint8)
    rgba[20:140, 5:] = (10, 20, 30, 255)
    np.testing.assert_array_equal(brush.decode(bits_of(rgba.ravel().tolist()), 150, 200), rgba[..., 3])


@examples(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 255), max_size=60), st.booleans())
def test_a_stream_that_is_none_is_a_message(stream: list[int], headed: bool) -> None:
    head = bits_of([0] * 4 * 36)[:7]
    said, found = "", None
    try:
        found = brush.decode([*head, *stream] if headed else stream, 6, 6)
    except ValueError as error:
        said = str(error)
    assert "export it again" in said if found is None else found.shape == (6, 6)


def test_streams_cut_short_or_of_another_picture() -> None:
    stream = brush.encode(np.random.default_rng(0).random((30, 30)) < 0.5).tolist()
    for wrong, said in (
        (stream[: len(stream) // 2], "ends after"),
        (bits_of(list(range(256)) * 5 + [0] * 2320)[:600], "ends before"),
        ([*stream[:5], -1], "0 to 255"),
        ([], "0 to 255"),
        ([0, 0, 1], "256 values of 1 bits"),
        ("text", "0 to 255"),
    ):
        with pytest.raises(ValueError, match=said):
            brush.decode(wrong, 30, 30)
    with pytest.raises(ValueError, match=r"3600 values of 8 bits found, 1200 of 8 expected .* 10×30 pixels"):
        brush.decode(stream, 30, 10)


# -------------------------------------------------------------------------------------------------------- formats


@pytest.mark.parametrize("to", READERS)
@examples(max_examples=40, deadline=None)
@given(labels=MAPS, about=st.sampled_from([ABOUT, ALL]))
def test_every_mask_comes_back(
    tmp_path_factory: pytest.TempPathFactory, to: str, labels: np.ndarray, about: About
) -> None:
    (found,) = written(to, tmp_path_factory.mktemp("out"), about, labels).values()
    if found is None:  # a task without regions says no size
        assert not np.isin(labels, about.objects).any()
    else:
        np.testing.assert_array_equal(found, expected(labels, about))


def test_polygons_follow_the_edges_of_pixels() -> None:
    labels = np.zeros((5, 6), np.uint8)
    labels[1:3, 2:5] = 2
    labels[3, 2] = 2
    (found,) = coco.objects(labels, ABOUT)
    assert found == {
        "category_id": 2,
        "segmentation": [[2, 1, 5, 1, 5, 3, 3, 3, 3, 4, 2, 4]],
        "area": 7,
        "bbox": [2, 1, 3, 3],
        "iscrowd": 0,
    }


def test_only_holes_need_run_lengths() -> None:
    """Also a hole that is closed at corners of pixels alone; an object that touches itself there is one polygon."""
    rhomb = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]], np.uint8)
    for labels, kinds in (
        (RING, [dict]),
        (rhomb, [dict]),
        (np.eye(4, dtype=np.uint8), [list]),
        (np.eye(4, dtype=np.uint8)[::-1].copy(), [list]),
        (np.array([[1, 1, 1], [1, 0, 1], [1, 1, 0]], np.uint8), [dict]),
        (np.array([[1, 0, 2], [1, 0, 2]], np.uint8), [list, list]),
        (np.where(RING == 1, 1, np.uint8(2)), [list, dict, dict]),
    ):
        found = list(coco.objects(labels, ABOUT))
        assert sorted(type(one["segmentation"]).__name__ for one in found) == sorted(kind.__name__ for kind in kinds)
    assert [one["category_id"] for one in coco.objects(np.array([[3, 1], [3, 1]], np.uint8), ABOUT)] == [3, 1]


def test_a_polygon_that_would_be_filled_otherwise_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.ones((3, 3), np.uint8)
    monkeypatch.setattr(coco, "filled", lambda ring, height, width: np.zeros((height, width), np.uint8))
    (found,) = coco.objects(labels, ABOUT)
    assert found["segmentation"]["size"] == [3, 3]


def test_a_label_studio_task() -> None:
    about = About(CLASSES, 0, "0123456789abcdef0123", [Path("/data/my photos/day 1")])
    labels = np.zeros((4, 6), np.uint8)
    labels[2:, 3:] = 2
    photo = Labelled(Path("/data/my photos/day 1/more/a#1 ü.jpg"), "more/a#1 ü.jpg", labels, score=0.25)
    task = labelstudio.task(photo, about)
    assert task["data"]["photograph"] == "more/a#1 ü.jpg"
    (prediction,) = task["predictions"]
    assert (prediction["model_version"], prediction["score"]) == ("0123456789abcdef", 0.25)
    (region,) = prediction["result"]
    assert region["value"]["brushlabels"] == ["traffic light"] and region["value"]["format"] == "rle"
    assert (region["original_width"], region["original_height"], region["image_rotation"]) == (6, 4, 0)
    page = ElementTree.fromstring(labelstudio.configuration(about))
    image, control = page.find("Image"), page.find("BrushLabels")
    assert image is not None and control is not None and image.get("value") == "$image"
    assert region["from_name"] == control.get("name") and region["to_name"] == image.get("name") == control.get(
        "toName"
    )
    shown = {label.get("value"): label.get("background") for label in control}
    assert shown == {"cat": "#800000", "traffic light": "#008000", "Kühe & Schafe": "#808000"}
    assert [choice.get("value") for choice in page.iter("Choice")] == CLASSES[1:]
    assert labelstudio.task(Labelled(photo.path, photo.file, labels), about)["predictions"][0].keys() == {
        "model_version",
        "result",
    }


def test_addresses_of_photographs(tmp_path: Path) -> None:
    """Below a document root that is never one of the folders itself: Label Studio refuses that as a storage."""
    (tmp_path / "a b/inner").mkdir(parents=True)
    (tmp_path / "c").mkdir()
    photo = Labelled(tmp_path / "a b/inner/x+y.jpg", "inner/x+y.jpg", RING)

    def address(*sources: str, url: str | None = None) -> str:
        return labelstudio.address(photo, About(CLASSES, 0, "m", [tmp_path / source for source in sources], url))

    assert address("a b") == "/data/local-files/?d=a%20b/inner/x%2By.jpg"
    assert address("a b", "c") == "/data/local-files/?d=a%20b/inner/x%2By.jpg"
    assert address("a b/inner", "a b") == "/data/local-files/?d=a%20b/inner/x%2By.jpg"
    assert address("a b", url="https://host/p?d=") == "https://host/p?d=inner/x%2By.jpg"
    assert labelstudio.served([tmp_path / "a b", tmp_path / "c"]) == (
        str(tmp_path),
        [f"{tmp_path}/a b", f"{tmp_path}/c"],
    )


def test_the_labelmap_of_cvat() -> None:
    assert cvat.labelmap(ABOUT).splitlines() == [
        "# label:color_rgb:parts:actions",
        "background:0,0,0::",
        "cat:128,0,0::",
        "traffic light:0,128,0::",
        "Kühe & Schafe:128,128,0::",
    ]
    assert cvat.labelmap(ALL).splitlines()[1::4] == ["no-background:0,0,0::", "background:0,0,128::"]
    last = About(["cat", "sky"], 1, "m")
    assert cvat.labelmap(last).splitlines()[1:] == ["background:0,0,0::", "cat:128,0,0::"]


def test_more_objects_than_colours() -> None:
    """The largest keep a colour of their own, the others of a class share one."""
    labels = np.zeros((41, 41), np.uint8)
    labels[::2, ::2] = np.arange(21 * 21).reshape(21, 21) % 3 + 1  # 441 of one pixel
    labels[0, 0:2] = labels[0, 0]
    classes, objects = cvat.layers(labels, ABOUT)
    np.testing.assert_array_equal(classes, labels)
    sizes = np.bincount(objects.ravel(), minlength=256)[1:]
    assert objects.max() == 255 and sizes.tolist() == [2, *[1] * 251, *sizes[252:]] and sizes.sum() == 442
    assert [np.unique(labels[objects == number]).tolist() for number in (1, 253, 254, 255)] == [[1], [1], [2], [3]]


def test_names_that_a_format_cannot_hold() -> None:
    for name in ("a:b", "#a", " a", "", "a\nb"):
        assert cvat.refused(["cat", name])
    assert cvat.refused(["cat", "cat"]) and not cvat.refused(["cat", "traffic light", "labels", "ünder_the,moon"])
    assert labelstudio.refused(["a\x1b"]) and not labelstudio.refused(["a:b", '"<&>"', "image", "label"])
    assert [cvat.unlisted(file) for file in ("a.jpg", "d/a b.jpg", "#a.jpg", "a .jpg", "a\nb.jpg")] == [False] * 2 + [
        True
    ] * 3


def test_a_writer_that_is_stopped_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "coco.json").write_text("before")
    (tmp_path / f".coco.json.{os.getpid() + 1}").write_text("of one that was killed")

    def photos() -> Iterator[Labelled]:
        yield Labelled(tmp_path / "a.jpg", "a.jpg", RING)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        coco.write(tmp_path, photos(), ABOUT)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("coco.json", "before")]
    with pytest.raises(OSError, match=r"x\.json"), writing(tmp_path / "x.json"):
        raise OSError(28, "No space left on device")


# ------------------------------------------------------------------------------------------------ predict --to


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.json"
    return planted.model(path, colour_segmenter(PALETTE), CLASSES, max_side=96).path


@pytest.fixture(scope="module")
def ordinary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its data set has no background, and a class called so."""
    path = tmp_path_factory.mktemp("ordinary") / "model.json"
    return planted.model(path, colour_segmenter(PALETTE), ["cat", "background", "a:b", "c"], background=None).path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Names as people have them, and one taken with the camera turned."""
    folder = tmp_path / "my photos"
    (folder / 'day "1"').mkdir(parents=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(stripes(64, 1, 0, 2)).save(folder / "a b.png")
    Image.fromarray(np.rot90(stripes(64, 3, 0, 1))).save(folder / 'day "1"' / "turned.png", exif=exif)
    Image.fromarray(stripes(32, 0, 0)).save(folder / "空 & 'l'été.png")
    return folder


def call(*arguments: object) -> int:
    try:
        predict.main([str(item) for item in ("--device", "cpu", "--precision", "f32", "--threads", 1, *arguments)])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def masks_in(folder: Path) -> dict[str, np.ndarray]:
    paths = sorted(folder.rglob("*.png"))
    return {path.relative_to(folder).with_suffix("").as_posix(): np.asarray(Image.open(path)) for path in paths}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".json", ".xml", ".zip")}


TO = ("--to", "coco", "label-studio", "cvat", "masks")


def test_predict_writes_what_tools_read(
    model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert call(model, photos, "--out", out, *TO) == 0
    said = capsys.readouterr().out
    masks = masks_in(out)
    assert masks.keys() == {"a b", 'day "1"/turned', "空 & 'l'été"}
    assert masks['day "1"/turned'].shape == (64, 96) and masks['day "1"/turned'][0, [0, 95]].tolist() == [3, 1]
    for to, read in READERS.items():
        found = {os.path.splitext(name)[0]: mask for name, mask in read(out / export.FILES[to][0], ABOUT).items()}
        assert found.keys() == masks.keys()
        for name, mask in masks.items():
            if found[name] is None:
                assert not mask.any()
            else:
                np.testing.assert_array_equal(found[name], mask)
        assert f"{out / export.FILES[to][0]}: 3 " in said
    assert f"LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT={tmp_path}\n" in said and f"(no sync): {photos}\n" in said
    tasks = json.loads((out / "label-studio.json").read_text())
    assert [task["data"]["image"] for task in tasks] == [
        "/data/local-files/?d=my%20photos/a%20b.png",
        "/data/local-files/?d=my%20photos/day%20%221%22/turned.png",
        "/data/local-files/?d=my%20photos/%E7%A9%BA%20%26%20%27l%27%C3%A9t%C3%A9.png",
    ]
    assert call(model, photos, "--out", out, "--to", "label-studio", "--image-url", "https://host/p/") == 0
    assert "LOCAL_FILES" not in capsys.readouterr().out
    moved = json.loads((out / "label-studio.json").read_text())
    assert (
        moved[0]["data"]["image"] == "https://host/p/a%20b.png" and moved[0]["predictions"] == tasks[0]["predictions"]
    )
    assert {task["predictions"][0]["model_version"] for task in tasks} == {store.Artifact(model).digest[:16]}


def test_an_export_is_the_same_bytes_however_it_came_about(model: Path, photos: Path, tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    assert call(model, photos, "--out", one, *TO) == 0
    first = contents(one)
    assert first.keys() == {"coco.json", "label-studio.json", "label-studio.xml", "cvat.zip", "predict.json"}
    assert call(model, photos, "--out", one, *TO) == 0
    assert contents(one) == first
    assert call(model, photos / 'day "1"', "--out", other / 'day "1"') == 0  # as if stopped after some masks
    (other / 'day "1"' / "predict.json").rename(other / "predict.json")
    assert call(model, photos, "--out", other, *TO) == 0
    (other / 'day "1"' / "overlays").rename(tmp_path / "gone")
    assert contents(other) == first


def test_the_masks_that_lie_there_are_what_is_written(
    model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert call(model, photos, "--out", out) == 0
    assert not contents(out).keys() - {"predict.json"}
    corrected = np.full((64, 96), 3, np.uint8)
    corrected[5:9, 7:30] = 255
    Image.fromarray(corrected).save(out / "a b.png")
    Image.fromarray(np.full((32, 64), 9, np.uint8)).save(out / "空 & 'l'été.png")
    (out / 'day "1"' / "turned.png").write_bytes(b"")
    assert call(model, photos, "--out", out, "--to", "coco") == 1
    found = from_coco(out / "coco.json", ABOUT)
    assert list(found) == ["a b.png"]
    np.testing.assert_array_equal(found["a b.png"], np.where(corrected == 255, 0, 3))
    last = capsys.readouterr().out.split("2 file(s) could not be done")[1]
    assert "été.png: holds 9, class ids from 0 to 3 or 255 expected; correct it" in last
    assert "turned.png: is empty; copy it again" in last


def test_overwriting_masks_removes_the_exports_of_the_old_ones(model: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert call(model, photos, "--out", out, *TO) == 0
    (out / "notes.json").write_text("mine")
    assert call(model, photos, "--out", out, "--overwrite", "--flip") == 0
    assert contents(out).keys() == {"predict.json", "notes.json"}


def test_what_cannot_be_written_is_said_first(
    model: Path, ordinary: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert call(ordinary, photos, "--out", out, "--to", "cvat") == 2
    assert "--to cvat: it cannot hold the class 'a:b': no colon" in capsys.readouterr().err
    assert call(model, photos, "--out", out, "--to", "coco", "--image-url", "https://host/") == 2
    assert "--to label-studio expected" in capsys.readouterr().err
    assert not out.exists()
    out.mkdir()
    (out / "coco.json").write_text("mine")
    assert call(model, photos, "--out", out, "--to", "coco") == 2
    assert f"--out {out}: coco.json is there already, and not from here" in capsys.readouterr().err
    assert (out / "coco.json").read_text() == "mine" and len(list(out.iterdir())) == 1
    assert call(model, photos, "--out", out, "--overwrite") == 0
    assert (out / "coco.json").read_text() == "mine"


def test_a_data_set_without_background(ordinary: Path, photos: Path, tmp_path: Path) -> None:
    about, out = About(["cat", "background", "a:b", "c"], None, "m"), tmp_path / "out"
    assert call(ordinary, photos, "--out", out, "--to", "coco", "label-studio") == 0
    for to in ("coco", "label-studio"):
        found = READERS[to](out / export.FILES[to][0], about)
        assert len(found) == 3
        for name, mask in found.items():
            np.testing.assert_array_equal(mask, masks_in(out)[os.path.splitext(name)[0]])


def test_names_of_photographs_that_no_list_can_hold(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = tmp_path / "photos", tmp_path / "out"
    folder.mkdir()
    for name in (b"caf\xe9.png", b"#1.png", b"good.png"):
        Image.fromarray(stripes(32, 1)).save(folder / "x.png")
        os.rename(folder / "x.png", os.fsencode(folder) + b"/" + name)
    assert call(model, folder, "--out", out, "--no-overlays", *TO) == 1
    last = capsys.readouterr().out.split("2 file(s) could not be done")[1]
    assert "caf\\udce9.png: a name that is not UTF-8; rename it" in last
    assert "#1.png: a name that CVAT's list of photographs cannot hold; rename it" in last
    assert list(from_coco(out / "coco.json", ABOUT)) == ["#1.png", "good.png"]
    assert list(from_cvat(out / "cvat.zip", ABOUT)) == ["good"]
    assert len(list(out.glob("*.png"))) == 3


# ------------------------------------------------------------------------------- others' readers, where installed


def test_the_sdk_of_label_studio_writes_and_reads_the_same() -> None:
    sdk = pytest.importorskip("label_studio_sdk.converter.brush", reason="needs the extra `readers`")
    for seed in range(6):
        inside = np.random.default_rng(seed).random((17, 23)) < seed / 5
        stream = brush.encode(inside).tolist()
        assert stream == sdk.mask2rle(inside.astype(np.uint8) * 255)
        np.testing.assert_array_equal(sdk.decode_rle(stream).reshape(17, 23, 4)[..., 3] > 0, inside)


def test_datumaro_reads_what_is_for_cvat(tmp_path: Path) -> None:
    datumaro = pytest.importorskip("datumaro", reason="needs the extra `readers`")
    labels = np.random.default_rng(0).integers(0, 4, (20, 30)).astype(np.uint8)
    for about in (ABOUT, ALL):
        cvat.write(tmp_path, [Labelled(tmp_path / "d/a.jpg", "d/a.jpg", labels)], about)
        with zipfile.ZipFile(tmp_path / "cvat.zip") as archive:
            archive.extractall(tmp_path / str(about.background))
        (item,) = datumaro.Dataset.import_from(str(tmp_path / str(about.background)), "voc_segmentation")
        found, names = canvas(about, 20, 30), cvat.labelmap(about).splitlines()[1:]
        for one in item.annotations:
            found[one.image] = about.names.index(names[one.label].partition(":")[0])
        assert item.id == "d/a"
        np.testing.assert_array_equal(found, labels)
