"""Photographs and labels of any layout → the three artifacts every recipe starts from.

    photographs  rgb u8 [N,S,S,3], size i32 [N,2]: upright, RGB, reduced to max_side; tables id, split_<name>
    tags         tags bool [N,C], the column is the class id
    masks        mask u8, ragged, at original resolution, where scores are taken; full_size i32 [N,2]; has_mask bool [N]

Each depends on its own files alone, row by row: a corrected mask makes one row of masks. Whichever is made first looks
at everything and reports all it finds wrong in one message, before anything is written; the others take its inventory
(datasets/inventory.py) as long as no file has changed.

Reads: the built-in demo set, a VOC devkit or a plain folder (datasets/ says what lies where); tags and masks read
photographs too, whose rows theirs are. Rows: the training list, then the validation list.
Cost: every new file is read twice and decoded twice, 5 ms of CPU at 256 pixels; known files are hashed only.
Memory: the largest photograph three times, or the 64 masks of a shard, each at its own size: 1 GB for those of 12
megapixels.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel

from pipeline.core import cli, store
from pipeline.core.config import ConfigError, parse_block
from pipeline.core.data import Data, Demo, Folder, Voc
from pipeline.core.digest import code_digest
from pipeline.core.job import InputError
from pipeline.core.lock import alone
from pipeline.datasets import look as looking
from pipeline.datasets.deep import RULE
from pipeline.datasets.inventory import FILE, Inventory, counted, take_inventory
from pipeline.datasets.layouts import at, root_of
from pipeline.datasets.look import NO_MASK, Content, Passing
from pipeline.kinds import photographs
from pipeline.kinds.pixels import VOID, resize_image


def make_photographs(data: Data, inventory: Inventory, out: Path) -> None:
    root, side = root_of(data), data.max_side
    made_by = code("photographs", data), side, *(data.bands or ())
    keys = [hashing(*made_by, bytes(digest)) for digest in inventory.photograph_digest]
    splits = {f"split_{split}": rows for split, rows in inventory.splits.items()}
    counts = {split: len(rows) for split, rows in inventory.splits.items()}
    settings: dict[str, Any] = {"format": data.format, "max_side": side, "deep": RULE}
    settings |= {"bands": data.bands} if data.bands else {}
    header = header_of("photographs", data, settings, inventory.id, keys, *(rows.tobytes() for rows in splits.values()))
    if complete(out, header):
        return

    def compute(indices: list[int]) -> Iterator[store.Row]:
        for i in indices:
            content = as_seen(inventory.photograph[i], bytes(inventory.photograph_digest[i]), root)
            full_h, full_w = inventory.size[i].tolist()
            h, w = photographs.reduced((full_h, full_w), side)
            rgb = np.zeros((side, side, 3), np.uint8)
            rgb[:h, :w] = resize_image(looking.photograph(content, data.bands), h, w)
            yield {"rgb": rgb, "size": np.array([h, w], np.int32)}

    store.write_rows(
        out,
        header,
        {"rgb": ((side, side, 3), np.uint8), "size": ((2,), np.int32)},
        keys,
        compute,
        {"format": data.format, "counts": counts},
        axes="photograph, row, column, channel",
        tables={"id": store.encode_text(inventory.id), **splits},
    )


def make_tags(data: Data, inventory: Inventory, out: Path) -> None:
    meta = {name: inventory.about[name] for name in ("classes", "background", "tags_from")}
    common = repr((meta["classes"], meta["background"]))
    keys = [hashing(common, row.tobytes()) for row in inventory.tags]
    header = header_of("tags", data, meta, inventory.id, keys)
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


def make_masks(data: Data, inventory: Inventory, out: Path) -> None:
    root = root_of(data)
    has = np.array([bytes(digest) != NO_MASK for digest in inventory.mask_digest])
    # One pixel of void stands for a mask that is not there: nothing here depends on photographs.
    sizes = np.where(has[:, None], inventory.size, 1).astype(np.int32)
    meta = {name: inventory.about[name] for name in ("classes", "background")}
    common = repr((code("masks", data), inventory.values.tolist()))
    made_of = zip(inventory.mask_digest, sizes, strict=True)
    keys = [hashing(common, bytes(digest), size.tobytes()) for digest, size in made_of]
    header = header_of("masks", data, meta, inventory.id, keys)
    if complete(out, header):
        return

    def compute(indices: list[int]) -> Iterator[store.Row]:
        for i in indices:
            mask = np.full((1, 1), VOID, np.uint8)
            if has[i]:
                content = as_seen(inventory.mask[i], bytes(inventory.mask_digest[i]), root)
                mask = inventory.values.astype(np.uint8)[looking.mask_values(content)]
            yield {"mask": mask.ravel(), "full_size": sizes[i], "has_mask": has[i]}

    store.write_rows(
        out,
        header,
        {"mask": ((None,), np.uint8), "full_size": ((2,), np.int32), "has_mask": ((), np.bool_)},
        keys,
        compute,
        meta,
        axes="photograph, pixel",
    )


MAKES: dict[str, Callable[[Data, Inventory, Path], None]] = {
    "photographs": make_photographs,
    "tags": make_tags,
    "masks": make_masks,
}


def prepare(make: str, data: Data, out: Path, of: Path | None = None, passing: Passing = iter) -> None:
    """Make one of the three artifacts. `of`: the photographs that tags and masks are of.

    Raises InputError with all that is wrong with the data set.
    """
    inventory = take_inventory(data, out.parent / FILE, passing)
    if of is not None and photographs.ids(store.Artifact(of, "photographs")) != inventory.id:
        raise InputError(f"{of}: the data set holds other photographs now; run again, to make these first")
    MAKES[make](data, inventory, out)


def as_seen(where: str, digest: bytes, root: Path | None) -> Content:
    """What a file holds, which must be what it held when the inventory was made: nobody has looked at anything else."""
    file = at(where, root)
    if file is None:
        raise ValueError("no file")
    try:
        content = looking.content(file)
    except OSError as error:
        raise InputError(f"{looking.unreadable(error)}; it was there a moment ago") from None
    if looking.digest(content) != digest:
        raise InputError(f"{file}: changed while the data set was being read; run again")
    return content


def header_of(kind: str, data: Data, settings: dict[str, Any], ids: list[str], *made_of: object) -> store.Header:
    """Where files lie and what the data set is called stay out: they do not change what is in them."""
    return store.Header(kind, "prepare", settings, code(kind, data), parents={"files": hashing(ids, *made_of).hex()})


def complete(out: Path, header: store.Header) -> bool:
    if done := store.finished(out, header):
        print(f"{out}: complete already", flush=True)
    return done


def code(make: str, data: Data) -> str:
    """Of what makes this artifact from this layout alone: another layout remakes nothing."""
    return code_digest("prepare", [make, data.format])


def hashing(*parts: object) -> bytes:
    """Digest of these parts, in their order."""
    digest = hashlib.blake2b(digest_size=store.DIGEST)
    for part in parts:
        raw = part if isinstance(part, bytes) else repr(part).encode()
        digest.update(len(raw).to_bytes(8, "big") + raw)
    return digest.digest()


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
    parser.add_argument("--make", choices=sorted(MAKES), required=True, help="which artifact; photographs come first")
    parser.add_argument("--photographs", type=Path, help="manifest of the photographs, for tags and masks")
    parser.add_argument("--settings", default="{}", help="JSON of the `data:` block of config.yaml")
    parser.add_argument("--out", type=Path, required=True, help="manifest to write, e.g. results/demo/photographs.json")
    args = parser.parse_args(argv)

    def work() -> None:
        data = parse_block(Data, args.settings, "--settings")
        if (args.make == "photographs") != (args.photographs is None):
            expected = "goes with tags and masks only" if args.photographs else "is missing: say whose rows theirs are"
            raise ConfigError(f"--photographs {expected}")
        with alone(args.out):
            prepare(args.make, data, args.out, args.photographs, counted(args.out))

    cli.guarded(work)


if __name__ == "__main__":
    main()
