"""Photographs: damaged, of every kind of pixel, of odd sizes, turned, animated, of other formats."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from benchmarks.bad_input.case import CANARY, EITHER, HANDLED, Case, Command, prepare
from benchmarks.bad_input.drawn import (
    SIDE,
    encoded,
    flipped,
    folder,
    mask,
    one_more,
    photo,
    png,
    save,
    turned,
    with_chunk,
    write,
)
from pipeline.core import store

JPEG, PNG = encoded(photo(), "JPEG", quality=90), encoded(photo())
FLIPS = 40
SUFFIX = {"JPEG": "jpg", "PNG": "png", "TIFF": "tif"}


def odd(
    name: str, content: Callable[[], bytes], check: Callable[[Path], str] | None = None
) -> Callable[[Path], Command]:
    """One photograph of this content among good ones."""

    def build(at: Path) -> Command:
        one_more(at / "photos", name, content())
        return prepare(at, check=check)

    return build


def pixels(expected: Callable[[], np.ndarray], within: int = 12) -> Callable[[Path], str]:
    """The photograph `odd` is stored with these pixels, but for a difference that JPEG makes (median)."""

    def check(manifest: Path) -> str:
        artifact, wanted = store.Artifact(manifest), expected()
        row = store.decode_text(artifact.read("id")).index("odd")
        found = artifact.row("rgb", row)[: wanted.shape[0], : wanted.shape[1]]
        apart = float(np.median(np.abs(found.astype(int) - wanted)))
        return f"pixels differ by {apart:.0f}" if found.shape != wanted.shape or apart > within else ""

    return check


def flips(form: str) -> Callable[[Path], Command]:
    """Photographs with one bit flipped, at places all over the file: each is taken or named, none ends the run."""

    def build(at: Path) -> Command:
        whole = encoded(photo(), form)
        names = [f"f{i:02d}" for i in range(FLIPS)]
        folder(at / "photos", names=names, listed=False)
        for i, name in enumerate(names):
            (at / "photos/images" / f"{name}.png").unlink()
            place = i * len(whole) // FLIPS + i % 7
            write(at / "photos/images" / f"{name}.{SUFFIX[form]}", flipped(whole, place, i % 8))
        return prepare(at)

    return build


def all_orientations(at: Path, stored: bool = False, form: str = "JPEG") -> Command:
    """Photographs turned in all eight ways, each with a mask of the upright picture (stored: as it is stored)."""
    root = folder(at / "photos", names=[f"o{i}" for i in range(1, 9)], masks=True)
    tall = photo(0, SIDE, 64)
    values = np.zeros((SIDE, 64), np.uint8)
    values[:48, :32] = 1
    backwards = {2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}
    turns = dict(zip(range(2, 9), (0, 3, 1, 5, 4, 6, 2), strict=True))  # Image.Transpose, upright from what is stored
    turns = {o: Image.Transpose(turns[o]) for o in turns}
    for i in range(1, 9):
        upright = Image.fromarray(tall)
        lying = upright.transpose(turns[backwards[i]]) if i > 1 else upright
        (root / "images" / f"o{i}.png").unlink()
        suffix = ".jpg" if form == "JPEG" else ".png"
        options = {"quality": 95, "subsampling": 0} if form == "JPEG" else {}
        write(root / "images" / f"o{i}{suffix}", turned(np.asarray(lying), i, form, **options))
        as_stored = Image.fromarray(values).transpose(turns[backwards[i]]) if i > 1 else Image.fromarray(values)
        save(root / "masks" / f"o{i}.png", np.asarray(as_stored) if stored else values)
    write(root / "tags.csv", "image,tags\n" + "".join(f"o{i},ant\n" for i in range(1, 9)))
    write(root / "classes.txt", "background\nant\n")

    def check(manifest: Path) -> str:
        artifact = store.Artifact(manifest)
        apart = [float(np.abs(artifact.row("rgb", i)[:SIDE, :64].astype(int) - tall).mean()) for i in range(8)]
        sizes = artifact.read("size").tolist()
        return "" if max(apart) < 12 and sizes == [[SIDE, 64]] * 8 else f"not upright: {apart}, {sizes}"

    return prepare(at, check=check)


def gray16() -> bytes:
    return encoded(Image.fromarray(photo()[..., 0].astype(np.uint16) * 257))


def tiff(values: np.ndarray) -> bytes:
    content = BytesIO()
    more = {"photometric": "rgb"} if values.shape[2:] == (3,) else {"photometric": "minisblack"}
    tifffile.imwrite(content, values, planarconfig="contig" if values.ndim == 3 else None, **more)
    return content.getvalue()


def six(number: int = 0) -> np.ndarray:
    return np.dstack([photo(number), photo(number + 1)]).astype(np.uint16) * 257


def six_bands(at: Path) -> Command:
    root = folder(at / "photos", names=[f"a{i:02d}" for i in range(6)])
    for i in range(6):
        (root / f"images/a{i:02d}.png").unlink()
        write(root / f"images/a{i:02d}.tif", tiff(six(i)))

    def check(manifest: Path) -> str:
        found = store.Artifact(manifest).row("rgb", 0)[:SIDE, :SIDE]
        return "" if np.array_equal(found, photo()[..., ::-1]) else "other bands"

    return prepare(at, check=check, bands=[3, 2, 1])


def bomb_tiff() -> bytes:
    whole = tiff(six())
    for tag in (256, 257):
        at = whole.index(struct.pack("<HHII", tag, 4, 1, SIDE))
        whole = whole[:at] + struct.pack("<HHII", tag, 4, 1, 60000) + whole[at + 12 :]
    return whole


def palette(transparent: bool) -> bytes:
    picture = Image.fromarray(photo()).quantize(16)
    return encoded(picture, **({"transparency": 0} if transparent else {}))


def cmyk() -> bytes:
    return encoded(Image.fromarray(photo()).convert("CMYK"), "JPEG", quality=95, subsampling=0)


def with_alpha(values: int) -> bytes:
    """The square opaque, all around it transparent."""
    alpha = np.full((SIDE, SIDE), values, np.uint8)
    alpha[24:72, 24:72] = 255
    return encoded(np.dstack([photo(), alpha]))


def on_white() -> np.ndarray:
    rgb = np.full((SIDE, SIDE, 3), 255, np.uint8)
    rgb[24:72, 24:72] = photo()[24:72, 24:72]
    return rgb


def animated(form: str) -> bytes:
    first, more = Image.fromarray(photo()), [Image.fromarray(photo(i)) for i in (1, 2)]
    return encoded(first, form, save_all=True, append_images=more)


POSTSCRIPT = (
    f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 96 96\n%%EndComments\n(%pipe%touch {CANARY}) (w) file\nshowpage\n"
)
GARBAGE = np.random.default_rng(0).bytes(4000)
READ = {"webp": "WEBP", "bmp": "BMP", "tif": "TIFF"}
OTHERS = {"gif": "GIF", "jp2": "JPEG2000", "ppm": "PPM"}


def bomb_text() -> bytes:
    return with_chunk(PNG, b"zTXt", b"Comment\0\0" + zlib.compress(bytes(2**27), 9))


def bomb_profile() -> bytes:
    return with_chunk(PNG, b"iCCP", b"p\0\0" + zlib.compress(bytes(2**27), 9))


def bad_exif() -> bytes:
    return encoded(photo(), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + GARBAGE[:200])


def text_orientation() -> bytes:
    """An orientation that is a word."""
    block = b"Exif\0\0MM\0*\0\0\0\x08\0\x01" + b"\x01\x12\0\x02\0\0\0\x04six\0" + b"\0\0\0\0"
    return encoded(photo(), "JPEG", exif=block)


def frames(at: Path) -> Command:
    root = folder(at / "photos", masks=True)
    write(
        root / "masks/a00.png",
        encoded(Image.fromarray(mask()), save_all=True, append_images=[Image.fromarray(mask(1))]),
    )
    write(root / "images/a00.png", animated("PNG"))
    return prepare(at, "photos", check=None)


def pipe(at: Path) -> Command:
    import os

    root = folder(at / "photos")
    (root / "images/a00.png").unlink()
    os.mkfifo(root / "images/a00.png")
    return prepare(at)


def as_folder(at: Path) -> Command:
    """A folder called x.jpg, with a photograph in it that no list names."""
    root = folder(at / "photos")
    save(root / "images/x.jpg/inside.png", photo(1))
    return prepare(at)


def many(at: Path) -> Command:
    """400 photographs that are all cut short."""
    root = folder(at / "photos", count=400, listed=False)
    for path in (root / "images").iterdir():
        path.write_bytes(PNG[:2000])
    return prepare(at)


NAMED = r"photos/images/odd\.\w+: "
CASES = [
    Case("JPEG cut in half", odd("odd.jpg", lambda: JPEG[: len(JPEG) // 2]), says=(NAMED, "truncated.*replace it")),
    Case("JPEG cut in its header", odd("odd.jpg", lambda: JPEG[:20]), says=(NAMED, "replace it")),
    Case("PNG cut in half", odd("odd.png", lambda: PNG[: len(PNG) // 2]), says=(NAMED, "truncated.*replace it")),
    Case("PNG cut in its header", odd("odd.png", lambda: PNG[:20]), says=(NAMED, "replace it")),
    Case("PNG whose header has a wrong checksum", odd("odd.png", lambda: flipped(PNG, 30)), says=(NAMED, "replace it")),
    Case("JPEG, a bit flipped at 40 places", flips("JPEG"), EITHER),
    Case("PNG, a bit flipped at 40 places", flips("PNG"), says=("and 3. more",)),
    Case("400 photographs cut short are one problem", many, says=(r"a\d+\.png: ", "more: "), seconds=20),
    Case("empty file", odd("odd.jpg", lambda: b""), says=(NAMED, "is empty; copy it again")),
    Case("noise called .jpg", odd("odd.jpg", lambda: GARBAGE), says=(NAMED, "replace it")),
    Case("text called .png", odd("odd.png", lambda: b"<html>404 not found</html>"), says=(NAMED, "replace it")),
    *[
        Case(
            f"{form} by its name",
            odd(f"odd.{suffix}", lambda form=form: encoded(photo(), form)),
            says=(NAMED, f"\\.{suffix} found, .* expected; convert"),
        )
        for suffix, form in OTHERS.items()
    ],
    *[
        Case(
            f"{form} by its name",
            odd(f"odd.{suffix}", lambda form=form: encoded(photo(), form), pixels(photo, 40)),
            HANDLED,
        )
        for suffix, form in READ.items()
    ],
    *[
        Case(
            f"{form} called .jpg", odd("odd.jpg", lambda form=form: encoded(photo(), form), pixels(photo, 40)), HANDLED
        )
        for form in ("PNG", "WEBP", "BMP", "TIFF", "GIF")
    ],
    Case("JPEG called .png", odd("odd.png", lambda: JPEG, pixels(photo)), HANDLED),
    Case(
        "HEIC called .jpg",
        odd("odd.jpg", lambda: b"\0\0\0\x18ftypheic" + GARBAGE),
        says=(NAMED, "HEIC, which needs pillow-heif.*or convert it"),
    ),
    Case(
        "PostScript called .jpg is not run",
        odd("odd.jpg", lambda: POSTSCRIPT.encode()),
        says=(NAMED, "cannot identify its format.*replace it"),
    ),
    Case(
        "a pointer of Git LFS",
        odd("odd.jpg", lambda: b"version https://git-lfs.github.com/spec/v1\n"),
        says=(NAMED, "git lfs pull"),
    ),
    Case("1 × 1 pixels", odd("odd.png", lambda: encoded(photo(0, 1, 1))), says=(NAMED, "1×1", "use a larger one")),
    Case(
        "1 × 20,000 pixels",
        odd("odd.png", lambda: encoded(photo(0, 20000, 1))),
        says=(NAMED, "1×20000", "use a larger one"),
    ),
    Case(
        "20,000 × 1 pixels",
        odd("odd.png", lambda: encoded(photo(0, 1, 20000))),
        says=(NAMED, "20000×1", "use a larger one"),
    ),
    Case("0 × 0 pixels", odd("odd.png", lambda: png(0, 0)), says=(NAMED, "replace it")),
    Case(
        "bomb: 14,000 × 14,000 pixels in 570 kB",
        odd("odd.png", lambda: png(14000, 14000)),
        says=(NAMED, "196000000 pixels, at most \\d+ are read; make it smaller"),
    ),
    Case("bomb: 65,500 × 65,500 claimed", odd("odd.png", lambda: png(65500, 65500)), says=(NAMED, "make it smaller")),
    Case("bomb: 2³¹ − 1 pixels wide", odd("odd.png", lambda: png(2**31 - 1, 1, rows=b"\0")), says=(NAMED, "smaller")),
    Case(
        "bomb below the limit: 10,000 × 10,000", odd("odd.png", lambda: png(10000, 10000, mode=0)), HANDLED, seconds=40
    ),
    Case("bomb: 128 MB of text in a PNG", odd("odd.png", bomb_text), EITHER),
    Case("bomb: 128 MB of colour profile", odd("odd.png", bomb_profile), EITHER),
    Case(
        "gray",
        odd("odd.png", lambda: encoded(photo()[..., 0]), pixels(lambda: photo()[..., :1].repeat(3, 2), 0)),
        HANDLED,
    ),
    Case(
        "gray, 16 bits",
        odd("odd.png", gray16, pixels(lambda: photo()[..., :1].repeat(3, 2), 0)),
        HANDLED,
    ),
    Case(
        "floats (TIFF called .png)",
        odd("odd.png", lambda: tiff((photo() / np.float32(255)).astype(np.float32)), pixels(photo, 0)),
        HANDLED,
    ),
    Case(
        "TIFF of numbers that are none",
        odd("odd.tif", lambda: tiff(np.full((SIDE, SIDE), np.nan, np.float32))),
        says=(NAMED, "holds no number, only NaN"),
    ),
    Case("TIFF of six bands", odd("odd.tif", lambda: tiff(six())), says=(NAMED, "has 6 bands; name those of red")),
    Case("TIFF of six bands, three named", six_bands, HANDLED),
    Case("TIFF of complex numbers", odd("odd.tif", lambda: tiff(six()[..., 0] * 1j)), says=(NAMED, "numbers; save it")),
    Case("TIFF cut in half", odd("odd.tif", lambda: tiff(six())[:9000]), says=(NAMED, "replace it")),
    Case("TIFF cut in its header", odd("odd.tif", lambda: tiff(six())[:60]), says=(NAMED, "replace it")),
    Case(
        "bomb: a TIFF that claims 60,000 × 60,000",
        odd("odd.tif", bomb_tiff),
        says=(NAMED, "pixels, at most .* are read"),
    ),
    Case("TIFF, a bit flipped at 40 places", flips("TIFF"), EITHER),
    Case("black and white, 1 bit", odd("odd.png", lambda: encoded(Image.fromarray(photo()).convert("1"))), HANDLED),
    Case("CMYK", odd("odd.jpg", cmyk, pixels(photo, 30)), HANDLED),
    Case("palette", odd("odd.png", lambda: palette(False), pixels(photo, 40)), HANDLED),
    Case("palette with a transparent entry", odd("odd.png", lambda: palette(True)), HANDLED),
    Case("RGBA, transparent parts of any colour", odd("odd.png", lambda: with_alpha(0), pixels(on_white, 0)), HANDLED),
    Case("gray with alpha", odd("odd.png", lambda: encoded(Image.fromarray(photo()).convert("LA"))), HANDLED),
    Case("EXIF, all orientations, with masks (JPEG)", all_orientations, HANDLED),
    Case("EXIF, all orientations, with masks (PNG)", lambda at: all_orientations(at, form="PNG"), HANDLED),
    Case(
        "EXIF, masks as stored and not upright",
        lambda at: all_orientations(at, stored=True),
        says=(r"masks/o5\.png", "EXIF rotation; turn it", r"o6\.png, o7\.png"),
    ),
    Case(
        "EXIF orientation 9",
        odd("odd.jpg", lambda: turned(photo(0, 64, 96), 9), pixels(lambda: photo(0, 64, 96))),
        HANDLED,
    ),
    Case("EXIF orientation in words", odd("odd.jpg", text_orientation, pixels(photo)), HANDLED),
    Case("EXIF of noise", odd("odd.jpg", bad_exif, pixels(photo)), HANDLED),
    Case("animated PNG: the first frame", odd("odd.png", lambda: animated("PNG"), pixels(photo, 0)), HANDLED),
    Case(
        "animated GIF called .png: the first frame", odd("odd.png", lambda: animated("GIF"), pixels(photo, 40)), HANDLED
    ),
    Case("photograph and mask animated", frames, HANDLED),
    Case("a pipe in place of a photograph", pipe, says=(r"images/a00\.png: .*remove it",)),
    Case("a folder called x.jpg", as_folder, HANDLED, says=(r"x\.jpg/inside",)),
]
