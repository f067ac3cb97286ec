"""Small sound data sets, a model, and pictures of every kind, which the cases then damage."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Sequence
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.bad_input import case  # noqa: F401  (the tests' modules, found through it)

CLASSES = ("background", "ant", "bee", "cow")
SIDE = 96


def photo(number: int = 0, height: int = SIDE, width: int = SIDE) -> np.ndarray:
    """Noise with a coloured square, uint8 [height,width,3]."""
    rgb = np.random.default_rng(number).integers(60, 120, (height, width, 3), np.uint8)
    rgb[height // 4 : height * 3 // 4, width // 4 : width * 3 // 4] = [(220, 40, 40), (40, 200, 60), (50, 60, 220)][
        number % 3
    ]
    return rgb


def mask(number: int = 0) -> np.ndarray:
    """uint8 [96,96]: the square of `photo` is of class 1, 2 or 3."""
    values = np.zeros((SIDE, SIDE), np.uint8)
    values[24:72, 24:72] = 1 + number % 3
    return values


def folder(root: Path, count: int = 6, masks: bool = False, names: Sequence[str] = (), listed: bool = True) -> Path:
    """A data set of photographs a00, a01, … with tags by turns; listed: the last third validates."""
    names = list(names) or [f"a{i:02d}" for i in range(count)]
    write(root / "classes.txt", "\n".join(CLASSES) + "\n")
    rows = ["image,tags"]
    for i, name in enumerate(names):
        save(root / "images" / f"{name}.png", photo(i))
        quoted = name.replace('"', '""')
        rows.append(f'"{quoted}",{CLASSES[1 + i % 3]}')
        if masks:
            save(root / "masks" / f"{name}.png", mask(i))
    write(root / "tags.csv", "\n".join(rows) + "\n")
    if listed:
        cut = len(names) - len(names) // 3
        write(root / "splits/train.txt", "\n".join(names[:cut]) + "\n")
        write(root / "splits/val.txt", "\n".join(names[cut:]) + "\n")
    return root


def one_more(root: Path, name: str, content: bytes, tag: str = "ant") -> Path:
    """`folder` with one more photograph, a file of this name and content, for training."""
    folder(root)
    stem = Path(name).stem
    write(root / "images" / name, content)
    with (root / "tags.csv").open("a") as file:
        file.write(f"{stem},{tag}\n")
    with (root / "splits/train.txt").open("a") as file:
        file.write(f"{stem}\n")
    return root


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def save(path: Path, pixels: np.ndarray, form: str = "PNG") -> Path:
    return write(path, encoded(Image.fromarray(pixels), form))


def encoded(picture: Image.Image | np.ndarray, form: str = "PNG", **options: Any) -> bytes:
    """The bytes of a file; exif, save_all and the like are Pillow's options."""
    content = BytesIO()
    (Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture).save(content, form, **options)
    return content.getvalue()


def turned(rgb: np.ndarray, orientation: int, form: str = "JPEG", **options: Any) -> bytes:
    """A picture whose EXIF says this orientation."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(rgb, form, exif=exif, **options)


def png(width: int, height: int, mode: int = 2, bits: int = 8, rows: bytes | None = None) -> bytes:
    """A PNG that claims this size. mode: 0 gray, 2 RGB, 3 palette; rows: its data unpacked (all zero, as far as they go
    in 128 MB)."""
    channels = 3 if mode == 2 else 1
    size = (width * channels * bits + 7) // 8 + 1
    packer, packed = zlib.compressobj(9), b""
    if rows is None:
        left = min(size * height, 2**27)
        while left > 0:
            packed += packer.compress(bytes(min(left, 2**22)))
            left -= 2**22
    else:
        packed += packer.compress(rows)
    header = struct.pack(">IIBBBBB", width, height, bits, mode, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed + packer.flush()) + chunk(b"IEND", b"")


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def with_chunk(content: bytes, kind: bytes, more: bytes) -> bytes:
    """A PNG with one more chunk behind its header."""
    return content[:33] + chunk(kind, more) + content[33:]


def flipped(content: bytes, at: int, bit: int = 0) -> bytes:
    changed = bytearray(content)
    changed[at % len(content)] ^= 1 << bit
    return bytes(changed)


@cache
def model_files() -> dict[str, bytes]:
    """The files of a small model that says `ant` everywhere: made once, written by each case."""
    import tempfile

    import planted
    from colours import constant_segmenter

    with tempfile.TemporaryDirectory() as place:
        planted.model(Path(place, "model.json"), constant_segmenter([0.2, 0.6, 0.1, 0.1]), CLASSES, max_side=SIDE)
        files = (path for path in Path(place).rglob("*") if path.is_file())
        return {path.relative_to(place).as_posix(): path.read_bytes() for path in files}


def model(at: Path) -> Path:
    """model.json with its store, in this folder."""
    for name, content in model_files().items():
        write(at / name, content)
    return at / "model.json"


def rewritten(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """A JSON file with a change."""
    import json

    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
