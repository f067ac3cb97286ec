"""Reading photographs and masks: one function each, whatever the file holds."""

from __future__ import annotations

import struct
import subprocess
import sys
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import tifffile
from conftest import ROOT
from PIL import Image, ImageOps

from pipeline.datasets.deep import as_bytes
from pipeline.datasets.pictures import Unusable, look_at_photograph, raw_size, read_mask, read_photograph
from pipeline.datasets.tables import read_tags

H, W = 24, 40


def rgb() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (H // 8, W // 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)


def encoded(picture: Image.Image, form: str, orientation: int | None = None, **options: object) -> bytes:
    exif, file = Image.Exif(), BytesIO()
    if orientation:
        exif[0x0112] = orientation
    picture.save(file, form, exif=exif, **options)
    return file.getvalue()


def tiff(pixels: np.ndarray, orientation: int = 1, **options: object) -> bytes:
    """[h,w] or [h,w,c], red, green and blue where there are three."""
    file, shown = BytesIO(), "rgb" if pixels.shape[2:] in ((3,), (4,)) else "minisblack"
    more = {"photometric": shown, "planarconfig": "contig" if pixels.ndim == 3 else None, **options}
    tifffile.imwrite(file, pixels, extratags=[(274, "H", 1, orientation, True)], **more)
    return file.getvalue()


def png16(pixels: np.ndarray) -> bytes:
    """uint16 [h,w,c] by hand: Pillow writes none in colour."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width, channels = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 3: 2, 4: 6}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_all_orientations_agree_with_pillow(form: str, orientation: int, tmp_path: Path) -> None:
    content = encoded(Image.fromarray(rgb()), form, orientation)
    (tmp_path / "a").write_bytes(content)
    with Image.open(BytesIO(content)) as picture:
        expected = np.asarray(ImageOps.exif_transpose(picture))
    for file in (content, tmp_path / "a"):
        assert np.array_equal(read_photograph(file), expected)
        assert look_at_photograph(file) == expected.shape[:2]


def test_a_png_may_say_behind_its_pixels_how_it_is_turned() -> None:
    content = encoded(Image.fromarray(rgb()), "PNG", 6)
    at = content.index(b"eXIf") - 4
    chunk = content[at : at + 12 + int.from_bytes(content[at : at + 4], "big")]
    end = content.index(b"IEND") - 4
    moved = content[:at] + content[at + len(chunk) : end] + chunk + content[end:]
    assert np.array_equal(read_photograph(moved), np.rot90(rgb(), -1))
    assert look_at_photograph(moved) == (W, H)


@pytest.mark.parametrize("form", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_white(form: str) -> None:
    """Whatever colours lie under it; half transparent is half white."""
    alpha = np.full((H, W), 255, np.uint8)
    alpha[:8], alpha[8:16] = 0, 128
    picture = Image.fromarray(np.dstack([rgb()[..., :1].repeat(3, 2), alpha]))
    if form == "P":  # one entry of the palette is transparent
        picture = picture.convert("RGB").quantize(8)
        hidden = np.asarray(picture) == np.asarray(picture)[0, 0]
        read = read_photograph(encoded(picture, "PNG", transparency=int(np.asarray(picture)[0, 0])))
        assert (read[hidden] == 255).all() and np.array_equal(
            read[~hidden], np.asarray(picture.convert("RGB"))[~hidden]
        )
        return
    read = read_photograph(encoded(picture.convert(form), "PNG"))
    expected = (rgb()[..., :1] * (alpha / 255)[..., None] + (255 - alpha)[..., None]).repeat(3, 2)
    assert np.abs(read - expected).max() < 1
    assert (read[:8] == 255).all() and np.array_equal(read[16:], rgb()[16:, :, :1].repeat(3, 2))


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "1"])
def test_every_kind_of_8_bit_picture_becomes_rgb_that_can_be_written_to(mode: str) -> None:
    picture = Image.fromarray(rgb()).convert(mode)
    read = read_photograph(encoded(picture, "PNG"))
    assert np.array_equal(read, np.asarray(picture.convert("RGB")))
    assert read.flags.writeable
    assert read.dtype == np.uint8


@pytest.mark.parametrize("read", [read_photograph, look_at_photograph])
def test_photographs_that_only_a_person_can_help(read: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(Unusable, match="holds no number, only NaN"):
        read(tiff(np.full((H, W), np.nan, np.float32)))  # type: ignore[operator]
    with pytest.raises(Unusable, match="has 6 bands; name those of red, green and blue"):
        read(tiff(np.zeros((H, W, 6), np.uint16)))  # type: ignore[operator]
    with pytest.raises(Unusable, match=r"is HEIC, which needs pillow-heif: pip install 'tagmask\[heic\]'"):
        read(b"\0\0\0\x18ftypheic" + bytes(40))  # type: ignore[operator]
    with pytest.raises(Unusable, match="cannot identify"):
        read(b"no picture")  # type: ignore[operator]
    with pytest.raises(OSError, match="truncated"):
        read(encoded(Image.fromarray(rgb()), "JPEG")[:-60])  # type: ignore[operator]


DEEP = {
    "PNG": png16,
    "TIFF": tiff,
    "TIFF, packed": lambda pixels: tiff(pixels, compression="zlib", predictor=True),
    "TIFF, plane by plane": lambda pixels: tiff(np.moveaxis(pixels, -1, 0), planarconfig="separate", photometric="rgb"),
    "TIFF, the other order of bytes": lambda pixels: tiff(pixels, byteorder=">"),
    "BigTIFF": lambda pixels: tiff(pixels, bigtiff=True),
}


@pytest.mark.parametrize("form", DEEP)
def test_a_photograph_of_16_bits_looks_as_its_copy_of_8(form: str) -> None:
    eight = rgb()
    fine = eight.astype(np.uint16) * 257
    content = DEEP[form](fine)
    assert np.array_equal(read_photograph(content), eight)
    assert look_at_photograph(content) == raw_size(content)[0] == (H, W)


@pytest.mark.parametrize("form", DEEP)
def test_what_a_sensor_of_12_bits_saw_is_stretched(form: str) -> None:
    fine = np.random.default_rng(0).integers(300, 3000, (H, W, 3)).astype(np.uint16)
    low, high = np.sort(fine.ravel())[[fine.size // 100, fine.size * 99 // 100]].astype(float)
    expected = np.round(np.clip((fine - low) / (high - low), 0, 1) * 255)
    assert np.array_equal(read_photograph(DEEP[form](fine)), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("colour", [True, False])
def test_tiffs_are_turned_as_jpegs_are(colour: bool, kind: type, orientation: int) -> None:
    """Pillow turns some of them itself, and cannot open others."""
    pixels = rgb() if colour else rgb()[..., 0]
    scale = {np.uint8: 1.0, np.uint16: 257.0, np.float32: 1 / 255}[kind]
    content = tiff((pixels * scale).astype(kind), orientation)
    jpeg = encoded(Image.fromarray(pixels), "PNG", orientation)
    assert np.array_equal(read_photograph(content), read_photograph(jpeg))
    assert look_at_photograph(content) == look_at_photograph(jpeg)
    assert raw_size(content) == raw_size(jpeg) == ((H, W), orientation)


def test_the_rule_for_numbers_that_are_no_bytes() -> None:
    values = np.arange(1000)
    ramp = np.round(np.clip((values - 10) / 980, 0, 1) * 255).astype(np.uint8)
    assert np.array_equal(as_bytes(values.astype(np.uint16)), ramp)
    for kind in (np.int16, np.int32, np.float32, np.float64):
        assert np.array_equal(as_bytes((values - 500).astype(kind)), ramp), kind
    assert np.array_equal(as_bytes((values / 999).astype(np.float32)), np.round(values / 999 * 255))
    assert np.array_equal(as_bytes(np.uint16([40000, 65535])), [156, 255])
    hole = values.astype(np.float32) - 500
    hole[[0, 1, 2]] = np.nan, np.inf, -np.inf
    assert as_bytes(hole)[:3].tolist() == [0, 0, 0] and as_bytes(hole)[3:].max() == 255
    assert not as_bytes(np.full((3, 3), 700, np.uint16)).any()
    wide = np.random.default_rng(0).integers(0, 9000, (300, 300), np.uint16)  # by a table, where there are many
    assert np.array_equal(as_bytes(wide), as_bytes(wide.astype(np.int32)))


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
def test_bands_are_chosen_by_number(kind: type) -> None:
    bands = np.random.default_rng(0).integers(0, 256, (H, W, 6))
    content = tiff((bands * {np.uint8: 1, np.uint16: 257, np.float32: 1 / 255}[kind]).astype(kind))
    assert np.abs(read_photograph(content, (5, 1, 3)).astype(int) - bands[..., [4, 0, 2]]).max() <= 1
    assert look_at_photograph(content, (5, 1, 3)) == (H, W)
    with pytest.raises(Unusable, match="has 6 bands, and band 7 is asked for"):
        look_at_photograph(content, (7, 1, 3))
    with pytest.raises(Unusable, match="band 0 is asked for"):
        read_photograph(content, (0, 1, 3))
    with pytest.raises(Unusable, match="has 3 bands, and band 4 is asked for"):
        look_at_photograph(encoded(Image.fromarray(rgb()), "PNG"), (4, 1, 3))
    assert np.array_equal(read_photograph(encoded(Image.fromarray(rgb()), "PNG"), (3, 2, 1)), rgb()[..., ::-1])


@pytest.mark.parametrize("content", [png16, tiff])
def test_what_is_transparent_is_white_in_16_bits_too(content: object) -> None:
    alpha = np.full((H, W), 65535, np.uint16)
    alpha[:8] = 0
    four = np.dstack([rgb().astype(np.uint16) * 257, alpha])
    read = read_photograph(content(four))  # type: ignore[operator]
    if content is tiff:  # infrared, or what else a fourth band may be
        assert np.array_equal(read_photograph(tiff(four, extrasamples=["unspecified"])), rgb())
    assert (read[:8] == 255).all() and np.array_equal(read[8:], rgb()[8:])


@pytest.mark.parametrize("form", ["WEBP", "BMP", "TIFF"])
def test_other_formats(form: str) -> None:
    options = {"lossless": True} if form == "WEBP" else {"compression": "tiff_lzw"} if form == "TIFF" else {}
    content = encoded(Image.fromarray(rgb()), form, **options)
    assert np.array_equal(read_photograph(content), rgb()) and look_at_photograph(content) == (H, W)


def test_a_tiff_that_nothing_here_unpacks_is_named() -> None:
    content = tiff(np.zeros((H, W, 3), np.uint16), compression="zlib")
    at = content.index(struct.pack("<HHII", 259, 3, 1, 8))
    with pytest.raises(Unusable, match="is packed by LZW; install imagecodecs, or save it unpacked or by DEFLATE"):
        read_photograph(content[:at] + struct.pack("<HHII", 259, 3, 1, 5) + content[at + 12 :])


def test_heic_is_read_where_its_library_is() -> None:
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    content = encoded(Image.fromarray(rgb()), "HEIF", quality=-1, chroma=444)
    script = (
        "import sys; from pipeline.datasets.pictures import *; print(read_photograph(sys.stdin.buffer.read()).shape)"
    )
    done = subprocess.run([sys.executable, "-c", script], input=content, capture_output=True, cwd=ROOT)
    assert done.stdout.decode().strip() == str((H, W, 3)), done.stderr
    assert np.abs(read_photograph(content).astype(int) - rgb()).mean() < 8


@pytest.mark.parametrize("said", [b"\0\x03\0\0\0\x01\0\0\0\0", b"\0\x03\0\0\0\x01\0\x09\0\0", b"\0\x02\0\0\0\x04six\0"])
def test_an_orientation_that_exif_does_not_know_turns_nothing(said: bytes) -> None:
    """0, 9, and a word: type, count and value of the entry."""
    exif, file = b"MM\0*\0\0\0\x08\0\x01\x01\x12" + said + bytes(4), BytesIO()
    Image.fromarray(rgb()).save(file, "PNG", exif=exif)
    with Image.open(BytesIO(file.getvalue())) as picture:
        assert picture.getexif()[0x0112] in (0, 9, "six")
    assert np.array_equal(read_photograph(file.getvalue()), rgb())
    assert look_at_photograph(file.getvalue()) == (H, W)


@pytest.mark.parametrize("read", [read_photograph, look_at_photograph, read_mask])
def test_no_other_program_opens_a_file(read: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow hands PostScript to Ghostscript, whatever the suffix; one that is found here leaves a trace."""
    program = tmp_path / "gs"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/run\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    content = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
    with pytest.raises(Unusable, match="cannot identify its format"):
        read(content)  # type: ignore[operator]
    assert not (tmp_path / "run").exists()


def test_what_pillow_doubts_is_no_warning() -> None:
    """In a process of its own: pytest has filters of its own."""
    exif = b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + bytes(20)
    file = BytesIO()
    Image.fromarray(rgb()).save(file, "JPEG", exif=exif)
    script = "import sys; from pipeline.datasets import pictures; pictures.read_photograph(sys.stdin.buffer.read())"
    done = subprocess.run([sys.executable, "-c", script], input=file.getvalue(), capture_output=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, b"")


def test_masks_are_the_values_in_the_file() -> None:
    values = np.arange(H * W).reshape(H, W) % 256
    palette = Image.fromarray(values.astype(np.uint8)).convert("P")
    palette.putpalette(list(range(255, -1, -1)) * 3)
    assert np.array_equal(read_mask(encoded(palette, "PNG")), values)
    assert np.array_equal(read_mask(encoded(Image.fromarray(values.astype(np.uint8)), "PNG")), values)
    deep = read_mask(encoded(Image.fromarray((values * 200).astype(np.uint16)), "PNG"))
    assert np.array_equal(deep, values * 200)
    for form in ("JPEG", "WEBP"):
        with pytest.raises(Unusable, match=f"is {form}, whatever its suffix; JPEG blurs class numbers"):
            read_mask(encoded(Image.fromarray(values.astype(np.uint8)), form))
    with pytest.raises(Unusable, match="holds RGB colours"):
        read_mask(encoded(Image.fromarray(rgb()), "PNG"))


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_gray_masks_of_few_bits_hold_class_numbers(bits: int) -> None:
    """Pillow reads 3 of two bits as 255."""
    values = (np.arange(H * W) % 2**bits).astype(np.uint8).reshape(H, W)
    packed = np.packbits(np.unpackbits(values.reshape(-1, 1), axis=1)[:, -bits:].reshape(H, -1), axis=1)

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = struct.pack(">IIBBBBB", W, H, bits, 0, 0, 0, 0)
    rows = zlib.compress(b"".join(b"\0" + row.tobytes() for row in packed))
    file = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    assert np.array_equal(read_mask(file), values)


def test_what_is_no_picture_says_what_it_is() -> None:
    for content, finding in (
        (b"", "is empty; copy it again"),
        (b"version https://git-lfs.github.com/spec/v1\n", "fetch it with `git lfs pull`"),
        (b"\0\0\0\x18ftypavif\0\0\0\0", "is AVIF or a film"),
        (b"<html>", "cannot identify its format"),
    ):
        with pytest.raises(Unusable, match=finding):
            look_at_photograph(content)


def test_tags_of_any_table(tmp_path: Path) -> None:
    """As predict reads them, too: suffixes go, folders stay, and everything strange is a finding."""
    path, problems = tmp_path / "tags.csv", list[str]()
    path.write_text('\ufeffimage,tags\na.JPG,cat dog\nsub/b,\n"c d.png","owl"\n\n', "utf-8")
    assert read_tags(path, problems) == {"a": ("cat", "dog"), "sub/b": (), "c d": ("owl",)}
    assert problems == []
    path.write_text('image,tags\na,"top, hair;skin  hat"\nb,top,skin\nc, "hair"\n')
    assert read_tags(path, problems) == {"a": ("top", "hair", "skin", "hat"), "b": ("top", "skin"), "c": ("hair",)}
    path.write_text("Image;Tags\na;traffic light pole,fire hydrant;cat\n")
    known = ["traffic light", "traffic light pole", "fire hydrant", "cat"]
    assert read_tags(path, problems, known) == {"a": ("traffic light pole", "fire hydrant", "cat")}
    assert read_tags(path, problems, known[:1]) == {"a": ("traffic light", "pole", "fire", "hydrant", "cat")}
    assert problems == []
    assert read_tags(tmp_path / "none.csv", problems) == {}
    assert "no such file" in problems[0]
