"""Small artifacts and jobs made in the test process, for tests that plant pictures, maps or labels of known content."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.core import cli, store
from pipeline.core.config import Step

VOID = 255


def job(settings: Step, out: Path, inputs: dict[str, store.Artifact] | None = None, **options: object) -> cli.Job:
    """The job a command line would make, on one thread of the CPU in f32."""
    inputs = inputs or {}
    seed = int(str(options.pop("seed", 0)))
    header = store.Header(
        kind=settings.makes,
        stage=settings.stage,
        settings=settings.model_dump(mode="json"),
        code="test",
        seed=seed if settings.seeded else None,
        parents={role: artifact.digest for role, artifact in inputs.items()},
    )
    rest = {"device": "cpu", "precision": "f32", "threads": 1, **options}
    return cli.Job(settings, inputs, out, header, seed, **rest)  # type: ignore[arg-type]


def rows_artifact(
    path: Path, kind: str, arrays: dict[str, np.ndarray], meta: dict, tables: dict[str, np.ndarray] | None = None
) -> store.Artifact:
    """A row artifact that holds these arrays, [N, ...] each."""
    header = store.Header(kind=kind, stage="test", settings={}, code="test")
    count = len(next(iter(arrays.values())))
    store.write_rows(
        path,
        header,
        {name: (array.shape[1:], array.dtype) for name, array in arrays.items()},
        [b"%016d" % i for i in range(count)],
        lambda rows: ({name: array[i] for name, array in arrays.items()} for i in rows),
        meta,
        tables=tables,
    )
    return store.Artifact(path, kind)


def images(
    path: Path,
    pictures: Sequence[np.ndarray],
    tags: np.ndarray,
    masks: Sequence[np.ndarray] | None = None,
    train: Sequence[int] | None = None,
    side: int | None = None,
) -> store.Artifact:
    """An `images` artifact of these pictures, uint8 [h,w,3]; masks may have other sizes (the originals)."""
    count, classes = len(pictures), tags.shape[1] + 1
    side = side or max(max(picture.shape[:2]) for picture in pictures)
    originals = masks or [np.full(picture.shape[:2], VOID, np.uint8) for picture in pictures]
    tall, wide = (-(-max(mask.shape[axis] for mask in originals) // 64) * 64 for axis in (0, 1))
    rgb, mask = np.zeros((count, side, side, 3), np.uint8), np.full((count, tall, wide), VOID, np.uint8)
    for i, (picture, original) in enumerate(zip(pictures, originals, strict=True)):
        rgb[i, : picture.shape[0], : picture.shape[1]] = picture
        mask[i, : original.shape[0], : original.shape[1]] = original
    rows = np.arange(count) if train is None else np.asarray(train)
    arrays = {
        "rgb": rgb,
        "size": np.array([picture.shape[:2] for picture in pictures], np.int32),
        "full_size": np.array([original.shape for original in originals], np.int32),
        "mask": mask,
        "tags": tags.astype(bool),
        "has_mask": np.full(count, masks is not None),
    }
    rest = np.setdiff1d(np.arange(count), rows)
    tables = {
        "id": store.encode_text([f"picture{i}" for i in range(count)]),
        "split_train": rows.astype(np.int64),
        "split_val": rest.astype(np.int64),
        "split_score": rows.astype(np.int64),
    }
    names = ["background", *(f"class{k}" for k in range(1, classes))]
    return rows_artifact(path, "images", arrays, {"classes": names}, tables)


def seeds(
    path: Path, scores: np.ndarray, classes: np.ndarray, first: np.ndarray, grid: int, rounds: list[dict]
) -> store.Artifact:
    """A `seeds` artifact: scores [N,K,g,g], classes [N,K], first [N,K,g,g]."""
    arrays = {
        "scores": scores.astype(np.float16),
        "classes": classes.astype(np.uint8),
        "first": first.astype(np.uint8),
    }
    names = ["background", *(f"class{k}" for k in range(1, 4))]
    return rows_artifact(path, "seeds", arrays, {"grid": grid, "classes": names, "rounds": rounds})
