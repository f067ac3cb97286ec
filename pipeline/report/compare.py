"""The same few photographs for every recipe of a run: what each makes of them in the end, and at every step.

Recipes that begin alike share artifacts, and a picture that several of them show is drawn once and stored once: the
page has it as an <image>, and every place that shows it refers to that (SVG's <use>).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pipeline.core.store import Artifact
from pipeline.kinds import photographs
from pipeline.report.dataset import Dataset
from pipeline.report.gallery import Album, Cell, Strip, thumbnail_side
from pipeline.report.ladder import Stage
from pipeline.report.page import PICTURES, choose_images, labelled_split, makers_of

MOST = 6  # photographs of a split
AMPLE = 0.5  # of the training images: labels of fewer do not decide which photographs are shown
Predictor = Callable[[Artifact], Callable[[int], np.ndarray]]  # model → photograph → its label map
Drawn = dict[tuple[Path, str], dict[int, list[Cell]]]  # artifact and step → photograph → pictures


@dataclass(frozen=True)
class Image:
    """A picture of the page; sizes in pixels."""

    id: str
    width: int
    height: int


@dataclass(frozen=True)
class Row:
    """What one recipe makes of the photographs of a wall. labelled: how many training images its labels cover, where
    they cover none of those shown."""

    recipe: str
    stage: Stage | None
    cells: list[Cell]
    labelled: int | None = None


@dataclass(frozen=True)
class Wall:
    """Photographs side by side, and below them what each recipe makes of them. strips: themselves, true masks last."""

    strips: list[Strip]
    rows: list[Row]


@dataclass(frozen=True)
class Comparison:
    """labels, predictions: None where no recipe has any. steps: recipe → per photograph its pictures at every stage.
    images: data URI → its place in the page."""

    labels: Wall | None
    predictions: Wall | None
    steps: dict[str, list[Strip]]
    images: dict[str, Image]


def taught(stages: Sequence[Stage]) -> Stage | None:
    """The labels that the last network learns from; where there is no network, the last."""
    models = [stage for stage in stages if stage.kind == "model"]
    found = [stage for stage in stages if stage.kind in ("labels", "soft")]
    source = models[-1].parent("labels", stages) if models else None
    return source if source in found else found[-1] if found else None


def covered(stage: Stage, rows: Sequence[int] | np.ndarray) -> int:
    """How many of these photographs labels cover."""
    return int(stage.artifact.read("covered")[rows].sum())


def compare(data: Dataset, ladders: Mapping[str, Sequence[Stage]], count: int, predictor: Predictor) -> Comparison:
    """Pictures of recipes (recipe → its stages) on at most `count` photographs of a split, and at most 6."""
    train, count = photographs.split(data.photographs, "train"), min(count, MOST)
    sources = {recipe: taught(stages) for recipe, stages in ladders.items()}
    ample = [stage for stage in sources.values() if stage and covered(stage, train) >= AMPLE * len(train)]
    rows = {
        "train": choose_images(data, ample, labelled_split(data), count),
        "val": choose_images(data, [], "val", count),
    }
    distinct = {(stage.artifact.path, stage.name): stage for stages in ladders.values() for stage in stages}
    kinds = {stage.artifact.path: stage.kind for stage in distinct.values()}
    album = Album(data, thumbnail_side(count * (4 + sum(PICTURES.get(kind, 0) for kind in kinds.values()))))
    drawn = {key: draw(album, stage, rows, predictor) for key, stage in distinct.items()}
    bare = {split: album.strips(rows[split], []) for split in rows}

    def wall(split: str, stages: Mapping[str, Stage | None], place: int) -> Wall | None:
        """place: which of a stage's pictures is what it ends in."""
        found = []
        for recipe, stage in stages.items():
            cells = [ended(drawn[stage.artifact.path, stage.name][i], place) for i in rows[split]] if stage else []
            blank = stage and stage.kind != "model" and not covered(stage, rows[split])
            found.append(Row(recipe, stage, cells, covered(stage, train) if stage and blank else None))
        return Wall(bare[split], found) if any(stages.values()) else None

    def steps(stages: Sequence[Stage]) -> list[Strip]:
        found = []
        for split in rows:
            for i, strip in zip(rows[split], bare[split], strict=True):
                cells = [c for stage in stages for c in drawn[stage.artifact.path, stage.name].get(i, [])]
                if any(cell.src for cell in cells):
                    found.append(replace(strip, cells=[strip.cells[0], *cells, strip.cells[-1]]))
        return found

    networks = {recipe: [stage for stage in stages if stage.kind == "model"] for recipe, stages in ladders.items()}
    shown = [(i, strip.cells) for split in rows for i, strip in zip(rows[split], bare[split], strict=True)]
    shown += [item for by_photograph in drawn.values() for item in by_photograph.items()]
    return Comparison(
        wall("train", sources, -1),
        wall("val", {recipe: found[-1] if found else None for recipe, found in networks.items()}, 0),
        {recipe: steps(stages) for recipe, stages in ladders.items()},
        images(album, shown),
    )


def draw(album: Album, stage: Stage, rows: Mapping[str, Sequence[int]], predictor: Predictor) -> dict[int, list[Cell]]:
    """The pictures of one stage, by photograph: of models on val, of all else that can be drawn on train."""
    if stage.kind == "model":
        maker = album.predictions(predictor(stage.artifact), stage.name)
        return {i: maker(i) for i in rows["val"]}
    draws = makers_of(album)
    if stage.kind not in draws:
        return {}
    maker = draws[stage.kind](stage.artifact, stage.name)
    return {i: maker(i) for i in rows["train"]}


def ended(cells: Sequence[Cell], place: int) -> Cell:
    """One of a stage's pictures, with the note of any of them where it has none."""
    return replace(cells[place], note=next((cell.note for cell in (cells[place], *cells) if cell.note), ""))


def images(album: Album, shown: Iterable[tuple[int, Sequence[Cell]]]) -> dict[str, Image]:
    """Every different picture among these, each of a photograph."""
    found: dict[str, Image] = {}
    sizes: dict[int, tuple[int, ...]] = {}
    for i, cells in shown:
        if i not in sizes:
            sizes[i] = album.photo(i).shape
        for cell in cells:
            if cell.src and cell.src not in found:
                found[cell.src] = Image(f"p{len(found)}", sizes[i][1], sizes[i][0])
    return found
