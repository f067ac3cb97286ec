"""Photographs and labels of any layout → the `images` artifact every recipe starts from.

One pass looks at everything and reports all it finds wrong in one message, before anything is written. Photographs are
turned upright, brought to RGB and reduced to `max_side`; masks keep their original resolution, where scores are taken.

Reads: the built-in demo set, a VOC devkit or a plain folder (core/sources.py says what lies where).
Makes: images = rgb u8 [N,S,S,3], size i32 [N,2], full_size i32 [N,2], mask u8 [N,H0,W0], tags bool [N,C-1],
has_mask bool [N]; tables id, split_train, split_val, split_score. Rows: the training list, then the validation list.
Cost: every new file is hashed once and decoded twice, about 6 ms per VOC image; known rows are hashed only.
Memory: one shard of rows.
"""

from __future__ import annotations

import argparse
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydantic import BaseModel, ValidationError

from pipeline.core import cli, demo, recipe, sources, store
from pipeline.core.config import ConfigError, Data, Demo, Folder, Voc, explain
from pipeline.core.data import VOID, resize_image
from pipeline.core.sources import Picture, Source

LINES = 50  # of a message
CANVAS = 64  # mask canvases grow in steps of this, so that a slightly larger photograph changes no row


def read_tags(source: Source, classes: Classes, data: Data) -> dict[str, set[int]]:
    """Class ids each image is tagged with; images whose tags are the classes in their mask are left out."""
    ids = {name: number for number, name in enumerate(classes.names[1:], 1)}
    tagged = {picture.id: picture.tags for picture in source.pictures if picture.tags is not None}
    foreign: dict[str, list[str]] = {}
    for name, tags in tagged.items():
        for tag in tags:
            if tag not in ids:
                foreign.setdefault(tag, []).append(name)
    masks = any(picture.mask for picture in source.pictures)
    for tag, names in sorted(foreign.items()):
        found = f"tags: '{tag}' ({len(names)} images, the first {names[0]})"
        if tag not in classes.known:
            source.problems.append(f"{found} is not a class; correct it, or add it to classes.txt: {', '.join(classes.known)}")
        elif tag != classes.known[0] and data.other == "error":
            source.problems.append(f"{found} is not among data.classes; add it, or set data.other: background or void")
        elif tag == classes.known[0] and tag != "background" and not masks:
            source.problems.append(f"{found} stands first in classes.txt, the place of the background; put `background` first")
    return {name: {ids[tag] for tag in tags if tag in ids} for name, tags in tagged.items()}


def look(
    source: Source, classes: Classes, tags: dict[str, set[int]], known: Callable[[Picture], bool], seed: int
) -> dict[str, Size]:
    """Look at every picture: sizes by id; tags from masks go to `tags`, findings to source.problems."""
    sizes: dict[str, Size] = {}
    drawn: set[int] = set()
    for picture in source.pictures:
        file: Path | int | None = picture.image
        try:
            if isinstance(picture.image, int):
                height, width = compose(seed, picture.image)[1].shape
                sizes[picture.id] = height, width
            else:
                sizes[picture.id] = look_at_photograph(picture, known(picture))
            if picture.tags is None or not known(picture):
                file = picture.mask
                ids, problems = look_at_mask(picture, sizes[picture.id], classes, seed)
                tags.setdefault(picture.id, ids)
                drawn |= ids
                source.problems += problems
        except Exception as error:  # decoders raise almost anything at damaged bytes
            source.problems.append(f"{file}: cannot be used ({error}); replace it")
            tags.setdefault(picture.id, set())
    masked = [picture for picture in source.pictures if picture.mask and not known(picture)]
    if not drawn and masked and len(masked) == len(source.pictures) and not source.problems:
        source.problems.append(
            f"{masked[0].mask} and all other masks: no class in any, only 0 and 255 (which means void); "
            "write class numbers, 1 for the first class"
        )
    return sizes


# ---------------------------------------------------------------------------------------------------- consistency


def digests(source: Source) -> dict[str, tuple[bytes, bytes]]:
    """Content digests of each picture's photograph and mask."""
    found = {}
    for picture in source.pictures:
        try:
            found[picture.id] = _digest(picture.image), _digest(picture.mask)
        except OSError as error:
            source.problems.append(f"{error.filename}: cannot be read ({error.strerror}); check its permissions")
    return found


def _digest(file: Path | int | None) -> bytes:
    content = file.read_bytes() if isinstance(file, Path) else repr(file).encode()
    return hashlib.blake2b(content, digest_size=store.DIGEST).digest()


def leaks(source: Source, content: Mapping[str, tuple[bytes, bytes]]) -> Iterator[str]:
    """Photographs of the validation list that are, byte for byte, in the training list under another name."""
    pictures = {picture.id: picture for picture in source.pictures}
    train = {content[name][0]: name for name in source.splits["train"] if name in content}
    for name in source.splits["val"]:
        twin = train.get(content[name][0]) if name in content else None
        if twin and twin != name:
            yield f"{pictures[name].image} (val) is the same photograph as {pictures[twin].image} (train); remove one"


def untagged(source: Source, classes: Classes, tags: Mapping[str, set[int]]) -> Iterator[str]:
    """Training images without a tag, and classes without a training image."""
    place = {"csv": "tags.csv", "xml": "its annotation", "masks": "its mask"}[source.tags_from]
    pictures = {picture.id: picture for picture in source.pictures}
    train = [name for name in source.splits["train"] if name in pictures]
    for name in train:
        if not tags.get(name):
            yield f"{pictures[name].image}: {place} names none of the classes; tag it or remove it from the training list"
    counts = Counter(number for name in train for number in tags.get(name, ()))
    for number, name in enumerate(classes.names[1:], 1):
        if not counts[number]:
            yield f"class '{name}': no training image has this tag; add some, or leave it out with data.classes"


# ---------------------------------------------------------------------------------------------------------- story


def read_source(data: Data) -> Source:
    if data.format == "voc":
        if data.voc.download and not data.voc.root.exists():
            fetch(data.voc)
        return sources.voc(data.voc)
    return sources.folder(data.folder) if data.format == "folder" else demo_source(data.demo)


def demo_source(settings: Demo) -> Source:
    names = [f"{index:05d}" for index in range(settings.train + settings.val)]
    train, val = names[: settings.train], names[settings.train :]
    pictures = [Picture(name, index) for index, name in enumerate(names)]
    return Source(list(demo.CLASSES), pictures, {"train": train, "val": val, "score": train}, "masks")


def refuse(data: Data, problems: list[str]) -> None:
    """Raise one InputError with all problems, if there are any."""
    if problems:
        lines = [f"data set '{data.name}' ({data.format}): {len(problems)} problem(s), nothing was written", *problems[:LINES]]
        if len(problems) > LINES:
            lines.append(f"... and {len(problems) - LINES} more")
        raise cli.InputError("\n  ".join(lines))


def header_of(data: Data, content: Mapping[str, Any]) -> store.Header:
    """Where files lie and what the data set is called stay out: they do not change what is in them."""
    keep = {"format", "max_side", "classes", "other", data.format}
    settings = data.model_dump(mode="json", include=keep, exclude={data.format: {"root", "download", "url"}})
    files = hashlib.sha256(repr(sorted(content.items())).encode()).hexdigest()[:32]
    return store.Header("images", "prepare", settings, recipe.code_digest("prepare"), parents={"files": files})


def prepare(data: Data, out: Path) -> None:
    source = read_source(data)
    problems, seed = source.problems, data.demo.seed
    if not source.pictures:
        refuse(data, problems or [f"{data.name}: no photographs"])
    classes = keep_classes(source.classes, data, problems)
    tags = read_tags(source, classes, data)
    content = digests(source)
    problems += leaks(source, content)
    made_of = [recipe.code_digest("prepare"), classes.names, classes.values.tolist(), data.max_side]
    made_of += [seed] if data.format == "demo" else []
    keys = {
        name: hashlib.blake2b(repr((made_of, digest, sorted(tags.get(name, ())))).encode(), digest_size=store.DIGEST).digest()
        for name, digest in content.items()
    }
    header = header_of(data, {**source.splits, "rows": [(name, key.hex()) for name, key in keys.items()]})
    if not problems and store.finished(out, header):
        return print(f"{out}: complete already", flush=True)
    reusable = store.reusable_keys(out)
    sizes = look(source, classes, tags, lambda picture: keys.get(picture.id) in reusable, seed)
    problems += untagged(source, classes, tags)
    refuse(data, problems)
    write(source, classes, tags, sizes, keys, data, header, out)


def write(
    source: Source,
    classes: Classes,
    tags: Mapping[str, set[int]],
    sizes: Mapping[str, Size],
    keys: Mapping[str, bytes],
    data: Data,
    header: store.Header,
    out: Path,
) -> None:
    """The artifact, picture by picture."""
    names = [picture.id for picture in source.pictures]
    rows = {name: row for row, name in enumerate(names)}
    side, seed = data.max_side, data.demo.seed
    canvas = tuple(-(-max(lengths) // CANVAS) * CANVAS for lengths in zip(*sizes.values(), strict=True))
    numbers = np.arange(1, len(classes.names))

    def compute(indices: list[int]) -> Iterator[store.Row]:
        for i in indices:
            picture = source.pictures[i]
            rgb, values = read_photograph(picture, seed), read_mask(picture, seed)
            h0, w0 = sizes[picture.id]
            reduction = min(1.0, side / max(h0, w0))
            h, w = max(1, round(h0 * reduction)), max(1, round(w0 * reduction))
            row = {"rgb": np.zeros((side, side, 3), np.uint8), "mask": np.full(canvas, VOID, np.uint8)}
            row["rgb"][:h, :w] = resize_image(rgb, h, w)
            if values is not None:
                row["mask"][:h0, :w0] = classes.values[values]
            row |= {"size": np.array([h, w], np.int32), "full_size": np.array([h0, w0], np.int32)}
            yield row | {"tags": np.isin(numbers, list(tags[picture.id])), "has_mask": np.array(values is not None)}

    splits = {split: np.array([rows[name] for name in listed], np.int64) for split, listed in source.splits.items()}
    masked = {picture.id for picture in source.pictures if picture.mask or isinstance(picture.image, int)}
    tagged = Counter(number for name in source.splits["train"] for number in tags[name])
    counts = {
        **{split: len(listed) for split, listed in source.splits.items()},
        "with_mask": {split: len(masked.intersection(listed)) for split, listed in source.splits.items()},
        "tags": {classes.names[number]: tagged[number] for number in numbers.tolist()},
    }
    for split in sources.SPLITS:
        print(f"{split}: {counts[split]} photographs, {counts['with_mask'][split]} with a mask", flush=True)
    arrays: dict[str, tuple[tuple[int, ...], Any]] = {
        "rgb": ((side, side, 3), np.uint8),
        "size": ((2,), np.int32),
        "full_size": ((2,), np.int32),
        "mask": (canvas, np.uint8),
        "tags": ((len(numbers),), np.bool_),
        "has_mask": ((), np.bool_),
    }
    tables = {"id": store.encode_text(names), **{f"split_{split}": numbers for split, numbers in splits.items()}}
    meta = {"classes": classes.names, "format": data.format, "tags_from": source.tags_from, "counts": counts}
    store.write_rows(
        out, header, arrays, [keys[name] for name in names], compute, meta, "image, row, column, channel", tables
    )


def _describe(settings: type[BaseModel], block: str) -> str:
    fields = settings.model_fields.items()
    lines = [f"  {name} = {str(about.default)!r}  {about.description or ''}".rstrip() for name, about in fields]
    return "\n".join([f"settings, {block}:", *lines])


def main(argv: list[str] | None = None) -> None:
    blocks = {"JSON": Data, "block demo": Demo, "block voc": Voc, "block folder": Folder}
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
