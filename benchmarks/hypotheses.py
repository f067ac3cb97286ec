"""How good and how fast hypotheses are, on photographs whose masks are known (layout of PASCAL VOC).

    python benchmarks/hypotheses.py VOC_FOLDER --list train --count 100 --sides 192 500

Resizes each photograph to a longer side, looks for hypotheses with the settings of the pipeline, and compares them with
the objects: connected parts of a class that cover at least 1 % of the photograph; void pixels count for nothing. For
the best 10, 50 and all hypotheses of a photograph it prints the share of the objects that one of them meets with IoU
0.5 or more (recall), and each object's best IoU averaged over the objects of a class, then over classes (ABO); for
segments and for boxes. Seconds are CPU time: set OMP_NUM_THREADS=1.

--peer: also OpenCV's selective search (pip install opencv-contrib-python-headless), which gives boxes only, in its own
order, after the same filters. A side beyond a file's own enlarges it: smoother than a photograph of this size.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy import ndimage

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from pipeline.core.steps.seeds import Hypotheses  # noqa: E402
from pipeline.hypotheses import distinct, fit, iou, search  # noqa: E402
from pipeline.kinds.pixels import VOID  # noqa: E402

SMALLEST = 0.01  # share of the photograph that an object covers at least
BEST = (10, 50, 10**6)
Boxes, Segments = np.ndarray, list[np.ndarray]


class Thing(NamedTuple):
    name: str
    mask: np.ndarray  # bool [h,w]
    box: np.ndarray


def objects(labels: np.ndarray, names: list[str]) -> list[Thing]:
    found = []
    for k in sorted(set(np.unique(labels).tolist()) - {0, VOID}):
        parts, _ = ndimage.label(labels == k)
        for number, (y, x) in enumerate(ndimage.find_objects(parts), 1):
            mask = parts == number
            if mask.mean() >= SMALLEST:
                found.append(Thing(names[k], mask, np.array([y.start, x.start, y.stop, x.stop])))
    return found


def segment_overlaps(thing: Thing, boxes: Boxes, segments: Segments, known: np.ndarray) -> np.ndarray:
    """IoU of an object with each segment. known: where the mask is not void."""
    area, overlaps = thing.mask.sum(), []
    for (y0, x0, y1, x1), segment in zip(boxes, segments, strict=True):
        inside = segment & known[y0:y1, x0:x1]
        both = (inside & thing.mask[y0:y1, x0:x1]).sum()
        overlaps.append(both / (inside.sum() + area - both))
    return np.array(overlaps)


def ours(rgb: np.ndarray) -> tuple[Boxes, Segments | None]:
    found = search(rgb, Hypotheses())
    return found.boxes, list(found.segments)


def peer(rgb: np.ndarray) -> tuple[Boxes, Segments | None]:
    import cv2

    cv2.setNumThreads(1)
    cv2.setRNGSeed(0)
    selective = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
    selective.setBaseImage(np.ascontiguousarray(rgb[..., ::-1]))
    selective.switchToSelectiveSearchFast()
    x, y, width, height = selective.process().astype(np.int64).T
    boxes, settings = np.stack([y, x, y + height, x + width], 1), Hypotheses()
    boxes = boxes[fit(boxes, (rgb.shape[0], rgb.shape[1]), settings.smallest, settings.slimmest)]
    boxes = boxes[(boxes[:, 2:] - boxes[:, :2] < rgb.shape[:2]).any(1)]
    return boxes[distinct(boxes, settings.overlap, settings.most)], None


def measure(
    title: str, look: Callable[[np.ndarray], tuple[Boxes, Segments | None]], folder: Path, stems: list[str], side: int
) -> dict[str, float]:
    """Prints a line a kind of overlap; returns the ABO of every class for all hypotheses, segments if there are."""
    names = (folder / "classes.txt").read_text().split("\n")
    seconds, counts, classes = [], [], []
    overlaps: dict[str, list[np.ndarray]] = {"segments": [], "boxes": []}
    for stem in stems:
        photograph = Image.open(folder / "JPEGImages" / f"{stem}.jpg").convert("RGB")
        size = tuple(max(1, round(length * side / max(photograph.size))) for length in photograph.size)
        rgb = np.asarray(photograph.resize(size, Image.Resampling.BICUBIC))
        mask = Image.open(folder / "SegmentationClass" / f"{stem}.png")
        labels = np.asarray(mask.resize(size, Image.Resampling.NEAREST))
        start = time.process_time()
        boxes, segments = look(rgb)
        seconds.append(time.process_time() - start)
        counts.append(len(boxes))
        for thing in objects(labels, names):
            classes.append(thing.name)
            overlaps["boxes"].append(iou(boxes, thing.box))
            if segments is not None:
                overlaps["segments"].append(segment_overlaps(thing, boxes, segments, labels != VOID))
    per_class: dict[str, float] = {}
    for kind, table in overlaps.items():
        cells = []
        for best in BEST if table else ():
            highest = np.array([row[:best].max(initial=0) for row in table])
            means = {name: float(highest[np.array(classes) == name].mean()) for name in sorted(set(classes))}
            cells.append(f"{(highest >= 0.5).mean():.3f} / {np.mean(list(means.values())):.3f}")
        if table:
            per_class = per_class or means
            timing = f"{np.median(seconds):.2f} / {np.quantile(seconds, 0.9):.2f}"
            print(
                f"| {title} | {side} | {timing} | {np.median(counts):.0f} | {kind} | {' | '.join(cells)} |", flush=True
            )
    return per_class


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--list", default="train", help="of ImageSets/Segmentation")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--sides", type=int, nargs="+", default=[192, 500])
    parser.add_argument("--peer", action="store_true")
    args = parser.parse_args()
    stems = (args.folder / "ImageSets" / "Segmentation" / f"{args.list}.txt").read_text().split()
    stems = [stems[i] for i in sorted(np.random.default_rng(0).permutation(len(stems))[: args.count])]
    print("| | side | s, median / 90 % | hypotheses | of | recall / ABO: best 10 | best 50 | all |")
    print("|---|---|---|---|---|---|---|---|")
    found = {}
    for side in args.sides:
        found[side] = measure("ours", ours, args.folder, stems, side)
        if args.peer:
            measure("OpenCV fast", peer, args.folder, stems, side)
    print("\n| ABO of segments | " + " | ".join(map(str, found)) + " |\n|---|" + "---|" * len(found))
    for name in next(iter(found.values())):
        print(f"| {name} | " + " | ".join(f"{values[name]:.3f}" for values in found.values()) + " |")


if __name__ == "__main__":
    main()
