"""The same few photographs at every stage, as rows of small captioned pictures for the report.

Legend: h x w a picture's stored size; K tag slots. Every picture is drawn at thumbnail size, labels by nearest pixel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from pipeline.core import data, embedding, metrics, show
from pipeline.core.store import Artifact, decode_text

PAGE_BYTES = 5_000_000  # of pictures, so that a page stays below 8 MB
BYTES_PER_PIXEL = 0.45  # of these JPEGs, in base64; measured on overlays of photographs


@dataclass(frozen=True)
class Cell:
    """One small picture. src: data URI, or '' where there is nothing to show."""

    src: str
    title: str
    note: str = ""


@dataclass(frozen=True)
class Strip:
    """One photograph: its name, its tags, its pictures."""

    name: str
    tags: str
    cells: list[Cell]


def spread(tags: np.ndarray, candidates: np.ndarray, count: int) -> list[int]:
    """Rows to show, spread over the classes: the class shown least so far picks next. The same on every machine."""
    left = np.random.default_rng(0).permutation(candidates)
    seen = np.zeros(tags.shape[1])
    chosen: list[int] = []
    while len(chosen) < min(count, len(candidates)):
        there = tags[left].any(0)
        wanted = int(np.where(there, seen, np.inf).argmin()) if there.any() else 0
        # Among the images of that class, the one with the fewest other tags says most about it.
        place = int(np.where(tags[left, wanted], tags[left].sum(1), np.inf).argmin()) if there.any() else 0
        chosen.append(int(left[place]))
        seen += tags[left[place]]
        left = np.delete(left, place)
    return sorted(chosen)


def thumbnail_side(cells: int) -> int:
    """Longer side of a thumbnail so that this many fit on the page."""
    return int(np.clip(np.sqrt(PAGE_BYTES / BYTES_PER_PIXEL / max(cells, 1) / 0.75), 96, 320))


@dataclass(frozen=True)
class Album:
    """Draws the pictures of one image at a time."""

    images: Artifact
    side: int
    _latest: dict[int, np.ndarray] = field(default_factory=dict)

    def strip(self, i: int, makers: Sequence[Callable[[int], list[Cell]]]) -> Strip:
        """The pictures that `makers` give for image i, after the photograph itself."""
        names, tags = data.class_names(self.images), np.asarray(self.images["tags"][i])
        found = ", ".join(names[k + 1] for k in np.flatnonzero(tags)) or "no tag"
        photo = Cell(show.data_uri(self.photo(i)), "photograph")
        cells = [photo, *(cell for maker in makers for cell in maker(i))]
        return Strip(decode_text(np.asarray(self.images["id"][i])[None])[0], found, cells)

    def photo(self, i: int) -> np.ndarray:
        """The photograph at thumbnail size; the latest one is kept, since every picture of a strip starts from it."""
        if i not in self._latest:
            self._latest.clear()
            self._latest[i] = show.thumbnail(data.image(self.images, i), self.side)
        return self._latest[i]

    @property
    def background(self) -> int | None:
        """Class 0, unless the data set has no background (its class 0 is then an ordinary class)."""
        return 0 if data.class_names(self.images)[0].lower() == "background" else None

    def labelled(self, i: int, labels: np.ndarray, title: str) -> Cell:
        """A label map over the photograph, with its score on this image alone."""
        score, truth = float("nan"), data.true_mask(self.images, i)
        if (truth != data.VOID).any():
            classes = len(data.class_names(self.images))
            score = metrics.miou(metrics.confusion(truth, data.resize_nearest(labels, *truth.shape), classes))
        note = "" if np.isnan(score) else f"this image: {100 * score:.0f} %"
        return Cell(show.data_uri(show.overlay(self.photo(i), labels, background=self.background)), title, note)

    def size(self, i: int) -> tuple[int, int]:
        h, w = np.asarray(self.images["size"][i])
        return int(h), int(w)

    def drawn(self, seeds: Artifact, name: str, i: int, slots: int) -> np.ndarray:
        """Maps of the first tag slots at thumbnail size, [K,h,w]."""
        full = data.from_grid(np.asarray(seeds[name][i, :slots]), seeds.meta["grid"], *self.size(i))
        return np.stack([data.resize_nearest(layer, *self.photo(i).shape[:2]) for layer in full])

    def truth(self, i: int) -> list[Cell]:
        labels = data.true_mask(self.images, i)
        if (labels == data.VOID).all():
            return [Cell("", "true mask", "none")]
        return [Cell(show.data_uri(show.overlay(self.photo(i), labels, background=self.background)), "true mask")]

    def labels(self, artifact: Artifact, title: str) -> Callable[[int], list[Cell]]:
        covered = artifact.read("covered")

        def cells(i: int) -> list[Cell]:
            if not covered[i]:
                return [Cell("", title, "not labelled")]
            return [self.labelled(i, data.labels_at(artifact, self.images, i), title)]

        return cells

    def saliency(self, artifact: Artifact, title: str) -> Callable[[int], list[Cell]]:
        def cells(i: int) -> list[Cell]:
            h, w = self.size(i)
            grey = show.thumbnail(np.repeat(np.asarray(artifact["saliency"][i, :h, :w])[..., None], 3, 2), self.side)
            return [Cell(show.data_uri(grey), title)]

        return cells

    def seeds(self, artifact: Artifact, title: str, threshold: float | None) -> Callable[[int], list[Cell]]:
        """The highest score of any tag as heat; then, once something is mined, the region by round."""
        mined = len(artifact.meta["rounds"]) > 1

        def cells(i: int) -> list[Cell]:
            ids = np.asarray(artifact["classes"][i])
            ids = ids[(ids != data.VOID) & (ids != 0)]
            if not len(ids):
                return [Cell("", title, "no tag")] * (1 + mined)
            photo = self.photo(i)
            scores, first = (self.drawn(artifact, name, i, len(ids)) for name in ("scores", "first"))
            warm = show.heat(photo, scores.max(0).clip(0, 1))
            if threshold is not None:
                warm = show.outline(warm, scores > threshold, ids)
            out = [Cell(show.data_uri(warm), title, "" if threshold is None else f"line: t = {threshold:g}")]
            if mined:
                rounds = np.where(first > 0, first, 255).min(0) % 255
                region = show.outline(show.by_round(photo, rounds), first > 0, ids)
                out.append(Cell(show.data_uri(region), f"{title} · mined", f"{(rounds > 0).mean():.0%} of the image"))
            return out

        return cells

    def predictions(self, predict: Callable[[int], np.ndarray], title: str) -> Callable[[int], list[Cell]]:
        def cells(i: int) -> list[Cell]:
            labels, truth = predict(i), data.true_mask(self.images, i)
            out = [self.labelled(i, labels, title)]
            if (truth != data.VOID).any():
                out.append(Cell(show.data_uri(show.errors(self.photo(i), labels, truth)), f"{title} · errors"))
            return out

        return cells


@dataclass(frozen=True)
class Row:
    """Some patches of one class."""

    name: str
    count: int
    images: int
    src: str


def contact_sheet(images: Artifact, bank: Artifact, each: int = 12, size: int = 72) -> list[Row]:
    """Patches of every class, each from another image as far as the bank has them."""
    classes, sources, rows = bank.read("class"), bank.read("image"), []
    for k, name in enumerate(bank.meta["classes"]):
        mine = np.flatnonzero(classes == k)
        if not len(mine):
            continue
        _, firsts = np.unique(sources[mine], return_index=True)
        pool = mine[firsts] if len(firsts) >= min(each, len(mine)) else mine
        chosen = pool[np.linspace(0, len(pool) - 1, min(each, len(pool))).astype(int)]
        tiles = list(embedding.patch_images(images, bank, chosen, size))
        rows.append(Row(name, len(mine), len(firsts), show.data_uri(show.sheet(tiles), 84)))
    return rows
