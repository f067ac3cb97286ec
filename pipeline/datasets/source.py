"""What a data set consists of: photographs, masks, lists, class names and tags, without a single pixel.

Each layout has one module with two functions: `source` reads what is said about the photographs, `trace` says which
files decide it, for a cheap look at whether anything has changed. Bad data raises nothing here: every finding becomes a
line in `problems` (file: what; what to do), so that all of them can be reported at once; what may be meant is one of
`warnings`, and what is left out without harm one of `notes`: these are printed and stop nothing.

Nothing that `trace` needs may import numpy or torch: Snakemake asks on every dry run.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipeline.datasets.tables import unfound

SPLITS = ("train", "val", "score")
Lists = Mapping[str, list[str]]
Drawn = tuple[int, int]  # (seed, index) of a built-in picture, in place of its file
SCORED = 20  # masks that a drawn validation list is to hold, so that there is a score (ours)


@dataclass(frozen=True)
class Sketch:
    """A mask that no file holds: what it is drawn from (datasets/shapes.py), as text. where: for messages alone."""

    text: str
    where: str = field(default="", compare=False)

    def __str__(self) -> str:
        return self.where


@dataclass(frozen=True)
class Picture:
    """One photograph and what is said about it."""

    id: str
    image: Path | Drawn
    mask: Path | Drawn | Sketch | None = None
    tags: tuple[str, ...] | None = None  # None: the classes in the mask


@dataclass
class Source:
    """A data set without its pixels. `classes` are the names of mask values 0, 1, ...; splits name pictures."""

    classes: list[str] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    splits: dict[str, list[str]] = field(default_factory=dict)
    tags_from: str = ""
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # what was left out, and does no harm


@dataclass(frozen=True)
class Trace:
    """The files that decide a data set, to be looked at by name, size and time. Any of them may be missing."""

    drawn: tuple[object, ...] = ()  # settings that decide which photographs are in which split
    lists: tuple[Path, ...] = ()
    classes: tuple[Path, ...] = ()  # that say what the classes are
    tags: tuple[Path, ...] = ()
    photographs: Path | None = None  # folders
    masks: Path | None = None
    annotations: Path | None = None
    exported: tuple[Path, ...] = ()  # files and folders that say tags and masks at once
    tags_from: str = ""
    wanted: frozenset[str] | None = None  # names of the pictures that count; None: all in the folders
    count: int | None = None  # of photographs; None: those in the folder
    masked: int | None = None  # how many have a mask; None: as many as there are files in the folder


def fill_splits(
    given: Lists,
    ids: list[str],
    val_share: float,
    seed: int,
    masked: Collection[str] = (),
    tags: Mapping[str, tuple[str, ...]] | None = None,
) -> dict[str, list[str]]:
    """The lists that are there; a missing train or val is what the other leaves; without both, a draw (`draw_val`)."""
    splits = dict(given)
    if "train" not in given and "val" not in given:
        val = draw_val(ids, val_share, seed, masked, tags or {})
        splits["val"] = [name for name in ids if name in val]
    for split, other in (("train", "val"), ("val", "train")):
        if split not in splits:
            taken = set(splits[other])
            splits[split] = [name for name in ids if name not in taken]
    splits.setdefault("score", splits["train"])
    return splits


def draw_val(
    ids: list[str], val_share: float, seed: int, masked: Collection[str], tags: Mapping[str, tuple[str, ...]]
) -> set[str]:
    """A seeded draw of validation photographs. Guaranteed, in this order (rules ours):

    - every tag keeps a photograph in training, where `tags` are known before masks are opened;
    - val holds a photograph, if one can be spared;
    - val holds half of the photographs with a mask, at most SCORED of them and no more than its share, but for those
      that the first rule takes back.

    Beyond that a photograph's side depends on its name and the seed alone. Adding one moves no other, except that a
    rule may need one more, or no longer need one that it had moved.
    """
    draw = {name: hashlib.sha256(f"{seed} {name}".encode()).digest() for name in ids}
    limit = int(val_share * 2**64).to_bytes(8, "big")
    val = {name for name in ids if draw[name] < limit}
    first = sorted((name for name in ids if name in masked), key=draw.__getitem__)
    val.update(first[: min((len(first) + 1) // 2, SCORED, max(1, round(val_share * len(ids))))])
    shown: dict[str, list[str]] = {}
    for name in ids:
        for tag in set(tags.get(name, ())):
            shown.setdefault(tag, []).append(name)
    for _, names in sorted(shown.items()):
        if val.issuperset(names):
            val.remove(max(names, key=lambda name: (name not in masked, draw[name])))
    if not val:
        left = Counter({tag: len(names) for tag, names in shown.items()})
        order = sorted(ids, key=lambda name: (name not in masked, draw[name]))
        val.update([name for name in order if all(left[tag] > 1 for tag in tags.get(name, ()))][:1])
    return val


def thin(source: Source, share: float) -> Source:
    """The same data set with a share of its training images, and all of those that a list of its own scores.

    A photograph stays or goes by its name alone, as in `fill_splits`.
    """
    limit = int(share * 2**64).to_bytes(8, "big")
    scored = source.splits["score"]
    keep = set() if scored == source.splits["train"] else set(scored)
    train = [
        name
        for name in source.splits["train"]
        if name in keep or hashlib.sha256(f"share {name}".encode()).digest() < limit
    ]
    return with_train(source, train, scored if keep else train)


def with_train(source: Source, train: list[str], score: list[str]) -> Source:
    """The same data set with these lists, and no pictures but theirs and the validation list's."""
    splits = {**source.splits, "train": train, "score": score}
    left = {*train, *splits["val"]}
    return replace(source, splits=splits, pictures=[picture for picture in source.pictures if picture.id in left])


def strays(masks: Mapping[str, Path], photographs: Mapping[str, Path], where: Path, images: Path) -> list[str]:
    """Masks that belong to no photograph, with what they may be meant for."""
    names: dict[str, str] = {}
    for name in photographs:
        names.setdefault(name.rpartition("/")[2], name)
    found = []
    for name in sorted(masks.keys() - photographs.keys()):
        base = name.rpartition("/")[2]
        meant = names.get(base) or next((names[base[:n]] for n in range(len(base), 2, -1) if base[:n] in names), None)
        remedy = f"move or rename it to {where / meant}.png" if meant else "rename it, or remove it"
        found.append(f"{masks[name]}: no photograph of this name in {images.name}/; {remedy}")
    return found


def assemble(
    source: Source,
    where: Mapping[str, str],
    photographs: Mapping[str, Path],
    masks: Mapping[str, Path | Sketch],
    tags: Mapping[str, tuple[str, ...] | None] | None,
) -> Source:
    """Check the lists against the photographs and each other; add the pictures, in the order train, val. Tags of None
    are the classes in the mask, of one picture or of all."""
    train, found = set(source.splits["train"]), source.problems
    shared = source.splits["score"] is source.splits["train"]
    for split in SPLITS[: 2 if shared else 3]:
        names = source.splits[split]
        if not names and Path(where[split]).suffix != ".txt":
            remedy = f"write the list in splits/{split}.txt" if source.tags_from != "export" else "label more of them"
            found.append(f"{where[split]}: empty; add photographs, or {remedy}")
        missing = [name for name in names if name not in photographs]
        found += unfound(where[split], missing, photographs, "remove it from the list or add the file")
    found += [
        f"{where['val']}: '{name}' is in {where['train']} too; keep one"
        for name in source.splits["val"]
        if name in train
    ]
    found += [
        f"{where['score']}: '{name}' is not a training image; label quality is scored on those, so remove it"
        for name in source.splits["score"]
        if name not in train
    ]
    ids = [name for name in dict.fromkeys([*source.splits["train"], *source.splits["val"]]) if name in photographs]
    source.pictures = [
        Picture(name, photographs[name], masks.get(name), None if tags is None else tags.get(name, ())) for name in ids
    ]
    return source
