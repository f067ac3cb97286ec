"""Seeds: where each tag of a photograph was found, and which cells are claimed for it. One place says what is claimed.

scores   f16 [N,K,g,g]  in [0,1], largest of all rounds so far; K tag slots, one cell per grid x grid pixels
classes  u8 [N,K]       class id of each slot, 255 = empty; all are in photographs that are not of split train
claimed  u8 [N,K,g,g]   the round (1, 2, …) that claimed a cell for the slot's class, 0 = unclaimed

Every maker of seeds claims: the first (CAM) in round 1, each round of erasing in the next. `meta.rounds` has an entry
per round. What a maker claims follows from maps that are stored beside (`write`): another threshold recomputes no map.
Legend: T tags of an image, h x w its stored size, gh x gw its cells.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from pipeline.core import store
from pipeline.core.job import Job
from pipeline.core.steps.base import Claims
from pipeline.kinds import photographs
from pipeline.kinds.pixels import VOID, from_grid

CLAIM_SETTINGS = tuple(Claims.model_fields.keys() - {"method"})


class Seeds(NamedTuple):
    """The seeds of one image, one entry per tag."""

    classes: np.ndarray  # u8 [T]
    scores: np.ndarray  # f32 [T,h,w] or [T,gh,gw]
    claimed: np.ndarray  # u8, of the same shape


def claim(maps: np.ndarray, settings: Claims) -> np.ndarray:
    """Maps float [K,h,w] in [0,1] → what is claimed of them, bool [K,h,w].

    The three readings of 'top 20 % of the largest value' (Wei et al. 2017, section 4.1). When a map would claim more
    than `largest` of the image, its threshold rises until it does not.
    """
    region = np.zeros(maps.shape, bool)
    for k, score in enumerate(maps.astype(np.float32)):
        top = float(score.max())
        if top <= 0:
            continue
        match settings.reading:
            case "of_max":
                region[k] = score > settings.threshold * top
            case "top_of_max":
                region[k] = score >= (1 - settings.threshold) * top
            case "top_pixels":
                region[k] = (score > 0) & (score > np.quantile(score, 1 - settings.threshold))
        if region[k].mean() > settings.largest:
            region[k] = score > np.quantile(score, 1 - settings.largest)
    return region


def first_round(classifier: store.Artifact) -> dict[str, Any]:
    """What `meta.rounds` says of the round that made seeds with this classifier: its last loss and its epochs.

    Erasing compares its own loss with it, a soft margin; of a classifier of another loss (`hcp`) nothing is said.
    """
    trained = classifier.manifest["settings"]
    if trained.get("loss", "soft_margin") != "soft_margin":
        return {}
    return {"loss": float(classifier["curve_loss"][-1]), "epochs": trained["epochs"]}


def cells(size: Sequence[int], grid: int) -> tuple[int, int]:
    """Cells of an image of this size (h, w)."""
    return -(-int(size[0]) // grid), -(-int(size[1]) // grid)


def on_grid(seeds: store.Artifact, pictures: store.Artifact, i: int) -> Seeds:
    """The seeds of image i as they are stored, without padding."""
    gh, gw = cells(pictures["size"][i], seeds.meta["grid"])
    classes = np.asarray(seeds["classes"][i])
    count = int((classes != VOID).sum())
    scores = np.asarray(seeds["scores"][i, :count, :gh, :gw]).astype(np.float32)
    return Seeds(classes[:count], scores, np.asarray(seeds["claimed"][i, :count, :gh, :gw]))


def at_pixels(seeds: store.Artifact, pictures: store.Artifact, i: int) -> Seeds:
    """The seeds of image i at its pixels: scores bilinear, claims by cell."""
    classes, scores, claimed = on_grid(seeds, pictures, i)
    h, w = pictures["size"][i]
    grid = seeds.meta["grid"]
    return Seeds(classes, from_grid(scores, grid, h, w), from_grid(claimed, grid, h, w))


def claimed_pixels(seeds: store.Artifact, pictures: store.Artifact, i: int) -> np.ndarray:
    """What any class has claimed of image i, bool [h,w]: what erasing erases."""
    h, w = pictures["size"][i]
    claimed = on_grid(seeds, pictures, i).claimed.max(0, initial=0)
    return np.asarray(from_grid(claimed[None], seeds.meta["grid"], h, w)[0] > 0)


Found = dict[str, np.ndarray]  # arrays of an image beside `classes`: name → [T,…], without padding


def write(
    job: Job,
    slots: np.ndarray,
    grid: int,
    arrays: dict[str, tuple[str, Any]],
    find: Callable[[list[int]], Any],
    settle: Callable[[int, Found], Found],
    meta: Callable[[Any], dict[str, Any]] | dict[str, Any],
    extra: tuple[Any, ...] = (),
    also: Sequence[str] = (),
) -> None:
    """Write seeds of split train.

    slots: u8 [N,K], each image's classes. arrays: what the maker finds in an image, name → ('map' or 'number', dtype);
    find(rows) yields one Found per row. settle(i, found) → what follows from it, `claimed` u8 [T,gh,gw] and, where it
    was not found itself, `scores`: cheap, asked again whenever a setting in CLAIM_SETTINGS or `also` changes, while
    what was found stays.
    """
    pictures, k = job.photographs, slots.shape[1]
    side = cells(pictures["rgb"].shape[1:3], grid)[0]
    full = {"map": (k, side, side), "number": (k,)}

    def padded(value: np.ndarray, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        out = np.zeros(shape, dtype)
        out[tuple(slice(length) for length in value.shape)] = value
        return out

    def compute(rows: list[int]) -> Any:
        for i, found in zip(rows, find(rows), strict=True):
            row = {name: padded(found[name], full[shape], dtype) for name, (shape, dtype) in arrays.items()}
            yield {**row, "classes": slots[i]}

    derived = {
        name: (full["map"], dtype)
        for name, dtype in (("scores", np.float16), ("claimed", np.uint8))
        if name not in arrays
    }

    def derive(i: int, row: store.Row) -> store.Row:
        count = int((slots[i] != VOID).sum())
        gh, gw = cells(pictures["size"][i], grid)
        found = {
            name: row[name][:count, :gh, :gw] if shape == "map" else row[name][:count]
            for name, (shape, _) in arrays.items()
        }
        settled = settle(i, found)
        return {name: padded(settled[name], shape, dtype) for name, (shape, dtype) in derived.items()}

    keys = store.row_keys(job.header, job.inputs, *extra, without=(*CLAIM_SETTINGS, *also))
    store.write_rows(
        job.out,
        job.header,
        {"classes": ((k,), np.uint8)} | {name: (full[shape], dtype) for name, (shape, dtype) in arrays.items()},
        photographs.only_split(pictures, "train", keys),
        compute,
        meta,
        axes="image, tag slot, row, column",
        derive=derive,
        derived=derived,
        fill={"classes": VOID},
    )
