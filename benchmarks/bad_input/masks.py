"""Masks: of other sizes, values and forms than their photographs and classes say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.bad_input.case import HANDLED, Case, Command, prepare
from benchmarks.bad_input.drawn import encoded, folder, mask, png, save, write

MASK = r"photos/masks/a00\.\w+: "


def first(content: Callable[[], bytes], name: str = "a00.png") -> Callable[[Path], Command]:
    """A data set with masks, the first of which holds this."""

    def build(at: Path) -> Command:
        root = folder(at / "photos", masks=True)
        (root / "masks/a00.png").unlink()
        write(root / "masks" / name, content())
        return prepare(at)

    return build


def all_of(change: Callable[[np.ndarray, int], np.ndarray], tags: bool = True) -> Callable[[Path], Command]:
    """A data set whose masks are all changed. tags: from tags.csv, else from the masks."""

    def build(at: Path) -> Command:
        root = folder(at / "photos", masks=True)
        for i in range(6):
            save(root / f"masks/a0{i}.png", change(mask(i), i))
        if not tags:
            (root / "tags.csv").unlink()
        return prepare(at)

    return build


def strays(at: Path) -> Command:
    root = folder(at / "photos", masks=True)
    for path in (root / "masks").iterdir():
        path.rename(path.with_name(f"{path.stem}_mask.png"))
    return prepare(at)


def missing(at: Path) -> Command:
    """Tags from masks, half of them missing."""
    root = folder(at / "photos", count=12, masks=True)
    (root / "tags.csv").unlink()
    for i in range(4):
        (root / f"masks/a0{i}.png").unlink()
    return prepare(at)


def empty_folder(at: Path) -> Command:
    (folder(at / "photos") / "masks").mkdir()
    return prepare(at)


def values(content: np.ndarray) -> Callable[[], bytes]:
    return lambda: encoded(content)


def two_bits() -> bytes:
    rows = b"".join(
        b"\0" + bytes(24) if not 24 <= y < 72 else b"\0" + bytes(6) + b"\x55" * 12 + bytes(6) for y in range(96)
    )
    return png(96, 96, mode=0, bits=2, rows=rows)


def coloured() -> np.ndarray:
    return np.array([(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0)], np.uint8)[mask()]


CASES = [
    Case("mask of another size", first(values(mask()[:48])), says=(f"{MASK}96×48 mask for a 96×96 photograph",)),
    Case("mask of 1 × 1", first(values(mask()[:1, :1])), says=(f"{MASK}1×1 mask for a 96×96 photograph",)),
    Case("mask that is empty", first(lambda: b""), says=(f"{MASK}is empty; copy it again",)),
    Case("mask cut in half", first(lambda: encoded(mask())[:80]), says=(f"{MASK}.*replace it",)),
    Case("mask of unknown values", first(values(mask() * 40)), says=(f"{MASK}values 40; 0 to 3 and 255 can be used",)),
    Case("masks of unknown values are one problem", all_of(lambda m, i: m * 40), says=("and 5 more",)),
    Case(
        "mask of 256 values",
        first(values((np.arange(96 * 96) % 256).astype(np.uint8).reshape(96, 96))),
        says=(f"{MASK}values 4, 5, 6, 7, 8 and 246 more",),
    ),
    Case("masks of 0 and 255, all", all_of(lambda m, i: (m > 0).astype(np.uint8) * 255), says=("0 and 255 alone",)),
    Case(
        "masks of 0 and 255 beside others",
        all_of(lambda m, i: m if i > 1 else (m > 0).astype(np.uint8) * 255),
        says=("masks: 2 of 6 hold 0 and 255 alone.*write class numbers",),
    ),
    Case("mask in colours", first(values(coloured())), says=(f"{MASK}holds RGB colours; save it as gray or palette",)),
    Case(
        "mask with alpha",
        first(values(np.dstack([coloured(), np.full((96, 96), 255, np.uint8)]))),
        says=(f"{MASK}holds RGBA colours",),
    ),
    Case("mask of void throughout", first(values(np.full((96, 96), 255, np.uint8))), HANDLED),
    Case(
        "masks of void throughout, all, tags from them",
        all_of(lambda m, i: np.full_like(m, 255), tags=False),
        says=("255 means void; write class numbers",),
    ),
    Case(
        "mask of zeros throughout, and a tag", first(values(np.zeros((96, 96), np.uint8))), HANDLED, says=("warning: ",)
    ),
    Case("mask of 16 bits", first(lambda: encoded(Image.fromarray(mask().astype(np.uint16)))), HANDLED),
    Case(
        "mask of 16 bits, values above 255",
        first(lambda: encoded(Image.fromarray(mask().astype(np.uint16) * 300))),
        says=(f"{MASK}values 300; 0 to 3 and 255",),
    ),
    Case(
        "mask of floats",
        first(lambda: encoded(Image.fromarray(mask().astype(np.float32)), "TIFF")),
        says=(f"{MASK}holds F",),
    ),
    Case("mask of 2 bits", first(two_bits), HANDLED),
    Case("mask of 1 bit", first(lambda: encoded(Image.fromarray(mask() > 0))), HANDLED),
    Case(
        "mask as .jpg", first(lambda: encoded(mask(), "JPEG"), "a00.jpg"), says=(f"{MASK}.*JPEG blurs class numbers",)
    ),
    Case("mask: a JPEG called .png", first(lambda: encoded(mask() * 0 + 1, "JPEG")), says=(f"{MASK}.*JPEG blurs",)),
    Case("mask of 14,000 × 14,000", first(lambda: png(14000, 14000, mode=0)), says=(f"{MASK}has 196000000 pixels",)),
    Case("mask with a transparent entry", first(lambda: encoded(Image.fromarray(mask()), transparency=0)), HANDLED),
    Case("masks of no photograph", strays, says=(r"a00_mask\.png: no photograph.*rename it to .*a00\.png", "more")),
    Case("masks missing, from which tags come", missing, says=(r"a00\.png: no mask, from which its tags are taken",)),
    Case("masks: an empty folder", empty_folder, HANDLED),
    Case(
        "masks in the order of other classes",
        all_of(lambda m, i: np.where(m, m % 3 + 1, 0).astype(np.uint8)),
        says=("share no class in 6 of 6", "by the tags the values are"),
    ),
]
