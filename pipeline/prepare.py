"""Photographs and labels of any layout → the `images` artifact every recipe starts from.

One pass looks at everything and reports all it finds wrong in one message, before anything is written. Photographs are
turned upright, brought to RGB and reduced to `max_side`; masks keep their original resolution, where scores are taken.

Reads: the built-in demo set, a VOC devkit or a plain folder (core/sources.py says what lies where).
Makes: images = rgb u8 [N,S,S,3], size i32 [N,2], full_size i32 [N,2], mask u8 [N,H0,W0], tags bool [N,C-1],
has_mask bool [N]; tables id, split_train, split_val, split_score. Rows: the training list, then the validation list.
Cost: every new file is hashed once and decoded twice, 8 ms of CPU at 256 pixels; known rows are hashed only.
Memory: one shard of rows, so 64 masks at original resolution: 1 GB more for photographs of 12 megapixels.
"""

from __future__ import annotations

import argparse
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ValidationError

from pipeline.core import cli, demo, recipe, sources, store
from pipeline.core.config import ConfigError, Data, Demo, Folder, Voc, explain
from pipeline.core.data import VOID, resize_image
from pipeline.core.photographs import (
    Classes,
    Content,
    Size,
    Unusable,
    digests,
    keep_classes,
    look_at_mask,
    look_at_photograph,
    read_mask,
    read_photograph,
    tag_ids,
)
from pipeline.core.sources import Picture, Source

LINES = 50  # of a message
CANVAS = 64  # mask canvases grow in steps of this, so that a slightly larger photograph changes no row


def look(
    source: Source, classes: Classes, tags: dict[str, set[int]], max_side: int, known: Callable[[Picture], bool]
) -> dict[str, Size]:
    """Look at every picture: sizes by id; tags from masks go to `tags`, findings to source.problems.

    Of known pictures, whose rows are there already, only what the rest needs: sizes, and tags that are in masks.
    """
    sizes: dict[str, Size] = {}
    drawn: set[int] = set()
    for picture in source.pictures:
        file: object = picture.image
        try:
            sizes[picture.id] = look_at_photograph(picture, known(picture), max_side)
            if picture.tags is None or not known(picture):
                file = picture.mask
                values, problems = look_at_mask(picture, sizes[picture.id], classes)
                tags.setdefault(picture.id, classes.ids(values))
                drawn |= values
                source.problems += problems
        except Unusable as error:
            source.problems.append(f"{file}: {error}")
        except Exception as error:  # decoders raise almost anything at damaged bytes
            source.problems.append(f"{file}: cannot be decoded ({error}); replace it")
    if drawn == {0, VOID} and not any(map(known, source.pictures)):
        source.problems.append(
            "masks: all hold 0 and 255 alone, and 255 means void; write class numbers, 1 for the first class"
        )
    return sizes


# ---------------------------------------------------------------------------------------------------- consistency


def leaks(source: Source, content: Content) -> Iterator[str]:
    """Photographs of the validation list that are, byte for byte, in the training list under another name."""
    pictures = {picture.id: picture for picture in source.pictures}
    train = {content[name][0]: name for name in source.splits["train"] if name in content}
    for name in source.splits["val"]:
        twin = train.get(content[name][0]) if name in content else None
        if twin and twin != name:
            yield f"{pictures[name].image} (val) is the same photograph as {pictures[twin].image} (train); remove one"


def untagged(source: Source, classes: Classes, tags: Mapping[str, set[int]], share: float) -> Iterator[str]:
    """Training images without a tag, and classes without a training image. Silent where no image has any, for a cause
    that was found already, as an unreadable tags.csv."""
    place = {"csv": "tags.csv", "xml": "its annotation", "masks": "its mask"}[source.tags_from]
    pictures = {picture.id: picture for picture in source.pictures}
    train = [name for name in source.splits["train"] if name in pictures]
    if source.problems and not any(tags.get(name) for name in train):
        return
    for name in train:
        if tags.get(name) == set():
            remedy = "tag it, remove it from the training list, or set data.untagged: drop"
            yield f"{pictures[name].image}: no class in {place}; {remedy}"
    counts = Counter(number for name in train for number in tags.get(name, ()))
    for number, name in enumerate(classes.names[1:], 1):
        if not counts[number] and name in classes.known:
            remedy = "add some, or leave it out with data.classes"
            if share < 1:
                remedy = f"data.share {share:g} keeps {len(train)} training images; raise it, or " + remedy
            yield f"class '{name}': no training image has this tag; {remedy}"


def without_untagged(source: Source, tags: Mapping[str, set[int]]) -> Source:
    """The data set without the training images that have no tag."""
    train, score = ([name for name in source.splits[split] if tags.get(name)] for split in ("train", "score"))
    print(f"{len(source.splits['train']) - len(train)} training photographs without a tag left out", flush=True)
    return sources.with_train(source, train, score)


# ---------------------------------------------------------------------------------------------------------- story


def read_source(data: Data) -> Source:
    match data.format:
        case "voc":
            source = sources.voc(data.voc)
        case "folder":
            source = sources.folder(data.folder)
        case _:
            source = demo_source(data.demo)
    return sources.thin(source, data.share) if data.share < 1 and source.splits else source


def demo_source(settings: Demo) -> Source:
    pictures = [Picture(f"{index:05d}", (settings.seed, index)) for index in range(settings.train + settings.val)]
    names = [picture.id for picture in pictures]
    train, val = names[: settings.train], names[settings.train :]
    return Source(list(demo.CLASSES), pictures, {"train": train, "val": val, "score": train}, "masks")


def refuse(data: Data, problems: list[str]) -> None:
    """Raise one InputError with all problems, if there are any."""
    if problems:
        first = f"data set '{data.name}' ({data.format}): {len(problems)} problem(s), nothing was written"
        raise cli.InputError("\n  ".join([first, *shorten(problems)]))


def shorten(problems: list[str]) -> list[str]:
    """At most LINES lines. Problems with one remedy are of one kind, and no kind crowds out another."""
    if len(problems) <= LINES:
        return problems
    kinds: dict[str, list[str]] = {}
    for line in problems:
        kinds.setdefault(line.rpartition(";")[2], []).append(line)
    share = max(1, LINES // len(kinds))
    lines = [line for group in kinds.values() for line in group[:share]][:LINES]
    return [*lines, f"... and {len(problems) - len(lines)} more"]


def header_of(data: Data, source: Source, keys: Mapping[str, bytes]) -> store.Header:
    """Where files lie and what the data set is called stay out: they do not change what is in them."""
    keep = {"format", "max_side", "classes", "other", "untagged", data.format}
    away: Any = {data.format: {"root", "download", "url"}}
    settings = data.model_dump(mode="json", include=keep, exclude=away)
    files = hashlib.sha256(repr((list(keys.items()), sorted(source.splits.items()))).encode()).hexdigest()[:32]
    return store.Header("images", "prepare", settings, recipe.code_digest("prepare"), parents={"files": files})


def row_keys(
    source: Source, classes: Classes, tags: Mapping[str, set[int]], content: Content, max_side: int
) -> dict[str, bytes]:
    """What each picture's row is made from. Tags that come from the mask are in its digest."""
    common = (recipe.code_digest("prepare"), classes.names, classes.values.tolist(), max_side)
    made_of = {name: (common, digests, sorted(tags.get(name, ()))) for name, digests in content.items()}
    return {
        name: hashlib.blake2b(repr(made).encode(), digest_size=store.DIGEST).digest() for name, made in made_of.items()
    }


def prepare(data: Data, out: Path) -> None:
    source = read_source(data)
    problems = source.problems
    if not source.pictures:
        refuse(data, problems)
    classes = keep_classes(source.classes, data, problems)
    tags = tag_ids(source, classes, data)
    content = digests(source)
    problems += leaks(source, content)
    keys = row_keys(source, classes, tags, content, data.max_side)
    header = header_of(data, source, keys)
    if not problems and store.finished(out, header):
        print(f"{out}: complete already", flush=True)
        return
    reusable = store.reusable_keys(out)
    sizes = look(source, classes, tags, data.max_side, lambda picture: keys[picture.id] in reusable)
    if data.untagged == "drop":
        source = without_untagged(source, tags)
    problems += untagged(source, classes, tags, data.share)
    refuse(data, problems)
    write(data, source, classes, tags, sizes, keys, header, out)


def write(
    data: Data,
    source: Source,
    classes: Classes,
    tags: Mapping[str, set[int]],
    sizes: Mapping[str, Size],
    keys: Mapping[str, bytes],
    header: store.Header,
    out: Path,
) -> None:
    """The artifact, picture by picture."""
    names = [picture.id for picture in source.pictures]
    rows = {name: row for row, name in enumerate(names)}
    side, foreground = data.max_side, len(classes.names) - 1
    canvas = tuple(-(-max(lengths) // CANVAS) * CANVAS for lengths in zip(*sizes.values(), strict=True))

    def compute(indices: list[int]) -> Iterator[store.Row]:
        for picture in map(source.pictures.__getitem__, indices):
            hot = np.isin(np.arange(1, foreground + 1), list(tags[picture.id]))
            yield {**row_of(picture, sizes[picture.id], classes, side, canvas), "tags": hot}

    tables = {
        f"split_{split}": np.array([rows[name] for name in listed], np.int64) for split, listed in source.splits.items()
    }
    store.write_rows(
        out,
        header,
        {
            "rgb": ((side, side, 3), np.uint8),
            "size": ((2,), np.int32),
            "full_size": ((2,), np.int32),
            "mask": (canvas, np.uint8),
            "tags": ((foreground,), np.bool_),
            "has_mask": ((), np.bool_),
        },
        [keys[name] for name in names],
        compute,
        {
            "classes": classes.names,
            "format": data.format,
            "tags_from": source.tags_from,
            "counts": count(source, classes, tags),
        },
        axes="image, row, column, channel",
        tables={"id": store.encode_text(names), **tables},
    )


def row_of(picture: Picture, size: Size, classes: Classes, side: int, canvas: tuple[int, ...]) -> store.Row:
    """One picture on its canvases; the photograph at most `side` long, the mask as large as it is."""
    reduction = min(1.0, side / max(size))
    h, w = (max(1, round(length * reduction)) for length in size)
    rgb = np.zeros((side, side, 3), np.uint8)
    rgb[:h, :w] = resize_image(read_photograph(picture), h, w)
    values, mask = read_mask(picture), np.full(canvas, VOID, np.uint8)
    if values is not None:
        mask[: size[0], : size[1]] = classes.values[values]
    return {
        "rgb": rgb,
        "size": np.array([h, w], np.int32),
        "full_size": np.array(size, np.int32),
        "mask": mask,
        "has_mask": np.array(values is not None),
    }


def count(source: Source, classes: Classes, tags: Mapping[str, set[int]]) -> dict[str, Any]:
    """Photographs and masks of each split, and training images of each class; printed, and kept with the artifact."""
    masked = {picture.id for picture in source.pictures if picture.mask or isinstance(picture.image, tuple)}
    tagged = Counter(number for name in source.splits["train"] for number in tags[name])
    with_mask = {split: len(masked.intersection(listed)) for split, listed in source.splits.items()}
    for split in sources.SPLITS:
        print(f"{split}: {len(source.splits[split])} photographs, {with_mask[split]} with a mask", flush=True)
    images = {split: len(listed) for split, listed in source.splits.items()}
    return {**images, "with_mask": with_mask, "tags": {n: tagged[i] for i, n in enumerate(classes.names) if i}}


def _describe(settings: type[BaseModel], block: str) -> str:
    fields = settings.model_fields.items()
    lines = [f"  {name} = {str(about.default)!r}  {about.description or ''}".rstrip() for name, about in fields]
    return "\n".join([f"settings, {block}:", *lines])


def main(argv: list[str] | None = None) -> None:
    blocks: dict[str, type[BaseModel]] = {"JSON": Data, "block demo": Demo, "block voc": Voc, "block folder": Folder}
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.prepare",
        description=__doc__,
        epilog="\n\n".join(_describe(settings, block) for block, settings in blocks.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--settings", default="{}", help="JSON of the `data:` block of config.yaml")
    parser.add_argument("--out", type=Path, required=True, help="manifest to write, e.g. results/demo/images.json")
    args = parser.parse_args(argv)

    def work() -> None:
        try:
            data = Data.model_validate_json(args.settings)
        except ValidationError as error:
            raise ConfigError(explain(error, "--settings")) from None
        prepare(data, args.out)

    cli.guarded(work)


if __name__ == "__main__":
    main()
