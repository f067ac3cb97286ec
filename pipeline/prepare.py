"""Photographs and labels of any layout → the artifacts every recipe starts from.

    photographs  rgb u8 [N,S,S,3], size i32 [N,2]: upright, RGB, reduced to max_side; tables id, split_<name>
    tags         tags bool [N,C], the column is the class id
    masks        mask u8 [N,H0,W0] at original resolution, where scores are taken; full_size i32 [N,2]; has_mask [N]

Whichever is made, everything is looked at first, once: names, lists, digests, sizes, tags, masks. All that is wrong
comes in one message, before anything is written. What was seen is kept beside the artifacts as the `inventory`, which
the three share; each depends on its own files alone, row by row: a corrected mask makes one row of masks.

Reads: the built-in demo set, a VOC devkit or a plain folder (datasets/ says what lies where). Rows: the training list,
then the validation list.
Cost: every new file is read twice and decoded twice, 8 ms of CPU at 256 pixels; known files are hashed only.
Memory: one shard of rows, so 64 masks at original resolution: 1 GB more for photographs of 12 megapixels.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from pydantic import BaseModel

from pipeline.core import cli, store
from pipeline.core.config import Data, Demo, Folder, Voc, parse_block
from pipeline.core.digest import code_digest
from pipeline.core.job import InputError
from pipeline.datasets import look as looking
from pipeline.datasets.classes import Classes, keep_classes, tag_ids
from pipeline.datasets.fingerprint import fingerprints
from pipeline.datasets.layouts import at, place, read_source, root_of
from pipeline.datasets.look import NO_MASK, Content, Known, Look, look
from pipeline.datasets.source import SPLITS, Source
from pipeline.kinds.photographs import reduced
from pipeline.kinds.pixels import VOID, resize_image

LINES = 50  # of a message
CANVAS = 64  # mask canvases grow in steps of this, so that a slightly larger photograph changes no row
AGAIN = "run it again"


# ------------------------------------------------------------------------------------------------------- inventory


def make_inventory(data: Data, out: Path) -> None:
    source = read_source(data)
    problems = source.problems
    if not source.pictures:
        refuse(data, problems)
    classes = keep_classes(source.classes, data, problems)
    tags = tag_ids(source, classes, data)
    found = look(source, classes, data.max_side, known_files(out), code())
    if source.tags_from == "masks":
        tags |= found.drawn
    problems += looking.leaks(source, found)
    if data.untagged == "drop":
        source = looking.without_untagged(source, tags)
    problems += looking.untagged(source, classes, tags, data.share)
    refuse(data, problems)
    write_inventory(data, source, classes, tags, found, out)


def up_to_date(data: Data, path: Path) -> None:
    """See to it that the inventory is of the files as they are now. Jobs that need it at once make it once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path.with_name(f".{path.name}.lock")):
        seen = fingerprints(data).inventory
        attributes = store.attributes_of(store.store_of(path))
        if not path.is_file() or attributes.get("seen") != [seen, code()]:
            make_inventory(data, path)
            # Not in the manifest: times of files do not change what is in them.
            zarr.open_group(store.store_of(path), mode="r+").attrs["seen"] = [seen, code()]


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """One process at a time; where the file system has no locks, each does the work."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            print(f"{path}: this file system has no locks", flush=True)
        yield


def known_files(out: Path) -> Known:
    """What the previous inventory found, if there is one; Snakemake deletes manifests, never stores."""
    folder = store.store_of(out)
    if "manifest" not in store.attributes_of(folder):
        return {}
    try:
        group = zarr.open_group(folder, mode="r")
        keys, sizes, tags = (np.asarray(group[name][...]) for name in ("key", "size", "tags"))  # type: ignore[index]
    except Exception as error:  # damaged, or of another version: zarr raises almost anything, and nothing is lost
        print(f"{folder}: cannot be read ({error}); all files are looked at anew", flush=True)
        return {}
    return {
        bytes(key): ((int(size[0]), int(size[1])), set(np.flatnonzero(row).tolist()))
        for key, size, row in zip(keys, sizes, tags, strict=True)
    }


def write_inventory(
    data: Data, source: Source, classes: Classes, tags: Mapping[str, set[int]], found: Look, out: Path
) -> None:
    names, root = [picture.id for picture in source.pictures], root_of(data)
    rows = {name: row for row, name in enumerate(names)}
    table = np.zeros((len(names), len(classes.names)), bool)
    for row, name in enumerate(names):
        table[row, list(tags[name])] = True
    arrays = {
        "id": store.encode_text(names),
        "photograph": store.encode_text([place(picture.image, root) for picture in source.pictures]),
        "mask": store.encode_text([place(picture.mask, root) for picture in source.pictures]),
        "photograph_digest": as_rows(found.digests[name][0] for name in names),
        "mask_digest": as_rows(found.digests[name][1] for name in names),
        "key": as_rows(found.keys[name] for name in names),
        "size": np.array([found.sizes[name] for name in names], np.int32),
        "has_mask": np.array([picture.mask is not None for picture in source.pictures]),
        "tags": table,
        "values": classes.values,
        **{f"split_{split}": np.array([rows[name] for name in source.splits[split]], np.int64) for split in SPLITS},
    }
    counts = looking.count(source, classes, tags)
    meta = {
        "classes": classes.names,
        "background": classes.background,
        "format": data.format,
        "tags_from": source.tags_from,
        "counts": counts,
    }
    files = hashing(*(array.tobytes() for array in arrays.values()), repr(meta).encode()).hex()
    header = store.Header("inventory", "prepare", settings_kept(data), code(), parents={"files": files})
    for split in SPLITS:
        print(f"{split}: {counts[split]} photographs, {counts['with_mask'][split]} with a mask", flush=True)
    if store.finished(out, header):
        print(f"{out}: complete already", flush=True)
    else:
        store.write_table(out, header, arrays, meta, axes="photograph, class")


def settings_kept(data: Data) -> dict[str, Any]:
    """Where files lie and what the data set is called stay out: they do not change what is in them."""
    away: Any = {"name": True, data.format: {"root", "download", "url"}}
    return data.model_dump(mode="json", exclude=away)


def refuse(data: Data, problems: list[str]) -> None:
    """Raise one InputError with all problems, if there are any."""
    if problems:
        first = f"data set '{data.name}' ({data.format}): {len(problems)} problem(s), nothing was written"
        raise InputError("\n  ".join([first, *shorten(problems)]))


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


# ---------------------------------------------------------------------------------------------------- row artifacts


@dataclass(frozen=True)
class Inventory:
    """What the inventory says of each photograph, in its order."""

    path: Path
    meta: dict[str, Any]
    settings: dict[str, Any]
    ids: list[str]
    photographs: list[str]
    masks: list[str]
    photograph_digests: list[bytes]
    mask_digests: list[bytes]
    sizes: np.ndarray  # int32 [N,2]
    tags: np.ndarray  # bool [N,C]
    values: np.ndarray  # int16 [256]: mask value → class id
    splits: dict[str, np.ndarray]


def read_inventory(path: Path, data: Data, *shared: str) -> Inventory:
    """Open an inventory, and refuse one that was made with another value of these settings."""
    artifact = store.Artifact(path, "inventory")
    settings = artifact.manifest["settings"]
    for name in shared:
        given = data.model_dump(mode="json")[name]
        if settings[name] != given:
            raise InputError(f"{path}: made with data.{name} {settings[name]}, {given} given; {AGAIN}")
    texts = {name: store.decode_text(artifact.read(name)) for name in ("id", "photograph", "mask")}
    return Inventory(
        path,
        artifact.meta,
        settings,
        texts["id"],
        texts["photograph"],
        texts["mask"],
        [bytes(row) for row in artifact.read("photograph_digest")],
        [bytes(row) for row in artifact.read("mask_digest")],
        artifact.read("size"),
        artifact.read("tags"),
        artifact.read("values"),
        {split: artifact.read(f"split_{split}") for split in SPLITS},
    )


def make_photographs(data: Data, inventory_path: Path, out: Path) -> None:
    inventory, root, side = read_inventory(inventory_path, data, "format", "max_side"), root_of(data), data.max_side
    keys = [hashing(code(), side, digest) for digest in inventory.photograph_digests]
    splits = {f"split_{split}": rows for split, rows in inventory.splits.items()}
    meta = {"format": data.format, "counts": {split: len(rows) for split, rows in inventory.splits.items()}}
    files = hashing(repr(inventory.ids), *keys, *(rows.tobytes() for rows in splits.values())).hex()
    header = store.Header(
        "photographs", "prepare", {"format": data.format, "max_side": side}, code(), parents={"files": files}
    )

    def compute(indices: list[int]) -> Iterator[store.Row]:
        for i in indices:
            content = as_seen(inventory, inventory.photographs[i], inventory.photograph_digests[i], root)
            h, w = reduced((int(inventory.sizes[i, 0]), int(inventory.sizes[i, 1])), side)
            rgb = np.zeros((side, side, 3), np.uint8)
            rgb[:h, :w] = resize_image(looking.photograph(content), h, w)
            yield {"rgb": rgb, "size": np.array([h, w], np.int32)}

    if complete(out, header):
        return
    cli.limit_threads(1)  # for pictures this small, torch's threads cost ten times the work they share
    store.write_rows(
        out,
        header,
        {"rgb": ((side, side, 3), np.uint8), "size": ((2,), np.int32)},
        keys,
        compute,
        meta,
        axes="photograph, row, column, channel",
        tables={"id": store.encode_text(inventory.ids), **splits},
    )


def make_tags(data: Data, inventory_path: Path, out: Path) -> None:
    inventory = read_inventory(inventory_path, data, "format", "classes", "other", "untagged", "share", "background")
    if inventory.meta["tags_from"] != "masks":  # else all files would be read again, for what the inventory has seen
        check_tags(data, inventory)
    meta = {name: inventory.meta[name] for name in ("classes", "background", "tags_from")}
    common = repr((inventory.meta["classes"], inventory.meta["background"]))
    keys = [hashing(common, row.tobytes()) for row in inventory.tags]
    files = hashing(repr(inventory.ids), *keys).hex()
    header = store.Header("tags", "prepare", meta, code(), parents={"files": files})
    if complete(out, header):
        return
    store.write_rows(
        out,
        header,
        {"tags": (inventory.tags.shape[1:], np.bool_)},
        keys,
        lambda indices: ({"tags": inventory.tags[i]} for i in indices),
        meta,
        axes="photograph, class",
    )


def check_tags(data: Data, inventory: Inventory) -> None:
    """Refuse an inventory that holds other tags, or classes, than the files do now."""
    source = read_source(data)
    classes = keep_classes(source.classes, data, source.problems)
    now = tag_ids(source, classes, data)
    if classes.names != inventory.meta["classes"]:
        raise InputError(f"{inventory.path}: the classes are now {', '.join(classes.names)}; {AGAIN}")
    for name, row in zip(inventory.ids, inventory.tags, strict=True):
        if now.get(name) != set(np.flatnonzero(row).tolist()):
            tags = "gone" if name not in now else ", ".join(classes.names[k] for k in sorted(now[name])) or "none"
            raise InputError(f"{inventory.path}: the tags of '{name}' have changed since, they are {tags}; {AGAIN}")


def make_masks(data: Data, inventory_path: Path, out: Path) -> None:
    inventory, root = read_inventory(inventory_path, data, "format"), root_of(data)
    has = np.array([digest != NO_MASK for digest in inventory.mask_digests])
    # One pixel of void stands for a mask that is not there: nothing here depends on photographs.
    sizes = np.where(has[:, None], inventory.sizes, 1).astype(np.int32)
    canvas = tuple(-(-int(longest) // CANVAS) * CANVAS for longest in sizes.max(0))
    meta = {name: inventory.meta[name] for name in ("classes", "background")}
    common = repr((code(), inventory.values.tolist()))
    keys = [hashing(common, digest, size.tobytes()) for digest, size in zip(inventory.mask_digests, sizes, strict=True)]
    files = hashing(repr(inventory.ids), *keys).hex()
    header = store.Header("masks", "prepare", meta, code(), parents={"files": files})

    def compute(indices: list[int]) -> Iterator[store.Row]:
        for i in indices:
            mask = np.full(canvas, VOID, np.uint8)
            if has[i]:
                content = as_seen(inventory, inventory.masks[i], inventory.mask_digests[i], root)
                h, w = sizes[i]
                mask[:h, :w] = inventory.values[looking.mask_values(content)]
            yield {"mask": mask, "full_size": sizes[i], "has_mask": has[i]}

    if complete(out, header):
        return
    store.write_rows(
        out,
        header,
        {"mask": (canvas, np.uint8), "full_size": ((2,), np.int32), "has_mask": ((), np.bool_)},
        keys,
        compute,
        meta,
        axes="photograph, row, column",
    )


def as_seen(inventory: Inventory, where: str, digest: bytes, root: Path | None) -> Content:
    """What a file holds, which must be what it held when the inventory was made: nobody has looked at anything else."""
    file = at(where, root)
    if file is None:
        raise ValueError("no file")
    try:
        content = looking.content(file)
    except OSError as error:
        raise InputError(f"{looking.unreadable(error)}. It was there when {inventory.path} was made") from None
    if looking.digest(content) != digest:
        raise InputError(f"{file}: has changed since {inventory.path} was made; {AGAIN}")
    return content


def complete(out: Path, header: store.Header) -> bool:
    if done := store.finished(out, header):
        print(f"{out}: complete already", flush=True)
    return done


def code() -> str:
    return code_digest("prepare")


def hashing(*parts: object) -> bytes:
    """Digest of these parts, in their order."""
    digest = hashlib.blake2b(digest_size=store.DIGEST)
    for part in parts:
        raw = part if isinstance(part, bytes) else repr(part).encode()
        digest.update(len(raw).to_bytes(8, "big") + raw)
    return digest.digest()


def as_rows(digests: Iterable[bytes]) -> np.ndarray:
    """uint8 [N,16]."""
    return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, store.DIGEST)


# --------------------------------------------------------------------------------------------------------- command


def _describe(settings: type[BaseModel], block: str) -> str:
    fields = settings.model_fields.items()
    lines = [f"  {name} = {str(about.default)!r}  {about.description or ''}".rstrip() for name, about in fields]
    return "\n".join([f"settings, {block}:", *lines])


def main(argv: Sequence[str] | None = None) -> None:
    blocks: dict[str, type[BaseModel]] = {"JSON": Data, "block demo": Demo, "block voc": Voc, "block folder": Folder}
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.prepare",
        description=__doc__,
        epilog="\n\n".join(_describe(settings, block) for block, settings in blocks.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    makers = {"photographs": make_photographs, "tags": make_tags, "masks": make_masks}
    parser.add_argument("--make", choices=makers, required=True, help="which artifact")
    parser.add_argument("--settings", default="{}", help="JSON of the `data:` block of config.yaml")
    parser.add_argument("--out", type=Path, required=True, help="manifest to write, e.g. results/demo/photographs.json")
    args = parser.parse_args(argv)

    def work() -> None:
        data = parse_block(Data, args.settings, "--settings")
        inventory = args.out.with_name("inventory.json")
        up_to_date(data, inventory)
        makers[args.make](data, inventory, args.out)

    cli.guarded(work)


if __name__ == "__main__":
    main()
