"""What the class names, mask values and tags of a data set become: class ids of the result."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from difflib import get_close_matches

import numpy as np

from pipeline.core.data import Data
from pipeline.datasets.source import Source
from pipeline.kinds.pixels import VOID

REFUSED = -1  # a mask value that means nothing here


@dataclass(frozen=True)
class Classes:
    """Names of the result, by class id; names of the mask values; and a table of mask value → class id."""

    names: list[str]
    known: list[str]
    values: np.ndarray  # int16 [256]
    background: int | None

    @property
    def first(self) -> int:
        """The first mask value, and class id, that is an object's."""
        return 0 if self.background is None else 1

    def ids(self, values: set[int]) -> set[int]:
        """Foreground classes behind these mask values."""
        return set(self.values[list(values)].tolist()) - {self.background, VOID, REFUSED}


def keep_classes(known: list[str], data: Data, problems: list[str]) -> Classes:
    """Renumber: the background, if there is one, stays 0; `data.classes` follow and the rest become `data.other`."""
    background = 0 if data.background == "first" else None
    first = 0 if background is None else 1
    objects = known[first:]
    kept = list(objects if data.classes is None else data.classes)
    for name, n in Counter(kept).items():
        if name not in objects:
            problems.append(f"data.classes: '{name}' is not a class here; classes: {', '.join(objects) or 'none'}")
        elif n > 1 and data.classes is not None:
            problems.append(f"data.classes: '{name}' is listed {n} times; keep one")
    other = {"error": REFUSED, "background": 0, "void": VOID}[data.other]
    values = np.full(256, REFUSED, np.int16)
    values[VOID] = VOID
    values[:first] = range(first)
    for value, name in list(enumerate(known))[first:VOID]:
        values[value] = kept.index(name) + first if name in kept else other
    return Classes([*known[:first], *kept], known, values, background)


def tag_ids(source: Source, classes: Classes, data: Data) -> dict[str, set[int]]:
    """Class ids each image is tagged with; images whose tags are the classes in their mask are left out."""
    ids = {name: number for number, name in list(enumerate(classes.names))[classes.first :]}
    tagged = {picture.id: picture.tags for picture in source.pictures if picture.tags is not None}
    foreign: dict[str, list[str]] = {}
    for name, tags in tagged.items():
        for tag in tags:
            if tag not in ids:
                foreign.setdefault(tag, []).append(name)
    masks = any(picture.mask for picture in source.pictures)
    background = classes.known[classes.background] if classes.background is not None and classes.known else None
    for tag, names in sorted(foreign.items()):
        found = f"tags: '{tag}' ({len(names)} images, the first {names[0]})"
        if tag not in classes.known:
            alike = {name.casefold(): name for name in classes.known}
            near = get_close_matches(tag.casefold(), alike, 1, 0.75)
            meant = f" (meant {alike[near[0]]}?)" if near else ""
            source.problems.append(
                f"{found} is not a class{meant}; correct it, or add it to classes.txt: {', '.join(classes.known)}"
            )
        elif tag != background and data.other == "error":
            source.problems.append(f"{found} is not among data.classes; add it, or set data.other: background or void")
        elif tag == background and tag != "background" and not masks:
            source.problems.append(
                f"{found} stands first in classes.txt, the place of the background; put `background` first, "
                "or set data.background: none"
            )
    return {name: {ids[tag] for tag in tags if tag in ids} for name, tags in tagged.items()}
