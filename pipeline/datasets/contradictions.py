"""What the sources of a data set say about each other: class names, tags, and the values in masks.

Each may be sound alone and the whole still be wrong. What cannot be meant becomes a problem, what may be a warning. The
limits (half, nine in ten, one in ten) are ours.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from pipeline.core.data import Data
from pipeline.datasets.classes import Classes
from pipeline.datasets.files import some
from pipeline.datasets.look import Look
from pipeline.datasets.source import Source
from pipeline.kinds.pixels import VOID

NOTHING = {"background", "bg", "back", "void", "none", "nothing", "other", "others", "rest", "unlabeled", "unlabelled"}
NOTHING |= {"ignore", "clear", "clutter", "hintergrund", "fond", "fondo", "sfondo", "achtergrond"}
NONE = "set data.background: none"


def compare(source: Source, classes: Classes, tags: Mapping[str, set[int]], negative: set[str], found: Look) -> None:
    """Compare the masks with each other, with the class names and with the tags; causes go before what they cause."""
    causes = [*void_alone(source, classes, tags, found), *no_background(source, classes, found)]
    if source.tags_from != "masks" and not causes:
        causes += apart(source, classes, tags, negative, found)
    source.problems[:0] = causes


def void_alone(source: Source, classes: Classes, tags: Mapping[str, set[int]], found: Look) -> Iterator[str]:
    """Masks of 0 and 255, as tools write that know one class: here 255 is void, and their objects are nothing."""
    if classes.background != 0:
        return
    said = source.tags_from != "masks"
    odd = [
        name
        for name, values in found.values.items()
        if VOID in values and values <= {0, VOID} and not (said and tags.get(name) == set())
    ]
    means = "and 255 means void; write class numbers, 1 for the first class, and 0 alone where there is none"
    if odd and len(odd) == len(found.values):
        yield f"masks: all hold 0 and 255 alone, {means}"
    elif odd:
        line = f"masks: {len(odd)} of {len(found.values)} hold 0 and 255 alone ({some(odd)}), {means}"
        if 1 < len(odd) >= len(found.values) / 10:
            yield f"{line}, or remove these masks"
        else:
            source.warnings.append(line)


def no_background(source: Source, classes: Classes, found: Look) -> Iterator[str]:
    """A first class that is an object's though value 0 is the background's, or the other way round."""
    if classes.background is None or not classes.known or not found.values:
        return
    first, count = classes.known[0], len(found.values)
    if re.sub(r"\W|_", "", first.casefold()) in NOTHING:
        return
    zero = sum(0 in values for values in found.values.values())
    about = f"classes.txt: the first line is '{first}', and value 0 is in {zero} of {count} masks"
    if zero < count / 2:
        source.warnings.append(f"{about}, rarer than a background; if it is a class as any other, {NONE}")
        return
    said = {picture.id: picture.tags for picture in source.pictures if first in (picture.tags or ())}
    empty = {name for name, tags in said.items() if tags == (first,) and found.values.get(name, {0}) <= {0, VOID}}
    tagged = said.keys() - empty and said.keys()  # as a class; alone, and where no mask shows any, it means nothing
    differ = sum((0 in values) != (name in tagged) for name, values in found.values.items())
    beyond = max((max(values - {VOID}, default=0) for values in found.values.values()), default=0)
    above = "put `background` above it"
    if tagged and differ > count / 2:
        yield f"{about}, but {len(tagged)} photographs are tagged so; {above}, or {NONE}"
    elif beyond == len(classes.known) and zero >= 0.9 * count:
        yield f"{about}, as a background is, and value {beyond} has no line; {above}"
    elif zero >= 0.9 * count:
        source.warnings.append(f"{about}, as a background is; if '{first}' is an object, {above}")


def apart(
    source: Source, classes: Classes, tags: Mapping[str, set[int]], negative: set[str], found: Look
) -> Iterator[str]:
    """Photographs whose tags and mask share no class, and classes that tags and masks never show together. Those that
    are said to show no class are among them."""
    names = [name for name in found.drawn if tags[name] or name in negative]
    bad = [name for name in names if not tags[name] & found.drawn[name] and tags[name] | found.drawn[name]]

    def words(ids: Iterable[int]) -> str:
        return " ".join(classes.names[i] for i in sorted(ids)) or "nothing"

    examples = some([f"{name}: tags {words(tags[name])}, mask {words(found.drawn[name])}" for name in bad])
    line = f"tags and masks share no class in {len(bad)} of {len(names)} photographs ({examples})"
    if len(bad) > max(1, len(names) / 2):
        said = order(names, classes, tags, found)
        remedy = "put the lines of classes.txt in the order of the values in masks/, or correct the tags"
        yield f"{line}{said}; {remedy}"
        return
    if bad:
        source.warnings.append(f"{line}; correct one or the other: do values mean there what they mean in the rest?")
    tagged, drawn = (Counter(i for name in names for i in said[name]) for said in (tags, found.drawn))
    both = Counter(i for name in names for i in tags[name] & found.drawn[name])
    never = [
        f"'{name}' tagged in {tagged[i]}, drawn in {drawn[i]}"
        for i, name in enumerate(classes.names)
        if max(tagged[i], drawn[i]) > 2 and not both[i]
    ]
    if never:
        source.warnings.append(
            f"tags and masks of {len(names)} photographs never agree on {some(never)}; look at classes.txt"
        )


def order(names: list[str], classes: Classes, tags: Mapping[str, set[int]], found: Look) -> str:
    """Which mask value goes with which tag, where nine in ten photographs say so both ways."""
    known = {i: name for i, name in enumerate(classes.names) if i != classes.background}
    values = sorted(set().union(*(found.values[name] for name in names)) - {VOID, *range(classes.first)})
    said = np.array([[i in tags[name] for i in known] for name in names])
    held = np.array([[value in found.values[name] for value in values] for name in names])
    together = said.T.astype(int) @ held
    overlap = together / np.maximum(said.sum(0)[:, None] + held.sum(0) - together, 1)
    pairs = [
        f"{value} {list(known.values())[best]}"
        for column, value in enumerate(values)
        if overlap[best := int(overlap[:, column].argmax()), column] >= 0.9
    ]
    return f"; by the tags the values are {', '.join(pairs[:20])}" if pairs else ""


def absent(source: Source, classes: Classes, tags: Mapping[str, set[int]], found: Look, data: Data) -> Iterator[str]:
    """Classes without a training image, and the settings that leave them out. Silent where no image has any, for a
    cause that was found already."""
    train = [name for name in source.splits["train"] if tags.get(name)]
    counts = Counter(number for name in train for number in tags[name])
    objects = list(enumerate(classes.names))[classes.first :]
    none = [(number, name) for number, name in objects if not counts[number] and name in classes.known]
    if not none or (source.problems and not train):
        return
    names = ", ".join(f"'{name}'" for _, name in none)
    remedy = "tag some"
    if kept := [name for number, name in objects if counts[number]]:
        elsewhere = {number for said in (tags, found.drawn) for ids in said.values() for number in ids}
        other = ", other: void" if data.other == "error" and elsewhere & {number for number, _ in none} else ""
        remedy += f", or leave them out: `data: {{classes: [{', '.join(map(plain, kept))}]{other}}}`"
    if data.share < 1:
        listed = len([name for name in source.splits["train"] if name in tags])
        remedy = f"data.share {data.share:g} keeps {listed} training images; raise it, {remedy}"
    yield f"classes: no training image has the tag {names}; {remedy}"


def plain(name: str) -> str:
    """A class name as YAML reads it back."""
    words = {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}
    simple = re.fullmatch(r"[^\W\d][\w .+-]*", name) and name.casefold() not in words
    return name if simple else json.dumps(name, ensure_ascii=False)
