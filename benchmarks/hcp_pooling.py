"""What HCP gives away by reading hypotheses from one pass: against the network run on each hypothesis, as in the paper.

    python -m benchmarks.hcp_pooling results/<data set> results/<data set>/seed0/imagenet/hypotheses/hcp/classifier.json

Of photographs of the scored list, evenly spaced, the best hypotheses in objectness are scored for each tag twice by the
same classifier: as the mean of the feature map inside the box (pipeline/vote.py), and by cutting the box out and
resizing it to the training crop. Prints, over photographs and their tags: Pearson's r of the scores of a photograph's
hypotheses, the share in which both ways have the same best hypothesis, the overlap (IoU) of the two best boxes, how
well each one's best box and the mean of its five best fit the true mask's box, and the seconds of one thread that a
photograph costs. The classifier was trained with either way (`--name` says which folder its hypotheses lie in).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from pipeline.core import store
from pipeline.kinds import hypotheses, masks, photographs
from pipeline.kinds import tags as said
from pipeline.kinds.pixels import VOID, resize_image, resize_nearest
from pipeline.networks.classifier import Classifier, load_classifier
from pipeline.networks.pictures import to_tensor
from pipeline.networks.regions import means
from pipeline.networks.states import for_inference

BATCH = 10  # cut-outs at once

Scorer = Callable[[Classifier, np.ndarray, np.ndarray], np.ndarray]  # photograph, boxes [M,4] → linear scores [M,F]


@torch.no_grad()
def from_one_pass(model: Classifier, rgb: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    x = model.trunk.whole(to_tensor(rgb)[None])
    maps = model.maps(x)
    return means(maps, torch.from_numpy(boxes)[None], x.shape[2] / maps.shape[2])[0].numpy()


def from_cut_outs(side: int) -> Scorer:
    """Boxes cut out and resized to this side, as HCP does."""

    @torch.no_grad()
    def score(model: Classifier, rgb: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        parts = np.stack([resize_image(rgb[y0:y1, x0:x1], side, side) for y0, x0, y1, x1 in boxes.tolist()])
        batches = [parts[k : k + BATCH] for k in range(0, len(parts), BATCH)]
        return np.concatenate([model(to_tensor(batch)).numpy() for batch in batches])

    return score


def overlaps(boxes: np.ndarray, one: np.ndarray) -> np.ndarray:
    """IoU of boxes [M,4] with one box: [M]."""
    sides = (np.minimum(boxes[:, 2:], one[2:]) - np.maximum(boxes[:, :2], one[:2])).clip(min=0)
    inside = sides.prod(1)
    return inside / ((boxes[:, 2:] - boxes[:, :2]).prod(1) + (one[2:] - one[:2]).prod() - inside)


def box_of(region: np.ndarray) -> np.ndarray | None:
    """The box around a region bool [h,w], None where it is empty."""
    rows, columns = np.flatnonzero(region.any(1)), np.flatnonzero(region.any(0))
    return np.array([rows[0], columns[0], rows[-1] + 1, columns[-1] + 1]) if len(rows) else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with photographs.json, tags.json, masks.json")
    parser.add_argument("classifier", type=Path)
    parser.add_argument("--hypotheses", type=Path, help="manifest (data/hypotheses/hypotheses.json)")
    parser.add_argument("--count", type=int, default=50, help="photographs")
    parser.add_argument("--most", type=int, default=50, help="hypotheses of each")
    parser.add_argument("--side", type=int, help="of a cut-out, pixels (the classifier's crop)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    pictures, truths = (store.Artifact(args.data / f"{kind}.json", kind) for kind in ("photographs", "masks"))
    slots = said.slots(store.Artifact(args.data / "tags.json", "tags"))
    source = store.Artifact(args.hypotheses or args.data / "hypotheses" / "hypotheses.json", "hypotheses")
    classifier = store.Artifact(args.classifier, "classifier")
    model = for_inference(load_classifier(classifier), "cpu")
    side = args.side or classifier.manifest["settings"]["crop"]
    rows = photographs.split(pictures, "score")
    ways: dict[str, Scorer] = {"one pass": from_one_pass, "cut-outs": from_cut_outs(side)}
    seconds = dict.fromkeys(ways, 0.0)
    agreement: list[tuple[float, bool, float]] = []
    fits: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    chosen = rows[np.linspace(0, len(rows) - 1, min(args.count, len(rows))).round().astype(int)].tolist()
    for i in chosen:
        rgb, boxes = photographs.image(pictures, i), hypotheses.boxes(source, i)[: args.most]
        ids = slots[i][slots[i] != VOID]
        if len(boxes) < 2 or not len(ids):
            continue
        scores = {}
        for way, score in ways.items():
            start = time.process_time()
            scores[way] = score(model, rgb, boxes)[:, model.columns(ids)].T
            seconds[way] += time.process_time() - start
        truth = resize_nearest(masks.true_mask(truths, i), *rgb.shape[:2])
        for k, a, b in zip(ids, *scores.values(), strict=True):
            best = boxes[a.argmax()]
            agreement.append((np.corrcoef(a, b)[0, 1], a.argmax() == b.argmax(), overlaps(boxes, best)[b.argmax()]))
            if (box := box_of(truth == k)) is not None:
                for way, found in zip(ways, (a, b), strict=True):
                    fit = overlaps(boxes, box)[np.argsort(-found, kind="stable")]
                    fits[way].append((fit[0], fit[:5].mean()))
    r, same, overlap = np.array(agreement, float).T
    print(f"{len(chosen)} photographs, {len(r)} tags, cut-outs of {side} px; ± is the standard error")
    for name, values in (("Pearson's r", r), ("same best", same), ("IoU of the two best", overlap)):
        print(f"{name}: {values.mean():.2f} ± {values.std() / len(values) ** 0.5:.2f}")
    for way, found in fits.items():
        first, five = np.mean(found, 0)
        error = np.std(found, 0) / len(found) ** 0.5
        print(
            f"{way}: {seconds[way] / len(chosen):.2f} s a photograph; IoU with the mask's box: "
            f"{first:.2f} ± {error[0]:.2f} the best, {five:.2f} ± {error[1]:.2f} the five best"
        )


if __name__ == "__main__":
    main()
