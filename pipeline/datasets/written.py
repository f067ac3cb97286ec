"""Files that annotation tools write, opened: JSON, XML, YAML, archives. Nothing in them is trusted.

No numpy, no torch: Snakemake asks on every dry run.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from pipeline.datasets.files import is_pipe

UNPACKED = 2**30  # bytes of a file in an archive
LOOKED_AT = 20  # files of a folder, to recognise it by
SPACE = b"\xef\xbb\xbf \t\r\n"  # before the first sign of a file, with UTF-8's mark


class Unreadable(ValueError):
    """Why a file is not used, and what to do; without its name."""


def files_of(labels: Sequence[Path], *suffixes: str, below: bool = False) -> Iterator[tuple[Path, Path]]:
    """Each file with the path it was named by; a folder stands for the files with these suffixes in it, with `below`
    also for those in its subfolders. Hidden ones are none."""
    for path in labels:
        if not path.is_dir():
            yield path, path
            continue
        for file in sorted(path.rglob("*") if below else path.glob("*")):
            hidden = any(part.startswith(".") for part in file.relative_to(path).parts)
            if file.suffix.lower() in suffixes and not hidden and not file.is_dir():
                yield file, path


def content_of(path: Path) -> bytes:
    """Raises Unreadable."""
    if is_pipe(path):
        raise Unreadable("is neither a file nor a folder, but a pipe or a device; remove it")
    try:
        return path.read_bytes()
    except OSError as error:
        raise Unreadable(f"cannot be read ({error.strerror}); check what it is and its permissions") from None


def json_of(path: Path) -> Any:
    """Raises Unreadable."""
    try:
        return json.loads(content_of(path))
    except Unreadable:
        raise
    except (RecursionError, ValueError) as error:
        raise Unreadable(f"is no JSON ({error}); export it again") from None


def xml_of(content: bytes) -> ElementTree.Element:
    """Raises Unreadable, also for a DOCTYPE: no tool writes one, and entities in it multiply."""
    parser = ElementTree.XMLParser(target=_Plain())
    try:
        parser.feed(content)
        found: ElementTree.Element = parser.close()
    except (ElementTree.ParseError, LookupError, ValueError) as error:
        raise Unreadable(f"is no XML that is read here ({error}); export it again") from None
    return found


class _Plain(ElementTree.TreeBuilder):
    def doctype(self, name: str, public: str | None, system: str | None) -> None:
        raise ValueError("it has a DOCTYPE")


def packed(path: Path, name: str) -> bytes:
    """The file of this name in a .zip, in whatever folder, the outermost first. Raises Unreadable."""
    if is_pipe(path):
        raise Unreadable("is neither a file nor a folder, but a pipe or a device; remove it")
    try:
        with zipfile.ZipFile(path) as archive:
            inside = [entry for entry in archive.infolist() if entry.filename.rpartition("/")[2] == name]
            if not inside:
                raise Unreadable(f"has no {name} in it; export it again")
            entry = min(inside, key=lambda one: one.filename.count("/"))
            if entry.file_size > UNPACKED:
                raise Unreadable(f"{name} in it has {entry.file_size} bytes, at most {UNPACKED} are read; unpack it")
            return archive.read(entry)
    except OSError as error:
        raise Unreadable(f"cannot be read ({error.strerror}); check what it is and its permissions") from None
    except (EOFError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise Unreadable(f"is no .zip that can be unpacked ({error}); export it again") from None


def looks(path: Path, suffixes: Sequence[str], first: bytes, *words: bytes, below: bool = False) -> bool:
    """A look at a file, or at the first in a folder: does one begin with this sign, and hold these words somewhere?"""
    files = (file for file, _ in files_of([path], *suffixes, below=below) if file.suffix.lower() in suffixes)
    return any(begins(file, first, words) for file in islice(files, LOOKED_AT))


def begins(path: Path, first: bytes, words: Sequence[bytes]) -> bool:
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            head = file.read(1024)
            content = head + file.read() if head.lstrip(SPACE).startswith(first) else b""
    except OSError:
        return False
    return bool(content) and all(word in content for word in words)
