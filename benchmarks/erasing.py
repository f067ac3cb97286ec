"""Erasing looked at closely: what each round took, and which regime a criterion without masks would choose.

    python -m benchmarks.erasing rounds results/voc_mini SEEDS.json ...
    python -m benchmarks.erasing regimes results/voc_mini SEEDS.json ... [--json FILE]

`rounds`: share of the area that each round claimed, and how much of it truly belongs to its class, on the images of
split `score`, over the pixels that are not void.

`regimes`: a line per seeds artifact, and of those of a first maker (CAM, excitation) one per reading and threshold.
The criterion, named before the study was run: AGREEMENT WITH SALIENCY, the mean over all training photographs of the
IoU between what is claimed for any tag and the salient region (Otsu's threshold of the photograph's saliency). It
needs no masks. Beside it what masks say: mIoU of what is claimed, precision and recall of the claimed foreground; and
over all lines the rank correlation (Spearman) of the criterion with mIoU.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from skimage.filters import threshold_otsu

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.claims import rank_correlation
from pipeline.core import metrics, store
from pipeline.core.steps.base import Claims
from pipeline.kinds import classes, masks, photographs, seeds
from pipeline.kinds.pixels import VOID, from_grid, resize_nearest

SWEEP = [("of_max", t / 20) for t in range(2, 18)]
SWEEP += [("top_pixels", t) for t in (0.05, 0.1, 0.15, 0.2, 0.3, 0.4)]
SWEEP += [("top_of_max", t) for t in (0.1, 0.2, 0.3, 0.4)]


def rounds(pictures: store.Artifact, truths: store.Artifact, source: store.Artifact) -> np.ndarray:
    """Pixels taken, pixels taken rightly, and all pixels, for each round: int64 [rounds, 3]."""
    counts = np.zeros((len(source.meta["rounds"]), 3), np.int64)
    has = masks.has_mask(truths)
    for i in photographs.split(pictures, "score"):
        ids, _, claimed = seeds.at_pixels(source, pictures, i)
        if not has[i] or not len(ids):
            continue
        truth = resize_nearest(masks.true_mask(truths, i), *pictures["size"][i])
        for k in range(len(counts)):
            taken = (claimed == k + 1) & (truth != VOID)
            counts[k] += taken.sum(), (taken & (truth == ids[:, None, None])).sum(), (truth != VOID).sum()
    return counts


def claims_of(source: store.Artifact, pictures: store.Artifact, i: int, settings: Claims | None) -> seeds.Seeds:
    """Seeds of image i on the grid; claimed by these settings instead of the artifact's own."""
    found = seeds.on_grid(source, pictures, i)
    return found if settings is None else found._replace(claimed=seeds.claim(found.scores, settings).astype(np.uint8))


def regime(data: dict[str, Any], source: store.Artifact, settings: Claims | None) -> dict[str, Any]:
    """One line: the criterion, and what masks say."""
    pictures, truths, grid = data["photographs"], data["masks"], source.meta["grid"]
    background, count = classes.background(source), len(classes.names(source))
    scored = set(photographs.split(pictures, "score").tolist())
    agreement, area, matrix = [], [], np.zeros((count, count + 1), np.int64)
    for i in photographs.split(pictures, "train").tolist():
        h, w = pictures["size"][i]
        ids, scores, claimed = claims_of(source, pictures, i, settings)
        if not len(ids):
            continue
        region = from_grid((claimed > 0).any(0)[None].astype(np.uint8), grid, h, w)[0] > 0
        both, either = (region & data["salient"][i]).sum(), (region | data["salient"][i]).sum()
        agreement.append(both / max(either, 1))
        area.append(region.mean())
        if i in scored:
            best = ids[np.where(claimed > 0, scores, -1.0).argmax(0)]
            labels = from_grid(np.where((claimed > 0).any(0), best, background)[None].astype(np.uint8), grid, h, w)[0]
            truth = masks.true_mask(truths, i)
            matrix += metrics.confusion(truth, resize_nearest(labels, *truth.shape), count)
    front = [k for k in range(count) if k != background]
    hit = np.diag(matrix[:, :count])[front].sum()
    return {
        "agreement": round(100 * float(np.mean(agreement)), 2),
        "area": round(100 * float(np.mean(area)), 1),
        "miou": round(100 * metrics.miou(matrix, background=background), 2),
        "precision": round(100 * float(hit / max(matrix[:, front].sum(), 1)), 1),
        "recall": round(100 * float(hit / matrix[front].sum()), 1),
    }


def otsu(saliency: store.Artifact, pictures: store.Artifact, i: int) -> np.ndarray:
    h, w = pictures["size"][i]
    values = np.asarray(saliency["saliency"][i, :h, :w])
    return values > threshold_otsu(values) if values.min() < values.max() else np.zeros((h, w), bool)


def regimes(folder: Path, paths: list[Path], sweep: bool) -> Iterator[dict[str, Any]]:
    data: dict[str, Any] = {kind: store.Artifact(folder / f"{kind}.json", kind) for kind in ("photographs", "masks")}
    saliency = store.Artifact(folder / "saliency" / "saliency.json", "saliency")
    train = photographs.split(data["photographs"], "train").tolist()
    data["salient"] = {i: otsu(saliency, data["photographs"], i) for i in train}
    for path in paths:
        source = store.Artifact(path, "seeds")
        name = str(path.parent.relative_to(folder))
        own = source.manifest["settings"]
        said = {"regime": name, "reading": own["reading"], "threshold": own["threshold"]}
        yield said | {"rounds": len(source.meta["rounds"])} | regime(data, source, None)
        if sweep and len(source.meta["rounds"]) == 1:
            for reading, threshold in SWEEP:
                settings = Claims(method=own["method"], reading=reading, threshold=threshold)
                said = {"regime": name, "reading": reading, "threshold": threshold, "rounds": 1}
                yield said | regime(data, source, settings)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("rounds", "regimes"))
    parser.add_argument("folder", type=Path, help="results/<data>")
    parser.add_argument("seeds", type=Path, nargs="+", help="manifests of seeds")
    parser.add_argument("--sweep", action="store_true", help="readings and thresholds of first makers too")
    parser.add_argument("--json", type=Path, help="write the lines there")
    args = parser.parse_args()
    if args.action == "regimes":
        lines = []
        for line in regimes(args.folder, args.seeds, args.sweep):
            print(json.dumps(line), flush=True)
            lines.append(line)
        if len(lines) > 2:
            rho = rank_correlation([line["agreement"] for line in lines], [line["miou"] for line in lines])
            print(f"rank correlation of agreement with mIoU over {len(lines)} regimes: {rho:.2f}")
        if args.json:
            args.json.write_text("[\n" + ",\n".join(map(json.dumps, lines)) + "\n]\n")
        return
    pictures = store.Artifact(args.folder / "photographs.json", "photographs")
    truths = store.Artifact(args.folder / "masks.json", "masks")
    for path in args.seeds:
        source = store.Artifact(path, "seeds")
        for k, (taken, right, pixels) in enumerate(rounds(pictures, truths, source), 1):
            entry = source.meta["rounds"][k - 1]
            story = ", ".join(f"{name} {value}" for name, value in entry.items() if value != "")
            print(
                f"{path} round {k}: {taken / pixels:.1%} of the area, {right / max(taken, 1):.1%} of it right ({story})"
            )


if __name__ == "__main__":
    main()
