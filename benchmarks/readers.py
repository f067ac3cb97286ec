"""Our exports read back by readers that are not ours: the same masks, pixel for pixel?

    python -m benchmarks.readers write OUT [--model MODEL]   masks of some photographs in every format
    python benchmarks/readers.py read OUT                      with pycocotools, label-studio-sdk, datumaro installed

The two sides need nothing of each other but the folder, so that the readers can live in an environment of their own
(their versions of numpy and pandas are narrow; here they are the extra `readers`). Written are true masks of the data
sets that lie beside a checkout, voc_mini and camvid_mini, and what MODEL says of the demo's photographs, by
`python -m pipeline.predict --to`. A reader gives for each photograph a label map, painted object by object; counted
are the pixels that are as in the mask, 255 read as background where there is one. Label Studio's own check of
predictions against the labelling configuration must pass as well. Writes docs/results/readers.json and the table in
docs/formats.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
RESULTS, PAGE = ROOT / "docs" / "results" / "readers.json", ROOT / "docs" / "formats.md"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"
MOST = 60  # photographs of a set
Read = Callable[[Path, dict[str, Any]], tuple[dict[str, np.ndarray], int]]  # masks by photograph, number of objects


# --------------------------------------------------------------------------------------------------------- write


def write(out: Path, data: Path, model: Path | None) -> None:
    for name, background in (("voc_mini", 0), ("camvid_mini", None)):
        if (data / name).is_dir():
            classes = (data / name / "classes.txt").read_text().split("\n")
            known = sorted((data / name / "SegmentationClass").glob("*.png"))
            step = max(1, len(known) // MOST)
            true_masks(out / name, known[::step][:MOST], [line for line in classes if line], background)
    if model is not None:
        with tempfile.TemporaryDirectory() as folder:
            from pipeline.datasets import collage

            collage.write(Path(folder), 0, MOST, seed=1)
            words = [sys.executable, "-m", "pipeline.predict", str(model), f"{folder}/images", "--to", *FORMATS]
            subprocess.run([*words, "--out", str(out / "demo"), "--no-overlays"], cwd=ROOT, check=True)
        record = json.loads((out / "demo" / "predict.json").read_text())
        save_about(out / "demo", record["classes"], 0)


def true_masks(out: Path, masks: list[Path], classes: list[str], background: int | None) -> None:
    from pipeline.annotations import export
    from pipeline.annotations.labelled import About
    from pipeline.core.durable import write_atomic
    from pipeline.datasets.pictures import read_mask

    for mask in masks:
        write_atomic(out / mask.name, mask.read_bytes())
    photos = [export.Masked(out / f"{mask.stem}.jpg", f"{mask.stem}.jpg", out / mask.name) for mask in masks]
    said, failed = export.assemble(FORMATS, out, photos, About(classes, background, "true masks", [out]), read_mask)
    print("\n".join(said))
    assert not failed, failed
    save_about(out, classes, background)


def save_about(out: Path, classes: list[str], background: int | None) -> None:
    (out / "about").write_text(json.dumps({"classes": classes, "background": background}))


# ---------------------------------------------------------------------------------------------------------- read


def empty(about: dict[str, Any], height: int, width: int) -> np.ndarray:
    return np.full((height, width), 255 if about["background"] is None else about["background"], np.uint8)


def stem(file: str) -> str:
    return str(Path(file).with_suffix(""))


def pycocotools(folder: Path, about: dict[str, Any]) -> tuple[dict[str, np.ndarray], int]:
    from pycocotools.coco import COCO

    found, masks = COCO(str(folder / "coco.json")), {}
    for number, image in found.imgs.items():
        masks[stem(image["file_name"])] = mask = empty(about, image["height"], image["width"])
        for one in found.loadAnns(found.getAnnIds(imgIds=number)):
            mask[found.annToMask(one) == 1] = about["classes"].index(found.cats[one["category_id"]]["name"])
    return masks, len(found.anns)


def label_studio(folder: Path, about: dict[str, Any]) -> tuple[dict[str, np.ndarray], int]:
    from label_studio_sdk.converter import brush
    from label_studio_sdk.label_interface import LabelInterface

    interface = LabelInterface((folder / "label-studio.xml").read_text())
    masks, objects = {}, 0
    for task in json.loads((folder / "label-studio.json").read_text()):
        (prediction,) = task["predictions"]
        wrong = interface.validate_prediction(prediction, return_errors=True)
        assert not wrong, wrong
        name = unquote(task["data"]["image"].split("/")[-1])
        for region in prediction["result"]:
            height, width = region["original_height"], region["original_width"]
            mask = masks.setdefault(stem(name), empty(about, height, width))
            rgba = np.reshape(brush.decode_rle(region["value"]["rle"]), (height, width, 4))
            mask[rgba[..., 3] > 0] = about["classes"].index(region["value"]["brushlabels"][0])
            objects += 1
    return masks, objects


def datumaro(folder: Path, about: dict[str, Any]) -> tuple[dict[str, np.ndarray], int]:
    from datumaro import AnnotationType, Dataset

    masks, objects = {}, 0
    with tempfile.TemporaryDirectory() as inside:
        zipfile.ZipFile(folder / "cvat.zip").extractall(inside)
        found = Dataset.import_from(inside, "voc_segmentation")
        names = [label.name for label in found.categories()[AnnotationType.label]]
        for item in found:
            for one in item.annotations:
                mask = masks.setdefault(item.id, empty(about, *one.image.shape))
                mask[one.image.astype(bool)] = about["classes"].index(names[one.label])
                objects += 1
    return masks, objects


def datumaro_coco(folder: Path, about: dict[str, Any]) -> tuple[dict[str, np.ndarray], int]:
    """Polygons are filled by pycocotools: datumaro leaves them as they are."""
    from datumaro import AnnotationType, Dataset
    from pycocotools import mask as rle

    masks, objects = {}, 0
    with tempfile.TemporaryDirectory() as inside:
        (Path(inside) / "annotations").mkdir()
        (Path(inside) / "images").mkdir()  # empty: sizes are in the file
        (Path(inside) / "annotations" / "instances_default.json").write_bytes((folder / "coco.json").read_bytes())
        found = Dataset.import_from(inside, "coco_instances")
        names = [label.name for label in found.categories()[AnnotationType.label]]
        for item in found:
            masks[item.id] = mask = empty(about, *item.media.size)
            for one in item.annotations:
                if one.type is AnnotationType.bbox:
                    continue
                polygon = one.type is AnnotationType.polygon
                shape = rle.decode(rle.frPyObjects([one.points], *mask.shape))[..., 0] if polygon else one.image
                mask[shape.astype(bool)] = about["classes"].index(names[one.label])
                objects += 1
    return masks, objects


def outlines(folder: Path) -> dict[str, int]:
    """How many objects of coco.json are run lengths, and how many of those have no hole: polygons that failed."""
    import cv2
    from pycocotools import mask as rle

    shapes = [one["segmentation"] for one in json.loads((folder / "coco.json").read_text())["annotations"]]
    packed = [rle.decode(shape) for shape in shapes if isinstance(shape, dict)]
    rings = [len(cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)[0]) for mask in packed]
    return {"run_lengths": len(rings), "without_hole": rings.count(1)}


READERS: list[tuple[str, str, Read]] = [
    ("coco", "pycocotools", pycocotools),
    ("coco", "datumaro", datumaro_coco),
    ("label-studio", "label-studio-sdk", label_studio),
    ("cvat", "datumaro", datumaro),
]
FORMATS = list(dict.fromkeys(to for to, _, _ in READERS))


def read(out: Path) -> list[dict[str, Any]]:
    rows = []
    for folder in sorted(path.parent for path in out.glob("*/about")):
        about = json.loads((folder / "about").read_text())
        truth = {path.stem: np.asarray(Image.open(path)) for path in sorted(folder.glob("*.png"))}
        for to, package, reader in READERS:
            masks, objects = reader(folder, about)
            same = total = 0
            for name, mask in truth.items():
                expected = np.where(mask == 255, about["background"], mask) if about["background"] is not None else mask
                same += int((masks.get(name, empty(about, *mask.shape)) == expected).sum())
                total += mask.size
            rows.append(
                {
                    "format": to,
                    "read_by": package,
                    "version": version(package),
                    "masks": folder.name,
                    "photographs": len(truth),
                    "classes": len(about["classes"]),
                    "objects": objects,
                    **(outlines(folder) if to == "coco" else {}),
                    "pixels": total,
                    "agree": same,
                }
            )
            print(rows[-1], flush=True)
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    lines = ["| format | read by | masks of | photographs | objects | pixels that agree |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {row['format']} | {row['read_by']} {row['version']} | {row['masks']} | {row['photographs']} "
        f"| {row['objects']:,} | {row['agree']:,} of {row['pixels']:,} |"
        for row in rows
    ]
    return "\n".join(["", *lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["write", "read"])
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="where data sets lie")
    parser.add_argument("--model", type=Path, help="a model of the demo's classes")
    args = parser.parse_args()
    if args.what == "write":
        write(args.out, args.data, args.model)
        return
    rows = read(args.out)
    RESULTS.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(before + BEGIN + "\n" + table(rows) + "\n" + END + rest.partition(END)[2])


if __name__ == "__main__":
    main()
