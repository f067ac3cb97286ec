"""What a verdict rests on, none of it a mask: tags, the labels that taught the last network, what it says on val.

Legend: C classes, F of them foreground, n photographs looked at.
Cost: the network and, where there is one, the tag classifier look at no more than `MOST` photographs of val, one at a
time, on a CPU one a core; at most `MOST_LABELS` label maps are read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.core.job import images_at_once
from pipeline.core.processes import over_processes
from pipeline.core.store import Artifact
from pipeline.kinds import classes, labels, masks, photographs, tags
from pipeline.kinds.pixels import VOID
from pipeline.report.dataset import Dataset
from pipeline.report.ladder import Stage

FEW = 5  # photographs: a class found in 60 % of its photographs is missed in all of fewer than these by chance alone
MOST = 200  # photographs of val: a share of them is good to 3 points, for a minute or less of a CPU at 320 px
MOST_LABELS = 1000  # label maps: 10 ms each
# Of a photograph's pixels: what a network shows on less of it is a speck, no object. A cell of its grid, 16 px wide, is
# already 0.25 % of 320 x 320.
VISIBLE = 0.001


@dataclass(frozen=True)
class Seen:
    """What labels, or a network, say of n photographs. of: how many there are to look at.

    pixels: float64 [C+1], mean share of a photograph's pixels by class, the last: unlabelled. there: bool [n,C], which
    classes each shows. tags: bool [n,C].
    """

    name: str
    method: str
    of: int
    pixels: np.ndarray
    there: np.ndarray
    tags: np.ndarray


@dataclass(frozen=True)
class Sure:
    """Scores of a tag classifier: float [n,F], one column a foreground class; tags: bool [n,F]."""

    name: str
    scores: np.ndarray
    tags: np.ndarray


@dataclass(frozen=True)
class Evidence:
    """train: tags of the training photographs, bool [n,C]. by_tags: whether what teaches the network was found by
    tags. methods: of the recipe. val: how many photographs that split has, and of how many the tags are known."""

    classes: list[str]
    background: int | None
    train: np.ndarray
    by_tags: bool
    methods: frozenset[str]
    val: tuple[int, int]
    labels: Seen | None = None
    network: Seen | None = None
    sure: Sure | None = None

    @property
    def foreground(self) -> np.ndarray:
        ids = np.arange(len(self.classes))
        return ids[ids != self.background]

    def named(self, ids: Sequence[int] | np.ndarray) -> tuple[str, ...]:
        return tuple(self.classes[k] for k in ids)


def gather(
    data: Dataset,
    stages: Sequence[Stage],
    predict: Callable[[int], np.ndarray] | None,
    device: str = "cpu",
    precision: str = "f32",
    threads: int = 1,
) -> Evidence:
    """Of a recipe's stages. predict: row → label map of the last network at the stored size; None: there is none.

    On a CPU it forks, so nothing may have been computed by torch in this process.
    """
    table, pictures = tags.tags(data.tags), data.photographs
    train, val = (photographs.split(pictures, split) for split in ("train", "val"))
    told = np.asarray(
        table.any(1)
    )  # of which the tags are known: nothing tagged is nothing there only where the mask says so
    if data.tags.meta.get("tags_from") == "masks":
        told |= masks.has_mask(data.masks)
    tagged = val[told[val]] if table[val].any() else val[:0]
    rows = some(tagged if len(tagged) else val, MOST)
    model = next((stage for stage in reversed(stages) if stage.kind == "model"), None)
    taught = model.parent("labels", stages) if model else None
    taught = taught or next((stage for stage in reversed(stages) if stage.kind in ("labels", "soft")), None)
    # Not that of a round of erasing: it never sees what it would know a class by.
    classifier = next((stage for stage in stages if stage.kind == "classifier" and stage.method != "erase"), None)
    count, processes = len(data.classes), images_at_once(device, threads)
    network = None
    if model and predict and len(rows):
        found = np.stack(list(over_processes(lambda i: shares(predict(i), count), rows.tolist(), processes)))
        there = found[:, :count] >= VISIBLE
        network = Seen(model.name, model.method, len(tagged) or len(val), found.mean(0), there, table[rows])
    sure = None
    if classifier and len(tagged):
        ids = classes.foreground(classifier.artifact)
        scores = classified(data, classifier.artifact, rows, device, precision, processes)
        sure = Sure(classifier.name, scores, table[rows][:, ids])
    return Evidence(
        data.classes,
        data.background,
        table[train],
        any(stage.kind in ("classifier", "seeds") or stage.method == "simple" for stage in stages),
        frozenset(stage.method for stage in stages),
        (len(val), len(tagged)),
        taught_by(data, taught, table) if taught else None,
        network,
        sure,
    )


def some(rows: np.ndarray, most: int) -> np.ndarray:
    """At most so many of these rows, evenly spaced."""
    return rows if len(rows) <= most else rows[np.linspace(0, len(rows) - 1, most).astype(int)]


def shares(found: np.ndarray, count: int) -> np.ndarray:
    """A label map uint8 [h,w] → the share of each class in it, float64 [C+1]; the last: unlabelled."""
    seen = np.bincount(found.ravel(), minlength=VOID + 1).astype(np.float64)
    return np.append(seen[:count], seen[VOID]) / max(found.size, 1)


def taught_by(data: Dataset, stage: Stage, table: np.ndarray) -> Seen | None:
    """What the labels say that a network learnt from; None where they cover nothing. Soft ones count as their most
    probable class. A class is there from its first pixel: true objects may be small."""
    covered = np.flatnonzero(stage.artifact.read("covered"))
    rows, count = some(covered, MOST_LABELS), len(table[0])
    if not len(rows):
        return None
    found = np.stack([shares(label_map(data, stage, int(i)), count) for i in rows])
    return Seen(stage.name, stage.method, len(covered), found.mean(0), found[:, :count] > 0, table[rows])


def label_map(data: Dataset, stage: Stage, i: int) -> np.ndarray:
    """Of photograph i, uint8: at its stored size, or, of soft labels, at their cells."""
    if stage.kind == "labels":
        return labels.labels_at(stage.artifact, data.photographs, i)
    cells = (-(-side // stage.artifact.meta["grid"]) for side in photographs.size(data.photographs, i))
    height, width = cells
    maps = np.asarray(stage.artifact["probabilities"][i, :, :height, :width])
    found = np.asarray(stage.artifact["slots"][i])[maps.argmax(0)].astype(np.uint8)
    return np.where((maps > 0).any(0), found, np.uint8(VOID))


def classified(
    data: Dataset, artifact: Artifact, rows: np.ndarray, device: str, precision: str, processes: int
) -> np.ndarray:
    """Scores of a tag classifier for these photographs, float32 [n,F]."""
    from pipeline.networks.classifier import load_classifier, tag_scores  # a page without a network needs no torch
    from pipeline.networks.states import for_inference

    model = for_inference(load_classifier(artifact), device)

    def score(i: int) -> np.ndarray:
        rgb = photographs.image(data.photographs, i)[None]
        return np.asarray(tag_scores(model, rgb, device=device, precision=precision)[0].cpu().numpy())

    return np.stack(list(over_processes(score, rows.tolist(), processes)))


# ----------------------------------------------------------------------------------------------------- measures


def share_of(found: np.ndarray, among: np.ndarray) -> float:
    """Share of the True among these, NaN of none. Both bool, of one shape."""
    return float(found[among].mean()) if among.any() else float("nan")


def ranked(scores: np.ndarray, tagged: np.ndarray) -> float:
    """Probability that a tagged photograph scores above one without the tag (area under the ROC curve; ties count
    half): 1 perfect, 0.5 guessing, NaN where one of the two is missing. scores: float [n], tagged: bool [n]."""
    there, absent = scores[tagged][:, None], scores[~tagged][None]
    if not there.size or not absent.size:
        return float("nan")
    return float((there > absent).mean() + (there == absent).mean() / 2)


def alike(table: np.ndarray, most: int = 500) -> float:
    """Mean Jaccard index of the tags of two photographs, over all pairs among at most so many: 1 = none differ.

    table: bool [n,C], two rows at least. Two photographs without a tag do not differ.
    """
    some_rows = table[some(np.arange(len(table)), most)].astype(np.float64)
    both, size = some_rows @ some_rows.T, some_rows.sum(1)
    either = size[:, None] + size[None] - both
    index = np.where(either > 0, both / np.maximum(either, 1), 1)
    return float((index.sum() - len(index)) / (len(index) * (len(index) - 1)))


def together(table: np.ndarray, ids: Iterable[int], least: float, few: int) -> list[list[int]]:
    """Groups of these classes of which no tag tells one from another: each chain of pairs whose Jaccard index over the
    photographs, bool [n,C], is at least `least`. Classes of fewer than `few` photographs are left out."""
    known = [k for k in ids if table[:, k].sum() >= few]
    group = {k: k for k in known}
    for place, a in enumerate(known):
        for b in known[place + 1 :]:
            either = (table[:, a] | table[:, b]).sum()
            if (table[:, a] & table[:, b]).sum() >= least * either:
                old, new = group[b], group[a]
                group = {k: new if of == old else of for k, of in group.items()}
    found = [[k for k in known if group[k] == of] for of in dict.fromkeys(group.values())]
    return [members for members in found if len(members) > 1]


def objects(e: Evidence, seen: Seen) -> np.ndarray:
    """Share of each foreground class in the labelled pixels, float64 [F]."""
    return np.asarray(seen.pixels[e.foreground] / max(1 - seen.pixels[-1], 1e-9))


def rates(e: Evidence) -> dict[int, tuple[float, float]]:
    """class → how often the network shows it where it is tagged, and where not; of classes with enough of both."""
    seen = e.network
    if seen is None:
        return {}
    columns = [(int(k), seen.there[:, k], seen.tags[:, k]) for k in e.foreground]
    return {
        k: (share_of(there, tags), share_of(there, ~tags))
        for k, there, tags in columns
        if FEW <= tags.sum() <= len(tags) - FEW
    }


def known(e: Evidence) -> dict[int, float]:
    """class → how well the classifier ranks photographs of val by it, of classes with enough of both."""
    if e.sure is None:
        return {}
    columns = zip(e.foreground, e.sure.scores.T, e.sure.tags.T, strict=True)
    return {int(k): ranked(s, t) for k, s, t in columns if FEW <= t.sum() <= len(t) - FEW}
