"""Label Studio's exports, written by hand from its documentation and as its SDK writes them: test_exports.py has what
it shares with other tools."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exported import H, W, data_of, looked, problems, tagged, validated, write_photographs
from test_exports import studio_task, write

from pipeline.annotations.brush import encode
from pipeline.datasets import label_studio
from pipeline.datasets.studio_tasks import names_of

SIZE = {"original_width": W, "original_height": H, "image_rotation": 0}
META = {"annotator": 1, "annotation_id": 5, "created_at": "2026-01-01", "updated_at": "2026-01-01", "lead_time": 3.5}


def percent(x: float, y: float) -> list[float]:
    return [x / W * 100, y / H * 100]


SQUARE = [percent(10, 4), percent(30, 4), percent(30, 24), percent(10, 24)]


def polygon(label: str, points: object = SQUARE, **more: object) -> dict[str, Any]:
    value = {"points": points, "closed": True, "polygonlabels": [label]}
    return {"type": "polygonlabels", "from_name": "label", "to_name": "image", "value": value, **SIZE, **more}


def choices(*names: str) -> dict[str, Any]:
    return {"type": "choices", "from_name": "kind", "to_name": "image", "value": {"choices": [*names]}}


def square(value: int, x: slice = slice(10, 30), y: slice = slice(4, 24)) -> np.ndarray:
    mask = np.zeros((H, W), np.uint8)
    mask[y, x] = value
    return mask


def project(path: Path, tasks: list[Any]) -> Path:
    return write(path, json.dumps(tasks))


def test_which_annotation_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The ground truth, else the latest; none that was skipped. Nothing in it is a negative, no annotation nothing."""
    write_photographs(tmp_path / "photos", 6)
    cat, dog = {"result": [polygon("cat")]}, {"result": [polygon("dog")]}
    old, new = {"updated_at": "2026-01-01T10:00:00Z"}, {"updated_at": "2026-02-01T10:00:00Z"}
    each = [
        [{**cat, **old, "ground_truth": True}, {**dog, **new}],
        [{**dog, **new}, {**cat, **old}],
        [{**cat, **old}, {**dog, **new, "was_cancelled": True}],
        [{"result": [], **new}],
        [{**dog, **new, "was_cancelled": True}],
        [cat],
    ]
    tasks = [studio_task(n, None, annotations=annotations) for n, annotations in enumerate(each)]
    tasks[4]["predictions"] = [{"result": [polygon("cat")]}]
    labels = project(tmp_path / "project.json", tasks)
    inventory, masks = looked(data_of("label-studio", tmp_path / "photos", labels, untagged="drop"), tmp_path / "out")
    found = tagged(inventory)
    assert found == {**found, "p0": {"cat"}, "p1": {"dog"}, "p2": {"cat"}, "p3": set(), "p5": {"cat"}}
    assert sorted(masks) == ["p0", "p1", "p2", "p3", "p5"] and not masks["p3"].any()
    said = capsys.readouterr().out
    assert "2 tasks have several annotations; the ground truth, or the latest, counts" in said
    assert "1 tasks have predictions alone, which are no annotations" in said
    assert "says nothing about 1 photographs (p4)" in said


def test_all_regions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Later ones lie on top; what draws no mask is a tag."""
    write_photographs(tmp_path / "photos", 6)
    bits = square(1) > 0
    brush = {"format": "rle", "rle": encode(bits).tolist(), "brushlabels": ["cat"]}
    round_ = {"x": 50, "y": 50, "radiusX": 16 / W * 100, "radiusY": 4 / H * 100, "rotation": 90}
    box = {"x": 1, "y": 1, "width": 9, "height": 9, "rotation": 0}
    outline = {"type": "polygon", "id": "a", "value": {"points": SQUARE}, **SIZE}
    half = [*SQUARE[:2], percent(30, 14), percent(10, 14)]
    other = [{"type": "textarea"}, {"type": "brush", "id": "b", "value": {"rle": []}}, choices("bad")]
    other[2]["value"] = {"points": SQUARE, "choices": ["bad"]}
    each = [
        [{"type": "brushlabels", "value": brush, **SIZE}, polygon("dog", half)],
        [{"type": "ellipselabels", "value": {**round_, "ellipselabels": ["dog"]}, **SIZE}],
        [{"type": "rectanglelabels", "value": {**box, "rectanglelabels": ["dog"]}, **SIZE}, choices("cat")],
        [outline, {**outline, "type": "labels", "value": {"points": SQUARE, "labels": ["cat", "dog"]}}],
        [{"type": "keypointlabels", "value": {"x": 1, "y": 1, "width": 1, "keypointlabels": ["dog"]}, **SIZE}],
        [polygon("cat"), *other, polygon("dog", half[:2])],
    ]
    labels = project(tmp_path / "project.json", [studio_task(n, results) for n, results in enumerate(each)])
    inventory, masks = looked(data_of("label-studio", tmp_path / "photos", labels), tmp_path / "out")
    np.testing.assert_array_equal(masks["p0"], square(1) + square(1, y=slice(4, 14)))
    y, x = np.mgrid[:H, :W] + 0.5
    upright = ((x - W / 2) / 4) ** 2 + ((y - H / 2) / 16) ** 2 <= 1
    np.testing.assert_array_equal(masks["p1"], upright * 2)
    np.testing.assert_array_equal(masks["p3"], square(1))
    np.testing.assert_array_equal(masks["p5"], square(1))
    both = {"cat", "dog"}
    assert tagged(inventory) == {"p0": both, "p1": {"dog"}, "p2": both, "p3": both, "p4": {"dog"}, "p5": both}
    said = capsys.readouterr().out
    for line in ("1 boxes draw no mask", "1 points draw no mask", "1 polygons of fewer than three points draw no mask"):
        assert line in said, said
    for line in ("1 choices of single regions left out", "1 results of type 'textarea' without a label left out"):
        assert line in said, said


def test_json_min_and_tables_say_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A control's column in its short form, as the SDK's `prettify_result` writes it: one choice is a word, several are
    a block, regions are a list. The task's own columns are none."""
    write_photographs(tmp_path / "photos", 5)
    region = {**SIZE, "points": SQUARE, "closed": True, "polygonlabels": ["cat"]}
    rows = [
        {"id": n, "image": f"/data/upload/1/0a1b2c3d-p{n}.jpg", "source": f"camera {n}", "depth": f"{n}.5"}
        for n in range(5)
    ]
    rows = [{**row, "project": "a ward", **META} for row in rows]
    rows[0] |= {"kind": "dog", "label": [region]}
    rows[1] |= {"kind": {"choices": ["cat", "dog"]}}
    rows[2] |= {"kind": "cat"}
    rows[3] |= {"kind": "dog"}  # of p4 nothing: it shows none of the classes
    later = {**rows[3], "kind": "cat", "updated_at": "2026-02-01"}
    small = project(tmp_path / "min.json", [*rows, later])
    columns = sorted({key for row in rows for key in row})
    for suffix, separator in ((".csv", ","), (".tsv", "\t")):
        with (tmp_path / f"table{suffix}").open("w", newline="") as file:
            writer = csv.DictWriter(file, columns, quoting=csv.QUOTE_NONNUMERIC, delimiter=separator)
            writer.writeheader()
            for row in [*rows, later]:
                writer.writerow({k: v if isinstance(v, str | int | float) else json.dumps(v) for k, v in row.items()})
    both = {"cat", "dog"}
    for labels in (small, tmp_path / "table.csv", tmp_path / "table.tsv"):
        assert label_studio.recognised(labels)
        inventory, masks = looked(
            data_of("label-studio", tmp_path / "photos", labels), tmp_path / f"out{labels.suffix}"
        )
        assert tagged(inventory) == {"p0": both, "p1": both, "p2": {"cat"}, "p3": {"cat"}, "p4": set()}, labels
        assert sorted(masks) == ["p0", "p4"] and not masks["p4"].any()
        np.testing.assert_array_equal(masks["p0"], square(1))
        said = capsys.readouterr().out
        found = re.search("columns read as labels: (.*); not read: (.*)", said)
        assert found and [{*part.split(", ")} for part in found.groups()] == [
            {"kind", "label"},
            {"depth", "project", "source"},
        ]


def test_run_lengths_in_a_table_may_be_long(tmp_path: Path) -> None:
    """Longer than the 131,072 characters that Python's csv reads at once, whose limit stays as it was."""
    write_photographs(tmp_path / "photos", 4)
    before = csv.field_size_limit()
    region = {**SIZE, "format": "rle", "rle": [*encode(square(1) > 0).tolist(), *[0] * 100_000], "brushlabels": ["cat"]}
    with (tmp_path / "table.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "brush", *META])
        for n in range(4):
            writer.writerow([f"p{n}.jpg", json.dumps([region]), *META.values()])
    _, masks = looked(data_of("label-studio", tmp_path / "photos", tmp_path / "table.csv"), tmp_path / "out")
    np.testing.assert_array_equal(masks["p3"], square(1))
    assert csv.field_size_limit() == before


@pytest.mark.parametrize(
    ("address", "names"),
    [
        ("/data/upload/1/0a1b2c3d-my%20cat.jpg", ["/data/upload/1/0a1b2c3d-my cat.jpg", "my cat.jpg"]),
        ("/data/local-files/?d=pets/a%20b%2Fcat.jpg", ["pets/a b/cat.jpg"]),
        ("https://x.org/a/cat.jpg?sig=1%2F2#x", ["/a/cat.jpg"]),
        ("s3://bucket/a/cat.png", ["/a/cat.png"]),
        ("a/cat.jpg", ["a/cat.jpg"]),
        ("100%25#1.jpg", ["100%#1.jpg", "100%25#1.jpg"]),
        ("http://[broken/cat.jpg", ["http://[broken/cat.jpg"]),
        ("https://x.org/cat", []),
    ],
)
def test_names_of_photographs(address: str, names: list[str]) -> None:
    assert [*names_of({"text": "about it", "other": address}, None)] == names
    assert [*names_of({}, "0a1b2c3d-cat.jpg")] == ["0a1b2c3d-cat.jpg", "cat.jpg"]


def test_a_name_that_looks_uploaded_is_taken_as_it_is_first(tmp_path: Path) -> None:
    write_photographs(tmp_path / "photos", 4)
    for n in range(4):
        (tmp_path / f"photos/p{n}.jpg").rename(tmp_path / f"photos/0a1b2c3d-p{n}.jpg")
    results = [[polygon("cat")], [polygon("dog")], [polygon("cat")], [polygon("dog")]]
    labels = project(tmp_path / "val/project.json", [studio_task(n, one) for n, one in enumerate(results[:2])])
    other = project(tmp_path / "train.json", [studio_task(n + 2, one) for n, one in enumerate(results[2:])])
    inventory, masks = looked(data_of("label-studio", tmp_path / "photos", labels, other), tmp_path / "out")
    assert [*masks] == [f"0a1b2c3d-p{n}" for n in (2, 3, 0, 1)]
    assert validated(inventory) == ["0a1b2c3d-p0", "0a1b2c3d-p1"]


def value(**change: object) -> dict[str, Any]:
    return {"annotations": [{"result": [{**polygon("cat"), "value": {"polygonlabels": ["cat"], **change}}]}]}


def region(kind: str, about: dict[str, Any] = SIZE, **change: object) -> dict[str, Any]:
    return {"annotations": [{"result": [{"type": kind, "value": {kind: ["cat"], **change}, **about}]}]}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"data": {"text": "no photograph"}}, "task 0 has no photograph in its data"),
        ({"data": {"image": ["a.jpg", "b.jpg"]}}, "task 0 has no photograph in its data"),
        ({"data": {"image": "gone.jpg"}}, "'gone' has no photograph"),
        ({"annotations": 3}, "task 0 has no list `annotations`"),
        ({"annotations": [{"result": None}]}, "task 0 has an annotation without a list `result`"),
        ({"annotations": [{}]}, "task 0 has an annotation without a list `result`"),
        ({"annotations": [{"result": [polygon("cat", image_rotation=90)]}]}, "drawn on a turned picture"),
        ({"annotations": [{"result": [polygon("cat"), polygon("cat", original_width=9)]}]}, "of another size"),
        ({"annotations": [{"result": [polygon("cat", original_width=10**9)]}]}, "pixels expected"),
        (value(points=[[1, 2], ["x", 3], [4, 4]]), "has a polygonlabels of 'cat' that has points that are none"),
        (value(points=[[1, 2], [float("inf"), 3], [4, 4]]), "has points that are none"),
        (value(points=[[1, 2], [1e300, 3], [4, 4]]), "one that no picture has"),
        (region("brushlabels", rle=[1, 2, 300]), "run lengths that are no numbers from 0 to 255"),
        (region("brushlabels", rle=[1, 2, 3]), "a brush region: "),
        (region("brushlabels", rle="abc"), "run lengths that are no numbers from 0 to 255"),
        (region("brushlabels", {}, rle=[1, 2, 3]), "lacks original_width and original_height"),
        (region("bitmasklabels", imageDataURL="data:image/png"), "has no picture in its imageDataURL"),
        (region("bitmasklabels", imageDataURL="data:image/png;base64,AAAA"), "cannot identify its format"),
        (region("ellipselabels", x=1, y=2, radiusX="wide", radiusY=3), "has radii that are none"),
    ],
)
def test_what_is_wrong_is_named_with_the_file(change: dict[str, Any], says: str, tmp_path: Path) -> None:
    write_photographs(tmp_path / "photos", 4)
    tasks = [studio_task(n, [polygon("cat")]) for n in range(4)]
    labels = project(tmp_path / "project.json", [{**tasks[0], **change}, *tasks[1:]])
    said = problems(data_of("label-studio", tmp_path / "photos", labels))
    assert says in said and "project.json" in said, said


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", "[]"),
        ("a.json", "{}"),
        ("a.json", '[{"id": 1}]'),
        ("a.json", '{"images": [], "annotations": [], "categories": []}'),
        ("a.csv", ""),
        ("a.csv", "image,kind\np0.jpg,cat\n"),
        ("a.csv", 'image,annotator\np0.jpg,"cat\n'),
    ],
)
def test_what_is_none_of_its_exports_is_refused(name: str, text: str, tmp_path: Path) -> None:
    found = label_studio.read([write(tmp_path / name, text)]).problems
    assert (len(found) == 1 and name in found[0] and "export it again" in found[0]) or "export it as JSON" in found[0]


def test_equal_problems_are_one(tmp_path: Path) -> None:
    write_photographs(tmp_path / "photos", 30)
    tasks = [studio_task(n, [polygon("cat", image_rotation=90)]) for n in range(30)]
    said = problems(data_of("label-studio", tmp_path / "photos", project(tmp_path / "project.json", tasks)))
    assert "[and 29 more: 1, 2, 3, 4, 5, …]" in said and len(said) < 1000, said


CONFIG = """<View><Image name="image" value="$image"/>
<PolygonLabels name="label" toName="image"><Label value="cat"/><Label value="dog"/></PolygonLabels>
<BrushLabels name="brush" toName="image"><Label value="cat"/><Label value="dog"/></BrushLabels>
<Choices name="kind" toName="image" choice="multiple"><Choice value="cat"/><Choice value="dog"/></Choices></View>"""


def test_what_its_own_sdk_makes_of_an_export_says_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """JSON-MIN, CSV and TSV as the tool writes them."""
    converter = pytest.importorskip("label_studio_sdk.converter", reason="needs the extra `readers`")
    write_photographs(tmp_path / "photos", 6)
    brush = {"format": "rle", "rle": encode(square(1, slice(32, 50)) > 0).tolist(), "brushlabels": ["dog"]}
    painted = {"type": "brushlabels", "from_name": "brush", "to_name": "image", "value": brush, **SIZE}
    each = [[polygon("cat")], [painted, polygon("cat")], [choices("cat")], [choices("cat", "dog")], []]
    each += [[choices("dog"), polygon("cat")]]
    tasks = [studio_task(n, results) for n, results in enumerate(each)]
    for task in tasks:
        task["data"]["note"] = f"the {task['id']}th"
        task["annotations"][0] |= {"updated_at": "2026-01-01", "created_at": "2026-01-01", "lead_time": 1.0}
        task["annotations"][0]["completed_by"] = {"id": 1, "email": "a@b.org"}
        for number, result in enumerate(task["annotations"][0]["result"]):
            result["id"] = f"r{number}"
    full = project(tmp_path / "project.json", tasks)
    data = data_of("label-studio", tmp_path / "photos", full)
    wanted, masks = looked(data, tmp_path / "out")
    assert len(masks) == 4
    theirs = converter.Converter(str(write(tmp_path / "config.xml", CONFIG)), str(tmp_path), download_resources=False)
    for form in ("JSON", "JSON_MIN", "CSV", "TSV"):
        theirs.convert(str(full), str(tmp_path / form), form, is_dir=False)
        (file,) = (path for path in (tmp_path / form).rglob("*") if path.is_file())
        found, again = looked(data_of("label-studio", tmp_path / "photos", file), tmp_path / f"out {form}")
        assert tagged(found) == tagged(wanted), form
        assert [*again] == [*masks], form
        for name, mask in masks.items():
            np.testing.assert_array_equal(again[name], mask, err_msg=form)
    assert capsys.readouterr().out.count("1 rows have regions of several controls, and not which lies on which") == 3
