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
from conftest import ROOT
from PIL import Image, ImageOps

from pipeline.datasets.pictures import Unusable, look_at_photograph, read_mask, read_photograph
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
def test_photographs_that_only_a_person_can_help(read: object) -> None:
    deep = encoded(Image.fromarray(np.zeros((H, W), np.uint16)), "PNG")
    with pytest.raises(Unusable, match="save it with 8 bits per channel"):
        read(deep)  # type: ignore[operator]
    with pytest.raises(Unusable, match="cannot identify"):
        read(b"no picture")  # type: ignore[operator]
    with pytest.raises(OSError, match="truncated"):
        read(encoded(Image.fromarray(rgb()), "JPEG")[:-60])  # type: ignore[operator]


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
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC or AVIF"),
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
