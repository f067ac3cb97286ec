"""The same few photographs at every stage, as rows of small captioned pictures for the report.

Legend: h x w a picture's stored size; T tags of it. Every picture is drawn at thumbnail size, labels by nearest pixel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from pipeline.core import metrics, show
from pipeline.core.store import Artifact
from pipeline.kinds import classes, hypotheses, labels, photographs, seeds, soft, tags
from pipeline.kinds.pixels import resize_image, resize_nearest
from pipeline.report.dataset import Dataset
from pipeline.report.embedding import patch_images

PAGE_BYTES = 5_000_000  # of pictures, so that a page stays below 8 MB
BYTES_PER_PIXEL = 0.45  # of these JPEGs, in base64; measured on overlays of photographs


@dataclass(frozen=True)
class Cell:
    """One small picture. src: data URI, or '' where there is nothing to show."""

    src: str
    title: str
    note: str = ""


Maker = Callable[[int], list[Cell]]  # photograph → what a stage made of it


@dataclass(frozen=True)
class Strip:
    """One photograph: its name, its tags, its pictures."""

    name: str
    tags: str
    cells: list[Cell]


def spread(table: np.ndarray, candidates: np.ndarray, count: int) -> list[int]:
    """Rows to show, spread over the classes: the class shown least so far picks next. The same on every machine.

    table: tags, bool [N,C].
    """
    left = np.random.default_rng(0).permutation(candidates)
    seen = np.zeros(table.shape[1])
    chosen: list[int] = []
    while len(chosen) < min(count, len(candidates)):
        there = table[left].any(0)
        wanted = int(np.where(there, seen, np.inf).argmin()) if there.any() else 0
        # Among the images of that class, the one with the fewest other tags says most about it.
        place = int(np.where(table[left, wanted], table[left].sum(1), np.inf).argmin()) if there.any() else 0
        chosen.append(int(left[place]))
        seen += table[left[place]]
        left = np.delete(left, place)
    return sorted(chosen)


def thumbnail_side(cells: int) -> int:
    """Longer side of a thumbnail so that this many fit on the page."""
    return int(np.clip(np.sqrt(PAGE_BYTES / BYTES_PER_PIXEL / max(cells, 1) / 0.75), 96, 320))


def thumbnail(rgb: np.ndarray, side: int) -> np.ndarray:
    """The photograph with its longer side reduced to at most `side` pixels."""
    return resize_image(rgb, *photographs.reduced((rgb.shape[0], rgb.shape[1]), side))


@dataclass(frozen=True)
class Album:
    """Draws the pictures of one photograph at a time."""

    data: Dataset
    side: int
    _latest: dict[int, np.ndarray] = field(default_factory=dict)

    def strips(self, rows: Sequence[int], makers: Sequence[Maker]) -> list[Strip]:
        """Per row the photograph itself, the pictures that `makers` give for it, and the true mask."""
        names, ids, table = self.data.classes, photographs.ids(self.data.photographs), tags.tags(self.data.tags)
        found = []
        for i in rows:
            cells = [Cell(show.data_uri(self.photo(i)), "photograph")]
            cells += [cell for maker in (*makers, self.truth) for cell in maker(i)]
            shown = ", ".join(names[k] for k in np.flatnonzero(table[i])) or "no tag"
            found.append(Strip(ids[i], shown, cells))
        return found

    def photo(self, i: int) -> np.ndarray:
        """The photograph at thumbnail size; the latest one is kept, since every picture of a strip starts from it."""
        if i not in self._latest:
            self._latest.clear()
            self._latest[i] = thumbnail(photographs.image(self.data.photographs, i), self.side)
        return self._latest[i]

    def small(self, i: int, layer: np.ndarray) -> np.ndarray:
        """A map of photograph i at thumbnail size."""
        return resize_nearest(layer, *self.photo(i).shape[:2])

    def overlaid(self, i: int, found: np.ndarray) -> str:
        return show.data_uri(show.overlay(self.photo(i), self.small(i, found), background=self.data.background))

    def labelled(self, i: int, found: np.ndarray, title: str) -> Cell:
        """A label map over the photograph, with its score on this photograph alone."""
        truth, note = self.data.truth(i), ""
        if truth is not None:
            matrix = metrics.confusion(truth, resize_nearest(found, *truth.shape), len(self.data.classes))
            note = f"this image: {100 * metrics.miou(matrix, background=self.data.background):.0f} %"
        return Cell(self.overlaid(i, found), title, note)

    # ------------------------------------------------------------------------------------------- one maker a kind

    def truth(self, i: int) -> list[Cell]:
        truth = self.data.truth(i)
        return [Cell("", "true mask", "none") if truth is None else Cell(self.overlaid(i, truth), "true mask")]

    def saliency(self, artifact: Artifact, title: str) -> Maker:
        def cells(i: int) -> list[Cell]:
            h, w = photographs.size(self.data.photographs, i)
            grey = thumbnail(np.repeat(np.asarray(artifact["saliency"][i, :h, :w])[..., None], 3, 2), self.side)
            return [Cell(show.data_uri(grey), title)]

        return cells

    def hypotheses(self, artifact: Artifact, title: str) -> Maker:
        """The outline of the best segment of each cluster."""

        def cells(i: int) -> list[Cell]:
            boxes, segments = hypotheses.boxes(artifact, i), hypotheses.segments(artifact, i)
            numbers, best = np.unique(hypotheses.clusters(artifact, i), return_index=True)
            regions = np.zeros((len(best), *photographs.size(self.data.photographs, i)), bool)
            for region, k in zip(regions, best, strict=True):
                y0, x0, y1, x1 = boxes[k]
                region[y0:y1, x0:x1] = segments[k]
            small = [self.small(i, region) for region in regions]
            drawn = show.outline(self.photo(i), np.array(small, bool), numbers + 1)
            return [Cell(show.data_uri(drawn), title, f"best of {len(best)} clusters, {len(boxes)} in all")]

        return cells

    def seeds(self, artifact: Artifact, title: str) -> Maker:
        """The highest score of any tag as heat, with what is claimed for each; then the claimed region by round."""

        def cells(i: int) -> list[Cell]:
            if not len(seeds.on_grid(artifact, self.data.photographs, i).classes):
                return [Cell("", title, "no tag"), Cell("", f"{title} · claimed")]
            found = seeds.at_pixels(artifact, self.data.photographs, i)
            claimed = np.stack([self.small(i, layer) for layer in found.claimed])
            warm = show.heat(self.photo(i), self.small(i, found.scores.max(0)).clip(0, 1))
            rounds = np.where(claimed > 0, claimed, 255).min(0) % 255
            region = show.outline(show.by_round(self.photo(i), rounds), claimed > 0, found.classes)
            share = f"{(found.claimed > 0).any(0).mean():.0%} of the image"
            return [
                Cell(show.data_uri(show.outline(warm, claimed > 0, found.classes)), title),
                Cell(show.data_uri(region), f"{title} · claimed", share),
            ]

        return cells

    def labels(self, artifact: Artifact, title: str) -> Maker:
        covered = artifact.read("covered")

        def cells(i: int) -> list[Cell]:
            if not covered[i]:
                return [Cell("", title, "not labelled")]
            return [self.labelled(i, labels.labels_at(artifact, self.data.photographs, i), title)]

        return cells

    def soft(self, artifact: Artifact, title: str) -> Maker:
        """The highest probability of any object class as heat; then the most probable class."""
        covered = artifact.read("covered")

        def cells(i: int) -> list[Cell]:
            if not covered[i]:
                return [Cell("", f"{title} · objects", "not labelled"), Cell("", title)]
            slots, maps = soft.soft_at(artifact, self.data.photographs, i)
            objects = np.isin(slots, classes.foreground(artifact))
            heat = show.heat(self.photo(i), self.small(i, maps.max(0, initial=0, where=objects[:, None, None])))
            best = soft.most_probable(slots, maps, soft.labelled_at(artifact, self.data.photographs, i))
            return [Cell(show.data_uri(heat), f"{title} · objects"), self.labelled(i, best, title)]

        return cells

    def predictions(self, predict: Callable[[int], np.ndarray], title: str) -> Maker:
        def cells(i: int) -> list[Cell]:
            found, truth = predict(i), self.data.truth(i)
            out = [self.labelled(i, found, title)]
            if truth is not None:
                small = self.small(i, found), self.small(i, truth)
                wrong = show.errors(self.photo(i), *small, background=self.data.background)
                out.append(Cell(show.data_uri(wrong), f"{title} · errors"))
            return out

        return cells


@dataclass(frozen=True)
class Row:
    """Some patches of one class."""

    name: str
    count: int
    images: int
    src: str


def contact_sheet(pictures: Artifact, bank: Artifact, each: int = 12, size: int = 72) -> list[Row]:
    """Patches of every class, each from another photograph as far as the bank has them."""
    ids, sources, rows = bank.read("class"), bank.read("image"), []
    for k, name in enumerate(classes.names(bank)):
        mine = np.flatnonzero(ids == k)
        if not len(mine):
            continue
        _, firsts = np.unique(sources[mine], return_index=True)
        pool = mine[firsts] if len(firsts) >= min(each, len(mine)) else mine
        chosen = pool[np.linspace(0, len(pool) - 1, min(each, len(pool))).astype(int)]
        tiles = list(patch_images(pictures, bank, chosen, size))
        rows.append(Row(name, len(mine), len(firsts), show.data_uri(show.sheet(tiles), 84)))
    return rows
