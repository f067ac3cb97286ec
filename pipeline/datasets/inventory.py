"""The inventory of a data set: what one look at all of it found. It lies beside the artifacts made from it.

It is a note, not an artifact: whoever makes photographs, tags or masks takes the one that is there if no file has
changed since, and looks again if one has; what was known is not decoded again. As Snakemake never sees it, a corrected
mask plans nothing but masks.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.core import store
from pipeline.core.data import Data, block_of
from pipeline.core.digest import code_digest
from pipeline.core.durable import write_atomic
from pipeline.core.job import InputError
from pipeline.core.progress import Progress
from pipeline.datasets import look as looking
from pipeline.datasets.classes import Classes, keep_classes, tag_ids
from pipeline.datasets.contradictions import absent, compare
from pipeline.datasets.files import printable
from pipeline.datasets.fingerprint import fingerprints
from pipeline.datasets.layouts import place, read_source, root_of
from pipeline.datasets.look import Known, Look, Passing, look
from pipeline.datasets.source import SPLITS, Picture, Source
from pipeline.datasets.summary import LINES, class_list, grouped

FILE = "inventory.npz"


@dataclass(frozen=True)
class Inventory:
    """One entry for each photograph, N of C classes: the training list, then the validation list."""

    about: dict[str, Any]  # stamp; classes, background, tags_from, counts
    id: list[str]
    photograph: list[str]  # where the file lies, below the data set's root
    mask: list[str]  # "" for none
    photograph_digest: np.ndarray  # uint8 [N,16], of what the file holds
    mask_digest: np.ndarray
    key: np.ndarray  # uint8 [N,16]: what the look at the two depends on
    size: np.ndarray  # int32 [N,2]: upright, before any reduction
    seen: np.ndarray  # uint8 [N,32]: bit v (np.packbits) tells that the mask holds value v
    tags: np.ndarray  # bool [N,C]
    values: np.ndarray  # int16 [256]: mask value → class id
    splits: dict[str, np.ndarray]  # row numbers, int64


def take_inventory(data: Data, file: Path, passing: Passing = iter) -> Inventory:
    """The inventory of the files as they are now.

    Raises InputError with everything that is wrong with the data set, before anything is written.
    """
    # Taken first: a file that changes during the look makes the next one look again.
    stamp = stamp_of(data)
    old = load(file)
    if old is not None and old.about["stamp"] == stamp:
        return old
    source = read_source(data)
    problems = source.problems
    if not source.pictures:
        refuse(data, source)
    classes = keep_classes(source.classes, data, problems)
    tags = tag_ids(source, classes, data)
    code = code_digest("prepare", [data.format])
    found = look(source, classes, data.max_side, known_files(old), code, passing, data.bands)
    for picture in source.pictures:
        seen = found.sizes if picture.mask is None else found.drawn  # of a mask that cannot be used nothing is known
        if picture.tags is None and picture.id in seen:
            tags[picture.id] = found.drawn.get(picture.id, set())
    negative = looking.negatives(source, classes, found)
    compare(source, classes, tags, negative, found)
    problems += looking.leaks(source, found)
    if data.untagged == "drop":
        source = looking.without_unknown(source, tags, negative)
    problems += looking.untagged(source, classes, tags, negative)
    problems += absent(source, classes, tags, found, data)
    refuse(data, source)
    inventory = noted(source, classes, tags, negative, found, root_of(data), stamp)
    save(inventory, file)
    say([*class_list(inventory, data.name), *told(source)])
    return inventory


def counted(out: Path) -> Passing:
    """How far the look at all files is, told as of any stage at work."""

    def passing(pictures: list[Picture]) -> Iterator[Picture]:
        progress = Progress(store.part_of(out), len(pictures), "photographs")
        try:
            yield from progress.count(pictures)
        finally:
            progress.file.unlink(missing_ok=True)

    return passing


def told(source: Source) -> list[str]:
    """What stops nothing."""
    return [printable(line) for line in (*source.notes, *(f"warning: {line}" for line in source.warnings))]


def say(lines: list[str]) -> None:
    print("".join(f"{line}\n" for line in lines), end="", flush=True)


def stamp_of(data: Data) -> str:
    """Equal stamps mean that nothing has changed: code, settings, and all files by name, size and time."""
    away: Any = {"name": True, block_of(data.format): {"root", "download", "url"}}
    made_of = code_digest("prepare", [data.format]), data.model_dump_json(exclude=away), fingerprints(data).inventory
    return hashlib.sha256(repr(made_of).encode()).hexdigest()


def known_files(old: Inventory | None) -> Known:
    if old is None:
        return {}
    seen = np.unpackbits(old.seen, axis=1)
    return {
        bytes(key): ((size[0], size[1]), set(np.flatnonzero(row).tolist()))
        for key, size, row in zip(old.key, old.size.tolist(), seen, strict=True)
    }


def noted(
    source: Source,
    classes: Classes,
    tags: Mapping[str, set[int]],
    negative: set[str],
    found: Look,
    root: Path | None,
    stamp: str,
) -> Inventory:
    names = [picture.id for picture in source.pictures]
    rows = {name: row for row, name in enumerate(names)}
    table, seen = np.zeros((len(names), len(classes.names)), bool), np.zeros((len(names), 256), bool)
    for row, name in enumerate(names):
        table[row, list(tags[name])] = True
        seen[row, list(found.values.get(name, ()))] = True
    return Inventory(
        {
            "stamp": stamp,
            "classes": classes.names,
            "background": classes.background,
            "tags_from": source.tags_from,
            "counts": looking.count(source, classes, tags, negative),
        },
        names,
        [place(picture.image, root) for picture in source.pictures],
        [place(picture.mask, root) for picture in source.pictures],
        as_rows(found.digests[name][0] for name in names),
        as_rows(found.digests[name][1] for name in names),
        as_rows(found.keys[name] for name in names),
        np.array([found.sizes[name] for name in names], np.int32),
        np.packbits(seen, axis=1),
        table,
        classes.values,
        {split: np.array([rows[name] for name in source.splits[split]], np.int64) for split in SPLITS},
    )


def as_rows(digests: Iterable[bytes]) -> np.ndarray:
    """uint8 [N,16]."""
    return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, store.DIGEST)


# ------------------------------------------------------------------------------------------------------------ file

TEXTS = ("id", "photograph", "mask")
ARRAYS = ("photograph_digest", "mask_digest", "key", "size", "seen", "tags", "values")


def save(inventory: Inventory, file: Path) -> None:
    content = BytesIO()
    arrays: dict[str, Any] = {name: getattr(inventory, name) for name in ARRAYS}
    arrays |= {name: store.encode_text(getattr(inventory, name)) for name in TEXTS}
    arrays |= {f"split_{split}": rows for split, rows in inventory.splits.items()}
    np.savez_compressed(content, about=np.frombuffer(json.dumps(inventory.about).encode(), np.uint8), **arrays)
    write_atomic(file, content.getvalue())


def load(file: Path) -> Inventory | None:
    """None where there is none, or none that can be read: nothing is lost but time."""
    try:
        with np.load(file, allow_pickle=False) as found:
            arrays: dict[str, Any] = {name: found[name] for name in ARRAYS}
            texts: dict[str, Any] = {name: store.decode_text(found[name]) for name in TEXTS}
            splits = {split: found[f"split_{split}"] for split in SPLITS}
            return Inventory(json.loads(bytes(found["about"])), splits=splits, **texts, **arrays)
    except FileNotFoundError:
        return None
    except Exception as error:  # damaged, or of another version: numpy raises almost anything
        print(f"{file}: cannot be read ({error}); all files are looked at anew", flush=True)
        return None


# -------------------------------------------------------------------------------------------------------- problems


def refuse(data: Data, source: Source) -> None:
    """Raise one InputError with all problems, if there are any; what stops nothing is printed before."""
    if problems := source.problems:
        say(told(source))
        first = f"data set '{data.name}' ({data.format}): {len(problems)} problem(s), nothing was written"
        raise InputError("\n  ".join([first, *grouped([printable(line) for line in problems], LINES, root_of(data))]))
