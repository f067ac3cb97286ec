"""Small artifacts and jobs made in the test process, for tests that plant pictures, maps or labels of known content.

One function per kind; each takes what the artifact is to hold, without padding, writes it and returns it opened. Rows
are photographs. `header`, for all of them: what made it, for tests that look at settings or parents; see `header`.

    given = planted.dataset(tmp_path, pictures, tags, masks)              # photographs, tags, masks by role
    found = planted.seeds(tmp_path / "s.json", scores, classes, claimed, grid=4)
    crf.run(planted.job(Crf(), tmp_path / "l.json", {**given, "seeds": found}))
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.core import store
from pipeline.core.job import Job
from pipeline.core.steps.base import Step
from pipeline.kinds import hypotheses as hypothesis_rows

VOID = 255
BACKGROUND = 0  # where nothing else is said; pass None for a data set without one
Header = store.Header | None


# ---------------------------------------------------------------------------------------------------------- jobs


def header(settings: Step, inputs: dict[str, store.Artifact] | None = None, seed: int = 0) -> store.Header:
    """The header a command line would make, but for the code digest."""
    return store.Header(
        kind=settings.makes,
        stage=settings.stage,
        settings=settings.model_dump(mode="json"),
        code="test",
        seed=seed if settings.seeded else None,
        precision="f32" if settings.gpu else None,
        parents={role: artifact.digest for role, artifact in (inputs or {}).items()},
    )


def forge(manifest: Path, content: dict[str, Any]) -> None:
    """Write a manifest, and the copy of it in its store, as one would who wants to be believed."""
    manifest.write_text(json.dumps(content))
    inside = store.store_of(manifest) / "zarr.json"
    about = json.loads(inside.read_text())
    about["attributes"]["manifest"] = manifest.read_text()
    inside.write_text(json.dumps(about))


def job(settings: Step, out: Path, inputs: dict[str, store.Artifact] | None = None, **options: object) -> Job:
    """The job a command line would make, on one thread of the CPU in f32. inputs: by role; others do no harm."""
    given = {role: artifact for role, artifact in (inputs or {}).items() if role in settings.takes}
    if "photographs" in given:
        settings = settings.sized(int(given["photographs"]["rgb"].shape[1]))
    seed = int(str(options.pop("seed", 0)))
    rest: Any = {"device": "cpu", "precision": "f32", "threads": 1, **options}
    return Job(settings, given, out, header(settings, given, seed), seed, **rest)


def rows_artifact(
    path: Path,
    kind: str,
    arrays: dict[str, Any],
    meta: dict,
    tables: dict[str, np.ndarray] | None = None,
    header: Header = None,
) -> store.Artifact:
    """A row artifact that holds these arrays, [N, ...] each; a list of arrays is ragged."""
    count = len(next(iter(arrays.values())))
    store.write_rows(
        path,
        header or store.Header(kind=kind, stage="test", settings={}, code="test"),
        {
            name: ((None, *array[0].shape[1:]), array[0].dtype)
            if isinstance(array, list)
            else (array.shape[1:], array.dtype)
            for name, array in arrays.items()
        },
        [b"%016d" % i for i in range(count)],
        lambda rows: ({name: array[i] for name, array in arrays.items()} for i in rows),
        meta,
        tables=tables,
    )
    return store.Artifact(path, kind)


def table_artifact(
    path: Path, kind: str, arrays: dict[str, np.ndarray], meta: dict, header: Header = None
) -> store.Artifact:
    """A table that holds these arrays."""
    made = header or store.Header(kind=kind, stage="test", settings={}, code="test")
    store.write_table(path, made, arrays, meta)
    return store.Artifact(path, kind)


def class_names(count: int, background: int | None = BACKGROUND) -> list[str]:
    """['background', 'class1', 'class2', …]: what classes are called where a test does not say."""
    return ["background" if k == background else f"class{k}" for k in range(count)]


def _classes(names: Sequence[str] | None, count: int, background: int | None) -> dict[str, object]:
    return {"classes": list(names or class_names(count, background)), "background": background}


def on_canvas(parts: Sequence[np.ndarray], side: int | tuple[int, int], fill: int = 0) -> np.ndarray:
    """Arrays [h,w,...] of any size, each at the upper left of a canvas: [N,side,side,...]."""
    tall, wide = (side, side) if isinstance(side, int) else side
    out = np.full((len(parts), tall, wide, *parts[0].shape[2:]), fill, parts[0].dtype)
    for canvas, part in zip(out, parts, strict=True):
        canvas[: part.shape[0], : part.shape[1]] = part
    return out


# ------------------------------------------------------------------------------------------------- the data set


def photographs(
    path: Path,
    pictures: Sequence[np.ndarray],
    train: Sequence[int] | None = None,
    score: Sequence[int] | None = None,
    side: int | None = None,
    ids: Sequence[str] | None = None,
    meta: dict | None = None,
    header: Header = None,
) -> store.Artifact:
    """`photographs` of these pictures, uint8 [h,w,3]. train: rows (all), the rest is val; score: rows (those of train).

    side: of the canvas (the longest of all sides).
    """
    count = len(pictures)
    rows = np.arange(count) if train is None else np.asarray(train, np.int64)
    tables = {
        "id": store.encode_text(ids or [f"picture{i}" for i in range(count)]),
        "split_train": rows.astype(np.int64),
        "split_val": np.setdiff1d(np.arange(count), rows).astype(np.int64),
        "split_score": (rows if score is None else np.asarray(score)).astype(np.int64),
    }
    arrays = {
        "rgb": on_canvas(pictures, side or max(max(picture.shape[:2]) for picture in pictures)),
        "size": np.array([picture.shape[:2] for picture in pictures], np.int32),
    }
    return rows_artifact(path, "photographs", arrays, {"format": "demo", **(meta or {})}, tables, header)


def tags(
    path: Path,
    table: np.ndarray,
    background: int | None = BACKGROUND,
    names: Sequence[str] | None = None,
    meta: dict | None = None,
    header: Header = None,
) -> store.Artifact:
    """`tags`: bool [N,C], the column is the class id, the background's among them."""
    about = {**_classes(names, table.shape[1], background), "tags_from": "csv", **(meta or {})}
    return rows_artifact(path, "tags", {"tags": table.astype(bool)}, about, header=header)


def masks(
    path: Path,
    maps: Sequence[np.ndarray | None],
    classes: int,
    background: int | None = BACKGROUND,
    names: Sequence[str] | None = None,
    header: Header = None,
) -> store.Artifact:
    """`masks`: uint8 [h0,w0] at the original resolution, None where a photograph has none."""
    found = [np.full((1, 1), VOID, np.uint8) if part is None else part.astype(np.uint8) for part in maps]
    arrays = {
        "mask": [part.ravel() for part in found],
        "full_size": np.array([part.shape for part in found], np.int32),
        "has_mask": np.array([part is not None for part in maps]),
    }
    return rows_artifact(path, "masks", arrays, _classes(names, classes, background), header=header)


def dataset(
    folder: Path,
    pictures: Sequence[np.ndarray],
    table: np.ndarray,
    maps: Sequence[np.ndarray | None] | None = None,
    background: int | None = BACKGROUND,
    names: Sequence[str] | None = None,
    **options: Any,
) -> dict[str, store.Artifact]:
    """photographs, tags and masks (None: there are none) in this folder, by role. options: of `photographs`."""
    return {
        "photographs": photographs(folder / "photographs.json", pictures, **options),
        "tags": tags(folder / "tags.json", table, background, names),
        "masks": masks(folder / "masks.json", maps or [None] * len(pictures), table.shape[1], background, names),
    }


# ----------------------------------------------------------------------------------------- what stages make of it


def saliency(path: Path, maps: Sequence[np.ndarray], side: int, header: Header = None) -> store.Artifact:
    """`saliency`: uint8 [h,w] each."""
    return rows_artifact(path, "saliency", {"saliency": on_canvas(maps, side)}, {}, header=header)


def hypotheses(
    path: Path, found: Sequence[hypothesis_rows.Hypotheses], clusters: int = 10, header: Header = None
) -> store.Artifact:
    """`hypotheses`: boxes, clusters and segments of each photograph."""
    rows = [
        {
            "boxes": np.asarray(each.boxes).reshape(-1, 4),
            "cluster": np.asarray(each.clusters),
            "segments": hypothesis_rows.pack(each.segments),
        }
        for each in found
    ]
    store.write_rows(
        path,
        header or store.Header(kind="hypotheses", stage="test", settings={}, code="test"),
        hypothesis_rows.ARRAYS,
        [b"%016d" % i for i in range(len(rows))],
        lambda indices: (rows[i] for i in indices),
        {"clusters": clusters},
    )
    return store.Artifact(path, "hypotheses")


def seeds(
    path: Path,
    scores: np.ndarray,
    classes: np.ndarray,
    claimed: np.ndarray,
    grid: int = 4,
    rounds: Sequence[dict] = ({"loss": 1.0, "epochs": 1.0},),
    background: int | None = BACKGROUND,
    names: Sequence[str] | None = None,
    header: Header = None,
) -> store.Artifact:
    """`seeds`: scores [N,K,g,g], classes [N,K], claimed [N,K,g,g]. names: of all classes (as many as there are)."""
    arrays = {
        "scores": scores.astype(np.float16),
        "classes": classes.astype(np.uint8),
        "claimed": claimed.astype(np.uint8),
    }
    largest = int(classes[classes != VOID].max(initial=0))
    meta = {"grid": grid, "rounds": list(rounds), **_classes(names, max(4, largest + 1), background)}
    return rows_artifact(path, "seeds", arrays, meta, header=header)


def labels(
    path: Path,
    maps: Sequence[np.ndarray | None],
    side: int,
    classes: int,
    background: int | None = BACKGROUND,
    names: Sequence[str] | None = None,
    header: Header = None,
) -> store.Artifact:
    """`labels`: uint8 [h,w] each, None where a photograph is not covered."""
    found = [np.full((1, 1), VOID, np.uint8) if part is None else part.astype(np.uint8) for part in maps]
    arrays = {"labels": on_canvas(found, side, VOID), "covered": np.array([part is not None for part in maps])}
    return rows_artifact(path, "labels", arrays, _classes(names, classes, background), header=header)


def soft(
    path: Path,
    probabilities: np.ndarray,
    slots: np.ndarray,
    grid: int,
    classes: int,
    covered: np.ndarray | None = None,
    background: int | None = BACKGROUND,
    names: Sequence[str] | None = None,
    header: Header = None,
) -> store.Artifact:
    """`soft`: probabilities [N,K,g,g], slots [N,K], covered bool [N] (all)."""
    arrays = {
        "probabilities": probabilities.astype(np.float16),
        "slots": slots.astype(np.uint8),
        "covered": np.ones(len(slots), bool) if covered is None else covered.astype(bool),
    }
    return rows_artifact(path, "soft", arrays, {"grid": grid, **_classes(names, classes, background)}, header=header)


def patches(
    path: Path,
    image: np.ndarray,
    box: np.ndarray,
    ids: np.ndarray,
    size: int,
    classes: int,
    draw: np.ndarray | None = None,
    background: int | None = BACKGROUND,
    names: Sequence[str] | None = None,
    header: Header = None,
) -> store.Artifact:
    """`patches`: rows of photographs [P], boxes [P,4], class ids [P], draws [P] (all 0)."""
    arrays = {
        "image": image.astype(np.int64),
        "draw": (np.zeros(len(image)) if draw is None else draw).astype(np.int32),
        "box": box.astype(np.int32),
        "class": ids.astype(np.uint8),
    }
    return table_artifact(path, "patches", arrays, {"size": size, **_classes(names, classes, background)}, header)


def weights(path: Path, net: Any, curve: np.ndarray | None = None, header: Header = None) -> store.Artifact:
    """`weights` of a backbone (pipeline/networks). curve: the training loss, if it was trained."""
    from pipeline.networks.backbones import backbone_meta
    from pipeline.networks.states import packed

    arrays, index = packed(net.state_dict())
    curves = {} if curve is None else {"curve_loss": curve.astype(np.float32)}
    return table_artifact(path, "weights", {**arrays, **curves}, {"index": index, **backbone_meta(net)}, header)


def classifier(
    path: Path, net: Any, tags: store.Artifact, curve: np.ndarray | None = None, header: Header = None
) -> store.Artifact:
    """`classifier` of a Classifier (pipeline/networks) of stride 16, as `classify` makes it."""
    from pipeline.networks.classifier import classifier_meta
    from pipeline.networks.states import packed

    arrays, index = packed(net.state_dict())
    curves = {} if curve is None else {"curve_loss": curve.astype(np.float32)}
    meta = {**classifier_meta(net, tags, 16), "index": index}
    return table_artifact(path, "classifier", {**arrays, **curves}, meta, header)


def model(
    path: Path,
    net: Any,
    names: Sequence[str],
    background: int | None = BACKGROUND,
    max_side: int = 64,
    curve: np.ndarray | None = None,
    header: Header = None,
) -> store.Artifact:
    """`model` of a Segmenter (pipeline/networks), as `segment` makes it."""
    from pipeline.core.steps.models import Segment
    from pipeline.networks.segmenter import segmenter_meta
    from pipeline.networks.states import packed

    arrays, index = packed(net.state_dict())
    curves = {} if curve is None else {"curve_loss": curve.astype(np.float32)}
    meta = {"index": index, **segmenter_meta(net, names, background, max_side)}
    made = header or store.Header("model", "segment", Segment(crop=64).model_dump(mode="json"), "test")
    return table_artifact(path, "model", {**arrays, **curves}, meta, made)


def metrics(
    path: Path,
    matrices: np.ndarray,
    of: str,
    split: str,
    levels: Sequence[float | str | None] = (None,),
    images: int = 1,
    background: int | None = BACKGROUND,
    names: Sequence[str] | None = None,
) -> store.Artifact:
    """`metrics`: confusion matrices [thresholds,C,C+1] of one split; levels: one per matrix."""
    meta = {"of": of, "splits": [split], "images": {split: images}, "thresholds": list(levels)}
    about = {**meta, **_classes(names, matrices.shape[1], background)}
    return table_artifact(path, "metrics", {"confusion": matrices.astype(np.int64)[None]}, about)
